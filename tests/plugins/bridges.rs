//! Bridges and what hangs on them (cni.md 2.1, 2.2; 3: B1 to B8).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use netlink::{Mac, Request, Veth};
use netns_fixtures::{Frames, assert_same, frame, wait_for_carrier};
use serde_json::{Value, json};

use crate::common::{LONG, Lab, Who, address, bridge, differences, inside, publishing, rnet, with};

/// A bridge that was there before us.
fn make_bridge(lab: &Lab, name: &str, mtu: u32, addresses: &[&str]) -> u32 {
    let mut netlink = lab.netlink();
    netlink
        .send(&[Request::Bridge {
            name: name.into(),
            mac: Mac([6, 0, 0, 0, 0, 1]),
            mtu: Some(mtu),
            snooping: true,
        }])
        .unwrap();
    let index = netlink.link(name).unwrap().unwrap().index;
    let add =
        |address: &&str| Request::AddressAdd { index, name: name.into(), address: address.parse().unwrap() };
    netlink.send(&addresses.iter().map(add).collect::<Vec<_>>()).unwrap();
    index
}

fn addresses(lab: &Lab, name: &str) -> Vec<String> {
    let mut netlink = lab.netlink();
    let index = netlink.link(name).unwrap().unwrap().index;
    let found = netlink.addresses(Some(index)).unwrap().into_iter().map(|found| found.address);
    let mut found: Vec<_> =
        found.filter(|address| !is_link_local(*address)).map(|address| address.to_string()).collect();
    found.sort();
    found
}

