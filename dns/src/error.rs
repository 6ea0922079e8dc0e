//! Why there is no server.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another server runs.
    #[error("another name server (process {pid}) has the lock {}", path.display())]
    Running {
        /// The lock.
        path: PathBuf,
        /// The process that keeps the other's sockets; 0 if it is just starting.
        pid: u32,
    },
    /// The control socket or its lock cannot be made.
    #[error("cannot make {}", path.display())]
    Control {
        /// The socket or the lock.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// Parent and worker cannot exchange messages.
    #[error("the name server's parent and worker cannot talk")]
    Talk(#[source] io::Error),
    /// Privileges cannot be dropped, and a worker must not answer with them.
    #[error("cannot drop the privileges of the name server's worker")]
    Privileges(#[source] Errno),
    /// The worker's runtime failed.
    #[error("the name server's worker failed")]
    Work(#[source] io::Error),
}
