//! What is refused before a plugin does anything, in the order of the reference plugins: code, message, details, exit status.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::{Host, Outcome, PLUGINS, Who, bridge, rnet, with};

const CONFIG: &str = r#"{"cniVersion": "1.1.0", "name": "n", "type": "x"}"#;

/// Calls `plugin`; an empty value takes a variable away.
fn call(host: &Host, plugin: &str, verb: &str, changes: &[(&str, &str)], config: &str) -> Outcome {
    let whole = host.call(verb, plugin, &Who::named("c1", "/run/netns/none"));
    let changed = changes.iter().fold(whole, |call, (name, value)| match *value {
        "" => call.unset(name),
        value => call.set(name, value),
    });
    changed.input(config).run()
}

fn error(code: u32, msg: &str, details: &str) -> Value {
    let mut error = json!({"cniVersion": "1.1.0", "code": code, "msg": msg});
    if !details.is_empty() {
        error["details"] = details.into();
    }
    error
}

/// Every plugin refuses the same with the same words.
fn all_refuse(verb: &str, changes: &[(&str, &str)], config: &str, expected: &Value) {
    let host = Host::new();
    for plugin in PLUGINS {
        let refused = call(&host, plugin, verb, changes, config).error();
        assert_eq!(&refused, expected, "{plugin} {verb} {changes:?} {config}");
    }
    assert!(host.links().is_empty());
}

#[test]
fn a_malformed_container_id_ends_the_call_at_once() {
    let expected = error(4, "invalid characters in containerID", "a/b (CNI_CONTAINERID)");
    for verb in ["ADD", "CHECK", "DEL"] {
        all_refuse(
            verb,
            &[("CNI_CONTAINERID", "a/b"), ("CNI_NETNS", ""), ("CNI_PATH", "")],
            "no json",
            &expected,
        );
    }
}

#[test]
fn container_ids_have_a_grammar_and_no_limit() {
    let host = Host::new();
    // A DEL of what was never there succeeds, once its environment is in order.
    let refused = |id: &str| call(&host, "rnet", "DEL", &[("CNI_CONTAINERID", id)], CONFIG).status == 1;
    for id in ["-a", ".a", "_a", "a b", "a\n", "ä", "../x", "a;b", "a\"", "$a", "`a`"] {
        assert!(refused(id), "{id:?}");
    }
    let long = "0123456789abcdef".repeat(25);
    for id in ["a", "0", "default-c1", "A_.-", &long] {
        assert!(!refused(id), "{id:?}");
    }
}

#[test]
fn a_malformed_interface_name_ends_the_call_at_once() {
    let too_long = "interface name should be less than 16 characters (CNI_IFNAME=\"abcdefghijklmnop\")";
    let odd = "interface name contains / or : or whitespace characters";
    let cases = [
        ("abcdefghijklmnop", error(4, "interface name is too long", too_long)),
        (".", error(4, "interface name is . or ..", "CNI_IFNAME=\".\"")),
        ("..", error(4, "interface name is . or ..", "CNI_IFNAME=\"..\"")),
        ("a/b", error(4, odd, "CNI_IFNAME=\"a/b\"")),
        ("a:b", error(4, odd, "CNI_IFNAME=\"a:b\"")),
        ("a b", error(4, odd, "CNI_IFNAME=\"a b\"")),
    ];
    for (name, expected) in cases {
        all_refuse("ADD", &[("CNI_IFNAME", name), ("CNI_NETNS", "")], "", &expected);
    }
}

/// A lease that names one could not be told from garbage, and other programs would read more into it.
#[test]
fn an_interface_name_has_no_letters_that_are_read_as_more() {
    let text =
        "interface name contains control or non-ASCII characters or one of \" * \\ $ ; `, or begins with -";
    let names = ["a\u{1}b", "a\u{7f}", "\u{1b}[2J", "ä", "a\"b", "a*", "a\\b", "$a", "a;b", "`a`", "-a"];
    for name in names {
        for verb in ["ADD", "DEL"] {
            let expected = error(4, text, &format!("CNI_IFNAME={name:?}"));
            all_refuse(verb, &[("CNI_IFNAME", name)], CONFIG, &expected);
        }
    }
}

