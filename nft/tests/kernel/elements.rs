//! Elements: added, found, taken over and removed by their owners.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;

use nft::{Element, Error, Firewall, LeftOut, Owner, Protocol, Ruleset};

use crate::{exceptions, masquerade, on_a_new_host, one_container, owner, publish, sorted, with_owners};

#[test]
fn every_kind_of_element_is_read_back_with_its_owner() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let mut elements = exceptions(9000);
        for to in ["172.18.0.2:80", "[fd00::2]:80"] {
            let to: SocketAddr = to.parse().unwrap();
            let host = if to.is_ipv4() { "10.0.0.1" } else { "2001:db8::1" }.parse().unwrap();
            let subnet = if to.is_ipv4() { "172.18.0.0/16" } else { "fd00::/64" }.parse().unwrap();
            let protocol = Protocol::Sctp;
            elements.extend([
                Element::Publish { host: Some(host), protocol, host_port: 9000, to },
                Element::Publish { host: None, protocol, host_port: 9001, to },
                Element::Published { to, protocol },
                Element::MasqueradeAll { to, protocol },
                Element::Masquerade { address: to.ip() },
                Element::Home { subnet, bridge: "rnet0".into() },
                Element::Subnet { subnet },
                Element::PortAddress { link: "veth0".into(), mac: [2; 6], address: to.ip() },
            ]);
        }
        elements
            .extend([Element::Isolated { bridge: "rnet0".into() }, Element::Port { link: "veth0".into() }]);
        let elements: Vec<_> = elements.into_iter().map(|element| (element, owner(0xfeed))).collect();

        firewall.add(&elements).unwrap();

        assert_eq!(sorted(firewall.elements().unwrap()), with_owners(&elements));
        let asked: Vec<Element> = elements.iter().map(|(element, _)| element.clone()).collect();
        assert_eq!(firewall.owners(&asked).unwrap(), vec![Some(owner(0xfeed)); asked.len()]);
        firewall.remove(&elements).unwrap();
        assert_eq!(firewall.elements().unwrap(), []);
    });
}

#[test]
fn a_published_port_is_refused_to_the_second_with_the_holder_named() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        firewall.add(&[(publish(80, "172.18.0.2:80"), owner(1))]).unwrap();

        for to in ["172.18.0.3:80", "172.18.0.2:80"] {
            let claim = [(masquerade("172.18.0.3"), owner(2)), (publish(80, to), owner(2))];
            let Err(Error::Taken { element, holder }) = firewall.add(&claim) else { panic!("not refused") };
            assert_eq!((element, holder), (publish(80, to), Some(owner(1))));
        }

        let left = firewall.elements().unwrap();
        assert_eq!(left, [(publish(80, "172.18.0.2:80"), Some(owner(1)))]);
    });
}

#[test]
fn other_elements_may_exist_and_change_owners_with_their_address() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let network = (Element::Isolated { bridge: "rnet0".into() }, owner(9));
        let stale = (masquerade("172.18.0.2"), owner(1));
        firewall.add(&[network.clone(), stale.clone()]).unwrap();
        firewall.add(std::slice::from_ref(&stale)).unwrap();

        let new = [(masquerade("172.18.0.2"), owner(2)), (network.0.clone(), owner(2))];
        firewall.add(&new).unwrap();
        firewall.remove(std::slice::from_ref(&stale)).unwrap();

        let there = [masquerade("172.18.0.2"), network.0];
        assert_eq!(firewall.owners(&there).unwrap(), [Some(owner(2)), Some(owner(9))]);
    });
}

#[test]
fn two_host_ports_may_lead_to_one_endpoint() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let before = firewall.messages();
        let mut elements = one_container(2, 80);
        elements.extend(one_container(2, 81));

        firewall.add(&elements).unwrap();

        assert_eq!(firewall.messages() - before, 1 + 8 + 1, "one batch was enough, one message for a set");
        firewall.remove(&elements).unwrap();
        assert_eq!(firewall.elements().unwrap(), []);
    });
}

#[test]
fn a_removal_keeps_what_has_another_owner() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let (mine, other) = (publish(80, "172.18.0.2:80"), publish(81, "172.18.0.3:80"));
        firewall.rebuild(&[(mine.clone(), owner(1)), (other.clone(), owner(2))], &[]).unwrap();

        let asked = [mine, other.clone(), publish(82, "172.18.0.2:82")].map(|element| (element, owner(1)));
        firewall.remove(&asked).unwrap();

        assert_eq!(firewall.elements().unwrap(), [(other, Some(owner(2)))]);
    });
}

