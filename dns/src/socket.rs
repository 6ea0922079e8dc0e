//! The control socket, and the lock that makes its server the only one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::Error;
use crate::process::since_boot;

/// How often the lock is tried: a server that is ending may still hold it.
const LOCK_TRIES: u32 = 50;

/// See [`LOCK_TRIES`].
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The length of a process's number in the lock, with spaces after it.
const SIGNATURE: usize = 10;

/// How many control connections may wait while there is no worker.
const BACKLOG: i32 = 256;

/// The control socket, and the lock that makes its server the only one. Clients that connect wait until [`serve`] answers.
/// Dropping it removes the socket.
///
/// [`serve`]: crate::serve
#[derive(Debug)]
pub struct Control {
    pub(crate) listener: OwnedFd,
    pub(crate) folder: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) lock: OwnedFd,
    /// When this program opened it: another version has another time.
    pub(crate) since: u64,
}

impl Control {
    /// Makes the socket at `path`, with its lock beside it.
    ///
    /// # Errors
    /// [`Error::Running`] if another server has the lock, [`Error::Control`] if one of the two cannot be made.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = lock(name.into())?;
        let failed = |source| Error::Control { path: path.into(), source };
        let folder = open_folder(path).map_err(failed)?;
        let listener = listen(&folder, path).map_err(failed)?;
        Ok(Self { listener, folder, path: path.into(), lock, since: since_boot() })
    }

    /// Removes the socket, because it is no longer served. The lock is still held, so no other server has made it.
    pub fn remove(&self) {
        if let Some(name) = self.path.file_name() {
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
    }

    /// Writes the process's number into the lock, for others that find it taken.
    pub(crate) fn sign(&self) {
        let signature = format!("{:<1$}", std::process::id(), SIGNATURE);
        let _ = rustix::io::pwrite(&self.lock, signature.as_bytes(), 0);
    }

    /// The descriptors that a successor must keep.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.listener.as_fd(), self.folder.as_fd(), self.lock.as_fd()]
    }

    /// Whether a connection waits.
    pub(crate) fn is_wanted(&self) -> bool {
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        matches!(rustix::event::poll(&mut ready, Some(&Timespec::default())), Ok(1..))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Takes the lock. Only the lock counts, not a socket that a dead server left behind (G6).
fn lock(path: PathBuf) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Control { path: path.clone(), source };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(source) => return Err(failed(source)),
        }
    }
    Err(Error::Running { path, pid: holder(&lock) })
}

/// The process that serves at a socket, from the lock beside it; 0 if that is not known.
pub(crate) fn holder_of(socket: &Path) -> u32 {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(PathBuf::from(name), flags, Mode::empty()).map_or(0, |lock| holder(&lock))
}

/// The process that signed the lock.
fn holder(lock: &OwnedFd) -> u32 {
    let mut text = [0; SIGNATURE];
    let read = rustix::io::pread(lock, &mut text, 0).unwrap_or_default();
    std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn listen(folder: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let _ = rustix::fs::unlinkat(folder, path.file_name().ok_or(Errno::INVAL)?, AtFlags::empty());
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address(folder, path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The folder that `path` is in.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The address of the socket `path`, whose folder is open as `folder`.
pub(crate) fn address(folder: &OwnedFd, path: &Path) -> Result<SocketAddrUnix, Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    SocketAddrUnix::new(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}
