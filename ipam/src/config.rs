//! host-local's section of a network configuration, and the range sets and requests that it means; pure.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, de};

use crate::range::{Range, RangeSet};
use crate::{Error, RangeError};

/// The `ipam` section of a network that host-local (or rnet) gives addresses for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostLocal {
    /// The old form of one range: its subnet.
    #[serde(deserialize_with = "subnet")]
    pub subnet: Option<IpNetwork>,
    /// The old form of one range: its first address.
    #[serde(deserialize_with = "ip")]
    pub range_start: Option<IpAddr>,
    /// The old form of one range: its last address.
    #[serde(deserialize_with = "ip")]
    pub range_end: Option<IpAddr>,
    /// The old form of one range: its gateway.
    #[serde(deserialize_with = "ip")]
    pub gateway: Option<IpAddr>,
    /// Range sets; an attachment gets one address of each.
    pub ranges: Option<Vec<Vec<RangeSpec>>>,
    /// Routes that are copied to the result.
    pub routes: Option<Vec<Route>>,
    /// The folder of the directories of leases; upstream's default if it is missing.
    pub data_dir: Option<PathBuf>,
    /// A resolv.conf whose content becomes the result's `dns`.
    pub resolv_conf: Option<PathBuf>,
}

/// A range as it is written in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RangeSpec {
    /// The subnet.
    #[serde(deserialize_with = "subnet")]
    pub subnet: Option<IpNetwork>,
    /// The first address; the first host if it is missing.
    #[serde(deserialize_with = "ip")]
    pub range_start: Option<IpAddr>,
    /// The last address; the last host if it is missing.
    #[serde(deserialize_with = "ip")]
    pub range_end: Option<IpAddr>,
    /// The gateway; the first host if it is missing.
    #[serde(deserialize_with = "ip")]
    pub gateway: Option<IpAddr>,
}

/// A route as it is written in a configuration (CNI 1.1.0).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// The destination.
    #[serde(deserialize_with = "network")]
    pub dst: IpNetwork,
    /// The gateway.
    #[serde(default, deserialize_with = "ip")]
    pub gw: Option<IpAddr>,
    /// The MTU along the route.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The MSS to advertise.
    #[serde(default)]
    pub advmss: Option<u32>,
    /// The priority; lower is preferred.
    #[serde(default)]
    pub priority: Option<u32>,
    /// The table.
    #[serde(default)]
    pub table: Option<u32>,
    /// The scope.
    #[serde(default)]
    pub scope: Option<u32>,
}

impl HostLocal {
    /// The range sets in the order in which the reference uses them: `runtime` (runtimeConfig.ipRanges), the old
    /// form, `ranges`.
    ///
    /// # Errors
    /// If there is no range, one is invalid ([`RangeError`]), or two sets share addresses.
    pub fn ranges(&self, runtime: &[Vec<RangeSpec>]) -> Result<Vec<RangeSet>, Error> {
        let specs = runtime.iter().cloned().chain(self.old_form().map(|spec| vec![spec]));
        let specs = specs.chain(self.ranges.iter().flatten().cloned());
        let sets: Vec<RangeSet> = specs
            .enumerate()
            .map(|(set, specs)| range_set(&specs).map_err(|cause| Error::InvalidSet { set, cause }))
            .collect::<Result<_, _>>()?;
        if sets.is_empty() {
            return Err(Error::NoRanges);
        }
        check_overlaps(&sets)?;
        Ok(sets)
    }

    fn old_form(&self) -> Option<RangeSpec> {
        let Self { range_start, range_end, gateway, .. } = *self;
        self.subnet.map(|subnet| RangeSpec { subnet: Some(subnet), range_start, range_end, gateway })
    }
}

/// Makes sure that no two of the sets share addresses.
///
/// # Errors
/// [`Error::SetsOverlap`] names two that do.
pub fn check_overlaps(sets: &[RangeSet]) -> Result<(), Error> {
    for (first, one) in sets.iter().enumerate() {
        if let Some(distance) = sets[first + 1..].iter().position(|other| one.overlaps(other)) {
            return Err(Error::SetsOverlap { first, second: first + 1 + distance });
        }
    }
    Ok(())
}

/// The requested addresses, each once: `runtime` (runtimeConfig.ips) and `args` (args.cni.ips), without their prefix
/// lengths; `cni_args` (IP of CNI_ARGS) only if both are empty.
///
/// # Errors
/// [`Error::InvalidAddress`] names the first text that is no address.
pub fn requested(runtime: &[String], args: &[String], cni_args: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
    let mut requested = Vec::new();
    for text in runtime.iter().chain(args) {
        requested.push(parse_address(text)?);
    }
    if requested.is_empty() {
        requested.extend(cni_args.iter().map(IpAddr::to_canonical));
    }
    let mut seen = std::collections::HashSet::new();
    requested.retain(|address| seen.insert(*address));
    Ok(requested)
}

/// An address that may have a prefix length: `10.0.0.5`, `10.0.0.5/24`.
///
/// # Errors
/// [`Error::InvalidAddress`] if the text is neither.
pub fn parse_address(text: &str) -> Result<IpAddr, Error> {
    let parsed = match text.contains('/') {
        true => parse_network(text).map(|network| network.ip()),
        false => text.parse().ok(),
    };
    parsed.map(|ip| ip.to_canonical()).ok_or_else(|| Error::InvalidAddress { text: text.to_owned() })
}

