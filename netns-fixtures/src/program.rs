//! Programs started inside a namespace.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use netlink::Netns;

use crate::Error;

/// A program that will start in a network namespace: [`Command`], except for where it runs.
///
/// A child inherits the namespace of the thread that starts it, so no unsafe hook is needed.
#[derive(Debug)]
pub struct Program<'a> {
    netns: &'a Netns,
    command: Command,
    input: Option<Vec<u8>>,
}

impl<'a> Program<'a> {
    /// `program`, looked up in PATH, to be started in `netns`.
    pub fn new(netns: &'a Netns, program: impl AsRef<OsStr>) -> Self {
        Self { netns, command: Command::new(program), input: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets variables of its environment.
    pub fn envs(mut self, vars: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        self.command.envs(vars);
        self
    }

    /// Removes a variable from its environment.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Empties its environment.
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// The process group it is in; 0 is a new one.
    pub fn process_group(mut self, group: u32) -> Self {
        self.command.process_group(group as i32);
        self
    }

    /// The directory it starts in.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from standard input, for [`Program::output`]; otherwise it reads nothing.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Its standard input, for [`Program::spawn`].
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Its standard output, for [`Program::spawn`].
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Its standard error, for [`Program::spawn`].
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Starts it.
    pub fn spawn(mut self) -> Result<Child, Error> {
        self.start()
    }

    /// Starts it and waits for its end.
    pub fn status(mut self) -> Result<ExitStatus, Error> {
        let ended = self.start()?.wait();
        ended.map_err(|source| self.failed(source))
    }

    /// Starts it, writes its input, and waits for its end and its output.
    pub fn output(mut self) -> Result<Output, Error> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.start()?;
        let writing = child.stdin.take().map(|mut stdin| {
            let bytes = self.input.take().unwrap_or_default();
            // Beside the reading: a program that answers while it reads would block on a full pipe
            // otherwise.
            std::thread::spawn(move || stdin.write_all(&bytes))
        });
        let output = child.wait_with_output();
        // A program need not read all its input; what it said instead is in its output.
        let _ = writing.map(std::thread::JoinHandle::join);
        output.map_err(|source| self.failed(source))
    }

    fn start(&mut self) -> Result<Child, Error> {
        let (netns, command) = (self.netns, &mut self.command);
        netns.run(|| command.spawn())?.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        let program = self.command.get_program().to_string_lossy().into_owned();
        Error::Program { program, netns: self.netns.path().into(), source }
    }
}
