//! `rnet create`: chooses or checks a subnet and writes the definition.

use std::fmt::{self, Display};
use std::net::IpAddr;

use clap::builder::BoolishValueParser;
use cni::{Dns, Version};
use dns::valid_name;
use ipnetwork::IpNetwork;
use store::Paths;

use crate::definitions::{Network, Subnet, Wanted};
use crate::names;
use crate::report::{Problem, Style, print, print_json};
use crate::runtime::{missing_plugins, runtime_reads_definitions};
use crate::state::Kernel;
use crate::subnets::{self, Owner, Taken, first_overlap, lowest_free};
use crate::view::View;
use crate::{definitions, rights, told, versions};

/// What can be given.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// The name [default: the lowest free netN]
    pub name: Option<String>,
    /// The subnet, one for each address family; 0.0.0.0/24 means any free /24
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<String>,
    /// The gateway's address [default: the subnet's first]
    #[arg(long, value_name = "IP")]
    pub gateway: Vec<IpAddr>,
    /// Lease addresses only from this part of the subnet
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<String>,
    /// The driver; bridge is the only one yet
    #[arg(short, long, value_name = "DRIVER", value_parser = driver)]
    pub driver: Option<()>,
    /// Accepted for docker's sake; containers can always be attached
    #[arg(long, hide = true, value_parser = BoolishValueParser::new(), default_missing_value = "true")]
    #[arg(num_args = 0..=1, require_equals = true)]
    pub attachable: Option<bool>,
    /// The MTU [default: that of the default route's interface]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65535))]
    pub mtu: Option<u32>,
    /// Write the standard plugins (bridge, host-local, portmap, dnsname) instead of rnet's own
    #[arg(long)]
    pub chain: bool,
    /// Do not give a returning name its previous address
    #[arg(long, conflicts_with = "chain")]
    pub no_sticky: bool,
    /// Containers find each other by address only
    #[arg(long, alias = "disable-dns")]
    pub no_dns: bool,
    /// An upstream server for other names, instead of the host's; may be repeated
    #[arg(long = "dns", value_name = "IP")]
    pub servers: Vec<IpAddr>,
    /// A search domain, tried after the network's own; may be repeated
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    pub search: Vec<String>,
    /// The network's domain: names also work as NAME.DOMAIN [default: dns.rnet]
    #[arg(long, value_name = "DOMAIN", conflicts_with = "no_dns")]
    pub domain: Option<String>,
    /// Drop upstream answers that point into one of rnet's subnets
    #[arg(long, conflicts_with = "no_dns")]
    pub dns_rebinding_guard: bool,
    /// Drop what a container sends from other addresses than its own; off for containers that forward packets
    #[arg(long, value_name = "on|off", conflicts_with = "chain")]
    pub spoof_guard: Option<Switch>,
    /// Succeed if the network already exists
    #[arg(long)]
    pub ignore_existing: bool,
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// With the guard (the default).
    On,
    /// Without the guard.
    Off,
}

impl Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::On { "on" } else { "off" })
    }
}

/// What docker and podman have besides `bridge` is refused in words.
fn driver(name: &str) -> Result<(), String> {
    match name {
        "bridge" => Ok(()),
        "host" | "none" | "null" => {
            Err("it needs no network of its own: type rnet run --net host or rnet run --net none".into())
        }
        "overlay" => Err("rnet does not have networks over several hosts yet".into()),
        "macvlan" | "ipvlan" | "l2bridge" | "transparent" => {
            Err("rnet does not have this driver yet; use bridge".into())
        }
        _ => Err("bridge is the only driver yet".into()),
    }
}

/// The domain of the networks that are given none.
const DOMAIN: &str = "dns.rnet";

/// See [`is_public`].
const PUBLIC: [&str; 24] = [
    "app", "art", "biz", "blog", "cloud", "club", "com", "dev", "edu", "gov", "info", "int", "live", "mil",
    "mobi", "name", "net", "online", "org", "page", "shop", "site", "tech", "xyz",
];

