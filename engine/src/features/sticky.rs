//! Which container name had which addresses: it gets them again while they are free, so that even a client that
//! remembers an address goes on after a restart.
//!
//! A network remembers so many names, each in a file that its hash chooses: a name that falls on another's place takes
//! it. So nothing has to be tidied up, however many names come and go, and a name costs the same among ten and ten
//! thousand.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use store::{Key, NetworkKey};

use crate::Host;
use crate::feature::Feature;
use crate::making::Making;
use crate::spec::{Lease, Spec};

/// The feature of this file.
pub struct Sticky;

impl Feature for Sticky {
    fn remember(&self, host: &Host, making: &Making<'_>) {
        remember(host, making.spec, &making.lease);
    }
}

/// So many of a key's hex digits choose the place: 4,096 places for each network.
const DIGITS: usize = 3;

/// The addresses that the container's name had when it was last on this network.
pub fn last_addresses(host: &Host, spec: &Spec) -> Vec<IpAddr> {
    let Some(key) = key(spec) else { return Vec::new() };
    let text = read(host, spec, &key).unwrap_or_default();
    let addresses = text.strip_prefix(key.as_str()).unwrap_or_default();
    addresses.split_whitespace().filter_map(|address| address.parse().ok()).collect()
}

/// Remembers them for the next time. A disk that is full is no reason not to start a container.
fn remember(host: &Host, spec: &Spec, lease: &Lease) {
    let Some(key) = key(spec) else { return };
    let addresses: String = lease.ips().map(|ip| format!(" {ip}")).collect();
    let text = format!("{}{addresses}\n", key.as_str());
    if read(host, spec, &key).as_ref() != Some(&text)
        && let Ok(folder) = store::open_dir(&folder(host, &spec.id.network), 0o700)
    {
        let _ = store::replace_whole(folder.as_fd(), place(&key), text.as_bytes(), 0o600);
    }
}

/// Where a network's names are remembered.
pub fn folder(host: &Host, network: &str) -> PathBuf {
    host.store.paths().state().join("addresses").join(NetworkKey::new(network).as_str())
}

/// None where nothing is to be remembered.
fn key(spec: &Spec) -> Option<Key> {
    spec.name.as_ref().filter(|_| spec.sticky).map(|name| Key::new(&spec.id.network, name, &spec.id.ifname))
}

fn place(key: &Key) -> &str {
    &key.as_str()[..DIGITS]
}

fn read(host: &Host, spec: &Spec, key: &Key) -> Option<String> {
    std::fs::read_to_string(folder(host, &spec.id.network).join(place(key))).ok()
}