#[test]
fn missing_variables_are_told_together() {
    let refused = |verb: &str, unset: &[&str], names: &str| {
        let changes: Vec<_> = unset.iter().map(|name| (*name, "")).collect();
        let msg = format!("required env variables [{names}] missing");
        let host = Host::new();
        let told = call(&host, "bridge", verb, &changes, "no json").error();
        assert_eq!((&told["code"], &told["msg"]), (&json!(4), &json!(msg)));
        assert!(names.split(',').all(|name| told.to_string().contains(name)));
    };
    let all = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
    refused("ADD", &all, "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH");
    refused("CHECK", &all, "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH");
    refused("DEL", &all, "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH");
    refused("STATUS", &all, "CNI_PATH");
    refused("GC", &all, "CNI_PATH");
    refused("ADD", &["CNI_NETNS", "CNI_IFNAME"], "CNI_NETNS,CNI_IFNAME");
}

#[test]
fn what_is_no_json_object_is_refused() {
    let host = Host::new();
    for plugin in PLUGINS {
        for text in ["", "no json", "[1]", "7", "{", "\u{0}"] {
            let (code, msg) = call(&host, plugin, "ADD", &[], text).refusal();
            assert_eq!(code, 6, "{plugin} {text:?}");
            assert!(msg.starts_with("error unmarshall network config: "), "{msg}");
        }
    }
}

