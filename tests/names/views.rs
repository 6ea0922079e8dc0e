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
    let (web, web_who, web_ip) = host.member("web", &config);
    let (db, db_who, db_ip) = host.member("db", &mynet());

    for name in ["web", "WeB", "www", "api", "web.mynet", "www.mynet", "web.dns.rnet", "api.dns.rnet"] {
        assert_eq!(ask(&db, name), known(&[web_ip]), "{name}");
    }
    assert_eq!(ask(&web, "db"), known(&[db_ip]));
    for name in ["no", "nosuch", "nosuch.mynet", "nosuch.dns.rnet", "mynet.web"] {
        assert_ne!(ask(&db, name).code, NOERROR, "{name}");
    }
    assert_eq!(name_of(&db, web_ip).names, ["web.mynet"]);

    host.del("rnet", &web_who, &config);

    for name in ["web", "www", "web.mynet", "web.dns.rnet"] {
        assert_eq!(ask(&db, name), unknown(), "{name}");
    }
    assert_eq!(name_of(&db, web_ip), unknown());
    host.del("rnet", &db_who, &mynet());
    host.is_as(&before);
}

#[test]
fn a_container_without_a_name_answers_to_the_beginning_of_its_id() {
    let host = Host::forwarding();
    let (_web, who) = host.container("4f2a9c00112233445566");
    let (db, ..) = host.member("db", &mynet());

    let web_ip = address(&host.add("rnet", &who, &mynet()), false);

    assert_eq!(ask(&db, "4f2a9c001122"), known(&[web_ip]));
}

#[test]
fn names_stay_on_their_network_unless_a_container_is_on_two() {
    let host = Host::forwarding();
    let (front, back) = (mynet(), named("back", &["10.8.0.0/24"]));
    let (web, web_who, web_ip) = host.member("web", &front);
    let (db, _, db_ip) = host.member("db", &back);

    assert_eq!(ask(&web, "db"), unknown());
    assert_eq!(ask(&web, "db.back"), unknown());
    assert_eq!(ask_at(&db, "10.8.0.1", "web"), unknown());

    let second = web_who.clone().ifname("eth1");
    let web_back = address(&host.add("rnet", &second, &back), false);

    assert_eq!(ask(&web, "db"), known(&[db_ip]), "it sees both");
    assert_eq!(ask(&web, "web"), known(&[web_ip, web_back]), "the network asked at comes first");
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
    let (_web, _, web_ip) = host.member("web", &mynet());

    let from_host = lookup(host.netns(), at(GATEWAY), "web", false, LONG).unwrap();
    let from_outside = lookup(stranger.netns(), at(GATEWAY), "web", false, SOON).unwrap();

    assert_eq!(from_host, Some(known(&[web_ip])));
    assert!(from_outside.is_none_or(|answer| answer.code == crate::server::REFUSED));
}

