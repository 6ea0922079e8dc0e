//! `rnet run`: a network namespace of its own for a program, and networks in it. No sandbox: same files, same users.

use std::ffi::OsString;
use std::net::IpAddr;

use clap::ArgAction;
use clap::builder::BoolishValueParser;
use cni::conflist::Attachment;
use cni::{CniResult, Dns};
use netlink::{HeldSignals, Netlink, Netns, Request};
use plugins::own;
use serde_json::{Map, Value, json};

use super::create::Switch;
use super::inspect;
use crate::definitions::Network;
use crate::ended::{Ended, How};
use crate::endpoint::{Endpoint, Joined};
use crate::expose::{Expose, publish_all};
use crate::hostports::HostPorts;
use crate::lookup::{Kinds, Thing};
use crate::owner::name_taken;
use crate::process::Process;
use crate::publish::{self, Mapping, Spec};
use crate::report::{Problem, Style, print, print_json};
use crate::runtime::Runtime;
use crate::state::Kernel;
use crate::supervisor::Supervisor;
use crate::view::{View, users_of};
use crate::{containers, files, hold, names, program, rights, told};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Return when the program runs, and print the endpoint's name
    #[arg(short, long, action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    #[arg(num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    #[arg(hide_default_value = true, value_name = "BOOL")]
    pub detach: bool,
    /// The endpoint's name [default: the beginning of its id]
    #[arg(long)]
    pub name: Option<String>,
    /// The network to join, or none, or host; may be repeated [default: bridge]
    #[arg(long = "net", alias = "network", value_name = "NET")]
    pub networks: Vec<String>,
    /// Publish a port: [HOST-IP:][HOST-PORTS:]PORTS[/PROTO]
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<Spec>,
    /// The endpoint's address
    #[arg(long, value_name = "IP")]
    pub ip: Option<IpAddr>,
    /// Another name on its networks; may be repeated
    #[arg(long = "network-alias", alias = "alias", value_name = "NAME", value_parser = network_alias)]
    pub aliases: Vec<String>,
    /// The hostname that the program sees; its networks resolve it too
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    pub hostname: Option<String>,
    /// An upstream server for other names, instead of the network's; may be repeated
    #[arg(long = "dns", value_name = "IP")]
    pub servers: Vec<IpAddr>,
    /// A search domain; may be repeated
    #[arg(long = "dns-search", value_name = "DOMAIN", value_parser = search_domain)]
    pub search: Vec<String>,
    /// Publish every exposed port on a free host port
    #[arg(short = 'P', long, action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    #[arg(num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    #[arg(hide_default_value = true, value_name = "BOOL")]
    pub publish_all: bool,
    /// A port or range that the program serves, for -P: PORT[-PORT][/PROTO]; may be repeated
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<Expose>,
    /// Drop what it sends from other addresses than its own; off for a router, a VPN gateway, an address that moves
    #[arg(long, value_name = "on|off")]
    pub spoof_guard: Option<Switch>,
    /// With -d, keep neither the program's end nor its output (`rnet ps -a`, `rnet logs`)
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    #[arg(num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    #[arg(hide_default_value = true, value_name = "BOOL")]
    pub rm: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

impl Args {
    /// The command line that means the same, from `run` on.
    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = vec!["run".into()];
        let mut put = |option: &str, value: &dyn std::fmt::Display| words.push(format!("--{option}={value}"));
        self.networks.iter().for_each(|net| put("net", net));
        self.ip.iter().for_each(|ip| put("ip", ip));
        self.aliases.iter().for_each(|alias| put("network-alias", alias));
        self.hostname.iter().for_each(|name| put("hostname", name));
        self.servers.iter().for_each(|server| put("dns", server));
        self.search.iter().for_each(|domain| put("dns-search", domain));
        self.expose.iter().for_each(|port| put("expose", port));
        self.spoof_guard.iter().for_each(|switch| put("spoof-guard", switch));
        words.extend(["-d".into(), "--".into()]);
        words.extend(self.command.iter().map(|word| word.to_string_lossy().into_owned()));
        words
    }
}

