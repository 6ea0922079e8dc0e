//! The loopback guard outside nftables: a tc ingress filter that drops packets for 127.0.0.0/8.
//!
//! Kernels differ in what they were built with, so there are three ways, best first: a classic BPF
//! program that says "drop" itself (cls_bpf), u32 with the drop action (act_gact), and u32 with a
//! redirection into `lo` (act_mirred), where such a packet ends: it is addressed to another
//! station, and `lo` has no route_localnet. What the kernel lacks it answers with ENOENT.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Body;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionOption, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle,
    TcHeader, TcMessage, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;

use crate::socket::Message;

/// Ours alone on a link that is ours.
const PRIORITY: u16 = 127;
/// Not clsact, which hooks both directions: the kernel keeps one list of all hooks and goes through it for each.
const INGRESS: &str = "ingress";
const BPF: &str = "bpf";

const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// TCA_GACT_PARMS and TCA_MIRRED_PARMS share the number and the head of the structure.
const TCA_PARMS: u16 = 2;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
/// `lo` has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

const LOOPBACK_NET: u32 = 0x7f00_0000;
const LOOPBACK_MASK: u32 = 0xff00_0000;
/// Offset of the destination address in the IPv4 header (RFC 791, 3.1).
const DESTINATION: i32 = 16;

/// A way of dropping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Bpf,
    U32Drop,
    U32Redirect,
}

/// The ways to try when the kernel lacks the first.
pub(crate) const OTHER_WAYS: [Way; 2] = [Way::U32Drop, Way::U32Redirect];

/// The hook and the best filter; both may be there already.
pub(crate) fn install(index: u32) -> Vec<Message> {
    let hook = Message {
        body: Body::NewQueueDiscipline(hook(index)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        forgiven: &[Errno::EXIST],
    };
    vec![hook, filter(index, Way::Bpf)]
}

/// The filter alone; the hook is there.
pub(crate) fn filter(index: u32, way: Way) -> Message {
    let (kind, options) = match way {
        Way::Bpf => (BPF, bpf()),
        Way::U32Drop => (TcFilterU32::KIND, u32_with("gact", gact())),
        Way::U32Redirect => (TcFilterU32::KIND, u32_with("mirred", mirred())),
    };
    let mut message = at(index, TcHandle { major: 0, minor: 1 });
    message.attributes = vec![TcAttribute::Kind(kind.into()), TcAttribute::Options(options)];
    // The bpf filter is replaced; u32 answers that node 1 of its table is taken.
    let forgiven: &[Errno] = if way == Way::Bpf { &[] } else { &[Errno::NOSPC, Errno::EXIST] };
    Message { body: Body::NewTrafficFilter(message), flags: NLM_F_CREATE, forgiven }
}

/// Removes whatever filter has our priority; EINVAL: the link has no hook at all.
pub(crate) fn remove(index: u32) -> Message {
    Message {
        body: Body::DelTrafficFilter(at(index, TcHandle::UNSPEC)),
        flags: 0,
        forgiven: &[Errno::NOENT, Errno::INVAL],
    }
}

fn hook(index: u32) -> TcMessage {
    let header = TcHeader {
        index: index as i32,
        handle: TcHandle { major: u16::MAX, minor: 0 },
        // TC_H_INGRESS has the same number.
        parent: TcHandle::CLSACT,
        ..Default::default()
    };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(INGRESS.into())])
}

fn at(index: u32, handle: TcHandle) -> TcMessage {
    let header = TcHeader {
        index: index as i32,
        handle,
        parent: TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS },
        // Priority above, the Ethernet protocol in network byte order below.
        info: u32::from(PRIORITY) << 16 | u32::from((libc::ETH_P_IP as u16).to_be()),
        ..Default::default()
    };
    TcMessage::from_parts(header, Vec::new())
}

