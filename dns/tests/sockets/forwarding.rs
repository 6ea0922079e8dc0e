//! Questions for outside, with upstream servers that misbehave.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use dns::Network;

use crate::common::{
    GATEWAY, LONG, Scene, answer, connect, endpoint, network, query, read_with_length, reply, wait_for,
    with_length,
};

#[test]
fn outside_names_are_forwarded_shared_and_end_in_servfail_without_servers() {
    let scene = Scene::with("", false, vec![]);
    scene.set(&network(), None);
    assert_eq!(scene.rcode("example.org"), 2);
    let upstream = scene.upstream("192.0.2.1", |query| {
        std::thread::sleep(Duration::from_millis(300));
        vec![answer(query, 1)]
    });
    scene.write_resolv("frobnicate\nnameserver 192.0.2.1\n");
    wait_for(|| scene.status().upstreams == ["192.0.2.1:53".parse().unwrap()]);
    std::thread::scope(|scope| {
        for name in ["example.org", "EXAMPLE.org", "example.ORG"] {
            let scene = &scene;
            scope.spawn(move || {
                let said = scene.ask(name).unwrap();
                assert_eq!(said, answer(&query(7, name), 1));
            });
        }
    });
    assert_eq!(upstream.asked(), 1);
    scene.write_resolv("");
    wait_for(|| scene.status().upstreams.is_empty());
    assert_eq!(scene.rcode("example.org"), 2);
}

/// H5. The upstream answers with an address in a network's subnet, or elsewhere.
#[test]
fn an_answer_that_points_inside_is_dropped_with_the_rebinding_guard() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    let _upstream = scene.upstream("192.0.2.1", |query| vec![answer(query, 1)]);
    let inside = Network {
        name: "net8".into(),
        subnets: vec!["198.51.100.0/24".parse().unwrap()],
        bridge: "elsewhere".into(),
        ..Network::default()
    };
    let guarded = Network { rebinding_guard: true, ..network() };

    scene.set(&network(), None);
    scene.set(&inside, None);
    assert_eq!(scene.rcode("example.org"), 0, "no network wants the guard");
    scene.set(&guarded, None);
    assert_eq!(scene.rcode("example.org"), 2, "it points to the other network");
    scene.set(&Network { subnets: vec!["203.0.113.0/24".parse().unwrap()], ..inside }, None);
    assert_eq!(scene.rcode("example.org"), 0, "it points outside");
}

/// H5. glibc takes the address and overlooks what follows.
#[test]
fn an_answer_that_cannot_be_parsed_is_dropped_with_the_rebinding_guard() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    let _upstream = scene.upstream("192.0.2.1", |query| {
        let mut broken = answer(query, 1);
        broken[11] = 1;
        broken.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
        vec![broken]
    });
    scene.set(&network(), None);
    assert_eq!(scene.rcode("example.org"), 0, "no network wants the guard");
    scene.set(&Network { rebinding_guard: true, ..network() }, None);
    assert_eq!(scene.rcode("example.org"), 2);
}

#[test]
fn refusing_failing_and_unreachable_servers_are_skipped_at_once() {
    let scene =
        Scene::with("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 127.0.0.1\n", false, vec![]);
    scene.set(&network(), None);
    let refusing = scene.upstream("192.0.2.1", |query| vec![reply(query, 5)]);
    let begun = Instant::now();
    {
        let failing = scene.upstream("192.0.2.2", |query| vec![reply(query, 2)]);
        // 127.0.0.1 is unreachable: no server listens there.
        assert_eq!(scene.rcode("a.example.org"), 2);
        assert_eq!((refusing.asked(), failing.asked()), (1, 1));
    }
    let _live = scene.upstream("127.0.0.1", |query| vec![reply(query, 3)]);
    // NXDOMAIN is final.
    assert_eq!(scene.rcode("b.example.org"), 3);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[test]
fn one_of_three_dead_costs_a_second_once_and_a_slow_one_may_still_answer() {
    let resolv = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 127.0.0.1\n";
    let scene = Scene::with(resolv, false, vec![]);
    scene.set(&network(), None);
    let dead = scene.upstream("192.0.2.1", |_| vec![]);
    let _live = scene.upstream("192.0.2.2", |query| vec![answer(query, 2)]);
    let begun = Instant::now();
    assert!(scene.ask("a.example.org").unwrap().ends_with(&[100, 2]));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(scene.status().unwell, ["192.0.2.1:53".parse().unwrap()]);
    let begun = Instant::now();
    (0..5).for_each(|n| assert_eq!(scene.rcode(&format!("{n}.example.org")), 0));
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert_eq!(dead.asked(), 1);
    // A new list: all are as new.
    scene.write_resolv("nameserver 127.0.0.1\n");
    wait_for(|| scene.status().upstreams.len() == 1);
    let _slow = scene.upstream("127.0.0.1", |query| {
        std::thread::sleep(Duration::from_millis(1500));
        vec![answer(query, 3)]
    });
    assert!(scene.ask("slow.example.org").unwrap().ends_with(&[100, 3]));
}

#[test]
fn upstream_silence_is_servfail_after_four_seconds_and_delays_no_other_client() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let _dead = scene.upstream("192.0.2.1", |_| vec![]);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| scene.rcode("example.org"));
        while !waiting.is_finished() {
            let begun = Instant::now();
            assert_eq!(scene.rcode("web"), 0);
            assert!(begun.elapsed() < Duration::from_millis(200));
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(waiting.join().unwrap(), 2);
    });
    assert!((3900..5000).contains(&begun.elapsed().as_millis()));
}

