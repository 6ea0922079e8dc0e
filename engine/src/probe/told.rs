//! What a probe found, in sentences, with the lines to type in the words of the firewall that stops the packets.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use nft::{Arrival, At, Fate, Stop};
use serde::{Deserialize, Serialize};

use super::frame::Packet;
use super::{Found, Subject, What};
use crate::interop;
use crate::served::PORT;
use crate::{Error, Host};

/// The beginning of the names of all bridges that rnet names itself: one line is for all of them.
const OWN: &str = "rnet-";
/// rnet's zone in firewalld.
const OWN_ZONE: &str = "rnet";
/// iptables' tables.
const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
const V4: &str = "IPv4";
const V6: &str = "IPv6";

/// Traffic of a network that a firewall of the host stops, and what to type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The network.
    pub network: String,
    /// It is about questions to the name server.
    pub names: bool,
    /// A sentence.
    pub text: String,
    /// Lines that can be typed.
    pub hints: Vec<String>,
}

/// Why packets do not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Stopped(Stop),
    /// The check of source addresses of an interface.
    SourceCheck(String),
    /// The host forwards nothing of a family.
    NoForwarding,
    /// iptables-legacy has rules, which the kernel does not trace.
    Legacy,
    /// Nothing is stopped: another program's rules send it elsewhere.
    Taken {
        to: SocketAddr,
        by: Option<Stop>,
    },
}

/// Everything of one kind that has one cause.
struct Group {
    what: What,
    cause: Cause,
    families: BTreeSet<&'static str>,
    /// The name servers or published ports.
    items: Vec<String>,
    packets: Vec<Packet>,
}

/// Everything that was stopped.
pub fn all(host: &mut Host, found: Vec<(Subject, Vec<Found>)>) -> Result<Vec<Told>, Error> {
    let mut told = Vec::new();
    for (subject, found) in found {
        let groups = groups(host, found)?;
        for group in groups {
            told.push(tell(host, &subject, &group)?);
        }
    }
    Ok(told)
}

/// The same of a network that nobody is on, without what rnet opens with its first container.
pub fn those_that_stay(host: &mut Host, found: Vec<(Subject, Vec<Found>)>) -> Result<Vec<Told>, Error> {
    let is_on = interop::is_on(host);
    let mut told = Vec::new();
    for (subject, found) in found {
        for group in groups(host, found)? {
            let Cause::Stopped(stop) = &group.cause else { continue };
            let heals =
                is_on && subject.is_helped && (is_firewalld(stop) || host.firewall()?.gives_way(stop)?);
            if !heals {
                told.push(tell(host, &subject, &group)?);
            }
        }
        told.extend(strict(host, &subject)?);
    }
    Ok(told)
}

/// firewalld lets no published port be reached that it does not forward itself.
fn strict(host: &mut Host, subject: &Subject) -> Result<Option<Told>, Error> {
    if !host.firewall()?.has_firewalld()? || !interop::zones().is_some_and(|state| state.strict) {
        return Ok(None);
    }
    let text = format!(
        "ports published by containers on network {} cannot be reached from outside: firewalld has StrictForwardPorts=yes",
        subject.network
    );
    let hint = forward_port("PORT:proto=tcp", "PORT", "ADDRESS");
    Ok(Some(Told { network: subject.network.clone(), names: false, text, hints: vec![hint] }))
}

/// True if iptables-legacy has a table: whether it changed, nothing tells.
pub fn is_legacy_used() -> bool {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .iter()
        .any(|file| fs::read_to_string(file).is_ok_and(|names| !names.trim().is_empty()))
}

