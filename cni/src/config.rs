//! The configuration on stdin: what every plugin needs of it, and the way to a plugin's own keys (CNI specification,
//! section 1).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::call::{Verb, is_name};
use crate::error::{Error, kind};
use crate::fault::Fault;
use crate::fold;
use crate::result::CniResult;
use crate::version::{Numbers, Version};

/// One whole configuration, with the members that all plugins share already read.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `name`: the network.
    pub name: String,
    /// `cniVersion`: the version that the result is printed in.
    pub cni_version: Version,
    /// `type`: the plugin's file name, perhaps with a prefix; empty if missing.
    pub plugin_type: String,
    /// The whole document, as a delegate must get it.
    pub raw: Value,
    attachments: Option<Vec<Attachment>>,
}

/// One attachment that is still valid, as GC receives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its interface.
    pub ifname: String,
}

impl Config {
    /// Reads a configuration from its JSON text.
    ///
    /// # Errors
    /// Code 6: no JSON object; 7: no proper `name`; 1: an unsupported `cniVersion`.
    pub fn parse(json: &[u8]) -> Result<Config, Error> {
        Draft::parse(json)?.finish(None)
    }

    /// Takes a configuration that was built in this process; see [`Config::parse`].
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn from_value(raw: Value) -> Result<Config, Error> {
        Draft::new(raw)?.finish(None)
    }

    /// The whole configuration as a plugin's own struct; keys match as [`fold`] says.
    ///
    /// # Errors
    /// Code 7: a value of the wrong kind, with the path to it.
    pub fn section<T: DeserializeOwned>(&self) -> Result<T, Error> {
        read(&self.raw)
    }

    /// The runtime's part of the configuration, `{}` if there is none; keys match as [`fold`] says.
    ///
    /// # Errors
    /// Code 7: a value of the wrong kind, with the path to it.
    pub fn runtime_config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match self.get("runtimeConfig") {
            Some(value) => read(value).map_err(|error| error.context("runtimeConfig: ")),
            None => read(&Value::Object(Map::new())),
        }
    }

    /// The member named `key`, its case folded; `None` if it is missing or `null`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        fold::member(self.raw.as_object()?, key)
    }

    /// The result of the plugins before this one, or of the whole ADD on DEL and CHECK. It is parsed only here, because
    /// plugins that create interfaces must not fail on it.
    ///
    /// # Errors
    /// Code 999: it is of a version that is written differently; 6: it is no result.
    pub fn prev_result(&self) -> Result<Option<CniResult>, Error> {
        let Some(value) = self.get("prevResult") else { return Ok(None) };
        let result = CniResult::parse(value, self.cni_version);
        result.map(Some).map_err(|error| error.context("could not parse prevResult: "))
    }

    /// The attachments that GC must spare: `cni.dev/valid-attachments`, or, if it is missing, `cni.dev/attachments`. `None` means
    /// that the runtime said nothing, which is not the same as "no attachment is valid".
    pub fn valid_attachments(&self) -> Option<Vec<Attachment>> {
        self.attachments.clone()
    }
}

/// A configuration between its first checks and those that depend on the verb.
pub(crate) struct Draft {
    raw: Map<String, Value>,
    name: String,
}

impl Draft {
    /// Steps 5 and 6 of the validation order, from the text.
    pub(crate) fn parse(json: &[u8]) -> Result<Draft, Fault> {
        Draft::new(serde_json::from_slice(json).map_err(|source| Fault::Json { source })?)
    }

    fn new(raw: Value) -> Result<Draft, Fault> {
        let Value::Object(raw) = raw else { return Err(Fault::NotAnObject { found: kind(&raw) }) };
        let name = string(&raw, "name")?.to_owned();
        if name.is_empty() {
            return Err(Fault::NameMissing);
        }
        if !is_name(&name) {
            return Err(Fault::NameCharacters { name });
        }
        Ok(Draft { raw, name })
    }

    /// Step 8; without a verb, only what all verbs require.
    pub(crate) fn finish(self, verb: Option<Verb>) -> Result<Config, Error> {
        let text = version_text(&self.raw)?;
        if let Some(verb) = verb {
            check_verb(verb, text)?;
        }
        let cni_version = text.parse()?;
        let plugin_type = string(&self.raw, "type")?.to_owned();
        let attachments = attachments(&self.raw)?;
        Ok(Config { name: self.name, cni_version, plugin_type, raw: Value::Object(self.raw), attachments })
    }
}

/// A missing or empty `cniVersion` is 0.1.0: the key came with 0.2.0.
fn version_text(raw: &Map<String, Value>) -> Result<&str, Fault> {
    match fold::member(raw, "cniVersion") {
        None => Ok("0.1.0"),
        Some(Value::String(text)) if text.is_empty() => Ok("0.1.0"),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(Fault::VersionType { found: kind(other) }),
    }
}

