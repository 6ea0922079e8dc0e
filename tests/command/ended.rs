//! Endpoints that ended: how that is told, and what their programs wrote.

use std::io::Read;
use std::process::Stdio;

use super::{Lab, wait_until};

/// Waits until the program of an endpoint has ended and its end is remembered.
fn wait_for_end(lab: &Lab, name: &str) {
    wait_until("it has ended", || lab.json(&format!("inspect {name}"))[0]["state"] == "exited");
}

#[test]
fn a_program_that_ends_at_once_is_an_error_with_its_last_words() {
    let lab = Lab::new();
    let said = lab.script("run -d --name web", "echo one; echo two >&2; exit 3");
    assert_eq!((said.exit, said.stdout.as_str()), (3, ""), "{said:?}");
    assert_eq!(
        said.stderr,
        "error: \"web\" ended at once, status 3\n  | one\n  | two\n hint: rnet logs web\n"
    );
    let ps = lab.ok("ps -a");
    assert!(ps.contains("web        bridge") && ps.contains("exited (3) "), "{ps}");
    assert_eq!(lab.ok("ps -q"), "");
    let logs = lab.rnet("logs web");
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str(), logs.exit), ("one\n", "two\n", 0));

    assert_eq!(lab.script("run -d --rm --name one", "exit 1").exit, 1, "the program's own, not rnet's 125");
    let killed = lab.script("--json run -d --rm --name brief", "echo last; kill -KILL $$");
    assert_eq!(killed.exit, 137, "{killed:?}");
    let told: serde_json::Value = serde_json::from_str(&killed.stderr).unwrap();
    assert_eq!(told["error"]["code"], "ended");
    assert_eq!(
        (&told["error"]["output"], &told["error"]["hint"]),
        (&"last\n".into(), &serde_json::Value::Null)
    );
    assert_eq!(lab.ok("ps -a -q"), "web\n");
    let done = lab.script("run -d --name done", "true");
    assert_eq!((done.exit, done.stdout.as_str()), (0, "done\n"));
    assert_eq!(done.stderr, "warning: \"done\" has ended already, status 0\n");
    lab.nobody_is_left();
}

#[test]
fn what_cannot_be_started_is_not_remembered() {
    let lab = Lab::new();
    lab.refused("run -d --name a nosuchprogram", 127);
    lab.refused("run -d --name b /etc", 126);
    assert_eq!(lab.ok("ps -a -q"), "");
    lab.nobody_is_left();
}

#[test]
fn the_end_of_a_program_is_remembered_and_its_address_is_free() {
    let lab = Lab::new();
    lab.ok("create --no-sticky mynet");
    lab.script("run -d --name web --net mynet -p 8080:80 --expose 90", "sleep 0.2; exit 4");
    wait_for_end(&lab, "web");
    lab.ok("run -d --name db --net mynet -p 8080:80 sleep 1000");
    assert_eq!(lab.json("inspect db")[0]["networks"][0]["addresses"][0], "172.18.0.2/16");

    let web = &lab.json("inspect web")[0];
    assert_eq!(
        (&web["reason"], &web["exitStatus"], &web["running"]),
        (&"status 4".into(), &4.into(), &false.into())
    );
    assert_eq!(web["exposed"], serde_json::json!(["90/tcp"]));
    assert_eq!(lab.ok("port web"), "80/tcp -> 0.0.0.0:8080\n");
    assert_eq!(lab.json("ps -a --json").as_array().unwrap().len(), 2);
    assert_eq!(lab.json("ps --json").as_array().unwrap().len(), 1);

    // A name that only an ended endpoint has may be taken.
    lab.ok("run -d --name web --net mynet sleep 1000");
    assert_eq!(lab.json("inspect web")[0]["state"], "running");
    lab.ok("stop web db");
    assert_eq!(lab.ok("ps -a -q").lines().count(), 3);
    assert_eq!(lab.ok("rm web db"), "web\ndb\n");
    assert_eq!(lab.ok("ps -a -q"), "");
}

#[test]
fn an_endpoint_that_is_removed_or_started_with_rm_is_not_remembered() {
    let lab = Lab::new();
    lab.ok("run -d --name web --net none sleep 1000");
    lab.ok("rm -f web");
    lab.script("run -d --rm --name db --net none", "sleep 0.1");
    wait_until("db has ended", || lab.ok("ps -q").is_empty());
    lab.script("run --name fore --net none", "true");
    assert_eq!(lab.ok("ps -a -q"), "");
}

