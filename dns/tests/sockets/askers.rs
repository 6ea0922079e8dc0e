//! Who asks: the host, unregistered addresses, and what each client may ask.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use dns::{Endpoint, Network};

use crate::common::{GATEWAY, LONG, Scene, ask, behind_a_link, endpoint, network, query};
use crate::rcode_over_tcp;

/// V3, V5.
#[test]
fn the_host_may_ask_from_any_of_its_addresses_and_no_other_machine_may_forge_them() {
    let scene = Scene::with("", false, vec![]);
    let (network, machine) = behind_a_link(&scene, "net", "198.18.0.0/24");
    let (other, _elsewhere) = behind_a_link(&scene, "net8", "198.19.0.0/24");
    let on = |network: &Network, name, ip| Endpoint { network: network.name.clone(), ..endpoint(name, ip) };
    scene.set(&network, Some(&on(&network, "web", "198.18.0.9")));
    scene.set(&other, Some(&on(&other, "db", "198.19.0.9")));
    let gateway = machine.host_address();
    for from in ["192.0.2.1", "198.18.0.1", "198.19.0.1"] {
        for rcode in [rcode_from, rcode_over_tcp] {
            let said = scene.host.run(|| (rcode(from, gateway, "web"), rcode(from, gateway, "db"))).unwrap();
            assert_eq!(said, (0, 3), "{from} sees the network that it asks");
        }
    }
    for ip in ["192.0.2.1/32", "192.0.2.99/32", "198.19.0.9/32"] {
        assert!(machine.command("ip").args(["addr", "add", ip, "dev", "lo"]).status().unwrap().success());
    }
    let forged =
        ["192.0.2.1", "198.19.0.9"].map(|from| machine.run(|| rcode_from(from, gateway, "web")).unwrap());
    assert_eq!(forged, [99, 99]);
}

/// V4.
#[test]
fn an_unregistered_address_sees_its_network_until_it_is_registered() {
    let scene = Scene::with("", false, vec![]);
    let (network, machine) = behind_a_link(&scene, "net", "198.18.0.0/24");
    let (other, _elsewhere) = behind_a_link(&scene, "net8", "198.19.0.0/24");
    let on = |network: &Network, name, ip| Endpoint { network: network.name.clone(), ..endpoint(name, ip) };
    scene.set(&network, Some(&on(&network, "web", "198.18.0.9")));
    scene.set(&other, Some(&on(&other, "web", "198.19.0.9")));
    scene.set(&other, Some(&on(&other, "db", "198.19.0.8")));
    let gateway = machine.host_address();
    for rcode in [rcode_from, rcode_over_tcp] {
        let said = machine.run(|| (rcode("198.18.0.2", gateway, "web"), rcode("198.18.0.2", gateway, "db")));
        assert_eq!(said.unwrap(), (0, 3));
    }
    // Now it is `web`, which is on both.
    scene.set(&network, Some(&on(&network, "web", "198.18.0.2")));
    for rcode in [rcode_from, rcode_over_tcp] {
        assert_eq!(machine.run(|| rcode("198.18.0.2", gateway, "db")).unwrap(), 0);
    }
}

/// Sends so many questions at once from one socket, and counts the answers with each code.
fn burst(to: IpAddr, count: u16, question: impl Fn(u16) -> Vec<u8>) -> [usize; 16] {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    (0..count).for_each(|n| assert_ne!(socket.send_to(&question(n), (to, 53)).unwrap(), 0));
    let (mut codes, mut buffer) = ([0; 16], [0; 512]);
    while socket.recv(&mut buffer).is_ok() {
        codes[usize::from(buffer[3] & 0xf)] += 1;
    }
    codes
}

/// H2, F10.
#[test]
fn errors_and_forwards_are_counted_for_a_container_on_all_its_networks_together() {
    let scene = Scene::with("nameserver 192.0.2.1\n", false, vec![]);
    let _dead = scene.upstream("192.0.2.1", |_| vec![]);
    let (one, first) = behind_a_link(&scene, "net", "198.18.0.0/24");
    let (two, second) = behind_a_link(&scene, "net8", "198.19.0.0/24");
    let on = |network: &Network, ip| Endpoint { network: network.name.clone(), ..endpoint("web", ip) };
    scene.set(&one, Some(&on(&one, "198.18.0.2")));
    scene.set(&two, Some(&on(&two, "198.19.0.2")));
    let outside = |n| query(n, &format!("{n}.example.org"));
    let more = |n| query(n, &format!("{n}.example.net"));
    first.run(|| burst(first.host_address(), 1000, outside)).unwrap();
    let before = scene.status().in_flight;
    second.run(|| burst(second.host_address(), 700, more)).unwrap();
    assert_eq!(scene.status().in_flight, before, "through its other network it gets no further place");
    // A hundred at once, and as many in a second.
    let chaos = |n| {
        let mut question = query(n, "web");
        let class = question.len() - 1;
        question[class] = 3;
        question
    };
    let begun = Instant::now();
    let errors = first.run(|| burst(first.host_address(), 200, chaos)).unwrap()[5]
        + second.run(|| burst(second.host_address(), 200, chaos)).unwrap()[5];
    let most = 100 + (begun.elapsed().as_secs_f64() * 100.0) as usize;
    assert!((80..=most).contains(&errors), "{errors} of 400, at most {most}");
    assert!(scene.status().suppressed as usize >= 400 - errors);
    assert_eq!(second.run(|| rcode_from("198.19.0.2", second.host_address(), "web")).unwrap(), 0);
}

/// A9, with what glibc and musl ask: A and AAAA of the same name, one after the other.
#[test]
fn addresses_take_turns_even_if_every_second_question_is_for_another_type() {
    let scene = Scene::with("", false, vec![]);
    let set = |id: &str, ip| {
        let names = vec!["pair".into()];
        scene.set(&network(), Some(&Endpoint { names, ..endpoint(id, ip) }));
    };
    set("one", "10.77.0.8");
    set("two", "10.77.0.9");
    let mut aaaa = query(8, "pair");
    let end = aaaa.len() - 3;
    aaaa[end] = 28;
    let first = || {
        let answer = ask(GATEWAY, &query(7, "pair"), LONG).unwrap();
        ask(GATEWAY, &aaaa, LONG).unwrap();
        answer[answer.len() - 17]
    };
    let firsts = scene.host.run(|| (0..50).map(|_| first()).collect::<Vec<_>>()).unwrap();
    let eights = firsts.iter().filter(|last| **last == 8).count();
    assert!((10..=40).contains(&eights), "{firsts:?}");
}

/// The response code of `to` for a question from `from`, an address of this namespace; 99 for silence.
fn rcode_from(from: &str, to: IpAddr, name: &str) -> u8 {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send_to(&query(1, name), (to, 53)).unwrap();
    let mut buffer = [0; 512];
    socket.recv(&mut buffer).map_or(99, |_| buffer[3] & 0xf)
}
