//! The plugin `host-local`: addresses out of ranges, leased in a folder that reference plugins can share.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::{Args, CniResult, Dns, Ip, Plugin, Request, Route, Version};
use ipam::{Choice, Leased, Leases, Owner, RangeSet, RangeSpec, ResolvConf};
use serde::Deserialize;
use store::{Folder, Paths};

use crate::error::{Fault, Finding};
use crate::{Error, Host, living, lost};

/// The plugin of this file.
pub struct HostLocal;

/// A folder of leases, which only ADD makes, and the order in which addresses are chosen from it.
pub struct Pool {
    folder: Folder,
    index: Folder,
    choice: Choice,
    preferred: Vec<IpAddr>,
    /// Whose containers may use addresses although no lease says so.
    bridge: Option<String>,
    /// How long to wait for the folder's lock, where not as long as usual.
    patience: Option<Duration>,
}

/// Everything that ADD and STATUS read.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Section {
    ipam: Option<ipam::HostLocal>,
    args: ArgsMember,
    runtime_config: RuntimeConfig,
}

/// The one key that DEL needs: no other fault of a configuration may keep an address from being freed.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Place {
    ipam: Option<PlaceMember>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PlaceMember {
    data_dir: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ArgsMember {
    cni: Wishes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wishes {
    ips: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuntimeConfig {
    ips: Vec<String>,
    ip_ranges: Vec<Vec<RangeSpec>>,
}

impl Plugin for HostLocal {
    fn add(&self, request: &Request<'_>) -> Result<CniResult, cni::Error> {
        Ok(Pool::host_local(request)?.lease(request)?)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(Pool::host_local(request)?.release(request)?)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(Pool::host_local(request)?.check(request)?)
    }

    fn status(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(Pool::host_local(request)?.status(request)?)
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(Pool::host_local(request)?.gc(request)?)
    }
}

impl Pool {
    /// host-local's folder, `<dataDir>/<network>`, round robin; the index beside it survives a boot.
    pub fn host_local(request: &Request<'_>) -> Result<Self, Error> {
        let place: Place = request.config.section()?;
        let paths = Paths::new(0);
        let data_dir = place.ipam.ok_or(ipam::Error::MissingIpam)?.data_dir;
        let networks = data_dir.map_or_else(|| paths.host_local(), |given| paths.rooted(&given));
        let folder = Folder::at(&networks.join(&request.config.name));
        let index = Folder::at(&paths.state().join("leases"));
        let bridge = lost::bridge_of(request.config);
        Ok(Self { folder, index, choice: Choice::RoundRobin, preferred: Vec::new(), bridge, patience: None })
    }

    /// The folder of an `rnet` network, which lives as long as the boot; the lowest free address comes first.
    pub fn own(host: &Host, request: &Request<'_>) -> Result<Self, Error> {
        let bridge = lost::bridge_of(request.config);
        Ok(Self { bridge, ..Self::own_in(host, &host.store.leases(&request.config.name))? })
    }

    /// The same in the folder of a network that had another name, perhaps.
    pub fn own_in(host: &Host, folder: &Path) -> Result<Self, Error> {
        let folder = host.store.folder(folder)?;
        let index = host.store.folder(&host.store.paths().run().join("index"))?;
        let patience = Some(host.store.patience());
        Ok(Self { folder, index, choice: Choice::Lowest, preferred: Vec::new(), bridge: None, patience })
    }

    /// The same, with the addresses that are given first if nobody has them.
    pub fn preferring(self, preferred: Vec<IpAddr>) -> Self {
        Self { preferred, ..self }
    }

    /// The leases there are; none without a folder.
    fn find(&self) -> Result<Option<Leases>, Error> {
        let leases = Leases::find(&self.folder, &self.index, &store::boot_id()?)?;
        Ok(leases.map(|leases| self.in_time(leases)))
    }

    fn open(&self) -> Result<Leases, Error> {
        let leases = Leases::open(&self.folder, &self.index, &store::boot_id()?)?;
        let leases = self.in_time(leases).preferring(self.preferred.clone());
        let Some(bridge) = self.bridge.clone() else { return Ok(leases) };
        let unseen = |error: Error| ipam::Error::Unseen { reason: error.to_string() };
        Ok(leases.seeing(move || lost::in_use(&bridge).map_err(unseen)))
    }

    fn in_time(&self, leases: Leases) -> Leases {
        match self.patience {
            Some(patience) => leases.with_patience(patience),
            None => leases,
        }
    }

    /// ADD: one address of each range set, all or none.
    pub fn lease(&self, request: &Request<'_>) -> Result<CniResult, Error> {
        let section: Section = request.config.section()?;
        let config = section.ipam.unwrap_or_default();
        let requested = requested(request, &section.args.cni.ips, &section.runtime_config.ips)?;
        let mut sets = config.ranges(&section.runtime_config.ip_ranges)?;
        refuse_inexpressible(request.config.cni_version, &sets)?;
        if self.choice == Choice::Lowest {
            sets = sets.into_iter().map(|set| widened(set, &requested)).collect();
        }
        let dns = config.resolv_conf.as_deref().map(resolver_settings).transpose()?.unwrap_or_default();
        let netns = identity(&request.call.netns);
        let leased = self.open()?.lease(&sets, &owner(request), netns, &requested, self.choice)?;
        let routes = config.routes.unwrap_or_default().into_iter().map(route).collect();
        Ok(CniResult { ips: leased.into_iter().map(ip).collect(), routes, dns, ..CniResult::default() })
    }

    /// DEL: an unknown owner is no fault.
    pub fn release(&self, request: &Request<'_>) -> Result<(), Error> {
        self.release_known(request, &[])
    }

    /// The same where it is on record which addresses the container has.
    pub fn release_known(&self, request: &Request<'_>, known: &[IpAddr]) -> Result<(), Error> {
        let Some(leases) = self.find()? else { return Ok(()) };
        let expected = [&expected(request)[..], known].concat();
        leases.expecting(expected).release(&owner(request)).map(drop).map_err(Error::Ipam)
    }

    /// CHECK: any address of this owner is enough.
    pub fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let leases = self.find()?.map(|leases| leases.expecting(expected(request)));
        let held = leases.map(|leases| leases.held(&owner(request))).transpose()?;
        match held.unwrap_or_default().is_empty() {
            true => Err(Finding::NoLease(request.call.container_id.clone()).into()),
            false => Ok(()),
        }
    }

    /// STATUS: every range set has an address left, and a lease and what the index says of it can be written.
    pub fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let section: Section = request.config.section()?;
        let sets = section.ipam.unwrap_or_default().ranges(&section.runtime_config.ip_ranges)?;
        for folder in [&self.folder, &self.index] {
            store::check_writable(folder.path()).map_err(Error::not_ready)?;
        }
        match self.find()? {
            Some(leases) if !leases.free(&sets)? => Err(Error::not_ready(exhausted(&sets))),
            _ => Ok(()),
        }
    }

    /// GC: frees what belongs to no valid attachment; without a list, what is provably dead.
    pub fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        let Some(leases) = self.find()? else { return Ok(()) };
        let valid = request
            .config
            .valid_attachments()
            .map(|valid| valid.into_iter().map(|one| (one.container_id, one.ifname)).collect::<Vec<_>>());
        let valid = match valid {
            Some(valid) => Some([valid, of_endpoints(&leases)?].concat()),
            None => None,
        };
        let living = living::namespaces();
        let is_alive = |_: u64, inode: u64| living.contains(&inode);
        leases.gc(valid.as_deref(), &is_alive).map(drop).map_err(Error::Ipam)
    }
}

