//! Beside dockerd: it sets FORWARD to DROP if it came first, and keeps its networks apart.

use std::path::Path;

use anyhow::{Context, ensure};
use netlink::Netns;
use netns_fixtures::HttpServer;

use crate::Test;
use crate::common::Host;
use crate::works::{Daemon, gets, never_reaches, wait_until};

pub const TESTS: &[Test] = &[
    ("docker::first", first),
    ("docker::later", later),
    ("docker::restarted_and_stopped", restarted),
    ("docker::its_networks_stay_closed_to_rnets_containers", isolated),
    ("docker::a_network_with_ipv6_later", ipv6_later),
    ("docker::its_containers_do_not_reach_rnets", unreached),
    ("docker::an_uplink_with_a_name_like_its_bridges", uplink_like_a_bridge),
];

pub const SOCKET: &str = "unix:///run/rnet-docker/docker.sock";

/// Its own folders; it needs no image to set its rules.
pub fn dockerd(host: &Host) -> anyhow::Result<Daemon> {
    let dir = "/run/rnet-docker";
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir)?;
    let options = format!(
        "--data-root {dir}/data --exec-root {dir}/exec --pidfile {dir}/pid -H {SOCKET} --storage-driver vfs \
         --iptables=true --experimental --ip6tables=true"
    );
    let daemon = host.start(&format!("dockerd {options}"))?;
    let is_up = || docker(host, "info").map(drop);
    wait_until("dockerd answers", is_up).with_context(|| {
        let log = std::fs::read_to_string("/run/dockerd.log").unwrap_or_default();
        log.lines().rev().take(15).collect::<Vec<_>>().join("\n")
    })?;
    Ok(daemon)
}

fn docker(host: &Host, line: &str) -> anyhow::Result<String> {
    host.execute(&format!("curl -sSf --unix-socket {} http://d/v1.41/{line}", &SOCKET[7..]))
}

