//! `rnet dns`: the name server, and how it goes.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::path::PathBuf;

use anyhow::Context;
use dns::{Control, Endpoint, Kept, Known, Serve, Status, client};
use engine::Host;
use engine::{PORT, RESOLV_CONF, names};
use rustix::process::Signal;
use serde_json::json;
use store::{Paths, Store};

use crate::report::{Problem, Style, print, print_json};
use crate::{detach, loglines, rights, table, told};

/// What can be given.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show where the name server listens, which names it knows, and its upstream servers
    Status,
    /// Show what happened to the name server, to networks and to containers' names; queries are never logged
    Log,
    /// Show each query and its answer from now on, until Ctrl-C
    Watch,
    /// Serve names until no network needs them; the first container with names starts the server automatically
    Serve {
        /// Return when the server is ready; it runs in the background
        #[arg(long)]
        detach: bool,
        /// Go on with the sockets of the server that has just become this process, detached if that was
        #[arg(long, hide = true)]
        resume: bool,
        /// Take the place of a detached server that has died
        #[arg(long, hide = true, conflicts_with = "resume")]
        again: bool,
    },
    /// Replace the running server with the installed version of rnet; no name and no query is lost
    Restart,
    /// Waits for the end of a detached server, and then takes its place
    #[command(hide = true)]
    Guard,
    /// Tries out what is installed, for a server that is to be replaced by it
    #[command(hide = true)]
    TryOut {
        /// That server is detached
        #[arg(long)]
        detach: bool,
    },
    /// Becomes the program of a file
    #[command(hide = true)]
    Become {
        /// The file
        file: PathBuf,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Lets the ruleset send the questions of all networks to where a detached server takes them now
    #[command(hide = true)]
    Redirect,
    /// Answers for `serve`, without any privilege
    #[command(hide = true)]
    Worker {
        /// Standard error is the log
        #[arg(long)]
        detach: bool,
    },
}

const LISTENERS: [&str; 3] = ["LISTENER", "PORT", "STATE"];
const NAMES: [&str; 4] = ["NETWORK", "NAMES", "ADDRESSES", "CONTAINER"];

/// Does it.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    match &args.verb {
        Verb::Status => status(style),
        Verb::Log => log(style),
        Verb::Watch => watch(style),
        Verb::Serve { detach, resume: true, .. } => resume(*detach),
        Verb::Serve { again: true, .. } => again(),
        Verb::Serve { detach, .. } => serve(*detach),
        Verb::Restart => restart(),
        Verb::Worker { detach } => {
            crate::log::start(*detach);
            Ok(dns::work().map(|()| 0)?)
        }
        Verb::Guard => guard(),
        Verb::TryOut { detach } => try_out(*detach),
        Verb::Become { file, arguments } => {
            // It is not to outlive who tries it out.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            let error = dns::become_program(file, arguments);
            Err(error).with_context(|| format!("cannot execute {}", file.display()))
        }
        Verb::Redirect => redirect(),
    }
}

fn serve(detached: bool) -> anyhow::Result<u8> {
    rights::require()?;
    let paths = Paths::new(netlink::cookie()?);
    // Makes the folder, if nobody has.
    Store::open(paths.clone())?;
    let control = match Control::open(&paths.name_server()) {
        // Another was quicker.
        Err(dns::Error::Running { pid, .. }) if detached => return running(&paths, pid).map(|()| 0),
        opened => opened?,
    };
    if !detached {
        return Ok(serve_here(&control, kept(&paths), &paths, false).map(|()| 0)?);
    }
    detach::run(&control.descriptors(), &paths.run(), || {
        let _ = crate::log::open(&paths.name_server_log());
        if let Err(error) = serve_here(&control, kept(&paths), &paths, true) {
            tracing::error!(error = &error as &dyn std::error::Error, "the end");
        }
        // The child ends without dropping anything.
        control.remove();
        detach::dissolve_groups();
    })?;
    // The socket is the child's now. It answers when all names on record do.
    std::mem::forget(control);
    found(client::ping(&paths.name_server())).map(|_| 0)
}

/// What is left of a server that has died.
fn kept(paths: &Paths) -> Kept {
    // What cannot be read is told with all else that is on record.
    Store::open(paths.clone()).map_or_else(|_| Kept::default(), |store| Kept::places(names::places(&store)))
}

/// Fails unless the server that process `pid` keeps answers.
fn running(paths: &Paths, pid: u32) -> anyhow::Result<()> {
    match client::ping(&paths.name_server()) {
        Err(error) if error.is_absent() => Err(Problem::NameServerSilent { pid }.into()),
        other => found(other),
    }
}

/// In the place of a server that has handed over.
fn resume(detached: bool) -> anyhow::Result<u8> {
    let (control, kept) = dns::taken_over()?;
    let served = serve_here(&control, kept, &Paths::new(netlink::cookie()?), detached);
    if detached {
        detach::dissolve_groups();
    }
    Ok(served.map(|()| 0)?)
}

