//! Links, addresses and routes as the well-known commands print them.

use std::net::IpAddr;

use netlink::Netns;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::RouteMessageBuilder;

use crate::Error;
use crate::rtnl::{all, rtnl};
use crate::view::{View, links, mac_text, name_of};

/// Whose `ip` to speak like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// iproute2, which hosts have.
    Iproute2,
    /// busybox and other old ones, which the study notes' containers have. They know no other
    /// namespaces: a veth whose peer lives in one shows `M-DOWN`, for the peer looks down to them.
    Busybox,
}

/// What `ip addr` prints in `netns`.
pub fn ip_addr(netns: &Netns, dialect: Dialect) -> Result<String, Error> {
    let (links, addresses) = rtnl(netns, "list links and addresses", async |handle| {
        Ok((links(&handle).await?, all(handle.address().get().execute()).await?))
    })?;
    let shown = links.iter().map(|link| {
        let own = addresses.iter().filter(|address| address.header.index == link.index);
        link_lines(&links, link, dialect) + &own.map(address_lines).collect::<String>()
    });
    Ok(shown.collect())
}

/// What `bridge link` prints in `netns`: one line for each port of a bridge.
pub fn bridge_link(netns: &Netns) -> Result<String, Error> {
    let links = rtnl(netns, "list links", async |handle| links(&handle).await)?;
    Ok(links.iter().filter(|link| !link.port.is_empty()).map(|port| port_line(&links, port)).collect())
}

/// What `ip route` prints in `netns`: the IPv4 routes of the main table.
pub fn ip_route(netns: &Netns, dialect: Dialect) -> Result<String, Error> {
    let (links, routes) = rtnl(netns, "list links and routes", async |handle| {
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        Ok((links(&handle).await?, all(handle.route().get(v4).execute()).await?))
    })?;
    let main = routes.iter().filter(|route| route.header.table == RouteHeader::RT_TABLE_MAIN);
    Ok(main.map(|route| route_line(&links, route, dialect)).collect())
}

fn link_lines(links: &[View], link: &View, dialect: Dialect) -> String {
    let head = head(links, link, dialect);
    let master = link.master.map(|index| format!(" master {}", name_of(links, index)));
    let master = master.unwrap_or_default();
    let (mut group, mut netnsid, mut alias) = (String::new(), String::new(), String::new());
    if dialect == Dialect::Iproute2 {
        group = " group default".into();
        netnsid = link.netnsid.map_or_else(String::new, |id| format!(" link-netnsid {id}"));
        if !link.alias.is_empty() {
            alias = format!("    alias {}\n", link.alias);
        }
    }
    let queue = match link.queue_length {
        0 => String::new(),
        length => format!(" qlen {length}"),
    };
    let View { mtu, qdisc, state, .. } = link;
    let hardware = if link.flags.contains(LinkFlags::Loopback) { "loopback" } else { "ether" };
    let (mac, broadcast) = (mac_text(&link.mac), mac_text(&link.broadcast));
    format!(
        "{head} mtu {mtu} qdisc {qdisc}{master} state {state}{group}{queue}\n    link/{hardware} {mac} brd {broadcast}{netnsid}\n{alias}"
    )
}

fn port_line(links: &[View], port: &View) -> String {
    let head = head(links, port, Dialect::Iproute2);
    let master = name_of(links, port.master.unwrap_or_default());
    let (state, priority, cost) = port.port_state();
    let mtu = port.mtu;
    format!("{head} mtu {mtu} master {master} state {state} priority {priority} cost {cost}\n")
}

/// `4: eth0@if5: <BROADCAST,MULTICAST,UP,LOWER_UP>`
fn head(links: &[View], link: &View, dialect: Dialect) -> String {
    let mut flags = flag_names(link.flags);
    let mut name = link.name.clone();
    if let Some(peer) = link.peer {
        let abroad = link.netnsid.is_some();
        let near = links.iter().find(|other| other.index == peer && !abroad);
        name += &near.map_or_else(|| format!("@if{peer}"), |other| format!("@{}", other.name));
        let unseen = abroad && dialect == Dialect::Busybox;
        if unseen || near.is_some_and(|other| !other.is_up()) {
            flags.push("M-DOWN");
        }
    }
    format!("{}: {name}: <{}>", link.index, flags.join(","))
}

