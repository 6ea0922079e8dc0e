//! Ranges and gateways as the reference plugin takes them, and who has a requested address (docs/rules.md: H4).

use std::fs;
use std::net::IpAddr;

use netlink::{Request, Route};
use netns_fixtures::ping;
use serde_json::{Value, json};

use crate::common::{Host, LONG, Who, bridge, inside, rnet, with};

fn who(id: &str) -> Who {
    Who::named(id, "/run/netns/none")
}

/// A configuration with one range set of these ranges.
fn host_local(ranges: Value) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [ranges]});
    json!({"cniVersion": "1.1.0", "name": "n", "type": "x", "ipam": ipam})
}

fn asking(config: &Value, ip: &str) -> Value {
    with(config, json!({"runtimeConfig": {"ips": [ip]}}))
}

/// The address that an ADD for `id` gives, or code, message and details of its refusal.
fn lease(host: &Host, id: &str, config: &Value) -> Result<String, (u64, String, String)> {
    let outcome = host.cni("ADD", "host-local", &who(id), config);
    if outcome.status == 0 {
        return Ok(outcome.json()["ips"][0]["address"].as_str().unwrap().to_owned());
    }
    let error = outcome.error();
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    Err((error["code"].as_u64().unwrap(), text("msg"), text("details")))
}

/// What podman 4.3 writes for `--subnet 10.89.0.0/29 --ip-range 10.89.0.4/30`.
#[test]
fn a_range_may_end_with_the_broadcast_address_which_is_not_given() {
    let host = Host::new();
    let range = json!([{"subnet": "10.89.0.0/29", "rangeStart": "10.89.0.4", "rangeEnd": "10.89.0.7", "gateway": "10.89.0.1"}]);
    let config = host_local(range);
    for (id, address) in [("a", "10.89.0.4/29"), ("b", "10.89.0.5/29"), ("c", "10.89.0.6/29")] {
        assert_eq!(lease(&host, id, &config).as_deref(), Ok(address));
    }
    let full = "failed to allocate for range 0: no IP addresses available in range set: 10.89.0.4-10.89.0.7";
    assert_eq!(lease(&host, "d", &config).unwrap_err().1, full);
    assert_eq!(host.cni("STATUS", "host-local", &who(""), &config).refusal().0, 50);
    let (code, text, details) = lease(&host, "d", &asking(&config, "10.89.0.7")).unwrap_err();
    assert_eq!(code, 101);
    assert!(
        text.ends_with("requested IP address 10.89.0.7 is not available in range set 10.89.0.4-10.89.0.7")
    );
    assert_eq!(details, "10.89.0.7 is the broadcast address of its subnet");
    host.del("host-local", &who("b"), &config);
    assert_eq!(lease(&host, "d", &config).as_deref(), Ok("10.89.0.5/29"));
}

#[test]
fn a_range_may_start_with_the_network_address_which_is_not_given() {
    let host = Host::new();
    let start = |subnet: &str, start: &str| host_local(json!([{"subnet": subnet, "rangeStart": start}]));
    for (subnet, first, given) in
        [("10.9.0.0/24", "10.9.0.0", "10.9.0.2/24"), ("fd09::/64", "fd09::", "fd09::2/64")]
    {
        let config =
            with(&start(subnet, first), json!({"name": if given.contains(':') { "six" } else { "four" }}));
        assert_eq!(lease(&host, "a", &config).as_deref(), Ok(given));
        let details = lease(&host, "b", &asking(&config, first)).unwrap_err().2;
        assert_eq!(details, format!("{first} is the network address of its subnet"));
    }
}

