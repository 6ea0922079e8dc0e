//! A process holds a lock and does not let go, or is asked to end in the middle of a call.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::common::{Fault, Guest, Host, Network, Outcome};

/// CNI: try again later.
const TRY_AGAIN_LATER: u64 = 11;

/// The usual patience: who was asked for less has not waited so long, however busy the machine is.
const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_stopped_holder_is_named_and_nobody_waits_for_ever() {
    // Each step, and the lock that is held there: the attachment's, the network's, the ports'.
    for (step, other) in [("add.lease", "web"), ("add.bridge", "db"), ("add.rules", "db")] {
        let host = Host::with_outside();
        let network = Network::rnet("mynet", "10.7.0.0/24");
        let (web, db) =
            (host.guest(&network, "web").publishing(8080), host.guest(&network, "db").publishing(8081));
        let before = host.state(&[&web, &db]);
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
        host.assert_balanced(&[&web, &db]);
        web.del().unwrap();
        db.del().unwrap();
        before.assert_same(&host.state(&[&web, &db]));
    }
}

#[test]
fn the_patience_is_ten_seconds() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = host.guest(&network, "web");
    let holder = stopped_at(&web, "ADD", "add.lease");

    let start = Instant::now();
    let (code, sentence) = web.del().unwrap_err().refusal();

    // Once, not twice.
    assert!((BOUND..BOUND * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(code, TRY_AGAIN_LATER);
    assert!(sentence.ends_with("within 10 s; nothing was changed"), "{sentence}");
    go_on(holder);
    web.del().unwrap();
}

#[test]
fn a_stopped_holder_of_the_ruleset_is_named() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let (web, db) = (host.guest(&network, "web"), host.guest(&network, "db"));
    let before = host.state(&[&web, &db]);
    let holder = stopped_at(&web, "ADD", "add.rules");
    // From now on the ruleset is to be made anew, which nobody may do while another adds to it.
    host.firewall(|firewall| firewall.drop_tables().unwrap());

    let (code, sentence) = add_with_patience(&db, Duration::from_millis(300)).refusal();

    assert!(
        code == TRY_AGAIN_LATER && sentence.contains(&format!("pid {}", holder.id())),
        "{code} {sentence}"
    );
    go_on(holder);
    db.add().unwrap();
    assert!(web.works() && db.works());
    host.assert_balanced(&[&web, &db]);
    web.del().unwrap();
    db.del().unwrap();
    before.assert_same(&host.state(&[&web, &db]));
}

#[test]
fn a_stopped_holder_of_the_leases_is_named_and_waited_for_once() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let (web, db) = (host.guest(&network, "web"), host.guest(&network, "db"));
    web.add().unwrap();
    let before = host.state(&[&web, &db]);
    let lock = host.run_folder().join("leases/mynet/lock");
    let mut holder = Command::new("flock").arg(&lock).args(["sleep", "1000"]).spawn().unwrap();
    wait_until_locked(&lock);
    kill_process(Pid::from_child(&holder), Signal::STOP).unwrap();

    let (start, patience) = (Instant::now(), Duration::from_secs(2));
    let (code, sentence) = add_with_patience(&db, patience).refusal();

    assert!((patience..patience * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(code == TRY_AGAIN_LATER && sentence.contains(&holder.id().to_string()), "{code} {sentence}");
    before.assert_same(&host.state(&[&web, &db]));
    let sleeper = children(&holder);
    holder.kill().unwrap();
    holder.wait().unwrap();
    sleeper.into_iter().for_each(|pid| kill_process(pid, Signal::KILL).unwrap());
    db.add().unwrap();
}

/// Its record is gone, so the next ADD is the network's first again, and so is its undo the last.
#[test]
fn an_add_that_waits_in_vain_for_the_network_waits_once() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let (web, db) = (host.guest(&network, "web"), host.guest(&network, "db"));
    let before = host.state(&[&web, &db]);
    web.add().unwrap();
    let holder = stopped_at(&web, "DEL", "del.bridge");

    let (start, patience) = (Instant::now(), Duration::from_secs(2));
    let (code, _) = add_with_patience(&db, patience).refusal();

    assert!((patience..patience * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(code, TRY_AGAIN_LATER);
    go_on(holder);
    db.del().unwrap();
    before.assert_same(&host.state(&[&web, &db]));
}

#[test]
fn a_killed_holder_holds_nothing() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = host.guest(&network, "web");
    let mut holder = stopped_at(&web, "ADD", "add.bridge");

    holder.kill().unwrap();
    holder.wait().unwrap();

    web.add().unwrap();
    assert!(web.works());
}

#[test]
fn who_is_asked_to_end_finishes_first() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let host = Host::with_outside();
        let network = Network::rnet("mynet", "10.7.0.0/24");
        let web = host.guest(&network, "web").publishing(8080);
        let before = host.state(&[&web]);
        for (verb, step) in [("ADD", "add.veth"), ("DEL", "del.rules")] {
            let child = stopped_at(&web, verb, step);

            kill_process(Pid::from_child(&child), signal).unwrap();
            go_on(child);

            host.assert_balanced(&[&web]);
            assert_eq!(verb == "ADD", !web.addresses().is_empty());
        }
        before.assert_same(&host.state(&[&web]));
    }
}

fn add_with_patience(guest: &Guest<'_>, patience: Duration) -> Outcome {
    guest.call("ADD", "rnet", None, None).set("RNET_PATIENCE_MS", &patience.as_millis().to_string()).run()
}

fn wait_until_locked(lock: &Path) {
    let file = File::open(lock).unwrap();
    let start = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        flock(&file, FlockOperation::Unlock).unwrap();
        assert!(start.elapsed() < BOUND);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn children(parent: &Child) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.id())).unwrap();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// A call that has stopped at a step.
pub fn stopped_at(guest: &Guest<'_>, verb: &str, step: &str) -> Child {
    let fault = Fault { plugin: "rnet".into(), failpoint: format!("{step}:stop") };
    let child = guest.call(verb, "rnet", None, Some(&fault)).spawn();
    let process = WaitId::Pid(Pid::from_child(&child));
    let status = waitid(process, WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    assert!(status.unwrap().is_some_and(|status| status.stopped()), "{verb} never came to {step}");
    child
}

/// Lets it continue to its end.
pub fn go_on(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    assert!(child.wait().unwrap().success());
}
