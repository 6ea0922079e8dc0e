//! The plugin `bridge`, with the reference plugin's keys: it does what they ask for and nothing more.

use cni::{Args, Call, CniResult, Request};
use engine::spec::{Addresses, Spec};
use engine::{Host, check, life};
use nft::Subject;
use serde::Deserialize;
use serde_json::Value;

use crate::error::Fault;
use crate::lease::Delegate;
use crate::members::{ArgsMember, DnsMember, IpamMember, checked_name, ipam, mac, refuse_unknown_backend};
use crate::runtime_config::RuntimeConfig;
use crate::verbs::Verbs;
use crate::{Error, call, proof, reference};

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del, check, status, gc };

/// Its keys (cni.dev/plugins/current/main/bridge).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: u32,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Vec<Value>,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    dns: DnsMember,
    ipam: IpamMember,
    args: ArgsMember,
    runtime_config: RuntimeConfig,
}

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let spec = spec(request)?;
    let container = call::container(request)?;
    if matches!(spec.addresses, Addresses::None) {
        // Not every version can tell of a network without addresses.
        CniResult::default().to_json(request.config.cni_version)?;
    }
    Ok(call::result(life::add(&spec, Some(&container))?))
}

/// As configured; where that is faulty, at least the addresses are released.
fn del(request: &Request<'_>) -> Result<(), Error> {
    let spec = spec(request).unwrap_or_else(|_| {
        Spec::bare("bridge", call::id(request), delegate(ipam(request).unwrap_or_default(), request))
    });
    let others = |host: &mut Host| Ok(reference::detach(host, &spec, request)?);
    Ok(life::del(&spec, &call::kept(request), others)?)
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
    config.validate()?;
    config.refuse_unspeakable(request.call)?;
    let args = Args::of(request.call, &[])?;
    let bridge = if config.bridge.is_empty() { "cni0".to_owned() } else { config.bridge };
    Ok(Spec {
        netns: request.call.netns.clone().into(),
        bridge: checked_name(bridge)?,
        gateway: config.is_gateway || config.is_default_gateway,
        keep_advertisements: true,
        default_gateway: config.is_default_gateway,
        force_address: config.force_address,
        mtu: (config.mtu > 0).then_some(config.mtu),
        snooping: true,
        promiscuous: config.promisc_mode,
        hairpin: config.hairpin_mode,
        port_isolation: config.port_isolation,
        masquerade: config.ip_masq,
        mac_checked: config.macspoofchk,
        interface_up: !config.disable_container_interface,
        duplicate_detection: config.enabledad,
        mac: mac(&args, &config.args, &config.runtime_config)?,
        resolver: config.dns.settings(),
        name: args.k8s_pod_name().map(str::to_owned),
        proof: proof::by_definition(request),
        ..Spec::bare("bridge", call::id(request), delegate(config.ipam, request))
    })
}

impl Config {
    fn validate(&self) -> Result<(), Error> {
        if self.hairpin_mode && self.promisc_mode {
            return Err(Error::Config(Fault::HairpinAndPromisc));
        }
        if !(0..=4094).contains(&self.vlan) {
            return Err(Error::Config(Fault::Vlan(self.vlan)));
        }
        if self.disable_container_interface && !self.ipam.kind.is_empty() {
            return Err(Error::Config(Fault::IpamWithoutInterface));
        }
        refuse_unknown_backend(self.ip_masq_backend.as_deref())?;
        self.refuse_what_is_not_done()
    }

    /// A restriction that is read and not carried out would restrict nothing.
    fn refuse_what_is_not_done(&self) -> Result<(), Error> {
        let vlan = "this version makes no VLANs; use one bridge for each";
        if self.vlan != 0 {
            return Err(Error::Unsupported { key: "vlan", value: self.vlan.to_string(), why: vlan });
        }
        if !self.vlan_trunk.is_empty() {
            let value = Value::Array(self.vlan_trunk.clone()).to_string();
            return Err(Error::Unsupported { key: "vlanTrunk", value, why: vlan });
        }
        Ok(())
    }
}

impl Config {
    /// The names of macspoofchk's chains contain what a caller named; nft must not read more into it.
    fn refuse_unspeakable(&self, call: &Call) -> Result<(), Error> {
        if !self.macspoofchk || Subject::new(&call.container_id, &call.ifname).is_some() {
            return Ok(());
        }
        let why = "its chains are named after container id and interface, which together may have 115 of A-Z a-z 0-9 . _ -";
        Err(Error::Unsupported { key: "macspoofchk", value: "true".into(), why })
    }
}

fn delegate<'r>(ipam: IpamMember, request: &Request<'r>) -> Addresses<'r> {
    match ipam.kind.is_empty() {
        true => Addresses::None,
        false => Addresses::From(Box::new(Delegate::new(ipam.kind, request))),
    }
}
