//! Elements written and read back, as bytes and as text.

use proptest::prelude::*;

use super::*;
use crate::ruleset;

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn names() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._-]{1,15}"
}

fn published() -> impl Strategy<Value = Element> {
    let parts = (addresses(), any::<u16>(), protocols(), any::<u16>(), any::<bool>());
    parts.prop_map(|(address, port, protocol, host_port, any)| Element::Publish {
        host: (!any).then_some(address),
        protocol,
        host_port,
        to: SocketAddr::new(address, port),
    })
}

fn ranges() -> impl Strategy<Value = (Range, Range)> {
    let range = |a: IpAddr, b: IpAddr| Range::new(a.min(b), a.max(b)).unwrap();
    let of = move |all: [IpAddr; 4]| (range(all[0], all[1]), range(all[2], all[3]));
    prop_oneof![
        any::<[[u8; 4]; 4]>().prop_map(move |all| of(all.map(IpAddr::from))),
        any::<[[u8; 16]; 4]>().prop_map(move |all| of(all.map(IpAddr::from))),
    ]
}

fn excepts() -> impl Strategy<Value = Element> {
    (ranges(), protocols(), any::<u16>()).prop_map(|((sources, destinations), protocol, host_port)| {
        Element::Except { protocol, host_port, sources, destinations }
    })
}

fn homes() -> impl Strategy<Value = Element> {
    (addresses(), 0..=128u8, names()).prop_map(|(address, prefix, bridge)| {
        let prefix = prefix.min(if address.is_ipv4() { 32 } else { 128 });
        let subnet = IpNetwork::new(address, prefix).unwrap();
        Element::Home { subnet: IpNetwork::new(subnet.network(), prefix).unwrap(), bridge }
    })
}

fn elements() -> impl Strategy<Value = Element> {
    let endpoints =
        || (addresses(), any::<u16>(), protocols()).prop_map(|(a, p, t)| (SocketAddr::new(a, p), t));
    prop_oneof![
        published(),
        excepts(),
        homes(),
        homes().prop_map(|home| match home {
            Element::Home { subnet, .. } => Element::Subnet { subnet },
            other => other,
        }),
        homes().prop_map(|home| match home {
            Element::Home { subnet, .. } => Element::Near { address: subnet.ip(), subnet },
            other => other,
        }),
        endpoints().prop_map(|(to, protocol)| Element::Published { to, protocol }),
        endpoints().prop_map(|(to, protocol)| Element::MasqueradeAll { to, protocol }),
        addresses().prop_map(|address| Element::Masquerade { address }),
        names().prop_map(|bridge| Element::Isolated { bridge }),
        names().prop_map(|link| Element::Port { link }),
        (names(), any::<[u8; 6]>(), addresses()).prop_map(|(link, mac, address)| Element::PortAddress {
            link,
            mac,
            address
        }),
    ]
}

