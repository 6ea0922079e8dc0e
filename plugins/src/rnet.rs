//! The plugin `rnet`: bridge, lease, addresses, published ports, isolation and guards, all in one process.

use cni::{Args, CniResult, Dns, Plugin, Request, Verb};
use serde::Deserialize;
use store::NetworkKey;

use crate::attach;
use crate::bridge::{self, ArgsMember, IpamMember, RuntimeConfig};
use crate::error::Fault;
use crate::names::Names;
use crate::plan::{Ipam, Plan};
use crate::{Error, check};

/// The plugin of this file.
pub struct Rnet;

/// Its keys. Every default is the safe one.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    /// The bridge; the default is made of the network's name.
    bridge: String,
    /// 0: that of the default route's link.
    mtu: u32,
    ip_masq: bool,
    /// Networks do not reach one another, and from outside only published ports are reached.
    isolate: bool,
    /// Frames with a source that is not the container's own are dropped at its port. Off for a network whose containers forward
    /// for others, such as routers and VPN gateways; `SPOOF_GUARD` in CNI_ARGS decides for one container.
    spoof_guard: bool,
    /// Other firewalls of the host are told to let the network's traffic pass.
    interop: bool,
    hairpin_mode: bool,
    port_isolation: bool,
    /// A container's name gets the addresses that it had before, while they are free.
    sticky_addresses: bool,
    /// The network's containers find one another by name. `dns` then says what the name server needs: the domain, and
    /// the servers that it asks about the world.
    names: bool,
    /// Answers from outside that point into a subnet of ours are dropped: no web page reaches a container by a name of
    /// its own making.
    rebinding_guard: bool,
    /// Before Linux 6.17, `accept_ra` of an uplink that lives by router advertisements becomes 2 when IPv6 forwarding is turned
    /// on. If not, a network with IPv6 is refused there.
    #[serde(rename = "uplinkAcceptRA")]
    uplink_accept_ra: bool,
    dns: Option<Dns>,
    ipam: Option<IpamMember>,
    args: ArgsMember,
    runtime_config: RuntimeConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bridge: String::new(),
            mtu: 0,
            ip_masq: true,
            isolate: true,
            spoof_guard: true,
            interop: true,
            hairpin_mode: false,
            port_isolation: false,
            sticky_addresses: true,
            names: false,
            rebinding_guard: false,
            uplink_accept_ra: true,
            dns: None,
            ipam: None,
            args: ArgsMember::default(),
            runtime_config: RuntimeConfig::default(),
        }
    }
}

impl Plugin for Rnet {
    fn add(&self, request: &Request<'_>) -> Result<CniResult, cni::Error> {
        Ok(attach::add(&plan(request)?, request)?)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(attach::del(&plan_of_del(request), request)?)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(check::attachment(&plan(request)?, request)?)
    }

    fn status(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(attach::status(&plan(request)?, request)?)
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok(attach::gc(&plan(request)?, request)?)
    }
}

/// The bridge of the network `name` where none is configured: `rnet-` and the name, or a hash that fits.
pub fn default_bridge(name: &str) -> String {
    let plain = format!("rnet-{name}");
    if plain.len() < 16 { plain } else { format!("rnet-{}", &NetworkKey::new(name).as_str()[..10]) }
}

/// As configured; where that is faulty, at least whoever leases the addresses is told to free them.
fn plan_of_del(request: &Request<'_>) -> Plan {
    plan(request).unwrap_or_else(|_| {
        let ipam = own_unless_named(bridge::ipam(request), &request.config.name).unwrap_or(Ipam::Own);
        Plan::bare("rnet", &request.config.name, ipam)
    })
}

/// An attachment as configured.
pub fn plan(request: &Request<'_>) -> Result<Plan, Error> {
    let config: Config = request.config.section()?;
    let args = Args::of(request.call, &[])?;
    for mapping in &config.runtime_config.port_mappings {
        mapping.validate().map_err(Error::Config)?;
    }
    let guarded = match args.spoof_guard() {
        // What was attached is on record.
        Err(_) if request.call.verb == Verb::Del => None,
        other => other?,
    };
    let mac = bridge::mac(&args, &config.args, &config.runtime_config)?;
    let name = &request.config.name;
    let bridge = if config.bridge.is_empty() { default_bridge(name) } else { config.bridge };
    let ipam = own_unless_named(config.ipam, name)?;
    let (dns, runtime) = (config.dns.filter(|dns| !dns.is_empty()), config.runtime_config);
    let names = match config.names {
        true => {
            let names = Names::new(name, dns.clone().unwrap_or_default(), runtime.dns, &runtime.aliases)?;
            let names = Names { rebinding_guard: config.rebinding_guard, ..names };
            Some(names.with_hostname(args.hostname())?)
        }
        false => None,
    };
    Ok(Plan {
        plugin: "rnet",
        network: name.clone(),
        bridge: bridge::checked_name(bridge)?,
        owns_bridge: true,
        gateway: true,
        keep_advertisements: config.uplink_accept_ra,
        default_gateway: true,
        force_address: true,
        mtu: (config.mtu > 0).then_some(config.mtu),
        inherit_mtu: true,
        snooping: false,
        sticky: config.sticky_addresses && ipam == Ipam::Own,
        promiscuous: false,
        hairpin: config.hairpin_mode,
        port_isolation: config.port_isolation,
        masquerade: config.ip_masq,
        isolated: config.isolate,
        interop: config.interop,
        guarded: guarded.unwrap_or(config.spoof_guard),
        mac_checked: false,
        interface_up: true,
        duplicate_detection: false,
        ipv4_only: true,
        mac,
        ipam,
        ports: runtime.port_mappings,
        dns,
        names,
        name: args.k8s_pod_name().map(str::to_owned),
    })
}

fn own_unless_named(ipam: Option<IpamMember>, network: &str) -> Result<Ipam, Error> {
    match ipam {
        None => Err(Error::Config(Fault::NoRanges(network.to_owned()))),
        Some(ipam) if ipam.kind.is_empty() || ipam.kind == "rnet" => Ok(Ipam::Own),
        Some(ipam) => Ok(Ipam::Delegate(ipam.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_name_fits_the_kernel_and_two_long_names_differ() {
        assert_eq!(default_bridge("mynet"), "rnet-mynet");
        let (one, two) = (
            default_bridge(&format!("{}1", "n".repeat(60))),
            default_bridge(&format!("{}2", "n".repeat(60))),
        );
        assert!(one.len() == 15 && one != two);
    }
}
