//! Flows that are deleted with their address, and the addresses that are stale until then.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use nft::{Firewall, Flow};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::{masquerade, on_a_new_host, one_container, owner};

#[test]
fn stale_entries_are_deleted_and_others_stay() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let entries = [
            // (protocol, from, to, answered by): a client of host port 5353
            (UDP, "10.0.0.9:1000", "10.0.0.1:5353", "172.18.0.2:53"),
            (UDP, "10.0.0.9:1001", "10.0.0.2:5353", "172.18.0.2:53"),
            (UDP, "10.0.0.9:1002", "10.0.0.1:5354", "10.0.0.1:5354"),
            (UDP, "10.0.0.9:1003", "10.0.0.1:6000", "172.18.0.2:53"),
            (TCP, "10.0.0.9:1004", "10.0.0.1:5353", "172.18.0.2:53"),
            (TCP, "172.18.0.2:1006", "192.168.2.9:443", "192.168.2.9:443"),
            // It only passes through.
            (UDP, "10.0.0.9:1005", "192.168.2.9:5354", "192.168.2.9:5354"),
        ];
        entries.iter().for_each(track);
        let flow = Flow::To { host: Some("10.0.0.1".parse().unwrap()), port: 5353, v6: false };
        let mut asked = Vec::new();
        let mut flush = |flows: &[Flow]| {
            let is_local = |ip: IpAddr| {
                asked.push(ip);
                ip.to_string().starts_with("10.")
            };
            firewall.forget(flows, is_local).unwrap()
        };

        assert_eq!(flush(&[flow]), 1);
        assert_eq!(tracked(), [1001, 1002, 1003, 1004, 1005, 1006]);

        let of = Flow::Of("172.18.0.2".parse().unwrap());
        assert_eq!(flush(&[flow, of]), 4);
        assert_eq!(tracked(), [1002, 1005]);

        let many: Vec<Flow> = (5350..5360).map(|port| Flow::To { host: None, port, v6: false }).collect();
        assert_eq!(flush(&many), 1);
        assert_eq!(tracked(), [1005]);
        asked.sort();
        assert_eq!(asked.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.0.0.1", "192.168.2.9"]);
    });
}

/// Addresses get new holders before their flows are deleted.
#[test]
fn a_stale_address_is_cleared_when_the_flows_of_its_last_holder_are_forgotten() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.rebuild(&[], &[]).unwrap();
        let address: IpAddr = "172.18.0.2".parse().unwrap();
        let elements = one_container(2, 80);
        let owned = [(masquerade("172.18.0.2"), owner(2))];
        track(&(TCP, "172.18.0.2:1006", "192.168.2.9:443", "192.168.2.9:443"));
        assert!(!firewall.are_left(&[address]).unwrap(), "no container left it");

        firewall.add(&elements).unwrap();
        firewall.withdraw(&owned, &[address]).unwrap();
        let left = firewall.stale().unwrap();
        assert_eq!(left.iter().map(|stale| stale.address).collect::<Vec<_>>(), [address]);
        let stale = firewall.stale().unwrap();
        let done = firewall.forget_stale(&stale).unwrap();
        assert_eq!((&done, tracked().len()), (&left, 0));

        assert!(firewall.are_left(&[address]).unwrap());
        firewall.take_over(&[address]).unwrap();
        assert!(!firewall.are_left(&[address]).unwrap(), "a portmap after a bridge has the same holder");
        assert_eq!(firewall.clear(&done).unwrap(), None, "it has a new holder");
        let taken = firewall.stale().unwrap();
        firewall.rebuild(&elements, &taken).unwrap();
        assert_eq!(firewall.stale().unwrap(), taken);
        firewall.withdraw(&owned, &[address]).unwrap();
        assert_eq!(firewall.clear(&taken).unwrap(), None, "it has a new holder again");
        let stale = firewall.stale().unwrap();
        let done = firewall.forget_stale(&stale).unwrap();
        assert!(firewall.clear(&done).unwrap().is_some());
        assert_eq!(firewall.stale().unwrap(), []);
    });
}

const TCP: u8 = 6;

const UDP: u8 = 17;

/// Puts an entry into conntrack (IPCTNL_MSG_CT_NEW) for a flow from `from` to `to` whose answers come from `by`.
fn track(&(protocol, from, to, by): &(u8, &str, &str, &str)) {
    let [from, to, by] = [from, to, by].map(|text| text.parse::<SocketAddr>().unwrap());
    let attributes = vec![
        ConntrackAttribute::CtaTupleOrig(tuple(protocol, from, to)),
        ConntrackAttribute::CtaTupleReply(tuple(protocol, by, from)),
        ConntrackAttribute::CtaStatus(Status::Confirmed),
        ConntrackAttribute::CtaTimeout(600),
    ];
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
    for answer in conntrack(ConntrackMessage::New(attributes), flags) {
        assert!(matches!(&answer, NetlinkPayload::Error(verdict) if verdict.code.is_none()), "{answer:?}");
    }
}

fn tuple(protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(from.ip()), IPTuple::DestinationAddress(to.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(protocol.into()),
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}

/// The clients' ports of what conntrack holds.
fn tracked() -> Vec<u16> {
    let found = conntrack(ConntrackMessage::Get(vec![]), NLM_F_DUMP).into_iter();
    let mut ports: Vec<u16> = found.filter_map(|answer| source_port(&answer)).collect();
    ports.sort_unstable();
    ports
}

fn source_port(answer: &NetlinkPayload<NetfilterMessage>) -> Option<u16> {
    let NetlinkPayload::InnerMessage(message) = answer else { return None };
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else {
        return None;
    };
    attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(parts) => parts.iter().find_map(|part| match part {
            Tuple::Proto(parts) => parts.iter().find_map(|part| match part {
                ProtoTuple::SourcePort(port) => Some(*port),
                _ => None,
            }),
            _ => None,
        }),
        _ => None,
    })
}

/// One request about conntrack's IPv4 entries, and all answers of the kernel.
fn conntrack(message: ConntrackMessage, flags: u16) -> Vec<NetlinkPayload<NetfilterMessage>> {
    let socket = netfilter_socket();
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let message = NetfilterMessage::new(header, message);
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    rustix::net::send(&socket, &bytes, SendFlags::empty()).unwrap();
    let mut answers = Vec::new();
    // All answers are in the queue when the request has been sent; a dump continues with each read.
    let mut buffer = vec![0; 64 << 10];
    while let Ok((_, length)) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest).unwrap();
            rest = &rest[(answer.header.length as usize).next_multiple_of(4)..];
            answers.push(answer.payload);
        }
    }
    answers
}

fn netfilter_socket() -> OwnedFd {
    let protocol = Some(rustix::net::netlink::NETFILTER);
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).unwrap()
}
