//! STATUS succeeds only if an ADD would work now (docs/rules.md: G6).

use serde_json::{Value, json};

use crate::common::{Disk, Host, Who, bridge, rnet, with};

fn nobody() -> Who {
    Who::named("", "")
}

fn portmap() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "portmap"})
}

/// Every plugin whose ADD writes into the run folder, with a configuration.
fn keeping_records() -> [(&'static str, Value); 3] {
    [
        ("rnet", rnet("n", &["172.18.0.0/16"])),
        ("bridge", json!({"cniVersion": "1.1.0", "name": "n", "type": "bridge", "ipam": {}})),
        ("portmap", portmap()),
    ]
}

#[track_caller]
fn is_not_writable(host: &Host, plugin: &str, config: &Value) {
    let (code, text) = host.cni("STATUS", plugin, &nobody(), config).refusal();
    assert!(code == 50 && text.contains("Read-only file system"), "{plugin}: {code} {text}");
}

#[test]
fn without_a_run_folder_that_can_be_written_there_is_no_add() {
    for before in ["missing", "there"] {
        for (plugin, config) in keeping_records() {
            let host = Host::new();
            let disk = Disk::mount(host.root().join("run"));
            if before == "there" {
                host.cni("STATUS", plugin, &nobody(), &config).silent();
            }
            disk.read_only(true);
            is_not_writable(&host, plugin, &config);
            disk.read_only(false);
            host.cni("STATUS", plugin, &nobody(), &config).silent();
        }
    }
}

#[test]
fn without_a_lease_folder_that_can_be_written_there_is_no_add() {
    let config = bridge("n", &["10.9.0.0/24"]);
    for before in ["missing", "there"] {
        let host = Host::new();
        let disk = Disk::mount(host.root().join("var/lib"));
        if before == "there" {
            host.add("host-local", &Who::named("c1", "/run/netns/none"), &config);
        }
        disk.read_only(true);
        for plugin in ["host-local", "bridge"] {
            is_not_writable(&host, plugin, &config);
        }
        disk.read_only(false);
        host.cni("STATUS", "host-local", &nobody(), &config).silent();
    }
}

/// Installs `plugin` once more, as `weak`, without the right to change the network.
fn weaken(host: &Host, plugin: &str) {
    let program = host.plugins.join(plugin);
    let script = format!("#!/bin/sh\nexec setpriv --bounding-set=-net_admin {}\n", program.display());
    host.install_script("weak", &script);
}

#[test]
fn without_nftables_there_is_no_add() {
    let masquerading = with(&bridge("n", &["10.1.0.0/24"]), json!({"isDefaultGateway": false}));
    let cases = [("rnet", rnet("n", &["172.18.0.0/16"])), ("bridge", masquerading), ("portmap", portmap())];
    for (plugin, config) in cases {
        let host = Host::new();
        weaken(&host, plugin);
        let (code, text) = host.cni("STATUS", "weak", &nobody(), &config).refusal();
        assert!(code == 50 && text.contains("ot permitted"), "{plugin}: {code} {text}");
    }
}

#[test]
fn without_nftables_those_who_are_attached_suffer_too() {
    let host = Host::new();
    weaken(&host, "rnet");
    let config = rnet("n", &["172.18.0.0/16"]);
    let (_container, who) = host.container("c1");
    let status = || host.cni("STATUS", "weak", &nobody(), &config).refusal().0;
    host.add("rnet", &who, &config);
    assert_eq!(status(), 51);
    host.del("rnet", &who, &config);
    assert_eq!(status(), 50);
}