#[test]
fn a_range_of_the_broadcast_address_alone_is_exhausted_and_ipv6_has_none() {
    let host = Host::new();
    let one =
        |subnet: &str, ip: &str| host_local(json!([{"subnet": subnet, "rangeStart": ip, "rangeEnd": ip}]));
    let (code, text, _) = lease(&host, "a", &one("10.9.0.0/24", "10.9.0.255")).unwrap_err();
    assert_eq!(code, 100);
    assert!(text.ends_with("no IP addresses available in range set: 10.9.0.255-10.9.0.255"), "{text}");
    let last = "fd09::ffff:ffff:ffff:ffff";
    let six = with(&one("fd09::/64", last), json!({"name": "six"}));
    assert_eq!(lease(&host, "a", &six), Ok(format!("{last}/64")));
}

/// The subnet's ends are the ends of a range of an `rnet` network, too.
#[test]
fn an_rnet_network_takes_the_same_ranges() {
    let host = Host::new();
    let ranges = json!([[{"subnet": "10.9.0.0/29", "rangeStart": "10.9.0.6", "rangeEnd": "10.9.0.7"}]]);
    let config = with(&rnet("n", &[]), json!({"ipam": {"ranges": ranges}}));
    let containers = ["a", "b"].map(|name| host.container(name));
    assert_eq!(host.add("rnet", &containers[0].1, &config)["ips"][0]["address"], "10.9.0.6/29");
    let full = host.cni("ADD", "rnet", &containers[1].1, &config).refusal();
    assert_eq!(full.0, 100, "{full:?}");
}

#[test]
fn a_requested_address_that_is_taken_names_its_holder() {
    let host = Host::new();
    let config = host_local(json!([{"subnet": "10.9.0.0/24"}]));
    lease(&host, "a", &asking(&config, "10.9.0.3")).unwrap();
    let (code, text, details) = lease(&host, "b", &asking(&config, "10.9.0.3")).unwrap_err();
    assert_eq!(code, 101);
    assert!(
        text.ends_with("requested IP address 10.9.0.3 is not available in range set 10.9.0.1-10.9.0.254")
    );
    assert_eq!(details, "10.9.0.3 is held by container a/eth0");

    let own = rnet("own", &["10.8.0.0/24"]);
    let containers = ["web", "db"].map(|name| host.container(name));
    host.add("rnet", &containers[0].1, &asking(&own, "10.8.0.9"));
    let error = host.cni("ADD", "rnet", &containers[1].1, &asking(&own, "10.8.0.9")).error();
    assert_eq!(error["details"], "10.8.0.9 is held by container web/eth0");
}

/// `config` with one range whose gateway lies elsewhere.
fn far(config: Value, ranges: &[(&str, &str)]) -> Value {
    let range = |(subnet, gateway): &(&str, &str)| json!([{"subnet": subnet, "gateway": gateway}]);
    let ranges: Vec<Value> = ranges.iter().map(range).collect();
    let mut config = config;
    config["ipam"]["ranges"] = json!(ranges);
    config
}

/// Both directions between a container and its host, and CHECK.
#[track_caller]
fn works(plugin: &str, config: &Value, gateways: &[&str]) {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let (other, second) = host.container("c2");
    let result = host.add(plugin, &who, config);
    host.add(plugin, &second, config);
    let ips = result["ips"].as_array().unwrap();
    for (ip, gateway) in ips.iter().zip(gateways) {
        assert_eq!(ip["gateway"], *gateway);
        let own: IpAddr = ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        assert!(ping(host.netns(), own, LONG).unwrap().is_some(), "host to {own}");
        assert!(ping(other.netns(), own, LONG).unwrap().is_some(), "neighbour to {own}");
    }
    for gateway in gateways.iter().filter(|gateway| !gateway.starts_with("fe80")) {
        assert!(ping(container.netns(), gateway.parse().unwrap(), LONG).unwrap().is_some(), "to {gateway}");
    }
    let routes = inside(container.netns()).routes().unwrap();
    let defaults = routes.iter().filter(|route| route.destination.prefix() == 0 && route.gateway.is_some());
    assert_eq!(defaults.count(), gateways.len());
    host.cni("CHECK", plugin, &who, &with(config, json!({"prevResult": result}))).silent();
    host.del(plugin, &who, config);
    host.del(plugin, &second, config);
    assert_eq!(host.elements(), Vec::new());
}

