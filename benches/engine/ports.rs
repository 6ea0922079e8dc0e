//! Containers that publish many ports.

use anyhow::Result;

use crate::Bench;
use crate::add_del::print;
use crate::contender::{Kind, Ports, Written};
use crate::measure::quiet;
use crate::report::{Target, Times};
use crate::site::{Cycles, Site, in_turn};

/// Below the ports of residents.
const FIRST: u16 = 8000;

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let many = bench.pick(800, 100);
    let us = alone(bench, many)?;
    bench.report.verdict(
        &format!("ADD with {many} ports"),
        us.add.wall().median,
        " ms",
        Target::AtMost(20.0),
    )?;
    against(bench, Kind::ReferenceFirewall, Ports::row(FIRST, many, Written::Singly), bench.pick(1, 1))?;
    // 800 single ports take netavark 1.4 minutes, each way.
    against(bench, Kind::Netavark, Ports::row(FIRST, 100, Written::Singly), bench.pick(3, 1))?;
    let range = bench.pick(1000, 100);
    let us = alone(bench, range)?;
    bench.report.verdict(
        &format!("ADD with {range} ports"),
        us.add.wall().median,
        " ms",
        Target::AtMost(10.0),
    )?;
    bench.report.verdict(
        &format!("DEL with {range} ports"),
        us.del.wall().median,
        " ms",
        Target::AtMost(10.0),
    )?;
    against(bench, Kind::Netavark, Ports::row(FIRST, range, Written::AsRange), bench.pick(10, 2))?;
    Ok(())
}

/// rnet by itself, with as many rounds as a median needs: some peers take too long for that.
fn alone(bench: &mut Bench, count: u16) -> Result<Cycles> {
    let mut sites = [Site::new(Kind::Rnet, &bench.programs)?];
    let rounds = bench.pick(25, 5);
    bench.report.case(format!("{count} ports of one container, rnet, {rounds} rounds"))?;
    let mut cycles = in_turn(&mut sites, Ports::row(FIRST, count, Written::Singly), rounds)?;
    bench.report.cycles_head()?;
    bench.report.cycles("rnet", &cycles[0])?;
    drop(sites);
    quiet(1);
    Ok(cycles.swap_remove(0))
}

fn against(bench: &mut Bench, peer: Kind, ports: Ports, rounds: usize) -> Result<()> {
    let mut sites = [Site::new(Kind::Rnet, &bench.programs)?, Site::new(peer, &bench.programs)?];
    let names = sites.each_ref().map(|site| site.kind.name());
    let what = if ports.written == Written::AsRange { "in one range" } else { "singly" };
    let who = format!("{} against {} ({what})", names[0], names[1]);
    bench.report.case(format!("{} ports of one container, {who}, {rounds} pairs", ports.count))?;
    let cycles = in_turn(&mut sites, ports, rounds)?;
    print(bench, names, [&cycles[0], &cycles[1]], &Times::NONE)?;
    drop(sites);
    quiet(1);
    Ok(())
}
