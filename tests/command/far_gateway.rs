//! `create --gateway` outside the subnet: the network works as one whose gateway lies in it.

use netlink::Netns;
use netns_fixtures::{http_get, ping};

use crate::common::{Host, LONG};

/// A machine outside, and a network whose bridge bears that gateway.
fn host(subnet: &str, gateway: &str, options: &str) -> (Host, netns_fixtures::Outside) {
    let host = Host::forwarding();
    host.ok(&format!("install {}", host.installed_plugins().display()));
    let subnets = ["192.168.77.0/24", "fd77::/64"].map(|subnet| subnet.parse().unwrap());
    let outside = host.outside(&subnets).unwrap();
    host.default_route_via(&outside).unwrap();
    host.ok(&format!("create {options} --subnet {subnet} --gateway {gateway} far"));
    host.ok("run -d --name web --net far -p 8080:80 busybox httpd -f -p 80 -h /usr/share/common-licenses");
    host.ok("run -d --name other --net far sleep 1000");
    (host, outside)
}

#[test]
fn a_network_with_its_gateway_elsewhere_works() {
    for (subnet, gateway) in
        [("10.9.0.0/24", "10.8.0.1"), ("fd00:9:0:5::/64", "fd00:9::1"), ("fd00:9::/64", "fe80::1")]
    {
        for options in ["", "--chain"] {
            let case = format!("{subnet} {gateway} {options}");
            let (host, outside) = host(subnet, gateway, options);
            assert_eq!(host.state("far"), "ok", "{case}");
            let shown = host.json("inspect --type network far");
            assert_eq!(shown[0]["subnets"][0]["gateway"], gateway, "{case}");
            let address = host.json("inspect web")[0]["networks"][0]["addresses"][0].clone();
            let address = address.as_str().unwrap().split('/').next().unwrap().to_owned();
            let v6 = address.contains(':');
            let (own, published) = match v6 {
                true => (format!("[{address}]"), "[fd77::1]"),
                false => (address.clone(), "192.168.77.1"),
            };
            for (from, place) in [(host.netns(), own.as_str()), (outside.netns(), published)] {
                let page = http_get(
                    from,
                    &format!("http://{place}:{}/GPL-2", if place == own { 80 } else { 8080 }),
                    LONG,
                );
                assert!(page.is_ok_and(|page| page.status == 200), "{case}: {place}");
            }
            let out = if v6 { "fd77::2" } else { "192.168.77.2" };
            let other = Netns::open(format!("/proc/{}/ns/net", host.pid("other")).as_ref()).unwrap();
            for target in [out, &address] {
                assert!(ping(&other, target.parse().unwrap(), LONG).unwrap().is_some(), "{case}: {target}");
            }
            // Link-local addresses are no name servers: which link they are on, a resolv.conf cannot say.
            if options.is_empty() && gateway != "fe80::1" {
                let get = host.script("exec other", "busybox wget -q -O - http://web/GPL-2 | head -c 3");
                assert_eq!(get.status, 0, "{case}: {get:?}");
            }
            host.ok("stop web other");
            host.ok("rm far");
            host.nobody_is_left();
        }
    }
}
