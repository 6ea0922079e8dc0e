//! A foreign IPAM plugin works like rnet's own, and its failures leave nothing (docs/rules.md: G3).

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Host, PLUGINS, Who, address, bridge, ranges, rnet, wait_until, with};

/// What the script answers to ADD unless a test wants something else.
const ANSWER: &str = r#"{"ips":[{"address":"10.50.0.7/24","gateway":"10.50.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.50.0.53"]}}"#;

/// Puts an IPAM plugin called `foreign` into the plugin folder: it notes its calls and then does what `body` says.
fn install(host: &Host, body: &str) {
    let log = host.root().join("calls");
    let log = log.display();
    host.install_script(
        "foreign",
        &format!(
            "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS\" >> {log}\n\
             cat > {log}.$CNI_COMMAND\nenv > {log}.env\n{body}\n"
        ),
    );
}

fn answering(answer: &str) -> String {
    format!("if [ $CNI_COMMAND = ADD ]; then printf '%s' '{answer}'; fi")
}

fn verbs(host: &Host) -> Vec<String> {
    let calls = host.read("calls").unwrap_or_default();
    let _ = fs::remove_file(host.root().join("calls"));
    calls.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn foreign(config: &Value) -> Value {
    with(config, json!({"ipam": {"type": "foreign", "anything": {"Goes": ["here"]}}}))
}

#[test]
fn it_is_called_for_every_verb_with_the_whole_configuration() {
    for (plugin, config) in [("bridge", foreign(&bridge("n", &[]))), ("rnet", foreign(&rnet("n", &[])))] {
        let host = Host::new();
        install(&host, &answering(ANSWER));
        let (_container, who) = host.container("c1");
        let who = who.args("none of its business").args("");

        let result = host.add(plugin, &who, &config);

        assert_eq!(
            result["ips"],
            json!([{"address": "10.50.0.7/24", "gateway": "10.50.0.1", "interface": 2}])
        );
        assert_eq!(result["dns"], json!({"nameservers": ["10.50.0.53"]}));
        let given: Value = serde_json::from_str(&host.read("calls.ADD").unwrap()).unwrap();
        assert_eq!(given, config);
        assert_eq!(host.read("calls").unwrap(), format!("ADD c1 eth0 {}\n", who.netns));

        let checked = with(&config, json!({"prevResult": result}));
        host.cni("CHECK", plugin, &who, &checked).silent();
        host.cni("STATUS", plugin, &who, &config).silent();
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
        host.cni("GC", plugin, &who, &with(&config, valid)).silent();
        host.del(plugin, &who.netns(""), &config);
        assert_eq!(verbs(&host), ["ADD", "CHECK", "STATUS", "GC", "DEL"]);
    }
}

#[test]
fn its_failure_goes_up_unchanged_and_everything_is_undone() {
    for (plugin, config) in [("bridge", foreign(&bridge("n", &[]))), ("rnet", foreign(&rnet("n", &[])))] {
        let host = Host::new();
        let error = r#"{"cniVersion":"0.3.1","code":137,"msg":"pool \"x\" is empty","details":"ask Bob"}"#;
        install(&host, &format!("if [ $CNI_COMMAND = ADD ]; then printf '%s' '{error}'; exit 1; fi"));
        let (_container, who) = host.container("c1");
        let before = host.snapshot();

        let told = host.cni("ADD", plugin, &who, &config).error();

        assert_eq!(
            (&told["code"], &told["msg"], &told["details"]),
            (&json!(137), &json!("pool \"x\" is empty"), &json!("ask Bob"))
        );
        assert_eq!(verbs(&host), ["ADD", "DEL"]);
        assert_eq!(host.links(), Vec::<String>::new());
        assert_eq!(host.elements(), []);
        let fresh = before.diff(&host.snapshot()).unwrap_or_default();
        assert!(!fresh.contains("records/"), "{fresh}");

        install(&host, &answering(ANSWER));
        host.add(plugin, &who, &config);
    }
}

#[test]
fn its_bad_answers_are_told_in_libcnis_words() {
    let config = foreign(&bridge("n", &[]));
    let cases = [
        ("if [ $CNI_COMMAND = ADD ]; then printf '{}'; fi", 7, "IPAM plugin returned missing IP config"),
        (
            r#"if [ $CNI_COMMAND = ADD ]; then printf '{"ips":[]}'; fi"#,
            7,
            "IPAM plugin returned missing IP config",
        ),
        ("if [ $CNI_COMMAND = ADD ]; then echo no json; fi", 6, "its result cannot be parsed"),
        (
            "if [ $CNI_COMMAND = ADD ]; then echo no json; exit 3; fi",
            999,
            "netplugin failed but error parsing its diagnostic message",
        ),
        ("if [ $CNI_COMMAND = ADD ]; then exit 3; fi", 999, "netplugin failed with no error message"),
    ];
    for (body, code, text) in cases {
        let host = Host::new();
        install(&host, body);
        let (_container, who) = host.container("c1");
        let refused = host.cni("ADD", "bridge", &who, &config).refusal();
        assert!(refused.0 == code && refused.1.contains(text), "{body}: {refused:?}");
        assert_eq!(verbs(&host), ["ADD", "DEL"]);
        assert!(host.links().is_empty());
    }
}

#[test]
fn what_it_says_on_stderr_is_passed_on() {
    let host = Host::new();
    install(&host, &format!("echo hello >&2; {}", answering(ANSWER)));
    let (_container, who) = host.container("c1");
    let outcome = host.cni("ADD", "bridge", &who, &foreign(&bridge("n", &[])));
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, "hello\n"));
}

