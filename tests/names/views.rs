//! Who is found by which name, and by whom.

use std::net::{IpAddr, TcpStream, UdpSocket};

use netns_fixtures::{Frames, lookup};
use serde_json::json;

use crate::common::{Host, SOON, address, publishing, rnet, with};
use crate::server::{
    GATEWAY, LONG, NOERROR, NXDOMAIN, SERVFAIL, ask, ask_at, at, known, mynet, name_of, named, unknown,
};

#[test]
fn every_name_of_a_container_answers_at_once_and_none_after_its_del() {
    let host = Host::forwarding();
    let before = host.snapshot();
    let config =
        with(&mynet(), json!({"runtimeConfig": {"aliases": {"mynet": ["www", "api"], "other": ["no"]}}}));
    let web = host.join("web", &config);
    let db = host.join("db", &mynet());

    for name in ["web", "WeB", "www", "api", "web.mynet", "www.mynet", "web.dns.rnet", "api.dns.rnet"] {
        assert_eq!(ask(&db, name), known(&[web.v4()]), "{name}");
    }
    assert_eq!(ask(&web, "db"), known(&[db.v4()]));
    for name in ["no", "nosuch", "nosuch.mynet", "nosuch.dns.rnet", "mynet.web"] {
        assert_ne!(ask(&db, name).code, NOERROR, "{name}");
    }
    assert_eq!(name_of(&db, web.v4()).names, ["web.mynet"]);

    web.detach();

    for name in ["web", "www", "web.mynet", "web.dns.rnet"] {
        assert_eq!(ask(&db, name), unknown(), "{name}");
    }
    assert_eq!(name_of(&db, web.v4()), unknown());
    db.detach();
    host.is_as(&before);
}

#[test]
fn a_container_without_a_name_answers_to_the_beginning_of_its_id() {
    let host = Host::forwarding();
    let (_web, who) = host.container("4f2a9c00112233445566");
    let db = host.join("db", &mynet());

    let web_ip = address(&host.add("rnet", &who, &mynet()), false);

    assert_eq!(ask(&db, "4f2a9c001122"), known(&[web_ip]));
}

#[test]
fn names_stay_on_their_network_unless_a_container_is_on_two() {
    let host = Host::forwarding();
    let (front, back) = (mynet(), named("back", &["10.8.0.0/24"]));
    let web = host.join("web", &front);
    let db = host.join("db", &back);

    assert_eq!(ask(&web, "db"), unknown());
    assert_eq!(ask(&web, "db.back"), unknown());
    assert_eq!(ask_at(&db, "10.8.0.1", "web"), unknown());

    let second = web.who.clone().ifname("eth1");
    let web_back = address(&host.add("rnet", &second, &back), false);

    assert_eq!(ask(&web, "db"), known(&[db.v4()]), "it sees both");
    assert_eq!(ask(&web, "web"), known(&[web.v4(), web_back]), "the network asked at comes first");
    assert_eq!(ask_at(&db, "10.8.0.1", "web"), known(&[web_back]), "and is seen with its address there");
    host.del("rnet", &second, &back);
    assert_eq!(ask(&web, "db"), unknown());
    assert_eq!(ask_at(&db, "10.8.0.1", "web"), unknown());
}

#[test]
fn the_host_may_ask_any_gateway_and_a_stranger_none() {
    let host = Host::forwarding();
    let stranger = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    stranger.route_via_host("10.7.0.0/24".parse().unwrap()).unwrap();
    let web = host.join("web", &mynet());

    let from_host = lookup(host.netns(), at(GATEWAY), "web", false, LONG).unwrap();
    let from_outside = lookup(stranger.netns(), at(GATEWAY), "web", false, SOON).unwrap();

    assert_eq!(from_host, Some(known(&[web.v4()])));
    assert!(from_outside.is_none_or(|answer| answer.code == crate::server::REFUSED));
}

#[test]
fn both_families_are_served_and_asked_at() {
    let host = Host::forwarding();
    let config = named("mynet", &["10.7.0.0/24", "fd07::/64"]);
    let (_web, who) = host.named("web");
    let result = host.add("rnet", &who, &config);
    let db = host.join("db", &config);

    assert_eq!(result["dns"]["nameservers"], json!(["10.7.0.1", "fd07::1"]));
    for gateway in [GATEWAY, "fd07::1"] {
        for v6 in [false, true] {
            let answer = lookup(db.netns(), at(gateway), "web", v6, LONG).unwrap();
            assert_eq!(answer, Some(known(&[address(&result, v6)])), "{gateway} {v6}");
        }
    }
}

