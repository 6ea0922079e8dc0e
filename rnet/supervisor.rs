//! The process that outlives `rnet run`, seen from there: it cleans up if this one is killed at any moment, and
//! with `-d` it starts the program and waits for its end.
//!
//! It is told by a pipe: a byte says "start the program", its end says "the process that started you is gone".

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::ended::How;
use crate::endpoint::Endpoint;
use crate::report::Problem;

/// The byte that says "start the program".
pub const START: u8 = b'!';

/// What the supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The program runs.
    Started,
    /// It ran, and has ended.
    Ended {
        /// How.
        how: How,
        /// The last lines that it wrote.
        output: String,
    },
    /// It cannot be executed.
    CannotExecute {
        /// The program.
        program: String,
        /// Why not.
        reason: String,
        /// True if there is no such program.
        missing: bool,
    },
    /// Something else went wrong.
    Failed {
        /// In words.
        message: String,
    },
}

/// A supervisor at work for this process.
pub struct Supervisor {
    child: Child,
    name: String,
}

impl Supervisor {
    /// Starts one for an endpoint; `detached` is the program that it is to start later.
    pub fn start(endpoint: &Endpoint, detached: Option<&[OsString]>) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("rnet").args(["supervise", &endpoint.id]).stdin(Stdio::piped()).stderr(Stdio::null());
        match detached {
            Some(words) => command.arg("--").args(words).stdout(Stdio::piped()),
            None => command.stdout(Stdio::null()),
        };
        let child = command.spawn().map_err(Problem::file("start", "/proc/self/exe".as_ref()))?;
        Ok(Self { child, name: endpoint.name.clone() })
    }

    /// Lets it start the program, and leaves the endpoint to it. Returns when the program runs and seems to go on, or has
    /// done its work already; `kept` says that it is remembered.
    pub fn hand_over(&mut self, kept: bool) -> anyhow::Result<Option<How>> {
        let gone = || Problem::SupervisorGone { name: self.name.clone() };
        let stdin = self.child.stdin.as_mut().ok_or_else(gone)?;
        stdin.write_all(&[START]).map_err(|_| gone())?;
        let mut text = Vec::new();
        let stdout = self.child.stdout.as_mut().ok_or_else(gone)?;
        stdout.read_to_end(&mut text).map_err(|_| gone())?;
        match serde_json::from_slice(&text).map_err(|_| gone())? {
            Report::Started => Ok(None),
            Report::Ended { how: How::Status(0), .. } => Ok(Some(How::Status(0))),
            Report::Ended { how, output } => Err(Problem::EndedAtOnce {
                name: self.name.clone(),
                how: how.to_string(),
                exit: how.exit().unwrap_or(125),
                output,
                kept,
            }
            .into()),
            Report::CannotExecute { program, reason, missing } => {
                Err(Problem::CannotExecute { program, reason, missing, image: true }.into())
            }
            Report::Failed { message } => Err(anyhow::anyhow!(message)),
        }
    }

    /// Tells it that nothing is left to do, and waits until it is gone.
    pub fn dismiss(mut self) {
        drop(self.child.stdin.take());
        // It ends at once: the endpoint is gone. There is nobody to tell if not.
        let _ = self.child.wait();
    }
}
