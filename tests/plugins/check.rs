//! CHECK sees everything that ADD made, and changes nothing (docs/rules.md: G7, G8).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{Netlink, Request};
use netns_fixtures::{Container, Frames, Snapshot, assert_same};
use serde_json::{Value, json};

use crate::common::{Host, Outcome, Who, bridge, inside, publishing, rnet, with};

/// An attachment that CHECK is content with.
struct Attached {
    host: Host,
    plugin: &'static str,
    container: Container,
    who: Who,
    config: Value,
    result: Value,
}

impl Attached {
    fn new(plugin: &'static str, config: Value) -> Self {
        let host = Host::new();
        let (container, who) = host.container("c1");
        let result = host.add(plugin, &who, &config);
        let attached = Self { host, plugin, container, who, config, result };
        attached.check().silent();
        attached
    }

    /// A network of type `rnet` with two published ports, one of them open to 127.0.0.1.
    fn rnet() -> Self {
        let config = rnet("n", &["172.18.0.0/16", "fd18::/64"]);
        Self::new("rnet", publishing(&config, &[("", 8080, 80, "tcp"), ("127.0.0.1", 53, 53, "udp")]))
    }

    /// A network of type `bridge` with everything that is checked.
    fn bridge() -> Self {
        let keys = json!({"hairpinMode": true, "portIsolation": true});
        Self::new("bridge", with(&bridge("n", &["172.18.0.0/16", "fd18::/64"]), keys))
    }

    fn check(&self) -> Outcome {
        let config = with(&self.config, json!({"prevResult": self.result}));
        self.host.cni("CHECK", self.plugin, &self.who, &config)
    }

    fn name(&self, at: usize) -> &str {
        self.result["interfaces"][at]["name"].as_str().unwrap()
    }

    /// Changes something on the host.
    fn on_host(&self, link: &str, change: impl Fn(u32, String) -> Request) {
        let mut netlink = self.host.netlink();
        let index = netlink.link(link).unwrap().unwrap().index;
        netlink.send(&[change(index, link.into())]).unwrap();
    }

    /// Changes something in the container.
    fn within(&self, change: impl Fn(u32, String) -> Request) {
        let mut netlink: Netlink = inside(self.container.netns());
        let index = netlink.link("eth0").unwrap().unwrap().index;
        netlink.send(&[change(index, "eth0".into())]).unwrap();
    }

    /// Types the hint.
    #[track_caller]
    fn repair(&self) {
        let definition = self.host.root().join("etc/cni/net.d/n.conflist");
        std::fs::create_dir_all(definition.parent().unwrap()).unwrap();
        let list = json!({"cniVersion": "1.1.0", "name": "n", "plugins": [self.config]});
        std::fs::write(definition, list.to_string()).unwrap();
        let said = self.host.command(env!("CARGO_BIN_EXE_rnet")).args(["repair", "n"]).output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }

    #[track_caller]
    fn finds(&self, text: &str) {
        let found = self.check().refusal();
        assert!(found.0 == 107 && found.1.contains(text), "{found:?} instead of {text:?}");
    }
}

fn both() -> [Attached; 2] {
    [Attached::rnet(), Attached::bridge()]
}

#[test]
fn it_changes_nothing() {
    for attached in both() {
        let everything = || {
            let host = attached.host.snapshot();
            let container = Snapshot::of(attached.container.netns(), &[]).unwrap();
            let generation = attached.host.firewall(|firewall| firewall.generation().unwrap());
            (host, container, generation)
        };
        let before = everything();
        attached.check().silent();
        let after = everything();
        assert_same(&before.0, &after.0);
        assert_same(&before.1, &after.1);
        assert_eq!(before.2, after.2);
    }
}

#[test]
fn check_passes_while_a_port_is_sniffed() {
    for attached in both() {
        let _host = Frames::on(attached.host.netns(), attached.name(0)).unwrap();
        let _container = Frames::on(attached.container.netns(), "eth0").unwrap();
        attached.check().silent();
    }
}

#[test]
fn it_needs_the_result_of_add() {
    for attached in both() {
        let host = &attached.host;
        let refused = |config: Value| host.cni("CHECK", attached.plugin, &attached.who, &config).refusal().1;
        assert_eq!(refused(attached.config.clone()), "Required prevResult missing");

        let mut other = attached.result.clone();
        other["interfaces"][2]["sandbox"] = "/elsewhere".into();
        let text = format!(
            "Sandbox in prevResult /elsewhere doesn't match configured netns: {}",
            attached.who.netns
        );
        assert_eq!(refused(with(&attached.config, json!({"prevResult": other}))), text);

        let other = with(&attached.result, json!({"interfaces": [attached.result["interfaces"][0]]}));
        assert_eq!(
            refused(with(&attached.config, json!({"prevResult": other}))),
            "Interface name eth0 not found"
        );
    }
}

