//! `rnet demo`: the study notes' scenes in a throw-away host, each step shown with what it did and saw.
//!
//! Every line behind a `$` is a command that works as it stands. ICMP, the web server, its client and what shows links are
//! built in, so nothing else than `sleep` has to be on the machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnetwork::IpNetwork;
use netlink::Netns;
use netns_fixtures::{
    Dialect, Host, HttpServer, Outside, Snapshot, bridge_link, enter_sandbox, http_get, ip_addr, ip_route,
    lookup, ping, wait_for_carrier,
};
use serde_json::Value;

use crate::report::print;

/// Long enough for a machine that is busy, short enough for a person.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer than all scenes take, in seconds; what a killed demo leaves behind ends then.
const LONG: &str = "1000";

const BRIDGE: &str = "rnet-mynet";
const PAGE: &str = "<h1>Apache Tomcat on tomcat01</h1>";

/// What is given: nothing.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Shows every scene; an error names the step that failed.
pub fn run() -> Result<u8> {
    enter_sandbox().context("the demo needs its own namespaces: allow user namespaces, or run it as root")?;
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
    /// The host before the first container.
    before: Snapshot,
}

impl Demo {
    fn new() -> Result<Self> {
        let host = Host::new()?;
        let outside = host.outside(&["192.168.77.0/24".parse::<IpNetwork>()?])?;
        // Forwarding is the one thing that stays on a host when its last container network has gone.
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        let before = Snapshot::of(host.netns(), &[])?;
        let program = std::env::current_exe().context("where is this program?")?;
        let demo = Self { program, host, outside, before };
        say(
            "rnet demo: a docker0-style network in a throw-away host; this machine's own network is not touched.",
        )?;
        Ok(demo)
    }

    fn network(&self) -> Result<()> {
        step("A network: 172.18.0.0/16, as docker gives to the first network that a user creates")?;
        show(&self.rnet("create mynet --subnet 172.18.0.0/16")?)
    }

    fn containers(&self) -> Result<()> {
        step(
            "Two programs as containers: a bridge, and for each container a veth pair, whose one end is its eth0",
        )?;
        self.start("tomcat01", "mynet -p 3344:80", 2)?;
        self.start("tomcat02", "mynet", 3)?;
        ensure!(
            wait_for_carrier(&self.netns("tomcat01")?, "eth0", PATIENCE)?,
            "eth0 of tomcat01 has no carrier"
        );
        Ok(())
    }

