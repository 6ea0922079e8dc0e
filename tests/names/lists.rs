//! The plugin `dnsname`, as Podman 4.3 calls it.

use serde_json::{Value, json};

use crate::common::{Host, Who, address};
use crate::server::{NXDOMAIN, ask, known, unknown};

/// Seven: the configuration is at fault.
const FAULT: u64 = 7;

fn list(name: &str, subnet: &str, bridge: &str) -> Value {
    json!({"cniVersion": "0.4.0", "name": name, "plugins": [
        {"type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": subnet}]]},
         "capabilities": {"ips": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "dnsname", "domainName": "dns.podman", "capabilities": {"aliases": true},
         "runtimeConfig": {"aliases": {name: ["www", "4f2a9c001122"]}}},
    ]})
}

fn mylist() -> Value {
    list("mynet", "10.7.0.0/24", "cni-podman1")
}

#[test]
fn podmans_list_has_names_and_leaves_none() {
    let host = Host::forwarding();
    let (_web, web_who) = host.named("web");
    let (db, db_who) = host.named("db");

    let result = host.add_list(&mylist(), &web_who).json();
    host.add_list(&mylist(), &db_who).json();

    assert_eq!(result["dns"], json!({"nameservers": ["10.7.0.1"], "search": ["dns.podman"]}));
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3, "the rest is prevResult's");
    let web_ip = address(&result, false);
    for name in ["web", "web.dns.podman", "web.mynet", "www.dns.podman"] {
        assert!(ask(&db, name).addresses.contains(&web_ip), "{name}");
    }
    host.check_list(&mylist(), &web_who, &result).silent();

    host.del_list(&mylist(), &web_who, Some(&result)).silent();
    assert_eq!(ask(&db, "web"), unknown());
    host.del_list(&mylist(), &web_who, None).silent();
    host.del_list(&mylist(), &db_who, None).silent();
    host.wait_for_its_end();
    assert_eq!(host.elements(), []);
}

#[test]
fn dnsname_takes_aliases_in_one_list_too() {
    let host = Host::forwarding();
    let (db, db_who) = host.named("db");
    let mut config = mylist();
    config["plugins"][2]["runtimeConfig"]["aliases"] = json!(["www", "api"]);

    let result = host.add_list(&config, &db_who).json();

    assert_eq!(ask(&db, "api"), known(&[address(&result, false)]));
    host.del_list(&config, &db_who, Some(&result)).silent();
}

#[test]
fn without_a_bridge_before_it_dnsname_says_what_is_missing() {
    let host = Host::forwarding();
    let (_web, who) = host.named("web");
    let mut config =
        json!({"cniVersion": "0.4.0", "name": "mynet", "type": "dnsname", "domainName": "dns.podman"});

    assert_eq!(
        host.cni("ADD", "dnsname", &who, &config).refusal(),
        (FAULT, "must be called as chained plugin".into())
    );

    config["prevResult"] = json!({"cniVersion": "0.4.0", "interfaces": [{"name": "nosuch"}], "ips": []});
    let (code, message) = host.cni("ADD", "dnsname", &who, &config).refusal();
    assert!(code == FAULT && message.contains("\"nosuch\""), "{message}");
    assert_eq!(host.status().status, 3, "nothing was started");
}

/// As with Podman's: the container runs. Who is on another network too, finds the names of this one there.
#[test]
fn a_bridge_without_a_gateway_has_names_for_those_who_can_ask_elsewhere() {
    let host = Host::forwarding();
    let mut bare = list("bare", "10.8.0.0/24", "cni-podman2");
    bare["plugins"][0]["isGateway"] = json!(false);
    bare["plugins"][0]["ipMasq"] = json!(false);
    bare["plugins"][0]["ipam"]["routes"] = json!([]);
    let (_web, web_who) = host.named("web");
    let (db, db_who) = host.named("db");
    let expected = "warning: bridge \"cni-podman2\" of network \"bare\" has no address: ";
    let add_bare = |who: &Who| {
        let added = host.add_list(&bare, who);
        assert!(added.status == 0 && added.stderr.starts_with(expected), "{added:?}");
        serde_json::from_str::<Value>(&added.stdout).unwrap()
    };

    let result = add_bare(&web_who);
    assert_eq!(result["dns"], json!({}), "nobody can be asked there");
    host.check_list(&bare, &web_who, &result).silent();
    host.add_list(&mylist(), &db_who).json();
    assert_eq!(ask(&db, "web"), unknown());
    let second = db_who.clone().ifname("eth1");
    add_bare(&second);

    assert_eq!(ask(&db, "web"), known(&[address(&result, false)]));
    for (config, who) in [(&bare, &second), (&mylist(), &db_who), (&bare, &web_who)] {
        host.del_list(config, who, None).silent();
    }
    host.wait_for_its_end();
}

