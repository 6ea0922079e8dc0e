//! The loopback guard outside nftables: a tc ingress filter that drops packets for 127.0.0.0/8, also behind VLAN tags.
//!
//! The kernel takes the outermost tag off before a filter sees the packet, and whoever is at the other end of a link may
//! put several: the host's stack accepts a packet behind any number of tags of VLAN 0.
//!
//! Kernels differ in what they were built with, so there are three ways, best first: a classic BPF
//! program that says "drop" itself (cls_bpf), u32 with the drop action (act_gact), and u32 with a
//! redirection into `lo` (act_mirred), where such a packet ends: it is addressed to another
//! station, and `lo` has no route_localnet. What the kernel lacks it answers with ENOENT.
//!
//! With br_netfilter a bridge sees answers to the host's own loopback clients after they were translated back to 127.0.0.1.
//! They bear a mark, by which the program lets them pass. u32 drops them too: a kernel without CLS_U32_MARK ignores the part of a
//! filter that would ask for a mark.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Body;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionOption, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle,
    TcHeader, TcMessage, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;

use crate::socket::Message;

/// Ours alone on a link that is ours. (At 127 there may be an earlier version's filter, of IPv4 without tags alone; one
/// priority takes one protocol.)
const PRIORITY: u16 = 126;
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
const TCA_INGRESS_REDIR: u32 = 3;
/// `lo` has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

const LOOPBACK_NET: u32 = 0x7f00_0000;
const LOOPBACK_MASK: u32 = 0xff00_0000;
/// Offset of the destination address in the IPv4 header (RFC 791, 3.1).
const DESTINATION: i32 = 16;

/// Another way of dropping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    U32Drop,
    U32Redirect,
}

/// Ethernet's header (IEEE 802.3), and what a VLAN tag adds to it: two bytes about the VLAN, two for the type behind.
const ETHERNET: u32 = 14;
const TAG: u32 = 4;

/// The ways to try when the kernel lacks the first.
pub(crate) const OTHER_WAYS: [Way; 2] = [Way::U32Drop, Way::U32Redirect];

/// The hook and the best filter, which lets pass what bears the mark; both may be there already.
pub(crate) fn install(index: u32, mark: u32) -> Vec<Message> {
    let hook = Message {
        body: Body::NewQueueDiscipline(hook(index)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        forgiven: &[Errno::EXIST],
    };
    std::iter::once(hook).chain([filter(index, 1, BPF, bpf(mark), &[])]).collect()
}

/// The filters of the other ways alone; the hook is there.
pub(crate) fn filters(index: u32, way: Way) -> Vec<Message> {
    match way {
        Way::U32Drop => u32_filters(index, "gact", &gact()),
        Way::U32Redirect => u32_filters(index, "mirred", &mirred()),
    }
}

fn filter(index: u32, minor: u16, kind: &str, options: Vec<TcOption>, forgiven: &'static [Errno]) -> Message {
    let mut message = at(index, TcHandle { major: 0, minor });
    message.attributes = vec![TcAttribute::Kind(kind.into()), TcAttribute::Options(options)];
    Message { body: Body::NewTrafficFilter(message), flags: NLM_F_CREATE, forgiven }
}

/// What a link says that has no such thing, or no hook at all, or is gone.
const ABSENT: &[Errno] = &[Errno::NOENT, Errno::INVAL, Errno::NODEV];

/// Removes whatever filter has our priority.
pub(crate) fn remove(index: u32) -> Message {
    Message { body: Body::DelTrafficFilter(at(index, TcHandle::UNSPEC)), flags: 0, forgiven: ABSENT }
}

/// Asks for all filters at the hook.
pub(crate) fn list(index: u32) -> Body {
    Body::GetTrafficFilter(TcMessage::from_parts(
        TcHeader { info: 0, ..at(index, TcHandle::UNSPEC).header },
        Vec::new(),
    ))
}

/// True for a filter that rnet made, in the answer to [`list`] (`struct tcmsg`, `tcm_info`).
pub(crate) fn is_ours(filter: &[u8]) -> bool {
    const TCM_INFO: usize = 16;
    let info = filter.get(TCM_INFO..TCM_INFO + 4).and_then(|bytes| bytes.try_into().ok());
    info.is_some_and(|info| u32::from_ne_bytes(info) >> 16 == u32::from(PRIORITY))
}

/// Removes the hook, unless it is of another kind than ours (EINVAL).
pub(crate) fn unhook(index: u32) -> Message {
    Message { body: Body::DelQueueDiscipline(hook(index)), flags: 0, forgiven: ABSENT }
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
        info: u32::from(PRIORITY) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be()),
        ..Default::default()
    };
    TcMessage::from_parts(header, Vec::new())
}

