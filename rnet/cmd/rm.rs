//! `rnet rm`: removes networks nobody is on, and endpoints that have ended.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cni::conflist::Attachment;

use super::Done;
use super::inspect::{Kind, kinds};
use crate::containers::Container;
use crate::definitions::Network;
use crate::ended::Ended;
use crate::endpoint::Joined;
use crate::lookup::Thing;
use crate::owner::{Action, foreign, not_ours};
use crate::report::{Problem, Style};
use crate::runtime::Runtime;
use crate::view::{View, users_of};
use crate::{rights, stop};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Networks and endpoints
    #[arg(required = true, value_name = "NET|EP")]
    pub names: Vec<String>,
    /// Do not fail if one does not exist; kill endpoints that run
    #[arg(short, long)]
    pub force: bool,
    /// Disconnect the network's endpoints first
    #[arg(long)]
    pub detach: bool,
    /// Which one is meant, if a network and an endpoint have the same name
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<Kind>,
}

/// Removes each, and prints the names of what was removed.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    let mut view = View::open("rm")?;
    view.endpoints.sweep(style)?;
    super::each(&args.names, style, |word| remove(word, args, &mut view, style))
}

fn remove(word: &str, args: &Args, view: &mut View, style: Style) -> anyhow::Result<Option<Done>> {
    let known = view.known(&[word.to_owned()])?;
    match known.find(word, kinds(args.kind)) {
        Ok(Thing::Network(network)) if network.is_builtin() => {
            Err(Problem::Predefined { name: network.name.clone() }.into())
        }
        Err(Problem::NoRealNetwork { name }) => Err(Problem::Predefined { name }.into()),
        Ok(Thing::Network(network)) => {
            remove_network(network, args, view).map(|()| Some(Done::network(network)))
        }
        Ok(Thing::Endpoint(container)) => {
            remove_endpoint(container, args, view, style)?;
            Ok(Some(Done::endpoint(&container.id, &container.name)))
        }
        Ok(Thing::Ended(ended)) => {
            forget(ended, word, view)?;
            Ok(Some(Done::endpoint(&ended.endpoint.id, &ended.endpoint.name)))
        }
        Err(problem) if args.force && problem.is_missing() => Ok(None),
        Err(problem) => Err(problem.into()),
    }
}

/// By its name, all that ended under that; by its id, this one.
fn forget(ended: &Ended, word: &str, view: &View) -> Result<(), Problem> {
    if word == ended.endpoint.name {
        return view.endpoints.ended.forget_name(word);
    }
    view.endpoints.ended.forget(&ended.endpoint.id)
}

fn remove_network(network: &Network, args: &Args, view: &mut View) -> anyhow::Result<()> {
    if let Some(file) = network.file.clone().filter(|_| !view.definitions.is_ours(network)) {
        return Err(foreign(network, file).into());
    }
    let _alone = view.definitions.lock(true)?;
    let runtime = Runtime::new();
    if !is_unused(network, view)? {
        // Those whose containers are dead must not keep the network.
        runtime.gc(&network.list, false)?;
        if args.detach {
            cut_off(network, view, &runtime)?;
        }
        refuse_users(network, view)?;
        runtime.gc(&network.list, true)?;
    }
    remove_bridge(network, view)?;
    forget_leases(network, view)?;
    if network.file.is_some() {
        view.definitions.remove(&network.name)?;
    }
    Ok(())
}

/// The plugin `bridge` leaves its bridge, as upstream's does; that of a network which rnet made goes with the network, and
/// the address and the routes with it. One that bears another name, or has other ports, belongs to more than this network.
fn remove_bridge(network: &Network, view: &mut View) -> anyhow::Result<()> {
    let name = plugins::default_bridge(&network.name);
    if network.kind() != "bridge" || network.bridge().as_ref() != Some(&name) {
        return Ok(());
    }
    let Some(bridge) = view.host.netlink.link(&name)? else { return Ok(()) };
    let has_ports = view.host.netlink.links()?.iter().any(|link| link.master == Some(bridge.index));
    if bridge.kind.as_deref() == Some("bridge") && !has_ports {
        netlink::delete_link(bridge.index, &[], true)?;
    }
    Ok(())
}

