//! The guard on a host with a bridge: each of its ways closes the loopback to a container.

use std::io::ErrorKind;
use std::net::UdpSocket;

use super::*;
use crate::socket::Socket;
use crate::{Mac, Netlink, Netns, Request, Route, Veth};

/// A host with a bridge on which 127.0.0.1 may be addressed, and a container that does so.
struct Scene {
    host: Netlink,
    bridge: u32,
    container: Netns,
    eth0: u32,
    /// What the guard protects, and what must still work.
    loopback: UdpSocket,
    gateway: UdpSocket,
}

impl Scene {
    fn new() -> Self {
        let mut host = Netlink::here().unwrap();
        let container = Netns::create().unwrap();
        let bridge = host_side(&mut host);
        let eth0 = container_side(&mut host, bridge, &container);
        assert!(host.set_sysctl("ipv4/conf/br0/route_localnet", "1").unwrap());
        let [loopback, gateway] = ["127.0.0.1:7000", "10.7.0.1:7000"].map(|at| UdpSocket::bind(at).unwrap());
        loopback.set_nonblocking(true).unwrap();
        let scene = Self { host, bridge, container, eth0, loopback, gateway };
        // A frame that comes before the port forwards is lost; this waits for the neighbour, and so for the port.
        scene.reaches(&[]);
        scene
    }

    fn guard(&mut self) {
        let (index, name) = (self.bridge, "br0".into());
        self.host.send(&[Request::LoopbackGuard { index, name, mark: MARK }]).unwrap();
    }

    fn unguard(&mut self) {
        self.host.remove_loopback_guard(self.bridge, "br0").unwrap();
    }

    /// Whether the container reaches the host's loopback, which must be the same behind any tags.
    fn is_open(&self) -> bool {
        let open = self.reaches(&[]);
        for tags in TAGS {
            assert_eq!(self.reaches(tags), open, "behind {tags:x?}");
        }
        open
    }

    /// The same behind certain tags; a later packet shows that it has been handled.
    fn reaches(&self, tags: &[u16]) -> bool {
        let send = || {
            let socket = UdpSocket::bind("10.7.0.2:0").unwrap();
            send_frame(self.eth0, &attack(tags));
            socket.send_to(b"honest", "10.7.0.1:7000").unwrap();
        };
        self.container.run(send).unwrap();
        self.gateway.recv(&mut [0; 16]).unwrap();
        match self.loopback.recv(&mut [0; 16]) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Removes the hook; false if there was none.
    fn unhook(&self) -> bool {
        let message = Message { forgiven: &[], ..unhook(self.bridge) };
        exchange(vec![message])[0].is_none()
    }

    /// `None` is the first way.
    fn try_way(&self, way: Option<Way>) -> Result<(), Errno> {
        let mut messages = install(self.bridge, MARK);
        if let Some(way) = way {
            messages.truncate(1);
            messages.extend(filters(self.bridge, way));
        }
        let forgiven: Vec<_> = messages.iter().map(|message| message.forgiven).collect();
        let mut refusals = exchange(messages).into_iter().zip(forgiven);
        let refusal = refusals.find_map(|(no, forgiven)| no.filter(|no| !forgiven.contains(no)));
        refusal.map_or(Ok(()), Err)
    }
}

/// The kernel's answer to each of these, through a socket of this thread's namespace.
fn exchange(messages: Vec<Message>) -> Vec<Option<Errno>> {
    let refusals = Socket::open().unwrap().exchange(messages, |_| ()).unwrap();
    refusals.into_iter().map(|refusal| refusal.map(|refusal| refusal.errno)).collect()
}

const MARK: u32 = 7;

fn address(index: u32, text: &str) -> Request {
    Request::AddressAdd { index, name: String::new(), address: text.parse().unwrap() }
}

fn up(index: u32) -> Request {
    Request::LinkUp { index, name: String::new() }
}

fn host_side(host: &mut Netlink) -> u32 {
    let mac = Mac([2, 0x42, 10, 7, 0, 1]);
    host.send(&[Request::Bridge { name: "br0".into(), mac, mtu: None, snooping: true }]).unwrap();
    let bridge = host.link("br0").unwrap().unwrap().index;
    host.send(&[up(LOOPBACK_INDEX), up(bridge), address(bridge, "10.7.0.1/24")]).unwrap();
    bridge
}

fn container_side(host: &mut Netlink, bridge: u32, container: &Netns) -> u32 {
    let veth = Veth {
        name: "veth1",
        mac: None,
        mtu: None,
        master: Some(bridge),
        peer: "eth0",
        peer_mac: None,
        peer_netns: container,
        up: true,
    };
    let eth0 = host.create_veth(&veth).unwrap().container;
    let default = Route::via("0.0.0.0/0".parse().unwrap(), "10.7.0.1".parse().unwrap(), eth0);
    let requests = [up(eth0), address(eth0, "10.7.0.2/24"), Request::RouteAdd(default)];
    Netlink::inside(container).unwrap().send(&requests).unwrap();
    eth0
}

/// Tags of VLAN 0 by their types, the outermost first.
const TAGS: [&[u16]; 6] = [
    &[0x8100],
    &[0x88a8],
    &[0x8100, 0x8100],
    &[0x88a8, 0x8100],
    &[0x8100, 0x8100, 0x8100],
    &[0x8100, 0x88a8, 0x8100, 0x8100, 0x8100],
];

/// A datagram from the container for 127.0.0.1:7000, as a frame to the bridge.
fn attack(tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|kind| [&kind.to_be_bytes()[..], &[0, 0]].concat());
    let mut frame = [2, 0x42, 10, 7, 0, 1, 2, 0x42, 10, 7, 0, 2].to_vec();
    frame.extend(tags.chain([8, 0]));
    // IPv4 (RFC 791) with its checksum, UDP (RFC 768) without.
    frame.extend([0x45, 0, 0, 34, 0, 0, 0, 0, 64, 17, 0xf1, 0xc1, 10, 7, 0, 2, 127, 0, 0, 1]);
    frame.extend([0x1b, 0x58, 0x1b, 0x58, 0, 14, 0, 0]);
    frame.extend(b"attack");
    frame
}

