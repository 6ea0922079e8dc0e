//! Whole calls with a scripted plugin: what goes in, and what stdout, stderr and the exit status hold then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::pipe;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::result::{Ip, cidr};

/// A plugin that records its calls and answers as the test sets it.
#[derive(Default)]
struct Scripted {
    calls: RefCell<Vec<String>>,
    addresses: Vec<&'static str>,
    fails: bool,
}

impl Scripted {
    fn note(&self, verb: &str, request: &Request<'_>) -> Result<(), Error> {
        self.calls.borrow_mut().push(format!("{verb} {}", request.call.netns).trim().to_owned());
        if self.fails { Err(Error::new(100, "no address").with_details("full")) } else { Ok(()) }
    }
}

impl Plugin for Scripted {
    fn add(&self, request: &Request<'_>) -> Result<CniResult, Error> {
        self.note("add", request)?;
        let ip = |text: &&str| Ip { address: cidr(text).unwrap(), gateway: None, interface: None };
        Ok(CniResult { ips: self.addresses.iter().map(ip).collect(), ..CniResult::default() })
    }
    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        self.note("del", request)
    }
    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        self.note("check", request)
    }
    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        self.note("status", request)
    }
    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        self.note("gc", request)
    }
}

/// What one call left behind.
#[derive(Debug)]
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
    calls: Vec<String>,
}

