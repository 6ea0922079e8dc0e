//! Locks with a bounded wait; the error names the holder.
//!
//! They are flock(2) locks: the kernel releases them with the process that held them, however it ended. The order in
//! which one caller may take several is the order of [`LockName`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode as FileMode, OFlags};
use rustix::io::Errno;

use crate::{Error, Key, NetworkKey};

/// What a lock protects, in the order in which locks are taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockName {
    /// One attachment: its ADD, DEL and CHECK.
    Attachment(Key),
    /// A network: shared by its attachments' calls, exclusive while its bridge is made or removed.
    Network(String),
    /// All published host ports of this host.
    Ports,
    /// rnet's nftables tables: shared from the first element until the record is changed, exclusive for a rebuild.
    Ruleset,
    /// One of rnet's transactions, until its generation is written down: that distinguishes it from other programs'.
    Transaction,
    /// Calls to firewalld, whose objects change their numbers with each reload.
    Firewalld,
    /// The start of the name server.
    Names,
    /// A probe of the host's firewalls: its links have fixed names. The lock of a transaction may follow.
    Probe,
    /// Deleting the flows of containers that are gone. Of the other locks, only that of the ruleset may follow.
    Flows,
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Together with others that share it.
    Shared,
    /// Held by one process only.
    Exclusive,
}

impl LockName {
    fn file(&self) -> String {
        match self {
            LockName::Attachment(key) => format!("attachment-{key}"),
            LockName::Network(name) => format!("network-{}", NetworkKey::new(name)),
            LockName::Ports => "ports".into(),
            LockName::Ruleset => "ruleset".into(),
            LockName::Transaction => "transaction".into(),
            LockName::Firewalld => "firewalld".into(),
            LockName::Names => "names".into(),
            LockName::Probe => "probe".into(),
            LockName::Flows => "flows".into(),
        }
    }

    fn words(&self) -> String {
        match self {
            LockName::Attachment(key) => format!("the attachment {key}"),
            LockName::Network(name) => format!("the network {name:?}"),
            LockName::Ports => "the published ports".into(),
            LockName::Ruleset => "the ruleset".into(),
            LockName::Transaction => "the transaction on the ruleset".into(),
            LockName::Firewalld => "the calls to firewalld".into(),
            LockName::Names => "the start of the name server".into(),
            LockName::Probe => "the probe of the firewalls".into(),
            LockName::Flows => "the flows of containers that are gone".into(),
        }
    }
}

/// A lock that is held. Dropping it releases it, even if a forked child still has the descriptor.
#[derive(Debug)]
pub struct Lock {
    name: LockName,
    file: OwnedFd,
    patience: Duration,
}

impl Lock {
    /// Takes `name` in the folder `dir`, waiting at most `patience`; `what` is written into the file for the errors of those that wait.
    pub(crate) fn take(
        dir: BorrowedFd<'_>,
        name: LockName,
        mode: Mode,
        what: &str,
        patience: Duration,
    ) -> Result<Lock, Error> {
        loop {
            let file = open(dir, &name.file()).map_err(Error::file("open the lock", name.file()))?;
            let mut lock = Lock { name: name.clone(), file, patience };
            if mode == Mode::Shared {
                lock.yield_to_exclusive(dir);
            }
            lock.wait(dir, mode)?;
            // The file may have been removed with its attachment during the wait: then it locks nothing.
            if lock.is_linked()? {
                lock.sign(what);
                return Ok(lock);
            }
        }
    }

    /// Changes the mode; false if the file was removed meanwhile and locks nothing.
    pub(crate) fn change(&mut self, dir: BorrowedFd<'_>, mode: Mode) -> Result<bool, Error> {
        self.wait(dir, mode)?;
        self.is_linked()
    }

    /// Releases it and returns its name.
    pub(crate) fn into_name(self) -> LockName {
        self.name.clone()
    }

    /// Removes the lock's file, because its attachment is gone. Others that wait for it notice and make a new one.
    pub(crate) fn remove(self, dir: BorrowedFd<'_>) -> Result<(), Error> {
        match rustix::fs::unlinkat(dir, self.name.file(), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other.map_err(Error::file("remove the lock", self.name.file())),
        }
    }

