//! What the ruleset cannot say stops nobody else (docs/rules.md: G2).

use std::fs;

use netlink::{Mac, Request, Route};
use serde_json::{Value, json};

use crate::common::{Host, Outcome, Who, bridge, entries, publishing, rnet, with};

/// A list of `bridge` and portmap that publishes a port.
fn list(bridge: &Value, port: u16) -> Value {
    let portmap = publishing(&json!({"type": "portmap"}), &[("", port, 80, "tcp")]);
    json!({"cniVersion": "1.0.0", "name": bridge["name"], "plugins": [bridge, portmap]})
}

/// The CNI specification's own example: a bridge that is not the gateway.
fn dbnet(subnet: &str, gateway: &str) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet, "gateway": gateway}]]});
    json!({"cniVersion": "1.0.0", "name": "dbnet", "type": "bridge", "bridge": "br0", "ipam": ipam})
}

fn flush(host: &Host) {
    host.firewall(|firewall| firewall.drop_tables().unwrap());
}

/// A network of `rnet` can be used, also after a flush, and its neighbour's port is there again.
fn assert_others_go_on(host: &Host) {
    let other = publishing(&rnet("other", &["172.19.0.0/16"]), &[("", 9000, 80, "tcp")]);
    let ((_one, one), (_two, two)) = (host.container("o1"), host.container("o2"));
    host.add("rnet", &one, &other);
    flush(host);
    host.add("rnet", &two, &rnet("other", &["172.19.0.0/16"]));
    let elements = host.elements();
    assert!(elements.iter().any(|(element, _)| element.to_string().contains("9000")), "{elements:?}");
    let nobody = Who::named("", "");
    host.cni("STATUS", "rnet", &nobody, &other).silent();
    host.del("rnet", &two, &other);
    host.del("rnet", &one, &other);
}

#[test]
fn a_port_works_where_the_host_has_no_route_to_the_container() {
    for (subnet, gateway) in [("10.1.0.0/16", "10.1.0.1"), ("fd01::/64", "fd01::1")] {
        for default_route in [false, true] {
            let host = Host::new();
            let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
            if default_route {
                host.default_route_via(&outside).unwrap();
            }
            let list = list(&dbnet(subnet, gateway), 8080);
            let (_container, who) = host.container("c1");

            let result = host.add_list(&list, &who).json();

            host.check_list(&list, &who, &result).silent();
            assert_others_go_on(&host);
            let uplink = format!("ipv4/conf/{}/route_localnet", outside.link());
            assert_eq!(
                host.sysctl(&uplink).as_deref(),
                Some("0"),
                "{subnet}, default route: {default_route}"
            );
            host.del_list(&list, &who, None).silent();
            assert_eq!(host.elements(), []);
        }
    }
}

#[test]
fn a_port_works_behind_an_interface_of_an_odd_name() {
    for name in ["wan*", "a\"b", "x;y$z", "br+0", "br@0", "ü", "-x", "{"] {
        let host = Host::new();
        let mut netlink = host.netlink();
        let mac = Mac([6, 0, 0, 0, 0, 1]);
        netlink.send(&[Request::Bridge { name: name.into(), mac, mtu: None, snooping: true }]).unwrap();
        let index = netlink.link(name).unwrap().unwrap().index;
        let route = Request::RouteAdd(Route::new("10.1.0.0/16".parse().unwrap(), index));
        netlink.send(&[Request::LinkUp { index, name: name.into() }, route]).unwrap();
        let previous = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/16"}]});
        let config = json!({"cniVersion": "1.0.0", "name": "odd", "prevResult": previous});
        let config = publishing(&config, &[("", 8080, 80, "tcp")]);
        let (_container, who) = host.container("c1");

        host.cni("ADD", "portmap", &who, &config).json();

        host.cni("CHECK", "portmap", &who, &config).silent();
        assert_others_go_on(&host);
        host.del("portmap", &who, &config);
        assert_eq!(host.elements(), [], "{name}");
    }
}

#[test]
fn a_bridge_is_masqueraded_whatever_name_it_may_have() {
    for name in ["br+0", "br@0", "br+", "br_.-9"] {
        let host = Host::new();
        let config = with(&bridge("n", &["10.1.0.0/24"]), json!({"bridge": name}));
        let (_container, who) = host.container("c1");

        host.add("bridge", &who, &config);

        let elements: Vec<String> = host.elements().iter().map(|(element, _)| element.to_string()).collect();
        assert!(elements.iter().any(|element| element.contains(&format!("\"{name}\""))), "{elements:?}");
        host.del("bridge", &who, &config);
    }
}