/// In the order of iproute2.
fn flag_names(flags: LinkFlags) -> Vec<&'static str> {
    const NAMES: [(LinkFlags, &str); 10] = [
        (LinkFlags::Loopback, "LOOPBACK"),
        (LinkFlags::Broadcast, "BROADCAST"),
        (LinkFlags::Pointopoint, "POINTOPOINT"),
        (LinkFlags::Multicast, "MULTICAST"),
        (LinkFlags::Noarp, "NOARP"),
        (LinkFlags::Allmulti, "ALLMULTI"),
        (LinkFlags::Promisc, "PROMISC"),
        (LinkFlags::Up, "UP"),
        (LinkFlags::LowerUp, "LOWER_UP"),
        (LinkFlags::Dormant, "DORMANT"),
    ];
    let no_carrier = flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Running);
    let set = NAMES.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name);
    no_carrier.then_some("NO-CARRIER").into_iter().chain(set).collect()
}

fn address_lines(message: &AddressMessage) -> String {
    let (mut address, mut local, mut broadcast) = (None, None, String::new());
    let (mut label, mut life, mut flags) = (String::new(), None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = format!(" brd {ip}"),
            AddressAttribute::Label(name) => label = format!(" {name}"),
            AddressAttribute::CacheInfo(info) => life = Some(*info),
            AddressAttribute::Flags(set) => flags = *set,
            _ => {}
        }
    }
    let Some(ip) = local.or(address) else { return String::new() };
    let family = if ip.is_ipv4() { "inet" } else { "inet6" };
    let (prefix, scope) = (message.header.prefix_len, scope_name(message.header.scope));
    let flags = address_flag_names(flags, ip.is_ipv6());
    let (valid, preferred) = life.map_or_else(forever, lifetimes);
    format!(
        "    {family} {ip}/{prefix}{broadcast} scope {scope}{flags}{label}\n       valid_lft {valid} preferred_lft {preferred}\n"
    )
}

fn address_flag_names(flags: AddressFlags, v6: bool) -> String {
    let names = [
        (AddressFlags::Secondary, if v6 { "temporary" } else { "secondary" }),
        (AddressFlags::Nodad, "nodad"),
        (AddressFlags::Optimistic, "optimistic"),
        (AddressFlags::Dadfailed, "dadfailed"),
        (AddressFlags::Deprecated, "deprecated"),
        (AddressFlags::Tentative, "tentative"),
        (AddressFlags::Noprefixroute, "noprefixroute"),
    ];
    let set = names.iter().filter(|(flag, _)| flags.contains(*flag));
    let dynamic = if flags.contains(AddressFlags::Permanent) { "" } else { " dynamic" };
    set.map(|(_, name)| format!(" {name}")).collect::<String>() + dynamic
}

fn forever() -> (String, String) {
    ("forever".into(), "forever".into())
}

fn lifetimes(info: CacheInfo) -> (String, String) {
    let text = |seconds| match seconds {
        u32::MAX => "forever".into(),
        seconds => format!("{seconds}sec"),
    };
    (text(info.ifa_valid), text(info.ifa_preferred))
}

fn scope_name(scope: AddressScope) -> String {
    match scope {
        AddressScope::Universe => "global".into(),
        AddressScope::Site => "site".into(),
        AddressScope::Link => "link".into(),
        AddressScope::Host => "host".into(),
        AddressScope::Nowhere => "nowhere".into(),
        other => u8::from(other).to_string(),
    }
}

fn route_line(links: &[View], route: &RouteMessage, dialect: Dialect) -> String {
    let prefix = route.header.destination_prefix_length;
    let (mut to, mut via, mut dev) = ("default".to_owned(), String::new(), String::new());
    let (mut source, mut metric) = (String::new(), String::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = destination(address, prefix),
            RouteAttribute::Gateway(gateway) => via = format!(" via {}", route_address(gateway)),
            RouteAttribute::Oif(index) => dev = format!(" dev {}", name_of(links, *index)),
            RouteAttribute::PrefSource(ip) => source = format!(" src {}", route_address(ip)),
            RouteAttribute::Priority(value) => metric = format!(" metric {value}"),
            _ => {}
        }
    }
    let mut scope = if route.header.scope == RouteScope::Link { " scope link" } else { "" }.to_owned();
    let proto = match (dialect, route.header.protocol) {
        (Dialect::Iproute2, RouteProtocol::Kernel) => " proto kernel",
        (Dialect::Iproute2, RouteProtocol::Static) => " proto static",
        _ => "",
    };
    if dialect == Dialect::Busybox && !scope.is_empty() {
        // busybox writes a space after the scope and one before what follows it.
        scope.push(' ');
    }
    format!("{to}{via}{dev}{proto}{scope}{source}{metric}").trim_end().to_owned() + "\n"
}

fn destination(address: &RouteAddress, prefix: u8) -> String {
    let text = route_address(address);
    let full = if text.contains(':') { 128 } else { 32 };
    if prefix == full { text } else { format!("{text}/{prefix}") }
}

