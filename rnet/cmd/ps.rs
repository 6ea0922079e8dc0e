//! `rnet ps`: the endpoints.

use serde_json::Value;

use super::inspect;
use crate::report::{Style, print, print_json};
use crate::seats::{Party, Seat};
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
    let parties = view.parties()?;
    if args.quiet {
        let names: String = parties.iter().map(|party| format!("{}\n", party.name)).collect();
        return print(&names).map(|()| 0);
    }
    let kernel = view.kernel()?;
    if style.json {
        let objects: Vec<Value> = parties.iter().map(|party| inspect::endpoint(party, &kernel)).collect();
        print_json(&objects.into())?;
    } else {
        let rows: Vec<_> = parties.iter().flat_map(|party| rows(party, &kernel)).collect();
        print(&table::render(&HEADER, &rows))?;
    }
    Ok(0)
}

fn rows(party: &Party, kernel: &Kernel) -> Vec<Vec<String>> {
    if party.seats.is_empty() {
        let mut row = vec![String::new(); HEADER.len()];
        row[0].clone_from(&party.name);
        row[6] = party.place();
        return vec![row];
    }
    party.seats.iter().map(|seat| row(party, seat, kernel)).collect()
}

fn row(party: &Party, seat: &Seat, kernel: &Kernel) -> Vec<String> {
    let (rx, tx) = traffic(seat, kernel).unwrap_or_default();
    vec![
        party.name.clone(),
        seat.network.clone(),
        seat.ip_text(),
        seat.mac.clone().unwrap_or_default(),
        seat.port_text(),
        format!("{}/{}", bytes(rx), bytes(tx)),
        party.place(),
    ]
}

/// What the endpoint has received and sent, in bytes: the host end of its veth pair counts the other way round.
pub fn traffic(seat: &Seat, kernel: &Kernel) -> Option<(u64, u64)> {
    let link = kernel.link(seat.link.as_deref()?)?;
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
        let party = Party { name: "alone".into(), netns: Some("/run/netns/x".into()), ..Party::default() };
        assert_eq!(rows(&party, &Kernel::default())[0].join("|"), "alone||||||/run/netns/x");
    }
}