/// The smallest networks that have room for a gateway and a container.
const LONGEST: (u8, u8) = (30, 126);

/// Creates the network and prints its name.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    let asked = Asked::of(args)?;
    let mut view = View::open("create")?;
    let lock = view.definitions.lock(true)?;
    let networks = view.definitions.list()?.networks;
    if let Some(found) =
        args.name.as_ref().and_then(|name| networks.iter().find(|network| &network.name == name))
    {
        return exists(args, found, style);
    }
    let name = args.name.clone().unwrap_or_else(|| lowest_free_name(&networks));
    let mut taken = view.taken()?;
    // A network that lost its definition may be made anew under those who are on it.
    taken.retain(|taken| taken.owner != Owner::Link(plugins::default_bridge(&name)));
    let subnets = asked.subnets(&taken, style)?;
    warn_of_hidden_names(args, &name, style);
    warn_of_changed_uplinks(&mut view, &subnets, style)?;
    let mut wanted = Wanted {
        name,
        subnets,
        mtu: args.mtu,
        chain: args.chain,
        version: Version::LATEST,
        sticky: !args.no_sticky,
        names: !args.no_dns,
        dns: asked.dns,
        rebinding_guard: args.dns_rebinding_guard,
        spoof_guard: args.spoof_guard != Some(Switch::Off),
    };
    let network = definitions::network_of(&wanted.conflist())?;
    let common = versions::of_runtimes(&network.plugin_types(), view.host.store.paths());
    wanted.version = common.into_iter().max().unwrap_or(Version::LATEST);
    let file = Some(view.definitions.write(&wanted)?);
    drop(lock);
    let mut network = definitions::network_of(&wanted.conflist())?;
    network.file = file;
    if network.is_gateway() {
        told::warn_of_new(&mut view.host, &network, style);
    }
    told(&network, view.host.store.paths(), style)
}

/// The options as subnets and addresses, each checked by itself.
#[derive(Debug, Default)]
struct Asked {
    subnets: Vec<IpNetwork>,
    gateways: Vec<IpAddr>,
    ranges: Vec<IpNetwork>,
    dns: Dns,
}

impl Asked {
    fn of(args: &Args) -> Result<Self, Problem> {
        if let Some(name) = &args.name {
            names::check(name)?;
            if names::RESERVED.contains(&name.as_str()) {
                return Err(Problem::Reserved { name: name.clone() });
            }
        }
        let asked = Self {
            subnets: args.subnet.iter().map(|text| subnet("--subnet", text)).collect::<Result<_, _>>()?,
            gateways: args.gateway.clone(),
            dns: dns(args)?,
            ranges: args.ip_range.iter().map(|text| subnet("--ip-range", text)).collect::<Result<_, _>>()?,
        };
        asked.check()?;
        Ok(asked)
    }

    fn check(&self) -> Result<(), Problem> {
        if self.subnets.is_empty() {
            self.refuse_alone()?;
        }
        for family in [IpNetwork::is_ipv4, IpNetwork::is_ipv6] {
            refuse_second("--subnet", &self.subnets, |subnet| family(subnet))?;
        }
        self.subnets.iter().try_for_each(check_size)
    }

    fn refuse_alone(&self) -> Result<(), Problem> {
        match (self.gateways.is_empty(), self.ranges.is_empty()) {
            (false, _) => Err(Problem::NeedsSubnet { option: "--gateway" }),
            (_, false) => Err(Problem::NeedsSubnet { option: "--ip-range" }),
            _ => Ok(()),
        }
    }

