//! Changes of the kernel's network as values; printed, each is the command that a person would type.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::mac::Mac;

/// One change in the network namespace of a [`Netlink`](crate::Netlink) handle.
///
/// `index` is the link that the kernel changes, `name` is its name in messages.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are what the variants' sentences name")]
pub enum Request {
    /// Sets a link up (IFF_UP).
    LinkUp { index: u32, name: String },
    /// Sets a link down.
    LinkDown { index: u32, name: String },
    /// Writes a link's owner into its alias (IFLA_IFALIAS); the kernel ignores it in the message that creates a link.
    LinkAlias { index: u32, name: String, alias: String },
    /// Makes a link generate no IPv6 address when it gets its carrier (IFLA_INET6_ADDR_GEN_MODE).
    LinkNoAutoAddress { index: u32, name: String },
    /// Makes a link not operational, whatever its carrier (IFLA_LINKMODE): a bridge takes no more frames from such a port.
    /// Unlike setting it down it waits for no grace period; a link that is gone is fine.
    LinkDormant { index: u32, name: String },
    /// Reverts [`Request::LinkDormant`].
    LinkAwake { index: u32, name: String },
    /// Gives a link another hardware address.
    LinkMac { index: u32, name: String, mac: Mac },
    /// Makes a link the port of a bridge, or of none.
    LinkMaster { index: u32, name: String, master: Option<u32> },
    /// Sets a link's MTU, in bytes.
    LinkMtu { index: u32, name: String, mtu: u32 },
    /// Lets a link receive frames that are not addressed to it (IFF_PROMISC).
    LinkPromisc { index: u32, name: String, on: bool },
    /// Lets a link take in what is addressed to any group (IFF_ALLMULTI).
    LinkAllMulticast { index: u32, name: String, on: bool },
    /// Sets how many packets may wait to be sent by a link (IFLA_TXQLEN).
    LinkQueue { index: u32, name: String, length: u32 },
    /// Creates a bridge, STP off, with or without multicast snooping; EEXIST if the name is taken.
    Bridge { name: String, mac: Mac, mtu: Option<u32>, snooping: bool },
    /// Sets flags of a bridge port (IFLA_BRPORT_MODE, _ISOLATED, _LEARNING), and which frames to 01:80:c2:00:00:0X it
    /// forwards like any other, one bit for each X (_GROUP_FWD_MASK; bit 1 cannot be set); `None` keeps a setting.
    Port {
        index: u32,
        name: String,
        hairpin: Option<bool>,
        isolated: Option<bool>,
        learning: Option<bool>,
        group_forward: Option<u16>,
    },
    /// Adds an address, without DAD for IPv6, with the prefix's broadcast address for IPv4; EEXIST if it exists.
    AddressAdd { index: u32, name: String, address: IpNetwork },
    /// Adds an IPv6 address that duplicate detection must allow first, if the link's `accept_dad` says so.
    AddressProbe { index: u32, name: String, address: IpNetwork },
    /// Removes an address.
    AddressDel { index: u32, name: String, address: IpNetwork },
    /// Appends a route: neither exclusive nor replacing, so that one destination may have several, and the first one keeps
    /// the traffic.
    RouteAdd(Route),
    /// Adds a route; EEXIST if there is one to its destination with its metric.
    RouteCreate(Route),
    /// Removes a route.
    RouteDel(Route),
    /// Sets a neighbour's MAC (NUD_REACHABLE: it may age), whatever was known before.
    NeighbourReplace { index: u32, address: IpAddr, mac: Mac },
    /// Removes a neighbour; an unknown one is fine.
    NeighbourDel { index: u32, address: IpAddr },
    /// Drops packets to 127.0.0.0/8 without this mark that reach a link, behind VLAN tags too, outside nftables; idempotent.
    LoopbackGuard { index: u32, name: String, mark: u32 },
    /// Removes that guard; absent is fine.
    LoopbackGuardDel { index: u32, name: String },
    /// Removes a link's ingress hook with all filters; absent, or of another kind (clsact), is fine.
    IngressDel { index: u32, name: String },
    /// Makes another link receive all packets of a link instead (act_mirred).
    IngressRedirect { index: u32, name: String, to: u32 },
}

