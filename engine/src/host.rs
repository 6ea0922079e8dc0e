//! The host as one call of a plugin sees it: its links, its records, its ruleset.

use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink::{Kind, Netlink};
use nft::Firewall;
use store::{Lock, LockName, Mode, Paths, Store};

use crate::{Error, keeper};

/// What the functions of this crate work on. Each part is opened once and at first use.
pub struct Host {
    /// Links, addresses, routes and sysctls of the host's namespace.
    pub netlink: Netlink,
    /// Records and locks.
    pub store: Store,
    /// Who we are in the eyes of others that wait for a lock: `ADD web/eth0`.
    pub what: String,
    /// Flows have to be forgotten, by a child.
    pub has_stale: bool,
    firewall: Option<Firewall>,
    deleted: Option<Deletion>,
    /// Messages that were sent by a socket which is closed now.
    sent: u64,
}

/// What this call has deleted from the ruleset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deletion {
    /// Nobody else did of late.
    Lone,
    /// Others did too.
    AmongOthers,
}

/// More than an ADD and its undo ever have open at once besides this, the start of the name server included.
const DESCRIPTORS: i32 = 24;

/// The note that says when something was last deleted from the ruleset.
const DELETED: &str = "deleted";

/// Longer than the kernel's grace period after a deletion (12 to 20 ms).
const GRACE: Duration = Duration::from_millis(40);

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// The oldest kernel on which all of rnet works (tests/kernels runs it there).
const OLDEST_KERNEL: (u32, u32) = (5, 10);

fn require_kernel() -> Result<(), Error> {
    let found = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&found) {
        Some(version) if version < OLDEST_KERNEL => Err(Error::OldKernel { found, oldest: OLDEST_KERNEL }),
        _ => Ok(()),
    }
}

/// `6.1.0-57-amd64` is 6.1. What cannot be read is not judged.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

impl Host {
    /// Opens the host of the calling thread's network namespace; `what` is told to others who wait for us.
    ///
    /// # Errors
    /// The folder of records or the netlink socket cannot be opened.
    pub fn open(what: String) -> Result<Self, Error> {
        let store = Store::open(Paths::new(netlink::cookie()?))?;
        Ok(Self {
            netlink: Netlink::here()?,
            store,
            what,
            has_stale: false,
            firewall: None,
            deleted: None,
            sent: 0,
        })
    }

    /// The same for STATUS: no record could be written, no ADD would work.
    ///
    /// # Errors
    /// The kernel is too old, or no record could be written.
    pub fn ready(what: String) -> Result<Self, Error> {
        require_kernel()?;
        let host = Self::open(what).map_err(Error::not_ready)?;
        store::check_writable(&host.store.paths().run()).map_err(Error::not_ready)?;
        Ok(host)
    }

    /// Whether the kernel's ruleset can be worked with (STATUS).
    ///
    /// # Errors
    /// The kernel lacks something that the rules need.
    pub fn require_rules(&mut self) -> Result<(), Error> {
        let usable = self.firewall().and_then(|firewall| match firewall.state()? {
            Some(_) => Ok(()),
            None => Ok(firewall.require_rules()?),
        });
        usable.map_err(Error::not_ready)
    }

    /// Whether flows can be found that are to be forgotten: those of a container that is gone, and of UDP those that began before
    /// a port was published (STATUS).
    ///
    /// # Errors
    /// The kernel has no conntrack by netlink.
    pub fn require_flows(&mut self) -> Result<(), Error> {
        let found = self.firewall().and_then(|firewall| Ok(firewall.tracked()?));
        found.map(drop).map_err(Error::not_ready)
    }

    /// Whether the kernel makes the links of an attachment (STATUS).
    ///
    /// # Errors
    /// The kernel has no bridges or no veth pairs.
    pub fn require_links(&mut self) -> Result<(), Error> {
        [Kind::Bridge, Kind::Veth].into_iter().try_for_each(|kind| {
            self.netlink.require_kind(kind).map_err(Error::from).map_err(Error::not_ready)
        })
    }

    /// Makes sure that an ADD does not run out of descriptors half-way, where its undo would have none either.
    ///
    /// # Errors
    /// This process may open too few more files.
    pub fn require_descriptors(&self) -> Result<(), Error> {
        // Opened a moment ago, so what was free lies above it.
        let last = self.store.passing();
        rustix::io::fcntl_dupfd_cloexec(last, last.as_raw_fd() + DESCRIPTORS)
            .map(drop)
            .map_err(|_| Error::TooFewDescriptors { needed: DESCRIPTORS })
    }

