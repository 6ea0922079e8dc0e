//! What plugins that follow another in a list have in common: the interface is there, and they add features to it.

use cni::{Args, CniResult, Request, Verb};
use engine::spec::{Addresses, Lease, Spec};
use engine::{Error, Host, check, register};

use crate::call;

/// Opens the host for a call.
pub fn open(verb: &str, request: &Request<'_>) -> Result<Host, Error> {
    Host::open(format!("{verb} {}", call::id(request)))
}

/// The spec without any feature: what the call and the plugins before this one tell of the container.
pub fn spec<'a>(plugin: &'static str, request: &Request<'_>, previous: &CniResult) -> Spec<'a> {
    let addresses = call::container_addresses(previous, &request.call.ifname);
    let proof = || engine::proof_by_result(&call::outcome(previous.clone()));
    Spec {
        netns: request.call.netns.clone().into(),
        // portmap parses no CNI_ARGS, and dnsname has done so: what cannot be read is no fault here.
        name: Args::parse(&request.call.args, &[])
            .ok()
            .and_then(|args| args.k8s_pod_name().map(str::to_owned)),
        proof: (request.call.verb == Verb::Add).then(proof),
        ..Spec::bare(plugin, call::id(request), given(addresses))
    }
}

/// The same for a DEL that tells nothing but the attachment's name.
pub fn bare<'a>(plugin: &'static str, request: &Request<'_>) -> Spec<'a> {
    Spec::bare(plugin, call::id(request), given(Vec::new()))
}

fn given<'a>(addresses: Vec<store::Address>) -> Addresses<'a> {
    Addresses::Given(Lease { addresses, ..Lease::default() })
}

/// CHECK: what is on record of the attachment is as ADD left it.
pub fn check(plugin: &str, request: &Request<'_>) -> Result<(), Error> {
    let mut host = open("CHECK", request)?;
    let id = call::id(request);
    let record = host.store.record(&id.network, plugin, &id.key())?;
    check::health(&mut host, &record.ok_or_else(|| register::no_record(&id))?)
}
