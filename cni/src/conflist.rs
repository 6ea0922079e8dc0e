//! What a runtime does with a list of plugins: finding it, calling its plugins in turn, undoing (libcni's rules).
//!
//! How a plugin is called (as a process or within this one) is the caller's `invoke`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::call::{Call, Verb, check_container_id, check_ifname, is_name};
use crate::config;
use crate::error::{Error, Fault, kind};
use crate::fold;
use crate::result::CniResult;
use crate::version::Version;

/// Calls one plugin: its `type`, the verb, its complete configuration. An ADD returns the result.
pub type Invoke<'a> = dyn FnMut(&str, Verb, &Value) -> Result<Option<Value>, Error> + 'a;

/// A network as a list of plugins.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// The network.
    pub name: String,
    /// The newest supported one of `cniVersion` and `cniVersions`.
    pub cni_version: Version,
    /// CHECK succeeds without calling any plugin.
    pub disable_check: bool,
    /// GC succeeds without calling any plugin.
    pub disable_gc: bool,
    /// The plugins' configurations, each an object with a `type`, in the order of ADD.
    pub plugins: Vec<Value>,
    /// The document as it was read.
    pub raw: Value,
}

/// One container's interface on a network, as its runtime sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: Vec<(String, String)>,
    /// What runtimeConfig holds for the plugins that declare the capability.
    pub capabilities: Map<String, Value>,
}

impl List {
    /// Reads a list (`plugins`), or a single plugin's configuration (`type`) as a list of one.
    ///
    /// # Errors
    /// Code 6: no JSON; 7: a missing or wrong member; 1: no supported version.
    pub fn parse(json: &[u8]) -> Result<List, Error> {
        let raw: Value = serde_json::from_slice(json).map_err(|source| Fault::ListJson { source })?;
        let Value::Object(object) = &raw else {
            return Err(Fault::NotAnObject { found: kind(&raw) }.into());
        };
        let plugins = match (fold::member(object, "plugins"), fold::member(object, "type")) {
            (Some(Value::Array(plugins)), _) => plugins.clone(),
            (Some(other), _) => return Err(wrong_type("plugins", other, "an array").into()),
            (None, Some(_)) => vec![raw.clone()],
            (None, None) => return Err(Fault::ListMissing { key: "plugins" }.into()),
        };
        Ok(List {
            name: name(object)?,
            cni_version: version(object)?,
            disable_check: flag(object, "disableCheck")?,
            disable_gc: flag(object, "disableGC")?,
            plugins: checked(plugins)?,
            raw,
        })
    }

    /// Reads a list from a file.
    ///
    /// # Errors
    /// Code 5: the file cannot be read; else as [`List::parse`], the file named in the details.
    pub fn read(file: &Path) -> Result<List, Error> {
        let cannot_read = |source| Fault::ListRead { path: file.to_owned(), source };
        let json = fs::read(file).map_err(cannot_read)?;
        List::parse(&json).map_err(|error| error.and(&file.display().to_string()))
    }
}

impl Attachment {
    /// The environment of one plugin's call for this attachment.
    pub fn call(&self, verb: Verb, path: Vec<PathBuf>) -> Call {
        let args: Vec<_> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Call {
            verb,
            container_id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            args: args.join(";"),
            path,
            netns_override: false,
            own_delegates: false,
        }
    }

    fn check(&self) -> Result<(), Fault> {
        check_container_id(&self.container_id)?;
        if self.ifname.is_empty() {
            return Err(Fault::VariablesMissing { names: vec!["CNI_IFNAME"] });
        }
        check_ifname(&self.ifname)
    }
}

/// The configuration files in a folder (`.conf`, `.conflist`, `.json`), sorted by name; a missing folder has none.
///
/// # Errors
/// Code 5: the folder cannot be read.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let cannot_read = |source| Fault::ListRead { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot_read)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut files = paths.collect::<io::Result<Vec<_>>>().map_err(cannot_read)?;
    files.retain(|path| is_configuration(path));
    files.sort();
    Ok(files)
}

