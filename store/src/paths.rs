//! The one place that knows where files live.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variable that moves all files below another folder.
const ROOT: &str = "RNET_ROOT";

/// Where rnet keeps its files; `RNET_ROOT` moves all of them below another folder (tests, labs).
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    cookie: u64,
}

impl Paths {
    /// The paths for the host whose network namespace has `cookie` (SO_NETNS_COOKIE).
    ///
    /// `RNET_ROOT` is ignored when the program runs setuid or with raised file capabilities.
    pub fn new(cookie: u64) -> Self {
        let root = trusted_env(ROOT).unwrap_or_else(|| "/".into());
        Self { root: root.into(), cookie }
    }

    /// The same below `root`.
    pub fn under(root: &Path, cookie: u64) -> Self {
        Self { root: root.to_owned(), cookie }
    }

    /// What lives as long as the boot: records, locks, leases of `rnet` networks.
    ///
    /// Several host namespaces may share one /run, so the namespace's cookie is part of the path.
    pub fn run(&self) -> PathBuf {
        self.root.join("run/rnet").join(self.cookie.to_string())
    }

    /// What outlives a boot: the index of leases, reservations.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/rnet")
    }

    /// Network definitions: the conflist files that every runtime reads.
    pub fn definitions(&self) -> PathBuf {
        self.root.join("etc/cni/net.d")
    }

    /// Upstream's default folder of host-local's leases.
    pub fn host_local(&self) -> PathBuf {
        self.root.join("var/lib/cni/networks")
    }

    /// The leases of `rnet` networks, one folder for each.
    pub fn leases(&self) -> PathBuf {
        self.run().join("leases")
    }

    /// What a program of ours has to find in its environment to use the same paths.
    pub fn environment(&self) -> Option<(&'static str, &Path)> {
        (self.root != Path::new("/")).then_some((ROOT, &*self.root))
    }

    /// The name server's control socket, with its lock beside it.
    pub fn name_server(&self) -> PathBuf {
        self.run().join("locks/dns")
    }

    /// `path`, an absolute path out of a configuration, below the root.
    pub fn rooted(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The environment variable `name`, unless whoever called us has fewer rights than we (setuid, file capabilities).
pub(crate) fn trusted_env(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|_| !runs_with_raised_rights())
}

/// AT_SECURE of the auxiliary vector (getauxval(3)); taken as raised when it cannot be read.
fn runs_with_raised_rights() -> bool {
    const AT_SECURE: usize = 23;
    const WORD: usize = size_of::<usize>();
    let Ok(vector) = std::fs::read("/proc/self/auxv") else { return true };
    let words = vector.chunks_exact(WORD).filter_map(|word| word.try_into().ok().map(usize::from_ne_bytes));
    let words: Vec<usize> = words.collect();
    words.chunks_exact(2).any(|pair| pair[0] == AT_SECURE && pair[1] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_lies_below_the_root() {
        let paths = Paths::under(Path::new("/lab"), 7);

        assert_eq!(paths.run(), Path::new("/lab/run/rnet/7"));
        assert_eq!(paths.leases(), Path::new("/lab/run/rnet/7/leases"));
        assert_eq!(paths.rooted(Path::new("/var/run/cni")), Path::new("/lab/var/run/cni"));
    }
}