#[test]
fn forged_replies_are_ignored_and_each_query_has_a_new_port() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), None);
    let upstream = scene.upstream("192.0.2.1", |query| {
        let mut wrong_id = answer(query, 66);
        wrong_id[0] ^= 1;
        let mut wrong_name = answer(query, 66);
        wrong_name[13] ^= 1;
        let not_a_reply = query.to_vec();
        vec![wrong_id, wrong_name, not_a_reply, vec![0; 5], answer(query, 1)]
    });
    for n in 0..20 {
        assert!(scene.ask(&format!("{n}.example.org")).unwrap().ends_with(&[100, 1]));
    }
    let mut ports: Vec<_> = upstream.names.lock().unwrap().iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 15, "{ports:?}");
}

#[test]
fn own_addresses_are_not_asked_and_a_server_that_loops_is_left_out() {
    let scene = Scene::with("nameserver 10.77.0.1\nnameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), None);
    assert_eq!(scene.status().upstreams, ["192.0.2.1:53".parse().unwrap()]);
    // It asks us what we ask it.
    let looping = scene.host.run(|| UdpSocket::bind("192.0.2.1:53").unwrap()).unwrap();
    looping.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, _)) = looping.recv_from(&mut buffer) {
            looping.send_to(&buffer[..len], (GATEWAY, 53)).unwrap();
        }
    });
    let begun = Instant::now();
    assert_eq!(scene.rcode("a.example.org"), 2);
    assert_eq!(scene.status().unwell, ["192.0.2.1:53".parse().unwrap()]);
    let asked_anew = Instant::now();
    assert_eq!(scene.rcode("b.example.org"), 2);
    assert!(asked_anew.elapsed() < Duration::from_millis(500) && begun.elapsed() < LONG);
}

/// F2. A router reports it by ICMP, which the kernel takes for a temporary error.
#[test]
fn a_server_behind_an_unreachable_route_is_skipped_at_once() {
    let scene = Scene::with("nameserver 203.0.113.9\nnameserver 192.0.2.2\n", false, vec![]);
    let router = scene.host.outside(&["198.18.0.0/24".parse().unwrap()]).unwrap();
    router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap()).unwrap();
    let nowhere = ["route", "add", "unreachable", "203.0.113.0/24"];
    assert!(router.command("ip").args(nowhere).status().unwrap().success());
    let by_router = ["route", "add", "203.0.113.0/24", "via", "198.18.0.2"];
    assert!(scene.host.command("ip").args(by_router).status().unwrap().success());
    scene.set(&network(), None);
    let _live = scene.upstream("192.0.2.2", |query| vec![answer(query, 2)]);
    let begun = Instant::now();
    assert!(scene.ask("a.example.org").unwrap().ends_with(&[100, 2]));
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(scene.status().unwell, ["203.0.113.9:53".parse().unwrap()]);
    assert!(scene.ask("b.example.org").unwrap().ends_with(&[100, 2]));
}

#[test]
fn a_question_over_tcp_is_forwarded_over_tcp() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    scene.set(&network(), None);
    let datagrams = scene.upstream("192.0.2.1", |_| vec![]);
    let listener = scene.host.run(|| std::net::TcpListener::bind("192.0.2.1:53").unwrap()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let question = read_with_length(&mut stream).unwrap();
        stream.write_all(&with_length(&answer(&question, 9))).unwrap();
    });
    let said = scene.host.run(|| {
        let mut stream = connect();
        stream.write_all(&with_length(&query(5, "example.org"))).unwrap();
        read_with_length(&mut stream).unwrap()
    });
    assert_eq!(said.unwrap(), answer(&query(5, "example.org"), 9));
    assert_eq!(datagrams.asked(), 0);
}

/// F4. Some small servers answer only over UDP.
#[test]
fn a_server_without_tcp_is_asked_over_udp_as_before() {
    let scene = Scene::with("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", false, vec![]);
    scene.set(&network(), None);
    let first = scene.upstream("192.0.2.1", |query| vec![answer(query, 1)]);
    let second = scene.upstream("192.0.2.2", |query| vec![answer(query, 2)]);
    let only_second_listens =
        scene.host.run(|| std::net::TcpListener::bind("192.0.2.2:53").unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in only_second_listens.incoming() {
            let mut stream = stream.unwrap();
            let question = read_with_length(&mut stream).unwrap();
            stream.write_all(&with_length(&answer(&question, 9))).unwrap();
        }
    });
    let by_stream = scene.host.run(|| {
        let mut stream = connect();
        stream.write_all(&with_length(&query(5, "example.org"))).unwrap();
        read_with_length(&mut stream).unwrap()
    });
    assert!(by_stream.unwrap().ends_with(&[100, 9]));
    assert!(scene.ask("example.org").unwrap().ends_with(&[100, 1]));
    assert_eq!((first.asked(), second.asked()), (1, 0));
}
