//! Network namespaces as values: held open by a descriptor, entered only by short threads and for short visits.

#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::thread;
use std::{io, panic, ptr};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::Error;
use crate::mounts::Mounts;
use crate::signals::default_signals;

/// File system type of namespace descriptors (statfs(2)).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The boot id, which differs after each start of the machine (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const SYS: &CStr = c"/sys";
const CGROUPS: &CStr = c"/sys/fs/cgroup";

/// What distinguishes two network namespaces while both exist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NetnsId {
    /// Device of the namespace file.
    pub dev: u64,
    /// Inode of the namespace file.
    pub ino: u64,
}

/// A network namespace held open by a descriptor.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
    path: PathBuf,
}

impl Netns {
    /// Opens the network namespace at `path` (a bind mount, or `/proc/PID/ns/net`).
    ///
    /// # Errors
    /// In upstream's texts if nothing is there or it is an ordinary file; [`Error::NotNetwork`] for a namespace of
    /// another kind.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Without O_NONBLOCK a FIFO at this path would block.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::OpenNetns { path: path.into(), errno })?;
        require_network(&fd, path)?;
        let id = identify(&fd).map_err(|errno| Error::OpenNetns { path: path.into(), errno })?;
        Ok(Self { fd, id, path: path.into() })
    }

    /// The network namespace of the calling thread.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn current() -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(|errno| Error::Identity { errno })?;
        Self::of_descriptor(fd).map_err(|errno| Error::Identity { errno })
    }

    /// A new network namespace; it exists as long as this value, a pin, a process or a link in it.
    ///
    /// # Errors
    /// [`Error::CreateNetns`] if the process may not make one.
    pub fn create() -> Result<Self, Error> {
        in_thread(Path::new("(new)"), || {
            // SAFETY: CLONE_NEWNET changes only the network namespace of this thread,
            // which ends with this closure; descriptors and memory stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(|errno| Error::CreateNetns { errno })?;
            Self::current()
        })?
    }

    /// Device and inode, equal for two values exactly if they are the same namespace.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The path at which it was opened; for `current` and `create` one that is valid while this value exists.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` inside this namespace, in a thread that ends with it; panics of `f` are passed on.
    ///
    /// # Errors
    /// If the thread cannot be started or the namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        in_thread(&self.path, || {
            self.enter()?;
            Ok(f())
        })?
    }

    /// Runs `f` inside this namespace in the calling thread, at a fifth of a thread's cost.
    ///
    /// A thread whose user namespace does not own its home namespace could not return: it starts another thread.
    pub(crate) fn visit<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let home = Self::current()?;
        if home.enter().is_err() {
            return self.run(f);
        }
        self.enter()?;
        let _home = WayBack(home);
        Ok(f())
    }

    /// Keeps the namespace alive by a bind mount at `path`, as `ip netns add` does.
    ///
    /// The file must not exist; its directory is made.
    ///
    /// # Errors
    /// [`Error::Pin`] if the file exists or the kernel refuses the mount.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        let failed = |errno| Error::Pin { path: path.into(), errno };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| failed(errno_of(&e)))?;
        }
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let source = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::mount::mount_bind(source, path).map_err(|errno| {
            // The mount's error is reported; a left-over empty file would only hide it next time.
            let _ = rustix::fs::unlink(path);
            failed(errno)
        })
    }

    /// Removes what `pin` made; the namespace ends when nothing else holds it.
    ///
    /// # Errors
    /// [`Error::Unpin`] if nothing is mounted there.
    pub fn unpin(path: &Path) -> Result<(), Error> {
        let failed = |errno| Error::Unpin { path: path.into(), errno };
        rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed)?;
        rustix::fs::unlink(path).map_err(failed)
    }

    /// The namespace of an nsfs descriptor.
    pub(crate) fn of_descriptor(fd: OwnedFd) -> Result<Self, Errno> {
        let id = identify(&fd)?;
        let path = format!("/proc/{}/fd/{}", process::id(), fd.as_raw_fd()).into();
        Ok(Self { fd, id, path })
    }

    fn enter(&self) -> Result<(), Error> {
        enter(self.fd.as_fd()).map_err(|errno| Error::EnterNetns { path: self.path.clone(), errno })
    }
}

