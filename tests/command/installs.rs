//! The standard plugins and their links.

use crate::common::{Host, PLUGINS};

#[test]
fn a_chain_of_standard_plugins_works_before_and_after_they_are_installed() {
    let host = Host::forwarding();
    assert_eq!(host.ok("create --chain --subnet 10.9.0.0/24 lab"), "lab\n");
    assert_eq!(
        host.ok("run --net lab ip -o -4 addr show eth0").split_whitespace().nth(3),
        Some("10.9.0.2/24")
    );

    let links = host.ok(&format!("install {}", host.installed_plugins().display()));
    assert!(links.lines().count() >= 5 && links.contains("/opt/cni/bin/host-local\n"), "{links}");
    assert!(std::fs::read_link(host.installed_plugins().join("bridge")).unwrap().is_relative());
    assert_eq!(host.ok(&format!("install {}", host.installed_plugins().display())), "");

    host.ok("run -d --name web --net lab -p 8080:80 sleep 1000");
    let ps = host.ok("ps");
    assert!(ps.contains("web        lab   10.9.0.3   02:42:0a:09:00:03   0.0.0.0:8080->80"), "{ps}");
    assert!(host.ok("ls").contains("rnet-lab   1           ok"));
    host.ok("stop web");
    host.nobody_is_left();
    assert!(
        host.on_host("ip -o link").contains("rnet-lab"),
        "as upstream's, the bridge stays for the next container"
    );
    assert_eq!(host.ok("rm lab"), "lab\n");
    assert!(!host.on_host("ip -o link; ip route").contains("rnet-lab"));
    let removed = host.ok(&format!("install --uninstall {}", host.installed_plugins().display()));
    assert_eq!(removed, links);
    assert_eq!(std::fs::read_dir(host.installed_plugins()).unwrap().count(), 0);

    host.ok("create --chain --subnet 10.10.0.0/24 unused");
    assert_eq!(host.ok("rm unused"), "unused\n", "nobody was ever on it: no plugin is needed");
}

#[test]
fn install_does_not_overwrite_foreign_files() {
    let host = Host::forwarding();
    std::fs::create_dir_all(host.installed_plugins()).unwrap();
    let bridge = host.installed_plugins().join("bridge");
    std::fs::write(&bridge, "somebody's").unwrap();
    let dir = host.installed_plugins().display().to_string();
    let text = format!(
        "error: {} exists and is not a link to rnet\n hint: --force replaces it and keeps it beside the folder\n",
        bridge.display()
    );
    host.fails(&format!("install {dir}"), 4, &text);
    assert_eq!(std::fs::read_dir(host.installed_plugins()).unwrap().count(), 1, "nothing was changed");

    let portmap = format!("{dir}/portmap\n");
    assert_eq!(host.ok(&format!("install --only portmap {dir}")), portmap);
    assert!(host.ok(&format!("install --force {dir}")).contains(&format!("{}\n", bridge.display())));
}

/// A file below the lab's root.
fn put(host: &Host, path: &str, text: &str) -> std::path::PathBuf {
    let file = host.root().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, text).unwrap();
    file
}

/// A distribution's plugins.
const DISTRIBUTED: [&str; 5] = ["bridge", "host-local", "loopback", "portmap", "bandwidth"];

/// They are in `folder`.
fn distribution(host: &Host, folder: &str) {
    for name in DISTRIBUTED {
        put(host, &format!("{folder}/{name}"), &format!("the distribution's {name}"));
    }
}

fn is_rnet(host: &Host, path: &str) -> bool {
    std::fs::read_link(host.root().join(path)).is_ok_and(|target| target.ends_with("rnet"))
}

#[test]
fn install_without_a_folder_goes_where_podman_looks_first() {
    let host = Host::forwarding();
    put(&host, "usr/bin/podman", "");
    distribution(&host, "usr/lib/cni");

    let done = host.rnet("install");

    assert!(done.status == 0 && done.stdout.lines().count() == PLUGINS.len(), "{done:?}");
    assert!(
        is_rnet(&host, "usr/local/libexec/cni/bridge") && is_rnet(&host, "usr/local/libexec/cni/dnsname")
    );
    let told = format!("podman takes {} from /usr/local/libexec/cni: rnet", PLUGINS.join(", "));
    assert!(done.stderr.starts_with(&told), "{done:?}");
    let again = host.rnet("install");
    assert_eq!((again.stdout.as_str(), &again.stderr), ("", &done.stderr));
    assert_eq!(host.rnet("install --uninstall").stdout, done.stdout);
    assert!(!host.root().join("usr/local/libexec/cni/bridge").exists());
    assert!(host.root().join("usr/lib/cni/bridge").exists());
}

