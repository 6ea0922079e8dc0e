//! The first container of a host and of a network, and the last one: what a single `podman run` on a quiet host feels.

use std::time::Duration;

use anyhow::Result;

use crate::Bench;
use crate::contender::{Kind, Ports};
use crate::measure::{Series, quiet, reap_orphans};
use crate::report::Target;
use crate::site::{MEASURED_PORT, Site};

/// At most so many milliseconds until the call returns.
const MOST: Target = Target::AtMost(8.0);

/// Between two calls, so that none pays for the grace period of the one before.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let host = Site::empty(Kind::Rnet, &bench.programs)?;
    edge(bench, "host", host, MOST)?;
    let beside_another = Site::new(Kind::Rnet, &bench.programs)?.move_on(Kind::RnetBeside, &bench.programs);
    edge(bench, "network", beside_another, MOST)?;
    let peer = Site::empty(Kind::ReferenceFirewall, &bench.programs)?;
    edge(bench, "host", peer, Target::None)
}

fn edge(bench: &mut Bench, of: &str, mut site: Site, target: Target) -> Result<()> {
    let rounds = bench.pick(25, 5);
    let who = site.kind.name();
    bench.report.case(format!("{who}, first and last container of a {of}, {rounds} rounds"))?;
    let (mut adds, mut dels) = (Series::default(), Series::default());
    let mut spent = Vec::new();
    for _ in 0..rounds {
        let mut attachment = site.container(Ports::one(MEASURED_PORT))?;
        adds.push(site.add(&mut attachment)?);
        std::thread::sleep(PAUSE);
        dels.push(site.del(&mut attachment)?);
        std::thread::sleep(PAUSE);
        spent.push(attachment);
    }
    reap_orphans();
    for (verb, series) in [("first ADD", &adds), ("last DEL", &dels)] {
        bench.report.spread(who, verb, series.wall())?;
        bench.report.verdict(
            &format!("{verb} of a {of}, until it returns"),
            series.wall().median,
            " ms",
            target,
        )?;
    }
    drop((site, spent));
    quiet(1);
    Ok(())
}
