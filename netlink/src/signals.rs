//! Signals: those that must wait, and the settings of a program that is started.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::error::Error;
use crate::netns::last_errno;

/// The signals that ask a process to end; SIGKILL cannot wait.
const REQUESTS_TO_END: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The signals held for a program in the foreground: the keyboard's SIGQUIT too.
const HELD: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Lets SIGTERM, SIGINT and SIGHUP wait until the process has ended by itself, so that nothing stops half-way.
///
/// For a process whose work is short and bounded. Threads and programs that it starts from then on do the same, except
/// those of [`crate::spawn_in`].
pub fn finish_before_ending() {
    change_mask(libc::SIG_BLOCK, &REQUESTS_TO_END);
}

/// Signals that this process reads instead of ending.
///
/// For a program that waits for another one in the foreground: the other gets the terminal's signals too and decides;
/// signals sent to this process can be passed on.
#[derive(Debug)]
pub struct HeldSignals {
    fd: OwnedFd,
}

/// A signal that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldSignal {
    /// Its number.
    pub number: i32,
    /// The terminal sent it, to the whole process group (SI_KERNEL).
    pub from_terminal: bool,
}

impl HeldSignals {
    /// Holds SIGTERM, SIGINT, SIGHUP and SIGQUIT in this thread and those that it starts from then on; programs
    /// of [`crate::spawn_in`] start with the default settings.
    ///
    /// # Errors
    /// [`Error::HoldSignals`] if no descriptor is left.
    pub fn new() -> Result<Self, Error> {
        change_mask(libc::SIG_BLOCK, &HELD);
        let set = set_of(&HELD);
        // SAFETY: the set is initialised; -1 asks for a new descriptor, which no other code owns.
        match unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) } {
            -1 => Err(Error::HoldSignals { errno: last_errno() }),
            // SAFETY: as above.
            fd => Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } }),
        }
    }

    /// The next held signal; `None` if there is none. The descriptor is readable when there is one.
    pub fn next(&self) -> Option<HeldSignal> {
        // struct signalfd_siginfo (signalfd(2)): ssi_signo, ssi_errno, ssi_code, …; 128 bytes.
        let mut info = [0u8; 128];
        let read = rustix::io::read(&self.fd, &mut info).ok()?;
        let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes);
        (read == info.len()).then_some(())?;
        Some(HeldSignal { number: word(0)?, from_terminal: word(8)? == libc::SI_KERNEL })
    }
}

impl AsFd for HeldSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sets every signal to its default and blocks none. Only makes system calls: it runs between fork and exec.
pub fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler; a signal that cannot be set is refused, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    change_mask(libc::SIG_SETMASK, &[]);
}

/// pthread_sigmask(3) of the calling thread; with a valid `how` it cannot fail.
fn change_mask(how: libc::c_int, signals: &[libc::c_int]) {
    let set = set_of(signals);
    // SAFETY: the set is initialised, and no old mask is asked for.
    unsafe { libc::pthread_sigmask(how, &set, ptr::null_mut()) };
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that sigaddset is given and that is returned.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_signal_is_read_and_does_not_end_the_process() {
        // In a separate thread: the mask and the signal belong to a thread.
        std::thread::spawn(|| {
            let held = HeldSignals::new().unwrap();
            assert_eq!(held.next(), None);
            // SAFETY: sends a signal to this very thread.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
            assert_eq!(held.next(), Some(HeldSignal { number: libc::SIGTERM, from_terminal: false }));
            assert_eq!(held.next(), None);
        })
        .join()
        .unwrap();
    }
}
