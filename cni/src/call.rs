//! The environment of a call: its variables, which verb needs which, and what they may hold (CNI
//! specification, section 2: parameters).

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;
use crate::fault::Fault;

/// What a plugin is asked to do; the value of CNI_COMMAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Attach a container to a network.
    Add,
    /// Verify that an attachment is still complete.
    Check,
    /// Detach a container.
    Del,
    /// Say whether an ADD would work now.
    Status,
    /// Remove what belongs to no valid attachment.
    Gc,
    /// Say which versions of the specification are spoken.
    Version,
}

impl Verb {
    /// The text of CNI_COMMAND.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Del => "DEL",
            Verb::Status => "STATUS",
            Verb::Gc => "GC",
            Verb::Version => "VERSION",
        }
    }

    /// Whether the verb is about one container, so that id and interface are required.
    fn attaches(self) -> bool {
        matches!(self, Verb::Add | Verb::Check | Verb::Del)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = Fault;

    fn from_str(command: &str) -> Result<Self, Fault> {
        const VERBS: [Verb; 6] = [Verb::Add, Verb::Check, Verb::Del, Verb::Status, Verb::Gc, Verb::Version];
        let matching = |verb: &Verb| verb.as_str() == command;
        VERBS.into_iter().find(matching).ok_or_else(|| Fault::UnknownCommand { command: command.to_owned() })
    }
}

/// Where variables are looked up: the process, or a map in tests and in-process calls.
pub trait Env {
    /// The value of `name`, `None` if it is unset.
    fn var(&self, name: &str) -> Option<OsString>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

impl Env for BTreeMap<String, String> {
    fn var(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}

impl Env for HashMap<String, String> {
    fn var(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}

/// The environment of one call, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// CNI_COMMAND.
    pub verb: Verb,
    /// CNI_CONTAINERID; empty for STATUS, GC and VERSION if the runtime gives none.
    pub container_id: String,
    /// CNI_NETNS, a path; on DEL it may be empty, gone, or no longer a namespace.
    pub netns: String,
    /// CNI_IFNAME, the interface inside the container.
    pub ifname: String,
    /// CNI_ARGS as given; see [`crate::Args`].
    pub args: String,
    /// The folders of CNI_PATH; empty entries, which would mean the working directory, are left out.
    pub path: Vec<PathBuf>,
    /// CNI_NETNS_OVERRIDE: the namespace may be the plugin's own.
    pub netns_override: bool,
    /// An IPAM plugin that this program contains runs in this process, whatever CNI_PATH leads to. No variable sets
    /// this: only a caller in this program does.
    pub own_delegates: bool,
}

impl Call {
    /// Reads and validates the variables that `verb` requires, in the order of the specification's table.
    ///
    /// # Errors
    /// Code 4: a malformed CNI_CONTAINERID or CNI_IFNAME at once, otherwise all missing variables together.
    pub fn from_env(verb: Verb, env: &dyn Env) -> Result<Call, Error> {
        let call = Call::read_unchecked(verb, env);
        call.validate(!text(env, "CNI_PATH").is_empty())?;
        Ok(call)
    }

    fn read_unchecked(verb: Verb, env: &dyn Env) -> Call {
        Call {
            verb,
            container_id: text(env, "CNI_CONTAINERID"),
            netns: text(env, "CNI_NETNS"),
            ifname: text(env, "CNI_IFNAME"),
            args: text(env, "CNI_ARGS"),
            path: folders(&env.var("CNI_PATH").unwrap_or_default()),
            netns_override: is_true(&text(env, "CNI_NETNS_OVERRIDE")),
            own_delegates: false,
        }
    }

