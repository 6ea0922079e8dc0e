//! `macspoofchk` of bridge: the reference plugin's rules, when they come and when they go.

use std::process::Command;
use std::time::Instant;

use netns_fixtures::has_program;
use nft::{Element, MacCheck, Subject};
use serde_json::{Value, json};

use crate::common::{Host, LONG, Who, bridge, with};

fn checked(subnet: &str) -> Value {
    with(&bridge("n", &[subnet]), json!({"macspoofchk": true}))
}

/// Runs `nft` on the host; `None` where it is not installed.
fn nft(host: &Host, command: &str) -> Option<String> {
    if !has_program("nft") {
        return None;
    }
    let output = host.run(|| Command::new("nft").arg(command).output()).unwrap().unwrap();
    assert!(output.status.success(), "nft {command}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The rules that ADD should have made.
fn wanted(who: &Who, result: &Value) -> MacCheck {
    let mac: netlink::Mac = result["interfaces"][2]["mac"].as_str().unwrap().parse().unwrap();
    let link = result["interfaces"][1]["name"].as_str().unwrap().into();
    MacCheck { subject: Subject::new(&who.id, &who.ifname).unwrap(), link, mac: mac.0 }
}

fn is_checked(host: &Host, check: &MacCheck) -> bool {
    host.firewall(|firewall| firewall.checks_mac(check).unwrap())
}

fn is_known(host: &Host, check: &MacCheck) -> bool {
    host.firewall(|firewall| firewall.knows_mac_check(&check.subject).unwrap())
}

#[test]
fn the_table_is_byte_for_byte_the_reference_plugins() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let result = host.add("bridge", &who, &checked("10.1.0.0/24"));
    let MacCheck { link, .. } = wanted(&who, &result);
    let expected = format!(
        "table bridge nat {{
\tchain PREROUTING {{
\t\ttype filter hook prerouting priority dstnat; policy accept;
\t\tiifname \"{link}\" jump cni-br-iface-c1-eth0 comment \"macspoofchk-c1-eth0\"
\t}}

\tchain cni-br-iface-c1-eth0 {{
\t\tjump cni-br-iface-c1-eth0-mac comment \"macspoofchk-c1-eth0\"
\t}}

\tchain cni-br-iface-c1-eth0-mac {{
\t\tether saddr 02:42:0a:01:00:02 return comment \"macspoofchk-c1-eth0\"
\t\tdrop comment \"macspoofchk-c1-eth0\"
\t}}
}}
"
    );
    if let Some(listing) = nft(&host, "list table bridge nat") {
        assert_eq!(listing, expected);
    }
}

#[test]
fn a_check_goes_with_its_container_and_leaves_others() {
    let host = Host::new();
    let config = checked("10.1.0.0/24");
    let attach = |name: &str| {
        let (container, who) = host.container(name);
        let check = wanted(&who, &host.add("bridge", &who, &config));
        (container, who, check)
    };
    let (_first, first_who, first) = attach("first");
    let (second, second_who, other) = attach("second");
    let listed = nft(&host, "add rule bridge nat PREROUTING iifname \"eth9\" drop comment \"theirs\"");
    drop(second);

    // Without a namespace, with a configuration that does not ask for it any more, and twice.
    let without = with(&config, json!({"macspoofchk": false}));
    host.del("bridge", &second_who.clone().netns(""), &without);
    host.del("bridge", &second_who.netns(""), &config);

    assert!(!is_known(&host, &other) && is_checked(&host, &first));
    host.del("bridge", &first_who, &config);
    assert!(!is_known(&host, &first));
    if listed.is_some() {
        let left = nft(&host, "list table bridge nat").unwrap();
        assert!(left.contains("\"theirs\"") && !left.contains("macspoofchk"), "{left}");
        assert_eq!(left.matches("chain").count(), 1, "{left}");
    }
}

#[test]
fn a_failed_add_leaves_no_rules() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = checked("10.1.0.0/24");
    // The gateway's network takes no route to a gateway outside of it.
    let route = json!([{"dst": "10.9.0.0/24", "gw": "192.0.2.1"}]);
    let ipam = with(&config["ipam"], json!({"routes": route}));
    assert_eq!(host.cni("ADD", "bridge", &who, &with(&config, json!({"ipam": ipam}))).refusal().0, 109);
    let subject = Subject::new("c1", "eth0").unwrap();
    assert!(!host.firewall(|firewall| firewall.knows_mac_check(&subject).unwrap()));
}