fn range_set(specs: &[RangeSpec]) -> Result<RangeSet, RangeError> {
    let ranges = specs.iter().map(|spec| {
        let subnet = spec.subnet.ok_or(RangeError::NoSubnet)?;
        Range::new(subnet, spec.range_start, spec.range_end, spec.gateway)
    });
    RangeSet::new(ranges.collect::<Result<_, _>>()?)
}

fn parse_network(text: &str) -> Option<IpNetwork> {
    let (ip, prefix) = text.split_once('/')?;
    let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
    IpNetwork::new(ip.parse().ok()?, prefix.parse().ok().filter(|_| digits)?).ok()
}

/// An address or, as in the reference, an empty text for none.
fn ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    let parse = |text: String| {
        let invalid = || de::Error::custom(format_args!("invalid IP address: {text}"));
        text.parse().map(|ip: IpAddr| ip.to_canonical()).map_err(|_| invalid())
    };
    text.map(parse).transpose()
}

fn subnet<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNetwork>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(|text| cidr(&text)).transpose()
}

fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNetwork, D::Error> {
    cidr(&String::deserialize(deserializer)?)
}

fn cidr<E: de::Error>(text: &str) -> Result<IpNetwork, E> {
    parse_network(text).ok_or_else(|| E::custom(format_args!("invalid CIDR address: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(json: &str) -> HostLocal {
        serde_json::from_str(json).unwrap()
    }

    fn ranges(json: &str) -> Result<Vec<String>, String> {
        let sets = section(json).ranges(&[]).map_err(|error| error.to_string())?;
        Ok(sets.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_runtime_s_ranges_come_first_then_the_old_form_then_ranges() {
        let section = section(
            r#"{"type":"host-local","subnet":"10.9.0.0/29","gateway":"10.9.0.6","rangeStart":"",
                "ranges":[[{"subnet":"10.8.0.0/30"},{"subnet":"10.8.1.0/30","gateway":"10.8.1.2"}]]}"#,
        );
        let runtime: Vec<Vec<RangeSpec>> =
            serde_json::from_str(r#"[[{"subnet":"10.7.0.0/24","rangeStart":"10.7.0.20"}]]"#).unwrap();

        let sets = section.ranges(&runtime).unwrap();

        let texts: Vec<String> = sets.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["10.7.0.20-10.7.0.254", "10.9.0.1-10.9.0.6", "10.8.0.1-10.8.0.2,10.8.1.1-10.8.1.2"]
        );
        assert_eq!(sets[1].ranges()[0].gateway, Some("10.9.0.6".parse().unwrap()));
    }

    #[test]
    fn faults_are_reported_in_the_reference_s_words() {
        let fault = |json| ranges(json).unwrap_err();

        assert_eq!(fault("{}"), "no IP ranges specified");
        assert_eq!(fault(r#"{"ranges":[[]]}"#), "invalid range set 0: empty range set");
        assert_eq!(fault(r#"{"ranges":[[{}]]}"#), "invalid range set 0: IP <nil> not v4 nor v6");
        assert_eq!(
            fault(r#"{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.1.0/31"}]]}"#),
            "invalid range set 1: Network 10.0.1.0/31 too small to allocate from"
        );
        assert_eq!(
            fault(
                r#"{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}],[{"subnet":"10.0.0.0/25"}]]}"#
            ),
            "range set 0 overlaps with 2"
        );
        assert_eq!(Error::MissingIpam.to_string(), "IPAM config missing 'ipam' key");
    }

    #[test]
    fn a_text_that_is_no_address_does_not_decode() {
        for (json, text) in [
            (r#"{"gateway":"x"}"#, "invalid IP address: x"),
            (r#"{"subnet":"10.0.0.0"}"#, "invalid CIDR address: 10.0.0.0"),
            (r#"{"subnet":""}"#, "invalid CIDR address: "),
            (r#"{"subnet":"10.0.0.0/255.0.0.0"}"#, "invalid CIDR address: 10.0.0.0/255.0.0.0"),
            (r#"{"routes":[{"dst":"0.0.0.0/+1"}]}"#, "invalid CIDR address: 0.0.0.0/+1"),
        ] {
            let error = serde_json::from_str::<HostLocal>(json).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn routes_are_read() {
        let section =
            section(r#"{"routes":[{"dst":"0.0.0.0/0"},{"dst":"fd00::/8","gw":"fd00::1","table":0}]}"#);

        let routes = section.routes.unwrap();
        assert_eq!(routes[0].dst, "0.0.0.0/0".parse().unwrap());
        assert_eq!((routes[1].gw, routes[1].table), (Some("fd00::1".parse().unwrap()), Some(0)));
    }

    #[test]
    fn addresses_are_requested_once_and_cni_args_yield() {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();

        let both = requested(&texts(&["10.0.0.5/24", "fd00::5"]), &texts(&["10.0.0.5"]), &[ip("10.0.0.9")]);
        assert_eq!(both.unwrap(), [ip("10.0.0.5"), ip("fd00::5")]);
        assert_eq!(requested(&[], &[], &[ip("10.0.0.9")]).unwrap(), [ip("10.0.0.9")]);
        for bad in ["bad", "10.0.0.5/33", "10.0.0.5/", ""] {
            let error = requested(&texts(&[bad]), &[], &[]).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid IP address {bad}"));
        }
    }
}
