//! The subnets and addresses that the host itself relies on: its links, its routes and their gateways, its name servers.

use std::net::IpAddr;
use std::path::Path;

use engine::Host;
use ipnetwork::IpNetwork;
use netlink::Route;

use crate::subnets::{Owner, Taken};

/// Where a host finds its name servers: its resolver, and the ones behind systemd-resolved and behind what others put there.
const RESOLV_CONFS: [&str; 4] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/systemd/resolve/stub-resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
];

/// systemd-resolved's own configuration, whose `DNS=` and `FallbackDNS=` name servers too.
const RESOLVED_CONFS: [&str; 2] = ["/etc/systemd/resolved.conf", "/run/systemd/resolved.conf"];

/// All of them.
pub fn taken(host: &mut Host) -> anyhow::Result<Vec<Taken>> {
    let links = host.netlink.links()?;
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| "none".to_owned(), |link| link.name.clone())
    };
    let addresses = host.netlink.addresses(None)?.into_iter().filter(|found| counts(found.address.ip()));
    let mut taken: Vec<Taken> =
        addresses.filter_map(|found| connected(found.address, name(found.index))).collect();
    for route in host.netlink.routes()?.iter().filter(|route| !is_local_table(route)) {
        let of_route = of_route(route, &name(route.index)).into_iter();
        let new: Vec<Taken> =
            of_route.filter(|new| !taken.iter().any(|known| known.subnet == new.subnet)).collect();
        taken.extend(new);
    }
    for file in RESOLV_CONFS {
        taken.extend(name_servers(&read(file)).map(|server| one(server, Owner::NameServer { file })));
    }
    for file in RESOLVED_CONFS {
        taken.extend(configured(&read(file)).map(|server| one(server, Owner::NameServer { file })));
    }
    Ok(taken)
}

/// The subnet that an address of a link connects the host to.
fn connected(address: IpNetwork, device: String) -> Option<Taken> {
    let subnet = IpNetwork::new(address.network(), address.prefix()).ok()?;
    Some(Taken { subnet, owner: Owner::Link(device) })
}

/// What a route says: where a subnet is, and by whom it is reached.
fn of_route(route: &Route, device: &str) -> Vec<Taken> {
    let device = device.to_owned();
    let gateway = route.gateway.filter(|gateway| counts(*gateway));
    let gateway = gateway.map(|gateway| one(gateway, Owner::Gateway { device: device.clone() }));
    let owner = Owner::Route { device };
    let subnet = is_subnet(route).then_some(Taken { subnet: route.destination, owner });
    subnet.into_iter().chain(gateway).collect()
}

fn is_local_table(route: &Route) -> bool {
    const LOCAL_TABLE: u32 = 255;
    route.table == Some(LOCAL_TABLE)
}

/// Not a default route, nor what every host has.
fn is_subnet(route: &Route) -> bool {
    route.destination.prefix() > 0 && counts(route.destination.ip())
}

/// Loopback, link-local and multicast addresses are on every host and in no pool.
fn counts(ip: IpAddr) -> bool {
    let v6_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let v4_link_local = |ip: IpAddr| matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
    !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || v4_link_local(ip) || v6_link_local(ip))
}

fn one(ip: IpAddr, owner: Owner) -> Taken {
    Taken { subnet: IpNetwork::from(ip), owner }
}

/// The servers of a resolv.conf(5).
fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).filter(|server| counts(*server))
}

/// The servers of a resolved.conf(5): `DNS=192.0.2.1 [2001:db8::1]:53#name%eth0`.
fn configured(text: &str) -> impl Iterator<Item = IpAddr> {
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.trim().split_once('=')?;
        ["DNS", "FallbackDNS"].contains(&key.trim()).then_some(value)
    });
    values.flat_map(str::split_whitespace).filter_map(server).filter(|server| counts(*server))
}

fn server(word: &str) -> Option<IpAddr> {
    let word = word.split(['#', '%']).next()?;
    let in_brackets = word.strip_prefix('[').and_then(|word| word.split(']').next());
    let without_port = word.rsplit_once(':').map(|(host, _)| host);
    [Some(word), in_brackets, without_port].into_iter().flatten().find_map(|word| word.parse().ok())
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(file)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, gateway: Option<&str>) -> Route {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        Route { table: Some(254), gateway, ..Route::new(to.parse().unwrap(), 2) }
    }

    fn words(route: &Route) -> Vec<String> {
        of_route(route, "eth0")
            .into_iter()
            .map(|taken| format!("{} of {}", taken.subnet, taken.owner))
            .collect()
    }

    #[test]
    fn a_route_takes_its_subnet_and_its_gateway() {
        assert_eq!(words(&route("10.0.0.0/8", None)), ["10.0.0.0/8 of the host's route dev eth0"]);
        let link = connected("192.168.77.1/24".parse().unwrap(), "eth0".into()).unwrap();
        assert_eq!(format!("{} of {}", link.subnet, link.owner), "192.168.77.0/24 of the host's link eth0");
        assert_eq!(
            words(&route("0.0.0.0/0", Some("172.18.0.1"))),
            ["172.18.0.1/32 of the gateway of the host's route dev eth0"]
        );
        assert_eq!(
            words(&route("172.18.7.0/24", Some("192.0.2.1"))),
            [
                "172.18.7.0/24 of the host's route dev eth0",
                "192.0.2.1/32 of the gateway of the host's route dev eth0"
            ]
        );
        for to in ["fe80::/64", "ff00::/8", "169.254.0.0/16", "127.0.0.0/8", "224.0.0.0/4"] {
            assert_eq!(words(&route(to, None)), [""; 0], "{to}");
        }
        assert!(is_local_table(&Route { table: Some(255), ..route("10.0.0.1/32", None) }));
    }

    #[test]
    fn name_servers_are_found_in_both_kinds_of_file() {
        let text =
            "# x\nnameserver 127.0.0.53\n nameserver\t172.18.0.53\nnameserver fe80::1%eth0\nsearch lan\n";
        assert_eq!(name_servers(text).map(|s| s.to_string()).collect::<Vec<_>>(), ["172.18.0.53"]);
        let text = "[Resolve]\n#DNS=192.0.2.9\nDNS=192.0.2.1 192.0.2.2:53#dot.example [2001:db8::1]:853\nFallbackDNS=2001:db8::2%eth0\n";
        let found: Vec<String> = configured(text).map(|server| server.to_string()).collect();
        assert_eq!(found, ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]);
    }
}
