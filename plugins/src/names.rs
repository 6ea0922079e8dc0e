//! What the keys of `rnet` and `dnsname` say about names, in the form that the engine takes.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni::Dns;
use dns::{askable, valid_name};
use engine::{PORT, Served};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::Error;
use crate::error::Fault;

/// `runtimeConfig.dns` (capability `dns`): one container's own settings.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    /// Servers.
    pub servers: Vec<String>,
    /// The search list.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// `runtimeConfig.aliases` (capability `aliases`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aliases {
    /// One list, as CNI's conventions have it.
    One(Vec<String>),
    /// Network by network, as podman sends it.
    ByNetwork(HashMap<String, Vec<String>>),
}

impl Default for Aliases {
    fn default() -> Self {
        Self::One(Vec::new())
    }
}

impl<'de> Deserialize<'de> for Aliases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AliasesVisitor)
    }
}

struct AliasesVisitor;

impl<'de> Visitor<'de> for AliasesVisitor {
    type Value = Aliases;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of names, or one for each network")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Aliases, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Aliases::One)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Aliases, A::Error> {
        HashMap::deserialize(MapAccessDeserializer::new(map)).map(Aliases::ByNetwork)
    }
}

/// What the network's `dns` member, the container's own settings and its arguments say together.
///
/// # Errors
/// A domain, a hostname or an alias that nobody could ask for, or a server that is no address.
pub fn names(
    network: &str,
    dns: Dns,
    runtime: RuntimeDns,
    aliases: &Aliases,
    hostname: Option<&str>,
) -> Result<Served, Error> {
    if let Some(domain) = dns.domain.as_ref().filter(|domain| !valid_name(domain)) {
        return Err(Error::Config(Fault::Domain(domain.clone())));
    }
    if let Some(bad) = hostname.filter(|hostname| !valid_name(hostname)) {
        return Err(Error::Config(Fault::Hostname(bad.to_owned())));
    }
    let pick = |own: Vec<String>, of_network: Vec<String>| if own.is_empty() { of_network } else { own };
    Ok(Served {
        domain: dns.domain,
        upstreams: upstreams(&dns.nameservers)?,
        aliases: valid_aliases(network, aliases)?,
        hostname: hostname.map(str::to_owned),
        own_upstreams: upstreams(&runtime.servers)?,
        search: pick(runtime.searches, dns.search),
        options: pick(runtime.options, dns.options),
        rebinding_guard: false,
    })
}

/// The aliases on `network`.
///
/// # Errors
/// The first one that nobody could ask for (N6).
fn valid_aliases(network: &str, aliases: &Aliases) -> Result<Vec<String>, Error> {
    let aliases = match aliases {
        Aliases::One(aliases) => aliases.clone(),
        Aliases::ByNetwork(all) => all.get(network).cloned().unwrap_or_default(),
    };
    match aliases.iter().find(|alias| !askable(alias)) {
        Some(bad) => Err(Error::Config(Fault::Alias { alias: bad.clone(), network: network.to_owned() })),
        None => Ok(aliases),
    }
}

fn upstreams(servers: &[String]) -> Result<Vec<SocketAddr>, Error> {
    let parse = |server: &String| {
        let address: IpAddr = server.parse().map_err(|_| Error::Config(Fault::Server(server.clone())))?;
        Ok(SocketAddr::new(address, PORT))
    };
    servers.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_alias_domain_server_or_hostname_is_named() {
        let aliases = |alias: &str| {
            Aliases::ByNetwork([("mynet".to_owned(), vec!["ok".into(), alias.to_owned()])].into())
        };
        let of = |dns, alias, hostname| {
            names("mynet", dns, RuntimeDns::default(), &aliases(alias), hostname)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        let server = Dns { nameservers: vec!["9.9.9".into()], ..Dns::default() };
        let domain = Dns { domain: Some("a..b".into()), ..Dns::default() };

        assert_eq!(of(Dns::default(), "api", Some("app")), Ok(()));
        assert!(of(Dns::default(), "a b", None).unwrap_err().contains("\"a b\""));
        assert!(of(Dns::default(), "api", Some("c d")).unwrap_err().contains("\"c d\""));
        assert!(of(server, "api", None).unwrap_err().contains("\"9.9.9\""));
        assert!(of(domain, "api", None).unwrap_err().contains("\"a..b\""));
        assert!(valid_aliases("other", &aliases("a b")).unwrap().is_empty());
    }
}
