//! `rnet exec`: a program in the network namespace of an endpoint, as `ip netns exec` does it.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use netlink::{Mounts, Netns};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::containers::Container;
use crate::program::cannot_execute;
use crate::report::Problem;
use crate::rights;
use crate::view::View;

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The endpoint: its name, id, or the beginning of its id
    #[arg(value_name = "EP")]
    pub endpoint: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Becomes the program: signals, terminal and exit status are its own.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    rights::require()?;
    let mut view = View::open("exec")?;
    let known = view.known(&[])?;
    let container = known.living(&args.endpoint)?;
    let binds = view.endpoints.binds(&container.id);
    enter(&netns(container, &view)?, &binds)?;
    if let Some(hostname) = container.endpoint.as_ref().and_then(|endpoint| endpoint.hostname.as_ref()) {
        take_hostname(hostname)?;
    }
    let [program, arguments @ ..] = args.command.as_slice() else { return Ok(0) };
    let error = Command::new(program).args(arguments).exec();
    Err(cannot_execute(program, &error, false).into())
}

/// The endpoint's namespace, if it is still the one on record.
fn netns(container: &Container, view: &View) -> anyhow::Result<Netns> {
    let not_running = || Problem::NotRunning { name: container.name.clone() };
    if let Some(endpoint) = &container.endpoint {
        return match endpoint.netns {
            None => Ok(Netns::current()?),
            Some(_) => {
                Netns::open(&view.endpoints.netns_path(&container.id)).map_err(|_| not_running().into())
            }
        };
    }
    let record =
        view.records()?.into_iter().find(|record| record.container == container.id && record.netns.is_some());
    let recorded = record.and_then(|record| record.netns).ok_or_else(not_running)?;
    let found = Netns::open(&recorded.path).map_err(|_| not_running())?;
    if (found.id().dev, found.id().ino) == (recorded.dev, recorded.ino) {
        Ok(found)
    } else {
        Err(not_running().into())
    }
}

fn enter(netns: &Netns, binds: &[(PathBuf, PathBuf)]) -> anyhow::Result<()> {
    if netns.id() == Netns::current()?.id() {
        return Ok(());
    }
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(Problem::file("enter", netns.path()))?;
    Ok(private_mounts(binds)?)
}

/// What belongs to the namespace: its links below /sys, and the endpoint's resolv.conf and hosts, in a mount namespace that nobody
/// else sees.
fn private_mounts(binds: &[(PathBuf, PathBuf)]) -> Result<(), Problem> {
    unshare(UnshareFlags::NEWNS).map_err(Problem::file("make a mount namespace for", "/".as_ref()))?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).map_err(Problem::file("make private", "/".as_ref()))?;
    netlink::fresh_sys().map_err(Problem::file("mount", "/sys".as_ref()))?;
    let mounts = Mounts::plan(binds).map_err(Problem::file("read", "/etc".as_ref()))?;
    mounts.make().map_err(Problem::file("mount files of its own into", "/etc".as_ref()))
}

fn take_hostname(hostname: &str) -> anyhow::Result<()> {
    unshare(UnshareFlags::NEWUTS)?;
    Ok(rustix::system::sethostname(hostname.as_bytes())?)
}

// The flag that makes unshare(2) unsound for a thread, CLONE_FILES, is none of these.
#[expect(deprecated, reason = "the command may not use unsafe, and the danger is one of another flag")]
fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(namespaces)
}
