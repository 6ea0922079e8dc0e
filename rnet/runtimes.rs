//! The container runtimes on this host, and the folders in which each looks for plugins, in its order.

use std::fs;
use std::path::{Path, PathBuf};

use store::Paths;

/// Where programs lie.
const PROGRAMS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// Where most runtimes look if nobody tells them.
pub const USUAL: &str = "/opt/cni/bin";

/// A runtime that is installed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: &'static str,
    /// Its folders, the first that has a plugin wins.
    pub folders: Vec<PathBuf>,
    /// What else a person should know.
    pub remark: &'static str,
}

/// What is known of a runtime.
struct Known {
    name: &'static str,
    program: &'static str,
    /// Files and folders of `.conf` or `.hcl` files, the last that has the key wins.
    files: &'static [&'static str],
    /// The variable that names another file in place of all of them.
    variable: Option<&'static str>,
    /// What the name of the section contains.
    section: &'static str,
    keys: &'static [&'static str],
    folders: &'static [&'static str],
    /// It takes the first folder that is there, and no other.
    first_only: bool,
    remark: &'static str,
}

const KNOWN: [Known; 5] = [
    Known {
        name: "podman",
        program: "podman",
        files: &[
            "/usr/share/containers/containers.conf",
            "/etc/containers/containers.conf",
            "/etc/containers/containers.conf.d",
        ],
        variable: Some("CONTAINERS_CONF"),
        section: "network",
        keys: &["cni_plugin_dirs"],
        folders: &[
            "/usr/local/libexec/cni",
            "/usr/libexec/cni",
            "/usr/local/lib/cni",
            "/usr/lib/cni",
            "/opt/cni/bin",
        ],
        first_only: false,
        remark: " (if its network_backend is cni)",
    },
    Known {
        name: "containerd",
        program: "containerd",
        files: &["/etc/containerd/config.toml"],
        variable: None,
        section: "cni",
        keys: &["bin_dirs", "bin_dir"],
        folders: &[USUAL],
        first_only: false,
        remark: "",
    },
    Known {
        name: "CRI-O",
        program: "crio",
        files: &["/etc/crio/crio.conf", "/etc/crio/crio.conf.d"],
        variable: None,
        section: "crio.network",
        keys: &["plugin_dirs", "plugin_dir"],
        folders: &[USUAL],
        first_only: false,
        remark: "",
    },
    Known {
        name: "nerdctl",
        program: "nerdctl",
        files: &["/etc/nerdctl/nerdctl.toml"],
        variable: None,
        section: "",
        keys: &["cni_path"],
        folders: &[USUAL, "/usr/local/libexec/cni", "/usr/local/lib/cni", "/usr/libexec/cni", "/usr/lib/cni"],
        first_only: true,
        remark: "",
    },
    Known {
        name: "Nomad",
        program: "nomad",
        files: &["/etc/nomad.d"],
        variable: None,
        section: "",
        keys: &["cni_path"],
        folders: &[USUAL],
        first_only: false,
        remark: "",
    },
];

/// Every runtime that is installed.
pub fn find(paths: &Paths) -> Vec<Found> {
    let is_there =
        |program: &str| PROGRAMS.iter().any(|folder| paths.rooted(&Path::new(folder).join(program)).exists());
    KNOWN.iter().filter(|known| is_there(known.program)).map(|known| known.found(paths)).collect()
}

/// Every folder in which a runtime may look.
pub fn all_folders(paths: &Paths) -> Vec<PathBuf> {
    let known = KNOWN.iter().flat_map(|known| known.folders.iter().map(PathBuf::from));
    let mut folders: Vec<PathBuf> = find(paths).into_iter().flat_map(|found| found.folders).collect();
    folders.extend(known);
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
}

