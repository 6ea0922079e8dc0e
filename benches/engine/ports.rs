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
    let count = bench.pick(800, 100);
    let many = Ports::row(FIRST, count, Written::Singly);
    let what = format!("{count} ports");
    let us = against(bench, Kind::Netavark, many, &what, bench.pick(5, 2))?;
    bench.report.verdict("ADD", us.add.wall().median, " ms", Target::AtMost(20.0))?;
    against(bench, Kind::ReferenceFirewall, many, &what, bench.pick(2, 1))?;
    let count = bench.pick(1000, 100);
    let range = Ports::row(FIRST, count, Written::AsRange);
    let us = against(bench, Kind::Netavark, range, &format!("a range of {count} ports"), bench.pick(7, 2))?;
    bench.report.verdict("ADD", us.add.wall().median, " ms", Target::AtMost(10.0))?;
    bench.report.verdict("DEL", us.del.wall().median, " ms", Target::AtMost(10.0))?;
    Ok(())
}

fn against(bench: &mut Bench, peer: Kind, ports: Ports, what: &str, rounds: usize) -> Result<Cycles> {
    let mut sites = [Site::new(Kind::Rnet, &bench.programs)?, Site::new(peer, &bench.programs)?];
    let names = sites.each_ref().map(|site| site.kind.name());
    bench.report.case(format!("{what} of one container, {} against {}, {rounds} pairs", names[0], names[1]))?;
    let mut cycles = in_turn(&mut sites, ports, rounds)?;
    print(bench, names, [&cycles[0], &cycles[1]], &Times::NONE)?;
    drop(sites);
    quiet(1);
    Ok(cycles.swap_remove(0))
}
