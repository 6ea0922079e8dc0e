//! A detached program whose output is kept while it is waited for.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::output::{Recorder, Stream};
use crate::report::Problem;

/// A pipe is read so often in a row.
const READS: usize = 16;

/// The program, and the pipes that it writes to.
pub struct Watched {
    child: Child,
    alive: OwnedFd,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    recorder: Recorder,
}

impl Watched {
    /// Begins to keep what `child` writes, in `folder`.
    pub fn new(mut child: Child, folder: &Path) -> anyhow::Result<Self> {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        for pipe in out.iter().map(AsFd::as_fd).chain(err.iter().map(AsFd::as_fd)) {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        // Not reaped yet, so the number is its own.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let failed = Problem::file("watch", "the program".as_ref());
        let alive =
            pid.ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty())).map_err(failed)?;
        Ok(Self { child, alive, out, err, recorder: Recorder::new(folder) })
    }

    /// Waits for the program's end, at most `patience`; true if it has ended.
    pub fn has_ended(&mut self, patience: Option<Duration>) -> Result<bool, Errno> {
        let end = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let ended = self.wait(left)?;
            self.keep();
            if ended || left == Some(Duration::ZERO) {
                return Ok(ended);
            }
        }
    }

    /// How it ended. What its children still write is not kept.
    pub fn finish(mut self) -> anyhow::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.keep();
        Ok(status)
    }

    /// Waits until something was written, or the program has ended: then true.
    fn wait(&self, patience: Option<Duration>) -> Result<bool, Errno> {
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let pipes = self.out.iter().map(AsFd::as_fd).chain(self.err.iter().map(AsFd::as_fd));
        let fds = std::iter::once(self.alive.as_fd()).chain(pipes);
        let mut fds: Vec<PollFd<'_>> =
            fds.map(|fd: BorrowedFd<'_>| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => Ok(false),
            other => other.map(|_| !fds[0].revents().is_empty()),
        }
    }

    fn keep(&mut self) {
        keep(&mut self.out, Stream::Out, &mut self.recorder);
        keep(&mut self.err, Stream::Err, &mut self.recorder);
    }
}

/// Keeps what is in a pipe, and closes it at its end.
fn keep<R: Read>(pipe: &mut Option<R>, stream: Stream, recorder: &mut Recorder) {
    let mut buffer = vec![0; 64 << 10];
    // Not for ever: a program may write faster than this reads.
    for _ in 0..READS {
        let Some(open) = pipe else { return };
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(length) => recorder.record(stream, &buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}