    fn inside(&self) -> Result<()> {
        step("Inside tomcat01")?;
        let tomcat01 = self.netns("tomcat01")?;
        say("$ rnet exec tomcat01 ip addr")?;
        let addresses = ip_addr(&tomcat01, Dialect::Busybox)?;
        show(&addresses)?;
        for wanted in ["eth0@if", "mtu 1500", "02:42:ac:12:00:02", "inet 172.18.0.2/16 brd 172.18.255.255"] {
            ensure!(addresses.contains(wanted), "ip addr does not show {wanted:?}");
        }
        say("$ rnet exec tomcat01 ip route")?;
        let routes = ip_route(&tomcat01, Dialect::Busybox)?;
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
        step("All reach each other: the packets cross the bridge")?;
        let (first, second) = (address(2), address(3));
        let (tomcat01, tomcat02) = (self.netns("tomcat01")?, self.netns("tomcat02")?);
        let pings = [
            ("host", self.host.netns(), first),
            ("tomcat01", &tomcat01, second),
            ("tomcat02", &tomcat02, first),
            ("tomcat02", &tomcat02, address(1)),
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
        let (tomcat01, tomcat02) = (self.netns("tomcat01")?, self.netns("tomcat02")?);
        let server = HttpServer::start(&tomcat01, SocketAddr::new(address(2), 80), PAGE)?;
        let on_the_lan = self.outside.host_address();
        let gets = [
            ("the host, by its own address", self.host.netns(), on_the_lan),
            ("the host, by 127.0.0.1", self.host.netns(), Ipv4Addr::LOCALHOST.into()),
            ("another machine", self.outside.netns(), on_the_lan),
            ("tomcat02", &tomcat02, on_the_lan),
            ("tomcat01 itself", &tomcat01, on_the_lan),
        ];
        let mut lines = Vec::new();
        for (who, from, to) in gets {
            lines.push(fetch(&server, who, from, to)?);
        }
        show(&lines.join("\n"))
    }

    fn names(&self) -> Result<()> {
        step("A container's address changes at every start: others reach it by name")?;
        self.rnet("stop tomcat01 tomcat02")?;
        say(
            "\nWithout sticky addresses, two containers that start again in the other order swap their addresses:",
        )?;
        self.rnet("create plain --subnet 172.19.0.0/16 --no-sticky")?;
        self.start("tomcat01", "plain", 2)?;
        self.start("tomcat02", "plain", 3)?;
        self.start("client", "plain", 4)?;
        self.ping_by_name(19)?;
        self.rnet("stop tomcat01 tomcat02")?;
        self.start("tomcat02", "plain", 2)?;
        self.start("tomcat01", "plain", 3)?;
        self.ping_by_name(19)?;
        self.rnet("stop tomcat01 tomcat02 client")?;
        self.rnet("rm plain")?;
        say("\nWith sticky addresses (the default), each container gets its previous address:")?;
        self.start("tomcat02", "mynet", 3)?;
        self.start("tomcat01", "mynet -p 3344:80", 2)?;
        self.start("client", "mynet", 4)?;
        self.ping_by_name(18)?;
        self.rnet("stop client").map(drop)
    }

    /// Each asks its gateway for the others' addresses, as its resolv.conf would have it, and pings them.
    fn ping_by_name(&self, network: u8) -> Result<()> {
        let pings = [
            ("tomcat01", "tomcat02"),
            ("tomcat02", "tomcat01"),
            ("client", "tomcat01"),
            ("client", "tomcat02"),
        ];
        let server = SocketAddr::new(Ipv4Addr::new(172, network, 0, 1).into(), 53);
        pings.into_iter().try_for_each(|(who, name)| {
            let from = self.netns(who)?;
            let answer = lookup(&from, server, name, false, PATIENCE)?;
            let Some(found) = answer.and_then(|answer| answer.addresses.first().copied()) else {
                bail!("{who} finds no {name}")
            };
            let Some(time) = ping(&from, found, PATIENCE)? else { bail!("{who} does not reach {found}") };
            show(&format!(
                "{who:<9} ping {name} ({found}) answered after {:.3} ms",
                time.as_secs_f64() * 1000.0
            ))
        })
    }

    fn stopped(&self) -> Result<()> {
        step("tomcat02 is stopped: both ends of its veth pair are gone")?;
        self.rnet("stop tomcat02")?;
        let ports = self.ports()?;
        ensure!(ports.len() == 1, "the bridge still has {} ports", ports.len());
        say("$ bridge link")?;
        show(&ports.join("\n"))
    }

    fn nothing_left(&self) -> Result<()> {
        step("tomcat01 is stopped too: with the last container, the bridge and every rule are removed")?;
        self.rnet("stop tomcat01")?;
        self.rnet("rm mynet")?;
        let after = Snapshot::of(self.host.netns(), &[])?;
        if let Some(difference) = self.before.diff(&after) {
            bail!("the host is not as it was before:\n{difference}");
        }
        say("links, addresses, routes, neighbours, ruleset and sysctls are what they were before")?;
        say("")?;
        say("All steps worked.")
    }

    /// Starts a container, which must get its network's address with that last number.
    fn start(&self, name: &str, network: &str, last: u8) -> Result<()> {
        self.rnet(&format!("run -d --name {name} --net {network} sleep {LONG}"))?;
        let found =
            self.inspect(name)?["networks"][0]["addresses"][0].as_str().unwrap_or_default().to_owned();
        ensure!(found.ends_with(&format!(".0.{last}/16")), "{name} got {found}");
        say(&format!("{name} has {found}"))
    }

    fn netns(&self, name: &str) -> Result<Netns> {
        let shown = self.inspect(name)?;
        let pid = shown["pid"].as_u64().with_context(|| format!("{name} has no process"))?;
        Ok(Netns::open(format!("/proc/{pid}/ns/net").as_ref())?)
    }

    fn inspect(&self, name: &str) -> Result<Value> {
        let shown: Value = serde_json::from_str(&self.call(&["inspect", "--type", "endpoint", name])?)?;
        Ok(shown[0].clone())
    }

    /// Types a line, shows it, and returns what it prints.
    fn rnet(&self, line: &str) -> Result<String> {
        say(&format!("$ rnet {line}"))?;
        self.call(&line.split(' ').collect::<Vec<_>>())
    }

    fn call(&self, words: &[&str]) -> Result<String> {
        let output = self.host.command(&self.program).args(words).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rnet {}: {stderr}", words.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn ports(&self) -> Result<Vec<String>> {
        let ports = bridge_link(self.host.netns())?;
        Ok(ports.lines().filter(|line| line.contains(BRIDGE)).map(str::to_owned).collect())
    }
}

impl Drop for Demo {
    /// After an error in the middle.
    fn drop(&mut self) {
        let _ = self.call(&["rm", "-f", "tomcat01", "tomcat02", "client"]);
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
