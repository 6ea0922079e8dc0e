//! The error that a caller reads, its codes and its JSON (CNI specification, section 5: error).

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The codes of the specification (section 5); 0-99 are reserved for it, rnet's own begin at 100.
pub mod code {
    /// The configuration's version is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A key is known but its value is not supported; the message names both.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime may then skip DEL.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A variable of the environment is missing or malformed.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// What was read could not be decoded.
    pub const DECODING_FAILURE: u32 = 6;
    /// The network configuration is wrong.
    pub const INVALID_NETWORK_CONFIG: u32 = 7;
    /// The network namespace is wrong.
    pub const INVALID_NETNS: u32 = 8;
    /// It may work later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: no ADD can be served now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: no ADD can be served now, and running containers suffer too.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Any other failure.
    pub const INTERNAL: u32 = 999;
}

/// An error as it crosses the process boundary: what libcni decodes from stdout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Error {
    /// One of [`code`], or 100 and above.
    pub code: u32,
    /// The message: one sentence.
    pub msg: String,
    /// What a person may need besides the message; may be empty.
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Error { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with `details` after its message.
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Error { details: details.into(), ..self }
    }

    /// The same error with `more` after the details it has.
    pub fn and(self, more: &str) -> Self {
        let details =
            if self.details.is_empty() { more.to_owned() } else { format!("{}; {more}", self.details) };
        Error { details, ..self }
    }

    /// The same error, its message preceded by `prefix` (e.g. `failed to parse config: `).
    pub fn context(self, prefix: &str) -> Self {
        Error { msg: format!("{prefix}{}", self.msg), ..self }
    }

    /// The error JSON of the specification; `details` is omitted when empty.
    pub fn to_json(&self, cni_version: &str) -> Value {
        let mut json = Map::new();
        json.insert("cniVersion".to_owned(), cni_version.into());
        json.insert("code".to_owned(), self.code.into());
        json.insert("msg".to_owned(), self.msg.as_str().into());
        if !self.details.is_empty() {
            json.insert("details".to_owned(), self.details.as_str().into());
        }
        Value::Object(json)
    }
}

impl fmt::Display for Error {
    /// `msg; details`, as the callers show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.msg.as_str(), self.details.as_str()) {
            (msg, "") => f.write_str(msg),
            ("", details) => f.write_str(details),
            (msg, details) => write!(f, "{msg}; {details}"),
        }
    }
}

impl std::error::Error for Error {}

/// The JSON type of `value`, with its article.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretty;

    #[test]
    fn error_json_has_four_blanks_no_final_newline_and_no_empty_details() {
        let error = Error::new(7, "missing network name");
        let expected =
            "{\n    \"cniVersion\": \"1.1.0\",\n    \"code\": 7,\n    \"msg\": \"missing network name\"\n}";
        assert_eq!(pretty(&error.to_json("1.1.0")), expected);
    }

    #[test]
    fn details_follow_the_message_in_json_and_in_text() {
        let error = Error::new(100, "no address").with_details("172.18.0.0/30 is full");
        assert_eq!(
            error.to_json("0.4.0").to_string(),
            r#"{"cniVersion":"0.4.0","code":100,"msg":"no address","details":"172.18.0.0/30 is full"}"#
        );
        assert_eq!(error.to_string(), "no address; 172.18.0.0/30 is full");
        assert_eq!(Error::new(5, "no details").to_string(), "no details");
    }

    #[test]
    fn a_context_precedes_the_message_and_keeps_the_rest() {
        let error = Error::new(7, "bad port").with_details("80000").context("failed to parse config: ");
        assert_eq!(error, Error::new(7, "failed to parse config: bad port").with_details("80000"));
    }

    #[test]
    fn the_codes_are_those_of_the_specification() {
        use code::*;
        let codes = [
            INCOMPATIBLE_VERSION,
            UNSUPPORTED_FIELD,
            UNKNOWN_CONTAINER,
            INVALID_ENVIRONMENT,
            IO_FAILURE,
            DECODING_FAILURE,
            INVALID_NETWORK_CONFIG,
            INVALID_NETNS,
            TRY_AGAIN_LATER,
            NOT_AVAILABLE,
            LIMITED_CONNECTIVITY,
            INTERNAL,
        ];
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51, 999]);
    }
}