/// The leases of what `rnet run` made, which is in no runtime's list.
fn of_endpoints(leases: &Leases) -> Result<Vec<(String, String)>, Error> {
    let endpoints = Paths::new(netlink::cookie()?).run().join("endpoints");
    let leases = leases.list()?.into_iter().map(|lease| (lease.id, lease.ifname));
    Ok(leases.filter(|(id, _)| endpoints.join(id).join("netns").exists()).collect())
}

fn exhausted(sets: &[RangeSet]) -> String {
    let ranges: Vec<String> = sets.iter().map(ToString::to_string).collect();
    format!("no IP addresses available in range set: {}", ranges.join(","))
}

/// Results before 0.3.0 have room for one address of each family.
fn refuse_inexpressible(version: Version, sets: &[RangeSet]) -> Result<(), Error> {
    let is_v4 = |set: &&RangeSet| set.ranges().first().is_some_and(|range| range.subnet.is_ipv4());
    let v4 = sets.iter().filter(is_v4).count();
    if version < Version::V0_3_0 && v4.max(sets.len() - v4) > 1 {
        return Err(Error::Config(Fault::OneAddressPerFamily(version)));
    }
    Ok(())
}

fn owner<'a>(request: &'a Request<'_>) -> Owner<'a> {
    Owner { id: &request.call.container_id, ifname: &request.call.ifname }
}

/// The addresses that the call's own words say the container has; nothing if they cannot be read.
fn expected(request: &Request<'_>) -> Vec<IpAddr> {
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    previous.ips.iter().map(|ip| ip.address.ip()).collect()
}

fn requested(request: &Request<'_>, args: &[String], runtime: &[String]) -> Result<Vec<IpAddr>, Error> {
    let by_args = Args::of(request.call, &[])?.ips()?;
    Ok(ipam::requested(runtime, args, &by_args)?)
}

/// `--ip` may lie outside `--ip-range`, which limits the dynamic choice only: the ranges of a set that an address
/// was asked from reach over their whole subnets.
fn widened(set: RangeSet, requested: &[IpAddr]) -> RangeSet {
    let outside =
        |ip: &IpAddr| !set.contains(*ip) && set.ranges().iter().any(|range| range.subnet.contains(*ip));
    if !requested.iter().any(outside) {
        return set;
    }
    let whole = set.ranges().iter().map(|range| ipam::Range::new(range.subnet, None, None, range.gateway));
    let whole: Option<Vec<_>> = whole.map(Result::ok).collect();
    whole.and_then(|ranges| RangeSet::new(ranges).ok()).unwrap_or(set)
}

/// The namespace that an address is for, by which gc later knows whether it still lives.
fn identity(netns: &str) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(netns).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn resolver_settings(path: &Path) -> Result<Dns, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::ResolvConf { path: path.to_owned(), reason: netlink_reason(&error) })?;
    let ResolvConf { nameservers, domain, search, options } = ResolvConf::parse(&text);
    Ok(Dns { nameservers, domain, search, options })
}

fn netlink_reason(error: &std::io::Error) -> String {
    rustix::io::Errno::from_io_error(error).map_or_else(|| error.to_string(), netlink::reason)
}

fn ip(leased: Leased) -> Ip {
    Ip { address: leased.address, gateway: leased.gateway, interface: None }
}

fn route(route: ipam::Route) -> Route {
    Route {
        dst: route.dst,
        gw: route.gw,
        mtu: route.mtu,
        advmss: route.advmss,
        priority: route.priority,
        table: route.table,
        scope: route.scope,
    }
}
