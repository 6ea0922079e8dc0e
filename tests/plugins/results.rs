//! The result of every plugin in every version of the specification.

use serde_json::{Value, json};

use crate::common::{Host, VERSIONS, Who, bridge, inside, ranges, rnet, with};

/// A subnet with the address that its first container gets, its gateway and the default route of its family.
type Family = (&'static str, &'static str, &'static str, &'static str);

const V4: Family = ("172.18.0.0/16", "172.18.0.2/16", "172.18.0.1", "0.0.0.0/0");
const V6: Family = ("fd18::/64", "fd18::2/64", "fd18::1", "::/0");
const STACKS: [&[Family]; 3] = [&[V4], &[V6], &[V4, V6]];

fn subnets(stack: &[Family]) -> Vec<&'static str> {
    stack.iter().map(|family| family.0).collect()
}

/// The result in the words of `version`: `interface` is the container's index, where interfaces are told.
fn expected(
    version: &str,
    interfaces: &[Value],
    interface: Option<usize>,
    stack: &[Family],
    routed: bool,
) -> Value {
    let mut result = json!({"cniVersion": version});
    match version {
        "0.1.0" | "0.2.0" => stack.iter().for_each(|family| {
            let (_, address, gateway, default) = family;
            let key = if address.contains(':') { "ip6" } else { "ip4" };
            result[key] = json!({"ip": address, "gateway": gateway});
            if routed {
                result[key]["routes"] = json!([{"dst": default, "gw": gateway}]);
            }
        }),
        _ => modern(&mut result, version, interfaces, interface, stack, routed),
    }
    if !version.starts_with('1') {
        result["dns"] = json!({});
    }
    result
}

fn modern(
    result: &mut Value,
    version: &str,
    interfaces: &[Value],
    interface: Option<usize>,
    stack: &[Family],
    routed: bool,
) {
    if !interfaces.is_empty() {
        result["interfaces"] = interfaces.into();
    }
    let ip = |(_, address, gateway, _): &Family| {
        let mut ip = json!({"address": address, "gateway": gateway});
        if let Some(interface) = interface {
            ip["interface"] = interface.into();
        }
        if !version.starts_with('1') {
            ip["version"] = if address.contains(':') { "6" } else { "4" }.into();
        }
        ip
    };
    result["ips"] = stack.iter().map(ip).collect();
    if routed {
        let route = |(_, _, gateway, default): &Family| json!({"dst": default, "gw": gateway});
        result["routes"] = stack.iter().map(route).collect();
    }
}

/// The interfaces of an attachment as the kernel knows them: bridge, host end, container.
fn interfaces(host: &Host, bridge: &str, who: &Who, mac: &str) -> Vec<Value> {
    let links = host.links();
    let veth = links.iter().find(|name| name.starts_with("veth")).unwrap();
    let of = |name: &str| json!({"name": name, "mac": host.link(name).unwrap().mac.unwrap().to_string()});
    vec![of(bridge), of(veth), json!({"name": who.ifname, "mac": mac, "sandbox": who.netns})]
}

fn attaches_in_every_version(plugin: &str, bridge: &str, config: impl Fn(&[&str]) -> Value) {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    for stack in STACKS {
        for version in VERSIONS {
            let config = with(
                &config(&subnets(stack)),
                json!({"cniVersion": version, "name": format!("n{}", stack.len())}),
            );
            let result = host.add(plugin, &who, &config);
            let mac = if stack[0] == V4 { "02:42:ac:12:00:02" } else { "02:d2:f3:5d:37:20" };
            let made = interfaces(&host, bridge, &who, mac);
            assert_eq!(result, expected(version, &made, Some(2), stack, true), "{plugin} {version}");
            host.del(plugin, &who, &config);
            // host-local would go on with the next address.
            let _ = std::fs::remove_dir_all(host.root().join("var/lib/cni"));
        }
    }
}

#[test]
fn rnet_answers_in_every_version_for_every_stack() {
    attaches_in_every_version("rnet", "br9", |subnets| with(&rnet("n", subnets), json!({"bridge": "br9"})));
}

