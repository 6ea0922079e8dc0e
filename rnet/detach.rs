//! Leaves the parent process: the name server outlives the call that needed it first.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

/// The control group that detached processes are in.
const GROUP: &str = "rnet";

/// Runs `f` in a child that no caller's end, session, terminal, control group or mount namespace can take with it; it
/// keeps `keep` and no other descriptor. Returns at once, in the caller. To be called before any thread exists.
///
/// `witness` is a folder that must look the same from process 1's mount namespace, for it to be entered.
pub fn run(keep: &[BorrowedFd<'_>], witness: &Path, f: impl FnOnce()) -> Result<(), netlink::Error> {
    netlink::fork_keeping(keep, || {
        settle(witness);
        f();
    })
}

/// Whatever of this is refused (in a user namespace, most of it) is done without.
fn settle(witness: &Path) {
    let _ = quiet_stdio();
    netlink::default_signals();
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    let _ = rustix::process::chdir("/");
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let _ = enter_first_mounts(witness);
    leave_groups();
}

/// Descriptors 0 to 2 are closed: whatever is opened next gets them.
fn quiet_stdio() -> io::Result<()> {
    let null = || rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR, Mode::empty());
    for null in [null()?, null()?, null()?] {
        // Kept for the life of the process.
        std::mem::forget(null);
    }
    Ok(())
}

/// Process 1's mounts are there as long as the host. A caller in a sandbox with a /run of its own needs ours there.
fn enter_first_mounts(witness: &Path) -> io::Result<()> {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let (own, seen) = (open_mounts("/proc/self/ns/mnt")?, identity(witness)?);
    enter(&open_mounts("/proc/1/ns/mnt")?)?;
    if identity(witness).is_ok_and(|there| there == seen) {
        return Ok(());
    }
    enter(&own)
}

fn open_mounts(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn enter(mounts: &OwnedFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

/// Into a group of our own where processes are ended by group (cgroup v2, systemd's v1 hierarchy), to the top of the
/// hierarchies that only limit and count.
fn leave_groups() {
    for (mount, has_own) in hierarchies() {
        let group = if has_own { mount.join(GROUP) } else { mount };
        // Once more if another server's end has just removed it.
        for _ in 0..2 {
            let _ = fs::create_dir(&group);
            if join(&group) {
                break;
            }
        }
    }
}

/// Removes the groups that were made for this process, unless others are in them. To be called at its end.
pub fn dissolve_groups() {
    for (mount, _) in hierarchies().into_iter().filter(|(_, has_own)| *has_own) {
        let _ = join(&mount);
        let _ = fs::remove_dir(mount.join(GROUP));
    }
}

fn join(group: &Path) -> bool {
    // 0 means the process that writes it.
    fs::write(group.join("cgroup.procs"), "0").is_ok()
}

fn hierarchies() -> Vec<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(hierarchy).collect()
}

/// Where a line of mountinfo (proc(5)) mounts a hierarchy of control groups, and whether a group of our own is made there.
fn hierarchy(line: &str) -> Option<(PathBuf, bool)> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, _, options) = (kind.next()?, kind.next()?, kind.next()?);
    let place = PathBuf::from(mount.split(' ').nth(4)?);
    match name {
        "cgroup2" => Some((place, true)),
        "cgroup" => Some((place, options.split(',').any(|option| option == "name=systemd"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_found_where_they_are_mounted() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let systemd = "33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
        let memory = "34 25 0:30 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory";

        assert_eq!(hierarchy(v2), Some(("/sys/fs/cgroup".into(), true)));
        assert_eq!(hierarchy(systemd), Some(("/sys/fs/cgroup/systemd".into(), true)));
        assert_eq!(hierarchy(memory), Some(("/sys/fs/cgroup/memory".into(), false)));
        assert_eq!(hierarchy("21 1 0:19 / /run rw - tmpfs tmpfs rw"), None);
        assert_eq!(hierarchy(""), None);
    }
}
