//! The server's life: started when it is needed, replaced when it dies, gone when nobody needs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use netns_fixtures::{Container, lookup};
use rustix::process::{Resource, Rlimit, Signal};
use serde_json::{Value, json};

use crate::common::{SOON, Who, address, differences, rnet, with};
use crate::scene::{
    GATEWAY, LONG, NOERROR, SERVFAIL, Scene, ask, at, kill, known, mynet, named, parent, signal, unknown,
    wait_until,
};

/// Our own code: names cannot be served.
const NAMES: u64 = 111;

/// It must serve again within this (G8).
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_server_starts_with_the_first_name_and_ends_with_the_last() {
    let scene = Scene::new();
    let before = scene.lab.snapshot();
    let (_nameless, nameless, _) = scene.member("nameless", &rnet("other", &["10.9.0.0/24"]));
    assert_eq!(scene.status().status, 3, "a network without names needs none");

    let (_web, web, _) = scene.member("web", &mynet());
    let first = scene.server();
    let (_db, db, _) = scene.member("db", &named("back", &["10.8.0.0/24"]));
    assert_eq!(scene.server(), first);

    scene.lab.del("rnet", &web, &mynet());
    assert_eq!(scene.server(), first);
    scene.lab.del("rnet", &db, &named("back", &["10.8.0.0/24"]));
    scene.lab.del("rnet", &nameless, &rnet("other", &["10.9.0.0/24"]));
    scene.is_as(&before);
}

#[test]
fn no_process_of_ours_is_left_when_all_is_removed() {
    let scene = Scene::new();
    let members: Vec<_> = (0..4).map(|nth| scene.member(&format!("c{nth}"), &mynet())).collect();
    assert!(!processes_of(&scene).is_empty(), "the name server at least");

    // At once, so that a keeper is started too.
    thread::scope(|scope| {
        for (_, who, _) in &members {
            scope.spawn(|| scene.lab.del("rnet", who, &mynet()));
        }
    });

    wait_until("no process is left", || processes_of(&scene).is_empty());
}

/// The processes of this host that run: all of rnet's have its folder in their environment.
fn processes_of(scene: &Scene) -> Vec<String> {
    let root = format!("RNET_ROOT={}\0", scene.lab.host.root().display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let read = |path: std::path::PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    };
    let own = processes.filter(|process| read(process.join("environ")).contains(&root));
    own.map(|process| read(process.join("cmdline"))).collect()
}

#[test]
fn a_killed_worker_is_replaced_with_the_same_table() {
    let scene = Scene::new();
    let (_web, _, web_ip) = scene.member("web", &mynet());
    let (db, db_who, _) = scene.member("db", &mynet());
    for _ in 0..3 {
        let (worker, parent) = scene.server();

        kill(worker);

        let answer = lookup(db.netns(), at(GATEWAY), "web", false, SECOND).unwrap();
        // What was in its hands is lost with it, as a datagram may be; the next question is not.
        let answer = answer.or_else(|| lookup(db.netns(), at(GATEWAY), "web", false, SOON).unwrap());
        assert_eq!(answer, Some(known(&[web_ip])));
        assert_ne!(scene.server().0, worker);
        assert_eq!(scene.server().1, parent);
    }
    scene.lab.del("rnet", &db_who, &mynet());
    assert_eq!(scene.status().json()["endpoints"].as_array().unwrap().len(), 1);
}

/// What the stream asks is answered, but for what was in the killed process's hands, and within a second.
#[test]
fn whichever_process_is_killed_under_load_it_serves_again_within_a_second() {
    let scene = Scene::new();
    let before = scene.lab.snapshot();
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    let (db, db_who, db_ip) = scene.member("db", &mynet());
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        let longest = scope.spawn(|| {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !done.load(Ordering::SeqCst) {
                if let Ok(Some(answer)) = lookup(db.netns(), at(GATEWAY), "web", false, SOON / 10) {
                    assert_eq!(answer, known(&[web_ip]));
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest
        });
        let ends = Ends(&done);
        for round in 0..6 {
            let all = scene.processes();
            kill([all.parent, all.worker, all.guardian][round % 3]);
            wait_until("another", || scene.processes() != all);
            assert_eq!(ask(&web, "db"), known(&[db_ip]), "round {round}");
        }
        drop(ends);
        let longest = longest.join().unwrap();
        assert!(longest < SECOND, "{longest:?}");
    });

    scene.lab.del("rnet", &web_who, &mynet());
    scene.lab.del("rnet", &db_who, &mynet());
    scene.is_as(&before);
}

