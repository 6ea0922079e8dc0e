//! Sysctls of one network namespace, read and written from any thread.
//!
//! The kernel decides which namespace's `ipv4` is below /proc/sys/net when that name is looked
//! up. So a descriptor of the directory, opened inside, serves that namespace from any thread.
//! The look-up takes longer with more namespaces (all their directories share one chain of the
//! kernel's name cache; 0.4 ms at 500), so it happens once, and only when a setting is needed.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::netns::{self, Netns};

/// `SIOCGSKNS` (linux/sockios.h): the network namespace that a socket belongs to.
const SIOCGSKNS: libc::c_ulong = 0x894c;

/// The families whose directories a handle keeps open; others are opened when needed.
pub(crate) struct Sysctls {
    /// The thread that is in the namespace, if there is one.
    home: Option<ThreadId>,
    v4: OnceLock<OwnedFd>,
    v6: OnceLock<OwnedFd>,
}

impl Sysctls {
    /// Those of the calling thread's namespace.
    pub fn here() -> Self {
        Self { home: Some(thread::current().id()), v4: OnceLock::new(), v6: OnceLock::new() }
    }

    /// Those of the namespace that `v6` belongs to, its `/proc/sys/net/ipv6`.
    pub fn inside(v6: Option<OwnedFd>) -> Self {
        Self { home: None, v4: OnceLock::new(), v6: v6.map_or_else(OnceLock::new, OnceLock::from) }
    }

    /// The trimmed value of `key`; `socket` is any of the namespace, for the rarer directories.
    pub fn read(&self, socket: BorrowedFd<'_>, key: &str) -> Result<Option<String>, Error> {
        match self.open(socket, key, OFlags::RDONLY).and_then(|file| value_in(&file)) {
            Ok(value) => Ok(Some(value)),
            // A folder of keys is no key.
            Err(Errno::NOENT | Errno::ISDIR) => Ok(None),
            Err(errno) => Err(Error::ReadSysctl { key: key.into(), errno }),
        }
    }

    /// Writes `value` unless the key has it already; true if it wrote, `None` if there is no such key.
    pub fn write(&self, socket: BorrowedFd<'_>, key: &str, value: &str) -> Result<Option<bool>, Error> {
        let failed = |errno| Error::WriteSysctl { key: key.into(), value: value.into(), errno };
        let is = |present: &str| present == value.trim();
        let file = match self.open(socket, key, OFlags::RDWR) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            // The value may be right already.
            Err(errno) => match self.read(socket, key)? {
                Some(present) if is(&present) => return Ok(Some(false)),
                _ => return Err(failed(errno)),
            },
        };
        let present = value_in(&file).map_err(|errno| Error::ReadSysctl { key: key.into(), errno })?;
        if is(&present) {
            return Ok(Some(false));
        }
        // From the beginning: the kernel accepts nothing else (kernel.sysctl_writes_strict).
        rustix::io::pwrite(&file, value.as_bytes(), 0).map_err(failed)?;
        Ok(Some(true))
    }

    /// Writes `value` without reading the key.
    pub fn overwrite(&self, socket: BorrowedFd<'_>, key: &str, value: &str) -> Result<(), Error> {
        let failed = |errno| Error::WriteSysctl { key: key.into(), value: value.into(), errno };
        let file = self.open(socket, key, OFlags::WRONLY).map_err(failed)?;
        rustix::io::pwrite(&file, value.as_bytes(), 0).map(drop).map_err(failed)
    }

    fn open(&self, socket: BorrowedFd<'_>, key: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        // `nf_conntrack_max` lies in no family's directory.
        let (first, rest) = key.split_once('/').unwrap_or(("", key));
        // Keys contain interface names; none may lead out of the directory.
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Errno::INVAL);
        }
        let open = |dir: &OwnedFd| {
            rustix::fs::openat(dir, rest, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        };
        match first {
            "ipv4" => open(self.keep_open(&self.v4, socket, first)?),
            "ipv6" => open(self.keep_open(&self.v6, socket, first)?),
            other => open(&directory_inside(socket, other)?),
        }
    }

    fn keep_open<'a>(
        &self,
        cell: &'a OnceLock<OwnedFd>,
        socket: BorrowedFd<'_>,
        name: &str,
    ) -> Result<&'a OwnedFd, Errno> {
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let opened = match self.home == Some(thread::current().id()) {
            true => directory(format!("/proc/sys/net/{name}"))?,
            false => directory_inside(socket, name)?,
        };
        Ok(cell.get_or_init(|| opened))
    }
}

/// The content of a setting's file, trimmed.
fn value_in(file: &OwnedFd) -> Result<String, Errno> {
    let mut value = [0; 4096];
    let length = rustix::io::read(file, &mut value[..])?;
    Ok(String::from_utf8_lossy(&value[..length]).trim().to_owned())
}

/// The calling thread's `/proc/sys/net/ipv6`.
pub(crate) fn v6_here() -> Option<OwnedFd> {
    directory(c"/proc/sys/net/ipv6").ok()
}

fn directory(path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// `core`, `bridge` (which appears with br_netfilter) and `netfilter` are rare: a visit each time.
fn directory_inside(socket: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let netns = namespace_of(socket)?;
    netns.visit(|| directory(format!("/proc/sys/net/{name}"))).unwrap_or(Err(Errno::PERM))
}

fn namespace_of(socket: BorrowedFd<'_>) -> Result<Netns, Errno> {
    // SAFETY: SIOCGSKNS takes no argument and touches no memory of this process.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS as _) };
    if fd < 0 {
        return Err(netns::last_errno());
    }
    // SAFETY: the kernel has just opened this descriptor, and no other code knows it.
    Netns::of_descriptor(unsafe { OwnedFd::from_raw_fd(fd) })
}
