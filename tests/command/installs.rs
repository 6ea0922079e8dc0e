//! The standard plugins and their links.

use super::Lab;

#[test]
fn a_chain_of_standard_plugins_works_before_and_after_they_are_installed() {
    let lab = Lab::new();
    assert_eq!(lab.ok("create --chain --subnet 10.9.0.0/24 lab"), "lab\n");
    assert_eq!(
        lab.ok("run --net lab ip -o -4 addr show eth0").split_whitespace().nth(3),
        Some("10.9.0.2/24")
    );

    let links = lab.ok(&format!("install {}", lab.plugins().display()));
    assert!(links.lines().count() >= 5 && links.contains("/opt/cni/bin/host-local\n"), "{links}");
    assert!(std::fs::read_link(lab.plugins().join("bridge")).unwrap().is_relative());
    assert_eq!(lab.ok(&format!("install {}", lab.plugins().display())), "");

    lab.ok("run -d --name web --net lab -p 8080:80 sleep 1000");
    let ps = lab.ok("ps");
    assert!(ps.contains("web        lab   10.9.0.3   02:42:0a:09:00:03   0.0.0.0:8080->80"), "{ps}");
    assert!(lab.ok("ls").contains("rnet-lab   1           ok"));
    lab.ok("stop web");
    lab.nobody_is_left();
    assert!(
        lab.on_host("ip -o link").contains("rnet-lab"),
        "as upstream's, the bridge stays for the next container"
    );
    assert_eq!(lab.ok("rm lab"), "lab\n");
    assert!(!lab.on_host("ip -o link; ip route").contains("rnet-lab"));
    let removed = lab.ok(&format!("install --uninstall {}", lab.plugins().display()));
    assert_eq!(removed, links);
    assert_eq!(std::fs::read_dir(lab.plugins()).unwrap().count(), 0);

    lab.ok("create --chain --subnet 10.10.0.0/24 unused");
    assert_eq!(lab.ok("rm unused"), "unused\n", "nobody was ever on it: no plugin is needed");
}

#[test]
fn install_does_not_overwrite_what_is_not_ours() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.plugins()).unwrap();
    let bridge = lab.plugins().join("bridge");
    std::fs::write(&bridge, "somebody's").unwrap();
    let dir = lab.plugins().display().to_string();
    let text = format!(
        "error: {} exists and is not a link to rnet\n hint: --force replaces it and keeps it beside the folder\n",
        bridge.display()
    );
    lab.fails(&format!("install {dir}"), 4, &text);
    assert_eq!(std::fs::read_dir(lab.plugins()).unwrap().count(), 1, "nothing was changed");

    let portmap = format!("{dir}/portmap\n");
    assert_eq!(lab.ok(&format!("install --only portmap {dir}")), portmap);
    assert!(lab.ok(&format!("install --force {dir}")).contains(&format!("{}\n", bridge.display())));
}

/// A file below the lab's root.
fn put(lab: &Lab, path: &str, text: &str) -> std::path::PathBuf {
    let file = lab.host.root().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, text).unwrap();
    file
}

/// A distribution's plugins in `folder`.
fn distribution(lab: &Lab, folder: &str) {
    for name in ["bridge", "host-local", "loopback", "portmap", "bandwidth"] {
        put(lab, &format!("{folder}/{name}"), &format!("the distribution's {name}"));
    }
}

fn is_rnet(lab: &Lab, path: &str) -> bool {
    std::fs::read_link(lab.host.root().join(path)).is_ok_and(|target| target.ends_with("rnet"))
}

#[test]
fn install_without_a_folder_goes_where_podman_looks_first() {
    let lab = Lab::new();
    put(&lab, "usr/bin/podman", "");
    distribution(&lab, "usr/lib/cni");

    let done = lab.rnet("install");

    assert!(done.exit == 0 && done.stdout.lines().count() == 6, "{done:?}");
    assert!(is_rnet(&lab, "usr/local/libexec/cni/bridge") && is_rnet(&lab, "usr/local/libexec/cni/dnsname"));
    let told =
        "podman takes bridge, dnsname, host-local, loopback, portmap, rnet from /usr/local/libexec/cni: rnet";
    assert!(done.stderr.starts_with(told), "{done:?}");
    let again = lab.rnet("install");
    assert_eq!((again.stdout.as_str(), &again.stderr), ("", &done.stderr));
    assert_eq!(lab.rnet("install --uninstall").stdout, done.stdout);
    assert!(!lab.host.root().join("usr/local/libexec/cni/bridge").exists());
    assert!(lab.host.root().join("usr/lib/cni/bridge").exists());
}

