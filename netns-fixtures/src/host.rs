//! A throw-away host, its containers, and machines outside.

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnetwork::IpNetwork;
use netlink::Netns;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::rtnl::{index_of, rtnl};
use crate::{Error, Program, wait_for_carrier};

/// How long a veth pair may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container host that lives as long as this value: a network namespace with `lo` up, and a
/// directory for its files.
///
/// Dropping it removes the directory and the pinned container namespaces below it. Its links end
/// with the last user of the namespace.
#[derive(Debug)]
pub struct Host {
    netns: Netns,
    root: PathBuf,
    machines: AtomicU32,
}

/// A container as the plugins meet it: a new, empty network namespace, pinned at a path. Unpinned
/// on drop.
#[derive(Debug)]
pub struct Container {
    name: String,
    netns: Netns,
    path: PathBuf,
}

/// A machine outside of the host, joined to it by a veth pair: `outN` on the host, `eth0` here.
#[derive(Debug)]
pub struct Outside {
    netns: Netns,
    link: String,
    addresses: Vec<IpNetwork>,
    host_addresses: Vec<IpNetwork>,
}

impl Host {
    /// A new host. Fails without root over the current network namespace.
    pub fn new() -> Result<Self, Error> {
        let netns = Netns::create()?;
        let host = Self { netns, root: temporary_directory()?, machines: AtomicU32::new(0) };
        rtnl(&host.netns, "set lo up", link_up("lo"))?;
        Ok(host)
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its directory, meant for `RNET_ROOT`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `f` on the host, in a thread of its own.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        Ok(self.netns.run(f)?)
    }