#[test]
fn bridge_answers_in_every_version_for_every_stack() {
    attaches_in_every_version("bridge", "br0", |subnets| {
        with(&bridge("n", subnets), json!({"forceAddress": true}))
    });
}

#[test]
fn host_local_answers_in_every_version_for_every_stack() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    for stack in STACKS {
        for version in VERSIONS {
            let ipam = json!({"type": "host-local", "ranges": ranges(&subnets(stack))});
            let config = json!({"cniVersion": version, "name": "n", "type": "x", "ipam": ipam});
            let result = host.add("host-local", &who, &config);
            assert_eq!(result, expected(version, &[], None, stack, false), "{version}");
            let _ = std::fs::remove_dir_all(host.root().join("var/lib/cni"));
        }
    }
}

#[test]
fn loopback_answers_in_every_version_and_knows_no_other_interface() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let localhost = [("", "127.0.0.1/8", "", ""), ("", "::1/128", "", "")];
    for version in VERSIONS {
        let config = json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"});
        let who = who.clone().args("none");
        let result = host.add("loopback", &who, &config);
        let lo = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": who.netns});
        let wanted = expected(version, &[lo], Some(0), &localhost, false).to_string();
        // lo has no gateway; an empty one stands for none in the table above.
        let wanted: Value = serde_json::from_str(&wanted.replace(",\"gateway\":\"\"", "")).unwrap();
        assert_eq!(result, wanted, "{version}");
        host.del("loopback", &who, &config);
    }
}

#[test]
fn loopback_passes_on_what_came_before_it() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let previous = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]});
    let config = json!({"cniVersion": "1.0.0", "name": "n", "type": "loopback", "prevResult": previous});
    assert_eq!(host.add("loopback", &who, &config), previous);
}

#[test]
fn loopback_takes_lo_up_and_down_and_checks_it() {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let config = json!({"cniVersion": "1.0.0", "name": "n", "type": "loopback"});
    let is_up = || inside(container.netns()).link("lo").unwrap().unwrap().up;
    let result = host.add("loopback", &who, &config);
    let checked = with(&config, json!({"prevResult": result}));
    assert!(is_up());
    host.cni("CHECK", "loopback", &who, &checked).silent();

    host.del("loopback", &who, &config);

    assert!(!is_up());
    assert_eq!(host.cni("CHECK", "loopback", &who, &checked).refusal().1, "loopback interface is down");
    host.del("loopback", &who.netns(""), &config);
}

#[test]
fn portmap_passes_a_result_of_every_version_through() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    for version in VERSIONS {
        let network = with(&rnet("n", &["172.18.0.0/16", "fd18::/64"]), json!({"cniVersion": version}));
        let result = host.add("rnet", &who, &network);
        let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
        let config = json!({
            "cniVersion": version, "name": "n", "type": "portmap", "prevResult": result, "runtimeConfig": ports,
        });
        assert_eq!(host.add("portmap", &who, &config), result, "{version}");
        host.del("portmap", &who, &config);
        host.del("rnet", &who, &network);
    }
}

#[test]
fn a_result_reads_as_upstreams_do() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = bridge("n", &["172.18.0.0/16"]);
    let text = host.cni("ADD", "bridge", &who, &config).stdout;
    let [bridge, veth, _] = interfaces(&host, "br0", &who, "").try_into().unwrap();
    let expected = format!(
        r#"{{
    "cniVersion": "1.1.0",
    "interfaces": [
        {{
            "mac": {},
            "name": "br0"
        }},
        {{
            "mac": {},
            "name": {}
        }},
        {{
            "mac": "02:42:ac:12:00:02",
            "name": "eth0",
            "sandbox": "{}"
        }}
    ],
    "ips": [
        {{
            "address": "172.18.0.2/16",
            "gateway": "172.18.0.1",
            "interface": 2
        }}
    ],
    "routes": [
        {{
            "dst": "0.0.0.0/0",
            "gw": "172.18.0.1"
        }}
    ]
}}"#,
        bridge["mac"], veth["mac"], veth["name"], who.netns
    );
    assert_eq!(text, expected);
}