    fn validate(&self, path_given: bool) -> Result<(), Fault> {
        let attaches = self.verb.attaches();
        let netns_needed = matches!(self.verb, Verb::Add | Verb::Check);
        if attaches && !self.container_id.is_empty() {
            check_container_id(&self.container_id)?;
        }
        if attaches && !self.ifname.is_empty() {
            check_ifname(&self.ifname)?;
        }
        let missing = [
            ("CNI_CONTAINERID", attaches && self.container_id.is_empty()),
            ("CNI_NETNS", netns_needed && self.netns.is_empty()),
            ("CNI_IFNAME", attaches && self.ifname.is_empty()),
            ("CNI_PATH", self.verb != Verb::Version && !path_given),
        ];
        let names: Vec<_> = missing.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        if names.is_empty() { Ok(()) } else { Err(Fault::VariablesMissing { names }) }
    }
}

/// The grammar of container ids: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, of any length.
pub(crate) fn check_container_id(id: &str) -> Result<(), Fault> {
    if is_name(id) { Ok(()) } else { Err(Fault::ContainerId { value: id.to_owned() }) }
}

/// What the kernel takes as the name of an interface (dev_valid_name): 1 to 15 bytes that are neither path, alias
/// nor white space.
pub(crate) fn check_ifname(name: &str) -> Result<(), Fault> {
    let value = name.to_owned();
    if name.len() > 15 {
        return Err(Fault::IfnameTooLong { value });
    }
    if name == "." || name == ".." {
        return Err(Fault::IfnameDots { value });
    }
    if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return Err(Fault::IfnameCharacters { value });
    }
    if name.starts_with('-') || name.contains(is_unsafe) {
        return Err(Fault::IfnameUnsafe { value });
    }
    Ok(())
}

/// What shells, nft or terminals read as more than a letter. The kernel accepts it in a name; no runtime uses it.
fn is_unsafe(letter: char) -> bool {
    letter.is_control() || !letter.is_ascii() || "\"*\\$;`".contains(letter)
}

/// The grammar that container ids and network names share; see [`check_container_id`].
pub(crate) fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(inner)
}

/// A variable as text, empty if unset: the specification treats both alike.
pub(crate) fn text(env: &dyn Env, name: &str) -> String {
    // Bytes that are no UTF-8 become replacement characters: an id is then refused, a path does not exist.
    env.var(name).unwrap_or_default().into_string().unwrap_or_else(|raw| raw.to_string_lossy().into_owned())
}

fn folders(path: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty()).collect()
}

