//! A reboot: namespaces, links, rules and /run are gone, and what lies in /var is not.

use std::net::IpAddr;

use crate::common::{Guest, Host, Network};

#[test]
fn leases_of_another_boot_are_free_and_a_container_gets_its_old_address() {
    // Five addresses, all of them given.
    let network = Network::chain("mynet", "10.7.0.0/29");
    let host = Host::with_outside();
    let addresses: Vec<(String, IpAddr)> = add_all(&host, &network, &["c0", "c1", "c2", "c3", "c4"]);
    let late = host.guest(&network, "late");
    assert_eq!(late.add().unwrap_err().refusal().0, 100, "the range should have been exhausted");
    late.del().unwrap();

    reboot(&host);

    let again = add_all(&host, &network, &["c3", "c1", "new1", "new2", "new3"]);
    assert_eq!(again[..2], [addresses[3].clone(), addresses[1].clone()]);
}

#[test]
fn an_rnet_network_starts_anew() {
    let network = Network::rnet("mynet", "10.7.0.0/29");
    let host = Host::with_outside();
    let before = add_all(&host, &network, &["c0", "c1", "c2", "c3", "c4"]);

    reboot(&host);

    assert_eq!(add_all(&host, &network, &["c0", "c1", "c2", "c3", "c4"]), before);
}

/// Adds them, looks whether they are whole and alone with their addresses, and lets their namespaces die.
fn add_all(host: &Host, network: &Network, names: &[&str]) -> Vec<(String, IpAddr)> {
    let guests: Vec<Guest<'_>> = names.iter().map(|name| host.guest(network, name)).collect();
    guests.iter().for_each(|guest| drop(guest.add().unwrap()));
    let everybody: Vec<&Guest<'_>> = guests.iter().collect();
    host.assert_balanced(&everybody);
    assert!(guests.iter().all(Guest::works));
    guests.iter().map(|guest| (guest.who.id.clone(), guest.address())).collect()
}

fn reboot(host: &Host) {
    let host = &host;
    for link in host.netlink().links().unwrap() {
        // The kernel ends dead containers' namespaces, and their pairs, at its leisure.
        if link.kind.as_deref() == Some("bridge") || link.alias.is_some() {
            host.run(|| netlink::delete_link(link.index, &[], true).unwrap()).unwrap();
        }
    }
    host.firewall(|firewall| firewall.drop_tables().unwrap());
    std::fs::remove_dir_all(host.root().join("run")).unwrap();
    host.boot.set("another boot".into()).unwrap();
}
