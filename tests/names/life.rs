//! The server's life: started when it is needed, gone when nobody needs it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use netns_fixtures::{Container, lookup};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Host, Who, address, differences, parent_of, rnet, signal, wait_until, with};
use crate::server::{GATEWAY, LONG, NOERROR, SERVFAIL, ask, at, kill, known, mynet, named, unknown};

/// Our own code: names cannot be served.
const NAMES: u64 = 111;

#[test]
fn one_server_starts_with_the_first_name_and_ends_with_the_last() {
    let host = Host::forwarding();
    let before = host.snapshot();
    let nameless = host.join("nameless", &rnet("other", &["10.9.0.0/24"]));
    assert_eq!(host.status().status, 3, "a network without names needs none");

    let web = host.join("web", &mynet());
    let first = host.server();
    let db = host.join("db", &named("back", &["10.8.0.0/24"]));
    assert_eq!(host.server(), first);

    web.detach();
    assert_eq!(host.server(), first);
    db.detach();
    nameless.detach();
    host.is_as(&before);
}

#[test]
fn no_process_of_rnet_is_left_when_all_is_removed() {
    let host = Host::forwarding();
    let guests: Vec<_> = (0..4).map(|nth| host.join(&format!("c{nth}"), &mynet())).collect();
    assert!(!host.processes("").is_empty(), "the name server at least");

    // At once, so that a keeper is started too.
    thread::scope(|scope| {
        for guest in &guests {
            scope.spawn(|| guest.detach());
        }
    });

    wait_until("no process is left", || host.processes("").is_empty());
}

#[test]
fn a_server_that_was_stopped_is_named_with_what_to_type() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let (worker, server) = host.server();
    signal(worker, Signal::STOP);
    let (_db, who) = host.named("db");

    let (code, message) = host.cni("ADD", "rnet", &who, &mynet()).refusal();

    let expected = format!(
        "the name server (process {server}) does not answer within 10 s: it was stopped, hangs, or this machine is overloaded; hint: kill -KILL {server} "
    );
    assert!(code == NAMES && message.starts_with(&expected), "{message}");
    kill(server);
    wait_until("another server", || host.server_processes().parent != server);
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
}

/// As on a machine that has no time for it.
#[test]
fn an_add_waits_for_a_server_that_is_slow() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let (worker, _) = host.server();
    let (_db, who) = host.named("db");
    signal(worker, Signal::STOP);

    thread::scope(|scope| {
        let adding = scope.spawn(|| host.cni("ADD", "rnet", &who, &mynet()));
        thread::sleep(Duration::from_secs(8));
        signal(worker, Signal::CONT);
        let added = adding.join().unwrap().json();
        assert_eq!(ask(&web, "db"), known(&[address(&added, false)]));
    });

    assert_eq!(host.server().0, worker);
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
}

#[test]
fn a_stale_socket_is_no_server() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    web.detach();
    host.wait_for_its_end();
    let socket = host.run_folder().join("locks/dns");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());

    let db = host.join("db", &mynet());

    assert_eq!(ask(&db, "db"), known(&[db.v4()]));
}

#[test]
fn an_add_fails_and_leaves_nothing_if_there_can_be_no_server() {
    let host = Host::forwarding();
    // Where its socket should be is a folder: it cannot start.
    let other = host.join("other", &rnet("other", &["10.9.0.0/24"]));
    std::fs::create_dir(host.run_folder().join("locks/dns")).unwrap();
    let (_web, who) = host.named("web");
    let before = host.snapshot();

    let (code, message) = host.cni("ADD", "rnet", &who, &mynet()).refusal();

    assert_eq!(code, NAMES);
    assert!(message.starts_with("cannot start the name server: cannot make "), "{message}");
    assert!(differences(&before, &host.snapshot()).iter().all(|line| line.contains("/leases/")));
    std::fs::remove_dir(host.run_folder().join("locks/dns")).unwrap();
    host.add("rnet", &who, &mynet());
    host.del("rnet", &who, &mynet());
    other.detach();
}