#[test]
fn it_is_told_when_something_later_fails() {
    let host = Host::new();
    install(&host, &answering(ANSWER));
    let (_container, who) = host.container("c1");
    let config = foreign(&bridge("n", &[]));
    host.add("bridge", &who, &config);
    verbs(&host);
    // Another network wants the same interface name.
    let other = with(&config, json!({"name": "other"}));

    let refused = host.cni("ADD", "bridge", &who, &other).refusal();

    assert_eq!(refused.0, 104);
    assert!(refused.1.starts_with("container veth name (\"eth0\") peer provided (\"veth"), "{refused:?}");
    assert!(refused.1.ends_with("already exists"));
    assert_eq!(verbs(&host), ["ADD", "DEL"]);
    assert_eq!(host.links().len(), 2);
}

#[test]
fn it_gets_no_variables_of_the_dynamic_linker() {
    let host = Host::new();
    install(&host, &answering(ANSWER));
    let (_container, who) = host.container("c1");
    let config = foreign(&bridge("n", &[]));
    let call =
        host.call("ADD", "bridge", &who).set("LD_LIBRARY_PATH", "/evil").set("CNI_NETNS_OVERRIDE", "1");
    call.input(config.to_string()).run().json();
    let env = host.read("calls.env").unwrap();
    assert!(!env.contains("LD_LIBRARY_PATH"), "{env}");
    assert!(env.contains("CNI_NETNS_OVERRIDE=1") && env.contains("CNI_PATH="), "{env}");
}

/// A copy of the binary is a foreign program like any other.
#[test]
fn a_host_local_that_is_another_file_is_executed_and_does_the_same() {
    let host = Host::new();
    let program = host.plugins.join("host-local");
    fs::remove_file(&program).unwrap();
    netns_fixtures::copy_program(env!("CARGO_BIN_EXE_rnet"), &program).unwrap();
    let (_container, who) = host.container("c1");
    let config = bridge("n", &["10.50.0.0/24"]);
    let result = host.add("bridge", &who, &config);
    assert_eq!(address(&result, false).to_string(), "10.50.0.2");
    assert_eq!(host.read("var/lib/cni/networks/n/10.50.0.2").as_deref(), Some("c1\r\neth0"));
    host.del("bridge", &who, &config);
    assert_eq!(host.read("var/lib/cni/networks/n/10.50.0.2"), None);
}

#[test]
fn a_slow_one_holds_nobody_else_up() {
    let host = Host::new();
    let go = host.root().join("go");
    let wait = format!(
        "n=0; while [ $CNI_CONTAINERID = slow -a ! -e {} -a $n -lt 1000 ]; do n=$((n+1)); sleep 0.02; done",
        go.display()
    );
    let answer = ANSWER.replace("0.7/24", "0.'$1'/24");
    let script =
        format!("{wait}\nset -- $([ $CNI_CONTAINERID = slow ] && echo 7 || echo 8)\n{}", answering(&answer));
    install(&host, &script);
    let config = foreign(&bridge("n", &[]));
    let ((slow, slow_who), (_quick, quick_who)) = (host.container("slow"), host.container("quick"));
    std::thread::scope(|scope| {
        let pending = scope.spawn(|| host.cni("ADD", "bridge", &slow_who, &config).json());
        // It has begun when it has noted its call.
        wait_until("its call is noted", || host.read("calls").is_some());
        let quick = host.add("bridge", &quick_who, &config);
        assert_eq!(address(&quick, false).to_string(), "10.50.0.8");
        assert!(!pending.is_finished());
        fs::write(&go, "").unwrap();
        assert_eq!(address(&pending.join().unwrap(), false).to_string(), "10.50.0.7");
    });
    drop(slow);
}

