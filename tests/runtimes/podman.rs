//! podman with its CNI backend.

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, bail, ensure};
use netlink::Netns;
use netns_fixtures::Program;
use serde_json::{Value, json};

use crate::checks;
use crate::common::Host;
use crate::guest::Guest;
use crate::harness::Test;
use crate::leftovers::Before;
use crate::network::{Flavour, Network};
use crate::program::{bounded, ip, stdout};
use crate::setup::{IMAGE, NETWORKS, PLUGINS, Setup, setup};

/// All tests of this file, for one kind of network.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, crate::Body)] = &[
        ("a_container_gets_address_route_and_loopback", gets_address),
        ("the_mac_is_made_of_the_address", mac_of_address),
        ("podman_knows_the_network", knows_the_network),
        ("ping_goes_both_ways", ping),
        ("a_published_port_answers_everywhere", tcp_port),
        ("a_published_udp_port_answers_everywhere", udp_port),
        ("a_port_range_is_published", port_range),
        ("the_reference_bandwidth_finds_its_place_behind", bandwidth),
        ("a_port_of_one_host_address_stays_there", port_of_one_address),
        ("outbound_is_masqueraded_and_clients_keep_their_address", masquerade),
        ("ip_and_mac_can_be_chosen", chosen_ip_and_mac),
        ("an_ip_range_at_the_end_of_the_subnet_works", range_at_the_end),
        ("an_address_in_use_is_refused_without_harm", address_in_use),
        ("a_second_network_is_eth1", second_network),
        ("two_networks_are_parted_as_configured", two_networks),
        ("a_port_of_a_container_on_two_networks_answers", port_on_two_networks),
        ("a_restart_with_the_same_address_answers_at_once", restart),
        ("network_reload_keeps_everything", reload),
        ("a_flushed_ruleset_comes_back_with_the_next_container", flushed),
        ("eight_containers_at_once", many),
        ("nothing_is_left_behind", nothing_left),
        ("a_killed_container_leaves_nothing_behind", killed),
    ];
    tests.iter().map(|test| crate::test("podman", *flavour, *test)).collect()
}

/// podman's configuration, and the image in its storage.
pub fn prepare(setup: &Setup, netns: &Netns) -> anyhow::Result<()> {
    let dir = setup.dir.display();
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\nrunroot = \"{dir}/podman-run\"\ngraphroot = \"{dir}/podman-graph\"\n"
    );
    // Without control groups of their own, containers leave nothing in the machine's.
    let containers = format!(
        "[containers]\ncgroups = \"disabled\"\nlog_driver = \"k8s-file\"\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n\
         [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{PLUGINS}\"]\nnetwork_config_dir = \"{NETWORKS}\"\n"
    );
    fs::write(setup.dir.join("storage.conf"), storage)?;
    fs::write(setup.dir.join("containers.conf"), containers)?;
    let image = setup.image();
    stdout(
        program(setup, netns),
        "podman",
        &["load".as_ref(), "-q".as_ref(), "-i".as_ref(), image.as_os_str()],
    )?;
    Ok(())
}

/// podman on the host of a lab. Containers that a test leaves are removed on drop.
pub struct Podman<'a> {
    /// The lab.
    pub host: &'a Host,
}

impl Podman<'_> {
    /// `podman ARGS`
    pub fn call(&self, args: &[&str]) -> anyhow::Result<String> {
        stdout(program(setup(), self.host.netns()), "podman", args)
    }

    /// `podman run -d --name NAME --network NETWORK OPTIONS`
    pub fn run(&self, name: &str, network: &str, options: &[&str]) -> anyhow::Result<Guest> {
        let fixed = ["run", "-d", "--name", name, "--network", network];
        self.call(&[&fixed[..], options, &[IMAGE]].concat())?;
        self.inspect(name, network)?.serving()
    }

    /// The same, by a podman that is in this control group, and so is what it starts.
    pub fn run_in(&self, group: &Path, name: &str, network: &str) -> anyhow::Result<Guest> {
        let script = format!("echo $$ > {}/cgroup.procs && exec podman \"$@\"", group.display());
        let program = environment(setup(), bounded(self.host.netns(), "sh"));
        let fixed = ["-c", &script, "podman", "run", "-d", "--name", name, "--network", network, IMAGE];
        stdout(program, "sh", &fixed)?;
        self.inspect(name, network)?.serving()
    }

    /// What podman says about a container's place on a network.
    fn inspect(&self, name: &str, network: &str) -> anyhow::Result<Guest> {
        let said = self.call(&["inspect", "--format", "{{json .NetworkSettings}}", name])?;
        let settings: Value = serde_json::from_str(&said)?;
        let address = settings["Networks"][network]["IPAddress"].as_str().unwrap_or_default();
        let netns = settings["SandboxKey"].as_str().unwrap_or_default();
        Ok(Guest {
            name: name.into(),
            netns: Netns::open(netns.as_ref())?,
            address: address
                .parse()
                .with_context(|| format!("podman knows no address of {name} on {network}: {said}"))?,
        })
    }

    /// `podman rm`, by force and at once.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.call(&["rm", "-f", "-t", "0", name]).map(drop)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // The test is over, or failing for a better reason.
        let _ = self.call(&["rm", "-f", "-t", "0", "--all"]);
    }
}