#[test]
fn the_server_outlives_the_process_group_that_started_it() {
    let host = Host::forwarding();
    let (web, who) = host.named("web");
    // As a service would: in a group of its own, which is ended as a whole, with pipes that are read to their end.
    let call = host.call("ADD", "rnet", &who).input(mynet().to_string());
    let mut leader = host.command("sleep").args(["1000"]).process_group(0).spawn().unwrap();
    let group = leader.id();
    let added = call.in_group(group).run().json();

    rustix::process::kill_process_group(rustix::process::Pid::from_raw(group as i32).unwrap(), Signal::KILL)
        .unwrap();
    leader.wait().unwrap();

    assert_eq!(ask(&web, "web"), known(&[address(&added, false)]));
    let (_, server) = host.server();
    let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    let field = |n: usize| stat.rsplit(')').next().unwrap().split_whitespace().nth(n).unwrap().to_owned();
    let (group_of_it, session, terminal) = (field(2), field(3), field(4));
    assert_ne!(group_of_it, group.to_string());
    assert_eq!((session, terminal), (server.to_string(), "0".into()), "a session without a terminal");
    assert_eq!(std::fs::read_link(format!("/proc/{server}/cwd")).unwrap().to_str(), Some("/"));
    let log = host.run_folder().join("locks/dns.log");
    for (fd, target) in [(0, "/dev/null"), (1, "/dev/null"), (2, log.to_str().unwrap())] {
        let open = std::fs::read_link(format!("/proc/{server}/fd/{fd}")).unwrap();
        assert_eq!(open.to_str(), Some(target), "descriptor {fd}");
    }
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    assert_ne!(parent_of(server), Some(std::process::id()));
}

#[test]
fn without_servers_outside_names_fail_at_once_and_own_names_go_on() {
    let host = Host::forwarding();
    // A server that nobody routes to.
    let config = with(&mynet(), json!({"names": true, "dns": {"nameservers": ["192.0.2.99"]}}));
    let web = host.join("web", &config);
    let begun = Instant::now();

    assert_eq!(ask(&web, "example.org").code, SERVFAIL);

    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
}

/// Where /run is on a disk (RNET_ROOT), records outlive the boot that they are of.
#[test]
fn records_of_an_earlier_boot_are_not_served() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let (who, address_of_web) = (web.who.clone(), web.v4());
    host.kill_server();
    // It does not outlive its boot.
    drop(web);
    wait_until("its pair is gone", || host.netlink().veths().unwrap().is_empty());
    let (db, db_who) = host.named("db");
    let next_boot = |verb, who| {
        let call = host.call(verb, "rnet", who).set("RNET_BOOT_ID", "the-next");
        call.input(mynet().to_string()).run()
    };

    let added = next_boot("ADD", &db_who).json();

    assert_eq!(address(&added, false), address_of_web, "it is free again");
    assert_eq!((ask(&db, "db"), ask(&db, "web")), (known(&[address_of_web]), unknown()));
    next_boot("DEL", &db_who).silent();
    host.del("rnet", &who, &mynet());
}

/// A crowd comes and goes while others ask: no living name fails, no address of the dead is told.
#[test]
fn a_crowd_comes_and_goes_under_a_stream_of_questions() {
    const CROWD: usize = 100;
    const ROUNDS: usize = 1;
    let host = Host::forwarding();
    let before = host.snapshot();
    let asker = host.join("asker", &mynet());
    let crowd: Vec<(Container, Who)> = (0..CROWD).map(|n| host.named(&format!("c{n}"))).collect();
    let done = AtomicBool::new(false);

    let asked = thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::SeqCst) {
                assert_eq!(ask(&asker, "asker"), known(&[asker.v4()]));
                asked += 1;
            }
            asked
        });
        let members: Vec<_> = crowd
            .iter()
            .map(|(container, who)| {
                let host = &host;
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        come_and_go(host, container, who);
                    }
                })
            })
            .collect();
        let members: Vec<_> = members.into_iter().map(ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        members.into_iter().for_each(Result::unwrap);
        stream.join().unwrap()
    });

    assert!(asked > CROWD * ROUNDS, "{asked}");
    assert_eq!(host.status().json()["endpoints"].as_array().unwrap().len(), 1);
    asker.detach();
    host.is_as(&before);
}

fn come_and_go(host: &Host, container: &Container, who: &Who) {
    let config: Value = mynet();
    let name = container.name();
    let own = address(&host.add("rnet", who, &config), false);
    assert_eq!(ask(container, name), known(&[own]), "{name} is there when its ADD returns");
    host.del("rnet", who, &config);
    let gone = lookup(host.netns(), at(GATEWAY), name, false, LONG).unwrap().unwrap();
    assert_eq!(gone, unknown(), "{name} is gone when its DEL returns");
}

#[test]
fn names_can_be_turned_on_and_off_while_containers_are_there() {
    let host = Host::forwarding();
    let off = rnet("mynet", &["10.7.0.0/24"]);
    let old = host.join("old", &off);
    let web = host.join("web", &mynet());
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    assert_ne!(ask(&web, "old").code, NOERROR, "it came without a name");

    let late = host.join("late", &off);
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    for (who, config) in [(&old.who, &off), (&web.who, &off), (&late.who, &mynet())] {
        host.del("rnet", who, config);
    }
    host.wait_for_its_end();
}