/// Sends a whole frame through a link of this namespace (packet(7)).
fn send_frame(link: u32, frame: &[u8]) {
    // SAFETY: all zeroes are a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = link as i32;
    // SAFETY: the frame and the address are there, with their lengths, until the call returns.
    let sent = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        let sent = libc::sendto(
            socket,
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        );
        libc::close(socket);
        sent
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

fn on_a_host(test: impl FnOnce() + Send) {
    Netns::create().unwrap().run(test).unwrap();
}

#[test]
fn the_guard_closes_the_loopback_to_containers_and_opens_it_again() {
    on_a_host(|| {
        let mut scene = Scene::new();
        assert!(scene.is_open(), "without a guard the attack succeeds, otherwise this test proves nothing");
        for _ in 0..2 {
            scene.guard();
            assert!(!scene.is_open());
        }
        for _ in 0..2 {
            scene.unguard();
            assert!(scene.is_open());
        }
        assert!(!scene.unhook());
    });
}

#[test]
fn a_hook_with_another_program_s_filter_stays() {
    on_a_host(|| {
        let mut scene = Scene::new();
        scene.guard();
        let [_, mut theirs] = install(scene.bridge, MARK).try_into().ok().unwrap();
        let Body::NewTrafficFilter(filter) = &mut theirs.body else { panic!() };
        filter.header.info += 1 << 16;
        assert_eq!(exchange(vec![theirs]), [None]);

        scene.unguard();

        assert!(!scene.is_open(), "the other filter drops what the guard did");
        assert!(scene.unhook());
        assert!(scene.is_open());
    });
}

#[test]
fn a_missing_guard_can_be_removed_even_from_a_missing_link() {
    on_a_host(|| {
        let mut scene = Scene::new();
        scene.unguard();
        scene.host.remove_loopback_guard(4711, "none").unwrap();
    });
}

#[test]
fn each_way_that_this_kernel_has_drops() {
    on_a_host(|| {
        let mut scene = Scene::new();
        let mut ways = 0;
        for way in [None].into_iter().chain(OTHER_WAYS.map(Some)) {
            for _ in 0..2 {
                match scene.try_way(way) {
                    Ok(()) => assert!(!scene.is_open(), "{way:?}"),
                    Err(errno) => assert_eq!(errno, Errno::NOENT, "{way:?}"),
                }
            }
            ways += usize::from(scene.try_way(way).is_ok());
            scene.unguard();
            assert!(scene.is_open());
        }
        assert!(ways > 0);
    });
}