#[test]
fn a_folder_that_loses_is_told() {
    let host = Host::forwarding();
    put(&host, "usr/bin/podman", "");
    distribution(&host, "usr/lib/cni");
    let told = host.rnet(&format!("install {}", host.root().join("opt/cni/bin").display()));
    let losing = "warning: podman takes /usr/lib/cni/bridge, /usr/lib/cni/host-local, ";
    assert!(told.status == 0 && told.stderr.contains(losing), "{told:?}");
    let others: Vec<&str> = PLUGINS.into_iter().filter(|name| !DISTRIBUTED.contains(name)).collect();
    let winning = format!("podman takes {} from /opt/cni/bin: rnet", others.join(", "));
    assert!(told.stderr.contains(&winning), "{told:?}");
}

/// As Debian's containerd is configured: no folder comes before the distribution's.
#[test]
fn forced_links_keep_what_was_there_and_uninstall_puts_it_back() {
    let host = Host::forwarding();
    put(&host, "usr/bin/podman", "");
    put(&host, "usr/bin/containerd", "");
    put(
        &host,
        "etc/containerd/config.toml",
        "[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n",
    );
    distribution(&host, "usr/lib/cni");
    let podman_only = host.rnet("install");
    assert!(podman_only.status == 0 && is_rnet(&host, "usr/local/libexec/cni/bridge"), "{podman_only:?}");
    assert!(
        podman_only.stderr.contains("warning: containerd takes /usr/lib/cni/bridge, "),
        "{podman_only:?}"
    );
    assert!(podman_only.stderr.contains(" hint: rnet install --force"), "{podman_only:?}");
    host.rnet("install --uninstall");
    std::fs::remove_file(host.root().join("usr/bin/podman")).unwrap();
    let refused = host.rnet("install");
    assert!(refused.status == 4 && refused.stderr.contains("usr/lib/cni/bridge exists"), "{refused:?}");
    assert!(!is_rnet(&host, "usr/lib/cni/rnet"), "nothing was changed");

    let read = |path: &str| std::fs::read_to_string(host.root().join(path)).unwrap_or_default();
    for _ in 0..2 {
        assert_eq!(host.rnet("install --force").status, 0);
        assert!(is_rnet(&host, "usr/lib/cni/bridge") && is_rnet(&host, "usr/lib/cni/dnsname"));
        assert_eq!(read("usr/lib/cni.before-rnet/bridge"), "the distribution's bridge");
        assert_eq!(read("usr/lib/cni/bandwidth"), "the distribution's bandwidth");
    }
    for _ in 0..2 {
        assert_eq!(host.rnet("install --uninstall").status, 0);
        for name in ["bridge", "host-local", "loopback", "portmap", "bandwidth"] {
            assert_eq!(read(&format!("usr/lib/cni/{name}")), format!("the distribution's {name}"));
        }
        assert!(!host.root().join("usr/lib/cni/dnsname").exists());
        assert!(!host.root().join("usr/lib/cni.before-rnet").exists());
    }
}

#[test]
fn a_package_that_was_upgraded_meanwhile_is_not_set_back() {
    let host = Host::forwarding();
    let dir = host.root().join("cni").display().to_string();
    distribution(&host, "cni");
    host.ok(&format!("install --force {dir}"));
    std::fs::remove_file(host.root().join("cni/bridge")).unwrap();
    let bridge = put(&host, "cni/bridge", "the younger bridge");
    host.ok(&format!("install --force --only bridge {dir}"));
    host.ok(&format!("install --uninstall {dir}"));
    assert_eq!(std::fs::read_to_string(bridge).unwrap(), "the younger bridge");
}

