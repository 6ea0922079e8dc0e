//! systemd-networkd with a `.network` file that matches everything takes a bridge's address and ports within seconds. One
//! file tells it to leave rnet's links alone.

use std::fs;
use std::path::PathBuf;

use store::Paths;

use crate::definitions::Definitions;
use crate::problem::Problem;

const FILE: &str = "/etc/systemd/network/10-rnet.network";
/// One of these is there where networkd runs, or will run after the next boot.
const IN_USE: [&str; 3] = [
    "/run/systemd/netif",
    "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
    "/etc/systemd/system/dbus-org.freedesktop.network1.service",
];
const OURS: &str = "# Written by `rnet install`; `rnet install --uninstall` removes it.\n";
/// What bridges are called on rnet's networks and, by default, on those of others that use rnet's `bridge`.
const BRIDGES: &str = "rnet-* rnet0 cni0 cni-podman* nerdctl0";

/// Writes the file where networkd is in use; the file, if it was not there as it should be.
pub fn write(paths: &Paths) -> Result<Option<PathBuf>, Problem> {
    let file = paths.rooted(FILE.as_ref());
    let is_in_use = IN_USE.iter().any(|sign| fs::symlink_metadata(paths.rooted(sign.as_ref())).is_ok());
    let found = fs::read_to_string(&file).unwrap_or_default();
    let wanted = text(paths);
    if !is_in_use || found == wanted || !found.is_empty() && !found.starts_with(OURS) {
        return Ok(None);
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(Problem::file("make the folder", folder))?;
    }
    let temporary = file.with_extension(format!("rnet-{}", std::process::id()));
    let written = fs::write(&temporary, wanted).and_then(|()| fs::rename(&temporary, &file));
    written.map_err(Problem::file("write", &file))?;
    Ok(Some(file))
}

/// Removes it; the file, if it was there and is rnet's.
pub fn remove(paths: &Paths) -> Result<Option<PathBuf>, Problem> {
    let file = paths.rooted(FILE.as_ref());
    if !fs::read_to_string(&file).is_ok_and(|text| text.starts_with(OURS)) {
        return Ok(None);
    }
    fs::remove_file(&file).map_err(Problem::file("remove", &file))?;
    Ok(Some(file))
}

/// Bridges of another name are listed one by one.
fn text(paths: &Paths) -> String {
    let networks = Definitions::of(paths).list().map(|listing| listing.networks).unwrap_or_default();
    let is_known = |name: &String| {
        ["rnet-", "cni-podman"].iter().any(|start| name.starts_with(start))
            || BRIDGES.split(' ').any(|known| known == name)
    };
    let plain = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let bridges = networks.iter().filter_map(|network| network.bridge());
    let mut others: Vec<String> =
        bridges.filter(|name| !is_known(name) && plain(name)).map(|name| format!(" {name}")).collect();
    others.sort();
    others.dedup();
    let others = others.concat();
    format!("{OURS}[Match]\nKind=bridge veth\nName={BRIDGES}{others} veth*\n\n[Link]\nUnmanaged=yes\n")
}