fn program<'a>(setup: &Setup, netns: &'a Netns) -> Program<'a> {
    environment(setup, bounded(netns, "podman"))
}

/// `program` with the configuration of the podman under test.
pub fn environment<'a>(setup: &Setup, program: Program<'a>) -> Program<'a> {
    program
        .env("CONTAINERS_CONF", setup.dir.join("containers.conf"))
        .env("CONTAINERS_STORAGE_CONF", setup.dir.join("storage.conf"))
}

/// podman writes the broadcast address as the range's end.
fn range_at_the_end(host: &Host, _: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    podman.call(&["network", "create", "--subnet", "10.89.9.0/29", "--ip-range", "10.89.9.4/30", "edge"])?;
    let file = Path::new(NETWORKS).join("edge.conflist");
    let mut list: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    ensure!(
        list.to_string().contains("10.89.9.7"),
        "podman does not write the broadcast address any more: {list}"
    );
    // Of the plugins that podman writes, those that rnet has.
    let plugins = list["plugins"].as_array_mut().context("a list has plugins")?;
    plugins.retain(|plugin| ["bridge", "portmap"].map(Value::from).contains(&plugin["type"]));
    fs::write(&file, list.to_string())?;
    for (name, address) in [("a", [10, 89, 9, 5]), ("b", [10, 89, 9, 6])] {
        let found = podman.run(name, "edge", &[])?.address;
        ensure!(found == std::net::Ipv4Addr::from(address), "{name} got {found}");
    }
    let full = podman.run("c", "edge", &[]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(
        full.contains("no IP addresses available in range set: 10.89.9.5-10.89.9.7"),
        "the third: {full}"
    );
    Ok(())
}

fn gets_address(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &[])?;
    checks::addressed(&web, &network)?;
    let inside = podman.call(&["exec", "web", "ip", "-4", "addr", "show", "eth0"])?;
    ensure!(inside.contains(&format!("inet {}/24", web.address)), "inside it looks so: {inside}");
    Ok(())
}

fn mac_of_address(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    checks::mac_of_address(&podman.run("web", &network.name, &[])?)
}

fn knows_the_network(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let listed = podman.call(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"])?;
    let driver = if flavour == Flavour::Created { "rnet" } else { "bridge" };
    let line = format!("{} {driver}", network.name);
    ensure!(listed.lines().any(|listed| listed == line), "`podman network ls` lacks {line:?}: {listed}");
    podman.call(&["network", "inspect", &network.name]).map(drop)
}

fn ping(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let one = podman.run("one", &network.name, &[])?;
    let other = podman.run("other", &network.name, &[])?;
    ensure!(one.address != other.address, "both have {}", one.address);
    checks::pings_both_ways(host, &network, &one, &other)
}

fn tcp_port(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["-p", "8080:80"])?;
    let other = podman.run("other", &network.name, &[])?;
    checks::published(host, &network, &web, &other, 8080)?;
    podman.remove("web")?;
    checks::is_closed(host.neighbour().netns(), "outside", (host.neighbour().host_address(), 8080).into())
}

/// It fails on a host end whose ingress hook is taken.
fn bandwidth(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let (rate, burst) = (1_000_000_000, 100_000_000);
    network.append(json!({"type": "bandwidth", "ingressRate": rate, "ingressBurst": burst,
                          "egressRate": rate, "egressBurst": burst}))?;

    // The first opens the host's loopback to its ports, the second comes when it is open.
    let web = podman.run("web", &network.name, &["-p", "8080:80"])?;
    let other = podman.run("other", &network.name, &["-p", "8081:80"])?;

    checks::published(host, &network, &web, &other, 8080)?;
    checks::published(host, &network, &other, &web, 8081)
}

