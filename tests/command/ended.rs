//! Endpoints that ended: how that is told, and what their programs wrote.

use std::io::Read;
use std::process::Stdio;

use crate::common::{Host, wait_until};

/// Waits until the program of an endpoint has ended and its end is remembered.
fn wait_for_end(host: &Host, name: &str) {
    wait_until("it has ended", || host.json(&format!("inspect {name}"))[0]["state"] == "exited");
}

#[test]
fn a_program_that_ends_at_once_is_an_error_with_its_last_words() {
    let host = Host::forwarding();
    let said = host.script("run -d --name web", "echo one; echo two >&2; exit 3");
    assert_eq!((said.status, said.stdout.as_str()), (3, ""), "{said:?}");
    assert_eq!(
        said.stderr,
        "error: \"web\" ended immediately, status 3\n  | one\n  | two\n hint: rnet logs web\n"
    );
    let ps = host.ok("ps -a");
    assert!(ps.contains("web        bridge") && ps.contains("exited (3) "), "{ps}");
    assert_eq!(host.ok("ps -q"), "");
    let logs = host.rnet("logs web");
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str(), logs.status), ("one\n", "two\n", 0));

    assert_eq!(
        host.script("run -d --rm --name one", "exit 1").status,
        1,
        "the program's own, not rnet's 125"
    );
    let killed = host.script("--json run -d --rm --name brief", "echo last; kill -KILL $$");
    assert_eq!(killed.status, 137, "{killed:?}");
    let told: serde_json::Value = serde_json::from_str(&killed.stderr).unwrap();
    assert_eq!(told["error"]["code"], "ended");
    assert_eq!(
        (&told["error"]["output"], &told["error"]["hint"]),
        (&"last\n".into(), &serde_json::Value::Null)
    );
    assert_eq!(host.ok("ps -a -q"), "web\n");
    let done = host.script("run -d --name done", "true");
    assert_eq!((done.status, done.stdout.as_str()), (0, "done\n"));
    assert_eq!(done.stderr, "warning: \"done\" has already ended, status 0\n");
    host.nobody_is_left();
}

#[test]
fn what_cannot_be_started_is_not_remembered() {
    let host = Host::forwarding();
    host.refused("run -d --name a nosuchprogram", 127);
    host.refused("run -d --name b /etc", 126);
    assert_eq!(host.ok("ps -a -q"), "");
    host.nobody_is_left();
}

#[test]
fn the_end_of_a_program_is_remembered_and_its_address_is_free() {
    let host = Host::forwarding();
    host.ok("create --no-sticky mynet");
    host.script("run -d --name web --net mynet -p 8080:80 --expose 90", "sleep 0.2; exit 4");
    wait_for_end(&host, "web");
    host.ok("run -d --name db --net mynet -p 8080:80 sleep 1000");
    assert_eq!(host.json("inspect db")[0]["networks"][0]["addresses"][0], "172.18.0.2/16");

    let web = &host.json("inspect web")[0];
    assert_eq!(
        (&web["reason"], &web["exitStatus"], &web["running"]),
        (&"status 4".into(), &4.into(), &false.into())
    );
    assert_eq!(web["exposed"], serde_json::json!(["90/tcp"]));
    assert_eq!(host.ok("port web"), "80/tcp -> 0.0.0.0:8080\n");
    assert_eq!(host.json("ps -a --json").as_array().unwrap().len(), 2);
    assert_eq!(host.json("ps --json").as_array().unwrap().len(), 1);

    // A name that only an ended endpoint has may be taken.
    host.ok("run -d --name web --net mynet sleep 1000");
    assert_eq!(host.json("inspect web")[0]["state"], "running");
    host.ok("stop web db");
    assert_eq!(host.ok("ps -a -q").lines().count(), 3);
    assert_eq!(host.ok("rm web db"), "web\ndb\n");
    assert_eq!(host.ok("ps -a -q"), "");
}

#[test]
fn an_endpoint_that_is_removed_or_started_with_rm_is_not_remembered() {
    let host = Host::forwarding();
    host.ok("run -d --name web --net none sleep 1000");
    host.ok("rm -f web");
    host.script("run -d --rm --name db --net none", "sleep 0.1");
    wait_until("db has ended", || host.ok("ps -q").is_empty());
    host.script("run --name fore --net none", "true");
    assert_eq!(host.ok("ps -a -q"), "");
}

