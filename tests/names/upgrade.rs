//! Another version takes over, or what is installed is none: names go on answering.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_fixtures::{Container, lookup};
use serde_json::json;

use crate::common::{Host, SOON, binary, wait_until, with};
use crate::server::{GATEWAY, LONG, NOERROR, SERVFAIL, ask, at, kill, known, mynet};

/// Lets the plugins lead to a file that can be replaced, and copies this version there.
fn installed(host: &Host) -> PathBuf {
    let installed = host.root().join("installed");
    install(&installed, &this_version());
    std::fs::remove_file(host.plugins.join("rnet")).unwrap();
    std::os::unix::fs::symlink(&installed, host.plugins.join("rnet")).unwrap();
    installed
}

fn this_version() -> Vec<u8> {
    std::fs::read(binary()).unwrap()
}

/// Asks in `web` for `web` without a pause until it is done; how often.
fn asked_until(done: &AtomicBool, web: &Container, address: IpAddr) -> usize {
    let mut asked = 0;
    while !done.load(Ordering::SeqCst) {
        assert_eq!(ask(web, "web"), known(&[address]));
        asked += 1;
    }
    asked
}

/// As a package manager does it: whole, under another name, then renamed.
fn install(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    netns_fixtures::write_program(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A program for x86-64 that does nothing but what these instructions say.
fn program(code: &[u8]) -> Vec<u8> {
    const AT: u64 = 0x40_0000;
    let size = (64 + 56 + code.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    [AT + 120, 64, 0].iter().for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    elf.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    [0, AT, AT, size, size, 0x1000].iter().for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    elf.extend(code);
    elf
}

/// pause(2), for ever.
fn that_hangs() -> Vec<u8> {
    program(b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7")
}

/// An instruction that is none.
fn that_crashes() -> Vec<u8> {
    program(b"\x0f\x0b")
}

/// What may lie there after a failed download, or by a slip of the hand. A shell that is given such a text makes `mark`.
fn broken(mark: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let whole = this_version();
    let text = format!("touch {}\n", mark.display());
    vec![
        ("an empty file", Vec::new()),
        ("a text", text.clone().into_bytes()),
        ("a script", format!("#!/bin/sh\n{text}").into_bytes()),
        ("the beginning of a program", whole[..60].to_vec()),
        ("a part of a program", whole[..whole.len() / 3].to_vec()),
        ("a page that says not found", b"<html>404</html>\n".to_vec()),
        ("a program that ends at once", std::fs::read("/bin/true").unwrap()),
        ("a program that fails", std::fs::read("/bin/false").unwrap()),
        ("a program that crashes", that_crashes()),
        ("a program that hangs", that_hangs()),
    ]
}

/// Whether a process was started with these words in its environment.
fn is_in_an_environment(words: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("environ"));
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    processes.map(read).any(|environment| environment.contains(words))
}

#[test]
fn an_upgrade_to_a_broken_file_changes_nothing() {
    let host = Host::forwarding();
    let installed = installed(&host);
    let mark = host.root().join("executed-by-a-shell");
    let web = host.join("web", &mynet());
    let server = host.server();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stream = scope.spawn(|| asked_until(&done, &web, web.v4()));
        for (what, content) in broken(&mark) {
            install(&installed, &content);
            let begun = Instant::now();
            let restarted = host.rnet("dns restart");
            let expected = "error: the running name server was not replaced, because the installed program does not start: ";
            assert!(restarted.status == 1 && restarted.stderr.starts_with(expected), "{what}: {restarted:?}");
            assert!(restarted.stderr.contains(installed.to_str().unwrap()), "{what}: {restarted:?}");
            assert!(begun.elapsed() < Duration::from_secs(12), "{what}: {:?}", begun.elapsed());
            assert!(!mark.exists(), "{what} was executed");
            assert_eq!(host.server(), server, "{what}");
        }
        install(&installed, &this_version());
        assert_eq!(host.rnet("dns restart").status, 0);
        done.store(true, Ordering::SeqCst);
        assert!(stream.join().unwrap() > 5);
    });
    assert_ne!(host.server().0, server.0);
    let trial = host.run_folder().join("trial");
    assert!(!trial.exists());
    wait_until("nobody is left of any trial", || !is_in_an_environment(trial.to_str().unwrap()));
    web.detach();
    host.wait_for_its_end();
}

/// The guardian of a version that works must not become one that does not.
#[test]
fn a_server_that_dies_after_a_broken_file_was_installed_is_replaced_by_its_own_version() {
    let host = Host::forwarding();
    let mark = host.root().join("executed-by-a-shell");
    let installed = installed(&host);
    let web = host.join("web", &mynet());
    for (what, content) in broken(&mark) {
        let before = host.server_processes();
        install(&installed, &content);
        kill(before.parent);
        let answers = || lookup(web.netns(), at(GATEWAY), "web", false, SOON).ok().flatten();
        wait_until(what, || answers() == Some(known(&[web.v4()])));
        wait_until(what, || host.server_processes().parent != before.parent);
        assert!(!mark.exists(), "{what} was executed");
    }
    install(&installed, &this_version());
    web.detach();
    host.wait_for_its_end();
}

/// The version that takes over dies before it has a guardian of its own: that of the one before steps in.
#[test]
fn whichever_process_dies_after_an_upgrade_names_come_back() {
    let host = Host::forwarding();
    let installed = installed(&host);
    let web = host.join("web", &mynet());
    for round in 0..4 {
        install(&installed, &this_version());
        assert_eq!(host.rnet("dns restart").status, 0, "round {round}");
        let all = host.server_processes();
        kill([all.parent, all.worker, all.guardian][round % 3]);
        wait_until("another", || host.server_processes() != all);
        wait_until("an answer", || {
            lookup(web.netns(), at(GATEWAY), "web", false, SOON).ok().flatten() == Some(known(&[web.v4()]))
        });
    }
    web.detach();
    host.wait_for_its_end();
}

/// A server outside takes its time, and meanwhile the name server is replaced.
#[test]
fn an_upgrade_answers_what_waits_for_a_slow_server() {
    let host = Host::forwarding();
    let world = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let socket = world.netns().run(|| UdpSocket::bind((world.address(), 53)).unwrap()).unwrap();
    let out = socket.try_clone().unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, asker)) = socket.recv_from(&mut question) {
            let (mut answer, out) = (question[..len].to_vec(), out.try_clone().unwrap());
            answer[2] |= 0x80;
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(800));
                let _ = out.send_to(&answer, asker);
            });
        }
    });
    let config = with(&mynet(), json!({"dns": {"nameservers": [world.address().to_string()]}}));
    let web = host.join("web", &config);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..20)
            .map(|n| {
                let web = &web;
                scope.spawn(move || {
                    lookup(web.netns(), at(GATEWAY), &format!("n{n}.example.org"), false, LONG).unwrap()
                })
            })
            .collect();
        wait_until("all are outside", || host.status().json()["inFlight"] == 20);
        assert_eq!(host.rnet("dns restart").status, 0);
        for answer in waiting {
            let answer = answer.join().unwrap().expect("an answer, not silence");
            assert!([NOERROR, SERVFAIL].contains(&answer.code), "{answer:?}");
        }
    });
    web.detach();
    host.wait_for_its_end();
}

