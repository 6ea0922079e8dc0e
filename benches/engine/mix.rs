//! ADDs and DELs at once: does an ADD wait for other people's DELs?

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::Bench;
use crate::contender::{Attachment, Kind};
use crate::measure::{Spread, quiet, reap_orphans, timed};
use crate::report::Target;
use crate::site::Site;

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    for kind in [Kind::Rnet, Kind::ReferenceFirewall] {
        let each = if kind == Kind::Rnet { bench.pick(100, 10) } else { bench.pick(15, 4) };
        for callers in [1, 4] {
            mixed(bench, kind, callers, each)?;
        }
    }
    Ok(())
}

/// `callers` that add and as many that delete, `each` their own containers.
fn mixed(bench: &mut Bench, kind: Kind, callers: u16, each: u16) -> Result<()> {
    let mut site = Site::new(kind, &bench.programs)?;
    let mut lone = site.containers(each)?;
    let mut old = site.containers(callers * each)?;
    let mut new = site.containers(callers * each)?;
    let lone_adds = one_by_one(&site, &mut lone)?;
    one_by_one(&site, &mut old)?;
    let (adds, dels) = at_once(&site, &mut new, &mut old, each.into())?;
    reap_orphans();
    bench
        .report
        .case(format!("{}, {callers} adding and {callers} deleting at once, {each} each", kind.name()))?;
    let (lone, mixed) = (Spread::of(lone_adds), Spread::of(adds));
    bench.report.spread("alone", "ADD", lone)?;
    bench.report.spread("in the mix", "ADD", mixed)?;
    bench.report.spread("in the mix", "DEL", Spread::of(dels))?;
    bench.report.verdict(
        "median ADD in the mix, times the lone one",
        mixed.median / lone.median,
        "",
        Target::None,
    )?;
    drop((site, new, old));
    quiet(1);
    Ok(())
}

fn one_by_one(site: &Site, attachments: &mut [Attachment]) -> Result<Vec<Duration>> {
    let add = |attachment: &mut Attachment| site.run(|contender| timed(|| contender.add(attachment)));
    attachments.iter_mut().map(add).collect()
}

type Times = Vec<Duration>;

fn at_once(
    site: &Site,
    new: &mut [Attachment],
    old: &mut [Attachment],
    each: usize,
) -> Result<(Times, Times)> {
    site.run(|contender| {
        thread::scope(|scope| {
            let adding: Vec<_> = new
                .chunks_mut(each)
                .map(|share| scope.spawn(move || every(share, |one| contender.add(one))))
                .collect();
            let deleting: Vec<_> = old
                .chunks_mut(each)
                .map(|share| scope.spawn(move || every(share, |one| contender.del(one))))
                .collect();
            Ok((joined(adding)?, joined(deleting)?))
        })
    })
}

fn every(share: &mut [Attachment], operation: impl Fn(&mut Attachment) -> Result<()>) -> Result<Times> {
    share.iter_mut().map(|attachment| timed(|| operation(attachment))).collect()
}

fn joined(callers: Vec<thread::ScopedJoinHandle<'_, Result<Times>>>) -> Result<Times> {
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.join().map_err(|_| anyhow!("a caller panicked"))??);
    }
    Ok(times)
}
