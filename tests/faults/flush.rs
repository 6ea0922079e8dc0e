//! The rules are flushed: the next ADD brings back those of all networks.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::common::{Guest, Host, Network, SOON};

#[test]
fn tables_that_were_deleted_come_back_whole() {
    restore_after(|host| host.firewall(|firewall| firewall.drop_tables().unwrap()));
}

#[test]
fn rules_that_were_flushed_come_back_although_the_maps_were_left() {
    restore_after(|host| host.run(|| flush_rules(INET)).unwrap());
}

#[test]
fn so_do_the_guards_of_the_bridge_ports() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let (old, new) = (host.guest(&network, "old"), host.guest(&network, "new"));
    old.add().unwrap();
    let before = rules(&host);

    host.run(|| flush_rules(BRIDGE)).unwrap();
    assert_ne!(rules(&host), before);
    new.add().unwrap();

    assert_eq!(rules(&host), before);
}

fn restore_after(flush: fn(&Host)) {
    let host = Host::with_outside();
    let (mynet, chain) = (Network::rnet("mynet", "10.7.0.0/24"), Network::chain("chain", "10.8.0.0/24"));
    let (web, db) = (host.guest(&mynet, "web").publishing(8080), host.guest(&mynet, "db").publishing(8081));
    let (old, new) = (host.guest(&chain, "old").publishing(8082), host.guest(&chain, "new").publishing(8083));
    let residents = [&web, &db, &old];
    residents.iter().for_each(|guest| drop(guest.add().unwrap()));
    assert!(residents.iter().all(|guest| guest.works()));
    let before = rules(&host);

    flush(&host);
    assert!(residents.iter().all(|guest| !guest.answers_within(SOON)), "nothing was flushed");
    new.add().unwrap();

    assert!(residents.iter().chain([&&new]).all(|guest| guest.works()));
    assert_eq!(rules(&host), before);
    host.assert_balanced(&[&web, &db, &old, &new]);
    second_add_changes_nothing(&host, &new);
}

/// What was restored is intact: nobody restores it again.
fn second_add_changes_nothing(host: &Host, new: &Guest<'_>) {
    let state = host.firewall(|firewall| firewall.state().unwrap());
    new.del().unwrap();
    new.add().unwrap();
    assert_eq!(host.firewall(|firewall| firewall.state().unwrap()), state);
}

/// The constant part, without the handles that differ.
fn rules(host: &Host) -> Vec<String> {
    let lines = host.state(&[]).lines().to_vec();
    lines.into_iter().filter(|line| line.starts_with("rule ") && line.contains("rnet")).collect()
}

const INET: u8 = 1;
const BRIDGE: u8 = 7;

/// Equivalent to `nft flush table FAMILY rnet`: NFT_MSG_DELRULE that names a table alone, in a batch.
fn flush_rules(family: u8) {
    const NFTABLES: u16 = 10;
    const BEGIN: u16 = 0x10;
    const END: u16 = 0x11;
    const DELETE_RULE: u16 = NFTABLES << 8 | 8;
    /// NFTA_RULE_TABLE.
    const TABLE: &[u8] = b"\x09\0\x01\0rnet\0\0\0\0";
    let (request, acknowledged) = (1, 5);
    let batch = [
        message(BEGIN, request, 0, NFTABLES, &[]),
        message(DELETE_RULE, acknowledged, family, 0, TABLE),
        message(END, request, 0, NFTABLES, &[]),
    ];
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER));
    let socket = socket.unwrap();
    send(&socket, &batch.concat(), SendFlags::empty()).unwrap();
    let mut answer = [0; 256];
    recv(&socket, &mut answer[..], RecvFlags::empty()).unwrap();
    assert_eq!(i32::from_ne_bytes(answer[16..20].try_into().unwrap()), 0, "the kernel refused to flush");
}

/// `struct nlmsghdr`, `struct nfgenmsg`, and attributes.
fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = 20 + attributes.len() as u32;
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    let generic = [&[family, 0][..], &resource.to_be_bytes()].concat();
    [header, generic, attributes.to_vec()].concat()
}