fn bpf(mark: u32) -> Vec<TcOption> {
    let program = program(mark);
    let option = |kind, value| TcOption::Other(DefaultNla::new(kind, value));
    vec![
        option(TCA_BPF_OPS_LEN, ((program.len() / 8) as u16).to_ne_bytes().to_vec()),
        option(TCA_BPF_OPS, program),
        option(TCA_BPF_NAME, b"rnet-loopback-guard\0".to_vec()),
        option(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
    ]
}

/// Code, jump if true, jump if false, operand of classic BPF.
type Instruction = (u32, u8, u8, u32);

/// X walks along the headers. What is loaded relative to it is found wherever the packet's bytes lie, also outside the
/// buffer's linear part, which whoever sends may choose; relative to SKF_NET_OFF, which links without Ethernet need,
/// older kernels do not look there.
fn program(mark: u32) -> Vec<u8> {
    use libc::{
        BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD,
        BPF_LDX, BPF_MISC, BPF_RET, BPF_TAX, BPF_TXA, BPF_W, SKF_AD_HATYPE, SKF_AD_MARK, SKF_AD_OFF,
        SKF_AD_PROTOCOL, SKF_NET_OFF,
    };
    const TC_ACT_UNSPEC: u32 = u32::MAX;
    /// The instructions to which the others jump.
    const CHECK: u8 = 26;
    const PASS: u8 = 30;
    // What it does with the type that was loaded: it may be IPv4, or a tag, which the next instruction is for.
    let judge = |at: u8| {
        let equals = |kind: i32, yes, no| (BPF_JMP | BPF_JEQ | BPF_K, yes, no, kind as u32);
        [
            equals(libc::ETH_P_IP, CHECK - at - 1, 0),
            equals(libc::ETH_P_8021Q, 1, 0),
            equals(libc::ETH_P_8021AD, 0, PASS - at - 3),
        ]
    };
    let behind_the_tag = [
        (BPF_MISC | BPF_TXA, 0, 0, 0),
        (BPF_ALU | BPF_ADD | BPF_K, 0, 0, TAG),
        (BPF_MISC | BPF_TAX, 0, 0, 0),
        (BPF_LD | BPF_H | BPF_IND, 0, 0, -2_i32 as u32),
    ];
    let begin: [Instruction; 8] = [
        (BPF_LD | BPF_W | BPF_ABS, 0, 0, (SKF_AD_OFF + SKF_AD_MARK) as u32),
        (BPF_JMP | BPF_JEQ | BPF_K, PASS - 2, 0, mark),
        (BPF_LD | BPF_W | BPF_ABS, 0, 0, (SKF_AD_OFF + SKF_AD_HATYPE) as u32),
        (BPF_JMP | BPF_JEQ | BPF_K, 0, 2, u32::from(libc::ARPHRD_ETHER)),
        (BPF_LDX | BPF_W | BPF_IMM, 0, 0, ETHERNET),
        (BPF_JMP | BPF_JA, 0, 0, 1),
        (BPF_LDX | BPF_W | BPF_IMM, 0, 0, SKF_NET_OFF as u32),
        (BPF_LD | BPF_W | BPF_ABS, 0, 0, (SKF_AD_OFF + SKF_AD_PROTOCOL) as u32),
    ];
    let end: [Instruction; 6] = [
        // With the one that the kernel took off, more tags than anybody has a use for.
        (BPF_RET | BPF_K, 0, 0, TC_ACT_SHOT),
        (BPF_LD | BPF_W | BPF_IND, 0, 0, DESTINATION as u32),
        (BPF_ALU | BPF_AND | BPF_K, 0, 0, LOOPBACK_MASK),
        (BPF_JMP | BPF_JEQ | BPF_K, 0, 1, LOOPBACK_NET),
        (BPF_RET | BPF_K, 0, 0, TC_ACT_SHOT),
        (BPF_RET | BPF_K, 0, 0, TC_ACT_UNSPEC),
    ];
    let walk = [&judge(8)[..], &behind_the_tag, &judge(15), &behind_the_tag, &judge(22)];
    let instructions = begin.iter().chain(walk.into_iter().flatten()).chain(&end);
    instructions.flat_map(encoded).collect()
}

/// `struct sock_filter`
fn encoded(&(code, yes, no, operand): &Instruction) -> Vec<u8> {
    [&(code as u16).to_ne_bytes()[..], &[yes, no], &operand.to_ne_bytes()].concat()
}

/// What is compared with the packet from the network header on: offset, value, mask.
type Key = (i32, u32, u32);

/// IPv4 to 127.0.0.0/8 behind no tag but the one that was taken off; behind one more of VLAN 0, which no IPv4 header looks
/// like; and anything behind two more.
const PATTERNS: [&[Key]; 4] = [
    &[(0, 0x4000_0000, 0xf000_0000), (DESTINATION, LOOPBACK_NET, LOOPBACK_MASK)],
    &[(0, 0x0800, 0x0fff_ffff), (TAG as i32 + DESTINATION, LOOPBACK_NET, LOOPBACK_MASK)],
    &[(0, 0x8100, 0x0fff_ffff)],
    &[(0, 0x88a8, 0x0fff_ffff)],
];

/// One filter for each pattern. u32 replaces none: it answers that the node is taken.
fn u32_filters(index: u32, action: &str, parameters: &[u8]) -> Vec<Message> {
    let one = |(minor, keys): (u16, &[Key])| {
        let options = u32_with(keys, action, parameters.to_vec());
        filter(index, minor, TcFilterU32::KIND, options, &[Errno::NOSPC, Errno::EXIST])
    };
    (1..).zip(PATTERNS).map(one).collect()
}

fn u32_with(keys: &[Key], action: &str, parameters: Vec<u8>) -> Vec<TcOption> {
    let mut drop = TcAction::default();
    drop.attributes = vec![
        TcActionAttribute::Kind(action.into()),
        TcActionAttribute::Options(vec![TcActionOption::Other(DefaultNla::new(TCA_PARMS, parameters))]),
    ];
    vec![
        TcOption::U32(TcFilterU32Option::Selector(selector(keys))),
        TcOption::U32(TcFilterU32Option::Action(vec![drop])),
    ]
}

fn selector(keys: &[Key]) -> TcU32Selector {
    let key = |&(offset, value, mask): &Key| {
        let mut key = TcU32Key::default();
        (key.off, key.val, key.mask) = (offset, value, mask);
        key
    };
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = keys.len() as u8;
    selector.keys = keys.iter().map(key).collect();
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

/// No guard, but made of the same parts: a hook, and a filter by which another link receives all that comes.
pub(crate) fn redirect(index: u32, to: u32) -> Vec<Message> {
    let hook = Message {
        body: Body::NewQueueDiscipline(hook(index)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        forgiven: &[],
    };
    let action = words(&[0, 0, TC_ACT_STOLEN, 0, 0, TCA_INGRESS_REDIR, to]);
    let options = u32_with(&[(0, 0, 0)], "mirred", action);
    vec![hook, filter(index, 1, TcFilterU32::KIND, options, &[])]
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
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
        /// What the guard protects, and what must go on working.
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
            let [loopback, gateway] =
                ["127.0.0.1:7000", "10.7.0.1:7000"].map(|at| UdpSocket::bind(at).unwrap());
            loopback.set_nonblocking(true).unwrap();
            let scene = Self { host, bridge, container, eth0, loopback, gateway };
            // A frame that comes before the port forwards is lost; this waits for its neighbour, and so for the port.
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

        /// The same behind certain tags; a packet behind it shows that it was on its way.
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

        /// Takes the hook off; false if there was none.
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

    /// What the kernel says to each of these, from a socket of this thread's namespace.
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

    /// Sends a frame, its header and all, by a link of this namespace (packet(7)).
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
            assert!(scene.is_open(), "without a guard the attack succeeds, else this test shows nothing");
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
    fn a_hook_where_somebody_else_filters_stays() {
        on_a_host(|| {
            let mut scene = Scene::new();
            scene.guard();
            let [_, mut theirs] = install(scene.bridge, MARK).try_into().ok().unwrap();
            let Body::NewTrafficFilter(filter) = &mut theirs.body else { panic!() };
            filter.header.info += 1 << 16;
            assert_eq!(exchange(vec![theirs]), [None]);

            scene.unguard();

            assert!(!scene.is_open(), "their filter drops what ours did");
            assert!(scene.unhook());
            assert!(scene.is_open());
        });
    }

    #[test]
    fn a_guard_that_never_was_can_be_removed_also_from_a_link_that_never_was() {
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
}