/// An address of a route, as text.
pub(crate) fn route_address(address: &RouteAddress) -> String {
    match address {
        RouteAddress::Inet(ip) => IpAddr::V4(*ip).to_string(),
        RouteAddress::Inet6(ip) => IpAddr::V6(*ip).to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth};

    use crate::rtnl::index_of;
    use crate::{Container, Host};

    const LONG: std::time::Duration = std::time::Duration::from_secs(10);

    /// The study notes' first container: bridge and host end here, eth0 there, up and addressed.
    fn first_container(host: &Host) -> Container {
        let container = host.container("tomcat01").unwrap();
        rtnl(host.netns(), "build the bridge", async |handle| {
            let link = handle.link();
            link.add(LinkBridge::new("br0").up().build()).execute().await?;
            let mac = vec![2, 0x42, 0xac, 0x12, 0, 2];
            let veth = LinkVeth::new("eth0", "vethac069eb").address(mac).build();
            link.add(veth).execute().await?;
            let bridge = index_of(&handle, "br0").await?.unwrap();
            let port = LinkUnspec::new_with_name("vethac069eb").controller(bridge).up().build();
            link.change(port).execute().await?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(container.netns()));
            link.change(LinkUnspec::new_with_name("eth0").setns_by_fd(fd).build()).execute().await
        })
        .unwrap();
        rtnl(container.netns(), "address eth0", async |handle| {
            let index = index_of(&handle, "eth0").await?.unwrap();
            let ip = "172.18.0.2".parse().unwrap();
            handle.address().add(index, ip, 16).execute().await?;
            handle.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await
        })
        .unwrap();
        for (netns, link) in
            [(host.netns(), "br0"), (host.netns(), "vethac069eb"), (container.netns(), "eth0")]
        {
            assert!(crate::wait_for_carrier(netns, link, LONG).unwrap(), "{link}");
        }
        container
    }

    #[test]
    fn a_container_shows_its_eth0_as_the_study_notes_do() {
        let host = Host::new().unwrap();
        let container = first_container(&host);
        let port = bridge_link(host.netns()).unwrap();
        let (number, rest) = port.split_once(": vethac069eb@if").unwrap();
        let (own, rest) = rest.split_once(": ").unwrap();
        assert!(rest.starts_with("<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 master br0"), "{rest}");
        let shown = ip_addr(container.netns(), Dialect::Busybox).unwrap();
        let expected = format!(
            "{own}: eth0@if{number}: <BROADCAST,MULTICAST,UP,LOWER_UP,M-DOWN> mtu 1500 qdisc noqueue state UP qlen 1000
    link/ether 02:42:ac:12:00:02 brd ff:ff:ff:ff:ff:ff
    inet 172.18.0.2/16 brd 172.18.255.255 scope global eth0
       valid_lft forever preferred_lft forever\n"
        );
        assert!(shown.contains(&expected), "{shown}\n{expected}");
        let routes = ip_route(container.netns(), Dialect::Busybox).unwrap();
        assert_eq!(routes, "172.18.0.0/16 dev eth0 scope link  src 172.18.0.2\n");
    }

    #[test]
    fn iproute2_prints_the_same() {
        let host = Host::new().unwrap();
        let container = first_container(&host);
        let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
        host.default_route_via(&outside).unwrap();
        // Where iproute2 is not installed, the other test has compared what it could.
        let version = Command::new("ip").arg("-V").output().map(|output| output.stdout);
        let is_iproute2 = version.is_ok_and(|text| String::from_utf8_lossy(&text).contains("iproute2"));
        if !crate::compares(is_iproute2, "iproute2 is not installed") {
            return;
        }
        for netns in [host.netns(), container.netns(), outside.netns()] {
            let iproute2 = |program: &str, what: &str| {
                let output = crate::Program::new(netns, program).arg(what).output().unwrap();
                words(&String::from_utf8(output.stdout).unwrap())
            };
            // Link-local addresses come when they like; the comparison is about the rest.
            let addr = words(&ip_addr(netns, Dialect::Iproute2).unwrap());
            assert_eq!(without_link_local(addr), without_link_local(iproute2("ip", "addr")));
            let route = words(&ip_route(netns, Dialect::Iproute2).unwrap());
            assert_eq!(route, iproute2("ip", "route"));
            assert_eq!(words(&bridge_link(netns).unwrap()), iproute2("bridge", "link"));
        }
    }

    fn words(text: &str) -> Vec<String> {
        let spaced_once = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        // Newer ones say by which protocol the kernel made an address.
        text.lines().map(|line| spaced_once(&line.replace(" proto kernel_lo", ""))).collect()
    }

    fn without_link_local(lines: Vec<String>) -> Vec<String> {
        let mut kept = Vec::new();
        let mut lines = lines.into_iter();
        while let Some(line) = lines.next() {
            if line.starts_with("inet6 fe80:") {
                lines.next();
            } else {
                kept.push(line);
            }
        }
        kept
    }
}