    fn wait(&mut self, dir: BorrowedFd<'_>, mode: Mode) -> Result<(), Error> {
        let (now, later) = match mode {
            Mode::Shared => (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared),
            Mode::Exclusive => (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive),
        };
        match rustix::fs::flock(&self.file, now) {
            // A lock that was shared until now is released here (flock(2)), so no other process waits for this one.
            Err(Errno::WOULDBLOCK) => {
                let _turn = (mode == Mode::Exclusive).then(|| Turn::take(dir, &self.name, self.patience));
                self.wait_patiently(later)
            }
            other => other.map_err(Error::file("lock", self.name.file())),
        }
    }

    /// Lets processes go first that wait for the exclusive lock. Not used when an exclusive lock becomes shared: the others
    /// wait for exactly that. A turn that cannot be taken, or does not end in time, prevents no sharing.
    fn yield_to_exclusive(&self, dir: BorrowedFd<'_>) {
        if let Ok(turn) = open_at(dir, &Turn::file_of(&self.name), OFlags::RDONLY) {
            let _ = flock_within(&turn, FlockOperation::LockShared, self.patience);
        }
    }

    fn wait_patiently(&self, operation: FlockOperation) -> Result<(), Error> {
        match flock_within(&self.file, operation, self.patience) {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(Error::Busy { what: self.name.words(), holder: self.holder(), waited: self.patience })
            }
            Err(errno) => Err(Error::file("lock", self.name.file())(errno)),
        }
    }

    fn is_linked(&self) -> Result<bool, Error> {
        let stat = rustix::fs::fstat(&self.file).map_err(Error::file("read the lock", self.name.file()))?;
        Ok(stat.st_nlink > 0)
    }

    /// Writes the holder into the file, for the errors of those that wait. A full disk must not prevent locking. The first
    /// line counts: the rest is left from a longer one.
    fn sign(&self, what: &str) {
        let line = format!("pid {}: {what}\n", rustix::process::getpid());
        let _ = rustix::io::pwrite(&self.file, line.as_bytes(), 0);
    }

    /// The holder of the lock according to the kernel, and its purpose, if it was the last to sign.
    fn holder(&self) -> String {
        let signed = self.signature();
        let holders = self.holders();
        let has_signed = |pid: &u32| signed.starts_with(&format!("pid {pid}:"));
        match holders.first() {
            Some(first) if !holders.iter().any(has_signed) => format!("pid {first}"),
            _ => signed,
        }
    }

    fn signature(&self) -> String {
        let mut line = [0; 200];
        let read = rustix::io::pread(&self.file, &mut line[..], 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&line[..read]);
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// The processes that hold the lock (proc(5), /proc/locks); none if they cannot be seen.
    fn holders(&self) -> Vec<u32> {
        let Ok(stat) = rustix::fs::fstat(&self.file) else { return Vec::new() };
        let inode = format!(":{}", stat.st_ino);
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let fields = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let held = fields.filter(|fields| {
            fields.get(1) == Some(&"FLOCK") && fields.get(5).is_some_and(|file| file.ends_with(&inode))
        });
        // A waiting one has an arrow in the second field; a process of another pid namespace is 0.
        held.filter_map(|fields| fields.get(4)?.parse().ok()).filter(|pid| *pid > 0).collect()
    }
}

/// Held by a process that waits for an exclusive lock. flock(2) admits sharers as long as others share, so it could wait for
/// ever: later sharers stop here until it had the lock. Only the lock itself protects anything.
struct Turn<'d> {
    dir: BorrowedFd<'d>,
    name: String,
    _file: OwnedFd,
}

impl<'d> Turn<'d> {
    fn file_of(name: &LockName) -> String {
        format!("{}.turn", name.file())
    }

    /// `None` if the file cannot be made: then the wait has no turn.
    fn take(dir: BorrowedFd<'d>, name: &LockName, patience: Duration) -> Option<Self> {
        let name = Self::file_of(name);
        let file = open_at(dir, &name, OFlags::CREATE | OFlags::RDWR).ok()?;
        let _ = flock_within(&file, FlockOperation::LockExclusive, patience);
        Some(Self { dir, name, _file: file })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // A process that waits for it notices that the file is gone when it has it, and continues.
        let _ = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty());
    }
}

/// False if that took too long. flock(2) has no time limit, so a thread waits in it and this one waits for the thread.
fn flock_within(file: &OwnedFd, operation: FlockOperation, patience: Duration) -> Result<bool, Errno> {
    let file = file.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(rustix::fs::flock(&file, operation));
    });
    result.recv_timeout(patience).map_or(Ok(false), |locked| locked.map(|()| true))
}