impl Outcome {
    fn error(&self) -> Error {
        assert_eq!(self.status, 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A whole environment for `command`; changes with an empty value unset a variable.
fn env(command: &str, changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let usual = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let pairs = usual.iter().chain(changes);
    pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn call(plugin: &Scripted, env: &BTreeMap<String, String>, stdin: &str) -> Outcome {
    call_in(plugin, env, stdin, &|_| false)
}

fn call_in(
    plugin: &Scripted,
    env: &BTreeMap<String, String>,
    stdin: &str,
    own: &dyn Fn(&str) -> bool,
) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let about = "v1.9.1+rnet.0.1.0";
    let status = main("bridge", about, plugin, env, stdin.as_bytes(), &mut stdout, &mut stderr, own);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { status, stdout: text(stdout), stderr: text(stderr), calls: plugin.calls.take() }
}

const CONFIG: &str = r#"{"cniVersion":"1.1.0","name":"net","type":"bridge"}"#;

#[test]
fn add_prints_the_result_in_the_config_s_version() {
    let plugin = Scripted { addresses: vec!["10.0.0.2/24"], ..Scripted::default() };
    let old = call(&plugin, &env("ADD", &[]), r#"{"cniVersion":"0.2.0","name":"net"}"#);
    let expected = concat!(
        "{\n    \"cniVersion\": \"0.2.0\",\n    \"ip4\": {\n        \"ip\": \"10.0.0.2/24\"\n    },\n",
        "    \"dns\": {}\n}"
    );
    assert_eq!((old.status, old.stdout.as_str(), old.stderr.as_str()), (0, expected, ""));
    let new = call(&plugin, &env("ADD", &[]), CONFIG);
    assert!(new.stdout.starts_with("{\n    \"cniVersion\": \"1.1.0\","), "{}", new.stdout);
    assert_eq!(new.calls, ["add /run/netns/c1"]);
}

#[test]
fn the_other_verbs_print_nothing() {
    for (command, noted) in [("DEL", "del"), ("CHECK", "check"), ("STATUS", "status"), ("GC", "gc")] {
        let outcome = call(&Scripted::default(), &env(command, &[]), CONFIG);
        assert_eq!((outcome.status, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "", ""));
        assert_eq!(outcome.calls, [format!("{noted} /run/netns/c1")]);
    }
}

#[test]
fn a_plugin_s_error_goes_to_stdout_in_the_config_s_version() {
    let plugin = Scripted { fails: true, ..Scripted::default() };
    let outcome = call(&plugin, &env("ADD", &[]), r#"{"cniVersion":"0.4.0","name":"net"}"#);
    let expected = concat!(
        "{\n    \"cniVersion\": \"0.4.0\",\n    \"code\": 100,\n    \"msg\": \"no address\",\n",
        "    \"details\": \"full\"\n}"
    );
    assert_eq!((outcome.status, outcome.stdout.as_str(), outcome.stderr.as_str()), (1, expected, ""));
    assert_eq!(outcome.calls.len(), 1, "a failed ADD undoes its own work");
}

#[test]
fn without_a_command_the_plugin_introduces_itself_on_stderr() {
    let outcome = call(&Scripted::default(), &env("", &[("CNI_CONTAINERID", "!")]), "no json");
    let expected = concat!(
        "CNI bridge plugin v1.9.1+rnet.0.1.0\n",
        "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
    );
    assert_eq!((outcome.status, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "", expected));
    assert_eq!(call(&Scripted::default(), &BTreeMap::new(), "").status, 0);
}

fn version_line(cni_version: &str) -> String {
    let supported = r#"["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
    format!("{{\"cniVersion\":\"{cni_version}\",\"supportedVersions\":{supported}}}\n")
}

#[test]
fn version_echoes_the_caller_s_and_validates_nothing() {
    let dummies =
        [("CNI_CONTAINERID", ""), ("CNI_NETNS", "dummy"), ("CNI_IFNAME", "dummy"), ("CNI_PATH", "dummy")];
    let asked = |stdin: &str| call(&Scripted::default(), &env("VERSION", &dummies), stdin).stdout;
    assert_eq!(asked(r#"{"cniVersion":"1.0.0"}"#), version_line("1.0.0"));
    assert_eq!(asked(r#"{"CNIVersion":"0.4.0"}"#), version_line("0.4.0"));
    for stdin in ["", "{}", "no json", "[1]", r#"{"cniVersion":7}"#, r#"{"cniVersion":""}"#] {
        assert_eq!(asked(stdin), version_line("1.1.0"), "{stdin}");
    }
}

fn version_from(stdin: impl Input) -> String {
    let mut stdout = Vec::new();
    let env = env("VERSION", &[]);
    assert_eq!(main("x", "v1", &Scripted::default(), &env, stdin, &mut stdout, io::sink(), &|_| false), 0);
    String::from_utf8(stdout).unwrap()
}

#[test]
fn version_does_not_wait_for_a_stdin_that_stays_open() {
    let (reader, _writer) = pipe().unwrap();
    let asked = Instant::now();
    assert_eq!(version_from(reader), version_line("1.1.0"));
    assert!(asked.elapsed() < Duration::from_secs(2));
}

#[test]
fn version_needs_no_end_of_stdin_after_a_complete_document() {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(br#"{"cniVersion":"0.3.1"}"#).unwrap();
    assert_eq!(version_from(reader), version_line("0.3.1"));

    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(br#"{"cniVersion":"#).unwrap();
    assert_eq!(version_from(reader), version_line("1.1.0"), "half a document, never completed");
    drop(writer);
}

#[test]
fn an_unknown_verb_needs_no_variables_but_a_proper_config() {
    let bare = BTreeMap::from([("CNI_COMMAND".to_owned(), "FOO".to_owned())]);
    let unknown = |stdin: &str| call(&Scripted::default(), &bare, stdin).error();
    assert_eq!(unknown(r#"{"name":"net"}"#), Error::new(4, "unknown CNI_COMMAND: FOO"));
    assert_eq!(unknown(r#"{"name":"net","cniVersion":7}"#).msg, "unknown CNI_COMMAND: FOO");
    assert_eq!(unknown("{}"), Error::new(7, "missing network name"));
    assert_eq!(unknown("").code, 6);
    let whole = env("FOO", &[("CNI_CONTAINERID", "!")]);
    assert_eq!(call(&Scripted::default(), &whole, CONFIG).error().msg, "unknown CNI_COMMAND: FOO");
}

/// A reader that always fails.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("broken"))
    }
}

impl Input for Broken {
    fn ready(&self, _: Duration) -> bool {
        true
    }
}

#[test]
fn an_unreadable_stdin_is_an_error_except_for_version() {
    let mut stdout = Vec::new();
    let status =
        main("x", "v1", &Scripted::default(), &env("ADD", &[]), Broken, &mut stdout, io::sink(), &|_| false);
    let error: Error = serde_json::from_slice(&stdout).unwrap();
    assert_eq!((status, error), (1, Error::new(5, "error reading from stdin: broken")));
    assert_eq!(version_from(Broken), version_line("1.1.0"));
}

#[test]
fn the_first_fault_ends_the_call() {
    let told = |changes: &[(&str, &str)], stdin: &str| {
        let plugin = Scripted::default();
        let outcome = call_in(&plugin, &env("ADD", changes), stdin, &|_| true);
        (outcome.error().code, outcome.error().msg)
    };
    let mut faults = vec![("CNI_CONTAINERID", "!"), ("CNI_NETNS", "")];
    assert_eq!(told(&faults, "").1, "invalid characters in containerID");
    faults.remove(0);
    assert_eq!(told(&faults, "").1, "required env variables [CNI_NETNS] missing");
    assert_eq!(told(&[], "").0, 6);
    assert_eq!(told(&[], r#"{"cniVersion":"9.0.0"}"#).1, "missing network name");
    assert_eq!(told(&[], r#"{"cniVersion":"9.0.0","name":"n"}"#).1, "incompatible CNI versions");
    assert_eq!(told(&[], CONFIG).0, 8);
}

#[test]
fn an_add_to_the_plugin_s_own_namespace_touches_nothing() {
    let plugin = Scripted::default();
    let outcome = call_in(&plugin, &env("ADD", &[]), CONFIG, &|path| path == "/run/netns/c1");
    let expected = Error::new(8, "plugin's netns and netns from CNI_NETNS should not be the same");
    assert_eq!(outcome.error(), expected);
    assert_eq!(outcome.calls, [""; 0]);
}

#[test]
fn a_del_from_the_plugin_s_own_namespace_releases_the_record_and_touches_no_link() {
    let own = |path: &str| path == "/run/netns/c1";
    let outcome = call_in(&Scripted::default(), &env("DEL", &[]), CONFIG, &own);
    assert_eq!(outcome.error().code, 8);
    assert_eq!(outcome.calls, ["del"], "as if the namespace were gone");
    let failing = Scripted { fails: true, ..Scripted::default() };
    assert_eq!(call_in(&failing, &env("DEL", &[]), CONFIG, &own).error().details, "no address; full");
}

#[test]
fn the_override_and_the_other_verbs_allow_the_plugin_s_own_namespace() {
    let allowed = env("ADD", &[("CNI_NETNS_OVERRIDE", "true")]);
    let plugin = Scripted { addresses: vec!["10.0.0.2/24"], ..Scripted::default() };
    assert_eq!(call_in(&plugin, &allowed, CONFIG, &|_| true).status, 0);
    assert_eq!(call_in(&plugin, &env("CHECK", &[]), CONFIG, &|_| true).status, 0);
}

#[test]
fn a_result_that_its_version_cannot_express_is_undone() {
    let outcome = call(&Scripted::default(), &env("ADD", &[]), r#"{"cniVersion":"0.2.0","name":"l2"}"#);
    assert_eq!(outcome.error(), Error::new(999, "cannot convert: no valid IP addresses"));
    assert_eq!(outcome.calls, ["add /run/netns/c1", "del /run/netns/c1"]);
}

/// A writer whose reader is gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_result_that_stdout_cannot_take_is_undone() {
    let (plugin, mut stderr) = (Scripted::default(), Vec::new());
    let status =
        main("x", "v1", &plugin, &env("ADD", &[]), CONFIG.as_bytes(), Closed, &mut stderr, &|_| false);
    assert_eq!(status, 1);
    assert_eq!(plugin.calls.take(), ["add /run/netns/c1", "del /run/netns/c1"]);
    assert_eq!(String::from_utf8(stderr).unwrap(), "error writing the result to stdout: broken pipe\n");
}

#[test]
fn an_error_that_stdout_cannot_take_goes_to_stderr() {
    let (plugin, mut stderr) = (Scripted { fails: true, ..Scripted::default() }, Vec::new());
    let status =
        main("x", "v1", &plugin, &env("DEL", &[]), CONFIG.as_bytes(), Closed, &mut stderr, &|_| false);
    assert_eq!((status, String::from_utf8(stderr).unwrap().as_str()), (1, "no address; full\n"));
}

#[test]
fn one_process_serves_many_calls() {
    let plugin = Scripted { addresses: vec!["10.0.0.2/24"], ..Scripted::default() };
    let first = call(&plugin, &env("ADD", &[]), CONFIG);
    let second = call(&plugin, &env("ADD", &[("CNI_IFNAME", "eth1")]), CONFIG);
    assert_eq!((first.status, second.status), (0, 0));
    assert_eq!(first.stdout, second.stdout);
}

fn any_command() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("ADD"),
        Just("DEL"),
        Just("CHECK"),
        Just("STATUS"),
        Just("GC"),
        Just("VERSION"),
        Just("add"),
        Just("")
    ]
    .prop_map(str::to_owned)
}

fn any_stdin() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        Just(json!(null)),
        Just(json!("1.1.0")),
        Just(json!("0.2.0")),
        Just(json!(-1)),
        Just(json!([{}]))
    ];
    let key = prop_oneof![
        Just("name"),
        Just("cniVersion"),
        Just("CNIVERSION"),
        Just("type"),
        Just("prevResult"),
        Just("runtimeConfig"),
        Just("cni.dev/attachments")
    ];
    let document =
        prop::collection::btree_map(key, scalar, 0..6).prop_map(|map| json!(map).to_string().into_bytes());
    prop_oneof![document, any::<Vec<u8>>(), "\\{.{0,60}\\}".prop_map(String::into_bytes)]
}

proptest! {
    #[test]
    fn no_input_gives_anything_but_success_or_error_json(
        command in any_command(), id in ".{0,8}", ifname in ".{0,18}", netns in ".{0,4}", path in ".{0,4}",
        stdin in any_stdin(),
    ) {
        let changes = [("CNI_CONTAINERID", &*id), ("CNI_IFNAME", &ifname), ("CNI_NETNS", &netns), ("CNI_PATH", &path)];
        let plugin = Scripted { addresses: vec!["10.0.0.2/24", "fd00::2/64"], ..Scripted::default() };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let env = env(&command, &changes);
        let status = main("x", "v1", &plugin, &env, stdin.as_slice(), &mut stdout, &mut stderr, &|_| false);
        if status == 0 {
            let silent = matches!(command.as_str(), "" | "DEL" | "CHECK" | "STATUS" | "GC");
            prop_assert_eq!(stdout.is_empty(), silent);
        } else {
            let error: Value = serde_json::from_slice(&stdout).unwrap();
            prop_assert!(error["code"].as_u64() != Some(999) && error["msg"].is_string(), "{error}");
            prop_assert_eq!(&error["cniVersion"], "1.1.0");
        }
    }
}