/// In the place of a server that has died.
fn again() -> anyhow::Result<u8> {
    let paths = Paths::new(netlink::cookie()?);
    let control = match Control::open(&paths.name_server()) {
        // An ADD was quicker.
        Err(dns::Error::Running { .. }) => return Ok(0),
        opened => opened?,
    };
    let served = serve_here(&control, kept(&paths), &paths, true);
    detach::dissolve_groups();
    Ok(served.map(|()| 0)?)
}

fn guard() -> anyhow::Result<u8> {
    crate::log::start(true);
    netlink::give_back_program();
    let arguments = ["dns", "serve", "--again"].map(Into::into);
    Err(dns::guard(&arguments)).context("nobody can take the place of the name server, which has died")
}

/// Lets the installed file serve in a folder of its own. It knows nothing of what is on record there, and ends with us.
fn try_out(detached: bool) -> anyhow::Result<u8> {
    crate::log::start(detached);
    let folder = Paths::new(netlink::cookie()?).run().join("trial");
    let starter = ["dns", "become"].map(Into::into);
    let successor = ["dns", "serve", "--resume"].map(Into::into);
    let variables: Vec<_> = Paths::environment_below(&folder).collect();
    dns::try_out(&folder, &starter, &successor, &variables)?;
    Ok(0)
}

/// Returns at once: a process that holds the networks' locks may be waiting for the one that calls this.
fn redirect() -> anyhow::Result<u8> {
    let paths = Paths::new(netlink::cookie()?);
    detach::run(&[], &paths.run(), || {
        let _ = crate::log::open(&paths.name_server_log());
        crate::log::start(true);
        let redirected = Host::open("dns redirect".into()).and_then(|mut host| engine::redirect(&mut host));
        if let Err(error) = redirected {
            tracing::error!(%error, "the questions of some networks go to where nobody takes them");
        }
    })?;
    Ok(0)
}

fn restart() -> anyhow::Result<u8> {
    rights::require()?;
    match client::restart(&Paths::new(netlink::cookie()?).name_server()) {
        Err(client::Error::NotReplaced { said }) => Err(Problem::NotReplaced { said }.into()),
        restarted => found(restarted).map(|()| 0),
    }
}

