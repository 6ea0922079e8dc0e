//! Mistakes in usage, told in words of our own: people bring docker's words, and a wrong tip costs more than none.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::names::nearest;

/// What is said of a command line that was not understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// The sentence.
    pub message: String,
    /// What can be typed instead.
    pub hint: Option<String>,
}

/// The verbs that are about a program.
const PROGRAM: &[&str] = &["run", "exec"];

/// Docker's options that mean nothing for a program of `rnet run`: it is no container.
const NOTHING: &[(&[&str], &[&str], &str)] = &[
    (PROGRAM, &["-i", "--interactive", "-t", "--tty"], "the program already has the caller's terminal"),
    (
        PROGRAM,
        &["-v", "--volume", "--mount", "--tmpfs", "--volumes-from"],
        "the program sees the caller's own files",
    ),
    (PROGRAM, &["-e", "--env", "--env-file"], "the program has the caller's environment"),
    (
        PROGRAM,
        &[
            "--privileged",
            "--cap-add",
            "--cap-drop",
            "-u",
            "--user",
            "--userns",
            "--group-add",
            "--security-opt",
        ],
        "the program has the caller's rights",
    ),
    (PROGRAM, &["-w", "--workdir"], "the program has the caller's working directory"),
    (PROGRAM, &["--entrypoint", "--pull", "--platform"], "no image is needed: name the program itself"),
    (PROGRAM, &["--restart"], "rnet does not restart programs; systemd does"),
    (
        PROGRAM,
        &[
            "-m",
            "--memory",
            "--cpus",
            "--cpu-shares",
            "--pids-limit",
            "--ulimit",
            "--shm-size",
            "--device",
            "--gpus",
            "--init",
            "--read-only",
            "--ipc",
            "--pid",
            "--uts",
            "--cgroupns",
            "--cgroup-parent",
            "--log-driver",
            "--log-opt",
            "--health-cmd",
            "--no-healthcheck",
            "--stop-signal",
            "--stop-timeout",
            "--sysctl",
            "--cidfile",
        ],
        "it is for containers, and rnet makes only network namespaces",
    ),
    (&["create"], &["--ingress"], "there are no services for a routing mesh"),
    (&["create"], &["--scope"], "every network is on this host only"),
    (&["create"], &["--config-from", "--config-only"], "every network has its own configuration"),
];

/// Options that are planned (docker's, podman's and our own).
const NOT_YET: &[(&[&str], &[&str])] = &[
    (
        &["run"],
        &[
            "--ip6",
            "--mac-address",
            "--mac",
            "--add-host",
            "--link",
            "--gw-priority",
            "--keep",
            "--dns-option",
            "--dns-opt",
            "-l",
            "--label",
        ],
    ),
    (
        &["create"],
        &[
            "--internal",
            "--label",
            "-o",
            "--opt",
            "--aux-address",
            "--ipv4",
            "--ipv6",
            "--ipam-driver",
            "--ipam-opt",
            "--isolate",
            "--no-icc",
            "--host-access",
            "--interface-name",
            "--route",
        ],
    ),
    (
        &["ls", "ps"],
        &["-f", "--filter", "--format", "--no-trunc", "--columns", "-n", "--last", "-l", "--latest", "-s"],
    ),
    (&["inspect"], &["-f", "--format", "-s"]),
    (&["logs"], &["--since", "--until", "--details"]),
    (&["stop"], &["-s", "--signal"]),
    (&["create", "run", "rm"], &["--dry-run", "--explain"]),
];

/// Verbs that are planned.
const VERBS_NOT_YET: [&str; 15] = [
    "connect",
    "disconnect",
    "rename",
    "prune",
    "events",
    "restart",
    "top",
    "leases",
    "gc",
    "recover",
    "doctor",
    "explain",
    "generate",
    "exists",
    "wait",
];

/// Docker's verbs that are about something else than networks.
const NO_VERBS: [&str; 20] = [
    "image", "images", "pull", "push", "build", "tag", "load", "save", "commit", "import", "export",
    "volume", "login", "logout", "cp", "compose", "swarm", "service", "search", "update",
];

/// What to type instead of a verb of docker's.
const INSTEAD: [(&str, &str); 6] = [
    ("kill", "rnet stop -t 0 EP"),
    ("attach", "rnet logs -f EP"),
    ("container", "rnet ps"),
    ("version", "rnet --version"),
    ("info", "rnet ls"),
    ("stats", "rnet ps"),
];

/// What is wrong with `words`, the command line without the program; none where clap's own text says it best.
pub fn said(error: &clap::Error, command: &clap::Command, words: &[String]) -> Option<Said> {
    let verb = verb(command, words);
    match error.kind() {
        ErrorKind::UnknownArgument => option(&text(error, ContextKind::InvalidArg)?, verb?, words),
        ErrorKind::InvalidSubcommand => {
            Some(subcommand(&text(error, ContextKind::InvalidSubcommand)?, command, words))
        }
        ErrorKind::MissingRequiredArgument => Some(missing(error, verb?)),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Some(no_verb(command, words))
        }
        _ => None,
    }
}

/// Clap's text without its tips.
pub fn without_tips(text: &str) -> String {
    let kept: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("tip:")).collect();
    let mut shown = kept.join("\n");
    while shown.contains("\n\n\n") {
        shown = shown.replace("\n\n\n", "\n\n");
    }
    shown + "\n"
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// The verb that the options belong to: of `network ls` the second word.
fn verb<'a>(command: &'a clap::Command, words: &[String]) -> Option<&'a clap::Command> {
    let mut verbs = words.iter().filter(|word| !word.starts_with('-'));
    let first = command.find_subcommand(verbs.next()?)?;
    match first.has_subcommands() {
        true => verbs.next().and_then(|second| first.find_subcommand(second)),
        false => Some(first),
    }
}

