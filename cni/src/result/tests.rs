//! Results as each version of the specification writes and reads them.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pretty;

fn net(text: &str) -> IpNetwork {
    cidr(text).unwrap()
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn route(dst: &str) -> Route {
    Route { dst: net(dst), gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None }
}

/// A bridge with a dual-stack container behind it.
fn dual_stack() -> CniResult {
    CniResult {
        interfaces: vec![
            Interface {
                name: "rnet0".to_owned(),
                mac: Some("02:42:ac:12:00:01".to_owned()),
                ..Interface::default()
            },
            Interface {
                name: "eth0".to_owned(),
                mac: Some("02:42:ac:12:00:02".to_owned()),
                mtu: Some(1500),
                sandbox: Some("/run/netns/c1".to_owned()),
                ..Interface::default()
            },
        ],
        ips: vec![
            Ip { address: net("172.18.0.2/16"), gateway: ip("172.18.0.1"), interface: Some(0) },
            Ip { address: net("fd00:0:0:0::2/64"), gateway: None, interface: Some(1) },
        ],
        routes: vec![
            Route {
                gw: ip("172.18.0.1"),
                mtu: Some(1400),
                table: Some(0),
                scope: Some(0),
                ..route("0.0.0.0/0")
            },
            Route { priority: Some(7), advmss: Some(1360), ..route("::/0") },
        ],
        dns: Dns {
            nameservers: vec!["172.18.0.1".to_owned()],
            domain: Some("lan".to_owned()),
            search: vec!["a".to_owned()],
            options: vec!["ndots:1".to_owned()],
        },
    }
}

fn compact(result: &CniResult, version: Version) -> String {
    result.to_json(version).unwrap().to_string()
}

#[test]
fn version_1_prints_keys_in_alphabetical_order() {
    let expected = concat!(
        r#"{"cniVersion":"1.1.0","dns":{"domain":"lan","nameservers":["172.18.0.1"],"options":["ndots:1"],"search":["a"]},"#,
        r#""interfaces":[{"mac":"02:42:ac:12:00:01","name":"rnet0"},"#,
        r#"{"mac":"02:42:ac:12:00:02","mtu":1500,"name":"eth0","sandbox":"/run/netns/c1"}],"#,
        r#""ips":[{"address":"172.18.0.2/16","gateway":"172.18.0.1","interface":0},{"address":"fd00::2/64","interface":1}],"#,
        r#""routes":[{"dst":"0.0.0.0/0","gw":"172.18.0.1","mtu":1400,"scope":0,"table":0},"#,
        r#"{"advmss":1360,"dst":"::/0","priority":7}]}"#,
    );
    assert_eq!(compact(&dual_stack(), Version::V1_1_0), expected);
    assert_eq!(compact(&dual_stack(), Version::V1_0_0), expected.replace("1.1.0", "1.0.0"));
}

#[test]
fn every_member_of_a_version_1_interface_has_its_key() {
    let interface = Interface {
        name: "net1".to_owned(),
        mac: Some("m".to_owned()),
        mtu: Some(1),
        sandbox: Some("s".to_owned()),
        socket_path: Some("/sock".to_owned()),
        pci_id: Some("0000:00:1f.6".to_owned()),
    };
    let expected =
        r#"{"mac":"m","mtu":1,"name":"net1","pciID":"0000:00:1f.6","sandbox":"s","socketPath":"/sock"}"#;
    assert_eq!(interface.write_v1().to_string(), expected);
}

#[test]
fn version_0_3_and_0_4_print_the_family_and_always_dns() {
    let expected = concat!(
        r#"{"cniVersion":"0.4.0","interfaces":[{"name":"rnet0","mac":"02:42:ac:12:00:01"},"#,
        r#"{"name":"eth0","mac":"02:42:ac:12:00:02","sandbox":"/run/netns/c1"}],"#,
        r#""ips":[{"version":"4","interface":0,"address":"172.18.0.2/16","gateway":"172.18.0.1"},"#,
        r#"{"version":"6","interface":1,"address":"fd00::2/64"}],"#,
        r#""routes":[{"dst":"0.0.0.0/0","gw":"172.18.0.1","mtu":1400,"table":0,"scope":0},"#,
        r#"{"dst":"::/0","advmss":1360,"priority":7}],"#,
        r#""dns":{"nameservers":["172.18.0.1"],"domain":"lan","search":["a"],"options":["ndots:1"]}}"#,
    );
    assert_eq!(compact(&dual_stack(), Version::V0_4_0), expected);
    assert_eq!(compact(&CniResult::default(), Version::V0_3_1), r#"{"cniVersion":"0.3.1","dns":{}}"#);
}

#[test]
fn version_0_2_prints_one_address_per_family() {
    let mut result = dual_stack();
    result.ips.push(Ip { address: net("10.0.0.9/8"), gateway: None, interface: None });
    result.dns = Dns::default();
    let expected = concat!(
        r#"{"cniVersion":"0.2.0","ip4":{"ip":"172.18.0.2/16","gateway":"172.18.0.1","#,
        r#""routes":[{"dst":"0.0.0.0/0","gw":"172.18.0.1"}]},"#,
        r#""ip6":{"ip":"fd00::2/64","routes":[{"dst":"::/0"}]},"dns":{}}"#,
    );
    assert_eq!(compact(&result, Version::V0_2_0), expected);
}

#[test]
fn version_0_2_requires_an_address() {
    let l2 = CniResult { interfaces: dual_stack().interfaces, ..CniResult::default() };
    for version in [Version::V0_1_0, Version::V0_2_0] {
        let expected = Error::new(999, "cannot convert: no valid IP addresses");
        assert_eq!(l2.to_json(version), Err(expected));
    }
}

#[test]
fn the_text_has_four_blanks_and_no_final_newline() {
    let result = CniResult {
        ips: vec![Ip { address: net("10.0.0.2/24"), gateway: None, interface: None }],
        ..CniResult::default()
    };
    let expected = concat!(
        "{\n    \"cniVersion\": \"1.0.0\",\n    \"ips\": [\n        {\n",
        "            \"address\": \"10.0.0.2/24\"\n        }\n    ]\n}"
    );
    assert_eq!(pretty(&result.to_json(Version::V1_0_0).unwrap()), expected);
    assert_eq!(
        pretty(&CniResult::default().to_json(Version::V1_0_0).unwrap()),
        "{\n    \"cniVersion\": \"1.0.0\"\n}"
    );
}

#[test]
fn addresses_keep_host_bits_and_follow_rfc_5952() {
    assert_eq!(net("172.18.0.2/16").to_string(), "172.18.0.2/16");
    assert_eq!(net("FD00:0:0:1:0:0:0:2/64").to_string(), "fd00:0:0:1::2/64");
}

#[test]
fn a_cidr_has_a_prefix_length_in_digits() {
    for text in
        ["10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/+8", "10.0.0.1/255.0.0.0", "/8", "::1/129", "a/8"]
    {
        assert_eq!(cidr(text), None, "{text}");
    }
}

#[test]
fn ip4_then_ip6_of_0_2_become_ips_without_interface() {
    let old = json!({
        "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"},
        "dns": {"nameservers": ["1.1.1.1"]},
    });
    let result = CniResult::parse(&old, Version::V0_2_0).unwrap();
    let expected = CniResult {
        ips: vec![
            Ip { address: net("10.0.0.2/24"), gateway: ip("10.0.0.1"), interface: None },
            Ip { address: net("fd00::2/64"), gateway: None, interface: None },
        ],
        routes: vec![Route { gw: ip("fd00::1"), ..route("::/0") }],
        dns: Dns { nameservers: vec!["1.1.1.1".to_owned()], ..Dns::default() },
        ..CniResult::default()
    };
    assert_eq!(result, expected);
}

#[test]
fn empty_null_and_zero_members_are_unset_and_keys_match_in_any_case() {
    let written = json!({
        "IPs": [{"Address": "10.0.0.2/24", "gateway": "", "interface": null}],
        "interfaces": [{"Name": "eth0", "MAC": "", "sandbox": "", "mtu": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": null, "mtu": 0, "priority": 0, "table": 0}],
        "dns": null,
    });
    let expected = CniResult {
        interfaces: vec![Interface { name: "eth0".to_owned(), ..Interface::default() }],
        ips: vec![Ip { address: net("10.0.0.2/24"), gateway: None, interface: None }],
        routes: vec![Route { table: Some(0), ..route("0.0.0.0/0") }],
        dns: Dns::default(),
    };
    assert_eq!(CniResult::parse(&written, Version::V1_0_0).unwrap(), expected);
}

#[test]
fn a_result_is_read_across_the_versions_of_one_format_only() {
    let written = |version: &str| json!({"cniVersion": version});
    for (config, fine) in [
        (Version::V1_1_0, "1.0.0"),
        (Version::V0_3_0, "0.4.0"),
        (Version::V0_1_0, "0.2.0"),
        (Version::V1_0_0, ""),
    ] {
        assert!(CniResult::parse(&written(fine), config).is_ok(), "{fine}");
    }
    let refused = |version, found| CniResult::parse(&written(found), version).unwrap_err();
    let sentence = |list: &str, found: &str| {
        Error::new(999, format!("result type supports [{list}] but unmarshalled CNIVersion is {found:?}"))
    };
    assert_eq!(refused(Version::V1_0_0, "0.3.1"), sentence("1.0.0 1.1.0", "0.3.1"));
    assert_eq!(refused(Version::V0_3_1, "1.0.0"), sentence("0.3.0 0.3.1 0.4.0", "1.0.0"));
    assert_eq!(refused(Version::V0_2_0, "9.0.0"), sentence("0.1.0 0.2.0", "9.0.0"));
}

#[test]
fn a_delegate_s_result_is_read_in_its_own_version() {
    let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}});
    assert_eq!(CniResult::parse_any(&old, Version::V1_0_0).unwrap().ips.len(), 1);
    let silent = json!({"ips": [{"address": "10.0.0.2/24"}]});
    assert_eq!(CniResult::parse_any(&silent, Version::V1_0_0).unwrap().ips.len(), 1);
    let expected = Error::new(999, r#"unsupported CNI result version "2.0.0""#);
    assert_eq!(CniResult::parse_any(&json!({"cniVersion": "2.0.0"}), Version::V1_0_0), Err(expected));
}

#[test]
fn a_wrong_member_is_reported_with_its_place() {
    let refused = |value: Value| CniResult::parse(&value, Version::V1_0_0).unwrap_err();
    let expected = Error::new(6, "could not parse result: ips[0].address: invalid CIDR address: 10.0.0.2");
    assert_eq!(refused(json!({"ips": [{"address": "10.0.0.2"}]})), expected);
    assert_eq!(refused(json!({"ips": [{}]})).msg, "could not parse result: ips[0]: missing field `address`");
    let expected = "could not parse result: routes[0].gw: invalid IP address: x";
    assert_eq!(refused(json!({"routes": [{"dst": "::/0", "gw": "x"}]})).msg, expected);
    assert_eq!(refused(json!([])).msg, "could not parse result: expected a JSON object, found an array");
    assert_eq!(
        refused(json!({"cniVersion": 1})).msg,
        "could not parse result: cniVersion: is a number, not a string"
    );
}

#[test]
fn dns_is_empty_only_if_nothing_is_set() {
    assert!(Dns::default().is_empty());
    assert!(!Dns { options: vec!["rotate".to_owned()], ..Dns::default() }.is_empty());
}

fn any_net() -> impl Strategy<Value = IpNetwork> {
    (any::<IpAddr>(), 0..=128u8).prop_map(|(ip, prefix)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        IpNetwork::new(ip, prefix.min(longest)).unwrap()
    })
}

