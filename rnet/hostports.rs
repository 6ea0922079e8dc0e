//! The host's ports as they are: what containers have published, what processes listen on, what may be chosen.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use engine::PORT;
use netlink::Netlink;
use rustix::io::Errno;
use store::{Port, Store, Zone};

use crate::publish::{Book, Holder, Protocol};
use crate::report::Problem;

/// The note of the store that keeps the last port handed out.
const NOTE: &str = "last-port";

/// Docker's ephemeral ports where the kernel does not tell its own.
const FALLBACK: (u16, u16) = (49153, 65535);

/// The ports of this host. A port is tried by binding it: what the kernel refuses now, it would refuse later.
pub struct HostPorts<'a> {
    store: &'a Store,
    published: Vec<Port>,
    /// Where rnet's name server takes questions: publishing leaves those to it.
    name_server: HashSet<SocketAddr>,
    wants_v6: bool,
}

impl<'a> HostPorts<'a> {
    /// Reads what is published; `wants_v6` says that a port without an address is wanted for IPv6 too.
    pub fn new(store: &'a Store, wants_v6: bool) -> Result<Self, store::Error> {
        let published = store.records()?.into_iter().flat_map(|record| record.ports).collect();
        Ok(Self { store, published, name_server: name_server(store)?, wants_v6 })
    }

    fn any_address(&self) -> IpAddr {
        if self.wants_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }

    fn is_published(&self, host: Option<IpAddr>, port: u16, protocol: Protocol) -> bool {
        let host = host.filter(|host| !host.is_unspecified());
        let same_address = |other: Option<IpAddr>| host.zip(other).is_none_or(|(one, other)| one == other);
        self.published.iter().any(|published| {
            published.host_port == port
                && published.protocol.to_string() == protocol.as_str()
                && same_address(published.host)
        })
    }
}

impl HostPorts<'_> {
    /// Who listens at a port that cannot be bound; none if it is only rnet's name server, at other addresses than the one
    /// wanted.
    fn process_at(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<Holder> {
        let sockets = listeners(port, protocol);
        let is_name_server =
            |local: &SocketAddr| address.is_unspecified() && self.name_server.contains(local);
        // One that only holds a port (rnet/hold.rs) serves nothing: the firewall's map says whose it is.
        let sockets: Vec<_> = sockets.into_iter().filter(|(_, inode)| !is_held_by_rnet(inode)).collect();
        if sockets.is_empty() {
            return None;
        }
        let (own, others): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|(local, _)| is_name_server(local));
        if !own.is_empty() && !others.iter().any(|(local, _)| are_in_conflict(local.ip(), address)) {
            return None;
        }
        Some(Holder::Process(others.iter().find_map(|(_, inode)| owner(inode))))
    }
}

/// Where the name server listens, as far as is on record.
fn name_server(store: &Store) -> Result<HashSet<SocketAddr>, store::Error> {
    let zones: Vec<Zone> = store.networks()?.into_iter().filter_map(|network| network.zone).collect();
    let gateways = zones.iter().flat_map(|zone| &zone.gateways);
    let usual = gateways.map(|gateway| SocketAddr::new(*gateway, PORT));
    Ok(usual.chain(zones.iter().flat_map(|zone| zone.moved.iter().copied())).collect())
}

/// Whether a socket at one address keeps another from the other. One at :: has IPv4's too, unless it says otherwise, which
/// the kernel's table does not tell.
fn are_in_conflict(one: IpAddr, other: IpAddr) -> bool {
    let any = one.is_unspecified() || other.is_unspecified();
    let (one, other) = (one.to_canonical(), other.to_canonical());
    let both = [one, other].contains(&Ipv6Addr::UNSPECIFIED.into());
    one == other || (any && (both || one.is_ipv4() == other.is_ipv4()))
}

