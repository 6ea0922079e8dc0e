//! Changes, listeners, and the processes of the server.

use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dns::{Control, Endpoint, Network, client};
use netns_fixtures::Host;

use crate::common::{GATEWAY, LONG, Scene, ask, endpoint, network, query, wait_for};

#[test]
fn a_name_answers_when_set_returns_and_is_gone_when_remove_returns() {
    let scene = Scene::new("");
    scene.set(&network(), None);
    for _ in 0..20 {
        scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
        assert!(scene.ask("web").unwrap().ends_with(&[10, 77, 0, 9]));
        client::remove_endpoint(&scene.control(), "net", "web-id", "eth0").unwrap();
        assert_eq!(scene.rcode("web"), 3);
    }
    let status = scene.status();
    assert_eq!((status.networks, status.endpoints.len(), status.listeners[0].port), (1, 0, 53));
}

#[test]
fn a_hundred_at_once_lose_nothing_and_leave_nothing() {
    let scene = Scene::new("");
    let each = |f: &(dyn Fn(u8) + Sync)| {
        std::thread::scope(|scope| (0..100).for_each(|n| drop(scope.spawn(move || f(n)))));
    };
    let name = |n| endpoint(&format!("c{n}"), &format!("10.77.0.{}", n + 100));
    each(&|n| scene.set(&network(), Some(&name(n))));
    assert_eq!(scene.status().endpoints.len(), 100);
    assert!((0..100).all(|n| scene.rcode(&format!("c{n}")) == 0));
    each(&|n| client::remove_endpoint(&scene.control(), "net", &format!("c{n}-id"), "eth0").unwrap());
    assert_eq!((scene.status().endpoints.len(), scene.rcode("c7")), (0, 3));
}

#[test]
fn ipv6_is_answered_from_the_address_asked_and_listening_does_not_wait_for_it() {
    let scene = Scene::new("");
    let gateways = vec!["fd77::1".parse().unwrap(), "fd99::1".parse().unwrap(), "10.99.0.1".parse().unwrap()];
    let network =
        Network { name: "net6".into(), subnets: vec!["fd77::/64".parse().unwrap()], gateways, ..network() };
    let endpoint = Endpoint { network: "net6".into(), ..endpoint("web", "10.77.0.9") };
    scene.set(&network, Some(&endpoint));
    let answer = scene.host.run(|| ask("fd77::1", &query(1, "web"), LONG)).unwrap().unwrap();
    assert!(answer.ends_with(&[10, 77, 0, 9]));
    assert_eq!(scene.status().listeners.len(), 3);
}

/// The kernel is still looking for duplicates of the gateway's address, for a second or two.
#[test]
fn a_tentative_gateway_is_listened_at_and_answers_when_it_may() {
    let scene = Scene::new("");
    let ip = |words: &str| scene.host.command("ip").args(words.split(' ')).output().unwrap();
    for words in [
        "link add here type veth peer name there",
        "link set there up",
        "link set here up",
        "addr add fd79::1/64 dev here",
    ] {
        assert!(ip(words).status.success(), "{words}");
    }
    let is_tentative =
        || String::from_utf8(ip("addr show dev here tentative").stdout).unwrap().contains("fd79::1");
    let gateways = vec!["fd79::1".parse().unwrap()];
    let subnets = vec!["fd79::/64".parse().unwrap(), "10.77.0.0/24".parse().unwrap()];

    scene.set(&Network { gateways, subnets, ..network() }, Some(&endpoint("web", "10.77.0.9")));

    assert!(is_tentative(), "the test was too late to prove anything");
    assert_eq!(scene.status().listeners.len(), 1);
    wait_for(|| !is_tentative());
    let answer = scene.host.run(|| ask("fd79::1", &query(1, "web"), LONG)).unwrap().unwrap();
    assert!(answer.ends_with(&[10, 77, 0, 9]));
}

