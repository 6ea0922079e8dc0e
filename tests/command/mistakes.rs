//! What is refused, in which words and with which exit status.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use netns_fixtures::has_program;
use serde_json::Value;

use crate::common::Host;

/// What is typed, the exit status, and the code and the message of the error.
type Mistake = (&'static str, i32, &'static str, &'static str);

const ABOUT_NETWORKS: &[Mistake] = &[
    ("create mynet", 4, "exists", "network with name mynet already exists (172.18.0.0/16 on rnet-mynet)"),
    (
        "create a --subnet 10.88.3.0/24",
        4,
        "overlap",
        "10.88.3.0/24 overlaps 10.88.0.0/16 of network \"podman\"",
    ),
    ("create a --subnet 10.9.0.1/24", 2, "subnet-invalid", "10.9.0.1/24 has host bits set"),
    (
        "create a --subnet 10.9.0.0/24 --gateway 10.88.0.1",
        4,
        "overlap",
        "gateway 10.88.0.1 lies in a subnet of network \"podman\" (10.88.0.0/16)",
    ),
    (
        "create a --subnet 10.9.0.0/24 --gateway fe80::1",
        2,
        "outside",
        "gateway fe80::1 is not in 10.9.0.0/24",
    ),
    (
        "create a --subnet 10.9.0.0/24 --ip-range 10.8.0.0/25",
        2,
        "outside",
        "range 10.8.0.0/25 is not in 10.9.0.0/24",
    ),
    ("create a --gateway 10.8.0.1", 2, "outside", "--gateway needs --subnet"),
    (
        "create a/b",
        2,
        "name-invalid",
        "\"a/b\" is not a valid name: use up to 200 letters, digits, _ . and -, and begin with a letter or digit",
    ),
    ("create host", 2, "name-invalid", "operation is not permitted on predefined host network"),
    ("inspect --type network mynt", 3, "not-found", "no network \"mynt\""),
    ("inspect mynt", 3, "not-found", "no network or endpoint \"mynt\""),
    ("rm nothing-like-it", 3, "not-found", "no network or endpoint \"nothing-like-it\""),
    ("rm mynet", 4, "in-use", "network \"mynet\" has 1 endpoint: web (172.18.0.2)"),
    ("rm bridge", 4, "predefined", "bridge is a pre-defined network and cannot be removed"),
    (
        "create a --subnet 10.9.0.0/24 --ip-range 10.9.0.1/32",
        2,
        "outside",
        "range 10.9.0.1/32 has no address for a container: the first and the last of 10.9.0.0/24 and the gateway's are never leased",
    ),
    (
        "create a --subnet 224.0.0.0/8",
        2,
        "subnet-invalid",
        "224.0.0.0/8 cannot be a network's subnet: its addresses are multicast",
    ),
    ("create --nosuch", 2, "usage", "create has no option --nosuch"),
    (
        "install --only nosuch /tmp/never",
        3,
        "not-found",
        "no plugin \"nosuch\": the plugins are bridge, dnsname, host-local, loopback, portmap, ptp, rnet, tuning",
    ),
    (
        "rm podman",
        4,
        "foreign",
        "network \"podman\" is defined by DEFINITIONS/87-podman.conflist, which rnet did not write",
    ),
];

const ABOUT_PROGRAMS: &[Mistake] = &[
    ("run --net host --hostname app true", 2, "usage", "--hostname and --net host cannot be given together"),
    ("run --net mynt true", 3, "not-found", "no network \"mynt\""),
    ("stop wbe", 3, "not-found", "no endpoint \"wbe\""),
    ("exec wbe true", 3, "not-found", "no endpoint \"wbe\""),
    ("run --name web true", 4, "exists", "endpoint with name web already exists (pid PID)"),
    (
        "run --name a:b true",
        2,
        "name-invalid",
        "\"a:b\" is not a valid name: use up to 200 letters, digits, _ . and -, and begin with a letter or digit",
    ),
    ("run --net mynet --ip 10.9.0.7 true", 2, "outside", "address 10.9.0.7 is not in 172.18.0.0/16"),
    (
        "run --net mynet --ip 172.18.0.2 true",
        4,
        "address-taken",
        "Address already in use: 172.18.0.2 is held by \"web\"",
    ),
    (
        "run --net tiny true",
        6,
        "addresses-exhausted",
        "no available IPv4 addresses on this network's address pools: tiny (10.7.0.0/30), 1 held by full; gc freed 0",
    ),
    (
        "run --net mynet -p 203.0.113.9:80:80 true",
        2,
        "host-address",
        "cannot publish on 203.0.113.9: it is not an address of this host",
    ),
    ("run -P --expose 1-65535 true", 6, "ports-exhausted", "no free host port in 32768-60999/tcp"),
    (
        "run --net dual -p [::1]:8080:80 true",
        2,
        "host-address",
        "cannot publish on [::1]: the kernel does not translate loopback and link-local IPv6 addresses",
    ),
    (
        "run --net mynet -p [::1]:8080:80 true",
        2,
        "host-address",
        "cannot publish on [::1]: network \"mynet\" has no IPv6 addresses",
    ),
    (
        "run --net mynet --network-alias a/b true",
        2,
        "usage",
        "invalid value 'a/b' for '--network-alias <NAME>': expected parts of 1 to 63 letters, digits, - and _, separated by dots",
    ),
    (
        "run --net mynet --network-alias 10.0.0.1 true",
        2,
        "usage",
        "invalid value '10.0.0.1' for '--network-alias <NAME>': programs take it for an IPv4 address and do not look it up",
    ),
    (
        "run --net mynet --dns-search a..b true",
        2,
        "usage",
        "invalid value 'a..b' for '--dns-search <DOMAIN>': expected parts of 1 to 63 letters, digits, - and _, separated by dots",
    ),
    ("run --net none --ip 10.9.0.7 true", 2, "usage", "--ip needs exactly one --net"),
    (
        "run --net mynet --ip 172.18.0.1 true",
        4,
        "address-taken",
        "Address already in use: 172.18.0.1 is held by the gateway",
    ),
    ("run --net none --net mynet true", 2, "usage", "--net none and another --net cannot be given together"),
    (
        "run -p 70000:80 true",
        2,
        "usage",
        "invalid value '70000:80' for '--publish <SPEC>': invalid hostPort: 70000",
    ),
];

const PODMANS: &str = r#"{"cniVersion":"0.4.0","name":"podman","plugins":[{"type":"bridge","bridge":"cni-podman0","ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.0.0/16"}]]}}]}"#;

#[test]
fn every_mistake_has_its_words_and_its_exit_status() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("create --subnet 10.7.0.0/30 tiny");
    host.ok("run -d --name web --net mynet sleep 1000");
    host.ok("run -d --name full --net tiny sleep 1000");
    host.ok("create --subnet 10.6.0.0/24 --subnet fd00:6::/64 dual");
    std::fs::write(host.definitions().join("87-podman.conflist"), PODMANS).unwrap();
    let pid = host.pid("web").to_string();
    let definitions = host.definitions().display().to_string();

    for (line, exit, code, message) in ABOUT_NETWORKS.iter().chain(ABOUT_PROGRAMS) {
        let said = host.rnet(&format!("--json {line}"));
        assert_eq!(said.status, *exit, "rnet {line}: {said:?}");
        let told: Value =
            serde_json::from_str(&said.stderr).unwrap_or_else(|_| panic!("rnet {line}: {said:?}"));
        assert_eq!(told["error"]["code"].as_str(), Some(*code), "rnet {line}");
        let message = message.replace("PID", &pid).replace("DEFINITIONS", &definitions);
        assert_eq!(told["error"]["message"].as_str(), Some(message.as_str()), "rnet {line}");
    }

    assert_eq!(host.ok("ps -q"), "full\nweb\n", "nothing was changed");
    assert_eq!(host.ok("ls -q"), "dual\nmynet\npodman\ntiny\n");
    host.ok("stop web full");
    host.nobody_is_left();
}