/// A name that others can ask for.
fn network_alias(text: &str) -> Result<String, String> {
    let wrong = "expected parts of 1 to 63 letters, digits, - and _, separated by dots";
    if dns::valid_name(text) && !dns::askable(text) {
        return Err("localhost and all names below it are each container's own loopback".into());
    }
    if dns::looks_like_address(text) {
        return Err("programs take it for an IPv4 address and do not look it up".into());
    }
    dns::valid_name(text).then(|| text.to_owned()).ok_or_else(|| wrong.into())
}

/// A word of a resolv.conf; a dot alone is docker's for none.
fn search_domain(text: &str) -> Result<String, String> {
    let is_valid = text == "." || dns::valid_name(text.strip_suffix('.').unwrap_or(text));
    is_valid
        .then(|| text.to_owned())
        .ok_or_else(|| "expected parts of 1 to 63 letters, digits, - and _, separated by dots".into())
}

/// A name that others can ask for, and that the kernel takes (sethostname(2): 64 bytes).
fn hostname(text: &str) -> Result<String, String> {
    if dns::valid_name(text) && text.len() <= 64 {
        return Ok(text.to_owned());
    }
    Err("expected parts of letters, digits, - and _, separated by dots, at most 64 characters".into())
}

/// Where the program is to run.
enum Place {
    /// In the host's own namespace.
    Host,
    /// In a new one, with these networks.
    New(Vec<Network>),
}

/// Runs the program and returns its exit status; detached, prints the endpoint's name.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    let mut view = View::open("run")?;
    view.endpoints.sweep(style)?;
    let place = place(args, &mut view)?;
    check(args, &place, &view)?;
    let words = args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    // From here on nothing ends half-way.
    let signals = HeldSignals::new()?;
    let (mut endpoint, _held) = view.endpoints.create(args.name.as_deref(), words)?;
    endpoint.hostname.clone_from(&args.hostname);
    endpoint.exposed.clone_from(&args.expose);
    endpoint.remembered = args.detach && !args.rm;
    endpoint.line = args.words();
    endpoint.folder = std::env::current_dir().ok();
    let mut supervisor = Supervisor::start(&endpoint, args.detach.then_some(&args.command))?;
    let attached = attach(args, &place, &mut view, &mut endpoint, style);
    if attached.is_ok() {
        warn_of_firewalls(&place, &mut view, &endpoint, style);
    }
    let done = attached.and_then(|()| match args.detach {
        true => {
            supervisor.hand_over(endpoint.remembered).map(|how| Outcome::Detached { ended: how.is_some() })
        }
        false => wait(args, &mut view, &mut endpoint, &signals).map(Outcome::Exit),
    });
    if let Ok(Outcome::Detached { ended }) = done {
        return tell(&endpoint, ended, &mut view, style);
    }
    // The first error is the one to tell; what could not be removed is told beside it.
    if let Err(error) = view.endpoints.remove(&endpoint, &Runtime::new()) {
        style.warn(format_args!("endpoint {:?} is not completely removed: {error:#}", endpoint.name));
    }
    supervisor.dismiss();
    done.map(|outcome| if let Outcome::Exit(exit) = outcome { exit } else { 0 })
}

/// Its own published ports are tried, so what is on record is not enough where it has some.
fn warn_of_firewalls(place: &Place, view: &mut View, endpoint: &Endpoint, style: Style) {
    let Place::New(networks) = place else { return };
    let names: Vec<&str> = networks.iter().map(|network| network.name.as_str()).collect();
    let publishes = endpoint.joined.iter().any(Joined::publishes);
    let told = if publishes { told::found(&mut view.host) } else { told::known(&mut view.host) };
    if !names.is_empty() {
        told::warn(&told, &names, style);
    }
}

/// What has become of the program.
enum Outcome {
    /// It has ended, with this status.
    Exit(u8),
    /// It goes on by itself, or has done so and is through.
    Detached { ended: bool },
}

/// Starts the program here and waits for its end. Should this process be killed meanwhile, the supervisor ends the
/// program and cleans up.
fn wait(args: &Args, view: &mut View, endpoint: &mut Endpoint, signals: &HeldSignals) -> anyhow::Result<u8> {
    if let Some(exit) = program::interruption(signals) {
        return Ok(exit);
    }
    let mut child = program::start(endpoint, &view.endpoints, &args.command, true)?;
    endpoint.process = Process::of(child.id());
    view.endpoints.save(endpoint)?;
    let _ports = hold::hold(endpoint);
    Ok(program::exit_status(program::wait(&mut child, signals)?))
}