#[test]
fn a_network_has_a_name() {
    all_refuse("ADD", &[], "{}", &error(7, "missing network name", ""));
    all_refuse("ADD", &[], r#"{"name": ""}"#, &error(7, "missing network name", ""));
    for name in ["../x", "a b", "a/b", "-n", "ü", "n\"", "n;", "$n"] {
        let config = json!({"name": name}).to_string();
        all_refuse("ADD", &[], &config, &error(7, "invalid characters found in network name", name));
    }
}

#[test]
fn an_unknown_verb_is_told_after_the_configuration_was_read() {
    let bare = [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", ""), ("CNI_PATH", "")];
    all_refuse("FOO", &bare, CONFIG, &error(4, "unknown CNI_COMMAND: FOO", ""));
    all_refuse("FOO", &bare, "{}", &error(7, "missing network name", ""));
    all_refuse("add", &[], CONFIG, &error(4, "unknown CNI_COMMAND: add", ""));
}

#[test]
fn a_version_must_be_supported_exactly() {
    let supported = r#"plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#;
    for version in ["9.0.0", "1.0", "1.1.1", "x"] {
        let config = json!({"name": "n", "cniVersion": version}).to_string();
        let details = format!("config is \"{version}\", {supported}");
        all_refuse("ADD", &[], &config, &error(1, "incompatible CNI versions", &details));
    }
    let host = Host::new();
    let number = call(&host, "rnet", "ADD", &[], r#"{"name": "n", "cniVersion": 1}"#).refusal();
    assert_eq!(number.0, 6);
}

#[test]
fn younger_verbs_need_younger_versions() {
    let config = |version: &str| json!({"name": "n", "cniVersion": version}).to_string();
    for (verb, too_old) in [("CHECK", "0.3.1"), ("CHECK", ""), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        let expected = error(1, &format!("config version does not allow {verb}"), "");
        all_refuse(verb, &[], &config(too_old), &expected);
    }
    for verb in ["CHECK", "STATUS", "GC"] {
        let expected = error(1, &format!("plugin version does not allow {verb}"), "");
        all_refuse(verb, &[], &config("1.2.0"), &expected);
    }
    let host = Host::new();
    assert_eq!(call(&host, "rnet", "CHECK", &[], &config("not.a.number")).refusal().0, 6);
    assert_eq!(call(&host, "rnet", "CHECK", &[], &config("1.0")).refusal().1, "incompatible CNI versions");
}

#[test]
fn the_hosts_own_namespace_is_no_container() {
    let host = Host::new();
    let path = host.root().join("netns/host");
    host.netns().pin(&path).unwrap();
    let own = Who::named("c1", &path.to_string_lossy());
    let config = rnet("n", &["172.18.0.0/16"]);
    let before = host.links();
    let expected = error(8, "plugin's netns and netns from CNI_NETNS should not be the same", "");
    for verb in ["ADD", "DEL"] {
        assert_eq!(host.cni(verb, "rnet", &own, &config).error(), expected);
    }
    assert_eq!(host.links(), before);

    let allowed =
        host.call("ADD", "rnet", &own).set("CNI_NETNS_OVERRIDE", "TRUE").input(config.to_string()).run();
    assert_eq!(allowed.json()["ips"][0]["address"], "172.18.0.2/16");
    assert!(host.links().contains(&"eth0".to_owned()));
    let deleted =
        host.call("DEL", "rnet", &own).set("CNI_NETNS_OVERRIDE", "1").input(config.to_string()).run();
    deleted.silent();
}

/// What CNI_NETNS leads to can change after the call was checked, which the plugins themselves never see done.
#[test]
fn a_namespace_that_became_the_hosts_own_after_the_check_is_no_container() {
    let host = Host::new();
    let before = host.snapshot();
    let config = cni::Config::from_value(rnet("n", &["172.18.0.0/16"])).unwrap();
    let env = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth7"), ("CNI_NETNS", "/proc/thread-self/ns/net")];
    let env: BTreeMap<String, String> =
        env.into_iter().chain([("CNI_PATH", "/bin")]).map(|(k, v)| (k.into(), v.into())).collect();
    for (name, verb) in [("rnet", cni::Verb::Add), ("loopback", cni::Verb::Add), ("loopback", cni::Verb::Del)]
    {
        let call = cni::Call::from_env(verb, &env).unwrap();
        let request = cni::Request { call: &call, config: &config };

        let ended = host.run(|| plugins::run(plugins::find(name).unwrap(), verb, &request)).unwrap();

        let refused = ended.expect_err(name);
        let same = "plugin's netns and netns from CNI_NETNS should not be the same";
        assert_eq!((refused.code, refused.msg.as_str()), (8, same), "{name} {verb:?}");
    }
    netns_fixtures::assert_same(&before, &host.snapshot());
}

/// The record, not the namespace, says what there is to free.
#[test]
fn a_del_with_the_hosts_namespace_frees_what_the_record_holds() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let path = host.root().join("netns/host");
    host.netns().pin(&path).unwrap();
    let config = rnet("n", &["172.18.0.0/16"]);
    host.add("rnet", &who, &config);

    let refused = host.cni("DEL", "rnet", &who.clone().netns(&path.to_string_lossy()), &config);

    assert_eq!(refused.refusal().0, 8);
    assert_eq!(host.links(), Vec::<String>::new());
    assert_eq!(host.elements(), []);
}

#[test]
fn a_wrong_namespace_is_told_in_upstreams_words() {
    let host = Host::new();
    let plain = host.root().join("plain");
    std::fs::write(&plain, "").unwrap();
    let plain = plain.to_string_lossy();
    let none = "/run/netns/none";
    let cases = [
        (
            none,
            format!("failed to open netns {none:?}: failed to Statfs {none:?}: no such file or directory"),
        ),
        (&*plain, format!("failed to open netns {plain:?}: unknown FS magic on {plain:?}: 1021994")),
        ("/proc/self/ns/mnt", "not a network namespace".into()),
    ];
    let config = rnet("n", &["172.18.0.0/16"]);
    for (path, text) in cases {
        let (code, msg) = host.cni("ADD", "rnet", &Who::named("c1", path), &config).refusal();
        assert!(code == 8 && msg.contains(&text), "{code} {msg}");
        host.del("rnet", &Who::named("c1", path), &config);
    }
    assert!(host.links().is_empty());
}

#[test]
fn a_plugins_own_keys_are_checked_before_anything_is_made() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let bridge = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "br0", "ipam": {}});
    let cases = [
        (
            json!({"hairpinMode": true, "promiscMode": true}),
            7,
            "cannot set hairpin mode and promiscuous mode at the same time",
        ),
        (json!({"vlan": 5000}), 7, "invalid VLAN ID 5000 (must be between 0 and 4094)"),
        (json!({"vlan": -1}), 7, "invalid VLAN ID -1 (must be between 0 and 4094)"),
        (json!({"ipMasqBackend": "x"}), 7, "unknown ipmasq backend \"x\""),
        (
            json!({"disableContainerInterface": true, "ipam": {"type": "host-local"}}),
            7,
            "cannot use IPAM when DisableContainerInterface flag is set",
        ),
        (json!({"mtu": "big"}), 7, "failed to load netconf: "),
        (json!({"vlan": 7}), 2, "vlan = 7 is not supported"),
        (json!({"vlanTrunk": [{"id": 7}]}), 2, "vlanTrunk = [{\"id\":7}] is not supported"),
        (json!({"mac": "zz", "runtimeConfig": {"mac": "zz"}}), 7, "invalid args zz for MAC addr: "),
        (json!({"bridge": "br*"}), 7, "bridge name \"br*\" is not an interface name"),
        (json!({"bridge": "a-name-with-seventeen"}), 7, "bridge name"),
        (json!({"bridge": "a/b"}), 7, "bridge name"),
        (json!({"bridge": "a\"b"}), 7, "bridge name"),
        (json!({"bridge": ".."}), 7, "bridge name"),
        (json!({"ipam": {"type": "a/b"}}), 7, "invalid plugin name: a/b"),
        (json!({"ipam": {"type": "nowhere"}}), 7, "failed to find plugin \"nowhere\" in path ["),
    ];
    for (keys, code, text) in cases {
        let refused = host.cni("ADD", "bridge", &who, &with(&bridge, keys.clone())).refusal();
        assert!(refused.0 == code && refused.1.contains(text), "{keys}: {refused:?}");
    }
    assert!(host.links().is_empty());
    host.add("bridge", &who, &bridge);
}

