//! Links in real namespaces.
#![allow(clippy::unwrap_used, reason = "clippy does not see that the helpers are of tests")]

mod common;

use common::{attach, bridge, echoes_links, on_a_host, veth};
use netlink::{Error, Mac, Netlink, Netns, Request, Veth};
use rustix::io::Errno;

#[test]
fn a_pair_is_made_in_both_namespaces_at_once() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let master = bridge(&mut host, "br0");
        let mac = Mac([2, 0x42, 10, 1, 0, 2]);
        let wanted = Veth { mtu: Some(1400), peer_mac: Some(mac), ..veth("veth1", Some(master), &container) };
        let before = host.messages();

        let pair = host.create_veth(&wanted).unwrap();

        assert_eq!(host.messages() - before, if echoes_links() { 1 } else { 2 });
        let outer = host.link("veth1").unwrap().unwrap();
        assert_eq!((outer.index, outer.peer, outer.master), (pair.host, Some(pair.container), Some(master)));
        assert_eq!((outer.kind.as_deref(), outer.mtu, outer.up), (Some("veth"), 1400, true));
        assert!(outer.peer_netnsid.is_some());
        let inner = Netlink::inside(&container).unwrap().link("eth0").unwrap().unwrap();
        assert_eq!((inner.index, inner.peer), (pair.container, Some(pair.host)));
        assert_eq!((inner.mac, inner.mtu, inner.up), (Some(mac), 1400, false));
    });
}

#[test]
fn both_ends_have_one_queue() {
    on_a_host(|| {
        let container = Netns::create().unwrap();
        Netlink::here().unwrap().create_veth(&veth("veth1", None, &container)).unwrap();
        assert_eq!(queues(&Netns::current().unwrap(), "veth1"), 2);
        assert_eq!(queues(&container, "eth0"), 2);
    });
}

/// The number of queues in the /sys that a program in the namespace sees.
fn queues(netns: &Netns, link: &str) -> usize {
    use std::process::{Command, Stdio};
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ls /sys/class/net/{link}/queues | wc -l")]).stdout(Stdio::piped());
    let child = netlink::spawn_in(netns, command, &[], None).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    String::from_utf8(output).unwrap().trim().parse().unwrap()
}

#[test]
fn a_taken_name_is_reported_and_nothing_is_left_behind() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        host.create_veth(&veth("veth1", None, &container)).unwrap();

        let same_host_name = host.create_veth(&Veth { peer: "eth1", ..veth("veth1", None, &container) });
        let same_peer = host.create_veth(&veth("veth2", None, &container));

        let Err(Error::LinkExists { name, netns: None }) = same_host_name else {
            panic!("{same_host_name:?}")
        };
        assert_eq!(name, "veth1");
        let Err(Error::LinkExists { name, netns: Some(netns) }) = same_peer else { panic!("{same_peer:?}") };
        assert_eq!((name.as_str(), netns.as_path()), ("eth0", container.path()));
        assert_eq!(host.link("veth2").unwrap(), None);
        assert_eq!(Netlink::inside(&container).unwrap().link("eth1").unwrap(), None);
    });
}

#[test]
fn a_full_bridge_says_so_by_name() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let master = bridge(&mut host, "br0");
        for number in 1..=1023 {
            let (name, peer) = (format!("veth{number}"), format!("eth{number}"));
            host.create_veth(&Veth { peer: &peer, ..veth(&name, Some(master), &container) }).unwrap();
        }

        let refused = host.create_veth(&veth("veth1024", Some(master), &container));

        assert!(matches!(refused, Err(Error::BridgeFull { ports: 1023, .. })), "{refused:?}");
        assert!(
            refused.unwrap_err().to_string().starts_with("bridge br0 is full: the kernel allows 1023 ports")
        );
        assert_eq!(host.link("veth1024").unwrap(), None);
        assert_eq!(host.links().unwrap().len(), 1 + 1 + 1023);
    });
}

#[test]
fn a_bridge_has_the_mac_and_mtu_it_was_given_and_is_made_once() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let mac = Mac([2, 0x42, 1, 2, 3, 4]);
        let create = Request::Bridge { name: "br0".into(), mac, mtu: Some(1450), snooping: true };
        host.send(std::slice::from_ref(&create)).unwrap();
        let made = host.link("br0").unwrap().unwrap();
        assert_eq!((made.kind.as_deref(), made.mac, made.mtu), (Some("bridge"), Some(mac), 1450));
        assert_eq!((made.up, made.peer, made.hairpin), (false, None, None));
        let again = host.send(&[create]).unwrap_err();
        assert_eq!(again.errno(), Some(Errno::EXIST));
        assert!(again.to_string().contains("ip link add br0 address 02:42:01:02:03:04"), "{again}");
    });
}