fn tell(endpoint: &Endpoint, ended: bool, view: &mut View, style: Style) -> anyhow::Result<u8> {
    if ended {
        style.warn(format_args!("{:?} has already ended, status 0", endpoint.name));
    }
    if !style.json {
        return print(&format!("{}\n", endpoint.name)).map(|()| 0);
    }
    let known = view.known(&[])?;
    let kernel = Kernel::links(&mut view.host)?;
    print_json(&match known.find(&endpoint.id, Kinds::Endpoints) {
        Ok(Thing::Endpoint(container)) => inspect::endpoint(container, &kernel),
        Ok(Thing::Ended(ended)) => inspect::past(ended),
        // With --rm nothing is left of one that has ended.
        _ => inspect::past(&Ended::now(endpoint.clone(), How::Status(0))),
    })?;
    Ok(0)
}

fn place(args: &Args, view: &mut View) -> anyhow::Result<Place> {
    let special = |name: &str| args.networks.iter().any(|word| word == name);
    for name in ["host", "none"] {
        if special(name) && args.networks.len() > 1 {
            return Err(
                Problem::Together { one: format!("--net {name}"), other: "another --net".into() }.into()
            );
        }
    }
    if special("host") {
        return Ok(Place::Host);
    }
    if special("none") {
        return Ok(Place::New(Vec::new()));
    }
    if args.networks.is_empty() {
        return Ok(Place::New(vec![view.default_network()?]));
    }
    let known = view.known(&args.networks)?;
    let mut networks: Vec<Network> = Vec::new();
    for word in &args.networks {
        let network = known.network(word)?;
        if network.file.is_none() && !network.is_builtin() {
            return Err(Problem::Undefined { name: network.name.clone() }.into());
        }
        if networks.iter().any(|other| other.id() == network.id()) {
            return Err(
                Problem::Together { one: format!("--net {word}"), other: format!("--net {word}") }.into()
            );
        }
        networks.push(network.clone());
    }
    Ok(Place::New(networks))
}

/// What can be told to be wrong before anything is touched.
fn check(args: &Args, place: &Place, view: &View) -> anyhow::Result<()> {
    if let Some(name) = &args.name {
        names::check(name)?;
        let containers = view.containers()?;
        // Those of `rnet run` are looked at again under the lock.
        if let Some(container) =
            containers.iter().find(|container| &container.name == name && container.endpoint.is_none())
        {
            return Err(name_taken(container).into());
        }
    }
    if args.hostname.is_some() && matches!(place, Place::Host) {
        return Err(Problem::Together { one: "--hostname".into(), other: "--net host".into() }.into());
    }
    if let Place::New(networks) = place {
        networks.iter().try_for_each(|network| Runtime::new().require(network))?;
        check_guard(args, networks)?;
        check_families(args, networks)?;
        check_host_addresses(args)?;
    }
    match (args.ip, place) {
        (None, _) => Ok(()),
        (Some(ip), Place::New(networks)) if networks.len() == 1 => Ok(check_ip(ip, &networks[0])?),
        _ => Err(Problem::OneNetwork { option: "--ip" }.into()),
    }
}

/// Only networks of type `rnet` have a spoof guard: one that is asked for elsewhere would not be there.
fn check_guard(args: &Args, networks: &[Network]) -> Result<(), Problem> {
    let without = networks.iter().find(|network| network.kind() != "rnet");
    match (args.spoof_guard, without) {
        (Some(Switch::On), Some(network)) => {
            Err(Problem::NoGuard { network: network.name.clone(), kind: network.kind().to_owned() })
        }
        _ => Ok(()),
    }
}

/// A port on an address of a family that the publishing network has not would be forgotten without a word.
fn check_families(args: &Args, networks: &[Network]) -> Result<(), Problem> {
    let Some(network) = publisher(networks).map(|index| &networks[index]) else { return Ok(()) };
    // A foreign IPAM plugin may know of subnets that the definition does not tell.
    let is_lost = |host: &IpAddr| {
        !network.subnets.is_empty()
            && network.subnets.iter().all(|other| other.subnet.is_ipv4() != host.is_ipv4())
    };
    let Some(lost) = args.publish.iter().filter_map(|spec| spec.host).find(is_lost) else { return Ok(()) };
    Err(Problem::NoFamily {
        host: publish::host_text(Some(lost)),
        network: network.name.clone(),
        family: if lost.is_ipv4() { "IPv4" } else { "IPv6" },
    })
}

