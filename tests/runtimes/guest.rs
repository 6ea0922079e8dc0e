//! A container that a runtime made, as the tests see it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use netlink::Netns;
use netns_fixtures::{Connection, tcp_connect};

/// A container with a network.
pub struct Guest {
    /// Its name, for messages.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// The address on its (first) network.
    pub address: Ipv4Addr,
}

impl Guest {
    /// The container's address as the probes want it.
    pub fn ip(&self) -> IpAddr {
        self.address.into()
    }

    /// Waits for the container's own server: a runtime that has started a program does not wait until it listens.
    pub fn serving(self) -> anyhow::Result<Self> {
        let server = (Ipv4Addr::LOCALHOST, 80).into();
        let listens = || Ok(tcp_connect(&self.netns, server, Duration::from_secs(1))? == Connection::Open);
        wait_until(&format!("{} listens", self.name), listens)?;
        Ok(self)
    }
}

/// Asks again until `met` says yes; an error after ten seconds.
pub fn wait_until(what: &str, mut met: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = Instant::now();
    while !met().with_context(|| what.to_owned())? {
        ensure!(started.elapsed() < Duration::from_secs(10), "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
