//! The server's processes: how this program starts another of itself, and what tells one process from another.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A worker that lived shorter than this is replaced after [`BREATH`].
pub(crate) const SHORT_LIFE: Duration = Duration::from_secs(1);

/// The pause before a short-lived worker is replaced; the next must serve within a second (G8).
pub(crate) const BREATH: Duration = Duration::from_millis(300);

/// Starts this executable with `arguments`, and a socket to this process as its standard input.
pub(crate) fn spawn(arguments: &[OsString]) -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // The running file, even if another version has replaced it.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rnet").args(arguments).current_dir("/").stdin(theirs).stdout(Stdio::null());
    Ok((ours, command.spawn()?))
}

/// The time since the boot, in milliseconds.
pub(crate) fn since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64) * 1000 + (now.tv_nsec as u64) / 1_000_000
}

/// Device and inode of this thread's network namespace.
pub(crate) fn netns() -> io::Result<(u64, u64)> {
    let netns = std::fs::metadata("/proc/thread-self/ns/net")?;
    Ok((netns.dev(), netns.ino()))
}