#[test]
fn hints_can_be_typed() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.fails("rm mynt", 3, "error: no network or endpoint \"mynt\"\n hint: did you mean \"mynet\"?\n");
    host.fails(
        "create a --subnet 10.9.0.1/24",
        2,
        "error: 10.9.0.1/24 has host bits set\n hint: --subnet 10.9.0.0/24\n",
    );
    let missing = host.rnet("inspect nothing");
    assert_eq!((missing.stdout.as_str(), missing.status), ("[]\n", 3));
    assert_eq!(host.ok("create --ignore-existing mynet"), "mynet\n");
    assert_eq!(host.ok("create"), "net0\n");
    assert_eq!(host.ok("network create"), "net1\n");
    assert_eq!(host.ok("rm -f nothing net0"), "net0\n");
    let several = host.rnet("network rm nothing net1");
    assert_eq!((several.stdout.as_str(), several.status), ("net1\n", 3));
}

#[test]
fn what_a_runtime_calls_a_container_steers_no_terminal() {
    let host = Host::forwarding();
    host.ok("create mynet");
    let conflist = host.definitions().join("rnet-mynet.conflist");
    let list: Value = serde_json::from_slice(&std::fs::read(conflist).unwrap()).unwrap();
    let mut config = list["plugins"][0].clone();
    config["name"] = "mynet".into();
    config["cniVersion"] = "1.0.0".into();
    let container = host.container("c").0;
    host.add_named(&config, &container, "c1", "\u{1b}[31mred\nerror: x");

    for line in ["rm mynet", "ps", "ls", "inspect mynet", "dns status", "dns log", "rm -f c1"] {
        let said = host.rnet(line);
        let shown = format!("{}{}", said.stdout, said.stderr);
        assert!(!shown.contains('\u{1b}') && !shown.contains("\nerror: x"), "rnet {line}: {shown}");
    }
}

