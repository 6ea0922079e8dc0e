//! `ptp`: what ADD makes, beside what the reference plugin makes; who deletes whose; what CHECK, GC and STATUS say.

use std::path::Path;

use netns_fixtures::{Container, compares, ping};
use nft::Element;
use serde_json::{Value, json};

use crate::common::{Guest, Host, LONG, Outcome, Who, bridge, differences, publishing, ranges, with};

/// Where Debian keeps the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";
const DUAL: [&str; 2] = ["10.1.0.0/24", "fd01::/64"];

fn ptp(subnets: &[&str]) -> Value {
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let routes: Value = routes.as_array().unwrap()[..subnets.len()].into();
    json!({
        "cniVersion": "1.0.0", "name": "n", "type": "ptp", "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": ranges(subnets), "routes": routes},
    })
}

/// The reference plugin, with host-local's files where rnet has them on this host.
fn reference(host: &Host, verb: &str, who: &Who, config: &Value) -> Outcome {
    let ipam = with(&config["ipam"], json!({"dataDir": host.host_local()}));
    let config = with(config, json!({"ipam": ipam}));
    let call = host.command(Path::new(REFERENCE).join("ptp")).env_clear().input(config.to_string());
    Outcome::of(
        call.env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &who.id)
            .env("CNI_NETNS", &who.netns)
            .env("CNI_IFNAME", &who.ifname)
            .env("CNI_PATH", REFERENCE)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    )
}

fn has_reference() -> bool {
    compares(Path::new(REFERENCE).join("ptp").exists(), "the reference plugin ptp")
}

fn host_end(result: &Value) -> String {
    result["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

/// What `ip` says on the host and in the container, with the host end's name as HOST. Without MACs, lifetimes and what the kernel
/// adds by itself.
fn shown(host: &Host, container: &Container, host_end: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for questions in [["-4", "address"], ["-6", "address"], ["-4", "route"], ["-6", "route"]] {
        let arguments = [&["-o"][..], &questions, &["show"]].concat();
        let on_host = host.command("ip").args(&arguments).output().unwrap();
        let inside = container.command("ip").args(&arguments).output().unwrap();
        for (place, output) in [("host", on_host), ("container", inside)] {
            let text = String::from_utf8(output.stdout).unwrap().replace(host_end, "HOST");
            let kept = text.lines().filter(|line| !line.contains("fe80::") && !line.contains("ff00::"));
            lines.extend(kept.filter(|line| !line.contains(" lo ")).map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let from = usize::from(words[0].ends_with(':'));
                format!("{place}: {}", words[from..].join(" ").replace("\\ ", ""))
            }));
        }
    }
    for line in &mut lines {
        *line = line.replace(" nodad", "").replace(" tentative", "");
        // rnet gives each IPv6 default route a metric of its own: of equal ones the kernel shares the traffic among networks.
        if let Some((route, _)) = line.split_once(" metric ").filter(|_| line.contains("default")) {
            *line = route.to_owned();
        }
    }
    lines.sort();
    lines
}

fn sysctls(host: &Host, container: &Container, host_end: &str) -> Vec<Option<String>> {
    let inside = crate::common::inside(container.netns());
    vec![
        host.sysctl("ipv4/ip_forward"),
        host.sysctl(&format!("ipv6/conf/{host_end}/accept_ra")),
        host.sysctl(&format!("ipv4/conf/{host_end}/forwarding")),
        host.sysctl(&format!("ipv4/conf/{host_end}/rp_filter")),
        host.sysctl(&format!("ipv4/conf/{host_end}/proxy_arp")),
        inside.sysctl("ipv6/conf/eth0/disable_ipv6").unwrap(),
    ]
}