#[test]
fn a_server_whose_guardian_was_killed_has_another_when_it_dies() {
    let scene = Scene::new();
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    let before = scene.processes();
    kill(before.guardian);
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    wait_until("another guardian", || scene.processes().guardian != before.guardian);
    let after = scene.processes();
    assert_eq!((after.worker, after.parent), (before.worker, before.parent));

    kill(after.parent);

    wait_until("another server", || scene.processes().parent != after.parent);
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    let last = scene.processes();
    assert_eq!(last.parent, after.guardian, "it has become the server");
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();
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
fn a_server_that_was_stopped_is_named_with_what_to_type() {
    let scene = Scene::new();
    let (web, _, web_ip) = scene.member("web", &mynet());
    let (worker, server) = scene.server();
    signal(worker, Signal::STOP);
    let (_db, who) = scene.named("db");

    let (code, message) = scene.lab.cni("ADD", "rnet", &who, &mynet()).refusal();

    let expected = format!(
        "the name server (process {server}) does not answer within 10 s: it was stopped, hangs, or this machine is overloaded; hint: kill -KILL {server} "
    );
    assert!(code == NAMES && message.starts_with(&expected), "{message}");
    kill(server);
    wait_until("another server", || scene.processes().parent != server);
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
}

/// As on a machine that has no time for it.
#[test]
fn an_add_waits_for_a_server_that_is_slow() {
    let scene = Scene::new();
    let (web, _, web_ip) = scene.member("web", &mynet());
    let (worker, _) = scene.server();
    let (_db, who) = scene.named("db");
    signal(worker, Signal::STOP);

    thread::scope(|scope| {
        let adding = scope.spawn(|| scene.lab.cni("ADD", "rnet", &who, &mynet()));
        thread::sleep(Duration::from_secs(8));
        signal(worker, Signal::CONT);
        let added = adding.join().unwrap().json();
        assert_eq!(ask(&web, "db"), known(&[address(&added, false)]));
    });

    assert_eq!(scene.server().0, worker);
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
}

/// G11. Options that cannot be read, with words of the client's in them.
#[test]
fn a_container_writes_nothing_into_the_log() {
    let scene = Scene::new();
    let (web, ..) = scene.member("web", &mynet());
    let before = scene.command(&["dns", "log"]).stdout;
    web.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for n in 0..4000_u16 {
            let [high, low] = n.to_be_bytes();
            let mut question =
                vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, b'w', b'e', b'b', 0, 0, 1, 0, 1];
            // An OPT record with one option, of this code.
            question.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 14, 0, low % 20, 0, 10]);
            question.extend(b"SECRETMARK");
            socket.send_to(&question, at(GATEWAY)).unwrap();
        }
    })
    .unwrap();
    // The one among them may have been lost with so many others.
    wait_until("an answer", || lookup(web.netns(), at(GATEWAY), "web", false, SOON).unwrap().is_some());

    let log = scene.command(&["dns", "log"]).stdout;

    assert!(!log.contains("SECRET") && !log.contains("83, 69, 67, 82"), "{}", &log[log.len() - 500..]);
    assert!(log.len() < before.len() + 500, "{} of {}", log.len(), before.len());
}

#[test]
fn a_worker_that_cannot_be_started_is_tried_again() {
    let scene = Scene::new();
    let (web, _, web_ip) = scene.member("web", &mynet());
    let (worker, parent) = scene.server();
    let ours = rustix::process::Pid::from_raw(parent as i32);
    let limit = |most| {
        let limit = Rlimit { current: Some(most), maximum: Some(4096) };
        rustix::process::prlimit(ours, Resource::Nofile, limit).unwrap();
    };
    limit(3);
    kill(worker);
    wait_until("a failure", || {
        scene.command(&["dns", "log"]).stdout.contains("the process that answers cannot be started")
    });

    limit(4096);

    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    assert_eq!(scene.server().1, parent);
}

#[test]
fn the_next_container_starts_a_dead_server_again_with_all_names() {
    let scene = Scene::new();
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    let (_gone, gone, _) = scene.member("gone", &mynet());
    scene.kill_server();
    // DEL needs no server.
    scene.lab.del("rnet", &gone, &mynet());

    let (db, db_who, db_ip) = scene.member("db", &mynet());

    assert_eq!((ask(&db, "web"), ask(&web, "db")), (known(&[web_ip]), known(&[db_ip])));
    assert_eq!(ask(&db, "gone"), unknown());
    scene.lab.del("rnet", &web_who, &mynet());
    scene.lab.del("rnet", &db_who, &mynet());
    scene.wait_for_its_end();
}

