//! How near rnet is to what the kernel allows: ADD and DEL beside a program that makes only the calls that cannot be left out.
//!
//! That program is this one, started anew for each operation with [`MODE`] as its first argument; it is as static as rnet.
//! ADD: a veth pair whose peer is born in the container's namespace, its address, up, the default route, and one published
//! port as two elements. DEL: the elements, and the link; as in rnet, a child waits for the kernel's grace period. It reads no
//! configuration, takes no lock, writes nothing down, checks and guards nothing, and prints nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
use netlink::{Mac, Netlink, Netns, Request, Route, Veth};
use nft::{Element, Firewall, Owner, Protocol};
use rustix::net::netdevice::name_to_index;

use crate::Bench;
use crate::chain::answer;
use crate::contender::{Attachment, Contender, GATEWAY, Kind, Ports, SUBNET};
use crate::measure::{SETTLING, quiet};
use crate::netavark::address;
use crate::report::{Report, Target};
use crate::site::{Cycles, MEASURED_PORT, Site, in_turn};

/// The first argument of this program when it is the floor.
const MODE: &str = "floor";
const BRIDGE: &str = "floor-bench";
const IFNAME: &str = "eth0";

/// At most so many times the floor, until the call returns.
const MOST: [Target; 2] = [Target::AtMost(1.5), Target::AtMost(2.0)];

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let levels: &[u16] = bench.pick(&[1, 100], &[1]);
    let mut sites = [Site::new(Kind::Rnet, &bench.programs)?, Site::new(Kind::Floor, &bench.programs)?];
    for &level in levels {
        sites.iter_mut().try_for_each(|site| site.fill(level))?;
        quiet(bench.pick(if level > 1 { SETTLING } else { 1 }, 0));
        let rounds = bench.pick(100, 10);
        bench.report.case(format!("one published port, {level} containers present, {rounds} pairs"))?;
        let cycles = in_turn(&mut sites, Ports::one(MEASURED_PORT), rounds)?;
        judge(&mut bench.report, &sites, &cycles)?;
    }
    drop(sites);
    quiet(bench.pick(3, 1));
    Ok(())
}

fn judge(report: &mut Report, sites: &[Site; 2], cycles: &[Cycles]) -> Result<()> {
    report.cycles_head()?;
    for (site, cycles) in sites.iter().zip(cycles) {
        report.cycles(site.kind.name(), cycles)?;
    }
    let (rnet, floor) = (&cycles[0], &cycles[1]);
    let [add, del] = MOST;
    for (what, rnet, floor, target) in [
        ("ADD", rnet.add.wall(), floor.add.wall(), add),
        ("ADD CPU", rnet.add.cpu(), floor.add.cpu(), Target::None),
        ("DEL", rnet.del.wall(), floor.del.wall(), del),
        ("DEL CPU", rnet.del.cpu(), floor.del.cpu(), Target::None),
    ] {
        report.verdict(&format!("{what}, times the floor"), rnet.median / floor.median, "", target)?;
    }
    Ok(())
}

/// The floor as a contender: it makes bridge and ruleset when it is first asked for something, and starts itself for each
/// operation.
#[derive(Default)]
pub struct Floor {
    is_ready: AtomicBool,
}

impl Contender for Floor {
    fn add(&self, attachment: &mut Attachment) -> Result<()> {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            make_ready()?;
        }
        start("add", attachment)
    }

    fn del(&self, attachment: &mut Attachment) -> Result<()> {
        start("del", attachment)
    }
}

fn start(verb: &str, attachment: &Attachment) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command
        .env_clear()
        .args([MODE, verb, &format!("floor{}", attachment.number), &address(attachment.number)])
        .arg(attachment.ports.host.to_string())
        .arg(attachment.container.path());
    answer(command, "").map(drop).with_context(|| format!("{MODE} {verb}"))
}

/// What is there before the first container: the bridge with its address, forwarding, the constant ruleset.
fn make_ready() -> Result<()> {
    let mut netlink = Netlink::here()?;
    let name = BRIDGE.to_owned();
    let mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
    netlink.send(&[Request::Bridge { name, mac, mtu: None, snooping: false }])?;
    let (index, subnet): (u32, IpNetwork) = (name_to_index(&netlink, BRIDGE)?, SUBNET.parse()?);
    let gateway = IpNetwork::new(GATEWAY.parse()?, subnet.prefix())?;
    netlink.send(&[
        Request::AddressAdd { index, name: BRIDGE.into(), address: gateway },
        Request::LinkUp { index, name: BRIDGE.into() },
    ])?;
    netlink.set_sysctl("ipv4/ip_forward", "1")?;
    let home = Element::Home { subnet, bridge: BRIDGE.into() };
    Firewall::open()?.rebuild(&[(home, owner("0")?)], &[])?;
    Ok(())
}

/// One operation of the floor, if this process was started for one.
///
/// # Errors
/// The kernel refuses something.
pub fn operation(mut given: impl Iterator<Item = String>) -> Option<Result<()>> {
    let is_floor = given.nth(1).is_some_and(|mode| mode == MODE);
    is_floor.then(|| operate(&given.collect::<Vec<_>>()))
}

fn operate(given: &[String]) -> Result<()> {
    let [verb, link, address, port, netns] = given else { bail!("{MODE} {given:?}") };
    let (address, port): (Ipv4Addr, u16) = (address.parse()?, port.parse()?);
    let to = SocketAddr::new(address.into(), 80);
    let protocol = Protocol::Tcp;
    let owner = owner(port.to_string().as_str())?;
    let elements = [
        (Element::Publish { host: None, protocol, host_port: port, to }, owner),
        (Element::Published { to, protocol }, owner),
    ];
    match verb.as_str() {
        "add" => add(link, address, Path::new(netns), &elements),
        _ => del(link, &elements),
    }
}

fn add(link: &str, address: Ipv4Addr, netns: &Path, elements: &[(Element, Owner)]) -> Result<()> {
    let netns = Netns::open(netns)?;
    let mut host = Netlink::here()?;
    let master = Some(name_to_index(&host, BRIDGE)?);
    let pair = host.create_veth(&Veth {
        name: link,
        mac: None,
        mtu: None,
        master,
        peer: IFNAME,
        peer_mac: None,
        peer_netns: &netns,
        up: true,
    })?;
    let subnet: IpNetwork = SUBNET.parse()?;
    let address = IpNetwork::new(address.into(), subnet.prefix())?;
    let (index, name) = (pair.container, IFNAME.to_owned());
    let default = Route { gateway: Some(GATEWAY.parse()?), ..Route::new("0.0.0.0/0".parse()?, index) };
    Netlink::inside(&netns)?.send(&[
        Request::AddressAdd { index, name: name.clone(), address },
        Request::LinkUp { index, name },
        Request::RouteCreate(default),
    ])?;
    Ok(Firewall::open()?.add(elements)?)
}

/// The socket that has deleted is closed by the child, for its close waits too.
fn del(link: &str, elements: &[(Element, Owner)]) -> Result<()> {
    let mut firewall = Firewall::open()?;
    let index = name_to_index(&firewall, link)?;
    firewall.remove(elements)?;
    netlink::delete_link(index, &[firewall.as_fd()], false)?;
    Ok(())
}

fn owner(number: &str) -> Result<Owner> {
    Owner::new(&format!("{number:0>16}")).context("an owner")
}
