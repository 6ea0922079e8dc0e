//! rnet as a CNI runtime: the plugins of a list, in this process where they are ours, else executed.

use std::path::{Path, PathBuf};

use cni::conflist::{self, Attachment, List};
use cni::{CniResult, Config, Request, Verb, delegate};
use serde_json::Value;
use store::Paths;

use crate::definitions::Network;
use crate::versions;

/// Where runtimes look for plugins.
pub const PLUGIN_FOLDERS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// The folders where plugins that are not ours are looked for.
#[derive(Clone, Debug)]
pub struct Runtime {
    path: Vec<PathBuf>,
}

impl Runtime {
    /// CNI_PATH, or the folders of other runtimes.
    pub fn new() -> Self {
        let given = std::env::var_os("CNI_PATH").filter(|path| !path.is_empty());
        let given =
            given.map(|path| std::env::split_paths(&path).filter(|p| !p.as_os_str().is_empty()).collect());
        Self { path: given.unwrap_or_else(|| PLUGIN_FOLDERS.map(PathBuf::from).to_vec()) }
    }

    /// Fails if a plugin of a list cannot be found, so that nothing is begun that could not be undone either.
    pub fn require(&self, network: &Network) -> Result<(), cni::Error> {
        for kind in network.executed_types() {
            delegate::find(kind, &self.path)?;
        }
        Ok(())
    }

    /// The network in a version that the plugins of others have too, which rnet has to execute.
    pub fn fit(&self, network: &Network) -> Result<Network, cni::Error> {
        let executed = network.executed_types();
        if executed.is_empty() {
            return Ok(network.clone());
        }
        let files = executed.iter().map(|kind| delegate::find(kind, &self.path));
        network.in_common(&versions::common(files.filter_map(Result::ok)))
    }

    /// Attaches; what failed is undone by DEL of the whole list.
    pub fn add(&self, list: &List, attachment: &Attachment) -> Result<CniResult, cni::Error> {
        conflist::add(list, attachment, &mut |kind, verb, config| self.call(attachment, kind, verb, config))
    }

    /// Detaches; again is success.
    pub fn del(
        &self,
        list: &List,
        attachment: &Attachment,
        prev: Option<&CniResult>,
    ) -> Result<(), cni::Error> {
        conflist::del(list, attachment, prev, &mut |kind, verb, config| {
            self.call(attachment, kind, verb, config)
        })
    }

    /// Removes what belongs to no attachment of the network any more: all of it if `everything`, else what is
    /// provably dead.
    pub fn gc(&self, list: &List, everything: bool) -> Result<(), cni::Error> {
        let none = Attachment::default();
        let valid: Option<&[cni::Attachment]> = everything.then_some(&[]);
        conflist::gc(list, valid, &mut |kind, verb, config| self.call(&none, kind, verb, config))
    }

    fn call(
        &self,
        attachment: &Attachment,
        kind: &str,
        verb: Verb,
        config: &Value,
    ) -> Result<Option<Value>, cni::Error> {
        let call = cni::Call { own_delegates: true, ..attachment.call(verb, self.path.clone()) };
        let Some(plugin) = plugins::find(kind) else {
            return delegate::exec(&delegate::find(kind, &self.path)?, &call, verb, config);
        };
        let config = Config::from_value(config.clone())?;
        let result = plugins::run(plugin, verb, &Request { call: &call, config: &config })?;
        result.map(|result| result.to_json(config.cni_version)).transpose()
    }
}

/// The plugin types that none of the runtimes' folders has.
pub fn missing_plugins<'a>(types: &[&'a str]) -> Vec<&'a str> {
    let mut folders = Runtime::new().path;
    folders.extend(PLUGIN_FOLDERS.map(PathBuf::from));
    missing_in(types, &folders)
}

/// True if a container runtime is on the host that looks for networks where rnet writes them. podman does so only where it has
/// no netavark.
pub fn runtime_reads_definitions(paths: &Paths) -> bool {
    const PROGRAMS: [&str; 8] =
        ["nerdctl", "kubelet", "k3s", "crio", "crictl", "buildkitd", "nomad", "singularity"];
    const FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];
    const NETAVARK: [&str; 3] =
        ["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark", "/usr/local/libexec/podman/netavark"];
    let is_there = |path: &str| paths.rooted(Path::new(path)).exists();
    let is_installed = |program: &str| FOLDERS.iter().any(|folder| is_there(&format!("{folder}/{program}")));
    PROGRAMS.into_iter().any(is_installed) || (is_installed("podman") && !NETAVARK.into_iter().any(is_there))
}

fn missing_in<'a>(types: &[&'a str], folders: &[PathBuf]) -> Vec<&'a str> {
    let is_there = |kind: &str| folders.iter().any(|folder: &PathBuf| Path::is_file(&folder.join(kind)));
    types.iter().copied().filter(|kind| !is_there(kind)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_in_any_folder_is_not_missing() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("bridge"), "").unwrap();
        let folders = [one.path().to_owned(), other.path().to_owned()];
        assert_eq!(missing_in(&["bridge", "portmap"], &folders), ["portmap"]);
    }
}
