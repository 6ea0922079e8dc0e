//! Names as containers of real runtimes use them, and as the usual clients ask for them.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::checks;
use crate::common::Host;
use crate::guest::{Guest, wait_until};
use crate::harness::Test;
use crate::leftovers::Before;
use crate::network::{Flavour, Network};
use crate::podman::Podman;
use crate::program::{bounded, stdout};
use crate::setup::setup;

/// A control group that stands for a unit of systemd: stopping the unit ends all processes in it.
const UNIT: &str = "rnet-test-unit";

/// All tests of this file, for one kind of network.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, crate::Body)] = &[
        ("containers_find_one_another_by_name", by_name),
        ("a_name_follows_its_container", follows),
        ("a_second_network_has_names_too", second_network),
        ("every_client_finds_the_same", clients),
        ("names_outlive_the_unit_that_started_them", outlives_its_unit),
        ("a_chain_that_drops_questions_is_told_with_what_opens_it", dropped_input),
        ("only_root_may_speak_to_the_server", root_alone),
    ];
    tests.iter().map(|test| crate::test("names", *flavour, *test)).collect()
}

/// What a program in the container prints.
fn exec(podman: &Podman<'_>, container: &str, command: &[&str]) -> anyhow::Result<String> {
    podman.call(&[&["exec", container], command].concat())
}

/// busybox's ping and nslookup in the container find `name` at `address`.
fn finds(podman: &Podman<'_>, container: &str, name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let pinged = exec(podman, container, &["ping", "-c", "1", "-W", "2", name])?;
    ensure!(pinged.contains(&format!("PING {name} ({address})")), "{container} pings {name}: {pinged}");
    let looked_up = exec(podman, container, &["nslookup", name])?;
    ensure!(looked_up.contains(&address.to_string()), "{container} looks {name} up: {looked_up}");
    Ok(())
}

fn finds_nobody(podman: &Podman<'_>, container: &str, name: &str) -> anyhow::Result<()> {
    let found = exec(podman, container, &["ping", "-c", "1", "-W", "1", name]);
    ensure!(found.is_err(), "{container} still finds {name}: {found:?}");
    Ok(())
}

fn by_name(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["--network-alias", "www"])?;
    let db = podman.run("db", &network.name, &[])?;
    let id = podman.call(&["inspect", "--format", "{{.Id}}", "web"])?;
    let in_domain = format!("web.{}", network.domain());

    for name in ["web", "www", &id[..12], "web.net1", &in_domain] {
        finds(&podman, "db", name, web.address)?;
    }
    finds(&podman, "web", "db", db.address)?;
    let resolv = exec(&podman, "db", &["cat", "/etc/resolv.conf"])?;
    ensure!(resolv.contains(&format!("nameserver {}", network.gateway())), "resolv.conf: {resolv}");
    ensure!(resolv.contains(&network.domain()), "resolv.conf: {resolv}");

    podman.remove("web")?;
    finds_nobody(&podman, "db", "web")?;
    podman.remove("db")?;
    network.remove(host)?;
    before.ensure_nothing_left(host)
}

/// It comes back with another address; the other side is not restarted.
fn follows(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    podman.run("db", &network.name, &[])?;
    for address in ["10.89.1.50", "10.89.1.60"] {
        podman.run("web", &network.name, &["--ip", address])?;
        finds(&podman, "db", "web", address.parse()?)?;
        podman.remove("web")?;
        finds_nobody(&podman, "db", "web")?;
    }
    Ok(())
}

fn second_network(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let (front, back) = (Network::make(host, flavour, 1)?, Network::make(host, flavour, 2)?);
    podman.run("web", &front.name, &[])?;
    let db = podman.run("db", &back.name, &[])?;
    finds_nobody(&podman, "web", "db")?;

    podman.call(&["network", "connect", &back.name, "web"])?;

    finds(&podman, "web", "db", db.address)?;
    let there: Value = serde_json::from_str(&podman.call(&[
        "inspect",
        "--format",
        "{{json .NetworkSettings.Networks}}",
        "web",
    ])?)?;
    let address: Ipv4Addr = there[&back.name]["IPAddress"].as_str().context("no second address")?.parse()?;
    finds(&podman, "db", "web", address)?;
    podman.call(&["network", "disconnect", &back.name, "web"])?;
    finds_nobody(&podman, "web", "db")?;
    finds_nobody(&podman, "db", "web")
}

/// dig, host and glibc's getent, in the container's namespace with a resolv.conf like the container's.
fn clients(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["--network-alias", "www"])?;
    let db = podman.run("db", &network.name, &[])?;
    let (gateway, address) = (network.gateway().to_string(), web.address.to_string());
    let resolv = setup().dir.join("resolv.conf");
    fs::write(&resolv, format!("nameserver {gateway}\nsearch {}\n", network.domain()))?;

    for name in ["web", "www", "WEB", "web.net1"] {
        for transport in ["+notcp", "+tcp"] {
            let said = dig(&db, &gateway, &["+short", transport, name])?;
            ensure!(said == address, "dig {transport} {name}: {said}");
        }
    }
    let named = dig(&db, &gateway, &["+short", "-x", &address])?;
    ensure!(named == "web.net1.", "dig -x {address}: {named}");
    for (question, status) in [
        (["web", "AAAA"], "NOERROR"),
        (["web", "MX"], "NOERROR"),
        (["web", "HTTPS"], "NOERROR"),
        (["nosuch", "A"], "NXDOMAIN"),
        (["nosuch.net1", "A"], "NXDOMAIN"),
        (["10.89.1.0", "AXFR"], "Transfer failed"),
    ] {
        let said = dig(&db, &gateway, &question)?;
        ensure!(said.contains(status), "dig {question:?} should say {status}: {said}");
    }
    let hosted = stdout(bounded(&db.netns, "host"), "host", &["web.net1", &gateway])?;
    ensure!(hosted.contains(&format!("web.net1 has address {address}")), "host: {hosted}");
    let script = format!("mount --bind {} /etc/resolv.conf && getent ahostsv4 web", resolv.display());
    let got = stdout(bounded(&db.netns, "unshare"), "unshare", &["--mount", "sh", "-c", &script])?;
    ensure!(got.starts_with(&address), "getent: {got}");
    Ok(())
}