#[test]
fn networkd_is_told_to_leave_rnets_links_alone() {
    let host = Host::forwarding();
    put(&host, "run/systemd/netif/state", "");
    host.ok("create --subnet 10.9.0.0/24 lab");
    let other = r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "bridge", "bridge": "br-mine", "ipam": {}}]}"#;
    put(&host, "etc/cni/net.d/x.conflist", other);

    let done = host.rnet("install");

    let file = host.root().join("etc/systemd/network/10-rnet.network");
    assert!(done.stdout.ends_with(&format!("{}\n", file.display())), "{done:?}");
    assert!(done.stderr.contains(" hint: networkctl reload\n"), "{done:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("Kind=bridge veth\nName=rnet-* rnet0 cni0 cni-podman* nerdctl0 br-mine veth*\n"),
        "{text}"
    );
    assert!(text.ends_with("[Link]\nUnmanaged=yes\n"), "{text}");
    assert_eq!(host.rnet("install").stdout, "");
    host.rnet("install --uninstall");
    assert!(!file.exists());

    put(&host, "etc/systemd/network/10-rnet.network", "[Match]\nName=mine\n");
    host.rnet("install");
    host.rnet("install --uninstall");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[Match]\nName=mine\n");
}

#[test]
fn an_install_that_is_killed_loses_nothing() {
    let host = Host::forwarding();
    let dir = host.root().join("cni");
    let names = ["bridge", "host-local", "loopback", "portmap"];
    distribution(&host, "cni");
    for round in 0..60 {
        let verb = if round % 3 == 2 { "--uninstall" } else { "--force" };
        let mut child = host.program(&format!("install {verb} {}", dir.display())).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(400 + 60 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        for name in names {
            assert!(
                std::fs::symlink_metadata(dir.join(name)).is_ok(),
                "{name} is missing after round {round}"
            );
        }
    }
    host.ok(&format!("install --force {}", dir.display()));
    host.ok(&format!("install --uninstall {}", dir.display()));
    for name in names {
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), format!("the distribution's {name}"));
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 5, "the plugins and bandwidth");
    assert_eq!(
        std::fs::read_dir(host.root())
            .unwrap()
            .flatten()
            .filter(|f| f.file_name() == "cni.before-rnet")
            .count(),
        0
    );
}

/// A plugin that knows the versions up to 1.0.0, as Debian's, and does not work.
const OLD: &str = "#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\"]}' ;;
*) echo '{\"code\": 1, \"msg\": \"incompatible CNI versions\"}'; exit 1 ;;
esac
";

fn put_program(host: &Host, name: &str, text: &str) {
    std::fs::create_dir_all(host.installed_plugins()).unwrap();
    netns_fixtures::write_program(host.installed_plugins().join(name), text).unwrap();
}

#[test]
fn a_chain_is_written_for_the_plugins_that_runtimes_find_and_run_by_rnets_own() {
    let host = Host::forwarding();
    ["bridge", "host-local", "portmap"].iter().for_each(|name| put_program(&host, name, OLD));

    host.ok("create --chain --subnet 10.9.0.0/24 lab");

    let file = host.root().join("etc/cni/net.d/rnet-lab.conflist");
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(list["cniVersion"], "1.0.0");
    assert_eq!(list["cniVersions"], serde_json::json!(["0.4.0", "1.0.0"]));
    assert!(host.ok("run --net lab -p 8080:80 ip -o -4 addr show eth0").contains("10.9.0.2/24"));
    host.nobody_is_left();
    assert_eq!(host.ok("rm lab"), "lab\n");
}

/// A list whose last plugin is another's: it knows no 1.1.0, passes the result on, and cannot delete.
#[test]
fn what_a_plugin_of_anothers_cannot_delete_goes_by_force() {
    let host = Host::forwarding();
    let grumpy = OLD.replace("*)", "ADD) sed 's/.*\"prevResult\"://; s/}$//; s/,\"type\":.*//' ;;\n*)");
    put_program(&host, "grumpy", &grumpy);
    let list = serde_json::json!({"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "lab", "plugins": [
        {"type": "bridge", "bridge": "br1", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]}},
        {"type": "grumpy"},
    ]});
    put(&host, "etc/cni/net.d/lab.conflist", &list.to_string());
    let run = host.rnet("run -d --name web --net lab sleep 1000");
    assert_eq!(run.status, 0, "{run:?}");

    let stopped = host.rnet("stop -t 0 web");
    assert!(stopped.stderr.contains("incompatible CNI versions"), "{stopped:?}");
    let forced = host.rnet("rm -f web");

    assert_eq!((forced.status, forced.stdout.as_str()), (0, "web\n"), "{forced:?}");
    assert!(forced.stderr.contains("endpoint \"web\" is not completely removed: "), "{forced:?}");
    host.nobody_is_left();
    assert!(!host.ok("ps").contains("web"));
}