#[test]
fn it_misses_an_attachment_that_was_never_made() {
    for attached in both() {
        let (_container, other) = attached.host.container("other");
        let config = with(&attached.config, json!({"prevResult": attached.result}));
        let refused = attached.host.cni("CHECK", attached.plugin, &other, &config).refusal();
        assert_eq!(refused, (107, "host-local: Failed to find address added by container other".into()));
    }
}

#[test]
fn it_misses_the_lease() {
    let attached = Attached::bridge();
    let folder = attached.host.root().join("var/lib/cni/networks/n");
    std::fs::remove_file(folder.join("172.18.0.2")).unwrap();
    // One address of a container is enough.
    attached.check().silent();
    std::fs::remove_file(folder.join("fd18::2")).unwrap();
    attached.finds("host-local: Failed to find address added by container c1");
}

#[test]
fn it_misses_the_bridge_and_what_the_bridge_has() {
    for attached in both() {
        let bridge = attached.name(0).to_owned();
        attached.on_host(&bridge, |index, name| Request::LinkDown { index, name });
        attached.finds(&format!("Bridge interface {bridge} is down"));
    }
    for attached in both() {
        let bridge = attached.name(0).to_owned();
        let address: IpNetwork = "172.18.0.1/16".parse().unwrap();
        attached.on_host(&bridge, |index, name| Request::AddressDel { index, name, address });
        attached.finds(&format!("gateway address 172.18.0.1 is missing on bridge {bridge}"));
    }
    for attached in both() {
        let bridge = attached.name(0).to_owned();
        let mac = netlink::Mac([2, 0, 0, 0, 0, 1]);
        attached.on_host(&bridge, |index, name| Request::LinkMac { index, name, mac });
        attached.finds(&format!("Bridge interface {bridge} Mac doesn't match: 02:00:00:00:00:01"));
    }
    for attached in both() {
        let bridge = attached.name(0).to_owned();
        let index = attached.host.link(&bridge).unwrap().index;
        attached.host.run(|| netlink::delete_link(index, &[], true).unwrap()).unwrap();
        attached.finds(&format!("Bridge interface {bridge} not found"));
    }
}

#[test]
fn it_misses_the_bridges_promiscuity() {
    let config = with(&bridge("n", &["172.18.0.0/16"]), json!({"promiscMode": true}));
    let attached = Attached::new("bridge", config);
    attached.on_host("br0", |index, name| Request::LinkPromisc { index, name, on: false });
    attached.finds("bridge br0 is not promiscuous");
}

#[test]
fn it_misses_the_port_and_its_flags() {
    for attached in both() {
        let port = |hairpin, isolated| {
            move |index, name| Request::Port {
                index,
                name,
                hairpin,
                isolated,
                learning: None,
                group_forward: None,
            }
        };
        let veth = attached.name(1).to_owned();
        attached.on_host(&veth, port(Some(false), None));
        attached
            .finds(&format!("port flag hairpin of {veth} is false, configured true; hint: rnet repair n"));
        attached.repair();
        attached.check().silent();
        if attached.plugin == "bridge" {
            attached.on_host(&veth, port(None, Some(false)));
            attached.finds(&format!("port flag isolated of {veth} is false, configured true"));
        } else {
            attached.on_host(&veth, port(None, Some(true)));
            attached.finds(&format!("port flag isolated of {veth} is true, configured false"));
            attached.repair();
            attached.on_host(&veth, |index, name| Request::Port {
                index,
                name,
                hairpin: None,
                isolated: None,
                learning: None,
                group_forward: Some(0),
            });
            attached.finds(&format!("port flag group_fwd_mask of {veth} was changed"));
        }
        attached.repair();
        attached.check().silent();
    }
    for attached in both() {
        let veth = attached.name(1).to_owned();
        attached.on_host(&veth, |index, name| Request::LinkMaster { index, name, master: None });
        attached.finds(&format!("CNI veth created for bridge {} was not found", attached.name(0)));
        attached.repair();
        attached.check().silent();
        attached.on_host(&veth, |index, name| Request::LinkDown { index, name });
        attached.finds(&format!("{veth}, the container's port on {}, is down", attached.name(0)));
        attached.repair();
        attached.check().silent();
    }
}

