//! How runtimes differ: version sniffing, file names, spelling of keys, CNI_ARGS.

use std::os::unix::fs::symlink;

use nft::Element;
use serde_json::json;

use crate::common::{Host, PLUGINS, Who, address, bridge, inside, rnet, with};

fn introduction(plugin: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "CNI {plugin} plugin v1.9.1+rnet.{version}\n\
         CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
    )
}

#[test]
fn a_plugin_introduces_itself_when_it_is_called_without_a_command() {
    let host = Host::new();
    // `rnet` itself is the command then.
    for plugin in PLUGINS.into_iter().filter(|plugin| *plugin != "rnet") {
        let told = host.bare_call(plugin).run();
        assert_eq!((told.status, told.stdout.as_str(), told.stderr), (0, "", introduction(plugin)));
    }
}

#[test]
fn a_prefixed_file_is_the_plugin_that_its_name_ends_in() {
    let host = Host::new();
    for plugin in ["bridge", "host-local", "loopback", "rnet"] {
        let name = format!("buildkit-cni-{plugin}");
        symlink(env!("CARGO_BIN_EXE_rnet"), host.plugins.join(&name)).unwrap();
        assert_eq!(host.bare_call(&name).run().stderr, introduction(plugin));
    }
}

/// BuildKit's list: the types carry the prefix too.
#[test]
fn a_list_of_prefixed_types_works() {
    let host = Host::new();
    for plugin in PLUGINS {
        symlink(env!("CARGO_BIN_EXE_rnet"), host.plugins.join(format!("buildkit-cni-{plugin}"))).unwrap();
    }
    let (_container, who) = host.container("c1");
    let bridge = with(
        &bridge("buildkit", &["10.10.0.0/16"]),
        json!({"type": "buildkit-cni-bridge", "ipam": {"type": "buildkit-cni-host-local", "ranges": [[{"subnet": "10.10.0.0/16"}]]}}),
    );
    let list = json!({"cniVersion": "1.0.0", "name": "buildkit", "plugins": [{"type": "buildkit-cni-loopback"}, bridge]});
    let result = host.add_list(&list, &who).json();
    let veths = result["interfaces"].as_array().unwrap().iter();
    assert_eq!(veths.filter(|one| one["name"].as_str().unwrap().starts_with("veth")).count(), 1);
    assert_eq!(host.del_list(&list, &who, Some(&result)).status, 0);
}

#[test]
fn version_answers_podman_whatever_else_it_says() {
    let host = Host::new();
    let supported = json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for plugin in PLUGINS {
        let dummy =
            Who { id: String::new(), netns: "dummy".into(), ifname: "dummy".into(), args: String::new() };
        let ask =
            |input: &str| host.call("VERSION", plugin, &dummy).set("CNI_PATH", "dummy").input(input).run();
        let told = ask(r#"{"cniVersion":"1.0.0"}"#);
        assert_eq!(told.json(), json!({"cniVersion": "1.0.0", "supportedVersions": supported}));
        assert!(told.stdout.ends_with("}\n") && told.stdout.lines().count() == 1);
        assert_eq!(ask("").json()["cniVersion"], "1.1.0");
    }
}

#[test]
fn containerds_capitalised_keys_publish_a_port() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let who = who.args(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u",
    );
    let ports = json!({"runtimeConfig": {"portMappings": [
        {"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""},
    ]}});
    host.add("rnet", &who, &with(&rnet("n", &["172.18.0.0/16"]), ports));
    let elements: Vec<String> = host.elements().iter().map(|(element, _)| element.to_string()).collect();
    assert!(elements.iter().any(|element| element.contains("8080")), "{elements:?}");
}

#[test]
fn keys_match_without_regard_to_case_at_every_level() {
    let host = Host::new();
    let (container, who) = host.container("c1");
    let config = json!({
        "CNIVERSION": "1.0.0", "Name": "n", "TYPE": "bridge", "Bridge": "br7", "isgateway": true, "ISDEFAULTGATEWAY": true,
        "IPAM": {"Type": "host-local", "RANGES": [[{"Subnet": "10.7.0.0/24", "RANGESTART": "10.7.0.9"}]]},
        "RuntimeConfig": {"MAC": "02:00:00:00:00:07"},
    });
    let result = host.add("bridge", &who, &config);
    assert_eq!(result["interfaces"][0]["name"], "br7");
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:07");
    assert_eq!(address(&result, false).to_string(), "10.7.0.9");
    let link = inside(container.netns()).link("eth0").unwrap().unwrap();
    assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:07");
    host.del("bridge", &who, &config);
}

#[test]
fn unknown_keys_and_null_are_nothing() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = with(
        &rnet("n", &["172.18.0.0/16"]),
        json!({
            "nerdctlID": "x", "nerdctlLabels": {"a": 1}, "capabilities": {"portMappings": true, "aliases": true},
            "args": {"podman_options": ["x"], "cni": {"labels": [{"key": "a"}], "mac": null}},
            "runtimeConfig": {"portMappings": null, "bandwidth": {"IngressRate": 1}, "io.kubernetes.cri.pod-annotations": {}},
            "mtu": null, "bridge": null, "dns": null, "prevResult": null,
        }),
    );
    let result = host.add("rnet", &who, &config);
    assert_eq!(result["interfaces"][0]["name"], "rnet-n");
    host.del("rnet", &who, &config);
}

