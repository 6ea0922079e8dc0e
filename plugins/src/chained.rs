//! What plugins have in common that follow another in a list: they keep a record beside the first one's, and make
//! nothing that could not be told from it.

use std::path::PathBuf;

use cni::{Args, CniResult, Request};
use engine::{Error, Host, register};
use store::{Namespace, Record};

use crate::call;

/// Opens the host for a call.
pub fn open(verb: &str, request: &Request<'_>) -> Result<Host, Error> {
    Host::open(format!("{verb} {}", call::id(request)))
}

/// The record that `plugin` keeps, with what the call and the plugins before this one tell of the container.
pub fn record(plugin: &str, request: &Request<'_>, previous: &CniResult) -> Record {
    let netns = PathBuf::from(&request.call.netns);
    let identity = netlink::Netns::open(&netns).map(|netns| register::namespace(&netns));
    Record {
        // portmap parses no CNI_ARGS, and dnsname has done so: what cannot be read is no fault here.
        name: Args::parse(&request.call.args, &[])
            .ok()
            .and_then(|args| args.k8s_pod_name().map(str::to_owned)),
        netns: Some(identity.unwrap_or(Namespace { path: netns, dev: 0, ino: 0 })),
        proof: Some(engine::proof_by_result(&call::outcome(previous.clone()))),
        addresses: call::container_addresses(previous, &request.call.ifname),
        ..Record::of(plugin, &call::id(request))
    }
}

/// The record of an attachment of `plugin`, for CHECK.
pub fn recorded(host: &Host, plugin: &str, request: &Request<'_>) -> Result<Record, Error> {
    let id = call::id(request);
    let record = host.store.record(&id.network, plugin, &id.key())?;
    record.ok_or_else(|| register::no_record(&id).into())
}
