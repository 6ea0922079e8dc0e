//! `rnet start`: an endpoint that ended once more, as it was started.

use anyhow::Context;
use clap::Parser;

use super::{inspect, run};
use crate::containers::{Container, past_attachments};
use crate::ended::Ended;
use crate::lookup::{Kinds, Thing};
use crate::publish::{Protocol, Span, Spec};
use crate::report::{Problem, Style, exit_of, print, print_json};
use crate::rights;
use crate::state::Kernel;
use crate::view::View;

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Endpoints that have ended: their names, ids, or at least six digits of an id
    #[arg(required = true, value_name = "EP")]
    pub names: Vec<String>,
}

/// Starts each with its command, name, networks and ports, and prints the names.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    let mut failures = Vec::new();
    for word in &args.names {
        if let Err(error) = start(word, style) {
            if matches!(error.downcast_ref(), Some(Problem::Closed)) {
                return Err(error);
            }
            style.tell(&error);
            failures.push(exit_of(&error));
        }
    }
    match failures.first() {
        None => Ok(0),
        Some(exit) => Err(Problem::AlreadyTold { failures: failures.len(), exit: *exit }.into()),
    }
}

fn start(word: &str, style: Style) -> anyhow::Result<()> {
    let mut view = View::open("start")?;
    let known = view.known(&[])?;
    let ended = match known.find(word, Kinds::Endpoints)? {
        Thing::Ended(ended) => ended,
        // As docker has it, what runs is started already.
        _ => return tell(known.living(word)?, &mut view, style),
    };
    let args = as_it_was(ended)?;
    if let Some(folder) = &ended.endpoint.folder {
        // One that is gone is not needed by every program.
        let _ = std::env::set_current_dir(folder);
    }
    run::run(&args, style)?;
    // What is started anew has not ended.
    Ok(view.endpoints.ended.forget(&ended.endpoint.id)?)
}

fn tell(running: &Container, view: &mut View, style: Style) -> anyhow::Result<()> {
    if !style.json {
        return print(&format!("{}\n", running.name));
    }
    print_json(&inspect::endpoint(running, &Kernel::links(&mut view.host)?))
}

/// A command line from `run` on.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: run::Args,
}

fn run_args(words: &[String]) -> Option<run::Args> {
    let words = Some(words).filter(|words| words.first().is_some_and(|verb| verb == "run"))?;
    Line::try_parse_from(words).ok().map(|line| line.args)
}

/// The command line that it was started by, with the name and the ports that came out of it.
fn as_it_was(ended: &Ended) -> anyhow::Result<run::Args> {
    let endpoint = &ended.endpoint;
    let mut args = run_args(&endpoint.line)
        .with_context(|| format!("the command line of {:?} was not kept", endpoint.name))?;
    args.name = Some(endpoint.name.clone());
    args.publish_all = false;
    args.publish =
        past_attachments(endpoint).iter().flat_map(|attachment| &attachment.ports).map(spec).collect();
    Ok(args)
}

fn spec(port: &store::Port) -> Spec {
    let protocol = match port.protocol {
        store::Protocol::Tcp => Protocol::Tcp,
        store::Protocol::Udp => Protocol::Udp,
        store::Protocol::Sctp => Protocol::Sctp,
    };
    Spec {
        host: port.host,
        host_ports: Some(Span::one(port.host_port)),
        container_ports: Span::one(port.container_port),
        protocol,
    }
}
