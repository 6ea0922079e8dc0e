//! The calls that each verb makes of a list: the plugins in turn, and what each reads on stdin (libcni's rules).

use serde_json::{Map, Value, json};

use super::{Attachment, Invoke, List, type_of};
use crate::call::Verb;
use crate::config;
use crate::error::Error;
use crate::fault::Fault;
use crate::fold;
use crate::result::CniResult;
use crate::version::Version;

/// Attaches: every plugin in turn, each with the result of those before it. If one fails, all are called with DEL,
/// in reverse and without a result, and the first error is returned.
///
/// # Errors
/// The failing plugin's, or code 4 for a malformed attachment.
pub fn add(list: &List, attachment: &Attachment, invoke: &mut Invoke<'_>) -> Result<CniResult, Error> {
    attachment.check()?;
    let added = add_all(list, attachment, invoke);
    if added.is_err() {
        // The ADD's error is the one to report; the runtime repeats a DEL that fails now.
        let _ = del(list, attachment, None, invoke);
    }
    added
}

/// Detaches: every plugin in reverse, even after one failed, so that one bad DEL leaves no other undone.
///
/// # Errors
/// Those of all plugins that failed, the first in front, or code 4 for a malformed attachment.
pub fn del(
    list: &List,
    attachment: &Attachment,
    prev: Option<&CniResult>,
    invoke: &mut Invoke<'_>,
) -> Result<(), Error> {
    attachment.check()?;
    // DEL has a prevResult since 0.4.0.
    let prev = prev.filter(|_| list.cni_version >= Version::V0_4_0);
    let prev = prev.map(|result| result.to_json(list.cni_version)).transpose()?;
    let plugins = list.plugins.iter().rev();
    run_all(plugins.map(|plugin| {
        let config = configuration(list, plugin, Some(attachment), prev.as_ref());
        invoke(type_of(plugin), Verb::Del, &config).map(|_| ())
    }))
}

/// Checks: every plugin in the order of ADD, and stops at the first that fails.
///
/// # Errors
/// The failing plugin's; code 1 if the list is older than CHECK; 4 for a malformed attachment.
pub fn check(
    list: &List,
    attachment: &Attachment,
    prev: &CniResult,
    invoke: &mut Invoke<'_>,
) -> Result<(), Error> {
    attachment.check()?;
    if list.cni_version < Version::V0_4_0 {
        return Err(Fault::ListCheck { version: list.cni_version }.into());
    }
    if list.disable_check {
        return Ok(());
    }
    let prev = prev.to_json(list.cni_version)?;
    for plugin in &list.plugins {
        let config = configuration(list, plugin, Some(attachment), Some(&prev));
        invoke(type_of(plugin), Verb::Check, &config)?;
    }
    Ok(())
}

/// Asks every plugin whether an ADD would work; a list older than STATUS (1.1.0) is not asked.
///
/// # Errors
/// The first plugin's that says no.
pub fn status(list: &List, invoke: &mut Invoke<'_>) -> Result<(), Error> {
    if list.cni_version < Version::V1_1_0 {
        return Ok(());
    }
    for plugin in &list.plugins {
        invoke(type_of(plugin), Verb::Status, &configuration(list, plugin, None, None))?;
    }
    Ok(())
}

/// Lets every plugin remove what belongs to none of `valid`, even after one failed; with `None` the plugins get no list. A
/// list older than GC (1.1.0) is not asked.
///
/// # Errors
/// Those of all plugins that failed, the first in front.
pub fn gc(list: &List, valid: Option<&[config::Attachment]>, invoke: &mut Invoke<'_>) -> Result<(), Error> {
    if list.cni_version < Version::V1_1_0 || list.disable_gc {
        return Ok(());
    }
    run_all(list.plugins.iter().map(|plugin| {
        let mut config = configuration(list, plugin, None, None);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            if let Some(valid) = valid {
                set(&mut config, key, json!(valid));
            }
        }
        invoke(type_of(plugin), Verb::Gc, &config).map(|_| ())
    }))
}

/// The type of a list's first plugin, which makes the interface, and what it reads on stdin if the call is about no
/// attachment.
pub fn first(list: &List) -> Option<(&str, Value)> {
    let plugin = list.plugins.first()?;
    Some((type_of(plugin), configuration(list, plugin, None, None)))
}

fn add_all(list: &List, attachment: &Attachment, invoke: &mut Invoke<'_>) -> Result<CniResult, Error> {
    let mut prev: Option<Value> = None;
    for plugin in &list.plugins {
        let config = configuration(list, plugin, Some(attachment), prev.as_ref());
        let result = invoke(type_of(plugin), Verb::Add, &config)?.ok_or_else(|| no_result(list, plugin))?;
        // A plugin may answer in another version; the next one gets the result in the list's.
        prev = Some(match CniResult::parse(&result, list.cni_version) {
            Ok(_) => with_version(result, list.cni_version),
            Err(_) => CniResult::parse_any(&result, list.cni_version)?.to_json(list.cni_version)?,
        });
    }
    CniResult::parse(&prev.unwrap_or_else(|| json!({})), list.cni_version)
}

fn no_result(list: &List, plugin: &Value) -> Fault {
    Fault::ListNoResult { network: list.name.clone(), plugin: type_of(plugin).to_owned() }
}

/// What one plugin reads on stdin: its own part, the list's name and version, what the runtime gives it.
fn configuration(
    list: &List,
    plugin: &Value,
    attachment: Option<&Attachment>,
    prev: Option<&Value>,
) -> Value {
    let mut config = plugin.clone();
    set(&mut config, "name", json!(list.name));
    set(&mut config, "cniVersion", json!(list.cni_version.as_str()));
    let given =
        attachment.map(|attachment| runtime_config(plugin, &attachment.capabilities)).unwrap_or_default();
    if !given.is_empty() {
        set(&mut config, "runtimeConfig", Value::Object(given));
    }
    if let Some(prev) = prev {
        set(&mut config, "prevResult", prev.clone());
    }
    config
}

/// The members of `given` that the plugin's `capabilities` declare.
fn runtime_config(plugin: &Value, given: &Map<String, Value>) -> Map<String, Value> {
    let capabilities = plugin.as_object().and_then(|plugin| fold::member(plugin, "capabilities"));
    let wants = |key: &str| capabilities.and_then(|wanted| wanted.get(key)) == Some(&Value::Bool(true));
    given.iter().filter(|(key, _)| wants(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Sets a member and removes its other spellings, which a reader could prefer.
fn set(config: &mut Value, key: &str, value: Value) {
    if let Value::Object(object) = config {
        object.retain(|other, _| other == key || !other.eq_ignore_ascii_case(key));
        object.insert(key.to_owned(), value);
    }
}

fn with_version(mut result: Value, version: Version) -> Value {
    let unset = result.as_object().is_some_and(|object| fold::member(object, "cniVersion").is_none());
    if unset {
        set(&mut result, "cniVersion", json!(version.as_str()));
    }
    result
}

/// Goes through all outcomes; the first error is returned, the others are appended to its details.
fn run_all(outcomes: impl Iterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let errors = outcomes.filter_map(Result::err).collect::<Vec<_>>().into_iter();
    errors.reduce(|first, next| first.and(&next.to_string())).map_or(Ok(()), Err)
}
