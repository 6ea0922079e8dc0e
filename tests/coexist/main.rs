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
#[path = "../common/harness.rs"]
mod harness;

mod bare;
mod docker;
mod firewalld;
mod ports;
mod told;
mod ufw;
mod works;

use std::process::ExitCode;

use anyhow::{Context, anyhow, ensure};

use common::Host;

/// A test's name and what it does on its host.
type Test = (&'static str, fn(&Host) -> anyhow::Result<()>);

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
        Ok(()) => harness::run("dockerd, firewalld and ufw beside it", &tests(), &[]),
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

fn tests() -> Vec<harness::Test> {
    let all: Vec<Test> =
        [bare::TESTS, docker::TESTS, ufw::TESTS, firewalld::TESTS, told::TESTS, ports::TESTS].concat();
    let test = |(name, body): Test| harness::Test {
        name: name.into(),
        body: Box::new(move || body(&Host::on_the_way_out()?)),
    };
    all.into_iter().map(test).collect()
}
