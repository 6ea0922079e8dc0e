//! `rnet demo`: the study notes' scenes in a throw-away host, each step shown with what it did and saw.
//!
//! It plays the container runtime: it calls this very program as a CNI plugin, as podman or containerd would.
//! ICMP, the web server and its client are built in, so nothing else has to be on the machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnetwork::IpNetwork;
use netlink::Netns;
use netns_fixtures::{
    Container, Dialect, Host, HttpServer, Outside, Snapshot, bridge_link, enter_sandbox, http_get, ip_addr,
    ip_route, lookup, ping, wait_for_carrier,
};
use serde_json::{Value, json};

use crate::report::print;

/// Long enough for a machine that is busy, short enough for a person.
const PATIENCE: Duration = Duration::from_secs(5);

const BRIDGE: &str = "rnet-mynet";
const PAGE: &str = "<h1>Apache Tomcat on tomcat01</h1>";

/// What is given: nothing.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Shows every scene; an error names the step that failed.
pub fn run() -> Result<u8> {
    enter_sandbox().context("the demo needs namespaces of its own (user namespaces, or root)")?;
    let demo = Demo::new()?;
    demo.network()?;
    demo.containers()?;
    demo.inside()?;
    demo.on_the_host()?;
    demo.pings()?;
    demo.published()?;
    demo.names()?;
    demo.stopped()?;
    demo.nothing_left()?;
    Ok(0)
}

struct Demo {
    program: PathBuf,
    host: Host,
    outside: Outside,
    tomcats: [Container; 2],
    /// Who is never restarted while others are.
    client: Container,
    /// The host before the first container.
    before: Snapshot,
}

impl Demo {
    fn new() -> Result<Self> {
        let host = Host::new()?;
        let outside = host.outside(&["192.168.77.0/24".parse::<IpNetwork>()?])?;
        // Forwarding is the one thing that stays on a host when its last container network has gone.
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        let tomcats = [host.container("tomcat01")?, host.container("tomcat02")?];
        let client = host.container("client")?;
        let before = Snapshot::of(host.netns(), &[])?;
        let program = std::env::current_exe().context("where is this program?")?;
        let demo = Self { program, host, outside, tomcats, client, before };
        say(
            "rnet demo: a docker0-style network in a throw-away host; this machine's own network is not touched.",
        )?;
        Ok(demo)
    }

    fn network(&self) -> Result<()> {
        step("A network: 172.18.0.0/16, as docker gives the first one that a user makes")?;
        let arguments = ["create", "mynet", "--subnet", "172.18.0.0/16"];
        say(&format!("$ rnet {}", arguments.join(" ")))?;
        let output = self.host.command(&self.program).args(arguments).output()?;
        ensure!(output.status.success(), "rnet create: {}", String::from_utf8_lossy(&output.stderr));
        show(&String::from_utf8_lossy(&output.stdout))
    }

    fn containers(&self) -> Result<()> {
        step("Two containers: a bridge, and for each a veth pair whose one end is the container's eth0")?;
        for (tomcat, last) in self.tomcats.iter().zip(2..) {
            self.add(tomcat, true, last)?;
        }
        ensure!(
            wait_for_carrier(self.tomcats[0].netns(), "eth0", PATIENCE)?,
            "eth0 of tomcat01 has no carrier"
        );
        Ok(())
    }

    fn inside(&self) -> Result<()> {
        step("Inside tomcat01")?;
        say("$ docker exec -it tomcat01 ip addr")?;
        let addresses = ip_addr(self.tomcats[0].netns(), Dialect::Busybox)?;
        show(&addresses)?;
        for wanted in ["eth0@if", "mtu 1500", "02:42:ac:12:00:02", "inet 172.18.0.2/16 brd 172.18.255.255"] {
            ensure!(addresses.contains(wanted), "ip addr does not show {wanted:?}");
        }
        say("$ docker exec -it tomcat01 ip route")?;
        let routes = ip_route(self.tomcats[0].netns(), Dialect::Busybox)?;
        show(&routes)
    }

    fn on_the_host(&self) -> Result<()> {
        step("On the host: the bridge, and one veth for each container")?;
        let addresses = ip_addr(self.host.netns(), Dialect::Iproute2)?;
        let bridge: Vec<&str> = section(&addresses, BRIDGE);
        ensure!(bridge.join("\n").contains("inet 172.18.0.1/16"), "the bridge has no gateway address");
        say(&format!("$ ip addr show {BRIDGE}"))?;
        show(&bridge.join("\n"))?;
        let ports = self.ports()?;
        ensure!(ports.len() == 2, "the bridge has {} ports, not two", ports.len());
        say("$ bridge link")?;
        show(&ports.join("\n"))
    }

