//! GC removes what belongs to no valid attachment, and nothing else (docs/rules.md: G5).

use netns_fixtures::Container;
use serde_json::{Value, json};

use crate::common::{Host, Outcome, Who, bridge, publishing, rnet, with};

fn valid(who: &[&Who]) -> Value {
    who.iter().map(|who| json!({"containerID": who.id, "ifname": who.ifname})).collect()
}

fn collecting(config: &Value, who: &[&Who]) -> Value {
    with(config, json!({"cni.dev/valid-attachments": valid(who), "cni.dev/attachments": valid(who)}))
}

/// Four containers, each with a port of its own.
fn attached(host: &Host, plugin: &str, config: &Value) -> Vec<(Container, Who)> {
    let names = ["a", "b", "c", "d"];
    let attach = |(at, name): (usize, &&str)| {
        let (container, who) = host.container(name);
        let port = 8080 + u16::try_from(at).unwrap();
        host.add(plugin, &who, &publishing(config, &[("", port, 80, "tcp")]));
        (container, who)
    };
    names.iter().enumerate().map(attach).collect()
}

fn veths(host: &Host) -> usize {
    host.links().iter().filter(|link| link.starts_with("veth")).count()
}

fn nobody() -> Who {
    Who::named("", "")
}

/// Success, and what was removed is told where it is no protocol.
#[track_caller]
fn told(outcome: &Outcome) {
    assert!(
        outcome.status == 0 && outcome.stdout.is_empty() && outcome.stderr.contains("removed"),
        "{outcome:?}"
    );
}

#[test]
fn only_the_invalid_vanish() {
    let host = Host::new();
    let config = rnet("n", &["172.18.0.0/16"]);
    let all = attached(&host, "rnet", &config);
    let (_other, elsewhere) = host.container("a2");
    host.add("rnet", &elsewhere, &rnet("m", &["172.19.0.0/16"]));

    let told = host.cni("GC", "rnet", &nobody(), &collecting(&config, &[&all[0].1, &all[2].1]));

    let removed = ["b", "d"].map(|name| format!("removed \"{name}\" eth0"));
    assert!(told.status == 0 && told.stdout.is_empty(), "{told:?}");
    assert!(
        removed.iter().all(|words| told.stderr.contains(words)) && told.stderr.lines().count() == 2,
        "{told:?}"
    );
    assert_eq!(veths(&host), 3);
    let elements: String = host.elements().iter().map(|(element, _)| format!("{element}\n")).collect();
    for (port, stays) in [(8080, true), (8081, false), (8082, true), (8083, false)] {
        assert_eq!(elements.contains(&port.to_string()), stays, "{elements}");
    }
    // The freed addresses and names are free.
    host.add("rnet", &all[1].1, &publishing(&config, &[("", 8083, 80, "tcp")]));
}

#[test]
fn an_empty_list_means_that_nothing_is_valid() {
    let host = Host::new();
    let before = host.links();
    let config = rnet("n", &["172.18.0.0/16"]);
    attached(&host, "rnet", &config);
    told(&host.cni("GC", "rnet", &nobody(), &collecting(&config, &[])));
    assert_eq!(host.links(), before);
    assert_eq!(host.elements(), []);
    host.cni("GC", "rnet", &nobody(), &collecting(&config, &[])).silent();
}

#[test]
fn a_missing_list_is_no_empty_list() {
    let host = Host::new();
    let config = rnet("n", &["172.18.0.0/16"]);
    let mut all = attached(&host, "rnet", &config);
    let (dead, _) = all.remove(1);
    dead.remove().unwrap();
    drop(dead);
    // The kernel takes the pair away with the namespace, a moment later.
    let mut tries = 0;
    while veths(&host) == 4 && tries < 500 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        tries += 1;
    }
    told(&host.cni("GC", "rnet", &nobody(), &config));
    assert_eq!(veths(&host), 3);
    let published =
        host.elements().iter().filter(|(element, _)| matches!(element, nft::Element::Publish { .. })).count();
    assert_eq!(published, 3);
}

#[test]
fn one_attachment_of_a_container_may_be_valid_and_another_not() {
    let host = Host::new();
    let config = rnet("n", &["172.18.0.0/16"]);
    let (_container, eth0) = host.container("c1");
    let eth1 = eth0.clone().ifname("eth1");
    host.add("rnet", &eth0, &config);
    host.add("rnet", &eth1, &config);
    told(&host.cni("GC", "rnet", &nobody(), &collecting(&config, &[&eth1])));
    assert_eq!(veths(&host), 1);
    host.add("rnet", &eth0, &config);
}

