//! Processes of the server that die: the others replace them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_fixtures::lookup;
use rustix::process::{Resource, Rlimit};

use crate::common::{Host, SOON, wait_until};
use crate::server::{GATEWAY, ask, at, kill, known, mynet, unknown};

/// It must serve again within this (G8).
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_killed_worker_is_replaced_with_the_same_table() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let db = host.join("db", &mynet());
    for _ in 0..3 {
        let (worker, parent) = host.server();

        kill(worker);

        let answer = lookup(db.netns(), at(GATEWAY), "web", false, SECOND).unwrap();
        // What was in its hands is lost with it, as a datagram may be; the next question is not.
        let answer = answer.or_else(|| lookup(db.netns(), at(GATEWAY), "web", false, SOON).unwrap());
        assert_eq!(answer, Some(known(&[web.v4()])));
        assert_ne!(host.server().0, worker);
        assert_eq!(host.server().1, parent);
    }
    db.detach();
    assert_eq!(host.status().json()["endpoints"].as_array().unwrap().len(), 1);
}

/// All questions are answered within a second, except those that the killed process had received.
#[test]
fn whichever_process_is_killed_under_load_it_serves_again_within_a_second() {
    let host = Host::forwarding();
    let before = host.snapshot();
    let web = host.join("web", &mynet());
    let db = host.join("db", &mynet());
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        let longest = scope.spawn(|| {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !done.load(Ordering::SeqCst) {
                if let Ok(Some(answer)) = lookup(db.netns(), at(GATEWAY), "web", false, SOON / 10) {
                    assert_eq!(answer, known(&[web.v4()]));
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest
        });
        let ends = Ends(&done);
        for round in 0..6 {
            let all = host.server_processes();
            kill([all.parent, all.worker, all.guardian][round % 3]);
            wait_until("another", || host.server_processes() != all);
            assert_eq!(ask(&web, "db"), known(&[db.v4()]), "round {round}");
        }
        drop(ends);
        let longest = longest.join().unwrap();
        assert!(longest < SECOND, "{longest:?}");
    });

    web.detach();
    db.detach();
    host.is_as(&before);
}

#[test]
fn a_server_whose_guardian_was_killed_has_another_when_it_dies() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let before = host.server_processes();
    kill(before.guardian);
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    wait_until("another guardian", || host.server_processes().guardian != before.guardian);
    let after = host.server_processes();
    assert_eq!((after.worker, after.parent), (before.worker, before.parent));

    kill(after.parent);

    wait_until("another server", || host.server_processes().parent != after.parent);
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    let last = host.server_processes();
    assert_eq!(last.parent, after.guardian, "it has become the server");
    web.detach();
    host.wait_for_its_end();
    wait_until("their end", || [last.parent, last.guardian].iter().all(|pid| !is_alive(*pid)));
}

/// Lets a stream of questions end, also when its test has failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn a_worker_that_cannot_be_started_is_tried_again() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let (worker, parent) = host.server();
    let ours = rustix::process::Pid::from_raw(parent as i32);
    let limit = |most| {
        let limit = Rlimit { current: Some(most), maximum: Some(4096) };
        rustix::process::prlimit(ours, Resource::Nofile, limit).unwrap();
    };
    limit(3);
    kill(worker);
    wait_until("a failure", || host.rnet("dns log").stdout.contains("cannot start the process that answers"));

    limit(4096);

    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    assert_eq!(host.server().1, parent);
}

#[test]
fn the_next_container_starts_a_dead_server_again_with_all_names() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let gone = host.join("gone", &mynet());
    host.kill_server();
    // DEL needs no server.
    gone.detach();

    let db = host.join("db", &mynet());

    assert_eq!((ask(&db, "web"), ask(&web, "db")), (known(&[web.v4()]), known(&[db.v4()])));
    assert_eq!(ask(&db, "gone"), unknown());
    web.detach();
    db.detach();
    host.wait_for_its_end();
}

#[test]
fn a_server_that_was_killed_as_a_whole_is_missed_and_comes_back_by_the_hint() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    host.kill_server();

    let missed = host.rnet("dns restart");

    let expected =
        "error: the name server has died, but containers still have names\n hint: rnet dns serve --detach\n";
    assert_eq!((missed.status, missed.stderr.as_str()), (3, expected));
    host.rnet("dns serve --detach").silent();
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    web.detach();
    host.wait_for_its_end();
    assert!(host.rnet("dns restart").stderr.starts_with("error: no name server is running"));
}