fn any_word() -> impl Strategy<Value = String> {
    "[a-z0-9:./\"é]{1,12}"
}

fn any_interface() -> impl Strategy<Value = Interface> {
    let word = || option::of(any_word());
    (any_word(), word(), option::of(1..u32::MAX), word(), word(), word()).prop_map(
        |(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
            name,
            mac,
            mtu,
            sandbox,
            socket_path,
            pci_id,
        },
    )
}

fn any_ip() -> impl Strategy<Value = Ip> {
    (any_net(), any::<Option<IpAddr>>(), any::<Option<usize>>())
        .prop_map(|(address, gateway, interface)| Ip { address, gateway, interface })
}

fn any_route() -> impl Strategy<Value = Route> {
    let number = || option::of(1..u32::MAX);
    (any_net(), any::<Option<IpAddr>>(), number(), number(), number(), any::<(Option<u32>, Option<u32>)>())
        .prop_map(|(dst, gw, mtu, advmss, priority, (table, scope))| Route {
            dst,
            gw,
            mtu,
            advmss,
            priority,
            table,
            scope,
        })
}

fn any_dns() -> impl Strategy<Value = Dns> {
    let words = || vec(any_word(), 0..3);
    (words(), option::of(any_word()), words(), words())
        .prop_map(|(nameservers, domain, search, options)| Dns { nameservers, domain, search, options })
}

