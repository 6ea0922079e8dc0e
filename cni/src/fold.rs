//! A serde deserializer over JSON values that matches the keys of struct fields without regard to case.
//!
//! Configurations are written for Go, whose decoder takes `RuntimeConfig` or `isgateway` as well; containerd
//! even sends `HostPort` where podman sends `hostPort`. Here a struct's field takes the key of its exact spelling,
//! otherwise the last one that differs in ASCII case only; `null` is the same as a missing key. The keys of maps
//! (sysctl, labels) are data and stay as they are.
//!
//! serde tells a deserializer the field names of plain structs only: types with `#[serde(flatten)]` and
//! untagged or internally tagged enums see their keys as written.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// Reads a `T` from `value`.
///
/// # Errors
/// The key at fault, as a path (`ipam.ranges[0][1].subnet`), and what is wrong with its value.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(Fold(value))
}

/// The member of a JSON object that a struct field named `key` would take: never `null`.
pub fn member<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let exact = object.get(key).filter(|value| !value.is_null());
    exact.or_else(|| {
        let folded = |(name, value): &(&String, &Value)| name.eq_ignore_ascii_case(key) && !value.is_null();
        object.iter().rev().find(folded).map(|(_, value)| value)
    })
}

/// A value of the wrong kind, and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    path: String,
    message: String,
}

impl Error {
    /// The same error seen from one level further out.
    fn below(mut self, step: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path.insert_str(0, separator);
        self.path.insert_str(0, step);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error { path: String::new(), message: message.to_string() }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        de::Error::custom(error)
    }
}

/// One value, read with folded keys.
#[derive(Clone, Copy)]
struct Fold<'de>(&'de Value);

impl<'de> de::Deserializer<'de> for Fold<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter(), position: 0 }),
            Value::Object(object) => visitor.visit_map(Entries::all(object)),
            scalar => Ok(scalar.deserialize_any(visitor)?),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(object) => {
                visitor.visit_map(Fields { object, fields: fields.iter(), current: None })
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(object) => visitor.visit_map(Entries::set(object)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        Ok(self.0.deserialize_enum(name, variants, visitor)?)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct identifier
    }
}

/// The elements of an array.
struct Items<'de> {
    items: std::slice::Iter<'de, Value>,
    position: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let element = seed.deserialize(Fold(item)).map_err(|e| e.below(&format!("[{}]", self.position)))?;
        self.position += 1;
        Ok(Some(element))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// The members of an object read as a struct: one per field that is set.
struct Fields<'de> {
    object: &'de Map<String, Value>,
    fields: std::slice::Iter<'static, &'static str>,
    current: Option<(&'static str, &'de Value)>,
}

impl<'de> de::MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.fields.by_ref().find_map(|field| Some((*field, member(self.object, field)?)));
        let Some((field, _)) = self.current else { return Ok(None) };
        let key: StrDeserializer<'_, Error> = field.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        value_of(self.current.take(), seed)
    }
}

/// The members of an object read as a map.
struct Entries<'de> {
    entries: serde_json::map::Iter<'de>,
    keep_null: bool,
    current: Option<(&'de str, &'de Value)>,
}

impl<'de> Entries<'de> {
    /// Every member, for readers that take any JSON.
    fn all(object: &'de Map<String, Value>) -> Self {
        Entries { entries: object.iter(), keep_null: true, current: None }
    }

    /// Every member that is not `null`.
    fn set(object: &'de Map<String, Value>) -> Self {
        Entries { keep_null: false, ..Entries::all(object) }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let keep_null = self.keep_null;
        let next = self.entries.find(|(_, value)| keep_null || !value.is_null());
        self.current = next.map(|(key, value)| (key.as_str(), value));
        let Some((key, _)) = self.current else { return Ok(None) };
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        value_of(self.current.take(), seed)
    }
}