#[test]
fn podmans_cni_args_give_name_address_and_mac() {
    for plugin in ["rnet", "bridge"] {
        let host = Host::new();
        let (container, who) = host.container("c1");
        let who = who.args("IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:09;IP=172.18.0.9");
        let config = match plugin {
            "rnet" => rnet("foonet", &["172.18.0.0/16"]),
            _ => bridge("foonet", &["172.18.0.0/16"]),
        };
        let result = host.add(plugin, &who, &config);
        assert_eq!(result["ips"][0]["address"], "172.18.0.9/16");
        assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:09");
        let link = inside(container.netns()).link("eth0").unwrap().unwrap();
        assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:09");
        // A given MAC is announced: another container had the address a moment ago.
        assert_eq!(
            inside(container.netns()).sysctl("ipv4/conf/eth0/arp_notify").unwrap().as_deref(),
            Some("1")
        );

        // The name is what a conflict tells.
        let (_other, other) = host.container("c2");
        let refused = host.cni("ADD", plugin, &other.args("IP=172.18.0.9"), &config).refusal();
        assert_eq!(
            refused.1,
            "failed to allocate for range 0: requested IP address 172.18.0.9 is not available in range set 172.18.0.1-172.18.255.254"
        );
        assert_eq!(refused.0, 101);
    }
}

#[test]
fn a_mac_has_an_order_of_precedence() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = bridge("n", &["172.18.0.0/16"]);
    let args = who.args("MAC=02:00:00:00:00:01");
    let cni = json!({"args": {"cni": {"mac": "02:00:00:00:00:02"}}});
    let runtime = json!({"runtimeConfig": {"mac": "02:00:00:00:00:03"}});
    let both = with(&with(&config, cni.clone()), runtime);
    for (config, last) in [(config.clone(), "1"), (with(&config, cni), "2"), (both, "3")] {
        let result = host.add("bridge", &args, &config);
        assert_eq!(result["interfaces"][2]["mac"], format!("02:00:00:00:00:0{last}"));
        host.del("bridge", &args, &config);
    }
}

#[test]
fn cni_args_are_refused_where_they_are_parsed_but_never_on_del() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = bridge("n", &["172.18.0.0/16"]);
    let cases = [
        ("x", "ARGS: invalid pair \"x\""),
        ("IP=172.18.0.9;", "ARGS: invalid pair \"\""),
        ("a=b=c", "ARGS: invalid pair \"a=b=c\""),
        ("K=V", "ARGS: unknown args [\"K=V\"]"),
        (
            "IgnoreUnknown=yes",
            "ARGS: error parsing value of pair \"IgnoreUnknown=yes\": boolean unmarshal error: invalid input yes",
        ),
    ];
    for (args, text) in cases {
        let who = who.clone().args(args);
        assert_eq!(host.cni("ADD", "bridge", &who, &config).refusal(), (4, text.into()));
        host.del("bridge", &who, &config);
    }
    assert!(host.links().is_empty());
    // What sibling plugins own is never unknown.
    host.add("bridge", &who.args("IP=172.18.0.9;MAC=02:00:00:00:00:09;GATEWAY=172.18.0.1;K8S_X=y"), &config);
}