#[test]
fn an_upgrade_loses_no_question_and_no_name() {
    let host = Host::forwarding();
    let before = host.snapshot();
    let installed = installed(&host);
    let web = host.join("web", &mynet());
    let (_, server) = host.server();
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        // Once each: no resolver asks again for it.
        let stream = scope.spawn(|| asked_until(&done, &web, web.v4()));
        for round in 0..5 {
            let (worker, _) = host.server();
            install(&installed, &this_version());
            let restarted = host.command(&installed).args(["dns", "restart"]).output().unwrap();
            assert!(restarted.status.success(), "{restarted:?}");
            assert_eq!(host.server().1, server, "round {round}");
            assert_ne!(host.server().0, worker, "round {round}");
        }
        done.store(true, Ordering::SeqCst);
        assert!(stream.join().unwrap() > 5);
    });

    assert_eq!(std::fs::read_link(format!("/proc/{server}/exe")).unwrap(), installed, "the file of now");
    let db = host.join("db", &mynet());
    assert_eq!(ask(&web, "db"), known(&[db.v4()]));
    web.detach();
    db.detach();
    host.is_as(&before);
}

/// A server outside takes its time, and meanwhile the name server is replaced.
#[test]
fn an_upgrade_answers_what_was_asked_over_tcp() {
    let host = Host::forwarding();
    let world = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let at_port_53 = (world.address(), 53);
    let outside = world.netns().run(|| TcpListener::bind(at_port_53).unwrap()).unwrap();
    let config = with(&mynet(), json!({"dns": {"nameservers": [world.address().to_string()]}}));
    let web = host.join("web", &config);
    let connect = || web.run(|| TcpStream::connect((GATEWAY, 53)).unwrap()).unwrap();
    // Of example.org's IPv4 address, after its length.
    let question = b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
    let (mut idle, mut asking) = (connect(), connect());
    asking.write_all(question).unwrap();
    let (mut asked, _) = outside.accept().unwrap();
    let mut forwarded = [0; 31];
    asked.read_exact(&mut forwarded).unwrap();

    thread::scope(|scope| {
        let restarting = scope.spawn(|| host.rnet("dns restart"));
        // A connection without a question is closed at once, and in order.
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
    let host = Host::forwarding();
    let installed = installed(&host);
    let web = host.join("web", &mynet());
    std::fs::remove_file(&installed).unwrap();

    let restarted = host.rnet("dns restart");

    let expected =
        "error: the running name server was not replaced, because the installed program does not start: ";
    assert!(restarted.status == 1 && restarted.stderr.starts_with(expected), "{restarted:?}");
    assert!(host.rnet("dns log").stdout.contains("no other version can take over"));
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    install(&installed, &this_version());
    assert_eq!(host.rnet("dns restart").status, 0);
    web.detach();
    host.wait_for_its_end();
}

/// A message has room for a hundred networks' sockets.
#[test]
fn a_successor_gets_the_sockets_of_a_thousand_networks() {
    const MANY: u16 = 1000;
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let socket = host.run_folder().join("locks/dns");
    let network = |nth: u16| dns::Network {
        name: format!("n{nth}"),
        bridge: format!("br{nth}"),
        // Not there yet, which does not keep anybody from listening (L2).
        gateways: vec![[10, 100 + (nth >> 8) as u8, nth as u8, 1].into()],
        ..dns::Network::default()
    };
    let tell = |nth| drop(dns::client::set(&socket, &network(nth), None).unwrap());
    host.run(|| (0..MANY).for_each(tell)).unwrap();
    let listeners = || host.status().json()["listeners"].as_array().unwrap().clone();
    let before = listeners();
    assert_eq!(before.len(), usize::from(MANY) + 1);

    host.run(|| dns::client::restart(&socket).unwrap()).unwrap();

    // The new worker reads the records, and the thousand are on none: they are bound again from what was kept.
    assert_eq!(ask(&web, "web"), known(&[web.v4()]));
    host.run(|| (0..MANY).for_each(tell)).unwrap();
    assert_eq!(listeners(), before, "each at the port that it had");
    host.run(|| (0..MANY).for_each(|nth| dns::client::remove_network(&socket, &format!("n{nth}")).unwrap()))
        .unwrap();
    assert_eq!(listeners().len(), 1);
    web.detach();
    host.wait_for_its_end();
}
