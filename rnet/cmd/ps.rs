//! `rnet ps`: the endpoints.

use serde_json::Value;

use super::inspect;
use crate::containers::{Attachment, Container};
use crate::report::{Style, print, print_json};
use crate::table;
use crate::view::{Kernel, View};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
}

const HEADER: [&str; 7] = ["ENDPOINT", "NET", "IP", "MAC", "PORTS", "RX/TX", "NETNS"];

/// Lists the endpoints, a line for each network of each.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let mut view = View::open("ps")?;
    let containers = view.containers()?;
    if args.quiet {
        let names: String = containers.iter().map(|container| format!("{}\n", container.name)).collect();
        return print(&names).map(|()| 0);
    }
    let kernel = view.kernel()?;
    if style.json {
        let objects: Vec<Value> =
            containers.iter().map(|container| inspect::endpoint(container, &kernel)).collect();
        print_json(&objects.into())?;
    } else {
        let rows: Vec<_> = containers.iter().flat_map(|container| rows(container, &kernel)).collect();
        print(&table::render(&HEADER, &rows))?;
    }
    Ok(0)
}

fn rows(container: &Container, kernel: &Kernel) -> Vec<Vec<String>> {
    if container.attachments.is_empty() {
        let mut row = vec![String::new(); HEADER.len()];
        row[0].clone_from(&container.name);
        row[6] = container.place();
        return vec![row];
    }
    container.attachments.iter().map(|attachment| row(container, attachment, kernel)).collect()
}

fn row(container: &Container, attachment: &Attachment, kernel: &Kernel) -> Vec<String> {
    let (rx, tx) = traffic(attachment, kernel).unwrap_or_default();
    vec![
        container.name.clone(),
        attachment.network.clone(),
        attachment.ip_text(),
        attachment.mac.clone().unwrap_or_default(),
        attachment.port_text(),
        format!("{}/{}", bytes(rx), bytes(tx)),
        container.place(),
    ]
}

/// What the endpoint has received and sent, in bytes: the host end of its veth pair counts the other way round.
pub fn traffic(attachment: &Attachment, kernel: &Kernel) -> Option<(u64, u64)> {
    let link = kernel.link(attachment.link.as_deref()?)?;
    Some((link.tx_bytes, link.rx_bytes))
}

/// `0`, `512`, `1k`, `3M`: thousands, rounded down.
fn bytes(number: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match UNITS.into_iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{}{unit}", number / size),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        let cases =
            [(0, "0"), (999, "999"), (1000, "1k"), (3999, "3k"), (1_500_000, "1M"), (u64::MAX, "18446744T")];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn an_endpoint_without_a_network_has_a_line_too() {
        let container =
            Container { name: "alone".into(), netns: Some("/run/netns/x".into()), ..Container::default() };
        assert_eq!(rows(&container, &Kernel::default())[0].join("|"), "alone||||||/run/netns/x");
    }
}