    /// The subnets of the new network: none of them is in use, and each has its gateway and range.
    fn subnets(&self, taken: &[Taken], style: Style) -> Result<Vec<Subnet>, Problem> {
        if self.subnets.is_empty() {
            let free = lowest_free(taken, None).ok_or(Problem::SubnetsExhausted)?;
            return Ok(vec![Subnet::of(free)]);
        }
        let free = self
            .subnets
            .iter()
            .map(|wanted| free_subnet(*wanted, taken, style))
            .collect::<Result<Vec<_>, _>>()?;
        let far =
            self.gateways.iter().filter(|gateway| !free.iter().any(|subnet| subnet.contains(**gateway)));
        far.into_iter().try_for_each(|gateway| far_gateway(*gateway, taken, style))?;
        self.placed(free.into_iter().map(Subnet::of).collect())
    }

    /// Gives every gateway to the subnet of its family, in which it need not lie, and every range to the subnet that it lies in.
    fn placed(&self, mut subnets: Vec<Subnet>) -> Result<Vec<Subnet>, Problem> {
        for gateway in &self.gateways {
            let subnet = subnets.iter_mut().find(|subnet| subnet.subnet.is_ipv4() == gateway.is_ipv4());
            let subnet = subnet.ok_or_else(|| self.outside("gateway", gateway))?;
            usable(*gateway, subnet.subnet)?;
            subnet.gateway = *gateway;
            refuse_second("--gateway", &self.gateways, |other| other.is_ipv4() == gateway.is_ipv4())?;
        }
        for range in &self.ranges {
            let holds = |subnet: &&mut Subnet| {
                subnet.subnet.contains(range.network()) && subnet.subnet.contains(range.broadcast())
            };
            let subnet = subnets.iter_mut().find(holds).ok_or_else(|| self.outside("range", range))?;
            *subnet = subnet.clone().limited_to(*range);
            refuse_empty(*range, subnet)?;
            refuse_second("--ip-range", &self.ranges, |other| subnet.subnet.contains(other.network()))?;
        }
        Ok(subnets)
    }

    fn outside(&self, what: &'static str, value: &impl ToString) -> Problem {
        let subnets: Vec<String> = self.subnets.iter().map(ToString::to_string).collect();
        Problem::Outside { what, value: value.to_string(), subnet: subnets.join(", ") }
    }
}

/// Of what an option gives, there may be one for each subnet or family.
fn refuse_second<T: Display>(
    option: &str,
    given: &[T],
    is_rival: impl FnMut(&&T) -> bool,
) -> Result<(), Problem> {
    let text = |value: &T| format!("{option} {value}");
    match given.iter().filter(is_rival).collect::<Vec<_>>()[..] {
        [one, other, ..] => Err(Problem::Together { one: text(one), other: text(other) }),
        _ => Ok(()),
    }
}

/// The resolver settings; the domain of a network with names is ours unless another is given.
fn dns(args: &Args) -> Result<Dns, Problem> {
    let domain = args.domain.clone().or_else(|| (!args.no_dns).then(|| DOMAIN.to_owned()));
    for name in domain.iter().chain(&args.search) {
        if !valid_name(name) {
            return Err(Problem::BadDomain { name: name.clone() });
        }
    }
    let nameservers = args.servers.iter().map(ToString::to_string).collect();
    Ok(Dns { nameservers, domain, search: args.search.clone(), options: Vec::new() })
}

/// N9: `example.dev` would be looked for on a network called dev, and nowhere else.
fn warn_of_hidden_names(args: &Args, name: &str, style: Style) {
    if !args.no_dns && is_public(&name.to_ascii_lowercase()) {
        style.warn(format_args!(
            "{name:?} may also be a public domain: containers on this network cannot look up names such as example.{name}"
        ));
    }
}

/// On kernels before 6.17: IPv6 forwarding would cost these interfaces their router advertisements.
fn warn_of_changed_uplinks(view: &mut View, subnets: &[Subnet], style: Style) -> anyhow::Result<()> {
    if !subnets.iter().any(|subnet| subnet.subnet.is_ipv6()) {
        return Ok(());
    }
    for link in engine::forward_v6::to_change(&mut view.host)? {
        style.warn(format_args!(
            "{link} depends on router advertisements: the first container sets net.ipv6.conf.{link}.accept_ra=2, so that \
             the host still accepts them while it forwards IPv6"
        ));
    }
    Ok(())
}

