//! The loopback guard outside nftables: a tc ingress filter that drops packets for 127.0.0.0/8, also behind VLAN tags.
//!
//! The kernel removes the outermost tag before a filter sees the packet, and the sender at the other end of a link may
//! add several: the host's stack accepts a packet behind any number of tags of VLAN 0.
//!
//! Kernels are built with different features, so there are three ways, best first: a classic BPF
//! program that drops by itself (cls_bpf), u32 with the drop action (act_gact), and u32 with a
//! redirection into `lo` (act_mirred), where such a packet ends: it is addressed to another
//! station, and `lo` has no route_localnet. For a missing feature the kernel answers ENOENT.
//!
//! With br_netfilter a bridge sees answers to the host's own loopback clients after they were translated back to 127.0.0.1.
//! They have a mark, and the program lets them pass. u32 drops them too: a kernel without CLS_U32_MARK ignores the part
//! of a filter that would match a mark.

#[cfg(test)]
mod tests;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Body;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionOption, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle,
    TcHeader, TcMessage, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;

use crate::socket::Message;

/// The filter's priority, which only rnet uses on its links. (At 127 there may be an earlier version's filter, only of IPv4
/// without tags; one priority has one protocol.)
const PRIORITY: u16 = 126;
/// Not clsact, which hooks both directions: the kernel keeps one list of all hooks and walks it for each.
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

/// Another way to drop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    U32Drop,
    U32Redirect,
}

/// The lengths of Ethernet's header (IEEE 802.3) and of a VLAN tag: two bytes for the VLAN, two for the next type.
const ETHERNET: u32 = 14;
const TAG: u32 = 4;

/// The ways to try when the kernel lacks the first.
pub(crate) const OTHER_WAYS: [Way; 2] = [Way::U32Drop, Way::U32Redirect];

/// The hook and the best filter, which lets packets with the mark pass; both may exist already.
pub(crate) fn install(index: u32, mark: u32) -> Vec<Message> {
    let hook = Message {
        body: Body::NewQueueDiscipline(hook(index)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        forgiven: &[Errno::EXIST],
    };
    std::iter::once(hook).chain([filter(index, 1, BPF, bpf(mark), &[])]).collect()
}

/// Only the filters of another way; the hook exists.
pub(crate) fn filters(index: u32, way: Way) -> Vec<Message> {
    match way {
        Way::U32Drop => u32_filters(index, "gact", &gact_parameters()),
        Way::U32Redirect => u32_filters(index, "mirred", &mirred_parameters()),
    }
}

fn filter(index: u32, minor: u16, kind: &str, options: Vec<TcOption>, forgiven: &'static [Errno]) -> Message {
    let mut message = at(index, TcHandle { major: 0, minor });
    message.attributes = vec![TcAttribute::Kind(kind.into()), TcAttribute::Options(options)];
    Message { body: Body::NewTrafficFilter(message), flags: NLM_F_CREATE, forgiven }
}

/// The answers for a link that has no such filter, or no hook at all, or is gone.
const ABSENT: &[Errno] = &[Errno::NOENT, Errno::INVAL, Errno::NODEV];

/// Removes the filters with rnet's priority.
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
pub(crate) fn is_own(filter: &[u8]) -> bool {
    const TCM_INFO: usize = 16;
    let info = filter.get(TCM_INFO..TCM_INFO + 4).and_then(|bytes| bytes.try_into().ok());
    info.is_some_and(|info| u32::from_ne_bytes(info) >> 16 == u32::from(PRIORITY))
}

/// Removes the hook, unless it is of another kind than rnet's (EINVAL).
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

/// X walks along the headers. Loads relative to X find the packet's bytes everywhere, even outside the buffer's linear part,
/// which the sender may choose. Loads relative to SKF_NET_OFF, which links without Ethernet need, do not on older kernels.
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
    // Judges the loaded type: IPv4, or a tag, for which the next instruction is.
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
        // With the one that the kernel removed, more tags than any network uses.
        (BPF_RET | BPF_K, 0, 0, TC_ACT_SHOT),
        (BPF_LD | BPF_W | BPF_IND, 0, 0, DESTINATION as u32),
        (BPF_ALU | BPF_AND | BPF_K, 0, 0, LOOPBACK_MASK),
        (BPF_JMP | BPF_JEQ | BPF_K, 0, 1, LOOPBACK_NET),
        (BPF_RET | BPF_K, 0, 0, TC_ACT_SHOT),
        (BPF_RET | BPF_K, 0, 0, TC_ACT_UNSPEC),
    ];
    let walk = [&judge(8)[..], &behind_the_tag, &judge(15), &behind_the_tag, &judge(22)];
    let instructions = begin.iter().chain(walk.into_iter().flatten()).chain(&end);
    instructions.flat_map(encode_instruction).collect()
}

/// `struct sock_filter`
fn encode_instruction(&(code, yes, no, operand): &Instruction) -> Vec<u8> {
    [&(code as u16).to_ne_bytes()[..], &[yes, no], &operand.to_ne_bytes()].concat()
}

/// A comparison with the packet from the network header on: offset, value, mask.
type Key = (i32, u32, u32);

/// IPv4 to 127.0.0.0/8 behind only the removed tag; behind one more of VLAN 0, which no IPv4 header resembles; and anything
/// behind two more.
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
fn gact_parameters() -> Vec<u8> {
    words(&[0, 0, TC_ACT_SHOT, 0, 0])
}

/// `struct tc_mirred`: the same, then what to do and with which link.
fn mirred_parameters() -> Vec<u8> {
    words(&[0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, LOOPBACK_INDEX])
}

/// Not the guard, but made of the same parts: a hook, and a filter by which another link receives all packets.
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
