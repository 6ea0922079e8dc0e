//! `host-local` as a plugin of its own, in a folder with up to 60,000 leases.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use netns_fixtures::{Container, Host};
use serde_json::json;

use crate::Bench;
use crate::chain::{PATH, answer};
use crate::contender::{GATEWAY, SUBNET};
use crate::measure::{Sample, measured};
use crate::report::Target;
use crate::site::Cycles;

/// A plugin at work in a folder of leases.
struct Pool {
    plugin: PathBuf,
    /// Its host's files; the leases are below.
    root: PathBuf,
    leases: u32,
    cycles: Cycles,
}

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let host = Host::new()?;
    let container = host.container("c1")?;
    let sizes: &[u32] = bench.pick(&[100, 1_000, 10_000, 60_000], &[100, 10_000]);
    let (ours, reference) =
        (bench.programs.ours.join("host-local"), bench.programs.reference.join("host-local"));
    let mut pools = filled(&host, "ours", &ours, sizes)?;
    bench.report.case("rnet's host-local, in a folder that another program filled")?;
    for pool in &pools {
        let first = host.run(|| pool.cycle(&container, 0))??.0;
        let text = format!("{} leases: the first ADD, without an index, {:.1?}", pool.leases, first.wall);
        bench.report.note(&text)?;
    }
    alternate(&host, &container, &mut pools, bench.pick(50, 10))?;
    print(bench, "rnet", &pools)?;
    flat(bench, &pools)?;
    let mut theirs = filled(&host, "reference", &reference, sizes)?;
    alternate(&host, &container, &mut theirs, bench.pick(5, 2))?;
    bench.report.case("the reference host-local, in an equal folder")?;
    print(bench, "reference", &theirs)
}

/// From the smallest pool to the largest nothing may change.
fn flat(bench: &mut Bench, pools: &[Pool]) -> Result<()> {
    let (Some(small), Some(large)) = (pools.first(), pools.last()) else { return Ok(()) };
    let of = format!("at {} leases, times that at {}", large.leases, small.leases);
    let add = large.cycles.add.wall().median / small.cycles.add.wall().median;
    let del = large.cycles.del.wall().median / small.cycles.del.wall().median;
    bench.report.verdict(&format!("ADD {of}"), add, "", Target::AtMost(1.2))?;
    bench.report.verdict(&format!("DEL {of}"), del, "", Target::AtMost(1.2))
}

fn print(bench: &mut Bench, who: &str, pools: &[Pool]) -> Result<()> {
    bench.report.cycles_head()?;
    pools
        .iter()
        .try_for_each(|pool| bench.report.cycles(&format!("{who}, {} leases", pool.leases), &pool.cycles))
}

fn filled(host: &Host, who: &str, plugin: &Path, sizes: &[u32]) -> Result<Vec<Pool>> {
    sizes
        .iter()
        .map(|&leases| Pool::new(host.root().join(format!("{who}-{leases}")), plugin, leases))
        .collect()
}

/// A round over all pools after the other, and one that does not count before.
fn alternate(host: &Host, container: &Container, pools: &mut [Pool], rounds: usize) -> Result<()> {
    for round in 0..=rounds {
        for pool in pools.iter_mut() {
            let (add, del) = host.run(|| pool.cycle(container, round))??;
            if round > 0 {
                pool.cycles.add.push(add);
                pool.cycles.del.push(del);
            }
        }
    }
    Ok(())
}

impl Pool {
    /// Lease files as host-local writes them, in a row from the first address.
    fn new(root: PathBuf, plugin: &Path, leases: u32) -> Result<Self> {
        let dir = root.join("networks/bench");
        fs::create_dir_all(&dir).context("make the folder of leases")?;
        for nth in 0..leases {
            fs::write(dir.join(address(nth).to_string()), format!("resident{nth}\r\neth0"))
                .context("write a lease")?;
        }
        fs::write(dir.join("last_reserved_ip.0"), address(leases - 1).to_string())
            .context("write the last address")?;
        Ok(Self { plugin: plugin.into(), root, leases, cycles: Cycles::default() })
    }

    fn cycle(&self, container: &Container, round: usize) -> Result<(Sample, Sample)> {
        let id = format!("measured{round}");
        Ok((self.call("ADD", container, &id)?, self.call("DEL", container, &id)?))
    }

    fn call(&self, verb: &str, container: &Container, id: &str) -> Result<Sample> {
        let mut command = Command::new(&self.plugin);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/run")
            .env("PATH", PATH)
            .env("RNET_ROOT", &self.root);
        let config = self.config();
        measured(|| answer(command, &config).map(drop))
            .with_context(|| format!("{verb} of {} with {} leases", self.plugin.display(), self.leases))
    }

    fn config(&self) -> String {
        let ipam = json!({
            "type": "host-local",
            "dataDir": self.root.join("networks"),
            "ranges": [[{"subnet": SUBNET, "gateway": GATEWAY}]],
        });
        json!({"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "ipam": ipam}).to_string()
    }
}

/// 172.18.0.2 and what follows.
fn address(nth: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 18, 0, 2).to_bits() + nth)
}
