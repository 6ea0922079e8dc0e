//! A reboot: namespaces, links, rules and /run are gone, and what lies in /var is not.

use std::net::IpAddr;

use crate::site::{Member, Network, Site};

#[test]
fn leases_of_another_boot_are_free_and_a_container_gets_its_old_address() {
    // Five addresses, all of them given.
    let network = Network::chain("mynet", "10.7.0.0/29");
    let site = Site::new();
    let addresses: Vec<(String, IpAddr)> = add_all(&site, &network, &["c0", "c1", "c2", "c3", "c4"]);
    let late = site.member(&network, "late");
    assert_eq!(late.add().unwrap_err().refusal().0, 100, "the range should have been exhausted");
    late.del().unwrap();

    reboot(&site);

    let again = add_all(&site, &network, &["c3", "c1", "new1", "new2", "new3"]);
    assert_eq!(again[..2], [addresses[3].clone(), addresses[1].clone()]);
}

#[test]
fn an_rnet_network_starts_anew() {
    let network = Network::rnet("mynet", "10.7.0.0/29");
    let site = Site::new();
    let before = add_all(&site, &network, &["c0", "c1", "c2", "c3", "c4"]);

    reboot(&site);

    assert_eq!(add_all(&site, &network, &["c0", "c1", "c2", "c3", "c4"]), before);
}

/// Adds them, looks whether they are whole and alone with their addresses, and lets their namespaces die.
fn add_all(site: &Site, network: &Network, names: &[&str]) -> Vec<(String, IpAddr)> {
    let members: Vec<Member<'_>> = names.iter().map(|name| site.member(network, name)).collect();
    members.iter().for_each(|member| drop(member.add().unwrap()));
    let everybody: Vec<&Member<'_>> = members.iter().collect();
    site.assert_balanced(&everybody);
    assert!(members.iter().all(Member::works));
    members.iter().map(|member| (member.who.id.clone(), member.address())).collect()
}

fn reboot(site: &Site) {
    let lab = &site.lab;
    for link in lab.netlink().links().unwrap() {
        // The kernel ends dead containers' namespaces, and their pairs, at its leisure.
        if link.kind.as_deref() == Some("bridge") || link.alias.is_some() {
            lab.host.run(|| netlink::delete_link(link.index, &[], true).unwrap()).unwrap();
        }
    }
    lab.firewall(|firewall| firewall.drop_tables().unwrap());
    std::fs::remove_dir_all(lab.host.root().join("run")).unwrap();
    site.boot.set("another boot".into()).unwrap();
}