fn bpf() -> Vec<TcOption> {
    let program = program();
    let option = |kind, value| TcOption::Other(DefaultNla::new(kind, value));
    vec![
        option(TCA_BPF_OPS_LEN, ((program.len() / 8) as u16).to_ne_bytes().to_vec()),
        option(TCA_BPF_OPS, program),
        option(TCA_BPF_NAME, b"rnet-loopback-guard\0".to_vec()),
        option(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
    ]
}

/// Five instructions of classic BPF: code, jump if true, jump if false, operand.
fn program() -> Vec<u8> {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    /// Offsets from here count from the network header, whatever lies before it.
    const SKF_NET_OFF: i32 = -0x10_0000;
    const TC_ACT_UNSPEC: u32 = u32::MAX;
    let instructions = [
        (BPF_LD | BPF_W | BPF_ABS, 0, 0, (SKF_NET_OFF + DESTINATION) as u32),
        (BPF_ALU | BPF_AND | BPF_K, 0, 0, LOOPBACK_MASK),
        (BPF_JMP | BPF_JEQ | BPF_K, 0, 1, LOOPBACK_NET),
        (BPF_RET | BPF_K, 0, 0, TC_ACT_SHOT),
        (BPF_RET | BPF_K, 0, 0, TC_ACT_UNSPEC),
    ];
    let mut bytes = Vec::with_capacity(8 * instructions.len());
    for (code, yes, no, operand) in instructions {
        bytes.extend((code as u16).to_ne_bytes());
        bytes.extend([yes, no]);
        bytes.extend(operand.to_ne_bytes());
    }
    bytes
}

fn u32_with(action: &str, parameters: Vec<u8>) -> Vec<TcOption> {
    let mut drop = TcAction::default();
    drop.attributes = vec![
        TcActionAttribute::Kind(action.into()),
        TcActionAttribute::Options(vec![TcActionOption::Other(DefaultNla::new(TCA_PARMS, parameters))]),
    ];
    vec![
        TcOption::U32(TcFilterU32Option::Selector(loopback_selector())),
        TcOption::U32(TcFilterU32Option::Action(vec![drop])),
    ]
}

fn loopback_selector() -> TcU32Selector {
    let mut key = TcU32Key::default();
    key.val = LOOPBACK_NET;
    key.mask = LOOPBACK_MASK;
    key.off = DESTINATION;
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![key];
    selector
}

/// `struct tc_gact`: index, capabilities, action, two counters.
fn gact() -> Vec<u8> {
    words(&[0, 0, TC_ACT_SHOT, 0, 0])
}

/// `struct tc_mirred`: the same, then what to do and with which link.
fn mirred() -> Vec<u8> {
    words(&[0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, LOOPBACK_INDEX])
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;

    use super::*;
    use crate::{Mac, Netlink, Netns, Request, Route, Veth};

    /// A host with a bridge on which 127.0.0.1 may be addressed, and a container that does so.
    struct Scene {
        host: Netlink,
        bridge: u32,
        container: Netns,
        /// What the guard protects, and what must go on working.
        loopback: UdpSocket,
        gateway: UdpSocket,
    }

    impl Scene {
        fn new() -> Self {
            let mut host = Netlink::here().unwrap();
            let container = Netns::create().unwrap();
            let bridge = host_side(&mut host);
            container_side(&mut host, bridge, &container);
            assert!(host.set_sysctl("ipv4/conf/br0/route_localnet", "1").unwrap());
            let [loopback, gateway] =
                ["127.0.0.1:7000", "10.7.0.1:7000"].map(|at| UdpSocket::bind(at).unwrap());
            loopback.set_nonblocking(true).unwrap();
            Self { host, bridge, container, loopback, gateway }
        }

        fn request(&self, installed: bool) -> Request {
            let (index, name) = (self.bridge, "br0".into());
            if installed {
                Request::LoopbackGuard { index, name }
            } else {
                Request::LoopbackGuardDel { index, name }
            }
        }

        /// Whether the container reaches the host's loopback; a packet behind it shows that it was on its way.
        fn is_open(&self) -> bool {
            let send = || {
                let socket = UdpSocket::bind("10.7.0.2:0").unwrap();
                socket.send_to(b"attack", "127.0.0.1:7000").unwrap();
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

        fn try_way(&mut self, way: Way) -> Result<(), Errno> {
            let index = self.bridge;
            let mut socket = crate::socket::Socket::open().unwrap();
            let [hook, _] = install(index).try_into().ok().unwrap();
            socket.exchange(vec![hook], |_| ()).unwrap();
            let filter = filter(index, way);
            let forgiven = filter.forgiven;
            let refusal = socket.exchange(vec![filter], |_| ()).unwrap().remove(0);
            refusal.filter(|no| !forgiven.contains(&no.errno)).map_or(Ok(()), |no| Err(no.errno))
        }
    }

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

    /// The container's own lo stays down, so that 127.0.0.1 is somewhere behind its gateway.
    fn container_side(host: &mut Netlink, bridge: u32, container: &Netns) {
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
    }

    fn on_a_host(test: impl FnOnce() + Send) {
        Netns::create().unwrap().run(test).unwrap();
    }

    #[test]
    fn the_guard_closes_the_loopback_to_containers_and_opens_it_again() {
        on_a_host(|| {
            let mut scene = Scene::new();
            assert!(scene.is_open(), "without a guard the attack succeeds, else this test shows nothing");
            for _ in 0..2 {
                scene.host.send(&[scene.request(true)]).unwrap();
                assert!(!scene.is_open());
            }
            for _ in 0..2 {
                scene.host.send(&[scene.request(false)]).unwrap();
                assert!(scene.is_open());
            }
        });
    }

    #[test]
    fn a_guard_that_never_was_can_be_removed() {
        on_a_host(|| {
            let mut scene = Scene::new();
            scene.host.send(&[scene.request(false)]).unwrap();
        });
    }

    #[test]
    fn each_way_that_this_kernel_has_drops() {
        on_a_host(|| {
            let mut scene = Scene::new();
            let mut ways = 0;
            for way in [Way::Bpf].into_iter().chain(OTHER_WAYS) {
                for _ in 0..2 {
                    match scene.try_way(way) {
                        Ok(()) => assert!(!scene.is_open(), "{way:?}"),
                        Err(errno) => assert_eq!(errno, Errno::NOENT, "{way:?}"),
                    }
                }
                ways += usize::from(scene.try_way(way).is_ok());
                scene.host.send(&[scene.request(false)]).unwrap();
                assert!(scene.is_open());
            }
            assert!(ways > 0);
        });
    }
}