proptest! {
    #[test]
    fn every_element_is_read_back_from_its_bytes(element in elements()) {
        let entry = element.entry().unwrap();
        prop_assert_eq!(Element::from_entry(&entry), Some(element));
    }

    #[test]
    fn keys_and_data_are_as_wide_as_their_set_says(element in elements()) {
        let width = |types: &[ruleset::Type]| -> usize {
            types.iter().map(|part| part.width.next_multiple_of(4) as usize).sum()
        };
        for entry in element.entries().unwrap() {
            prop_assert_eq!(entry.key.len(), width(entry.set.key));
            prop_assert_eq!(entry.end.is_some(), entry.set.interval);
            prop_assert_eq!(entry.data.unwrap_or_default().len(), width(entry.set.data));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(key in prop::collection::vec(any::<u8>(), 0..50), set in 0..25usize) {
        let set = ruleset::Ruleset::constant().sets().nth(set).unwrap();
        let entry = Entry { set, key: key.clone(), end: Some(key.clone()), data: Some(key) };
        let _ = Element::from_entry(&entry);
    }
}

#[test]
fn an_owner_is_sixteen_lower_case_digits() {
    assert_eq!(Owner::new("00000000deadbeef").unwrap().to_string(), "00000000deadbeef");
    for text in
        ["", "deadbeef", "00000000DEADBEEF", "00000000deadbeef0", "+000000deadbeef0", "0x000000deadbeef"]
    {
        assert_eq!(Owner::new(text), None, "{text}");
    }
}

#[test]
fn a_comment_names_its_owner_and_other_comments_name_none() {
    let owner = Owner::new("0123456789abcdef").unwrap();
    assert_eq!(owner.comment(), "rnet:0123456789abcdef");
    assert_eq!(Owner::from_comment("rnet:0123456789abcdef"), Some(owner));
    assert_eq!(Owner::from_comment("0123456789abcdef"), None);
    assert_eq!(Owner::from_comment("rnet:me"), None);
}

#[test]
fn protocols_are_read_in_any_case() {
    assert_eq!("TCP".parse(), Ok(Protocol::Tcp));
    assert_eq!("udp".parse(), Ok(Protocol::Udp));
    assert_eq!("Sctp".parse(), Ok(Protocol::Sctp));
    assert_eq!("abc".parse::<Protocol>().unwrap_err().to_string(), "invalid proto: abc");
}

#[test]
fn an_interval_lies_within_a_wider_one_of_its_set() {
    let subnet = |text: &str| Element::Subnet { subnet: text.parse().unwrap() };
    let home =
        |text: &str, bridge: &str| Element::Home { subnet: text.parse().unwrap(), bridge: bridge.into() };
    assert!(subnet("10.1.0.0/16").is_within(&subnet("10.0.0.0/8")));
    assert!(!subnet("10.0.0.0/8").is_within(&subnet("10.1.0.0/16")));
    assert!(!subnet("10.0.0.0/8").is_within(&subnet("10.0.0.0/8")));
    assert!(!subnet("fd00::/64").is_within(&subnet("0.0.0.0/0")));
    assert!(home("10.1.0.0/16", "br0").is_within(&home("10.0.0.0/8", "br0")));
    assert!(!home("10.1.0.0/16", "br0").is_within(&home("10.0.0.0/8", "br1")));
    assert!(!home("10.1.0.0/16", "br0").is_within(&subnet("10.0.0.0/8")));
}

#[test]
fn the_text_is_what_nft_takes() {
    let (to, protocol) = ("172.18.0.2:80".parse().unwrap(), Protocol::Tcp);
    let to6 = "[fd00::2]:80".parse().unwrap();
    let host = Some("10.0.0.1".parse().unwrap());
    let link = String::from("veth0");
    let mac = [2, 0x42, 0xac, 0x12, 0, 2];
    let cases = [
        (
            Element::Publish { host, protocol, host_port: 3344, to },
            "inet rnet publish4 { 10.0.0.1 . tcp . 3344 : 172.18.0.2 . 80 }",
        ),
        (
            Element::Publish { host: None, protocol, host_port: 3344, to: to6 },
            "inet rnet publish6_any { tcp . 3344 : fd00::2 . 80 }",
        ),
        (
            Element::Except {
                protocol,
                host_port: 3344,
                sources: Range::new("10.0.0.0".parse().unwrap(), "10.0.0.9".parse().unwrap()).unwrap(),
                destinations: Range::from("10.0.0.1".parse::<IpAddr>().unwrap()),
            },
            "inet rnet except4 { 10.0.0.0-10.0.0.9 . 10.0.0.1 . tcp . 3344 }",
        ),
        (Element::Published { to, protocol }, "inet rnet published4 { 172.18.0.2 . tcp . 80 }"),
        (Element::Masquerade { address: to.ip() }, "inet rnet masq4 { 172.18.0.2 }"),
        (
            Element::Home { subnet: "172.18.0.9/16".parse().unwrap(), bridge: "rnet0".into() },
            "inet rnet home4 { 172.18.0.0/16 . \"rnet0\" }",
        ),
        (
            Element::Subnet { subnet: "172.18.0.0/16".parse().unwrap() },
            "inet rnet subnet4 { 172.18.0.0/16 . 0.0.0.0/0 }",
        ),
        (
            Element::Near {
                address: "172.18.0.9".parse().unwrap(),
                subnet: "172.18.0.0/16".parse().unwrap(),
            },
            "inet rnet near4 { 172.18.0.9 . 172.18.0.0/16 }",
        ),
        (Element::Subnet { subnet: "fd18::/64".parse().unwrap() }, "inet rnet subnet6 { fd18::/64 . ::/0 }"),
        (Element::Isolated { bridge: "rnet0".into() }, "inet rnet isolated { \"rnet0\" . \"rnet0\" }"),
        (Element::Port { link: link.clone() }, "bridge rnet ports { \"veth0\" }"),
        (
            Element::PortAddress { link, mac, address: "fe80::2".parse().unwrap() },
            "bridge rnet owner6 { \"veth0\" . 02:42:ac:12:00:02 . fe80::2 }, \
             bridge rnet target6 { \"veth0\" . 0xfe800000000000000000000000000002 }",
        ),
    ];
    for (element, text) in cases {
        assert_eq!(element.to_string(), text);
    }
}
