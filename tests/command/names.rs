//! Names and resolver settings.

use crate::common::Host;

#[test]
fn names_are_served_on_networks_of_users_and_told() {
    let host = Host::forwarding();
    host.fails(
        "dns status",
        3,
        "error: no name server is running: the first container on a network with names starts it\n hint: rnet ls (rnet inspect NET shows whether a network has names)\n",
    );
    host.ok(
        "create --subnet 10.9.0.0/24 --dns 192.0.2.53 --dns-search example.net --domain lab.internal mynet",
    );
    host.ok("run -d --name web --net mynet --network-alias www sleep 1000");
    host.ok("run -d --name db --net mynet --dns 192.0.2.99 --dns-search other.net sleep 1000");

    let files = |endpoint: &str| host.script(&format!("exec {endpoint}"), "cat /etc/resolv.conf").stdout;
    assert_eq!(files("web"), "nameserver 10.9.0.1\nsearch lab.internal example.net\n");
    assert_eq!(files("db"), "nameserver 10.9.0.1\nsearch lab.internal other.net\n");
    let hosts = host.script("exec web", "cat /etc/hosts").stdout;
    assert!(hosts.contains("10.9.0.2\tweb\n"), "{hosts}");

    let id = host.json("inspect web")[0]["id"].as_str().unwrap()[..12].to_owned();
    let status = host.ok("dns status");
    assert!(status.starts_with("LISTENER   PORT   STATE\n10.9.0.1   53     ok\n"), "{status}");
    assert!(status.contains(&format!("mynet     web,www,{id}   10.9.0.2    {id}\n")), "{status}");
    let told = host.json("dns status --json");
    assert_eq!(told["endpoints"][0]["upstreams"], serde_json::json!(["192.0.2.99:53"]), "{told}");
    let network = &host.json("inspect mynet")[0]["dns"];
    assert_eq!(
        network.to_string(),
        r#"{"domain":"lab.internal","servers":["10.9.0.1"],"upstreams":["192.0.2.53"],"redirected":[]}"#
    );
    let names = &host.json("inspect web")[0]["networks"][0]["names"];
    assert_eq!(names, &serde_json::json!(["web", "www", id]));

    // Those who have a resolver of the machine's at hand see the same by its way.
    let found = host.script("exec db", "getent hosts www").stdout;
    assert_eq!(found, "10.9.0.2        www.lab.internal\n");
    host.ok("stop web");
    assert_eq!(host.script("exec db", "getent hosts www").status, 2);
    host.ok("run -d --name web --net mynet sleep 1000");
    assert_eq!(host.script("exec db", "getent hosts web").stdout, "10.9.0.2        web.lab.internal\n");
    host.ok("stop web db");
    host.nobody_is_left();
}

#[test]
fn a_name_that_programs_take_for_an_address_is_told() {
    let host = Host::forwarding();
    host.ok("create mynet");
    for name in ["10.0.0.1", "1234"] {
        let said = host.rnet(&format!("run -d --name {name} --net mynet sleep 1000"));
        let text = format!(
            "warning: no other container can look up the name {name:?}: programs take it for an IPv4 address"
        );
        assert!(said.status == 0 && said.stderr.starts_with(&text), "{said:?}");
        host.ok(&format!("rm -f {name}"));
    }
    assert_eq!(host.rnet("run --name 4294967296 --net mynet true").stderr, "");
}

#[test]
fn a_hostname_is_the_programs_own_and_known_on_its_networks() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 --domain lab.internal mynet");
    host.ok("run -d --name web --net mynet --hostname app sleep 1000");
    host.ok("run -d --name db --net mynet sleep 1000");
    let outside = host.script("exec db", "uname -n").stdout;

    assert_eq!(host.script("exec web", "uname -n").stdout, "app\n");
    let inside = host.script("run --net mynet --hostname other", "uname -n; tail -n 1 /etc/hosts").stdout;
    assert!(inside.starts_with("other\n10.9.0.4\tother "), "{inside}");
    assert_ne!(outside, "app\n");
    assert_eq!(host.script("exec db", "getent hosts app").stdout, "10.9.0.2        app.lab.internal\n");
    // The first name is the one that an address has.
    assert_eq!(host.script("exec db", "getent hosts 10.9.0.2").stdout, "10.9.0.2        web.mynet\n");
    host.ok("stop web");
    assert_eq!(host.script("exec db", "getent hosts app").status, 2);
    host.ok("stop db");
    host.nobody_is_left();
}

#[test]
fn a_network_without_names_says_so_where_they_are_asked_for() {
    let host = Host::forwarding();
    let warned = host.rnet("create --subnet 10.9.0.0/24 dev");
    assert_eq!(
        (warned.status, warned.stderr.lines().next().unwrap()),
        (
            0,
            "warning: \"dev\" may also be a public domain: containers on this network cannot look up names such as example.dev"
        )
    );
    host.ok("create --no-dns --dns 192.0.2.53 --subnet 10.8.0.0/24 bare");
    assert!(host.json("inspect bare")[0]["dns"].is_null());
    let said = host.rnet("run --name web --net bare --network-alias www cat /etc/resolv.conf");
    assert_eq!(said.stdout, "nameserver 192.0.2.53\n");
    assert_eq!(host.json("inspect bare")[0]["names"], serde_json::json!(false));
    let own = host.ok("run --net bare --dns 192.0.2.99 --dns-search example.net cat /etc/resolv.conf");
    assert_eq!(own, "nameserver 192.0.2.99\nsearch example.net\n", "what is given wins");
    assert_eq!(said.stderr, "warning: no network of \"web\" has names, --network-alias has no effect\n");
    assert_eq!(host.rnet("dns status").status, 3, "nobody has started a server");
    host.fails(
        "create --domain a..b other",
        2,
        "error: \"a..b\" is not a domain: expected parts of 1 to 63 letters, digits, - and _, separated by dots\n",
    );
    let bad = host.rnet("run --net dev --network-alias a..b true");
    assert!(
        bad.status == 2 && bad.stderr.contains("invalid value 'a..b' for '--network-alias <NAME>'"),
        "{bad:?}"
    );
    host.nobody_is_left();
}