fn log(style: Style) -> anyhow::Result<u8> {
    let path = Paths::new(netlink::cookie()?).name_server_log();
    match std::fs::read_to_string(&path) {
        Ok(log) if style.json => print(&loglines::json(&log)).map(|()| 0),
        Ok(log) => print(&loglines::shown(&log, std::io::stdout().is_terminal())).map(|()| 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Problem::NoNameServer.into()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn watch(style: Style) -> anyhow::Result<u8> {
    let mut printed = Ok(());
    let watched = client::watch(&Paths::new(netlink::cookie()?).name_server(), |seen| {
        printed = print(&if style.json { format!("{}\n", json!(seen)) } else { format!("{seen}\n") });
        if printed.is_ok() { Ok(()) } else { Err(ErrorKind::BrokenPipe.into()) }
    });
    printed.and_then(|()| found(watched)).map(|()| 0)
}

/// What the name server said, or that there is none.
fn found<T>(said: Result<T, client::Error>) -> anyhow::Result<T> {
    match said {
        Err(client::Error::NotThere { .. }) => Err(absent()?.into()),
        Err(client::Error::Silent { pid, .. }) => Err(Problem::NameServerSilent { pid }.into()),
        other => Ok(other?),
    }
}

/// Why nobody serves.
fn absent() -> anyhow::Result<Problem> {
    let paths = Paths::new(netlink::cookie()?);
    let networks = || Store::open(paths.clone())?.networks();
    // A user who may not read the records is told no more than that.
    let has_names =
        paths.run().exists() && networks().is_ok_and(|all| all.iter().any(|one| one.zone.is_some()));
    Ok(if has_names { Problem::NameServerDied } else { Problem::NoNameServer })
}

fn serve_here(control: &Control, kept: Kept, paths: &Paths, detached: bool) -> Result<(), dns::Error> {
    crate::log::start(detached);
    // What cannot be read now is told by the next ADD; names of which nothing is known do not answer.
    let load = |tell: &mut dyn FnMut(Known)| {
        let told =
            Store::open(paths.clone()).map_err(Into::into).and_then(|store| names::tell_all(&store, tell));
        if let Err(error) = told {
            tracing::error!(%error, "some records cannot be read");
        }
    };
    let words = |words: &[&str]| -> Vec<OsString> {
        words.iter().chain(detached.then_some(&"--detach")).map(Into::into).collect()
    };
    let config = Serve {
        resolv_conf: RESOLV_CONF.into(),
        port: PORT,
        worker: Some(words(&["dns", "worker"])),
        // One in the foreground is watched by the user who started it.
        guardian: detached.then(|| ["dns", "guard"].map(Into::into).into()),
        prover: words(&["dns", "try-out"]),
        successor: words(&["dns", "serve", "--resume"]),
        redirect: ["dns", "redirect"].map(Into::into).into(),
        load,
        rest: netlink::give_back_program,
        errand: super::interop::errand(),
    };
    dns::serve(control, kept, config)
}

fn status(style: Style) -> anyhow::Result<u8> {
    let paths = Paths::new(netlink::cookie()?);
    let mut status = found(client::status(&paths.name_server()))?;
    let mut told =
        Host::open("dns status".into()).map_or_else(|_| Vec::new(), |mut host| told::known(&mut host));
    told.retain(|told| told.names);
    status.endpoints.sort_by(|one, other| (&one.network, &one.names).cmp(&(&other.network, &other.names)));
    if style.json {
        let mut whole = json!(status);
        if let Some(told) = whole.as_object_mut() {
            // Units belong into names.
            told.shift_remove("since");
            told.insert("sinceBootMs".into(), json!(status.since));
            told.insert("netns".into(), json!({"device": status.netns.0, "inode": status.netns.1}));
        }
        whole["stopped"] = told::json(&told);
        print_json(&whole)?
    } else {
        print(&text(&status))?
    }
    let networks: Vec<&str> = told.iter().map(|told| told.network.as_str()).collect();
    told::warn(&told, &networks, style);
    Ok(0)
}

fn text(status: &Status) -> String {
    let listeners: Vec<_> = status.listeners.iter().map(listener).collect();
    let endpoints: Vec<_> = status.endpoints.iter().map(endpoint).collect();
    [
        table::render(&LISTENERS, &listeners),
        table::render(&NAMES, &endpoints),
        world(status),
        counters(status),
    ]
    .join("\n")
}

fn listener(listening: &dns::Listening) -> Vec<String> {
    let state = if listening.port == PORT { "ok" } else { "redirected: another program had port 53" };
    vec![listening.address.to_string(), listening.port.to_string(), state.into()]
}

fn endpoint(endpoint: &Endpoint) -> Vec<String> {
    let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let container = endpoint.container.chars().take(12).collect();
    vec![endpoint.network.clone(), endpoint.names.join(","), addresses.join(","), container]
}

/// Whom the host asks: a network or a container may have servers of its own.
fn world(status: &Status) -> String {
    let upstream = |server: &std::net::SocketAddr| {
        let state = if status.unwell.contains(server) { " (silent)" } else { "" };
        format!("{}{state}", server.ip())
    };
    let upstreams: Vec<_> = status.upstreams.iter().map(upstream).collect();
    match upstreams.is_empty() {
        true => {
            format!("upstreams: none ({RESOLV_CONF} names no server): queries for other names get SERVFAIL\n")
        }
        false => format!("upstreams: {}\n", upstreams.join(", ")),
    }
}

fn counters(status: &Status) -> String {
    format!(
        "questions: {}, forwarded: {} ({} in flight, {} waiting), errors kept back: {}, connections: {}, pid: {}\n",
        status.questions,
        status.forwarded,
        status.in_flight,
        status.waiting,
        status.suppressed,
        status.connections,
        status.pid
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_a_page_for_people() {
        let at = |text: &str, port| dns::Listening { address: text.parse().unwrap(), port };
        let web = Endpoint {
            network: "mynet".into(),
            container: "4f2a9c00112233445566".into(),
            names: vec!["web".into(), "www".into(), "4f2a9c001122".into()],
            addresses: vec!["172.18.0.2".parse().unwrap()],
            ..Endpoint::default()
        };
        let status = Status {
            pid: 4711,
            listeners: vec![at("172.18.0.1", 53), at("172.19.0.1", 40053)],
            endpoints: vec![web],
            upstreams: vec!["9.9.9.9:53".parse().unwrap(), "192.0.2.1:53".parse().unwrap()],
            unwell: vec!["192.0.2.1:53".parse().unwrap()],
            questions: 12,
            forwarded: 3,
            ..Status::default()
        };
        let expected = "\
LISTENER     PORT    STATE
172.18.0.1   53      ok
172.19.0.1   40053   redirected: another program had port 53

NETWORK   NAMES                  ADDRESSES    CONTAINER
mynet     web,www,4f2a9c001122   172.18.0.2   4f2a9c001122

upstreams: 9.9.9.9, 192.0.2.1 (silent)

questions: 12, forwarded: 3 (0 in flight, 0 waiting), errors kept back: 0, connections: 0, pid: 4711
";
        assert_eq!(text(&status), expected);
        assert!(text(&Status::default()).contains("upstreams: none (/etc/resolv.conf names no server)"));
    }
}
