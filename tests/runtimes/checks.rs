//! What must be true of a container with a network, whichever runtime made it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use netlink::Netns;
use netns_fixtures::{Connection, HttpServer, UdpClient, UdpEcho, http_get, ping, tcp_connect};
use serde_json::Value;

use crate::common::Host;
use crate::guest::Guest;
use crate::network::Network;
use crate::program::ip;
use crate::setup::PAGE;

/// Enough on a loaded machine.
const LONG: Duration = Duration::from_secs(5);
/// How long silence must last to be believed.
const SHORT: Duration = Duration::from_millis(400);
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// `eth0` is up with the address in its subnet, `lo` is up, and the gateway is the default route.
pub fn addressed(container: &Guest, network: &Network) -> anyhow::Result<()> {
    let name = &container.name;
    let links = ip(&container.netns, &["address", "show"])?;
    let eth0 = link(&links, "eth0").with_context(|| format!("{name} has no eth0: {links}"))?;
    let found = eth0["addr_info"].as_array().and_then(|all| all.iter().find(|one| one["family"] == "inet"));
    let found = found.with_context(|| format!("eth0 of {name} has no IPv4 address: {eth0}"))?;
    ensure!(
        found["local"] == container.address.to_string(),
        "{name} should have {}: {found}",
        container.address
    );
    ensure!(found["prefixlen"] == 24, "{name} should have a /24: {found}");
    ensure!(
        container.address.octets()[..3] == network.gateway().octets()[..3],
        "{name} is outside of its subnet"
    );
    ensure!(is_up(eth0), "eth0 of {name} is down: {eth0}");
    ensure!(link(&links, "lo").is_some_and(is_up), "lo of {name} is down: {links}");
    let routes = ip(&container.netns, &["route", "show", "default"])?;
    ensure!(routes[0]["gateway"] == network.gateway().to_string(), "{name}: default route is {routes}");
    Ok(())
}

/// The MAC of `eth0` is 02:42 and the octets of the address, so that a reused address has no other.
pub fn mac_of_address(container: &Guest) -> anyhow::Result<()> {
    let octets: String = container.address.octets().iter().map(|octet| format!(":{octet:02x}")).collect();
    ensure!(
        mac(container)? == format!("02:42{octets}"),
        "{}: the MAC is {}",
        container.name,
        mac(container)?
    );
    Ok(())
}

/// The MAC of `eth0`.
pub fn mac(container: &Guest) -> anyhow::Result<String> {
    let links = ip(&container.netns, &["link", "show", "eth0"])?;
    Ok(links[0]["address"].as_str().context("eth0 has no MAC")?.to_owned())
}

/// `one` and `other` reach each other, their host and the world, and the host reaches them.
pub fn pings_both_ways(host: &Host, network: &Network, one: &Guest, other: &Guest) -> anyhow::Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        answers(&from.netns, &from.name, to.ip())?;
        answers(host.netns(), "the host", to.ip())?;
        answers(&from.netns, &from.name, network.gateway().into())?;
        answers(&from.netns, &from.name, host.neighbour().address())?;
    }
    Ok(())
}

/// A ping is answered.
pub fn answers(from: &Netns, who: &str, to: IpAddr) -> anyhow::Result<()> {
    ensure!(ping(from, to, LONG)?.is_some(), "{who} gets no answer to a ping from {to}");
    Ok(())
}

/// The very first ping is answered, without a neighbour entry having to grow old.
pub fn answers_at_once(from: &Netns, who: &str, to: IpAddr) -> anyhow::Result<()> {
    ensure!(
        ping(from, to, Duration::from_secs(1))?.is_some(),
        "{who} gets no answer to its first ping from {to}"
    );
    Ok(())
}

/// A ping is not answered.
pub fn is_silent(from: &Netns, who: &str, to: IpAddr) -> anyhow::Result<()> {
    ensure!(ping(from, to, SHORT)?.is_none(), "{who} should get no answer to a ping from {to}");
    Ok(())
}

