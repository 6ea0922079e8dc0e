//! Probes: what one machine sees of another. Blocking sockets, made inside the namespace by a short
//! thread; every wait is bounded.

pub(crate) mod dns;
pub mod frame;
pub(crate) mod frames;
pub(crate) mod http;
pub(crate) mod icmp;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::io;
use std::time::{Duration, Instant};

/// A moment after which nobody waits any longer.
#[derive(Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    /// What is left, or the error of a timeout; never zero, which sockets take for "for ever".
    fn left(self) -> io::Result<Duration> {
        match self.0.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Errors that mean "no answer" to a probe that asks whether something can be reached.
fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut, WouldBlock};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable | TimedOut | WouldBlock)
}
