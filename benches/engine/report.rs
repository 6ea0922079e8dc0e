//! What the benchmarks print, and the lines of JSON beside it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::measure::{Series, Spread};
use crate::programs::Programs;
use crate::site::Cycles;

/// The report on its way out.
pub struct Report {
    json: Option<File>,
    benchmark: String,
    case: String,
    reached: usize,
    missed: Vec<String>,
}

/// What a figure has to be.
#[derive(Clone, Copy)]
pub enum Target {
    /// No less than this.
    AtLeast(f64),
    /// No more than this.
    AtMost(f64),
    /// Shown for its own sake.
    None,
}

/// Targets for how many times faster a contender is than a peer.
#[derive(Clone, Copy)]
pub struct Times {
    /// Until ADD returns.
    pub add_wall: Target,
    /// CPU of ADD.
    pub add_cpu: Target,
    /// Until DEL returns.
    pub del_wall: Target,
    /// CPU of DEL.
    pub del_cpu: Target,
}

impl Times {
    /// Where nothing is demanded.
    pub const NONE: Self =
        Self { add_wall: Target::None, add_cpu: Target::None, del_wall: Target::None, del_cpu: Target::None };
}

impl Report {
    /// Appends to `json`, if given.
    pub fn new(json: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let json = json.map(open).transpose().context("open the file for JSON lines")?;
        Ok(Self { json, benchmark: String::new(), case: String::new(), reached: 0, missed: Vec::new() })
    }

    /// Says what is compared, and where.
    pub fn opening(&mut self, programs: &Programs, quick: bool) -> Result<()> {
        let system = rustix::system::uname();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = system.release().to_string_lossy().into_owned();
        say(&format!("Linux {kernel}, {cores} processors; rnet: {}", programs.binary.display()))?;
        say(&programs.peers())?;
        say(
            "Times in ms: median (smallest–largest). CPU is user and system time of all processes of a call",
        )?;
        say(
            "and of what they leave running. Each contender has a host of its own, with one container on the bridge.",
        )?;
        if !programs.plain() {
            say(
                "! RNET_BIN is not set: this is Cargo's build with failpoints. benches/run measures the plain one.",
            )?;
        }
        if quick {
            say("! --quick: figures for development only.")?;
        }
        self.record(json!({"kernel": kernel, "processors": cores, "peers": programs.peers(), "quick": quick}))
    }

    /// The benchmark that what follows belongs to.
    pub fn benchmark(&mut self, name: &str) {
        self.benchmark = name.into();
    }

    /// Starts a case.
    pub fn case(&mut self, case: impl Into<String>) -> Result<()> {
        self.case = case.into();
        say(&format!("\n{}: {}", self.benchmark, self.case))
    }

    /// The head of a table of ADDs and DELs.
    pub fn cycles_head(&self) -> Result<()> {
        row("", ["ADD", "ADD CPU", "DEL", "DEL CPU"].map(String::from))
    }

    /// ADDs and DELs of one contender.
    pub fn cycles(&mut self, who: &str, cycles: &Cycles) -> Result<()> {
        let (add, del) = (&cycles.add, &cycles.del);
        row(who, [add.wall(), add.cpu(), del.wall(), del.cpu()].map(shown))?;
        self.series(who, "ADD", add)?;
        self.series(who, "DEL", del)?;
        let late = del.settled().median;
        match late > del.wall().median + 1.0 {
            true => {
                self.note(&format!("{who}: what DEL leaves to a child ends {late:.1} ms after its start"))
            }
            false => Ok(()),
        }
    }

    /// How many times faster one is than another, by the medians.
    pub fn times_faster(&mut self, us: &Cycles, (peer, them): (&str, &Cycles), times: &Times) -> Result<()> {
        let rows = [
            ("ADD", us.add.wall(), them.add.wall(), times.add_wall),
            ("ADD CPU", us.add.cpu(), them.add.cpu(), times.add_cpu),
            ("DEL", us.del.wall(), them.del.wall(), times.del_wall),
            ("DEL CPU", us.del.cpu(), them.del.cpu(), times.del_cpu),
        ];
        let mut cells = Vec::new();
        for (what, ours, theirs, target) in rows {
            let what = format!("{what}, times faster than {peer}");
            cells.push(self.judged(&what, theirs.median / ours.median, "", target)?);
        }
        say(&format!(
            "{:<24}{}",
            "times faster",
            cells.iter().map(|cell| format!(" {cell:<23}")).collect::<String>()
        ))
    }

    /// A figure beside its target.
    pub fn verdict(&mut self, what: &str, value: f64, unit: &str, target: Target) -> Result<()> {
        let cell = self.judged(what, value, unit, target)?;
        say(&format!("  {what}: {cell}"))
    }

    /// Times of one kind.
    pub fn spread(&mut self, who: &str, what: &str, spread: Spread) -> Result<()> {
        say(&format!("{:<24} {what:<10} {}", who, shown(spread)))?;
        self.record(json!({"who": who, "what": what, "ms": value(spread)}))
    }

    /// A remark.
    pub fn note(&self, text: &str) -> Result<()> {
        say(&format!("  ({text})"))
    }

    /// Says how many targets were reached, and which not.
    pub fn closing(&self) -> Result<()> {
        say(&format!("\n{} targets reached, {} below", self.reached, self.missed.len()))?;
        self.missed.iter().try_for_each(|missed| say(&format!("  below: {missed}")))
    }

    fn series(&mut self, who: &str, what: &str, series: &Series) -> Result<()> {
        let (wall, settled, cpu) = (value(series.wall()), value(series.settled()), value(series.cpu()));
        let samples = series.len();
        self.record(json!({
            "who": who,
            "what": what,
            "samples": samples,
            "ms": wall,
            "settled_ms": settled,
            "cpu_ms": cpu,
        }))
    }

    fn judged(&mut self, what: &str, value: f64, unit: &str, target: Target) -> Result<String> {
        let (bound, pass) = match target {
            Target::AtLeast(least) => (format!("≥ {least}"), value >= least),
            Target::AtMost(most) => (format!("≤ {most}"), value <= most),
            Target::None => {
                self.record(json!({"what": what, "value": value, "unit": unit}))?;
                return Ok(format!("{}{unit}", rounded(value)));
            }
        };
        self.record(json!({"what": what, "value": value, "unit": unit, "target": bound, "pass": pass}))?;
        let verdict = if pass { "PASS" } else { "below" };
        let cell = format!("{}{unit} ({bound}{unit} {verdict})", rounded(value));
        match pass {
            true => self.reached += 1,
            false => self.missed.push(format!("{}: {}: {what}: {cell}", self.benchmark, self.case)),
        }
        Ok(cell)
    }

    fn record(&mut self, mut figures: Value) -> Result<()> {
        let Some(file) = &mut self.json else { return Ok(()) };
        figures["benchmark"] = self.benchmark.as_str().into();
        figures["case"] = self.case.as_str().into();
        writeln!(file, "{figures}").context("write a line of JSON")
    }
}

/// Prints the benchmarks' names.
pub fn names<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    names.try_for_each(say)
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("write the report")
}

fn row(who: &str, cells: [String; 4]) -> Result<()> {
    say(&format!("{who:<24}{}", cells.iter().map(|cell| format!(" {cell:<23}")).collect::<String>()))
}

fn shown(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("{} ({}–{})", rounded(median), rounded(min), rounded(max))
}

/// Three digits or so, whatever the size.
fn rounded(value: f64) -> String {
    match value {
        _ if value < 1.0 => format!("{value:.3}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn value(spread: Spread) -> Value {
    json!({"median": spread.median, "min": spread.min, "max": spread.max})
}
