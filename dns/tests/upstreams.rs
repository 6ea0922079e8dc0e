//! Upstream servers that are slow, silent or talkative, and clients that ask them too much.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dns::Endpoint;

mod common;

use common::{GATEWAY, LONG, Scene, answer, behind_a_link, endpoint, network, query};

const TWO: &str = "nameserver 192.0.2.1\nnameserver 192.0.2.2\n";
const SERVFAIL: usize = 2;

/// Whether a name is one that no upstream server answers, by its first label.
fn is_dead(query: &[u8]) -> bool {
    query[13..].starts_with(b"dead")
}

/// An upstream that answers each question after `delay` milliseconds, however many there are; dead names never.
fn delayed(scene: &Scene, ip: &str, last: u8, delay: Arc<AtomicU64>) {
    let socket = scene.host.run(|| UdpSocket::bind((ip, 53)).unwrap()).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 1 << 22)
        .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 22))
        .unwrap();
    let out = socket.try_clone().unwrap();
    let (tell, told) = mpsc::channel::<(Instant, Vec<u8>, _)>();
    std::thread::spawn(move || {
        for (due, reply, peer) in told {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let _ = out.send_to(&reply, peer);
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let due = Instant::now() + Duration::from_millis(delay.load(Ordering::SeqCst));
            if buffer[12] != 32 && !is_dead(&buffer) {
                let _ = tell.send((due, answer(&buffer[..len], last), peer));
            }
        }
    });
}

/// Ends a flood, even when its test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn millis(delay: u64) -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(delay))
}

/// Asks so many questions at once from one socket; how many answers came with each code, and how long the last one took.
fn at_once(
    to: &str,
    count: u16,
    name: impl Fn(u16) -> String,
    patience: Duration,
) -> ([usize; 16], Duration) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 22);
    socket.set_read_timeout(Some(patience)).unwrap();
    let begun = Instant::now();
    for n in 0..count {
        socket.send_to(&query(n, &name(n)), (to, 53)).unwrap();
        // A burst must fit into the sockets' buffers: questions that the kernel drops prove nothing.
        if n % 64 == 63 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let (mut codes, mut seen, mut buffer, mut last) = ([0; 16], HashSet::new(), [0; 512], Duration::ZERO);
    while seen.len() < count.into() && socket.recv(&mut buffer).is_ok() {
        assert!(seen.insert([buffer[0], buffer[1]]), "one answer for each question");
        codes[usize::from(buffer[3] & 0xf)] += 1;
        last = begun.elapsed();
    }
    (codes, last)
}

fn codes<const N: usize>(expected: [(usize, usize); N]) -> [usize; 16] {
    let mut codes = [0; 16];
    expected.into_iter().for_each(|(code, count)| codes[code] = count);
    codes
}

/// F10. moby#22185 and the like: a program with a hundred threads, each of which looks up another name.
#[test]
fn eight_hundred_questions_at_once_of_one_container_are_all_answered() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), Some(&endpoint("web", "10.77.0.2")));
    delayed(&scene, "192.0.2.1", 1, millis(100));
    let name = |n| format!("{n}.example.org");
    let (said, last) = scene.host.run(|| at_once(GATEWAY, 800, name, LONG)).unwrap();
    assert_eq!(said, codes([(0, 800)]), "after {last:?}");
}

/// F10: a question that has waited as long as a client waits is answered too.
#[test]
fn a_client_that_asks_for_too_much_gets_servfail_and_never_silence() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), Some(&endpoint("web", "10.77.0.2")));
    delayed(&scene, "192.0.2.1", 1, millis(0));
    let name = |n| format!("dead{n}.example.org");
    let (said, last) = scene.host.run(|| at_once(GATEWAY, 2000, name, LONG)).unwrap();
    assert_eq!(said, codes([(SERVFAIL, 2000)]), "after {last:?}");
    assert!((3500..5000).contains(&last.as_millis()), "{last:?}");
}

/// F3, H2: an error that is not the client's fault is answered each time.
#[test]
fn without_servers_each_question_is_answered() {
    let scene = Scene::with("", false, vec![]);
    scene.set(&network(), Some(&endpoint("web", "10.77.0.2")));
    let said = scene.host.run(|| at_once(GATEWAY, 500, |n| format!("{n}.example.org"), LONG)).unwrap().0;
    assert_eq!(said, codes([(SERVFAIL, 500)]));
}

