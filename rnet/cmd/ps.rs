//! `rnet ps`: the endpoints.

use super::inspect;
use crate::containers::{Attachment, Container, past_attachments};
use crate::ended::Ended;
use crate::report::{Style, print, print_json};
use crate::state::{Kernel, Links};
use crate::table;
use crate::view::View;

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print only names
    #[arg(short, long)]
    pub quiet: bool,
    /// Also show endpoints that `run -d` started and that have ended
    #[arg(short, long)]
    pub all: bool,
}

/// The last one with `-a` only.
const HEADER: [&str; 8] = ["ENDPOINT", "NET", "IP", "MAC", "PORTS", "RX/TX", "NETNS", "STATUS"];

/// Lists the endpoints, a line for each network of each; with `-a` those that ended behind them.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let view = View::open("ps")?;
    let links = Links::ask();
    let containers = view.containers()?;
    let ended = if args.all { view.ended(&containers) } else { Vec::new() };
    if args.quiet {
        let living = containers.iter().map(|container| container.name.as_str());
        return super::print_names(
            living.chain(ended.iter().map(|ended| ended.endpoint.name.as_str())),
            style,
        );
    }
    let kernel = Kernel::asked(links)?;
    if style.json {
        let living = containers.iter().map(|container| inspect::endpoint(container, &kernel));
        print_json(&living.chain(ended.iter().map(inspect::past)).collect::<Vec<_>>().into())?;
        return Ok(0);
    }
    let living = containers.iter().flat_map(|container| rows(container, &kernel));
    let rows: Vec<_> = living.chain(ended.iter().flat_map(past_rows)).collect();
    let columns = if args.all { HEADER.len() } else { HEADER.len() - 1 };
    let cut: Vec<_> = rows.into_iter().map(|row| row[..columns].to_vec()).collect();
    print(&table::render(&HEADER[..columns], &cut))?;
    Ok(0)
}

fn rows(container: &Container, kernel: &Kernel) -> Vec<Vec<String>> {
    let status = container.status().unwrap_or_default();
    let unpublished = container.unpublished().join(", ");
    let row = |attachment: &Attachment| {
        let (rx, tx) = traffic(attachment, kernel).unwrap_or_default();
        let mut row = row(&container.name, attachment);
        row[4] = joined(&row[4], &unpublished);
        row[5] = format!("{}/{}", bytes(rx), bytes(tx));
        row[6] = container.place();
        row[7] = status.to_owned();
        row
    };
    if container.attachments.is_empty() {
        let mut row = row(&Attachment::default());
        row[5].clear();
        return vec![row];
    }
    container.attachments.iter().map(row).collect()
}

fn past_rows(ended: &Ended) -> Vec<Vec<String>> {
    let mut attachments = past_attachments(&ended.endpoint);
    if attachments.is_empty() {
        attachments.push(Attachment::default());
    }
    let row = |attachment: &Attachment| {
        let mut row = row(&ended.endpoint.name, attachment);
        // Address, MAC and ports are others' by now.
        row[2..5].fill(String::new());
        row[7] = ended.status_text();
        row
    };
    attachments.iter().map(row).collect()
}

fn row(name: &str, attachment: &Attachment) -> Vec<String> {
    let mut row = vec![String::new(); HEADER.len()];
    row[0] = name.to_owned();
    row[1].clone_from(&attachment.network);
    row[2] = attachment.ip_text();
    row[3] = attachment.mac.clone().unwrap_or_default();
    row[4] = attachment.port_texts().join(", ");
    row
}

fn joined(one: &str, other: &str) -> String {
    if one.is_empty() || other.is_empty() { format!("{one}{other}") } else { format!("{one}, {other}") }
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
        assert_eq!(rows(&container, &Kernel::default())[0].join("|"), "alone||||||/run/netns/x|");
    }
}