/// Countries have two letters; of the other public domains (iana.org/domains/root/db), those that many people use.
fn is_public(name: &str) -> bool {
    let letters = name.bytes().all(|letter| letter.is_ascii_lowercase());
    (letters && name.len() == 2) || PUBLIC.contains(&name)
}

fn exists(args: &Args, found: &Network, style: Style) -> anyhow::Result<u8> {
    if !args.ignore_existing {
        return Err(Problem::NetworkExists { name: found.name.clone(), what: found.what() }.into());
    }
    show(found, style).map(|()| 0)
}

fn show(network: &Network, style: Style) -> anyhow::Result<()> {
    if style.json {
        return print_json(&super::inspect::network(network, None, &[], &Kernel::default()));
    }
    print(&format!("{}\n", network.name))
}

/// Prints what was made, and how runtimes come to find its plugins.
fn told(network: &Network, paths: &Paths, style: Style) -> anyhow::Result<u8> {
    show(network, style)?;
    let missing = missing_plugins(&network.plugin_types());
    if !missing.is_empty() && runtime_reads_definitions(paths) {
        style.hint(format_args!(
            "rnet install /opt/cni/bin (runtimes do not find {} yet)",
            missing.join(", ")
        ));
    }
    Ok(0)
}

/// net0, net1, …
fn lowest_free_name(networks: &[Network]) -> String {
    let is_free = |name: &String| networks.iter().all(|network| &network.name != name);
    (0..).map(|number: u32| format!("net{number}")).find(is_free).unwrap_or_default()
}

fn subnet(option: &'static str, text: &str) -> Result<IpNetwork, Problem> {
    let no_subnet = || Problem::NoSubnet { text: text.to_owned() };
    // Without a length it would be a single address.
    let given: IpNetwork = text.contains('/').then(|| text.parse().ok()).flatten().ok_or_else(no_subnet)?;
    let right = IpNetwork::new(given.network(), given.prefix()).map_err(|_| no_subnet())?;
    if given.ip() == right.ip() { Ok(given) } else { Err(Problem::HostBits { option, given, right }) }
}

fn check_size(subnet: &IpNetwork) -> Result<(), Problem> {
    let longest = if subnet.is_ipv4() { LONGEST.0 } else { LONGEST.1 };
    if subnet.prefix() > longest {
        return Err(Problem::TooSmall { subnet: *subnet, longest });
    }
    if is_any(*subnet) {
        let has_pool = subnet.is_ipv4() && subnets::SIZES.contains(&subnet.prefix());
        return if has_pool { Ok(()) } else { Err(Problem::NoPool { wanted: *subnet }) };
    }
    match subnets::special(*subnet) {
        Some(what) => Err(Problem::ImpossibleSubnet { subnet: *subnet, what }),
        None => Ok(()),
    }
}

/// `0.0.0.0/24`: any free subnet of that size.
fn is_any(subnet: IpNetwork) -> bool {
    subnet.ip().is_unspecified()
}

fn free_subnet(wanted: IpNetwork, taken: &[Taken], style: Style) -> Result<IpNetwork, Problem> {
    if is_any(wanted) {
        return lowest_free(taken, Some(wanted.prefix())).ok_or(Problem::SubnetsExhausted);
    }
    match first_overlap(wanted, taken) {
        Some(taken) if taken.is_elsewhere() => {
            style.warn(format_args!("{wanted} overlaps {} of {}", taken.subnet, taken.owner));
            Ok(wanted)
        }
        Some(hit) => Err(Problem::Overlap {
            wanted,
            taken: hit.subnet,
            owner: hit.owner.to_string(),
            free: lowest_free(taken, None).filter(|_| wanted.is_ipv4()),
        }),
        None => Ok(wanted),
    }
}

