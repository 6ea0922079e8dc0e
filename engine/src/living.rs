//! Which network namespaces are alive: the proof that an owner is dead, for GC above all.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The inodes of all network namespaces that a process is in, has open, or that are mounted somewhere we can see.
pub fn namespaces() -> HashSet<u64> {
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            found.extend(fs::metadata(process.join("ns/net")).map(|own| own.ino()).ok());
            found.extend(open_namespaces(&process));
            found.extend(mounted_namespaces(&process));
        }
    }
    found
}

fn open_namespaces(process: &Path) -> Vec<u64> {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| inode(&fs::read_link(entry.path()).ok()?.to_string_lossy())).collect()
}

/// mountinfo's fourth field is `net:[4026531840]` where a namespace is mounted.
fn mounted_namespaces(process: &Path) -> Vec<u64> {
    let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    mounts.lines().filter_map(|line| inode(line.split(' ').nth(3)?)).collect()
}

fn inode(text: &str) -> Option<u64> {
    text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_alive_and_another_number_is_not() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let living = namespaces();

        assert!(living.contains(&own));
        assert!(!living.contains(&1));
    }
}