fn is_true(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole environment for `ADD`, with `changes` applied; an empty value stands for an unset variable.
    fn env(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
        let usual = [
            ("CNI_CONTAINERID", "default-c1"),
            ("CNI_NETNS", "/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ];
        let pairs = usual.iter().chain(changes);
        pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refusal(verb: Verb, changes: &[(&str, &str)]) -> Error {
        Call::from_env(verb, &env(changes)).unwrap_err()
    }

    #[test]
    fn a_whole_environment_becomes_a_call() {
        let call =
            Call::from_env(Verb::Add, &env(&[("CNI_ARGS", "K=V"), ("CNI_NETNS_OVERRIDE", "TRUE")])).unwrap();
        let expected = Call {
            verb: Verb::Add,
            container_id: "default-c1".to_owned(),
            netns: "/run/netns/c1".to_owned(),
            ifname: "eth0".to_owned(),
            args: "K=V".to_owned(),
            path: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            netns_override: true,
            own_delegates: false,
        };
        assert_eq!(call, expected);
    }

    #[test]
    fn the_override_is_1_or_true_in_any_case() {
        for (value, expected) in
            [("1", true), ("true", true), ("True", true), ("0", false), ("yes", false), ("", false)]
        {
            let call = Call::from_env(Verb::Del, &env(&[("CNI_NETNS_OVERRIDE", value)])).unwrap();
            assert_eq!(call.netns_override, expected, "{value}");
        }
    }

    #[test]
    fn each_verb_requires_its_own_variables() {
        let none = BTreeMap::new();
        let missing = |verb| Call::from_env(verb, &none).map(|_| ()).map_err(|error| (error.code, error.msg));
        let required = |names: &str| Err((4, format!("required env variables [{names}] missing")));
        assert_eq!(missing(Verb::Add), required("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"));
        assert_eq!(missing(Verb::Check), required("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"));
        assert_eq!(missing(Verb::Del), required("CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"));
        assert_eq!(missing(Verb::Status), required("CNI_PATH"));
        assert_eq!(missing(Verb::Gc), required("CNI_PATH"));
        assert_eq!(missing(Verb::Version), Ok(()));
    }

    #[test]
    fn missing_variables_are_reported_together() {
        let error = refusal(Verb::Add, &[("CNI_NETNS", ""), ("CNI_IFNAME", "")]);
        assert_eq!(error, Error::new(4, "required env variables [CNI_NETNS,CNI_IFNAME] missing"));
    }

    #[test]
    fn container_ids_follow_their_grammar() {
        for id in ["a", "0", "default-c1", "A_b.c-d", &"f".repeat(200)] {
            assert!(Call::from_env(Verb::Add, &env(&[("CNI_CONTAINERID", id)])).is_ok(), "{id}");
        }
        for id in ["-a", ".a", "_a", "a/b", "a b", "a\n", "ä", "a;b"] {
            let expected = Error::new(4, "invalid characters in containerID");
            let expected = expected.with_details(format!("{id} (CNI_CONTAINERID)"));
            assert_eq!(refusal(Verb::Add, &[("CNI_CONTAINERID", id)]), expected);
        }
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for name in ["e", "eth0", "123456789012345", "...", "eth0.10"] {
            assert!(Call::from_env(Verb::Add, &env(&[("CNI_IFNAME", name)])).is_ok(), "{name}");
        }
        let long = refusal(Verb::Add, &[("CNI_IFNAME", "1234567890123456")]);
        assert_eq!(long.msg, "interface name is too long");
        let details = r#"interface name should be less than 16 characters (CNI_IFNAME="1234567890123456")"#;
        assert_eq!(long.details, details);
        for name in [".", ".."] {
            assert_eq!(refusal(Verb::Add, &[("CNI_IFNAME", name)]).msg, "interface name is . or ..");
        }
        for name in ["a/b", "a:b", "a b", "a\tb", "a\u{a0}b"] {
            let error = refusal(Verb::Add, &[("CNI_IFNAME", name)]);
            assert_eq!(error.msg, "interface name contains / or : or whitespace characters");
            assert_eq!(error.code, 4);
        }
        for name in ["a\u{1}b", "ä", "a\"", "a*", "a\\b", "$a", "a;b", "`a`", "-a"] {
            let error = refusal(Verb::Del, &[("CNI_IFNAME", name)]);
            assert!(error.code == 4 && error.msg.starts_with("interface name contains control"), "{error}");
            assert_eq!(error.details, format!("CNI_IFNAME={name:?}"));
        }
    }

    #[test]
    fn a_malformed_variable_is_reported_before_missing_ones() {
        let error = refusal(Verb::Add, &[("CNI_CONTAINERID", ""), ("CNI_PATH", ""), ("CNI_IFNAME", "a/b")]);
        assert_eq!(error.msg, "interface name contains / or : or whitespace characters");
        let error = refusal(Verb::Add, &[("CNI_CONTAINERID", "!"), ("CNI_NETNS", ""), ("CNI_IFNAME", "a/b")]);
        assert_eq!(error.msg, "invalid characters in containerID");
    }

    #[test]
    fn a_verb_that_attaches_nothing_ignores_id_and_interface() {
        let dummies = [("CNI_CONTAINERID", "!"), ("CNI_IFNAME", "a/b"), ("CNI_NETNS", "")];
        for verb in [Verb::Status, Verb::Gc, Verb::Version] {
            assert!(Call::from_env(verb, &env(&dummies)).is_ok(), "{verb}");
        }
    }

    #[test]
    fn empty_folders_of_the_path_never_mean_the_working_directory() {
        let call = Call::from_env(Verb::Gc, &env(&[("CNI_PATH", ":/a::/b:")])).unwrap();
        assert_eq!(call.path, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(Call::from_env(Verb::Gc, &env(&[("CNI_PATH", ":")])).unwrap().path.is_empty());
    }

    #[test]
    fn commands_are_upper_case_verbs() {
        assert_eq!("ADD".parse::<Verb>().unwrap(), Verb::Add);
        assert_eq!(
            Error::from("FOO".parse::<Verb>().unwrap_err()),
            Error::new(4, "unknown CNI_COMMAND: FOO")
        );
        assert!("add".parse::<Verb>().is_err());
    }
}
