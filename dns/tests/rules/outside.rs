//! What leaves the host, and for which servers: rules F1 to F11.

use crate::*;

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
fn f8_a_dot_inside_a_label_matches_no_name() {
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
fn f11_a_question_without_recursion_desired_is_refused_instead_of_forwarded() {
    let world = world();
    let mut message = question("example.com.", RecordType::A);
    message.metadata.recursion_desired = false;
    let Reply::Error(bytes) = world.reply(WEB, &message.to_vec().unwrap()) else { panic!() };
    assert_eq!(short(&Message::from_vec(&bytes).unwrap()), "refused");
}
