//! The plugin `host-local`: addresses out of ranges, leased in a folder that reference plugins can share.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni::{Args, CniResult, Request, Version};
use engine::pool::Pool;
use engine::spec::{Lease, Outcome, Ranges, Resolver};
use ipam::{RangeSet, RangeSpec};
use serde::Deserialize;
use store::Paths;

use crate::error::Fault;
use crate::members::{default_bridge, is_named};
use crate::verbs::Verbs;
use crate::{Error, call};

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del: release, check, status, gc };

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

/// host-local's folder, `<dataDir>/<network>`.
fn pool(request: &Request<'_>) -> Result<Pool, Error> {
    let place: Place = request.config.section()?;
    let paths = Paths::new(0);
    let data_dir = place.ipam.ok_or(ipam::Error::MissingIpam)?.data_dir;
    let networks = data_dir.map_or_else(|| paths.host_local(), |given| paths.rooted(&given));
    Ok(Pool::shared(&networks.join(&request.config.name), &paths, bridge_of(request)))
}

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    Ok(call::result(Outcome { lease: lease(request)?, ..Outcome::default() }))
}

/// ADD of host-local.
pub fn lease(request: &Request<'_>) -> Result<Lease, Error> {
    let pool = pool(request)?;
    Ok(pool.lease(&ranges(request)?, &call::id(request), Path::new(&request.call.netns))?)
}

/// DEL of host-local.
pub fn release(request: &Request<'_>) -> Result<(), Error> {
    Ok(pool(request)?.release(&call::id(request), &previous_addresses(request))?)
}

/// CHECK of host-local.
pub fn check(request: &Request<'_>) -> Result<(), Error> {
    Ok(pool(request)?.check(&call::id(request), &previous_addresses(request))?)
}

/// STATUS of host-local.
pub fn status(request: &Request<'_>) -> Result<(), Error> {
    let pool = pool(request)?;
    Ok(pool.status(&sets(request)?)?)
}

/// GC of host-local.
pub fn gc(request: &Request<'_>) -> Result<(), Error> {
    Ok(pool(request)?.gc(&call::valid(request))?)
}

/// What a configuration in host-local's words leases.
///
/// # Errors
/// A range, an address or a file that cannot be read.
pub fn ranges(request: &Request<'_>) -> Result<Ranges, Error> {
    let section: Section = request.config.section()?;
    let config = section.ipam.unwrap_or_default();
    let requested = requested_addresses(request, &section.args.cni.ips, &section.runtime_config.ips)?;
    let sets = config.ranges(&section.runtime_config.ip_ranges)?;
    refuse_inexpressible(request.config.cni_version, &sets)?;
    let resolver = config.resolv_conf.as_deref().map(resolver_settings).transpose()?.unwrap_or_default();
    Ok(Ranges { sets, requested, routes: config.routes.unwrap_or_default(), resolver })
}

/// The same without what only an ADD needs.
///
/// # Errors
/// A range that cannot be read.
pub fn sets(request: &Request<'_>) -> Result<Vec<RangeSet>, Error> {
    let section: Section = request.config.section()?;
    Ok(section.ipam.unwrap_or_default().ranges(&section.runtime_config.ip_ranges)?)
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

/// The addresses that the call's own words say the container has; nothing if they cannot be read.
pub fn previous_addresses(request: &Request<'_>) -> Vec<IpAddr> {
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    previous.ips.iter().map(|ip| ip.address.ip()).collect()
}

fn requested_addresses(
    request: &Request<'_>,
    args: &[String],
    runtime: &[String],
) -> Result<Vec<IpAddr>, Error> {
    let by_args = Args::of(request.call, &[])?.ips()?;
    Ok(ipam::requested(runtime, args, &by_args)?)
}

fn resolver_settings(path: &Path) -> Result<Resolver, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::ResolvConf { path: path.to_owned(), reason: netlink_reason(&error) })?;
    Ok(Resolver::parse(&text))
}

fn netlink_reason(error: &std::io::Error) -> String {
    rustix::io::Errno::from_io_error(error).map_or_else(|| error.to_string(), netlink::reason)
}

/// The bridge of the network that an IPAM plugin leases addresses for, if that is a network with a bridge.
fn bridge_of(request: &Request<'_>) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Member {
        #[serde(rename = "type")]
        kind: String,
        bridge: String,
    }
    let member: Member = request.config.section().ok()?;
    let is = |plugin| is_named(&member.kind, plugin);
    if is("ptp") {
        // Its containers are on no bridge.
        return Some(String::new());
    }
    let default = match (is("rnet"), is("bridge")) {
        (true, _) => default_bridge(&request.config.name),
        (_, true) => "cni0".to_owned(),
        _ => return None,
    };
    Some(if member.bridge.is_empty() { default } else { member.bridge })
}
