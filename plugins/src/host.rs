//! The host as one call of a plugin sees it: its links, its records, its ruleset.

use netlink::Netlink;
use nft::Firewall;
use store::{Lock, LockName, Mode, Paths, Store};

use crate::Error;

/// What the functions of this crate work on. Each part is opened once and at first use.
pub struct Host {
    /// Links, addresses, routes and sysctls of the host's namespace.
    pub netlink: Netlink,
    /// Records and locks.
    pub store: Store,
    /// Who we are in the eyes of others that wait for a lock: `ADD web/eth0`.
    pub what: String,
    firewall: Option<Firewall>,
}

impl Host {
    /// Opens the host of the calling thread's network namespace; `what` is told to others who wait for us.
    pub fn open(what: String) -> Result<Self, Error> {
        let store = Store::open(Paths::new(netlink::cookie()?))?;
        Ok(Self { netlink: Netlink::here()?, store, what, firewall: None })
    }

    /// The ruleset's socket.
    pub fn firewall(&mut self) -> Result<&mut Firewall, Error> {
        match &mut self.firewall {
            Some(firewall) => Ok(firewall),
            empty => Ok(empty.insert(Firewall::open()?)),
        }
    }

    /// The ruleset's socket, if this call has used it: its close must come late (see [`crate::link::delete`]).
    pub fn used_firewall(&self) -> Option<&Firewall> {
        self.firewall.as_ref()
    }

    /// Takes a lock in our name.
    pub fn lock(&self, name: LockName, mode: Mode) -> Result<Lock, Error> {
        Ok(self.store.lock(name, mode, &self.what)?)
    }

    /// Netlink messages sent so far, for the test that freezes their number.
    pub fn messages(&self) -> u64 {
        self.netlink.messages() + self.firewall.as_ref().map_or(0, Firewall::messages)
    }
}
