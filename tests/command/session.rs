//! A whole session, as cli.md shows one.

use netns_fixtures::assert_same;

use crate::common::Host;

#[test]
fn a_session() {
    let host = Host::forwarding();
    let before = host.network_snapshot();

    let created = host.rnet("create mynet");
    assert_eq!((created.stdout.as_str(), created.status), ("mynet\n", 0));
    assert_eq!(created.stderr, "");
    host.fails(
        "create b --subnet 172.18.5.0/24",
        4,
        "error: 172.18.5.0/24 overlaps 172.18.0.0/16 of network \"mynet\"\n \
         hint: next free: --subnet 172.19.0.0/16      (rnet ls --all shows every subnet in use)\n",
    );
    assert_eq!(
        host.ok("ls"),
        "NAME    DRIVER   SUBNET          GATEWAY      BRIDGE       ENDPOINTS   STATE\n\
         mynet   bridge   172.18.0.0/16   172.18.0.1   rnet-mynet   0           idle\n"
    );

    assert_eq!(host.ok("run -d --name web --net mynet -p 8080:80 sleep 1000"), "web\n");
    assert_eq!(host.ok("run -d --name db --net mynet sleep 1000"), "db\n");
    assert_eq!(
        host.ok("ls"),
        "NAME    DRIVER   SUBNET          GATEWAY      BRIDGE       ENDPOINTS   STATE\n\
         mynet   bridge   172.18.0.0/16   172.18.0.1   rnet-mynet   2           ok\n"
    );
    let (web, db) = (host.pid("web"), host.pid("db"));
    let ps = host.ok("ps");
    let lines: Vec<Vec<&str>> = ps.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ENDPOINT", "NET", "IP", "MAC", "PORTS", "RX/TX", "NETNS"]);
    let db = db.to_string();
    assert_eq!(
        (&lines[1][..4], &lines[1][5..]),
        (&["db", "mynet", "172.18.0.3", "02:42:ac:12:00:03"][..], &["pid", &db][..])
    );
    let web_row = ["web", "mynet", "172.18.0.2", "02:42:ac:12:00:02", "0.0.0.0:8080->80"];
    assert_eq!(&lines[2][..5], web_row);
    assert_eq!(lines[2][7], web.to_string());
    assert_eq!(host.ok("ps -q"), "db\nweb\n");

    let inside = host.rnet("exec web cat /etc/hosts");
    assert!(inside.stdout.contains("172.18.0.2\tweb\n"), "{inside:?}");
    host.fails(
        "rm mynet",
        4,
        "error: network \"mynet\" has 2 endpoints: db (172.18.0.3), web (172.18.0.2)\n hint: rnet rm --detach mynet\n",
    );

    assert_eq!(host.ok("stop web db"), "web\ndb\n");
    host.nobody_is_left();
    assert_eq!(host.ok("rm mynet"), "mynet\n");
    assert_eq!(host.ok("ls -q"), "");
    assert_same(&before, &host.network_snapshot());
}