/// A range in which every address is the subnet's first or last one, or the gateway's.
fn refuse_empty(range: IpNetwork, subnet: &Subnet) -> Result<(), Problem> {
    let (first, last) = subnet.range.unwrap_or((subnet.gateway, subnet.gateway));
    if first > last || (first, last) == (subnet.gateway, subnet.gateway) {
        return Err(Problem::EmptyRange { range, subnet: subnet.subnet });
    }
    Ok(())
}

/// A gateway outside its subnet: the bridge bears it, so it must be no other's.
fn far_gateway(gateway: IpAddr, taken: &[Taken], style: Style) -> Result<(), Problem> {
    const LINK_LOCAL: &str = "link-local";
    let what = match subnets::special(gateway.into()) {
        _ if gateway.is_unspecified() => Some("no address"),
        Some(LINK_LOCAL) => None,
        other => other,
    };
    if let Some(what) = what {
        return Err(Problem::ImpossibleGateway { gateway, what });
    }
    // Each link has link-local addresses of its own.
    match first_overlap(gateway.into(), taken).filter(|_| subnets::special(gateway.into()).is_none()) {
        Some(taken) if taken.is_elsewhere() => {
            style.warn(format_args!("gateway {gateway} lies in {} of {}", taken.subnet, taken.owner));
            Ok(())
        }
        Some(hit) => {
            let holder = format!("{} ({})", hit.owner, hit.subnet);
            Err(Problem::GatewayTaken { gateway, holder })
        }
        None => Ok(()),
    }
}

