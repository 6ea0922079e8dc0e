//! The folders of root in a user namespace, who does not own the host's files: those of the XDG base directory
//! specification.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::files::read_short;
use crate::paths::trusted_env;

const RUNTIME: &str = "XDG_RUNTIME_DIR";
const CONFIG: &str = "XDG_CONFIG_HOME";
const DATA: &str = "XDG_DATA_HOME";

/// A user's own folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserFolders {
    /// Files that last until the next boot.
    pub run: PathBuf,
    /// Configuration; nerdctl reads `cni/net.d` in it too.
    pub config: PathBuf,
    /// Files that survive a reboot.
    pub data: PathBuf,
}

impl UserFolders {
    /// The folders to use instead of the host's; `None` if those can be written, or this is no user namespace.
    pub fn where_needed() -> Option<Self> {
        // For the host's root this is all: two system calls.
        let is_writable = |path: &str| access(path, Access::WRITE_OK).is_ok();
        if is_writable("/run") && (is_writable("/etc/cni/net.d") || is_writable("/etc")) {
            return None;
        }
        in_user_namespace().then(|| Self::of(&trusted_env))
    }

    fn of(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let given = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = given("HOME").unwrap_or_else(|| "/root".into());
        let data = given(DATA).unwrap_or_else(|| home.join(".local/share"));
        Self {
            run: given(RUNTIME).unwrap_or_else(|| data.join("rnet/run")),
            config: given(CONFIG).unwrap_or_else(|| home.join(".config")),
            data,
        }
    }

    /// The variables by which rnet's own programs find the same folders.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        let of = |path: &Path| path.to_owned().into_os_string();
        [(RUNTIME, of(&self.run)), (CONFIG, of(&self.config)), (DATA, of(&self.data))]
    }
}

/// True in a user namespace other than the host's initial one: its users are not those of the host.
pub fn in_user_namespace() -> bool {
    let map = read_short("/proc/self/uid_map").unwrap_or_default();
    let map = String::from_utf8_lossy(&map);
    let identity = ["0", "0", "4294967295"];
    !map.is_empty() && !map.split_whitespace().eq(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_are_those_of_the_specification() {
        let env = |set: &'static [(&str, &str)]| {
            move |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            }
        };
        let defaults = UserFolders::of(&env(&[("HOME", "/home/web")]));
        assert_eq!(defaults.config, Path::new("/home/web/.config"));
        assert_eq!(defaults.data, Path::new("/home/web/.local/share"));
        assert_eq!(defaults.run, Path::new("/home/web/.local/share/rnet/run"));

        let set = &[(RUNTIME, "/run/user/7"), (CONFIG, "/c"), (DATA, "relative"), ("HOME", "/h")];
        let given = UserFolders::of(&env(set));
        assert_eq!(
            (given.run.as_path(), given.config.as_path()),
            (Path::new("/run/user/7"), Path::new("/c"))
        );
        assert_eq!(given.data, Path::new("/h/.local/share"), "a path that is not absolute is ignored");
    }
}
