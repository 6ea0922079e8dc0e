//! What is answered to each type of question: rules A1 to A10.

use crate::*;

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
fn a4_an_endpoint_named_like_an_address_does_not_answer_for_it() {
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
    // A subnet of 20 bits is 16 zones, and the zone above them is not the server's.
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
fn a6_and_a7_answers_have_a_ttl_of_0_and_negative_ones_the_zone() {
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
fn a10_an_endpoint_that_is_gone_has_no_name_no_address_and_no_view() {
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
fn a10_an_endpoint_without_names_has_a_view_until_its_network_is_removed() {
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
