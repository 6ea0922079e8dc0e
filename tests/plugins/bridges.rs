//! Bridges and what hangs on them (docs/rules.md: B1 to B8).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Mac, Request, Veth};
use netns_fixtures::{assert_same, wait_for_carrier};
use serde_json::{Value, json};

use crate::common::{Host, LONG, Who, address, bridge, differences, inside, publishing, rnet, with};

/// A bridge that was there before rnet.
pub fn make_bridge(host: &Host, name: &str, mtu: u32, addresses: &[&str]) -> u32 {
    let mut netlink = host.netlink();
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

pub fn addresses(host: &Host, name: &str) -> Vec<String> {
    let mut netlink = host.netlink();
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

pub fn defaults(netns: &netlink::Netns) -> Vec<String> {
    let routes = inside(netns).routes().unwrap();
    let found = routes.into_iter().filter(|route| route.destination.prefix() == 0 && route.gateway.is_some());
    found.map(|route| route.gateway.unwrap().to_string()).collect()
}

fn veth_of(result: &Value) -> &str {
    result["interfaces"][1]["name"].as_str().unwrap()
}

#[test]
fn a_foreign_link_with_the_name_of_a_host_end_is_left_alone() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = rnet("mynet", &["10.7.0.0/24"]);
    let name = |attempt| store::Key::new("mynet", "c1", "eth0").link(attempt);
    make_bridge(&host, &name(0), 1500, &[]);

    assert_eq!(veth_of(&host.add("rnet", &who, &config)), name(1));
    host.del("rnet", &who, &config);
    assert_eq!(host.links(), [name(0)]);

    for attempt in 1..4 {
        make_bridge(&host, &name(attempt), 1500, &[]);
    }
    let all = host.links();
    let (code, text) = host.cni("ADD", "rnet", &who, &config).refusal();
    assert!(code == 104 && all.iter().all(|name| text.contains(name)), "{code} {text}");
    assert_eq!(host.links(), all);
    host.del("rnet", &who, &config);
    assert_eq!((host.links(), host.elements()), (all, Vec::new()));
}

#[test]
fn an_add_to_a_full_bridge_says_so_and_leaves_nothing() {
    let host = Host::new();
    let config = rnet("mynet", &["10.7.0.0/24"]);
    let (_resident, resident) = host.container("resident");
    let result = host.add("rnet", &resident, &config);
    let crowd = netlink::Netns::create().unwrap();
    let mut netlink = host.netlink();
    let master =
        netlink.link(result["interfaces"][0]["name"].as_str().unwrap()).unwrap().map(|link| link.index);
    for number in 2..=1023 {
        let (name, peer) = (format!("port{number}"), format!("eth{number}"));
        let (peer_netns, up) = (&crowd, false);
        let pair =
            Veth { name: &name, mac: None, mtu: None, master, peer: &peer, peer_mac: None, peer_netns, up };
        netlink.create_veth(&pair).unwrap();
    }
    let (container, who) = host.container("late");
    let before = (host.snapshot(), host.elements());

    let (code, text) = host.cni("ADD", "rnet", &who, &config).refusal();

    assert!(code == 105 && text.contains("is full: the kernel allows 1023 ports"), "{code} {text}");
    let after = (host.snapshot(), host.elements());
    assert_eq!((differences(&before.0, &after.0), before.1), (Vec::new(), after.1));
    assert!(inside(container.netns()).link("eth0").unwrap().is_none());
}

/// Legal, if odd: a namespace is whose it is, an attachment is its container's id and interface.
#[test]
fn two_containers_in_one_namespace_have_books_of_their_own() {
    let host = Host::new();
    let (container, web) = host.container("web");
    let guest = Who::named("guest", &web.netns).ifname("eth1");
    let config = publishing(&rnet("mynet", &["10.7.0.0/24"]), &[("", 8080, 80, "tcp")]);
    let other = publishing(&config, &[("", 8081, 80, "tcp")]);
    host.add("rnet", &web, &config);
    let before = (host.snapshot(), host.elements());

    assert_eq!(host.cni("ADD", "rnet", &Who::named("guest", &web.netns), &other).refusal().0, 104);
    assert_eq!(host.elements(), before.1);
    assert_eq!(host.add("rnet", &guest, &other)["ips"][0]["address"], "10.7.0.3/24");
    host.del("rnet", &guest, &other);

    let after = (host.snapshot(), host.elements());
    assert_eq!((differences(&before.0, &after.0), before.1), (Vec::new(), after.1));
    let mut netlink = inside(container.netns());
    assert!(netlink.link("eth0").unwrap().is_some() && netlink.link("eth1").unwrap().is_none());
}

#[test]
fn a_bridge_without_addresses_is_a_switch_that_can_be_checked() {
    let host = Host::new();
    for ipam in [json!({"ipam": {}}), json!({"ipam": null}), json!({})] {
        let (container, who) = host.container("c1");
        let config = with(&json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge"}), ipam);
        let result = host.add("bridge", &who, &config);
        assert_eq!((&result["ips"], &result["routes"]), (&Value::Null, &Value::Null));
        assert_eq!(result["interfaces"][0]["name"], "cni0");
        assert!(inside(container.netns()).link("eth0").unwrap().unwrap().up);
        host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
        host.del("bridge", &who, &config);
        assert_eq!(host.links(), ["cni0"]);
    }
}

#[test]
fn a_container_interface_may_stay_down() {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let config =
        json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge", "disableContainerInterface": true});
    let result = host.add("bridge", &who, &config);
    assert!(!inside(container.netns()).link("eth0").unwrap().unwrap().up);
    host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
}

#[test]
fn the_mtu_of_an_existing_bridge_is_taken_over_or_changed() {
    let host = Host::new();
    make_bridge(&host, "br0", 1400, &[]);
    let config = bridge("n", &["10.1.0.0/24"]);
    let mtus = |result: &Value, container: &netns_fixtures::Container| {
        let inside = inside(container.netns()).link("eth0").unwrap().unwrap().mtu;
        (host.link("br0").unwrap().mtu, host.link(veth_of(result)).unwrap().mtu, inside)
    };
    let (container, who) = host.container("c1");
    let result = host.add("bridge", &who, &config);
    assert_eq!(mtus(&result, &container), (1400, 1400, 1400));

    let (other, who) = host.container("c2");
    let result = host.add("bridge", &who, &with(&config, json!({"mtu": 1300})));
    assert_eq!(mtus(&result, &other), (1300, 1300, 1300));
}

#[test]
fn an_rnet_network_takes_the_mtu_of_the_way_out() {
    let host = Host::new();
    let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
    host.default_route_via(&outside).unwrap();
    let mut netlink = host.netlink();
    let index = netlink.link(outside.link()).unwrap().unwrap().index;
    netlink.send(&[Request::LinkMtu { index, name: outside.link().into(), mtu: 1420 }]).unwrap();
    let (container, who) = host.container("c1");
    host.add("rnet", &who, &rnet("n", &["172.18.0.0/16"]));
    assert_eq!(host.link("rnet-n").unwrap().mtu, 1420);
    assert_eq!(inside(container.netns()).link("eth0").unwrap().unwrap().mtu, 1420);
}

#[test]
fn another_address_on_the_bridge_is_refused_or_replaced() {
    let host = Host::new();
    make_bridge(&host, "br0", 1500, &["10.1.0.1/24", "fd01::1/64"]);
    let (_container, who) = host.container("c1");
    let config = bridge("n", &["10.2.0.0/24"]);
    let text = "failed to set bridge addr: \"br0\" already has an IP address different from 10.2.0.1/24";
    assert_eq!(host.cni("ADD", "bridge", &who, &config).refusal(), (106, text.into()));
    assert_eq!(host.links(), ["br0"]);
    assert_eq!(addresses(&host, "br0"), ["10.1.0.1/24", "fd01::1/64"]);

    // IPv6 networks that do not overlap live beside one another.
    let v6 = bridge("v6", &["fd02::/64"]);
    host.add("bridge", &who, &v6);
    host.del("bridge", &who, &v6);
    let overlapping = host.cni("ADD", "bridge", &who, &bridge("v6", &["fd01::/48"]));
    assert_eq!(overlapping.refusal().0, 106);

    let forced = with(&config, json!({"forceAddress": true}));
    host.add("bridge", &who, &forced);
    assert_eq!(addresses(&host, "br0"), ["10.2.0.1/24", "fd01::1/64", "fd02::1/64"]);
}

/// The second range of a set has another gateway; the containers of the first keep theirs.
#[test]
fn a_network_keeps_the_gateways_of_all_its_ranges() {
    let host = Host::new();
    let ranges = json!([[{"subnet": "10.7.0.0/30"}, {"subnet": "10.8.0.0/24"}]]);
    let config = with(&rnet("n", &[]), json!({"ipam": {"ranges": ranges}}));
    let attached = ["c1", "c2", "c3"].map(|name| {
        let (container, who) = host.container(name);
        let result = host.add("rnet", &who, &config);
        (container, who, result)
    });
    assert_eq!(addresses(&host, "rnet-n"), ["10.7.0.1/30", "10.8.0.1/24"]);
    for (_, who, result) in &attached {
        host.cni("CHECK", "rnet", who, &with(&config, json!({"prevResult": result}))).silent();
        host.del("rnet", who, &config);
    }
    assert!(host.links().is_empty());
}

#[test]
fn a_network_that_grows_keeps_its_gateways() {
    for (plugin, bridge_name, small, large) in [
        ("rnet", "rnet-n", rnet("n", &["10.1.0.0/24"]), rnet("n", &["10.1.0.0/24", "10.2.0.0/24"])),
        ("bridge", "br0", bridge("n", &["10.1.0.0/24"]), bridge("n", &["10.1.0.0/24", "10.2.0.0/24"])),
    ] {
        let host = Host::new();
        let mut containers = Vec::new();
        for (name, config) in [("c1", &small), ("c2", &large), ("c3", &large)] {
            let (container, who) = host.container(name);
            host.add(plugin, &who, &with(config, json!({"forceAddress": true})));
            containers.push(container);
            let wanted: &[&str] =
                if name == "c1" { &["10.1.0.1/24"] } else { &["10.1.0.1/24", "10.2.0.1/24"] };
            assert_eq!(addresses(&host, bridge_name), wanted, "{plugin} {name}");
        }
    }
}

#[test]
fn a_link_that_is_no_bridge_is_left_alone() {
    let host = Host::new();
    let (other, _) = host.container("other");
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
    host.netlink().create_veth(&veth).unwrap();
    let (_container, who) = host.container("c1");
    let config = bridge("n", &["10.1.0.0/24"]);
    let text = "failed to create bridge \"br0\": \"br0\" already exists but is not a bridge";
    assert_eq!(host.cni("ADD", "bridge", &who, &config).refusal(), (106, text.into()));
    assert_eq!(host.cni("STATUS", "bridge", &who, &config).refusal(), (50, text.into()));
    assert_eq!(host.links(), ["br0"]);
}

#[test]
fn a_default_route_that_ipam_gives_is_the_only_one() {
    let host = Host::new();
    let ipam = json!({
        "type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    for keys in [json!({"isDefaultGateway": true}), json!({"isDefaultGateway": false, "isGateway": true})] {
        let (container, who) = host.container("c1");
        let config = with(&with(&bridge("n", &[]), keys), json!({"ipam": ipam}));
        host.add("bridge", &who, &config);
        assert_eq!(defaults(container.netns()), ["10.1.0.1", "fd01::1"]);
        host.del("bridge", &who, &config);
    }
}

#[test]
fn routes_are_made_as_they_are_configured() {
    let host = Host::new();
    let (container, who) = host.container("c1");
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
    let result = host.add("bridge", &who, &config);
    assert_eq!(result["routes"], routes);
    let found = inside(container.netns()).routes().unwrap();
    let of = |text: &str| found.iter().find(|route| route.destination == text.parse().unwrap()).unwrap();
    let metrics = of("10.8.0.0/16");
    assert_eq!((metrics.priority, metrics.mtu, metrics.advmss), (Some(70), Some(1300), Some(1200)));
    assert_eq!(of("10.9.0.0/16").table, Some(100));
    assert_eq!(of("192.0.2.1/32").scope, Some(253));
    assert_eq!(defaults(container.netns()).len(), 1);
    host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
}

#[test]
fn a_dead_namespace_leaves_no_bridge() {
    let host = Host::new();
    let before = host.snapshot();
    for (plugin, config) in [("bridge", bridge("n", &["10.1.0.0/24"])), ("rnet", rnet("n", &["10.1.0.0/24"]))]
    {
        let refused = host.cni("ADD", plugin, &Who::named("c1", "/run/netns/none"), &config).refusal();
        assert_eq!(refused.0, 8);
        assert_same(&before, &host.snapshot());
    }
}

#[test]
fn the_macs_of_a_result_are_final() {
    let host = Host::new();
    let told = |result: &Value, at: usize| result["interfaces"][at]["mac"].as_str().unwrap().to_owned();
    let found = |name: &str| host.link(name).unwrap().mac.unwrap().to_string();
    let config = bridge("n", &["10.1.0.0/24"]);
    let mut kept = Vec::new();
    for name in ["c1", "c2", "c3"] {
        let (container, who) = host.container(name);
        kept.push((host.add("bridge", &who, &config), container));
    }
    for (result, container) in &kept {
        assert!(wait_for_carrier(host.netns(), veth_of(result), LONG).unwrap());
        assert_eq!(told(result, 0), found("br0"));
        assert_eq!(told(result, 1), found(veth_of(result)));
        let inside = inside(container.netns()).link("eth0").unwrap().unwrap().mac.unwrap().to_string();
        assert_eq!(told(result, 2), inside);
        assert_ne!(told(result, 0), told(result, 1));
    }
}

/// A bridge without a MAC of its own takes the lowest one among its ports.
#[test]
fn the_mac_of_a_foreign_bridge_is_kept() {
    let host = Host::new();
    for (plugin, config) in [
        ("bridge", bridge("n", &["10.1.0.0/24"])),
        ("bridge", json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge", "bridge": "br1"})),
        ("rnet", with(&rnet("m", &["10.2.0.0/24"]), json!({"bridge": "br2"}))),
    ] {
        let name = config["bridge"].as_str().unwrap();
        let made = host.command("ip").args(["link", "add", name, "type", "bridge"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let before = host.link(name).unwrap().mac;
        let (_container, who) = host.container("c1");
        let result = host.add(plugin, &who, &config);
        assert_eq!(host.link(name).unwrap().mac, before, "{plugin}");
        assert_eq!(result["interfaces"][0]["mac"], before.unwrap().to_string());
        host.cni("CHECK", plugin, &who, &with(&config, json!({"prevResult": result}))).silent();
        host.del(plugin, &who, &config);
        assert_eq!(host.link(name).unwrap().mac, before, "{plugin}");
    }
}

#[test]
fn port_flags_are_set_as_configured() {
    let host = Host::new();
    let cases = [
        (json!({}), (Some(false), Some(false), false)),
        (json!({"hairpinMode": true}), (Some(true), Some(false), false)),
        (json!({"portIsolation": true}), (Some(false), Some(true), false)),
        (json!({"promiscMode": true}), (Some(false), Some(false), true)),
    ];
    for (keys, expected) in cases {
        let (_container, who) = host.container("c1");
        let config = with(&bridge("n", &["10.1.0.0/24"]), keys);
        let result = host.add("bridge", &who, &config);
        let port = host.link(veth_of(&result)).unwrap();
        assert_eq!((port.hairpin, port.isolated, host.link("br0").unwrap().promisc), expected);
        host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
        host.del("bridge", &who, &config);
    }
}

#[test]
fn forwarding_is_turned_on_for_the_families_in_use() {
    let host = Host::new();
    // A new namespace may inherit what the machine has.
    host.set_sysctl("ipv4/ip_forward", "0");
    let (_container, who) = host.container("c1");
    let l2 = json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge", "bridge": "br9"});
    host.add("bridge", &who, &l2);
    assert_eq!(host.sysctl("ipv4/ip_forward").as_deref(), Some("0"));
    host.add("bridge", &who.clone().ifname("eth1"), &bridge("v4", &["10.1.0.0/24"]));
    assert_eq!(host.sysctl("ipv4/ip_forward").as_deref(), Some("1"));
    let forwards_v6 = || {
        ["forwarding", "force_forwarding"]
            .iter()
            .any(|key| host.sysctl(&format!("ipv6/conf/all/{key}")).as_deref() == Some("1"))
    };
    assert!(!forwards_v6());
    host.add("bridge", &who.ifname("eth2"), &bridge("v6", &["fd01::/64"]));
    assert!(forwards_v6());
}

#[test]
fn a_bridge_of_type_bridge_stays_and_one_of_type_rnet_goes_if_rnet_made_it() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    for (plugin, config, left) in [
        ("rnet", rnet("n", &["10.1.0.0/24"]), Vec::new()),
        ("bridge", bridge("n", &["10.1.0.0/24"]), vec!["br0"]),
        ("rnet", with(&rnet("m", &["10.1.0.0/24"]), json!({"bridge": "br0"})), vec!["br0"]),
    ] {
        host.add(plugin, &who, &config);
        host.del(plugin, &who, &config);
        assert_eq!(host.links(), left);
    }
}

/// flannel calls `bridge` as its own delegate: no list, no previous result.
#[test]
fn a_bridge_can_be_another_plugins_delegate() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = json!({
        "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "hairpinMode": true, "forceAddress": true, "isDefaultGateway": true,
        "isGateway": true, "mtu": 1450, "ipMasq": false,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.0.0/24"}]], "routes": [{"dst": "10.42.0.0/16"}]},
    });
    let result = host.add("bridge", &who, &config);
    assert_eq!(address(&result, false).to_string(), "10.42.0.2");
    assert_eq!(result["routes"], json!([{"dst": "10.42.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.42.0.1"}]));
    assert_eq!(host.link("cni0").unwrap().mtu, 1450);
}

#[test]
fn a_route_that_the_kernel_refuses_is_told_in_upstreams_words() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let failing = |route: Value| {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]], "routes": [route]});
        host.cni("ADD", "bridge", &who, &with(&bridge("n", &[]), json!({"ipam": ipam}))).refusal()
    };
    let (code, text) = failing(json!({"dst": "10.8.0.0/16", "gw": "192.0.2.1"}));
    let upstreams =
        "failed to add route '10.8.0.0/16 via 192.0.2.1 dev eth0 metric 0 (Scope: universe, Table: 0)': ";
    assert!(code == 109 && text.starts_with(upstreams) && text.contains("`ip route "), "{code} {text}");

    let (code, text) = failing(json!({"dst": "10.8.0.0/16", "gw": "192.0.2.1", "priority": 7, "table": 100}));
    assert!(code == 109 && text.contains("metric 7 (Scope: universe, Table: 100)': "), "{code} {text}");
}
