//! The rules of who may resolve what, of names, of answers and of what stays on the host, as a container sees them.

#![allow(clippy::unwrap_used, reason = "clippy.toml's allow-unwrap-in-tests does not reach helpers")]

use std::cell::Cell;
use std::net::IpAddr;

use dns::{Asked, Endpoint, Forward, Network, Reply, Table, Transport};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

/// A table, and how often it was asked.
struct World {
    table: Table,
    turn: Cell<u64>,
}

/// Somebody who asks: source address and link.
type Who = (&'static str, &'static str);

const WEB: Who = ("172.18.0.2", "br-front");
const DB: Who = ("172.19.0.2", "br-back");
const BOTH_BY_FRONT: Who = ("172.18.0.3", "br-front");
const BOTH_BY_BACK: Who = ("172.19.0.3", "br-back");
const SECRET: Who = ("172.20.0.2", "br-vault");
const UNREGISTERED: Who = ("172.18.7.7", "br-front");
const STRANGER: Who = ("10.0.0.9", "eth0");
const HOST: Who = ("172.18.0.1", "lo");

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(name: &str, gateways: &[&str], subnets: &[&str]) -> Network {
    Network {
        name: name.into(),
        domain: Some("dns.podman".into()),
        bridge: format!("br-{name}"),
        gateways: gateways.iter().map(|gateway| ip(gateway)).collect(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        ..Network::default()
    }
}

fn endpoint(network: &str, container: &str, names: &[&str], addresses: &[&str]) -> Endpoint {
    Endpoint {
        network: network.into(),
        container: container.into(),
        ifname: format!("eth-{network}"),
        names: names.iter().map(|name| (*name).into()).collect(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        upstreams: Vec::new(),
    }
}

/// `web` is on front, `db` on back, `both` on both; `secret` is on vault, which is internal.
fn world() -> World {
    let mut table = Table::new();
    table.set_network(network("front", &["172.18.0.1", "fd00:18::1"], &["172.18.0.0/16", "fd00:18::/64"]));
    table.set_network(network("back", &["172.19.0.1"], &["172.19.0.0/24"]));
    let vault = network("vault", &["172.20.0.1"], &["172.20.0.0/20"]);
    table.set_network(Network { internal: true, domain: Some("vault.example".into()), ..vault });
    let web = ["web", "www", "0123456789ab", "webhost"];
    for endpoint in [
        endpoint("front", "c-web", &web, &["172.18.0.2", "fd00:18::2"]),
        endpoint("front", "c-both", &["both"], &["172.18.0.3"]),
        endpoint("back", "c-both", &["both"], &["172.19.0.3"]),
        endpoint("back", "c-db", &["db"], &["172.19.0.2"]),
        endpoint("vault", "c-secret", &["secret"], &["172.20.0.2"]),
    ] {
        assert!(table.set_endpoint(&endpoint));
    }
    World { table, turn: Cell::new(0) }
}

fn question(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

impl World {
    fn reply(&self, who: Who, message: &[u8]) -> Reply {
        let (from, link) = who;
        let to = ip("172.18.0.1");
        let asked = Asked { message, from: ip(from), link, to, transport: Transport::Tcp };
        self.turn.set(self.turn.get() + 1);
        self.table.answer(&asked, self.turn.get())
    }

    fn answer(&self, who: Who, name: &str, rtype: RecordType) -> Message {
        match self.reply(who, &question(name, rtype).to_vec().unwrap()) {
            Reply::Answer(bytes) | Reply::Error(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// What comes of a question, in short.
    fn ask(&self, who: Who, name: &str, rtype: RecordType) -> String {
        match self.reply(who, &question(name, rtype).to_vec().unwrap()) {
            Reply::Answer(bytes) | Reply::Error(bytes) => short(&Message::from_vec(&bytes).unwrap()),
            Reply::Forward(_) => "forwarded".into(),
            Reply::Drop => "silence".into(),
        }
    }

    fn a(&self, who: Who, name: &str) -> String {
        self.ask(who, name, RecordType::A)
    }

    fn ptr(&self, who: Who, address: &str) -> String {
        self.ask(who, &Name::from(ip(address)).to_string(), RecordType::PTR)
    }

    fn forward(&self, who: Who) -> Forward {
        match self.reply(who, &question("example.com.", RecordType::A).to_vec().unwrap()) {
            Reply::Forward(forward) => forward,
            other => panic!("{other:?}"),
        }
    }
}

/// The answers' data; if there are none, what kind of nothing it is.
fn short(message: &Message) -> String {
    let data: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
    match message.metadata.response_code {
        ResponseCode::NoError if data.is_empty() => "nothing".into(),
        ResponseCode::NoError => data.join(" "),
        ResponseCode::NXDomain => "unknown".into(),
        ResponseCode::Refused => "refused".into(),
        other => other.to_string(),
    }
}

fn zone(message: &Message) -> String {
    message.authorities[0].name.to_string()
}

#[test]
fn v1_names_of_all_networks_of_the_asker_are_searched_and_merged_those_it_came_in_by_first() {
    let mut world = world();
    assert_eq!(world.a(BOTH_BY_FRONT, "web."), "172.18.0.2");
    assert_eq!(world.a(BOTH_BY_FRONT, "db."), "172.19.0.2");
    world.table.set_endpoint(&endpoint("front", "c-db2", &["db"], &["172.18.0.9"]));
    for _ in 0..3 {
        assert_eq!(world.a(BOTH_BY_FRONT, "db."), "172.18.0.9 172.19.0.2");
        assert_eq!(world.a(BOTH_BY_BACK, "db."), "172.19.0.2 172.18.0.9");
    }
}

#[test]
fn v2_a_container_on_two_networks_is_seen_from_each_with_its_address_there() {
    let world = world();
    assert_eq!(world.a(WEB, "both."), "172.18.0.3");
    assert_eq!(world.a(DB, "both."), "172.19.0.3");
    assert_eq!(world.a(BOTH_BY_BACK, "both."), "172.19.0.3 172.18.0.3");
}

#[test]
fn v3_the_host_sees_the_network_whose_gateway_it_asks() {
    let world = world();
    assert_eq!(world.a(HOST, "web."), "172.18.0.2");
    assert_eq!(world.a(HOST, "db."), "unknown");
    assert_eq!(world.a(("10.1.2.3", "lo"), "web."), "172.18.0.2");
    assert_eq!(world.a(("10.1.2.3", "lo"), "example.com."), "forwarded");
    assert_eq!(world.forward(HOST).client, None);
}

#[test]
fn v4_an_unregistered_source_sees_the_network_whose_subnet_and_bridge_it_has_and_a_stranger_nothing() {
    let world = world();
    assert_eq!(world.a(UNREGISTERED, "web."), "172.18.0.2");
    assert_eq!(world.a(UNREGISTERED, "db."), "unknown");
    assert_eq!(world.a(UNREGISTERED, "example.com."), "forwarded");
    for name in ["web.", "example.com."] {
        assert_eq!(world.a(STRANGER, name), "refused");
        assert_eq!(world.a(("10.0.0.9", "docker0"), name), "refused");
    }
}

#[test]
fn v5_a_source_that_came_by_another_link_than_its_networks_bridge_gets_no_answer() {
    let world = world();
    for from in ["172.18.0.2", "172.18.7.7", "fd00:18::7"] {
        assert_eq!(world.a((from, "br-back"), "web."), "silence");
        assert_eq!(world.a((from, "eth0"), "web."), "silence");
        assert_eq!(world.reply((from, "eth0"), b"malformed as well"), Reply::Drop);
    }
    for from in ["192.0.2.9", "127.0.0.1", "2001:db8::9", "::1"] {
        assert_eq!(world.a((from, "br-front"), "web."), "silence");
    }
    assert_eq!(world.a(("::ffff:172.18.0.2", "br-front"), "web."), "172.18.0.2");
}

#[test]
fn v5_equal_subnets_of_two_networks_are_told_apart_by_their_bridges() {
    let mut world = world();
    world.table.set_network(network("twin", &["172.18.0.1"], &["172.18.0.0/16"]));
    world.table.set_endpoint(&endpoint("twin", "c-t", &["web"], &["172.18.0.2"]));
    assert_eq!(world.a(("172.18.0.2", "br-twin"), "web.twin."), "172.18.0.2");
    assert_eq!(world.a(("172.18.0.2", "br-twin"), "both."), "unknown");
    assert_eq!(world.a(("172.18.0.3", "br-twin"), "web."), "172.18.0.2");
    assert_eq!(world.a(WEB, "both."), "172.18.0.3");
}

#[test]
fn v6_names_of_networks_out_of_view_do_not_exist_and_are_not_forwarded() {
    let world = world();
    for name in ["db.", "db.back.", "db.dns.podman.", "secret.vault.example.", "x.vault."] {
        assert_eq!(world.a(WEB, name), "unknown", "{name}");
    }
    assert_eq!(world.ptr(WEB, "172.19.0.2"), "unknown");
    assert_eq!(world.ptr(WEB, "172.20.0.2"), "unknown");
}

#[test]
fn v7_a_network_that_is_not_served_has_no_names() {
    let mut world = world();
    let default = endpoint("bridge", "c-x", &["x"], &["172.17.0.2"]);
    assert!(!world.table.set_endpoint(&default));
    assert_eq!(world.a(("172.17.0.2", "docker0"), "x."), "refused");
    world.table.set_network(network("bridge", &["172.17.0.1"], &["172.17.0.0/16"]));
    assert!(world.table.set_endpoint(&default));
    assert_eq!(world.a(("172.17.0.2", "br-bridge"), "x."), "172.17.0.2");
}

#[test]
fn n1_name_alias_short_id_and_hostname_answer_and_the_first_is_the_ptr_name() {
    let world = world();
    for name in ["web.", "www.", "0123456789ab.", "webhost."] {
        assert_eq!(world.a(WEB, name), "172.18.0.2", "{name}");
    }
    assert_eq!(world.ptr(WEB, "172.18.0.2"), "web.front.");
}

#[test]
fn n2_each_name_answers_with_its_network() {
    let world = world();
    for name in ["web.front.", "www.front.", "0123456789ab.front.", "webhost.front."] {
        assert_eq!(world.a(WEB, name), "172.18.0.2", "{name}");
    }
    assert_eq!(world.a(BOTH_BY_FRONT, "both.back."), "172.19.0.3");
    assert_eq!(world.a(BOTH_BY_FRONT, "web.back."), "unknown");
}

#[test]
fn n3_each_name_answers_in_the_network_domain() {
    let world = world();
    assert_eq!(world.a(WEB, "www.dns.podman."), "172.18.0.2");
    assert_eq!(world.a(BOTH_BY_FRONT, "db.dns.podman."), "172.19.0.2");
    assert_eq!(world.a(SECRET, "secret.vault.example."), "172.20.0.2");
    assert_eq!(world.a(SECRET, "secret.dns.podman."), "unknown");
}

#[test]
fn n4_case_does_not_matter_and_the_answer_repeats_the_spelling() {
    let mut world = world();
    world.table.set_endpoint(&endpoint("front", "c-big", &["Big"], &["172.18.0.8"]));
    assert_eq!(world.a(WEB, "bIG.FRONT."), "172.18.0.8");
    assert_eq!(world.ptr(WEB, "172.18.0.8"), "Big.front.");
    let answer = world.answer(WEB, "wEb.Dns.PODMAN.", RecordType::A);
    assert_eq!(answer.queries[0].name.to_string(), "wEb.Dns.PODMAN.");
    assert_eq!(answer.answers[0].name.to_string(), "wEb.Dns.PODMAN.");
    assert_eq!(zone(&world.answer(WEB, "x.Dns.PODMAN.", RecordType::A)), "Dns.PODMAN.");
}

#[test]
fn n5_a_shared_name_yields_all_addresses_and_one_of_them_can_go() {
    let mut world = world();
    world.table.set_endpoint(&endpoint("front", "c-web2", &["web2", "www"], &["172.18.0.4"]));
    let both = world.a(WEB, "www.");
    assert!(both == "172.18.0.2 172.18.0.4" || both == "172.18.0.4 172.18.0.2", "{both}");
    world.table.remove_endpoint("front", "c-web", "eth-front");
    assert_eq!(world.a(UNREGISTERED, "www."), "172.18.0.4");
    world.table.remove_endpoint("back", "c-both", "eth-front");
    assert_eq!(world.a(DB, "both."), "172.19.0.3");
}

#[test]
fn n6_names_that_nobody_could_ask_for_and_forms_that_are_too_long_are_left_out() {
    let mut world = world();
    let long = "n".repeat(63);
    let name = [&long, &long, &long, "end"].map(String::from).join(".");
    world.table.set_network(network(&long, &["172.21.0.1"], &["172.21.0.0/24"]));
    world.table.set_endpoint(&endpoint(&long, "c-l", &["a b", &name, "short"], &["172.21.0.2"]));
    let bridge: &'static str = format!("br-{long}").leak();
    let who = ("172.21.0.2", bridge);
    assert_eq!(world.a(who, &format!("{name}.")), "172.21.0.2");
    assert_eq!(world.a(who, &format!("short.{long}.")), "172.21.0.2");
    assert_eq!(world.ptr(who, "172.21.0.2"), format!("{name}."));
    assert_eq!(world.table.endpoints().find(|one| one.container == "c-l").unwrap().names.len(), 2);
}

#[test]
fn n7_a_name_with_dots_is_matched_whole_first_then_split() {
    let mut world = world();
    world.table.set_endpoint(&endpoint("front", "c-dots", &["web.front"], &["172.18.0.5"]));
    assert_eq!(world.a(WEB, "web.front."), "172.18.0.5");
    assert_eq!(world.a(WEB, "web.front.front."), "172.18.0.5");
    assert_eq!(world.ptr(WEB, "172.18.0.2"), "web.", "the longer form is somebody else's");
    assert_eq!(world.a(WEB, "www.front."), "172.18.0.2");
}

#[test]
fn n8_a_rename_and_a_new_address_are_one_change() {
    let mut world = world();
    world.table.set_endpoint(&endpoint("front", "c-web", &["renamed"], &["172.18.0.6"]));
    let who = ("172.18.0.6", "br-front");
    assert_eq!(world.a(who, "renamed."), "172.18.0.6");
    for name in ["web.", "www.front.", "webhost.dns.podman."] {
        assert_eq!(world.a(who, name), "unknown");
    }
    assert_eq!(world.ptr(who, "172.18.0.2"), "unknown");
    assert_eq!(world.ptr(who, "172.18.0.6"), "renamed.front.");
}

#[test]
fn n9_unknown_names_of_two_labels_under_a_network_stay_and_longer_ones_are_forwarded() {
    let world = world();
    assert_eq!(world.a(WEB, "nobody.front."), "unknown");
    assert_eq!(world.a(WEB, "www.nobody.front."), "forwarded");
}

#[test]
fn a1_addresses_by_family_and_an_ipv4_only_name_has_no_aaaa() {
    let world = world();
    assert_eq!(world.ask(WEB, "web.", RecordType::AAAA), "fd00:18::2");
    assert_eq!(world.ask(WEB, "both.", RecordType::AAAA), "nothing");
}

#[test]
fn a2_other_types_of_a_known_name_are_empty() {
    let world = world();
    let types = [RecordType::MX, RecordType::TXT, RecordType::SRV, RecordType::HTTPS, RecordType::CAA];
    for rtype in types.into_iter().chain([RecordType::NS, RecordType::SOA, RecordType::Unknown(65280)]) {
        for name in ["web.", "web.front.", "web.dns.podman."] {
            assert_eq!(world.ask(WEB, name, rtype), "nothing", "{name} {rtype}");
        }
    }
}

#[test]
fn a3_unknown_names_in_own_zones_do_not_exist() {
    let world = world();
    for name in ["nobody.", "com.", "nobody.front.", "nobody.dns.podman.", "a.b.dns.podman."] {
        assert_eq!(world.a(WEB, name), "unknown", "{name}");
        assert_eq!(world.ask(WEB, name, RecordType::SRV), "unknown", "{name}");
    }
    for name in ["front.", "dns.podman."] {
        assert_eq!(world.a(WEB, name), "nothing", "{name} has names below it");
    }
}

#[test]
fn a4_an_address_has_one_name_which_leads_back_to_it() {
    let world = world();
    assert_eq!(world.ptr(WEB, "fd00:18::2"), "web.front.");
    assert_eq!(world.ask(WEB, &world.ptr(WEB, "fd00:18::2"), RecordType::AAAA), "fd00:18::2");
    assert_eq!(world.ptr(BOTH_BY_FRONT, "172.19.0.3"), "both.back.");
    for unknown in ["172.18.9.9", "172.18.0.1", "fd00:18::9"] {
        assert_eq!(world.ptr(WEB, unknown), "unknown");
    }
    assert_eq!(world.ptr(WEB, "8.8.8.8"), "forwarded");
    assert_eq!(world.a(WEB, "2.0.18.172.in-addr.arpa."), "nothing");
}

#[test]
fn a4_whoever_is_called_like_an_address_does_not_speak_for_it() {
    let mut world = world();
    let vain = ["2.0.18.172.in-addr.arpa", "localhost"];
    world.table.set_endpoint(&endpoint("front", "c-vain", &vain, &["172.18.0.20"]));
    assert_eq!(world.ptr(WEB, "172.18.0.2"), "web.front.");
    assert_eq!(world.a(WEB, "localhost."), "127.0.0.1");
    assert_eq!(world.ptr(WEB, "172.18.0.20"), "2.0.18.172.in-addr.arpa.front.");
    world.table.set_endpoint(&endpoint("front", "c-vain", &["localhost"], &["172.18.0.20"]));
    assert_eq!(world.ptr(WEB, "172.18.0.20"), "localhost.front.");
}

#[test]
fn a5_soa_and_ns_of_domain_and_reverse_zones_are_answered_here() {
    let world = world();
    let v6 = "0.0.0.0.0.0.0.0.8.1.0.0.0.0.d.f.ip6.arpa.";
    for apex in ["dns.podman.", "vault.example.", "18.172.in-addr.arpa.", "0.19.172.in-addr.arpa.", v6] {
        assert_eq!(world.ask(WEB, apex, RecordType::NS), apex);
        assert!(world.ask(WEB, apex, RecordType::SOA).starts_with(apex), "{apex}");
        assert!(world.ask(WEB, apex, RecordType::ANY).starts_with(apex), "{apex}");
        assert_eq!(world.ask(WEB, apex, RecordType::PTR), "nothing");
    }
    // A subnet of 20 bits is 16 zones, and what is above them is not ours.
    assert_eq!(world.ask(WEB, "15.20.172.in-addr.arpa.", RecordType::NS), "15.20.172.in-addr.arpa.");
    assert_eq!(world.ask(WEB, "16.20.172.in-addr.arpa.", RecordType::NS), "forwarded");
    assert_eq!(world.ask(WEB, "20.172.in-addr.arpa.", RecordType::NS), "forwarded");
    assert_eq!(world.ask(WEB, "7.18.172.in-addr.arpa.", RecordType::NS), "nothing");
    assert_eq!(world.ask(WEB, "x.18.172.in-addr.arpa.", RecordType::PTR), "unknown");
    assert_eq!(world.ask(WEB, "02.0.18.172.in-addr.arpa.", RecordType::PTR), "unknown");
}

#[test]
fn a5_any_is_one_record_set_and_transfers_are_refused() {
    let world = world();
    assert_eq!(world.ask(WEB, "web.", RecordType::ANY), "172.18.0.2");
    assert_eq!(world.ask(WEB, "2.0.18.172.in-addr.arpa.", RecordType::ANY), "web.front.");
    for name in ["dns.podman.", "web.", "example.com."] {
        assert_eq!(world.ask(WEB, name, RecordType::AXFR), "refused");
        assert_eq!(world.ask(WEB, name, RecordType::IXFR), "refused");
    }
}

#[test]
fn a5_localhost_is_the_loopback() {
    let world = world();
    for who in [WEB, SECRET] {
        assert_eq!(world.a(who, "localhost."), "127.0.0.1");
        assert_eq!(world.ask(who, "a.b.LocalHost.", RecordType::AAAA), "::1");
        assert_eq!(world.ask(who, "localhost.", RecordType::MX), "nothing");
        assert_eq!(world.ptr(who, "127.1.2.3"), "localhost.");
        assert_eq!(world.ptr(who, "::1"), "localhost.");
        assert!(world.ask(who, "127.in-addr.arpa.", RecordType::SOA).starts_with("127.in-addr.arpa."));
    }
}

#[test]
fn a6_and_a7_nothing_is_to_be_remembered_and_negative_answers_carry_the_zone() {
    let world = world();
    assert_eq!(world.answer(WEB, "web.", RecordType::A).answers[0].ttl, 0);
    let cases = [
        ("nobody.", RecordType::A, "."),
        ("both.", RecordType::AAAA, "."),
        ("nobody.front.", RecordType::A, "front."),
        ("web.front.", RecordType::MX, "front."),
        ("nobody.dns.podman.", RecordType::A, "dns.podman."),
        ("dns.podman.", RecordType::A, "dns.podman."),
        ("9.9.18.172.in-addr.arpa.", RecordType::PTR, "18.172.in-addr.arpa."),
        ("9.1.20.172.in-addr.arpa.", RecordType::PTR, "1.20.172.in-addr.arpa."),
        ("x.localhost.", RecordType::TXT, "localhost."),
    ];
    for (name, rtype, expected) in cases {
        let answer = world.answer(WEB, name, rtype);
        assert_eq!(zone(&answer), expected, "{name}");
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("{answer}") };
        assert_eq!((answer.authorities[0].ttl, soa.minimum, answer.answers.len()), (0, 0, 0));
    }
}

#[test]
fn a8_local_answers_have_authority_and_repeat_id_and_question() {
    let world = world();
    for (name, rd, cd) in [("web.", true, false), ("nobody.", false, true)] {
        let mut message = question(name, RecordType::A);
        (message.metadata.recursion_desired, message.metadata.checking_disabled) = (rd, cd);
        let Reply::Answer(bytes) = world.reply(WEB, &message.to_vec().unwrap()) else { panic!("{name}") };
        let answer = Message::from_vec(&bytes).unwrap();
        let bits = answer.metadata;
        assert!(bits.authoritative && bits.recursion_available && bits.message_type == MessageType::Response);
        assert_eq!((bits.recursion_desired, bits.checking_disabled, bits.authentic_data), (rd, cd, false));
        assert_eq!((bits.id, &answer.queries), (4711, &message.queries));
    }
    assert!(!world.answer(STRANGER, "web.", RecordType::A).metadata.authoritative);
}

#[test]
fn a9_each_answer_has_another_order() {
    let mut world = world();
    for (container, address) in [("c1", "172.18.1.1"), ("c2", "172.18.1.2"), ("c3", "172.18.1.3")] {
        world.table.set_endpoint(&endpoint("front", container, &["many"], &[address]));
    }
    let first = |_| world.a(WEB, "many.").split(' ').next().unwrap().to_owned();
    let firsts: std::collections::BTreeSet<String> = (0..3).map(first).collect();
    assert_eq!(firsts.len(), 3);
}

#[test]
fn a10_who_is_gone_has_no_name_no_address_and_no_view() {
    let mut world = world();
    world.table.remove_endpoint("back", "c-both", "eth-back");
    assert_eq!(world.a(BOTH_BY_FRONT, "both."), "172.18.0.3");
    assert_eq!(world.a(BOTH_BY_FRONT, "db."), "unknown");
    assert_eq!(world.ptr(DB, "172.19.0.3"), "unknown");
    world.table.remove_network("back");
    assert_eq!(world.a(DB, "db."), "refused");
    assert_eq!(world.table.endpoints().filter(|one| one.network == "back").count(), 0);
    assert_eq!(world.table.networks().count(), 2);
}

#[test]
fn a10_a_nameless_endpoint_has_a_view_until_its_network_goes() {
    let mut world = world();
    world.table.set_endpoint(&endpoint("front", "c-mute", &[], &["172.18.0.50"]));
    let who = ("172.18.0.50", "br-front");
    assert_eq!(world.a(who, "web."), "172.18.0.2");
    assert_eq!(world.a(who, "."), "forwarded");
    assert_eq!(world.ptr(who, "172.18.0.50"), "unknown");
    world.table.remove_network("front");
    assert_eq!(world.a(who, "web."), "refused");
    assert!(world.table.endpoints().all(|one| one.container != "c-mute"));
}

#[test]
fn a_network_that_changes_keeps_its_endpoints() {
    let mut world = world();
    let moved = Network { bridge: "br-new".into(), ..network("front", &["172.18.0.1"], &["172.18.0.0/16"]) };
    world.table.set_network(Network { domain: Some("New.Example.".into()), ..moved });
    assert_eq!(world.a(WEB, "web."), "silence");
    assert_eq!(world.a(("172.18.0.2", "br-new"), "www.new.example."), "172.18.0.2");
    assert_eq!(world.ptr(("172.18.0.2", "br-new"), "fd00:18::9"), "forwarded");
}

#[test]
fn f1_the_containers_own_servers_come_before_the_networks_and_those_before_the_hosts() {
    let mut world = world();
    let servers = |text: &str| vec![text.parse().unwrap()];
    assert!(world.forward(DB).upstreams.is_empty());
    let back = network("back", &["172.19.0.1"], &["172.19.0.0/24"]);
    world.table.set_network(Network { upstreams: servers("9.9.9.9:53"), ..back });
    assert_eq!(world.forward(DB).upstreams, servers("9.9.9.9:53"));
    let own = servers("1.1.1.1:53");
    world.table.set_endpoint(&Endpoint {
        upstreams: own.clone(),
        ..endpoint("back", "c-db", &["db"], &["172.19.0.2"])
    });
    assert_eq!(
        world.forward(DB),
        Forward { upstreams: own, client: Some(("back".into(), "c-db".into())), guarded: false }
    );
}

#[test]
fn f8_own_zones_never_leave_the_host() {
    let world = world();
    let own = ["com.", "stopped.front.", "stopped.dns.podman.", "x.localhost.", "9.9.18.172.in-addr.arpa."];
    for name in own.into_iter().chain(["18.172.in-addr.arpa.", "x.9.9.18.172.in-addr.arpa.", "a\\.b."]) {
        for rtype in
            [RecordType::A, RecordType::PTR, RecordType::NS, RecordType::SRV, RecordType::Unknown(999)]
        {
            assert_ne!(world.ask(WEB, name, rtype), "forwarded", "{name} {rtype}");
        }
    }
    for name in ["example.com.", "web.example.com.", "podman.io.", "172.in-addr.arpa."] {
        assert_eq!(world.a(WEB, name), "forwarded", "{name}");
    }
}

#[test]
fn f8_a_dot_inside_a_label_makes_no_name_of_ours() {
    let world = world();
    assert_eq!(world.a(WEB, "web\\.front."), "unknown");
    assert_eq!(world.a(WEB, "web\\.front.example."), "forwarded");
}

#[test]
fn f9_from_internal_networks_nothing_is_forwarded_unless_there_is_an_ordinary_one() {
    let mut world = world();
    assert_eq!(world.a(SECRET, "secret."), "172.20.0.2");
    for (name, rtype) in
        [("example.com.", RecordType::A), ("a.b.vault.", RecordType::A), (".", RecordType::NS)]
    {
        assert_eq!(world.ask(SECRET, name, rtype), "unknown");
        assert_eq!(world.ask(("172.20.0.9", "br-vault"), name, rtype), "unknown");
    }
    world.table.set_endpoint(&endpoint("back", "c-secret", &["secret"], &["172.19.0.7"]));
    assert_eq!(world.a(SECRET, "example.com."), "forwarded");
}

#[test]
fn f11_who_does_not_want_us_to_ask_others_is_refused_what_only_they_know() {
    let world = world();
    let mut message = question("example.com.", RecordType::A);
    message.metadata.recursion_desired = false;
    let Reply::Error(bytes) = world.reply(WEB, &message.to_vec().unwrap()) else { panic!() };
    assert_eq!(short(&Message::from_vec(&bytes).unwrap()), "refused");
}

#[test]
fn l5_a_thousand_networks_are_told_apart() {
    let mut world = world();
    for n in 0..1000_u32 {
        let (a, b) = (n / 250, n % 250);
        let (gateway, subnet) = (format!("10.{a}.{b}.1"), format!("10.{a}.{b}.0/24"));
        world.table.set_network(network(&format!("net{n}"), &[&gateway], &[&subnet]));
        let address = format!("10.{a}.{b}.2");
        world.table.set_endpoint(&endpoint(&format!("net{n}"), &format!("c-{n}"), &["db"], &[&address]));
    }
    assert_eq!(world.a(("10.3.249.9", "br-net999"), "db."), "10.3.249.2");
    assert_eq!(world.a(("10.3.249.9", "br-net999"), "db.net998."), "unknown");
    assert_eq!(world.a(("10.3.249.9", "br-net998"), "db."), "silence");
}

/// Questions for names that exist and for others, with octets changed and bytes after them.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let names =
        ["many.", "many.front.", "db.dns.podman.", "9.9.18.172.in-addr.arpa.", "localhost.", "a.example."];
    let types = [RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::SOA, RecordType::ANY];
    let spoil = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let opt = prop::option::of(any::<u16>());
    let (names, types) = (prop::sample::select(names.to_vec()), prop::sample::select(types.to_vec()));
    (names, types, opt, spoil, prop::collection::vec(any::<u8>(), 0..3)).prop_map(
        |(name, rtype, opt, spoil, tail)| {
            let mut message = question(name, rtype);
            message.edns = opt.map(|size| Edns::new().set_max_payload(size).clone());
            let mut message = message.to_vec().unwrap();
            for (place, byte) in spoil {
                let place = place.index(message.len());
                message[place] = byte;
            }
            message.extend(tail);
            message
        },
    )
}

fn crowded() -> World {
    let mut world = world();
    for n in 0..200 {
        let address = format!("172.18.2.{n}");
        world.table.set_endpoint(&endpoint("front", &format!("c-{n}"), &["many"], &[&address]));
    }
    world
}

proptest! {
    #[test]
    fn h4_no_message_brings_an_answer_that_is_too_long_or_cannot_be_read(
        messages in prop::collection::vec(
            prop_oneof![4 => messages(), 1 => prop::collection::vec(any::<u8>(), 0..100)], 1..50),
    ) {
        let world = crowded();
        for message in messages {
            let asked = Asked {
                message: &message, from: ip(WEB.0), link: WEB.1, to: ip("172.18.0.1"), transport: Transport::Udp,
            };
            let (Reply::Answer(answer) | Reply::Error(answer)) = world.table.answer(&asked, 7) else { continue };
            let size = Message::from_vec(&message).ok().and_then(|read| read.edns).map(|edns| edns.max_payload());
            prop_assert!(answer.len() <= usize::from(size.unwrap_or(512).clamp(512, 1232)));
            let read = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(&answer[..2], &message[..2]);
            prop_assert!(read.metadata.message_type == MessageType::Response);
        }
    }
}

#[test]
fn n9_a_network_called_like_a_domain_hides_nothing_of_it() {
    let mut world = world();
    world.table.set_network(network("example.io", &["172.21.0.1"], &["172.21.0.0/24"]));
    world.table.set_endpoint(&endpoint("example.io", "c-shop", &["shop"], &["172.21.0.2"]));
    let shop = ("172.21.0.2", "br-example.io");
    assert_eq!(world.a(shop, "shop.example.io."), "172.21.0.2");
    for name in ["www.example.io.", "example.io.", "a.b.example.io."] {
        assert_eq!(world.a(shop, name), "forwarded", "{name}");
    }
    assert_eq!(world.a(WEB, "www.example.io."), "forwarded", "nor from other networks");
    assert_eq!(world.a(WEB, "shop.example.io."), "forwarded");
    assert_eq!(world.a(WEB, "nosuch.back."), "unknown", "a network of one label does");
}

#[test]
fn v5_nobody_is_answered_at_an_address_that_is_nobodys_own() {
    let world = world();
    for from in ["::", "0.0.0.0", "::ffff:0.0.0.0", "ff02::1", "224.0.0.1"] {
        for name in ["web.", "example.com."] {
            assert_eq!(world.a((from, "br-front"), name), "silence", "{from}");
        }
    }
}
