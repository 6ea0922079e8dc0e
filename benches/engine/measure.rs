//! Time and CPU of one operation, and what many of them amount to.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};

/// How long a process that an operation left running may take to end; a longer one is a server and left alone.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many seconds the residents' kernels go on announcing them (IGMP reports, flooded to every port of the bridge).
pub const SETTLING: u64 = 15;

/// One operation, measured.
#[derive(Clone, Copy)]
pub struct Sample {
    /// Until the last program returned.
    pub wall: Duration,
    /// Until every process that it left behind had ended as well.
    pub settled: Duration,
    /// User and system time of all these processes, and of those that they waited for.
    pub cpu: Duration,
}

/// What many samples amount to, in milliseconds.
#[derive(Clone, Copy)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// Samples of the same operation.
#[derive(Default)]
pub struct Series(Vec<Sample>);

/// Makes this process the parent of whatever its children leave running (PR_SET_CHILD_SUBREAPER, prctl(2)), so that
/// nobody's CPU is lost.
pub fn adopt_orphans() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("become the reaper of the plugins' children")
}

/// Runs one operation and measures it. Nothing else may start or await processes meanwhile.
pub fn measured(operation: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let before = cpu_of_children()?;
    let started = Instant::now();
    operation()?;
    let wall = started.elapsed();
    let settled = if reap_orphans() { started.elapsed() } else { wall };
    Ok(Sample { wall, settled, cpu: cpu_of_children()?.saturating_sub(before) })
}

/// Runs one operation and takes its time only: for those that run beside others.
pub fn timed(operation: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    operation()?;
    Ok(started.elapsed())
}

/// Waits for what operations left running. False if there was nothing.
pub fn reap_orphans() -> bool {
    let started = Instant::now();
    let mut any = false;
    while started.elapsed() < PATIENCE {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => any = true,
            Ok(None) => thread::sleep(Duration::from_micros(500)),
            // No child is left.
            Err(_) => break,
        }
    }
    any
}

/// Lets the kernel finish with namespaces and links that are gone: its threads do so on the processors that we
/// measure on, and it tells nobody when it is done.
pub fn quiet(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

/// User and system time of the children that have been waited for, and of theirs (getrusage(2)).
fn cpu_of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the children's CPU time")?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(time.tv_usec().unsigned_abs())
}

impl Spread {
    /// Of at least one time.
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut ms: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |index: usize| ms.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(ms.len() / 2), min: at(0), max: at(ms.len().saturating_sub(1)) }
    }
}

impl Series {
    /// Adds a sample.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Until the programs returned.
    pub fn wall(&self) -> Spread {
        Spread::of(self.0.iter().map(|sample| sample.wall))
    }

    /// Until nothing was left running.
    pub fn settled(&self) -> Spread {
        Spread::of(self.0.iter().map(|sample| sample.settled))
    }

    /// CPU time.
    pub fn cpu(&self) -> Spread {
        Spread::of(self.0.iter().map(|sample| sample.cpu))
    }
}
