//! Every fault this crate can report, its code and its text, and the error JSON that a caller reads (CNI specification, section 5: error).

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::call::Verb;
use crate::fold;
use crate::version::{Version, supported};

/// What went wrong, with the values a person needs; [`Fault::code`] and [`Fault::details`] complete it to an [`Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// CNI_CONTAINERID is outside the grammar.
    #[error("invalid characters in containerID")]
    ContainerId {
        /// What was given.
        value: String,
    },
    /// CNI_IFNAME has more than 15 bytes.
    #[error("interface name is too long")]
    IfnameTooLong {
        /// What was given.
        value: String,
    },
    /// CNI_IFNAME names a directory.
    #[error("interface name is . or ..")]
    IfnameDots {
        /// What was given.
        value: String,
    },
    /// CNI_IFNAME has characters that the kernel refuses.
    #[error("interface name contains / or : or whitespace characters")]
    IfnameCharacters {
        /// What was given.
        value: String,
    },
    /// CNI_IFNAME has characters that programs after us would read as more than a name.
    #[error(
        "interface name contains control or non-ASCII characters or one of \" * \\ $ ; `, or begins with -"
    )]
    IfnameUnsafe {
        /// What was given.
        value: String,
    },
    /// Variables that the verb requires are unset or empty.
    #[error("required env variables [{}] missing", names.join(","))]
    VariablesMissing {
        /// Their names, in the order of the specification.
        names: Vec<&'static str>,
    },
    /// CNI_COMMAND is none of the six verbs.
    #[error("unknown CNI_COMMAND: {command}")]
    UnknownCommand {
        /// What was given.
        command: String,
    },

    /// A part of CNI_ARGS has not exactly one `=`.
    #[error("ARGS: invalid pair {pair:?}")]
    ArgsPair {
        /// The part between two semicolons.
        pair: String,
    },
    /// `IgnoreUnknown` is no boolean.
    #[error("ARGS: error parsing value of pair {pair:?}: boolean unmarshal error: invalid input {value}")]
    ArgsBoolean {
        /// The whole pair.
        pair: String,
        /// The text behind the `=`.
        value: String,
    },
    /// A switch in CNI_ARGS is neither on nor off.
    #[error("ARGS: error parsing value of pair {pair:?}: on or off is wanted")]
    ArgsSwitch {
        /// The whole pair.
        pair: String,
    },
    /// An address in CNI_ARGS cannot be read.
    #[error("ARGS: error parsing value of pair {pair:?}: invalid IP address {value}")]
    ArgsAddress {
        /// The whole pair.
        pair: String,
        /// The one address of its list that is wrong.
        value: String,
    },
    /// An address in CNI_ARGS lacks its prefix length.
    #[error("the 'ip' field is expected to be in CIDR notation, got: '{value}'")]
    ArgsCidr {
        /// The one address of the list that is wrong.
        value: String,
    },
    /// A gateway in CNI_ARGS cannot be read.
    #[error("invalid gateway address: {value}")]
    ArgsGateway {
        /// The one address of the list that is wrong.
        value: String,
    },
    /// CNI_ARGS has keys that no plugin knows, and IgnoreUnknown is not set.
    #[error("ARGS: unknown args [{}]", quoted(pairs))]
    ArgsUnknown {
        /// The whole pairs, in their order.
        pairs: Vec<String>,
    },

    /// The configuration could not be read.
    #[error("error reading from stdin: {source}")]
    Stdin {
        /// What the kernel said.
        source: io::Error,
    },
    /// The result could not be written, so it was undone.
    #[error("error writing the result to stdout: {source}")]
    Stdout {
        /// What the kernel said.
        source: io::Error,
    },

    /// The configuration is no JSON.
    #[error("error unmarshall network config: {source}")]
    Json {
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The configuration is JSON, but no object.
    #[error("error unmarshall network config: expected a JSON object, found {found}")]
    NotAnObject {
        /// The JSON type that was found.
        found: &'static str,
    },
    /// A member that must be a string has another type.
    #[error("error unmarshall network config: {key} is {found}, not a string")]
    NotAString {
        /// The member's key.
        key: &'static str,
        /// The JSON type that was found.
        found: &'static str,
    },
    /// `cniVersion` has another type than string.
    #[error("decoding version from network config: cniVersion is {found}, not a string")]
    VersionType {
        /// The JSON type that was found.
        found: &'static str,
    },
    /// `cniVersion` cannot even be compared.
    #[error("decoding version from network config: invalid version {text:?}: expected one to three numbers")]
    VersionNumbers {
        /// What was given.
        text: String,
    },

    /// `name` is missing or empty.
    #[error("missing network name")]
    NameMissing,
    /// `name` is outside the grammar.
    #[error("invalid characters found in network name")]
    NameCharacters {
        /// What was given.
        name: String,
    },
    /// `name` is longer than a folder's, and leases are kept in a folder of that name.
    #[error(
        "network name of {length} bytes: at most {} are possible, because leases are kept in a folder of that name",
        crate::LONGEST_NAME
    )]
    NameLength {
        /// How long it is.
        length: usize,
    },
    /// The plugin's own keys have a value of the wrong kind.
    #[error("failed to load netconf: {source}")]
    Section {
        /// Which key, and what is wrong with it.
        source: fold::Error,
    },

    /// The verb is younger than the configuration's version.
    #[error("config version does not allow {verb}")]
    ConfigTooOld {
        /// CHECK, STATUS or GC.
        verb: Verb,
    },
    /// The configuration's version is newer than any supported one.
    #[error("plugin version does not allow {verb}")]
    PluginTooOld {
        /// CHECK, STATUS or GC.
        verb: Verb,
    },
    /// The configuration's version is none of the supported ones.
    #[error("incompatible CNI versions")]
    Incompatible {
        /// What was given.
        config: String,
    },
    /// CNI_NETNS is the namespace the plugin runs in.
    #[error("plugin's netns and netns from CNI_NETNS should not be the same")]
    OwnNetns {
        /// Why, on DEL, even what the record holds could not be released.
        release: Option<Error>,
    },

    /// A result has no address, but its version cannot do without.
    #[error("cannot convert: no valid IP addresses")]
    NoAddress,
    /// A result is of a version that is written differently.
    #[error("result type supports [{}] but unmarshalled CNIVersion is {found:?}", supported.join(" "))]
    ResultVersion {
        /// The versions that share one format.
        supported: Vec<&'static str>,
        /// The result's own `cniVersion`.
        found: String,
    },
    /// A delegate answered in a version that rnet does not know.
    #[error("unsupported CNI result version {found:?}")]
    ResultUnknown {
        /// The result's `cniVersion`.
        found: String,
    },
    /// A result's members have values of the wrong kind.
    #[error("could not parse result: {source}")]
    ResultShape {
        /// Which member, and what is wrong with it.
        source: fold::Error,
    },
    /// The plugin panicked: a bug, never an answer to some input.
    #[error("the plugin panicked: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },

    /// An `ipam` section without `type`.
    #[error("no plugin name provided")]
    DelegateUnnamed,
    /// A `type` that is no plain file name.
    #[error("invalid plugin name: {name}")]
    DelegateName {
        /// What was given.
        name: String,
    },
    /// CNI_PATH holds no directory.
    #[error("no paths provided")]
    DelegatePaths,
    /// No directory of CNI_PATH holds the plugin.
    #[error("failed to find plugin {name:?} in path [{}]", listed(path))]
    DelegateMissing {
        /// The delegate's type.
        name: String,
        /// The directories that were searched.
        path: Vec<PathBuf>,
    },
    /// The delegate could not be started.
    #[error("cannot run plugin {}: {source}", program.display())]
    DelegateStart {
        /// The delegate's file.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The delegate failed and said nothing.
    #[error("netplugin failed with no error message: {status}")]
    DelegateSilent {
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The delegate failed and wrote to stderr only.
    #[error("netplugin failed: {stderr:?}")]
    DelegateStderr {
        /// What it wrote there.
        stderr: String,
    },
    /// The delegate failed and its stdout is no error JSON.
    #[error("netplugin failed but error parsing its diagnostic message {stdout:?}: {source}")]
    DelegateDiagnostic {
        /// What it wrote there.
        stdout: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The delegate succeeded, but its result is no JSON.
    #[error("plugin {} succeeded but its result cannot be parsed: {source}", program.display())]
    DelegateResult {
        /// The delegate's file.
        program: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },

    /// A configuration file or folder cannot be read.
    #[error("error reading {}: {source}", path.display())]
    ListRead {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A configuration list is no JSON object.
    #[error("error parsing configuration list: {source}")]
    ListJson {
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A member of a configuration list is missing or empty.
    #[error("error parsing configuration list: no {key:?}")]
    ListMissing {
        /// The member's key.
        key: &'static str,
    },
    /// A member of a configuration list has the wrong type.
    #[error("error parsing configuration list: {key:?} is {found}, not {expected}")]
    ListType {
        /// The member's key.
        key: &'static str,
        /// The JSON type that was found.
        found: &'static str,
        /// The JSON type it should have.
        expected: &'static str,
    },
    /// A plugin of a configuration list is no object with a `type`.
    #[error("error parsing configuration list: plugin {index} has no \"type\"")]
    ListPlugin {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// No file in the folder defines the network.
    #[error("no net configuration with name {name:?} in {}", dir.display())]
    ListNotFound {
        /// The network.
        name: String,
        /// The folder.
        dir: PathBuf,
    },
    /// CHECK needs a younger configuration.
    #[error("configuration version {:?} does not support CHECK command", version.as_str())]
    ListCheck {
        /// The list's version.
        version: Version,
    },
    /// The plugins of a list ended without any result.
    #[error("plugin {plugin:?} of network {network:?} printed no result")]
    ListNoResult {
        /// The network.
        network: String,
        /// The plugin's type.
        plugin: String,
    },
}

/// The codes of the specification; 0-99 are reserved to it, rnet's own begin at 100.
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
    /// Anything else.
    pub const INTERNAL: u32 = 999;
}

impl Fault {
    /// The code of the specification for this fault.
    pub fn code(&self) -> u32 {
        use Fault::*;
        match self {
            ContainerId { .. }
            | IfnameTooLong { .. }
            | IfnameDots { .. }
            | IfnameCharacters { .. }
            | IfnameUnsafe { .. }
            | VariablesMissing { .. }
            | UnknownCommand { .. }
            | ArgsPair { .. }
            | ArgsBoolean { .. }
            | ArgsSwitch { .. }
            | ArgsAddress { .. }
            | ArgsCidr { .. }
            | ArgsGateway { .. }
            | ArgsUnknown { .. }
            | DelegatePaths => code::INVALID_ENVIRONMENT,
            Stdin { .. } | Stdout { .. } | DelegateStart { .. } | ListRead { .. } => code::IO_FAILURE,
            Json { .. }
            | NotAnObject { .. }
            | NotAString { .. }
            | VersionType { .. }
            | VersionNumbers { .. }
            | ResultShape { .. }
            | DelegateResult { .. }
            | ListJson { .. } => code::DECODING_FAILURE,
            NameMissing
            | NameCharacters { .. }
            | NameLength { .. }
            | Section { .. }
            | DelegateUnnamed
            | DelegateName { .. }
            | DelegateMissing { .. }
            | ListMissing { .. }
            | ListType { .. }
            | ListPlugin { .. }
            | ListNotFound { .. } => code::INVALID_NETWORK_CONFIG,
            ConfigTooOld { .. } | PluginTooOld { .. } | Incompatible { .. } | ListCheck { .. } => {
                code::INCOMPATIBLE_VERSION
            }
            OwnNetns { .. } => code::INVALID_NETNS,
            NoAddress
            | ResultVersion { .. }
            | ResultUnknown { .. }
            | Panic { .. }
            | DelegateSilent { .. }
            | DelegateStderr { .. }
            | DelegateDiagnostic { .. }
            | ListNoResult { .. } => code::INTERNAL,
        }
    }

    /// What stands behind the message; environment faults name their variable here, as the specification demands.
    pub fn details(&self) -> String {
        use Fault::*;
        match self {
            ContainerId { value } => format!("{value} (CNI_CONTAINERID)"),
            IfnameTooLong { value } => {
                format!("interface name should be less than 16 characters (CNI_IFNAME={value:?})")
            }
            IfnameDots { value } | IfnameCharacters { value } | IfnameUnsafe { value } => {
                format!("CNI_IFNAME={value:?}")
            }
            ArgsPair { .. }
            | ArgsBoolean { .. }
            | ArgsSwitch { .. }
            | ArgsAddress { .. }
            | ArgsCidr { .. }
            | ArgsGateway { .. }
            | ArgsUnknown { .. } => "CNI_ARGS".to_owned(),
            DelegatePaths => "CNI_PATH".to_owned(),
            NameCharacters { name } => name.clone(),
            Incompatible { config } => {
                let known = supported(" ", |version| format!("{version:?}"));
                format!("config is {config:?}, plugin supports [{known}]")
            }
            OwnNetns { release: Some(error) } => error.to_string(),
            _ => String::new(),
        }
    }
}

/// An error as it crosses the process boundary: what libcni decodes from stdout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Error {
    /// One of [`code`], or 100 and above.
    pub code: u32,
    /// The sentence.
    pub msg: String,
    /// What a person may need besides; may be empty.
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Error { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with `details` behind its message.
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

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Error { code: fault.code(), msg: fault.to_string(), details: fault.details() }
    }
}

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

fn quoted(pairs: &[String]) -> String {
    pairs.iter().map(|pair| format!("{pair:?}")).collect::<Vec<_>>().join(" ")
}

fn listed(path: &[PathBuf]) -> String {
    path.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" ")
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
        assert_eq!(Error::new(5, "alone").to_string(), "alone");
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

    #[test]
    fn every_environment_fault_names_its_variable() {
        let missing = Error::from(Fault::VariablesMissing { names: vec!["CNI_NETNS", "CNI_IFNAME"] });
        assert_eq!(missing, Error::new(4, "required env variables [CNI_NETNS,CNI_IFNAME] missing"));
        let dots = Error::from(Fault::IfnameDots { value: "..".to_owned() });
        assert_eq!(dots, Error::new(4, "interface name is . or ..").with_details(r#"CNI_IFNAME="..""#));
    }
}
