//! `rnet rm`: removes networks nobody is on, and endpoints that have ended.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cni::conflist::Attachment;

use super::inspect::{Kind, Thing, find};
use crate::definitions::Network;
use crate::names;
use crate::report::{Problem, Style};
use crate::runtime::Runtime;
use crate::seats::Party;
use crate::view::{View, users_of};
use crate::{rights, stop};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks and endpoints
    #[arg(required = true, value_name = "NET|EP")]
    pub names: Vec<String>,
    /// No error for what is not there; an endpoint that runs is killed
    #[arg(short, long)]
    pub force: bool,
    /// Cut off those who are on the network
    #[arg(long)]
    pub detach: bool,
    /// Which of them is meant, where both have the name
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<Kind>,
}

/// Removes each, and prints the names of what was removed.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    let mut view = View::open("rm")?;
    super::each(&args.names, style, |word| remove(word, args, &mut view))
}

fn remove(word: &str, args: &Args, view: &mut View) -> anyhow::Result<Option<String>> {
    if names::RESERVED.contains(&word) && args.kind != Some(Kind::Endpoint) {
        return Err(Problem::Predefined { name: word.to_owned() }.into());
    }
    let parties = view.parties()?;
    match find(word, args.kind, view, &parties) {
        Ok(Thing::Network(network)) => remove_network(&network, args, view).map(Some),
        Ok(Thing::Endpoint(party)) => remove_endpoint(party, args, view).map(Some),
        Err(error) if args.force && is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_network(network: &Network, args: &Args, view: &mut View) -> anyhow::Result<String> {
    if !view.definitions.is_ours(network) {
        let file = network.file.clone().unwrap_or_default();
        return Err(Problem::ForeignFile { name: network.name.clone(), file }.into());
    }
    let _alone = view.definitions.lock(true)?;
    let runtime = Runtime::new();
    // Those whose containers are dead must not keep the network.
    runtime.gc(&network.list, false)?;
    if args.detach {
        cut_off(network, view, &runtime)?;
    }
    refuse_users(network, view)?;
    runtime.gc(&network.list, true)?;
    forget_leases(network, view)?;
    view.definitions.remove(&network.name)?;
    Ok(network.name.clone())
}

fn refuse_users(network: &Network, view: &View) -> Result<(), anyhow::Error> {
    let parties = view.parties()?;
    let users = users_of(&network.name, &parties);
    if users.is_empty() {
        return Ok(());
    }
    let users = users.iter().map(|party| party.user_text(&network.name)).collect();
    Err(Problem::NetworkInUse { name: network.name.clone(), users }.into())
}

/// DEL for everybody on the network, as their runtimes would call it.
fn cut_off(network: &Network, view: &View, runtime: &Runtime) -> anyhow::Result<()> {
    for party in users_of(&network.name, &view.parties()?) {
        for seat in party.seats.iter().filter(|seat| seat.network == network.name) {
            let attachment = Attachment {
                container_id: party.id.clone(),
                ifname: seat.ifname.clone(),
                netns: party.netns.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned(),
                ..Attachment::default()
            };
            runtime.del(&network.list, &attachment, None)?;
        }
        forget_network(party, &network.name, view)?;
    }
    Ok(())
}

/// An endpoint that was cut off is on that network no more.
fn forget_network(party: &Party, network: &str, view: &View) -> anyhow::Result<()> {
    let Some(mut endpoint) = party.endpoint.clone() else { return Ok(()) };
    endpoint.joined.retain(|joined| joined.network != network);
    view.endpoints.save(&endpoint)
}

/// A network of the same name later begins with the first address again, and knows no names. host-local's folder stays while it holds
/// anybody's lease: the plugin of another project may have written it.
fn forget_leases(network: &Network, view: &View) -> anyhow::Result<()> {
    remove_folder(&view.host.store.leases(&network.name))?;
    remove_folder(&plugins::sticky::folder(&view.host, &network.name))?;
    let of_host_local = view.host.store.paths().host_local().join(&network.name);
    if has_leases(&of_host_local) { Ok(()) } else { remove_folder(&of_host_local) }
}

fn has_leases(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok()))
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Problem::file("remove", folder)(error).into())
        }
        _ => Ok(()),
    }
}

fn remove_endpoint(party: &Party, args: &Args, view: &View) -> anyhow::Result<String> {
    let Some(endpoint) = &party.endpoint else {
        return Err(Problem::NotOurs { name: party.name.clone() }.into());
    };
    match endpoint.running() {
        Some(process) if !args.force => {
            Err(Problem::EndpointRuns { name: party.name.clone(), pid: process.pid }.into())
        }
        _ => {
            stop::end(endpoint, Duration::ZERO, &view.endpoints)?;
            Ok(party.name.clone())
        }
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(Problem::Nothing { .. } | Problem::NoNetwork { .. } | Problem::NoEndpoint { .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_lease_in_it_is_not_only_housekeeping() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        write("lock");
        write("last_reserved_ip.0");
        assert!(!has_leases(folder.path()));
        write("172.18.0.2");
        assert!(has_leases(folder.path()));
        assert!(!has_leases(Path::new("/nowhere")));
    }
}
