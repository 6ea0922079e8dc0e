//! The versions of the specification that the plugins on this host have in common.

use std::path::{Path, PathBuf};

use cni::conflist::Attachment;
use cni::{Verb, Version, delegate};
use serde_json::{Value, json};
use store::Paths;

use crate::runtimes;

/// The versions that all of these programs have.
pub fn common(files: impl Iterator<Item = PathBuf>) -> Vec<Version> {
    files.fold(Version::SUPPORTED.to_vec(), |mut common, file| {
        let has = supported(&file);
        common.retain(|version| has.contains(version));
        common
    })
}

/// The same of the plugins that the runtimes on this host find: in CNI_PATH if it is set, else where each of them looks.
pub fn of_runtimes(types: &[&str], paths: &Paths) -> Vec<Version> {
    let given = std::env::var_os("CNI_PATH").filter(|path| !path.is_empty());
    let lists: Vec<Vec<PathBuf>> = match given {
        Some(path) => vec![std::env::split_paths(&path).collect()],
        None => {
            let rooted = |folder: PathBuf| paths.rooted(&folder);
            let found = runtimes::find(paths).into_iter();
            found.map(|found| found.folders.into_iter().map(rooted).collect()).collect()
        }
    };
    let mut files: Vec<PathBuf> = lists
        .iter()
        .flat_map(|folders| types.iter().filter_map(|kind| delegate::find(kind, folders).ok()))
        .collect();
    files.sort();
    files.dedup();
    common(files.into_iter())
}

/// What a plugin says to VERSION. One that says nothing that can be read is taken for the oldest that knows lists.
fn supported(file: &Path) -> Vec<Version> {
    if delegate::is_this_program(file) {
        return Version::SUPPORTED.to_vec();
    }
    let call = Attachment::default().call(Verb::Version, vec![PathBuf::from("/nowhere")]);
    let said = delegate::exec(file, &call, Verb::Version, &json!({"cniVersion": "1.0.0"}));
    let said = said.ok().flatten().unwrap_or_default();
    let versions = said["supportedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let versions: Vec<Version> = versions.filter_map(|text| text.parse().ok()).collect();
    if versions.is_empty() { vec![Version::V0_3_1, Version::V0_4_0] } else { versions }
}