/// Opens the file read-only if it cannot be written: flock(2) needs no more, and a DEL must continue.
fn open(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    open_at(dir, name, OFlags::CREATE | OFlags::RDWR)
        .or_else(|errno| open_at(dir, name, OFlags::RDONLY).map_err(|_| errno))
}

fn open_at(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, FileMode::from_raw_mode(0o600))
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.file.as_fd(), FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::open_dir;

    const SOON: Duration = Duration::from_millis(50);

    fn take(dir: &OwnedFd, mode: Mode) -> Result<Lock, Error> {
        Lock::take(dir.as_fd(), LockName::Ports, mode, "ADD web/eth0", SOON)
    }

    #[test]
    fn a_lock_that_is_not_free_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let _held = take(&dir, Mode::Exclusive).unwrap();

        let Err(Error::Busy { holder, .. }) = take(&dir, Mode::Shared) else { panic!("two hold the lock") };

        assert_eq!(holder, format!("pid {}: ADD web/eth0", rustix::process::getpid()));
    }

    #[test]
    fn the_lock_of_a_network_is_reported_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let network = || LockName::Network("mynet".into());
        let take = || Lock::take(dir.as_fd(), network(), Mode::Exclusive, "ADD web/eth0", SOON);
        let _held = take().unwrap();

        let error = take().unwrap_err().to_string();

        assert!(error.starts_with("another rnet holds the network \"mynet\" (pid "), "{error}");
    }

    #[test]
    fn a_sharer_that_signed_and_left_is_not_named_as_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let held = take(&dir, Mode::Shared).unwrap();
        let gone = b"pid 1: DEL db/eth0\n";
        rustix::io::pwrite(&held.file, gone, 0).unwrap();

        let Err(Error::Busy { holder, .. }) = take(&dir, Mode::Exclusive) else {
            panic!("two hold the lock")
        };

        assert_eq!(holder, format!("pid {}", rustix::process::getpid()));
    }

    #[test]
    fn a_holder_with_a_short_name_is_not_shown_with_the_end_of_a_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let long = "ADD a-very-long-name-of-a-container/eth0";
        drop(Lock::take(dir.as_fd(), LockName::Ports, Mode::Exclusive, long, SOON).unwrap());
        let _held = take(&dir, Mode::Exclusive).unwrap();

        let Err(Error::Busy { holder, .. }) = take(&dir, Mode::Shared) else { panic!("two hold the lock") };

        assert_eq!(holder, format!("pid {}: ADD web/eth0", rustix::process::getpid()));
    }

    #[test]
    fn a_lock_is_free_again_when_it_is_dropped_although_a_child_has_its_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let held = take(&dir, Mode::Exclusive).unwrap();
        let _inherited = held.file.try_clone().unwrap();

        drop(held);

        take(&dir, Mode::Exclusive).unwrap();
    }

    #[test]
    fn sharers_share_and_an_exclusive_lock_waits_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let first = take(&dir, Mode::Shared).unwrap();
        let mut second = take(&dir, Mode::Shared).unwrap();

        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| second.change(dir.as_fd(), Mode::Exclusive));
            drop(first);
            assert!(waiting.join().unwrap().unwrap());
        });
    }

    #[test]
    fn an_exclusive_lock_gets_its_turn_although_others_share_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let (over, patience) = (AtomicBool::new(false), Duration::from_secs(20));
        let take = |mode, patience| Lock::take(dir.as_fd(), LockName::Ports, mode, "ADD web/eth0", patience);
        let share_on = || {
            while !over.load(Ordering::Relaxed) {
                let _shared = take(Mode::Shared, patience).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        };

        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(share_on)));
            std::thread::sleep(SOON);
            let exclusive = take(Mode::Exclusive, Duration::from_secs(2)).map(drop);
            over.store(true, Ordering::Relaxed);
            exclusive.unwrap();
        });
    }

    #[test]
    fn a_removed_lock_locks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        let held = take(&dir, Mode::Exclusive).unwrap();

        held.remove(dir.as_fd()).unwrap();
        let _again = take(&dir, Mode::Exclusive).unwrap();

        assert!(matches!(take(&dir, Mode::Exclusive), Err(Error::Busy { .. })));
    }
}
