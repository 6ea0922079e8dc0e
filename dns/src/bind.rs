//! The two sockets of a gateway address, and what the kernel says of links and addresses.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::sockopt as option;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// The receive buffer in bytes: room for a burst of some thousand questions, if the host allows it.
const RECEIVE_BUFFER: usize = 1 << 20;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 256;

/// A port to which nothing is sent; connect(2) needs one.
const DISCARD: u16 = 9;

/// How many high ports are tried: one must be free for both transports.
const PORT_TRIES: usize = 16;

/// The two sockets of a gateway address.
#[derive(Debug)]
pub(crate) struct GatewaySockets {
    pub(crate) udp: OwnedFd,
    pub(crate) tcp: OwnedFd,
    /// The wanted port, or a high one if that was taken (L3).
    pub(crate) port: u16,
}

/// Binds `address` at `port`, or, if another program has it, at a high port (L3). The address need not exist yet (L2).
/// A link-local one is bound on `link`.
pub(crate) fn bind(address: IpAddr, link: &str, port: u16) -> Result<GatewaySockets, Errno> {
    let address = with_scope(address, link);
    match bind_both(address, port) {
        Err(Errno::ADDRINUSE) => {}
        bound => return bound,
    }
    let bound = (0..PORT_TRIES).map(|_| bind_both(address, 0)).find(|bound| *bound != Err(Errno::ADDRINUSE));
    bound.unwrap_or(Err(Errno::ADDRINUSE))
}

impl PartialEq for GatewaySockets {
    fn eq(&self, other: &Self) -> bool {
        self.udp.as_raw_fd() == other.udp.as_raw_fd()
    }
}

fn with_scope(address: IpAddr, link: &str) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, 0, 0, link_index(link).unwrap_or_default()).into()
        }
        _ => SocketAddr::new(address, 0),
    }
}

/// The number of a link.
pub(crate) fn link_index(link: &str) -> Option<u32> {
    rustix::net::netdevice::name_to_index(any_socket().ok()?, link).ok()
}

/// The name of a link.
pub(crate) fn link_name(index: u32) -> Option<String> {
    rustix::net::netdevice::index_to_name(any_socket().ok()?, index).ok()
}

/// Whether an address is one of the host's own: the kernel chooses it as source for itself. For other addresses it chooses
/// another source. So it does for the second of two addresses in one subnet (fib_add_ifaddr in the kernel), which counts
/// as foreign.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let own_end = || -> Result<SocketAddr, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddr::new(address, DISCARD))?;
        SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(|_| Errno::INVAL)
    };
    own_end().is_ok_and(|own| own.ip() == address)
}

fn any_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn bind_both(mut address: SocketAddr, port: u16) -> Result<GatewaySockets, Errno> {
    address.set_port(port);
    let udp = socket(address, SocketType::DGRAM)?;
    tell_links(&udp, address)?;
    let _ = option::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER);
    rustix::net::bind(&udp, &address)?;
    let port = SocketAddr::try_from(rustix::net::getsockname(&udp)?).map_err(|_| Errno::INVAL)?.port();
    address.set_port(port);
    let tcp = socket(address, SocketType::STREAM)?;
    // Connections of the previous server may still linger.
    option::set_socket_reuseaddr(&tcp, true)?;
    rustix::net::bind(&tcp, &address)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    Ok(GatewaySockets { udp, tcp, port })
}

fn socket(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv4() {
        option::set_ip_freebind(&socket, true)?;
    } else {
        option::set_ipv6_freebind(&socket, true)?;
        option::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// Makes each datagram name the link through which it came (V5).
fn tell_links(socket: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    let set = match address {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true),
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true),
    };
    set.map_err(|errno| Errno::from_raw_os_error(errno as i32))
}
