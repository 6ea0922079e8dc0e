//! What is on record: which attachments there are, which of them live, and which are to stay.

use std::collections::HashSet;

use netlink::Netns;
use store::{Id, Namespace, Record, Stage};

use crate::{Error, Finding, Host, link, living};

/// True if the container of a record is still there: its interface is, or, where another program made that, its namespace.
///
/// # Errors
/// The kernel cannot be asked.
pub fn is_alive(host: &mut Host, record: &Record) -> Result<bool, Error> {
    if record.link.is_some() {
        return Ok(link::find(host, record)?.is_some());
    }
    Ok(record.netns.as_ref().is_some_and(is_there))
}

/// The records of a network that this plugin wrote.
pub(crate) fn of_network(host: &Host, plugin: &str, network: &str) -> Result<Vec<Record>, Error> {
    let mut records = host.store.records()?;
    records.retain(|record| record.network == network && record.plugin == plugin);
    Ok(records)
}

/// A namespace as records keep it.
pub fn namespace(netns: &Netns) -> Namespace {
    Namespace { path: netns.path().into(), dev: netns.id().dev, ino: netns.id().ino }
}

/// True if the namespace can still be found where it was, or lives on without a path: that is looked for last, in all
/// processes.
pub(crate) fn is_there(namespace: &Namespace) -> bool {
    let is_it = |found: Netns| (found.id().dev, found.id().ino) == (namespace.dev, namespace.ino);
    Netns::open(&namespace.path).is_ok_and(is_it) || living::namespaces().contains(&namespace.ino)
}

/// The refusal of a second attachment.
pub(crate) fn already_attached(first: Record) -> Error {
    let addresses: Vec<String> =
        first.addresses.iter().map(|address| address.address.ip().to_string()).collect();
    Error::AlreadyAttached {
        who: first.who().to_owned(),
        link: first.link.unwrap_or_default(),
        ifname: first.ifname,
        network: first.network,
        addresses: addresses.join(", "),
    }
}

/// The refusal of a second ADD for an attachment that lives and is not on record.
pub(crate) fn already_attached_unrecorded(record: &Record) -> Error {
    Error::AlreadyAttached {
        who: record.who().to_owned(),
        link: record.key().link(0),
        ifname: record.ifname.clone(),
        network: record.network.clone(),
        addresses: "its record was lost".into(),
    }
}

/// The finding for an attachment that was never made or is gone.
pub fn no_record(id: &Id) -> Finding {
    let Id { network, container, ifname } = id.clone();
    Finding::NoRecord { network, container, ifname }
}

/// The attachments that a GC names, by container id and interface; none means that it names no list.
pub struct Valid(Option<HashSet<(String, String)>>);

impl Valid {
    /// As the caller said.
    pub fn new(valid: Option<Vec<(String, String)>>) -> Self {
        Self(valid.map(|valid| valid.into_iter().collect()))
    }

    /// The list, in no order.
    pub(crate) fn list(&self) -> Option<Vec<(String, String)>> {
        self.0.as_ref().map(|valid| valid.iter().cloned().collect())
    }
}

/// True if GC may not touch an attachment: it is valid; without a list, its container is there and its ADD came to an end.
/// What `rnet run` made is in no runtime's list, and stays while it lives.
pub(crate) fn is_to_stay(host: &mut Host, record: &Record, valid: &Valid) -> Result<bool, Error> {
    let is_valid = |valid: &HashSet<_>| valid.contains(&(record.container.clone(), record.ifname.clone()));
    match &valid.0 {
        Some(valid) if is_valid(valid) => Ok(true),
        Some(_) if !host.store.is_endpoint(&record.container)? => Ok(false),
        _ => Ok(record.stage == Stage::Committed && is_alive(host, record)?),
    }
}

/// Says what GC has removed, on standard error: a runtime that names too few is found out by it.
pub(crate) fn tell_removed(record: &Record) {
    let addresses: Vec<String> =
        record.addresses.iter().map(|address| address.address.ip().to_string()).collect();
    let (who, addresses) = (record.who(), addresses.join(", "));
    eprintln!(
        "{}: GC of network {:?} removed {who:?} {} ({addresses})",
        record.plugin, record.network, record.ifname
    );
}
