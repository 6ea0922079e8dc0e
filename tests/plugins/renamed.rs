//! DEL under another network name than ADD's: the definition was renamed meanwhile (docs/rules.md: G2).

use std::fs;

use netns_fixtures::assert_same;
use serde_json::{Value, json};

use crate::common::{Host, Who, bridge, differences, inside, publishing, rnet, with};

fn called(config: &Value, name: &str) -> Value {
    with(config, json!({"name": name}))
}

fn list(name: &str, bridge: &Value) -> Value {
    let portmap = publishing(&json!({"type": "portmap"}), &[("", 8080, 80, "tcp")]);
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [bridge, portmap]})
}

/// What the command writes for a network, as far as it is read here.
fn define(host: &Host, name: &str) {
    let folder = host.root().join("etc/cni/net.d");
    fs::create_dir_all(&folder).unwrap();
    let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "rnet"}]});
    fs::write(folder.join(format!("rnet-{name}.conflist")), list.to_string()).unwrap();
}

#[test]
fn it_removes_everything() {
    for (plugin, config) in [
        ("rnet", publishing(&rnet("old", &["172.18.0.0/16"]), &[("", 8080, 80, "tcp")])),
        ("rnet", with(&rnet("old", &[]), json!({"ipam": bridge("old", &["10.1.0.0/24"])["ipam"]}))),
        ("bridge", bridge("old", &["10.1.0.0/24"])),
    ] {
        let host = Host::new();
        let (_container, who) = host.container("c1");
        // The folders of leases stay, and the bridge of type `bridge`.
        host.add(plugin, &who, &config);
        host.del(plugin, &who, &config);
        let before = host.snapshot();
        host.add(plugin, &who, &config);

        for netns in [who.netns.as_str(), ""] {
            host.del(plugin, &who.clone().netns(netns), &called(&config, "new"));
            let left = differences(&before, &host.snapshot());
            // The second DEL has nothing to go by; host-local makes its folder, as upstream's does.
            assert!(
                left.iter().all(|line| netns.is_empty() && line.contains("networks/new")),
                "{plugin}: {left:#?}"
            );
        }
        assert!(!host.run_folder().join("leases/new").exists());
    }
}

#[test]
fn a_list_removes_everything() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let plugin = bridge("old", &["10.1.0.0/24"]);
    host.add_list(&list("old", &plugin), &who).json();
    host.del_list(&list("old", &plugin), &who, None).silent();
    let before = host.snapshot();
    host.add_list(&list("old", &plugin), &who).json();

    host.del_list(&list("new", &plugin), &who, None).silent();

    let left = differences(&before, &host.snapshot());
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn what_the_container_has_on_its_other_interface_stays() {
    let host = Host::new();
    let (container, eth0) = host.container("c1");
    let eth1 = eth0.clone().ifname("eth1");
    let (one, two) = (rnet("one", &["172.18.0.0/16"]), rnet("two", &["172.19.0.0/16"]));
    host.add("rnet", &eth0, &one);
    host.add("rnet", &eth1, &two);

    host.del("rnet", &eth0, &called(&one, "uno"));

    assert!(inside(container.netns()).link("eth0").unwrap().is_none());
    assert!(inside(container.netns()).link("eth1").unwrap().is_some());
    assert_eq!(
        host.links().iter().filter(|name| name.starts_with("rnet-")).collect::<Vec<_>>(),
        ["rnet-two"]
    );
}

/// An ADD of a second network for an interface name that is taken fails, and its runtime calls DEL.
#[test]
fn a_network_that_is_still_defined_was_not_renamed() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let (one, two) = (rnet("one", &["172.18.0.0/16"]), rnet("two", &["172.19.0.0/16"]));
    ["one", "two"].iter().for_each(|name| define(&host, name));
    host.add("rnet", &who, &one);
    let before = host.snapshot();
    assert_eq!(host.cni("ADD", "rnet", &who, &two).refusal().0, 104);

    host.del("rnet", &who, &two);

    let left = differences(&before, &host.snapshot());
    assert!(left.iter().all(|line| line.contains("leases/two")), "{left:#?}");
}

#[test]
fn which_of_several_is_meant_nobody_can_tell() {
    let host = Host::new();
    let (dead, who) = host.container("c1");
    host.add("rnet", &who, &rnet("one", &["172.18.0.0/16"]));
    dead.remove().unwrap();
    // A container of the same id, after the first died without a DEL.
    let (_again, who): (_, Who) = host.container("c1");
    host.add("rnet", &who, &rnet("two", &["172.19.0.0/16"]));
    let before = host.snapshot();

    host.del("rnet", &who, &rnet("three", &["172.20.0.0/16"]));

    assert_same(&before, &host.snapshot());
}

