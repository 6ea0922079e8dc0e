//! The host as one call of a plugin sees it: its links, its records, its ruleset.

use std::os::fd::AsFd;
use std::time::Duration;

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
    deleted: bool,
}

/// The note that says when something was last deleted from the ruleset.
const DELETED: &str = "deleted";

/// Longer than the kernel's grace period after a deletion (12 to 20 ms).
const GRACE: Duration = Duration::from_millis(40);

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

impl Host {
    /// Opens the host of the calling thread's network namespace; `what` is told to others who wait for us.
    pub fn open(what: String) -> Result<Self, Error> {
        let store = Store::open(Paths::new(netlink::cookie()?))?;
        Ok(Self { netlink: Netlink::here()?, store, what, firewall: None, deleted: false })
    }

    /// The ruleset's socket.
    pub fn firewall(&mut self) -> Result<&mut Firewall, Error> {
        match &mut self.firewall {
            Some(firewall) => Ok(firewall),
            empty => Ok(empty.insert(Firewall::open()?)),
        }
    }

    /// The ruleset's socket, if this call has used it, for somebody who closes it later.
    pub fn take_firewall(&mut self) -> Option<Firewall> {
        self.firewall.take()
    }

    /// Says that something was deleted from the ruleset just now, for [`Host::close`] of those who come after.
    pub fn note_deletion(&mut self) -> Result<(), Error> {
        self.deleted = true;
        // Whoever does not learn of it waits a little longer; that is no reason to fail.
        let _ = self.store.write_note(DELETED, &since_boot().as_millis().to_string());
        Ok(())
    }

    /// Closes the ruleset's socket, which after anybody's deletion waits for the kernel's grace period and keeps
    /// everybody else from the ruleset meanwhile: then a child closes it when that is over.
    ///
    /// Without a child it waits: by now everything is done, and this is no reason to say that it is not.
    pub fn close(&mut self) {
        if let Some(firewall) = self.firewall.take()
            && (self.deleted || self.was_deletion_recent())
        {
            let _ = netlink::fork_keeping(&[firewall.as_fd()], || std::thread::sleep(GRACE));
        }
    }

    fn was_deletion_recent(&self) -> bool {
        let last = self.store.note(DELETED).ok().flatten().and_then(|text| text.parse().ok());
        last.map(Duration::from_millis).is_some_and(|last| since_boot().saturating_sub(last) < GRACE)
    }

    /// Takes a lock in our name.
    pub fn lock(&self, name: LockName, mode: Mode) -> Result<Lock, Error> {
        Ok(self.store.lock(name, mode, &self.what)?)
    }

    /// Takes a lock anew in another mode. The kernel lets go in between: look again at what was read before.
    pub fn change(&self, lock: Lock, mode: Mode) -> Result<Lock, Error> {
        Ok(self.store.change(lock, mode, &self.what)?)
    }

    /// Netlink messages sent so far, for the test that freezes their number.
    pub fn messages(&self) -> u64 {
        self.netlink.messages() + self.firewall.as_ref().map_or(0, Firewall::messages)
    }
}