#[test]
fn check_and_a_second_add_see_to_the_rules() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let config = checked("10.1.0.0/24");
    let result = host.add("bridge", &who, &config);
    let check = wanted(&who, &result);
    let call = || host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result})));
    call().silent();

    host.firewall(|firewall| firewall.uncheck_mac(&check.subject).unwrap());

    let (code, text) = call().refusal();
    assert_eq!(code, 107);
    assert!(
        text.starts_with(&format!("the rules of macspoofchk for {} (chain cni-br-iface-c1-eth0", check.link))
    );
    host.del("bridge", &who, &config);
    let result = host.add("bridge", &who, &config);
    assert!(is_checked(&host, &wanted(&who, &result)));
}

#[test]
fn a_flushed_table_comes_back_for_all_with_the_next_container() {
    let next: [&dyn Fn() -> Value; 2] = [&|| checked("10.1.0.0/24"), &|| bridge("n", &["10.1.0.0/24"])];
    for config in next {
        let host = Host::new();
        let (_first, who) = host.container("first");
        let check = wanted(&who, &host.add("bridge", &who, &checked("10.1.0.0/24")));
        if nft(&host, "flush ruleset").is_none() {
            return;
        }
        assert!(!is_checked(&host, &check));
        let (_next, who) = host.container("next");
        host.add("bridge", &who, &config());
        assert!(is_checked(&host, &check));
    }
}

/// The probe takes its second or two without holding up anybody, and rules that are lost meanwhile come back.
#[test]
fn a_flush_during_duplicate_detection_is_mended() {
    let host = Host::new();
    let config =
        with(&bridge("n", &["10.1.0.0/24", "fd01::/64"]), json!({"macspoofchk": true, "enabledad": true}));
    let (_probed, who) = host.container("probed");
    let mut adding = host.call("ADD", "bridge", &who).input(config.to_string()).spawn();
    let address = "10.1.0.2".parse().unwrap();
    let has_element =
        || host.elements().iter().any(|(element, _)| *element == Element::Masquerade { address });
    let end = Instant::now() + LONG;
    while !has_element() {
        assert!(Instant::now() < end);
    }

    host.firewall(|firewall| firewall.drop_tables().unwrap());
    let subject = Subject::new(&who.id, &who.ifname).unwrap();
    host.firewall(|firewall| firewall.uncheck_mac(&subject).unwrap());
    let (_quick, quick) = host.container("quick");
    host.add("bridge", &quick, &with(&config, json!({"enabledad": false})));
    assert!(adding.try_wait().unwrap().is_none(), "nobody waited for the probe");

    assert!(adding.wait().unwrap().success());
    assert!(has_element());
    assert!(host.firewall(|firewall| firewall.knows_mac_check(&subject).unwrap()));
}

#[test]
fn gc_removes_the_rules_of_what_is_not_valid() {
    let host = Host::new();
    let config = checked("10.1.0.0/24");
    let (_container, who) = host.container("c1");
    let check = wanted(&who, &host.add("bridge", &who, &config));
    let none = with(&config, json!({"cni.dev/valid-attachments": []}));
    assert_eq!(host.cni("GC", "bridge", &who, &none).status, 0);
    assert!(!is_known(&host, &check));
    host.cni("STATUS", "bridge", &who, &config).silent();
}

#[test]
fn names_that_nft_would_read_as_more_are_refused() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let long = "c".repeat(112);
    for who in [who.clone().ifname("a@b"), who.clone().ifname("br+"), Who { id: long, ..who.clone() }] {
        let (code, text) = host.cni("ADD", "bridge", &who, &checked("10.1.0.0/24")).refusal();
        assert!(code == 2 && text.starts_with("macspoofchk = true is not supported: its chains"), "{text}");
        host.del("bridge", &who, &checked("10.1.0.0/24"));
    }
    assert!(host.links().is_empty());
}