fn groups(host: &mut Host, found: Vec<Found>) -> Result<Vec<Group>, Error> {
    let mut groups: Vec<Group> = Vec::new();
    for found in found {
        let Some(cause) = cause(host, &found)? else { continue };
        let family = if found.ask.is_v4() { V4 } else { V6 };
        let item = found.item();
        let known = groups.iter().position(|group| group.what == found.ask.what && group.cause == cause);
        let at = known.unwrap_or_else(|| {
            let what = found.ask.what.clone();
            groups.push(Group { what, cause, families: BTreeSet::new(), items: vec![], packets: vec![] });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.families.insert(family);
        if !group.items.contains(&item) {
            group.items.push(item);
            group.packets.extend(found.ask.target());
        }
    }
    Ok(groups)
}

fn cause(host: &mut Host, found: &Found) -> Result<Option<Cause>, Error> {
    match &found.fate {
        Fate::Passed(arrival) => Ok(taken(found, arrival)),
        // It was not translated, so it is no published port now.
        Fate::Stopped(stop)
            if found.ask.what == What::Published && host.firewall()?.hook_of(stop)? == Some(At::Input) =>
        {
            Ok(None)
        }
        Fate::Stopped(stop) => Ok(Some(Cause::Stopped(stop.clone()))),
        Fate::Lost => cause_of_loss(host, found),
    }
}

/// A published port that leads to something else than rnet says.
fn taken(found: &Found, arrival: &Arrival) -> Option<Cause> {
    let packet = found.ask.target()?;
    let (port, address) = packet.leads_to?;
    // A container that has just gone has no rule: nothing was translated.
    let meant = [SocketAddr::new(address, port), SocketAddr::new(packet.to, packet.port)];
    let to = arrival.to.filter(|to| !meant.contains(to))?;
    Some(Cause::Taken { to, by: arrival.translated_by.clone() })
}

/// What drops packets where nf_tables sees nothing. What else there may be is not told: it may be meant so.
fn cause_of_loss(host: &Host, found: &Found) -> Result<Option<Cause>, Error> {
    let number = |key: &str| -> Result<u8, Error> {
        Ok(host.netlink.sysctl(key)?.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    };
    let (is_v4, link) = (found.ask.is_v4(), &found.inward);
    let is_forwarded = matches!(found.ask.what, What::Out | What::Published);
    if is_v4 {
        if is_forwarded && number(&format!("ipv4/conf/{link}/forwarding"))? == 0 {
            return Ok(Some(Cause::NoForwarding));
        }
        let strict = number("ipv4/conf/all/rp_filter")?.max(number(&format!("ipv4/conf/{link}/rp_filter"))?);
        if strict == 1 {
            return Ok(Some(Cause::SourceCheck(link.clone())));
        }
    } else if is_forwarded
        && number("ipv6/conf/all/forwarding")? == 0
        && number(&format!("ipv6/conf/{link}/force_forwarding"))? == 0
    {
        return Ok(Some(Cause::NoForwarding));
    }
    Ok(is_legacy_used().then_some(Cause::Legacy))
}

fn tell(host: &mut Host, subject: &Subject, group: &Group) -> Result<Told, Error> {
    let text = format!("{}: {}", group.sentence(subject), group.reason());
    let mut hints: Vec<String> = Vec::new();
    for hint in hints_of(host, subject, group)? {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    Ok(Told { network: subject.network.clone(), names: group.what == What::Names, text, hints })
}

impl Found {
    fn item(&self) -> String {
        let Some(packet) = self.ask.target() else { return String::new() };
        match self.ask.what {
            What::Published => {
                format!("{}/{} ({})", packet.port, packet.transport.name(), self.ask.container)
            }
            What::Names | What::Neighbours => packet.to.to_string(),
            What::Peers | What::Out => String::new(),
        }
    }
}

impl Group {
    fn sentence(&self, subject: &Subject) -> String {
        let (network, items) = (&subject.network, self.items.join(", "));
        let has_both =
            [IpNetwork::is_ipv4, IpNetwork::is_ipv6].iter().all(|of| subject.subnets.iter().any(of));
        let over = match self.families.iter().next() {
            Some(family) if has_both && self.families.len() == 1 => format!(" over {family}"),
            _ => String::new(),
        };
        match self.what {
            What::Names => {
                format!("containers on network {network} get no answers from the name server at {items}")
            }
            What::Neighbours => format!("containers on network {network} do not find their gateway {items}"),
            What::Peers => format!("containers on network {network} do not reach one another{over}"),
            What::Out => format!("containers on network {network} reach nothing outside this host{over}"),
            What::Published => {
                format!("published ports of network {network} cannot be reached from outside: {items}")
            }
        }
    }

    fn reason(&self) -> String {
        match &self.cause {
            Cause::Stopped(stop) if is_firewalld(stop) => "firewalld rejects the packets".into(),
            Cause::Stopped(stop) => format!("chain {stop} drops the packets"),
            Cause::SourceCheck(link) => {
                format!("the kernel's check of source addresses drops the packets (rp_filter of {link} is 1)")
            }
            Cause::NoForwarding => {
                let families: Vec<&str> = self.families.iter().copied().collect();
                format!("this host forwards no {}", families.join(" and no "))
            }
            Cause::Legacy => "rules of iptables-legacy drop the packets".into(),
            Cause::Taken { to, by: Some(by) } => {
                format!("they lead to {to}, because the rules of {} come first (chain {by})", owner(by))
            }
            Cause::Taken { to, by: None } => format!("they lead to {to}, because other rules come first"),
        }
    }
}

/// Whose rules these are, by the names of the chains.
fn owner(stop: &Stop) -> &'static str {
    let is = |word: &str| stop.chain.starts_with(word) || stop.base.starts_with(word);
    match () {
        () if is("DOCKER") || stop.table.contains("docker") => "docker",
        () if is("NETAVARK") || stop.table.contains("netavark") => "podman (netavark)",
        () if is("CNI-") => "the CNI plugin portmap",
        () if is("KUBE-") => "kube-proxy",
        () => "another program",
    }
}

fn hints_of(host: &mut Host, subject: &Subject, group: &Group) -> Result<Vec<String>, Error> {
    let bridge = &subject.bridge;
    Ok(match &group.cause {
        Cause::SourceCheck(link) => vec![format!("sysctl -w net.ipv4.conf.{link}.rp_filter=2")],
        Cause::NoForwarding => forwarding(group),
        Cause::Taken { by, .. } => holders(by.as_ref(), group),
        Cause::Legacy => {
            let program =
                |family: &&str| if **family == *V4 { "iptables-legacy" } else { "ip6tables-legacy" };
            let chain = if group.what == What::Names { "INPUT" } else { "FORWARD" };
            group
                .families
                .iter()
                .flat_map(|family| iptables(program(family), "filter", chain, bridge, group))
                .collect()
        }
        Cause::Stopped(stop) => {
            let hook = host.firewall()?.hook_of(stop)?;
            stopped(host, subject, group, stop, hook)?
        }
    })
}

/// What shows who has the port.
fn holders(by: Option<&Stop>, group: &Group) -> Vec<String> {
    let Some(by) = by else { return Vec::new() };
    let port = group.packets.first().map_or(0, |packet| packet.port);
    match owner(by) {
        "docker" => vec![format!("docker ps --filter publish={port}")],
        owner if owner.starts_with("podman") => vec!["podman port --all".into()],
        _ => vec![format!("nft -a list chain {} {} {}", by.family, by.table, by.chain)],
    }
}

fn forwarding(group: &Group) -> Vec<String> {
    let key =
        |family: &&str| if **family == *V4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
    group.families.iter().map(|family| format!("sysctl -w {}=1", key(family))).collect()
}

/// In the words of who made the chain.
fn stopped(
    host: &mut Host,
    subject: &Subject,
    group: &Group,
    stop: &Stop,
    hook: Option<At>,
) -> Result<Vec<String>, Error> {
    let bridge = &subject.bridge;
    let is_other = !matches!(stop.family, "ip" | "ip6") || !TABLES.contains(&stop.table.as_str());
    if subject.is_helped
        && !interop::is_on(host)
        && (is_firewalld(stop) || host.firewall()?.gives_way(stop)?)
    {
        return Ok(vec!["rnet interop enable".into()]);
    }
    if is_firewalld(stop) {
        return Ok(firewalld(bridge, group));
    }
    if is_other {
        return Ok(nft(stop, subject, group, hook));
    }
    if is_of_ufw(host, stop)? {
        return Ok(ufw(stop, bridge, group));
    }
    let program = if stop.family == "ip" { "iptables" } else { "ip6tables" };
    Ok(iptables(program, &stop.table, &stop.base, bridge, group))
}

fn is_firewalld(stop: &Stop) -> bool {
    (stop.family, stop.table.as_str()) == ("inet", "firewalld")
}

/// Its own chains, or the policy that it set.
fn is_of_ufw(host: &mut Host, stop: &Stop) -> Result<bool, Error> {
    if stop.table != "filter" || stop.chain != stop.base {
        return Ok(stop.chain.starts_with("ufw"));
    }
    let user = if stop.family == "ip" { "ufw-user-input" } else { "ufw6-user-input" };
    Ok(stop.base_rule.is_none() && host.firewall()?.has_beside(stop, user)?)
}

/// A rule of the user's is overruled from in front of it, except one of the same words, which changes into the new one.
fn ufw(stop: &Stop, bridge: &str, group: &Group) -> Vec<String> {
    let links = all_links(bridge, '+');
    let is_by_rule = stop.chain != stop.base;
    let line = |route: &str, what: String| {
        let plain = format!("ufw{route} allow {what}");
        if is_by_rule { format!("ufw{route} prepend allow {what} && {plain}") } else { plain }
    };
    match group.what {
        What::Names | What::Neighbours => {
            vec![line("", format!("in on {links} to any port {}", PORT))]
        }
        What::Published => vec![line(" route", format!("out on {links}"))],
        What::Peers => vec![line(" route", format!("in on {links} out on {links}"))],
        What::Out => {
            vec![line(" route", format!("in on {links}")), line(" route", format!("out on {links}"))]
        }
    }
}

fn iptables(program: &str, table: &str, chain: &str, bridge: &str, group: &Group) -> Vec<String> {
    let links = all_links(bridge, '+');
    let table = if table == "filter" { String::new() } else { format!(" -t {table}") };
    let line = |what: &str| format!("{program}{table} -I {chain} {what} -j ACCEPT");
    let is_before_routing = chain == "PREROUTING";
    match group.what {
        What::Names => ["udp", "tcp"]
            .iter()
            .map(|protocol| line(&format!("-i {links} -p {protocol} --dport {}", PORT)))
            .collect(),
        What::Neighbours => [135, 136]
            .iter()
            .map(|kind| line(&format!("-i {links} -p ipv6-icmp --icmpv6-type {kind}")))
            .collect(),
        What::Published if is_before_routing => group
            .packets
            .iter()
            .map(|packet| line(&format!("-p {} --dport {}", packet.transport.name(), packet.port)))
            .collect(),
        What::Published => vec![line(&format!("-o {links}"))],
        What::Peers | What::Out if is_before_routing => vec![line(&format!("-i {links}"))],
        What::Peers => vec![line(&format!("-i {links} -o {links}"))],
        What::Out => vec![line(&format!("-i {links}")), line(&format!("-o {links}"))],
    }
}

fn nft(stop: &Stop, subject: &Subject, group: &Group, hook: Option<At>) -> Vec<String> {
    let Stop { family, table, base, .. } = stop;
    let line = |what: &str| format!("nft 'insert rule {family} {table} {base} {what} counter accept'");
    if *family == "bridge" {
        return subject
            .subnets
            .iter()
            .flat_map(|subnet| in_frames(*subnet, group))
            .map(|what| line(&what))
            .collect();
    }
    let links = all_links(&subject.bridge, '*');
    let (inward, outward) = (format!("iifname \"{links}\""), format!("oifname \"{links}\""));
    let is_before = matches!(hook, Some(At::Prerouting | At::Input));
    match group.what {
        What::Names => ["udp", "tcp"]
            .iter()
            .map(|protocol| line(&format!("{inward} {protocol} dport {}", PORT)))
            .collect(),
        What::Neighbours => ["nd-neighbor-solicit", "nd-neighbor-advert"]
            .iter()
            .map(|kind| line(&format!("{inward} icmpv6 type {kind}")))
            .collect(),
        What::Published if is_before => group
            .packets
            .iter()
            .map(|packet| line(&format!("{} dport {}", packet.transport.name(), packet.port)))
            .collect(),
        What::Published => vec![line(&outward)],
        What::Peers | What::Out if is_before => vec![line(&inward)],
        What::Peers => vec![line(&outward)],
        What::Out => vec![line(&inward), line(&outward)],
    }
}

/// A bridge's own chains see its ports and not all kernels tell them the bridge: its subnet does.
fn in_frames(subnet: IpNetwork, group: &Group) -> Vec<String> {
    let (word, family) = if subnet.is_ipv4() { ("ip", V4) } else { ("ip6", V6) };
    if !group.families.contains(family) {
        return Vec::new();
    }
    let (from, to) = (format!("{word} saddr {subnet}"), format!("{word} daddr {subnet}"));
    match group.what {
        What::Names => {
            ["udp", "tcp"].iter().map(|protocol| format!("{from} {protocol} dport {}", PORT)).collect()
        }
        What::Neighbours => {
            vec!["icmpv6 type nd-neighbor-solicit".into(), "icmpv6 type nd-neighbor-advert".into()]
        }
        What::Peers => vec![format!("{from} {to}")],
        What::Published => vec![to],
        What::Out => vec![from, to],
    }
}

/// rnet's zone and policy are there; so the interface is in another zone, ports are strict, or a policy goes before.
fn firewalld(bridge: &str, group: &Group) -> Vec<String> {
    let links = all_links(bridge, '+');
    if group.what == What::Published && interop::zones().is_some_and(|state| state.strict) {
        return group.forward_ports();
    }
    for interface in [&links, bridge] {
        if let Some(zone) = interop::zone_of(interface).filter(|zone| zone != OWN_ZONE) {
            return vec![format!(
                "firewall-cmd --permanent --zone={zone} --remove-interface={interface} && firewall-cmd --reload"
            )];
        }
    }
    vec![format!(
        "firewall-cmd --permanent --zone=trusted --change-interface={links} && firewall-cmd --reload"
    )]
}

fn forward_port(from: &str, to: &str, address: &str) -> String {
    let zone = interop::default_zone().unwrap_or_else(|| "public".into());
    format!(
        "firewall-cmd --permanent --zone={zone} --add-forward-port=port={from}:toport={to}:toaddr={address} \
         && firewall-cmd --reload"
    )
}

impl Group {
    fn forward_ports(&self) -> Vec<String> {
        let line = |packet: &Packet| {
            let (to, address) = packet.leads_to?;
            let from = format!("{}:proto={}", packet.port, packet.transport.name());
            Some(forward_port(&from, &to.to_string(), &address.to_string()))
        };
        self.packets.iter().filter_map(line).collect()
    }
}

/// One line is for all bridges that rnet names itself.
fn all_links(bridge: &str, wildcard: char) -> String {
    if bridge.starts_with(OWN) { format!("{OWN}{wildcard}") } else { bridge.to_owned() }
}