#[test]
fn an_alias_that_means_the_loopback_is_refused() {
    let host = Host::forwarding();
    for alias in ["localhost", "LocalHost", "db.localhost"] {
        let (_web, who) = host.named("web");
        let mut bad = mylist();
        bad["plugins"][2]["runtimeConfig"]["aliases"]["mynet"] = json!(["ok", alias]);
        let (code, message) = host.add_list(&bad, &who).refusal();
        assert!(code == FAULT && message.contains(&format!("{alias:?}")), "{message}");
    }
}

#[test]
fn a_name_that_nobody_can_ask_for_is_told() {
    let host = Host::forwarding();
    let long = "x".repeat(64);
    let (_web, who) = host.named(&long);

    host.add_list(&mylist(), &who).json();

    let log = host.rnet("dns log").stdout;
    assert!(log.contains("other containers cannot look this name up") && log.contains(&long), "{log}");
}

#[test]
fn a_bad_alias_is_an_error_that_names_it_and_leaves_nothing() {
    let host = Host::forwarding();
    let (_web, who) = host.named("web");
    let mut bad = mylist();
    bad["plugins"][2]["runtimeConfig"]["aliases"]["mynet"] = json!(["ok", "a b"]);

    let (code, message) = host.add_list(&bad, &who).refusal();

    assert_eq!(code, FAULT);
    assert!(message.starts_with("alias \"a b\" on network \"mynet\" is not a name"), "{message}");
    assert_eq!((host.elements(), host.status().status), (Vec::new(), 3));
}

#[test]
fn dnsname_never_fails_to_delete() {
    let host = Host::forwarding();
    let config =
        json!({"cniVersion": "0.4.0", "name": "mynet", "type": "dnsname", "domainName": 7, "prevResult": {}});
    host.del("dnsname", &Who::named("nobody", "/nowhere"), &config);
    host.del("dnsname", &Who::named("nobody", ""), &config);
}

#[test]
fn a_lost_record_loses_no_del() {
    let host = Host::forwarding();
    let (_web, web_who) = host.named("web");
    let (db, db_who) = host.named("db");
    host.add_list(&mylist(), &web_who).json();
    host.add_list(&mylist(), &db_who).json();
    let records = crate::common::entries(&host.run_folder().join("records"));
    let folder = records.iter().find(|folder| folder.to_string_lossy().ends_with(".dnsname")).unwrap();
    for record in crate::common::entries(folder) {
        if std::fs::read_to_string(&record).unwrap().contains("\"web\"") {
            std::fs::write(record, "garbage").unwrap();
        }
    }

    host.del_list(&mylist(), &web_who, None).silent();

    assert_eq!(ask(&db, "web"), unknown());
    host.del_list(&mylist(), &db_who, None).silent();
    host.wait_for_its_end();
}

#[test]
fn check_tells_that_names_are_not_served() {
    let host = Host::forwarding();
    let (_web, who) = host.named("web");
    let result = host.add_list(&mylist(), &who).json();
    host.kill_server();

    let (code, message) = host.check_list(&mylist(), &who, &result).refusal();

    assert!(
        code == 107 && message.starts_with("names are not served: no name server listens at"),
        "{message}"
    );
}

#[test]
fn check_tells_that_a_name_is_not_served() {
    let host = Host::forwarding();
    let (_web, who) = host.named("web");
    let (_db, db_who) = host.named("db");
    let result = host.add_list(&mylist(), &who).json();
    let db_result = host.add_list(&mylist(), &db_who).json();
    host.check_list(&mylist(), &who, &result).silent();
    let socket = host.run_folder().join("locks/dns");
    host.run(|| dns::client::remove_endpoint(&socket, "mynet", "web", "eth0").unwrap()).unwrap();

    let (code, message) = host.check_list(&mylist(), &who, &result).refusal();

    let expected = "the names of web eth0 on network mynet are not known as they are on record";
    assert!(code == 107 && message.ends_with(expected), "{message}");
    host.check_list(&mylist(), &db_who, &db_result).silent();
}

#[test]
fn two_lists_have_two_views() {
    let host = Host::forwarding();
    let other = list("other", "10.8.0.0/24", "cni-podman2");
    let (web, web_who) = host.named("web");
    let (_db, db_who) = host.named("db");
    host.add_list(&mylist(), &web_who).json();
    let result = host.add_list(&other, &db_who).json();

    assert_eq!(ask(&web, "db").code, NXDOMAIN);

    let second = web_who.ifname("eth1");
    host.add_list(&other, &second).json();
    assert_eq!(ask(&web, "db"), known(&[address(&result, false)]));
}
