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

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/harness.rs"]
mod harness;

mod changeover;
mod checks;
mod containerd;
mod ctr;
mod guest;
mod leftovers;
mod names;
mod network;
mod podman;
mod program;
mod readme;
mod setup;
mod systemd;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use common::Host;
use harness::{Difference, Test};
use network::Flavour;
use setup::Setup;

/// What the reference plugins 1.1.1 do otherwise, by the end of a test's name. In a peer run a test named here must fail, and so.
const DIFFERENCES: &[Difference] = &[
    always("the_mac_is_made_of_the_address", "the MAC is", RANDOM_MAC),
    always("a_restart_with_the_same_address_answers_at_once", "no answer to its first ping", RANDOM_MAC),
    always("an_address_in_use_is_refused_without_harm", "CNI-HOSTPORT", CHAINS_STAY),
    always("nothing_is_left_behind", "CNI-HOSTPORT", CHAINS_STAY),
    always("a_killed_container_leaves_nothing_behind", "CNI-HOSTPORT", CHAINS_STAY),
    always("late_dels_without_a_namespace_are_fine", "CNI-HOSTPORT", CHAINS_STAY),
    always("a_container_gets_an_address_and_leaves_nothing", "ip nat", CHAINS_STAY),
    always("a_vanished_namespace_leaves_nothing_behind", "CNI-", LOST_WITHOUT_NETNS),
    always("a_flushed_ruleset_comes_back_with_the_next_container", "no page from", NOBODY_REPAIRS),
    always("a_port_in_use_is_refused_without_harm", "the second pod got the port too", PORTS_UNCHECKED),
    always("an_ip_range_at_the_end_of_the_subnet_works", "the third:", BEYOND_THE_RANGE),
    Difference { always: false, ..always("eight_containers_at_once", "no page from", LOST_RACES) },
    Difference {
        always: false,
        ..always("a_port_of_a_container_on_two_networks_answers", "no page from", EQUAL_ROUTES)
    },
];
const RANDOM_MAC: &str = "a random MAC makes a reused address dead while its neighbours remember the old one";
const CHAINS_STAY: &str = "chains stay there for ever; rnet's tables go with the last network";
const LOST_WITHOUT_NETNS: &str =
    "a DEL without the namespace leaks rules and links there; rnet finds everything by names";
const NOBODY_REPAIRS: &str = "published ports stay dead there until `podman network reload --all`";
const PORTS_UNCHECKED: &str =
    "nobody there looks whether a port is taken, and the second container's rule is never reached";
const BEYOND_THE_RANGE: &str = "one container more gets an address there than the range holds for containers; rnet never gives the broadcast address";
const LOST_RACES: &str =
    "calls that run at once lose each other's iptables rules there; rnet's elements go in by transactions";

const EQUAL_ROUTES: &str =
    "two default routes of one metric there: answers leave by whichever gateway was heard of lately";

const fn always(test: &'static str, says: &'static str, reason: &'static str) -> Difference {
    Difference { test, always: true, says, reason }
}

fn main() -> ExitCode {
    if std::env::var_os("RNET_TEST_RUNTIMES").is_none_or(|value| value != "1") {
        println!(
            "runtimes: set RNET_TEST_RUNTIMES=1 to run podman and containerd (as root; packages: .ci/run); 0 tests run"
        );
        return ExitCode::SUCCESS;
    }
    match Setup::prepare() {
        Ok(setup) => harness::run(&setup.about(), &tests(setup), if setup.peer { DIFFERENCES } else { &[] }),
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
        if !setup.peer {
            tests.extend(changeover::tests(flavour));
            tests.extend(readme::tests(flavour));
            tests.extend(names::tests(flavour));
            tests.extend(systemd::tests(flavour));
        }
    }
    tests
}

/// What a test does on its host with a network of this kind.
type Body = fn(&Host, Flavour) -> anyhow::Result<()>;

/// The test `NAME::FLAVOUR::runtime`, which has a host of its own.
fn test(runtime: &str, flavour: Flavour, (name, body): (&str, Body)) -> Test {
    let body = move || {
        let ended = catch_unwind(AssertUnwindSafe(|| body(&Host::with_outside(), flavour)));
        leftovers::remove();
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    };
    Test { name: format!("{runtime}::{flavour}::{name}"), body: Box::new(body) }
}
