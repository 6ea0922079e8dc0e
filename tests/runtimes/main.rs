//! Real container runtimes on rnet's plugins: podman with its CNI backend, containerd through the CRI, `ctr run --cni`.
//!
//! The variable RNET_TEST_RUNTIMES=1, which `.ci/run` sets after it has installed the packages, turns them on; then a missing runtime
//! is a failure. Without it no test runs, and the output says so. They want the real root, and the namespaces that Cargo's runner
//! (netns-fixtures/sandbox.sh) makes for them.
//!
//! ```sh
//! RNET_TEST_RUNTIMES=1 cargo test --test runtimes [WORD…]               # rnet, as Cargo builds it
//! RNET_TEST_RUNTIMES=1 RNET_TEST_BINARY=FILE cargo test --test runtimes # another build of rnet
//! RNET_TEST_RUNTIMES=1 RNET_TEST_PLUGINS=/usr/lib/cni cargo test --test runtimes  # the same questions to the reference plugins
//! ```
//!
//! In the last form, a peer run, [`DIFFERENCES`] lists what the reference plugins are known to do otherwise, and why rnet does not.

// Its output is a test report; and a test that cannot go on returns an error.
#![allow(clippy::print_stdout)]

mod checks;
mod containerd;
mod ctr;
mod harness;
mod lab;
mod network;
mod podman;
mod program;
mod setup;

use std::process::ExitCode;

use harness::{Difference, Test};
use setup::Setup;

/// What the reference plugins 1.1.1 do otherwise, by the end of a test's name. In a peer run a test named here must fail, and so.
const DIFFERENCES: &[Difference] = &[
    Difference { test: "the_mac_is_made_of_the_address", says: "the MAC is", reason: RANDOM_MAC },
    Difference {
        test: "a_restart_with_the_same_address_answers_at_once",
        says: "no answer to its first ping",
        reason: RANDOM_MAC,
    },
    Difference {
        test: "an_address_in_use_is_refused_without_harm",
        says: "CNI-HOSTPORT",
        reason: CHAINS_STAY,
    },
    Difference { test: "nothing_is_left_behind", says: "CNI-HOSTPORT", reason: CHAINS_STAY },
    Difference {
        test: "a_killed_container_leaves_nothing_behind",
        says: "CNI-HOSTPORT",
        reason: CHAINS_STAY,
    },
    Difference { test: "leaves_nothing", says: "ip nat", reason: CHAINS_STAY },
    Difference { test: "late_dels_without_a_namespace_are_fine", says: "CNI-HOSTPORT", reason: CHAINS_STAY },
    Difference {
        test: "a_vanished_namespace_leaves_nothing_behind",
        says: "CNI-",
        reason: LOST_WITHOUT_NETNS,
    },
    Difference {
        test: "a_flushed_ruleset_comes_back_with_the_next_container",
        says: "no page from",
        reason: "published ports stay dead there until `podman network reload --all`",
    },
    Difference {
        test: "a_port_in_use_is_refused_without_harm",
        says: "the second pod got the port too",
        reason: "nobody there looks whether the port is taken; the second container's rule is never reached",
    },
];
const RANDOM_MAC: &str = "a random MAC makes a reused address dead while its neighbours remember the old one";
const CHAINS_STAY: &str = "chains stay there for ever; rnet's tables go with the last network";
const LOST_WITHOUT_NETNS: &str =
    "a DEL without the namespace leaks rules and links there; rnet finds everything by names";

fn main() -> ExitCode {
    if std::env::var_os("RNET_TEST_RUNTIMES").is_none_or(|value| value != "1") {
        println!(
            "runtimes: set RNET_TEST_RUNTIMES=1 to run podman and containerd (as root; packages: .ci/run); 0 tests run"
        );
        return ExitCode::SUCCESS;
    }
    match Setup::new() {
        Ok(setup) => harness::run(&setup, &tests(&setup), DIFFERENCES),
        Err(error) => {
            println!("runtimes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tests(setup: &Setup) -> Vec<Test> {
    let flavours = network::flavours(setup.peer);
    let mut tests = Vec::new();
    for flavour in flavours {
        tests.extend(podman::tests(flavour));
        tests.extend(containerd::tests(flavour));
        tests.extend(ctr::tests(flavour));
    }
    tests
}
