//! The paths of all files that rnet keeps.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::boot_id;
use crate::files::{BOOT_ID, read_short};
use crate::user::UserFolders;

/// The variable that moves all files below another folder.
const ROOT: &str = "RNET_ROOT";

/// How many characters of the kernel's boot id identify a boot.
const BOOT: usize = 8;

/// Where rnet keeps its files; `RNET_ROOT` moves all of them below another folder (tests, labs).
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    /// A user's own folders, if the host's cannot be written.
    user: Option<UserFolders>,
    /// The name of the folder that belongs to this host and this boot.
    host: String,
}

impl Paths {
    /// The paths for the host whose network namespace has `cookie` (SO_NETNS_COOKIE).
    ///
    /// `RNET_ROOT` is ignored when the program runs setuid or with raised file capabilities.
    pub fn new(cookie: u64) -> Self {
        if let Some(root) = trusted_env(ROOT) {
            return Self::under(Path::new(&root), cookie);
        }
        match UserFolders::where_needed() {
            // They may be on a disk.
            Some(user) => Self { user: Some(user), ..Self::under(Path::new("/"), cookie) },
            None => Self { root: "/".into(), user: None, host: cookie.to_string() },
        }
    }

    /// The same below `root`. Unlike /run it may be on a disk, so the boot is part of the path: files of an earlier boot
    /// must not count.
    pub fn under(root: &Path, cookie: u64) -> Self {
        Self::in_boot(root, cookie, &boot_id().unwrap_or_default())
    }

    /// The same in the boot with this id.
    pub fn in_boot(root: &Path, cookie: u64, boot: &str) -> Self {
        let host = format!("{cookie}-{}", boot.get(..BOOT).unwrap_or(boot));
        Self { root: root.to_owned(), user: None, host }
    }

    /// The folder of files that last until the next boot: records, locks, leases of `rnet` networks.
    ///
    /// Several host namespaces may share one /run, so the namespace's cookie is part of the path.
    pub fn run(&self) -> PathBuf {
        let folder = match &self.user {
            Some(user) => user.run.join("rnet"),
            None => self.root.join("run/rnet"),
        };
        folder.join(&self.host)
    }

    /// The folder of files that survive a reboot: the index of leases, reservations.
    pub fn state(&self) -> PathBuf {
        match &self.user {
            Some(user) => user.data.join("rnet"),
            None => self.root.join("var/lib/rnet"),
        }
    }

    /// While this file exists, rnet changes no other firewall of the host.
    pub fn interop_off(&self) -> PathBuf {
        self.state().join("interop-off")
    }

    /// Network definitions: the conflist files that every runtime reads.
    pub fn definitions(&self) -> PathBuf {
        match &self.user {
            Some(user) => user.config.join("cni/net.d"),
            None => self.root.join("etc/cni/net.d"),
        }
    }

    /// Upstream's default folder of host-local's leases.
    pub fn host_local(&self) -> PathBuf {
        match &self.user {
            Some(user) => user.data.join("rnet/networks"),
            None => self.root.join("var/lib/cni/networks"),
        }
    }

    /// The leases of `rnet` networks, one folder for each.
    pub fn leases(&self) -> PathBuf {
        self.run().join("leases")
    }

    /// The variables with which another rnet program uses the same paths.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let moved = (self.root != Path::new("/")).then(|| (ROOT, self.root.clone().into()));
        let user = self.user.iter().flat_map(UserFolders::environment);
        moved.into_iter().chain(trusted_env(BOOT_ID).map(|boot| (BOOT_ID, boot))).chain(user)
    }

    /// The same for a program that shall have all its files below `root`.
    pub fn environment_below(root: &Path) -> impl Iterator<Item = (&'static str, OsString)> {
        let boot = trusted_env(BOOT_ID).map(|boot| (BOOT_ID, boot));
        [(ROOT, root.to_owned().into())].into_iter().chain(boot)
    }

    /// The name server's control socket, with its lock beside it.
    pub fn name_server(&self) -> PathBuf {
        self.run().join("locks/dns")
    }

    /// The name server's log.
    pub fn name_server_log(&self) -> PathBuf {
        self.run().join("locks/dns.log")
    }

    /// An absolute path of a configuration, moved below the root.
    pub fn rooted(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The environment variable `name`, unless the caller has fewer rights than this process (setuid, file capabilities).
pub(crate) fn trusted_env(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|_| !runs_with_raised_rights())
}

/// AT_SECURE of the auxiliary vector (getauxval(3)); true if it cannot be read.
fn runs_with_raised_rights() -> bool {
    const AT_SECURE: usize = 23;
    const WORD: usize = size_of::<usize>();
    let Ok(vector) = read_short("/proc/self/auxv") else { return true };
    let words = vector.chunks_exact(WORD).filter_map(|word| word.try_into().ok().map(usize::from_ne_bytes));
    let words: Vec<usize> = words.collect();
    words.chunks_exact(2).any(|pair| pair[0] == AT_SECURE && pair[1] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_below_the_root() {
        let paths = Paths::under(Path::new("/lab"), 7);

        let run = format!("/lab/run/rnet/7-{}", &boot_id().unwrap()[..8]);
        assert_eq!(paths.run(), Path::new(&run));
        assert_eq!(paths.leases(), Path::new(&run).join("leases"));
        assert_eq!(paths.rooted(Path::new("/var/run/cni")), Path::new("/lab/var/run/cni"));
    }
}
