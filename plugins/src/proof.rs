//! What a record keeps of the configuration that an attachment was made from: by it a DEL finds the attachment of a network that
//! was renamed meanwhile.

use cni::Request;
use serde_json::Value;
use store::NetworkKey;

/// What a configuration has besides the definition: the name, and what the runtime adds call by call.
const VOLATILE: [&str; 5] = ["name", "cniVersion", "prevResult", "runtimeConfig", "args"];

/// The members of a GC call begin so.
const OF_GC: &str = "cni.dev/";

/// A digest of the configuration without what changes call by call: 16 hex digits.
pub fn by_definition(request: &Request<'_>) -> Option<String> {
    let members = request.config.raw.as_object()?.iter();
    let lasting = members.filter(|(key, _)| !VOLATILE.contains(&key.as_str()) && !key.starts_with(OF_GC));
    let mut lines: Vec<String> = lasting.map(|(key, value)| format!("{key}={}", sorted(value))).collect();
    lines.sort_unstable();
    Some(NetworkKey::new(&lines.join("\n")).as_str().to_owned())
}

/// JSON whose members are in order: others may have written it anew.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(key, value)| format!("{key:?}:{}", sorted(value))).collect();
            members.sort_unstable();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_in_another_order_are_the_same_and_other_values_are_not() {
        let of = |text: &str| sorted(&serde_json::from_str(text).unwrap());

        assert_eq!(of(r#"{"a":[1,{"b":2,"c":3}],"d":"x"}"#), of(r#"{"d":"x","a":[1,{"c":3,"b":2}]}"#));
        assert_ne!(of(r#"{"a":[1,2]}"#), of(r#"{"a":[2,1]}"#));
    }
}
