//! The way into namespaces of one's own without another program; what `sandbox.sh` does for tests,
//! for `rnet demo`.

use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use crate::Error;

/// Moves this process into new user, network and mount namespaces, as root there, with an empty
/// /run.
///
/// Works for an ordinary user where the kernel allows user namespaces; root needs them not and gets
/// one too, so that the machine's network cannot be reached. Must be called while the process has
/// one thread: user_namespaces(7) refuses others (EINVAL).
pub fn enter_sandbox() -> Result<(), Error> {
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    unshare().map_err(failed("make user, network and mount namespaces"))?;
    become_root(user, group)?;
    private_run().map_err(failed("mount a private /run"))?;
    ENTERED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether /run is only this process's and ends with it: after `enter_sandbox`, and under `sandbox.sh`.
pub(crate) fn run_is_private() -> bool {
    ENTERED.load(Ordering::Relaxed) || std::env::var_os("RNET_SANDBOX").is_some()
}

static ENTERED: AtomicBool = AtomicBool::new(false);

// The flag that makes unshare(2) unsound for a thread, CLONE_FILES, is not among these.
#[expect(deprecated, reason = "the crate may not use unsafe, and the danger is one of another flag")]
fn unshare() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS)
}

/// user_namespaces(7), "Defining user and group ID mappings": setgroups must be denied before an
/// ordinary user may map groups.
fn become_root(user: u32, group: u32) -> Result<(), Error> {
    let say = |file: &str, text: String| {
        let path = Path::new("/proc/self").join(file);
        std::fs::write(&path, text).map_err(|source| Error::File { doing: "write", path, source })
    };
    say("setgroups", "deny".into())?;
    say("uid_map", format!("0 {user} 1"))?;
    say("gid_map", format!("0 {group} 1"))
}

fn private_run() -> rustix::io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None::<&CStr>)
}

fn failed(doing: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::Sandbox { doing, source: io::Error::from(errno) }
}
