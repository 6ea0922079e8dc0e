//! Who sees which names: rules V1 to V7.

use crate::*;

#[test]
fn v1_names_of_all_networks_of_the_asker_are_merged_first_that_of_the_question() {
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
fn v5_a_source_that_came_through_another_link_than_its_networks_bridge_gets_no_answer() {
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
fn v5_equal_subnets_of_two_networks_are_distinguished_by_their_bridges() {
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
fn v5_a_source_that_no_host_can_have_gets_no_answer() {
    let world = world();
    for from in ["::", "0.0.0.0", "::ffff:0.0.0.0", "ff02::1", "224.0.0.1"] {
        for name in ["web.", "example.com."] {
            assert_eq!(world.a((from, "br-front"), name), "silence", "{from}");
        }
    }
}
