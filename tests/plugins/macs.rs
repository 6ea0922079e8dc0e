//! MACs: of bridges, of containers, and who has which on a bridge (docs/rules.md: B3).

use netlink::Mac;
use serde_json::{Value, json};

use crate::common::{Lab, Who, bridge, inside, rnet, with};

fn asking(config: &Value, mac: &str) -> Value {
    with(config, json!({"runtimeConfig": {"mac": mac}}))
}

fn mac_of(result: &Value, at: usize) -> String {
    result["interfaces"][at]["mac"].as_str().unwrap().to_owned()
}

/// Both kinds of network on IPv4, and on IPv6 alone.
fn networks() -> [(&'static str, Value); 4] {
    let [v4, v6] = ["172.18.0.0/16", "fd00:18::/64"];
    [
        ("rnet", rnet("a", &[v4])),
        ("bridge", bridge("a", &[v4])),
        ("rnet", rnet("a", &[v6])),
        ("bridge", bridge("a", &[v6])),
    ]
}

#[test]
fn a_bridge_of_one_name_has_another_mac_on_another_host_and_the_same_when_it_comes_back() {
    for (plugin, config) in networks() {
        let mac = |lab: &Lab, who: &Who| {
            let mac = mac_of(&lab.add(plugin, who, &config), 0);
            lab.del(plugin, who, &config);
            let mut netlink = lab.netlink();
            if let Some(left) = netlink.link("br0").unwrap() {
                lab.host.run(|| netlink::delete_link(left.index, &[], true).unwrap()).unwrap();
            }
            mac
        };
        let (one, other) = (Lab::new(), Lab::new());
        let ((_c1, c1), (_c2, c2)) = (one.container("c"), other.container("c"));

        let first = mac(&one, &c1);
        let (again, elsewhere) = (mac(&one, &c1), mac(&other, &c2));

        assert_eq!(first, again, "{plugin}");
        assert_ne!(first, elsewhere, "{plugin}");
        assert!(first.parse::<Mac>().unwrap().is_unicast());
    }
}

#[test]
fn a_mac_that_is_on_the_bridge_is_refused_and_its_holder_named() {
    for (plugin, config) in networks() {
        let lab = Lab::new();
        let ((_one, one), (_two, two)) = (lab.container("one"), lab.container("two"));
        let (_three, three) = lab.container("three");
        let derived = mac_of(&lab.add(plugin, &one, &config), 2);
        lab.add(plugin, &two, &asking(&config, "02:00:00:00:00:07"));
        let before = lab.links();

        for (mac, holder) in [(derived.as_str(), "one"), ("02:00:00:00:00:07", "two")] {
            let (_, told) = lab.cni("ADD", plugin, &three, &asking(&config, mac)).refusal();
            assert!(told.contains(mac) && told.contains(holder), "{told}");
        }
        let own = mac_of(&lab.add(plugin, &three, &config), 0);
        lab.del(plugin, &three, &config);
        let (_, told) = lab.cni("ADD", plugin, &three, &asking(&config, &own)).refusal();
        assert!(told.contains(&own), "{told}");

        assert_eq!(lab.links(), before);
        // It is free with its holder, also where no DEL came.
        lab.del(plugin, &one, &config);
        lab.add(plugin, &three, &asking(&config, &derived));
    }
}

#[test]
fn a_derived_mac_gives_way_to_one_that_was_asked_for() {
    for (plugin, config) in networks() {
        let lab = Lab::new();
        let ((_one, one), (_two, two)) = (lab.container("one"), lab.container("two"));
        let derived = mac_of(&lab.add(plugin, &one, &config), 2);
        lab.del(plugin, &one, &config);
        // The next that is given, whatever the order of choice.
        let at = |ip: &str| with(&config, json!({"runtimeConfig": {"ips": [ip]}}));
        let v6 = config.to_string().contains("fd00");
        let (first, second) =
            if v6 { ("fd00:18::2/64", "fd00:18::9/64") } else { ("172.18.0.2/16", "172.18.0.9/16") };
        let both = with(&config, json!({"runtimeConfig": {"ips": [second], "mac": derived}}));
        lab.add(plugin, &two, &both);

        let result = lab.add(plugin, &one, &at(first));

        assert_ne!(mac_of(&result, 2), derived, "{plugin}");
        let netns = netlink::Netns::open(std::path::Path::new(&one.netns)).unwrap();
        let found = inside(&netns).link("eth0").unwrap().unwrap().mac.unwrap();
        assert_eq!(found.to_string(), mac_of(&result, 2));
        lab.del(plugin, &one, &config);
        lab.del(plugin, &two, &config);
    }
}

#[test]
fn two_subnets_of_ipv6_on_one_bridge_have_no_mac_in_common() {
    let lab = Lab::new();
    let on = |name: &str, subnet: &str| with(&bridge(name, &[subnet]), json!({"forceAddress": false}));
    let ((_one, one), (_two, two)) = (lab.container("one"), lab.container("two"));

    let first = lab.add("bridge", &one, &on("a", "fd00:1::/64"));
    let second = lab.add("bridge", &two, &on("b", "fd00:2::/64"));

    assert_ne!(mac_of(&first, 2), mac_of(&second, 2));
}

/// A definition was copied, and only its name and bridge were changed.
#[test]
fn one_subnet_on_two_bridges_is_refused_and_the_other_network_named() {
    let subnets = [
        ("172.18.0.0/16", "172.18.0.0/16"),
        ("fd00:18::/64", "fd00:18::/64"),
        // One gateway.
        ("172.18.0.0/16", "172.18.0.0/24"),
    ];
    for (first, second) in subnets {
        for plugin in ["rnet", "bridge"] {
            let of = |name: &str, subnet: &str| {
                let config = if plugin == "rnet" { rnet(name, &[subnet]) } else { bridge(name, &[subnet]) };
                with(&config, json!({"bridge": format!("br-{name}")}))
            };
            let lab = Lab::new();
            let ((_one, one), (_two, two)) = (lab.container("one"), lab.container("two"));
            lab.add(plugin, &one, &of("mine", first));
            let before = lab.links();

            let (code, told) = lab.cni("ADD", plugin, &two, &of("copy", second)).refusal();

            assert!(code == 106 && told.contains("\"mine\"") && told.contains("br-mine"), "{told}");
            assert_eq!(lab.links(), before);
            // It can have the subnet when the other is gone; without a gateway on the host they never meet.
            lab.del(plugin, &one, &of("mine", first));
            if plugin == "bridge" {
                let netlink = lab.netlink().link("br-mine").unwrap().unwrap();
                lab.host.run(|| netlink::delete_link(netlink.index, &[], true).unwrap()).unwrap();
            }
            lab.add(plugin, &two, &of("copy", second));
        }
    }
}

/// A definition was copied, and only its name was changed, or its subnet was made a part of the other's.
#[test]
fn an_address_that_a_container_of_another_network_has_is_refused_and_that_one_named() {
    let twice = |subnet| [("br-mine", subnet), ("br-mine", subnet)];
    let cases = [
        (twice("172.18.0.0/16"), "172.18.0.9"),
        (twice("fd00:18::/64"), "fd00:18::9"),
        ([("br-mine", "172.18.0.0/16"), ("br-copy", "172.18.1.0/24")], "172.18.1.9"),
        ([("br-mine", "fd00:18:0:1::/64"), ("br-copy", "fd00:18::/48")], "fd00:18:0:1::9"),
    ];
    for ([mine, copy], ip) in cases {
        for plugin in ["rnet", "bridge"] {
            let of = |name: &str, (on, subnet): (&str, &str)| {
                let config = if plugin == "rnet" { rnet(name, &[subnet]) } else { bridge(name, &[subnet]) };
                with(&config, json!({"bridge": on, "forceAddress": false, "runtimeConfig": {"ips": [ip]}}))
            };
            let (mine, copy) = (of("mine", mine), of("copy", copy));
            let lab = Lab::new();
            let ((_one, one), (_two, two)) = (lab.container("one"), lab.container("two"));
            lab.add(plugin, &one, &mine);
            // The plugin bridge leaves its bridge, as upstream's does.
            let veths =
                || lab.links().into_iter().filter(|link| link.starts_with("veth")).collect::<Vec<_>>();
            let before = veths();

            let (code, told) = lab.cni("ADD", plugin, &two, &copy).refusal();

            // On one bridge, host-local sees already that it is in use.
            let by_ipam = told.contains("is not available in range set");
            assert!(code == 101 && told.contains(ip), "{told}");
            assert!(by_ipam || told.contains("\"one\" on \"mine\""), "{told}");
            assert_eq!(veths(), before);
            // Another address works beside it, and this one is free with its holder.
            lab.add(plugin, &two, &with(&copy, json!({"runtimeConfig": null})));
            lab.del(plugin, &two, &copy);
            lab.del(plugin, &one, &mine);
            lab.add(plugin, &two, &copy);
        }
    }
}
