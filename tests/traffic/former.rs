//! Nobody inherits flows with an address, whether anybody has had the time to forget them or not.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use netns_fixtures::{Frames, ping};
use store::{LockName, Mode, Paths, Store};

use crate::common::{Guest, Host, LONG, SOON, bridge, rnet, wait_until, with};
use crate::packets::{A, HOST, OUTSIDE, echo, echoes, to};

/// Nobody's port of the next holder.
const PORT: u16 = 7000;

/// A UDP flow that a container began: its server outside, and where it answers to.
struct Begun {
    server: UdpSocket,
    client: SocketAddr,
}

fn begin(guest: &Guest, host: &Host, family: usize) -> Begun {
    let any = ["0.0.0.0", "::"][family];
    let server = host.neighbour().netns().run(|| UdpSocket::bind((OUTSIDE[family], 0)).unwrap()).unwrap();
    let socket = guest.container.run(|| UdpSocket::bind((any, PORT)).unwrap()).unwrap();
    [&server, &socket].into_iter().for_each(|socket| socket.set_read_timeout(Some(LONG)).unwrap());
    let to = server.local_addr().unwrap();
    let mut client = None;
    for _ in 0..2 {
        socket.send_to(b"hello", to).unwrap();
        client = Some(server.recv_from(&mut [0; 16]).unwrap().1);
        server.send_to(b"answer", client.unwrap()).unwrap();
        socket.recv(&mut [0; 16]).unwrap();
    }
    Begun { server, client: client.unwrap() }
}

/// A connection to a container's published port, which its client keeps.
struct Kept {
    client: TcpStream,
    port: u16,
}

fn connect(guest: &Guest, host: &Host, by: &str) -> Kept {
    let own = if by.contains(':') { guest.v6() } else { guest.v4() };
    let listener = guest.container.run(|| TcpListener::bind((own, 80)).unwrap()).unwrap();
    let client = host.neighbour().netns().run(|| TcpStream::connect(to(by, 8080)).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    (&client).read_exact(&mut [0; 5]).unwrap();
    // It lives on in a container that is gone.
    std::mem::forget((server, listener));
    let port = client.local_addr().unwrap().port();
    Kept { client, port }
}

/// What waits for the end of flows, waits as long as this is held.
pub fn nobody_forgets(host: &Host) -> (Store, store::Lock) {
    let cookie = host.run(|| netlink::cookie().unwrap()).unwrap();
    let store = Store::open(Paths::under(host.root(), cookie)).unwrap();
    let lock = store.lock(LockName::Flows, Mode::Exclusive, "a test").unwrap();
    (store, lock)
}

fn ports(frame: &[u8]) -> Option<(u16, u16)> {
    let at = match frame.get(12..14)? {
        [0x08, 0] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => return None,
    };
    let number = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().unwrap()));
    Some((number(at)?, number(at + 2)?))
}

/// The next holder of `old`'s addresses hears nothing of its flows, and its own go on.
fn nothing_is_inherited(host: &Host, network: &serde_json::Value, ports_too: bool) {
    let published = [("", 8080, 80, "tcp")];
    let old = host.attach("old", network, if ports_too { &published } else { &[] });
    let begun = [0, 1].map(|family| begin(&old, host, family));
    let kept: Vec<Kept> = if ports_too { HOST.map(|by| connect(&old, host, by)).into() } else { vec![] };
    old.detach();
    let asking = with(
        network,
        serde_json::json!({"runtimeConfig": {"ips": [
        format!("{}/16", old.v4()), format!("{}/64", old.v6())]}}),
    );
    let next = host.attach("next", &asking, &[]);
    assert_eq!(next.both(), old.both());

    let hears = Frames::on(next.netns(), "eth0").unwrap();
    begin(&next, host, 0);
    for Begun { server, client } in &begun {
        server.send_to(b"still there?", client).unwrap();
    }
    for kept in &kept {
        let _ = (&kept.client).write_all(b"still there?");
    }
    let old_ports: Vec<u16> = begun
        .iter()
        .map(|begun| begun.server.local_addr().unwrap().port())
        .chain(kept.iter().map(|kept| kept.port))
        .collect();
    let heard = hears
        .wait_for(Duration::from_millis(400), |frame| {
            ports(frame).is_some_and(|(from, _)| old_ports.contains(&from))
        })
        .unwrap();
    assert!(heard.is_none(), "{heard:?}");

    goes_on(host, &next);
}

