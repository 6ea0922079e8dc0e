//! The guardian: a process that only waits for the server's end, and then becomes the next server (G8). So either of the
//! two may be killed: the server starts another guardian, the guardian becomes another server.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::process::{BREATH, SHORT_LIFE, spawn};

/// After so long without work the server rests.
const LULL: Duration = Duration::from_secs(1);

/// A further task of a server, done when it has been quiet for a moment.
#[derive(Debug)]
pub struct Errand {
    /// Readable when there is something to do.
    pub wakes: OwnedFd,
    /// Reads all that there is, and does it; must not block.
    pub run: fn(BorrowedFd<'_>),
}

/// The pause before an errand, in which its cause may continue, and the least time between two errands.
const QUIET: Duration = Duration::from_millis(200);
const APART: Duration = Duration::from_secs(1);

/// What a server does while it waits: keep a guardian, run its errand, and rest.
pub(crate) struct Watch {
    errand: Option<Errand>,
    /// When the errand is due.
    due: Option<Instant>,
    /// When it was last run.
    run: Option<Instant>,
    /// The arguments with which this executable calls [`guard`], if there shall be a guardian.
    arguments: Option<Vec<OsString>>,
    /// Called when the server rests.
    rest: fn(),
    guardian: Option<(OwnedFd, Child)>,
    /// The guardian of the previous version, until this one has lived a while.
    former: Option<(OwnedFd, Pid)>,
    /// When a guardian was last started.
    asked: Option<Instant>,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Something can be received from the channel.
    Message,
    /// A trial has ended, or the time is up.
    Trial,
    Errand,
    GuardianEnded,
    Nothing,
}

/// The guardian's life. Its standard input is the socket to the server, which closes with the server. Then this same
/// program, which is known to serve, becomes the server, called with `arguments`. Returns only if that fails.
pub fn guard(arguments: &[OsString]) -> io::Error {
    let begun = Instant::now();
    while let Ok(1..) | Err(Errno::INTR) = rustix::io::read(rustix::stdio::stdin(), &mut [0; 1]) {}
    // A server that died soon is not replaced at once.
    if begun.elapsed() < SHORT_LIFE {
        std::thread::sleep(BREATH);
    }
    tracing::error!("the name server has died: another takes its place");
    // Not the file at this program's path: it may be another version by now, which was not tried out.
    Command::new("/proc/self/exe").arg0("rnet").args(arguments).stdin(Stdio::null()).exec()
}

impl Watch {
    pub(crate) fn new(arguments: Option<Vec<OsString>>, rest: fn(), former: Option<(OwnedFd, Pid)>) -> Self {
        Self { errand: None, due: None, run: None, arguments, rest, guardian: None, former, asked: None }
    }

    /// The errand is run once in any case, because its cause may be older.
    pub(crate) fn with_errand(mut self, errand: Option<Errand>) -> Self {
        self.due = errand.as_ref().map(|_| Instant::now() + QUIET);
        self.errand = errand;
        self
    }

    /// What a successor needs to keep the guardian until it has its own.
    pub(crate) fn guardian(&self) -> Option<(&OwnedFd, u32)> {
        self.guardian.as_ref().map(|(channel, child)| (channel, child.id()))
    }

    /// Starts a guardian if there is none, unless the last one was started just now.
    pub(crate) fn hire(&mut self) {
        let Some(arguments) = self.arguments.as_ref().filter(|_| self.guardian.is_none()) else { return };
        if self.asked.is_some_and(|asked| asked.elapsed() < BREATH) {
            return;
        }
        self.asked = Some(Instant::now());
        match spawn(arguments) {
            Ok(guardian) => self.guardian = Some(guardian),
            Err(error) => {
                tracing::error!(%error, "cannot start a guardian of the name server; trying again")
            }
        }
    }

    /// Ends the guardian, so that it does not take this process's end for a crash.
    pub(crate) fn dismiss(&mut self) {
        if let Some((_channel, mut child)) = self.guardian.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.dismiss_former();
    }

    fn dismiss_former(&mut self) {
        if let Some((_channel, pid)) = self.former.take() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        }
    }

    /// Waits until something can be received from `channel`, or a trial has ended or its time is up.
    pub(crate) fn wait_for(
        &mut self,
        channel: BorrowedFd<'_>,
        trial: Option<(BorrowedFd<'_>, Instant)>,
    ) -> Event {
        let mut rests = false;
        loop {
            self.hire();
            let patience = match rests {
                _ if self.is_alone() => Some(BREATH),
                false => Some(LULL),
                true => None,
            };
            let left = trial.map(|(_, end)| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Event::Trial;
            }
            let patience = patience.into_iter().chain(left).min();
            match self.poll(channel, trial.map(|(trial, _)| trial), self.until_due(patience)) {
                event @ (Event::Message | Event::Trial) => return event,
                Event::Errand => self.postpone(),
                Event::Nothing if self.due.is_some_and(|due| due <= Instant::now()) => {
                    self.run_errand();
                    rests = false;
                }
                Event::GuardianEnded => {
                    tracing::error!("the name server's guardian has ended: another takes its place");
                    self.dismiss();
                    rests = false;
                }
                Event::Nothing if rests => {}
                Event::Nothing => {
                    self.dismiss_former();
                    (self.rest)();
                    rests = true;
                }
            }
        }
    }

    fn until_due(&self, patience: Option<Duration>) -> Option<Duration> {
        let due = self.due.map(|due| due.saturating_duration_since(Instant::now()));
        due.into_iter().chain(patience).min()
    }

    fn postpone(&mut self) {
        let apart = self.run.map(|run| run + APART);
        self.due = apart.into_iter().chain([Instant::now() + QUIET]).max();
    }

    fn run_errand(&mut self) {
        (self.due, self.run) = (None, Some(Instant::now()));
        if let Some(errand) = &self.errand {
            (errand.run)(errand.wakes.as_fd());
        }
    }

    fn is_alone(&self) -> bool {
        self.arguments.is_some() && self.guardian.is_none()
    }

    fn poll(
        &self,
        channel: BorrowedFd<'_>,
        trial: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> Event {
        // Without a guardian the second is the first again.
        let guardian = self.guardian.as_ref().map_or(channel, |(guardian, _)| guardian.as_fd());
        // A postponed errand need not wake the server again.
        let errand = self.errand.as_ref().filter(|_| self.due.is_none());
        let errand = errand.map_or(channel, |errand| errand.wakes.as_fd());
        let mut ready = [channel, guardian, trial.unwrap_or(channel), errand]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match rustix::event::poll(&mut ready, patience.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Event::Nothing,
            Ok(_) if ready[0].revents().is_empty() && !ready[2].revents().is_empty() => Event::Trial,
            Ok(_) if ready[0].revents().is_empty() && !ready[1].revents().is_empty() => Event::GuardianEnded,
            Ok(_) if ready[0].revents().is_empty() => Event::Errand,
            // An error shows again when the message is received.
            Ok(_) | Err(_) => Event::Message,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.dismiss();
    }
}