#[test]
fn a_chain_is_collected_plugin_by_plugin() {
    let host = Host::new();
    let list = |port: u16| {
        let portmap = publishing(&json!({"type": "portmap"}), &[("", port, 80, "tcp")]);
        json!({"cniVersion": "1.1.0", "name": "n", "plugins": [bridge("n", &["10.1.0.0/24"]), portmap]})
    };
    let ((_kept, stays), (_lost, goes)) = (host.container("stays"), host.container("goes"));
    host.add_list(&list(8080), &stays).json();
    host.add_list(&list(8081), &goes).json();
    for plugin in ["portmap", "bridge"] {
        let config = with(&bridge("n", &["10.1.0.0/24"]), json!({"type": plugin}));
        told(&host.cni("GC", plugin, &nobody(), &collecting(&config, &[&stays])));
    }
    assert_eq!(veths(&host), 1);
    let folder = host.root().join("var/lib/cni/networks/n");
    assert!(folder.join("10.1.0.2").exists() && !folder.join("10.1.0.3").exists());
    let elements: String = host.elements().iter().map(|(element, _)| format!("{element}\n")).collect();
    assert!(elements.contains("8080") && !elements.contains("8081"), "{elements}");
    assert!(!elements.contains("10.1.0.3"), "{elements}");
}

/// Concourse attaches `eth0` by one list and `eth1` by another of the same name.
#[test]
fn two_lists_may_share_a_name() {
    let host = Host::new();
    let (v4, v6) = (bridge("concourse", &["10.80.0.0/16"]), bridge("concourse", &["fd80::/64"]));
    let (_container, eth0) = host.container("c1");
    let eth1 = eth0.clone().ifname("eth1");
    host.add("bridge", &eth0, &v4);
    host.add("bridge", &eth1, &v6);

    host.cni("GC", "bridge", &nobody(), &collecting(&v4, &[&eth0, &eth1])).silent();
    assert_eq!(veths(&host), 2);
    told(&host.cni("GC", "bridge", &nobody(), &collecting(&v4, &[&eth0])));
    assert_eq!(veths(&host), 1);
    host.del("bridge", &eth0, &v4);
    assert_eq!(veths(&host), 0);
}

#[test]
fn a_failing_delegate_stops_nobody() {
    let host = Host::new();
    host.install_script(
        "foreign",
        "#!/bin/sh\ncat >/dev/null\ncase $CNI_COMMAND$CNI_CONTAINERID in\n\
         ADDa) printf '{\"ips\":[{\"address\":\"10.1.0.2/24\"}]}' ;;\n\
         ADDb) printf '{\"ips\":[{\"address\":\"10.1.0.3/24\"}]}' ;;\n\
         DELa) printf '{\"code\":11,\"msg\":\"not now\"}'; exit 1 ;;\nesac\n",
    );
    let config = with(&bridge("n", &[]), json!({"ipam": {"type": "foreign"}}));
    let ((_one, a), (_two, b)) = (host.container("a"), host.container("b"));
    host.add("bridge", &a, &config);
    host.add("bridge", &b, &config);

    let told = host.cni("GC", "bridge", &nobody(), &collecting(&config, &[]));

    assert!(told.status == 1 && told.stdout.contains("not now"), "{told:?}");
    assert_eq!(veths(&host), 0);
    assert!(!host.elements().iter().any(|(element, _)| matches!(element, nft::Element::Masquerade { .. })));
}

/// An engine may lose the path of a namespace whose processes run on.
#[test]
fn who_has_lost_its_path_but_not_its_life_keeps_its_port() {
    let host = Host::new();
    let portmap = publishing(&json!({"type": "portmap"}), &[("", 8080, 80, "tcp")]);
    let list =
        json!({"cniVersion": "1.1.0", "name": "n", "plugins": [bridge("n", &["10.1.0.0/24"]), portmap]});
    let (pathless, who) = host.container("pathless");
    host.add_list(&list, &who).json();
    pathless.remove().unwrap();
    let published = || {
        let elements = host.elements();
        elements.iter().filter(|(element, _)| matches!(element, nft::Element::Publish { .. })).count()
    };
    let collect = || {
        host.cni(
            "GC",
            "portmap",
            &nobody(),
            &with(&list["plugins"][1], json!({"cniVersion": "1.1.0", "name": "n", "runtimeConfig": null})),
        )
        .status
    };

    collect();
    assert_eq!(published(), 1);
    let (_late, late) = host.container("late");
    let refused = host.add_list(&list, &late).refusal();
    assert_eq!(refused.0, 102, "{refused:?}");

    drop(pathless);
    let mut tries = 0;
    while published() > 0 && tries < 100 {
        collect();
        tries += 1;
    }
    assert_eq!(published(), 0);
    host.add_list(&list, &late).json();
}