/// What the plugin would refuse with the rest half done.
fn check_host_addresses(args: &Args) -> Result<(), Problem> {
    let is_unusable =
        |host: &IpAddr| matches!(host, IpAddr::V6(v6) if v6.is_loopback() || v6.is_unicast_link_local());
    match args.publish.iter().filter_map(|spec| spec.host).find(is_unusable) {
        Some(host) => Err(Problem::UnusableHostAddress { host: publish::host_text(Some(host)) }),
        None => Ok(()),
    }
}

/// The network that ports are published by: the first that can.
fn publisher(networks: &[Network]) -> Option<usize> {
    networks.iter().position(|network| network.has_capability("portMappings"))
}

fn check_ip(ip: IpAddr, network: &Network) -> Result<(), Problem> {
    // A foreign IPAM plugin may know of subnets that the definition does not tell.
    if network.subnets.is_empty() {
        return Ok(());
    }
    let Some(subnet) = network.subnets.iter().find(|subnet| subnet.subnet.contains(ip)) else {
        return Err(Problem::Outside {
            what: "address",
            value: ip.to_string(),
            subnet: network.subnet_text(),
        });
    };
    if subnet.gateway == ip {
        return Err(Problem::AddressTaken { address: ip.to_string(), holder: "the gateway".into() });
    }
    let last = ip.is_ipv4() && ip == subnet.subnet.broadcast();
    if ip == subnet.subnet.network() || last {
        return Err(Problem::Unusable { what: "address", value: ip, subnet: subnet.subnet });
    }
    Ok(())
}

/// Makes the namespace and joins the networks.
fn attach(
    args: &Args,
    place: &Place,
    view: &mut View,
    endpoint: &mut Endpoint,
    style: Style,
) -> anyhow::Result<()> {
    if args.publish_all && args.expose.is_empty() {
        style.warn("-P has no effect: it publishes the ports that --expose names, and there is none");
        style.hint("rnet run -P --expose 80 CMD");
    }
    let Place::New(networks) = place else {
        warn_of_ports(args, "host", style);
        return Ok(());
    };
    let publisher = publisher(networks);
    if publisher.is_none() {
        warn_of_ports(args, networks.first().map_or("none", |network| &network.name), style);
    }
    if !args.aliases.is_empty() && !networks.iter().any(Network::has_names) {
        style
            .warn(format_args!("no network of {:?} has names, --network-alias has no effect", endpoint.name));
    }
    warn_of_name(args, networks, style);
    make_netns(view, endpoint)?;
    // A new default network must not be given a subnet that `create` gives to another at this moment.
    let alone = networks.iter().any(Network::is_builtin);
    let _kept = view.definitions.keep(alone)?;
    for (index, network) in networks.iter().enumerate() {
        let ports = if publisher == Some(index) { choose_ports(args, network, view)? } else { Vec::new() };
        let network = if network.is_builtin() { view.default_network()? } else { network.clone() };
        join(args, &network, &ports, view, endpoint)?;
    }
    Ok(write_files(args, view, endpoint)?)
}

fn warn_of_name(args: &Args, networks: &[Network], style: Style) {
    let Some(name) = args.name.as_ref().filter(|_| networks.iter().any(Network::has_names)) else { return };
    if dns::looks_like_address(name) {
        style.warn(format_args!(
            "no other container can look up the name {name:?}: programs take it for an IPv4 address; --network-alias gives \
             it another one"
        ));
    } else if !dns::askable(name) {
        style.warn(format_args!(
            "no other container can look up the name {name:?}: expected parts of 1 to 63 letters, digits, - and _, \
             separated by dots, and not localhost; --network-alias gives it another one"
        ));
    }
}

fn warn_of_ports(args: &Args, network: &str, style: Style) {
    if !args.publish.is_empty() {
        style.warn(format_args!("{network:?} publishes no ports, -p has no effect"));
    } else if !wanted_ports(args).is_empty() {
        style.warn(format_args!("{network:?} publishes no ports, -P has no effect"));
    }
}

