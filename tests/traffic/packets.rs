//! A host on the way out, and the packets that machines send to each other.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use netlink::Netns;
use netns_fixtures::{HttpServer, UdpClient, UdpEcho, http_get, set_bridge_filter};

use crate::common::{Host, LONG, SOON};

/// The host's addresses on the way out.
pub const HOST: [&str; 2] = ["192.168.77.1", "fd77::1"];

/// The machine outside.
pub const OUTSIDE: [&str; 2] = ["192.168.77.2", "fd77::2"];

/// Networks A and B: their subnets and gateways.
pub const A: [&str; 2] = ["172.18.0.0/16", "fd18::/64"];
pub const B: [&str; 2] = ["172.19.0.0/16", "fd19::/64"];
pub const GATEWAY_A: [&str; 2] = ["172.18.0.1", "fd18::1"];
pub const GATEWAY_B: [&str; 2] = ["172.19.0.1", "fd19::1"];

/// An attempt to get a page: what it shows, where from, where to.
pub type Probe<'a> = (&'a str, &'a Netns, SocketAddr);

impl Host {
    /// Beside a machine outside that has a route to both networks, as a hostile neighbour may have.
    pub fn connected() -> Self {
        let host = Self::new().beside(&["192.168.77.0/24", "fd77::/64"]);
        host.default_route_via(host.neighbour()).unwrap();
        for subnet in A.into_iter().chain(B) {
            host.neighbour().route_via_host(subnet.parse().unwrap()).unwrap();
        }
        host
    }

    /// Whether frames within a bridge pass the IP hooks; `on` is one of [`bridge_filter_settings`].
    pub fn set_bridge_netfilter(&self, on: bool) {
        set_bridge_filter(self.netns(), on).unwrap();
    }

    /// `nft flush ruleset`, by another program.
    pub fn flush(&self) {
        self.firewall(|firewall| firewall.drop_tables().unwrap());
    }
}

/// A page at an address.
pub fn serve(netns: &Netns, ip: &str, port: u16, page: &str) -> HttpServer {
    HttpServer::start(netns, to(ip, port), page).unwrap()
}

/// An echo at an address.
pub fn echo(netns: &Netns, ip: &str, port: u16) -> UdpEcho {
    UdpEcho::start(netns, to(ip, port)).unwrap()
}

/// A UDP flow under way.
pub struct Flow {
    client: UdpSocket,
    server: UdpSocket,
    peer: SocketAddr,
}

impl Flow {
    /// A datagram from a client to a server that listens at `port`, by the address `to`.
    pub fn begin(from: &Netns, to: SocketAddr, server: &Netns, port: u16) -> Self {
        let [server, client] = [(server, port), (from, 0)].map(|(netns, port)| {
            let socket = netns.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap()).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket
        });
        client.connect(to).unwrap();
        client.send(b"hello").unwrap();
        let (_, peer) = server.recv_from(&mut [0; 16]).unwrap();
        Self { client, server, peer }
    }

    /// Whether what the server says by itself still reaches the client: only if the flow is known, for nobody asks again.
    pub fn goes_on(&self) -> bool {
        self.server.send_to(b"late", self.peer).unwrap();
        self.client.recv(&mut [0; 16]).is_ok()
    }
}

pub fn to(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The page at `to` as `from` sees it.
pub fn page(from: &Netns, to: SocketAddr, timeout: Duration) -> Option<String> {
    http_get(from, &format!("http://{to}"), timeout).ok().map(|page| page.body)
}

/// Does a datagram from `from` come back?
pub fn echoes(from: &Netns, to: SocketAddr, timeout: Duration) -> bool {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = UdpClient::bind(from, any.parse().unwrap()).unwrap();
    client.exchange(to, b"hello", timeout).unwrap_or_default().is_some()
}

/// Whom the server saw last, IPv4 clients of a socket for both families as such.
pub fn client(server: &HttpServer) -> IpAddr {
    server.last_peer().unwrap().to_canonical()
}

/// Every probe gets `wanted`. They run at the same time.
#[track_caller]
pub fn all_get(wanted: &str, probes: &[Probe<'_>]) {
    let got = at_once(probes, |(_, from, to)| page(from, *to, LONG));
    let failed: Vec<_> = probes.iter().zip(got).filter(|(_, got)| got.as_deref() != Some(wanted)).collect();
    assert!(failed.is_empty(), "should have got {wanted:?}: {:#?}", described(&failed));
}

/// No probe gets anything.
#[track_caller]
pub fn none_get(probes: &[Probe<'_>]) {
    let got = at_once(probes, |(_, from, to)| page(from, *to, SOON));
    let failed: Vec<_> = probes.iter().zip(got).filter(|(_, got)| got.is_some()).collect();
    assert!(failed.is_empty(), "should have got nothing: {:#?}", described(&failed));
}

fn described(failed: &[(&Probe<'_>, Option<String>)]) -> Vec<String> {
    failed.iter().map(|((what, _, to), got)| format!("{what} ({to}): {got:?}")).collect()
}

/// Asks all at the same time, for most answers are silence.
pub fn at_once<P: Sync, T: Send>(probes: &[P], ask: impl Fn(&P) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = probes.iter().map(|probe| scope.spawn(|| ask(probe))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    })
}