#[test]
fn both_families_are_served_and_asked_at() {
    let host = Host::forwarding();
    let config = named("mynet", &["10.7.0.0/24", "fd07::/64"]);
    let (_web, who) = host.named("web");
    let result = host.add("rnet", &who, &config);
    let (db, ..) = host.member("db", &config);

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

/// Whoever comes first: the network with names, or the container that publishes.
#[test]
fn who_publishes_port_53_on_every_address_gets_nobody_elses_questions() {
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
        let (_web, web_who, web_ip) = host.member("web", &mynet());
        let (db, db_who, _) = host.member("db", &mynet());
        if !publisher_first {
            publish();
        }
        let socket = hole.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();

        let from_host = || lookup(host.netns(), at(GATEWAY), "web", false, LONG).unwrap();
        assert_eq!((ask(&db, "web"), from_host()), (known(&[web_ip]), Some(known(&[web_ip]))));
        assert!(db.run(|| TcpStream::connect_timeout(&at(GATEWAY), LONG)).unwrap().is_ok());
        // It comes back with everything else.
        host.firewall(|firewall| firewall.drop_tables().unwrap());
        let (_late, late_who, _) = host.member("late", &mynet());
        assert_eq!((ask(&db, "web"), from_host()), (known(&[web_ip]), Some(known(&[web_ip]))));

        let ask_outside =
            || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"first", (outside.host_address(), 53));
        outside.run(ask_outside).unwrap().unwrap();
        let mut heard = [0; 512];
        let length = socket.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"first", "what is for others it never hears");
        for (who, config) in
            [(&web_who, &mynet()), (&db_who, &mynet()), (&late_who, &mynet()), (&hole_who, &other)]
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
    let (_web, ..) = host.member("web", &mynet());
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
    let (_web, who, web_ip) = host.member("web", &config);
    let (db, ..) = host.member("db", &config);
    host.del("rnet", &who, &config);
    let frames = Frames::on(world.netns(), "eth0").unwrap();

    for name in
        ["web", "web.mynet", "web.dns.rnet", "nosuch", "a.mynet", "dns.rnet", "localhost", "x.localhost"]
    {
        ask(&db, name);
    }
    name_of(&db, web_ip);
    name_of(&db, "10.7.0.77".parse().unwrap());
    assert_eq!(frames.wait_for(SOON, is_question).unwrap(), None);

    // The capture is no deaf one: what is not ours does go there.
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
    let (db, ..) = host.member("db", &with(&mynet(), dns.clone()));
    let (shy, ..) = host.member("shy", &with(&guarded, dns));

    assert_eq!(ask(&db, "example.org"), known(&["10.7.0.99".parse().unwrap()]));
    assert_eq!(ask_at(&shy, "10.8.0.1", "example.org").code, SERVFAIL);
}

/// No command makes internal networks yet; the server knows them.
#[test]
fn nothing_of_an_internal_network_leaves_the_host() {
    let host = Host::forwarding();
    let world = host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    host.default_route_via(&world).unwrap();
    let (_web, _, web_ip) = host.member("web", &mynet());
    let (db, ..) = host.member("db", &mynet());
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
    assert_eq!(ask(&db, "web"), known(&[web_ip]));

    assert_eq!(frames.wait_for(SOON, is_question).unwrap(), None);
}

/// The form of CNI's conventions; podman's is network by network.
#[test]
fn aliases_may_be_one_list() {
    let host = Host::forwarding();
    let config = with(&mynet(), json!({"runtimeConfig": {"aliases": ["www", "api"]}}));
    let (_web, _, ip) = host.member("web", &config);
    let (db, ..) = host.member("db", &mynet());

    for name in ["web", "www", "api"] {
        assert_eq!(ask(&db, name), known(&[ip]), "{name}");
    }
}

#[test]
fn several_containers_of_one_name_are_all_found() {
    let host = Host::forwarding();
    let config = with(&mynet(), json!({"runtimeConfig": {"aliases": {"mynet": ["web"]}}}));
    let (_one, one_who, one) = host.member("web1", &config);
    let (_two, _, two) = host.member("web2", &config);
    let (db, ..) = host.member("db", &mynet());
    let sorted = |name: &str| {
        let mut addresses: Vec<IpAddr> = ask(&db, name).addresses;
        addresses.sort();
        addresses
    };

    assert_eq!(sorted("web"), [one, two]);
    host.del("rnet", &one_who, &config);
    assert_eq!(sorted("web"), [two], "the namesake stays");
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
    let (_one, one, one_ip) = host.member("one", &config);
    let (_two, two, two_ip) = host.member("two", &config);
    let (db, ..) = host.member("db", &config);

    host.del("rnet", &one, &config);
    host.del("rnet", &two, &config);
    host.add("rnet", &two, &config);
    host.add("rnet", &one, &config);

    assert_eq!((ask(&db, "one"), ask(&db, "two")), (known(&[two_ip]), known(&[one_ip])), "they have swapped");
}