fn usable(gateway: IpAddr, subnet: IpNetwork) -> Result<(), Problem> {
    let last = subnet.is_ipv4() && gateway == subnet.broadcast();
    if gateway == subnet.network() || last {
        return Err(Problem::Unusable { what: "gateway", value: gateway, subnet });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(subnet: &str, gateway: &str, range: &str) -> Args {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Args {
            subnet: words(subnet),
            gateway: gateway.split_whitespace().map(|text| text.parse().unwrap()).collect(),
            ip_range: words(range),
            ..Args::default()
        }
    }

    fn chosen(subnet: &str, gateway: &str, range: &str) -> Result<Vec<Subnet>, String> {
        let taken =
            [Taken { subnet: "172.18.0.0/16".parse().unwrap(), owner: Owner::Network("mynet".into()) }];
        let asked = Asked::of(&args(subnet, gateway, range));
        asked.and_then(|asked| asked.subnets(&taken, Style::default())).map_err(|problem| problem.to_string())
    }

    #[test]
    fn every_wrong_subnet_gateway_and_range_is_refused_in_its_own_words() {
        let cases = [
            ("172.18.5.0/24", "", "", "172.18.5.0/24 overlaps 172.18.0.0/16 of network \"mynet\""),
            ("172.0.0.0/8", "", "", "172.0.0.0/8 overlaps 172.18.0.0/16 of network \"mynet\""),
            ("10.9.0.1/24", "", "", "10.9.0.1/24 has host bits set"),
            (
                "10.9.0.0",
                "",
                "",
                "\"10.9.0.0\" is not a subnet: expected ADDRESS/LENGTH, such as 10.9.0.0/24",
            ),
            (
                "10.9.0.0/33",
                "",
                "",
                "\"10.9.0.0/33\" is not a subnet: expected ADDRESS/LENGTH, such as 10.9.0.0/24",
            ),
            (
                "10.9.0.0/31",
                "",
                "",
                "10.9.0.0/31 is too small for a gateway and a container: the smallest subnet is a /30",
            ),
            (
                "fd00::/127",
                "",
                "",
                "fd00::/127 is too small for a gateway and a container: the smallest subnet is a /126",
            ),
            (
                "::/64",
                "",
                "",
                "rnet cannot choose a free subnet for ::/64: it chooses IPv4 subnets from /13 to /30",
            ),
            (
                "0.0.0.0/8",
                "",
                "",
                "rnet cannot choose a free subnet for 0.0.0.0/8: it chooses IPv4 subnets from /13 to /30",
            ),
            ("224.0.0.0/8", "", "", "224.0.0.0/8 cannot be a network's subnet: its addresses are multicast"),
            ("127.8.0.0/16", "", "", "127.8.0.0/16 cannot be a network's subnet: its addresses are loopback"),
            ("96.0.0.0/3", "", "", "96.0.0.0/3 cannot be a network's subnet: its addresses are loopback"),
            ("240.0.0.0/8", "", "", "240.0.0.0/8 cannot be a network's subnet: its addresses are reserved"),
            ("fe80::/64", "", "", "fe80::/64 cannot be a network's subnet: its addresses are link-local"),
            (
                "::ffff:10.0.0.0/112",
                "",
                "",
                "::ffff:10.0.0.0/112 cannot be a network's subnet: its addresses are IPv4",
            ),
            ("10.9.0.0/24", "fe80::1", "", "gateway fe80::1 is not in 10.9.0.0/24"),
            ("10.9.0.0/24", "127.0.0.1", "", "127.0.0.1 cannot be a gateway: it is loopback"),
            ("10.9.0.0/24", "0.0.0.0", "", "0.0.0.0 cannot be a gateway: it is no address"),
            ("fd00:9::/64", "ff02::1", "", "ff02::1 cannot be a gateway: it is multicast"),
            (
                "10.9.0.0/24",
                "172.18.3.1",
                "",
                "gateway 172.18.3.1 lies in a subnet of network \"mynet\" (172.18.0.0/16)",
            ),
            (
                "10.9.0.0/24",
                "10.9.0.1 10.8.0.1",
                "",
                "--gateway 10.9.0.1 and --gateway 10.8.0.1 cannot be given together",
            ),
            (
                "10.9.0.0/24",
                "10.9.0.1 10.9.0.2",
                "",
                "--gateway 10.9.0.1 and --gateway 10.9.0.2 cannot be given together",
            ),
            (
                "10.9.0.0/24",
                "",
                "10.9.0.0/25 10.9.0.128/25",
                "--ip-range 10.9.0.0/25 and --ip-range 10.9.0.128/25 cannot be given together",
            ),
            (
                "10.9.0.0/24",
                "10.9.0.0",
                "",
                "gateway 10.9.0.0 is the first or last address of 10.9.0.0/24, which no host can have",
            ),
            (
                "10.9.0.0/24",
                "10.9.0.255",
                "",
                "gateway 10.9.0.255 is the first or last address of 10.9.0.0/24, which no host can have",
            ),
            ("10.9.0.0/24", "", "10.8.0.0/25", "range 10.8.0.0/25 is not in 10.9.0.0/24"),
            ("10.9.0.0/24", "", "10.9.0.0/16", "range 10.9.0.0/16 is not in 10.9.0.0/24"),
            ("10.9.0.0/24", "", "10.9.0.1/25", "10.9.0.1/25 has host bits set"),
            ("", "10.9.0.1", "", "--gateway needs --subnet"),
            (
                "10.9.0.0/24",
                "",
                "10.9.0.255/32",
                "range 10.9.0.255/32 has no address for a container: the first and the last of 10.9.0.0/24 and the gateway's are never leased",
            ),
            (
                "10.9.0.0/24",
                "",
                "10.9.0.0/31",
                "range 10.9.0.0/31 has no address for a container: the first and the last of 10.9.0.0/24 and the gateway's are never leased",
            ),
            (
                "10.9.0.0/24",
                "10.9.0.7",
                "10.9.0.7/32",
                "range 10.9.0.7/32 has no address for a container: the first and the last of 10.9.0.0/24 and the gateway's are never leased",
            ),
            (
                "fd00:9::/64",
                "",
                "fd00:9::/128",
                "range fd00:9::/128 has no address for a container: the first and the last of fd00:9::/64 and the gateway's are never leased",
            ),
            ("", "", "10.9.0.0/25", "--ip-range needs --subnet"),
            (
                "10.9.0.0/24 10.8.0.0/24",
                "",
                "",
                "--subnet 10.9.0.0/24 and --subnet 10.8.0.0/24 cannot be given together",
            ),
        ];
        for (subnet, gateway, range, text) in cases {
            assert_eq!(chosen(subnet, gateway, range).unwrap_err(), text);
        }
    }

    #[test]
    fn gateways_and_ranges_go_to_their_subnets() {
        let subnets = chosen("10.9.0.0/24 fd00::/64", "fd00::9 10.9.0.9", "10.9.0.128/25").unwrap();
        assert_eq!(subnets[0].gateway.to_string(), "10.9.0.9");
        assert_eq!(subnets[0].range.unwrap().1.to_string(), "10.9.0.254");
        assert_eq!(subnets[1].gateway.to_string(), "fd00::9");
        assert_eq!(subnets[1].range, None);
    }

    #[test]
    fn a_gateway_outside_goes_to_the_subnet_of_its_family() {
        for (subnet, gateway) in
            [("10.9.0.0/24", "10.8.0.1"), ("fd00:9:0:5::/64", "fd00:9::1"), ("fd00:9::/64", "fe80::1")]
        {
            let subnets = chosen(subnet, gateway, "").unwrap();
            assert_eq!((subnets.len(), subnets[0].gateway.to_string()), (1, gateway.to_owned()));
        }
    }

    #[test]
    fn any_subnet_of_a_size_is_a_free_one() {
        assert_eq!(chosen("0.0.0.0/24", "", "").unwrap(), [Subnet::of("172.19.0.0/24".parse().unwrap())]);
        assert_eq!(chosen("", "", "").unwrap(), [Subnet::of("172.19.0.0/16".parse().unwrap())]);
    }

    #[test]
    fn reserved_and_bad_names_are_refused() {
        for (name, text) in [
            ("bridge", "operation is not permitted on predefined bridge network"),
            (
                "bad name",
                "\"bad name\" is not a valid name: use up to 200 letters, digits, _ . and -, and begin with a letter or digit",
            ),
        ] {
            let args = Args { name: Some(name.into()), ..Args::default() };
            assert_eq!(Asked::of(&args).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_public_domain_is_known_as_one() {
        assert!(is_public("dev") && is_public("de") && !is_public("mynet") && !is_public("n0"));
    }

    #[test]
    fn names_are_served_unless_they_are_not_wanted() {
        let dns = |args: Args| Asked::of(&args).map(|asked| asked.dns).map_err(|problem| problem.to_string());
        assert_eq!(dns(Args::default()).unwrap().domain.as_deref(), Some("dns.rnet"));
        assert_eq!(dns(Args { no_dns: true, ..Args::default() }).unwrap(), Dns::default());
        let bad = Args { domain: Some("a b".into()), ..Args::default() };
        assert_eq!(
            dns(bad).unwrap_err(),
            "\"a b\" is not a domain: expected parts of 1 to 63 letters, digits, - and _, separated by dots"
        );
    }

    #[test]
    fn a_network_without_a_name_takes_the_lowest_number() {
        let named = |name: &str| {
            let wanted = Wanted {
                name: name.into(),
                subnets: Vec::new(),
                mtu: None,
                chain: false,
                version: Version::LATEST,
                sticky: true,
                names: false,
                dns: Dns::default(),
                rebinding_guard: false,
                spoof_guard: true,
            };
            definitions::network_of(&wanted.conflist()).unwrap()
        };
        assert_eq!(lowest_free_name(&[]), "net0");
        assert_eq!(lowest_free_name(&[named("net0"), named("net2")]), "net1");
    }
}
