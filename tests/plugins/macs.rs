//! MACs: of bridges, of containers, and who has which on a bridge (docs/rules.md: B3).

use netlink::Mac;
use serde_json::{Value, json};

use crate::common::{Host, Who, bridge, inside, rnet, with};

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
        let mac = |host: &Host, who: &Who| {
            let mac = mac_of(&host.add(plugin, who, &config), 0);
            host.del(plugin, who, &config);
            let mut netlink = host.netlink();
            if let Some(left) = netlink.link("br0").unwrap() {
                host.run(|| netlink::delete_link(left.index, &[], true).unwrap()).unwrap();
            }
            mac
        };
        let (one, other) = (Host::new(), Host::new());
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
        let host = Host::new();
        let ((_one, one), (_two, two)) = (host.container("one"), host.container("two"));
        let (_three, three) = host.container("three");
        let derived = mac_of(&host.add(plugin, &one, &config), 2);
        host.add(plugin, &two, &asking(&config, "02:00:00:00:00:07"));
        let before = host.links();

        for (mac, holder) in [(derived.as_str(), "one"), ("02:00:00:00:00:07", "two")] {
            let (_, told) = host.cni("ADD", plugin, &three, &asking(&config, mac)).refusal();
            assert!(told.contains(mac) && told.contains(holder), "{told}");
        }
        let own = mac_of(&host.add(plugin, &three, &config), 0);
        host.del(plugin, &three, &config);
        let (_, told) = host.cni("ADD", plugin, &three, &asking(&config, &own)).refusal();
        assert!(told.contains(&own), "{told}");

        assert_eq!(host.links(), before);
        // It is free with its holder, also where no DEL came.
        host.del(plugin, &one, &config);
        host.add(plugin, &three, &asking(&config, &derived));
    }
}

#[test]
fn a_derived_mac_gives_way_to_one_that_was_asked_for() {
    for (plugin, config) in networks() {
        let host = Host::new();
        let ((_one, one), (_two, two)) = (host.container("one"), host.container("two"));
        let derived = mac_of(&host.add(plugin, &one, &config), 2);
        host.del(plugin, &one, &config);
        // The next that is given, whatever the order of choice.
        let at = |ip: &str| with(&config, json!({"runtimeConfig": {"ips": [ip]}}));
        let v6 = config.to_string().contains("fd00");
        let (first, second) =
            if v6 { ("fd00:18::2/64", "fd00:18::9/64") } else { ("172.18.0.2/16", "172.18.0.9/16") };
        let both = with(&config, json!({"runtimeConfig": {"ips": [second], "mac": derived}}));
        host.add(plugin, &two, &both);

        let result = host.add(plugin, &one, &at(first));

        assert_ne!(mac_of(&result, 2), derived, "{plugin}");
        let netns = netlink::Netns::open(std::path::Path::new(&one.netns)).unwrap();
        let found = inside(&netns).link("eth0").unwrap().unwrap().mac.unwrap();
        assert_eq!(found.to_string(), mac_of(&result, 2));
        host.del(plugin, &one, &config);
        host.del(plugin, &two, &config);
    }
}

#[test]
fn two_subnets_of_ipv6_on_one_bridge_have_no_mac_in_common() {
    let host = Host::new();
    let on = |name: &str, subnet: &str| with(&bridge(name, &[subnet]), json!({"forceAddress": false}));
    let ((_one, one), (_two, two)) = (host.container("one"), host.container("two"));

    let first = host.add("bridge", &one, &on("a", "fd00:1::/64"));
    let second = host.add("bridge", &two, &on("b", "fd00:2::/64"));

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
            let host = Host::new();
            let ((_one, one), (_two, two)) = (host.container("one"), host.container("two"));
            host.add(plugin, &one, &of("mine", first));
            let before = host.links();

            let (code, told) = host.cni("ADD", plugin, &two, &of("copy", second)).refusal();

            assert!(code == 106 && told.contains("\"mine\"") && told.contains("br-mine"), "{told}");
            assert_eq!(host.links(), before);
            // It can have the subnet when the other is gone; without a gateway on the host they never meet.
            host.del(plugin, &one, &of("mine", first));
            if plugin == "bridge" {
                let netlink = host.netlink().link("br-mine").unwrap().unwrap();
                host.run(|| netlink::delete_link(netlink.index, &[], true).unwrap()).unwrap();
            }
            host.add(plugin, &two, &of("copy", second));
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
            let host = Host::new();
            let ((_one, one), (_two, two)) = (host.container("one"), host.container("two"));
            host.add(plugin, &one, &mine);
            // The plugin bridge leaves its bridge, as upstream's does.
            let veths =
                || host.links().into_iter().filter(|link| link.starts_with("veth")).collect::<Vec<_>>();
            let before = veths();

            let (code, told) = host.cni("ADD", plugin, &two, &copy).refusal();

            // On one bridge, host-local sees already that it is in use.
            let by_ipam = told.contains("is not available in range set");
            assert!(code == 101 && told.contains(ip), "{told}");
            assert!(by_ipam || told.contains("\"one\" on \"mine\""), "{told}");
            assert_eq!(veths(), before);
            // Another address works beside it, and this one is free with its holder.
            host.add(plugin, &two, &with(&copy, json!({"runtimeConfig": null})));
            host.del(plugin, &two, &copy);
            host.del(plugin, &one, &mine);
            host.add(plugin, &two, &copy);
        }
    }
}
