//! The plugin tuning: what it changes of a container's interface and sysctls, and that all of it comes back.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use netlink::{Link, Request};
use netns_fixtures::{Container, compares, ping};
use serde_json::{Value, json};

use crate::common::{Guest, Host, LONG, Network, Outcome, Who, bridge, inside, rnet, with};

/// Debian's, which behaves as upstream's 1.1.1.
const REFERENCE: &str = "/usr/lib/cni/tuning";
const MAC: &str = "02:11:22:33:44:55";

/// A list of a plugin that makes an interface, and tuning.
fn list(maker: &Value, tuning: Value) -> Network {
    let tuning = with(&json!({"type": "tuning"}), tuning);
    Network { list: json!({"cniVersion": "1.1.0", "name": maker["name"], "plugins": [maker, tuning]}) }
}

/// All keys at once.
fn everything() -> Value {
    json!({
        "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net/ipv4/tcp_rmem": "4096 65536 131072"},
        "mac": MAC, "promisc": true, "mtu": 1333, "allmulti": true, "txQLen": 77,
    })
}

fn link(container: &Container) -> Link {
    inside(container.netns()).link("eth0").unwrap().unwrap()
}

fn sysctl(container: &Container, key: &str) -> String {
    inside(container.netns()).sysctl(key).unwrap().unwrap()
}

/// What tuning can change of a container, as one value.
fn state(container: &Container) -> (String, bool, u32, bool, u32, String, String) {
    let Link { mac, promisc, mtu, all_multicast, queue_length, .. } = link(container);
    let [filter, memory] = ["ipv4/conf/eth0/arp_filter", "ipv4/tcp_rmem"].map(|key| sysctl(container, key));
    (mac.unwrap().to_string(), promisc, mtu, all_multicast, queue_length, filter, memory)
}

/// A container that `bridge` has attached, its result, and the configuration of tuning behind it.
fn bridged(host: &Host, name: &str) -> (Container, Who, Value) {
    let (container, who) = host.container(name);
    let result = host.add("bridge", &who, &bridge("n", &["10.1.0.0/24"]));
    (container, who, result)
}

fn tuning(keys: Value, previous: &Value) -> Value {
    with(
        &with(&json!({"cniVersion": "1.1.0", "name": "n", "type": "tuning"}), keys),
        json!({"prevResult": previous}),
    )
}

fn records(host: &Host) -> usize {
    host.store().records().unwrap().iter().filter(|record| record.plugin == "tuning").count()
}

fn folder(host: &Host) -> PathBuf {
    host.root().join("run/cni/tuning")
}

fn files(host: &Host) -> Vec<PathBuf> {
    crate::common::entries(&folder(host))
}

#[test]
fn every_key_is_set_told_and_restored() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let before = state(&container);

    let result = host.add("tuning", &who, &tuning(everything(), &previous));

    let after = state(&container);
    let memory = "4096\t65536\t131072".to_owned();
    assert_eq!(after, (MAC.into(), true, 1333, true, 77, "1".into(), memory));
    let mut expected = previous.clone();
    expected["interfaces"][2]["mac"] = MAC.into();
    assert_eq!(result, expected);
    host.cni("CHECK", "tuning", &who, &tuning(everything(), &result)).silent();
    assert_eq!(records(&host), 1);

    host.del("tuning", &who, &tuning(everything(), &result));

    assert_eq!(state(&container), before);
    assert_eq!((records(&host), files(&host)), (0, vec![]));
    host.del("tuning", &who, &tuning(everything(), &result));
    host.del("bridge", &who, &bridge("n", &["10.1.0.0/24"]));
}

/// podman and nerdctl end their lists with it.
#[test]
fn without_keys_the_result_passes_through_and_nothing_is_remembered() {
    let host = Host::new();
    let (_container, who, previous) = bridged(&host, "c1");
    let config = tuning(json!({}), &previous);
    assert_eq!(host.add("tuning", &who, &config), previous);
    assert_eq!(records(&host), 0);
    for verb in ["CHECK", "STATUS", "GC", "DEL"] {
        host.cni(verb, "tuning", &who, &config).silent();
    }
    let (code, text) = host.cni("ADD", "tuning", &who, &with(&config, json!({"prevResult": null}))).refusal();
    assert_eq!((code, text.as_str()), (7, "Required prevResult missing"));
}

