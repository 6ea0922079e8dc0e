//! Published ports.

use netlink::Netns;
use netns_fixtures::{HttpServer, http_get};

use super::{LONG, Lab};

#[test]
fn a_published_port_answers_and_a_second_claim_is_refused() {
    let lab = Lab::new();
    let outside = lab.host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
    lab.ok("create mynet");
    lab.ok("run -d --name web --net mynet -p 8080:80 sleep 1000");
    let netns = Netns::open(format!("/proc/{}/ns/net", lab.pid("web")).as_ref()).unwrap();
    let _server = HttpServer::start(&netns, "172.18.0.2:80".parse().unwrap(), "hello").unwrap();

    let page = http_get(outside.netns(), "http://192.168.77.1:8080/", LONG).unwrap();
    assert!(format!("{page:?}").contains("hello"), "{page:?}");

    lab.fails(
        "run --name other --net mynet -p 8080:80 true",
        4,
        "error: Bind for 0.0.0.0:8080 failed: port is already allocated, by \"web\" on \"mynet\"\n",
    );
    assert_eq!(lab.ok("ps -q"), "web\n");
    let page = http_get(outside.netns(), "http://192.168.77.1:8080/", LONG).unwrap();
    assert!(format!("{page:?}").contains("hello"), "{page:?}");
}

#[test]
fn a_port_of_a_host_process_is_refused_before_anything_is_changed() {
    let lab = Lab::new();
    lab.ok("create mynet");
    let _taken = lab.host.run(|| std::net::TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap();

    let said = lab.rnet("run --net mynet -p 8080:80 true");

    let text = "error: failed to bind host port 0.0.0.0:8080/tcp: address already in use, by ";
    assert!(said.exit == 4 && said.stderr.starts_with(text), "{said:?}");
    assert!(said.stderr.contains(&format!("(pid {})", std::process::id())), "{said:?}");
    lab.nobody_is_left();
}

#[test]
fn free_ports_are_chosen_and_told() {
    let lab = Lab::new();
    lab.ok("create mynet");
    let told = lab.json("run -d --json --net mynet -p 80 -p 127.0.0.1::53/udp -p 7000-7002:81 sleep 1000");
    let port = |index: usize| told["networks"][0]["ports"][index]["hostPort"].as_u64().unwrap();
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u64 = first.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!([port(0), port(1), port(2)], [first, first + 1, 7000]);
    assert_eq!(told["name"].as_str().unwrap(), &told["id"].as_str().unwrap()[..12]);

    let next = lab.json("run -d --json --net mynet -p 80 -p 7000-7002:81 sleep 1000");
    let ports = &next["networks"][0]["ports"];
    assert_eq!((ports[0]["hostPort"].as_u64(), ports[1]["hostPort"].as_u64()), (Some(first + 2), Some(7001)));
    let names = lab.ok("ps -q");
    lab.ok(&format!("stop {}", names.replace('\n', " ")));
    lab.nobody_is_left();
}