#[test]
fn a_folder_that_loses_is_told() {
    let lab = Lab::new();
    put(&lab, "usr/bin/podman", "");
    distribution(&lab, "usr/lib/cni");
    let told = lab.rnet(&format!("install {}", lab.host.root().join("opt/cni/bin").display()));
    let losing = "warning: podman takes /usr/lib/cni/bridge, /usr/lib/cni/host-local, ";
    assert!(told.exit == 0 && told.stderr.contains(losing), "{told:?}");
    assert!(told.stderr.contains("podman takes dnsname, rnet from /opt/cni/bin: rnet"), "{told:?}");
}

/// As Debian's containerd is configured: no folder comes before the distribution's.
#[test]
fn forced_links_keep_what_was_there_and_uninstall_puts_it_back() {
    let lab = Lab::new();
    put(&lab, "usr/bin/podman", "");
    put(&lab, "usr/bin/containerd", "");
    put(
        &lab,
        "etc/containerd/config.toml",
        "[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n",
    );
    distribution(&lab, "usr/lib/cni");
    let podman_only = lab.rnet("install");
    assert!(podman_only.exit == 0 && is_rnet(&lab, "usr/local/libexec/cni/bridge"), "{podman_only:?}");
    assert!(
        podman_only.stderr.contains("warning: containerd takes /usr/lib/cni/bridge, "),
        "{podman_only:?}"
    );
    assert!(podman_only.stderr.contains(" hint: rnet install --force"), "{podman_only:?}");
    lab.rnet("install --uninstall");
    std::fs::remove_file(lab.host.root().join("usr/bin/podman")).unwrap();
    let refused = lab.rnet("install");
    assert!(refused.exit == 4 && refused.stderr.contains("usr/lib/cni/bridge exists"), "{refused:?}");
    assert!(!is_rnet(&lab, "usr/lib/cni/rnet"), "nothing was changed");

    let read = |path: &str| std::fs::read_to_string(lab.host.root().join(path)).unwrap_or_default();
    for _ in 0..2 {
        assert_eq!(lab.rnet("install --force").exit, 0);
        assert!(is_rnet(&lab, "usr/lib/cni/bridge") && is_rnet(&lab, "usr/lib/cni/dnsname"));
        assert_eq!(read("usr/lib/cni.before-rnet/bridge"), "the distribution's bridge");
        assert_eq!(read("usr/lib/cni/bandwidth"), "the distribution's bandwidth");
    }
    for _ in 0..2 {
        assert_eq!(lab.rnet("install --uninstall").exit, 0);
        for name in ["bridge", "host-local", "loopback", "portmap", "bandwidth"] {
            assert_eq!(read(&format!("usr/lib/cni/{name}")), format!("the distribution's {name}"));
        }
        assert!(!lab.host.root().join("usr/lib/cni/dnsname").exists());
        assert!(!lab.host.root().join("usr/lib/cni.before-rnet").exists());
    }
}

#[test]
fn a_package_that_was_upgraded_meanwhile_is_not_set_back() {
    let lab = Lab::new();
    let dir = lab.host.root().join("cni").display().to_string();
    distribution(&lab, "cni");
    lab.ok(&format!("install --force {dir}"));
    std::fs::remove_file(lab.host.root().join("cni/bridge")).unwrap();
    let bridge = put(&lab, "cni/bridge", "the younger bridge");
    lab.ok(&format!("install --force --only bridge {dir}"));
    lab.ok(&format!("install --uninstall {dir}"));
    assert_eq!(std::fs::read_to_string(bridge).unwrap(), "the younger bridge");
}

