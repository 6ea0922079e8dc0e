//! What must work on a host with rnet, whatever else is there.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use netlink::Netns;
use netns_fixtures::{Connection, HttpServer, Program, Snapshot, http_get, lookup, tcp_connect};
use serde_json::Value;

use crate::common::{Host, Outcome, binary};

/// Long enough for what must come, and to see that nothing comes.
const LONG: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_millis(500);
/// How soon everything must work again after a change of the host's firewall.
const PATIENCE: Duration = Duration::from_secs(15);
const SUBNETS: [&str; 2] = ["10.99.0.0/24", "fd99::/64"];
const OUTSIDE: [&str; 2] = ["192.168.77.0/24", "fd77::/64"];
const PAGE: &str = "a page";

/// A running endpoint that serves a page on port 80.
pub struct Guest {
    pub netns: Netns,
    pub addresses: Vec<IpAddr>,
    _page: HttpServer,
}

/// Two endpoints of one network; port 3344 of the host leads to `web`.
pub struct Guests {
    pub web: Guest,
    pub db: Guest,
}

/// A program that ends with this value.
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::TERM,
        );
        let started = Instant::now();
        while started.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    /// Forwarding is off, as after a boot; the machine outside knows the way to the containers.
    pub fn on_the_way_out() -> anyhow::Result<Self> {
        let host = Self::new().beside(&OUTSIDE);
        host.default_route_via(host.neighbour())?;
        for subnet in SUBNETS {
            host.neighbour().route_via_host(subnet.parse()?)?;
        }
        Ok(host)
    }

    /// What `PROGRAM ARGS` prints on the host; an error if it fails.
    pub fn execute(&self, line: &str) -> anyhow::Result<String> {
        Ok(self.succeeds(line)?.stdout)
    }

    /// What a command says besides its data: warnings and hints.
    pub fn said(&self, line: &str) -> anyhow::Result<String> {
        Ok(self.succeeds(line)?.stderr)
    }

    fn succeeds(&self, line: &str) -> anyhow::Result<Outcome> {
        let words: Vec<&str> = line.split(' ').collect();
        let program = if words[0] == "rnet" { binary() } else { words[0].into() };
        self.within_a_minute(line, self.command("timeout").arg("60").arg(program).args(&words[1..]))
    }

    fn within_a_minute(&self, line: &str, program: Program<'_>) -> anyhow::Result<Outcome> {
        let outcome = Outcome::of(program);
        ensure!(outcome.status == 0, "`{line}`: {} {}", outcome.status, outcome.stderr.trim());
        Ok(outcome)
    }

    /// Nothing is wrong, and nothing is said to be.
    pub fn tells_nothing(&self) -> anyhow::Result<()> {
        let said = self.said("rnet interop status")?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    }

    /// The lines that it says can be typed.
    pub fn hints(&self, line: &str) -> anyhow::Result<Vec<String>> {
        let said = self.said(line)?;
        Ok(said.lines().filter_map(|line| line.trim().strip_prefix("hint: ")).map(str::to_owned).collect())
    }

    /// What a person types.
    pub fn shell(&self, line: &str) -> anyhow::Result<String> {
        let rnet = binary();
        let path = rnet.parent().context("no folder")?;
        let line = format!("PATH=$PATH:{}; {line}", path.display());
        let program = self.command("timeout").args(["60", "sh", "-c", &line]);
        Ok(self.within_a_minute(&line, program)?.stdout)
    }

    /// What CNI's STATUS says of a network, nothing if all is well.
    pub fn status(&self, network: &str) -> anyhow::Result<String> {
        let file = self.root().join(format!("etc/cni/net.d/rnet-{network}.conflist"));
        let list: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
        let mut plugin = list["plugins"][0].clone();
        (plugin["name"], plugin["cniVersion"]) = (network.into(), "1.1.0".into());
        let command = self.command(binary());
        let command = command.env("CNI_COMMAND", "STATUS").env("CNI_PATH", "/opt/cni/bin");
        let output = command.input(plugin.to_string()).output()?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a program that goes on; what it says goes into a file.
    pub fn start(&self, line: &str) -> anyhow::Result<Daemon> {
        let words: Vec<&str> = line.split(' ').collect();
        let log = Path::new("/run").join(format!("{}.log", words[0]));
        let log = std::fs::File::create(log)?;
        let program = self.command(words[0]).args(&words[1..]).stdout(log.try_clone()?).stderr(log);
        Ok(Daemon(program.stdin(Stdio::null()).spawn()?))
    }

    /// A network and its two endpoints.
    pub fn guests(&self) -> anyhow::Result<Guests> {
        self.execute(&format!("rnet create mynet --subnet {} --subnet {}", SUBNETS[0], SUBNETS[1]))?;
        self.guests_of("mynet")
    }

    /// The same on a network that is there.
    pub fn guests_of(&self, network: &str) -> anyhow::Result<Guests> {
        self.execute(&format!("rnet run -d --name web --net {network} -p 3344:80 sleep 1000"))?;
        self.execute(&format!("rnet run -d --name db --net {network} sleep 1000"))?;
        Ok(Guests { web: self.endpoint("web")?, db: self.endpoint("db")? })
    }

    fn endpoint(&self, name: &str) -> anyhow::Result<Guest> {
        let shown: Value = serde_json::from_str(&self.execute(&format!("rnet inspect {name}"))?)?;
        let pid = shown[0]["pid"].as_u64().context("no pid")?;
        let netns = Netns::open(Path::new(&format!("/proc/{pid}/ns/net")))?;
        let all = shown[0]["networks"][0]["addresses"].as_array().context("no addresses")?.clone();
        let address = |text: &Value| text.as_str()?.split('/').next()?.parse().ok();
        let page = HttpServer::start(&netns, "[::]:80".parse()?, PAGE)?;
        Ok(Guest { netns, addresses: all.iter().filter_map(address).collect(), _page: page })
    }

    /// Ends all endpoints and networks.
    pub fn clear(&self) -> anyhow::Result<()> {
        self.execute("rnet rm -f web db").map(drop)
    }

    /// Everything that must work, at once.
    pub fn works(&self, guests: &Guests) -> anyhow::Result<()> {
        for address in self.neighbour().host_addresses() {
            gets(self.neighbour().netns(), address.ip(), 3344, LONG).context("published, from outside")?;
        }
        for outside in self.neighbour().addresses() {
            let _page = HttpServer::start(self.neighbour().netns(), (outside.ip(), 80).into(), PAGE)?;
            gets(&guests.web.netns, outside.ip(), 80, LONG).context("outbound")?;
        }
        for address in &guests.db.addresses {
            gets(&guests.web.netns, *address, 80, LONG).context("container to container")?;
        }
        let gateway = "10.99.0.1:53".parse()?;
        let found = lookup(&guests.web.netns, gateway, "db", false, LONG)?.context("names: no answer")?;
        ensure!(
            found.addresses.iter().any(|ip| guests.db.addresses.contains(ip)),
            "names: db is at {found:?}"
        );
        Ok(())
    }

    /// The same within [`PATIENCE`], after a change of the host's firewall.
    pub fn comes_to_work(&self, guests: &Guests) -> anyhow::Result<()> {
        wait_until("all works again", || self.works(guests))
    }

    /// What is not published stays closed.
    pub fn is_closed(&self, guests: &Guests) -> anyhow::Result<()> {
        for address in &guests.web.addresses {
            never_reaches(self.neighbour().netns(), *address, 80)
                .context("an unpublished port, from outside")?;
        }
        Ok(())
    }

    /// What iptables says of our rules is what it takes, and it says it without an error.
    pub fn iptables_reads_rnets_rules(&self) -> anyhow::Result<()> {
        for program in ["iptables", "ip6tables"] {
            let listed = self.execute(&format!("{program} -S FORWARD"))?;
            ensure!(listed.contains("-i rnet-+ -m comment --comment rnet-interop -j ACCEPT"), "{listed}");
            let saved = self.execute(&format!("{program}-save"))?;
            ensure!(!saved.contains("incompatible"), "{saved}");
            let restored = self.command(format!("{program}-restore")).input(saved.clone()).output()?;
            ensure!(restored.status.success(), "{program}-restore: {restored:?}");
            let again = self.execute(&format!("{program}-save"))?;
            ensure!(rules(&saved) == rules(&again), "{program}: {saved}\nis now {again}");
            let rule = "FORWARD -o rnet-+ -m comment --comment rnet-interop -j ACCEPT";
            self.execute(&format!("{program} -C {rule}"))?;
            self.execute(&format!("{program} -D {rule}"))?;
        }
        Ok(())
    }

    /// The network as it is now.
    pub fn network_snapshot(&self) -> anyhow::Result<Snapshot> {
        Ok(Snapshot::of(self.netns(), &[])?)
    }

    /// An error that tells what is there now and was not `before`, sysctls apart, which stay.
    pub fn ensure_nothing_left(&self, before: &Snapshot) -> anyhow::Result<()> {
        let Some(diff) = before.diff(&self.network_snapshot()?) else { return Ok(()) };
        let left: Vec<&str> = diff.lines().filter(|line| !line.contains("forward")).collect();
        let ours: Vec<&&str> = left.iter().filter(|line| line.contains("rnet")).collect();
        ensure!(left.is_empty(), "left ({} of rnet's): {}", ours.len(), left.join("\n"));
        Ok(())
    }

    /// None of rnet's rules is left in another program's chains.
    pub fn ensure_no_rules_left(&self) -> anyhow::Result<()> {
        let listed = self.execute("nft list ruleset")?;
        ensure!(!listed.contains("rnet"), "left: {listed}");
        Ok(())
    }
}

/// The lines that count: no time, no counters of chains.
fn rules(saved: &str) -> Vec<String> {
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect()
}

/// An error unless the page comes.
pub fn gets(from: &Netns, ip: IpAddr, port: u16, timeout: Duration) -> anyhow::Result<()> {
    let url = format!("http://{}/", SocketAddr::new(ip, port));
    let page = http_get(from, &url, timeout).with_context(|| url.clone())?;
    ensure!(page.body == PAGE, "{url}: {page:?}");
    Ok(())
}

/// An error if there is any answer.
pub fn never_reaches(from: &Netns, ip: IpAddr, port: u16) -> anyhow::Result<()> {
    let to = SocketAddr::new(ip, port);
    match tcp_connect(from, to, SHORT)? {
        Connection::Open => bail!("{to} is open"),
        _ => Ok(()),
    }
}

/// Tries again until it is well.
pub fn wait_until(what: &str, mut met: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match met() {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(error.context(format!("{what}: not within {PATIENCE:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
