//! The rules of `macspoofchk` in the table that they share with others.

use nft::{Firewall, MacCheck, Subject};

use crate::{nft, nft_stdin, on_a_new_host};

fn mac_check(container: &str, link: &str) -> MacCheck {
    let subject = Subject::new(container, "eth0").unwrap();
    MacCheck { subject, link: link.into(), mac: [2, 0x42, 10, 1, 0, 2] }
}

/// The reference plugin's text for one port, beside other rules in the same table.
fn bridge_nat(others: &str) -> String {
    format!(
        "table bridge nat {{
\tchain PREROUTING {{
\t\ttype filter hook prerouting priority dstnat; policy accept;
{others}\t\tiifname \"veth0\" jump cni-br-iface-c1-eth0 comment \"macspoofchk-c1-eth0\"
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
    )
}

#[test]
fn the_rules_of_macspoofchk_are_the_reference_plugins_and_never_double() {
    on_a_new_host(|| {
        let mut firewall = Firewall::open().unwrap();
        let check = mac_check("c1", "veth0");
        assert!(!firewall.checks_mac(&check).unwrap());
        for _ in 0..2 {
            firewall.check_macs(std::slice::from_ref(&check)).unwrap();
            assert!(firewall.checks_mac(&check).unwrap());
            if let Some(listing) = nft(&["list", "table", "bridge", "nat"]) {
                assert_eq!(listing, bridge_nat(""));
            }
        }
        for other in [mac_check("c1", "veth1"), mac_check("c2", "veth0")] {
            assert!(!firewall.checks_mac(&other).unwrap());
        }
        assert!(!firewall.checks_mac(&MacCheck { mac: [2; 6], ..check }).unwrap());
    });
}

#[test]
fn other_rules_in_the_table_of_macspoofchk_stay() {
    on_a_new_host(|| {
        let theirs = "table bridge nat {
            chain PREROUTING {
                type filter hook prerouting priority -300; policy drop;
                iifname \"eth9\" accept comment \"macspoofchk-c1-eth\"
            }
            chain other { drop; }
        }";
        if nft(&["list", "ruleset"]).is_none() {
            return;
        }
        nft_stdin(theirs);
        let before = nft(&["list", "table", "bridge", "nat"]);
        let mut firewall = Firewall::open().unwrap();
        let checks = [mac_check("c1", "veth0"), mac_check("c2", "veth1")];
        firewall.check_macs(&checks).unwrap();
        assert!(firewall.uncheck_mac(&checks[0].subject).unwrap());
        assert!(!firewall.knows_mac_check(&checks[0].subject).unwrap());
        assert!(firewall.checks_mac(&checks[1]).unwrap());
        assert!(firewall.uncheck_mac(&checks[1].subject).unwrap());
        assert!(!firewall.uncheck_mac(&checks[1].subject).unwrap(), "removing twice is fine");
        assert_eq!(nft(&["list", "table", "bridge", "nat"]), before);
    });
}

#[test]
fn check_of_macspoofchk_sees_every_change() {
    let changes = [
        "insert rule bridge nat cni-br-iface-c1-eth0-mac accept",
        "flush chain bridge nat cni-br-iface-c1-eth0",
        "flush chain bridge nat PREROUTING",
        "add rule bridge nat PREROUTING iifname \"veth7\" jump cni-br-iface-c1-eth0 comment \"macspoofchk-c1-eth0\"",
        "flush ruleset",
    ];
    for change in changes {
        on_a_new_host(|| {
            let mut firewall = Firewall::open().unwrap();
            let check = mac_check("c1", "veth0");
            firewall.check_macs(std::slice::from_ref(&check)).unwrap();
            if nft(&["list", "ruleset"]).is_none() {
                return;
            }
            nft_stdin(change);
            assert!(!firewall.checks_mac(&check).unwrap(), "{change}");
            firewall.check_macs(std::slice::from_ref(&check)).unwrap();
            assert!(firewall.checks_mac(&check).unwrap(), "{change}");
            firewall.uncheck_mac(&check.subject).unwrap();
            assert!(!firewall.knows_mac_check(&check.subject).unwrap(), "{change}");
        });
    }
}