/// ADD netb, DEL netb, ADD neta, and the DEL of netb comes once more; or ADD neta, and an ADD of netb that is refused.
#[test]
fn a_del_of_one_network_leaves_another_ones_attachment_alone() {
    let configs = |name: &str, subnet: &str| {
        let bridged = with(&bridge(name, &[subnet]), json!({"bridge": format!("br-{name}")}));
        [("rnet", rnet(name, &[subnet])), ("bridge", bridged)]
    };
    let (neta, netb) = (configs("neta", "172.18.0.0/16"), configs("netb", "172.19.0.0/16"));
    for ((plugin, neta), (_, netb)) in neta.into_iter().zip(netb) {
        let host = Host::new();
        let (_container, who) = host.container("c1");
        host.add(plugin, &who, &netb);
        host.del(plugin, &who, &netb);
        host.add(plugin, &who, &neta);
        let before = host.snapshot();

        host.del(plugin, &who, &netb);
        assert_same(&before, &host.snapshot());

        assert_eq!(host.cni("ADD", plugin, &who, &netb).refusal().0, 104, "{plugin}");
        host.del(plugin, &who, &netb);
        assert!(differences(&before, &host.snapshot()).is_empty(), "{plugin}");
    }
}

/// The same for a list: portmap's configuration says nothing of a network but its name.
#[test]
fn a_del_of_one_list_leaves_another_ones_ports_alone() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let of = |name: &str, subnet: &str| {
        let bridged = with(&bridge(name, &[subnet]), json!({"bridge": format!("br-{name}")}));
        let mut list = list(name, &bridged);
        list["plugins"].as_array_mut().unwrap().push(json!({"type": "dnsname", "domainName": "x"}));
        list
    };
    let (neta, netb) = (of("neta", "172.18.0.0/16"), of("netb", "172.19.0.0/16"));
    let result = host.add_list(&netb, &who).json();
    host.del_list(&netb, &who, Some(&result)).silent();
    host.add_list(&neta, &who).json();
    let (before, elements) = (host.snapshot(), host.elements());

    host.del_list(&netb, &who, None).silent();
    host.del_list(&netb, &who, Some(&result)).silent();

    assert_same(&before, &host.snapshot());
    assert_eq!(host.elements(), elements);
}

/// A list whose interface another plugin made: the result that ADD got tells that it is the same attachment.
#[test]
fn portmap_alone_knows_a_renamed_list_by_its_result() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let previous = |address: &str| {
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "veth77"}, {"name": "eth0", "sandbox": who.netns}],
            "ips": [{"address": address, "interface": 1}],
        })
    };
    let config = |name: &str, address: &str| {
        let config = json!({"cniVersion": "1.0.0", "name": name, "prevResult": previous(address)});
        publishing(&config, &[("", 8080, 80, "tcp")])
    };
    host.cni("ADD", "portmap", &who, &config("old", "10.1.0.2/24")).json();

    host.del("portmap", &who, &config("other", "10.1.0.3/24"));
    assert!(!host.elements().is_empty());
    host.del("portmap", &who, &config("new", "10.1.0.2/24"));
    assert_eq!(host.elements(), []);
}

/// nerdctl and others have a network called `bridge`, as rnet has.
#[test]
fn two_plugins_may_have_a_network_of_one_name() {
    let (own, other) = (rnet("n", &["172.18.0.0/16"]), bridge("n", &["172.19.0.0/16"]));
    let small = with(
        &other,
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/30", "rangeStart": "10.1.0.2"}]]}}),
    );
    for ((first, one), (second, two)) in
        [(("rnet", &own), ("bridge", &small)), (("bridge", &small), ("rnet", &own))]
    {
        let host = Host::new();
        let (_container, who) = host.container("c1");
        host.add(first, &who, one);
        let before = host.snapshot();

        host.cni("ADD", second, &who, two).refusal();
        assert!(differences(&before, &host.snapshot()).is_empty(), "{first}");
        host.del(second, &who, two);
        let left = differences(&before, &host.snapshot());
        assert!(
            left.iter().all(|line| line.contains("networks/n") || line.contains("leases/n")),
            "{left:#?}"
        );
        host.del(first, &who, one);
    }
}
