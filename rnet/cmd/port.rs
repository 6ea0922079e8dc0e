//! `rnet port`: where the ports of an endpoint are published.

use std::str::FromStr;

use serde_json::{Value, json};

use crate::containers::{host_of, past_attachments};
use crate::expose::Expose;
use crate::lookup::{Kinds, Thing};
use crate::report::{Problem, Style, print, print_json};
use crate::view::View;
use store::Port;

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The endpoint: its name, id, or at least six digits of its id
    #[arg(value_name = "EP")]
    pub endpoint: String,
    /// Show only this port
    #[arg(value_name = "PORT[/PROTO]", value_parser = Expose::from_str)]
    pub port: Option<Expose>,
}

/// Prints `80/tcp -> 0.0.0.0:32768`, a line for each; of one port only where it is published.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let known = View::open("port")?.known(&[])?;
    let (name, attachments) = match known.find(&args.endpoint, Kinds::Endpoints)? {
        Thing::Ended(ended) => (&ended.endpoint.name, past_attachments(&ended.endpoint)),
        _ => {
            let container = known.living(&args.endpoint)?;
            (&container.name, container.attachments.clone())
        }
    };
    let is_wanted =
        |port: &Port| args.port.is_none_or(|wanted| wanted.includes(port.container_port, port.protocol));
    let mut ports: Vec<Port> =
        attachments.into_iter().flat_map(|attachment| attachment.ports).filter(is_wanted).collect();
    ports.sort_by_key(|port| (port.container_port, port.protocol, port.host, port.host_port));
    if let Some(port) = args.port.filter(|_| ports.is_empty()) {
        return Err(Problem::NotPublished { name: name.clone(), port: port.to_string() }.into());
    }
    if style.json {
        print_json(&ports.iter().map(object).collect())?;
    } else {
        let alone = args.port.is_some_and(|wanted| wanted.ports.is_one());
        print(&ports.iter().map(|port| line(port, alone)).collect::<String>())?;
    }
    Ok(0)
}

fn line(port: &Port, alone: bool) -> String {
    let host = format!("{}:{}", host_of(port), port.host_port);
    if alone { format!("{host}\n") } else { format!("{}/{} -> {host}\n", port.container_port, port.protocol) }
}

fn object(port: &Port) -> Value {
    json!(port)
}