#[test]
fn add_makes_what_the_reference_plugin_makes() {
    if !has_reference() {
        return;
    }
    for subnets in [&DUAL[..1], &DUAL[1..], &DUAL[..]] {
        let (ours, theirs) = (Host::new(), Host::new());
        let mut config = with(&ptp(subnets), json!({"ipMasq": false, "mtu": 1400}));
        let (our_container, our) = ours.container("c1");
        let (their_container, their) = theirs.container("c1");
        let routes: Value = subnets
            .iter()
            .map(|subnet| json!({"dst": if subnet.contains(':') { "::/0" } else { "0.0.0.0/0" }}))
            .collect();
        config["ipam"]["routes"] = routes;

        let result = ours.add("ptp", &our, &config);
        let wanted = reference(&theirs, "ADD", &their, &config).json();

        let ends = [host_end(&result), host_end(&wanted)];
        let [found, reference] =
            [shown(&ours, &our_container, &ends[0]), shown(&theirs, &their_container, &ends[1])];
        assert_eq!(found, reference, "{subnets:?}");
        assert_eq!(sysctls(&ours, &our_container, &ends[0]), sysctls(&theirs, &their_container, &ends[1]));
        for key in ["ips", "routes"] {
            assert_eq!(result[key], wanted[key], "{key}");
        }
        let mtus = [&ours, &theirs].map(|host| host.links().len());
        assert_eq!(mtus, [1, 1]);
        assert_eq!(ours.link(&ends[0]).unwrap().mtu, theirs.link(&ends[1]).unwrap().mtu);
    }
}

#[test]
fn the_result_names_the_host_end_first() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let result = host.add("ptp", &who, &ptp(&DUAL));
    let interfaces = result["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 2);
    assert!(host_end(&result).starts_with("veth") && interfaces[0]["sandbox"].is_null());
    assert_eq!((&interfaces[1]["name"], &interfaces[1]["sandbox"]), (&json!("eth0"), &json!(who.netns)));
    for (ip, gateway) in [(0, "10.1.0.1"), (1, "fd01::1")] {
        assert_eq!(
            (&result["ips"][ip]["interface"], &result["ips"][ip]["gateway"]),
            (&json!(1), &json!(gateway))
        );
    }
}

#[test]
fn dns_is_the_configurations_or_else_ipams() {
    let host = Host::new();
    let file = host.root().join("resolv.conf");
    std::fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
    let config = ptp(&DUAL[..1]);
    let config = with(&config, json!({"ipam": with(&config["ipam"], json!({"resolvConf": file}))}));
    for (member, wanted) in [(None, "192.0.2.53"), (Some(json!({"nameservers": ["192.0.2.1"]})), "192.0.2.1")]
    {
        let (_container, who) = host.container("c1");
        let config = member.map_or(config.clone(), |dns| with(&config, json!({"dns": dns})));
        assert_eq!(host.add("ptp", &who, &config)["dns"]["nameservers"], json!([wanted]));
        host.del("ptp", &who, &config);
    }
}

#[test]
fn what_is_wrong_is_refused_before_there_is_an_interface() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    host.install_script(
        "lost",
        "#!/bin/sh\necho '{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"10.1.0.5/24\"}]}'\n",
    );
    let plain = ptp(&DUAL[..1]);
    let mut without = plain.clone();
    without.as_object_mut().unwrap().remove("ipam");
    let cases = [
        (without, 7, "no plugin name provided"),
        (with(&plain, json!({"ipMasqBackend": "x"})), 7, "unknown ipmasq backend \"x\""),
        (with(&plain, json!({"ipam": {"type": "lost"}})), 7, "IPAM gave 10.1.0.5/24 without a gateway"),
    ];
    for (config, code, text) in cases {
        let (found, told) = host.cni("ADD", "ptp", &who, &config).refusal();
        assert!(found == code && told.starts_with(text), "{found} {told}");
        assert!(host.links().is_empty() && host.store().records().unwrap().is_empty());
        assert_eq!(host.store().networks().unwrap().len(), 0);
        host.del("ptp", &who, &config);
    }
}

#[test]
fn a_second_add_is_refused_and_does_no_harm() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let result = host.add("ptp", &who, &ptp(&DUAL));
    assert_eq!(host.cni("ADD", "ptp", &who, &ptp(&DUAL)).refusal().0, 103);
    host.cni("CHECK", "ptp", &who, &with(&ptp(&DUAL), json!({"prevResult": result}))).silent();
}

