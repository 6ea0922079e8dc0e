//! What rtnetlink tells of a namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::Netns;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoBridge, InfoBridgePort, InfoData, LinkFlags, LinkInfo};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::tc::{TcAttribute, TcMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use crate::Error;
use crate::rtnl::{all, rtnl};
use crate::show::route_address;
use crate::view::{View, links, mac_text, name_of};

/// The kernel's answers. The neighbours are those of both IP families; `fdb` has those of the bridges.
struct Dump {
    links: Vec<View>,
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
    rules: Vec<RuleMessage>,
    neighbours: Vec<NeighbourMessage>,
    fdb: Vec<NeighbourMessage>,
    qdiscs: Vec<TcMessage>,
    filters: Vec<TcMessage>,
}

pub(super) fn lines(netns: &Netns) -> Result<Vec<String>, Error> {
    let dump = rtnl(netns, "take a snapshot", dump)?;
    let mut lines = Vec::new();
    lines.extend(dump.links.iter().flat_map(|link| dump.link(link)));
    lines.extend(dump.addresses.iter().filter_map(|message| dump.address(message)));
    lines.extend(dump.routes.iter().filter_map(|message| dump.route(message)));
    lines.extend(dump.rules.iter().map(rule));
    lines.extend(dump.neighbours.iter().filter_map(|message| dump.neighbour("neighbour", message)));
    lines.extend(dump.fdb.iter().filter_map(|message| dump.neighbour("fdb", message)));
    lines.extend(dump.qdiscs.iter().filter_map(|message| dump.qdisc(message)));
    lines.extend(dump.filters.iter().map(|message| dump.filter(message)));
    Ok(lines)
}

async fn dump(handle: Handle) -> Result<Dump, rtnetlink::Error> {
    let links = links(&handle).await?;
    let neighbours = async |family| all(handle.neighbours().get().set_address_family(family).execute()).await;
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes = all(handle.route().get(v4).execute()).await?;
    routes.extend(all(handle.route().get(v6).execute()).await?);
    let mut rules = all(handle.rule().get(IpVersion::V4).execute()).await?;
    rules.extend(all(handle.rule().get(IpVersion::V6).execute()).await?);
    Ok(Dump {
        addresses: all(handle.address().get().execute()).await?,
        routes,
        rules,
        neighbours: neighbours(AddressFamily::Unspec).await?,
        fdb: neighbours(AddressFamily::Bridge).await?,
        qdiscs: all(handle.qdisc().get().execute()).await?,
        filters: filters(&handle, &links).await?,
        links,
    })
}

/// The filters at the links' ingress, where rnet's loopback guard is.
async fn filters(handle: &Handle, links: &[View]) -> Result<Vec<TcMessage>, rtnetlink::Error> {
    let mut filters = Vec::new();
    for link in links {
        let at = handle.traffic_filter(link.index as i32).get().ingress();
        filters.extend(all(at.execute()).await?);
    }
    Ok(filters)
}

impl Dump {
    fn name(&self, index: u32) -> String {
        name_of(&self.links, index)
    }

    /// One line for the link, one for its being a port.
    fn link(&self, link: &View) -> Vec<String> {
        let View { name, kind, mtu, alias, settings, .. } = link;
        let up = if link.is_up() { "up" } else { "down" };
        let master = link.master.map_or_else(|| "-".into(), |index| self.name(index));
        let mac = stable_mac(&link.mac);
        let flags = configured(link.flags);
        let settings: Vec<String> = settings.iter().flat_map(bridge_settings).collect();
        let settings = settings.join(" ");
        let mut lines = vec![format!(
            "link {name}: kind {kind:?} {up} mtu {mtu} master {master} mac {mac} alias {alias:?} {flags} {settings}"
        )];
        if !link.port.is_empty() {
            let flags: Vec<String> = link.port.iter().filter_map(port_flag).collect();
            lines.push(format!("port {name}: {}", flags.join(" ")));
        }
        lines
    }