/// F10: places and room in the queue are shared.
#[test]
fn the_flood_of_one_container_delays_no_other() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    delayed(&scene, "192.0.2.1", 1, millis(20));
    let (one, greedy) = behind_a_link(&scene, "net", "198.18.0.0/24");
    let (two, modest) = behind_a_link(&scene, "net8", "198.19.0.0/24");
    let on = |network: &dns::Network, name: &str, ip| Endpoint {
        network: network.name.clone(),
        ..endpoint(name, ip)
    };
    scene.set(&one, Some(&on(&one, "greedy", "198.18.0.2")));
    scene.set(&two, Some(&on(&two, "modest", "198.19.0.2")));
    let gateways = [&greedy, &modest].map(|machine| machine.host_address().to_string());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let name = |n| format!("dead{n}.example.org");
            let mut sent = 0;
            while !done.load(Ordering::SeqCst) {
                greedy.run(|| at_once(&gateways[0], 2000, name, Duration::from_millis(1))).unwrap();
                sent += 2000;
            }
            sent
        });
        let ends = Ends(&done);
        common::wait_for(|| scene.status().in_flight > 100);
        for round in 0..20 {
            let name = |n| format!("{n}x{round}.example.org");
            let (said, last) = modest.run(|| at_once(&gateways[1], 10, name, LONG)).unwrap();
            assert_eq!(said, codes([(0, 10)]), "round {round}");
            assert!(last < Duration::from_millis(500), "round {round}: {last:?}");
        }
        drop(ends);
        assert!(flood.join().unwrap() > 2000);
    });
    assert!(scene.status().in_flight <= 1024);
}

/// H2: 4,000 at once and 2,000 per second; further questions wait.
#[test]
fn a_client_that_forwards_too_often_waits_and_is_answered() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), Some(&endpoint("web", "10.77.0.2")));
    delayed(&scene, "192.0.2.1", 1, millis(0));
    let begun = Instant::now();
    let mut answered = 0;
    for round in 0..14 {
        let name = |n| format!("{n}x{round}.example.org");
        answered += scene.host.run(|| at_once(GATEWAY, 400, name, LONG)).unwrap().0[0];
    }
    assert_eq!(answered, 5600);
    let least = Duration::from_millis(700);
    assert!(begun.elapsed() > least, "1,600 more than the burst take 0.8 s: {:?}", begun.elapsed());
}

/// F4. A client that asks for a name that the first server is slow with moves no other client to the second.
#[test]
fn one_name_that_a_server_does_not_answer_does_not_make_it_silent() {
    let scene = Scene::with(TWO, false, vec![]);
    scene.set(&network(), None);
    delayed(&scene, "192.0.2.1", 1, millis(10));
    let _second = scene.upstream("192.0.2.2", |query| vec![answer(query, 2)]);
    for n in 0..2 {
        let begun = Instant::now();
        assert!(scene.ask(&format!("dead{n}.example.org")).unwrap().ends_with(&[100, 2]));
        assert!(begun.elapsed() >= Duration::from_millis(950));
        assert!(scene.ask(&format!("live{n}.example.org")).unwrap().ends_with(&[100, 1]), "{n}");
        assert!(scene.status().unwell.is_empty());
    }
}

/// F4. The other server is always faster, so this one's answers come too late to be used.
#[test]
fn a_late_answer_makes_a_silent_server_good_again() {
    let scene = Scene::with(TWO, false, vec![]);
    scene.set(&network(), None);
    let delay = millis(1300);
    delayed(&scene, "192.0.2.1", 1, Arc::clone(&delay));
    let _second = scene.upstream("192.0.2.2", |query| vec![answer(query, 2)]);
    assert!(scene.ask("a.example.org").unwrap().ends_with(&[100, 2]));
    assert_eq!(scene.status().unwell.len(), 1);
    delay.store(100, Ordering::SeqCst);
    common::wait_for(|| scene.status().unwell.is_empty());
    assert!(scene.ask("b.example.org").unwrap().ends_with(&[100, 1]));
}

/// F4: while all are known to be silent, no client waits; the first that answers again is noticed.
#[test]
fn when_all_servers_are_known_silent_a_question_fails_within_half_a_second() {
    let scene = Scene::with(TWO, false, vec![]);
    scene.set(&network(), None);
    let alive = Arc::new(AtomicBool::new(false));
    let now_alive = Arc::clone(&alive);
    let _first = scene.upstream("192.0.2.1", |_| vec![]);
    let _second = scene.upstream("192.0.2.2", move |query| {
        now_alive.load(Ordering::SeqCst).then(|| answer(query, 2)).into_iter().collect()
    });
    assert_eq!(scene.rcode("a.example.org"), 2);
    assert_eq!(scene.status().unwell.len(), 2);
    for n in 0..3 {
        let begun = Instant::now();
        assert_eq!(scene.rcode(&format!("b{n}.example.org")), 2);
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    }
    alive.store(true, Ordering::SeqCst);
    assert!(scene.ask("c.example.org").unwrap().ends_with(&[100, 2]));
    assert_eq!(scene.status().unwell, ["192.0.2.1:53".parse().unwrap()]);
}

/// F6. It answers once, and then sends more: the socket is full when the next question gets it.
#[test]
fn surplus_answers_of_a_server_cost_later_questions_nothing() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), None);
    let _talkative = scene.upstream("192.0.2.1", |query| {
        let right = answer(query, 1);
        let mut more = right.clone();
        more.resize(1200, 0);
        std::iter::once(right).chain(std::iter::repeat_n(more, 400)).collect()
    });
    for n in 0..48 {
        let begun = Instant::now();
        assert!(scene.ask(&format!("{n}.example.org")).unwrap().ends_with(&[100, 1]), "{n}");
        assert!(begun.elapsed() < Duration::from_millis(800), "{n}: {:?}", begun.elapsed());
        // What is still on its way arrives before the next question.
        std::thread::sleep(Duration::from_millis(5));
    }
}
