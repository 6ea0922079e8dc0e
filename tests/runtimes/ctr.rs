//! `ctr run --cni`: container ids like `default-c1`, namespaces like `/proc/PID/ns/net`, and the usual plugin folder.

use anyhow::ensure;

use crate::common::Host;
use crate::containerd::Containerd;
use crate::harness::Test;
use crate::leftovers::Before;
use crate::network::{Flavour, Network};
use crate::setup::IMAGE;

/// All tests of this file, for one kind of network.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, crate::Body)] = &[("a_container_gets_an_address_and_leaves_nothing", comes_and_goes)];
    tests.iter().map(|test| crate::test("ctr", *flavour, *test)).collect()
}

fn comes_and_goes(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let look = "ip -4 addr show eth0; ip route";
    let run = ["run", "--rm", "--cni", "--cgroup", "", IMAGE, "c1", "/bin/sh", "-c", look];
    let inside = containerd.ctr(&run)?;
    ensure!(inside.contains("inet 10.89.1."), "inside it looks so: {inside}");
    ensure!(inside.contains("default via 10.89.1.1"), "the default route is missing: {inside}");
    drop(containerd);
    network.remove(host)?;
    before.ensure_nothing_left(host)
}