/// `docker network create`; returns the bridge.
fn network(host: &Host, name: &str, bridge: Option<&str>, more: &str) -> anyhow::Result<String> {
    let options = bridge.map_or(String::new(), |bridge| {
        format!(r#","Options":{{"com.docker.network.bridge.name":"{bridge}"}}"#)
    });
    let body = format!(r#"{{"Name":"{name}","Driver":"bridge"{options}{more}}}"#);
    let socket = &SOCKET[7..];
    let made = host.execute(&format!(
        "curl -sSf --unix-socket {socket} -H Content-Type:application/json -d {body} http://d/v1.41/networks/create"
    ))?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    let id = made["Id"].as_str().context("no id")?;
    Ok(bridge.map_or_else(|| format!("br-{}", &id[..12]), str::to_owned))
}

/// A container of docker's as the network sees it: a port on its bridge, with nothing published.
struct Container {
    netns: Netns,
    _page: HttpServer,
    address: std::net::IpAddr,
}

fn container(host: &Host, bridge: &str) -> anyhow::Result<Container> {
    let shown = host.execute(&format!("ip -json addr show dev {bridge}"))?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let own = shown[0]["addr_info"][0]["local"].as_str().context("no address")?.to_owned();
    let (beginning, _) = own.rsplit_once('.').context("no IPv4")?;
    let (netns, name) = (Netns::create()?, format!("d{}", bridge.len()));
    let path = format!("/run/rnet-docker/{bridge}.netns");
    netns.pin(Path::new(&path))?;
    host.execute(&format!("ip link add {name} type veth peer name eth0 netns {path}"))
        .or_else(|_| host.execute(&format!("nsenter --net={path} true")).map(drop).map(|()| String::new()))?;
    host.execute(&format!("ip link set {name} master {bridge} up"))?;
    for line in [
        format!("addr add {beginning}.77/24 dev eth0"),
        "link set eth0 up".into(),
        format!("route add default via {own}"),
    ] {
        host.execute(&format!("nsenter --net={path} ip {line}"))?;
    }
    let page = HttpServer::start(&netns, "0.0.0.0:80".parse()?, "a page")?;
    Netns::unpin(Path::new(&path))?;
    let address = format!("{beginning}.77").parse()?;
    // The host itself reaches it, so it is there.
    wait_until("docker's container answers", || {
        gets(host.netns(), address, 80, std::time::Duration::from_secs(1))
    })?;
    Ok(Container { netns, _page: page, address })
}

fn first(host: &Host) -> anyhow::Result<()> {
    let _docker = dockerd(host)?;
    ensure!(host.execute("iptables -S FORWARD")?.contains("-P FORWARD DROP"), "docker drops nothing");
    let before = host.network_snapshot()?;
    let guests = host.guests()?;
    host.works(&guests)?;
    host.tells_nothing()?;
    host.is_closed(&guests)?;
    network(host, "d1", None, "")?;
    host.works(&guests)?;
    docker(host, "networks/prune -X POST")?;
    host.clear()?;
    host.ensure_nothing_left(&before)
}

fn later(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    let _docker = dockerd(host)?;
    host.comes_to_work(&guests)?;
    // If docker did not turn forwarding on itself, the administrator may do by hand what it does otherwise.
    host.execute("iptables -P FORWARD DROP")?;
    host.execute("ip6tables -P FORWARD DROP")?;
    host.comes_to_work(&guests)?;
    network(host, "d1", None, "")?;
    host.comes_to_work(&guests)?;
    host.iptables_reads_rnets_rules()?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    host.ensure_no_rules_left()
}

fn restarted(host: &Host) -> anyhow::Result<()> {
    let docker = dockerd(host)?;
    let guests = host.guests()?;
    host.works(&guests)?;
    drop(docker);
    host.comes_to_work(&guests)?;
    let _docker = dockerd(host)?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    host.ensure_no_rules_left()
}

fn isolated(host: &Host) -> anyhow::Result<()> {
    let _docker = dockerd(host)?;
    let bridges =
        ["docker0".to_owned(), network(host, "d1", None, "")?, network(host, "d2", Some("mydocker"), "")?];
    let guests = host.guests()?;
    for bridge in bridges {
        let container = container(host, &bridge)?;
        never_reaches(&guests.web.netns, container.address, 80).with_context(|| format!("by {bridge}"))?;
        never_reaches(host.neighbour().netns(), container.address, 80)
            .with_context(|| format!("{bridge}, from outside"))?;
    }
    host.works(&guests)?;
    host.clear()?;
    host.ensure_no_rules_left()
}

/// docker turns IPv6 forwarding on and sets FORWARD to DROP, when no ADD happens.
fn ipv6_later(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    let _docker = dockerd(host)?;
    network(host, "d6", None, r#","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"fd55::/64"}]}"#)?;
    host.comes_to_work(&guests)?;
    host.execute("ip6tables -P FORWARD DROP")?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    host.ensure_no_rules_left()
}

/// In either order: where rnet has left FORWARD open, docker does too.
fn unreached(_: &Host) -> anyhow::Result<()> {
    for docker_first in [true, false] {
        let host = Host::on_the_way_out()?;
        let early = docker_first.then(|| dockerd(&host)).transpose()?;
        let guests = host.guests()?;
        let _docker = early.map_or_else(|| dockerd(&host), Ok)?;
        host.comes_to_work(&guests)?;
        let bridges = ["docker0".to_owned(), network(&host, "d1", None, "")?];
        for bridge in bridges {
            let container = container(&host, &bridge)?;
            for address in guests.web.addresses.iter().filter(|address| address.is_ipv4()) {
                never_reaches(&container.netns, *address, 80)
                    .with_context(|| format!("from {bridge}, docker first: {docker_first}"))?;
            }
        }
        host.clear()?;
    }
    Ok(())
}

/// rnet returns what goes to docker's bridges, whose names begin with `br-`.
fn uplink_like_a_bridge(host: &Host) -> anyhow::Result<()> {
    host.execute("ip link set out0 down")?;
    host.execute("ip link set out0 name br-lan")?;
    host.execute("ip link set br-lan up")?;
    host.execute("ip -6 address replace fd77::1/64 dev br-lan nodad")?;
    host.execute("ip route replace default via 192.168.77.2")?;
    host.execute("ip -6 route replace default via fd77::2")?;
    for program in ["iptables", "ip6tables"] {
        host.execute(&format!("{program} -P FORWARD DROP"))?;
    }
    let guests = host.guests()?;
    host.works(&guests)?;
    ensure!(host.said("rnet ls")?.is_empty(), "{}", host.said("rnet ls")?);
    host.clear()
}