/// A datagram of IPv4 to port 53.
fn is_question(frame: &[u8]) -> bool {
    frame.get(23) == Some(&17) && frame.get(36..38) == Some(&[0, 53])
}

/// In either order: the network with names first, or the container that publishes.
#[test]
fn a_container_that_publishes_port_53_on_every_address_gets_no_others_questions() {
    for publisher_first in [false, true] {
        let host = Host::forwarding();
        let before = host.snapshot();
        let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
        let (hole, hole_who) = host.named("hole");
        let other = publishing(&rnet("other", &["10.8.0.0/24"]), &[("", 53, 53, "udp"), ("", 53, 53, "tcp")]);
        let publish = || drop(host.add("rnet", &hole_who, &other));
        if publisher_first {
            publish();
        }
        let web = host.join("web", &mynet());
        let db = host.join("db", &mynet());
        if !publisher_first {
            publish();
        }
        let socket = hole.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();

        let from_host = || lookup(host.netns(), at(GATEWAY), "web", false, LONG).unwrap();
        assert_eq!((ask(&db, "web"), from_host()), (known(&[web.v4()]), Some(known(&[web.v4()]))));
        assert!(db.run(|| TcpStream::connect_timeout(&at(GATEWAY), LONG)).unwrap().is_ok());
        // It comes back with everything else.
        host.firewall(|firewall| firewall.drop_tables().unwrap());
        let late = host.join("late", &mynet());
        assert_eq!((ask(&db, "web"), from_host()), (known(&[web.v4()]), Some(known(&[web.v4()]))));

        let ask_outside =
            || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"first", (outside.host_address(), 53));
        outside.run(ask_outside).unwrap().unwrap();
        let mut heard = [0; 512];
        let length = socket.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"first", "what is for others it never hears");
        for (who, config) in
            [(&web.who, &mynet()), (&db.who, &mynet()), (&late.who, &mynet()), (&hole_who, &other)]
        {
            host.del("rnet", who, config);
        }
        assert_eq!(host.elements(), []);
        drop(outside);
        host.is_as(&before);
    }
}

#[test]
fn a_gateways_port_53_is_the_name_servers() {
    let host = Host::forwarding();
    let _web = host.join("web", &mynet());
    let (_other, who) = host.named("other");
    let config = publishing(&rnet("other", &["10.8.0.0/24"]), &[(GATEWAY, 53, 53, "udp")]);

    let (code, text) = host.cni("ADD", "rnet", &who, &config).refusal();

    assert!(code == 102 && text.ends_with("by rnet's name server"), "{code} {text}");
}

#[test]
fn own_names_never_leave_the_host() {
    let host = Host::forwarding();
    let world = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    host.default_route_via(&world).unwrap();
    // The world's machine is the network's server, so whatever is forwarded comes by its link.
    let upstream =
        json!({"names": true, "dns": {"domain": "dns.rnet", "nameservers": [world.address().to_string()]}});
    let config = with(&mynet(), upstream);
    let web = host.join("web", &config);
    let db = host.join("db", &config);
    web.detach();
    let frames = Frames::on(world.netns(), "eth0").unwrap();

    for name in
        ["web", "web.mynet", "web.dns.rnet", "nosuch", "a.mynet", "dns.rnet", "localhost", "x.localhost"]
    {
        ask(&db, name);
    }
    name_of(&db, web.v4());
    name_of(&db, "10.7.0.77".parse().unwrap());
    assert_eq!(frames.wait_for(SOON, is_question).unwrap(), None);

    // The capture does hear: questions for other names do go there.
    assert_ne!(ask(&db, "example.org").code, NXDOMAIN);
    assert!(frames.wait_for(LONG, is_question).unwrap().is_some());
}