/// True if there is nothing that plugins would have to remove. They need not be installed then.
fn is_unused(network: &Network, view: &mut View) -> anyhow::Result<bool> {
    let is_ours = |kind: &&str| plugins::find(kind).is_some();
    let has_bridge = match network.bridge() {
        Some(bridge) => view.host.netlink.link(&bridge)?.is_some(),
        None => false,
    };
    Ok(network.plugin_types().iter().all(is_ours)
        && !has_bridge
        && users_of(network, &view.containers()?).is_empty()
        && !has_leases(&view.host.store.paths().host_local().join(&network.name)))
}

fn refuse_users(network: &Network, view: &mut View) -> Result<(), anyhow::Error> {
    let containers = view.containers()?;
    let users = users_of(network, &containers);
    let mut users: Vec<String> = users.iter().map(|container| container.user_text(network)).collect();
    let bridge = network.bridge().unwrap_or_default();
    let unrecorded = engine::unrecorded::unrecorded_on(&mut view.host, &bridge)?;
    users.extend(unrecorded.iter().map(|port| format!("{} (its record was lost)", port.name)));
    if users.is_empty() {
        return Ok(());
    }
    Err(Problem::NetworkInUse { name: network.name.clone(), users }.into())
}

/// DEL for everybody on the network, as their runtimes would call it.
fn cut_off(network: &Network, view: &mut View, runtime: &Runtime) -> anyhow::Result<()> {
    for container in users_of(network, &view.containers()?) {
        for attachment in container.attachments.iter().filter(|attachment| attachment.is_on(network)) {
            let attachment = Attachment {
                container_id: container.id.clone(),
                ifname: attachment.ifname.clone(),
                netns: container.netns.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned(),
                ..Attachment::default()
            };
            runtime.del(&network.list, &attachment, None)?;
        }
        forget_network(container, network, view)?;
    }
    let bridge = network.bridge().unwrap_or_default();
    Ok(engine::cut_off(&mut view.host, &network.name, network.kind(), &bridge)?)
}

/// An endpoint that was cut off is on that network no more.
fn forget_network(container: &Container, network: &Network, view: &View) -> anyhow::Result<()> {
    let Some(mut endpoint) = container.endpoint.clone() else { return Ok(()) };
    let is_other = |joined: &Joined| joined.network().map_or(true, |other| other.id() != network.id());
    endpoint.joined.retain(is_other);
    view.endpoints.save(&endpoint)
}

/// A network of the same name later begins with the first address again, and knows no names. host-local's folder stays while it holds
/// anybody's lease: the plugin of another project may have written it.
fn forget_leases(network: &Network, view: &View) -> anyhow::Result<()> {
    remove_folder(&view.host.store.leases(&network.name))?;
    remove_folder(&engine::sticky::folder(&view.host, &network.name))?;
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

/// Nothing is remembered of an endpoint that is removed.
fn remove_endpoint(container: &Container, args: &Args, view: &View, style: Style) -> anyhow::Result<()> {
    let endpoint = container.endpoint.as_ref().ok_or_else(|| not_ours(container, Action::Remove))?;
    match endpoint.running() {
        Some(process) if !args.force => {
            Err(Problem::EndpointRuns { name: container.name.clone(), pid: process.pid }.into())
        }
        _ => {
            match stop::end(endpoint, Duration::ZERO, &view.endpoints) {
                // What a plugin refuses must not keep a name, a namespace and their files for ever.
                Err(error) if args.force && endpoint.running().is_none() => {
                    style.warn(format_args!(
                        "endpoint {:?} is not completely removed: {error:#}",
                        endpoint.name
                    ));
                    view.endpoints.discard(endpoint)?;
                }
                other => other?,
            }
            Ok(view.endpoints.ended.forget(&endpoint.id)?)
        }
    }
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
