//! Where a configuration comes from, and whether reading it would have to wait.

use std::fs::File;
use std::io::{Cursor, Empty, IsTerminal, Read, Stdin, StdinLock};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A reader that can tell whether reading from it would wait.
pub trait Input: Read {
    /// Whether a read would return at once, with data, at the end or with an error; waits up to `patience` for that.
    fn ready(&self, patience: Duration) -> bool;
}

impl Input for Stdin {
    fn ready(&self, patience: Duration) -> bool {
        !self.is_terminal() && readable(self.as_fd(), patience)
    }
}

impl Input for StdinLock<'_> {
    fn ready(&self, patience: Duration) -> bool {
        !self.is_terminal() && readable(self.as_fd(), patience)
    }
}

impl Input for File {
    fn ready(&self, patience: Duration) -> bool {
        !self.is_terminal() && readable(self.as_fd(), patience)
    }
}

impl Input for std::io::PipeReader {
    fn ready(&self, patience: Duration) -> bool {
        readable(self.as_fd(), patience)
    }
}

impl Input for &[u8] {
    fn ready(&self, _patience: Duration) -> bool {
        true
    }
}

impl<T: AsRef<[u8]>> Input for Cursor<T> {
    fn ready(&self, _patience: Duration) -> bool {
        true
    }
}

impl Input for Empty {
    fn ready(&self, _patience: Duration) -> bool {
        true
    }
}

/// Any event counts, a hang-up or a closed descriptor too: then the read returns at once as well.
fn readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut asked = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: patience.as_secs() as _, tv_nsec: patience.subsec_nanos() as _ };
    poll(&mut asked, Some(&timeout)).is_ok_and(|events| events > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};

    use super::*;

    #[test]
    fn a_pipe_is_ready_when_it_holds_data_or_its_writer_is_gone() {
        let (reader, mut writer) = pipe().unwrap();
        assert!(!reader.ready(Duration::ZERO));
        writer.write_all(b"{").unwrap();
        assert!(reader.ready(Duration::ZERO));

        let (reader, writer) = pipe().unwrap();
        drop(writer);
        assert!(reader.ready(Duration::ZERO));
    }

    #[test]
    fn a_file_and_bytes_are_always_ready() {
        assert!(File::open("/dev/null").unwrap().ready(Duration::ZERO));
        assert!(b"".as_slice().ready(Duration::ZERO));
    }
}