#[test]
fn logs_are_what_was_written_where_it_was_written() {
    let host = Host::forwarding();
    let script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done; printf half; sleep 1000";
    host.script("run -d --name web --net none", script);
    wait_until("all is written", || host.ok("logs web").ends_with("half"));
    let all = host.rnet("logs web");
    assert_eq!((all.stdout.as_str(), all.stderr.as_str()), ("out1\nout2\nout3\nhalf", "err1\nerr2\nerr3\n"));
    assert_eq!(host.ok("logs --tail 0 web"), "");
    let stamped = host.ok("logs -t web").lines().last().unwrap().to_owned();
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(text == "half" && time.len() == 24 && time.ends_with('Z') && time.starts_with("20"), "{stamped}");
    let json = host.ok("logs --json web");
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_there =
        |stream: &str, text: &str| lines.iter().any(|l| l["stream"] == stream && l["text"] == text);
    assert!(lines.len() == 7 && is_there("stderr", "err3\n") && is_there("stdout", "half"), "{json}");
    host.ok("rm -f web");
    host.refused("logs web", 3);
}

#[test]
fn logs_follow_until_the_end() {
    let host = Host::forwarding();
    let go = host.root().join("go");
    let script = format!("echo first; while [ ! -e {} ]; do sleep 0.01; done; echo last", go.display());
    host.script("run -d --name web --net none", &script);
    let mut logs = host.program("logs -f web").stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = logs.stdout.take().unwrap();
    let mut first = [0; 6];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    std::fs::write(&go, "").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), logs.wait().unwrap().code()), ("last\n", Some(0)));
}

#[test]
fn of_much_output_the_last_mebibyte_is_shown() {
    let host = Host::forwarding();
    host.script("run -d --name web --net none", "seq 1 500000; echo end");
    wait_for_end(&host, "web");
    let logs = host.ok("logs web");
    assert!(logs.ends_with("499999\n500000\nend\n"));
    assert!((900 << 10..=1 << 20).contains(&logs.len()), "{}", logs.len());
    let bytes = host.on_host("du -sb $RNET_ROOT/run/rnet/*/ended | cut -f1");
    assert!(bytes.trim().parse::<u64>().unwrap() < 2 << 20, "{bytes}");
}

#[test]
fn an_end_that_nobody_saw_is_remembered_too() {
    let host = Host::forwarding();
    host.ok("run -d --name web --net none sleep 1000");
    let program = host.pid("web");
    for pid in host.supervisors().into_iter().chain([program]) {
        crate::common::signal(pid, rustix::process::Signal::KILL);
    }
    wait_until("all are dead", || host.supervisors().is_empty() && crate::common::is_dead(program));
    assert_eq!(host.json("inspect web")[0]["state"], "dead");
    host.ok("run --net none true");
    assert!(host.ok("ps -a").contains("exited (unknown)"), "{}", host.ok("ps -a"));
}

#[test]
fn an_endpoint_is_started_again_as_it_was() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name db --net mynet sleep 1000");
    let script = "run -d --name web --net mynet -P --expose 80 --network-alias www --hostname app";
    let told = host.script(&format!("--json {script}"), "echo started; sleep 1000");
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    let port = told["networks"][0]["ports"][0]["hostPort"].clone();
    host.ok("stop web db");

    assert_eq!(host.ok("start web db"), "web\ndb\n");
    let web = &host.json("inspect web")[0];
    assert_eq!(web["networks"][0]["ports"][0]["hostPort"], port);
    assert_eq!(web["networks"][0]["addresses"][0], "172.18.0.3/16");
    assert_eq!(host.ok("exec web uname -n"), "app\n");
    assert_eq!(host.script("exec db", "getent hosts www").status, 0);
    wait_until("it has written", || host.ok("logs web") == "started\n");
    assert_eq!(host.ok("ps -a -q"), "db\nweb\n");
    assert_eq!(host.ok("start web"), "web\n", "what runs is started already");
    assert_eq!(host.refused("start nosuch", 3), "error: no endpoint \"nosuch\"\n hint: rnet ps\n");
    host.ok("rm -f web db");
}