fn dig(from: &Guest, gateway: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let server = format!("@{gateway}");
    stdout(bounded(&from.netns, "dig"), "dig", &[&["+time=3", "+tries=1", &server], arguments].concat())
}

/// iptables' own table, as ufw and many a guide leave it.
fn dropped_input(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &[])?;
    podman.run("db", &network.name, &[])?;
    let open: Value = serde_json::from_str(&host.rnet_prints(&["dns", "status", "--json"])?)?;
    ensure!(open["stopped"] == serde_json::json!([]), "{open}");
    // Otherwise rnet would heal it at once: tests/coexist.
    host.rnet_prints(&["interop", "disable"])?;
    stdout(bounded(host.netns(), "iptables"), "iptables", &["-P", "INPUT", "DROP"])?;
    finds_nobody(&podman, "db", "web")?;

    let rnet = setup().rnet.to_string_lossy();
    let status = bounded(host.netns(), &rnet).args(["dns", "status"]).output()?;

    let told = String::from_utf8(status.stderr)?;
    ensure!(status.status.success() && told.contains("chain ip filter INPUT drops"), "told: {told}");
    let hints = told.lines().filter_map(|line| line.trim().strip_prefix("hint: "));
    for hint in hints {
        // The bridge of a list has a name of its own.
        // For an own network that is to turn on again what was turned off.
        let hint = hint.replace("rnet interop", &format!("{rnet} interop"));
        stdout(bounded(host.netns(), "sh"), "sh", &["-c", &hint])?;
    }
    finds(&podman, "db", "web", web.address)?;
    // What was typed is what iptables reads, too.
    let listed = stdout(bounded(host.netns(), "iptables"), "iptables", &["-S", "INPUT"])?;
    ensure!(listed.contains("-p udp -m udp --dport 53"), "listed: {listed}");
    Ok(())
}

/// The folder keeps others out; if it did not, the server would hang up on them.
fn root_alone(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    podman.run("web", &network.name, &[])?;
    let as_nobody = || -> anyhow::Result<String> {
        let nobody = bounded(host.netns(), "setpriv");
        let asked = nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&setup().rnet);
        let asked = asked.args(["dns", "status"]).output()?;
        ensure!(!asked.status.success(), "nobody is answered: {asked:?}");
        Ok(String::from_utf8(asked.stderr)?)
    };
    let shut = as_nobody()?;
    ensure!(
        shut.contains("no name server listens") || shut.contains("no name server is running"),
        "shut: {shut}"
    );
    let socket = store::Paths::new(host.run(netlink::cookie)??).name_server();
    for (place, mode) in [(socket.as_path(), 0o777)].into_iter().chain(
        socket
            .ancestors()
            .skip(1)
            .take_while(|place| *place != Path::new("/run"))
            .map(|place| (place, 0o755)),
    ) {
        fs::set_permissions(place, fs::Permissions::from_mode(mode))?;
    }

    let open = as_nobody()?;

    ensure!(open.contains("does not answer"), "open: {open}");
    host.rnet_prints(&["dns", "status"])?;
    Ok(())
}

/// The first container is started by a unit, which is then stopped with everything in its control group.
fn outlives_its_unit(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let group = Path::new("/sys/fs/cgroup/systemd").join(UNIT);
    fs::create_dir_all(&group)?;
    let web = podman.run_in(&group, "web", &network.name)?;
    let server: Value = serde_json::from_str(&host.rnet_prints(&["dns", "status", "--json"])?)?;
    let own = fs::read_to_string(format!("/proc/{}/cgroup", server["pid"]))?;
    ensure!(!own.contains(UNIT), "the server is in the unit's group: {own}");

    for pid in fs::read_to_string(group.join("cgroup.procs"))?.split_whitespace() {
        // One may have ended with another.
        let _ = stdout(bounded(host.netns(), "kill"), "kill", &["-9", pid]);
    }
    wait_until("the unit's end", || Ok(fs::read_to_string(group.join("cgroup.procs"))?.is_empty()))?;

    podman.run("db", &network.name, &[])?;
    finds(&podman, "db", "web", web.address).or_else(|_| {
        // Its processes are dead and cannot answer a ping; its name does.
        let looked_up = exec(&podman, "db", &["nslookup", "web"])?;
        ensure!(looked_up.contains(&web.address.to_string()), "db looks web up: {looked_up}");
        Ok(())
    })?;
    podman.remove("web")?;
    podman.remove("db")?;
    std::thread::sleep(Duration::from_millis(100));
    fs::remove_dir(&group)?;
    checks::answers(host.netns(), "the host", host.neighbour().address())
}