#[test]
fn published_ports_are_checked_before_anything_is_made() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let mapping =
        |more: Value| with(&json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}), more);
    let cases = [
        (json!({"containerPort": 0}), "Invalid container port number: 0"),
        (json!({"hostPort": 0}), "Invalid host port number: 0"),
        (json!({"hostPort": 65536}), "Invalid host port number: 65536"),
        (json!({"containerPort": -1}), "Invalid container port number: -1"),
        (json!({"protocol": "abc"}), "Invalid protocol: \"abc\""),
        (json!({"hostIP": "10.0.0"}), "Invalid host IP: \"10.0.0\""),
    ];
    let previous = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]});
    for (keys, text) in cases {
        let ports = json!({"runtimeConfig": {"portMappings": [mapping(keys)]}});
        let own =
            host.cni("ADD", "rnet", &who, &with(&rnet("n", &["172.18.0.0/16"]), ports.clone())).refusal();
        assert!(own.0 == 7 && own.1.starts_with(text), "{own:?}");
        let chained = json!({"cniVersion": "1.0.0", "name": "n", "type": "portmap", "prevResult": previous});
        let chained = host.cni("ADD", "portmap", &who, &with(&chained, ports)).refusal();
        assert!(
            chained.0 == 7 && chained.1.starts_with(&format!("failed to parse config: {text}")),
            "{chained:?}"
        );
    }
    assert!(host.links().is_empty());
}

