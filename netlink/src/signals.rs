//! Signals: those that must wait, and what a program that we start finds.

use std::mem::MaybeUninit;
use std::ptr;

/// What asks a process to end; SIGKILL is for those who do not wait.
const REQUESTS_TO_END: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Lets SIGTERM, SIGINT and SIGHUP wait until the process has ended by itself: nothing stops half-way.
///
/// For a process whose work is short and bounded. Threads and programs that it starts from then on do the same,
/// but for those of [`crate::spawn_in`].
pub fn finish_before_ending() {
    change_mask(libc::SIG_BLOCK, &REQUESTS_TO_END);
}

/// Every signal at its default and none blocked. System calls only: it runs between fork and exec.
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler; a signal that cannot be set is refused, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    change_mask(libc::SIG_SETMASK, &[]);
}

/// pthread_sigmask(3) of the calling thread; with a proper `how` it cannot fail.
fn change_mask(how: libc::c_int, signals: &[libc::c_int]) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that the others are given; no old mask is asked for.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut());
    }
}
