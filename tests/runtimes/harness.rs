//! Runs the tests one after another and reports as Cargo's own harness does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::anyhow;

use crate::leftovers;
use crate::network::Flavour;
use crate::setup::Setup;

/// One test: a host of its own, one runtime, one kind of network.
pub struct Test {
    name: String,
    flavour: Flavour,
    body: Body,
}

/// What a test does; an error, or a panic, fails it.
pub type Body = fn(Flavour) -> anyhow::Result<()>;

/// What the plugins of a peer run are known to do otherwise.
pub struct Difference {
    /// The end of the test's name.
    pub test: &'static str,
    /// It shows in every run, and not only if two calls happen to meet.
    pub always: bool,
    /// What the failure says.
    pub says: &'static str,
    /// Why rnet does not do the same.
    pub reason: &'static str,
}

/// How a test ended.
enum Verdict {
    Passed,
    Differs(&'static str),
    Failed(anyhow::Error),
}

impl Test {
    /// The test `NAME::FLAVOUR::runtime`.
    pub fn new(runtime: &str, flavour: Flavour, (name, body): (&str, Body)) -> Self {
        Self { name: format!("{runtime}::{flavour}::{name}"), flavour, body }
    }

    fn run(&self) -> anyhow::Result<()> {
        let ended = catch_unwind(AssertUnwindSafe(|| (self.body)(self.flavour)));
        leftovers::remove();
        match ended {
            Ok(result) => result,
            Err(panic) => Err(anyhow!("panicked: {}", message(&*panic))),
        }
    }
}

/// Runs the tests whose names hold one of the words of the command line, all without any.
pub fn run(setup: &Setup, tests: &[Test], differences: &[Difference]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted =
        |test: &&Test| words.is_empty() || words.iter().any(|word| test.name.contains(word.as_str()));
    let chosen: Vec<&Test> = tests.iter().filter(wanted).collect();
    if std::env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests with {}", chosen.len(), setup.about());
    let started = Instant::now();
    let failures: Vec<(&str, anyhow::Error)> = chosen
        .iter()
        .filter_map(|test| Some((test.name.as_str(), outcome(setup, test, differences)?)))
        .collect();
    failures.iter().for_each(|(name, error)| println!("\n---- {name} ----\n{error:#}"));
    summary(chosen.len(), failures.len(), tests.len() - chosen.len(), started)
}

/// Prints the test's line; returns why it failed.
fn outcome(setup: &Setup, test: &Test, differences: &[Difference]) -> Option<anyhow::Error> {
    let started = Instant::now();
    let known = differences.iter().find(|known| setup.peer && test.name.ends_with(known.test));
    let verdict = match (test.run(), known) {
        (Ok(()), None) => Verdict::Passed,
        (Ok(()), Some(known)) if !known.always => Verdict::Passed,
        (Ok(()), Some(_)) => Verdict::Failed(anyhow!("passes, although it is listed in DIFFERENCES")),
        (Err(error), Some(known)) if format!("{error:#}").contains(known.says) => {
            Verdict::Differs(known.reason)
        }
        (Err(error), _) => Verdict::Failed(error),
    };
    let took = started.elapsed().as_secs_f32();
    let name = &test.name;
    match verdict {
        Verdict::Passed => println!("test {name} ... ok ({took:.1} s)"),
        Verdict::Differs(reason) => println!("test {name} ... ok (differs, as known: {reason})"),
        Verdict::Failed(error) => {
            println!("test {name} ... FAILED");
            return Some(error);
        }
    }
    None
}

fn summary(run: usize, failed: usize, filtered: usize, started: Instant) -> ExitCode {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        run - failed,
        started.elapsed().as_secs_f32()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something that is no text")
}
