//! What tells this host from others: the MACs of bridges are made of it. Two hosts may have bridges of one name, and be on
//! one segment by them.

use std::os::fd::AsFd;
use std::path::Path;

use netlink::Mac;
use rustix::fs::stat;
use store::NetworkKey;

use crate::Host;
use crate::ip::hashed_mac;

/// Made at installation, the same for as long (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// The file in the state folder of a host that has none.
const FILE: &str = "host-id";

/// A random number that nobody has had before, as text.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// The MAC of a bridge that rnet makes: fixed, so that it does not change with the first port, out of host and name, so that
/// it comes back the same. Whether it goes with its last port is in it too: where the state was lost, its MAC tells.
pub fn bridge_mac(host: &Host, bridge: &str, is_removed: bool) -> Mac {
    let kind = if is_removed { "passing" } else { "lasting" };
    let text = format!("{bridge}\n{kind}\n{}\n{}", id(host), namespace());
    hashed_mac(0x06, NetworkKey::new(&text).as_str())
}

fn id(host: &Host) -> String {
    let paths = host.store.paths();
    let machine = std::fs::read_to_string(paths.rooted(Path::new(MACHINE_ID))).unwrap_or_default();
    let machine = machine.trim();
    // systemd writes `uninitialized` into an image that is to be started for the first time.
    let is_id = machine.len() == 32 && machine.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_id { machine.to_owned() } else { own_id(&paths.state()) }
}

/// Where nothing can be kept, it is another one each time: a bridge keeps its MAC as long as it is there.
fn own_id(folder: &Path) -> String {
    let new = || std::fs::read_to_string(RANDOM).unwrap_or_default().trim().to_owned();
    let Ok(dir) = store::open_dir(folder, 0o755) else { return new() };
    let kept = || {
        let bytes = store::read_whole(dir.as_fd(), FILE).ok().flatten()?;
        String::from_utf8(bytes).ok().filter(|id| !id.is_empty())
    };
    kept().unwrap_or_else(|| {
        let id = new();
        let _ = store::create_whole(dir.as_fd(), FILE, id.as_bytes(), 0o644);
        // Another was quicker, perhaps.
        kept().unwrap_or(id)
    })
}

/// Nothing for the host itself; for another network namespace, which is a host of its own, what tells it from the others.
fn namespace() -> String {
    let inode = |path: &str| stat(path).map(|stat| stat.st_ino).ok();
    match (inode("/proc/self/ns/net"), inode("/proc/1/ns/net")) {
        (Some(own), Some(first)) if own != first => {
            netlink::cookie().map(|cookie| cookie.to_string()).unwrap_or_default()
        }
        _ => String::new(),
    }
}