#[test]
fn a_stale_socket_is_no_server() {
    let scene = Scene::new();
    let (_web, web, _) = scene.member("web", &mynet());
    scene.lab.del("rnet", &web, &mynet());
    scene.wait_for_its_end();
    let socket = scene.lab.run_folder().join("locks/dns");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());

    let (db, _, db_ip) = scene.member("db", &mynet());

    assert_eq!(ask(&db, "db"), known(&[db_ip]));
}

#[test]
fn an_add_fails_and_leaves_nothing_if_there_can_be_no_server() {
    let scene = Scene::new();
    // Where its socket should be is a folder: it cannot start.
    let (_other, other, _) = scene.member("other", &rnet("other", &["10.9.0.0/24"]));
    std::fs::create_dir(scene.lab.run_folder().join("locks/dns")).unwrap();
    let (_web, who) = scene.named("web");
    let before = scene.lab.snapshot();

    let (code, message) = scene.lab.cni("ADD", "rnet", &who, &mynet()).refusal();

    assert_eq!(code, NAMES);
    assert!(message.starts_with("cannot start the name server: cannot make "), "{message}");
    assert!(differences(&before, &scene.lab.snapshot()).iter().all(|line| line.contains("/leases/")));
    std::fs::remove_dir(scene.lab.run_folder().join("locks/dns")).unwrap();
    scene.lab.add("rnet", &who, &mynet());
    scene.lab.del("rnet", &who, &mynet());
    scene.lab.del("rnet", &other, &rnet("other", &["10.9.0.0/24"]));
}

#[test]
fn whoever_started_it_may_die_with_all_its_group() {
    let scene = Scene::new();
    let (web, who) = scene.named("web");
    // As a service would: in a group of its own, which is ended as a whole, with pipes that are read to their end.
    let call = scene.lab.call("ADD", "rnet", &who).input(mynet().to_string());
    let mut leader = scene.lab.host.command("sleep").args(["1000"]).process_group(0).spawn().unwrap();
    let group = leader.id();
    let added = call.in_group(group).run().json();

    rustix::process::kill_process_group(rustix::process::Pid::from_raw(group as i32).unwrap(), Signal::KILL)
        .unwrap();
    leader.wait().unwrap();

    assert_eq!(ask(&web, "web"), known(&[address(&added, false)]));
    let (_, server) = scene.server();
    let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    let field = |n: usize| stat.rsplit(')').next().unwrap().split_whitespace().nth(n).unwrap().to_owned();
    let (group_of_it, session, terminal) = (field(2), field(3), field(4));
    assert_ne!(group_of_it, group.to_string());
    assert_eq!((session, terminal), (server.to_string(), "0".into()), "a session without a terminal");
    assert_eq!(std::fs::read_link(format!("/proc/{server}/cwd")).unwrap().to_str(), Some("/"));
    let log = scene.lab.run_folder().join("locks/dns.log");
    for (fd, target) in [(0, "/dev/null"), (1, "/dev/null"), (2, log.to_str().unwrap())] {
        let open = std::fs::read_link(format!("/proc/{server}/fd/{fd}")).unwrap();
        assert_eq!(open.to_str(), Some(target), "descriptor {fd}");
    }
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    assert_ne!(parent(server), std::process::id());
}

#[test]
fn somebody_elses_port_53_is_gone_around() {
    let scene = Scene::new();
    let before = scene.lab.snapshot();
    let everywhere = scene.lab.host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let (_web, web_who, web_ip) = scene.member("web", &mynet());
    let (db, db_who, _) = scene.member("db", &mynet());

    assert_eq!(ask(&db, "web"), known(&[web_ip]));
    let from_host = lookup(scene.lab.host.netns(), at(GATEWAY), "web", false, LONG).unwrap();
    assert_eq!(from_host, Some(known(&[web_ip])));
    let port = scene.status().json()["listeners"][0]["port"].as_u64().unwrap();
    assert_ne!(port, 53);

    // The redirect comes back with everything else.
    scene.lab.firewall(|firewall| firewall.drop_tables().unwrap());
    let (_late, late_who, _) = scene.member("late", &mynet());
    assert_eq!(ask(&db, "web"), known(&[web_ip]));

    // A server that starts anew stays where the ruleset sends the questions.
    drop(everywhere);
    scene.kill_server();
    let (_more, more_who, _) = scene.member("more", &mynet());
    assert_eq!(scene.status().json()["listeners"][0]["port"], json!(port));
    assert_eq!(ask(&db, "web"), known(&[web_ip]));

    for who in [&web_who, &db_who, &late_who, &more_who] {
        scene.lab.del("rnet", who, &mynet());
    }
    scene.is_as(&before);
}