#[test]
fn two_networks_and_two_interfaces_of_one_container_do_not_mix() {
    let host = Host::new();
    let (container, eth0) = host.container("c1");
    let eth1 = eth0.clone().ifname("eth1");
    let (one, two) = (rnet("one", &["172.18.0.0/16"]), rnet("two", &["172.19.0.0/16"]));
    host.add("rnet", &eth0, &one);
    host.add("rnet", &eth1, &two);
    let names = |netns| -> Vec<String> {
        inside(netns).links().unwrap().into_iter().map(|link| link.name).filter(|name| name != "lo").collect()
    };
    assert_eq!(names(container.netns()), ["eth0", "eth1"]);

    host.del("rnet", &eth0, &one);

    assert_eq!(names(container.netns()), ["eth1"]);
    assert_eq!(
        host.links().iter().filter(|name| name.starts_with("rnet-")).collect::<Vec<_>>(),
        ["rnet-two"]
    );
    host.del("rnet", &eth1, &two);
    assert!(host.links().is_empty());
}

#[test]
fn a_second_add_is_refused_and_the_first_stays_whole() {
    for plugin in ["rnet", "bridge"] {
        let host = Host::new();
        let (_container, who) = host.container("c1");
        let config =
            if plugin == "rnet" { rnet("n", &["172.18.0.0/16"]) } else { bridge("n", &["172.18.0.0/16"]) };
        let result = host.add(plugin, &who, &config);
        let before = host.snapshot();

        let error = host.cni("ADD", plugin, &who, &config).error();

        assert_eq!(error["code"], 103);
        let veth = result["interfaces"][1]["name"].as_str().unwrap();
        assert_eq!(
            error["msg"],
            format!("container veth name (\"eth0\") peer provided (\"{veth}\") already exists")
        );
        assert_eq!(error["details"], "\"c1\" is already on \"n\" as eth0 (172.18.0.2); DEL it first");
        netns_fixtures::assert_same(&before, &host.snapshot());
        host.cni("CHECK", plugin, &who, &with(&config, json!({"prevResult": result}))).silent();
    }
}

/// It is this very program, so it is called without a process.
#[test]
fn a_prefixed_ipam_plugin_is_not_executed() {
    let host = Host::new();
    for plugin in ["bridge", "host-local"] {
        symlink(env!("CARGO_BIN_EXE_rnet"), host.plugins.join(format!("buildkit-cni-{plugin}"))).unwrap();
    }
    let log = host.root().join("executed");
    let program = host.plugins.join("buildkit-cni-bridge");
    let trace = format!("strace -f -qq -e trace=execve,execveat -o {}", log.display());
    host.install_script("traced", &format!("#!/bin/sh\nexec {trace} {}\n", program.display()));
    let (_container, who) = host.container("c1");
    let ipam = json!({"type": "buildkit-cni-host-local", "ranges": [[{"subnet": "10.10.0.0/16"}]]});
    let config = with(&bridge("buildkit", &[]), json!({"type": "buildkit-cni-bridge", "ipam": ipam}));

    let traced = netns_fixtures::has_program("strace");
    let outcome = host.cni("ADD", if traced { "traced" } else { "buildkit-cni-bridge" }, &who, &config);

    assert_eq!(address(&outcome.json(), false).to_string(), "10.10.0.2");
    if traced {
        let executed = host.read("executed").unwrap_or_default();
        assert_eq!(executed.lines().filter(|line| line.contains("exec")).count(), 1, "{executed}");
    }
}

/// A guard that is to be off must not stay on because of a misspelt word, nor the reverse.
#[test]
fn spoof_guard_in_the_args_is_on_or_off() {
    for (args, wanted) in [("SPOOF_GUARD=on", true), ("SPOOF_GUARD=off", false), ("SPOOF_GUARD=", true)] {
        let host = Host::new();
        let (_container, who) = host.container("c1");
        let who = who.args(args);
        host.add("rnet", &who, &rnet("n", &["10.1.0.0/24"]));
        assert_eq!(
            host.elements().iter().any(|(element, _)| matches!(element, Element::Port { .. })),
            wanted
        );
        host.del("rnet", &who.args("SPOOF_GUARD=nonsense"), &rnet("n", &["10.1.0.0/24"]));
        assert!(host.elements().is_empty());
    }
    let host = Host::new();
    let (_container, who) = host.container("c1");
    for word in ["no", "false", "OFF"] {
        let who = who.clone().args(&format!("SPOOF_GUARD={word}"));
        let refused = host.cni("ADD", "rnet", &who, &rnet("n", &["10.1.0.0/24"])).refusal();
        let pair = format!("ARGS: error parsing value of pair \"SPOOF_GUARD={word}\": expected on or off");
        assert_eq!(refused, (4, pair));
    }
}