/// The network `name` from a folder: the first list of that name, else the first single configuration.
///
/// # Errors
/// Code 7: no readable file defines it; a file that cannot be read or parsed hides no other, the details name it.
pub fn load(dir: &Path, name: &str) -> Result<List, Error> {
    let (lists, singles): (Vec<_>, Vec<_>) =
        files(dir)?.into_iter().partition(|path| has_extension(path, "conflist"));
    let mut broken = Vec::new();
    for file in lists.into_iter().chain(singles) {
        match List::read(&file) {
            Ok(list) if list.name == name => return Ok(list),
            Ok(_) => {}
            Err(error) => broken.push(error.to_string()),
        }
    }
    let missing = Fault::ListNotFound { name: name.to_owned(), dir: dir.to_owned() };
    Err(Error::from(missing).with_details(broken.join("; ")))
}

/// Attaches: every plugin in turn, each with the result of those before it. If one fails, all are called with DEL,
/// in reverse and without a result, and the first error is returned.
///
/// # Errors
/// The failing plugin's, or code 4 for a malformed attachment.
pub fn add(list: &List, attachment: &Attachment, invoke: &mut Invoke<'_>) -> Result<CniResult, Error> {
    attachment.check()?;
    let added = add_all(list, attachment, invoke);
    if added.is_err() {
        // The ADD's error is the one to tell; a DEL that fails now will be repeated by the runtime.
        let _ = del(list, attachment, None, invoke);
    }
    added
}

/// Detaches: every plugin in reverse, even after one failed, so that one bad DEL strands nobody.
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
    // DEL learned of prevResult with 0.4.0.
    let prev = prev.filter(|_| list.cni_version >= Version::V0_4_0);
    let prev = prev.map(|result| result.to_json(list.cni_version)).transpose()?;
    let plugins = list.plugins.iter().rev();
    together(plugins.map(|plugin| {
        let config = configuration(list, plugin, Some(attachment), prev.as_ref());
        invoke(type_of(plugin), Verb::Del, &config).map(|_| ())
    }))
}

/// Checks: every plugin in the order of ADD, the first that fails ends it.
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

/// Lets every plugin remove what belongs to none of `valid`, even after one failed; `None` leaves the list out. A
/// list older than GC (1.1.0) is not asked.
///
/// # Errors
/// Those of all plugins that failed, the first in front.
pub fn gc(list: &List, valid: Option<&[config::Attachment]>, invoke: &mut Invoke<'_>) -> Result<(), Error> {
    if list.cni_version < Version::V1_1_0 || list.disable_gc {
        return Ok(());
    }
    together(list.plugins.iter().map(|plugin| {
        let mut config = configuration(list, plugin, None, None);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            if let Some(valid) = valid {
                set(&mut config, key, json!(valid));
            }
        }
        invoke(type_of(plugin), Verb::Gc, &config).map(|_| ())
    }))
}

/// The type of a list's first plugin, which makes the interface, and what it reads on stdin for the network alone.
pub fn first(list: &List) -> Option<(&str, Value)> {
    let plugin = list.plugins.first()?;
    Some((type_of(plugin), configuration(list, plugin, None, None)))
}