/// The namespace to which a visiting thread returns, even after a panic.
struct WayBack(Netns);

impl Drop for WayBack {
    fn drop(&mut self) {
        // It was there a moment ago. A program in another namespace than it believes must not continue.
        if self.0.enter().is_err() {
            process::abort();
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cookie of the calling thread's network namespace (SO_NETNS_COOKIE, socket(7)), which unlike an inode is never used
/// again while the kernel runs.
///
/// Linux before 5.14 has none; then it is made of the boot id and the namespace's inode.
///
/// # Errors
/// [`Error::Identity`] if neither the cookie nor boot id and inode can be read.
pub fn cookie() -> Result<u64, Error> {
    match kernels_cookie() {
        Err(Errno::NOPROTOOPT) => substitute(),
        other => other.map_err(|errno| Error::Identity { errno }),
    }
}

fn kernels_cookie() -> Result<u64, Errno> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length point at locals of the sizes given, and the socket is open.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &mut len,
        )
    };
    if status == 0 { Ok(cookie) } else { Err(last_errno()) }
}

/// Boot id and inode in one number: 32 bits of the former, and the latter, which has no more (proc_alloc_inum).
fn substitute() -> Result<u64, Error> {
    let boot =
        std::fs::read_to_string(BOOT_ID).map_err(|error| Error::Identity { errno: errno_of(&error) })?;
    let boot = boot.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
    Ok(boot << 32 | Netns::current()?.id().ino & u64::from(u32::MAX))
}

/// Starts `command` inside `netns`, with every signal at its default and no descriptors but 0 to 2.
///
/// It has its own mount namespace, whose /sys shows the links of `netns`. Each of `binds` (source, target) is seen at
/// its target for the child's whole life: its resolv.conf and hosts ([`Mounts`]). With a `hostname` it has its own UTS
/// namespace of that name.
///
/// # Errors
/// [`Error::Spawn`] if the program cannot be started, or a source of `binds` is missing.
pub fn spawn_in(
    netns: &Netns,
    mut command: Command,
    binds: &[(PathBuf, PathBuf)],
    hostname: Option<&str>,
) -> Result<Child, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| Error::Spawn { program, netns: netns.path.clone(), source };
    let mounts = match Mounts::plan(binds) {
        Ok(mounts) => mounts,
        Err(source) => return Err(failed(source)),
    };
    // The closure owns a descriptor, because `command` outlives this borrow.
    let fd = match netns.fd.try_clone() {
        Ok(fd) => fd,
        Err(source) => return Err(failed(source)),
    };
    let hostname = hostname.map(|name| name.as_bytes().to_vec());
    // SAFETY: between fork and exec the closure only makes system calls; all its memory was
    // allocated before.
    unsafe {
        command.pre_exec(move || {
            default_signals();
            pass_on_stdio_only();
            enter(fd.as_fd())?;
            private_mounts()?;
            fresh_sys()?;
            mounts.make()?;
            Ok(hostname.as_deref().map_or(Ok(()), take_hostname)?)
        })
    };
    command.spawn().map_err(failed)
}

