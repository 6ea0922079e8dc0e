//! Many at a time: how many ADDs and DELs a second when eight callers never pause.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::Bench;
use crate::contender::{Attachment, Contender, Kind};
use crate::measure::{quiet, reap_orphans};
use crate::report::Target;
use crate::site::Site;

const CALLERS: u16 = 8;

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let contenders = [
        (Kind::Rnet, bench.pick(400, 40), Target::AtLeast(300.0)),
        (Kind::OurChain, bench.pick(200, 40), Target::None),
        (Kind::ReferenceFirewall, bench.pick(80, 16), Target::None),
        (Kind::Netavark, bench.pick(80, 16), Target::None),
    ];
    bench.report.case(format!("{CALLERS} at a time, one published port each"))?;
    for (kind, count, target) in contenders {
        let mut site = Site::new(kind, &bench.programs)?;
        let mut attachments = site.containers(count)?;
        let adds = all_at_once(&site, &mut attachments, |contender, attachment| contender.add(attachment))?;
        let dels = all_at_once(&site, &mut attachments, |contender, attachment| contender.del(attachment))?;
        let per_second = |time: Duration| f64::from(count) / time.as_secs_f64();
        let name = kind.name();
        bench.report.verdict(&format!("{name}, {count} ADDs"), per_second(adds), "/s", target)?;
        bench.report.verdict(&format!("{name}, {count} DELs"), per_second(dels), "/s", Target::None)?;
        drop((attachments, site));
        quiet(bench.pick(3, 1));
    }
    Ok(())
}

type Operation = fn(&dyn Contender, &mut Attachment) -> Result<()>;

/// From the moment that all callers are ready until the last is done.
fn all_at_once(site: &Site, attachments: &mut [Attachment], operation: Operation) -> Result<Duration> {
    let share = attachments.len().div_ceil(usize::from(CALLERS));
    let shares: Vec<&mut [Attachment]> = attachments.chunks_mut(share).collect();
    let ready = Barrier::new(shares.len() + 1);
    let time = site.run(|contender| {
        let call = |share: &mut [Attachment]| {
            ready.wait();
            share.iter_mut().try_for_each(|attachment| operation(contender, attachment))
        };
        let call = &call;
        thread::scope(|scope| {
            let callers: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || call(share))).collect();
            ready.wait();
            let started = Instant::now();
            callers.into_iter().try_for_each(joined)?;
            Ok(started.elapsed())
        })
    })?;
    reap_orphans();
    Ok(time)
}

fn joined(caller: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    caller.join().map_err(|_| anyhow!("a caller panicked"))?
}