impl Known {
    fn found(&self, paths: &Paths) -> Found {
        let files: Vec<PathBuf> = match self.variable.and_then(std::env::var_os) {
            Some(file) => vec![file.into()],
            None => self.files.iter().map(|file| paths.rooted(Path::new(file))).collect(),
        };
        let texts = files.iter().flat_map(|file| texts(file));
        let told = texts.filter_map(|text| self.told(&text)).next_back();
        let folders = told.unwrap_or_else(|| self.folders.iter().map(PathBuf::from).collect());
        let folders = if self.first_only { first_there(&folders, paths) } else { folders };
        Found { name: self.name, folders, remark: self.remark }
    }

    fn told(&self, text: &str) -> Option<Vec<PathBuf>> {
        let values = self.keys.iter().find_map(|key| values(text, self.section, key))?;
        let folders = values.iter().flat_map(|value| value.split(':'));
        let folders: Vec<PathBuf> = folders.filter(|f| f.starts_with('/')).map(tidy).collect();
        (!folders.is_empty()).then_some(folders)
    }
}

fn tidy(folder: &str) -> PathBuf {
    Path::new(folder).components().collect()
}

fn first_there(folders: &[PathBuf], paths: &Paths) -> Vec<PathBuf> {
    let there = folders.iter().find(|folder| paths.rooted(folder).exists()).or(folders.first());
    there.into_iter().cloned().collect()
}

/// The text of a file, or of the configuration files in a folder, in the order of their names.
fn texts(path: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> = match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![path.to_owned()],
    };
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// The strings that `key` has in a section whose name contains `section`, in TOML or HCL as people write it.
fn values(text: &str, section: &str, key: &str) -> Option<Vec<String>> {
    let (mut within, mut found) = (section.is_empty(), None);
    let mut lines = text.lines().map(without_comment);
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.starts_with('[') && line.ends_with(']') {
            within = line.contains(section);
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| name.trim() == key) else {
            continue;
        };
        debug_assert!(!name.is_empty());
        let mut value = value.to_owned();
        while value.contains('[') && !value.contains(']') {
            let Some(more) = lines.next() else { break };
            value.push_str(more);
        }
        if within {
            found = Some(strings(&value));
        }
    }
    found
}

fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let end = line.char_indices().find(|(_, letter)| {
        quoted ^= *letter == '"';
        *letter == '#' && !quoted
    });
    end.map_or(line, |(at, _)| &line[..at])
}

fn strings(value: &str) -> Vec<String> {
    value.replace('\'', "\"").split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_as_people_write_it() {
        let containerd = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  # bin_dir = \"/no\"\n  bin_dir = \"/usr/lib/cni\" # x\n[other]\nbin_dir = \"/not/this\"";
        assert_eq!(values(containerd, "cni", "bin_dir"), Some(vec!["/usr/lib/cni".into()]));
        let podman = "[network]\ncni_plugin_dirs = [\n  \"/a\", # first\n  '/b',\n]\n[engine]\n";
        assert_eq!(values(podman, "network", "cni_plugin_dirs"), Some(vec!["/a".into(), "/b".into()]));
        assert_eq!(values("client {\n  cni_path = \"/x:/y\"\n}", "", "cni_path"), Some(vec!["/x:/y".into()]));
        assert_eq!(values("[network]\n", "network", "cni_plugin_dirs"), None);
    }

    #[test]
    fn only_what_is_installed_is_found_with_its_folders() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("usr/bin/containerd", "");
        write("usr/bin/nerdctl", "");
        write("usr/lib/cni/bridge", "");
        write("etc/containerd/config.toml", "[plugins.cni]\nbin_dir = \"/usr/lib/cni/\"\n");

        let found = find(&Paths::under(root.path(), 1));

        let folders: Vec<_> = found.iter().map(|found| (found.name, found.folders.clone())).collect();
        let usr = vec![PathBuf::from("/usr/lib/cni")];
        assert_eq!(folders, [("containerd", usr.clone()), ("nerdctl", usr)]);
    }
}