/// A route of either family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The destination.
    pub destination: IpNetwork,
    /// The gateway (RTA_GATEWAY); `None`: directly on the link.
    pub gateway: Option<IpAddr>,
    /// The link's index (RTA_OIF); 0 in a route that was read: none (blackhole).
    pub index: u32,
    /// The source address of the host's own packets (RTA_PREFSRC).
    pub source: Option<IpAddr>,
    /// RT_SCOPE_; `None`: global with a gateway, otherwise link.
    pub scope: Option<u32>,
    /// RT_TABLE_; `None`: main.
    pub table: Option<u32>,
    /// The metric (RTA_PRIORITY): the smaller wins.
    pub priority: Option<u32>,
    /// RTAX_MTU, in bytes.
    pub mtu: Option<u32>,
    /// RTAX_ADVMSS, in bytes.
    pub advmss: Option<u32>,
    /// The gateway is on the link even if no address of the link says so (RTNH_F_ONLINK).
    pub onlink: bool,
    /// The kind of program that made it (rtm_protocol); `None`: no special one (RTPROT_BOOT).
    pub protocol: Option<u8>,
}

/// The protocol of the routes that the kernel makes from router advertisements (`RTPROT_RA`, linux/rtnetlink.h).
pub const BY_ADVERTISEMENT: u8 = 9;

impl Route {
    /// A route directly through a link; set the fields that differ.
    pub fn new(destination: IpNetwork, index: u32) -> Self {
        Self {
            destination,
            gateway: None,
            index,
            source: None,
            scope: None,
            table: None,
            priority: None,
            mtu: None,
            advmss: None,
            onlink: false,
            protocol: None,
        }
    }

    /// A route through a gateway on a link; set the fields that differ.
    pub fn via(destination: IpNetwork, gateway: IpAddr, index: u32) -> Self {
        Self { gateway: Some(gateway), ..Self::new(destination, index) }
    }
}

/// As `ip route` takes it.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = IpNetwork::new(self.destination.network(), self.destination.prefix());
        write!(f, "{}", network.unwrap_or(self.destination))?;
        part(f, "via", self.gateway)?;
        write!(f, " dev if{}", self.index)?;
        part(f, "src", self.source)?;
        part(f, "scope", self.scope)?;
        part(f, "table", self.table)?;
        part(f, "metric", self.priority)?;
        part(f, "mtu", self.mtu)?;
        part(f, "advmss", self.advmss)?;
        if self.onlink { f.write_str(" onlink") } else { Ok(()) }
    }
}

