//! Stories about a whole lease directory: what users see, what faults do, what the reference does.

mod faults;
mod lost;
mod model;
mod reference;
mod rewritten;
mod story;

use std::net::IpAddr;
use std::path::PathBuf;

use crate::{Choice, Error, HostLocal, Leases, Owner, RangeSet, Refusal};

const BOOT: &str = "boot-1";
const NOTHING: [IpAddr; 0] = [];

/// A new lease directory and index folder.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn net(&self) -> PathBuf {
        self.folder.path().join("networks/net")
    }

    fn shelf(&self) -> PathBuf {
        self.folder.path().join("index")
    }

    fn leases(&self) -> Leases {
        self.in_boot(BOOT)
    }

    fn in_boot(&self, boot: &str) -> Leases {
        Leases::open(&self.net(), &self.shelf(), boot).unwrap()
    }

    /// The names and contents of all files of the lease directory, in order.
    fn files(&self) -> Vec<(String, String)> {
        files(&self.net())
    }

    fn names(&self) -> Vec<String> {
        let lease = |name: &String| name.parse::<IpAddr>().is_ok();
        self.files().into_iter().map(|(name, _)| name).filter(lease).collect()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.net().join(name), content).unwrap();
    }
}

fn files(dir: &std::path::Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let plain = entry.file_type().unwrap().is_file();
            let content = if plain { std::fs::read(entry.path()).unwrap() } else { Vec::new() };
            (entry.file_name().into_string().unwrap(), String::from_utf8_lossy(&content).into_owned())
        })
        .collect();
    files.sort();
    files
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

/// Range sets as a configuration gives them.
fn sets(json: &str) -> Vec<RangeSet> {
    serde_json::from_str::<HostLocal>(&format!(r#"{{"ranges":{json}}}"#)).unwrap().ranges(&[]).unwrap()
}

/// One set with the addresses .2 to .6.
fn small() -> Vec<RangeSet> {
    sets(r#"[[{"subnet":"10.9.0.0/29"}]]"#)
}

fn eth0(id: &str) -> Owner<'_> {
    Owner { id, ifname: "eth0" }
}

/// Leases for `id`/eth0, round robin; the addresses, or the error's text.
fn add(leases: &Leases, sets: &[RangeSet], id: &str, requested: &[&str]) -> Result<Vec<String>, String> {
    add_by(leases, sets, id, requested, Choice::RoundRobin)
}

fn add_by(
    leases: &Leases,
    sets: &[RangeSet],
    id: &str,
    requested: &[&str],
    choice: Choice,
) -> Result<Vec<String>, String> {
    let leased = leases.lease(sets, &eth0(id), Some((4, 1000)), &ips(requested), choice);
    text(leased.map(|leased| leased.iter().map(|leased| leased.address.ip().to_string()).collect()))
}

fn text<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn owner_pair(id: &str, ifname: &str) -> (String, String) {
    (id.to_owned(), ifname.to_owned())
}
