//! An element as `nft` would take it after `add element`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Element, Protocol, by_family};

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish { host, protocol, host_port, to } => {
                let set = match (host, to.is_ipv4()) {
                    (Some(_), true) => "publish4",
                    (Some(_), false) => "publish6",
                    (None, true) => "publish4_any",
                    (None, false) => "publish6_any",
                };
                let host = host.map_or_else(String::new, |host| format!("{host} . "));
                let to = format!("{} . {}", to.ip(), to.port());
                write!(f, "inet rnet {set} {{ {host}{protocol} . {host_port} : {to} }}")
            }
            Self::Except { protocol, host_port, sources, destinations } => {
                let digit = digit(sources.first);
                write!(
                    f,
                    "inet rnet except{digit} {{ {sources} . {destinations} . {protocol} . {host_port} }}"
                )
            }
            Self::Published { to, protocol } => write_endpoint(f, "published", *to, *protocol),
            Self::MasqueradeAll { to, protocol } => write_endpoint(f, "masqall", *to, *protocol),
            Self::Masquerade { address } => {
                write!(f, "inet rnet masq{} {{ {address} }}", digit(*address))
            }
            Self::Near { address, subnet } => {
                let (digit, network, prefix) = (digit(*address), subnet.network(), subnet.prefix());
                write!(f, "inet rnet near{digit} {{ {address} . {network}/{prefix} }}")
            }
            Self::Home { subnet, bridge } => {
                let (digit, network, prefix) = (digit(subnet.ip()), subnet.network(), subnet.prefix());
                write!(f, "inet rnet home{digit} {{ {network}/{prefix} . \"{bridge}\" }}")
            }
            Self::Subnet { subnet } => {
                let (digit, network, prefix) = (digit(subnet.ip()), subnet.network(), subnet.prefix());
                let any = by_family(subnet.ip(), "0.0.0.0/0", "::/0");
                write!(f, "inet rnet subnet{digit} {{ {network}/{prefix} . {any} }}")
            }
            Self::Isolated { bridge } => {
                write!(f, "inet rnet isolated {{ \"{bridge}\" . \"{bridge}\" }}")
            }
            Self::Port { link } => write!(f, "bridge rnet ports {{ \"{link}\" }}"),
            Self::PortAddress { link, mac, address } => write_port_address(f, link, *mac, *address),
        }
    }
}

fn digit(address: IpAddr) -> char {
    by_family(address, '4', '6')
}

fn write_endpoint(f: &mut fmt::Formatter<'_>, set: &str, to: SocketAddr, protocol: Protocol) -> fmt::Result {
    let (digit, address, port) = (digit(to.ip()), to.ip(), to.port());
    write!(f, "inet rnet {set}{digit} {{ {address} . {protocol} . {port} }}")
}

fn write_port_address(f: &mut fmt::Formatter<'_>, link: &str, mac: [u8; 6], address: IpAddr) -> fmt::Result {
    let mac = mac.map(|b| format!("{b:02x}")).join(":");
    write!(f, "bridge rnet owner{} {{ \"{link}\" . {mac} . {address} }}", digit(address))?;
    match address {
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(v6) => write!(f, ", bridge rnet target6 {{ \"{link}\" . {:#x} }}", v6.to_bits()),
    }
}
