//! Members of configurations that several plugins read, and names that follow from them.

use cni::{Args, Request};
use engine::spec::Resolver;
use netlink::Mac;
use serde::Deserialize;
use store::NetworkKey;

use crate::Error;
use crate::error::Fault;
use crate::runtime_config::RuntimeConfig;

/// The member `ipam`, as far as the interface plugin reads it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct IpamMember {
    /// The IPAM plugin's name.
    #[serde(rename = "type")]
    pub kind: String,
}

/// The member `dns`, which tells an empty list from none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DnsMember {
    nameservers: Option<Vec<String>>,
    domain: String,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl DnsMember {
    /// What wins over IPAM's settings, if anything is said at all.
    pub fn settings(self) -> Option<Resolver> {
        let domain = Some(self.domain).filter(|domain| !domain.is_empty());
        let lists = [&self.nameservers, &self.search, &self.options];
        let said = domain.is_some() || lists.into_iter().any(Option::is_some);
        said.then(|| Resolver {
            nameservers: self.nameservers.unwrap_or_default(),
            domain,
            search: self.search.unwrap_or_default(),
            options: self.options.unwrap_or_default(),
        })
    }
}

/// The member `args`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ArgsMember {
    /// Arguments in the shape of CNI's conventions.
    pub cni: CniArgs,
}

/// The member `args.cni`: optional by nature, unknown members are never refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CniArgs {
    /// A MAC address.
    pub mac: String,
}

/// The MAC that was asked for: CNI_ARGS, over it `args.cni`, over both `runtimeConfig`.
pub fn mac(args: &Args, member: &ArgsMember, runtime: &RuntimeConfig) -> Result<Option<Mac>, Error> {
    let given = [runtime.mac.as_str(), member.cni.mac.as_str(), args.mac().unwrap_or_default()];
    given.into_iter().find(|text| !text.is_empty()).map(parse_mac).transpose()
}

/// A MAC address, or the text that is none.
pub fn parse_mac(text: &str) -> Result<Mac, Error> {
    text.parse().map_err(|_| Error::Config(Fault::Mac(text.to_owned())))
}

/// rnet masquerades in one way, whichever backend of the reference plugin's is named.
pub fn refuse_unknown_backend(named: Option<&str>) -> Result<(), Error> {
    match named {
        None | Some("" | "iptables" | "nftables") => Ok(()),
        Some(other) => Err(Error::Config(Fault::MasqueradeBackend(other.to_owned()))),
    }
}

/// Refuses a bridge name that the kernel refuses, or that others would read as a pattern.
pub fn checked_name(name: String) -> Result<String, Error> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-@+".contains(letter);
    let ok = (1..16).contains(&name.len()) && !name.starts_with(['-', '.']) && name.chars().all(plain);
    if ok { Ok(name) } else { Err(Error::Config(Fault::BridgeName(name))) }
}

/// The member `ipam` alone, whatever else is wrong with a configuration.
pub fn ipam(request: &Request<'_>) -> Option<IpamMember> {
    #[derive(Deserialize)]
    struct Ipam {
        ipam: IpamMember,
    }
    request.config.section::<Ipam>().ok().map(|section| section.ipam)
}

/// The bridge of the network `name` where none is configured: `rnet-` and the name, or a hash that fits.
pub fn default_bridge(name: &str) -> String {
    let plain = format!("rnet-{name}");
    if plain.len() < 16 { plain } else { format!("rnet-{}", &NetworkKey::new(name).as_str()[..10]) }
}

/// True if a program's file name says that it is `plugin`: `buildkit-cni-bridge` is `bridge`.
pub fn is_named(file_name: &str, plugin: &str) -> bool {
    file_name.strip_suffix(plugin).is_some_and(|rest| rest.is_empty() || rest.ends_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_name_fits_the_kernel_and_two_long_names_differ() {
        assert_eq!(default_bridge("mynet"), "rnet-mynet");
        let (one, two) = (
            default_bridge(&format!("{}1", "n".repeat(60))),
            default_bridge(&format!("{}2", "n".repeat(60))),
        );
        assert!(one.len() == 15 && one != two);
    }
}