    fn pings(&self) -> Result<()> {
        step("Everybody reaches everybody: the packets cross the bridge")?;
        let (first, second) = (address(2), address(3));
        let pings = [
            ("host", self.host.netns(), first),
            ("tomcat01", self.tomcats[0].netns(), second),
            ("tomcat02", self.tomcats[1].netns(), first),
            ("tomcat02", self.tomcats[1].netns(), address(1)),
        ];
        let mut lines = Vec::new();
        for (who, from, to) in pings {
            let Some(time) = ping(from, to, PATIENCE)? else { bail!("{who} does not reach {to}") };
            lines
                .push(format!("{who:<9} ping {to:<11} answered after {:.3} ms", time.as_secs_f64() * 1000.0));
        }
        show(&lines.join("\n"))
    }

    fn published(&self) -> Result<()> {
        step("tomcat01 was started with -p 3344:80: the host's port 3344 leads to its port 80")?;
        let server = HttpServer::start(self.tomcats[0].netns(), SocketAddr::new(address(2), 80), PAGE)?;
        let on_the_lan = self.outside.host_address();
        let gets = [
            ("the host, by its own address", self.host.netns(), on_the_lan),
            ("the host, by 127.0.0.1", self.host.netns(), Ipv4Addr::LOCALHOST.into()),
            ("another machine", self.outside.netns(), on_the_lan),
            ("tomcat02", self.tomcats[1].netns(), on_the_lan),
            ("tomcat01 itself", self.tomcats[0].netns(), on_the_lan),
        ];
        let mut lines = Vec::new();
        for (who, from, to) in gets {
            lines.push(fetch(&server, who, from, to)?);
        }
        show(&lines.join("\n"))
    }

    fn names(&self) -> Result<()> {
        step("A container's address changes at every start: names are how the others go on reaching it")?;
        self.add(&self.client, true, 4)?;
        self.ping_by_name()?;
        say(
            "\nBoth are stopped and run again in the other order, on a network without sticky addresses: they swap.",
        )?;
        self.run_again(false, [3, 2])?;
        self.ping_by_name()?;
        say("\nOnce more, with sticky addresses, as `rnet create` has them: each gets its own back.")?;
        self.run_again(true, [2, 3])?;
        self.ping_by_name()?;
        self.call("DEL", &self.client, true).map(drop)
    }

    /// Stops both tomcats and runs them again, the second first; they get these addresses.
    fn run_again(&self, sticky: bool, [first, second]: [u8; 2]) -> Result<()> {
        let [tomcat01, tomcat02] = &self.tomcats;
        self.call("DEL", tomcat01, sticky)?;
        self.call("DEL", tomcat02, sticky)?;
        self.add(tomcat02, sticky, second)?;
        self.add(tomcat01, sticky, first)
    }

    /// Each asks its gateway for the others' addresses, as its resolv.conf would have it, and pings them.
    fn ping_by_name(&self) -> Result<()> {
        let [tomcat01, tomcat02] = &self.tomcats;
        let pings =
            [(tomcat01, tomcat02), (tomcat02, tomcat01), (&self.client, tomcat01), (&self.client, tomcat02)];
        pings.into_iter().try_for_each(|(from, to)| {
            let (who, name) = (from.name(), to.name());
            let answer = lookup(from.netns(), SocketAddr::new(address(1), 53), name, false, PATIENCE)?;
            let Some(found) = answer.and_then(|answer| answer.addresses.first().copied()) else {
                bail!("{who} finds no {name}")
            };
            let Some(time) = ping(from.netns(), found, PATIENCE)? else {
                bail!("{who} does not reach {found}")
            };
            show(&format!(
                "{who:<9} ping {name} ({found}) answered after {:.3} ms",
                time.as_secs_f64() * 1000.0
            ))
        })
    }

    fn stopped(&self) -> Result<()> {
        step("tomcat02 is stopped: its pair is gone, at both ends")?;
        self.call("DEL", &self.tomcats[1], true)?;
        let ports = self.ports()?;
        ensure!(ports.len() == 1, "the bridge still has {} ports", ports.len());
        let left = ip_addr(self.tomcats[1].netns(), Dialect::Busybox)?;
        ensure!(!left.contains("eth0"), "tomcat02 still has an eth0");
        say("$ bridge link")?;
        show(&ports.join("\n"))
    }