/// Every place from which a port published on all addresses must answer: who looks, from where, at which address of the host.
///
/// `container` is the one that is published, `other` a neighbour of it.
fn views<'a>(
    host: &'a Host,
    network: &Network,
    container: &'a Guest,
    other: &'a Guest,
) -> Vec<(&'static str, &'a Netns, IpAddr)> {
    let (own, gateway) = (host.neighbour().host_address(), IpAddr::from(network.gateway()));
    vec![
        ("the host, by its own address", host.netns(), own),
        ("the host, by 127.0.0.1", host.netns(), LOCALHOST.into()),
        ("the host, by the gateway's address", host.netns(), gateway),
        ("outside", host.neighbour().netns(), own),
        ("another container, by the host's address", &other.netns, own),
        ("another container, by the gateway's address", &other.netns, gateway),
        ("the container itself, by the host's address", &container.netns, own),
    ]
}

/// The container's own server answers on the host's port `port`, from everywhere.
pub fn published(
    host: &Host,
    network: &Network,
    container: &Guest,
    other: &Guest,
    port: u16,
) -> anyhow::Result<()> {
    for (who, from, to) in views(host, network, container, other) {
        shows_the_page(from, who, (to, port).into())?;
    }
    Ok(())
}

/// What arrives at UDP port `host_port` of the host is echoed by the container's `port`, from everywhere.
pub fn published_udp(
    host: &Host,
    network: &Network,
    container: &Guest,
    other: &Guest,
    (host_port, port): (u16, u16),
) -> anyhow::Result<()> {
    let _echo = UdpEcho::start(&container.netns, (Ipv4Addr::UNSPECIFIED, port).into())?;
    for (who, from, to) in views(host, network, container, other) {
        let client = UdpClient::bind(from, (Ipv4Addr::UNSPECIFIED, 0).into())?;
        let answer = client.exchange((to, host_port).into(), b"hello", LONG)?;
        ensure!(answer.as_deref() == Some(b"hello"), "no echo to {who} from {to}:{host_port}/udp");
    }
    Ok(())
}

/// The image's server answers at `to`.
pub fn shows_the_page(from: &Netns, who: &str, to: SocketAddr) -> anyhow::Result<()> {
    let page = http_get(from, &format!("http://{to}/"), LONG).with_context(|| format!("asked by {who}"))?;
    ensure!(page.body.trim() == PAGE, "{who} got {:?} from {to}", page.body);
    Ok(())
}

/// Nothing that is behind `to` can be reached.
pub fn is_closed(from: &Netns, who: &str, to: SocketAddr) -> anyhow::Result<()> {
    let connection = tcp_connect(from, to, SHORT)?;
    ensure!(connection != Connection::Open, "{who} should not get through to {to}");
    Ok(())
}

/// Outside sees the host's address when the container speaks to it.
pub fn masqueraded(host: &Host, container: &Guest) -> anyhow::Result<()> {
    let server =
        HttpServer::start(host.neighbour().netns(), (Ipv4Addr::UNSPECIFIED, 8000).into(), "outside")?;
    http_get(&container.netns, &format!("http://{}:8000/", host.neighbour().address()), LONG)?;
    let peer = server.last_peer();
    ensure!(peer == Some(host.neighbour().host_address()), "outside, {} looks like {peer:?}", container.name);
    Ok(())
}

/// The container sees who outside speaks to its published port; and the host's containers see each other as they are.
pub fn clients_keep_their_address(
    host: &Host,
    container: &Guest,
    other: &Guest,
    (host_port, port): (u16, u16),
) -> anyhow::Result<()> {
    let server = HttpServer::start(&container.netns, (Ipv4Addr::UNSPECIFIED, port).into(), "inside")?;
    let published = SocketAddr::new(host.neighbour().host_address(), host_port);
    http_get(host.neighbour().netns(), &format!("http://{published}/"), LONG)?;
    ensure!(
        server.last_peer() == Some(host.neighbour().address()),
        "a client outside looks like {:?}",
        server.last_peer()
    );
    http_get(&other.netns, &format!("http://{}:{port}/", container.address), LONG)?;
    ensure!(server.last_peer() == Some(other.ip()), "a neighbour looks like {:?}", server.last_peer());
    Ok(())
}

fn link<'a>(links: &'a Value, name: &str) -> Option<&'a Value> {
    links.as_array()?.iter().find(|link| link["ifname"] == name)
}

fn is_up(link: &Value) -> bool {
    link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"))
}