/// However a server comes back, and whoever has port 53 by then: all networks have their names, not only the ADD's own.
#[test]
fn all_networks_are_served_around_port_53_when_the_server_comes_back() {
    for (was_taken, is_taken) in [(true, true), (true, false), (false, true)] {
        for by_hint in [true, false] {
            let scene = Scene::new();
            let take = |taken: bool| {
                taken.then(|| scene.lab.host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap())
            };
            let back_net = named("back", &["10.8.0.0/24"]);
            let was = take(was_taken);
            let (web, _, web_ip) = scene.member("web", &mynet());
            let (db, _, db_ip) = scene.member("db", &back_net);
            scene.kill_server();
            drop(was);
            let is = take(is_taken);

            if by_hint {
                scene.command(&["dns", "serve", "--detach"]).silent();
            } else {
                scene.member("more", &mynet());
            }

            let begun = Instant::now();
            let patient = |container: &Container, gateway, name| {
                let answer = || lookup(container.netns(), at(gateway), name, false, SOON).ok().flatten();
                wait_until("an answer", || answer().is_some());
                answer().unwrap()
            };
            let what = format!("{was_taken} {is_taken} {by_hint}");
            assert_eq!(patient(&web, GATEWAY, "web"), known(&[web_ip]), "{what}");
            assert_eq!(patient(&db, "10.8.0.1", "db"), known(&[db_ip]), "{what}");
            assert!(begun.elapsed() < SECOND, "{what}: {:?}", begun.elapsed());
            drop(is);
        }
    }
}

/// The places that are on record are somebody else's by now.
#[test]
fn a_server_that_finds_its_high_port_taken_moves_all_questions_on() {
    let scene = Scene::new();
    let everywhere = scene.lab.host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let (web, _, web_ip) = scene.member("web", &mynet());
    let port = scene.status().json()["listeners"][0]["port"].as_u64().unwrap() as u16;
    scene.kill_server();
    let taken = scene.lab.host.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap()).unwrap();

    scene.command(&["dns", "serve", "--detach"]).silent();

    wait_until("an answer", || {
        lookup(web.netns(), at(GATEWAY), "web", false, SOON)
            .is_ok_and(|answer| answer == Some(known(&[web_ip])))
    });
    drop((everywhere, taken));
}

/// Two lists share a bridge, and so its gateway and the way around.
#[test]
fn networks_of_one_bridge_go_around_together() {
    let scene = Scene::new();
    let everywhere = scene.lab.host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    let on = |name: &str| with(&named(name, &["10.7.0.0/24"]), json!({"bridge": "br-shared"}));
    let (web, web_who, web_ip) = scene.member("web", &on("one"));
    let second = with(
        &on("two"),
        json!({"ipam": {"ranges": [[{"subnet": "10.7.0.0/24", "rangeStart": "10.7.0.100"}]]}}),
    );
    let (db, db_who, db_ip) = scene.member("db", &second);

    assert_eq!((ask(&web, "web"), ask(&db, "db")), (known(&[web_ip]), known(&[db_ip])));
    // Once more from the start, after somebody flushed it.
    scene.lab.del("rnet", &web_who, &on("one"));
    scene.lab.firewall(|firewall| firewall.drop_tables().unwrap());
    let (web, web_who, web_ip) = scene.member("web2", &on("one"));
    assert_eq!((ask(&web, "web2"), ask(&db, "db")), (known(&[web_ip]), known(&[db_ip])));

    scene.lab.del("rnet", &web_who, &on("one"));
    assert_eq!(ask(&db, "db"), known(&[db_ip]), "the other still needs it");
    scene.lab.del("rnet", &db_who, &second);
    assert_eq!(scene.lab.elements(), []);
    drop(everywhere);
}

