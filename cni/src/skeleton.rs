//! The life of one call: environment, configuration, verb, answer (CNI specification, section 2).
//!
//! Everything that a process provides comes in as a parameter, and nothing is kept between calls. So tests and other
//! plugins can run a plugin many times in one process.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Call, Env, Verb, text};
use crate::config::{Config, Draft};
use crate::error::Error;
use crate::fault::Fault;
use crate::fold;
use crate::input::Input;
use crate::pretty;
use crate::result::CniResult;
use crate::version::{Version, list_supported};

/// How long VERSION waits for a configuration that its caller may be about to write.
const VERSION_PATIENCE: Duration = Duration::from_millis(20);

/// What a plugin is given.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The environment.
    pub call: &'a Call,
    /// The configuration.
    pub config: &'a Config,
}

/// What a plugin does, verb by verb.
pub trait Plugin {
    /// Attaches the container; undoes its own work if it fails.
    ///
    /// # Errors
    /// The reason why it could not attach.
    fn add(&self, request: &Request<'_>) -> Result<CniResult, Error>;

    /// Detaches the container; succeeds if nothing is left to detach.
    ///
    /// # Errors
    /// The reason why it could not detach.
    fn del(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Finds out whether the attachment is still complete; changes nothing.
    ///
    /// # Errors
    /// What is missing.
    fn check(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Finds out whether an ADD would work now.
    ///
    /// # Errors
    /// Code 50 or 51: why it would not.
    fn status(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Removes what belongs to none of [`Config::valid_attachments`].
    ///
    /// # Errors
    /// All that could not be removed.
    fn gc(&self, request: &Request<'_>) -> Result<(), Error>;
}

/// Serves one call and returns the exit status.
///
/// `name` is the plain plugin name and `about` its version text (`v1.9.1+rnet.0.1.0`), both for a call without
/// CNI_COMMAND. `same_netns` says whether the namespace at a path is the one this process is in.
/// stdout gets the protocol's one document or nothing, stderr what cannot be written there.
#[expect(clippy::too_many_arguments, reason = "this is all that a process gives to its main function")]
pub fn main(
    name: &str,
    about: &str,
    plugin: &dyn Plugin,
    env: &dyn Env,
    stdin: impl Input,
    mut stdout: impl Write,
    mut stderr: impl Write,
    same_netns: &dyn Fn(&str) -> bool,
) -> i32 {
    let command = text(env, "CNI_COMMAND");
    match command.as_str() {
        "" => introduce(name, about, &mut stderr),
        "VERSION" => tell_versions(stdin, &mut stdout),
        command => match prepare(command, env, stdin) {
            Ok((call, config)) => {
                Session { plugin, call, config, same_netns }.serve(&mut stdout, &mut stderr)
            }
            Err(error) => report(&error, Version::LATEST, &mut stdout, &mut stderr),
        },
    }
}

/// A call without CNI_COMMAND: programs that look for the version read exactly this text on stderr.
fn introduce(name: &str, about: &str, stderr: &mut impl Write) -> i32 {
    let versions = list_supported(", ", str::to_owned);
    let told = write!(stderr, "CNI {name} plugin {about}\nCNI protocol versions supported: {versions}\n");
    i32::from(told.is_err())
}

/// VERSION reads only the caller's version, and does not wait long for it.
fn tell_versions(stdin: impl Input, stdout: &mut impl Write) -> i32 {
    let spoken = spoken_version(stdin).unwrap_or_else(|| Version::LATEST.as_str().to_owned());
    let answer = json!({"cniVersion": spoken, "supportedVersions": Version::SUPPORTED.map(Version::as_str)});
    i32::from(print(stdout, &format!("{answer}\n")).is_err())
}

/// The `cniVersion` on stdin. A complete document is enough: the end of stdin is not awaited.
fn spoken_version(mut stdin: impl Input) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        cni_version: Option<String>,
    }
    let deadline = Instant::now() + VERSION_PATIENCE;
    let (mut read, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    while stdin.ready(deadline.saturating_duration_since(Instant::now())) {
        let length = stdin.read(&mut chunk).ok().filter(|length| *length > 0)?;
        read.extend_from_slice(&chunk[..length]);
        if let Ok(config) = serde_json::from_slice::<Value>(&read) {
            let probe: Probe = fold::from_value(&config).ok()?;
            return probe.cni_version.filter(|version| !version.is_empty());
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    None
}

/// Steps 2 to 8 of the validation order: an unknown verb needs no variables, but a proper configuration.
fn prepare(command: &str, env: &dyn Env, mut stdin: impl Read) -> Result<(Call, Config), Error> {
    let call = match command.parse::<Verb>() {
        Ok(verb) => Ok(Call::from_env(verb, env)?),
        Err(unknown) => Err(unknown),
    };
    let mut json = Vec::with_capacity(4096);
    stdin.read_to_end(&mut json).map_err(|source| Fault::Stdin { source })?;
    let draft = Draft::parse(&json)?;
    let call = call?;
    let config = draft.finish(Some(call.verb))?;
    Ok((call, config))
}

/// A call whose environment and configuration are in order.
struct Session<'a> {
    plugin: &'a dyn Plugin,
    call: Call,
    config: Config,
    same_netns: &'a dyn Fn(&str) -> bool,
}

impl Session<'_> {
    fn serve(&self, stdout: &mut impl Write, stderr: &mut impl Write) -> i32 {
        match self.act() {
            Ok(None) => 0,
            Ok(Some(result)) => self.hand_over(&result, stdout, stderr),
            Err(error) => report(&error, self.config.cni_version, stdout, stderr),
        }
    }

    fn act(&self) -> Result<Option<CniResult>, Error> {
        let request = self.request(&self.call);
        let length = self.config.name.len();
        // DEL and GC continue: such a network can have no attachment, and an error would keep its pod for ever.
        if length > crate::LONGEST_NAME && !matches!(self.call.verb, Verb::Del | Verb::Gc) {
            return Err(Fault::NameLength { length }.into());
        }
        let attaches = matches!(self.call.verb, Verb::Add | Verb::Del);
        if attaches && !self.call.netns_override && (self.same_netns)(&self.call.netns) {
            return Err(self.refuse_own_netns().into());
        }
        match self.call.verb {
            Verb::Add => return self.plugin.add(&request).map(Some),
            Verb::Del => self.plugin.del(&request)?,
            Verb::Check => self.plugin.check(&request)?,
            Verb::Status => self.plugin.status(&request)?,
            Verb::Gc => self.plugin.gc(&request)?,
            Verb::Version => {}
        }
        Ok(None)
    }

    /// Nothing in this process's own namespace is touched. A DEL continues as if the namespace were gone, which releases
    /// what the record holds.
    fn refuse_own_netns(&self) -> Fault {
        let gone = Call { netns: String::new(), ..self.call.clone() };
        let released = match self.call.verb {
            Verb::Del => self.plugin.del(&self.request(&gone)),
            _ => Ok(()),
        };
        Fault::OwnNetns { release: released.err() }
    }

    /// If the version cannot express the result, or stdout cannot take it, the attachment is undone.
    fn hand_over(&self, result: &CniResult, stdout: &mut impl Write, stderr: &mut impl Write) -> i32 {
        let json = match result.to_json(self.config.cni_version) {
            Ok(json) => json,
            Err(error) => {
                self.undo(stderr);
                return report(&error, self.config.cni_version, stdout, stderr);
            }
        };
        let Err(source) = print(stdout, &pretty(&json)) else { return 0 };
        self.undo(stderr);
        complain(stderr, &Fault::Stdout { source }.into())
    }

    fn undo(&self, stderr: &mut impl Write) {
        let call = Call { verb: Verb::Del, ..self.call.clone() };
        if let Err(error) = self.plugin.del(&self.request(&call)) {
            complain(stderr, &error);
        }
    }

    fn request<'a>(&'a self, call: &'a Call) -> Request<'a> {
        Request { call, config: &self.config }
    }
}

/// From now on a panic is reported like any other failure, with code 999, and ends the process with status 1. The DEL
/// that follows a failed ADD undoes what the call had begun.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
        let error = Fault::Panic { message: format!("{text}{place}") }.into();
        // Another thread may have locked what io::stdout() gives.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        let status =
            stdout.map_or(1, |mut stdout| report(&error, Version::LATEST, &mut stdout, &mut io::sink()));
        std::process::exit(status)
    }));
}

/// Writes the error JSON to stdout or, if that is closed, the message to stderr.
fn report(error: &Error, version: Version, stdout: &mut impl Write, stderr: &mut impl Write) -> i32 {
    match print(stdout, &pretty(&error.to_json(version.as_str()))) {
        Ok(()) => 1,
        Err(_) => complain(stderr, error),
    }
}

/// If stderr is closed too, the exit status still shows the failure.
fn complain(stderr: &mut impl Write, error: &Error) -> i32 {
    let _ = writeln!(stderr, "{error}");
    1
}

fn print(stdout: &mut impl Write, text: &str) -> io::Result<()> {
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
