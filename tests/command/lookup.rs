//! Which thing a word means, in every verb.

use serde_json::json;

use crate::common::{Host, wait_until};

/// Every verb that takes an endpoint, with what a wrong word costs.
const VERBS: [&str; 7] = ["stop {}", "rm {}", "rm -f {}", "exec {} true", "inspect {}", "port {}", "logs {}"];

#[test]
fn one_letter_hits_nothing() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    let net = host.json("inspect mynet")[0]["id"].as_str().unwrap().to_owned();
    let web = host.json("inspect web")[0]["id"].as_str().unwrap().to_owned();
    for verb in VERBS.iter().filter(|verb| **verb != "rm -f {}") {
        for word in [&net[..1], &net[..5], &web[..1], &web[..5]] {
            host.refused(&verb.replace("{}", word), 3);
        }
    }
    for word in [&net[..1], &web[..5]] {
        assert_eq!(host.ok(&format!("rm -f {word}")), "");
        host.refused(&format!("run --net {word} true"), 3);
    }
    assert_eq!((host.ok("ls -q"), host.ok("ps -q")), ("mynet\n".into(), "web\n".into()));

    for word in [&web[..6], &web[..12], &web[..]] {
        assert_eq!(host.json(&format!("inspect {word}"))[0]["name"], "web");
    }
    assert_eq!(host.json(&format!("inspect {}", &net[..6]))[0]["name"], "mynet");
    assert_eq!(host.ok(&format!("rm -f {}", &web[..6])), "web\n");
    assert_eq!(host.ok(&format!("rm {}", &net[..6])), "mynet\n");
}

#[test]
fn a_name_counts_before_the_id_of_another() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    let prefix = host.json("inspect web")[0]["id"].as_str().unwrap()[..6].to_owned();
    host.ok(&format!("run -d --name {prefix} --net mynet sleep 1000"));
    let net = host.json("inspect mynet")[0]["id"].as_str().unwrap()[..6].to_owned();
    host.ok(&format!("run -d --name {net} --net mynet sleep 1000"));

    assert_eq!(host.json(&format!("inspect {prefix}"))[0]["name"], prefix);
    assert_eq!(host.json(&format!("inspect {net}"))[0]["type"], "endpoint");
    assert_eq!(host.ok(&format!("stop {prefix} {net}")), format!("{prefix}\n{net}\n"));
    let said = host.refused(&format!("stop {prefix}"), 3);
    assert!(said.starts_with(&format!("error: no endpoint \"{prefix}\" (it ended ")), "{said}");
    assert_eq!(host.ok("ps -q"), "web\n");
    host.ok("stop web");
}

#[test]
fn an_endpoint_that_ended_is_said_to_have_ended() {
    let host = Host::forwarding();
    host.script("run -d --name c --net none", "sleep 0.1; exit 3");
    host.ok("run -d --name other --net none sleep 1000");
    wait_until("c has ended", || !host.ok("ps -q").contains("c\n"));
    for verb in ["stop c", "exec c true"] {
        let said = host.refused(verb, 3);
        assert!(said.starts_with("error: no endpoint \"c\" (it ended "), "{said}");
        assert!(said.ends_with(" s ago, status 3)\n hint: rnet logs c\n"), "{said}");
    }
    assert_eq!(host.json("inspect c")[0]["state"], "exited");
    assert_eq!(host.ok("rm c"), "c\n");
    let said = host.refused("stop c", 3);
    assert_eq!(said, "error: no endpoint \"c\"\n hint: rnet ps\n");
    assert_eq!(host.ok("ps -q"), "other\n");
    host.ok("rm -f other");
}

#[test]
fn two_hits_are_an_error_in_every_verb() {
    let host = Host::forwarding();
    host.ok("create mynet");
    let conflist = host.definitions().join("rnet-mynet.conflist");
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(conflist).unwrap()).unwrap();
    let mut config = list["plugins"][0].clone();
    config["name"] = json!("mynet");
    config["cniVersion"] = json!("1.0.0");
    let containers = ["twin1", "twin2"].map(|name| host.container(name).0);
    for container in &containers {
        host.add_named(&config, container, &container.name().repeat(2), "twin");
    }
    for verb in VERBS {
        let said = host.refused(&verb.replace("{}", "twin"), 4);
        let text =
            "error: \"twin\" is ambiguous: endpoint \"twin\" (twin1twin1), endpoint \"twin\" (twin2twin2)\n";
        assert!(said.starts_with(text), "rnet {verb}: {said}");
    }
    host.ok("create twin");
    for verb in ["rm twin", "rm -f twin", "inspect twin"] {
        assert!(host.refused(verb, 4).contains("network \"twin\""));
    }
    assert_eq!(host.ok("rm --type network twin"), "twin\n");
}

