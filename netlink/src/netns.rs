//! Network namespaces as values: held open by a descriptor, entered by short threads and for short visits only.

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

/// Another after each start of the machine (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const SYS: &CStr = c"/sys";
const CGROUPS: &CStr = c"/sys/fs/cgroup";

/// What tells one network namespace from another while both live.
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
    /// Fails with upstream's texts when nothing is there or when it is an ordinary file,
    /// and when the namespace is of another type.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Without O_NONBLOCK a FIFO at this path would hang us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::OpenNetns { path: path.into(), errno })?;
        require_network(&fd, path)?;
        let id = identify(&fd).map_err(|errno| Error::OpenNetns { path: path.into(), errno })?;
        Ok(Self { fd, id, path: path.into() })
    }

    /// The network namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(|errno| Error::Identity { errno })?;
        Self::of_descriptor(fd).map_err(|errno| Error::Identity { errno })
    }

    /// A new network namespace; it lives as long as this value, a pin, a process or a link in it.
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

    /// The path it was opened at; for `current` and `create` one that is valid while this value lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` inside this namespace, in a thread that ends with it; panics of `f` are passed on.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        in_thread(&self.path, || {
            self.enter()?;
            Ok(f())
        })?
    }

    /// Runs `f` inside this namespace in the calling thread, at a fifth of a thread's cost.
    ///
    /// A thread whose user namespace does not own its home may not come back: it sends another.
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
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        let failed = |errno| Error::Pin { path: path.into(), errno };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| failed(errno_of(&e)))?;
        }
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let source = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::mount::mount_bind(source, path).map_err(|errno| {
            // The error told is the mount's; a left-over empty file would only hide it next time.
            let _ = rustix::fs::unlink(path);
            failed(errno)
        })
    }

    /// Removes what `pin` made; the namespace ends when nothing else holds it.
    pub fn unpin(path: &Path) -> Result<(), Error> {
        let failed = |errno| Error::Unpin { path: path.into(), errno };
        rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(failed)?;
        rustix::fs::unlink(path).map_err(failed)
    }

    /// The namespace that a descriptor of nsfs stands for.
    pub(crate) fn of_descriptor(fd: OwnedFd) -> Result<Self, Errno> {
        let id = identify(&fd)?;
        let path = format!("/proc/{}/fd/{}", process::id(), fd.as_raw_fd()).into();
        Ok(Self { fd, id, path })
    }

    fn enter(&self) -> Result<(), Error> {
        enter(self.fd.as_fd()).map_err(|errno| Error::EnterNetns { path: self.path.clone(), errno })
    }
}

/// Where a visiting thread returns to, also from a panic.
struct WayBack(Netns);

impl Drop for WayBack {
    fn drop(&mut self) {
        // It could enter its home a moment ago. A program that is not where it believes to be must not go on.
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

/// What tells the calling thread's network namespace from all others: its cookie (SO_NETNS_COOKIE, socket(7)), which unlike an
/// inode is never used again while the kernel runs.
///
/// Before Linux 5.14 there is none; then it is made of the boot's id and the namespace's inode.
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

/// Boot and inode in one number: 32 bits of the one, and the other, which has no more (proc_alloc_inum).
fn substitute() -> Result<u64, Error> {
    let boot =
        std::fs::read_to_string(BOOT_ID).map_err(|error| Error::Identity { errno: errno_of(&error) })?;
    let boot = boot.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
    Ok(boot << 32 | Netns::current()?.id().ino & u64::from(u32::MAX))
}

/// Starts `command` inside `netns`, with every signal at its default and no descriptors but 0 to 2.
///
/// It has a mount namespace of its own, whose /sys shows the links of `netns`. Each of `binds` (source, target) is seen at
/// its target for the child's whole life: its resolv.conf and hosts ([`Mounts`]). Fails if a source is missing. With a
/// `hostname` it has a UTS namespace of its own, which is called so.
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
    // The closure owns a descriptor of its own, for `command` outlives this borrow.
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
/// For processes with one thread: the child of another may only make system calls in `f`.
/// The child is not reaped; the caller is expected to end soon, else to ignore SIGCHLD.
/// Stdio is closed too: whoever reads our output to its end is not kept waiting.
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

/// Closes on exec whatever is open now but descriptors 0 to 2: no program that this process starts, or becomes, gets what
/// somebody left open in it.
pub fn pass_on_stdio_only() {
    // SAFETY: the flag changes nothing for code that uses a descriptor in this process.
    let status = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if status != 0 {
        // Before Linux 5.11 there is no such flag. What cannot be looked through stays as it is.
        let _ = pass_on_one_by_one();
    }
}

/// The same by the list of what is open. Only makes system calls: it may run between fork and exec.
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
    // SAFETY: NS_GET_NSTYPE (ioctl_nsfs(2)) takes no argument and touches no memory of ours.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind != libc::CLONE_NEWNET {
        return Err(Error::NotNetwork { path: path.into() });
    }
    Ok(())
}