    fn nothing_left(&self) -> Result<()> {
        step("tomcat01 too: with the last container the bridge and every rule go")?;
        self.call("DEL", &self.tomcats[0], true)?;
        let after = Snapshot::of(self.host.netns(), &[])?;
        if let Some(difference) = self.before.diff(&after) {
            bail!("the host is not as it was before:\n{difference}");
        }
        say("links, addresses, routes, neighbours, ruleset and sysctls are what they were before")?;
        say("")?;
        say("All steps worked.")
    }

    /// Attaches a container, which must get the network's address with that last number.
    fn add(&self, container: &Container, sticky: bool, last: u8) -> Result<()> {
        let result = self.call("ADD", container, sticky)?;
        let found = result["ips"][0]["address"].as_str().unwrap_or_default();
        let expected = format!("{}/16", address(last));
        ensure!(found == expected, "{} got {found}, not {expected}", container.name());
        say(&format!("{} has {found}", container.name()))
    }

    /// Calls this program as the CNI plugin `rnet`, as a runtime does. tomcat01 is the one with a published port.
    fn call(&self, verb: &str, container: &Container, sticky: bool) -> Result<Value> {
        let publish = container.name() == self.tomcats[0].name();
        let config = self.config(publish, sticky)?;
        let name = format!("IgnoreUnknown=1;K8S_POD_NAME={}", container.name());
        let netns = container.path().to_string_lossy().into_owned();
        let environment = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container.name()),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &name),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let published = if publish && verb == "ADD" { "   (-p 3344:80)" } else { "" };
        let line = format!(
            "$ CNI_COMMAND={verb} CNI_CONTAINERID={} CNI_IFNAME=eth0 … rnet{published}",
            container.name()
        );
        let program = self.host.command(&self.program).envs(environment).input(config.to_string());
        let output = program.output()?;
        say(&line)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{verb} of {} failed: {text}", container.name());
        if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }

    /// The plugin's configuration out of the conflist that `rnet create` wrote.
    fn config(&self, publish: bool, sticky: bool) -> Result<Value> {
        let file = self.host.root().join("etc/cni/net.d/rnet-mynet.conflist");
        let list: Value = serde_json::from_slice(&std::fs::read(&file).context("reading the conflist")?)?;
        let mut config = list["plugins"][0].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        if !sticky {
            config["stickyAddresses"] = json!(false);
        }
        if publish {
            let port = json!({"hostPort": 3344, "containerPort": 80, "protocol": "tcp"});
            config["runtimeConfig"] = json!({"portMappings": [port]});
        }
        Ok(config)
    }

    fn ports(&self) -> Result<Vec<String>> {
        let ports = bridge_link(self.host.netns())?;
        Ok(ports.lines().filter(|line| line.contains(BRIDGE)).map(str::to_owned).collect())
    }
}

fn step(title: &str) -> Result<()> {
    say(&format!("\n── {title}"))
}

fn say(line: &str) -> Result<()> {
    print(&format!("{line}\n"))
}

fn show(text: &str) -> Result<()> {
    text.trim_end().lines().try_for_each(|line| say(&format!("   {line}")))
}

fn fetch(server: &HttpServer, who: &str, from: &Netns, to: IpAddr) -> Result<String> {
    let url = format!("http://{to}:3344/");
    let page = http_get(from, &url, PATIENCE).with_context(|| format!("{who} gets no answer from {url}"))?;
    ensure!(page.status == 200 && page.body.contains(PAGE), "{who} got {} from {url}", page.status);
    let seen = server.last_peer().map_or_else(|| "?".into(), |peer| peer.to_string());
    Ok(format!("{who:<28} GET {url:<28} 200, the container saw {seen}"))
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, last).into()
}

/// The lines of one link out of `ip addr`'s output.
fn section<'t>(text: &'t str, link: &str) -> Vec<&'t str> {
    let is_head = |line: &&str| !line.starts_with(' ');
    let lines = text.lines().skip_while(|line| !line.contains(&format!(": {link}:")));
    let mut lines = lines.peekable();
    let head = lines.next();
    head.into_iter().chain(lines.take_while(|line| !is_head(line))).collect()
}