impl Book for HostPorts<'_> {
    fn holder(
        &mut self,
        host: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<Option<Holder>, Problem> {
        if self.is_published(host, port, protocol) {
            return Ok(Some(Holder::Container));
        }
        let address = host.unwrap_or_else(|| self.any_address());
        if !is_local(address) {
            return Err(Problem::HostAddress { host: address });
        }
        match trial_bind(SocketAddr::new(address, port), protocol) {
            Ok(()) => Ok(None),
            Err(Errno::ADDRINUSE) => Ok(self.process_at(address, port, protocol)),
            // Whatever else binding needs, publishing does not.
            Err(_) => Ok(None),
        }
    }

    fn ephemeral(&mut self) -> Vec<u16> {
        let (first, last) = local_port_range();
        let previous = self.store.note(NOTE).ok().flatten().and_then(|note| note.trim().parse().ok());
        in_turn(first, last, previous)
    }

    fn chose(&mut self, port: u16) {
        // Without the note the next choice starts from the front again, no worse than that.
        let _ = self.store.write_note(NOTE, &port.to_string());
    }
}

/// DNAT reaches only addresses of this host. Where the kernel does not tell, ADD will.
fn is_local(address: IpAddr) -> bool {
    const LOOPBACK: u32 = 1;
    if address.is_unspecified() || address.is_loopback() {
        return true;
    }
    let route = Netlink::here().and_then(|mut netlink| netlink.route_to(address));
    route.map_or(true, |route| matches!(route, Some((LOOPBACK, None))))
}

/// The ports of a range, the one after `previous` first.
fn in_turn(first: u16, last: u16, previous: Option<u16>) -> Vec<u16> {
    let start = previous.filter(|port| (first..last).contains(port)).map_or(first, |port| port + 1);
    (start..=last).chain(first..start).collect()
}

/// net.ipv4.ip_local_port_range
fn local_port_range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    numbers.next().zip(numbers.next()).filter(|(first, last)| first <= last).unwrap_or(FALLBACK)
}

fn trial_bind(address: SocketAddr, protocol: Protocol) -> Result<(), Errno> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop).map_err(errno),
        Protocol::Udp => UdpSocket::bind(address).map(drop).map_err(errno),
        // Not every kernel has it, and a host process that uses it is rare.
        Protocol::Sctp => Ok(()),
    }
}

/// The sockets that wait on a port: their addresses and inodes.
fn listeners(port: u16, protocol: Protocol) -> Vec<(SocketAddr, String)> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp | Protocol::Sctp => ["udp", "udp6"],
    };
    let texts = tables.map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    texts.iter().flat_map(|text| sockets(text, port)).collect()
}

/// A table's sockets that wait on a local port (proc_net_tcp: 0A is LISTEN, 07 an unconnected UDP socket).
fn sockets(table: &str, port: u16) -> Vec<(SocketAddr, String)> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, local) = fields.get(1)?.rsplit_once(':')?;
        let waits = ["0A", "07"].contains(fields.get(3)?);
        let local = SocketAddr::new(address_of(address)?, u16::from_str_radix(local, 16).ok()?);
        (waits && local.port() == port).then(|| Some((local, fields.get(9)?.to_string())))?
    };
    table.lines().filter_map(socket).collect()
}

/// An address as the kernel prints it there: in words of 32 bits, each in this machine's order.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let words: Vec<u8> =
        (0..hex.len() / 8).map(|index| word(index * 8)).collect::<Option<Vec<_>>>()?.concat();
    match <[u8; 4]>::try_from(&words[..]) {
        Ok(v4) => Some(Ipv4Addr::from(v4).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(&words[..]).ok()?).into()),
    }
}

/// Whether the socket of an inode is a supervisor's, or that of a `rnet run` that waits for its program.
fn is_held_by_rnet(inode: &str) -> bool {
    let line =
        owner_pid(inode).and_then(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok()).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    let is_rnet = words.next().is_some_and(|program| program.ends_with(b"rnet"));
    is_rnet && words.any(|word| [&b"supervise"[..], b"run"].contains(&word))
}

