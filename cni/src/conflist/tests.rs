//! Lists as they are read, and the calls that each verb makes of them.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::config;
use crate::result::CniResult;

fn list(value: Value) -> List {
    List::parse(value.to_string().as_bytes()).unwrap()
}

fn refusal(value: Value) -> Error {
    List::parse(value.to_string().as_bytes()).unwrap_err()
}

/// Two plugins, of which the second declares a capability.
fn chain(cni_version: &str) -> List {
    list(json!({"cniVersion": cni_version, "name": "net", "plugins": [
        {"type": "bridge", "mtu": 1400},
        {"type": "portmap", "capabilities": {"portMappings": true, "ips": false}},
    ]}))
}

fn attachment() -> Attachment {
    let capabilities = json!({"portMappings": [{"hostPort": 80}], "ips": ["10.0.0.9"], "mac": "x"});
    Attachment {
        container_id: "c1".to_owned(),
        netns: "/run/netns/c1".to_owned(),
        ifname: "eth0".to_owned(),
        args: vec![("IgnoreUnknown".to_owned(), "1".to_owned()), ("IP".to_owned(), "10.0.0.9".to_owned())],
        capabilities: capabilities.as_object().unwrap().clone(),
    }
}

/// Plugins that note their calls; `answer` decides by type and verb.
struct Plugins<F> {
    calls: Vec<(String, Value)>,
    answer: F,
}

impl<F: Fn(&str, Verb) -> Result<Option<Value>, Error>> Plugins<F> {
    fn new(answer: F) -> Self {
        Plugins { calls: Vec::new(), answer }
    }

    fn invoke(&mut self, plugin: &str, verb: Verb, config: &Value) -> Result<Option<Value>, Error> {
        self.calls.push((format!("{verb} {plugin}"), config.clone()));
        (self.answer)(plugin, verb)
    }

    fn verbs(&self) -> Vec<&str> {
        self.calls.iter().map(|(verb, _)| verb.as_str()).collect()
    }
}

fn result(plugin: &str) -> Value {
    json!({"cniVersion": "1.0.0", "interfaces": [{"name": plugin}], "custom": true})
}

fn result_of(plugin: &str) -> CniResult {
    CniResult::parse(&result(plugin), Version::V1_0_0).unwrap()
}

fn fine(plugin: &str, verb: Verb) -> Result<Option<Value>, Error> {
    Ok((verb == Verb::Add).then(|| result(plugin)))
}

#[test]
fn add_chains_results_and_gives_only_declared_capabilities() {
    let mut plugins = Plugins::new(fine);
    let added = add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c));
    assert_eq!(added, Ok(result_of("portmap")));
    let expected = [
        (
            "ADD bridge".to_owned(),
            json!({"type": "bridge", "mtu": 1400, "name": "net", "cniVersion": "1.0.0"}),
        ),
        (
            "ADD portmap".to_owned(),
            json!({
                "type": "portmap", "capabilities": {"portMappings": true, "ips": false},
                "name": "net", "cniVersion": "1.0.0",
                "runtimeConfig": {"portMappings": [{"hostPort": 80}]}, "prevResult": result("bridge"),
            }),
        ),
    ];
    assert_eq!(plugins.calls, expected);
}

#[test]
fn a_failed_add_deletes_the_whole_list_in_reverse_and_reports_the_add_s_error() {
    let mut plugins = Plugins::new(|plugin: &str, verb| match (plugin, verb) {
        ("portmap", Verb::Add) => Err(Error::new(100, "port taken")),
        ("portmap", Verb::Del) => Err(Error::new(5, "del failed")),
        _ => fine(plugin, verb),
    });
    let added = add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c));
    assert_eq!(added, Err(Error::new(100, "port taken")));
    assert_eq!(plugins.verbs(), ["ADD bridge", "ADD portmap", "DEL portmap", "DEL bridge"]);
    assert_eq!(plugins.calls[2].1.get("prevResult"), None);
}

#[test]
fn del_runs_in_reverse_past_failures_with_the_final_result() {
    let mut plugins = Plugins::new(|plugin: &str, _| Err(Error::new(5, plugin)));
    let prev = result_of("eth0");
    let deleted = del(&chain("0.4.0"), &attachment(), Some(&prev), &mut |t, v, c| plugins.invoke(t, v, c));
    assert_eq!(deleted, Err(Error::new(5, "portmap").with_details("bridge")));
    assert_eq!(plugins.verbs(), ["DEL portmap", "DEL bridge"]);
    for (_, config) in &plugins.calls {
        assert_eq!(config["prevResult"], prev.to_json(Version::V0_4_0).unwrap());
    }
}

