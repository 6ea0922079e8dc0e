//! CNI_ARGS, `K=V;K=V` (CNI conventions).
//!
//! A list of plugins gets one CNI_ARGS, so the keys that sibling plugins own are never unknown. Only plugins
//! that take something from it parse it; for the others it may hold anything.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::call::{Call, Verb};
use crate::error::Error;
use crate::fault::Fault;
use crate::result::cidr;

/// Keys that some plugin takes; every key that begins with `K8S_` counts as one of them.
const OWNED: [&str; 6] = ["IgnoreUnknown", "IP", "GATEWAY", "MAC", "HOSTNAME", "SPOOF_GUARD"];

/// The pairs of CNI_ARGS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pairs: Vec<(String, String)>,
}

impl Args {
    /// Reads `text`; `known` are keys that the calling plugin takes besides those of the reference plugins.
    ///
    /// # Errors
    /// Code 4: a pair without exactly one `=`, an `IgnoreUnknown` that is no boolean, or unknown keys without it.
    pub fn parse(text: &str, known: &[&str]) -> Result<Args, Error> {
        let parts: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(';').collect() };
        let pairs = parts.iter().map(|part| pair(part)).collect::<Result<Vec<_>, Fault>>()?;
        let args = Args { pairs };
        if !args.ignores_unknown()? {
            args.refuse_unknown(known)?;
        }
        Ok(args)
    }

    /// The arguments of `call`. On DEL nothing in them is an error: pairs that cannot be read are left out.
    ///
    /// # Errors
    /// As [`Args::parse`]; never on DEL.
    pub fn of(call: &Call, known: &[&str]) -> Result<Args, Error> {
        match call.verb {
            Verb::Del => {
                Ok(Args { pairs: call.args.split(';').filter_map(|part| pair(part).ok()).collect() })
            }
            _ => Args::parse(&call.args, known),
        }
    }

    /// The value of `key`, the last one if it is given twice; empty values count as not given.
    pub fn get(&self, key: &str) -> Option<&str> {
        let last = self.pairs.iter().rev().find(|(name, _)| name == key);
        last.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// `MAC`, as written.
    pub fn mac(&self) -> Option<&str> {
        self.get("MAC")
    }

    /// `K8S_POD_NAME`: the pod's name for Kubernetes, the container's for podman.
    pub fn k8s_pod_name(&self) -> Option<&str> {
        self.get("K8S_POD_NAME")
    }

    /// `SPOOF_GUARD=on` or `off`, rnet's own key: the guard of one endpoint; `off` is for one that forwards packets.
    ///
    /// # Errors
    /// Code 4: any other word.
    pub fn spoof_guard(&self) -> Result<Option<bool>, Error> {
        match self.get("SPOOF_GUARD") {
            None => Ok(None),
            Some("on") => Ok(Some(true)),
            Some("off") => Ok(Some(false)),
            Some(other) => Err(Fault::ArgsSwitch { pair: format!("SPOOF_GUARD={other}") }.into()),
        }
    }

    /// `HOSTNAME`, rnet's own key: the hostname that the program in the container sees.
    pub fn hostname(&self) -> Option<&str> {
        self.get("HOSTNAME")
    }

    /// `K8S_POD_NAMESPACE`.
    pub fn k8s_pod_namespace(&self) -> Option<&str> {
        self.get("K8S_POD_NAMESPACE")
    }

    /// `IP` as host-local reads it: addresses separated by commas; a prefix length is allowed and ignored.
    ///
    /// # Errors
    /// Code 4: one that is no address.
    pub fn ips(&self) -> Result<Vec<IpAddr>, Error> {
        let address = |text: &str| text.parse().ok().or_else(|| cidr(text).map(|network| network.ip()));
        self.list("IP", address, |text| Fault::ArgsAddress {
            pair: self.pair_text("IP"),
            value: text.to_owned(),
        })
    }

    /// `IP` as static reads it: addresses with their prefix length, separated by commas.
    ///
    /// # Errors
    /// Code 4: one that is not in CIDR notation.
    pub fn ip_networks(&self) -> Result<Vec<IpNetwork>, Error> {
        self.list("IP", cidr, |text| Fault::ArgsCidr { value: text.to_owned() })
    }

    /// `GATEWAY`: addresses separated by commas.
    ///
    /// # Errors
    /// Code 4: one that is no address.
    pub fn gateways(&self) -> Result<Vec<IpAddr>, Error> {
        let address = |text: &str| text.parse().ok();
        self.list("GATEWAY", address, |text| Fault::ArgsGateway { value: text.to_owned() })
    }

    fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Option<T>,
        refusal: impl Fn(&str) -> Fault,
    ) -> Result<Vec<T>, Error> {
        let items = self.get(key).into_iter().flat_map(|value| value.split(','));
        items.map(|item| read(item.trim()).ok_or_else(|| refusal(item).into())).collect()
    }

    fn pair_text(&self, key: &str) -> String {
        format!("{key}={}", self.get(key).unwrap_or_default())
    }

    fn ignores_unknown(&self) -> Result<bool, Fault> {
        let mut ignores = false;
        for (key, value) in self.pairs.iter().filter(|(key, _)| key == "IgnoreUnknown") {
            ignores = boolean(value)
                .ok_or_else(|| Fault::ArgsBoolean { pair: format!("{key}={value}"), value: value.clone() })?;
        }
        Ok(ignores)
    }

    fn refuse_unknown(&self, known: &[&str]) -> Result<(), Fault> {
        let is_known = |key: &str| OWNED.contains(&key) || known.contains(&key) || key.starts_with("K8S_");
        let unknown = self.pairs.iter().filter(|(key, _)| !is_known(key));
        let pairs: Vec<_> = unknown.map(|(key, value)| format!("{key}={value}")).collect();
        if pairs.is_empty() { Ok(()) } else { Err(Fault::ArgsUnknown { pairs }) }
    }
}