#[test]
fn del_leaves_nothing_whatever_is_missing() {
    let host = Host::forwarding();
    host.set_sysctl("ipv6/conf/all/forwarding", "1");
    let config = ptp(&DUAL);
    let (_first, first) = host.container("first");
    host.add("ptp", &first, &config);
    host.del("ptp", &first, &config);
    let before = host.snapshot();
    for missing in ["nothing", "namespace", "result", "record"] {
        let (container, who) = host.container("c1");
        let result = host.add("ptp", &who, &config);
        let told = with(&config, json!({"prevResult": result}));
        match missing {
            "namespace" => drop(container),
            "record" => std::fs::remove_dir_all(host.run_folder()).unwrap(),
            _ => {}
        }
        let who = if missing == "namespace" { who.netns("") } else { who };
        let config = if missing == "result" { &config } else { &told };
        for _ in 0..2 {
            host.del("ptp", &who, config);
        }
        assert!(host.links().is_empty() && host.elements().is_empty(), "{missing}: {:?}", host.elements());
        if missing != "record" {
            let left = differences(&before, &host.snapshot());
            assert!(left.is_empty(), "{missing}: {left:#?}");
        }
    }
}

/// Each thing that ADD makes, taken away by a command on the host or in the container, and what CHECK says of it.
#[test]
fn check_finds_each_thing_that_is_missing() {
    let faults: [(bool, &str, &str); 10] = [
        (true, "ip address del 10.1.0.1/32 dev HOST", "lacks the gateway's address 10.1.0.1/32"),
        (
            true,
            "ip route del 10.1.0.2 dev HOST scope host",
            "has no route to the container's address 10.1.0.2",
        ),
        (true, "ip -6 route del fd01::2 dev HOST", "has no route to the container's address fd01::2"),
        (true, "ip link set HOST down", "is down, or a port of a bridge"),
        (true, "sysctl -qw net.ipv6.conf.HOST.accept_ra=1", "takes router advertisements"),
        (true, "sysctl -qw net.ipv4.ip_forward=0", "IPv4 forwarding is off"),
        (true, "nft delete table inet rnet", "the ruleset lacks"),
        (false, "ip route del 10.1.0.1 dev eth0", "Expected Route 10.1.0.1/32 not found"),
        (false, "ip route del 10.1.0.0/24", "Expected Route 10.1.0.0/24 via 10.1.0.1 not found"),
        (false, "ip link del eth0", "the host's end of the container's eth0 is missing"),
    ];
    for (on_host, command, wanted) in faults {
        let host = Host::new();
        let (container, who) = host.container("c1");
        let result = host.add("ptp", &who, &ptp(&DUAL));
        let checked = with(&ptp(&DUAL), json!({"prevResult": result}));
        host.cni("CHECK", "ptp", &who, &checked).silent();

        let command = command.replace("HOST", &host_end(&result));
        let mut words = command.split(' ');
        let program = words.next().unwrap();
        let program = if on_host { host.command(program) } else { container.command(program) };
        assert!(program.args(words).status().unwrap().success(), "{command}");

        let (code, told) = host.cni("CHECK", "ptp", &who, &checked).refusal();
        assert!(code == 107 && told.contains(wanted), "{command}: {code} {told}");
    }
}

#[test]
fn check_speaks_in_the_reference_plugins_words() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let result = host.add("ptp", &who, &ptp(&DUAL[..1]));
    let (code, told) = host.cni("CHECK", "ptp", &who, &ptp(&DUAL[..1])).refusal();
    assert_eq!((code, told.as_str()), (107, "ptp: Required prevResult missing"));
    let mut other = result.clone();
    other["interfaces"][1]["mac"] = json!("02:00:00:00:00:01");
    let (_, told) =
        host.cni("CHECK", "ptp", &who, &with(&ptp(&DUAL[..1]), json!({"prevResult": other}))).refusal();
    assert!(
        told.starts_with("ptp: Interface eth0 Mac ") && told.contains("doesn't match container Mac: "),
        "{told}"
    );
    let mut nameless = result;
    nameless["interfaces"][1]["name"] = json!("eth9");
    let (_, told) =
        host.cni("CHECK", "ptp", &who, &with(&ptp(&DUAL[..1]), json!({"prevResult": nameless}))).refusal();
    assert_eq!(told, "ptp: Container Interface name in prevResult: eth0 not found");
}