#[test]
fn del_below_0_4_gives_no_result() {
    let mut plugins = Plugins::new(fine);
    del(&chain("0.3.1"), &attachment(), Some(&result_of("x")), &mut |t, v, c| plugins.invoke(t, v, c))
        .unwrap();
    assert_eq!(plugins.calls[0].1.get("prevResult"), None);
}

#[test]
fn check_runs_forward_and_stops_at_the_first_failure() {
    let mut plugins = Plugins::new(|plugin: &str, _| Err(Error::new(999, plugin)));
    let checked =
        check(&chain("1.0.0"), &attachment(), &result_of("x"), &mut |t, v, c| plugins.invoke(t, v, c));
    assert_eq!(checked, Err(Error::new(999, "bridge")));
    assert_eq!(plugins.verbs(), ["CHECK bridge"]);
}

#[test]
fn check_needs_a_list_of_0_4_and_can_be_disabled() {
    let mut plugins = Plugins::new(fine);
    let mut invoke = |t: &str, v, c: &Value| plugins.invoke(t, v, c);
    let error = check(&chain("0.3.1"), &attachment(), &result_of("x"), &mut invoke).unwrap_err();
    assert_eq!(error, Error::new(1, r#"configuration version "0.3.1" does not support CHECK command"#));
    let off = List { disable_check: true, ..chain("1.0.0") };
    assert_eq!(check(&off, &attachment(), &result_of("x"), &mut invoke), Ok(()));
    assert_eq!(plugins.calls, []);
}

#[test]
fn status_and_gc_reach_every_plugin_of_a_list_of_1_1() {
    let mut plugins = Plugins::new(fine);
    let valid = [config::Attachment { container_id: "c1".to_owned(), ifname: "eth0".to_owned() }];
    status(&chain("1.1.0"), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
    gc(&chain("1.1.0"), Some(&valid), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
    gc(&chain("1.1.0"), None, &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
    status(&chain("1.0.0"), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
    gc(&chain("1.0.0"), None, &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
    let each = |verb: &str| [format!("{verb} bridge"), format!("{verb} portmap")];
    assert_eq!(plugins.verbs(), [each("STATUS"), each("GC"), each("GC")].concat());
    let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
    assert_eq!(plugins.calls[2].1["cni.dev/valid-attachments"], list);
    assert_eq!(plugins.calls[2].1["cni.dev/attachments"], list);
    assert_eq!(plugins.calls[4].1.get("cni.dev/valid-attachments"), None);
}

#[test]
fn gc_continues_after_a_failure() {
    let mut plugins = Plugins::new(|plugin: &str, _| Err(Error::new(5, plugin)));
    let collected = gc(&chain("1.1.0"), Some(&[]), &mut |t, v, c| plugins.invoke(t, v, c));
    assert_eq!(collected, Err(Error::new(5, "bridge").with_details("portmap")));
    assert_eq!(plugins.verbs(), ["GC bridge", "GC portmap"]);
}

#[test]
fn a_result_in_another_format_is_handed_on_in_the_list_s() {
    let mut plugins =
        Plugins::new(|_: &str, _| Ok(Some(json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}}))));
    add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
    let expected = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]});
    assert_eq!(plugins.calls[1].1["prevResult"], expected);
}

#[test]
fn a_result_without_version_takes_the_list_s() {
    let mut plugins = Plugins::new(|_: &str, _| Ok(Some(json!({}))));
    add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap();
    assert_eq!(plugins.calls[1].1["prevResult"], json!({"cniVersion": "1.0.0"}));
}

#[test]
fn a_plugin_without_result_is_named() {
    let mut plugins = Plugins::new(|_: &str, _| Ok(None));
    let error = add(&chain("1.0.0"), &attachment(), &mut |t, v, c| plugins.invoke(t, v, c)).unwrap_err();
    assert_eq!(error, Error::new(999, r#"plugin "bridge" of network "net" printed no result"#));
}

#[test]
fn a_malformed_attachment_reaches_no_plugin() {
    let mut plugins = Plugins::new(fine);
    let bad = Attachment { container_id: "!".to_owned(), ..attachment() };
    let error = add(&chain("1.0.0"), &bad, &mut |t, v, c| plugins.invoke(t, v, c)).unwrap_err();
    assert_eq!(error.msg, "invalid characters in containerID");
    assert_eq!(plugins.calls, []);
}

#[test]
fn an_attachment_becomes_a_call() {
    let call = attachment().call(Verb::Del, vec![PathBuf::from("/opt/cni/bin")]);
    assert_eq!((call.verb, call.args.as_str()), (Verb::Del, "IgnoreUnknown=1;IP=10.0.0.9"));
    assert_eq!((call.container_id.as_str(), call.ifname.as_str()), ("c1", "eth0"));
}

#[test]
fn a_single_configuration_is_a_list_of_one() {
    let single = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    let list = list(single.clone());
    assert_eq!((list.name.as_str(), list.cni_version), ("cni-loopback", Version::V0_3_1));
    assert_eq!(list.plugins, std::slice::from_ref(&single));
    assert_eq!(list.raw, single);
}

#[test]
fn the_newest_supported_version_counts() {
    let version = |one: Value, more: Value| {
        list(json!({"name": "n", "cniVersion": one, "cniVersions": more, "plugins": [{"type": "x"}]}))
            .cni_version
    };
    assert_eq!(version(json!("1.0.0"), json!(["0.4.0", "1.0.0", "1.1.0"])), Version::V1_1_0);
    assert_eq!(version(json!("1.0.0"), json!(["0.4.0", "2.0.0"])), Version::V1_0_0);
    assert_eq!(version(json!("0.4.0"), json!(null)), Version::V0_4_0);
    assert_eq!(version(json!(null), json!(null)), Version::V0_1_0);
}

#[test]
fn check_and_gc_can_be_disabled_by_boolean_or_text() {
    let flags = |value: Value| {
        let list =
            list(json!({"name": "n", "disableCheck": value, "disableGC": value, "plugins": [{"type": "x"}]}));
        (list.disable_check, list.disable_gc)
    };
    assert_eq!(flags(json!(true)), (true, true));
    assert_eq!(flags(json!("true")), (true, true));
    assert_eq!(flags(json!("False")), (false, false));
    assert_eq!(flags(json!(null)), (false, false));
}

#[test]
fn a_list_that_lacks_something_is_refused() {
    let plugins = json!([{"type": "x"}]);
    let cases = [
        (json!({"plugins": plugins}), 7, r#"error parsing configuration list: no "name""#),
        (
            json!({"name": 1, "plugins": plugins}),
            7,
            r#"error parsing configuration list: "name" is a number, not a string"#,
        ),
        (json!({"name": "a b", "plugins": plugins}), 7, "invalid characters found in network name"),
        (json!({"name": "n"}), 7, r#"error parsing configuration list: no "plugins""#),
        (json!({"name": "n", "plugins": []}), 7, r#"error parsing configuration list: no "plugins""#),
        (
            json!({"name": "n", "plugins": {}}),
            7,
            r#"error parsing configuration list: "plugins" is an object, not an array"#,
        ),
        (
            json!({"name": "n", "plugins": [{"type": "x"}, 7]}),
            7,
            r#"error parsing configuration list: plugin 1 has no "type""#,
        ),
        (json!({"name": "n", "cniVersion": "9.0.0", "plugins": plugins}), 1, "incompatible CNI versions"),
        (
            json!({"name": "n", "disableCheck": 1, "plugins": plugins}),
            7,
            r#"error parsing configuration list: "disableCheck" is a number, not a boolean"#,
        ),
        (json!([]), 6, "error unmarshall network config: expected a JSON object, found an array"),
    ];
    for (value, code, msg) in cases {
        let error = refusal(value);
        assert_eq!((error.code, error.msg.as_str()), (code, msg));
    }
}

/// A folder of definitions: `name`, content.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

#[test]
fn files_are_sorted_and_other_files_ignored() {
    let dir = folder(&[
        ("20-b.conf", ""),
        ("10-a.conflist", ""),
        ("README", ""),
        ("30-c.json", ""),
        ("x.conflist~", ""),
    ]);
    fs::create_dir(dir.path().join("dir.conflist")).unwrap();
    let names: Vec<_> =
        files(dir.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["10-a.conflist", "20-b.conf", "30-c.json"]);
    assert_eq!(files(&dir.path().join("missing")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_network_is_found_by_its_name_lists_first_and_broken_files_hide_none() {
    let dir = folder(&[
        ("00-broken.conflist", "{"),
        ("10-n.conf", r#"{"name":"n","type":"single"}"#),
        ("20-n.conflist", r#"{"name":"n","plugins":[{"type":"listed"}]}"#),
    ]);
    assert_eq!(load(dir.path(), "n").unwrap().plugins[0]["type"], "listed");
    let error = load(dir.path(), "other").unwrap_err();
    assert_eq!(error.msg, format!("no net configuration with name \"other\" in {}", dir.path().display()));
    assert!(error.details.contains("00-broken.conflist"), "{}", error.details);
}

#[test]
fn an_unreadable_file_is_named() {
    let error = List::read(Path::new("/nowhere/x.conflist")).unwrap_err();
    assert_eq!(
        error,
        Error::new(5, "error reading /nowhere/x.conflist: No such file or directory (os error 2)")
    );
}
