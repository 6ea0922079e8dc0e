//! Is rnet slower than an earlier build of it was? `--before FILE` names that build.

use anyhow::Result;

use crate::Bench;
use crate::contender::{Kind, Ports};
use crate::measure::{SETTLING, quiet};
use crate::report::{Report, Target};
use crate::site::{Cycles, MEASURED_PORT, Site, in_turn};

/// At most so many times the earlier build's.
const MOST: Target = Target::AtMost(1.05);

/// Runs it. Nothing is compared where no earlier build is named.
pub fn run(bench: &mut Bench) -> Result<()> {
    if bench.programs.before.is_none() {
        bench.report.case("needs another build of rnet, named by --before FILE")?;
        return Ok(());
    }
    let levels: &[u16] = bench.pick(&[1, 100], &[1]);
    let mut sites = [Site::new(Kind::Rnet, &bench.programs)?, Site::new(Kind::RnetBefore, &bench.programs)?];
    for &level in levels {
        sites.iter_mut().try_for_each(|site| site.fill(level))?;
        quiet(bench.pick(if level > 1 { SETTLING } else { 1 }, 0));
        let rounds = bench.pick(100, 10);
        bench.report.case(format!("one published port, {level} containers present, {rounds} pairs"))?;
        let cycles = in_turn(&mut sites, Ports::one(MEASURED_PORT), rounds)?;
        judge(&mut bench.report, &sites, &cycles)?;
    }
    Ok(())
}

fn judge(report: &mut Report, sites: &[Site; 2], cycles: &[Cycles]) -> Result<()> {
    report.cycles_head()?;
    for (site, cycles) in sites.iter().zip(cycles) {
        report.cycles(site.kind.name(), cycles)?;
    }
    let (now, before) = (&cycles[0], &cycles[1]);
    for (what, now, before, target) in [
        ("ADD", now.add.wall(), before.add.wall(), MOST),
        ("ADD CPU", now.add.cpu(), before.add.cpu(), Target::None),
        ("DEL", now.del.wall(), before.del.wall(), MOST),
        ("DEL CPU", now.del.cpu(), before.del.cpu(), Target::None),
    ] {
        report.verdict(
            &format!("{what}, times that of the build before"),
            now.median / before.median,
            "",
            target,
        )?;
    }
    Ok(())
}
