//! Which names there are: rules N1 to N9.

use crate::*;

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
fn n6_names_that_cannot_be_asked_for_and_forms_that_are_too_long_are_left_out() {
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
    assert_eq!(world.ptr(WEB, "172.18.0.2"), "web.", "the longer form is another endpoint's");
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
fn n9_a_network_with_the_name_of_a_domain_hides_nothing_of_it() {
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