#[test]
fn portmap_knows_its_place_and_its_keys() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let alone = json!({"cniVersion": "1.0.0", "name": "n", "type": "portmap"});
    assert_eq!(
        host.cni("ADD", "portmap", &who, &alone).refusal(),
        (7, "must be called as chained plugin".into())
    );
    assert_eq!(host.cni("CHECK", "portmap", &who, &alone).refusal().1, "Required prevResult missing");
    let chained = with(&alone, json!({"prevResult": {"cniVersion": "1.0.0", "ips": []}}));
    let cases = [
        (json!({"backend": "x"}), 7, "failed to parse config: unrecognized backend \"x\""),
        (json!({"markMasqBit": 32}), 7, "failed to parse config: MasqMarkBit must be between 0 and 31"),
        (
            json!({"markMasqBit": 1, "externalSetMarkChain": "X"}),
            7,
            "failed to parse config: Cannot specify externalSetMarkChain and markMasqBit",
        ),
        (
            json!({"conditionsV4": ["ip", "saddr", "10.0.0.0/8", "tcp", "dport", "22"]}),
            2,
            "conditionsV4: \"tcp\" is not understood here; what may be written: ip saddr or ip daddr, ",
        ),
        (
            json!({"conditionsV6": ["!", "-s", "::1", "-m", "mark"]}),
            2,
            "conditionsV6: \"-m\" is not understood here; what may be written: [!] -s, ",
        ),
        (json!({"conditionsV4": ["!", "-d", "192.0.2.0/33"]}), 2, "conditionsV4: \"192.0.2.0/33\" is not "),
        (json!({"conditionsV4": ["-s", 7]}), 2, "conditionsV4: \"7\" is not understood here; "),
        (json!({"conditionsV4": [""]}), 2, "conditionsV4: \"\" is not understood here; "),
        (
            json!({
                "backend": "nftables", "externalSetMarkChain": "X",
                "conditionsV4": ["-s", "10.0.0.1"], "conditionsV6": ["!", "-s", "::1"]
            }),
            7,
            "failed to parse config: nftables backend was requested but configuration contains iptables-specific \
             options [externalSetMarkChain conditionsV4 conditionsV6]",
        ),
        (
            json!({"backend": "iptables", "conditionsV4": ["ip", "saddr", "10.0.0.1"]}),
            7,
            "failed to parse config: iptables backend was requested but configuration contains nftables-specific \
             options [conditionsV4]",
        ),
    ];
    for (keys, code, text) in cases {
        let refused = host.cni("ADD", "portmap", &who, &with(&chained, keys)).refusal();
        assert!(refused.0 == code && refused.1.starts_with(text), "{refused:?}");
    }
    let other = json!({"prevResult": {"cniVersion": "0.3.1", "ips": []}});
    assert_eq!(
        host.cni("ADD", "portmap", &who, &with(&alone, other)).refusal(),
        (999, "could not parse prevResult: result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is \"0.3.1\"".into())
    );
}

/// What was attached goes, whatever the configuration says by now; a failed ADD is followed by such a DEL too.
#[test]
fn a_del_forgives_every_fault_of_a_configuration() {
    let faults = [
        json!({"hairpinMode": true, "promiscMode": true}),
        json!({"vlan": 5000, "macspoofchk": true}),
        json!({"mtu": "big", "bridge": ["x"]}),
        json!({"bridge": "br*"}),
        json!({"runtimeConfig": {"mac": "zz", "portMappings": [{"hostPort": 0}]}}),
        json!({"ipam": null}),
        json!({"prevResult": "nonsense"}),
    ];
    for fault in faults {
        for plugin in ["rnet", "bridge"] {
            let host = Host::new();
            let (_container, who) = host.container("c1");
            // Where the leases lie is the one thing that a DEL of host-local's must be told.
            let keeps_ipam = plugin == "bridge" && fault.get("ipam").is_some();
            let config = match plugin {
                "rnet" => rnet("n", &["172.18.0.0/30"]),
                _ => bridge("n", &["172.18.0.0/30"]),
            };
            host.add(plugin, &who, &config);
            let faulty = if keeps_ipam { config.clone() } else { with(&config, fault.clone()) };

            host.del(plugin, &who, &faulty);

            assert!(!host.links().iter().any(|link| link.starts_with("veth")), "{plugin} {fault}");
            assert_eq!(host.elements(), [], "{plugin} {fault}");
            // The one address is free again.
            host.add(plugin, &who, &config);
        }
    }
}

