//! The directory of lease files as the reference plugin lays it out, and its lock.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use store::Folder;

use crate::Error;
use crate::lease::{self, Owner};

/// The longest lease file in bytes; a longer one is garbage.
const LONGEST: usize = 64 * 1024;
/// Two changes within this time may have the same time stamp (ns).
const RACY: i64 = 10_000_000;
/// The same on file systems that count whole seconds (ns).
const RACY_SECONDS: i64 = 2_000_000_000;

/// An open directory of leases.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// The state of a directory, which shows changes by other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub device: u64,
    pub inode: u64,
    /// ns since 1970.
    pub mtime: i64,
    /// Whether any later change certainly has another mtime.
    pub settled: bool,
}

/// What distinguishes a lease file from another of the same name: a rewritten one has another mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub inode: u64,
    /// ns since 1970.
    pub ctime: i64,
}

/// The entry of the directory that is named after an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Missing,
    /// A lease.
    Lease(LeaseFile),
    /// A plain file that names no owner: the address is free.
    Garbage(Mark),
    /// A folder, a link or the like, or a plain file without an owner that has another name too. It is no lease, but must
    /// not be touched.
    Occupied,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseFile {
    pub id: String,
    pub ifname: String,
    pub mark: Mark,
}

impl LeaseFile {
    pub fn owner(&self) -> Owner<'_> {
        Owner { id: &self.id, ifname: &self.ifname }
    }
}

impl Directory {
    /// Opens the directory, making it (0755) if it is missing.
    pub fn open(folder: &Folder) -> Result<Self, Error> {
        Ok(Self { fd: folder.open(0o755)?, path: folder.path().to_owned() })
    }

    /// Opens the directory if there is one.
    pub fn find(folder: &Folder) -> Result<Option<Self>, Error> {
        Ok(folder.find()?.map(|fd| Self { fd, path: folder.path().to_owned() }))
    }