fn udp_port(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["-p", "5300:53/udp"])?;
    let other = podman.run("other", &network.name, &[])?;
    checks::published_udp(host, &network, &web, &other, (5300, 53))
}

fn port_range(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["-p", "9000-9019:80-99"])?;
    let other = podman.run("other", &network.name, &[])?;
    checks::published(host, &network, &web, &other, 9000)?;
    checks::clients_keep_their_address(host, &web, &other, (9019, 99))
}

fn port_of_one_address(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let outer = host.neighbour().host_address();
    let outer_port = format!("{outer}:8082:80");
    podman.run("web", &network.name, &["-p", "127.0.0.1:8081:80", "-p", &outer_port])?;
    let localhost = std::net::IpAddr::from([127, 0, 0, 1]);
    checks::shows_the_page(host.netns(), "the host", (localhost, 8081).into())?;
    checks::is_closed(host.neighbour().netns(), "outside", (outer, 8081).into())?;
    checks::shows_the_page(host.neighbour().netns(), "outside", (outer, 8082).into())?;
    checks::shows_the_page(host.netns(), "the host", (outer, 8082).into())?;
    checks::is_closed(host.netns(), "the host", (localhost, 8082).into())
}

fn masquerade(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["-p", "8181:81"])?;
    let other = podman.run("other", &network.name, &[])?;
    checks::masqueraded(host, &web)?;
    checks::clients_keep_their_address(host, &web, &other, (8181, 81))
}

fn chosen_ip_and_mac(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let chosen = ["--ip", "10.89.1.99", "--mac-address", "02:00:00:00:00:09"];
    let web = podman.run("web", &network.name, &chosen)?;
    ensure!(web.address.octets() == [10, 89, 1, 99], "the address is {}", web.address);
    let mac = checks::mac(&web)?;
    ensure!(mac == "02:00:00:00:00:09", "the MAC is {mac}");
    checks::addressed(&web, &network)?;
    checks::answers(host.netns(), "the host", web.ip())
}

fn address_in_use(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let first = podman.run("first", &network.name, &["--ip", "10.89.1.9", "-p", "8080:80"])?;
    if let Ok(second) = podman.run("second", &network.name, &["--ip", "10.89.1.9"]) {
        bail!("the second one got {}", second.address);
    }
    podman.remove("second")?;
    checks::answers(host.netns(), "the host", first.ip())?;
    checks::shows_the_page(
        host.neighbour().netns(),
        "outside",
        (host.neighbour().host_address(), 8080).into(),
    )?;
    podman.remove("first")?;
    network.remove(host)?;
    before.ensure_nothing_left(host)
}

fn second_network(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let (first, second) = (Network::make(host, flavour, 1)?, Network::make(host, flavour, 2)?);
    let web = podman.run("web", &first.name, &[])?;
    let neighbour = podman.run("neighbour", &second.name, &[])?;
    podman.call(&["network", "connect", &second.name, "web"])?;
    let there = podman.inspect("web", &second.name)?;
    let eth1 = ip(&web.netns, &["-4", "address", "show", "eth1"])?;
    ensure!(
        eth1[0]["addr_info"][0]["local"] == there.address.to_string(),
        "eth1 is {eth1}, podman says {}",
        there.address
    );
    checks::answers(&neighbour.netns, "neighbour", there.ip())?;
    checks::answers(host.netns(), "the host", web.ip())?;
    podman.call(&["network", "disconnect", &second.name, "web"])?;
    checks::is_silent(host.netns(), "the host", there.ip())?;
    checks::addressed(&web, &first)
}

/// Networks that rnet made do not reach one another but by published ports; the bare chain asks for no isolation.
fn two_networks(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let (first, second) = (Network::make(host, flavour, 1)?, Network::make(host, flavour, 2)?);
    let web = podman.run("web", &first.name, &["-p", "8080:80"])?;
    let stranger = podman.run("stranger", &second.name, &[])?;
    checks::shows_the_page(&stranger.netns, "stranger", (host.neighbour().host_address(), 8080).into())?;
    match flavour {
        Flavour::Created => {
            checks::is_silent(&stranger.netns, "stranger", web.ip())?;
            checks::is_closed(&stranger.netns, "stranger", (web.ip(), 80).into())?;
            host.neighbour().route_via_host("10.89.0.0/16".parse()?)?;
            checks::is_closed(host.neighbour().netns(), "outside, by a route,", (web.ip(), 80).into())
        }
        Flavour::Chain => checks::answers(&stranger.netns, "stranger", web.ip()),
    }
}