#[test]
fn a_full_rnet_network_is_told_by_add_and_status() {
    let host = Host::new();
    let config = rnet("n", &["172.18.0.0/30"]);
    let ((_one, first), (_two, second)) = (host.container("one"), host.container("two"));
    let status = || host.cni("STATUS", "rnet", &Who::named("", ""), &config);
    status().silent();
    host.add("rnet", &first, &config);
    let full = "no IP addresses available in range set: 172.18.0.1-172.18.0.2";
    let refused = (100, format!("failed to allocate for range 0: {full}"));
    assert_eq!(host.cni("ADD", "rnet", &second, &config).refusal(), refused);
    assert_eq!(status().refusal(), (50, full.into()));
    host.del("rnet", &first, &config);
    status().silent();
    host.add("rnet", &second, &config);
}

/// What Go's decoder took, or a foreign plugin wrote, must not keep anything from being deleted.
#[test]
fn odd_numbers_in_prev_result_are_told_but_never_on_del() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    for number in [json!(-1), json!(1.5), json!("0"), json!(1e30)] {
        let previous =
            json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24", "interface": number}]});
        let odd = json!({"prevResult": previous});
        for (plugin, config) in [
            ("rnet", rnet("n", &["172.18.0.0/16"])),
            ("bridge", bridge("n", &["172.18.0.0/16"])),
            ("portmap", json!({"cniVersion": "1.1.0", "name": "n", "type": "portmap"})),
            ("dnsname", json!({"cniVersion": "1.1.0", "name": "n", "type": "dnsname", "domainName": "lan"})),
            ("loopback", json!({"cniVersion": "1.1.0", "name": "n", "type": "loopback"})),
        ] {
            let config = with(&config, odd.clone());
            host.del(plugin, &who, &config);
            if plugin == "rnet" || plugin == "bridge" || plugin == "portmap" {
                // The first two make interfaces: only their CHECK reads it.
                let verb = if plugin == "portmap" { "ADD" } else { "CHECK" };
                let (code, text) = host.cni(verb, plugin, &who, &config).refusal();
                let expected = "could not parse prevResult: ";
                assert!(code == 6 && text.starts_with(expected), "{plugin}: {code} {text}");
                assert!(text.contains("ips[0].interface: "), "{text}");
            }
        }
    }
}

#[test]
fn portmap_says_whose_configuration_cannot_be_read() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = json!({
        "cniVersion": "1.0.0", "name": "n", "type": "portmap", "snat": "yes",
        "prevResult": {"cniVersion": "1.0.0", "ips": []},
    });
    let (code, text) = host.cni("ADD", "portmap", &who, &config).refusal();
    assert!(
        code == 7 && text.starts_with("failed to parse config: failed to load netconf: snat: "),
        "{text}"
    );
    host.del("portmap", &who, &config);
}

/// It says what becomes of a VLAN that a port has already; without VLANs that is nothing.
#[test]
fn preserve_default_vlan_alone_asks_for_nothing() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    for preserve in [false, true] {
        let config = with(&bridge("n", &["10.1.0.0/24"]), json!({"preserveDefaultVlan": preserve}));
        host.add("bridge", &who, &config);
        host.del("bridge", &who, &config);
        let vlan = host.cni("ADD", "bridge", &who, &with(&config, json!({"vlan": 7}))).refusal();
        assert_eq!(vlan.0, 2, "{vlan:?}");
    }
}
