//! `Netlink`: one rtnetlink socket that always serves the same network namespace, from any thread.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressHeader, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Body};
use rustix::io::Errno;

use crate::encode;
use crate::error::Error;
use crate::guard;
use crate::mac::Mac;
use crate::missing::{Kind, absence};
use crate::netns::Netns;
use crate::read::{self, Address, Link};
use crate::request::{Request, Route};
use crate::socket::{Answer, Message, Refusal, Socket, netlink_socket};
use crate::sysctl::{self, Sysctls};
use crate::veth::{Veth, VethPair};

/// How many acknowledgements certainly fit into the receive buffer.
const BATCH: usize = 128;
/// The most ports of a bridge (BR_MAX_PORTS, net/bridge/br_private.h).
const BRIDGE_PORTS: u32 = 1023;

/// One rtnetlink socket that always serves the same namespace, whatever thread uses it.
pub struct Netlink {
    socket: Socket,
    sysctls: Sysctls,
}

impl Netlink {
    /// A handle for the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Socket`] if no socket can be opened.
    pub fn here() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, sysctls: Sysctls::here() })
    }

    /// A handle for `netns`, opened there.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or no socket can be opened.
    pub fn inside(netns: &Netns) -> Result<Self, Error> {
        let (socket, v6) = netns.visit(|| (netlink_socket(), sysctl::v6_here()))?;
        let socket = socket.map_err(|errno| Error::Socket { errno })?;
        Ok(Self { socket: Socket::of_descriptor(socket), sysctls: Sysctls::inside(v6) })
    }

    /// Sends the requests in order, up to 128 in one send, and awaits every answer.
    ///
    /// # Errors
    /// The first refusal, as [`Error::Request`] with the command; the kernel still carries out the requests after it.
    pub fn send(&mut self, requests: &[Request]) -> Result<(), Error> {
        let mut first = Ok(());
        for batch in requests.chunks(BATCH) {
            let (owners, messages): (Vec<_>, Vec<_>) =
                batch.iter().flat_map(|r| r.messages().into_iter().map(move |m| (r, m))).unzip();
            let refusals = self.exchange(messages, |_| ())?;
            for (request, refusal) in owners.into_iter().zip(refusals) {
                if let Some(refusal) = refusal {
                    first = first.and(self.handle_refusal(request, refusal));
                }
            }
        }
        first
    }

    /// Creates a veth pair by one RTM_NEWLINK: the peer is made in its namespace with its final
    /// name, MAC and MTU; the host end is up and a port of a bridge if wanted.
    ///
    /// # Errors
    /// [`Error::LinkExists`] if either name is taken, [`Error::BridgeFull`] if the bridge has no port left; then
    /// neither end exists.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<VethPair, Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
        let message = Message::new(Body::NewLink(veth.message()), flags);
        let mut born = None;
        let refusals = self.exchange(vec![message], |answer| {
            born = born.take().or(Link::read(answer));
        })?;
        if let Some(refusal) = refusals.into_iter().flatten().next() {
            return Err(self.veth_error(veth, refusal));
        }
        self.pair(veth, born)
    }

    /// True if a link has the guard of [`Request::LoopbackGuard`].
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn has_loopback_guard(&mut self, index: u32) -> Result<bool, Error> {
        let own = self.socket.dump(
            || guard::list(index),
            |answer, own| {
                own.extend(guard::is_own(answer.payload).then_some(()));
            },
        );
        Ok(!own?.is_empty())
    }

    /// Removes the guard of [`Request::LoopbackGuard`], and the hook unless another program's filter is there.
    ///
    /// # Errors
    /// [`Error::Request`] if the kernel refuses the removal.
    pub fn remove_loopback_guard(&mut self, index: u32, name: &str) -> Result<(), Error> {
        self.send(&[Request::LoopbackGuardDel { index, name: name.into() }])?;
        let others = self.socket.dump(|| guard::list(index), |_, others| others.push(()))?;
        if others.is_empty() {
            self.send(&[Request::IngressDel { index, name: name.into() }])?;
        }
        Ok(())
    }

    /// The link of this name, `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Request`] if the kernel refuses it for another reason than that it is missing.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        // The kernel takes no name as a question without any.
        if name.is_empty() {
            return Ok(None);
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.get_link(message, || format!("ip link show dev {name}"))
    }

    /// The link with this index, `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Request`] if the kernel refuses it for another reason than that it is missing.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        self.get_link(encode::link(index), || format!("ip link show dev if{index}"))
    }

    /// All links (RTM_GETLINK).
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let all = || Body::GetLink(LinkMessage::default());
        self.socket.dump(all, |answer, links| {
            links.extend((answer.kind == read::RTM_NEWLINK).then(|| Link::read(answer)).flatten());
        })
    }

    /// The ends of veth pairs in this namespace, without counters; the kernel filters them.
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn veths(&mut self) -> Result<Vec<Link>, Error> {
        let all = || {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]));
            Body::GetLink(message)
        };
        self.socket.dump(all, |answer, links| {
            let link = Link::read(answer).filter(|link| link.kind.as_deref() == Some("veth"));
            links.extend(link.filter(|_| answer.kind == read::RTM_NEWLINK));
        })
    }

    /// The link `index` of the namespace that is `netnsid` here (IFLA_LINK_NETNSID), without entering it.
    ///
    /// # Errors
    /// [`Error::Request`] if the kernel refuses it for another reason than that it is missing.
    pub fn link_in(&mut self, netnsid: i32, index: u32) -> Result<Option<Link>, Error> {
        let mut message = encode::link(index);
        message.attributes.push(LinkAttribute::IfNetnsId(netnsid));
        self.get_link(message, || format!("ip -n {netnsid} link show dev if{index}"))
    }

    /// The addresses of both families, of one link or of all (RTM_GETADDR).
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>, Error> {
        let of_link = || {
            let mut message = AddressMessage::default();
            message.header.index = index.unwrap_or(0);
            Body::GetAddress(message)
        };
        let wanted = |address: &Address| index.is_none_or(|index| address.index == index);
        let found = self.socket.dump(of_link, |answer, found| {
            if answer.kind == read::RTM_NEWADDR {
                found.extend(Address::read(answer).filter(wanted));
            }
        });
        match found {
            // A kernel that filters by link answers ENODEV when the link is gone.
            Err(Error::Dump { errno: Errno::NODEV }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The addresses of one family of the link `index` in the namespace that is `netnsid` here (IFLA_LINK_NETNSID), without
    /// entering it. Empty if the link is not there.
    ///
    /// The kernel looks at one link and one family only, which takes a quarter of the time of all addresses.
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn addresses_in(&mut self, netnsid: i32, index: u32, is_v4: bool) -> Result<Vec<Address>, Error> {
        let mut header = AddressHeader { index, ..AddressHeader::default() };
        header.family = if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        match self.addresses_asked(netnsid, header) {
            Err(Error::Dump { errno: Errno::NODEV }) => Ok(Vec::new()),
            // A kernel without IPv6 answers with the addresses of the other family.
            other => other.map(|mut found| {
                found.retain(|found| found.index == index && found.address.is_ipv4() == is_v4);
                found
            }),
        }
    }

    /// The addresses of all links of that namespace.
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn all_addresses_in(&mut self, netnsid: i32) -> Result<Vec<Address>, Error> {
        self.addresses_asked(netnsid, AddressHeader::default())
    }

    fn addresses_asked(&mut self, netnsid: i32, header: AddressHeader) -> Result<Vec<Address>, Error> {
        let question = || {
            let mut message = AddressMessage::default();
            message.header = header.clone();
            message.attributes.push(AddressAttribute::TargetNetNsId(netnsid));
            Body::GetAddress(message)
        };
        self.socket.dump(question, |answer, found| {
            if answer.kind == read::RTM_NEWADDR {
                found.extend(Address::read(answer));
            }
        })
    }

    /// The routes of both families in all tables (RTM_GETROUTE); one for each next hop.
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let all = || Body::GetRoute(RouteMessage::default());
        self.socket.dump(all, |answer, found| {
            if answer.kind == read::RTM_NEWROUTE {
                read::routes(answer, found);
            }
        })
    }

    /// The neighbours of a link with a known MAC, and whether each is permanent (RTM_GETNEIGH).
    ///
    /// # Errors
    /// [`Error::Dump`] if the kernel refuses the list, [`Error::Unsteady`] if changes interrupt each attempt.
    pub fn neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Mac, bool)>, Error> {
        let all = || Body::GetNeighbour(NeighbourMessage::default());
        self.socket.dump(all, |answer, found| {
            if answer.kind != read::RTM_NEWNEIGH {
                return;
            }
            if let Some((_, ip, mac, permanent)) = read::neighbour(answer).filter(|(link, ..)| *link == index)
            {
                found.push((ip, mac, permanent));
            }
        })
    }

    /// The link, and the gateway if any, through which a packet to `ip` would leave; `None` if there is no route.
    ///
    /// # Errors
    /// [`Error::Request`] if the kernel refuses the question for another reason than a missing route.
    pub fn route_to(&mut self, ip: IpAddr) -> Result<Option<(u32, Option<IpAddr>)>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = encode::family(ip);
        message.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(ip.into()));
        let mut found = Vec::new();
        let message = Message::new(Body::GetRoute(message), 0);
        let refusals = self.exchange(vec![message], |answer| {
            read::routes(answer, &mut found);
        })?;
        match refusals.into_iter().flatten().next() {
            Some(Refusal { errno: Errno::NETUNREACH | Errno::HOSTUNREACH, .. }) => Ok(None),
            Some(refusal) => Err(request_error(format!("ip route get {ip}"), refusal)),
            None => Ok(found.first().map(|route| (route.index, route.gateway))),
        }
    }

    /// The value of `key` below /proc/sys/net of this namespace, such as
    /// `ipv4/conf/eth0/arp_notify`, trimmed; `None` if there is no such key.
    ///
    /// # Errors
    /// [`Error::ReadSysctl`] if the key exists but cannot be read.
    pub fn sysctl(&self, key: &str) -> Result<Option<String>, Error> {
        self.sysctls.read(self.as_fd(), key)
    }

    /// Sets `key` unless it has that value already (so an equal one may be read-only); true if it wrote.
    ///
    /// # Errors
    /// [`Error::WriteSysctl`], also if there is no such key.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<bool, Error> {
        let written = self.sysctls.write(self.as_fd(), key, value)?;
        let absent = || Error::WriteSysctl { key: key.into(), value: value.into(), errno: Errno::NOENT };
        written.ok_or_else(absent)
    }

    /// Writes `key` without reading it, for one that cannot be read (`ipv4/route/flush`).
    ///
    /// # Errors
    /// [`Error::WriteSysctl`], also if there is no such key.
    pub fn write_sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        self.sysctls.overwrite(self.as_fd(), key, value)
    }

    /// As [`Netlink::set_sysctl`], but a missing key is fine.
    ///
    /// # Errors
    /// [`Error::WriteSysctl`] if the key exists but cannot be written.
    pub fn set_sysctl_if_there(&self, key: &str, value: &str) -> Result<(), Error> {
        self.sysctls.write(self.as_fd(), key, value).map(drop)
    }

    /// How many netlink messages this handle has sent so far.
    pub fn messages(&self) -> u64 {
        self.socket.sent()
    }

    /// The kernel's refusal of one message, if any.
    pub(crate) fn verdict(&mut self, message: Message) -> Result<Option<Refusal>, Error> {
        Ok(self.exchange(vec![message], |_| ())?.into_iter().flatten().next())
    }

    /// The refusals without those that the messages forgive.
    fn exchange(
        &mut self,
        messages: Vec<Message>,
        on_answer: impl FnMut(&Answer<'_>),
    ) -> Result<Vec<Option<Refusal>>, Error> {
        let forgiven: Vec<_> = messages.iter().map(|message| message.forgiven).collect();
        let verdicts = self.socket.exchange(messages, on_answer)?;
        let kept = |(verdict, forgiven): (Option<Refusal>, &[Errno])| {
            verdict.filter(|refusal| !forgiven.contains(&refusal.errno))
        };
        Ok(verdicts.into_iter().zip(forgiven).map(kept).collect())
    }

    fn handle_refusal(&mut self, request: &Request, refusal: Refusal) -> Result<(), Error> {
        match request {
            Request::LoopbackGuard { index, .. } if refusal.errno == Errno::NOENT => {
                self.try_other_guards(*index, request)
            }
            Request::LinkMaster { master: Some(master), .. } if refusal.errno == Errno::XFULL => {
                Err(self.bridge_full(*master))
            }
            _ => {
                Err(absence(request, &refusal).unwrap_or_else(|| request_error(request.to_string(), refusal)))
            }
        }
    }

    /// For a kernel without cls_bpf: tries the other ways until one works.
    fn try_other_guards(&mut self, index: u32, request: &Request) -> Result<(), Error> {
        let mut last = Ok(());
        for way in guard::OTHER_WAYS {
            let refusals = self.exchange(guard::filters(index, way), |_| ())?;
            let Some(refusal) = refusals.into_iter().flatten().next() else { return Ok(()) };
            last = Err(
                absence(request, &refusal).unwrap_or_else(|| request_error(request.to_string(), refusal))
            );
        }
        last
    }

    fn veth_error(&mut self, veth: &Veth<'_>, refusal: Refusal) -> Error {
        match (refusal.errno, veth.master) {
            (Errno::XFULL, Some(master)) => self.bridge_full(master),
            (Errno::EXIST, _) => self.link_exists(veth),
            (Errno::OPNOTSUPP, _) => Kind::Veth.missing(),
            _ => request_error(veth.to_string(), refusal),
        }
    }

    /// Finds out which of the two names is taken, by looking for the host's link.
    fn link_exists(&mut self, veth: &Veth<'_>) -> Error {
        match self.link(veth.name) {
            Ok(None) => {
                Error::LinkExists { name: veth.peer.into(), netns: Some(veth.peer_netns.path().into()) }
            }
            _ => Error::LinkExists { name: veth.name.into(), netns: None },
        }
    }

    fn bridge_full(&mut self, index: u32) -> Error {
        let found = self.link_by_index(index).ok().flatten();
        let bridge = found.map_or_else(|| format!("if{index}"), |link| link.name);
        Error::BridgeFull { bridge, ports: BRIDGE_PORTS }
    }

    /// The indexes from the echo, or by name if the kernel does not echo.
    fn pair(&mut self, veth: &Veth<'_>, born: Option<Link>) -> Result<VethPair, Error> {
        let host = match born {
            Some(link) => Some(link),
            None => self.link(veth.name)?,
        };
        let host = host.ok_or_else(|| Error::Vanished { name: veth.name.into() })?;
        let container = host.peer.ok_or_else(|| Error::Vanished { name: veth.peer.into() })?;
        Ok(VethPair { host: host.index, container })
    }

    fn get_link(
        &mut self,
        mut message: LinkMessage,
        what: impl Fn() -> String,
    ) -> Result<Option<Link>, Error> {
        // Summing the counters of all processors takes the kernel longer than the rest of the answer.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        let message = Message::new(Body::GetLink(message), 0);
        let refusals = self.exchange(vec![message], |answer| {
            found = Link::read(answer);
        })?;
        match refusals.into_iter().flatten().next() {
            Some(Refusal { errno: Errno::NODEV, .. }) => Ok(None),
            Some(refusal) => Err(request_error(what(), refusal)),
            None => Ok(found),
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn request_error(request: String, refusal: Refusal) -> Error {
    Error::Request { request, errno: refusal.errno, detail: refusal.detail }
}
