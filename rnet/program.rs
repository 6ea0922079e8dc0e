//! What becomes of a program that is started for somebody.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use netlink::{HeldSignals, Netns, spawn_in};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::endpoint::{Endpoint, Endpoints};
use crate::process::{Alive, Process};
use crate::report::Problem;

/// Starts the program of an endpoint in its namespace, with its resolv.conf and hosts. Without `stdio` it reads
/// nothing, and what it writes is read from the child's pipes.
pub fn start(
    endpoint: &Endpoint,
    endpoints: &Endpoints,
    words: &[OsString],
    stdio: bool,
) -> anyhow::Result<Child> {
    let [program, arguments @ ..] = words else {
        return Err(cannot_execute(OsStr::new(""), &nothing(), true).into());
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if !stdio {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    if endpoint.netns.is_none() {
        return command.spawn().map_err(|error| cannot_execute(program, &error, true).into());
    }
    let netns = Netns::open(&endpoints.netns_path(&endpoint.id))?;
    match spawn_in(&netns, command, &endpoints.binds(&endpoint.id), endpoint.hostname.as_deref()) {
        Err(netlink::Error::Spawn { source, .. }) => Err(cannot_execute(program, &source, true).into()),
        other => Ok(other?),
    }
}

/// Waits for the end of a program in the foreground. The terminal's signals reach it by themselves; what somebody
/// sends to this process is passed on.
pub fn wait(child: &mut Child, held: &HeldSignals) -> anyhow::Result<ExitStatus> {
    // Not reaped before `wait` below, so the number is still its own.
    if let Some(alive) = Process::of(child.id()).and_then(Process::open) {
        while !has_ended_or_signal(&alive, held)? {
            pass_on(&alive, held);
        }
    }
    Ok(child.wait()?)
}

/// The signal that asked this process to end before there was a program to ask.
pub fn interruption(held: &HeldSignals) -> Option<u8> {
    held.next().and_then(|signal| u8::try_from(128 + signal.number).ok())
}

/// Waits for either; true if the program has ended.
fn has_ended_or_signal(alive: &Alive, held: &HeldSignals) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(alive, PollFlags::IN), PollFd::new(held, PollFlags::IN)];
    match poll(&mut fds, None) {
        Err(Errno::INTR) => Ok(false),
        other => other.map(|_| fds[0].revents().contains(PollFlags::IN)),
    }
}

fn pass_on(alive: &Alive, held: &HeldSignals) {
    while let Some(signal) = held.next() {
        if let Some(number) = Signal::from_named_raw(signal.number).filter(|_| !signal.from_terminal) {
            alive.signal(number);
        }
    }
}

/// The exit status by which a shell tells of it: the program's own, or 128 and the signal that ended it.
pub fn exit_status(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX)
}

/// The error for a program that cannot be started: 127 if there is none, else 126. Where docker would take the word for an
/// `image`, people may have meant one.
pub fn cannot_execute(program: &OsStr, error: &io::Error, image: bool) -> Problem {
    let reason = Errno::from_io_error(error).map_or_else(|| error.to_string(), netlink::reason);
    let missing = error.kind() == io::ErrorKind::NotFound;
    Problem::CannotExecute { program: program.to_string_lossy().into_owned(), reason, missing, image }
}

fn nothing() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_status_is_the_programs_own_or_its_signal() {
        let run = |script: &str| exit_status(Command::new("sh").args(["-c", script]).status().unwrap());
        assert_eq!(run("exit 7"), 7);
        assert_eq!(run("kill -TERM $$"), 143);
    }

    #[test]
    fn a_program_that_is_missing_is_another_case_than_one_that_cannot_run() {
        let missing = cannot_execute("nosuch".as_ref(), &io::Error::from(io::ErrorKind::NotFound), true);
        assert!(matches!(missing, Problem::CannotExecute { missing: true, .. }));
        let denied = cannot_execute("/etc".as_ref(), &io::Error::from_raw_os_error(13), true);
        assert_eq!(denied.to_string(), "cannot execute \"/etc\": permission denied");
    }
}