#[test]
fn a_server_that_listens_elsewhere_does_not_keep_a_second_network_from_its_port() {
    let scene = Scene::new();
    let taken = scene.lab.host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let socket = scene.lab.host.run(|| UdpSocket::bind((taken.host_address(), 53)).unwrap()).unwrap();
    let (web, _, web_ip) = scene.member("web", &mynet());
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    assert_eq!(scene.status().json()["listeners"][0]["port"], json!(53), "it takes one address, not all");
    drop(socket);
}

#[test]
fn without_servers_outside_names_fail_at_once_and_own_names_go_on() {
    let scene = Scene::new();
    // A server that nobody routes to.
    let config = with(&mynet(), json!({"names": true, "dns": {"nameservers": ["192.0.2.99"]}}));
    let (web, _, web_ip) = scene.member("web", &config);
    let begun = Instant::now();

    assert_eq!(ask(&web, "example.org").code, SERVFAIL);

    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
}

#[test]
fn an_upgrade_loses_no_question_and_no_name() {
    let scene = Scene::new();
    let before = scene.lab.snapshot();
    let installed = scene.lab.host.root().join("installed");
    let install = || {
        let new = installed.with_extension("new");
        netns_fixtures::copy_program(env!("CARGO_BIN_EXE_rnet"), &new).unwrap();
        std::fs::rename(new, &installed).unwrap();
    };
    install();
    std::fs::remove_file(scene.lab.plugins.join("rnet")).unwrap();
    std::os::unix::fs::symlink(&installed, scene.lab.plugins.join("rnet")).unwrap();
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    let (_, server) = scene.server();
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::SeqCst) {
                // Once: no resolver asks again for it.
                assert_eq!(ask(&web, "web"), known(&[web_ip]));
                asked += 1;
            }
            asked
        });
        for round in 0..5 {
            let (worker, _) = scene.server();
            install();
            let restarted = scene.lab.host.command(&installed).args(["dns", "restart"]).output().unwrap();
            assert!(restarted.status.success(), "{restarted:?}");
            assert_eq!(scene.server().1, server, "round {round}");
            assert_ne!(scene.server().0, worker, "round {round}");
        }
        done.store(true, Ordering::SeqCst);
        assert!(stream.join().unwrap() > 5);
    });

    assert_eq!(std::fs::read_link(format!("/proc/{server}/exe")).unwrap(), installed, "the file of now");
    let (_db, db_who, db_ip) = scene.member("db", &mynet());
    assert_eq!(ask(&web, "db"), known(&[db_ip]));
    scene.lab.del("rnet", &web_who, &mynet());
    scene.lab.del("rnet", &db_who, &mynet());
    scene.is_as(&before);
}

/// A server outside takes its time, and meanwhile the name server is replaced.
#[test]
fn an_upgrade_answers_what_was_asked_over_tcp() {
    let scene = Scene::new();
    let world = scene.lab.host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let at_port_53 = (world.address(), 53);
    let outside = world.netns().run(|| TcpListener::bind(at_port_53).unwrap()).unwrap();
    let config = with(&mynet(), json!({"dns": {"nameservers": [world.address().to_string()]}}));
    let (web, ..) = scene.member("web", &config);
    let connect = || web.run(|| TcpStream::connect((GATEWAY, 53)).unwrap()).unwrap();
    // Of example.org's IPv4 address, after its length.
    let question = b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
    let (mut idle, mut asking) = (connect(), connect());
    asking.write_all(question).unwrap();
    let (mut asked, _) = outside.accept().unwrap();
    let mut forwarded = [0; 31];
    asked.read_exact(&mut forwarded).unwrap();

    thread::scope(|scope| {
        let restarting = scope.spawn(|| scene.command(&["dns", "restart"]));
        // Whoever does not ask is let go at once, and in order.
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        forwarded[4] |= 0x80;
        asked.write_all(&forwarded).unwrap();
        assert_eq!(restarting.join().unwrap().status, 0);
    });

    let mut answer = Vec::new();
    asking.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), question.len(), "{answer:?}");
    assert_eq!(answer[..4], question[..4]);
    assert_eq!(answer[4] & 0x80, 0x80);
}