#[test]
fn gc_removes_what_is_not_valid_and_status_says_what_an_add_would() {
    let host = Host::forwarding();
    let config = ptp(&DUAL[..1]);
    let (_kept, kept) = host.container("kept");
    let (_gone, gone) = host.container("gone");
    host.add("ptp", &kept, &config);
    host.add("ptp", &gone, &config);
    let valid = json!([{"containerID": "kept", "ifname": "eth0"}]);
    let call = with(&config, json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}));
    assert_eq!(host.cni("GC", "ptp", &kept, &call).status, 0);
    assert_eq!(host.links().len(), 1);

    let status =
        |config: &Value| host.cni("STATUS", "ptp", &kept, &with(config, json!({"cniVersion": "1.1.0"})));
    status(&config).silent();
    let ipam =
        with(&config["ipam"], json!({"ranges": [[{"subnet": "10.1.0.0/30", "rangeStart": "10.1.0.2"}]]}));
    assert_eq!(status(&with(&config, json!({"ipam": ipam}))).refusal().0, 50);
}

/// An attachment of the reference plugin is on no record, which CHECK says. DEL removes it with its rules.
#[test]
fn a_container_of_the_reference_plugin_leaves_nothing() {
    if !has_reference() {
        return;
    }
    for with_result in [true, false] {
        let host = Host::forwarding();
        let config = ptp(&DUAL[..1]);
        let (_container, who) = host.container("old");
        let result = reference(&host, "ADD", &who, &config).json();
        let told = with(&config, json!({"prevResult": result}));
        let (code, text) = host.cni("CHECK", "ptp", &who, &told).refusal();
        assert!(code == 107 && text.starts_with("no record of eth0 of container old"), "{text}");

        host.del("ptp", &who, if with_result { &told } else { &config });

        assert!(host.links().is_empty());
        let rules = host.command("nft").args(["list", "ruleset"]).output().unwrap();
        let rules = String::from_utf8(rules.stdout).unwrap();
        assert!(!rules.contains("CNI-") && !rules.contains("10.1.0.2"), "{rules}");
        assert!(!host.host_local().join("n/10.1.0.2").exists());
    }
}

/// The reference plugin 1.1.1 removes the pair, and frees the lease; what rnet has in the ruleset goes with rnet's GC.
#[test]
fn a_container_that_the_reference_plugin_deletes_is_cleared_away_by_gc() {
    if !has_reference() {
        return;
    }
    let host = Host::forwarding();
    let config = with(&ptp(&DUAL[..1]), json!({"ipMasq": false}));
    let (_container, who) = host.container("new");
    let result = host.add("ptp", &who, &config);
    let told = with(&config, json!({"prevResult": result}));
    reference(&host, "CHECK", &who, &told).silent();

    reference(&host, "DEL", &who, &told).silent();
    assert!(host.links().is_empty());
    let none = with(&config, json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    assert_eq!(host.cni("GC", "ptp", &who, &none).status, 0);

    assert!(host.elements().is_empty() && host.store().records().unwrap().is_empty());
}

/// The kernel takes no address beside the subnet that it is in: in either order of coming.
#[test]
fn a_bridge_whose_subnet_has_the_address_comes_and_goes_beside_it() {
    let has = |host: &Host, subnet: &str| {
        let wanted = Element::Subnet { subnet: subnet.parse().unwrap() };
        host.elements().iter().any(|(element, _)| *element == wanted)
    };
    let wide = with(&bridge("wide", &["10.0.0.0/8"]), json!({"bridge": "br9"}));
    for bridge_first in [true, false] {
        let host = Host::new();
        let (_alone, alone) = host.container("alone");
        let (_member, member) = host.container("member");
        let mut calls = vec![("bridge", &member, wide.clone()), ("ptp", &alone, ptp(&DUAL[..1]))];
        if !bridge_first {
            calls.reverse();
        }
        let mut told = None;
        for (plugin, who, config) in &calls {
            let result = host.add(plugin, who, config);
            if *plugin == "ptp" {
                told = Some(with(config, json!({"prevResult": result})));
            }
        }
        assert!(has(&host, "10.0.0.0/8") && !has(&host, "10.1.0.2/32"), "{bridge_first}");
        host.cni("CHECK", "ptp", &alone, &told.clone().unwrap()).silent();
        host.del("bridge", &member, &wide);
        assert!(!has(&host, "10.0.0.0/8") && has(&host, "10.1.0.2/32"), "{bridge_first}");
        host.cni("CHECK", "ptp", &alone, &told.unwrap()).silent();
        host.del("ptp", &alone, &ptp(&DUAL[..1]));
        assert!(host.elements().is_empty());
    }
}

#[test]
fn names_behind_it_are_refused_in_words() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let result = host.add("ptp", &who, &ptp(&DUAL[..1]));
    let dnsname = json!({"cniVersion": "1.0.0", "name": "n", "type": "dnsname", "domainName": "x", "prevResult": result});
    let (code, told) = host.cni("ADD", "dnsname", &who, &dnsname).refusal();
    assert!(code == 7 && told.contains("is not a bridge of this host"), "{code} {told}");
}

