//! Benchmarks: what `rnet` takes to attach and detach containers, and what the plugins take that hosts have today.
//!
//! It plays the runtime: it makes the containers, starts every plugin as a process of its own, hands it environment
//! and stdin as libcni does, and measures the whole operation. README.md in the folder above says how to run it and
//! how to read what it prints.

mod arguments;
mod chain;
mod contender;
mod measure;
mod netavark;
mod programs;
mod report;
mod servers;
mod site;

mod add_del;
mod before;
mod books;
mod connect;
mod edges;
mod floor;
mod flows;
mod ipam;
mod mix;
mod names;
mod parallel;
mod ports;
mod scale;
mod version;

use anyhow::{Context, Result, ensure};

use arguments::Arguments;
use programs::Programs;
use report::Report;

/// What every benchmark is given.
pub struct Bench {
    /// The programs under comparison.
    pub programs: Programs,
    /// Where the figures go.
    pub report: Report,
    /// Fewer rounds, smaller numbers: for development, never for figures that are told to others.
    pub quick: bool,
}

type Benchmark = fn(&mut Bench) -> Result<()>;

/// By name, in the order in which they run.
const BENCHMARKS: [(&str, Benchmark); 14] = [
    ("version", version::run),
    ("add-del", add_del::run),
    ("floor", floor::run),
    ("before", before::run),
    ("edges", edges::run),
    ("flows", flows::run),
    ("scale", scale::run),
    ("parallel", parallel::run),
    ("mix", mix::run),
    ("ports", ports::run),
    ("ipam", ipam::run),
    ("connect", connect::run),
    ("names", names::run),
    ("books", books::run),
];

impl Bench {
    /// `full`, or `quick` in development.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> Result<()> {
    if let Some(done) = floor::operation(std::env::args()) {
        return done;
    }
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    if arguments.list {
        return report::names(BENCHMARKS.iter().map(|(name, _)| *name));
    }
    let chosen: Vec<_> = BENCHMARKS.iter().filter(|(name, _)| arguments.chooses(name)).collect();
    ensure!(
        !chosen.is_empty(),
        "no benchmark's name contains any of {:?}; --list shows them",
        arguments.filters
    );
    require_sandbox()?;
    measure::adopt_orphans()?;
    let mut bench = Bench {
        programs: Programs::find(arguments.before.as_deref())?,
        report: Report::new(arguments.json.as_deref())?,
        quick: arguments.quick,
    };
    bench.report.opening(&bench.programs, bench.quick)?;
    for (name, benchmark) in chosen {
        bench.report.benchmark(name);
        benchmark(&mut bench).with_context(|| format!("benchmark {name}"))?;
    }
    bench.report.closing()
}

/// The peers' state and rules land in whatever namespaces we are in.
fn require_sandbox() -> Result<()> {
    ensure!(
        std::env::var_os("RNET_SANDBOX").is_some(),
        "start it by `cargo bench --bench engine` or benches/run: it needs namespaces of its own"
    );
    Ok(())
}