fn value_of<'de, T: DeserializeSeed<'de>>(
    current: Option<(&str, &'de Value)>,
    seed: T,
) -> Result<T::Value, Error> {
    let Some((key, value)) = current else {
        return Err(de::Error::custom("a value was read before its key"));
    };
    seed.deserialize(Fold(value)).map_err(|error| error.below(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Bridge {
        is_gateway: bool,
        mtu: Option<u32>,
        sysctl: BTreeMap<String, String>,
        ipam: Ipam,
        port_mappings: Vec<Mapping>,
        raw: Value,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Ipam {
        #[serde(rename = "type")]
        kind: String,
        ranges: Vec<Vec<Mapping>>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Mapping {
        host_port: u16,
        #[serde(rename = "hostIP")]
        host_ip: Option<String>,
    }

    fn bridge(value: Value) -> Bridge {
        from_value(&value).unwrap()
    }

    #[test]
    fn keys_of_structs_match_in_any_case_at_every_level() {
        let read = bridge(json!({
            "ISGATEWAY": true, "Mtu": 1400, "IPAM": {"Type": "host-local", "RANGES": [[{"hostport": 3}]]},
            "PortMappings": [{"HostPort": 8080, "HostIP": ""}],
        }));
        let mapping =
            |host_port, host_ip: Option<&str>| Mapping { host_port, host_ip: host_ip.map(str::to_owned) };
        assert_eq!(
            read,
            Bridge {
                is_gateway: true,
                mtu: Some(1400),
                ipam: Ipam { kind: "host-local".to_owned(), ranges: vec![vec![mapping(3, None)]] },
                port_mappings: vec![mapping(8080, Some(""))],
                ..Bridge::default()
            }
        );
    }

    #[test]
    fn the_exact_spelling_wins_over_any_other() {
        assert_eq!(bridge(json!({"mtu": 1, "MTU": 2})).mtu, Some(1));
        assert_eq!(bridge(json!({"MTU": 2, "mtu": 1})).mtu, Some(1));
        assert_eq!(bridge(json!({"MTU": 2, "Mtu": 3})).mtu, Some(3));
    }

    #[test]
    fn null_is_unset() {
        let read =
            bridge(json!({"mtu": null, "MTU": 5, "isGateway": null, "ipam": null, "portMappings": null}));
        assert_eq!(read, Bridge { mtu: Some(5), ..Bridge::default() });
        assert_eq!(bridge(json!({"sysctl": {"a": null, "b": "1"}})).sysctl.len(), 1);
    }

    #[test]
    fn keys_of_maps_stay_as_they_are() {
        let sysctl = bridge(json!({"SysCtl": {"net.ipv4.Conf": "1", "NET.ipv4.conf": "2"}})).sysctl;
        assert_eq!(sysctl["net.ipv4.Conf"], "1");
        assert_eq!(sysctl["NET.ipv4.conf"], "2");
    }

    #[test]
    fn a_raw_value_is_kept_whole() {
        let raw = json!({"A": null, "b": [1, {"C": 2.5}], "d": "x"});
        assert_eq!(bridge(json!({"RAW": raw})).raw, raw);
    }

    #[test]
    fn unknown_keys_are_ignored() {
        assert_eq!(bridge(json!({"nerdctlID": 7, "args": {"podman_options": null}})), Bridge::default());
    }

    #[test]
    fn an_error_says_where() {
        let refused = |value| from_value::<Bridge>(&value).unwrap_err().to_string();
        assert_eq!(
            refused(json!({"ipam": {"ranges": [[], [{"hostPort": 1}, {"hostPort": "x"}]]}})),
            r#"ipam.ranges[1][1].hostPort: invalid type: string "x", expected u16"#
        );
        assert_eq!(refused(json!({"mtu": -1})), "mtu: invalid value: integer `-1`, expected u32");
        assert_eq!(refused(json!(7)), "invalid type: integer `7`, expected struct Bridge");
    }

    #[test]
    fn members_are_found_as_fields_are() {
        let value = json!({"Name": "a", "cniversion": null});
        let object = value.as_object().unwrap();
        assert_eq!(member(object, "name"), Some(&json!("a")));
        assert_eq!(member(object, "cniVersion"), None);
        assert_eq!(member(object, "type"), None);
    }

    /// The same document with the case of every struct key chosen by the bits of `seed`.
    fn recase(value: &Value, seed: &mut impl Iterator<Item = bool>) -> Value {
        match value {
            Value::Array(items) => items.iter().map(|item| recase(item, seed)).collect(),
            Value::Object(object) => {
                object.iter().map(|(key, value)| (flip(key, seed), recase(value, seed))).collect()
            }
            scalar => scalar.clone(),
        }
    }

    fn flip(key: &str, seed: &mut impl Iterator<Item = bool>) -> String {
        let chosen = |c: char, up| if up { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        key.chars().map(|c| chosen(c, seed.next() == Some(true))).collect()
    }

    proptest! {
        #[test]
        fn any_case_of_keys_gives_the_same_struct(
            bits in prop::collection::vec(any::<bool>(), 64), gateway: bool, mtu: Option<u32>, ports: Vec<u16>,
        ) {
            let mappings = ports.iter().map(|port| json!({"hostPort": port, "hostIP": "::"})).collect::<Value>();
            let plain = json!({
                "isGateway": gateway, "mtu": mtu, "portMappings": mappings,
                "ipam": {"type": "host-local", "ranges": [mappings]},
            });
            let recased = recase(&plain, &mut bits.into_iter().cycle());
            prop_assert_eq!(bridge(recased), bridge(plain));
        }
    }
}