    fn address(&self, message: &AddressMessage) -> Option<String> {
        let mut shown = vec![format!("scope {:?}", message.header.scope)];
        let (mut address, mut local) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::CacheInfo(_) => {}
                AddressAttribute::Flags(flags) => {
                    let passing = AddressFlags::Tentative | AddressFlags::Optimistic;
                    shown.push(format!("{:?}", flags.difference(passing)));
                }
                other => shown.push(format!("{other:?}")),
            }
        }
        let ip = local.or(address)?;
        if is_link_local(ip) {
            return None;
        }
        let peer = address.filter(|peer| *peer != ip).map(|peer| format!(" peer {peer}"));
        let (link, prefix) = (self.name(message.header.index), message.header.prefix_len);
        let peer = peer.unwrap_or_default();
        Some(format!("address {link}: {ip}/{prefix}{peer} {}", shown.join(" ")))
    }

    fn route(&self, message: &RouteMessage) -> Option<String> {
        let header = &message.header;
        let v6 = header.address_family == AddressFamily::Inet6;
        let mut to = if v6 { "::" } else { "0.0.0.0" }.to_owned();
        let (mut table, mut shown) = (u32::from(header.table), Vec::new());
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(address) => to = route_address(address),
                RouteAttribute::Gateway(ip) => shown.push(format!("via {}", route_address(ip))),
                RouteAttribute::PrefSource(ip) => shown.push(format!("src {}", route_address(ip))),
                RouteAttribute::Oif(index) => shown.push(format!("dev {}", self.name(*index))),
                RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_) | RouteAttribute::Preference(_) => {
                }
                other => shown.push(format!("{other:?}")),
            }
        }
        if v6 && header.protocol == RouteProtocol::Kernel && comes_by_itself(message) {
            return None;
        }
        shown.sort();
        let (kind, prefix) = (header.kind, header.destination_prefix_length);
        let (protocol, scope, shown) = (header.protocol, header.scope, shown.join(" "));
        Some(format!(
            "route table {table}: {kind:?} {to}/{prefix} {shown} proto {protocol:?} scope {scope:?}"
        ))
    }

    /// A permanent entry: address, or of a bridge the MAC alone.
    fn neighbour(&self, what: &str, message: &NeighbourMessage) -> Option<String> {
        if message.header.state != NeighbourState::Permanent {
            return None;
        }
        let link = self.name(message.header.ifindex);
        let mut shown = vec![format!("{:?}", message.header.flags)];
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(address) => shown.push(neighbour_address(address)),
                // The kernel's own groups; their MACs follow link-local addresses.
                NeighbourAttribute::LinkLayerAddress(mac) if mac.first().is_some_and(is_group) => {
                    return None;
                }
                NeighbourAttribute::LinkLayerAddress(mac) => shown.push(self.mac(mac)),
                NeighbourAttribute::Controller(index) => {
                    shown.push(format!("master {}", self.name(*index)));
                }
                NeighbourAttribute::Vlan(vlan) => shown.push(format!("vlan {vlan}")),
                _ => {}
            }
        }
        Some(format!("{what} {link}: {}", shown.join(" ")))
    }

    fn qdisc(&self, message: &TcMessage) -> Option<String> {
        let (link, kind) = (self.name(message.header.index as u32), tc_kind(message));
        let options = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(format!("{options:?}")),
            _ => None,
        });
        let (parent, options) = (message.header.parent, options.unwrap_or_default());
        // What a link has of itself.
        let plain = matches!(kind, "noqueue" | "noop");
        (!plain).then(|| format!("qdisc {link}: {kind} parent {parent:?} {options}"))
    }

    /// Its options count packets and seconds and are left out; `info` is priority and protocol.
    fn filter(&self, message: &TcMessage) -> String {
        let link = self.name(message.header.index as u32);
        format!("filter {link}: {} info {:x}", tc_kind(message), message.header.info)
    }

    /// A link's own MAC may be random: then say whose it is.
    fn mac(&self, mac: &[u8]) -> String {
        let owners = self.links.iter().filter(|link| link.mac == mac && !is_chosen(mac));
        let owners: Vec<&str> = owners.map(|link| link.name.as_str()).collect();
        if owners.is_empty() { mac_text(mac) } else { format!("mac of {}", owners.join(",")) }
    }
}

fn rule(message: &RuleMessage) -> String {
    let header = &message.header;
    let mut shown = Vec::new();
    let mut priority = 0;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            other => shown.push(format!("{other:?}")),
        }
    }
    shown.sort();
    let (family, action, shown) = (header.family, header.action, shown.join(" "));
    let (src, dst) = (header.src_len, header.dst_len);
    format!("rule {family:?} {priority}: {action:?} src /{src} dst /{dst} {shown}")
}

/// Flags that were set, not those that follow the carrier.
fn configured(flags: LinkFlags) -> String {
    let passing = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp | LinkFlags::Dormant;
    format!("{:?}", flags.difference(passing))
}

fn bridge_settings(info: &LinkInfo) -> Vec<String> {
    let LinkInfo::Data(InfoData::Bridge(settings)) = info else { return Vec::new() };
    let chosen = settings.iter().filter(|setting| {
        use InfoBridge::{
            AgeingTime, ForwardDelay, MulticastQuerier, MulticastSnooping, NfCallArpTables, NfCallIp6Tables,
            NfCallIpTables, StpState, VlanFiltering,
        };
        matches!(
            setting,
            AgeingTime(_)
                | ForwardDelay(_)
                | MulticastQuerier(_)
                | MulticastSnooping(_)
                | NfCallArpTables(_)
                | NfCallIp6Tables(_)
                | NfCallIpTables(_)
                | StpState(_)
                | VlanFiltering(_)
        )
    });
    chosen.map(|setting| format!("{setting:?}")).collect()
}

/// The switches of a port that are on, except for what follows the carrier and the spanning tree.
fn port_flag(attribute: &InfoBridgePort) -> Option<String> {
    use InfoBridgePort::{ConfigPending, MrpInOpen, MrpRingOpen, TopologyChangeAck};
    if matches!(attribute, ConfigPending(_) | MrpInOpen(_) | MrpRingOpen(_) | TopologyChangeAck(_)) {
        return None;
    }
    let text = format!("{attribute:?}");
    text.strip_suffix("(true)").map(str::to_owned)
}

fn tc_kind(message: &TcMessage) -> &str {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}

fn neighbour_address(address: &NeighbourAddress) -> String {
    match address {
        NeighbourAddress::Inet(ip) => ip.to_string(),
        NeighbourAddress::Inet6(ip) => ip.to_string(),
        other => format!("{other:?}"),
    }
}

/// The kernel's own routes of IPv6 links: they come when the carrier does, or when an address has
/// proved unique.
fn comes_by_itself(message: &RouteMessage) -> bool {
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(*ip),
        _ => None,
    });
    to.is_some_and(|to| to.is_unicast_link_local() || to.is_multicast())
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn is_group(first: &u8) -> bool {
    first & 1 == 1
}

/// Docker's prefix, which rnet keeps, means that the MAC was chosen.
fn is_chosen(mac: &[u8]) -> bool {
    mac.starts_with(&[0x02, 0x42])
}

fn stable_mac(mac: &[u8]) -> String {
    if is_chosen(mac) { mac_text(mac) } else { "any".into() }
}