#[test]
fn a_restart_that_finds_no_program_is_an_error_and_ends_nothing() {
    let scene = Scene::new();
    let installed = scene.lab.host.root().join("installed");
    netns_fixtures::copy_program(env!("CARGO_BIN_EXE_rnet"), &installed).unwrap();
    std::fs::remove_file(scene.lab.plugins.join("rnet")).unwrap();
    std::os::unix::fs::symlink(&installed, scene.lab.plugins.join("rnet")).unwrap();
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    std::fs::remove_file(&installed).unwrap();

    let restarted = scene.command(&["dns", "restart"]);

    let expected = "error: the name server that ran before goes on: the program it was started from cannot be started again: ";
    assert!(restarted.status == 1 && restarted.stderr.starts_with(expected), "{restarted:?}");
    assert!(scene.command(&["dns", "log"]).stdout.contains("no other version can take over"));
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    netns_fixtures::copy_program(env!("CARGO_BIN_EXE_rnet"), &installed).unwrap();
    assert_eq!(scene.command(&["dns", "restart"]).status, 0);
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();
}

#[test]
fn a_server_that_was_killed_as_a_whole_is_missed_and_comes_back_by_the_hint() {
    let scene = Scene::new();
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    scene.kill_server();

    let missed = scene.command(&["dns", "restart"]);

    let expected = "error: the name server has died: containers have names on record, and nobody answers\n hint: rnet dns serve --detach\n";
    assert_eq!((missed.status, missed.stderr.as_str()), (3, expected));
    scene.command(&["dns", "serve", "--detach"]).silent();
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();
    assert!(scene.command(&["dns", "restart"]).stderr.starts_with("error: no name server runs"));
}

/// Where /run is on a disk (RNET_ROOT), records outlive the boot that they are of.
#[test]
fn records_of_an_earlier_boot_are_not_served() {
    let scene = Scene::new();
    let (container, web, web_ip) = scene.member("web", &mynet());
    scene.kill_server();
    // It does not outlive its boot.
    drop(container);
    wait_until("its pair is gone", || scene.lab.netlink().veths().unwrap().is_empty());
    let (db, db_who) = scene.named("db");
    let next_boot = |verb, who| {
        let call = scene.lab.call(verb, "rnet", who).set("RNET_BOOT_ID", "the-next");
        call.input(mynet().to_string()).run()
    };

    let added = next_boot("ADD", &db_who).json();

    assert_eq!(address(&added, false), web_ip, "nobody has it any more");
    assert_eq!((ask(&db, "db"), ask(&db, "web")), (known(&[web_ip]), unknown()));
    next_boot("DEL", &db_who).silent();
    scene.lab.del("rnet", &web, &mynet());
}

#[test]
fn the_log_tells_networks_and_containers_and_no_question() {
    let scene = Scene::new();
    assert_eq!(scene.command(&["dns", "log"]).status, 3);
    let (web, web_who, _) = scene.member("web", &mynet());
    let (worker, _) = scene.server();
    assert_eq!(ask(&web, "secret"), unknown());
    kill(worker);
    wait_until("another worker", || scene.server().0 != worker);
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();

    let log = scene.command(&["dns", "log"]).stdout;

    let expected = [
        "serving control=",
        "answering networks=1 endpoints=1",
        "listening network=\"mynet\" address=10.7.0.1 port=53",
        "set network=\"mynet\" container=\"web\" ifname=\"eth0\" names=[\"web\"] addresses=[10.7.0.2]",
        "the process that answers has ended: another takes its place status=signal: 9 (SIGKILL)",
        "answering networks=1 endpoints=1",
        "removed network=\"mynet\" container=\"web\" ifname=\"eth0\"",
        "network removed network=\"mynet\"",
        "no network needs names any more: the end",
    ];
    let mut lines = log.lines();
    for part in expected {
        assert!(lines.any(|line| line.contains(part)), "{part} is missing, or not there in order:\n{log}");
    }
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn whoever_watches_sees_each_question_and_its_answer() {
    let scene = Scene::new();
    let (web, _, web_ip) = scene.member("web", &mynet());
    let (db, _, db_ip) = scene.member("db", &mynet());
    let watch = scene.lab.host.command(env!("CARGO_BIN_EXE_rnet"));
    let mut watch = watch.args(["dns", "watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // It has begun when the first one is told.
    let first = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while scene.status().json()["watchers"] == 0 {
                thread::sleep(Duration::from_millis(5));
            }
            ask(&db, "web")
        });
        let first = lines.next().unwrap().unwrap();
        assert_eq!(asking.join().unwrap(), known(&[web_ip]));
        first
    });

    assert_eq!(first, format!("{db_ip} db on mynet: web. A: NOERROR {web_ip}"));
    assert_eq!(ask(&web, "nosuch"), unknown());
    assert_eq!(lines.next().unwrap().unwrap(), format!("{web_ip} web on mynet: nosuch. A: NXDOMAIN"));
    ask(&web, "example.org");
    assert_eq!(lines.next().unwrap().unwrap(), format!("{web_ip} web on mynet: example.org. A: forwarded"));
    watch.kill().unwrap();
    watch.wait().unwrap();
    wait_until("its leaving", || {
        ask(&web, "web");
        scene.status().json()["watchers"] == 0
    });
}