    /// The directory's path without symbolic links.
    pub fn real_path(&self) -> PathBuf {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        std::fs::read_link(link).unwrap_or_else(|_| self.path.clone())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock that reference and rnet binaries share, waiting at most `patience`.
    pub fn lock(&self, patience: Duration) -> Result<Lock, Error> {
        let file = self.open_lock()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(file)),
            Err(Errno::WOULDBLOCK) => self.wait_for(file, patience),
            Err(errno) => Err(self.error("lock", "lock", errno)),
        }
    }

    /// The directory's state.
    pub fn stamp(&self) -> Result<Stamp, Error> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.error("read", "", errno))?;
        let mtime = nanoseconds(stat.st_mtime.into(), stat.st_mtime_nsec.into());
        let racy = if mtime % 1_000_000_000 == 0 { RACY_SECONDS } else { RACY };
        let settled = mtime + racy <= now();
        Ok(Stamp { device: stat.st_dev, inode: stat.st_ino, mtime, settled })
    }

    /// Gives the directory a time stamp that no later change can repeat, and returns its state.
    ///
    /// The kernel stamps changes with the time of its last tick, so two changes of one tick have the same stamp. A stamp
    /// set here has the nanoseconds of the real clock and differs from both. If it cannot be set, the state is settled only
    /// if the last change is old enough.
    pub fn restamp(&self) -> Result<Stamp, Error> {
        let time = now();
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: time / 1_000_000_000, tv_nsec: time % 1_000_000_000 },
        };
        let set = rustix::fs::futimens(&self.fd, &times);
        let stamp = self.stamp()?;
        Ok(Stamp { settled: stamp.settled || (set.is_ok() && stamp.mtime == time), ..stamp })
    }

    /// The entry named after `address`.
    pub fn read(&self, address: IpAddr) -> Result<Entry, Error> {
        let name = address.to_string();
        self.read_name(&name).map_err(|errno| self.error("read the lease", &name, errno))
    }

    /// Writes the lease of `address` for `owner`, which appears whole; false if the name is taken.
    pub fn create(&self, address: IpAddr, owner: &Owner<'_>) -> Result<bool, Error> {
        let content = owner.content();
        Ok(store::create_whole(self.fd.as_fd(), &address.to_string(), content.as_bytes(), 0o600)?)
    }

    /// The mark of the lease file of `address`.
    pub fn mark(&self, address: IpAddr) -> Result<Mark, Error> {
        let name = address.to_string();
        self.stat(&name).map(|stat| mark(&stat)).map_err(|errno| self.error("read the lease", &name, errno))
    }

    /// The same, if there is a file.
    pub fn find_mark(&self, address: IpAddr) -> Result<Option<Mark>, Error> {
        match self.stat(&address.to_string()) {
            Err(Errno::NOENT) => Ok(None),
            Ok(stat) => Ok(Some(mark(&stat))),
            Err(errno) => Err(self.error("read the lease", &address.to_string(), errno)),
        }
    }

    /// Removes the file of `address` if it is still the one with this mark: a plain file with no other name.
    pub fn remove(&self, address: IpAddr, expected: Mark) -> Result<(), Error> {
        let name = address.to_string();
        let failed = |errno| self.error("remove the lease", &name, errno);
        let stat = self.stat(&name).map_err(failed)?;
        if !is_plain(&stat) || stat.st_nlink != 1 || mark(&stat) != expected {
            return Err(Error::NotPlain { path: self.path.join(name) });
        }
        rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty()).map_err(failed)
    }

    /// All addresses that have an entry, in no order.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let failed = |errno| self.error("list", "", errno);
        let mut addresses = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            addresses.extend(entry.file_name().to_str().ok().and_then(lease::address_of));
        }
        Ok(addresses)
    }

    /// The address given last out of range set `set`, if the file says so.
    pub fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, last_reserved(set), flags, Mode::empty()).ok()?;
        let mut text = [0; 64];
        let length = rustix::io::read(&file, &mut text[..]).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
    }

    /// Writes down the address given last out of range set `set`. It is a hint: a full disk is no reason to fail.
    pub fn set_last_reserved(&self, set: usize, address: IpAddr) {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (name, text) = (last_reserved(set), address.to_string());
        let Ok(file) = rustix::fs::openat(&self.fd, &name, flags, Mode::from_raw_mode(0o600)) else { return };
        match rustix::fs::fstat(&file) {
            Ok(stat) if is_plain(&stat) && stat.st_nlink == 1 => overwrite(&file, text.as_bytes()),
            // A file that has another name too must not be written into.
            _ => drop(store::replace_whole(self.fd.as_fd(), &name, text.as_bytes(), 0o600)),
        }
    }

    fn read_name(&self, name: &str) -> Result<Entry, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Entry::Missing),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Entry::Occupied),
            Err(errno) => return Err(errno),
        };
        let stat = rustix::fs::fstat(&file)?;
        if !is_plain(&stat) {
            return Ok(Entry::Occupied);
        }
        let content = read(&file, LONGEST.min(stat.st_size as usize))?;
        Ok(match entry(&content, mark(&stat)) {
            // The file has another name too, so it may belong to another program.
            Entry::Garbage(_) if stat.st_nlink > 1 => Entry::Occupied,
            entry => entry,
        })
    }

    fn stat(&self, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens the lock file read-only if it cannot be written: flock(2) needs no more, and a DEL must continue.
    fn open_lock(&self) -> Result<OwnedFd, Error> {
        let open = |flags, mode| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&self.fd, "lock", flags, Mode::from_raw_mode(mode))
        };
        open(OFlags::RDWR | OFlags::CREATE, 0o750)
            .or_else(|errno| open(OFlags::RDONLY, 0).map_err(|_| errno))
            .map_err(|errno| self.error("open", "lock", errno))
    }

    /// flock(2) knows no time limit, so a thread waits in it and this one waits for the thread.
    fn wait_for(&self, file: OwnedFd, patience: Duration) -> Result<Lock, Error> {
        let holder = holder(&file);
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || {
            let locked = rustix::fs::flock(&file, FlockOperation::LockExclusive).map(|()| Lock(file));
            // If the wait is over, the lock is dropped here and so released.
            let _ = done.send(locked);
        });
        match result.recv_timeout(patience) {
            Ok(locked) => locked.map_err(|errno| self.error("lock", "lock", errno)),
            Err(_) => Err(Error::Busy { path: self.path.clone(), holder, waited: patience }),
        }
    }

    fn error(&self, action: &'static str, name: &str, errno: Errno) -> Error {
        Error::File {
            action,
            path: if name.is_empty() { self.path.clone() } else { self.path.join(name) },
            errno,
        }
    }
}

/// The directory's lock, held.
#[derive(Debug)]
pub(crate) struct Lock(OwnedFd);

/// Unlocks explicitly, because a forked child may have the descriptor too.
impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

fn entry(content: &[u8], mark: Mark) -> Entry {
    match lease::parse(content).filter(|_| content.len() < LONGEST) {
        Some((id, ifname)) => Entry::Lease(LeaseFile { id: id.to_owned(), ifname: ifname.to_owned(), mark }),
        None => Entry::Garbage(mark),
    }
}

fn read(file: &OwnedFd, size: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size && rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes))? > 0 {}
    Ok(bytes)
}

/// Writes, then truncates: an emptied file would make ext4 flush it on close.
fn overwrite(file: &OwnedFd, bytes: &[u8]) {
    let _ = rustix::io::pwrite(file, bytes, 0).and_then(|_| rustix::fs::ftruncate(file, bytes.len() as u64));
}