/// A server outside that says of every name that it is at 10.7.0.99, where a container may be.
#[test]
fn a_network_may_refuse_answers_that_point_inside() {
    let host = Host::forwarding();
    let world = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let at_port_53 = (world.address(), 53);
    let socket = world.netns().run(|| UdpSocket::bind(at_port_53).unwrap()).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, asker)) = socket.recv_from(&mut question) {
            let mut answer = question[..len].to_vec();
            (answer[2], answer[7]) = (answer[2] | 0x80, 1);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 7, 0, 99]);
            let _ = socket.send_to(&answer, asker);
        }
    });
    let dns = json!({"dns": {"nameservers": [world.address().to_string()]}});
    let guarded = with(&named("back", &["10.8.0.0/24"]), json!({"rebindingGuard": true}));
    let db = host.join("db", &with(&mynet(), dns.clone()));
    let shy = host.join("shy", &with(&guarded, dns));

    assert_eq!(ask(&db, "example.org"), known(&["10.7.0.99".parse().unwrap()]));
    assert_eq!(ask_at(&shy, "10.8.0.1", "example.org").code, SERVFAIL);
}

/// No command makes internal networks yet; the server knows them.
#[test]
fn nothing_of_an_internal_network_leaves_the_host() {
    let host = Host::forwarding();
    let world = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    host.default_route_via(&world).unwrap();
    let web = host.join("web", &mynet());
    let db = host.join("db", &mynet());
    let told = dns::Network {
        name: "mynet".into(),
        bridge: "rnet-mynet".into(),
        gateways: vec![GATEWAY.parse().unwrap()],
        subnets: vec!["10.7.0.0/24".parse().unwrap()],
        upstreams: vec![at(&world.address().to_string())],
        internal: true,
        ..dns::Network::default()
    };
    let socket = host.run_folder().join("locks/dns");
    host.run(|| dns::client::set(&socket, &told, None).unwrap()).unwrap();
    let frames = Frames::on(world.netns(), "eth0").unwrap();

    assert_eq!(ask(&db, "example.org"), unknown());
    assert_eq!(ask(&db, "web"), known(&[web.v4()]));

    assert_eq!(frames.wait_for(SOON, is_question).unwrap(), None);
}

/// The form of CNI's conventions; podman's is network by network.
#[test]
fn aliases_may_be_one_list() {
    let host = Host::forwarding();
    let config = with(&mynet(), json!({"runtimeConfig": {"aliases": ["www", "api"]}}));
    let web = host.join("web", &config);
    let db = host.join("db", &mynet());

    for name in ["web", "www", "api"] {
        assert_eq!(ask(&db, name), known(&[web.v4()]), "{name}");
    }
}

#[test]
fn several_containers_of_one_name_are_all_found() {
    let host = Host::forwarding();
    let config = with(&mynet(), json!({"runtimeConfig": {"aliases": {"mynet": ["web"]}}}));
    let one = host.join("web1", &config);
    let two = host.join("web2", &config);
    let db = host.join("db", &mynet());
    let sorted = |name: &str| {
        let mut addresses: Vec<IpAddr> = ask(&db, name).addresses;
        addresses.sort();
        addresses
    };

    assert_eq!(sorted("web"), [one.v4(), two.v4()]);
    one.detach();
    assert_eq!(sorted("web"), [two.v4()], "the namesake stays");
}

#[test]
fn a_result_tells_the_container_whom_to_ask() {
    let host = Host::forwarding();
    let search =
        json!({"names": true, "dns": {"domain": "lab", "search": ["example.net"], "options": ["ndots:1"]}});
    let (_web, who) = host.named("web");

    let result = host.add("rnet", &who, &with(&mynet(), search));

    let expected =
        json!({"nameservers": ["10.7.0.1"], "search": ["lab", "example.net"], "options": ["ndots:1"]});
    assert_eq!(result["dns"], expected);
}

#[test]
fn a_name_follows_its_container_to_another_address() {
    let host = Host::forwarding();
    // Without sticky addresses a container that comes back gets whatever is free.
    let config = with(&mynet(), json!({"stickyAddresses": false}));
    let one = host.join("one", &config);
    let two = host.join("two", &config);
    let db = host.join("db", &config);

    one.detach();
    two.detach();
    host.add("rnet", &two.who, &config);
    host.add("rnet", &one.who, &config);

    assert_eq!(
        (ask(&db, "one"), ask(&db, "two")),
        (known(&[two.v4()]), known(&[one.v4()])),
        "they have swapped"
    );
}