#[test]
fn an_endpoint_with_a_networks_predefined_name_is_found_by_every_verb() {
    let host = Host::forwarding();
    for name in ["host", "none", "bridge"] {
        host.ok(&format!("run -d --name {name} --net none sleep 1000"));
        for verb in VERBS.iter().filter(|verb| !verb.starts_with("rm") && !verb.starts_with("stop")) {
            host.ok(&verb.replace("{}", name).replace("inspect", "inspect --type endpoint"));
        }
    }
    assert_eq!(host.ok("rm -f host none"), "host\nnone\n");
    for name in ["host", "none"] {
        host.fails(
            &format!("rm -f {name}"),
            4,
            &format!("error: {name} is a pre-defined network and cannot be removed\n"),
        );
    }
    let said = host.refused("rm -f bridge", 4);
    assert!(
        said.starts_with("error: \"bridge\" is ambiguous: network \"bridge\", endpoint \"bridge\""),
        "{said}"
    );
    assert_eq!(host.ok("rm -f --type endpoint bridge"), "bridge\n");
    // By its id, the built-in network is no more to be removed than by its name.
    host.ok("run -d --name web sleep 1000");
    let id = host.json("inspect bridge")[0]["id"].as_str().unwrap().to_owned();
    host.ok("rm -f web");
    host.fails(&format!("rm {id}"), 3, &format!("error: no network or endpoint {id:?}\n"));
}

#[test]
fn dockers_words_for_no_network_have_an_answer() {
    let host = Host::forwarding();
    for word in ["none", "host"] {
        let said = host.refused(&format!("inspect {word}"), 3);
        assert!(said.starts_with(&format!("error: {word} is not a network: ")), "{said}");
        assert!(said.ends_with(&format!(" hint: rnet run --net {word} CMD\n")), "{said}");
    }
}

#[test]
fn networks_of_one_name_are_told_apart_by_their_plugin() {
    let host = Host::forwarding();
    host.ok(&format!("install {}", host.installed_plugins().display()));
    let text = r#"{"cniVersion":"1.0.0","name":"bridge","nerdctlID":"17f29b073143","plugins":[{"type":"bridge",
        "bridge":"nerdctl0","isGateway":true,"ipMasq":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.4.0.0/24","gateway":"10.4.0.1"}]]}}]}"#;
    std::fs::create_dir_all(host.definitions()).unwrap();
    std::fs::write(host.definitions().join("nerdctl-bridge.conflist"), text).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(text).unwrap();
    config = config["plugins"][0].clone();
    config["name"] = json!("bridge");
    config["cniVersion"] = json!("1.0.0");
    let containers = ["one", "two"].map(|name| host.container(name).0);
    for container in &containers {
        host.add_named(&config, container, container.name(), container.name());
    }
    host.ok("run -d --name web sleep 1000");

    let networks = host.json("ls --json");
    let row = |bridge: &str| {
        let found = networks.as_array().unwrap().iter().find(|line| line["bridge"] == bridge);
        let found = found.unwrap_or_else(|| panic!("{networks}"));
        (
            found["endpoints"].as_u64().unwrap(),
            found["state"].as_str().unwrap().to_owned(),
            found["id"].clone(),
        )
    };
    let (ours, theirs) = (row("rnet0"), row("nerdctl0"));
    assert_eq!((ours.0, ours.1.as_str(), theirs.0, theirs.1.as_str()), (1, "ok", 2, "ok"), "{networks}");
    let names = |word: &str| {
        let shown = host.json(&format!("inspect {word}"));
        let users = shown[0]["endpoints"].as_array().unwrap().clone();
        users.iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("bridge"), "web");
    assert_eq!(names(theirs.2.as_str().unwrap()), "one two");
    host.ok("stop web");
}