fn add_all(list: &List, attachment: &Attachment, invoke: &mut Invoke<'_>) -> Result<CniResult, Error> {
    let mut prev: Option<Value> = None;
    for plugin in &list.plugins {
        let config = configuration(list, plugin, Some(attachment), prev.as_ref());
        let result = invoke(type_of(plugin), Verb::Add, &config)?.ok_or_else(|| no_result(list, plugin))?;
        // A plugin may answer in a version of its own; the next one is told in the list's.
        prev = Some(match CniResult::parse(&result, list.cni_version) {
            Ok(_) => versioned(result, list.cni_version),
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
    let given = attachment.map(|attachment| declared(plugin, &attachment.capabilities)).unwrap_or_default();
    if !given.is_empty() {
        set(&mut config, "runtimeConfig", Value::Object(given));
    }
    if let Some(prev) = prev {
        set(&mut config, "prevResult", prev.clone());
    }
    config
}

/// Only what a plugin's `capabilities` declare reaches it.
fn declared(plugin: &Value, given: &Map<String, Value>) -> Map<String, Value> {
    let capabilities = plugin.as_object().and_then(|plugin| fold::member(plugin, "capabilities"));
    let wants = |key: &str| capabilities.and_then(|wanted| wanted.get(key)) == Some(&Value::Bool(true));
    given.iter().filter(|(key, _)| wants(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Sets a member and takes away its other spellings, which a reader could prefer.
fn set(config: &mut Value, key: &str, value: Value) {
    if let Value::Object(object) = config {
        object.retain(|other, _| other == key || !other.eq_ignore_ascii_case(key));
        object.insert(key.to_owned(), value);
    }
}

fn versioned(mut result: Value, version: Version) -> Value {
    let unset = result.as_object().is_some_and(|object| fold::member(object, "cniVersion").is_none());
    if unset {
        set(&mut result, "cniVersion", json!(version.as_str()));
    }
    result
}

/// Consumes all outcomes; the first error comes first, the others follow in its details.
fn together(outcomes: impl Iterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let errors = outcomes.filter_map(Result::err).collect::<Vec<_>>().into_iter();
    errors.reduce(|first, next| first.and(&next.to_string())).map_or(Ok(()), Err)
}

fn type_of(plugin: &Value) -> &str {
    plugin
        .as_object()
        .and_then(|plugin| fold::member(plugin, "type"))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn name(object: &Map<String, Value>) -> Result<String, Fault> {
    match fold::member(object, "name") {
        None => Err(Fault::ListMissing { key: "name" }),
        Some(Value::String(name)) if is_name(name) => Ok(name.clone()),
        Some(Value::String(name)) => Err(Fault::NameCharacters { name: name.clone() }),
        Some(other) => Err(wrong_type("name", other, "a string")),
    }
}

/// `cniVersions` lists further versions of the same list; unsupported ones are for other readers.
fn version(object: &Map<String, Value>) -> Result<Version, Fault> {
    let single = match fold::member(object, "cniVersion") {
        None => None,
        Some(Value::String(text)) => Some(text.as_str()).filter(|text| !text.is_empty()),
        Some(other) => return Err(wrong_type("cniVersion", other, "a string")),
    };
    let listed = match fold::member(object, "cniVersions") {
        None => [].as_slice(),
        Some(Value::Array(texts)) => texts,
        Some(other) => return Err(wrong_type("cniVersions", other, "an array")),
    };
    let texts = listed.iter().filter_map(Value::as_str).chain(single);
    match (texts.filter_map(|text| text.parse().ok()).max(), single) {
        (Some(version), _) => Ok(version),
        (None, Some(text)) => Err(Fault::Incompatible { config: text.to_owned() }),
        (None, None) => Ok(Version::V0_1_0),
    }
}

/// A boolean, which libcni takes as a string too.
fn flag(object: &Map<String, Value>, key: &'static str) -> Result<bool, Fault> {
    match fold::member(object, key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") || text == "1" => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") || text == "0" => Ok(false),
        Some(other) => Err(wrong_type(key, other, "a boolean")),
    }
}

fn checked(plugins: Vec<Value>) -> Result<Vec<Value>, Fault> {
    if plugins.is_empty() {
        return Err(Fault::ListMissing { key: "plugins" });
    }
    match plugins.iter().position(|plugin| type_of(plugin).is_empty()) {
        Some(index) => Err(Fault::ListPlugin { index }),
        None => Ok(plugins),
    }
}

fn wrong_type(key: &'static str, found: &Value, expected: &'static str) -> Fault {
    Fault::ListType { key, found: kind(found), expected }
}

fn is_configuration(path: &Path) -> bool {
    ["conf", "conflist", "json"].iter().any(|extension| has_extension(path, extension)) && path.is_file()
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn list(value: Value) -> List {
        List::parse(value.to_string().as_bytes()).unwrap()
    }

    fn refused(value: Value) -> Error {
        List::parse(value.to_string().as_bytes()).unwrap_err()
    }

    /// Two plugins, of which the second declares a capability.
    fn chain(cni_version: &str) -> List {
        list(json!({"cniVersion": cni_version, "name": "net", "plugins": [
            {"type": "bridge", "mtu": 1400},
            {"type": "portmap", "capabilities": {"portMappings": true, "ips": false}},
        ]}))
    }

    fn attachment() -> Attachment {
        let capabilities = json!({"portMappings": [{"hostPort": 80}], "ips": ["10.0.0.9"], "mac": "x"});
        Attachment {
            container_id: "c1".to_owned(),
            netns: "/run/netns/c1".to_owned(),
            ifname: "eth0".to_owned(),
            args: vec![
                ("IgnoreUnknown".to_owned(), "1".to_owned()),
                ("IP".to_owned(), "10.0.0.9".to_owned()),
            ],
            capabilities: capabilities.as_object().unwrap().clone(),
        }
    }

    /// Plugins that note their calls; `answer` decides by type and verb.
    struct Plugins<F> {
        calls: Vec<(String, Value)>,
        answer: F,
    }

    impl<F: Fn(&str, Verb) -> Result<Option<Value>, Error>> Plugins<F> {
        fn new(answer: F) -> Self {
            Plugins { calls: Vec::new(), answer }
        }

        fn invoke(&mut self, plugin: &str, verb: Verb, config: &Value) -> Result<Option<Value>, Error> {
            self.calls.push((format!("{verb} {plugin}"), config.clone()));
            (self.answer)(plugin, verb)
        }

        fn verbs(&self) -> Vec<&str> {
            self.calls.iter().map(|(verb, _)| verb.as_str()).collect()
        }
    }

    fn result(plugin: &str) -> Value {
        json!({"cniVersion": "1.0.0", "interfaces": [{"name": plugin}], "custom": true})
    }

    fn named(plugin: &str) -> CniResult {
        CniResult::parse(&result(plugin), Version::V1_0_0).unwrap()
    }

    fn fine(plugin: &str, verb: Verb) -> Result<Option<Value>, Error> {
        Ok((verb == Verb::Add).then(|| result(plugin)))
    }

    #[test]
    fn add_chains_results_and_gives_only_declared_capabilities() {
        let mut plugins = Plugins::new(fine);
        let added = add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c));
        assert_eq!(added, Ok(named("portmap")));
        let expected = [
            (
                "ADD bridge".to_owned(),
                json!({"type": "bridge", "mtu": 1400, "name": "net", "cniVersion": "1.0.0"}),
            ),
            (
                "ADD portmap".to_owned(),
                json!({
                    "type": "portmap", "capabilities": {"portMappings": true, "ips": false},
                    "name": "net", "cniVersion": "1.0.0",
                    "runtimeConfig": {"portMappings": [{"hostPort": 80}]}, "prevResult": result("bridge"),
                }),
            ),
        ];
        assert_eq!(plugins.calls, expected);
    }

    #[test]
    fn a_failed_add_deletes_the_whole_list_in_reverse_and_tells_the_add_s_error() {
        let mut plugins = Plugins::new(|plugin: &str, verb| match (plugin, verb) {
            ("portmap", Verb::Add) => Err(Error::new(100, "port taken")),
            ("portmap", Verb::Del) => Err(Error::new(5, "del failed")),
            _ => fine(plugin, verb),
        });
        let added = add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c));
        assert_eq!(added, Err(Error::new(100, "port taken")));
        assert_eq!(plugins.verbs(), ["ADD bridge", "ADD portmap", "DEL portmap", "DEL bridge"]);
        assert_eq!(plugins.calls[2].1.get("prevResult"), None);
    }

    #[test]
    fn del_goes_in_reverse_through_failures_with_the_final_result() {
        let mut plugins = Plugins::new(|plugin: &str, _| Err(Error::new(5, plugin)));
        let prev = named("eth0");
        let deleted =
            del(&chain("0.4.0"), &attachment(), Some(&prev), &mut |t, v, c| plugins.invoke(t, v, c));
        assert_eq!(deleted, Err(Error::new(5, "portmap").with_details("bridge")));
        assert_eq!(plugins.verbs(), ["DEL portmap", "DEL bridge"]);
        for (_, config) in &plugins.calls {
            assert_eq!(config["prevResult"], prev.to_json(Version::V0_4_0).unwrap());
        }
    }

    #[test]
    fn del_below_0_4_gives_no_result() {
        let mut plugins = Plugins::new(fine);
        del(&chain("0.3.1"), &attachment(), Some(&named("x")), &mut |t, v, c| plugins.invoke(t, v, c))
            .unwrap();
        assert_eq!(plugins.calls[0].1.get("prevResult"), None);
    }

    #[test]
    fn check_goes_forward_and_stops_at_the_first_failure() {
        let mut plugins = Plugins::new(|plugin: &str, _| Err(Error::new(999, plugin)));
        let checked =
            check(&chain("1.0.0"), &attachment(), &named("x"), &mut |t, v, c| plugins.invoke(t, v, c));
        assert_eq!(checked, Err(Error::new(999, "bridge")));
        assert_eq!(plugins.verbs(), ["CHECK bridge"]);
    }

    #[test]
    fn check_needs_a_young_list_and_can_be_switched_off() {
        let mut plugins = Plugins::new(fine);
        let mut invoke = |t: &str, v, c: &Value| plugins.invoke(t, v, c);
        let error = check(&chain("0.3.1"), &attachment(), &named("x"), &mut invoke).unwrap_err();
        assert_eq!(error, Error::new(1, r#"configuration version "0.3.1" does not support CHECK command"#));
        let off = List { disable_check: true, ..chain("1.0.0") };
        assert_eq!(check(&off, &attachment(), &named("x"), &mut invoke), Ok(()));
        assert_eq!(plugins.calls, []);
    }

    #[test]
    fn status_and_gc_reach_every_plugin_of_a_young_list() {
        let mut plugins = Plugins::new(fine);
        let valid = [config::Attachment { container_id: "c1".to_owned(), ifname: "eth0".to_owned() }];
        status(&chain("1.1.0"), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
        gc(&chain("1.1.0"), Some(&valid), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
        gc(&chain("1.1.0"), None, &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
        status(&chain("1.0.0"), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
        gc(&chain("1.0.0"), None, &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
        let each = |verb: &str| [format!("{verb} bridge"), format!("{verb} portmap")];
        assert_eq!(plugins.verbs(), [each("STATUS"), each("GC"), each("GC")].concat());
        let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
        assert_eq!(plugins.calls[2].1["cni.dev/valid-attachments"], list);
        assert_eq!(plugins.calls[2].1["cni.dev/attachments"], list);
        assert_eq!(plugins.calls[4].1.get("cni.dev/valid-attachments"), None);
    }

    #[test]
    fn gc_goes_on_after_a_failure() {
        let mut plugins = Plugins::new(|plugin: &str, _| Err(Error::new(5, plugin)));
        let collected = gc(&chain("1.1.0"), Some(&[]), &mut |t, v, c| plugins.invoke(t, v, c));
        assert_eq!(collected, Err(Error::new(5, "bridge").with_details("portmap")));
        assert_eq!(plugins.verbs(), ["GC bridge", "GC portmap"]);
    }

    #[test]
    fn a_result_in_another_format_is_handed_on_in_the_list_s() {
        let mut plugins =
            Plugins::new(|_: &str, _| Ok(Some(json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}}))));
        add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
        let expected = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]});
        assert_eq!(plugins.calls[1].1["prevResult"], expected);
    }

    #[test]
    fn a_result_without_version_takes_the_list_s() {
        let mut plugins = Plugins::new(|_: &str, _| Ok(Some(json!({}))));
        add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
        assert_eq!(plugins.calls[1].1["prevResult"], json!({"cniVersion": "1.0.0"}));
    }

    #[test]
    fn a_plugin_without_result_is_named() {
        let mut plugins = Plugins::new(|_: &str, _| Ok(None));
        let error = add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap_err();
        assert_eq!(error, Error::new(999, r#"plugin "bridge" of network "net" printed no result"#));
    }

    #[test]
    fn a_malformed_attachment_reaches_no_plugin() {
        let mut plugins = Plugins::new(fine);
        let bad = Attachment { container_id: "!".to_owned(), ..attachment() };
        let error = add(&chain("1.0.0"), &bad, &mut |t, v, c| plugins.invoke(t, v, c)).unwrap_err();
        assert_eq!(error.msg, "invalid characters in containerID");
        assert_eq!(plugins.calls, []);
    }

    #[test]
    fn an_attachment_becomes_a_call() {
        let call = attachment().call(Verb::Del, vec![PathBuf::from("/opt/cni/bin")]);
        assert_eq!((call.verb, call.args.as_str()), (Verb::Del, "IgnoreUnknown=1;IP=10.0.0.9"));
        assert_eq!((call.container_id.as_str(), call.ifname.as_str()), ("c1", "eth0"));
    }

    #[test]
    fn a_single_configuration_is_a_list_of_one() {
        let single = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
        let list = list(single.clone());
        assert_eq!((list.name.as_str(), list.cni_version), ("cni-loopback", Version::V0_3_1));
        assert_eq!(list.plugins, std::slice::from_ref(&single));
        assert_eq!(list.raw, single);
    }

    #[test]
    fn the_newest_supported_version_counts() {
        let version = |one: Value, more: Value| {
            list(json!({"name": "n", "cniVersion": one, "cniVersions": more, "plugins": [{"type": "x"}]}))
                .cni_version
        };
        assert_eq!(version(json!("1.0.0"), json!(["0.4.0", "1.0.0", "1.1.0"])), Version::V1_1_0);
        assert_eq!(version(json!("1.0.0"), json!(["0.4.0", "2.0.0"])), Version::V1_0_0);
        assert_eq!(version(json!("0.4.0"), json!(null)), Version::V0_4_0);
        assert_eq!(version(json!(null), json!(null)), Version::V0_1_0);
    }

    #[test]
    fn check_and_gc_can_be_disabled_by_boolean_or_text() {
        let flags = |value: Value| {
            let list = list(
                json!({"name": "n", "disableCheck": value, "disableGC": value, "plugins": [{"type": "x"}]}),
            );
            (list.disable_check, list.disable_gc)
        };
        assert_eq!(flags(json!(true)), (true, true));
        assert_eq!(flags(json!("true")), (true, true));
        assert_eq!(flags(json!("False")), (false, false));
        assert_eq!(flags(json!(null)), (false, false));
    }

    #[test]
    fn a_list_that_lacks_something_is_refused() {
        let plugins = json!([{"type": "x"}]);
        let cases = [
            (json!({"plugins": plugins}), 7, r#"error parsing configuration list: no "name""#),
            (
                json!({"name": 1, "plugins": plugins}),
                7,
                r#"error parsing configuration list: "name" is a number, not a string"#,
            ),
            (json!({"name": "a b", "plugins": plugins}), 7, "invalid characters found in network name"),
            (json!({"name": "n"}), 7, r#"error parsing configuration list: no "plugins""#),
            (json!({"name": "n", "plugins": []}), 7, r#"error parsing configuration list: no "plugins""#),
            (
                json!({"name": "n", "plugins": {}}),
                7,
                r#"error parsing configuration list: "plugins" is an object, not an array"#,
            ),
            (
                json!({"name": "n", "plugins": [{"type": "x"}, 7]}),
                7,
                r#"error parsing configuration list: plugin 1 has no "type""#,
            ),
            (json!({"name": "n", "cniVersion": "9.0.0", "plugins": plugins}), 1, "incompatible CNI versions"),
            (
                json!({"name": "n", "disableCheck": 1, "plugins": plugins}),
                7,
                r#"error parsing configuration list: "disableCheck" is a number, not a boolean"#,
            ),
            (json!([]), 6, "error unmarshall network config: expected a JSON object, found an array"),
        ];
        for (value, code, msg) in cases {
            let error = refused(value);
            assert_eq!((error.code, error.msg.as_str()), (code, msg));
        }
    }

    /// A folder of definitions: `name`, content.
    fn folder(files: &[(&str, &str)]) -> TempDir {
        let dir = TempDir::new().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn files_are_sorted_and_other_files_left_alone() {
        let dir = folder(&[
            ("20-b.conf", ""),
            ("10-a.conflist", ""),
            ("README", ""),
            ("30-c.json", ""),
            ("x.conflist~", ""),
        ]);
        fs::create_dir(dir.path().join("dir.conflist")).unwrap();
        let names: Vec<_> =
            files(dir.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["10-a.conflist", "20-b.conf", "30-c.json"]);
        assert_eq!(files(&dir.path().join("missing")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_network_is_found_by_its_name_lists_first_and_broken_files_hide_none() {
        let dir = folder(&[
            ("00-broken.conflist", "{"),
            ("10-n.conf", r#"{"name":"n","type":"single"}"#),
            ("20-n.conflist", r#"{"name":"n","plugins":[{"type":"listed"}]}"#),
        ]);
        assert_eq!(load(dir.path(), "n").unwrap().plugins[0]["type"], "listed");
        let error = load(dir.path(), "other").unwrap_err();
        assert_eq!(
            error.msg,
            format!("no net configuration with name \"other\" in {}", dir.path().display())
        );
        assert!(error.details.contains("00-broken.conflist"), "{}", error.details);
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = List::read(Path::new("/nowhere/x.conflist")).unwrap_err();
        assert_eq!(
            error,
            Error::new(5, "error reading /nowhere/x.conflist: No such file or directory (os error 2)")
        );
    }
}