/// L6: its control socket is found from every namespace, its DNS sockets are not.
#[test]
fn a_server_of_another_network_namespace_is_not_used() {
    let scene = Scene::new("");
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let (socket, elsewhere) = (scene.control(), Host::new().unwrap());
    let pid = scene.status().pid;

    let said = elsewhere.run(|| {
        let (network, endpoint) = (network(), endpoint("web", "10.77.0.9"));
        [
            client::ping(&socket).unwrap_err(),
            client::check(&socket, &network, &endpoint).unwrap_err(),
            client::set(&socket, &network, Some(&endpoint)).unwrap_err(),
            client::listening(&socket).unwrap_err(),
        ]
    });

    for error in said.unwrap() {
        assert!(matches!(error, client::Error::Elsewhere { pid: named, .. } if named == pid), "{error}");
        assert!(!error.is_absent(), "no other may be started in its place");
    }
}

#[test]
fn a_taken_port_is_replaced_by_a_high_one() {
    let scene = Scene::new("");
    let taken = scene.host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let port = scene.status().listeners[0].port;
    assert!(port > 1024);
    let said = scene.host.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.send_to(&query(1, "web"), (GATEWAY, port)).unwrap();
        socket.recv(&mut [0; 512]).is_ok() && TcpStream::connect((GATEWAY, port)).is_ok()
    });
    assert!(said.unwrap());
    drop(taken);
}

#[test]
fn adding_and_removing_a_network_touches_no_other_and_without_networks_the_server_ends() {
    let mut scene = Scene::new("");
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let other = Network {
        name: "net8".into(),
        gateways: vec!["10.78.0.1".parse().unwrap()],
        subnets: vec!["10.78.0.0/24".parse().unwrap()],
        ..network()
    };
    let stop = Arc::new(AtomicUsize::new(0));
    let host = Arc::clone(&scene.host);
    let (stopped, asking) = (Arc::clone(&stop), move || {
        host.run(|| ask(GATEWAY, &query(1, "web"), Duration::from_secs(1)).is_some()).unwrap()
    });
    let asker = std::thread::spawn(move || {
        while stopped.load(Ordering::SeqCst) == 0 {
            assert!(asking());
        }
    });
    for _ in 0..30 {
        scene.set(&other, None);
        client::remove_network(&scene.control(), "net8").unwrap();
    }
    stop.store(1, Ordering::SeqCst);
    asker.join().unwrap();
    client::remove_network(&scene.control(), "net").unwrap();
    scene.server.take().unwrap().join().unwrap().unwrap();
    assert!(matches!(client::ping(&scene.control()), Err(client::Error::NotThere { .. })));
    // A socket that a dead server left behind does not disturb.
    drop(std::os::unix::net::UnixListener::bind(scene.control()).unwrap());
    scene.start(true, vec![]);
}

#[test]
fn a_killed_worker_is_replaced_within_a_second_with_the_same_table() {
    let table = vec![(network(), vec![endpoint("web", "10.77.0.9")])];
    let scene = Scene::with("", true, table);
    for _ in 0..2 {
        let pid = scene.status().pid;
        assert_ne!(pid, std::process::id());
        assert!(scene.ask("web").unwrap().ends_with(&[10, 77, 0, 9]));
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let killed = Instant::now();
        assert!(scene.ask("web").unwrap().ends_with(&[10, 77, 0, 9]));
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    }
}

#[test]
fn a_worker_has_no_capabilities_and_only_one_server_runs() {
    let scene = Scene::new("");
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.status().pid)).unwrap();
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    // The test harness has threads; the first one, whose status this is, may keep what the worker's has dropped.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", scene.status().pid)).unwrap();
    let bare = tasks.filter(|task| {
        let path = task.as_ref().unwrap().path().join("status");
        let status = std::fs::read_to_string(path).unwrap();
        ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
            .iter()
            .all(|s| status.contains(s))
    });
    assert!(bare.count() >= 1, "{}", value("CapEff:"));
    assert!(matches!(Control::open(&scene.control()), Err(dns::Error::Running { .. })));
}
