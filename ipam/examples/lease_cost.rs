//! What a lease costs with few and with many others present.
//!
//! `cargo run --release -p ipam --example lease_cost -- /dev/shm` prints the median and the worst of 2000 leases,
//! releases, and questions, in microseconds, at 0, 1000 and 60,000 leases in a directory below that folder.

use std::io::Write;
use std::time::Instant;

use ipam::{Choice, Error, HostLocal, Leases, Owner, RangeSet};

const ROUNDS: usize = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).unwrap_or("/dev/shm".into());
    let folder = std::path::Path::new(&base).join(format!("lease_cost.{}", std::process::id()));
    let section: HostLocal = serde_json::from_str(r#"{"ranges":[[{"subnet":"172.18.0.0/16"}]]}"#)?;
    let sets = section.ranges(&[])?;
    let open = || Leases::open(&folder.join("net"), &folder.join("index"), "boot");
    let mut present = 0;
    for wanted in [0, 1000, 60_000] {
        let leases = open()?;
        let began = Instant::now();
        for n in present..wanted {
            leases.lease(&sets, &owner(&format!("{n:064x}")), Some((4, 9)), &[], Choice::RoundRobin)?;
        }
        say(format_args!(
            "{wanted} leases present ({:?} for the last {})",
            began.elapsed(),
            wanted - present
        ))?;
        present = wanted;
        for choice in [Choice::RoundRobin, Choice::Lowest] {
            measure(&open, &sets, choice)?;
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// As a plugin does it: the directory is opened again for each call.
fn measure(open: &dyn Fn() -> Result<Leases, Error>, sets: &[RangeSet], choice: Choice) -> Result<(), Error> {
    let (mut lease, mut held, mut holder, mut release) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let id = format!("{round:064x}bench");
        let mut address = None;
        lease.push(time(|| {
            address = open()?
                .lease(sets, &owner(&id), Some((4, 9)), &[], choice)?
                .first()
                .map(|one| one.address.ip());
            Ok(())
        })?);
        held.push(time(|| open()?.held(&owner(&id)).map(drop))?);
        if let Some(address) = address {
            holder.push(time(|| open()?.holder(address).map(drop))?);
        }
        release.push(time(|| open()?.release(&owner(&id)).map(drop))?);
    }
    for (name, times) in [("lease", lease), ("held", held), ("holder", holder), ("release", release)] {
        report(choice, name, times)?;
    }
    Ok(())
}

fn report(choice: Choice, name: &str, mut times: Vec<f64>) -> Result<(), Error> {
    times.sort_by(f64::total_cmp);
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    say(format_args!("  {choice:?} {name}: median {median:.1} µs, worst {worst:.0} µs"))
}

fn time(work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1e6)
}

fn owner(id: &str) -> Owner<'_> {
    Owner { id, ifname: "eth0" }
}

/// A closed stdout is no reason to stop.
fn say(line: std::fmt::Arguments<'_>) -> Result<(), Error> {
    let _ = writeln!(std::io::stdout(), "{line}");
    Ok(())
}
