//! DEL under another network name than ADD's: the definition was renamed meanwhile (docs/rules.md: G2).
//!
//! A DEL touches what its own ADD made. That an attachment under another name is meant must be proven: by the interface in the
//! result that the runtime kept, or by a configuration that is the same except for its name. Otherwise it is left alone.

use cni::{CniResult, Request, conflist};
use serde_json::Value;
use store::{Lock, LockName, Mode, NetworkKey, Record};

use crate::{Error, Host, attach, failpoint};

/// What a configuration has besides the definition: the name, and what the runtime adds call by call.
const VOLATILE: [&str; 5] = ["name", "cniVersion", "prevResult", "runtimeConfig", "args"];

/// The members of a GC call begin so.
const OF_GC: &str = "cni.dev/";

/// The record of the attachment that DEL is about, and its lock; where there is none, that of the name which the network
/// had at ADD. `proof` is what a record of the same attachment says, where the call can tell.
pub fn find(
    host: &mut Host,
    planned: &Record,
    request: &Request<'_>,
    proof: Option<&str>,
) -> Result<(Lock, Option<Record>), Error> {
    let lock = host.lock(LockName::Attachment(planned.key()), Mode::Exclusive)?;
    failpoint::pass("del.lock")?;
    let found = attach::known(host, planned)?;
    if found.is_some() {
        return Ok((lock, found));
    }
    let Some(former) = former(host, planned, request, proof)? else { return Ok((lock, None)) };
    host.store.retire(lock)?;
    let lock = host.lock(LockName::Attachment(former.key()), Mode::Exclusive)?;
    // Another DEL may have come first. To repeat it is no harm.
    Ok((lock, Some(attach::known(host, &former)?.unwrap_or(former))))
}

/// What an interface plugin's record says of the configuration that it was made from: 16 hex digits.
pub fn proof_by_definition(request: &Request<'_>) -> Option<String> {
    let members = request.config.raw.as_object()?.iter();
    let lasting = members.filter(|(key, _)| !VOLATILE.contains(&key.as_str()) && !key.starts_with(OF_GC));
    let mut lines: Vec<String> = lasting.map(|(key, value)| format!("{key}={}", sorted(value))).collect();
    lines.sort_unstable();
    Some(NetworkKey::new(&lines.join("\n")).as_str().to_owned())
}

/// What a chained plugin's record says of the result that it was given: the interfaces' names and the addresses. Plugins
/// behind it may have added interfaces to the result by now, so the number of those that count comes first.
pub fn proof_by_result(result: &CniResult) -> String {
    proof_of_first(result, result.interfaces.len())
}

/// The same of the result that a runtime has kept, for the record that says `proof`.
fn is_proof_of(proof: &str, result: &CniResult) -> bool {
    let count = proof.split_once(':').and_then(|(count, _)| count.parse().ok());
    count.is_some_and(|count| proof_of_first(result, count) == proof)
}

fn proof_of_first(result: &CniResult, count: usize) -> String {
    let names = result.interfaces.iter().take(count).map(|interface| interface.name.clone());
    let addresses = result.ips.iter().map(|ip| ip.address.to_string());
    let text = names.chain(addresses).collect::<Vec<_>>().join("\n");
    format!("{count}:{}", NetworkKey::new(&text))
}

/// JSON whose members are in order: others may have written it anew.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(key, value)| format!("{key:?}:{}", sorted(value))).collect();
            members.sort_unstable();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// The one record of that container's interface under the name of another network, if it is proven to be meant. A network
/// that is still defined was not renamed: the container is on it, and this DEL follows an ADD that was refused.
///
/// Most DELs without a record are repetitions, so it reads no list of records, but one short file for each network.
fn former(
    host: &Host,
    planned: &Record,
    request: &Request<'_>,
    proof: Option<&str>,
) -> Result<Option<Record>, Error> {
    let mut found = Vec::new();
    for network in host.store.networks()? {
        if network.plugin == planned.plugin && network.name != planned.network {
            let alias = Record { network: network.name, ..planned.clone() };
            found.extend(host.store.record(&alias.network, &alias.plugin, &alias.key())?);
        }
    }
    // What cannot be read says nothing of the network that was called so.
    let previous = request.config.prev_result().ok().flatten();
    found.retain(|record| is_proven(record, previous.as_ref(), proof));
    let defined = |name: &str| conflist::load(&host.store.paths().definitions(), name).is_ok();
    match found.as_slice() {
        [one] if !defined(&one.network) => Ok(found.pop()),
        _ => Ok(None),
    }
}

fn is_proven(record: &Record, previous: Option<&CniResult>, proof: Option<&str>) -> bool {
    let is_own = |result: &CniResult| match (&record.link, &record.proof) {
        (Some(link), _) => {
            result.interfaces.iter().any(|found| &found.name == link && found.sandbox.is_none())
        }
        (None, Some(proof)) => is_proof_of(proof, result),
        (None, None) => false,
    };
    let by_definition = proof.is_some() && record.proof.as_deref() == proof;
    !record.container.is_empty() && (previous.is_some_and(is_own) || by_definition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_in_another_order_are_the_same_and_other_values_are_not() {
        let of = |text: &str| sorted(&serde_json::from_str(text).unwrap());

        assert_eq!(of(r#"{"a":[1,{"b":2,"c":3}],"d":"x"}"#), of(r#"{"d":"x","a":[1,{"c":3,"b":2}]}"#));
        assert_ne!(of(r#"{"a":[1,2]}"#), of(r#"{"a":[2,1]}"#));
    }
}
