//! rnet beside the real dockerd, firewalld and ufw: each started before and after it, reloaded and stopped.
//!
//! The variable RNET_TEST_COEXIST=1, which `.ci/run` sets after it has installed the packages, turns them on; then a
//! missing program is a failure. Without it no test runs, and the output says so. They want the real root, and the
//! namespaces that Cargo's runner (netns-fixtures/sandbox.sh) makes for them.
//!
//! ```sh
//! RNET_TEST_COEXIST=1 cargo test --test coexist [WORD…]
//! ```

// Its output is a test report; and a test that cannot go on returns an error.
#![allow(clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;

mod bare;
mod docker;
mod firewalld;
mod ports;
mod told;
mod ufw;
mod works;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};

/// A test's name and what it does.
type Test = (&'static str, fn() -> anyhow::Result<()>);

/// What has to be installed.
const PROGRAMS: [&str; 9] = [
    "dockerd",
    "containerd",
    "firewalld",
    "firewall-cmd",
    "dbus-daemon",
    "ufw",
    "iptables",
    "ip6tables",
    "nft",
];

fn main() -> ExitCode {
    if std::env::var_os("RNET_TEST_COEXIST").is_none_or(|value| value != "1") {
        println!(
            "coexist: set RNET_TEST_COEXIST=1 to run dockerd, firewalld and ufw (as root; packages: .ci/run); 0 tests run"
        );
        return ExitCode::SUCCESS;
    }
    match prepare() {
        Ok(()) => run(),
        Err(error) => {
            println!("coexist: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> anyhow::Result<()> {
    ensure!(
        std::env::var_os("RNET_SANDBOX").is_some(),
        "these tests change /etc and /var/lib: start them through Cargo's runner, netns-fixtures/sandbox.sh"
    );
    let path = std::env::var("PATH").context("there is no PATH")?;
    let is_there =
        |program: &&str| path.split(':').any(|dir| std::path::Path::new(dir).join(program).exists());
    match PROGRAMS.iter().find(|program| !is_there(program)) {
        Some(missing) => Err(anyhow!("{missing} is missing; packages: .ci/run")),
        None => Ok(()),
    }
}

/// Runs the tests whose names hold one of the words of the command line, all without any.
fn run() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all: Vec<Test> =
        [bare::TESTS, docker::TESTS, ufw::TESTS, firewalld::TESTS, told::TESTS, ports::TESTS].concat();
    let wanted = |test: &&Test| words.is_empty() || words.iter().any(|word| test.0.contains(word.as_str()));
    let chosen: Vec<&Test> = all.iter().filter(wanted).collect();
    println!("\nrunning {} tests", chosen.len());
    let failures: Vec<_> = chosen.iter().filter_map(|test| Some((test.0, outcome(test)?))).collect();
    failures.iter().for_each(|(name, error)| println!("\n---- {name} ----\n{error:#}"));
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; {} filtered out",
        chosen.len() - failures.len(),
        failures.len(),
        all.len() - chosen.len()
    );
    // Words that fit no test must not look like a success.
    if failures.is_empty() && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the test's line; returns why it failed.
fn outcome(test: &Test) -> Option<anyhow::Error> {
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(test.1)).unwrap_or_else(|_| Err(anyhow!("panicked")));
    let word = if result.is_ok() { "ok" } else { "FAILED" };
    println!("test {} ... {word} ({:.1} s)", test.0, started.elapsed().as_secs_f32());
    result.err()
}