#[test]
fn every_property_of_a_link_can_be_changed_and_read() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let master = bridge(&mut host, "br0");
        let index = attach(&mut host, "veth1", master, &container).host;
        let name = || "veth1".to_string();
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let before = host.messages();
        host.send(&[
            Request::LinkAlias { index, name: name(), alias: "rnet:00aa".into() },
            Request::LinkMac { index, name: name(), mac },
            Request::LinkMtu { index, name: name(), mtu: 1300 },
            Request::LinkPromisc { index, name: name(), on: true },
            Request::Port {
                index,
                name: name(),
                hairpin: Some(true),
                isolated: Some(true),
                learning: Some(false),
                group_forward: Some(0xfffd),
            },
            Request::LinkDown { index, name: name() },
        ])
        .unwrap();
        assert_eq!(host.messages() - before, 6);
        let link = host.link_by_index(index).unwrap().unwrap();
        assert_eq!((link.alias.as_deref(), link.mac, link.mtu), (Some("rnet:00aa"), Some(mac), 1300));
        assert_eq!((link.promisc, link.up), (true, false));
        assert_eq!((link.hairpin, link.isolated, link.learning), (Some(true), Some(true), Some(false)));

        host.send(&[
            Request::Port {
                index,
                name: name(),
                hairpin: Some(false),
                isolated: None,
                learning: None,
                group_forward: None,
            },
            Request::LinkMaster { index, name: name(), master: None },
            Request::LinkPromisc { index, name: name(), on: false },
        ])
        .unwrap();
        let link = host.link_by_index(index).unwrap().unwrap();
        assert_eq!((link.master, link.hairpin, link.isolated, link.promisc), (None, None, None, false));
        host.send(&[Request::LinkMaster { index, name: name(), master: Some(master) }]).unwrap();
        assert_eq!(host.link("veth1").unwrap().unwrap().master, Some(master));
    });
}

#[test]
fn a_bridge_port_is_not_promiscuous_by_its_bridge() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let master = bridge(&mut host, "br0");
        attach(&mut host, "veth1", master, &container);
        assert!(!host.link("veth1").unwrap().unwrap().promisc);
    });
}

#[test]
fn the_kernels_own_words_are_part_of_the_error() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let index = host.create_veth(&veth("veth1", None, &container)).unwrap().host;
        let absurd = Request::LinkMtu { index, name: "veth1".into(), mtu: 7 };
        let refused = host.send(&[absurd]).unwrap_err().to_string();
        assert!(
            refused.starts_with("the kernel refused `ip link set veth1 mtu 7`: invalid argument ("),
            "{refused}"
        );
    });
}

#[test]
fn the_first_refusal_is_reported_and_the_rest_is_done() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let up = |index, name: &str| Request::LinkUp { index, name: name.into() };
        let refused = host.send(&[up(77, "first"), up(78, "second"), up(1, "lo")]).unwrap_err();
        assert!(refused.to_string().contains("`ip link set first up`: no such device"), "{refused}");
        assert!(host.link("lo").unwrap().unwrap().up);
    });
}

#[test]
fn more_requests_than_one_send_takes_are_all_answered() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let many: Vec<_> =
            (0..1000).map(|n| Request::LinkMtu { index: 1, name: "lo".into(), mtu: 9000 + n }).collect();
        host.send(&many).unwrap();
        assert_eq!(host.link("lo").unwrap().unwrap().mtu, 9999);
        host.send(&[]).unwrap();
    });
}

#[test]
fn an_unknown_link_is_none() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        assert_eq!(host.link("nothing").unwrap(), None);
        assert_eq!(host.link_by_index(4711).unwrap(), None);
        assert_eq!(host.links().unwrap().len(), 1);
    });
}

#[test]
fn a_handle_serves_its_namespace_from_any_thread() {
    on_a_host(|| {
        let container = Netns::create().unwrap();
        let mut host = Netlink::here().unwrap();
        host.create_veth(&veth("veth1", None, &container)).unwrap();
        let mut inside = Netlink::inside(&container).unwrap();
        assert!(inside.link("eth0").unwrap().is_some());
        let elsewhere = std::thread::spawn(move || inside.link("eth0").unwrap().is_some());
        assert!(elsewhere.join().unwrap());
    });
}

#[test]
fn a_list_is_complete_although_links_are_made_and_removed_meanwhile() {
    on_a_host(|| {
        let here = Netns::current().unwrap();
        let container = Netns::create().unwrap();
        let mut host = Netlink::here().unwrap();
        for number in 0..100 {
            let (name, peer) = (format!("veth{number}"), format!("eth{number}"));
            host.create_veth(&Veth { peer: &peer, ..veth(&name, None, &container) }).unwrap();
        }
        let changes = || {
            let mut other = Netlink::inside(&here).unwrap();
            for number in 0..200 {
                let (name, peer) = (format!("more{number}"), format!("less{number}"));
                other.create_veth(&Veth { peer: &peer, ..veth(&name, None, &container) }).unwrap();
            }
        };
        std::thread::scope(|scope| {
            let changing = scope.spawn(changes);
            while !changing.is_finished() {
                let links = host.links().unwrap();
                assert_eq!(links.iter().filter(|link| link.name.starts_with("veth")).count(), 100);
            }
        });
    });
}