#[test]
fn a_network_and_an_endpoint_may_share_a_name() {
    let host = Host::forwarding();
    host.ok("create web");
    host.ok("run -d --name web --net web sleep 1000");
    let text = "error: \"web\" is ambiguous: network \"web\", endpoint \"web\"\n hint: --type network or --type endpoint\n";
    let said = host.rnet("inspect web");
    assert_eq!((said.stdout.as_str(), said.stderr.as_str(), said.status), ("[]\n", text, 4));
    assert_eq!(host.json("inspect --type endpoint web")[0]["type"], "endpoint");
    assert_eq!(host.ok("rm -f --type endpoint web"), "web\n");
    assert_eq!(host.ok("rm --type network web"), "web\n");
}

#[test]
fn without_rights_nothing_is_touched() {
    let host = Host::forwarding();
    let program = host.command("setpriv").args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
    let program = program.args([env!("CARGO_BIN_EXE_rnet"), "create", "mynet"]);
    // Where util-linux has no setpriv, the unit test of the rights has to do.
    if !has_program("setpriv") {
        return;
    }
    let output = program.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    // In a user namespace, as tests run, sudo would not help.
    let hint = if store::in_user_namespace() { "" } else { " hint: sudo rnet create mynet\n" };
    assert_eq!(stderr, format!("error: not permitted: this needs CAP_NET_ADMIN\n{hint}"));
    assert!(!host.definitions().exists());
}

