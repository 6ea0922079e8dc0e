//! The result of an ADD, and how each version of the specification is read (section 5); `write` has the other way.
//!
//! One type serves all versions: it holds what 1.1.0 can express. `to_json` drops what an older version cannot.

#[cfg(test)]
mod tests;
mod write;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, kind};
use crate::fault::Fault;
use crate::fold;
use crate::version::{Generation, Version};

/// The result of an ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CniResult {
    /// What was created, on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// The addresses given.
    pub ips: Vec<Ip>,
    /// The routes made in the container.
    pub routes: Vec<Route>,
    /// What the container should resolve names with.
    pub dns: Dns,
}

/// One interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(deserialize_with = "non_empty")]
    pub mac: Option<String>,
    /// Its MTU in bytes (1.1.0).
    #[serde(deserialize_with = "nonzero")]
    pub mtu: Option<u32>,
    /// The network namespace it is in, exactly CNI_NETNS; `None` on the host.
    #[serde(deserialize_with = "non_empty")]
    pub sandbox: Option<String>,
    /// The socket of a user-space interface (1.1.0).
    #[serde(rename = "socketPath", deserialize_with = "non_empty")]
    pub socket_path: Option<String>,
    /// The PCI device behind it (1.1.0).
    #[serde(rename = "pciID", deserialize_with = "non_empty")]
    pub pci_id: Option<String>,
}

/// One address of a result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ip {
    /// The address with its host bits and its prefix length.
    #[serde(deserialize_with = "strict_cidr")]
    pub address: IpNetwork,
    /// The gateway of its subnet.
    #[serde(default, deserialize_with = "address")]
    pub gateway: Option<IpAddr>,
    /// The index of its interface in the result.
    #[serde(default)]
    pub interface: Option<usize>,
}

/// One route of a result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// Its destination.
    #[serde(deserialize_with = "strict_cidr")]
    pub dst: IpNetwork,
    /// The next hop; `None` leaves it to the first gateway of the family.
    #[serde(default, deserialize_with = "address")]
    pub gw: Option<IpAddr>,
    /// The path's MTU in bytes.
    #[serde(default, deserialize_with = "nonzero")]
    pub mtu: Option<u32>,
    /// The TCP segment size to advertise, in bytes.
    #[serde(default, deserialize_with = "nonzero")]
    pub advmss: Option<u32>,
    /// The metric.
    #[serde(default, deserialize_with = "nonzero")]
    pub priority: Option<u32>,
    /// The routing table; 0 may be meant.
    #[serde(default)]
    pub table: Option<u32>,
    /// The kernel's scope number (rtm_scope); 0 (global) may be meant.
    #[serde(default)]
    pub scope: Option<u32>,
}

/// What a container should resolve names with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers, the preferred first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(deserialize_with = "non_empty", skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to try for short names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of resolv.conf.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl CniResult {
    /// The result as `version` writes it; [`crate::pretty`] makes the text.
    ///
    /// # Errors
    /// Code 999 `cannot convert: no valid IP addresses`: 0.1.0 and 0.2.0 have no result without one.
    pub fn to_json(&self, version: Version) -> Result<Value, Error> {
        match version.generation() {
            Generation::V0_1 => self.write_v0_1(version),
            Generation::V0_3 => Ok(self.write_v0_3(version)),
            Generation::V1 => Ok(self.write_v1(version)),
        }
    }

    /// Reads a result of a configuration in `version`, which is also the result's if it has no `cniVersion`.
    ///
    /// # Errors
    /// Code 999: it is of a version that is written differently; 6: a member of the wrong kind.
    pub fn parse(value: &Value, version: Version) -> Result<CniResult, Error> {
        let found = own_version(value)?.unwrap_or(version.as_str());
        let family =
            Version::SUPPORTED.into_iter().filter(|other| other.generation() == version.generation());
        let supported: Vec<_> = family.map(Version::as_str).collect();
        if !supported.contains(&found) {
            return Err(Fault::ResultVersion { supported, found: found.to_owned() }.into());
        }
        read(value, version)
    }

    /// Reads a delegate's result in any supported version that it names; if it names none, in `default`.
    ///
    /// # Errors
    /// Code 999: an unsupported version; 6: a member of the wrong kind.
    pub fn parse_any(value: &Value, default: Version) -> Result<CniResult, Error> {
        let version = match own_version(value)? {
            Some(text) => text.parse().map_err(|_| Fault::ResultUnknown { found: text.to_owned() })?,
            None => default,
        };
        read(value, version)
    }
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

/// Reads an address in CIDR notation; host bits stay. Unlike `IpNetwork`'s own reader it requires a prefix length.
pub fn cidr(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.split_once('/')?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return None;
    }
    IpNetwork::new(address.parse().ok()?, prefix.parse().ok()?).ok()
}

/// The `cniVersion` that a result names.
fn own_version(value: &Value) -> Result<Option<&str>, Fault> {
    let wrong = |found: String| Fault::ResultShape { source: serde::de::Error::custom(found) };
    let Value::Object(object) = value else {
        return Err(wrong(format!("expected a JSON object, found {}", kind(value))));
    };
    match fold::member(object, "cniVersion") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(other) => Err(wrong(format!("cniVersion: is {}, not a string", kind(other)))),
    }
}

fn read(value: &Value, version: Version) -> Result<CniResult, Error> {
    let result = match version.generation() {
        Generation::V0_1 => fold::from_value(value).map(ResultV0_1::upgrade),
        Generation::V0_3 | Generation::V1 => fold::from_value(value),
    };
    result.map_err(|source| Fault::ResultShape { source }.into())
}

/// A result as 0.1.0 and 0.2.0 write it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ResultV0_1 {
    ip4: Option<Family>,
    ip6: Option<Family>,
    dns: Dns,
}

#[derive(Deserialize)]
struct Family {
    #[serde(deserialize_with = "strict_cidr")]
    ip: IpNetwork,
    #[serde(default, deserialize_with = "address")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

impl ResultV0_1 {
    fn upgrade(self) -> CniResult {
        let mut result = CniResult { dns: self.dns, ..CniResult::default() };
        for family in [self.ip4, self.ip6].into_iter().flatten() {
            result.ips.push(Ip { address: family.ip, gateway: family.gateway, interface: None });
            result.routes.extend(family.routes);
        }
        result
    }
}

fn strict_cidr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNetwork, D::Error> {
    let text = String::deserialize(deserializer)?;
    cidr(&text).ok_or_else(|| D::Error::custom(format_args!("invalid CIDR address: {text}")))
}

/// An address that may be empty, as Go's encoder leaves it.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let Some(text) = non_empty(deserializer)? else { return Ok(None) };
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(Some).map_err(|_| D::Error::custom(format_args!("invalid IP address: {text}")))
}

/// A text that counts as unset when empty.
fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// A number that counts as unset when 0.
fn nonzero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.filter(|number| *number != 0))
}
