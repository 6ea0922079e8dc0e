//! One call of a plugin or of the command, and what it said.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use netns_fixtures::{Container, Program};
use serde_json::Value;

use super::Host;

/// Whom a call is about.
#[derive(Clone, Debug)]
pub struct Who {
    pub id: String,
    pub netns: String,
    pub ifname: String,
    pub args: String,
}

/// One call of a plugin, as a runtime makes it.
pub struct Call<'a> {
    host: &'a Host,
    program: PathBuf,
    variables: BTreeMap<String, String>,
    input: Vec<u8>,
    arguments: Vec<String>,
    group: Option<u32>,
}

/// What a call left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The exit status; 128 and the signal's number if one ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Who {
    /// A container's `eth0`.
    pub fn of(container: &Container) -> Self {
        Self::named(container.name(), &container.path().to_string_lossy())
    }

    /// `eth0` of whatever has this id and this namespace.
    pub fn named(id: &str, netns: &str) -> Self {
        Self { id: id.into(), netns: netns.into(), ifname: "eth0".into(), args: String::new() }
    }

    /// The same container's other interface.
    pub fn ifname(self, ifname: &str) -> Self {
        Self { ifname: ifname.into(), ..self }
    }

    /// With CNI_ARGS.
    pub fn args(self, args: &str) -> Self {
        Self { args: args.into(), ..self }
    }

    /// With another CNI_NETNS.
    pub fn netns(self, netns: &str) -> Self {
        Self { netns: netns.into(), ..self }
    }
}

impl<'a> Call<'a> {
    /// A call without any variable of CNI.
    pub fn of(host: &'a Host, program: PathBuf) -> Self {
        let (variables, input, arguments) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { host, program, variables, input, arguments, group: None }
    }

    /// Sets a variable.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// What it reads.
    pub fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = text.into();
        self
    }

    /// With arguments, as a person calls the command.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// Makes the call in a process group that is there.
    pub fn in_group(self, group: u32) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Makes the call and waits for its end.
    pub fn run(self) -> Outcome {
        Outcome::of(self.program().input(self.input.clone()))
    }

    /// Starts the call, its input in a file, its output thrown away; for tests that kill it.
    pub fn spawn(self) -> Child {
        self.spawn_to(Stdio::null())
    }

    /// The same with a standard output.
    pub fn spawn_to(self, stdout: Stdio) -> Child {
        let mut input = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut input, &self.input).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        self.program().stdin(input).stdout(stdout).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Nothing of the caller's environment reaches the plugin, except for how it ends.
    fn program(&self) -> Program<'a> {
        let root = self.host.root();
        let mut program = self.host.command(&self.program).env_clear().env("RNET_ROOT", root);
        program = program.args(&self.arguments);
        if let Some(group) = self.group {
            program = program.process_group(group);
        }
        program.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&self.variables)
    }
}

impl Outcome {
    /// Of a program, once it has ended.
    pub fn of(program: Program<'_>) -> Self {
        let output = program.output().unwrap();
        let status = output.status.code().or(output.status.signal().map(|signal| 128 + signal)).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The document on stdout of a call that must have succeeded, saying nothing on stderr.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Success without a word.
    #[track_caller]
    pub fn silent(&self) {
        assert_eq!((self.status, self.stdout.as_str(), self.stderr.as_str()), (0, "", ""), "{self:?}");
    }

    /// Failure: the error JSON, with exit status 1.
    #[track_caller]
    pub fn error(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (1, ""), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Failure: the error's code and message.
    #[track_caller]
    pub fn refusal(&self) -> (u64, String) {
        let error = self.error();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
    }
}