/// A mount namespace in which changes stay unseen by others.
fn private_mounts() -> Result<(), Errno> {
    // SAFETY: this process is about to exec and has one thread; CLONE_NEWNS leaves its
    // descriptors and memory alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Mounts a /sys that shows the links of the calling thread's network namespace, as `ip netns exec` does, read-only where the
/// present one is. Unlike there, the control groups stay below it: programs look up their limits in them.
///
/// The calling thread must have a mount namespace of its own. Only makes system calls.
pub fn fresh_sys() -> Result<(), Errno> {
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let groups = rustix::mount::open_tree(CWD, CGROUPS, clone);
    let present = rustix::fs::statvfs(SYS)?.f_flag;
    let read_only =
        if present.contains(StatVfsMountFlags::RDONLY) { MountFlags::RDONLY } else { MountFlags::empty() };
    match rustix::mount::mount(c"sysfs", SYS, c"sysfs", read_only, None) {
        Ok(()) => {}
        // BUSY: it is that of this namespace already. PERM: where /sys is partly hidden (inside some containers) the kernel
        // grants no second one; a program without one sees what it saw before.
        Err(Errno::BUSY | Errno::PERM) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    match groups {
        Ok(groups) => {
            rustix::mount::move_mount(groups, c"", CWD, CGROUPS, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        }
        // There are none.
        Err(_) => Ok(()),
    }
}

fn take_hostname(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: CLONE_NEWUTS changes neither descriptors nor memory, only what this process calls its host.
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

/// What the last failed system call of this thread said.
pub(crate) fn last_errno() -> Errno {
    errno_of(&io::Error::last_os_error())
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn a_created_namespace_is_another_and_can_be_opened_again() {
        let here = Netns::current().unwrap();
        let made = Netns::create().unwrap();
        assert_ne!(made.id(), here.id());
        assert_eq!(Netns::open(made.path()).unwrap().id(), made.id());
        assert_eq!(Netns::current().unwrap().id(), here.id());
    }

    #[test]
    fn run_happens_inside_and_leaves_the_caller_where_it_was() {
        let here = Netns::current().unwrap();
        let made = Netns::create().unwrap();
        let inside = made.run(|| Netns::current().unwrap().id()).unwrap();
        assert_eq!(inside, made.id());
        assert_eq!(Netns::current().unwrap().id(), here.id());
    }

    #[test]
    fn a_visitor_is_at_home_again_also_after_a_panic() {
        let here = Netns::current().unwrap();
        let made = Netns::create().unwrap();
        let inside = made.visit(|| Netns::current().unwrap().id()).unwrap();
        assert_eq!(inside, made.id());
        assert_eq!(Netns::current().unwrap().id(), here.id());
        panic::catch_unwind(|| made.visit(|| panic!("inside"))).unwrap_err();
        assert_eq!(Netns::current().unwrap().id(), here.id());
    }

    #[test]
    fn who_may_not_come_home_sends_a_thread() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        fork_keeping(&[write.as_fd()], || {
            // SAFETY: the child has one thread; a user namespace changes nobody's descriptors or memory.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.unwrap();
            let home = Netns::current().unwrap();
            home.enter().unwrap_err();
            let made = Netns::create().unwrap();
            let inside = made.visit(|| Netns::current().unwrap().id()).unwrap();
            assert_eq!(inside, made.id());
            assert_eq!(Netns::current().unwrap().id(), home.id());
            rustix::io::write(&write, &[1]).unwrap();
        })
        .unwrap();
        drop(write);
        let mut told = Vec::new();
        std::fs::File::from(read).read_to_end(&mut told).unwrap();
        assert_eq!(told, [1]);
    }

    #[test]
    fn cookies_differ_between_namespaces_and_stay() {
        let made = Netns::create().unwrap();
        let first = made.run(|| cookie().unwrap()).unwrap();
        assert_eq!(made.run(|| cookie().unwrap()).unwrap(), first);
        assert_ne!(cookie().unwrap(), first);
    }

    /// What stands for the cookie on a kernel that has none.
    #[test]
    fn without_cookies_boot_and_inode_tell_namespaces_apart() {
        let made = Netns::create().unwrap();
        let first = made.run(|| substitute().unwrap()).unwrap();
        assert_eq!(made.run(|| substitute().unwrap()).unwrap(), first);
        assert_ne!(substitute().unwrap(), first);
        assert_eq!(first & u64::from(u32::MAX), made.id().ino);
        let boot = std::fs::read_to_string(BOOT_ID).unwrap();
        assert!(boot.starts_with(&format!("{:08x}", first >> 32)), "{boot}");
    }

    #[test]
    fn descriptors_are_kept_from_programs_one_by_one_too() {
        let (read, _write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::empty()).unwrap();
        assert!(!closes_on_exec(read.as_fd()));
        pass_on_one_by_one().unwrap();
        assert!(closes_on_exec(read.as_fd()));
        assert!(!closes_on_exec(rustix::stdio::stderr()));
    }

    fn closes_on_exec(fd: BorrowedFd<'_>) -> bool {
        rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
    }

    #[test]
    fn what_is_no_network_namespace_is_refused_in_upstreams_words() {
        let missing = Netns::open(Path::new("/run/netns/none")).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "failed to open netns \"/run/netns/none\": failed to Statfs \"/run/netns/none\": no such file or directory"
        );
        let proc = Netns::open(Path::new("/proc/version")).unwrap_err();
        assert_eq!(
            proc.to_string(),
            "failed to open netns \"/proc/version\": unknown FS magic on \"/proc/version\": 9fa0"
        );
        let pid = Netns::open(Path::new("/proc/self/ns/pid")).unwrap_err();
        assert!(matches!(pid, Error::NotNetwork { .. }), "{pid}");
    }

    #[test]
    fn a_pin_outlives_the_value_and_unpin_removes_it() {
        let path = PathBuf::from(format!("/run/netns-test-{}/pin", process::id()));
        let made = Netns::create().unwrap();
        made.pin(&path).unwrap();
        let id = made.id();
        assert!(matches!(made.pin(&path), Err(Error::Pin { errno: Errno::EXIST, .. })));
        drop(made);
        assert_eq!(Netns::open(&path).unwrap().id(), id);
        Netns::unpin(&path).unwrap();
        assert!(!path.exists());
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_spawned_program_sees_the_namespace_its_files_and_its_hostname() {
        let made = Netns::create().unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "readlink /proc/self/ns/net; uname -n; cat /etc/rnet-test; pwd"])
            .stdout(Stdio::piped());
        let own = std::env::temp_dir().join(format!("rnet-own-{}", process::id()));
        std::fs::write(&own, "mine\n").unwrap();
        let binds = [(own.clone(), "/etc/rnet-test".into())];
        let child = spawn_in(&made, command, &binds, Some("app")).unwrap();
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(output, format!("net:[{}]\napp\nmine\n{}\n", made.id().ino, here.display()));
        assert_ne!(rustix::system::uname().nodename(), c"app");
        assert!(!Path::new("/etc/rnet-test").exists());
        std::fs::remove_file(own).unwrap();
    }

    #[test]
    fn a_spawned_program_sees_the_links_of_its_namespace_and_the_control_groups_below_sys() {
        let here = links_in_sys();
        let groups = std::fs::read_dir("/sys/fs/cgroup").unwrap().count();
        let made = Netns::create().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ls -x /sys/class/net; ls -A /sys/fs/cgroup | wc -l"]).stdout(Stdio::piped());

        let child = spawn_in(&made, command, &[], None).unwrap();

        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["lo", groups.to_string().as_str()]);
        assert_eq!(links_in_sys(), here, "the caller's own is as before");
    }

    fn links_in_sys() -> Vec<std::ffi::OsString> {
        std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_missing_bind_source_is_an_error_of_spawn() {
        let made = Netns::create().unwrap();
        let binds = [("/nowhere".into(), "/etc/rnet-test".into())];
        let refused = spawn_in(&made, Command::new("/bin/true"), &binds, None).unwrap_err();
        assert!(refused.to_string().contains("/bin/true"), "{refused}");
    }

    #[test]
    fn a_forked_child_holds_only_what_it_was_given() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (closed, held) = rustix::pipe::pipe().unwrap();
        fork_keeping(&[write.as_fd()], || {
            let open = (0..256).filter(|fd| is_open(*fd)).count() as u8;
            let _ = rustix::io::write(&write, &[open]);
        })
        .unwrap();
        drop((write, held));
        let mut counted = [0];
        std::fs::File::from(read).read_exact(&mut counted).unwrap();
        assert_eq!(counted, [1]);
        // Nobody else holds the other pipe's writing end, so its reader meets the end.
        assert_eq!(rustix::io::read(&closed, &mut [0u8; 1][..]).unwrap(), 0);
    }

    fn is_open(fd: i32) -> bool {
        // SAFETY: F_GETFD only looks at the number.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }
}