fn any_result() -> impl Strategy<Value = CniResult> {
    (vec(any_interface(), 0..4), vec(any_ip(), 0..4), vec(any_route(), 0..4), any_dns())
        .prop_map(|(interfaces, ips, routes, dns)| CniResult { interfaces, ips, routes, dns })
}

/// What of `result` `version` can express.
fn expressible(result: &CniResult, version: Version) -> CniResult {
    let mut said = result.clone();
    if version.generation() != Generation::V1 {
        for interface in &mut said.interfaces {
            *interface = Interface { mtu: None, socket_path: None, pci_id: None, ..interface.clone() };
        }
    }
    if version.generation() == Generation::V0_1 {
        said.interfaces.clear();
        let first = |v4| result.ips.iter().find(|ip| ip.address.is_ipv4() == v4);
        let both: Vec<&Ip> = [first(true), first(false)].into_iter().flatten().collect();
        said.ips = both.iter().map(|ip| Ip { interface: None, ..(*ip).clone() }).collect();
        let routes = |v4| result.routes.iter().filter(move |route| route.dst.is_ipv4() == v4);
        let kept = both.iter().flat_map(|ip| routes(ip.address.is_ipv4()));
        said.routes = kept.map(|kept| Route { dst: kept.dst, gw: kept.gw, ..route("::/0") }).collect();
    }
    said
}

proptest! {
    #[test]
    fn every_version_reads_back_what_it_can_express(result in any_result(), index in 0..Version::SUPPORTED.len()) {
        let version = Version::SUPPORTED[index];
        match result.to_json(version) {
            Ok(json) => {
                let text = pretty(&json);
                let json: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(CniResult::parse(&json, version).unwrap(), expressible(&result, version));
                prop_assert_eq!(CniResult::parse_any(&json, Version::V1_1_0).unwrap(), expressible(&result, version));
            }
            Err(error) => {
                prop_assert!(result.ips.is_empty() && version <= Version::V0_2_0);
                prop_assert_eq!(error.code, 999);
            }
        }
    }
}
