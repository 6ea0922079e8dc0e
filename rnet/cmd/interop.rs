//! `rnet interop`: the rules by which the host's other firewalls let our traffic pass.

use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use dns::Errand;
use engine::Host;
use engine::interop::{self, State, ZoneState};
use nft::{LastChange, PassageRule};
use serde_json::{Value, json};
use store::{Paths, Store};

use crate::report::{Style, print, print_json};
use crate::{detach, log, rights, table, told};

/// What can be given.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What can be done.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub enum Verb {
    /// Show the rules and zones that rnet has written for docker, ufw, firewalld and other firewalls
    Status,
    /// Write rules so that this host's other firewalls accept the traffic of rnet's networks (the default)
    Enable,
    /// Remove these rules and zones, and write no more, also after the next boot
    Disable,
    /// Writes again what somebody has taken away, and returns at once
    #[command(hide = true)]
    Look,
}

const RULES: [&str; 4] = ["PROGRAM", "CHAIN", "PACKETS", "RULE"];

/// Does it.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    if matches!(args.verb, Verb::Look) {
        return look().map(|()| 0);
    }
    let mut host = Host::open(format!("interop {:?}", args.verb).to_lowercase())?;
    let done = match args.verb {
        Verb::Status | Verb::Look => status(&mut host, style),
        Verb::Enable => Ok(interop::set_enabled(&mut host, true)?),
        Verb::Disable => Ok(interop::set_enabled(&mut host, false)?),
    };
    host.close();
    done.map(|()| 0)
}

/// In a process that nobody waits for: firewalld may take seconds.
fn look() -> anyhow::Result<()> {
    let paths = Paths::new(netlink::cookie()?);
    Ok(detach::run(&[], &paths.run(), || {
        let _ = log::open(&paths.name_server_log());
        log::start(true);
        let looked = Host::open("interop look".into()).and_then(|mut host| {
            let looked = engine::ruleset::restore_present(&mut host);
            host.close();
            looked
        });
        if let Err(error) = looked {
            tracing::error!(%error, "what others did to the host's rules cannot be put right");
        }
    })?)
}

/// What the process that lives anyway does whenever somebody changes a ruleset. None where the kernel has none.
pub fn errand() -> Option<Errand> {
    Some(Errand { wakes: nft::watch().ok()?, run: after_a_change })
}

/// Changes of our own are known by their generation.
fn after_a_change(socket: BorrowedFd<'_>) {
    let is_seen = |generation| {
        let store = Store::open(Paths::new(netlink::cookie().ok()?)).ok()?;
        engine::transaction::has_seen(&store, generation).ok()
    };
    match nft::last_change(socket) {
        LastChange::OfProbe => return,
        LastChange::Generation(generation) if generation.and_then(is_seen).unwrap_or(false) => return,
        LastChange::Generation(_) => {}
    }
    let mut command = Command::new("/proc/self/exe");
    let command = command.arg0("rnet").args(["interop", "look"]).stdin(Stdio::null()).stdout(Stdio::null());
    if let Err(error) = command.status() {
        tracing::error!(%error, "nobody can be started to look after the host's rules");
    }
}

fn status(host: &mut Host, style: Style) -> anyhow::Result<()> {
    let (state, told) = (interop::state(host)?, told::found(host));
    if style.json {
        let mut whole = json(&state);
        whole["stopped"] = told::json(&told);
        print_json(&whole)?;
    } else {
        print(&text(&state))?;
    }
    let networks: Vec<&str> = told.iter().map(|told| told.network.as_str()).collect();
    told::warn(&told, &networks, style);
    state.troubles.iter().for_each(|trouble| style.warn(format_args!("{trouble}")));
    Ok(())
}

/// The same in `inspect`.
pub fn json(state: &State) -> Value {
    json!({
        "enabled": state.enabled,
        "bridges": state.bridges,
        "rules": state.rules.iter().map(rule).collect::<Vec<_>>(),
        "firewalld": state.firewalld.as_ref().map(zone),
        "troubles": state.troubles,
    })
}

fn rule(rule: &PassageRule) -> Value {
    json!({"program": rule.program, "chain": rule.chain, "rule": rule.text, "packets": rule.packets})
}

fn zone(zone: &ZoneState) -> Value {
    json!({"zone": "rnet", "interfaces": zone.interfaces, "strictForwardPorts": zone.strict})
}

fn text(state: &State) -> String {
    let enabled = if state.enabled { "enabled" } else { "disabled" };
    let mut text = format!("interop: {enabled}\n");
    if !state.rules.is_empty() {
        let rows: Vec<_> = state.rules.iter().map(row).collect();
        text += &format!("\n{}", table::render(&RULES, &rows));
    }
    if let Some(zone) = &state.firewalld {
        let interfaces =
            if zone.interfaces.is_empty() { "no interfaces".into() } else { zone.interfaces.join(", ") };
        text += &format!("\nfirewalld: zone rnet with {interfaces}\n");
    }
    text
}

fn row(rule: &PassageRule) -> Vec<String> {
    vec![rule.program.into(), rule.chain.into(), rule.packets.to_string(), rule.text.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_a_page_for_people() {
        let rule = PassageRule {
            program: "iptables",
            chain: "FORWARD",
            text: "-o rnet-+ -j ACCEPT".into(),
            packets: 7,
        };
        let zone = ZoneState { interfaces: vec!["rnet-+".into()], ..ZoneState::default() };
        let state = State { enabled: true, rules: vec![rule], firewalld: Some(zone), ..State::default() };
        let expected = "\
interop: enabled

PROGRAM    CHAIN     PACKETS   RULE
iptables   FORWARD   7         -o rnet-+ -j ACCEPT

firewalld: zone rnet with rnet-+
";
        assert_eq!(text(&state), expected);
        assert_eq!(text(&State::default()), "interop: disabled\n");
    }
}
