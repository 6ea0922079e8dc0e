//! Processes that a test started, as /proc shows them.

use rustix::process::{Pid, Signal};

use super::Host;

impl Host {
    /// The processes of this host whose command line begins so: all of rnet's have the host's directory in their environment.
    pub fn processes(&self, line: &str) -> Vec<u32> {
        let root = format!("RNET_ROOT={}\0", self.root().display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| read(*pid, "cmdline").starts_with(line) && read(*pid, "environ").contains(&root))
            .collect()
    }
}

/// A file of a process; empty if there is no such process.
fn read(pid: u32, file: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
}

/// True once a process runs nothing any more; its parent may not have noticed yet.
pub fn is_dead(pid: u32) -> bool {
    read(pid, "stat").rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// The parent of a process, None if that is gone.
pub fn parent_of(pid: u32) -> Option<u32> {
    read(pid, "status").lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let children = read(pid, &format!("task/{pid}/children"));
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Sends a signal; a process that has ended meanwhile, as one does whose parent was killed, needs none.
#[track_caller]
pub fn signal(pid: u32, signal: Signal) {
    let sent = rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
    assert!(matches!(sent, Ok(()) | Err(rustix::io::Errno::SRCH)), "{sent:?}");
}