    /// A program that starts on the host, with `RNET_ROOT` set to its directory.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Program<'_> {
        Program::new(&self.netns, program).env("RNET_ROOT", &self.root)
    }

    /// A new container, its namespace pinned at `<root>/netns/<name>` as engines pin theirs below
    /// /run/netns.
    pub fn container(&self, name: &str) -> Result<Container, Error> {
        let netns = Netns::create()?;
        let path = self.root.join("netns").join(name);
        netns.pin(&path)?;
        Ok(Container { name: name.into(), netns, path })
    }

    /// A machine outside, with the second address of each subnet; the host gets the first.
    ///
    /// For `192.168.77.0/24` that is 192.168.77.1 on the host and 192.168.77.2 outside. Neither has
    /// a route beyond the subnets.
    pub fn outside(&self, subnets: &[IpNetwork]) -> Result<Outside, Error> {
        let netns = Netns::create()?;
        let host_addresses = nth_addresses(subnets, 1)?;
        let addresses = nth_addresses(subnets, 2)?;
        let link = format!("out{}", self.machines.fetch_add(1, Ordering::Relaxed));
        rtnl(&self.netns, "make a veth pair", veth_into(&link, &netns))?;
        rtnl(&self.netns, "address the host's link", addressed(&link, &host_addresses))?;
        rtnl(&netns, "address eth0", addressed("eth0", &addresses))?;
        rtnl(&netns, "set lo up", link_up("lo"))?;
        await_carrier(&self.netns, &link)?;
        await_carrier(&netns, "eth0")?;
        await_addresses(&self.netns, &host_addresses)?;
        await_addresses(&netns, &addresses)?;
        Ok(Outside { netns, link, addresses, host_addresses })
    }

    /// Gives the host default routes through `gateway`, one for each of its address families.
    pub fn default_route_via(&self, gateway: &Outside) -> Result<(), Error> {
        for address in &gateway.addresses {
            let route = route(unspecified_like(address), address.ip());
            rtnl(&self.netns, "add a default route", route)?;
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pin in pins(&self.root.join("netns")) {
            // A file that is no pin is removed with the directory.
            let _ = Netns::unpin(&pin);
        }
        // Nobody is left to tell: the test is over, or failing for a better reason.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace, which stays usable after [`Container::remove`].
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Where the namespace is pinned: CNI_NETNS.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` in the container, in a thread of its own.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        Ok(self.netns.run(f)?)
    }

    /// A program that starts in the container's network namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Program<'_> {
        Program::new(&self.netns, program)
    }

    /// Takes the pin away, as an engine does whose container died. The kernel ends the namespace
    /// when the value is dropped.
    pub fn remove(&self) -> Result<(), Error> {
        Ok(Netns::unpin(&self.path)?)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.path.exists() {
            // The host removes what is left.
            let _ = Netns::unpin(&self.path);
        }
    }
}

impl Outside {
    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The host's end of the veth pair.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Its address in the first subnet.
    pub fn address(&self) -> IpAddr {
        self.addresses[0].ip()
    }

    /// Its addresses, in the order of the subnets.
    pub fn addresses(&self) -> &[IpNetwork] {
        &self.addresses
    }

    /// The host's address in the first subnet.
    pub fn host_address(&self) -> IpAddr {
        self.host_addresses[0].ip()
    }

    /// The host's addresses, in the order of the subnets.
    pub fn host_addresses(&self) -> &[IpNetwork] {
        &self.host_addresses
    }

    /// Runs `f` outside, in a thread of its own.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        Ok(self.netns.run(f)?)
    }

    /// A program that starts outside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Program<'_> {
        Program::new(&self.netns, program)
    }

    /// Adds a route to a subnet behind the host, for instance the containers'.
    pub fn route_via_host(&self, subnet: IpNetwork) -> Result<(), Error> {
        let gateway = self.host_addresses.iter().find(|host| host.is_ipv4() == subnet.is_ipv4());
        let gateway = gateway.ok_or(Error::NoGateway { subnet })?;
        rtnl(&self.netns, "add a route via the host", route(subnet, gateway.ip()))
    }
}

/// A directory of our own. A private /run is the better place for it: that ends with us even when
/// we are killed.
fn temporary_directory() -> Result<PathBuf, Error> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let parent = match crate::sandbox::run_is_private() {
        true => PathBuf::from("/run"),
        false => std::env::temp_dir(),
    };
    loop {
        let nth = MADE.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("rnet-host-{}-{nth}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // A leftover of a killed process that had our number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::File { doing: "make", path, source }),
        }
    }
}

fn pins(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn nth_addresses(subnets: &[IpNetwork], nth: u8) -> Result<Vec<IpNetwork>, Error> {
    if subnets.is_empty() {
        return Err(Error::NoSubnet);
    }
    subnets.iter().map(|subnet| nth_address(*subnet, nth)).collect()
}

fn nth_address(subnet: IpNetwork, nth: u8) -> Result<IpNetwork, Error> {
    let ip = match subnet {
        IpNetwork::V4(v4) => v4.nth(nth.into()).map(IpAddr::V4),
        IpNetwork::V6(v6) => v6.nth(nth.into()).map(IpAddr::V6),
    };
    ip.and_then(|ip| IpNetwork::new(ip, subnet.prefix()).ok()).ok_or(Error::Subnet { subnet })
}

/// Without it the first packets would be lost.
fn await_carrier(netns: &Netns, link: &str) -> Result<(), Error> {
    match wait_for_carrier(netns, link, PATIENCE)? {
        true => Ok(()),
        false => Err(Error::NoCarrier { link: link.into(), netns: netns.path().into() }),
    }
}

/// Waits until the kernel takes packets for them. Later than [`PATIENCE`] is for the test to find out.
fn await_addresses(netns: &Netns, addresses: &[IpNetwork]) -> Result<(), Error> {
    netns.run(|| {
        addresses.iter().try_for_each(|address| netlink::await_local(address.ip(), PATIENCE).map(drop))
    })??;
    Ok(())
}

/// 0.0.0.0/0 or ::/0.
fn unspecified_like(address: &IpNetwork) -> IpNetwork {
    let v4 = IpNetwork::V4(ipnetwork::Ipv4Network::from(std::net::Ipv4Addr::UNSPECIFIED));
    let v6 = IpNetwork::V6(ipnetwork::Ipv6Network::from(std::net::Ipv6Addr::UNSPECIFIED));
    let any = if address.is_ipv4() { v4 } else { v6 };
    IpNetwork::new(any.ip(), 0).unwrap_or(any)
}

type Asked = Result<(), rtnetlink::Error>;

/// `ip link set NAME up`
fn link_up(name: &str) -> impl AsyncFnOnce(Handle) -> Asked + Send {
    async move |handle| {
        let change = LinkUnspec::new_with_name(name).up().build();
        handle.link().change(change).execute().await
    }
}

/// `ip link add LINK type veth peer name eth0 netns NETNS`: born there, for moving a link takes the
/// kernel tens of milliseconds.
fn veth_into(link: &str, netns: &Netns) -> impl AsyncFnOnce(Handle) -> Asked + Send {
    let fd = netns.as_fd().as_raw_fd();
    async move |handle| {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_fd(fd).build();
        let pair = LinkVeth::new(link, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        handle.link().add(pair.build()).execute().await
    }
}

/// `ip addr add … dev LINK; ip link set LINK up`, usable at once (nodad).
fn addressed(link: &str, addresses: &[IpNetwork]) -> impl AsyncFnOnce(Handle) -> Asked + Send {
    async move |handle| {
        let index = index_of(&handle, link).await?.unwrap_or_default();
        for address in addresses {
            let mut add = handle.address().add(index, address.ip(), address.prefix());
            add.message_mut().header.flags |= netlink_packet_route::address::AddressHeaderFlags::Nodad;
            add.execute().await?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().change(up).execute().await
    }
}

/// `ip route add SUBNET via GATEWAY`
fn route(subnet: IpNetwork, gateway: IpAddr) -> impl AsyncFnOnce(Handle) -> Asked + Send {
    async move |handle| {
        let builder = RouteMessageBuilder::<IpAddr>::new();
        let message = builder
            .destination_prefix(subnet.ip(), subnet.prefix())
            .and_then(|builder| builder.gateway(gateway))
            .map_err(|error| rtnetlink::Error::InvalidNla(error.to_string()))?
            .build();
        handle.route().add(message).execute().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ping;

    const LONG: Duration = Duration::from_secs(5);

    fn subnets() -> [IpNetwork; 2] {
        ["192.168.77.0/24".parse().unwrap(), "fd77::/64".parse().unwrap()]
    }

    #[test]
    fn a_host_has_a_loopback_and_a_directory_that_goes_with_it() {
        let host = Host::new().unwrap();
        let localhost = "127.0.0.1".parse().unwrap();
        assert!(ping(host.netns(), localhost, LONG).unwrap().is_some());
        let root = host.root().to_path_buf();
        std::fs::write(root.join("file"), "x").unwrap();
        let container = host.container("c1").unwrap();
        drop(host);
        assert!(!root.exists());
        drop(container);
    }

    #[test]
    fn two_hosts_know_nothing_of_each_other() {
        let (one, two) = (Host::new().unwrap(), Host::new().unwrap());
        assert_ne!(one.netns().id(), two.netns().id());
        assert_ne!(one.root(), two.root());
    }

    #[test]
    fn a_container_can_be_opened_by_its_path_until_it_is_removed() {
        let host = Host::new().unwrap();
        let container = host.container("c1").unwrap();
        assert_eq!(Netns::open(container.path()).unwrap().id(), container.netns().id());
        container.remove().unwrap();
        assert!(!container.path().exists());
        host.container("c1").unwrap();
    }

    #[test]
    fn programs_start_where_they_should() {
        let host = Host::new().unwrap();
        let script = "readlink /proc/self/ns/net; echo $RNET_ROOT; cat";
        let output = host.command("sh").args(["-c", script]).input("in").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let netns = host.netns().id().ino;
        assert_eq!(said, format!("net:[{netns}]\n{}\nin", host.root().display()));
        assert!(host.command("false").status().unwrap().code() == Some(1));
        let missing = host.command("/no/such/program").spawn().unwrap_err();
        assert!(missing.to_string().contains("/no/such/program"), "{missing}");
    }

    #[test]
    fn a_route_via_the_host_leads_to_its_other_neighbours() {
        let host = Host::new().unwrap();
        let near = host.outside(&subnets()).unwrap();
        let far_subnets = ["192.168.78.0/24".parse().unwrap(), "fd78::/64".parse().unwrap()];
        let far = host.outside(&far_subnets).unwrap();
        assert_eq!((near.link(), far.link()), ("out0", "out1"));
        let forwarding = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
        let on = |key| std::fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
        host.run(|| forwarding.into_iter().for_each(on)).unwrap();
        for (subnet, address) in far_subnets.into_iter().zip(far.addresses()) {
            near.route_via_host(subnet).unwrap();
            let back = subnets().into_iter().find(|s| s.is_ipv4() == subnet.is_ipv4()).unwrap();
            far.route_via_host(back).unwrap();
            // The first may come before the host has learned that it is a router now.
            let answered = |_| ping(near.netns(), address.ip(), LONG / 5).unwrap().is_some();
            assert!((0..5).any(answered), "{address}");
        }
    }

    #[test]
    fn a_default_route_leads_outside() {
        let host = Host::new().unwrap();
        let outside = host.outside(&subnets()).unwrap();
        host.default_route_via(&outside).unwrap();
        let routes = crate::ip_route(host.netns(), crate::Dialect::Iproute2).unwrap();
        assert!(routes.contains("default via 192.168.77.2 dev out0"), "{routes}");
    }

    #[test]
    fn a_subnet_without_room_is_refused() {
        let host = Host::new().unwrap();
        let tiny = "10.0.0.0/32".parse().unwrap();
        assert!(matches!(host.outside(&[tiny]), Err(Error::Subnet { subnet }) if subnet == tiny));
        assert!(host.outside(&[]).is_err());
    }
}