#[test]
fn the_mac_of_args_goes_before_the_runtimes_and_that_before_cni_args() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"];
    let mut keys = json!({"mac": macs[0]});
    let mut who = who;
    for (nth, mac) in macs.into_iter().enumerate() {
        match nth {
            0 => {}
            1 => who.args = format!("MAC={mac}"),
            2 => keys["runtimeConfig"] = json!({"mac": mac}),
            _ => keys["args"] = json!({"cni": {"mac": mac, "unknown": 1}}),
        }
        let result = host.add("tuning", &who, &tuning(keys.clone(), &previous));
        assert_eq!(result["interfaces"][2]["mac"], mac);
        assert_eq!(link(&container).mac.unwrap().to_string(), mac);
    }
    let keys = json!({"mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "0"},
        "args": {"cni": {"mtu": 1300, "sysctl": {"net/ipv4/conf/IFNAME/arp_filter": "1"}}}});
    host.add("tuning", &who, &tuning(keys, &previous));
    assert_eq!((link(&container).mtu, sysctl(&container, "ipv4/conf/eth0/arp_filter").as_str()), (1300, "1"));
}

#[test]
fn what_is_refused_changes_nothing() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let before = state(&container);
    let two = json!({"sysctl": {"net.core.somaxconn": "1", "net/core/somaxconn": "2"}});
    for (keys, code, text) in [
        (json!({"sysctl": {"kernel.hostname": "x"}}), 7, "invalid net sysctl key: \"kernel/hostname\""),
        (
            json!({"sysctl": {"net/../kernel/hostname": "x"}}),
            7,
            "invalid net sysctl key: \"net/../kernel/hostname\"",
        ),
        (two, 7, "duplicated sysctl keys are not allowed"),
        (json!({"mac": "xx"}), 7, "invalid args xx for MAC addr: "),
        (
            json!({"mtu": 1333, "sysctl": {"net.ipv4.nothing": "1"}}),
            109,
            "failed to set sysctl net/ipv4/nothing",
        ),
        (json!({"mtu": 1333, "mac": "01:00:5e:00:00:01"}), 109, "the kernel refused"),
        (json!({"mtu": -1}), 7, ""),
        (json!({"sysctl": {"net.core.somaxconn": 1}}), 7, ""),
    ] {
        let outcome = host.cni("ADD", "tuning", &who, &tuning(keys.clone(), &previous));
        let (found, said) = outcome.refusal();
        assert!(found == code && said.starts_with(text), "{keys}: {found} {said}");
        assert_eq!(state(&container), before, "{keys}");
        assert_eq!((records(&host), files(&host)), (0, vec![]), "{keys}");
    }
    let elsewhere = who.ifname("eth7");
    let (code, text) = host.cni("ADD", "tuning", &elsewhere, &tuning(everything(), &previous)).refusal();
    assert!(code == 109 && text.starts_with("failed to get \"eth7\": "), "{code} {text}");
}

#[test]
fn the_allow_list_says_which_sysctls_may_be_set() {
    let host = Host::new();
    let (_container, who, previous) = bridged(&host, "c1");
    let folder = host.root().join("etc/cni/tuning");
    std::fs::create_dir_all(&folder).unwrap();
    let add = |list: &str, key: &str| {
        std::fs::write(folder.join("allowlist.conf"), list).unwrap();
        host.cni("ADD", "tuning", &who, &tuning(json!({"sysctl": {key: "1"}}), &previous))
    };
    let list = "^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\n\n  arp_ignore \n";
    add(list, "net.ipv4.conf.IFNAME.arp_filter").json();
    add(list, "net.ipv4.conf.all.arp_ignore").json();
    let expected = "Sysctl net.core.somaxconn is not allowed. Only the following sysctls are allowed: \
                    [^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$ arp_ignore]";
    assert_eq!(add(list, "net.core.somaxconn").refusal(), (7, expected.into()));
    let (code, text) = add("(", "net.core.somaxconn").refusal();
    assert!(code == 7 && text.starts_with("line \"(\" of /etc/cni/tuning/allowlist.conf"), "{text}");
    add("", "net.core.somaxconn").refusal();
}