#[test]
fn networkd_is_told_to_leave_rnets_links_alone() {
    let lab = Lab::new();
    put(&lab, "run/systemd/netif/state", "");
    lab.ok("create --subnet 10.9.0.0/24 lab");
    let other = r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "bridge", "bridge": "br-mine", "ipam": {}}]}"#;
    put(&lab, "etc/cni/net.d/x.conflist", other);

    let done = lab.rnet("install");

    let file = lab.host.root().join("etc/systemd/network/10-rnet.network");
    assert!(done.stdout.ends_with(&format!("{}\n", file.display())), "{done:?}");
    assert!(done.stderr.contains(" hint: networkctl reload\n"), "{done:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("Kind=bridge veth\nName=rnet-* rnet0 cni0 cni-podman* nerdctl0 br-mine veth*\n"),
        "{text}"
    );
    assert!(text.ends_with("[Link]\nUnmanaged=yes\n"), "{text}");
    assert_eq!(lab.rnet("install").stdout, "");
    lab.rnet("install --uninstall");
    assert!(!file.exists());

    put(&lab, "etc/systemd/network/10-rnet.network", "[Match]\nName=mine\n");
    lab.rnet("install");
    lab.rnet("install --uninstall");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[Match]\nName=mine\n");
}

#[test]
fn an_install_that_is_killed_loses_nothing() {
    let lab = Lab::new();
    let dir = lab.host.root().join("cni");
    let names = ["bridge", "host-local", "loopback", "portmap"];
    distribution(&lab, "cni");
    for round in 0..60 {
        let verb = if round % 3 == 2 { "--uninstall" } else { "--force" };
        let mut child = lab.program(&format!("install {verb} {}", dir.display())).spawn().unwrap();
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
    lab.ok(&format!("install --force {}", dir.display()));
    lab.ok(&format!("install --uninstall {}", dir.display()));
    for name in names {
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), format!("the distribution's {name}"));
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 5, "the plugins and bandwidth");
    assert_eq!(
        std::fs::read_dir(lab.host.root())
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

fn put_program(lab: &Lab, name: &str, text: &str) {
    std::fs::create_dir_all(lab.plugins()).unwrap();
    netns_fixtures::write_program(lab.plugins().join(name), text).unwrap();
}

#[test]
fn a_chain_is_written_for_the_plugins_that_runtimes_find_and_run_by_rnets_own() {
    let lab = Lab::new();
    ["bridge", "host-local", "portmap"].iter().for_each(|name| put_program(&lab, name, OLD));

    lab.ok("create --chain --subnet 10.9.0.0/24 lab");

    let file = lab.host.root().join("etc/cni/net.d/rnet-lab.conflist");
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(list["cniVersion"], "1.0.0");
    assert_eq!(list["cniVersions"], serde_json::json!(["0.4.0", "1.0.0"]));
    assert!(lab.ok("run --net lab -p 8080:80 ip -o -4 addr show eth0").contains("10.9.0.2/24"));
    lab.nobody_is_left();
    assert_eq!(lab.ok("rm lab"), "lab\n");
}

/// A list whose last plugin is another's: it knows no 1.1.0, passes the result on, and cannot delete.
#[test]
fn what_a_plugin_of_anothers_cannot_delete_goes_by_force() {
    let lab = Lab::new();
    let grumpy = OLD.replace("*)", "ADD) sed 's/.*\"prevResult\"://; s/}$//; s/,\"type\":.*//' ;;\n*)");
    put_program(&lab, "grumpy", &grumpy);
    let list = serde_json::json!({"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "lab", "plugins": [
        {"type": "bridge", "bridge": "br1", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]}},
        {"type": "grumpy"},
    ]});
    put(&lab, "etc/cni/net.d/lab.conflist", &list.to_string());
    let run = lab.rnet("run -d --name web --net lab sleep 1000");
    assert_eq!(run.exit, 0, "{run:?}");

    let stopped = lab.rnet("stop -t 0 web");
    assert!(stopped.stderr.contains("incompatible CNI versions"), "{stopped:?}");
    let forced = lab.rnet("rm -f web");

    assert_eq!((forced.exit, forced.stdout.as_str()), (0, "web\n"), "{forced:?}");
    assert!(forced.stderr.contains("not all of endpoint \"web\" is removed: "), "{forced:?}");
    lab.nobody_is_left();
    assert!(!lab.ok("ps").contains("web"));
}
