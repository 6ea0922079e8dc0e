//! `rnet supervise` (hidden): waits for the end of an endpoint, or of the `rnet run` that made it, and cleans up.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::Child;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::ended::{Ended, How};
use crate::endpoint::{Endpoint, Endpoints};
use crate::process::Process;
use crate::report::Problem;
use crate::runtime::Runtime;
use crate::supervisor::{Report, START};
use crate::watched::Watched;
use crate::{hold, output, program, stop};

/// What is given by `rnet run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The endpoint
    pub id: String,
    /// The program to start; none if `rnet run` waits for it itself
    #[arg(trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// A program that lives so long is left alone.
const SOON: Duration = Duration::from_millis(50);

/// So many lines of a program that ended at once are told.
const LINES: usize = 10;

/// How long a program has to end whose `rnet run` was killed.
const GRACE: Duration = Duration::from_secs(10);

/// Supervises, in a session of its own: a signal from the terminal is not for this process.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    // It is no leader of a process group, the one reason for which this could fail.
    let _ = rustix::process::setsid();
    let paths = store::Paths::new(netlink::cookie()?);
    let endpoints = Endpoints::of(&paths);
    let Some(endpoint) = endpoints.load(&args.id) else { return Ok(0) };
    let _held = endpoints.hold(&endpoint)?;
    if args.command.is_empty() {
        wait_for_caller();
        return clean_up(&endpoint, &endpoints).map(|()| 0);
    }
    let mut word = [0];
    if io::stdin().read_exact(&mut word).is_ok() && word == [START] {
        supervise(&endpoint, &endpoints, &args.command)?;
    }
    clean_up(&endpoint, &endpoints).map(|()| 0)
}

/// Starts the program and waits for its end. If it cannot be started, `rnet run` is told and cleans up.
fn supervise(endpoint: &Endpoint, endpoints: &Endpoints, command: &[OsString]) -> anyhow::Result<()> {
    match start(&endpoint.id, endpoints, command) {
        Ok((endpoint, child)) => watch(endpoint, child, endpoints),
        Err(error) => {
            report(&told(error))?;
            wait_for_caller();
            Ok(())
        }
    }
}

/// Keeps what the program writes until it ends. `rnet run` waits to hear whether it goes on.
fn watch(endpoint: Endpoint, child: Child, endpoints: &Endpoints) -> anyhow::Result<()> {
    let folder = endpoints.ended.path(&endpoint.id);
    let mut watched = Watched::new(child, &folder)?;
    // Before anybody is told that it runs. Who had the ports before lets go of them soon.
    let mut ports = hold::hold(&endpoint);
    let goes_on = !watched.has_ended(Some(SOON))?;
    if goes_on {
        ports.hold_more(&endpoint);
    }
    if goes_on {
        report(&Report::Started)?;
    }
    // What it was called from may be unmounted meanwhile.
    rustix::process::chdir("/")?;
    watched.has_ended(None)?;
    drop(ports);
    let how = How::of(watched.finish()?);
    let output = if goes_on { String::new() } else { output::last_lines(&folder, LINES) };
    if endpoint.remembered {
        // Without room for it, the end is told by nobody.
        let _ = endpoints.ended.write(&Ended::now(endpoint.clone(), how));
    }
    clean_up(&endpoint, endpoints)?;
    if goes_on { Ok(()) } else { report(&Report::Ended { how, output }) }
}

/// Returns when `rnet run` has ended, or has nothing left to do.
fn wait_for_caller() {
    // Whatever ends the pipe, the caller is gone.
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

fn start(id: &str, endpoints: &Endpoints, command: &[OsString]) -> anyhow::Result<(Endpoint, Child)> {
    // Joined and pinned since this process has read it first.
    let missing = || Problem::SupervisorGone { name: id.to_owned() };
    let mut endpoint = endpoints.load(id).ok_or_else(missing)?;
    endpoints.ended.begin(id)?;
    let child = program::start(&endpoint, endpoints, command, false)?;
    endpoint.process = Process::of(child.id());
    endpoint.started = output::now();
    endpoints.save(&endpoint)?;
    Ok((endpoint, child))
}

/// Ends what is left of the program, and removes the endpoint unless that has been done.
fn clean_up(endpoint: &Endpoint, endpoints: &Endpoints) -> anyhow::Result<()> {
    let Some(endpoint) = endpoints.load(&endpoint.id) else { return Ok(()) };
    stop::end_program(&endpoint, GRACE)?;
    endpoints.remove(&endpoint, &Runtime::new())
}

fn told(error: anyhow::Error) -> Report {
    match error.downcast() {
        Ok(Problem::CannotExecute { program, reason, missing, .. }) => {
            Report::CannotExecute { program, reason, missing }
        }
        Ok(other) => Report::Failed { message: other.to_string() },
        Err(other) => Report::Failed { message: format!("{other:#}") },
    }
}

/// Answers the caller, which reads to the end of the pipe.
fn report(report: &Report) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(&serde_json::to_vec(report)?)?;
    stdout.flush()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdout(&null)?)
}
