//! How names are served to a container; pure, apart from a look at the host's resolver settings.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use dns::Resolv;
use ipam::ResolvConf;
use ipnetwork::IpNetwork;
use store::{Record, Zone};

/// Where questions are taken, and where the servers outside take them (RFC 1035, 4.2).
pub const PORT: u16 = 53;

/// The host's resolver settings.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The characters of a container's id that docker shows, and that it answers to.
const SHORT_ID: usize = 12;

/// How names are served to a container.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The domain that names also have.
    pub domain: Option<String>,
    /// The network's own servers for all other questions.
    pub upstreams: Vec<SocketAddr>,
    /// The container's aliases.
    pub aliases: Vec<String>,
    /// What the container takes for its host's name.
    pub hostname: Option<String>,
    /// The container's own servers, before the network's.
    pub own_upstreams: Vec<SocketAddr>,
    /// What the container's resolver tries after the domain; none means the host's list.
    pub search: Vec<String>,
    /// Options for the container's resolver.
    pub options: Vec<String>,
    /// Answers from outside that point into one of rnet's subnets are dropped.
    pub rebinding_guard: bool,
}

impl Served {
    /// The container's part, in its record.
    pub fn describe(&self, record: &mut Record) {
        record.names = self.of_container(record.name.as_deref(), &record.container);
        record.upstreams.clone_from(&self.own_upstreams);
    }

    /// The network's part.
    pub fn zone(&self, gateways: Vec<IpAddr>, subnets: Vec<IpNetwork>) -> Zone {
        let (domain, upstreams) = (self.domain.clone(), self.upstreams.clone());
        let rebinding_guard = self.rebinding_guard;
        Zone { domain, gateways, subnets, upstreams, rebinding_guard, ..Zone::default() }
    }

    /// What the container is told: to ask the gateways, and to try the network's domain first (N3).
    pub fn resolver(&self, gateways: impl Iterator<Item = IpAddr>) -> ResolvConf {
        let host = match (self.search.is_empty(), self.options.is_empty()) {
            (false, false) => Resolv::default(),
            _ => Resolv::read(Path::new(RESOLV_CONF)),
        };
        let pick = |own: &Vec<String>, hosts| if own.is_empty() { hosts } else { own.clone() };
        let further = pick(&self.search, host.search);
        let mut search: Vec<String> = self.domain.clone().into_iter().collect();
        search.extend(further.into_iter().filter(|domain| Some(domain) != self.domain.as_ref()));
        ResolvConf {
            nameservers: gateways.map(|gateway| gateway.to_string()).collect(),
            search,
            options: pick(&self.options, host.options),
            domain: None,
        }
    }

    /// What a container answers to, in the order of preference (N1): its name, its aliases, the beginning of its id, its
    /// hostname. Never empty.
    fn of_container(&self, name: Option<&str>, container: &str) -> Vec<String> {
        let short: String = container.chars().take(SHORT_ID).collect();
        let aliases = self.aliases.iter().map(String::as_str);
        let mut names: Vec<String> = Vec::with_capacity(self.aliases.len() + 3);
        for name in name.into_iter().chain(aliases).chain([short.as_str()]).chain(self.hostname.as_deref()) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_answers_to_its_name_its_aliases_its_short_id_and_its_hostname() {
        let aliases = vec!["www".to_owned(), "4f2a9c001122".to_owned()];
        let names = Served { aliases, hostname: Some("app".into()), ..Served::default() };
        let id = "4f2a9c00112233445566";
        assert_eq!(names.of_container(Some("web"), id), ["web", "www", "4f2a9c001122", "app"]);
        assert_eq!(names.of_container(Some("app"), id), ["app", "www", "4f2a9c001122"]);
        assert_eq!(Served::default().of_container(None, "lab-1"), ["lab-1"]);
    }

    #[test]
    fn a_container_asks_its_gateway_and_tries_its_own_domain_first() {
        let (domain, search) = (Some("dns.rnet".into()), vec!["lan".into()]);
        let names = Served { domain, search, options: vec!["ndots:2".into()], ..Served::default() };

        let resolver = names.resolver(["172.18.0.1".parse().unwrap()].into_iter());

        assert_eq!(resolver.nameservers, ["172.18.0.1"]);
        assert_eq!(
            (resolver.search, resolver.options),
            (vec!["dns.rnet".into(), "lan".into()], vec!["ndots:2".into()])
        );
    }
}