#[test]
fn what_a_version_cannot_say_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let (_container, who) = host.container("c1");

    let l2 = json!({"name": "l2", "type": "bridge", "bridge": "br0", "ipam": {}});
    for version in [json!(null), json!("0.1.0"), json!("0.2.0")] {
        let refused = host.cni("ADD", "bridge", &who, &with(&l2, json!({"cniVersion": version})));
        assert_eq!(refused.refusal(), (999, "cannot convert: no valid IP addresses".into()));
    }

    let two = with(&rnet("two", &["172.18.0.0/16", "172.19.0.0/16"]), json!({"cniVersion": "0.2.0"}));
    let refused = host.cni("ADD", "rnet", &who, &two);
    assert_eq!(refused.refusal().1, "CNI version 0.2.0 does not support more than 1 address per family");

    assert!(host.links().is_empty());
    host.add("rnet", &who, &with(&two, json!({"cniVersion": "0.3.0"})));
}

#[test]
fn an_interface_plugin_later_in_a_list_tells_its_own_result_only() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let loopback = json!({"type": "loopback"});
    let list = json!({
        "cniVersion": "0.4.0", "name": "nomad",
        "plugins": [loopback, bridge("nomad", &["172.26.64.0/20"])],
    });
    let result = host.add_list(&list, &who).json();
    let names: Vec<&str> =
        result["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[2], names.len()), ("br0", "eth0", 3));
    assert_eq!(result["ips"].as_array().unwrap().len(), 1);
    assert_eq!(host.check_list(&list, &who, &result).status, 0);
    assert_eq!(host.del_list(&list, &who, Some(&result)).status, 0);
}

#[test]
fn the_oldest_attachment_keeps_the_default_route() {
    for (plugin, [one, other]) in [
        ("rnet", [rnet("one", &["10.7.0.0/24", "fd07::/64"]), rnet("other", &["10.8.0.0/24", "fd08::/64"])]),
        ("bridge", [gateway("one", "10.7.0.0/24"), gateway("other", "10.8.0.0/24")]),
        ("bridge", [podmans("one", "10.7.0.0/24"), podmans("other", "10.8.0.0/24")]),
    ] {
        let host = Host::new();
        let (container, who) = host.container("c1");
        host.add(plugin, &who, &one);
        host.add(plugin, &who.clone().ifname("eth1"), &other);

        let [eth0, eth1] =
            ["eth0", "eth1"].map(|name| inside(container.netns()).link(name).unwrap().unwrap().index);
        let routes = inside(container.netns()).routes().unwrap().into_iter();
        let defaults = routes.filter(|route| route.destination == "0.0.0.0/0".parse().unwrap());
        // Of equals the kernel would take whichever gateway it has heard of lately.
        assert_eq!(
            defaults.map(|route| (route.index, route.priority)).collect::<Vec<_>>(),
            [(eth0, None), (eth1, Some(eth1))],
            "{plugin}"
        );
        let by = |to: &str| inside(container.netns()).route_to(to.parse().unwrap()).unwrap().unwrap().0;
        assert_eq!(by("192.0.2.1"), eth0, "{plugin}");
        if plugin == "rnet" {
            // Among equals a destination's hash would choose.
            assert!((1..50).all(|n| by(&format!("2001:db8::{n:x}")) == eth0));
        }
    }
}

/// The default route comes from IPAM, as `podman network create` writes it.
fn podmans(name: &str, subnet: &str) -> Value {
    let routes = json!({"isGateway": true, "bridge": format!("br-{name}"), "ipam": {
        "type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}});
    with(&bridge(name, &[subnet]), routes)
}

fn gateway(name: &str, subnet: &str) -> Value {
    with(&bridge(name, &[subnet]), json!({"isDefaultGateway": true, "bridge": format!("br-{name}")}))
}

#[test]
fn loopback_refuses_an_address_that_is_none_of_a_loopbacks() {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let config = json!({"cniVersion": "1.0.0", "name": "n", "type": "loopback"});
    let address = "192.0.2.1/32".parse().unwrap();
    let request = netlink::Request::AddressAdd { index: 1, name: "lo".into(), address };
    inside(container.netns()).send(&[request]).unwrap();
    let text = "loopback interface found with non-loopback address \"192.0.2.1\"";
    assert_eq!(host.cni("ADD", "loopback", &who, &config).refusal(), (107, text.into()));
}
