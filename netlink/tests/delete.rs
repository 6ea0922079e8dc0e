//! Deleting links, awaited and not.

mod common;

use std::os::fd::AsFd;

use common::{attach, bridge, on_a_host, veth};
use netlink::{Netlink, Netns, Request, Veth, delete_link};
use rustix::io::Errno;

#[test]
fn a_deleted_port_is_gone_and_its_name_free_at_once() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let mut inside = Netlink::inside(&container).unwrap();
        let master = bridge(&mut host, "br0");
        for wait in [false, true, false] {
            let pair = attach(&mut host, "veth1", master, &container);
            assert!(delete_link(pair.host, &[], wait).unwrap());
            assert_eq!(host.link("veth1").unwrap(), None);
            assert_eq!(inside.link("eth0").unwrap(), None);
        }
        attach(&mut host, "veth1", master, &container);
    });
}

#[test]
fn the_bridge_itself_can_be_deleted() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let index = bridge(&mut host, "br0");
        assert!(delete_link(index, &[], false).unwrap());
        assert_eq!(host.link("br0").unwrap(), None);
    });
}

/// Its end is reported before the kernel's grace period, in which the RTNL lock is held.
#[test]
fn a_bridge_that_is_gone_leaves_its_name_its_address_and_its_route_free() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let address = "10.7.0.1/24".parse().unwrap();
        for _ in 0..5 {
            let index = bridge(&mut host, "br0");
            let up = Request::LinkUp { index, name: "br0".into() };
            host.send(&[Request::AddressAdd { index, name: "br0".into(), address }, up]).unwrap();

            assert!(delete_link(index, &[], false).unwrap());

            assert_eq!(host.sysctl("ipv4/conf/br0/forwarding").unwrap(), None);
            assert!(host.addresses(None).unwrap().iter().all(|found| found.index != index));
            assert!(host.routes().unwrap().iter().all(|route| route.index != index));
            assert_eq!(host.link("br0").unwrap(), None);
        }
    });
}

#[test]
fn a_link_that_is_not_there_is_false() {
    on_a_host(|| {
        assert!(!delete_link(4711, &[], false).unwrap());
        assert!(!delete_link(4711, &[], true).unwrap());
    });
}

#[test]
fn the_childs_error_reaches_the_caller() {
    on_a_host(|| {
        for wait in [false, true] {
            let refused = delete_link(1, &[], wait).unwrap_err().to_string();
            assert!(
                refused.starts_with("the kernel refused `ip link del dev if1`: operation not supported"),
                "{refused}"
            );
        }
    });
}

#[test]
fn leaving_the_bridge_does_not_count_as_the_end() {
    on_a_host(|| {
        // Both notifications have the index; the port's comes first, while the link is still listed.
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let master = bridge(&mut host, "br0");
        for _ in 0..20 {
            let pair = attach(&mut host, "veth1", master, &container);
            delete_link(pair.host, &[], false).unwrap();
            assert_eq!(host.link_by_index(pair.host).unwrap(), None);
        }
    });
}

#[test]
fn the_child_keeps_its_descriptors_longer_than_the_caller_waits() {
    on_a_host(|| {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let pair = host.create_veth(&veth("veth1", None, &container)).unwrap();
        let (read, kept) = rustix::pipe::pipe().unwrap();

        delete_link(pair.host, &[kept.as_fd()], false).unwrap();
        drop(kept);

        // The end of the pipe is the end of the child, which comes with the kernel's answer.
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0u8; 1][..]), Err(Errno::AGAIN), "the child has closed it");
        rustix::io::ioctl_fionbio(&read, false).unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0u8; 1][..]), Ok(0));
    });
}

#[test]
fn many_links_are_deleted_at_once() {
    on_a_host(|| {
        let here = Netns::current().unwrap();
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let master = bridge(&mut host, "br0");
        let pairs: Vec<_> = (0..40)
            .map(|number| {
                let (name, peer) = (format!("veth{number}"), format!("eth{number}"));
                host.create_veth(&Veth { peer: &peer, ..veth(&name, Some(master), &container) }).unwrap()
            })
            .collect();
        std::thread::scope(|scope| {
            for eight in pairs.chunks(5) {
                let here = &here;
                scope.spawn(move || {
                    here.run(|| {
                        eight.iter().for_each(|pair| assert!(delete_link(pair.host, &[], false).unwrap()))
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(host.links().unwrap().len(), 2);
    });
}
