//! Somebody holds a lock and does not let go; somebody is asked to end in the middle.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::site::member::Fault;
use crate::site::{Member, Network, Site};

/// CNI: try again later.
const TRY_AGAIN_LATER: u64 = 11;

/// Far more than the patience that the test asks for, far less than the usual one.
const BOUND: Duration = Duration::from_secs(3);

#[test]
fn a_stopped_holder_is_named_and_nobody_waits_for_ever() {
    // Each step, and the lock that is held there: the attachment's, the network's, the ports'.
    for (step, other) in [("add.lease", "web"), ("add.bridge", "db"), ("add.rules", "db")] {
        let site = Site::new();
        let network = Network::rnet("mynet", "10.7.0.0/24");
        let (web, db) =
            (site.member(&network, "web").publishing(8080), site.member(&network, "db").publishing(8081));
        let before = site.state(&[&web, &db]);
        let holder = stopped_at(&web, "ADD", step);
        let waiting = if other == "web" { &web } else { &db };

        let start = Instant::now();
        let outcome = waiting.call("ADD", "rnet", None, None).set("RNET_PATIENCE_MS", "300").run();

        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        assert_eq!(outcome.refusal().0, TRY_AGAIN_LATER, "{step}: {outcome:?}");
        let named = format!("pid {}: ADD web/eth0", holder.id());
        assert!(outcome.refusal().1.contains(&named), "{step}: {named:?} in {outcome:?}");
        go_on(holder);
        assert!(web.works());
        site.assert_balanced(&[&web, &db]);
        web.del().unwrap();
        db.del().unwrap();
        before.assert_same(&site.state(&[&web, &db]));
    }
}

#[test]
fn the_patience_is_ten_seconds() {
    let site = Site::new();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = site.member(&network, "web");
    let holder = stopped_at(&web, "ADD", "add.lease");

    let start = Instant::now();
    let (code, sentence) = web.del().unwrap_err().refusal();

    assert!((10..12).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(code, TRY_AGAIN_LATER);
    assert!(sentence.ends_with("within 10 s; nothing was changed"), "{sentence}");
    go_on(holder);
    web.del().unwrap();
}

#[test]
fn a_killed_holder_holds_nothing() {
    let site = Site::new();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = site.member(&network, "web");
    let mut holder = stopped_at(&web, "ADD", "add.bridge");

    holder.kill().unwrap();
    holder.wait().unwrap();

    web.add().unwrap();
    assert!(web.works());
}

#[test]
fn who_is_asked_to_end_finishes_first() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let site = Site::new();
        let network = Network::rnet("mynet", "10.7.0.0/24");
        let web = site.member(&network, "web").publishing(8080);
        let before = site.state(&[&web]);
        for (verb, step) in [("ADD", "add.veth"), ("DEL", "del.rules")] {
            let child = stopped_at(&web, verb, step);

            kill_process(Pid::from_child(&child), signal).unwrap();
            go_on(child);

            site.assert_balanced(&[&web]);
            assert_eq!(verb == "ADD", !web.addresses().is_empty());
        }
        before.assert_same(&site.state(&[&web]));
    }
}

/// A call that has stopped at a step.
fn stopped_at(member: &Member<'_>, verb: &str, step: &str) -> Child {
    let fault = Fault { plugin: "rnet".into(), failpoint: format!("{step}:stop") };
    let child = member.call(verb, "rnet", None, Some(&fault)).spawn();
    let process = WaitId::Pid(Pid::from_child(&child));
    let status = waitid(process, WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    assert!(status.unwrap().is_some_and(|status| status.stopped()), "{verb} never came to {step}");
    child
}

fn go_on(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    assert!(child.wait().unwrap().success());
}