#[test]
fn logs_are_what_was_written_where_it_was_written() {
    let lab = Lab::new();
    let script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done; printf half; sleep 1000";
    lab.script("run -d --name web --net none", script);
    wait_until("all is written", || lab.ok("logs web").ends_with("half"));
    let all = lab.rnet("logs web");
    assert_eq!((all.stdout.as_str(), all.stderr.as_str()), ("out1\nout2\nout3\nhalf", "err1\nerr2\nerr3\n"));
    assert_eq!(lab.ok("logs --tail 0 web"), "");
    let stamped = lab.ok("logs -t web").lines().last().unwrap().to_owned();
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(text == "half" && time.len() == 24 && time.ends_with('Z') && time.starts_with("20"), "{stamped}");
    let json = lab.ok("logs --json web");
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_there =
        |stream: &str, text: &str| lines.iter().any(|l| l["stream"] == stream && l["text"] == text);
    assert!(lines.len() == 7 && is_there("stderr", "err3\n") && is_there("stdout", "half"), "{json}");
    lab.ok("rm -f web");
    lab.refused("logs web", 3);
}

#[test]
fn logs_follow_until_the_end() {
    let lab = Lab::new();
    let go = lab.host.root().join("go");
    let script = format!("echo first; while [ ! -e {} ]; do sleep 0.01; done; echo last", go.display());
    lab.script("run -d --name web --net none", &script);
    let mut logs = lab.program("logs -f web").stdout(Stdio::piped()).spawn().unwrap();
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
    let lab = Lab::new();
    lab.script("run -d --name web --net none", "seq 1 500000; echo end");
    wait_for_end(&lab, "web");
    let logs = lab.ok("logs web");
    assert!(logs.ends_with("499999\n500000\nend\n"));
    assert!((900 << 10..=1 << 20).contains(&logs.len()), "{}", logs.len());
    let bytes = lab.on_host("du -sb $RNET_ROOT/run/rnet/*/ended | cut -f1");
    assert!(bytes.trim().parse::<u64>().unwrap() < 2 << 20, "{bytes}");
}

#[test]
fn an_end_that_nobody_saw_is_remembered_too() {
    let lab = Lab::new();
    lab.ok("run -d --name web --net none sleep 1000");
    let program = lab.pid("web");
    for pid in lab.supervisors().into_iter().chain([program]) {
        super::kill(pid, rustix::process::Signal::KILL);
    }
    wait_until("all are dead", || lab.supervisors().is_empty() && super::is_dead(program));
    assert_eq!(lab.json("inspect web")[0]["state"], "dead");
    lab.ok("run --net none true");
    assert!(lab.ok("ps -a").contains("exited (unknown)"), "{}", lab.ok("ps -a"));
}

#[test]
fn an_endpoint_is_started_again_as_it_was() {
    let lab = Lab::new();
    lab.ok("create mynet");
    lab.ok("run -d --name db --net mynet sleep 1000");
    let script = "run -d --name web --net mynet -P --expose 80 --network-alias www --hostname app";
    let told = lab.script(&format!("--json {script}"), "echo started; sleep 1000");
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    let port = told["networks"][0]["ports"][0]["hostPort"].clone();
    lab.ok("stop web db");

    assert_eq!(lab.ok("start web db"), "web\ndb\n");
    let web = &lab.json("inspect web")[0];
    assert_eq!(web["networks"][0]["ports"][0]["hostPort"], port);
    assert_eq!(web["networks"][0]["addresses"][0], "172.18.0.3/16");
    assert_eq!(lab.ok("exec web uname -n"), "app\n");
    assert_eq!(lab.script("exec db", "getent hosts www").exit, 0);
    wait_until("it has written", || lab.ok("logs web") == "started\n");
    assert_eq!(lab.ok("ps -a -q"), "db\nweb\n");
    assert_eq!(lab.ok("start web"), "web\n", "what runs is started already");
    assert_eq!(lab.refused("start nosuch", 3), "error: no endpoint \"nosuch\"\n hint: rnet ps\n");
    lab.ok("rm -f web db");
}