/// What a newer version, a fault or a person may have written.
const SPOILS: [(&str, &str); 9] = [
    ("/link", "\"a*b\""),
    ("/link", "\"\""),
    ("/mac", "\"no mac\""),
    ("/mac", "7"),
    ("/addresses", "[{\"address\": \"172.18.0.2\"}, {\"address\": \"x\"}]"),
    ("/ports/0/protocol", "\"icmp\""),
    ("/ports/0/host", "\"fd00::1\""),
    ("/ports/0/hostPort", "70000"),
    ("/bridge", "\"../../etc\""),
];

/// Changes one member of the only record of a kind.
fn spoil(host: &Host, kind: &str, pointer: &str, value: &str) {
    let files = entries(&host.run_folder().join(kind));
    let mut files: Vec<_> =
        files.into_iter().flat_map(|path| if path.is_dir() { entries(&path) } else { vec![path] }).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files.remove(0);
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    record.pointer_mut(parent).unwrap()[member] = serde_json::from_str(value).unwrap();
    fs::write(file, record.to_string()).unwrap();
}

fn ls(host: &Host) -> Outcome {
    let outcome = host.bare_call("rnet").arguments(&["ls"]).run();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    outcome
}

#[test]
fn a_record_that_cannot_be_said_stops_nobody_and_can_be_deleted() {
    for (pointer, value) in SPOILS {
        let host = Host::new();
        let config = publishing(&rnet("mynet", &["172.18.0.0/16"]), &[("", 8080, 80, "tcp")]);
        let (_container, who) = host.container("c1");
        let before = host.links();
        host.add("rnet", &who, &config);
        spoil(&host, "records", pointer, value);

        assert_others_go_on(&host);
        let told = ls(&host);
        // A wrong bridge is in none of its elements.
        let is_told = told.stderr.contains("c1") || told.stderr.contains("aside") || pointer == "/bridge";
        assert!(is_told, "{pointer}: {told:?}");
        host.cni("STATUS", "rnet", &who, &config).silent();
        host.del("rnet", &who, &config);
        assert_eq!(host.links(), before, "{pointer} {value}");
        assert_eq!(host.elements(), [], "{pointer} {value}");
    }
}

#[test]
fn a_network_that_cannot_be_said_stops_nobody_and_goes_with_its_last_container() {
    for (pointer, value) in [("/bridge", "\"\""), ("/bridge", "\"a*b\""), ("/subnets", "[\"x\"]")] {
        let host = Host::new();
        let config = publishing(&rnet("mynet", &["172.18.0.0/16"]), &[("", 8080, 80, "tcp")]);
        let (_container, who) = host.container("c1");
        host.add("rnet", &who, &config);
        spoil(&host, "networks", pointer, value);

        assert_others_go_on(&host);
        ls(&host);
        host.del("rnet", &who, &config);
        assert!(!host.elements().iter().any(|(element, _)| element.to_string().contains("8080")));
    }
}

/// Two networks whose records claim one key: neither keeps the other from being restored.
#[test]
fn of_two_records_with_one_port_the_rebuild_keeps_one() {
    let host = Host::new();
    let config = |port| publishing(&rnet("mynet", &["172.18.0.0/16"]), &[("", port, 80, "tcp")]);
    let (_one, one) = host.container("c1");
    host.add("rnet", &one, &config(8080));
    spoil(&host, "records", "/ports/0/hostPort", "8081");
    let (_two, two) = host.container("c2");
    host.add("rnet", &two, &config(8081));

    assert_others_go_on(&host);

    let told = ls(&host);
    assert!(told.stderr.contains("8081"), "{told:?}");
    host.del("rnet", &one, &config(8080));
    host.del("rnet", &two, &config(8081));
}

/// A subnet that was made wider while containers are there.
#[test]
fn a_wider_subnet_on_the_same_bridge_harms_nobody() {
    for (first, second) in [("10.1.0.0/24", "10.1.0.0/16"), ("10.1.0.0/16", "10.1.0.0/24")] {
        let host = Host::new();
        let config = |subnet| with(&bridge("n", &[subnet]), json!({"forceAddress": true}));
        let ((_one, one), (_two, two)) = (host.container("c1"), host.container("c2"));
        host.add("bridge", &one, &config(first));

        host.add("bridge", &two, &config(second));

        assert_others_go_on(&host);
        host.del("bridge", &one, &config(second));
        host.del("bridge", &two, &config(second));
    }
}
