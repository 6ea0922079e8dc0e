//! ADD and DEL of one container with one published port, against the peers, as the host fills.

use anyhow::Result;

use crate::Bench;
use crate::contender::{Kind, Ports};
use crate::measure::{SETTLING, quiet};
use crate::report::{Target, Times};
use crate::site::{Cycles, MEASURED_PORT, Site, in_turn};

/// Who against whom.
const PAIRS: [(Kind, Kind, Times); 4] = [
    (Kind::Rnet, Kind::ReferenceFirewall, times(25.0, 20.0, 40.0, 20.0)),
    (Kind::Rnet, Kind::Reference, Times::NONE),
    (Kind::Rnet, Kind::Netavark, times(12.0, 8.0, 25.0, 6.0)),
    (Kind::OurChain, Kind::Reference, chain_times(12.0)),
];

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let levels: &[u16] = bench.pick(&[0, 100, 500], &[0, 20]);
    for (us, peer, times) in PAIRS {
        let mut sites = [Site::new(us, &bench.programs)?, Site::new(peer, &bench.programs)?];
        for &level in levels {
            at_level(bench, &mut sites, level, &times)?;
        }
        drop(sites);
        quiet(bench.pick(3, 1));
    }
    Ok(())
}

fn at_level(bench: &mut Bench, sites: &mut [Site; 2], level: u16, times: &Times) -> Result<()> {
    for site in sites.iter_mut() {
        site.fill(level)?;
    }
    quiet(bench.pick(if level > 0 { SETTLING } else { 0 }, 0));
    let rounds = bench.pick(if level > 100 { 15 } else { 25 }, 5);
    let (us, peer) = (sites[0].kind.name(), sites[1].kind.name());
    bench.report.case(format!(
        "{us} against {peer}, one published port, {level} containers present, {rounds} pairs"
    ))?;
    let cycles = in_turn(sites, Ports::one(MEASURED_PORT), rounds)?;
    print(bench, [us, peer], [&cycles[0], &cycles[1]], times)
}

/// A table of two and their ratios.
pub fn print(bench: &mut Bench, names: [&str; 2], cycles: [&Cycles; 2], times: &Times) -> Result<()> {
    bench.report.cycles_head()?;
    for (name, cycles) in names.iter().zip(cycles) {
        bench.report.cycles(name, cycles)?;
    }
    bench.report.times_faster(cycles[0], (names[1], cycles[1]), times)
}

const fn times(add_wall: f64, add_cpu: f64, del_wall: f64, del_cpu: f64) -> Times {
    Times {
        add_wall: Target::AtLeast(add_wall),
        add_cpu: Target::AtLeast(add_cpu),
        del_wall: Target::AtLeast(del_wall),
        del_cpu: Target::AtLeast(del_cpu),
    }
}

/// For the chain only the time until it returns is demanded.
const fn chain_times(least: f64) -> Times {
    Times {
        add_wall: Target::AtLeast(least),
        add_cpu: Target::None,
        del_wall: Target::AtLeast(least),
        del_cpu: Target::None,
    }
}
