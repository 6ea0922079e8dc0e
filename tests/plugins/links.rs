//! Symbolic links in the place of rnet's folders (docs/rules.md: I5).

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{Host, Who, bridge, rnet, with};

fn lease_folder(place: &str) -> Value {
    let ipam = json!({"type": "host-local", "dataDir": place, "ranges": [[{"subnet": "10.1.0.0/24"}]]});
    with(&bridge("n", &[]), json!({"ipam": ipam}))
}

/// Where the link is, and a network that needs what lies there.
fn places() -> Vec<(&'static str, &'static str, Value)> {
    let host_local = bridge("n", &["10.1.0.0/24"]);
    vec![
        ("run/rnet", "rnet", rnet("n", &["172.18.0.0/16"])),
        ("run", "rnet", rnet("n", &["172.18.0.0/16"])),
        ("var/lib/cni/networks", "bridge", host_local.clone()),
        ("var/lib/cni", "bridge", host_local.clone()),
        ("var/lib/cni/networks/n", "bridge", host_local.clone()),
        ("var/lib/rnet", "bridge", host_local),
        ("data/leases", "bridge", lease_folder("/data/leases/x/y")),
    ]
}

#[test]
fn one_that_leads_nowhere_is_named_and_nothing_crashes() {
    for (place, plugin, config) in places() {
        let host = Host::new();
        let link = host.root().join(place);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        // The lab may have been there first.
        let _ = std::fs::remove_dir_all(&link);
        symlink("/nowhere/at/all", &link).unwrap();
        let (_container, who) = host.container("c1");
        let before = host.links();

        for verb in ["ADD", "STATUS"] {
            let (code, told) = host.cni(verb, plugin, &who, &config).refusal();
            let named = told.contains(&link.display().to_string()) && told.contains("/nowhere/at/all");
            assert!(named, "{verb} {place}: {code} {told}");
        }
        for verb in ["DEL", "CHECK", "GC"] {
            let outcome = host.cni(verb, plugin, &who, &config);
            assert!(outcome.status < 2, "{verb} {place}: {outcome:?}");
        }
        let command = host.bare_call("rnet").arguments(&["ls"]).run();
        assert!(command.status < 2 || command.stderr.contains("nowhere"), "{place}: {command:?}");
        assert!(crate::common::entries(&link).is_empty() && host.links() == before, "{place}");
    }
}

/// What rnet itself makes below its own folder is found by descriptors: nobody's link leads it elsewhere.
#[test]
fn a_folder_of_the_state_that_is_a_link_is_refused() {
    for folder in ["networks", "leases", "records", "claims", "new", "index", "locks", "macs"] {
        let host = Host::new();
        let config = rnet("n", &["172.18.0.0/16"]);
        let elsewhere = host.root().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("n")).unwrap();
        let run = host.run_folder();
        std::fs::create_dir_all(&run).unwrap();
        symlink(&elsewhere, run.join(folder)).unwrap();
        let (_container, who) = host.container("c1");
        let published = crate::common::publishing(&config, &[("127.0.0.1", 8080, 80, "tcp")]);
        let before = host.links();

        let (_, told) = host.cni("ADD", "rnet", &who, &published).refusal();

        assert!(told.contains(&run.join(folder).display().to_string()), "{folder}: {told}");
        assert_eq!(crate::common::entries(&elsewhere), [elsewhere.join("n")], "{folder}");
        assert_eq!(crate::common::entries(&elsewhere.join("n")), [] as [PathBuf; 0], "{folder}");
        assert_eq!(host.links(), before, "{folder}");
    }
}

/// Between the look and the use: what was looked at by its path may be a link a moment later.
#[test]
fn a_folder_of_the_state_that_becomes_a_link_during_an_add_is_not_followed() {
    for folder in ["leases", "index"] {
        let host = Host::new();
        let config = rnet("n", &["172.18.0.0/16"]);
        let (_first, first) = host.container("first");
        host.add("rnet", &first, &config);
        let run = host.run_folder();
        let elsewhere = host.root().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("n")).unwrap();
        let (_container, who) = host.container("c1");
        let records = || crate::common::entries(&crate::common::entries(&run.join("records"))[0]).len();
        let call = host.call("ADD", "rnet", &who).input(config.to_string());
        let mut child = call.set("RNET_FAILPOINT", "add.intent:delay=1000").spawn();
        while records() < 2 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }

        std::fs::rename(run.join(folder), host.root().join("before")).unwrap();
        symlink(&elsewhere, run.join(folder)).unwrap();

        assert!(!child.wait().unwrap().success(), "{folder}");
        assert_eq!(crate::common::entries(&elsewhere), [elsewhere.join("n")], "{folder}");
        assert_eq!(crate::common::entries(&elsewhere.join("n")), [] as [PathBuf; 0], "{folder}");
    }
}

#[test]
fn a_name_that_no_folder_can_have_is_refused_before_anything_is_written() {
    let nobody = Who::named("", "");
    for plugin in ["rnet", "bridge", "host-local", "portmap", "dnsname"] {
        let host = Host::new();
        let (_container, who) = host.container("c1");
        let named = |length: usize| {
            let name = "n".repeat(length);
            let config = if plugin == "rnet" {
                rnet(&name, &["172.18.0.0/16"])
            } else {
                bridge(&name, &["10.1.0.0/24"])
            };
            let previous = json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": who.netns}],
                "ips": [{"address": "10.1.0.2/24", "interface": 1}],
            });
            let config = with(&config, json!({"type": plugin, "prevResult": previous}));
            crate::common::publishing(&config, &[("", 8080, 80, "tcp")])
        };
        let before = host.snapshot();
        for length in [256, 300, 4096] {
            let (code, told) = host.cni("ADD", plugin, &who, &named(length)).refusal();
            assert!(
                code == 7 && told.contains(&length.to_string()) && told.contains("255"),
                "{plugin}: {told}"
            );
            for verb in ["DEL", "GC"] {
                host.cni(verb, plugin, if verb == "GC" { &nobody } else { &who }, &named(length)).silent();
            }
            host.cni("CHECK", plugin, &who, &named(length)).refusal();
            host.cni("STATUS", plugin, &nobody, &named(length)).refusal();
        }
        netns_fixtures::assert_same(&before, &host.snapshot());
        if plugin == "rnet" || plugin == "bridge" || plugin == "host-local" {
            host.add(plugin, &who, &named(255));
            host.del(plugin, &who, &named(255));
        }
    }
}