/// What `-p` asks for, and `-P`.
fn wanted_ports(args: &Args) -> Vec<Spec> {
    let exposed: &[Expose] = if args.publish_all { &args.expose } else { &[] };
    args.publish.iter().cloned().chain(publish_all(exposed, &args.publish)).collect()
}

fn make_netns(view: &View, endpoint: &mut Endpoint) -> anyhow::Result<()> {
    let netns = Netns::create()?;
    endpoint.netns = Some((netns.id().dev, netns.id().ino));
    view.endpoints.save(endpoint)?;
    netns.pin(&view.endpoints.netns_path(&endpoint.id))?;
    // As libcni does it by its loopback plugin.
    Ok(Netlink::inside(&netns)?.send(&[Request::LinkUp { index: 1, name: "lo".into() }])?)
}

fn choose_ports(args: &Args, network: &Network, view: &View) -> anyhow::Result<Vec<Mapping>> {
    let wanted = wanted_ports(args);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let wants_v6 = network.subnets.iter().any(|subnet| subnet.subnet.is_ipv6());
    Ok(publish::resolve(&wanted, &mut HostPorts::new(&view.host.store, wants_v6)?)?)
}

/// ADD of one network. It is written down first, so that the next command can undo it after a crash.
fn join(
    args: &Args,
    network: &Network,
    ports: &[Mapping],
    view: &mut View,
    endpoint: &mut Endpoint,
) -> anyhow::Result<()> {
    let network = &Runtime::new().fit(network)?;
    let mut joined = Joined {
        network: network.name.clone(),
        ifname: format!("eth{}", endpoint.joined.len()),
        args: cni_args(args, endpoint),
        capabilities: capabilities(args, &network.name, ports),
        definition: network.list.raw.clone(),
        result: None,
    };
    let attachment: Attachment = view.endpoints.attachment(endpoint, &joined);
    endpoint.joined.push(joined.clone());
    view.endpoints.save(endpoint)?;
    let result = match Runtime::new().add(&network.list, &attachment) {
        Ok(result) => result,
        Err(error) => return Err(told(error, args, network, view, &endpoint.id)),
    };
    joined.set_result(&result, network.list.cni_version)?;
    endpoint.joined.pop();
    endpoint.joined.push(joined);
    view.endpoints.save(endpoint)
}

fn cni_args(args: &Args, endpoint: &Endpoint) -> Vec<(String, String)> {
    // An endpoint without a name goes by its id, which nobody will have again: no address is remembered for it.
    let name = args.name.as_ref().map(|_| ("K8S_POD_NAME", endpoint.name.clone()));
    let ip = args.ip.map(|ip| ("IP", ip.to_string()));
    let hostname = args.hostname.clone().map(|name| ("HOSTNAME", name));
    let guard = args.spoof_guard.map(|switch| ("SPOOF_GUARD", switch.to_string()));
    let all =
        [("IgnoreUnknown", "1".to_owned())].into_iter().chain(name).chain(ip).chain(hostname).chain(guard);
    all.map(|(key, value)| (key.to_owned(), value)).collect()
}

fn capabilities(args: &Args, network: &str, ports: &[Mapping]) -> Map<String, Value> {
    let mut capabilities = Map::new();
    if !ports.is_empty() {
        capabilities.insert("portMappings".into(), ports.iter().map(Mapping::to_json).collect());
    }
    if !args.aliases.is_empty() {
        capabilities.insert("aliases".into(), json!({network: args.aliases}));
    }
    if !args.servers.is_empty() || !args.search.is_empty() {
        capabilities.insert("dns".into(), json!({"servers": args.servers, "searches": args.search}));
    }
    capabilities
}

/// A plugin's error in the words of the command, where it has more to say than the plugin.
fn told(error: cni::Error, args: &Args, network: &Network, view: &View, own: &str) -> anyhow::Error {
    let Ok(mut containers) = view.containers() else { return error.into() };
    containers.retain(|container| container.id != own);
    let users = users_of(network, &containers);
    match (error.code, args.ip) {
        (own::ADDRESS_TAKEN, Some(ip)) => {
            let has = |container: &&&containers::Container| {
                container
                    .attachments
                    .iter()
                    .any(|attachment| attachment.addresses.iter().any(|a| a.ip() == ip))
            };
            let holder = users.iter().find(has).map(|container| format!("{:?}", container.name));
            let holder = holder.unwrap_or_else(|| "a container that rnet does not know".into());
            Problem::AddressTaken { address: ip.to_string(), holder }.into()
        }
        (own::RANGE_EXHAUSTED, _) => exhausted(network, &users).into(),
        _ => error.into(),
    }
}