/// As `ip`, `bridge` or `tc` takes it; `ifN` is how `ip` spells a link's index.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkUp { name, .. } => write!(f, "ip link set {name} up"),
            Self::LinkDown { name, .. } => write!(f, "ip link set {name} down"),
            Self::LinkAlias { name, alias, .. } => write!(f, "ip link set {name} alias {alias}"),
            Self::LinkNoAutoAddress { name, .. } => write!(f, "ip link set {name} addrgenmode none"),
            Self::LinkAwake { name, .. } => write!(f, "ip link set {name} mode default state up"),
            Self::LinkDormant { name, .. } => write!(f, "ip link set {name} mode dormant state dormant"),
            Self::LinkMac { name, mac, .. } => write!(f, "ip link set {name} address {mac}"),
            Self::LinkMaster { name, master: Some(master), .. } => {
                write!(f, "ip link set {name} master if{master}")
            }
            Self::LinkMaster { name, master: None, .. } => write!(f, "ip link set {name} nomaster"),
            Self::LinkMtu { name, mtu, .. } => write!(f, "ip link set {name} mtu {mtu}"),
            Self::LinkPromisc { name, on, .. } => {
                write!(f, "ip link set {name} promisc {}", on_off(*on))
            }
            Self::LinkAllMulticast { name, on, .. } => {
                write!(f, "ip link set {name} allmulticast {}", on_off(*on))
            }
            Self::LinkQueue { name, length, .. } => write!(f, "ip link set {name} txqueuelen {length}"),
            Self::Bridge { name, mac, mtu, snooping } => {
                write!(f, "ip link add {name} address {mac}")?;
                part(f, "mtu", *mtu)?;
                write!(f, " type bridge stp_state 0 mcast_snooping {}", u8::from(*snooping))
            }
            Self::Port { name, hairpin, isolated, learning, group_forward, .. } => {
                write!(f, "ip link set {name} type bridge_slave")?;
                part(f, "hairpin", hairpin.map(on_off))?;
                part(f, "isolated", isolated.map(on_off))?;
                part(f, "learning", learning.map(on_off))?;
                part(f, "group_fwd_mask", group_forward.map(|mask| format!("{mask:#x}")))
            }
            Self::AddressAdd { name, address, .. } => {
                let how = if address.is_ipv6() { "nodad" } else { "broadcast +" };
                write!(f, "ip address add {address} dev {name} {how}")
            }
            Self::AddressProbe { name, address, .. } => write!(f, "ip address add {address} dev {name}"),
            Self::AddressDel { name, address, .. } => {
                write!(f, "ip address del {address} dev {name}")
            }
            Self::RouteAdd(route) => write!(f, "ip route append {route}"),
            Self::RouteCreate(route) => write!(f, "ip route add {route}"),
            Self::RouteDel(route) => write!(f, "ip route del {route}"),
            Self::NeighbourReplace { index, address, mac } => {
                write!(f, "ip neighbour replace {address} lladdr {mac} dev if{index} nud reachable")
            }
            Self::NeighbourDel { index, address } => {
                write!(f, "ip neighbour del {address} dev if{index}")
            }
            Self::LoopbackGuard { name, .. } => {
                write!(
                    f,
                    "tc qdisc add dev {name} ingress; tc filter replace dev {name} ingress prio 126 protocol all u32 match ip dst 127.0.0.0/8 action drop"
                )
            }
            Self::LoopbackGuardDel { name, .. } => write!(f, "tc filter del dev {name} ingress prio 126"),
            Self::IngressDel { name, .. } => write!(f, "tc qdisc del dev {name} ingress"),
            Self::IngressRedirect { name, to, .. } => write!(
                f,
                "tc qdisc add dev {name} ingress; tc filter add dev {name} ingress prio 126 protocol all u32 match u32 0 0 \
                 action mirred ingress redirect dev if{to}"
            ),
        }
    }
}

fn part(f: &mut fmt::Formatter<'_>, word: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => write!(f, " {word} {value}"),
        None => Ok(()),
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_as_the_command_to_type() {
        let name = "eth0".to_string();
        let address = "10.1.0.2/24".parse().unwrap();
        let add = Request::AddressAdd { index: 2, name: name.clone(), address };
        assert_eq!(add.to_string(), "ip address add 10.1.0.2/24 dev eth0 broadcast +");
        let port = Request::Port {
            index: 2,
            name,
            hairpin: Some(true),
            isolated: None,
            learning: Some(false),
            group_forward: Some(0xfffd),
        };
        let command = "ip link set eth0 type bridge_slave hairpin on learning off group_fwd_mask 0xfffd";
        assert_eq!(port.to_string(), command);
    }

    #[test]
    fn a_route_reads_with_what_it_has() {
        let all = "0.0.0.0/0".parse().unwrap();
        let mut route = Route::via(all, "10.1.0.1".parse().unwrap(), 2);
        assert_eq!(route.to_string(), "0.0.0.0/0 via 10.1.0.1 dev if2");
        route.priority = Some(7);
        route.onlink = true;
        let text = Request::RouteAdd(route).to_string();
        assert_eq!(text, "ip route append 0.0.0.0/0 via 10.1.0.1 dev if2 metric 7 onlink");
    }
}
