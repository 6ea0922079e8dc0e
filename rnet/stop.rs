//! The end of an endpoint, however much of it is still there.

use std::time::Duration;

use netlink::Netns;

use crate::endpoint::{Endpoint, Endpoints};
use crate::lock;
use crate::process::Process;
use crate::report::Problem;
use crate::runtime::Runtime;

/// Ends the process (TERM, after `grace` KILL), waits until the endpoint has been cleaned up, and does that itself
/// if the process that should have done it is dead.
pub fn end(endpoint: &Endpoint, grace: Duration, endpoints: &Endpoints) -> anyhow::Result<()> {
    end_program(endpoint, grace)?;
    if endpoints.wait_gone(endpoint, lock::PATIENCE)? {
        return Ok(());
    }
    endpoints.remove(endpoint, &Runtime::new())
}

/// Ends the program of an endpoint. The process that started it may have been killed before it wrote the program's
/// id down: then the program is what runs in the endpoint's namespace.
pub fn end_program(endpoint: &Endpoint, grace: Duration) -> Result<(), Problem> {
    let processes = match endpoint.process {
        Some(process) => vec![process],
        None if endpoint.netns.is_some() => {
            all_processes().filter(|process| is_inside(endpoint, *process)).collect()
        }
        None => Vec::new(),
    };
    processes.into_iter().try_for_each(|process| end_process(endpoint, process, grace))
}

fn all_processes() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
}

/// A process that has left the endpoint's namespace is somebody else's business.
fn end_process(endpoint: &Endpoint, process: Process, grace: Duration) -> Result<(), Problem> {
    // First the descriptor, then the question whose it is: the answer holds for what the signal reaches.
    let Some(alive) = process.open().filter(|_| is_inside(endpoint, process)) else { return Ok(()) };
    if alive.end(grace) {
        return Ok(());
    }
    Err(Problem::DoesNotEnd { name: endpoint.name.clone(), pid: process.pid, seconds: grace.as_secs() + 10 })
}

fn is_inside(endpoint: &Endpoint, process: Process) -> bool {
    let path = format!("/proc/{}/ns/net", process.pid);
    endpoint.netns.is_none() || Netns::open(path.as_ref()).is_ok_and(|netns| endpoint.is_netns(netns.id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn sleeper(netns: &Netns) -> std::process::Child {
        let mut command = Command::new("sleep");
        command.arg("1000");
        netlink::spawn_in(netns, command, &[], None).unwrap()
    }

    fn endpoint(netns: &Netns, process: Option<Process>) -> Endpoint {
        Endpoint { netns: Some((netns.id().dev, netns.id().ino)), process, ..Endpoint::default() }
    }

    #[test]
    fn a_program_that_was_not_written_down_is_found_in_its_namespace() {
        let (own, other) = (Netns::create().unwrap(), Netns::create().unwrap());
        let (mut program, mut bystander) = (sleeper(&own), sleeper(&other));

        end_program(&endpoint(&own, None), Duration::from_secs(5)).unwrap();

        assert!(!program.wait().unwrap().success());
        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    #[test]
    fn a_process_elsewhere_is_left_alone_whatever_is_written_down() {
        let (own, other) = (Netns::create().unwrap(), Netns::create().unwrap());
        let mut bystander = sleeper(&other);

        end_program(&endpoint(&own, Process::of(bystander.id())), Duration::ZERO).unwrap();

        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}