fn exhausted(network: &Network, users: &[&containers::Container]) -> Problem {
    const SHOWN: usize = 5;
    let mut holders: Vec<&str> = users.iter().take(SHOWN).map(|container| container.name.as_str()).collect();
    if users.len() > SHOWN {
        holders.push("…");
    }
    let v4 = network.subnets.iter().any(|subnet| subnet.subnet.is_ipv4());
    Problem::AddressesExhausted {
        family: if v4 { "IPv4" } else { "IPv6" },
        network: network.name.clone(),
        subnet: network.subnet_text(),
        held: users.len(),
        holders: holders.join(", "),
    }
}

fn write_files(args: &Args, view: &View, endpoint: &Endpoint) -> Result<(), Problem> {
    let results: Vec<CniResult> = endpoint.joined.iter().filter_map(result).collect();
    let addresses: Vec<IpAddr> =
        results.iter().flat_map(|result| &result.ips).map(|ip| ip.address.ip()).collect();
    let mut dns = results
        .into_iter()
        .map(|result| result.dns)
        .find(|dns| !dns.nameservers.is_empty())
        .unwrap_or_else(Dns::default);
    // Where names are served, the name server has been told of them.
    if !endpoint.joined.iter().any(has_names) {
        choose(&mut dns.nameservers, args.servers.iter().map(ToString::to_string));
        choose(&mut dns.search, args.search.iter().cloned());
    }
    let (resolv_conf, hosts) = (files::resolv_conf(&dns), files::hosts(&own_names(endpoint), &addresses));
    files::write(&view.endpoints.path(&endpoint.id), &resolv_conf, &hosts)
}

/// What its hosts file calls the endpoint, the hostname first as in docker's.
fn own_names(endpoint: &Endpoint) -> String {
    let hostname = endpoint.hostname.iter().filter(|hostname| **hostname != endpoint.name);
    let names: Vec<&str> = hostname.chain([&endpoint.name]).map(String::as_str).collect();
    names.join(" ")
}

fn has_names(joined: &Joined) -> bool {
    joined.network().is_ok_and(|network| network.has_names())
}

/// What is given wins over what the network says.
fn choose(of_network: &mut Vec<String>, given: impl Iterator<Item = String>) {
    let given: Vec<String> = given.collect();
    if !given.is_empty() {
        *of_network = given;
    }
}

fn result(joined: &Joined) -> Option<CniResult> {
    joined.result(&joined.network().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::Container;
    use crate::definitions::default_network;

    fn network(subnet: &str) -> Network {
        default_network(subnet.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_pool_that_nobody_on_the_network_holds_is_said_to_be_so() {
        let said = exhausted(&network("10.9.0.0/24"), &[]).to_string();
        assert!(
            said.ends_with(" bridge (10.9.0.0/24), none held by an attached container; gc freed 0"),
            "{said}"
        );
    }

    #[test]
    fn an_address_must_be_one_that_a_container_can_have() {
        let check =
            |ip: &str| check_ip(ip.parse().unwrap(), &network("10.9.0.0/24")).map_err(|p| p.to_string());
        assert_eq!(check("10.9.0.7"), Ok(()));
        assert_eq!(check("10.8.0.1").unwrap_err(), "address 10.8.0.1 is not in 10.9.0.0/24");
        assert_eq!(check("10.9.0.1").unwrap_err(), "Address already in use: 10.9.0.1 is held by the gateway");
        assert!(check("10.9.0.0").is_err() && check("10.9.0.255").is_err());
    }

    #[test]
    fn an_exhausted_network_names_the_first_of_its_users() {
        let containers: Vec<Container> =
            (0..6).map(|n| Container { name: format!("c{n}"), ..Container::default() }).collect();
        let users: Vec<&Container> = containers.iter().collect();
        assert_eq!(
            exhausted(&network("172.18.0.0/29"), &users).to_string(),
            "no available IPv4 addresses on this network's address pools: bridge (172.18.0.0/29), \
             6 held by c0, c1, c2, c3, c4, …; gc freed 0"
        );
    }
}
