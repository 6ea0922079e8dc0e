//! ICMP echo: RFC 792 for IPv4, RFC 4443 section 4 for IPv6.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use netlink::Netns;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use super::{Deadline, is_silence};
use crate::Error;

/// Pings `to` from inside `from`, once. Returns the round-trip time, or None if no answer came in
/// `timeout`, or none can come (no route, host unreachable).
pub fn ping(from: &Netns, to: IpAddr, timeout: Duration) -> Result<Option<Duration>, Error> {
    match from.run(|| echo(to, timeout))? {
        Ok(time) => Ok(Some(time)),
        Err(error) if is_silence(&error) => Ok(None),
        Err(source) => Err(Error::Probe { doing: "ping", to, source }),
    }
}

fn echo(to: IpAddr, timeout: Duration) -> io::Result<Duration> {
    let deadline = Deadline::after(timeout);
    let socket = raw_socket(to)?;
    let request = Echo::new(to.is_ipv6());
    let start = Instant::now();
    rustix::net::send(&socket, &request.bytes(), SendFlags::empty())?;
    await_reply(&socket, &request, deadline)?;
    Ok(start.elapsed())
}

/// Connected, so that only packets from `to` arrive.
fn raw_socket(to: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol))?;
    rustix::net::connect(&socket, &SocketAddr::new(to, 0))?;
    Ok(socket)
}

fn await_reply(socket: &OwnedFd, request: &Echo, deadline: Deadline) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        sockopt::set_socket_timeout(socket, Timeout::Recv, Some(deadline.left()?))?;
        let (len, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        if request.is_answered_by(&buffer[..len]) {
            return Ok(());
        }
    }
}

/// One echo request; its identifier tells our answers from those to other threads.
struct Echo {
    v6: bool,
    identifier: u16,
}

impl Echo {
    fn new(v6: bool) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let process = std::process::id() as u16;
        Self { v6, identifier: process ^ NEXT.fetch_add(1, Ordering::Relaxed).rotate_left(8) }
    }

    /// Type, code, checksum, identifier, sequence number 1, 56 bytes of data as ping(8) sends.
    fn bytes(&self) -> Vec<u8> {
        let kind = if self.v6 { 128 } else { 8 };
        let [high, low] = self.identifier.to_be_bytes();
        let mut bytes = vec![kind, 0, 0, 0, high, low, 0, 1];
        bytes.extend(0..56);
        // The kernel fills in the checksum of ICMPv6 (RFC 3542, 3.1), but not this one.
        if !self.v6 {
            let sum = super::frame::checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// Raw IPv4 sockets deliver the IP header too, raw IPv6 sockets do not.
    fn is_answered_by(&self, packet: &[u8]) -> bool {
        let header = if self.v6 { 0 } else { packet.first().map_or(0, |b| usize::from(b & 15) * 4) };
        let kind = if self.v6 { 129 } else { 0 };
        let [high, low] = self.identifier.to_be_bytes();
        packet
            .get(header..)
            .is_some_and(|icmp| icmp.starts_with(&[kind, 0]) && icmp.get(4..8) == Some(&[high, low, 0, 1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;

    const SOON: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(5);

    #[test]
    fn the_neighbour_answers_in_both_families() {
        let host = Host::new().unwrap();
        let subnets = ["192.168.77.0/24".parse().unwrap(), "fd77::/64".parse().unwrap()];
        let outside = host.outside(&subnets).unwrap();
        for address in outside.host_addresses() {
            let time = ping(outside.netns(), address.ip(), LONG).unwrap();
            assert!(time.is_some_and(|time| time < LONG), "{address}: {time:?}");
        }
        assert!(ping(host.netns(), outside.address(), LONG).unwrap().is_some());
    }

    #[test]
    fn nobody_and_nowhere_are_silence() {
        let host = Host::new().unwrap();
        let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
        let nobody = "192.168.77.9".parse().unwrap();
        assert_eq!(ping(outside.netns(), nobody, SOON).unwrap(), None);
        let nowhere = "203.0.113.1".parse().unwrap();
        assert_eq!(ping(outside.netns(), nowhere, SOON).unwrap(), None);
    }

    #[test]
    fn a_request_is_no_answer_to_itself() {
        let request = Echo { v6: true, identifier: 0x1234 };
        assert!(!request.is_answered_by(&request.bytes()));
        assert!(request.is_answered_by(&[129, 0, 0, 0, 0x12, 0x34, 0, 1]));
        assert!(!request.is_answered_by(&[129, 0, 0, 0, 0x12, 0x35, 0, 1]));
    }
}