/// `stop needs EP`.
fn missing(error: &clap::Error, verb: &clap::Command) -> Said {
    let name = verb.get_name();
    let what = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(what)) => what.join(" ").replace(['<', '>'], ""),
        _ => "more".into(),
    };
    let message = format!("{name} needs {}", what.trim_end_matches('.'));
    Said { message, hint: Some(format!("rnet {name} --help")) }
}

/// `rnet dns` alone.
fn no_verb(command: &clap::Command, words: &[String]) -> Said {
    let first = words.iter().find(|word| !word.starts_with('-'));
    let group = first.and_then(|word| command.find_subcommand(word)).unwrap_or(command);
    let verbs: Vec<&str> =
        group.get_subcommands().filter(|verb| !verb.is_hide_set()).map(clap::Command::get_name).collect();
    let (name, path) = match group.get_name() {
        "rnet" => ("rnet", "rnet".to_owned()),
        name => (name, format!("rnet {name}")),
    };
    Said {
        message: format!("{name} needs one of {}", verbs.join(", ")),
        hint: Some(format!("{path} --help")),
    }
}

fn option(given: &str, verb: &clap::Command, words: &[String]) -> Option<Said> {
    let (name, flag) = (verb.get_name(), given.split('=').next()?);
    let fits = |verbs: &[&str], flags: &[&str]| verbs.contains(&name) && flags.contains(&flag);
    if let Some((_, _, why)) = NOTHING.iter().find(|(verbs, flags, _)| fits(verbs, flags)) {
        let message = format!("{name} has no option {flag}: {why}");
        return Some(Said { message, hint: without(flag, words) });
    }
    if NOT_YET.iter().any(|(verbs, flags)| fits(verbs, flags)) {
        return Some(Said { message: format!("{name} has no option {flag} yet"), hint: instead(name, flag) });
    }
    if !flag.starts_with('-') {
        let message = format!("{name} takes no further argument {given:?}");
        return Some(Said { message, hint: Some(format!("rnet {name} --help")) });
    }
    let known = verb.get_arguments().filter_map(|argument| argument.get_long());
    let near = flag.strip_prefix("--").and_then(|flag| nearest(flag, known));
    let hint = near.map_or_else(|| format!("rnet {name} --help"), |near| format!("did you mean --{near}?"));
    Some(Said { message: format!("{name} has no option {flag}"), hint: Some(hint) })
}

fn instead(verb: &str, flag: &str) -> Option<String> {
    match (verb, flag) {
        ("ls" | "ps", _) => Some(format!("rnet {verb} --json")),
        ("create", "--ipv6") => Some("rnet create --subnet 10.9.0.0/24 --subnet fd00:9::/64".into()),
        ("create", "--isolate") => Some("networks never reach each other".into()),
        _ => None,
    }
}

fn subcommand(given: &str, command: &clap::Command, words: &[String]) -> Said {
    let of_network = words.iter().find(|word| !word.starts_with('-')).is_some_and(|word| word == "network");
    let message = match given {
        _ if VERBS_NOT_YET.contains(&given) => format!("rnet has no {given} yet"),
        _ if NO_VERBS.contains(&given) => {
            format!("rnet has no {given}: it manages networks, and programs need no image")
        }
        _ => format!("rnet has no {given}"),
    };
    if let Some((_, hint)) = INSTEAD.iter().find(|(verb, _)| *verb == given) {
        return Said { message, hint: Some((*hint).to_owned()) };
    }
    if VERBS_NOT_YET.contains(&given) || NO_VERBS.contains(&given) {
        return Said { message, hint: None };
    }
    let parent = if of_network { command.find_subcommand("network").unwrap_or(command) } else { command };
    let verbs = parent.get_subcommands().filter(|verb| of_network || !verb.is_hide_set());
    let near = nearest(given, verbs.map(clap::Command::get_name));
    let hint = near.map_or_else(|| "rnet --help".to_owned(), |near| format!("did you mean {near}?"));
    Said { message, hint: Some(hint) }
}

/// The command line without an option that means nothing. One with a value is left to the caller, for what its value is
/// only he knows.
fn without(flag: &str, words: &[String]) -> Option<String> {
    const BARE: [&str; 7] = ["-i", "-t", "--interactive", "--tty", "--privileged", "--init", "--read-only"];
    const LETTERS: [char; 2] = ['i', 't'];
    if !BARE.contains(&flag) {
        return None;
    }
    let is_cluster = |word: &str| {
        word.len() > 1
            && word.starts_with('-')
            && !word.starts_with("--")
            && word[1..].bytes().all(|b| b"itdP".contains(&b))
    };
    let kept = words.iter().filter(|word| !BARE.contains(&word.as_str())).filter_map(|word| {
        if !is_cluster(word) {
            return Some(crate::rights::quoted(word));
        }
        let rest: String = word.chars().filter(|letter| !LETTERS.contains(letter)).collect();
        (rest.len() > 1).then_some(rest)
    });
    Some(std::iter::once("rnet".to_owned()).chain(kept).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_without_what_means_nothing() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(without("-i", &words("run -it --name web sh")), Some("rnet run --name web sh".into()));
        assert_eq!(without("-t", &words("run -dit --init sh")), Some("rnet run -d sh".into()));
        assert_eq!(without("-v", &words("run -v /a:/b sh")), None);
    }

    #[test]
    fn tips_are_left_out() {
        assert_eq!(
            without_tips("error: x\n\n  tip: to pass '-P' as a value, use '-- -P'\n\nUsage: rnet\n"),
            "error: x\n\nUsage: rnet\n"
        );
    }
}
