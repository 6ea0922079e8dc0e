//! How long the firewall's operations take, in a separate network namespace.
//!
//! `cargo bench -p nft`; medians, printed one a line.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use netlink::Netns;
use nft::{Element, Firewall, Flow, Owner, Protocol};

fn main() {
    Netns::create().unwrap().run(measure).unwrap();
}

fn measure() {
    let mut firewall = Firewall::open().unwrap();
    line("open", median(200, || drop(Firewall::open().unwrap())));
    line("rebuild without elements", median(50, || drop(firewall.rebuild(&[], &[]).unwrap())));
    line("generation", median(500, || _ = firewall.generation().unwrap()));
    line("state", median(200, || drop(firewall.state().unwrap())));
    for there in [0, 10_000, 60_000] {
        let many = ports(there);
        line(
            &format!("rebuild with {there} elements"),
            median(5, || drop(firewall.rebuild(&many, &[]).unwrap())),
        );
        containers(&mut firewall, there);
    }
    firewall.rebuild(&[], &[]).unwrap();
    let ports = ports(2400);
    let (mut adds, mut removes) = (vec![], vec![]);
    for _ in 0..15 {
        adds.push(once(|| firewall.add(&ports).unwrap()));
        removes.push(once(|| {
            firewall.remove(&ports).unwrap();
        }));
    }
    line("add 800 ports, 2400 elements", middle(adds));
    line("remove 800 ports, 2400 elements", middle(removes));
    let flows = [Flow::To { host: None, port: 53, v6: false }, Flow::Of("172.18.0.2".parse().unwrap())];
    line("forget with nothing to forget", median(50, || _ = firewall.forget(&flows, |_| true).unwrap()));
}

fn containers(firewall: &mut Firewall, there: usize) {
    let shared = [home(), Element::Isolated { bridge: "rnet0".into() }].map(|element| (element, owner(1)));
    firewall.add(&shared).unwrap();
    let (mut adds, mut looks, mut removes) = (vec![], vec![], vec![]);
    for n in 0..300 {
        let elements = container(n);
        let asked: Vec<Element> = elements.iter().map(|(element, _)| element.clone()).collect();
        adds.push(once(|| firewall.add(&elements).unwrap()));
        looks.push(once(|| drop(firewall.owners(&asked).unwrap())));
        removes.push(once(|| {
            firewall.remove(&elements[..6]).unwrap();
        }));
    }
    line(&format!("add 8 elements beside {there}"), middle(adds));
    line(&format!("owners of 8 beside {there}"), middle(looks));
    line(&format!("remove 6 elements beside {there}"), middle(removes));
}

fn line(what: &str, time: Duration) {
    println!("{what:<40} {:>10.1} µs", time.as_secs_f64() * 1e6);
}

fn once(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn median(times: usize, mut work: impl FnMut()) -> Duration {
    middle((0..times).map(|_| once(&mut work)).collect())
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn owner(n: u64) -> Owner {
    Owner::new(&format!("{n:016x}")).unwrap()
}

fn home() -> Element {
    Element::Home { subnet: "172.18.0.0/16".parse().unwrap(), bridge: "rnet0".into() }
}

/// What an ADD with one published port adds; the last two are its network's.
fn container(n: u16) -> Vec<(Element, Owner)> {
    let address = IpAddr::from([172, 18, (n >> 8) as u8 + 1, n as u8]);
    let (protocol, to, link) = (Protocol::Tcp, SocketAddr::new(address, 80), format!("veth{n:08x}"));
    let elements = [
        Element::Publish { host: None, protocol, host_port: 40_000 + n, to },
        Element::Published { to, protocol },
        Element::Masquerade { address },
        Element::Port { link: link.clone() },
        Element::PortAddress { link, mac: [2; 6], address },
        home(),
        Element::Isolated { bridge: "rnet0".into() },
    ];
    elements.map(|element| (element, owner(n.into()))).into()
}

/// Two elements for each port of one container.
fn ports(elements: usize) -> Vec<(Element, Owner)> {
    let address: IpAddr = "172.18.0.2".parse().unwrap();
    let one = |port: u16| {
        let (protocol, to) = (Protocol::Tcp, SocketAddr::new(address, port));
        let publish = Element::Publish { host: None, protocol, host_port: port, to };
        [publish, Element::Published { to, protocol }]
    };
    (1..=elements.div_ceil(2) as u16)
        .flat_map(one)
        .take(elements)
        .map(|element| (element, owner(7)))
        .collect()
}