/// The process that holds a lock on `file`, from /proc/locks.
fn holder(file: &OwnedFd) -> Option<u32> {
    let inode = format!(":{}", rustix::fs::fstat(file).ok()?.st_ino);
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let fields = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut held = fields.filter(|fields| fields.get(1) == Some(&"FLOCK"));
    held.find(|fields| fields.get(5).is_some_and(|file| file.ends_with(&inode)))?.get(4)?.parse().ok()
}

fn last_reserved(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn mark(stat: &Stat) -> Mark {
    Mark { inode: stat.st_ino, ctime: nanoseconds(stat.st_ctime.into(), stat.st_ctime_nsec.into()) }
}

fn nanoseconds(seconds: i128, nanoseconds: i128) -> i64 {
    (seconds * 1_000_000_000 + nanoseconds) as i64
}

/// ns since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(&Folder::at(&folder.path().join("net"))).unwrap();
        (folder, directory)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const WEB: Owner<'_> = Owner { id: "web", ifname: "eth0" };

    #[test]
    fn a_created_lease_is_read_back_and_guards_its_name() {
        let (_folder, directory) = directory();

        assert!(directory.create(ip("10.9.0.2"), &WEB).unwrap());
        assert!(!directory.create(ip("10.9.0.2"), &WEB).unwrap());

        let Entry::Lease(held) = directory.read(ip("10.9.0.2")).unwrap() else { panic!("no lease") };
        assert_eq!(held.owner(), WEB);
        assert_eq!(directory.mark(ip("10.9.0.2")).unwrap(), held.mark);
        assert_eq!(directory.read(ip("10.9.0.3")).unwrap(), Entry::Missing);
    }

    #[test]
    fn links_and_folders_are_neither_followed_nor_removed() {
        let (folder, directory) = directory();
        let net = folder.path().join("net");
        std::os::unix::fs::symlink("/etc/passwd", net.join("10.9.0.2")).unwrap();
        std::fs::create_dir(net.join("10.9.0.3")).unwrap();
        directory.create(ip("10.9.0.4"), &WEB).unwrap();
        std::fs::hard_link(net.join("10.9.0.4"), folder.path().join("other")).unwrap();

        assert_eq!(directory.read(ip("10.9.0.2")).unwrap(), Entry::Occupied);
        assert_eq!(directory.read(ip("10.9.0.3")).unwrap(), Entry::Occupied);
        let linked = directory.mark(ip("10.9.0.4")).unwrap();
        assert!(matches!(directory.remove(ip("10.9.0.4"), linked), Err(Error::NotPlain { .. })));
    }

    #[test]
    fn a_file_with_another_name_is_neither_written_nor_free() {
        let (folder, directory) = directory();
        let (net, victim) = (folder.path().join("net"), folder.path().join("victim"));
        std::fs::write(&victim, "a secret").unwrap();
        for name in ["last_reserved_ip.0", "10.9.0.2"] {
            std::fs::hard_link(&victim, net.join(name)).unwrap();
        }

        directory.set_last_reserved(0, ip("10.9.0.5"));

        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "a secret");
        assert_eq!(std::fs::read_to_string(net.join("last_reserved_ip.0")).unwrap(), "10.9.0.5");
        assert_eq!(directory.read(ip("10.9.0.2")).unwrap(), Entry::Occupied);
    }

    #[test]
    fn every_change_after_a_restamp_is_noticed() {
        let (folder, directory) = directory();

        for round in 0..200 {
            let before = directory.restamp().unwrap();
            assert!(before.settled && directory.stamp().unwrap().mtime == before.mtime);
            std::fs::write(folder.path().join(format!("net/{round}")), "").unwrap();
            assert_ne!(directory.stamp().unwrap().mtime, before.mtime);
        }
    }

    #[test]
    fn the_last_address_is_rewritten_whole_although_it_is_shorter() {
        let (folder, directory) = directory();

        directory.set_last_reserved(0, ip("10.9.0.100"));
        directory.set_last_reserved(0, ip("10.9.0.2"));

        assert_eq!(
            std::fs::read_to_string(folder.path().join("net/last_reserved_ip.0")).unwrap(),
            "10.9.0.2"
        );
        assert_eq!(directory.last_reserved(0), Some(ip("10.9.0.2")));
        assert_eq!(directory.last_reserved(1), None);
    }

    #[test]
    fn a_lock_that_is_not_released_names_its_holder() {
        let (_folder, directory) = directory();
        let held = directory.lock(SOON).unwrap();

        let Err(Error::Busy { holder, .. }) = directory.lock(SOON) else { panic!("two hold the lock") };
        drop(held);

        assert_eq!(holder, Some(std::process::id()));
        directory.lock(Duration::from_secs(10)).unwrap();
    }
}
