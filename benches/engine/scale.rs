//! Does an attachment cost more on a full host? rnet's ADD and DEL as one host fills, alone on the machine.

use anyhow::Result;

use crate::Bench;
use crate::contender::{Kind, Ports};
use crate::measure::{SETTLING, quiet};
use crate::report::Target;
use crate::site::{Cycles, MEASURED_PORT, Site, in_turn};

/// Runs it.
///
/// One level after the other: what other containers on the machine cost would hide the difference.
pub fn run(bench: &mut Bench) -> Result<()> {
    let levels: &[u16] = bench.pick(&[10, 100, 500, 900], &[10, 50]);
    let rounds = bench.pick(40, 5);
    bench.report.case(format!("rnet, one published port, {rounds} rounds at each level"))?;
    bench.report.cycles_head()?;
    let mut sites = [Site::new(Kind::Rnet, &bench.programs)?];
    let mut measured = Vec::new();
    for &level in levels {
        sites[0].fill(level)?;
        quiet(bench.pick(SETTLING, 1));
        let mut cycles = in_turn(&mut sites, Ports::one(MEASURED_PORT), rounds)?;
        bench.report.cycles(&format!("{level} containers"), &cycles[0])?;
        measured.append(&mut cycles);
    }
    growth(bench, levels, &measured)?;
    drop(sites);
    quiet(bench.pick(3, 1));
    Ok(())
}

/// The target speaks of 500 containers; 900 are shown.
fn growth(bench: &mut Bench, levels: &[u16], cycles: &[Cycles]) -> Result<()> {
    for (level, cycle) in levels.iter().zip(cycles).skip(1) {
        let target = if *level == 900 { Target::None } else { Target::AtMost(1.5) };
        let add = cycle.add.cpu().median / cycles[0].add.cpu().median;
        let del = cycle.del.cpu().median / cycles[0].del.cpu().median;
        let of = format!("at {level} containers, times that at {}", levels[0]);
        bench.report.verdict(&format!("CPU per ADD {of}"), add, "", target)?;
        bench.report.verdict(&format!("CPU per DEL {of}"), del, "", Target::None)?;
    }
    Ok(())
}
