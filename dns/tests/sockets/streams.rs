//! Questions over TCP: many, half ones, and without end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{
    GATEWAY, LONG, Scene, connect, endpoint, network, query, read_with_length, wait_for, with_length,
};
use crate::{connect_between, rcode_over_tcp};

#[test]
fn a_thousand_questions_on_one_connection() {
    let scene = Scene::new("");
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let done = scene.host.run(|| {
        let mut stream = connect();
        let mut reader = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            (0..1000).for_each(|id| stream.write_all(&with_length(&query(id, "web"))).unwrap());
            stream
        });
        let ids: Vec<_> = (0..1000).map(|_| read_with_length(&mut reader).unwrap()).collect();
        drop(writer.join().unwrap());
        ids.iter().enumerate().all(|(id, answer)| answer[..2] == (id as u16).to_be_bytes())
    });
    assert!(done.unwrap());
}

#[test]
fn two_hundred_idle_connections_of_one_client_delay_no_other_and_are_closed() {
    let scene = Scene::new("");
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let idle = scene.host.run(|| (0..200).map(|_| connect()).collect::<Vec<_>>()).unwrap();
    let took = median(|| {
        assert_eq!(scene.rcode("web"), 0);
        assert_eq!(scene.host.run(|| rcode_over_tcp(GATEWAY, GATEWAY.parse().unwrap(), "web")).unwrap(), 0);
    });
    assert!(took < Duration::from_millis(50), "{took:?}");
    assert!(scene.status().connections <= 8);
    let begun = Instant::now();
    wait_for(|| scene.status().connections == 0);
    assert!(begun.elapsed() > Duration::from_secs(3));
    drop(idle);
}

#[test]
fn half_a_message_ends_only_its_connection() {
    let scene = Scene::new("");
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let half = with_length(&query(1, "web"))[..9].to_vec();
    let left = scene.host.run(|| {
        let mut stream = connect();
        stream.write_all(&half).unwrap();
        let begun = Instant::now();
        assert_eq!(stream.read(&mut [0; 9]).unwrap_or_default(), 0);
        begun.elapsed()
    });
    assert!((1900..3000).contains(&left.unwrap().as_millis()));
    scene
        .host
        .run(|| {
            for _ in 0..50 {
                let mut stream = connect();
                stream.write_all(&half).unwrap();
                let stream = rustix::fd::OwnedFd::from(stream);
                // The kernel sends a reset instead of an orderly end.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            }
        })
        .unwrap();
    assert_eq!(scene.rcode("web"), 0);
    wait_for(|| scene.status().connections == 0);
}

/// Sends questions over TCP and reads the answers until `stop` is set, or for too long. One thread serves all clients, so
/// that they do not take the time. Returns how many bytes each got.
fn chatter(streams: &mut [TcpStream], stop: &AtomicUsize) -> Vec<usize> {
    let many = with_length(&query(1, "web")).repeat(100);
    let (mut sent, mut got) = (vec![0; streams.len()], vec![0; streams.len()]);
    let (mut chunk, end) = (vec![0; 1 << 16], Instant::now() + 2 * LONG);
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    while stop.load(Ordering::SeqCst) == 0 && Instant::now() < end {
        for (index, stream) in streams.iter_mut().enumerate() {
            sent[index] += stream.write(&many[sent[index] % many.len()..]).unwrap_or_default();
            got[index] += stream.read(&mut chunk).unwrap_or_default();
        }
    }
    got
}

fn connect_from(from: Ipv4Addr) -> TcpStream {
    connect_between(from.into(), GATEWAY.parse().unwrap())
}

/// How long a question and a change take beside so many clients that send questions over TCP.
fn times_beside(clients: u8, connections: u8) -> (Duration, Duration) {
    let scene = Scene::new("");
    scene.set(&network(), Some(&endpoint("web", "10.77.0.9")));
    let address = |client| Ipv4Addr::new(10, 77, 0, 100 + client);
    for client in 0..clients {
        let ip = format!("{}/32", address(client));
        assert!(scene.host.command("ip").args(["addr", "add", &ip, "dev", "lo"]).status().unwrap().success());
    }
    let from = (0..clients).flat_map(|client| (0..connections).map(move |_| address(client)));
    let mut streams: Vec<_> = scene.host.run(|| from.map(connect_from).collect()).unwrap();
    let stop = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let chatting = scope.spawn(|| chatter(&mut streams, &stop));
        let asked = median(|| assert_eq!(scene.rcode("web"), 0));
        let changed = median(|| scene.set(&network(), Some(&endpoint("db", "10.77.0.8"))));
        stop.store(1, Ordering::SeqCst);
        assert!(chatting.join().unwrap().iter().all(|got| *got > 0), "every client is answered");
        (asked, changed)
    })
}

/// The median time, because other programs use this machine too.
fn median(act: impl Fn()) -> Duration {
    let time = |_| {
        let begun = Instant::now();
        act();
        let took = begun.elapsed();
        std::thread::sleep(Duration::from_millis(10));
        took
    };
    let mut times: Vec<_> = (0..21).map(time).collect();
    times.sort();
    times[10]
}

/// M4, G1.
#[test]
fn endless_questions_over_tcp_delay_no_other_client() {
    for (clients, connections) in [(1, 8), (25, 8)] {
        let (asked, changed) = times_beside(clients, connections);
        let most = asked.max(changed);
        assert!(most < Duration::from_millis(50), "{clients} clients: {asked:?} {changed:?}");
    }
}