#[test]
fn a_failing_del_is_told_and_may_be_repeated() {
    let host = Host::new();
    install(&host, &answering(ANSWER));
    let (_container, who) = host.container("c1");
    let config = foreign(&bridge("n", &[]));
    host.add("bridge", &who, &config);
    install(&host, r#"printf '{"code":11,"msg":"busy"}'; exit 1"#);
    assert_eq!(host.cni("DEL", "bridge", &who, &config).refusal(), (11, "busy".into()));
    assert_eq!(host.links(), ["br0"]);
    install(&host, "");
    host.del("bridge", &who, &config);
    assert_eq!(verbs(&host), ["ADD", "DEL", "DEL"]);
}

#[test]
fn one_that_is_missing_is_told_once_and_nothing_is_left() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let before = host.snapshot();
    let text = format!("failed to find plugin \"nope\" in path [{}]", host.plugins.display());
    for (plugin, config) in [("bridge", bridge("n", &[])), ("rnet", rnet("n", &[]))] {
        let config = with(&config, json!({"ipam": {"type": "nope"}}));
        assert_eq!(host.cni("ADD", plugin, &who, &config).refusal(), (7, text.clone()));
        netns_fixtures::assert_same(&before, &host.snapshot());
        // Runtimes call DEL after a failed ADD.
        host.del(plugin, &who, &config);
        netns_fixtures::assert_same(&before, &host.snapshot());
    }
}

/// It may have an address to free.
#[test]
fn one_that_has_gone_missing_keeps_del_from_succeeding_until_it_is_back() {
    let host = Host::new();
    install(&host, &answering(ANSWER));
    let (_container, who) = host.container("c1");
    let config = foreign(&bridge("n", &[]));
    host.add("bridge", &who, &config);
    fs::remove_file(host.plugins.join("foreign")).unwrap();
    for _ in 0..2 {
        assert_eq!(host.cni("DEL", "bridge", &who, &config).refusal().0, 7);
    }
    verbs(&host);
    install(&host, "");
    host.del("bridge", &who, &config);
    assert_eq!(verbs(&host), ["DEL"]);
}

#[test]
fn a_plugin_of_rnet_that_leases_nothing_is_refused_at_once() {
    let host = Host::new();
    for name in PLUGINS {
        let _ = std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_rnet"),
            host.plugins.join(format!("buildkit-cni-{name}")),
        );
    }
    let (_container, who) = host.container("c1");
    let before = host.snapshot();
    for (plugin, config, ipam) in [
        ("bridge", bridge("n", &[]), "bridge"),
        ("bridge", bridge("n", &[]), "rnet"),
        ("bridge", bridge("n", &[]), "buildkit-cni-bridge"),
        ("rnet", rnet("n", &[]), "bridge"),
        ("rnet", rnet("n", &[]), "portmap"),
    ] {
        let config = with(&config, json!({"ipam": {"type": ipam}}));
        let begun = Instant::now();
        let refused = host.cni("ADD", plugin, &who, &config).refusal();
        assert!(refused.0 == 7 && refused.1.contains(&format!("{ipam:?}")), "{refused:?}");
        host.del(plugin, &who, &config);
        assert!(begun.elapsed() < Duration::from_secs(5));
        netns_fixtures::assert_same(&before, &host.snapshot());
    }
}

