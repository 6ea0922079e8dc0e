//! Holding published host ports by sockets that are bound and take nothing, as docker-proxy does: docker, podman and servers of
//! the host are refused such a port ("address already in use") instead of taking its traffic away.
//!
//! Only for what `rnet run` published, in the process that lives as long. Runtimes that call the plugins hold ports
//! themselves, and would be refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use engine::PORT;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use serde_json::Value;

use crate::endpoint::{Endpoint, Joined};

/// So many sockets at most: a process has a thousand descriptors.
const MOST: usize = 256;

/// The sockets; they go with this value.
#[derive(Debug, Default)]
pub struct Held(Vec<(Port, OwnedFd)>);

impl Held {
    /// Those that another socket had a moment ago.
    pub fn hold_more(&mut self, endpoint: &Endpoint) {
        let more = endpoint.joined.iter().flat_map(ports).take(MOST);
        let missing: Vec<Port> = more.filter(|port| self.0.iter().all(|(held, _)| held != port)).collect();
        self.0.extend(missing.into_iter().filter_map(|port| Some((port, bound(port).ok()?))));
    }
}

/// One port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port {
    at: SocketAddr,
    udp: bool,
}

/// Holds the ports of an endpoint. What another socket has is left to it.
pub fn hold(endpoint: &Endpoint) -> Held {
    let mut held = Held::default();
    held.hold_more(endpoint);
    held
}

/// The host ports of a network. Port 53 is the name server's at some addresses.
fn ports(joined: &Joined) -> Vec<Port> {
    let mappings = joined.capabilities.get("portMappings").and_then(Value::as_array);
    let families = [true, false].map(|is_v4| joined.has_family(is_v4));
    mappings.into_iter().flatten().flat_map(|mapping| of_mapping(mapping, families)).collect()
}

fn of_mapping(mapping: &Value, [v4, v6]: [bool; 2]) -> Vec<Port> {
    let number = mapping["hostPort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let udp = match mapping["protocol"].as_str() {
        Some("udp") => true,
        Some("tcp") | None => false,
        Some(_) => return Vec::new(),
    };
    let Some(number) = number.filter(|port| ![0, PORT].contains(port)) else { return Vec::new() };
    let host: Option<IpAddr> = mapping["hostIP"].as_str().and_then(|text| text.parse().ok());
    let hosts: Vec<IpAddr> = match host {
        Some(host) => vec![host],
        None => {
            let any = [(v4, Ipv4Addr::UNSPECIFIED.into()), (v6, Ipv6Addr::UNSPECIFIED.into())];
            any.into_iter().filter_map(|(has, any)| has.then_some(any)).collect()
        }
    };
    hosts.into_iter().map(|host| Port { at: SocketAddr::new(host, number), udp }).collect()
}

/// Without SO_REUSEADDR, so that no other process can share it. Without listen(2), so that a connection that gets past the
/// rules is refused as before.
fn bound(port: Port) -> Result<OwnedFd, Errno> {
    let family = if port.at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if port.udp { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if port.at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &port.at)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(mapping: &Value, families: [bool; 2]) -> Vec<String> {
        let words = |port: Port| format!("{}{}", port.at, if port.udp { "/udp" } else { "" });
        of_mapping(mapping, families).into_iter().map(words).collect()
    }

    #[test]
    fn a_port_without_an_address_is_held_in_the_families_that_the_container_has() {
        let mapping = json!({"hostPort": 3344, "containerPort": 80, "protocol": "udp"});
        assert_eq!(text(&mapping, [true, true]), ["0.0.0.0:3344/udp", "[::]:3344/udp"]);
        assert_eq!(text(&mapping, [true, false]), ["0.0.0.0:3344/udp"]);
        let mapping = json!({"hostPort": 3344, "hostIP": "127.0.0.1", "protocol": "tcp"});
        assert_eq!(text(&mapping, [true, true]), ["127.0.0.1:3344"]);
    }

    #[test]
    fn the_name_servers_port_and_sctp_are_not_held() {
        for mapping in
            [json!({"hostPort": 53, "protocol": "udp"}), json!({"hostPort": 3344, "protocol": "sctp"})]
        {
            assert_eq!(text(&mapping, [true, true]), [""; 0]);
        }
    }

    #[test]
    fn a_port_that_is_held_cannot_be_bound() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let held = bound(Port { at, udp: false }).unwrap();
        assert!(std::net::TcpListener::bind(at).is_err());
        drop(held);
        assert!(std::net::TcpListener::bind(at).is_ok());
    }
}