#[test]
fn who_may_not_read_the_state_is_told_to_be_root() {
    let host = Host::forwarding();
    host.ok("create mynet");
    std::fs::set_permissions(host.root().join("run"), PermissionsExt::from_mode(0o000)).unwrap();
    let program = host.command("setpriv").args(["--bounding-set", "-dac_override,-dac_read_search"]);
    let program =
        program.args(["--inh-caps", "-dac_override,-dac_read_search", env!("CARGO_BIN_EXE_rnet"), "ls"]);
    // Where util-linux has no setpriv, the unit test of the rights has to do.
    if !has_program("setpriv") {
        return;
    }
    let output = program.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("Permission denied"), "{stderr}");
    assert_eq!(stderr.ends_with(" hint: sudo rnet ls\n"), !store::in_user_namespace(), "{stderr}");
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let host = Host::forwarding();
    let mut child = host.program("ls").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn help_and_version_are_data() {
    let host = Host::forwarding();
    assert!(host.ok("--help").contains("Usage: rnet"));
    assert!(host.ok("--version").starts_with("rnet 0."));
    assert!(host.ok("create --help").contains("--ip-range"));
    assert_eq!(host.rnet("").status, 2);
}

#[test]
fn a_hint_is_for_the_tool_that_can_do_it() {
    let host = Host::forwarding();
    std::fs::create_dir_all(host.definitions()).unwrap();
    let text = r#"{"cniVersion":"0.4.0","name":"pod","plugins":[{"type":"bridge","bridge":"cni-podman1",
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.89.0.0/24"}]]}}]}"#;
    std::fs::write(host.definitions().join("pod.conflist"), text).unwrap();
    let said = host.refused("rm pod", 4);
    assert!(said.ends_with(" hint: podman network rm pod\n"), "{said}");

    let mut config: Value = serde_json::from_str::<Value>(text).unwrap()["plugins"][0].clone();
    config["name"] = "pod".into();
    config["cniVersion"] = "0.4.0".into();
    let container = host.container("netns-1b2c").0;
    host.add_named(&config, &container, &"4f2a".repeat(16), "web");
    for (verb, hint) in
        [("stop web", "podman stop web"), ("rm -f web", "podman rm -f web"), ("logs web", "podman logs web")]
    {
        let said = host.refused(verb, 4);
        let text = "error: \"web\" was not started by rnet run: it belongs to its container runtime\n hint: ";
        assert_eq!(said, format!("{text}{hint}\n"));
    }
    let said = host.refused("run --name web true", 4);
    assert!(said.ends_with(" hint: podman stop web\n"), "{said}");
}

#[test]
fn the_plugins_are_only_missed_by_those_who_have_a_runtime_for_them() {
    let host = Host::forwarding();
    assert_eq!(host.rnet("create one").stderr, "");
    let programs = host.root().join("usr/bin");
    std::fs::create_dir_all(&programs).unwrap();
    std::fs::write(programs.join("nerdctl"), "").unwrap();
    assert_eq!(
        host.rnet("create two").stderr,
        " hint: rnet install /opt/cni/bin (runtimes do not find rnet yet)\n"
    );
}

#[test]
fn root_of_a_user_namespace_has_folders_of_its_own() {
    let host = Host::forwarding();
    let home = host.root().join("home");
    std::fs::create_dir_all(&home).unwrap();
    let script = format!(
        "mount --bind {} /mnt; mount -t tmpfs -o ro tmpfs /run; ip link set lo up
        rnet() {{ {} \"$@\"; }}
        rnet create mynet && rnet run -d --name web --net mynet sleep 1000 && rnet ls && rnet exec web true \
            && rnet rm -f web && rnet rm mynet",
        home.display(),
        env!("CARGO_BIN_EXE_rnet")
    );
    let program = host.command("unshare").args(["-Ur", "-m", "-n", "sh", "-c", &script]);
    let program = program.env_clear().envs([
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/mnt"),
        ("XDG_RUNTIME_DIR", "/mnt/run"),
    ]);
    let output = program.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.starts_with("mynet\nweb\n"), "{output:?}");
    assert!(stdout.contains("1           ok\nweb\nmynet\n"), "{output:?}");
    assert!(home.join(".config/cni/net.d").is_dir() && home.join("run/rnet").is_dir());
}
