//! An error told to a person (or, with `--json`, to a program): its sentence, its exit status, what to type next.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use cni::code;
use plugins::own;
use serde_json::json;

pub use crate::problem::Problem;

/// How errors are told: for people or for programs, with or without colour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// `--json`: one JSON object.
    pub json: bool,
    /// ANSI colours.
    pub colour: bool,
}

impl Style {
    /// Tells an error on stderr and gives the exit status for it.
    pub fn tell(self, error: &anyhow::Error) -> u8 {
        let told = Told::of(error);
        if told.code == "closed" || matches!(error.downcast_ref(), Some(Problem::AlreadyTold { .. })) {
            return told.exit;
        }
        self.write(&told.text(self));
        told.exit
    }

    /// Tells of something that is odd and stops nothing.
    pub fn warn(self, text: impl Display) {
        if self.json {
            self.write(&format!("{}\n", json!({"warning": text.to_string()})));
        } else {
            self.write(&format!("{} {}\n", self.paint("33", "warning:"), visible(&text.to_string())));
        }
    }

    /// Tells a person something that needs no action.
    pub fn note(self, text: impl Display) {
        if !self.json {
            self.write(&format!("{text}\n"));
        }
    }

    /// Tells what could be typed next.
    pub fn hint(self, text: impl Display) {
        if !self.json {
            self.write(&format!(" hint: {text}\n"));
        }
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[1;{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A closed stderr leaves nobody to tell.
    fn write(self, text: &str) {
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// An error as it is told.
struct Told {
    message: String,
    code: &'static str,
    exit: u8,
    hint: Option<String>,
    /// The last lines of a program.
    output: Option<String>,
}

impl Told {
    fn of(error: &anyhow::Error) -> Self {
        let message = sentence(error);
        if let Some(problem) = error.downcast_ref::<Problem>() {
            let (code, exit) = problem.class();
            let output = problem.output().map(str::to_owned);
            return Self { message, code, exit, hint: problem.hint(), output };
        }
        let (code, exit) =
            error.downcast_ref::<cni::Error>().map(by_cni_code).unwrap_or_else(|| by_source(error));
        Self { message, code, exit, hint: general_hint(error), output: None }
    }

    fn text(&self, style: Style) -> String {
        if style.json {
            let mut error = json!({"code": self.code, "message": self.message});
            if let Some(hint) = &self.hint {
                error["hint"] = json!(hint);
            }
            if let Some(output) = &self.output {
                error["output"] = json!(output);
            }
            return format!("{}\n", json!({"error": error}));
        }
        let hint = self.hint.as_ref().map(|hint| format!(" hint: {hint}\n")).unwrap_or_default();
        let output: String =
            self.output.iter().flat_map(|text| text.lines()).map(|l| format!("  | {l}\n")).collect();
        format!("{} {}\n{output}{hint}", style.paint("31", "error:"), visible(&self.message))
    }
}

/// Names come from runtimes and files: what would steer the terminal is shown as `\u{1b}`.
fn visible(text: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

/// The exit status of an error, for verbs that go on after it.
pub fn exit_of(error: &anyhow::Error) -> u8 {
    Told::of(error).exit
}

/// Writes data to stdout. A reader that has closed it wants no more, which is no fault.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Problem::Closed.into()),
        other => Ok(other.map_err(Problem::file("write", "/dev/stdout".as_ref()))?),
    }
}

/// Prints JSON as data.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    print(&format!("{value:#}\n"))
}

/// True if stderr wants colours by itself.
pub fn stderr_wants_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An exit status as the process returns it.
pub fn status(exit: u8) -> ExitCode {
    ExitCode::from(exit)
}

/// `1 endpoint`, `2 endpoints`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The error and its causes in one line.
fn sentence(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<cni::Error>() {
            Some(error) if !error.details.is_empty() => format!("{}: {}", error.msg, error.details),
            Some(error) => error.msg.clone(),
            None => cause.to_string(),
        };
        // Some errors tell their cause themselves.
        if parts.last().is_none_or(|last| !last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn by_cni_code(error: &cni::Error) -> (&'static str, u8) {
    match error.code {
        own::RANGE_EXHAUSTED => ("addresses-exhausted", 6),
        own::BRIDGE_FULL => ("bridge-full", 6),
        own::ADDRESS_TAKEN => ("address-taken", 4),
        own::PORT_TAKEN => ("port-taken", 4),
        own::ALREADY_ATTACHED => ("connected", 4),
        own::INTERFACE_TAKEN => ("interface-taken", 4),
        own::BRIDGE_CONFLICT => ("bridge-taken", 4),
        code::TRY_AGAIN_LATER => ("busy", 1),
        _ if is_denial(&error.msg) => ("not-permitted", 5),
        _ => ("failed", 1),
    }
}

fn by_source(error: &anyhow::Error) -> (&'static str, u8) {
    error.chain().find_map(by_cause).unwrap_or(("failed", 1))
}

fn by_cause(cause: &(dyn std::error::Error + 'static)) -> Option<(&'static str, u8)> {
    // It tells its cause as its own.
    let of_engine = match cause.downcast_ref() {
        Some(plugins::Error::Engine(error)) => Some(error),
        _ => cause.downcast_ref(),
    };
    let (netlink, store) = match of_engine {
        Some(engine::Error::Netlink(error)) => (Some(error), None),
        Some(engine::Error::Store(error)) => (None, Some(error)),
        _ => (cause.downcast_ref(), cause.downcast_ref()),
    };
    match store {
        Some(store::Error::File { errno, .. }) => Some(by_errno(*errno)),
        Some(store::Error::Busy { .. }) => Some(("busy", 1)),
        _ => netlink.and_then(netlink::Error::errno).map(by_errno),
    }
}

/// The word for programs and the exit status of a failed system call.
pub fn by_errno(errno: rustix::io::Errno) -> (&'static str, u8) {
    match errno {
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => ("not-permitted", 5),
        _ => ("failed", 1),
    }
}

fn is_denial(text: &str) -> bool {
    text.contains("operation not permitted") || text.contains("permission denied")
}

fn general_hint(error: &anyhow::Error) -> Option<String> {
    if let Some(missing) = error.downcast_ref::<cni::Error>().and_then(missing_plugin) {
        return Some(match plugins::find(missing) {
            Some(_) => "rnet install /opt/cni/bin".into(),
            None => format!(
                "{missing:?} is not a plugin of rnet: set CNI_PATH=FOLDER to the folder that contains it"
            ),
        });
    }
    if Told::exit_alone(error) == 5 { crate::rights::again() } else { None }
}

/// `nope` in libcni's `failed to find plugin "nope" in path […]`.
fn missing_plugin(error: &cni::Error) -> Option<&str> {
    error.msg.strip_prefix("failed to find plugin \"")?.split('"').next()
}

impl Told {
    fn exit_alone(error: &anyhow::Error) -> u8 {
        error.downcast_ref::<cni::Error>().map(by_cni_code).unwrap_or_else(|| by_source(error)).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(problem: Problem, style: Style) -> String {
        Told::of(&problem.into()).text(style)
    }

    fn overlap() -> Problem {
        Problem::Overlap {
            wanted: "172.18.5.0/24".parse().unwrap(),
            taken: "172.18.0.0/16".parse().unwrap(),
            owner: "network \"mynet\"".into(),
            free: Some("172.19.0.0/16".parse().unwrap()),
        }
    }

    #[test]
    fn an_error_is_one_line_and_a_hint_that_can_be_typed() {
        assert_eq!(
            told(overlap(), Style::default()),
            "error: 172.18.5.0/24 overlaps 172.18.0.0/16 of network \"mynet\"\n \
             hint: next free: --subnet 172.19.0.0/16      (rnet ls --all shows every subnet in use)\n"
        );
    }

    #[test]
    fn a_program_gets_the_same_as_json() {
        let problem = Problem::NoNetwork { name: "mynt".into(), near: Some("mynet".into()) };
        assert_eq!(
            told(problem, Style { json: true, colour: false }),
            "{\"error\":{\"code\":\"not-found\",\"message\":\"no network \\\"mynt\\\"\",\"hint\":\"did you mean \\\"mynet\\\"?\"}}\n"
        );
    }

    #[test]
    fn a_plugins_code_becomes_an_exit_status() {
        let cases = [
            (own::RANGE_EXHAUSTED, 6, "addresses-exhausted"),
            (own::PORT_TAKEN, 4, "port-taken"),
            (own::ADDRESS_TAKEN, 4, "address-taken"),
            (own::ALREADY_ATTACHED, 4, "connected"),
            (code::TRY_AGAIN_LATER, 1, "busy"),
            (code::INTERNAL, 1, "failed"),
        ];
        for (number, exit, word) in cases {
            let told = Told::of(&cni::Error::new(number, "x").into());
            assert_eq!((told.exit, told.code), (exit, word), "{number}");
        }
    }

    #[test]
    fn what_the_kernel_denies_is_not_permitted_and_hints_at_root() {
        let error = netlink::Error::CreateNetns { errno: rustix::io::Errno::PERM };
        let told = Told::of(&error.into());
        assert_eq!((told.exit, told.code), (5, "not-permitted"));
        assert_eq!(told.hint.is_none(), store::in_user_namespace());
        assert!(told.hint.is_none_or(|hint| hint.starts_with("sudo ")));
    }

    #[test]
    fn causes_follow_their_error_once() {
        let error = anyhow::Error::from(cni::Error::new(7, "bad")).context("cannot attach web to mynet");
        assert_eq!(sentence(&error), "cannot attach web to mynet: bad");
    }

    #[test]
    fn users_are_counted_in_words() {
        let problem = |users: &[&str]| Problem::NetworkInUse {
            name: "mynet".into(),
            users: users.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(
            problem(&["web (172.18.0.2)"]).to_string(),
            "network \"mynet\" has 1 endpoint: web (172.18.0.2)"
        );
        assert_eq!(problem(&["a", "b"]).to_string(), "network \"mynet\" has 2 endpoints: a, b");
    }
}