fn is_link_local(address: IpNetwork) -> bool {
    matches!(address.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn defaults(netns: &netlink::Netns) -> Vec<String> {
    let routes = inside(netns).routes().unwrap();
    let found = routes.into_iter().filter(|route| route.destination.prefix() == 0 && route.gateway.is_some());
    found.map(|route| route.gateway.unwrap().to_string()).collect()
}

fn veth_of(result: &Value) -> &str {
    result["interfaces"][1]["name"].as_str().unwrap()
}

#[test]
fn a_link_of_somebodys_with_the_name_of_our_host_end_is_left_alone() {
    let lab = Lab::new();
    let (_container, who) = lab.container("c1");
    let config = rnet("mynet", &["10.7.0.0/24"]);
    let name = |attempt| store::Key::new("mynet", "c1", "eth0").link(attempt);
    make_bridge(&lab, &name(0), 1500, &[]);

    assert_eq!(veth_of(&lab.add("rnet", &who, &config)), name(1));
    lab.del("rnet", &who, &config);
    assert_eq!(lab.links(), [name(0)]);

    for attempt in 1..4 {
        make_bridge(&lab, &name(attempt), 1500, &[]);
    }
    let all = lab.links();
    let (code, text) = lab.cni("ADD", "rnet", &who, &config).refusal();
    assert!(code == 104 && all.iter().all(|name| text.contains(name)), "{code} {text}");
    assert_eq!(lab.links(), all);
    lab.del("rnet", &who, &config);
    assert_eq!((lab.links(), lab.elements()), (all, Vec::new()));
}

#[test]
fn an_add_to_a_full_bridge_says_so_and_leaves_nothing() {
    let lab = Lab::new();
    let config = rnet("mynet", &["10.7.0.0/24"]);
    let (_resident, resident) = lab.container("resident");
    let result = lab.add("rnet", &resident, &config);
    let crowd = netlink::Netns::create().unwrap();
    let mut host = lab.netlink();
    let master = host.link(result["interfaces"][0]["name"].as_str().unwrap()).unwrap().map(|link| link.index);
    for number in 2..=1023 {
        let (name, peer) = (format!("port{number}"), format!("eth{number}"));
        let (peer_netns, up) = (&crowd, false);
        let pair =
            Veth { name: &name, mac: None, mtu: None, master, peer: &peer, peer_mac: None, peer_netns, up };
        host.create_veth(&pair).unwrap();
    }
    let (container, who) = lab.container("late");
    let before = (lab.snapshot(), lab.elements());

    let (code, text) = lab.cni("ADD", "rnet", &who, &config).refusal();

    assert!(code == 105 && text.contains("is full: the kernel allows 1023 ports"), "{code} {text}");
    let after = (lab.snapshot(), lab.elements());
    assert_eq!((differences(&before.0, &after.0), before.1), (Vec::new(), after.1));
    assert!(inside(container.netns()).link("eth0").unwrap().is_none());
}

/// Legal, if odd: a namespace is whose it is, an attachment is its container's id and interface.
#[test]
fn two_containers_in_one_namespace_have_books_of_their_own() {
    let lab = Lab::new();
    let (container, web) = lab.container("web");
    let guest = Who::named("guest", &web.netns).ifname("eth1");
    let config = publishing(&rnet("mynet", &["10.7.0.0/24"]), &[("", 8080, 80, "tcp")]);
    let other = publishing(&config, &[("", 8081, 80, "tcp")]);
    lab.add("rnet", &web, &config);
    let before = (lab.snapshot(), lab.elements());

    assert_eq!(lab.cni("ADD", "rnet", &Who::named("guest", &web.netns), &other).refusal().0, 104);
    assert_eq!(lab.elements(), before.1);
    assert_eq!(lab.add("rnet", &guest, &other)["ips"][0]["address"], "10.7.0.3/24");
    lab.del("rnet", &guest, &other);

    let after = (lab.snapshot(), lab.elements());
    assert_eq!((differences(&before.0, &after.0), before.1), (Vec::new(), after.1));
    let mut netlink = inside(container.netns());
    assert!(netlink.link("eth0").unwrap().is_some() && netlink.link("eth1").unwrap().is_none());
}

#[test]
fn a_bridge_without_addresses_is_a_switch_that_can_be_checked() {
    let lab = Lab::new();
    for ipam in [json!({"ipam": {}}), json!({"ipam": null}), json!({})] {
        let (container, who) = lab.container("c1");
        let config = with(&json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge"}), ipam);
        let result = lab.add("bridge", &who, &config);
        assert_eq!((&result["ips"], &result["routes"]), (&Value::Null, &Value::Null));
        assert_eq!(result["interfaces"][0]["name"], "cni0");
        assert!(inside(container.netns()).link("eth0").unwrap().unwrap().up);
        lab.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
        lab.del("bridge", &who, &config);
        assert_eq!(lab.links(), ["cni0"]);
    }
}

#[test]
fn a_container_interface_may_stay_down() {
    let lab = Lab::new();
    let (container, who) = lab.container("c1");
    let config =
        json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge", "disableContainerInterface": true});
    let result = lab.add("bridge", &who, &config);
    assert!(!inside(container.netns()).link("eth0").unwrap().unwrap().up);
    lab.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
}

#[test]
fn the_mtu_of_an_existing_bridge_is_taken_over_or_changed() {
    let lab = Lab::new();
    make_bridge(&lab, "br0", 1400, &[]);
    let config = bridge("n", &["10.1.0.0/24"]);
    let mtus = |result: &Value, container: &netns_fixtures::Container| {
        let inside = inside(container.netns()).link("eth0").unwrap().unwrap().mtu;
        (lab.link("br0").unwrap().mtu, lab.link(veth_of(result)).unwrap().mtu, inside)
    };
    let (container, who) = lab.container("c1");
    let result = lab.add("bridge", &who, &config);
    assert_eq!(mtus(&result, &container), (1400, 1400, 1400));

    let (other, who) = lab.container("c2");
    let result = lab.add("bridge", &who, &with(&config, json!({"mtu": 1300})));
    assert_eq!(mtus(&result, &other), (1300, 1300, 1300));
}

#[test]
fn an_rnet_network_takes_the_mtu_of_the_way_out() {
    let lab = Lab::new();
    let outside = lab.host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
    lab.host.default_route_via(&outside).unwrap();
    let mut netlink = lab.netlink();
    let index = netlink.link(outside.link()).unwrap().unwrap().index;
    netlink.send(&[Request::LinkMtu { index, name: outside.link().into(), mtu: 1420 }]).unwrap();
    let (container, who) = lab.container("c1");
    lab.add("rnet", &who, &rnet("n", &["172.18.0.0/16"]));
    assert_eq!(lab.link("rnet-n").unwrap().mtu, 1420);
    assert_eq!(inside(container.netns()).link("eth0").unwrap().unwrap().mtu, 1420);
}

#[test]
fn another_address_on_the_bridge_is_refused_or_replaced() {
    let lab = Lab::new();
    make_bridge(&lab, "br0", 1500, &["10.1.0.1/24", "fd01::1/64"]);
    let (_container, who) = lab.container("c1");
    let config = bridge("n", &["10.2.0.0/24"]);
    let text = "failed to set bridge addr: \"br0\" already has an IP address different from 10.2.0.1/24";
    assert_eq!(lab.cni("ADD", "bridge", &who, &config).refusal(), (106, text.into()));
    assert_eq!(lab.links(), ["br0"]);
    assert_eq!(addresses(&lab, "br0"), ["10.1.0.1/24", "fd01::1/64"]);

    // IPv6 networks that do not overlap live beside one another.
    let v6 = bridge("v6", &["fd02::/64"]);
    lab.add("bridge", &who, &v6);
    lab.del("bridge", &who, &v6);
    let overlapping = lab.cni("ADD", "bridge", &who, &bridge("v6", &["fd01::/48"]));
    assert_eq!(overlapping.refusal().0, 106);

    let forced = with(&config, json!({"forceAddress": true}));
    lab.add("bridge", &who, &forced);
    assert_eq!(addresses(&lab, "br0"), ["10.2.0.1/24", "fd01::1/64", "fd02::1/64"]);
}

#[test]
fn a_link_that_is_no_bridge_is_left_alone() {
    let lab = Lab::new();
    let (other, _) = lab.container("other");
    let veth = Veth {
        name: "br0",
        mac: None,
        mtu: None,
        master: None,
        peer: "x",
        peer_mac: None,
        peer_netns: other.netns(),
        up: false,
    };
    lab.netlink().create_veth(&veth).unwrap();
    let (_container, who) = lab.container("c1");
    let config = bridge("n", &["10.1.0.0/24"]);
    let text = "failed to create bridge \"br0\": \"br0\" already exists but is not a bridge";
    assert_eq!(lab.cni("ADD", "bridge", &who, &config).refusal(), (106, text.into()));
    assert_eq!(lab.cni("STATUS", "bridge", &who, &config).refusal(), (50, text.into()));
    assert_eq!(lab.links(), ["br0"]);
}

#[test]
fn a_default_route_that_ipam_gives_is_the_only_one() {
    let lab = Lab::new();
    let ipam = json!({
        "type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    for keys in [json!({"isDefaultGateway": true}), json!({"isDefaultGateway": false, "isGateway": true})] {
        let (container, who) = lab.container("c1");
        let config = with(&with(&bridge("n", &[]), keys), json!({"ipam": ipam}));
        lab.add("bridge", &who, &config);
        assert_eq!(defaults(container.netns()), ["10.1.0.1", "fd01::1"]);
        lab.del("bridge", &who, &config);
    }
}

#[test]
fn routes_are_made_as_they_are_configured() {
    let lab = Lab::new();
    let (container, who) = lab.container("c1");
    let routes = json!([
        {"dst": "0.0.0.0/0"},
        {"dst": "10.1.0.0/24"},
        {"dst": "10.8.0.0/16", "gw": "10.1.0.8", "priority": 70, "mtu": 1300, "advmss": 1200},
        {"dst": "10.9.0.0/16", "gw": "10.1.0.9", "table": 100},
        {"dst": "192.0.2.1/32", "scope": 253},
    ]);
    let config = with(
        &bridge("n", &[]),
        json!({
            "isDefaultGateway": false, "isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]], "routes": routes},
        }),
    );
    let result = lab.add("bridge", &who, &config);
    assert_eq!(result["routes"], routes);
    let found = inside(container.netns()).routes().unwrap();
    let of = |text: &str| found.iter().find(|route| route.destination == text.parse().unwrap()).unwrap();
    let metrics = of("10.8.0.0/16");
    assert_eq!((metrics.priority, metrics.mtu, metrics.advmss), (Some(70), Some(1300), Some(1200)));
    assert_eq!(of("10.9.0.0/16").table, Some(100));
    assert_eq!(of("192.0.2.1/32").scope, Some(253));
    assert_eq!(defaults(container.netns()).len(), 1);
    lab.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
}

#[test]
fn a_dead_namespace_leaves_no_bridge() {
    let lab = Lab::new();
    let before = lab.snapshot();
    for (plugin, config) in [("bridge", bridge("n", &["10.1.0.0/24"])), ("rnet", rnet("n", &["10.1.0.0/24"]))]
    {
        let refused = lab.cni("ADD", plugin, &Who::named("c1", "/run/netns/none"), &config).refusal();
        assert_eq!(refused.0, 8);
        assert_same(&before, &lab.snapshot());
    }
}

#[test]
fn the_macs_of_a_result_are_final() {
    let lab = Lab::new();
    let told = |result: &Value, at: usize| result["interfaces"][at]["mac"].as_str().unwrap().to_owned();
    let found = |name: &str| lab.link(name).unwrap().mac.unwrap().to_string();
    let config = bridge("n", &["10.1.0.0/24"]);
    let mut kept = Vec::new();
    for name in ["c1", "c2", "c3"] {
        let (container, who) = lab.container(name);
        kept.push((lab.add("bridge", &who, &config), container));
    }
    for (result, container) in &kept {
        assert!(wait_for_carrier(lab.host.netns(), veth_of(result), LONG).unwrap());
        assert_eq!(told(result, 0), found("br0"));
        assert_eq!(told(result, 1), found(veth_of(result)));
        let inside = inside(container.netns()).link("eth0").unwrap().unwrap().mac.unwrap().to_string();
        assert_eq!(told(result, 2), inside);
        assert_ne!(told(result, 0), told(result, 1));
    }
}

/// CVE-2020-10749. The neighbour that believes it shows that the advertisement was good.
#[test]
fn a_containers_router_advertisement_does_not_move_the_host() {
    let lab = Lab::new();
    let config = bridge("n", &["10.1.0.0/24"]);
    let ((rogue, rogue_who), (victim, victim_who)) = (lab.container("rogue"), lab.container("victim"));
    lab.add("bridge", &rogue_who, &config);
    lab.add("bridge", &victim_who, &config);
    let has_ipv6_default = |netns| {
        let routes = inside(netns).routes().unwrap();
        routes.iter().any(|route| {
            route.destination.is_ipv6() && route.destination.prefix() == 0 && route.gateway.is_some()
        })
    };
    let frames = Frames::on(rogue.netns(), "eth0").unwrap();
    let mac = inside(rogue.netns()).link("eth0").unwrap().unwrap().mac.unwrap().0;
    let (from, to) = ("fe80::bad".parse().unwrap(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let advertisement = frame::icmpv6(from, to, 134, &frame::router_advertisement(1800));
    let advertisement =
        frame::ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd, &frame::ipv6(from, to, 58, &advertisement));

    let mut tries = 0;
    while !has_ipv6_default(victim.netns()) && tries < 100 {
        frames.send(&advertisement).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        tries += 1;
    }

    assert!(has_ipv6_default(victim.netns()));
    assert!(!has_ipv6_default(lab.host.netns()));
    for link in lab.links() {
        assert_eq!(lab.sysctl(&format!("ipv6/conf/{link}/accept_ra")).as_deref(), Some("0"), "{link}");
    }
}

#[test]
fn port_flags_are_set_as_configured() {
    let lab = Lab::new();
    let cases = [
        (json!({}), (Some(false), Some(false), false)),
        (json!({"hairpinMode": true}), (Some(true), Some(false), false)),
        (json!({"portIsolation": true}), (Some(false), Some(true), false)),
        (json!({"promiscMode": true}), (Some(false), Some(false), true)),
    ];
    for (keys, expected) in cases {
        let (_container, who) = lab.container("c1");
        let config = with(&bridge("n", &["10.1.0.0/24"]), keys);
        let result = lab.add("bridge", &who, &config);
        let port = lab.link(veth_of(&result)).unwrap();
        assert_eq!((port.hairpin, port.isolated, lab.link("br0").unwrap().promisc), expected);
        lab.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
        lab.del("bridge", &who, &config);
    }
}

#[test]
fn forwarding_is_turned_on_for_the_families_in_use() {
    let lab = Lab::new();
    // A new namespace may inherit what the machine has.
    lab.set_sysctl("ipv4/ip_forward", "0");
    let (_container, who) = lab.container("c1");
    let l2 = json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge", "bridge": "br9"});
    lab.add("bridge", &who, &l2);
    assert_eq!(lab.sysctl("ipv4/ip_forward").as_deref(), Some("0"));
    lab.add("bridge", &who.clone().ifname("eth1"), &bridge("v4", &["10.1.0.0/24"]));
    assert_eq!(lab.sysctl("ipv4/ip_forward").as_deref(), Some("1"));
    let forwards_v6 = || {
        ["forwarding", "force_forwarding"]
            .iter()
            .any(|key| lab.sysctl(&format!("ipv6/conf/all/{key}")).as_deref() == Some("1"))
    };
    assert!(!forwards_v6());
    lab.add("bridge", &who.ifname("eth2"), &bridge("v6", &["fd01::/64"]));
    assert!(forwards_v6());
}

#[test]
fn duplicate_detection_is_off_unless_asked_for() {
    let lab = Lab::new();
    for (keys, expected) in [(json!({}), "0"), (json!({"enabledad": true}), "1")] {
        let (container, who) = lab.container("c1");
        let config = with(&bridge("n", &["fd01::/64"]), keys);
        lab.add("bridge", &who, &config);
        let sysctl =
            |key: &str| inside(container.netns()).sysctl(&format!("ipv6/conf/eth0/{key}")).unwrap().unwrap();
        assert_eq!((sysctl("accept_dad").as_str(), sysctl("keep_addr_on_down").as_str()), (expected, "1"));
        lab.del("bridge", &who, &config);
    }
}

#[test]
fn with_duplicate_detection_addresses_are_probed_before_add_answers() {
    let lab = Lab::new();
    let config = with(&bridge("n", &["10.1.0.0/24", "fd01::/64"]), json!({"enabledad": true}));
    let (container, who) = lab.container("c1");
    let result = lab.add("bridge", &who, &config);
    let found = inside(container.netns()).addresses(None).unwrap();
    let ours = found.iter().find(|found| found.address.ip() == address(&result, true)).unwrap();
    assert!(!ours.tentative && !ours.dad_failed);
    let sysctl =
        |key: &str| inside(container.netns()).sysctl(&format!("ipv6/conf/eth0/{key}")).unwrap().unwrap();
    assert_eq!((sysctl("accept_dad").as_str(), sysctl("enhanced_dad").as_str()), ("1", "1"));
    assert_eq!(defaults(container.netns()).len(), 2, "a default route for each family");
    lab.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
}

#[test]
fn an_address_that_somebody_has_is_refused_by_name_and_nothing_stays() {
    let lab = Lab::new();
    make_bridge(&lab, "br0", 1500, &["fd01::2/64"]);
    let config = with(&bridge("n", &["fd01::/64"]), json!({"enabledad": true, "isDefaultGateway": false}));
    let (_container, who) = lab.container("c1");
    let text = "link eth0 has address fd01::2 in DADFAILED state: somebody else on bridge \"br0\" has it; \
                hint: ip -6 neighbour show fd01::2";
    assert_eq!(lab.cni("ADD", "bridge", &who, &config).refusal(), (101, text.into()));
    assert_eq!(lab.links(), ["br0"]);
    assert_eq!(addresses(&lab, "br0"), ["fd01::2/64"]);
    // Without being asked for, nobody is asked.
    lab.add("bridge", &who, &with(&config, json!({"enabledad": false})));
}

/// A container whose kernel asks eight times, a second apart.
#[test]
fn a_probe_without_end_fails_after_five_seconds_and_nothing_stays() {
    const TRY_AGAIN_LATER: u64 = 11;
    let lab = Lab::new();
    let config = with(&bridge("n", &["fd01::/64"]), json!({"enabledad": true}));
    let (container, who) = lab.container("c1");
    inside(container.netns()).set_sysctl("ipv6/conf/default/dad_transmits", "8").unwrap();
    let text = "link eth0 still has tentative address fd01::2 after 5 seconds; \
                hint: net.ipv6.conf.eth0.dad_transmits says how often it is asked for, a second apart";
    assert_eq!(lab.cni("ADD", "bridge", &who, &config).refusal(), (TRY_AGAIN_LATER, text.into()));
    assert_eq!(lab.links(), ["br0"]);
    inside(container.netns()).set_sysctl("ipv6/conf/default/dad_transmits", "1").unwrap();
    lab.add("bridge", &who, &config);
}

/// A host that was booted without IPv6 for its links.
#[test]
fn without_ipv6_on_the_host_ipv4_works_and_ipv6_fails_clearly() {
    let lab = Lab::new();
    lab.set_sysctl("ipv6/conf/all/disable_ipv6", "1");
    lab.set_sysctl("ipv6/conf/default/disable_ipv6", "1");
    for (plugin, v4, v6) in [
        ("bridge", bridge("n", &["10.1.0.0/24"]), bridge("m", &["10.2.0.0/24", "fd01::/64"])),
        ("rnet", rnet("n", &["10.3.0.0/24"]), rnet("m", &["10.4.0.0/24", "fd01::/64"])),
    ] {
        let v6 = with(&v6, json!({"bridge": "br6"}));
        let (_container, who) = lab.container("c1");
        let refused = lab.cni("ADD", plugin, &who, &v6).refusal();
        assert!(refused.0 == 50 && refused.1.contains("IPv6 is off"), "{refused:?}");
        assert!(!lab.links().iter().any(|link| link.starts_with("veth") || link == "br6"));
        lab.add(plugin, &who, &v4);
        lab.del(plugin, &who, &v4);
    }
}

#[test]
fn a_bridge_of_type_bridge_stays_and_one_of_type_rnet_goes_if_rnet_made_it() {
    let lab = Lab::new();
    let (_container, who) = lab.container("c1");
    for (plugin, config, left) in [
        ("rnet", rnet("n", &["10.1.0.0/24"]), Vec::new()),
        ("bridge", bridge("n", &["10.1.0.0/24"]), vec!["br0"]),
        ("rnet", with(&rnet("m", &["10.1.0.0/24"]), json!({"bridge": "br0"})), vec!["br0"]),
    ] {
        lab.add(plugin, &who, &config);
        lab.del(plugin, &who, &config);
        assert_eq!(lab.links(), left);
    }
}

/// flannel calls `bridge` as its own delegate: no list, no previous result.
#[test]
fn a_bridge_can_be_another_plugins_delegate() {
    let lab = Lab::new();
    let (_container, who) = lab.container("c1");
    let config = json!({
        "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "hairpinMode": true, "forceAddress": true, "isDefaultGateway": true,
        "isGateway": true, "mtu": 1450, "ipMasq": false,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.0.0/24"}]], "routes": [{"dst": "10.42.0.0/16"}]},
    });
    let result = lab.add("bridge", &who, &config);
    assert_eq!(address(&result, false).to_string(), "10.42.0.2");
    assert_eq!(result["routes"], json!([{"dst": "10.42.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.42.0.1"}]));
    assert_eq!(lab.link("cni0").unwrap().mtu, 1450);
}
