//! `--json`: every verb that prints data, in one form.

use serde_json::{Value, json};

use crate::common::Host;

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

const NETWORK: [&str; 9] =
    ["name", "id", "driver", "subnets", "gateways", "bridge", "endpoints", "state", "reason"];

#[test]
fn networks_and_what_is_done_to_them() {
    let host = Host::forwarding();
    let created = host.json("create --json mynet");
    assert_eq!(
        (&created["name"], &created["state"], &created["reason"]),
        (&json!("mynet"), &json!("idle"), &Value::Null)
    );
    assert_eq!(created["file"], host.json("inspect mynet")[0]["file"]);
    assert!(created["file"].as_str().unwrap().ends_with("/rnet-mynet.conflist"));
    assert_eq!(host.json("create --json --ignore-existing mynet"), created);
    let listed = host.json("ls --json");
    assert_eq!(keys(&listed[0]), NETWORK);
    assert_eq!((&listed[0]["id"], &listed[0]["endpoints"]), (&created["id"], &json!(0)));
    assert_eq!(host.json("ls -q --json"), json!(["mynet"]));
    assert!(host.json("ls --all --json").as_array().unwrap().iter().all(|line| keys(line) == NETWORK));
    assert_eq!(host.json("inspect mynet")[0]["state"], "idle");
    assert_eq!(
        host.json("rm --json mynet"),
        json!([{"type": "network", "name": "mynet", "id": created["id"]}])
    );
}

#[test]
fn endpoints_and_what_is_done_to_them() {
    let host = Host::forwarding();
    let web = host.json("run -d --json --name web -p 8080:80 sleep 1000");
    let listed = host.json("ps --json");
    assert_eq!((keys(&web), &web["id"]), (keys(&listed[0]), &listed[0]["id"]));
    assert_eq!(
        (&web["type"], &web["state"], &web["reason"]),
        (&json!("endpoint"), &json!("running"), &Value::Null)
    );
    let port = json!({"hostPort": 8080, "container": "172.18.0.2", "containerPort": 80, "protocol": "tcp"});
    assert_eq!((&web["networks"][0]["ports"], host.json("port --json web")), (&json!([port]), json!([port])));
    assert!(web["networks"][0]["rxBytes"].is_u64() && web["started"].as_str().unwrap().ends_with('Z'));
    assert_eq!(host.json("ps -q --json"), json!(["web"]));
    assert_eq!(host.json("inspect web")[0]["state"], "running");
    assert_eq!(host.json("stop --json web"), json!([{"type": "endpoint", "name": "web", "id": web["id"]}]));

    let past = &host.json("ps -a --json")[0];
    assert_eq!(
        (&past["state"], &past["reason"], &past["exitStatus"]),
        (&json!("exited"), &json!("signal 15"), &json!(143))
    );
    let started = host.json("start --json web");
    assert_eq!(started["state"], "running");
    // One that runs is started already, and shown all the same.
    assert_eq!(keys(&host.json("start --json web")), keys(&started));
    let removed = host.json("rm -f --json web");
    assert_eq!((keys(&removed[0]), &removed[0]["name"]), (vec!["type", "name", "id"], &json!("web")));
}

#[test]
fn the_plugins_links() {
    let host = Host::forwarding();
    let folder = host.installed_plugins().display().to_string();
    let made = host.json(&format!("install --json {folder}"));
    let bridge = json!({"type": "file", "name": "bridge", "file": format!("{folder}/bridge")});
    assert!(made.as_array().unwrap().contains(&bridge), "{made}");
    assert_eq!(host.json(&format!("install --json {folder}")), json!([]));
    assert_eq!(host.json(&format!("install --json --uninstall {folder}")), made);
}

#[test]
fn the_name_server() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    let status = host.json("dns status --json");
    assert!(status["sinceBootMs"].is_u64() && status.get("since").is_none(), "{status}");
    assert!(status["netns"]["inode"].is_u64());
    let log = host.ok("dns log --json");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| keys(line) == ["time", "level", "text"]), "{log}");

    let shown = host.ok("dns log");
    let id = host.json("inspect web")[0]["id"].as_str().unwrap().to_owned();
    assert!(shown.contains(&id[..12]) && !shown.contains(&id[..13]), "{shown}");
    assert!(shown.lines().all(|line| line.len() < 160 && line.get(19..20) == Some(".")), "{shown}");
    host.ok("stop web");
}

#[test]
fn what_goes_wrong() {
    let host = Host::forwarding();
    host.script("run -d --name web --net none", "exit 3");
    for (line, exit, code) in [
        ("inspect nosuch", 3, "not-found"),
        ("stop web", 3, "not-found"),
        ("rm nosuch", 3, "not-found"),
        ("port nosuch", 3, "not-found"),
        ("logs nosuch", 3, "not-found"),
        ("start nosuch", 3, "not-found"),
        ("run -it sh", 2, "usage"),
        ("nosuch", 2, "usage"),
        ("run -d --net none false", 1, "ended"),
        ("install --only nosuch /tmp/never", 3, "not-found"),
        ("run", 2, "usage"),
        ("dns", 2, "usage"),
    ] {
        let said = host.rnet(&format!("--json {line}"));
        assert_eq!(said.status, exit, "{line}: {said:?}");
        let told: Value = serde_json::from_str(&said.stderr).unwrap_or_else(|_| panic!("{line}: {said:?}"));
        assert_eq!(told["error"]["code"], code, "{line}");
        assert!(told["error"]["message"].is_string());
    }
}