/// The process that has the socket of an inode open.
fn owner(inode: &str) -> Option<String> {
    let pid = owner_pid(inode)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (pid {pid})", name.trim()))
}

fn owner_pid(inode: &str) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| has_open(*pid, &wanted))
}

fn has_open(pid: u32, wanted: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|link| link == Path::new(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{Paths, Record};

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Paths::under(root.path(), 1)).unwrap();
        (root, store)
    }

    #[test]
    fn the_kernels_tables_tell_address_and_port() {
        let table =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0107000A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0
   1: 0107000A:0036 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 0
   2: 000000FD000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4713 1 0
";
        let found: Vec<_> =
            sockets(table, 53).into_iter().map(|(local, inode)| format!("{local} {inode}")).collect();
        if cfg!(target_endian = "little") {
            assert_eq!(found, ["10.0.7.1:53 4711", "[fd00::1]:53 4713"]);
        }
    }

    #[test]
    fn sockets_are_in_conflict_by_their_addresses() {
        for (one, other, expected) in [
            ("0.0.0.0", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::", "10.0.0.1", true),
            ("0.0.0.0", "fd00::1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
        ] {
            let [one, other] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!((are_in_conflict(one, other), are_in_conflict(other, one)), (expected, expected));
        }
    }

    #[test]
    fn ports_come_in_turn() {
        assert_eq!(in_turn(10, 13, None), [10, 11, 12, 13]);
        assert_eq!(in_turn(10, 13, Some(11)), [12, 13, 10, 11]);
        assert_eq!(in_turn(10, 13, Some(13)), [10, 11, 12, 13]);
        assert_eq!(in_turn(10, 13, Some(99)), [10, 11, 12, 13]);
    }

    #[test]
    fn a_choice_is_remembered() {
        let (_root, store) = store();
        let mut ports = HostPorts::new(&store, false).unwrap();
        let first = ports.ephemeral()[0];
        ports.chose(first);
        assert_eq!(HostPorts::new(&store, false).unwrap().ephemeral()[0], first + 1);
    }

    #[test]
    fn a_process_that_listens_is_named() {
        let (_root, store) = store();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut ports = HostPorts::new(&store, false).unwrap();

        let found = ports.holder(None, port, Protocol::Tcp).unwrap();

        let Some(Holder::Process(Some(name))) = found else { panic!("{found:?}") };
        assert!(name.ends_with(&format!("(pid {})", std::process::id())), "{name}");
        assert_eq!(ports.holder(None, port, Protocol::Udp).unwrap(), None);
    }

    #[test]
    fn an_address_that_is_not_the_hosts_is_refused() {
        let (_root, store) = store();
        let mut ports = HostPorts::new(&store, false).unwrap();
        let foreign = Some("203.0.113.9".parse().unwrap());
        assert!(matches!(ports.holder(foreign, 8080, Protocol::Tcp), Err(Problem::HostAddress { .. })));
    }

    #[test]
    fn a_published_port_is_a_containers_on_its_address_and_on_any() {
        let (_root, store) = store();
        let published = Port {
            host: Some("127.0.0.1".parse().unwrap()),
            host_port: 8080,
            container: "172.18.0.2".parse().unwrap(),
            container_port: 80,
            protocol: store::Protocol::Tcp,
        };
        let record = Record {
            plugin: "rnet".into(),
            network: "n".into(),
            container: "c".into(),
            ifname: "eth0".into(),
            ports: vec![published],
            ..Record::default()
        };
        store.write_record(&record).unwrap();
        let ports = HostPorts::new(&store, false).unwrap();
        assert!(ports.is_published(None, 8080, Protocol::Tcp));
        assert!(ports.is_published(Some("127.0.0.1".parse().unwrap()), 8080, Protocol::Tcp));
        assert!(!ports.is_published(Some("127.0.0.2".parse().unwrap()), 8080, Protocol::Tcp));
        assert!(!ports.is_published(None, 8080, Protocol::Udp));
    }
}