/// It stands outside nftables, so no look at the ruleset misses it.
#[test]
fn it_misses_the_filter_that_guards_the_loopback() {
    let attached = Attached::rnet();
    let index = attached.host.link("rnet-n").unwrap().index;
    attached.host.netlink().remove_loopback_guard(index, "rnet-n").unwrap();
    attached
        .finds("the ingress filter of rnet-n that keeps containers from 127.0.0.1 of this host is missing");
    attached.repair();
    attached.check().silent();
    // A setting that another program made on a bridge without ports of rnet is not rnet's to guard.
    let other = Attached::new("rnet", rnet("n", &["172.18.0.0/16"]));
    other.host.set_sysctl("ipv4/conf/rnet-n/route_localnet", "1");
    other.check().silent();
}

#[test]
fn it_misses_the_interface_and_what_the_interface_has() {
    for attached in both() {
        attached.within(|index, name| Request::AddressDel {
            index,
            name,
            address: "172.18.0.2/16".parse().unwrap(),
        });
        attached.finds("Failed to match addr 172.18.0.2/16 on interface eth0");
    }
    for attached in both() {
        attached.within(|index, name| Request::AddressDel {
            index,
            name,
            address: "fd18::2/64".parse().unwrap(),
        });
        attached.finds("Failed to match addr fd18::2/64 on interface eth0");
    }
    for attached in both() {
        let gateway: IpAddr = "172.18.0.1".parse().unwrap();
        attached.within(|index, _| {
            Request::RouteDel(netlink::Route::via("0.0.0.0/0".parse().unwrap(), gateway, index))
        });
        attached.finds("Expected Route 0.0.0.0/0 not found in routing table");
    }
    for attached in both() {
        attached.within(|index, name| Request::LinkDown { index, name });
        attached.finds("is down");
    }
    for attached in both() {
        attached.within(|index, name| Request::LinkMac {
            index,
            name,
            mac: netlink::Mac([2, 0, 0, 0, 0, 1]),
        });
        attached.finds("Interface eth0 Mac 02:00:00:00:00:01 doesn't match container Mac: 02:42:ac:12:00:02");
    }
    for attached in both() {
        let index = inside(attached.container.netns()).link("eth0").unwrap().unwrap().index;
        attached.container.run(|| netlink::delete_link(index, &[], true).unwrap()).unwrap();
        attached.finds(&format!("CNI veth created for bridge {} was not found", attached.name(0)));
    }
}

/// Not only the attachment's own: without its network's elements the container is not isolated.
#[test]
fn it_misses_every_single_element() {
    for attached in both() {
        let elements = attached.host.elements();
        assert!(elements.len() >= 4, "{elements:?}");
        for (element, owner) in elements {
            let one = [(element.clone(), owner.unwrap())];
            attached.host.firewall(|firewall| firewall.remove(&one).unwrap());
            attached.finds(&format!("the ruleset lacks {element}"));
            attached.host.firewall(|firewall| firewall.add(&one).unwrap());
            attached.check().silent();
        }
    }
}

#[test]
fn it_misses_the_whole_ruleset() {
    for attached in both() {
        attached.host.firewall(|firewall| firewall.drop_tables().unwrap());
        attached.finds("the ruleset lacks ");
    }
}

#[test]
fn it_misses_forwarding_and_the_way_to_the_loopback() {
    for attached in both() {
        attached.host.set_sysctl("ipv4/ip_forward", "0");
        attached.finds("IPv4 forwarding is off");
        attached.host.set_sysctl("ipv4/ip_forward", "1");
        attached.check().silent();
        attached.host.set_sysctl(&format!("ipv4/conf/{}/forwarding", attached.name(0)), "0");
        attached.finds("IPv4 forwarding is off");
    }
    let attached = Attached::rnet();
    attached.host.set_sysctl("ipv4/conf/rnet-n/route_localnet", "0");
    attached.finds("route_localnet is off on rnet-n");
}

#[test]
fn portmaps_check_misses_every_element() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let portmap = publishing(&json!({"type": "portmap", "masqAll": true}), &[("", 8080, 80, "tcp")]);
    let list =
        json!({"cniVersion": "1.0.0", "name": "n", "plugins": [bridge("n", &["10.1.0.0/24"]), portmap]});
    let result = host.add_list(&list, &who).json();
    let before = host.snapshot();
    assert_eq!(host.check_list(&list, &who, &result).status, 0);
    assert_same(&before, &host.snapshot());
    for (element, owner) in host.elements() {
        let one = [(element.clone(), owner.unwrap())];
        host.firewall(|firewall| firewall.remove(&one).unwrap());
        let found = host.check_list(&list, &who, &result).refusal();
        assert_eq!(found.0, 107);
        assert!(found.1.contains(&format!("the ruleset lacks {element}")), "{found:?}");
        host.firewall(|firewall| firewall.add(&one).unwrap());
    }
    let changed = publishing(&json!({"type": "portmap"}), &[]);
    let without = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [changed]});
    assert_eq!(host.check_list(&without, &who, &result).status, 0);
}

