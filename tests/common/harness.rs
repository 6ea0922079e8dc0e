//! Runs tests one after another and reports as Cargo's own harness does, for tests of programs that a machine need not have.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::anyhow;

/// One test; an error, or a panic, fails it.
pub struct Test {
    pub name: String,
    pub body: Box<dyn Fn() -> anyhow::Result<()>>,
}

/// What the plugins of a peer run are known to do otherwise.
#[allow(dead_code, reason = "only the runtimes have peers")]
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

/// Runs the tests whose names hold one of the words of the command line, all without any. `about` says what they test.
pub fn run(about: &str, tests: &[Test], differences: &[Difference]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted =
        |test: &&Test| words.is_empty() || words.iter().any(|word| test.name.contains(word.as_str()));
    let chosen: Vec<&Test> = tests.iter().filter(wanted).collect();
    if std::env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests with {about}", chosen.len());
    let started = Instant::now();
    let failures: Vec<(&str, anyhow::Error)> =
        chosen.iter().filter_map(|test| Some((test.name.as_str(), failure(test, differences)?))).collect();
    failures.iter().for_each(|(name, error)| println!("\n---- {name} ----\n{error:#}"));
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        chosen.len() - failures.len(),
        failures.len(),
        tests.len() - chosen.len(),
        started.elapsed().as_secs_f32()
    );
    // Words that fit no test must not look like a success.
    if failures.is_empty() && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the test's line; returns why it failed.
fn failure(test: &Test, differences: &[Difference]) -> Option<anyhow::Error> {
    let started = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(&test.body));
    let ended = ended.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", message(&*panic))));
    let known = differences.iter().find(|known| test.name.ends_with(known.test));
    let verdict = match (ended, known) {
        (Ok(()), Some(known)) if known.always => {
            Verdict::Failed(anyhow!("passes, although it is listed in DIFFERENCES"))
        }
        (Ok(()), _) => Verdict::Passed,
        (Err(error), Some(known)) if format!("{error:#}").contains(known.says) => {
            Verdict::Differs(known.reason)
        }
        (Err(error), _) => Verdict::Failed(error),
    };
    let (name, took) = (&test.name, started.elapsed().as_secs_f32());
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

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something that is no text")
}
