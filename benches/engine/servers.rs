//! The name servers under comparison: the same names, the same clients, the same servers outside.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dns::{Endpoint, Network, client};
use netns_fixtures::Host;
use rustix::process::{Pid, Signal, kill_process};

use crate::contender::{GATEWAY, SUBNET};
use crate::programs::Programs;

/// The domain of all names.
pub const DOMAIN: &str = "dns.podman";
const AARDVARK: [&str; 2] = ["/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns"];
const DNSMASQ: &str = "/usr/sbin/dnsmasq";

/// Who serves names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `rnet dns serve`.
    Rnet,
    /// netavark's.
    Aardvark,
    /// What CNI's dnsname runs.
    Dnsmasq,
}

/// All of them, ours first.
pub const KINDS: [Kind; 3] = [Kind::Rnet, Kind::Aardvark, Kind::Dnsmasq];

/// A name server at work on a host.
pub struct Server {
    kind: Kind,
    /// Its names, its control socket or its configuration.
    place: PathBuf,
    /// Every process of it.
    pids: Vec<u32>,
    child: Option<Child>,
    names: u32,
}

impl Kind {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rnet => "rnet",
            Self::Aardvark => "aardvark-dns",
            Self::Dnsmasq => "dnsmasq",
        }
    }
}

impl Server {
    /// Starts it on `host` with so many names, and waits until it answers.
    pub fn start(kind: Kind, programs: &Programs, host: &Host, names: u32) -> Result<Self> {
        let mut server =
            Self { kind, place: host.root().join("names"), pids: Vec::new(), child: None, names };
        match kind {
            Kind::Rnet => server.start_rnet(programs, host),
            Kind::Aardvark => server.start_aardvark(host),
            Kind::Dnsmasq => server.start_dnsmasq(host),
        }?;
        server.await_name(host, names - 1).with_context(|| kind.name())?;
        Ok(server)
    }

    fn start_rnet(&mut self, programs: &Programs, host: &Host) -> Result<()> {
        let cookie = host.run(netlink::cookie)??;
        self.place = store::Paths::under(host.root(), cookie).name_server();
        let program = host.command(&programs.binary).args(["dns", "serve"]).env("RNET_ROOT", host.root());
        let child = program.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        eventually("rnet's control socket", || client::status(&self.place).is_ok())?;
        host.run(|| (0..self.names).try_for_each(|nth| tell(&self.place, nth)))??;
        self.pids = vec![child.id(), client::status(&self.place)?.pid];
        self.child = Some(child);
        Ok(())
    }

    fn start_aardvark(&mut self, host: &Host) -> Result<()> {
        let program = AARDVARK.iter().find(|path| Path::new(path).exists());
        let program = program.context("no aardvark-dns: run benches/run as root, which installs it")?;
        fs::create_dir(&self.place)?;
        let lines: String = (0..self.names).map(aardvark_line).collect();
        fs::write(self.place.join("bench"), format!("{GATEWAY}\n{lines}"))?;
        let config = self.place.to_string_lossy().into_owned();
        let started = host.command(program).args(["--config", &config, "--port", "53", "run"]).status()?;
        if !started.success() {
            bail!("{program}: {started}");
        }
        let pid = fs::read_to_string(self.place.join("aardvark.pid")).context("aardvark's pid")?;
        self.pids = vec![pid.trim().parse()?];
        Ok(())
    }

    fn start_dnsmasq(&mut self, host: &Host) -> Result<()> {
        let lines: String = (0..self.names).map(hosts_line).collect();
        fs::write(&self.place, lines)?;
        let names = format!("--addn-hosts={}", self.place.display());
        let listen = format!("--listen-address={GATEWAY}");
        let arguments = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=",
            "--group=",
            "--pid-file=",
            "--bind-interfaces",
            "--no-hosts",
            "--local=/dns.podman/",
            "--dns-forward-max=1000",
            &names,
            &listen,
        ];
        let program = host.command(DNSMASQ).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        let child = program.spawn().context("dnsmasq: run benches/run as root, which installs it")?;
        self.pids = vec![child.id()];
        self.child = Some(child);
        Ok(())
    }

    /// Adds one name and returns how long it took until it answered.
    pub fn add_name(&mut self, host: &Host) -> Result<Duration> {
        let (nth, started) = (self.names, Instant::now());
        match self.kind {
            Kind::Rnet => host.run(|| tell(&self.place, nth))??,
            Kind::Aardvark => self.append("bench", &aardvark_line(nth))?,
            Kind::Dnsmasq => self.append("", &hosts_line(nth))?,
        }
        self.await_name(host, nth)?;
        self.names += 1;
        Ok(started.elapsed())
    }

    /// The way of those that read their files again when they are told.
    fn append(&self, file: &str, line: &str) -> Result<()> {
        let path = if file.is_empty() { self.place.clone() } else { self.place.join(file) };
        fs::OpenOptions::new().append(true).open(path)?.write_all(line.as_bytes())?;
        self.signal(Signal::HUP)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        for pid in self.pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            kill_process(pid, signal)?;
        }
        Ok(())
    }

    fn await_name(&self, host: &Host, nth: u32) -> Result<()> {
        let gateway = (GATEWAY.parse::<IpAddr>()?, 53).into();
        let wanted = IpAddr::from(address(nth));
        eventually(&name(nth), || {
            let answer =
                netns_fixtures::lookup(host.netns(), gateway, &name(nth), false, Duration::from_millis(500));
            answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.addresses == [wanted]))
        })
    }

    /// Processor time so far of all its threads, from the scheduler (schedstat, nanoseconds).
    pub fn cpu(&self) -> Result<Duration> {
        let mut sum = 0;
        for pid in &self.pids {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(task?.path().join("schedstat"))?;
                sum += text.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Resident memory of all its processes, in MB.
    pub fn memory(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in &self.pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
            sum += line.split_whitespace().next().unwrap_or_default().parse::<f64>()? / 1024.0;
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
        let _ = self.child.take().map(|mut child| child.wait());
    }
}

/// The `nth` name.
pub fn name(nth: u32) -> String {
    format!("c{nth}.{DOMAIN}")
}

/// Its address, away from the containers that are really there.
pub fn address(nth: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 18, 128, 0)) + nth)
}

fn tell(socket: &Path, nth: u32) -> Result<()> {
    let gateway: IpAddr = GATEWAY.parse()?;
    let network = Network {
        name: "bench".into(),
        domain: Some(DOMAIN.into()),
        bridge: "rnet-bench".into(),
        gateways: vec![gateway],
        subnets: vec![SUBNET.parse()?],
        ..Network::default()
    };
    let endpoint = Endpoint {
        network: "bench".into(),
        container: id(nth),
        ifname: "eth0".into(),
        names: vec![format!("c{nth}"), id(nth)[..12].to_owned()],
        addresses: vec![address(nth).into()],
        ..Endpoint::default()
    };
    client::set(socket, &network, Some(&endpoint))?;
    Ok(())
}

fn id(nth: u32) -> String {
    format!("{nth:012x}").repeat(6)[..64].to_owned()
}

fn aardvark_line(nth: u32) -> String {
    format!("{} {}  c{nth},{}\n", id(nth), address(nth), &id(nth)[..12])
}

fn hosts_line(nth: u32) -> String {
    format!("{} {} c{nth} {}\n", address(nth), name(nth), &id(nth)[..12])
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > Duration::from_secs(20) {
            bail!("{what}: not within 20 s");
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
