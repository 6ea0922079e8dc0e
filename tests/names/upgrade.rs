//! Another version takes over, or what is installed is none: names go on answering.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_fixtures::lookup;
use serde_json::json;

use crate::common::{SOON, with};
use crate::scene::{GATEWAY, LONG, NOERROR, SERVFAIL, Scene, ask, at, kill, known, mynet, wait_until};

/// Lets the plugins lead to a file that can be replaced, and copies this version there.
fn installed(scene: &Scene) -> PathBuf {
    let installed = scene.lab.host.root().join("installed");
    install(&installed, &std::fs::read(env!("CARGO_BIN_EXE_rnet")).unwrap());
    std::fs::remove_file(scene.lab.plugins.join("rnet")).unwrap();
    std::os::unix::fs::symlink(&installed, scene.lab.plugins.join("rnet")).unwrap();
    installed
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
    let whole = std::fs::read(env!("CARGO_BIN_EXE_rnet")).unwrap();
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
    let scene = Scene::new();
    let installed = installed(&scene);
    let mark = scene.lab.host.root().join("executed-by-a-shell");
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    let server = scene.server();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::SeqCst) {
                assert_eq!(ask(&web, "web"), known(&[web_ip]));
                asked += 1;
            }
            asked
        });
        for (what, content) in broken(&mark) {
            install(&installed, &content);
            let begun = Instant::now();
            let restarted = scene.command(&["dns", "restart"]);
            let expected = "error: the name server that ran before goes on: the program it was started from cannot be started again: ";
            assert!(restarted.status == 1 && restarted.stderr.starts_with(expected), "{what}: {restarted:?}");
            assert!(restarted.stderr.contains(installed.to_str().unwrap()), "{what}: {restarted:?}");
            assert!(begun.elapsed() < Duration::from_secs(12), "{what}: {:?}", begun.elapsed());
            assert!(!mark.exists(), "{what} was executed");
            assert_eq!(scene.server(), server, "{what}");
        }
        install(&installed, &std::fs::read(env!("CARGO_BIN_EXE_rnet")).unwrap());
        assert_eq!(scene.command(&["dns", "restart"]).status, 0);
        done.store(true, Ordering::SeqCst);
        assert!(stream.join().unwrap() > 5);
    });
    assert_ne!(scene.server().0, server.0);
    let trial = scene.lab.run_folder().join("trial");
    assert!(!trial.exists());
    wait_until("nobody is left of any trial", || !is_in_an_environment(trial.to_str().unwrap()));
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();
}

/// The guardian of a version that works must not become one that does not.
#[test]
fn a_server_that_dies_after_a_broken_file_was_installed_is_replaced_by_its_own_version() {
    let scene = Scene::new();
    let mark = scene.lab.host.root().join("executed-by-a-shell");
    let installed = installed(&scene);
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    for (what, content) in broken(&mark) {
        let before = scene.processes();
        install(&installed, &content);
        kill(before.parent);
        let answers = || lookup(web.netns(), at(GATEWAY), "web", false, SOON).ok().flatten();
        wait_until(what, || answers() == Some(known(&[web_ip])));
        wait_until(what, || scene.processes().parent != before.parent);
        assert!(!mark.exists(), "{what} was executed");
    }
    install(&installed, &std::fs::read(env!("CARGO_BIN_EXE_rnet")).unwrap());
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();
}

/// The version that takes over dies before it has a guardian of its own: that of the one before steps in.
#[test]
fn whichever_process_dies_after_an_upgrade_names_come_back() {
    let scene = Scene::new();
    let installed = installed(&scene);
    let (web, web_who, web_ip) = scene.member("web", &mynet());
    for round in 0..4 {
        install(&installed, &std::fs::read(env!("CARGO_BIN_EXE_rnet")).unwrap());
        assert_eq!(scene.command(&["dns", "restart"]).status, 0, "round {round}");
        let all = scene.processes();
        kill([all.parent, all.worker, all.guardian][round % 3]);
        wait_until("another", || scene.processes() != all);
        wait_until("an answer", || {
            lookup(web.netns(), at(GATEWAY), "web", false, SOON).ok().flatten() == Some(known(&[web_ip]))
        });
    }
    scene.lab.del("rnet", &web_who, &mynet());
    scene.wait_for_its_end();
}

/// A server outside takes its time, and meanwhile the name server is replaced.
#[test]
fn an_upgrade_answers_what_waits_for_a_slow_server() {
    let scene = Scene::new();
    let world = scene.lab.host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
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
    let (web, web_who, _) = scene.member("web", &config);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..20)
            .map(|n| {
                let web = &web;
                scope.spawn(move || {
                    lookup(web.netns(), at(GATEWAY), &format!("n{n}.example.org"), false, LONG).unwrap()
                })
            })
            .collect();
        wait_until("all are outside", || scene.status().json()["inFlight"] == 20);
        assert_eq!(scene.command(&["dns", "restart"]).status, 0);
        for answer in waiting {
            let answer = answer.join().unwrap().expect("an answer, not silence");
            assert!([NOERROR, SERVFAIL].contains(&answer.code), "{answer:?}");
        }
    });
    scene.lab.del("rnet", &web_who, &config);
    scene.wait_for_its_end();
}