#[test]
fn a_status_that_it_refuses_is_refused() {
    let host = Host::new();
    install(&host, r#"printf '{"code":50,"msg":"no database"}'; exit 1"#);
    let refused = host.cni("STATUS", "bridge", &Who::named("", ""), &foreign(&bridge("n", &[]))).refusal();
    assert_eq!(refused, (50, "no database".into()));
}

#[test]
fn a_network_that_changed_its_ipam_frees_what_it_leased_itself() {
    let host = Host::new();
    let (_container, who) = host.container("c1");
    let own = rnet("n", &["172.18.0.0/24"]);
    for ipam in [json!({"type": "host-local", "ranges": ranges(&["172.18.0.0/24"])}), json!({"type": "nope"})]
    {
        let leases = host.run_folder().join("leases/n/172.18.0.2");
        host.add("rnet", &who, &own);
        assert!(leases.exists());

        host.cni("DEL", "rnet", &who, &with(&own, json!({"ipam": ipam})));

        assert!(!leases.exists(), "{ipam}");
        host.del("rnet", &who, &own);
    }
}

#[test]
fn a_name_gets_its_address_again_while_nobody_has_it() {
    let host = Host::new();
    let config = rnet("n", &["172.18.0.0/24"]);
    let leased = |id: &str, name: &str, config: &Value| {
        let (container, who) = host.container(id);
        let who = who.args(&format!("IgnoreUnknown=1;K8S_POD_NAME={name}"));
        let ip = address(&host.add("rnet", &who, config), false).to_string();
        (container, who, ip)
    };
    let (_one, web, first) = leased("c1", "web", &config);
    let (_two, db, second) = leased("c2", "db", &config);
    assert_ne!(first, second);
    host.cni("DEL", "rnet", &web, &config).silent();
    host.cni("DEL", "rnet", &db, &config).silent();

    // Another id of the same name; a stranger takes the lowest, and web's with it.
    let (_three, _, again) = leased("c3", "db", &config);
    let (_four, _, stranger) = leased("c4", "stranger", &config);
    let (_five, _, late) = leased("c5", "web", &config);
    assert_eq!((&again, &stranger), (&second, &first));
    assert!(late != first && late != second);

    // An ADD that fails changes nothing of what is remembered, although it had a lease.
    let (_eight, other) = host.container("c8");
    let other = other.args("IgnoreUnknown=1;K8S_POD_NAME=db");
    let remembered = memory_of(&host);
    let impossible = with(
        &config,
        json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "203.0.113.9"}]}}),
    );
    assert_ne!(host.cni("ADD", "rnet", &other, &impossible).status, 0);
    assert_eq!(memory_of(&host), remembered);

    // Garbage in its place is nothing remembered; the key can be turned off.
    let places = host.root().join("var/lib/rnet/addresses");
    let network = fs::read_dir(&places).unwrap().next().unwrap().unwrap().path();
    for place in fs::read_dir(&network).unwrap() {
        fs::write(place.unwrap().path(), b"\xff/../../x").unwrap();
    }
    assert!(leased("c6", "db", &config).2 != second);
    assert!(leased("c7", "db", &with(&config, json!({"stickyAddresses": false}))).2 != second);
}

/// What is remembered of names.
fn memory_of(host: &Host) -> Vec<(std::path::PathBuf, String)> {
    let networks = fs::read_dir(host.root().join("var/lib/rnet/addresses")).unwrap();
    let files = networks.flat_map(|network| fs::read_dir(network.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// libcni reads whatever supported version a delegate answers in.
#[test]
fn it_may_answer_in_another_generation() {
    let listed =
        r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.50.0.7/24","gateway":"10.50.0.1"}]}"#;
    let per_family = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.50.0.7/24","gateway":"10.50.0.1"}}"#;
    for answer in [listed, per_family] {
        let host = Host::new();
        install(&host, &answering(answer));
        let (_container, who) = host.container("c1");
        let result = host.add("bridge", &who, &foreign(&bridge("n", &[])));
        assert_eq!(result["cniVersion"], "1.1.0");
        assert_eq!(
            result["ips"],
            json!([{"address": "10.50.0.7/24", "gateway": "10.50.0.1", "interface": 2}])
        );
    }
}

#[test]
fn the_configurations_resolver_settings_win_over_its_own_if_they_say_anything() {
    let host = Host::new();
    install(&host, &answering(ANSWER));
    let (_container, who) = host.container("c1");
    let its_own = json!({"nameservers": ["10.50.0.53"]});
    let cases = [
        (json!({}), its_own.clone()),
        (json!({"nameservers": null, "domain": ""}), its_own),
        (json!({"nameservers": []}), Value::Null),
        (json!({"domain": "lan"}), json!({"domain": "lan"})),
        (
            json!({"nameservers": ["192.0.2.53"], "options": ["ndots:1"]}),
            json!({"nameservers": ["192.0.2.53"], "options": ["ndots:1"]}),
        ),
    ];
    for (dns, told) in cases {
        let config = with(&foreign(&bridge("n", &[])), json!({"dns": dns}));
        assert_eq!(host.add("bridge", &who, &config)["dns"], told, "{dns}");
        host.del("bridge", &who, &config);
    }
}