fn pair(part: &str) -> Result<(String, String), Fault> {
    match part.split_once('=') {
        Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Fault::ArgsPair { pair: part.to_owned() }),
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> String {
        let error = Args::parse(text, &[]).unwrap_err();
        assert_eq!((error.code, error.details.as_str()), (4, "CNI_ARGS"));
        error.msg
    }

    #[test]
    fn podman_gives_name_mac_and_address() {
        let text = "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:09;IP=10.77.0.9";
        let args = Args::parse(text, &[]).unwrap();
        assert_eq!(args.k8s_pod_name(), Some("web"));
        assert_eq!(args.mac(), Some("02:00:00:00:00:09"));
        assert_eq!(args.ips().unwrap(), ["10.77.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(args.k8s_pod_namespace(), None);
    }

    #[test]
    fn no_arguments_are_fine() {
        assert_eq!(Args::parse("", &[]).unwrap(), Args::default());
    }

    #[test]
    fn a_pair_has_exactly_one_equals_sign() {
        assert_eq!(refusal("x"), r#"ARGS: invalid pair "x""#);
        assert_eq!(refusal("none"), r#"ARGS: invalid pair "none""#);
        assert_eq!(refusal("A=B=C"), r#"ARGS: invalid pair "A=B=C""#);
        assert_eq!(refusal("IP=10.0.0.1;"), r#"ARGS: invalid pair """#);
        assert_eq!(refusal("IgnoreUnknown=1;x"), r#"ARGS: invalid pair "x""#);
    }

    #[test]
    fn unknown_keys_are_reported_together_unless_ignored() {
        assert_eq!(refusal("K=V"), r#"ARGS: unknown args ["K=V"]"#);
        assert_eq!(refusal("K=V;IP=1.2.3.4;NOMAD_X=1"), r#"ARGS: unknown args ["K=V" "NOMAD_X=1"]"#);
        assert_eq!(refusal("K=V;IgnoreUnknown=0"), r#"ARGS: unknown args ["K=V"]"#);
        for yes in ["1", "true", "TRUE", "True"] {
            assert!(Args::parse(&format!("K=V;IgnoreUnknown={yes}"), &[]).is_ok(), "{yes}");
        }
        assert!(Args::parse("K=V", &["K"]).is_ok());
    }

    #[test]
    fn ignore_unknown_is_a_boolean() {
        let expected = r#"ARGS: error parsing value of pair "IgnoreUnknown=yes": boolean unmarshal error: invalid input yes"#;
        assert_eq!(refusal("IgnoreUnknown=yes"), expected);
    }

    #[test]
    fn keys_of_sibling_plugins_are_never_unknown() {
        for text in ["MAC=02:00:00:00:00:09", "IP=10.0.0.1", "GATEWAY=10.0.0.1", "K8S_POD_UID=7"] {
            assert!(Args::parse(text, &[]).is_ok(), "{text}");
        }
    }

    #[test]
    fn keys_are_case_sensitive() {
        assert_eq!(refusal("ip=10.0.0.1"), r#"ARGS: unknown args ["ip=10.0.0.1"]"#);
    }

    #[test]
    fn addresses_are_read_as_each_ipam_plugin_does() {
        let args = Args::parse("IP=10.0.0.5/24,fd00::5/64;GATEWAY=10.0.0.1,fd00::1", &[]).unwrap();
        let texts = |list: Vec<IpAddr>| list.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(texts(args.ips().unwrap()), ["10.0.0.5", "fd00::5"]);
        assert_eq!(texts(args.gateways().unwrap()), ["10.0.0.1", "fd00::1"]);
        let networks = args.ip_networks().unwrap();
        assert_eq!(
            networks.iter().map(IpNetwork::to_string).collect::<Vec<_>>(),
            ["10.0.0.5/24", "fd00::5/64"]
        );
    }

    #[test]
    fn wrong_addresses_are_named() {
        let args = Args::parse("IP=10.0.0.1,bad;GATEWAY=x", &[]).unwrap();
        let expected = r#"ARGS: error parsing value of pair "IP=10.0.0.1,bad": invalid IP address bad"#;
        assert_eq!(args.ips().unwrap_err().msg, expected);
        let expected = "the 'ip' field is expected to be in CIDR notation, got: '10.0.0.1'";
        assert_eq!(args.ip_networks().unwrap_err().msg, expected);
        assert_eq!(args.gateways().unwrap_err().msg, "invalid gateway address: x");
    }

    #[test]
    fn an_empty_value_counts_as_missing_and_the_last_of_two_wins() {
        let args = Args::parse("MAC=;IP=10.0.0.1;IP=10.0.0.2", &[]).unwrap();
        assert_eq!(args.mac(), None);
        assert_eq!(args.get("IP"), Some("10.0.0.2"));
    }

    #[test]
    fn on_del_bad_arguments_are_no_error() {
        let call = |verb| Call {
            verb,
            container_id: "c1".to_owned(),
            netns: String::new(),
            ifname: "eth0".to_owned(),
            args: "x;K=V;MAC=02:00:00:00:00:01;".to_owned(),
            path: Vec::new(),
            netns_override: false,
            own_delegates: false,
        };
        assert_eq!(Args::of(&call(Verb::Del), &[]).unwrap().mac(), Some("02:00:00:00:00:01"));
        assert!(Args::of(&call(Verb::Add), &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_as_the_environment(text in "[A-Za-z0-9=;,./: ]{0,40}") {
            match Args::parse(&text, &[]) {
                Ok(args) => {
                    let _ = (args.ips(), args.ip_networks(), args.gateways());
                }
                Err(error) => prop_assert_eq!(error.code, 4),
            }
        }
    }
}