#[test]
fn check_names_whatever_was_changed_since() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let config = tuning(everything(), &previous);
    let result = host.add("tuning", &who, &config);
    let index = link(&container).index;
    let name = || "eth0".to_owned();
    let mac = "02:00:00:00:00:66".parse().unwrap();
    let changes = [
        (
            Request::LinkMac { index, name: name(), mac },
            format!("configured Ethernet of eth0 is {MAC}, current value is {mac}"),
        ),
        (
            Request::LinkMtu { index, name: name(), mtu: 1500 },
            "configured MTU of eth0 is 1333, current value is 1500".into(),
        ),
        (
            Request::LinkAllMulticast { index, name: name(), on: false },
            "configured all-multicast mode of eth0 is true, current value is false".into(),
        ),
        (
            Request::LinkQueue { index, name: name(), length: 5 },
            "configured Transmit Queue Length of eth0 is 77, current value is 5".into(),
        ),
        (
            Request::LinkPromisc { index, name: name(), on: false },
            "link eth0 configured promisc is true, current value is 0".into(),
        ),
    ];
    let check = || host.cni("CHECK", "tuning", &who, &with(&config, json!({"prevResult": result})));
    for (change, text) in changes {
        inside(container.netns()).send(&[change]).unwrap();
        assert_eq!(check().refusal(), (107, format!("Error: Tuning {text}")));
        host.add("tuning", &who, &config);
    }
    inside(container.netns()).set_sysctl("ipv4/conf/eth0/arp_filter", "0").unwrap();
    let text =
        "Error: Tuning configured value of /proc/sys/net/ipv4/conf/eth0/arp_filter is 1, current value is 0";
    assert_eq!(check().refusal(), (107, text.into()));
}

/// Who looks at its packets changes nothing of what was configured.
#[test]
fn a_sniffer_inside_disturbs_no_check() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let config = tuning(json!({"promisc": false, "mtu": 1400}), &previous);
    let result = host.add("tuning", &who, &config);
    let _sniffer = netns_fixtures::Frames::on(container.netns(), "eth0").unwrap();
    host.cni("CHECK", "tuning", &who, &with(&config, json!({"prevResult": result}))).silent();
    let on = Request::LinkPromisc { index: link(&container).index, name: "eth0".into(), on: true };
    inside(container.netns()).send(&[on]).unwrap();
    let text = "Error: Tuning link eth0 configured promisc is false, current value is 1";
    assert_eq!(host.cni("CHECK", "tuning", &who, &config).refusal(), (107, text.into()));
}

#[test]
fn del_needs_neither_the_namespace_nor_the_keys() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let before = state(&container);
    host.add("tuning", &who, &tuning(everything(), &previous));
    // The path of the record leads to the container.
    host.del(
        "tuning",
        &who.clone().netns(""),
        &json!({"cniVersion": "1.1.0", "name": "n", "type": "tuning", "mtu": "?"}),
    );
    assert_eq!(state(&container), before);

    host.add("tuning", &who, &tuning(everything(), &previous));
    drop(container);
    host.del("tuning", &who.clone().netns(""), &tuning(everything(), &previous));
    assert_eq!((records(&host), files(&host)), (0, vec![]));
    host.del("tuning", &who, &tuning(everything(), &previous));
}

#[test]
fn a_second_add_keeps_what_was_there_before_the_first() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let before = state(&container);
    for mtu in [1333, 1334] {
        host.add("tuning", &who, &tuning(with(&everything(), json!({"mtu": mtu})), &previous));
    }
    assert_eq!(link(&container).mtu, 1334);
    host.del("tuning", &who, &tuning(json!({}), &previous));
    assert_eq!(state(&container), before);
}

#[test]
fn a_killed_add_and_a_killed_del_leave_nothing_that_del_does_not_restore() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let before = state(&container);
    let config = tuning(everything(), &previous);
    let die = |verb: &str, step: &str| {
        let call = host.call(verb, "tuning", &who).input(config.to_string());
        let outcome = call.set("RNET_FAILPOINT", &format!("{step}:abort")).run();
        assert!(outcome.status > 128, "{step}: {outcome:?}");
    };
    for step in ["add.originals", "add.mac", "add.tuned", "add.commit"] {
        die("ADD", step);
        host.del("tuning", &who, &config);
        assert_eq!((state(&container), records(&host)), (before.clone(), 0), "{step}");
    }
    for step in ["del.tuned", "del.record"] {
        host.add("tuning", &who, &config);
        die("DEL", step);
        host.del("tuning", &who, &config);
        assert_eq!((state(&container), records(&host), files(&host)), (before.clone(), 0, vec![]), "{step}");
    }
}

