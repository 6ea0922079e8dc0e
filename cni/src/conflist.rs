//! What a runtime does with a list of plugins: find it, call its plugins in turn, undo (libcni's rules).
//!
//! How a plugin is called (as a process or within this one) is the caller's `invoke`.

mod calls;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::call::{Call, Verb, check_container_id, check_ifname, is_name};
use crate::error::{Error, kind};
use crate::fault::Fault;
use crate::fold;
use crate::version::Version;

pub use calls::{add, check, del, first, gc, status};

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
            plugins: check_plugins(plugins)?,
            raw,
        })
    }

    /// Reads a list from a file.
    ///
    /// # Errors
    /// Code 5: the file cannot be read; otherwise as [`List::parse`], the file named in the details.
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

/// The network `name` from a folder: the first list of that name, otherwise the first single configuration.
///
/// # Errors
/// Code 7: no readable file defines it. The details name the files that could not be read or parsed.
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

/// `cniVersions` lists further versions of the same list; unsupported ones are ignored.
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

fn check_plugins(plugins: Vec<Value>) -> Result<Vec<Value>, Fault> {
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