/// What the new holder begins, and what others begin with it.
fn goes_on(host: &Host, next: &Guest) {
    let outside: [IpAddr; 2] = OUTSIDE.map(|address| address.parse().unwrap());
    for (family, own) in next.both().into_iter().enumerate() {
        assert!(ping(next.netns(), outside[family], LONG).unwrap().is_some(), "{own} pings");
        assert!(ping(host.netns(), own, LONG).unwrap().is_some(), "{own} is pinged");
        let _server = echo(host.neighbour().netns(), OUTSIDE[family], 53);
        let _own = echo(next.netns(), &own.to_string(), 53);
        assert!(echoes(next.netns(), (outside[family], 53).into(), LONG), "{own} asks");
        assert!(echoes(host.netns(), (own, 53).into(), LONG), "{own} is asked");
    }
}

fn stale(host: &Host) -> usize {
    host.firewall(|firewall| firewall.stale().unwrap().len())
}

fn await_clear(host: &Host) {
    wait_until("the flows are forgotten", || stale(host) == 0);
}

#[test]
fn flows_of_a_former_holder_reach_nobody() {
    for network in [rnet("a", &A), bridge("a", &A)] {
        let host = Host::connected();
        let resident = host.attach("resident", &network, &[]);
        nothing_is_inherited(&host, &network, network["type"] == "rnet");
        await_clear(&host);
        goes_on(&host, &resident);
    }
}

/// On a host where conntrack knows many, the child that forgets them is not done when the next holder comes.
#[test]
fn not_even_before_anybody_has_forgotten_them() {
    for network in [rnet("a", &A), bridge("a", &A)] {
        for alone in [true, false] {
            let host = Host::connected();
            let resident = (!alone).then(|| host.attach("resident", &network, &[]));
            let (store, lock) = nobody_forgets(&host);
            nothing_is_inherited(&host, &network, network["type"] == "rnet");
            assert!(stale(&host) > 0, "alone on the host {alone}");
            if let Some(resident) = &resident {
                // A rebuild knows of it too.
                let flush = ["flush", "chain", "inet", "rnet", "resets"];
                assert!(host.command("nft").args(flush).status().unwrap().success());
                let _other = host.attach("other", &network, &[("", 9090, 80, "tcp")]);
                goes_on(&host, resident);
            }
            drop(lock);
            drop(store);
            await_clear(&host);
        }
    }
}

/// The child of the last DEL has read what was noted, and an ADD puts that into new tables meanwhile.
#[test]
fn what_comes_into_new_tables_meanwhile_is_cleared_too() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let old = host.attach("old", &network, &[]);
    begin(&old, &host, 0);
    let del = host.call("DEL", "rnet", &old.who).input(old.config().to_string());

    let outcome = del.set("RNET_FAILPOINT", "del.noted:delay=2000").run();

    assert_eq!(outcome.status, 0, "{outcome:?}");
    let elsewhere =
        with(&network, serde_json::json!({"runtimeConfig": {"ips": ["172.18.0.77/16", "fd18::77/64"]}}));
    let _next = host.attach("next", &elsewhere, &[]);
    assert!(stale(&host) > 0, "the ADD came before the child went on");
    await_clear(&host);
}

/// The same address changes hands again and again, and nobody has forgotten anything.
#[test]
fn each_holder_begins_with_nothing() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let (_store, lock) = nobody_forgets(&host);
    let mut before: Vec<Begun> = Vec::new();
    for round in 0..4 {
        let guest = host.attach(&format!("c{round}"), &network, &[]);
        let hears = Frames::on(guest.netns(), "eth0").unwrap();
        let own = begin(&guest, &host, 0);
        for Begun { server, client } in &before {
            server.send_to(b"still there?", client).unwrap();
        }
        let old: Vec<u16> = before.iter().map(|begun| begun.server.local_addr().unwrap().port()).collect();
        let heard = hears.wait_for(SOON, |frame| ports(frame).is_some_and(|(from, _)| old.contains(&from)));
        assert!(heard.unwrap().is_none(), "round {round}");
        before.push(own);
        guest.detach();
    }
    drop(lock);
}