#[test]
fn an_add_is_one_batch_of_one_message_for_each_element() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let before = firewall.messages();

        firewall.add(&one_container(2, 80)).unwrap();

        assert_eq!(firewall.messages() - before, 1 + 8 + 1);
        assert_eq!(Ruleset::constant().rules(), RULES, "rules never grow with what is added");
    });
}

/// Frozen: every packet of every host passes these rules, so another one needs a reason. (Four are portmap's conditions.)
const RULES: usize = 74;

#[test]
fn many_elements_fit_into_one_add_and_one_rebuild() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let ports = ports(800);

        firewall.add(&ports).unwrap();
        assert_eq!(sorted(firewall.elements().unwrap()), with_owners(&ports));
        firewall.remove(&ports).unwrap();
        assert_eq!(firewall.elements().unwrap(), []);

        let many = ports_of(10_000);
        firewall.rebuild(&many, &[]).unwrap();
        assert_eq!(sorted(firewall.elements().unwrap()), with_owners(&many));
    });
}

/// Two elements for each of `n` ports of one container.
fn ports(n: u16) -> Vec<(Element, Owner)> {
    let address: IpAddr = "172.18.0.2".parse().unwrap();
    let one = |port: u16| {
        let (protocol, to) = (Protocol::Tcp, SocketAddr::new(address, port));
        [Element::Publish { host: None, protocol, host_port: port, to }, Element::Published { to, protocol }]
    };
    (1..=n).flat_map(one).map(|element| (element, owner(7))).collect()
}

fn ports_of(elements: usize) -> Vec<(Element, Owner)> {
    let mut all = ports((elements / 2 + 1) as u16);
    all.truncate(elements);
    all
}

#[test]
fn adds_and_removes_at_once_lose_nothing() {
    on_a_new_host(|| {
        Firewall::open().unwrap().rebuild(&[], &[]).unwrap();
        let one = |n: u32| {
            let mut firewall = Firewall::open().unwrap();
            for round in 0..20 {
                let elements = one_container(n, n as u16);
                firewall.add(&elements).unwrap();
                if round < 19 {
                    firewall.remove(&elements).unwrap();
                }
            }
        };

        thread::scope(|scope| (1..=8).for_each(|n| drop(scope.spawn(move || one(n)))));

        let left = Firewall::open().unwrap().elements().unwrap();
        let ports = left.iter().filter(|(element, _)| matches!(element, Element::Port { .. })).count();
        assert_eq!((ports, left.len()), (8, 8 * 5 + 3));
    });
}

#[test]
fn only_names_and_families_that_make_sense_reach_the_kernel() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        for name in ["", "br*", "a b", "a\"b", "sixteen-letters-", "ü", "$x", "x;y"] {
            let element = Element::Isolated { bridge: name.into() };
            assert!(matches!(firewall.add(&[(element, owner(1))]), Err(Error::Interface { .. })), "{name}");
        }
        let mixed = Element::Publish {
            host: Some("::".parse().unwrap()),
            protocol: Protocol::Tcp,
            host_port: 80,
            to: "172.18.0.2:80".parse().unwrap(),
        };
        assert!(matches!(firewall.add(&[(mixed, owner(1))]), Err(Error::Families { .. })));
    });
}

#[test]
fn a_port_given_twice_is_an_error_and_goes_to_the_first_in_a_rebuild() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let twice = [(publish(80, "172.18.0.2:80"), owner(1)), (publish(80, "172.18.0.3:80"), owner(2))];

        let rebuilt = firewall.rebuild(&twice, &[]).unwrap();
        assert_eq!(firewall.elements().unwrap(), [(twice[0].0.clone(), Some(owner(1)))]);
        let [LeftOut { owner: second, why: Error::Taken { holder, .. }, .. }] = &rebuilt.left_out[..] else {
            panic!("{rebuilt:?}")
        };
        assert_eq!((*second, *holder), (owner(2), Some(owner(1))));
        firewall.rebuild(&[], &[]).unwrap();
        assert!(matches!(firewall.add(&twice), Err(Error::Taken { holder: None, .. })));
        assert_eq!(firewall.elements().unwrap(), []);
    });
}

#[test]
fn the_socket_can_be_handed_to_another_process() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        // The kernel lists a socket after its first message.
        firewall.generation().unwrap();
        let inode = rustix::fs::fstat(&firewall).unwrap().st_ino.to_string();
        let is_open = || {
            let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
            sockets.lines().any(|line| line.split_whitespace().last() == Some(&inode))
        };
        let handed = firewall.as_fd().try_clone_to_owned().unwrap();
        let mut other = Command::new("sleep").arg("1000").stdin(Stdio::from(handed)).spawn().unwrap();

        drop(firewall);

        assert!(is_open(), "the other process keeps it open, and waits for the kernel instead of this one");
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!is_open());
    });
}