#[test]
fn gc_restores_what_belongs_to_no_attachment_and_status_looks_at_the_folder() {
    let host = Host::new();
    let (container, who, previous) = bridged(&host, "c1");
    let before = state(&container);
    let config = tuning(everything(), &previous);
    host.add("tuning", &who, &config);
    let gc = |valid: Value| {
        host.cni("GC", "tuning", &who, &with(&config, json!({"cni.dev/valid-attachments": valid})))
    };
    gc(json!([{"containerID": "c1", "ifname": "eth0"}])).silent();
    assert_eq!(link(&container).mtu, 1333);

    assert_eq!(gc(json!([])).status, 0);

    assert_eq!((state(&container), records(&host), files(&host)), (before, 0, vec![]));
    host.cni("STATUS", "tuning", &who, &config).silent();
    std::fs::remove_dir_all(folder(&host)).unwrap();
    std::os::unix::fs::symlink("/nowhere", folder(&host)).unwrap();
    assert_eq!(host.cni("STATUS", "tuning", &who, &config).refusal().0, 50);
}

/// Keys that the reference plugin of that version has.
fn common_keys() -> Value {
    json!({"sysctl": {"net/ipv4/conf/eth0/arp_filter": "1"}, "mac": MAC, "promisc": true, "mtu": 1333, "allmulti": true})
}

/// The reference plugin takes no root to be moved to.
fn call(host: &Host, whose: &str, verb: &str, who: &Who, previous: &Value) -> Outcome {
    let folder = if whose == "tuning" { "/run/cni/tuning".into() } else { folder(host) };
    let keys = with(&common_keys(), json!({"dataDir": folder, "cniVersion": "1.0.0"}));
    host.cni(verb, whose, who, &tuning(keys, previous))
}

#[test]
fn either_plugin_checks_and_undoes_what_the_reference_plugin_or_this_one_has_done() {
    let host = Host::new();
    if !compares(Path::new(REFERENCE).exists(), "the reference plugin tuning is not installed") {
        return;
    }
    std::os::unix::fs::symlink(REFERENCE, host.plugins.join("upstream")).unwrap();
    let (container, who, previous) = bridged(&host, "c1");
    let previous = with(&previous, json!({"cniVersion": "1.0.0"}));
    let before = state(&container);
    let file = |host: &Host| host.read("run/cni/tuning/c1_eth0.json");
    let mut upstream = call(&host, "upstream", "ADD", &who, &previous).json();
    // An empty member, which that version prints nevertheless.
    assert_eq!(upstream.as_object_mut().unwrap().remove("dns"), Some(json!({})));
    let (tuned, written) = (state(&container), file(&host));
    call(&host, "tuning", "CHECK", &who, &upstream).silent();
    call(&host, "tuning", "DEL", &who, &upstream).silent();
    // Only this plugin restores sysctls, and only those that it has set.
    inside(container.netns()).set_sysctl("ipv4/conf/eth0/arp_filter", "0").unwrap();
    assert_eq!((state(&container), file(&host)), (before.clone(), None));

    let own = call(&host, "tuning", "ADD", &who, &previous).json();
    assert_eq!((&own, state(&container), file(&host)), (&upstream, tuned.clone(), written));
    call(&host, "upstream", "CHECK", &who, &own).silent();
    call(&host, "upstream", "DEL", &who, &own).silent();
    inside(container.netns()).set_sysctl("ipv4/conf/eth0/arp_filter", "0").unwrap();
    assert_eq!((state(&container), file(&host)), (before.clone(), None));

    // Over what the reference plugin has changed: its file says what was there before.
    call(&host, "tuning", "DEL", &who, &own).silent();
    call(&host, "upstream", "ADD", &who, &previous).json();
    call(&host, "tuning", "ADD", &who, &previous).json();
    call(&host, "tuning", "DEL", &who, &previous).silent();
    inside(container.netns()).set_sysctl("ipv4/conf/eth0/arp_filter", "0").unwrap();
    assert_eq!(state(&container), before);
}

/// The reference plugin's words for what both refuse.
#[test]
fn refusals_begin_as_the_reference_plugins_do() {
    let host = Host::new();
    if !compares(Path::new(REFERENCE).exists(), "the reference plugin tuning is not installed") {
        return;
    }
    std::os::unix::fs::symlink(REFERENCE, host.plugins.join("upstream")).unwrap();
    let (_container, who, previous) = bridged(&host, "c1");
    let previous = with(&previous, json!({"cniVersion": "1.0.0"}));
    for keys in [
        json!({"sysctl": {"kernel.hostname": "x"}}),
        json!({"mac": "xx"}),
        json!({"prevResult": null}),
        json!({"sysctl": {"net/core/somaxconn": "1"}, "args": {"cni": {"sysctl": {"kernel/x": "1"}}}}),
    ] {
        let config = with(&tuning(json!({"cniVersion": "1.0.0", "dataDir": folder(&host)}), &previous), keys);
        let said = ["upstream", "tuning"].map(|whose| {
            let outcome = host.cni("ADD", whose, &who, &config);
            let said: Value = serde_json::from_str(&outcome.stdout).unwrap();
            said["msg"].as_str().unwrap().to_owned()
        });
        // Later versions of it print the key as this plugin does.
        let said = [said[0].replace("kernel.", "kernel/"), said[1].clone()];
        let shared = said[0].split(": address xx").next().unwrap();
        assert!(said[1].starts_with(shared), "{said:?}");
    }
}