/// The list that docs/ptp.md shows.
#[test]
fn the_example_of_the_documentation_works() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ptp.md")).unwrap();
    let example = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let list: Value = serde_json::from_str(example).unwrap();
    let host = Host::forwarding();
    let guest = host.guest(&crate::common::Network { list }, "web");
    guest.add().unwrap();
    assert!(guest.is_on_the_network());
    host.check_list(&guest.network.list, &guest.who, &guest.result()).silent();
    guest.del().unwrap();
    assert!(host.elements().is_empty());
}

/// Each thing on the host's side, taken away by a command; `rnet repair` restores it while the container runs.
#[test]
fn repair_restores_what_other_programs_have_changed_on_the_host() {
    let host = Host::forwarding();
    let list = |port| {
        let portmap = publishing(&json!({"type": "portmap"}), &[("127.0.0.1", port, 80, "tcp")]);
        json!({"cniVersion": "1.1.0", "name": "n", "plugins": [ptp(&DUAL), portmap]})
    };
    let definition = host.root().join("etc/cni/net.d/n.conflist");
    std::fs::create_dir_all(definition.parent().unwrap()).unwrap();
    std::fs::write(definition, list(8080).to_string()).unwrap();
    let guests = [("first", 8080), ("second", 8081)].map(|(name, port)| host.attach_list(name, &list(port)));
    let check = |guest: &Guest<'_>| host.check_list(&guest.network.list, &guest.who, &guest.result());
    let end = host_end(&guests[1].result());
    let shell = |command: &str| host.command("sh").args(["-ec", command]).output().unwrap();
    for harm in [
        "ip address del 10.1.0.1/32 dev HOST",
        "ip route del 10.1.0.3 dev HOST scope host",
        "ip -6 route del fd01::3 dev HOST",
        "ip link set HOST down",
        "ip link add br9 type bridge; ip link set HOST master br9",
        "sysctl -qw net.ipv6.conf.HOST.accept_ra=1",
        "sysctl -qw net.ipv4.conf.HOST.route_localnet=0",
        "tc qdisc del dev HOST ingress",
    ] {
        let done = shell(&harm.replace("HOST", &end));
        assert!(done.status.success(), "{harm}: {done:?}");
        let (code, told) = check(&guests[1]).refusal();
        assert!(code == 107 && told.ends_with("; hint: rnet repair n"), "{harm}: {told}");

        let said = host.command(env!("CARGO_BIN_EXE_rnet")).args(["repair", "n"]).output().unwrap();

        let text = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success() && text.starts_with("n\n  mended: "), "{harm}: {said:?}");
        guests.iter().for_each(|guest| check(guest).silent());
        for address in guests.iter().flat_map(|guest| guest.addresses()) {
            assert!(ping(host.netns(), address, LONG).unwrap().is_some(), "{harm}: {address}");
        }
    }
    guests.iter().for_each(|guest| guest.del().unwrap());
    assert!(host.elements().is_empty());
}
