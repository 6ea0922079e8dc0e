//! `rnet repair`: what other programs have changed of networks in the kernel becomes what is on record.

use cni::conflist::{self, Attachment};
use cni::{Config, Request, Verb};
use engine::Repaired;

use super::Done;
use crate::definitions::Network;
use crate::report::{Problem, Style};
use crate::rights;
use crate::view::View;

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks: their names, ids, or the beginning of an id [default: all that have endpoints]
    #[arg(value_name = "NET")]
    pub names: Vec<String>,
}

/// Repairs each, and prints the names of what was repaired.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    let mut view = View::open("repair")?;
    let words = if args.names.is_empty() { in_use(&mut view, style)? } else { args.names.clone() };
    super::each(&words, style, |word| {
        let known = view.known(&[word.to_owned()])?;
        let network = known.network(word)?;
        let repaired = repair(network)?;
        repaired.left.iter().for_each(|finding| style.warn(format_args!("{word}: not mended: {finding}")));
        let mended = repaired.mended.iter().map(ToString::to_string).collect();
        Ok(Some(Done { mended: Some(mended), ..Done::network(network) }))
    })
}

fn in_use(view: &mut View, style: Style) -> anyhow::Result<Vec<String>> {
    let containers = view.containers()?;
    let networks = view.networks(&containers, style)?.into_iter();
    let is_used = |network: &Network| containers.iter().any(|container| container.is_on(network));
    Ok(networks.filter(|network| is_ours(network) && is_used(network)).map(|network| network.id()).collect())
}

/// Only what rnet's plugins have made is on record.
fn is_ours(network: &Network) -> bool {
    ["rnet", "bridge", "ptp"].contains(&network.kind())
}

fn repair(network: &Network) -> anyhow::Result<Repaired> {
    let Some((kind, config)) = conflist::first(&network.list).filter(|_| is_ours(network)) else {
        let (name, kind) = (network.name.clone(), network.kind().to_owned());
        return Err(Problem::NotRepairable { name, kind }.into());
    };
    let call = Attachment::default().call(Verb::Check, Vec::new());
    let config = Config::from_value(config)?;
    Ok(plugins::repair(kind, &Request { call: &call, config: &config })?)
}
