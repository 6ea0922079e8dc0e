//! flock(2) with a bounded wait, for the command's own files.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::report::Problem;

/// How long a lock is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A lock that is held while this is; it is gone with the process too.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "closing it releases the lock")] OwnedFd);

/// Locks `file`, alone or with others that share, waiting at most `patience`; `what` it protects is told in vain.
pub fn take(file: OwnedFd, alone: bool, patience: Duration, what: &str) -> Result<Held, Problem> {
    let (now, later) = if alone {
        (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive)
    } else {
        (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared)
    };
    match rustix::fs::flock(&file, now) {
        Ok(()) => Ok(Held(file)),
        Err(Errno::WOULDBLOCK) => wait(file, later, patience, what),
        Err(errno) => Err(Problem::File { action: "lock", path: what.into(), errno }),
    }
}

/// flock(2) knows no time limit, so a thread waits in it.
fn wait(file: OwnedFd, operation: FlockOperation, patience: Duration, what: &str) -> Result<Held, Problem> {
    let busy = || Problem::Busy { what: what.to_owned() };
    let (done, result) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let locked = rustix::fs::flock(file.as_fd(), operation).map(|()| file);
        let _ = done.send(locked);
    });
    let locked = result.recv_timeout(patience).map_err(|_| busy())?;
    // The threads of this process must have ended before it forks (netlink::delete_link).
    let _ = waiter.join();
    locked.map(Held).map_err(|_| busy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::Path;

    const SOON: Duration = Duration::from_millis(50);

    fn take(path: &Path, alone: bool) -> Result<Held, Problem> {
        super::take(File::open(path).unwrap().into(), alone, SOON, "the network definitions")
    }

    #[test]
    fn one_alone_keeps_others_out_until_it_lets_go() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = take(file.path(), true).unwrap();

        let error = take(file.path(), false).unwrap_err();
        assert_eq!(error.to_string(), "another rnet holds the network definitions; nothing was changed");
        drop(held);

        let _one = take(file.path(), false).unwrap();
        let _other = take(file.path(), false).unwrap();
    }
}
