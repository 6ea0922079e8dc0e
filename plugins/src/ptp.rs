//! The plugin `ptp`, with the reference plugin's keys: a veth pair between host and container, without a bridge.

use cni::{Args, CniResult, Request};
use engine::spec::{Addresses, Spec};
use engine::{Finding, Host, check, life};
use serde::Deserialize;

use crate::error::own;
use crate::lease::Delegate;
use crate::members::{DnsMember, IpamMember, ipam, refuse_unknown_backend};
use crate::verbs::Verbs;
use crate::{Error, call, proof, reference};

const PLUGIN: &str = "ptp";

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del, check, status, gc };

/// Its keys (cni.dev/plugins/current/main/ptp).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: u32,
    dns: DnsMember,
    ipam: IpamMember,
}

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let spec = spec(request)?;
    let container = call::container(request)?;
    Ok(call::result(life::add(&spec, Some(&container))?))
}

/// As configured. Where that is faulty, the IPAM plugin is still told to release the addresses.
fn del(request: &Request<'_>) -> Result<(), Error> {
    let bare = |_| {
        let ipam = ipam(request).unwrap_or_default();
        let addresses = if ipam.kind.is_empty() { Addresses::None } else { delegate(ipam, request) };
        Spec::bare(PLUGIN, call::id(request), addresses)
    };
    let spec = spec(request).unwrap_or_else(bare);
    let others = |host: &mut Host| Ok(reference::detach(host, &spec, request)?);
    Ok(life::del(&spec, &call::kept(request), others)?)
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let spec = spec(request)?;
    let outcome = call::required_outcome(request).map_err(in_upstreams_words)?;
    check::attachment(&spec, &outcome).map_err(|error| in_upstreams_words(error.into()))
}

fn status(request: &Request<'_>) -> Result<(), Error> {
    Ok(life::status(&spec(request)?)?)
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    Ok(life::gc(&spec(request)?, &call::valid(request))?)
}

/// An attachment as configured. The engine refuses one without an IPAM plugin, in upstream's words.
pub fn spec<'r>(request: &Request<'r>) -> Result<Spec<'r>, Error> {
    let config: Config = request.config.section()?;
    refuse_unknown_backend(config.ip_masq_backend.as_deref())?;
    // The reference plugin reads no CNI_ARGS: what cannot be read is no fault here.
    let args = Args::parse(&request.call.args, &[]).ok();
    Ok(Spec {
        netns: request.call.netns.clone().into(),
        gateway: true,
        keep_advertisements: true,
        mtu: (config.mtu > 0).then_some(config.mtu),
        masquerade: config.ip_masq,
        interface_up: true,
        resolver: config.dns.settings(),
        name: args.and_then(|args| args.k8s_pod_name().map(str::to_owned)),
        proof: proof::by_definition(request),
        ..Spec::bare(PLUGIN, call::id(request), delegate(config.ipam, request))
    })
}

fn delegate<'r>(ipam: IpamMember, request: &Request<'r>) -> Addresses<'r> {
    Addresses::From(Box::new(Delegate::new(ipam.kind, request)))
}

/// What CHECK finds, in the words of the reference `ptp` where they differ from those of `bridge`.
fn in_upstreams_words(error: Error) -> Error {
    let msg = match &error {
        Error::NoPrevResult => "ptp: Required prevResult missing".into(),
        Error::Engine(engine::Error::Check(finding)) => match finding {
            Finding::NoInterface(ifname) | Finding::NoContainerLink(ifname) => {
                format!("ptp: Container Interface name in prevResult: {ifname} not found")
            }
            Finding::Mac { .. } => format!("ptp: {finding}"),
            _ => return error,
        },
        _ => return error,
    };
    Error::Cni(cni::Error { code: own::CHECK_FAILED, msg, details: String::new() })
}
