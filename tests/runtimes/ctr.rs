//! `ctr run --cni`: container ids like `default-c1`, namespaces like `/proc/PID/ns/net`, and the usual plugin folder.

use anyhow::ensure;

use crate::containerd::Containerd;
use crate::harness::{Body, Test};
use crate::lab::Lab;
use crate::network::{Flavour, Network};
use crate::setup::{IMAGE, Setup};

/// All tests of this file, for one kind of network.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, Body)] = &[("a_container_gets_an_address_and_leaves_nothing", comes_and_goes)];
    tests.iter().map(|test| Test::new("ctr", *flavour, *test)).collect()
}

fn comes_and_goes(setup: &Setup, flavour: Flavour) -> anyhow::Result<()> {
    let lab = Lab::new(setup)?;
    let network = Network::make(&lab, flavour, 1)?;
    let containerd = Containerd::start(&lab)?;
    let look = "ip -4 addr show eth0; ip route";
    let run = ["run", "--rm", "--cni", "--cgroup", "", IMAGE, "c1", "/bin/sh", "-c", look];
    let inside = containerd.ctr(&run)?;
    ensure!(inside.contains("inet 10.89.1."), "inside it looks so: {inside}");
    ensure!(inside.contains("default via 10.89.1.1"), "the default route is missing: {inside}");
    drop(containerd);
    network.remove(&lab)?;
    lab.ensure_nothing_left()
}
