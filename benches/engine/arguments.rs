//! The command line: `cargo bench --bench engine -- [--quick] [--json FILE] [--before FILE] [--list] [NAME…]`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The command line, parsed.
#[derive(Default)]
pub struct Arguments {
    /// Parts of the names of the benchmarks to run; none means all.
    pub filters: Vec<String>,
    /// Fewer rounds and smaller numbers.
    pub quick: bool,
    /// Print the names and stop.
    pub list: bool,
    /// Where to append the figures as lines of JSON.
    pub json: Option<PathBuf>,
    /// Another build of rnet to compare with.
    pub before: Option<PathBuf>,
}

impl Arguments {
    /// Fails on an unknown option.
    pub fn parse(mut given: impl Iterator<Item = String>) -> Result<Self> {
        let mut parsed = Self::default();
        while let Some(argument) = given.next() {
            match argument.as_str() {
                "--quick" => parsed.quick = true,
                "--list" => parsed.list = true,
                "--json" => parsed.json = Some(from_caller(&given.next().context("--json needs a file")?)),
                "--before" => {
                    parsed.before =
                        Some(from_caller(&given.next().context("--before needs a binary of rnet")?));
                }
                // Cargo says so to every benchmark.
                "--bench" => {}
                option if option.starts_with('-') => bail!("unknown option {option}"),
                _ => parsed.filters.push(argument),
            }
        }
        Ok(parsed)
    }

    /// True if the benchmark of this name is to run.
    pub fn chooses(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

/// Cargo starts benchmarks in the package's folder; benches/run tells where its caller stands.
fn from_caller(path: &str) -> PathBuf {
    std::env::var_os("RNET_BENCH_DIR").map_or_else(PathBuf::new, PathBuf::from).join(path)
}
