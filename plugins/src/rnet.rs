//! The plugin `rnet`: bridge, lease, addresses, published ports, isolation and guards, all in one process.

use cni::{Args, CniResult, Dns, Request, Verb};
use engine::Served;
use engine::spec::Ranges;
use engine::spec::{Addresses, Spec};
use engine::{check, life};
use serde::Deserialize;

use crate::error::Fault;
use crate::lease::Delegate;
use crate::members::{self, ArgsMember, IpamMember};
use crate::runtime_config::RuntimeConfig;
use crate::verbs::Verbs;
use crate::{Error, call, host_local, names, proof};

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del, check, status, gc };

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
    /// Answers from outside that point into one of rnet's subnets are dropped: no web page reaches a container by a name of
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

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let spec = spec(request)?;
    let container = call::container(request)?;
    Ok(call::result(life::add(&spec, Some(&container))?))
}

/// As configured; where that is faulty, at least the addresses are released.
fn del(request: &Request<'_>) -> Result<(), Error> {
    let spec = spec(request).unwrap_or_else(|_| {
        let addresses = addresses(members::ipam(request), request);
        let own = || Addresses::Own(Ranges::default());
        Spec::bare("rnet", call::id(request), addresses.unwrap_or_else(|_| own()))
    });
    Ok(life::del(&spec, &call::kept(request), |_| Ok(()))?)
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let spec = spec(request)?;
    Ok(check::attachment(&spec, &call::required_outcome(request)?)?)
}

fn status(request: &Request<'_>) -> Result<(), Error> {
    Ok(life::status(&spec(request)?)?)
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    Ok(life::gc(&spec(request)?, &call::valid(request))?)
}

/// An attachment as configured.
pub fn spec<'r>(request: &Request<'r>) -> Result<Spec<'r>, Error> {
    let config: Config = request.config.section()?;
    let args = Args::of(request.call, &[])?;
    let ports = config.runtime_config.publish()?;
    let guarded = match args.spoof_guard() {
        // What was attached is on record.
        Err(_) if request.call.verb == Verb::Del => None,
        other => other?,
    };
    let mac = members::mac(&args, &config.args, &config.runtime_config)?;
    let name = &request.config.name;
    let bridge = if config.bridge.is_empty() { members::default_bridge(name) } else { config.bridge };
    let addresses = addresses(config.ipam, request)?;
    let sticky = config.sticky_addresses && matches!(addresses, Addresses::Own(_));
    let (dns, runtime) = (config.dns.filter(|dns| !dns.is_empty()), config.runtime_config);
    let names = match config.names {
        true => {
            let dns = dns.clone().unwrap_or_default();
            let names = names::names(name, dns, runtime.dns, &runtime.aliases, args.hostname())?;
            Some(Served { rebinding_guard: config.rebinding_guard, ..names })
        }
        false => None,
    };
    Ok(Spec {
        netns: request.call.netns.clone().into(),
        bridge: members::checked_name(bridge)?,
        owns_bridge: true,
        gateway: true,
        keep_advertisements: config.uplink_accept_ra,
        default_gateway: true,
        force_address: true,
        mtu: (config.mtu > 0).then_some(config.mtu),
        inherit_mtu: true,
        sticky,
        hairpin: config.hairpin_mode,
        port_isolation: config.port_isolation,
        masquerade: config.ip_masq,
        isolated: config.isolate,
        interop: config.interop,
        guarded: guarded.unwrap_or(config.spoof_guard),
        interface_up: true,
        ipv4_only: true,
        mac,
        ports,
        resolver: dns.map(call::resolver),
        names,
        name: args.k8s_pod_name().map(str::to_owned),
        proof: proof::by_definition(request),
        ..Spec::bare("rnet", call::id(request), addresses)
    })
}

/// rnet's own, unless another plugin is named. Only ADD and STATUS need the ranges.
fn addresses<'r>(ipam: Option<IpamMember>, request: &Request<'r>) -> Result<Addresses<'r>, Error> {
    let Some(IpamMember { kind }) = ipam else {
        return Err(Error::Config(Fault::NoRanges(request.config.name.clone())));
    };
    if !kind.is_empty() && kind != "rnet" {
        return Ok(Addresses::From(Box::new(Delegate::new(kind, request))));
    }
    Ok(Addresses::Own(match request.call.verb {
        Verb::Add => host_local::ranges(request)?,
        Verb::Status => Ranges { sets: host_local::sets(request)?, ..Ranges::default() },
        _ => Ranges::default(),
    }))
}