/// The container's packets pass, in both directions and to its neighbour.
fn works(guest: &Guest<'_>, neighbour: &Guest<'_>) {
    assert!(guest.works(), "the host does not reach it");
    let reaches =
        |from: &Guest<'_>, to: IpAddr| (0..3).any(|_| ping(from.netns(), to, LONG).unwrap().is_some());
    for (from, to) in [(guest, neighbour), (neighbour, guest)] {
        assert!(reaches(from, to.v4()) && reaches(from, to.v6()), "{} to {}", from.who.id, to.who.id);
    }
}

/// The kernel's own address of a container, made of its MAC.
fn link_local(container: &Container) -> Vec<String> {
    const RT_SCOPE_LINK: u8 = 253;
    let found = inside(container.netns()).addresses(Some(link(container).index)).unwrap();
    found.iter().filter(|found| found.scope == RT_SCOPE_LINK).map(|found| found.address.to_string()).collect()
}

/// B9 of docs/rules.md: guards know the MAC that the container has now.
#[test]
fn guards_follow_a_changed_mac_and_follow_it_back() {
    let subnets = ["10.1.0.0/24", "fd01::/64"];
    let checked = with(&bridge("n", &subnets), json!({"macspoofchk": true}));
    for maker in [rnet("n", &subnets), checked] {
        let host = Host::new();
        let network = list(&maker, json!({"mac": MAC}));
        let neighbour = host.attach_list("neighbour", &list(&maker, json!({})).list);
        let guest = host.guest(&network, "web");
        // It has been heard of under its first MAC.
        let mut previous = guest.call("ADD", guest.network.main_plugin(), None, None).run().json();
        guest.remember(Some(previous.clone()));
        guest.await_port();
        works(&guest, &neighbour);
        let first = link_local(&guest);

        previous = guest.call("ADD", "tuning", Some(&previous), None).run().json();
        guest.remember(Some(previous.clone()));

        assert_eq!(link(&guest).mac.unwrap().to_string(), MAC);
        works(&guest, &neighbour);
        if maker["type"] == "rnet" {
            assert_eq!(link_local(&guest), ["fe80::11:22ff:fe33:4455/64"]);
        }
        host.check_list(&network.list, &guest.who, &previous).silent();

        guest.call("DEL", "tuning", Some(&previous), None).run().silent();

        if maker["type"] == "rnet" {
            assert_eq!(link_local(&guest), first);
        }
        works(&guest, &neighbour);
        guest.call("DEL", guest.network.main_plugin(), Some(&previous), None).run().silent();
        neighbour.del().unwrap();
        assert!(host.elements().is_empty() && host.store().records().unwrap().is_empty());
    }
}

#[test]
fn a_mac_that_another_on_the_bridge_has_is_refused() {
    let host = Host::new();
    let network = list(&rnet("n", &["10.1.0.0/24"]), json!({"mac": MAC}));
    let first = host.attach_list("first", &network.list);
    let second = host.guest(&network, "second");
    let (code, text) = second.add().unwrap_err().refusal();
    assert_eq!(code, 101);
    assert!(text.contains(MAC), "{text}");
    second.del().unwrap();
    first.del().unwrap();
    second.add().unwrap();
}

/// The example of docs/tuning.md.
#[test]
fn the_documented_list_works() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tuning.md")).unwrap();
    let block = text.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let list: Value = serde_json::from_str(block).unwrap();
    let host = Host::new();
    let (container, who) = host.container("c1");
    let result = host.add_list(&list, &who).json();
    let keys = &list["plugins"].as_array().unwrap().iter().find(|plugin| plugin["type"] == "tuning").unwrap();
    assert_eq!(u64::from(link(&container).mtu), keys["mtu"].as_u64().unwrap());
    host.check_list(&list, &who, &result).silent();
    host.del_list(&list, &who, Some(&result)).silent();
}
