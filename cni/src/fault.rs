//! Every fault this crate can report, its code and its text (CNI specification, section 5: error).

use std::io;
use std::path::PathBuf;

use crate::call::Verb;
use crate::error::{Error, code};
use crate::fold;
use crate::version::{Version, list_supported};

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
    /// CNI_IFNAME has characters that shells, nft or terminals would read as more than a name.
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

    /// A part of CNI_ARGS does not have exactly one `=`.
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
    #[error("ARGS: error parsing value of pair {pair:?}: expected on or off")]
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
    #[error("ARGS: unknown args [{}]", quote_pairs(pairs))]
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
    /// `name` is longer than the name of a folder can be; leases are kept in a folder of that name.
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

    /// The verb is newer than the configuration's version.
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
        /// On DEL: why what the record holds could not be released.
        release: Option<Error>,
    },

    /// A result has no address, but its version requires one.
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
    #[error("failed to find plugin {name:?} in path [{}]", list_folders(path))]
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
    /// CHECK needs a configuration of version 0.4.0 or newer.
    #[error("configuration version {:?} does not support CHECK command", version.as_str())]
    ListCheck {
        /// The list's version.
        version: Version,
    },
    /// A plugin of a list succeeded without printing a result.
    #[error("plugin {plugin:?} of network {network:?} printed no result")]
    ListNoResult {
        /// The network.
        network: String,
        /// The plugin's type.
        plugin: String,
    },
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

    /// The details after the message; environment faults name their variable here, as the specification demands.
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
                let known = list_supported(" ", |version| format!("{version:?}"));
                format!("config is {config:?}, plugin supports [{known}]")
            }
            OwnNetns { release: Some(error) } => error.to_string(),
            _ => String::new(),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Error { code: fault.code(), msg: fault.to_string(), details: fault.details() }
    }
}

fn quote_pairs(pairs: &[String]) -> String {
    pairs.iter().map(|pair| format!("{pair:?}")).collect::<Vec<_>>().join(" ")
}

fn list_folders(path: &[PathBuf]) -> String {
    path.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_environment_fault_names_its_variable() {
        let missing = Error::from(Fault::VariablesMissing { names: vec!["CNI_NETNS", "CNI_IFNAME"] });
        assert_eq!(missing, Error::new(4, "required env variables [CNI_NETNS,CNI_IFNAME] missing"));
        let dots = Error::from(Fault::IfnameDots { value: "..".to_owned() });
        assert_eq!(dots, Error::new(4, "interface name is . or ..").with_details(r#"CNI_IFNAME="..""#));
    }
}
