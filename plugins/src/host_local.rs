//! The plugin `host-local`: addresses out of ranges, leased in a folder that reference plugins can share.

use std::path::{Path, PathBuf};

use cni::{Args, CniResult, Dns, Ip, Plugin, Request, Route, Version};
use ipam::{Choice, Leased, Leases, Owner, RangeSet, RangeSpec, ResolvConf};
use serde::Deserialize;
use store::Paths;

use crate::error::{Fault, Finding};
use crate::{Error, Host, living};

/// The plugin of this file.
pub struct HostLocal;

/// A folder of leases and the order in which addresses are chosen from it.
pub struct Pool {
    leases: Leases,
    choice: Choice,
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
        let folder = data_dir.map_or_else(|| paths.host_local(), |given| paths.rooted(&given));
        Self::open(&folder.join(&request.config.name), &paths.state().join("leases"), Choice::RoundRobin)
    }

    /// The folder of an `rnet` network, which lives as long as the boot; the lowest free address comes first.
    pub fn own(host: &Host, request: &Request<'_>) -> Result<Self, Error> {
        let index = host.store.paths().run().join("index");
        let Self { leases, choice } =
            Self::open(&host.store.leases(&request.config.name), &index, Choice::Lowest)?;
        Ok(Self { leases: leases.with_patience(host.store.patience()), choice })
    }

    /// The same, with the addresses that are given first if nobody has them.
    pub fn preferring(self, preferred: Vec<std::net::IpAddr>) -> Self {
        Self { leases: self.leases.preferring(preferred), ..self }
    }

    fn open(folder: &Path, index: &Path, choice: Choice) -> Result<Self, Error> {
        Ok(Self { leases: Leases::open(folder, index, &store::boot_id()?)?, choice })
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
        let leased = self.leases.lease(&sets, &owner(request), netns, &requested, self.choice)?;
        let routes = config.routes.unwrap_or_default().into_iter().map(route).collect();
        Ok(CniResult { ips: leased.into_iter().map(ip).collect(), routes, dns, ..CniResult::default() })
    }

    /// DEL: an unknown owner is no fault.
    pub fn release(&self, request: &Request<'_>) -> Result<(), Error> {
        self.leases.release(&owner(request)).map(drop).map_err(Error::Ipam)
    }

    /// CHECK: any address of this owner is enough.
    pub fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        if self.leases.held(&owner(request))?.is_empty() {
            return Err(Finding::NoLease(request.call.container_id.clone()).into());
        }
        Ok(())
    }

    /// STATUS: every range set has an address left and the folder can be written.
    pub fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let section: Section = request.config.section()?;
        let sets = section.ipam.unwrap_or_default().ranges(&section.runtime_config.ip_ranges)?;
        self.leases.check_writable().map_err(|error| Error::NotReady { what: error.to_string() })?;
        if self.leases.free(&sets)? {
            return Ok(());
        }
        let ranges: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let what = format!("no IP addresses available in range set: {}", ranges.join(","));
        Err(Error::NotReady { what })
    }

    /// GC: frees what belongs to no valid attachment; without a list, what is provably dead.
    pub fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        let valid = request
            .config
            .valid_attachments()
            .map(|valid| valid.into_iter().map(|one| (one.container_id, one.ifname)).collect::<Vec<_>>());
        let living = living::namespaces();
        let is_alive = |_: u64, inode: u64| living.contains(&inode);
        self.leases.gc(valid.as_deref(), &is_alive).map(drop).map_err(Error::Ipam)
    }
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

fn requested(
    request: &Request<'_>,
    args: &[String],
    runtime: &[String],
) -> Result<Vec<std::net::IpAddr>, Error> {
    let by_args = Args::of(request.call, &[])?.ips()?;
    Ok(ipam::requested(runtime, args, &by_args)?)
}

/// `--ip` may lie outside `--ip-range`, which limits the dynamic choice only: the ranges of a set that an address
/// was asked from reach over their whole subnets.
fn widened(set: RangeSet, requested: &[std::net::IpAddr]) -> RangeSet {
    let outside = |ip: &std::net::IpAddr| {
        !set.contains(*ip) && set.ranges().iter().any(|range| range.subnet.contains(*ip))
    };
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
