//! IPv6 on bridges: duplicate address detection, router advertisements, and hosts without it.

use std::net::Ipv6Addr;
use std::time::Duration;

use netns_fixtures::{Frames, frame};
use serde_json::json;

use crate::bridges::{addresses, defaults, make_bridge};
use crate::common::{Host, address, bridge, inside, mac, rnet, with};

/// CVE-2020-10749. The neighbour that believes it shows that the advertisement was good.
#[test]
fn a_containers_router_advertisement_does_not_move_the_host() {
    let host = Host::new();
    let config = bridge("n", &["10.1.0.0/24"]);
    let ((rogue, rogue_who), (victim, victim_who)) = (host.container("rogue"), host.container("victim"));
    host.add("bridge", &rogue_who, &config);
    host.add("bridge", &victim_who, &config);
    let has_ipv6_default = |netns| {
        let routes = inside(netns).routes().unwrap();
        routes.iter().any(|route| {
            route.destination.is_ipv6() && route.destination.prefix() == 0 && route.gateway.is_some()
        })
    };
    let frames = Frames::on(rogue.netns(), "eth0").unwrap();
    let mac = mac(rogue.netns(), "eth0");
    let (from, to) = ("fe80::bad".parse().unwrap(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let advertisement = frame::icmpv6(from, to, 134, &frame::router_advertisement(1800));
    let advertisement =
        frame::ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd, &frame::ipv6(from, to, 58, &advertisement));

    let mut tries = 0;
    while !has_ipv6_default(victim.netns()) && tries < 100 {
        frames.send(&advertisement).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        tries += 1;
    }

    assert!(has_ipv6_default(victim.netns()));
    assert!(!has_ipv6_default(host.netns()));
    for link in host.links() {
        assert_eq!(host.sysctl(&format!("ipv6/conf/{link}/accept_ra")).as_deref(), Some("0"), "{link}");
    }
}

#[test]
fn duplicate_detection_is_off_unless_asked_for() {
    let host = Host::new();
    for (keys, expected) in [(json!({}), "0"), (json!({"enabledad": true}), "1")] {
        let (container, who) = host.container("c1");
        let config = with(&bridge("n", &["fd01::/64"]), keys);
        host.add("bridge", &who, &config);
        let sysctl =
            |key: &str| inside(container.netns()).sysctl(&format!("ipv6/conf/eth0/{key}")).unwrap().unwrap();
        assert_eq!((sysctl("accept_dad").as_str(), sysctl("keep_addr_on_down").as_str()), (expected, "1"));
        host.del("bridge", &who, &config);
    }
}

#[test]
fn with_duplicate_detection_addresses_are_probed_before_add_answers() {
    let host = Host::new();
    let config = with(&bridge("n", &["10.1.0.0/24", "fd01::/64"]), json!({"enabledad": true}));
    let (container, who) = host.container("c1");
    let result = host.add("bridge", &who, &config);
    let found = inside(container.netns()).addresses(None).unwrap();
    let ours = found.iter().find(|found| found.address.ip() == address(&result, true)).unwrap();
    assert!(!ours.tentative && !ours.dad_failed);
    let sysctl =
        |key: &str| inside(container.netns()).sysctl(&format!("ipv6/conf/eth0/{key}")).unwrap().unwrap();
    assert_eq!((sysctl("accept_dad").as_str(), sysctl("enhanced_dad").as_str()), ("1", "1"));
    assert_eq!(defaults(container.netns()).len(), 2, "a default route for each family");
    host.cni("CHECK", "bridge", &who, &with(&config, json!({"prevResult": result}))).silent();
}

#[test]
fn an_address_that_another_machine_has_is_refused_by_name_and_nothing_stays() {
    let host = Host::new();
    make_bridge(&host, "br0", 1500, &["fd01::2/64"]);
    let config = with(&bridge("n", &["fd01::/64"]), json!({"enabledad": true, "isDefaultGateway": false}));
    let (_container, who) = host.container("c1");
    let text = "link eth0 has address fd01::2 in DADFAILED state: another machine or container on bridge \"br0\" has it; \
                hint: ip -6 neighbour show fd01::2";
    assert_eq!(host.cni("ADD", "bridge", &who, &config).refusal(), (101, text.into()));
    assert_eq!(host.links(), ["br0"]);
    assert_eq!(addresses(&host, "br0"), ["fd01::2/64"]);
    // Without being asked for, nobody is asked.
    host.add("bridge", &who, &with(&config, json!({"enabledad": false})));
}

/// A container whose kernel asks eight times, a second apart.
#[test]
fn a_probe_without_end_fails_after_five_seconds_and_nothing_stays() {
    const TRY_AGAIN_LATER: u64 = 11;
    let host = Host::new();
    let config = with(&bridge("n", &["fd01::/64"]), json!({"enabledad": true}));
    let (container, who) = host.container("c1");
    inside(container.netns()).set_sysctl("ipv6/conf/default/dad_transmits", "8").unwrap();
    let text = "link eth0 still has tentative address fd01::2 after 5 seconds; \
                hint: net.ipv6.conf.eth0.dad_transmits says how often it is asked for, a second apart";
    assert_eq!(host.cni("ADD", "bridge", &who, &config).refusal(), (TRY_AGAIN_LATER, text.into()));
    assert_eq!(host.links(), ["br0"]);
    inside(container.netns()).set_sysctl("ipv6/conf/default/dad_transmits", "1").unwrap();
    host.add("bridge", &who, &config);
}

/// A host that was booted without IPv6 for its links.
#[test]
fn without_ipv6_on_the_host_ipv4_works_and_ipv6_fails_clearly() {
    let host = Host::new();
    host.set_sysctl("ipv6/conf/all/disable_ipv6", "1");
    host.set_sysctl("ipv6/conf/default/disable_ipv6", "1");
    for (plugin, v4, v6) in [
        ("bridge", bridge("n", &["10.1.0.0/24"]), bridge("m", &["10.2.0.0/24", "fd01::/64"])),
        ("rnet", rnet("n", &["10.3.0.0/24"]), rnet("m", &["10.4.0.0/24", "fd01::/64"])),
    ] {
        let v6 = with(&v6, json!({"bridge": "br6"}));
        let (_container, who) = host.container("c1");
        let refused = host.cni("ADD", plugin, &who, &v6).refusal();
        assert!(refused.0 == 50 && refused.1.contains("IPv6 is off"), "{refused:?}");
        assert!(!host.links().iter().any(|link| link.starts_with("veth") || link == "br6"));
        host.add(plugin, &who, &v4);
        host.del(plugin, &who, &v4);
        // On a bridge that is new again, where nothing can be set.
        let config = with(&v4, json!({"name": "fixed", "bridge": "br4"}));
        host.cni("ADD", &on_fixed_sysctls(&host, plugin), &who, &config).json();
        host.del(plugin, &who, &config);
    }
}

/// An advertisement that could be taken is a reason to refuse.
#[test]
fn with_ipv6_on_the_host_accept_ra_must_be_settable() {
    let host = Host::new();
    host.set_sysctl("ipv4/ip_forward", "1");
    let (_container, who) = host.container("c1");
    let refused = host.cni("ADD", &on_fixed_sysctls(&host, "bridge"), &who, &bridge("n", &["10.1.0.0/24"]));
    let text = "failed to set sysctl net/ipv6/conf/br0/accept_ra to 0: read-only file system";
    assert_eq!(refused.refusal(), (109, text.into()));
}

/// A name for `plugin` under which it finds /proc/sys read-only, as in a container without privileges.
fn on_fixed_sysctls(host: &Host, plugin: &str) -> String {
    let name = format!("fixed-{plugin}");
    let mount = "mount --rbind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys";
    let program = host.plugins.join(plugin);
    let script = format!("#!/bin/sh\nexec unshare --mount sh -c '{mount} && exec {}'\n", program.display());
    host.install_script(&name, &script);
    name
}
