//! The standard plugins and their links.

use super::Lab;

#[test]
fn a_chain_of_standard_plugins_works_once_they_are_installed() {
    let lab = Lab::new();
    assert_eq!(lab.ok("create --chain --subnet 10.9.0.0/24 lab"), "lab\n");
    let missing = lab.rnet("run --net lab true");
    assert!(
        missing.exit == 125 && missing.stderr.ends_with(" hint: rnet install /opt/cni/bin\n"),
        "{missing:?}"
    );

    let links = lab.ok(&format!("install {}", lab.plugins().display()));
    assert!(links.lines().count() >= 5 && links.contains("/opt/cni/bin/host-local\n"), "{links}");
    assert!(std::fs::read_link(lab.plugins().join("bridge")).unwrap().is_relative());
    assert_eq!(lab.ok(&format!("install {}", lab.plugins().display())), "");

    lab.ok("run -d --name web --net lab -p 8080:80 sleep 1000");
    let ps = lab.ok("ps");
    assert!(ps.contains("web        lab   10.9.0.2   02:42:0a:09:00:02   0.0.0.0:8080->80"), "{ps}");
    assert!(lab.ok("ls").contains("rnet-lab   1           ok"));
    lab.ok("stop web");
    lab.nobody_is_left();
    assert_eq!(lab.ok("rm lab"), "lab\n");
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
    let text =
        format!("error: {} exists and is not a link to rnet\n hint: --force replaces it\n", bridge.display());
    lab.fails(&format!("install {dir}"), 4, &text);
    assert_eq!(std::fs::read_dir(lab.plugins()).unwrap().count(), 1, "nothing was changed");

    let portmap = format!("{dir}/portmap\n");
    assert_eq!(lab.ok(&format!("install --only portmap {dir}")), portmap);
    assert!(lab.ok(&format!("install --force {dir}")).contains(&format!("{}\n", bridge.display())));
}