/// CHECK came with 0.4.0, STATUS and GC with 1.1.0.
fn check_verb(verb: Verb, config: &str) -> Result<(), Fault> {
    let since = match verb {
        Verb::Check => Version::V0_4_0,
        Verb::Status | Verb::Gc => Version::V1_1_0,
        Verb::Add | Verb::Del | Verb::Version => return Ok(()),
    };
    let config: Numbers = config.parse()?;
    if config < since.numbers() {
        return Err(Fault::ConfigTooOld { verb });
    }
    if config > Version::LATEST.numbers() {
        return Err(Fault::PluginTooOld { verb });
    }
    Ok(())
}

fn string<'a>(raw: &'a Map<String, Value>, key: &'static str) -> Result<&'a str, Fault> {
    match fold::member(raw, key) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(Fault::NotAString { key, found: kind(other) }),
    }
}

fn attachments(raw: &Map<String, Value>) -> Result<Option<Vec<Attachment>>, Fault> {
    // libcni sends the list twice: the second name is that of its first drafts.
    let list =
        fold::member(raw, "cni.dev/valid-attachments").or_else(|| fold::member(raw, "cni.dev/attachments"));
    list.map(fold::from_value).transpose().map_err(|source| Fault::Section { source })
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    fold::from_value(value).map_err(|source| Fault::Section { source }.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn config(value: Value) -> Config {
        Config::parse(value.to_string().as_bytes()).unwrap()
    }

    fn refusal(json: &str) -> Error {
        Config::parse(json.as_bytes()).unwrap_err()
    }

    fn for_verb(verb: Verb, cni_version: Value) -> Result<(), Error> {
        let text = json!({"name": "n", "cniVersion": cni_version}).to_string();
        Draft::parse(text.as_bytes())?.finish(Some(verb)).map(|_| ())
    }

    #[test]
    fn a_podman_bridge_is_read() {
        let raw = json!({"cniVersion": "0.4.0", "name": "mynet", "type": "bridge", "bridge": "cni-podman1"});
        let config = config(raw.clone());
        assert_eq!((config.name.as_str(), config.plugin_type.as_str()), ("mynet", "bridge"));
        assert_eq!(config.cni_version, Version::V0_4_0);
        assert_eq!(config.raw, raw);
        assert_eq!(config.prev_result().unwrap(), None);
        assert_eq!(config.valid_attachments(), None);
    }

    #[test]
    fn a_config_is_a_json_object() {
        let error = refusal("");
        assert_eq!(error.code, 6);
        assert_eq!(
            error.msg,
            "error unmarshall network config: EOF while parsing a value at line 1 column 0"
        );
        let expected =
            Error::new(6, "error unmarshall network config: expected a JSON object, found an array");
        assert_eq!(refusal("[]"), expected);
        assert_eq!(refusal("{\"name\":\"a\"} x").code, 6);
    }

    #[test]
    fn a_config_has_a_proper_name() {
        for json in ["{}", r#"{"name":""}"#, r#"{"name":null}"#] {
            assert_eq!(refusal(json), Error::new(7, "missing network name"));
        }
        let expected = Error::new(7, "invalid characters found in network name").with_details("a/../b");
        assert_eq!(refusal(r#"{"name":"a/../b"}"#), expected);
        let expected = Error::new(6, "error unmarshall network config: name is a number, not a string");
        assert_eq!(refusal(r#"{"name":7}"#), expected);
    }

    #[test]
    fn a_missing_or_empty_version_is_the_oldest() {
        for raw in [
            json!({"name": "n"}),
            json!({"name": "n", "cniVersion": ""}),
            json!({"name": "n", "cniVersion": null}),
        ] {
            assert_eq!(config(raw).cni_version, Version::V0_1_0);
        }
    }

    #[test]
    fn keys_match_in_any_case() {
        let read = config(json!({"NAME": "n", "CNIVERSION": "1.0.0", "Type": "bridge"}));
        assert_eq!((read.name.as_str(), read.plugin_type.as_str()), ("n", "bridge"));
        assert_eq!(read.cni_version, Version::V1_0_0);
    }

    #[test]
    fn only_exact_versions_are_compatible() {
        let expected = Error::new(1, "incompatible CNI versions").with_details(concat!(
            r#"config is "9.0.0", plugin supports "#,
            r#"["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#
        ));
        assert_eq!(for_verb(Verb::Add, json!("9.0.0")), Err(expected));
        for (verb, text) in [(Verb::Add, "1.0"), (Verb::Del, "1"), (Verb::Check, "1.0"), (Verb::Add, "x")] {
            assert_eq!(for_verb(verb, json!(text)).unwrap_err().msg, "incompatible CNI versions");
        }
    }

    #[test]
    fn a_version_is_a_string_of_numbers() {
        let expected =
            Error::new(6, "decoding version from network config: cniVersion is a number, not a string");
        assert_eq!(for_verb(Verb::Add, json!(1.0)), Err(expected));
        for verb in [Verb::Check, Verb::Status, Verb::Gc] {
            let expected = concat!(
                "decoding version from network config: ",
                r#"invalid version "1.x": expected one to three numbers"#
            );
            assert_eq!(for_verb(verb, json!("1.x")), Err(Error::new(6, expected)));
        }
    }

    #[test]
    fn newer_verbs_need_newer_configs() {
        let too_old = |verb: &str| Err(Error::new(1, format!("config version does not allow {verb}")));
        assert_eq!(for_verb(Verb::Check, json!("0.3.1")), too_old("CHECK"));
        assert_eq!(for_verb(Verb::Status, json!("1.0.0")), too_old("STATUS"));
        assert_eq!(for_verb(Verb::Gc, json!("1.0")), too_old("GC"));
        assert_eq!(for_verb(Verb::Gc, json!("")), too_old("GC"));
        for verb in [Verb::Check, Verb::Status, Verb::Gc] {
            assert_eq!(for_verb(verb, json!("1.1.0")), Ok(()));
        }
        assert_eq!(for_verb(Verb::Check, json!("0.4.0")), Ok(()));
    }

    #[test]
    fn a_config_newer_than_the_plugin_is_refusal() {
        for (verb, text) in [(Verb::Check, "CHECK"), (Verb::Gc, "GC"), (Verb::Status, "STATUS")] {
            let expected = Error::new(1, format!("plugin version does not allow {text}"));
            assert_eq!(for_verb(verb, json!("1.1.1")), Err(expected.clone()));
            assert_eq!(for_verb(verb, json!("2")), Err(expected));
        }
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Own {
        mtu: u32,
        sysctl: BTreeMap<String, String>,
        port_mappings: Vec<BTreeMap<String, Value>>,
    }

    #[test]
    fn a_plugin_reads_its_own_keys() {
        let own: Own =
            config(json!({"name": "n", "MTU": 9000, "sysctl": {"A": "1"}, "stray": {}})).section().unwrap();
        assert_eq!((own.mtu, own.sysctl["A"].as_str()), (9000, "1"));
    }

    #[test]
    fn a_wrong_value_is_reported_with_its_key() {
        let error = config(json!({"name": "n", "mtu": "big"})).section::<Own>().unwrap_err();
        let expected = r#"failed to load netconf: mtu: invalid type: string "big", expected u32"#;
        assert_eq!(error, Error::new(7, expected));
    }

    #[test]
    fn the_runtime_config_may_be_missing() {
        let given = config(json!({"name": "n", "RuntimeConfig": {"PortMappings": [{"HostPort": 80}]}}));
        assert_eq!(given.runtime_config::<Own>().unwrap().port_mappings.len(), 1);
        for raw in [json!({"name": "n"}), json!({"name": "n", "runtimeConfig": null})] {
            assert_eq!(config(raw).runtime_config::<Own>().unwrap(), Own::default());
        }
    }

    #[test]
    fn valid_attachments_come_under_either_name() {
        let one = vec![Attachment { container_id: "c1".to_owned(), ifname: "eth0".to_owned() }];
        let entry = json!([{"containerID": "c1", "ifname": "eth0"}]);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            assert_eq!(config(json!({"name": "n", key: entry})).valid_attachments(), Some(one.clone()));
        }
        let both = json!({"name": "n", "cni.dev/attachments": entry, "cni.dev/valid-attachments": []});
        assert_eq!(config(both).valid_attachments(), Some(Vec::new()));
    }

    #[test]
    fn an_empty_list_of_attachments_is_not_a_missing_one() {
        let list = |value: Value| {
            config(json!({"name": "n", "cni.dev/valid-attachments": value})).valid_attachments()
        };
        assert_eq!(list(json!([])), Some(Vec::new()));
        assert_eq!(list(Value::Null), None);
        assert_eq!(refusal(r#"{"name":"n","cni.dev/valid-attachments":[{"ifname":"eth0"}]}"#).code, 7);
    }

    #[test]
    fn a_prev_result_is_read_in_the_config_s_version() {
        let read = config(json!({
            "name": "n", "cniVersion": "0.4.0",
            "prevResult": {"ips": [{"version": "4", "address": "10.0.0.2/24"}]},
        }));
        assert_eq!(read.prev_result().unwrap().unwrap().ips[0].address.to_string(), "10.0.0.2/24");
    }

    #[test]
    fn a_prev_result_of_another_format_is_refused_when_asked_for() {
        let read = config(json!({"name": "n", "cniVersion": "1.0.0", "prevResult": {"cniVersion": "0.3.1"}}));
        let expected = concat!(
            "could not parse prevResult: result type supports [1.0.0 1.1.0] ",
            r#"but unmarshalled CNIVersion is "0.3.1""#
        );
        assert_eq!(read.prev_result(), Err(Error::new(999, expected)));
    }
}