#[test]
fn a_gateway_outside_the_subnet_is_taken_and_reached_from_both_sides() {
    let far_away: [&[(&str, &str)]; 3] = [
        &[("10.9.1.0/24", "10.9.0.1")],
        &[("fd09:0:0:1::/64", "fd09::1")],
        &[("10.9.1.0/24", "192.168.77.1"), ("fd09::/64", "fe80::1")],
    ];
    for ranges in far_away {
        let gateways: Vec<&str> = ranges.iter().map(|(_, gateway)| *gateway).collect();
        works("bridge", &far(bridge("n", &[]), ranges), &gateways);
        works("rnet", &far(rnet("n", &[]), ranges), &gateways);
        let probed = with(&far(bridge("n", &[]), ranges), json!({"enabledad": true}));
        works("bridge", &probed, &gateways);
    }
}

/// As users wrote it while the plugins made no such route themselves.
#[test]
fn a_route_to_the_far_gateway_that_the_configuration_has_is_made_once() {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let mut config = far(bridge("n", &[]), &[("10.9.1.0/24", "10.9.0.1")]);
    config["ipam"]["routes"] = json!([{"dst": "10.9.0.1/32"}, {"dst": "0.0.0.0/0"}]);
    host.add("bridge", &who, &config);
    assert!(ping(container.netns(), "10.9.0.1".parse().unwrap(), LONG).unwrap().is_some());
}

#[test]
fn check_misses_the_route_to_a_subnet_with_a_far_gateway_and_the_next_add_makes_it() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let (_other, second) = host.container("c2");
    let config = far(bridge("n", &[]), &[("10.9.1.0/24", "10.9.0.1")]);
    let result = host.add("bridge", &who, &config);
    let check = || host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result})));
    let index = host.link("br0").unwrap().index;
    host.netlink().send(&[Request::RouteDel(Route::new("10.9.1.0/24".parse().unwrap(), index))]).unwrap();

    let found = check().refusal();
    assert_eq!(
        found,
        (107, "the route to 10.9.1.0/24 by bridge br0 is missing; the next ADD restores it".into())
    );
    host.add("bridge", &second, &config);
    check().silent();
}

/// The index of leases must not know better than the files (C3): nothing but a look tells of a write in place.
#[test]
fn a_lease_that_another_program_wrote_in_place_belongs_to_whom_the_file_names() {
    let host = Host::new();
    let config = host_local(json!([{"subnet": "10.9.0.0/29"}]));
    let file = |ip: &str| host.root().join("var/lib/cni/networks/n").join(ip);
    for id in ["a", "b", "c"] {
        lease(&host, id, &config).unwrap();
    }
    fs::write(file("10.9.0.3"), "x\r\neth0").unwrap();
    host.del("host-local", &who("b"), &config);
    assert!(file("10.9.0.3").exists(), "b has it no more");
    let again = lease(&host, "x", &config).unwrap_err();
    assert!(again.1.contains("10.9.0.3 has been allocated to x"), "{again:?}");
    let result = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.3/29"}]});
    host.cni("CHECK", "host-local", &who("x"), &with(&config, json!({"prevResult": result}))).silent();
    host.del("host-local", &who("x"), &config);
    assert!(!file("10.9.0.3").exists());

    for id in ["d", "e", "f"] {
        lease(&host, id, &config).unwrap();
    }
    host.cni("STATUS", "host-local", &who(""), &config).refusal();
    fs::write(file("10.9.0.2"), "").unwrap();
    host.cni("STATUS", "host-local", &who(""), &config).silent();
    assert_eq!(lease(&host, "g", &config).as_deref(), Ok("10.9.0.2/29"));
}