/// A message has room for a hundred networks' sockets.
#[test]
fn a_successor_gets_the_sockets_of_a_thousand_networks() {
    const MANY: u16 = 1000;
    let scene = Scene::new();
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    let socket = scene.lab.run_folder().join("locks/dns");
    let network = |nth: u16| dns::Network {
        name: format!("n{nth}"),
        bridge: format!("br{nth}"),
        // Not there yet, which does not keep anybody from listening (L2).
        gateways: vec![[10, 100 + (nth >> 8) as u8, nth as u8, 1].into()],
        ..dns::Network::default()
    };
    let tell = |nth| drop(dns::client::set(&socket, &network(nth), None).unwrap());
    scene.lab.host.run(|| (0..MANY).for_each(tell)).unwrap();
    let listeners = || scene.status().json()["listeners"].as_array().unwrap().clone();
    let before = listeners();
    assert_eq!(before.len(), usize::from(MANY) + 1);

    scene.lab.host.run(|| dns::client::restart(&socket).unwrap()).unwrap();

    // The new worker reads the records, and the thousand are on none: they are bound again from what was kept.
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    scene.lab.host.run(|| (0..MANY).for_each(tell)).unwrap();
    assert_eq!(listeners(), before, "each at the port that it had");
    scene
        .lab
        .host
        .run(|| (0..MANY).for_each(|nth| dns::client::remove_network(&socket, &format!("n{nth}")).unwrap()))
        .unwrap();
    assert_eq!(listeners().len(), 1);
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();
}

/// A crowd comes and goes while others ask: no living name fails, no address of the dead is told.
#[test]
fn a_crowd_comes_and_goes_under_a_stream_of_questions() {
    const CROWD: usize = 100;
    const ROUNDS: usize = 1;
    let scene = Scene::new();
    let before = scene.lab.snapshot();
    let (asker, asker_who, asker_ip) = scene.member("asker", &mynet());
    let crowd: Vec<(Container, Who)> = (0..CROWD).map(|n| scene.named(&format!("c{n}"))).collect();
    let done = AtomicBool::new(false);

    let asked = thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::SeqCst) {
                assert_eq!(ask(&asker, "asker"), known(&[asker_ip]));
                asked += 1;
            }
            asked
        });
        let members: Vec<_> = crowd
            .iter()
            .map(|(container, who)| {
                let scene = &scene;
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        come_and_go(scene, container, who);
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
    assert_eq!(scene.status().json()["endpoints"].as_array().unwrap().len(), 1);
    scene.lab.del("rnet", &asker_who, &mynet());
    scene.is_as(&before);
}

fn come_and_go(scene: &Scene, container: &Container, who: &Who) {
    let config: Value = mynet();
    let name = container.name();
    let own = address(&scene.lab.add("rnet", who, &config), false);
    assert_eq!(ask(container, name), known(&[own]), "{name} is there when its ADD returns");
    scene.lab.del("rnet", who, &config);
    let gone = lookup(scene.lab.host.netns(), at(GATEWAY), name, false, LONG).unwrap().unwrap();
    assert_eq!(gone, unknown(), "{name} is gone when its DEL returns");
}

#[test]
fn names_can_be_turned_on_and_off_while_containers_are_there() {
    let scene = Scene::new();
    let off = rnet("mynet", &["10.7.0.0/24"]);
    let (_old, old, _) = scene.member("old", &off);
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    assert_ne!(ask(&web, "old").code, NOERROR, "it came without a name");

    let (_late, late, _) = scene.member("late", &off);
    assert_eq!(ask(&web, "web"), known(&[web_ip]));
    for (who, config) in [(&old, &off), (&web_who, &off), (&late, &mynet())] {
        scene.lab.del("rnet", who, config);
    }
    scene.wait_for_its_end();
}