    /// If a lock was not free in time, the undo does not wait for it as long again.
    pub fn hurry_after(&mut self, error: &Error) {
        if error.is_busy() {
            self.store.hurry();
        }
    }

    /// The ruleset's socket.
    ///
    /// # Errors
    /// The netfilter socket cannot be opened.
    pub fn firewall(&mut self) -> Result<&mut Firewall, Error> {
        Ok(self.firewall_and_netlink()?.0)
    }

    /// The same beside the links, where one question needs both.
    ///
    /// # Errors
    /// As for [`Host::firewall`].
    pub fn firewall_and_netlink(&mut self) -> Result<(&mut Firewall, &mut Netlink), Error> {
        let firewall = match &mut self.firewall {
            Some(firewall) => firewall,
            empty => empty.insert(Firewall::open()?),
        };
        Ok((firewall, &mut self.netlink))
    }

    /// The same beside the records.
    ///
    /// # Errors
    /// As for [`Host::firewall`].
    pub fn firewall_and_store(&mut self) -> Result<(&mut Firewall, &Store), Error> {
        let firewall = match &mut self.firewall {
            Some(firewall) => firewall,
            empty => empty.insert(Firewall::open()?),
        };
        Ok((firewall, &self.store))
    }

    /// Says that something was deleted from the ruleset just now, for [`Host::close`] of those who come after.
    ///
    /// # Errors
    /// Never: a note that cannot be written only costs time.
    pub fn note_deletion(&mut self) -> Result<(), Error> {
        let others = self.deleted.is_some() || self.was_deletion_recent();
        self.deleted = Some(if others { Deletion::AmongOthers } else { Deletion::Lone });
        // A process that does not learn of it waits a little longer; that is no reason to fail.
        let _ = self.store.write_note(DELETED, &since_boot().as_millis().to_string());
        Ok(())
    }

    /// Closes the ruleset's socket; where something was deleted just now, by way of the [`keeper`].
    pub fn close(&mut self) {
        let Some(firewall) = self.firewall.take() else { return };
        self.sent += firewall.messages();
        if self.deleted.is_some() || self.was_deletion_recent() {
            keeper::close_later(self.store.passing(), firewall);
        }
    }

    /// The ruleset's socket, for a child that will have to wait as long as its close would: nobody else's close is kept
    /// waiting by it if ours is the only deletion of late. It saves the keeper's start.
    pub fn part_with_firewall(&mut self) -> Option<Firewall> {
        let firewall = self.firewall.take_if(|_| self.deleted == Some(Deletion::Lone))?;
        self.sent += firewall.messages();
        Some(firewall)
    }

    fn was_deletion_recent(&self) -> bool {
        let last = self.store.note(DELETED).ok().flatten().and_then(|text| text.parse().ok());
        last.map(Duration::from_millis).is_some_and(|last| since_boot().saturating_sub(last) < GRACE)
    }

    /// Takes a lock in our name.
    ///
    /// # Errors
    /// It is not free in time; the error names the holder.
    pub fn lock(&self, name: LockName, mode: Mode) -> Result<Lock, Error> {
        Ok(self.store.lock(name, mode, &self.what)?)
    }

    /// Takes a lock anew in another mode. The kernel lets go in between: look again at what was read before.
    ///
    /// # Errors
    /// As for [`Host::lock`].
    pub fn change(&self, lock: Lock, mode: Mode) -> Result<Lock, Error> {
        Ok(self.store.change(lock, mode, &self.what)?)
    }
}

/// A test build tells how many netlink messages a call has sent, in the file that `RNET_MESSAGES` names; those sent
/// inside the container are not among them.
#[cfg(feature = "failpoints")]
impl Drop for Host {
    fn drop(&mut self) {
        if let Some(file) = std::env::var_os("RNET_MESSAGES") {
            let sent =
                self.netlink.messages() + self.sent + self.firewall.as_ref().map_or(0, Firewall::messages);
            let _ = std::fs::write(file, sent.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_as_major_and_minor() {
        assert_eq!(version("6.1.0-57-amd64"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("7-rc1"), None);
        assert!(version("5.4.0-26-generic") < Some(OLDEST_KERNEL) && version("6.1") > Some(OLDEST_KERNEL));
    }
}
