//! Published ports.

use netlink::Netns;
use netns_fixtures::{HttpServer, http_get};

use crate::common::{Host, LONG};

#[test]
fn a_published_port_answers_and_a_second_claim_is_refused() {
    let host = Host::forwarding();
    let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet -p 8080:80 sleep 1000");
    let netns = Netns::open(format!("/proc/{}/ns/net", host.pid("web")).as_ref()).unwrap();
    let _server = HttpServer::start(&netns, "172.18.0.2:80".parse().unwrap(), "hello").unwrap();

    let page = http_get(outside.netns(), "http://192.168.77.1:8080/", LONG).unwrap();
    assert!(format!("{page:?}").contains("hello"), "{page:?}");

    host.fails(
        "run --name other --net mynet -p 8080:80 true",
        4,
        "error: Bind for 0.0.0.0:8080 failed: port is already allocated, by \"web\" on \"mynet\"\n",
    );
    assert_eq!(host.ok("ps -q"), "web\n");
    let page = http_get(outside.netns(), "http://192.168.77.1:8080/", LONG).unwrap();
    assert!(format!("{page:?}").contains("hello"), "{page:?}");
}

#[test]
fn a_port_of_a_host_process_is_refused_before_anything_is_changed() {
    let host = Host::forwarding();
    host.ok("create mynet");
    let _taken = host.run(|| std::net::TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap();

    let said = host.rnet("run --net mynet -p 8080:80 true");

    let text = "error: failed to bind host port 0.0.0.0:8080/tcp: address already in use, by ";
    assert!(said.status == 4 && said.stderr.starts_with(text), "{said:?}");
    assert!(said.stderr.contains(&format!("(pid {})", std::process::id())), "{said:?}");
    host.nobody_is_left();
}

#[test]
fn free_ports_are_chosen_and_told() {
    let host = Host::forwarding();
    host.ok("create mynet");
    let told = host.json("run -d --json --net mynet -p 80 -p 127.0.0.1::53/udp -p 7000-7002:81 sleep 1000");
    let port = |index: usize| told["networks"][0]["ports"][index]["hostPort"].as_u64().unwrap();
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u64 = first.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!([port(0), port(1), port(2)], [first, first + 1, 7000]);
    assert_eq!(told["name"].as_str().unwrap(), &told["id"].as_str().unwrap()[..12]);

    let next = host.json("run -d --json --net mynet -p 80 -p 7000-7002:81 sleep 1000");
    let ports = &next["networks"][0]["ports"];
    assert_eq!((ports[0]["hostPort"].as_u64(), ports[1]["hostPort"].as_u64()), (Some(first + 2), Some(7001)));
    let names = host.ok("ps -q");
    host.ok(&format!("stop {}", names.replace('\n', " ")));
    host.nobody_is_left();
}

#[test]
fn all_exposed_ports_are_published_and_shown() {
    let host = Host::forwarding();
    for given in ["", "=true", "=false"] {
        host.ok(&format!("create -d bridge --attachable{given} mynet"));
        host.ok("rm mynet");
    }
    host.ok("create -d bridge --attachable mynet");
    let line = "run -d --json -P --expose 80 --expose 5000-5001/udp -p 8443:443 --expose 443 --name web --net mynet sleep 1000";
    let told = host.json(line);
    let host_port = |port: &str| {
        let ports = told["networks"][0]["ports"].as_array().unwrap().clone();
        let found = ports.iter().find(|found| format!("{}", found["containerPort"]) == port).cloned();
        found.unwrap_or_else(|| panic!("{told}"))["hostPort"].as_u64().unwrap()
    };
    assert_eq!(told["exposed"], serde_json::json!(["80/tcp", "5000-5001/udp", "443/tcp"]));
    assert_eq!(told["networks"][0]["ports"].as_array().unwrap().len(), 4);
    let (http, one, two) = (host_port("80"), host_port("5000"), host_port("5001"));
    assert_eq!(
        host.ok("port web"),
        format!(
            "80/tcp -> 0.0.0.0:{http}\n443/tcp -> 0.0.0.0:8443\n5000/udp -> 0.0.0.0:{one}\n5001/udp -> 0.0.0.0:{two}\n"
        )
    );
    assert_eq!(host.ok("port web 80"), format!("0.0.0.0:{http}\n"));
    assert_eq!(host.json("port --json web 5000/udp")[0]["hostPort"].as_u64(), Some(one));
    assert_eq!(
        host.ok("port web 5000-5009/udp"),
        format!("5000/udp -> 0.0.0.0:{one}\n5001/udp -> 0.0.0.0:{two}\n")
    );
    let missing = host.refused("port web 81", 3);
    assert_eq!(missing, "error: no public port 81/tcp published for \"web\"\n hint: rnet port web\n");
    assert!(host.ok("ps").contains(&format!("0.0.0.0:{http}->80")), "{}", host.ok("ps"));

    let netns = Netns::open(format!("/proc/{}/ns/net", host.pid("web")).as_ref()).unwrap();
    let address = host.json("inspect web")[0]["networks"][0]["addresses"][0].as_str().unwrap().to_owned();
    let server = format!("{}:80", address.split('/').next().unwrap());
    let _server = HttpServer::start(&netns, server.parse().unwrap(), "hello").unwrap();
    let page = http_get(host.netns(), &format!("http://127.0.0.1:{http}/"), LONG).unwrap();
    assert!(format!("{page:?}").contains("hello"), "{page:?}");
    host.ok("stop web");
}

#[test]
fn what_is_exposed_is_shown_and_reached_by_nobody_outside() {
    let host = Host::forwarding();
    host.ok("run -d --expose 80-81 --name web sleep 1000");
    assert_eq!(host.ok("port web"), "");
    let ps = host.ok("ps");
    assert!(ps.contains("   80-81/tcp   "), "{ps}");
    // As docker has them, switches take a value after an equals sign, and letters stand together.
    for given in
        ["-dP", "-d=true -P=true", "--detach=true --publish-all=true --rm=false", "-d=1 --publish-all=t"]
    {
        host.ok(&format!("run {given} --expose 80 --name many sleep 1000"));
        assert!(host.ok("port many").starts_with("80/tcp -> 0.0.0.0:"), "{given}");
        host.ok("rm -f many");
    }
    host.ok("run -dP=false --expose 80 --name many sleep 1000");
    assert_eq!(host.ok("port many"), "");
    host.ok("rm -f many");
    host.refused("run -P=maybe true", 2);
    let warned = host.rnet("run -P --net none true");
    assert_eq!(
        warned.stderr,
        "warning: -P has no effect: it publishes the ports that --expose names, and there is none\n hint: rnet run -P --expose 80 CMD\n"
    );
    let warned = host.rnet("run -P --expose 80 --net none true");
    assert_eq!(warned.stderr, "warning: \"none\" publishes no ports, -P has no effect\n");
    host.ok("stop web");
}

#[test]
fn ports_in_a_row_are_one_in_the_table() {
    let host = Host::forwarding();
    host.ok("run -d --name web -p 8000-8010:9000-9010 -p 53:53/udp -p 127.0.0.1:7000:80 sleep 1000");
    let ps = host.ok("ps");
    let ports = "   0.0.0.0:8000-8010->9000-9010, 127.0.0.1:7000->80, 0.0.0.0:53->53/udp   ";
    assert!(ps.contains(ports), "{ps}");
    host.ok("stop web");
}

/// A port is refused if a program listens on it, and rnet's own name server listens at gateways only.
#[test]
fn port_53_can_be_published_beside_rnets_name_server() {
    let host = Host::forwarding();
    host.outside(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    host.ok("create --subnet 10.9.0.0/24 --subnet fd09::/64 mynet");
    host.ok("run -d --name web --net mynet sleep 1000");

    host.ok("run -d --name one --net mynet -p 53:53/udp -p 53:53/tcp sleep 1000");
    let taken = host.rnet("run --net mynet -p 53:53/udp true");
    assert!(taken.status == 4 && taken.stderr.contains("one"), "{taken:?}");
    host.ok("stop one");
    host.ok("run -d --name two --net mynet -p 127.0.0.1:53:53/udp -p 127.0.0.1:53:53/tcp sleep 1000");
    host.ok("stop two");

    let at_gateway = host.rnet("run --net mynet -p 10.9.0.1:53:53/udp true");
    assert_eq!(at_gateway.status, 4, "{at_gateway:?}");
    let _everywhere = host.run(|| std::net::UdpSocket::bind("127.0.0.1:53").unwrap()).unwrap();
    let by_a_process = host.rnet("run --net mynet -p 53:53/udp true");
    assert_eq!(by_a_process.status, 4, "{by_a_process:?}");
    host.ok("run --net mynet -p 53:53/tcp true");
    host.ok("stop web");
    host.nobody_is_left();
}
