//! The system calls that a worker may make: an attacker who takes it over can run no program, write no file and touch no
//! other process (H1).

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What sockets, timers, memory and the watch on resolv.conf need; everything else is refused with EPERM.
#[rustfmt::skip]
const CALLS: &[libc::c_long] = &[
    // Sockets: questions, upstream servers, the control socket, the channel to the parent.
    libc::SYS_socket, libc::SYS_bind, libc::SYS_connect, libc::SYS_accept4, libc::SYS_shutdown,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_close, libc::SYS_fcntl, libc::SYS_ioctl,
    // Waiting.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_eventfd2, libc::SYS_ppoll,
    libc::SYS_futex, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // resolv.conf and the links to it: only reading, because the worker has no other rights.
    libc::SYS_openat, libc::SYS_newfstatat, libc::SYS_fstat, libc::SYS_statx, libc::SYS_readlinkat, libc::SYS_lseek,
    libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch, libc::SYS_getcwd,
    // The log, which is kept short.
    libc::SYS_ftruncate, libc::SYS_pread64,
    // Memory, and the end.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_brk,
    libc::SYS_getrandom, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_tgkill,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_exit, libc::SYS_exit_group,
];

/// The same calls under names that only older architectures have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD_CALLS: &[libc::c_long] = &[
    libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_readlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];

/// Forbids all other system calls to this thread and those that it starts, for ever. Needs no_new_privs.
///
/// # Errors
/// The kernel has no seccomp, or the library knows no filter for this processor.
pub(crate) fn confine() -> Result<(), seccompiler::Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let rules = CALLS.iter().chain(OLD_CALLS).map(|call| (*call, Vec::new()));
    let rules: BTreeMap<_, _> = rules.collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let program: BpfProgram =
        SeccompFilter::new(rules, refuse, SeccompAction::Allow, architecture)?.try_into()?;
    seccompiler::apply_filter(&program)
}
