//! Processes as values that cannot be mistaken for another with the same number.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process: its number, and when it was started, so that a number that is used again is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The process number.
    pub pid: u32,
    /// In clock ticks since boot (proc_pid_stat(5), field 22).
    started: u64,
}

/// A process held by its descriptor: a signal can reach nobody else.
#[derive(Debug)]
pub struct Alive(OwnedFd);

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    /// Takes hold of the process, unless it has ended.
    pub fn open(self) -> Option<Alive> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // After the descriptor: what has the number now is what the descriptor stands for.
        let alive = Alive(fd);
        (Self::of(self.pid) == Some(self) && !alive.has_ended(Duration::ZERO)).then_some(alive)
    }

    /// True if it has not ended.
    pub fn is_alive(self) -> bool {
        self.open().is_some()
    }
}

impl AsFd for Alive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Alive {
    /// Sends a signal; a process that has just ended needs none.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.0, signal);
    }

    /// Waits until the process has ended, at most `patience`; false if it has not.
    pub fn has_ended(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return false };
            let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// TERM, and KILL when `grace` is over; false if even then it has not ended within ten seconds.
    pub fn end(&self, grace: Duration) -> bool {
        const AFTER_KILL: Duration = Duration::from_secs(10);
        self.signal(Signal::TERM);
        if self.has_ended(grace) {
            return true;
        }
        self.signal(Signal::KILL);
        self.has_ended(AFTER_KILL)
    }
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_alive_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());

        assert!(process.open().unwrap().end(Duration::from_secs(5)));
        assert!(!process.is_alive(), "a zombie runs nothing");
        child.wait().unwrap();

        assert!(!process.is_alive());
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
    }

    #[test]
    fn one_that_ignores_term_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo; exec sleep 60"]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();

        let alive = Process::of(child.id()).unwrap().open().unwrap();
        assert!(alive.end(Duration::from_millis(20)));
        child.wait().unwrap();
    }
}
