//! Many containers: what the command takes to show them, and a runtime's GC of them against as many DELs.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Bench;
use crate::contender::Kind;
use crate::measure::{Series, Spread, measured, quiet, reap_orphans, timed};
use crate::report::Target;
use crate::site::Site;

/// A bridge has ports for 1,023 containers, so that two networks hold them.
const EACH: u16 = 1_000;

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let each = bench.pick(EACH, 20);
    let mut site = Site::empty(Kind::Rnet, &bench.programs)?;
    create(bench, &site, "bench", "172.18.0.0/16")?;
    create(bench, &site, "beside", "172.19.0.0/16")?;
    site.fill(each)?;
    show(bench, &site, each, 50.0)?;
    let deleted = delete(bench, &mut site, each)?;

    let mut site = site.move_on(Kind::RnetBeside, &bench.programs);
    site.fill(each)?;
    let mut site = site.move_on(Kind::Rnet, &bench.programs);
    site.fill(2 * each)?;
    show(bench, &site, 2 * each, 100.0)?;
    collect(bench, &site, each, deleted)?;
    drop(site);
    quiet(bench.pick(5, 1));
    Ok(())
}

fn create(bench: &Bench, site: &Site, network: &str, subnet: &str) -> Result<()> {
    ask(bench, site, &["create", "--no-dns", "--subnet", subnet, network])
}

fn ask(bench: &Bench, site: &Site, arguments: &[&str]) -> Result<()> {
    let output = site.host.command(&bench.programs.binary).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rnet {}: {} {}", arguments.join(" "), output.status, said.trim());
    Ok(())
}

/// `ps`, `ls` and `inspect`, at most `most` milliseconds each.
fn show(bench: &mut Bench, site: &Site, containers: u16, most: f64) -> Result<()> {
    let rounds = bench.pick(15, 3);
    bench.report.case(format!("{containers} containers, {rounds} rounds"))?;
    for arguments in [&["ps"][..], &["ls"], &["inspect", "bench"]] {
        let mut series = Series::default();
        for _ in 0..rounds {
            series.push(measured(|| ask(bench, site, arguments))?);
        }
        let what = arguments.join(" ");
        bench.report.spread("rnet", &what, series.wall())?;
        bench.report.spread("rnet", "CPU", series.cpu())?;
        bench.report.verdict(&what, series.wall().median, " ms", Target::AtMost(most))?;
    }
    Ok(())
}

/// All of the network's containers leave by a DEL each: how long that takes altogether.
fn delete(bench: &mut Bench, site: &mut Site, containers: u16) -> Result<Duration> {
    let mut left = Vec::new();
    let took = timed(|| site.leave().map(|residents| left = residents))?;
    reap_orphans();
    drop(left);
    bench.report.case(format!("{containers} containers go"))?;
    bench.report.spread("rnet", "DELs", Spread::of([took]))?;
    Ok(took)
}

/// The runtime says that none of them lives.
fn collect(bench: &mut Bench, site: &Site, containers: u16, deleted: Duration) -> Result<()> {
    let section = json!({
        "cniVersion": "1.1.0", "name": "bench", "type": "rnet", "bridge": "rnet-bench",
        "ipam": {"ranges": [[{"subnet": "172.18.0.0/16"}]]}, "cni.dev/valid-attachments": [],
    });
    let gc = site.host.command(bench.programs.ours.join("rnet")).env("CNI_COMMAND", "GC");
    let gc = gc.env("CNI_PATH", &bench.programs.ours).input(section.to_string());
    let mut output = None;
    let took = timed(|| {
        output = Some(gc.output()?);
        Ok(())
    })?;
    let succeeded = output.is_some_and(|output| output.status.success());
    ensure!(succeeded, "GC failed");
    reap_orphans();
    bench.report.case(format!("GC of {containers} containers"))?;
    bench.report.spread("rnet", "GC", Spread::of([took]))?;
    let times = took.as_secs_f64() / deleted.as_secs_f64();
    bench.report.verdict("GC, times as many DELs", times, "", Target::AtMost(1.0))
}
