//! Raw frames through a link (packet(7)), for forging what a container must not send and hearing
//! what it must not hear.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netlink::Netns;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, Protocol, RawProtocol, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType,
};

use super::Deadline;
use crate::Error;
use crate::rtnl::{all, index_of, rtnl};

/// ETH_P_ALL, in the byte order of packet(7).
const EVERYTHING: u16 = 3_u16.to_be();

/// How long a link may take to show its own frame.
const PATIENCE: Duration = Duration::from_secs(5);

/// A packet socket on one link of a namespace.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    link: String,
    address: SocketAddrAny,
}

impl Frames {
    /// Frames of the link called `link` in `netns`, which must be up and have an address (of either
    /// family).
    ///
    /// A link's packet address cannot be written down in safe code, but the kernel tells it with
    /// every frame: so a datagram is sent through the link, and the address taken from its copy.
    pub fn on(netns: &Netns, link: &str) -> Result<Self, Error> {
        let source = source_address(netns, link)?;
        let failed = |source| Error::Frame { doing: "open a packet socket on", link: link.into(), source };
        let (socket, address) = netns.run(|| open(source))?.map_err(failed)?;
        Ok(Self { socket, link: link.into(), address })
    }

    /// Sends `frame`, Ethernet header and all, through the link.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        let sent = rustix::net::sendto(&self.socket, frame, SendFlags::empty(), &self.address);
        sent.map(drop).map_err(|errno| self.failed("send a frame through", errno.into()))
    }

    /// The next frame that `wanted` says yes to, among those sent and received by any link of the
    /// namespace; None after `timeout`.
    pub fn wait_for(
        &self,
        timeout: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, Error> {
        match receive(&self.socket, Deadline::after(timeout), wanted) {
            Ok((frame, _)) => Ok(Some(frame)),
            Err(error) if super::is_silence(&error) => Ok(None),
            Err(error) => Err(self.failed("receive a frame from", error)),
        }
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Frame { doing, link: self.link.clone(), source }
    }
}

/// An address of the link to send from: IPv4, or else the scope of IPv6.
fn source_address(netns: &Netns, link: &str) -> Result<SocketAddr, Error> {
    let found = rtnl(netns, "look up a link's address", async |handle| {
        let Some(index) = index_of(&handle, link).await? else { return Ok(None) };
        let addresses = all(handle.address().get().set_link_index_filter(index).execute()).await?;
        let v4 = addresses.iter().flat_map(|message| &message.attributes).find_map(v4_of);
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, index);
        Ok(Some(v4.map_or(SocketAddr::V6(any), |ip| SocketAddr::new(ip, 0))))
    })?;
    found.ok_or_else(|| Error::NoLink { link: link.into(), netns: netns.path().into() })
}

fn v4_of(attribute: &netlink_packet_route::address::AddressAttribute) -> Option<IpAddr> {
    use netlink_packet_route::address::AddressAttribute::Local;
    match attribute {
        Local(ip) if ip.is_ipv4() => Some(*ip),
        _ => None,
    }
}

fn open(source: SocketAddr) -> io::Result<(OwnedFd, SocketAddrAny)> {
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        RawProtocol::new(EVERYTHING.into()).map(Protocol::from_raw),
    )?;
    let marker = marker();
    show_ourselves(source, &marker)?;
    let ours = |frame: &[u8]| frame.ends_with(&marker);
    let (_, address) = receive(&socket, Deadline::after(PATIENCE), ours)?;
    Ok((socket, address))
}

/// Says `marker` to everybody on the link, at the discard port (RFC 863).
fn show_ourselves(source: SocketAddr, marker: &[u8]) -> io::Result<()> {
    let everybody = match source {
        SocketAddr::V4(_) => SocketAddr::from(([255, 255, 255, 255], 9)),
        SocketAddr::V6(v6) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            SocketAddrV6::new(all_nodes, 9, 0, v6.scope_id()).into()
        }
    };
    let socket = UdpSocket::bind(source)?;
    socket.set_broadcast(true)?;
    socket.send_to(marker, everybody).map(drop)
}

/// Long enough that the frame is not padded behind it.
fn marker() -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("rnet's packet address {:10} {nth:10}", std::process::id()).into_bytes()
}

fn receive(
    socket: &OwnedFd,
    deadline: Deadline,
    wanted: impl Fn(&[u8]) -> bool,
) -> io::Result<(Vec<u8>, SocketAddrAny)> {
    let mut buffer = vec![0; 65536];
    loop {
        sockopt::set_socket_timeout(socket, Timeout::Recv, Some(deadline.left()?))?;
        let (len, _, from) = rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::empty())?;
        if let Some(from) = from
            && wanted(&buffer[..len])
        {
            return Ok((buffer[..len].to_vec(), from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;
    use crate::frame::{Arp, BROADCAST, Mac, arp, ethernet};

    const LONG: Duration = Duration::from_secs(5);
    const FORGER: Mac = [2, 0, 0, 0, 0, 0x66];

    fn forged_question() -> Vec<u8> {
        let sender = (FORGER, [192, 168, 77, 66].into());
        let question = arp(Arp::Request, sender, ([0; 6], [192, 168, 77, 1].into()));
        ethernet(BROADCAST, FORGER, 0x0806, &question)
    }

    #[test]
    fn a_forged_arp_request_is_answered_to_the_forger() {
        let host = Host::new().unwrap();
        let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
        let frames = Frames::on(outside.netns(), "eth0").unwrap();
        frames.send(&forged_question()).unwrap();
        let reply = |frame: &[u8]| frame.starts_with(&FORGER) && frame[20..22] == [0, 2];
        assert!(frames.wait_for(LONG, reply).unwrap().is_some());
        let silence = frames.wait_for(Duration::from_millis(50), |_| false).unwrap();
        assert_eq!(silence, None);
    }

    #[test]
    fn a_link_with_ipv6_alone_will_do() {
        let host = Host::new().unwrap();
        let outside = host.outside(&["fd77::/64".parse().unwrap()]).unwrap();
        let (sender, receiver) = (Frames::on(outside.netns(), "eth0"), Frames::on(host.netns(), "out0"));
        sender.unwrap().send(&forged_question()).unwrap();
        let arrived = receiver.unwrap().wait_for(LONG, |frame| frame == forged_question());
        assert!(arrived.unwrap().is_some());
    }

    #[test]
    fn a_link_that_is_not_there_is_named() {
        let host = Host::new().unwrap();
        let missing = Frames::on(host.netns(), "eth7").unwrap_err();
        assert!(missing.to_string().contains("\"eth7\""), "{missing}");
    }
}