/// Forks; the child keeps only the descriptors `keep`, leaves the session, runs `f` and exits.
///
/// For processes with one thread: the child of any other may only make system calls in `f`.
/// The child is not reaped; the caller ends soon, or ignores SIGCHLD.
/// Stdio is closed too, so that a reader of this process's output gets its end.
///
/// # Errors
/// [`Error::Fork`] if the kernel refuses another process.
pub fn fork_keeping(keep: &[BorrowedFd<'_>], f: impl FnOnce()) -> Result<(), Error> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    // SAFETY: the child never returns into the caller's frames: it runs `f`, which after a fork
    // of a single-threaded process may do anything, catches its panic, and ends by _exit.
    match unsafe { libc::fork() } {
        -1 => Err(Error::Fork { errno: last_errno() }),
        0 => {
            close_all_but(&kept);
            let _ = rustix::process::setsid();
            let ended = panic::catch_unwind(panic::AssertUnwindSafe(f));
            // SAFETY: _exit ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
        _ => Ok(()),
    }
}

/// Marks all open descriptors except 0 to 2 as close-on-exec: no program that this process starts, or becomes, gets what
/// its caller left open.
pub fn pass_on_stdio_only() {
    // SAFETY: the flag changes nothing for code that uses a descriptor in this process.
    let status = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if status != 0 {
        // Linux before 5.11 has no such flag. If the list cannot be read, descriptors stay as they are.
        let _ = pass_on_one_by_one();
    }
}

/// The same from the list of open descriptors. Only makes system calls: it may run between fork and exec.
fn pass_on_one_by_one() -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = rustix::fs::RawDir::new(&list, &mut buffer);
    while let Some(entry) = entries.next() {
        let number = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok());
        if let Some(descriptor) = number.filter(|number| *number > 2) {
            // SAFETY: as above; a descriptor that was closed meanwhile is refused.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

fn in_thread<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .spawn_scoped(scope, f)
            .map_err(|source| Error::Thread { path: path.into(), source })?;
        Ok(thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}

fn enter(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::thread::move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))
}

fn identify(fd: &OwnedFd) -> Result<NetnsId, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(NetnsId { dev: stat.st_dev, ino: stat.st_ino })
}

fn require_network(fd: &OwnedFd, path: &Path) -> Result<(), Error> {
    let stat = rustix::fs::fstatfs(fd).map_err(|errno| Error::OpenNetns { path: path.into(), errno })?;
    let magic = stat.f_type as u64;
    if magic != NSFS_MAGIC {
        return Err(Error::NotNamespace { path: path.into(), magic });
    }
    // SAFETY: NS_GET_NSTYPE (ioctl_nsfs(2)) takes no argument and touches no memory of this process.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind != libc::CLONE_NEWNET {
        return Err(Error::NotNetwork { path: path.into() });
    }
    Ok(())
}

/// Enters a mount namespace whose changes other namespaces do not see.
fn private_mounts() -> Result<(), Errno> {
    // SAFETY: this process is about to exec and has one thread; CLONE_NEWNS leaves its
    // descriptors and memory unchanged.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Mounts a /sys that shows the links of the calling thread's network namespace, as `ip netns exec` does, read-only if the
/// present one is. Unlike there, the control groups stay below it, because programs look up their limits in them.
///
/// The calling thread must have its own mount namespace. Only makes system calls.
///
/// # Errors
/// The kernel's refusal of a mount.
pub fn fresh_sys() -> Result<(), Errno> {
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let groups = rustix::mount::open_tree(CWD, CGROUPS, clone);
    let present = rustix::fs::statvfs(SYS)?.f_flag;
    let read_only =
        if present.contains(StatVfsMountFlags::RDONLY) { MountFlags::RDONLY } else { MountFlags::empty() };
    match rustix::mount::mount(c"sysfs", SYS, c"sysfs", read_only, None) {
        Ok(()) => {}
        // BUSY: it shows this namespace already. PERM: if /sys is partly hidden (inside some containers) the kernel
        // grants no second one; the program then sees the old one.
        Err(Errno::BUSY | Errno::PERM) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    match groups {
        Ok(groups) => {
            rustix::mount::move_mount(groups, c"", CWD, CGROUPS, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        }
        // There are no control groups.
        Err(_) => Ok(()),
    }
}

fn take_hostname(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: CLONE_NEWUTS changes neither descriptors nor memory, only this process's hostname.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUTS) }?;
    rustix::system::sethostname(name)
}

fn close_all_but(sorted: &[u32]) {
    let mut first = 0;
    for &kept in sorted {
        if kept > first {
            close_range(first, kept - 1);
        }
        first = kept + 1;
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: runs in the forked child only, whose single user of descriptors, `f`, uses none
    // but the kept ones.
    unsafe { libc::close_range(first, last, 0) };
}

/// The error of the last failed system call of this thread.
pub(crate) fn last_errno() -> Errno {
    errno_of(&io::Error::last_os_error())
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