/// podman asks for the port on each of them, one after another in no particular order.
fn port_on_two_networks(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let (first, second) = (Network::make(host, flavour, 1)?, Network::make(host, flavour, 2)?);
    podman.run("web", &first.name, &["--network", &second.name, "-p", "8080:80"])?;
    checks::shows_the_page(
        host.neighbour().netns(),
        "outside",
        (host.neighbour().host_address(), 8080).into(),
    )
}

/// `other` keeps the bridge, and what neighbours remember, alive.
fn restart(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let other = podman.run("other", &network.name, &[])?;
    let web = podman.run("web", &network.name, &["--ip", "10.89.1.50", "-p", "8080:80"])?;
    checks::answers(&other.netns, "other", web.ip())?;
    checks::answers(host.netns(), "the host", web.ip())?;
    podman.remove("web")?;
    let again = podman.run("again", &network.name, &["--ip", "10.89.1.50", "-p", "8080:80"])?;
    checks::answers_at_once(host.netns(), "the host", again.ip())?;
    checks::answers_at_once(&other.netns, "other", again.ip())?;
    checks::published(host, &network, &again, &other, 8080)?;
    podman.call(&["restart", "-t", "0", "again"])?;
    let again = podman.inspect("again", &network.name)?;
    ensure!(again.address.octets() == [10, 89, 1, 50], "after a restart: {}", again.address);
    checks::answers_at_once(host.netns(), "the host", again.ip())
}

fn reload(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["-p", "8080:80"])?;
    let other = podman.run("other", &network.name, &[])?;
    flush(host)?;
    podman.call(&["network", "reload", "--all"])?;
    let reloaded = podman.inspect("web", &network.name)?;
    ensure!(reloaded.address == web.address, "{} became {}", web.address, reloaded.address);
    checks::published(host, &network, &reloaded, &podman.inspect("other", &network.name)?, 8080)?;
    checks::pings_both_ways(host, &network, &reloaded, &podman.inspect(&other.name, &network.name)?)
}

fn flushed(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let web = podman.run("web", &network.name, &["-p", "8080:80"])?;
    flush(host)?;
    let other = podman.run("other", &network.name, &[])?;
    checks::published(host, &network, &web, &other, 8080)?;
    checks::masqueraded(host, &web)
}

fn many(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    let start = |number: u16| {
        let port = format!("{}:80", 8100 + number);
        podman.run(&format!("c{number}"), &network.name, &["-p", &port])
    };
    let running = thread::scope(|scope| {
        let starting: Vec<_> = (0..8).map(|number| scope.spawn(move || start(number))).collect();
        let joined =
            starting.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")));
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let addresses: std::collections::HashSet<_> = running.iter().map(|one| one.address).collect();
    ensure!(addresses.len() == 8, "eight containers have {} addresses", addresses.len());
    for port in 8100..8108 {
        checks::shows_the_page(
            host.neighbour().netns(),
            "outside",
            (host.neighbour().host_address(), port).into(),
        )?;
    }
    podman.call(&["rm", "-f", "-t", "0", "--all"])?;
    network.remove(host)?;
    before.ensure_no_files_left()
}

/// Of a network whose plugin it does not know, `podman network rm` removes the file only: the rest has gone with the last DEL.
fn nothing_left(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    podman.run("web", &network.name, &["-p", "8080:80", "-p", "127.0.0.1:8081:81", "-p", "5300:53/udp"])?;
    podman.run("other", &network.name, &["-p", "9000-9019:80-99"])?;
    podman.remove("web")?;
    podman.remove("other")?;
    podman.call(&["network", "rm", &network.name])?;
    before.ensure_nothing_left(host)
}

/// The container and conmon, which would clean up, are killed; DEL comes with `podman rm`.
///
/// (If the namespace's pin is gone as well, podman 4.3 never calls DEL: what is left then is for `gc`.)
fn killed(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let podman = Podman { host };
    let network = Network::make(host, flavour, 1)?;
    podman.run("web", &network.name, &["-p", "8080:80"])?;
    let pids = podman.call(&["inspect", "--format", "{{.State.ConmonPid}} {{.State.Pid}}", "web"])?;
    let kill: Vec<&str> = std::iter::once("-9").chain(pids.split(' ')).collect();
    stdout(bounded(host.netns(), "kill"), "kill", &kill)?;
    podman.remove("web")?;
    network.remove(host)?;
    before.ensure_nothing_left(host)
}

/// As a reload of the firewall does.
fn flush(host: &Host) -> anyhow::Result<()> {
    stdout(bounded(host.netns(), "nft"), "nft", &["flush", "ruleset"]).map(drop)
}