#[test]
fn it_misses_the_route_of_an_address() {
    for attached in both() {
        attached.within(|index, _| {
            Request::RouteDel(netlink::Route::new("172.18.0.0/16".parse().unwrap(), index))
        });
        attached.finds("Failed to find Gateway 172.18.0.1 for interface eth0");
    }
}

/// A network whose container has routes beside the default one.
fn routed() -> Attached {
    let routes = json!([
        {"dst": "10.8.0.0/16", "gw": "172.18.0.8"},
        {"dst": "10.9.0.0/16", "gw": "172.18.0.9", "table": 100},
    ]);
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "172.18.0.0/16"}]], "routes": routes});
    Attached::new("bridge", with(&bridge("n", &[]), json!({"ipam": ipam})))
}

fn via(destination: &str, gateway: &str, index: u32) -> netlink::Route {
    netlink::Route::via(destination.parse().unwrap(), gateway.parse::<IpAddr>().unwrap(), index)
}

#[test]
fn it_misses_a_route_that_leads_elsewhere_now() {
    let attached = routed();
    attached.within(|index, _| Request::RouteDel(via("10.8.0.0/16", "172.18.0.8", index)));
    attached.within(|index, _| Request::RouteAdd(via("10.8.0.0/16", "172.18.0.1", index)));
    attached.finds("Expected Route 10.8.0.0/16 via 172.18.0.8 not found in routing table");
    // Only a default route may be replaced: that is done on purpose.
    let attached = routed();
    attached.within(|index, _| Request::RouteDel(via("0.0.0.0/0", "172.18.0.1", index)));
    attached.within(|index, _| Request::RouteAdd(via("0.0.0.0/0", "172.18.0.7", index)));
    attached.check().silent();
}

#[test]
fn it_misses_a_route_that_is_in_another_table() {
    let attached = routed();
    let of = |table, index| netlink::Route { table, ..via("10.9.0.0/16", "172.18.0.9", index) };
    attached.within(|index, _| Request::RouteDel(of(Some(100), index)));
    attached.within(|index, _| Request::RouteAdd(of(None, index)));
    attached.finds("Expected Route 10.9.0.0/16 via 172.18.0.9 table 100 not found in routing table");
}

/// A configuration may name an address in a network, and write it as it likes; the kernel keeps networks.
#[test]
fn it_finds_a_route_however_its_destination_is_written() {
    for dst in ["192.168.7.9/24", "10.8.0.1/16", "10.9.9.9/0", "0.0.0.0/0"] {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "172.18.0.0/16"}]], "routes": [{"dst": dst}]});
        Attached::new("bridge", with(&bridge("n", &[]), json!({"ipam": ipam})));
    }
    for dst in ["fd77:0:0:0::9/64", "FD77::9/64", "::1/0", "0:0::/0"] {
        let ipam = json!({"ranges": [[{"subnet": "172.18.0.0/16"}], [{"subnet": "fd18::/64"}]], "routes": [{"dst": dst}]});
        Attached::new("rnet", with(&rnet("n", &[]), json!({"ipam": ipam})));
    }
}

#[test]
fn it_misses_a_gateway_that_ipam_did_not_name() {
    let host = Host::new();
    host.install_script(
        "foreign",
        "#!/bin/sh\ncat >/dev/null\n\
         if [ $CNI_COMMAND = ADD ]; then printf '{\"ips\":[{\"address\":\"10.50.0.7/24\"}]}'; fi\n",
    );
    let (_container, who) = host.container("c1");
    let keys = json!({"isDefaultGateway": false, "isGateway": true, "ipam": {"type": "foreign"}});
    let config = with(&bridge("n", &[]), keys);
    let result = host.add("bridge", &who, &config);
    let check = || host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result})));
    check().silent();

    let index = host.link("br0").unwrap().index;
    let address = "10.50.0.1/24".parse().unwrap();
    host.netlink().send(&[Request::AddressDel { index, name: "br0".into(), address }]).unwrap();

    assert_eq!(check().refusal(), (107, "gateway address 10.50.0.1 is missing on bridge br0; hint: rnet repair n; so does the next container that is added \
         to it"
            .into()));
}
