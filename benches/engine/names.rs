//! Names: what a question costs the name server, how soon a new name answers, and what ADD pays for it.

use std::fmt::Write;
use std::fs;
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_fixtures::{Container, Outside};

use crate::Bench;
use crate::contender::{GATEWAY, Kind as Plugins, Ports};
use crate::measure::Spread;
use crate::report::Target;
use crate::servers::{KINDS, Kind, Server, address, name};
use crate::site::{MEASURED_PORT, Site, in_turn};

/// Containers that ask at once, and the questions that each may have open: a hundred or so in all.
const CLIENTS: u16 = 32;
const OPEN: &str = "3";
/// What each of them may forward in a second: well below the 2,000 at which rnet holds a container back.
const MODEST: &str = "950";
/// Where delays are compared: few enough for everybody.
const CALM: u32 = 2_000;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Local,
    Pointer,
    Missing,
    Forwarded,
}

const QUESTIONS: [Question; 4] = [Question::Local, Question::Pointer, Question::Missing, Question::Forwarded];

/// A host with a bridge, a client on it, a server outside, and one of the name servers.
struct Town {
    kind: Kind,
    server: Server,
    clients: Vec<Container>,
    costs: Vec<Cost>,
    delays: [Vec<Duration>; 2],
    // Last: what is above lives on it.
    _outside: Outside,
    site: Site,
}

/// What one run of a kind of question came to.
struct Cost {
    question: Question,
    micros: f64,
    rate: f64,
}

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    use_servers_outside()?;
    for names in bench.pick(vec![10, 1_000, 10_000], vec![10, 10_000]) {
        at_size(bench, names)?;
    }
    adds(bench)
}

fn at_size(bench: &mut Bench, names: u32) -> Result<()> {
    let (rounds, seconds) = bench.pick((2, "3"), (1, "1"));
    bench.report.case(format!("{names} names, {rounds} rounds of {seconds} s"))?;
    let towns = KINDS.into_iter().map(|kind| Town::new(bench, kind, names));
    let mut towns = towns.collect::<Result<Vec<_>>>()?;
    for round in 0..rounds {
        for question in QUESTIONS {
            towns.iter_mut().try_for_each(|town| town.cost(question, names, round, seconds))?;
        }
        for (nth, question) in [Question::Local, Question::Forwarded].into_iter().enumerate() {
            towns.iter_mut().try_for_each(|town| town.delay(nth, question, names, round, seconds))?;
        }
    }
    for question in QUESTIONS {
        report_cost(bench, &towns, question)?;
    }
    for (nth, what) in ["local", "forwarded"].into_iter().enumerate() {
        towns.iter().try_for_each(|town| report_delay(bench, town, what, &town.delays[nth]))?;
    }
    for town in &mut towns {
        report_change(bench, town, names)?;
    }
    Ok(())
}

impl Question {
    fn words(self) -> &'static str {
        match self {
            Self::Local => "local A",
            Self::Pointer => "PTR",
            Self::Missing => "NXDOMAIN",
            Self::Forwarded => "forwarded",
        }
    }

    /// The lines that dnsperf asks; forwarded names never come again.
    fn lines(self, names: u32, round: &str) -> String {
        let mut lines = String::new();
        for nth in 0..if self == Self::Forwarded { 30_000 } else { names.min(2_000) } {
            let spread = (u64::from(nth) * 7919 % u64::from(names)) as u32;
            let written = match self {
                Self::Local => writeln!(lines, "{} A", name(spread)),
                Self::Pointer => {
                    let [a, b, c, d] = address(spread).octets();
                    writeln!(lines, "{d}.{c}.{b}.{a}.in-addr.arpa PTR")
                }
                Self::Missing => writeln!(lines, "no{}  A", name(nth)),
                Self::Forwarded => writeln!(lines, "n{nth}r{round}.example.org A"),
            };
            let _ = written;
        }
        lines
    }
}

impl Town {
    fn new(bench: &Bench, kind: Kind, names: u32) -> Result<Self> {
        let mut site = Site::new(Plugins::Rnet, &bench.programs)?;
        let outside = site.host.outside(&["192.168.77.0/24".parse()?])?;
        ensure!(outside.address().to_string() == OUTSIDE, "the server outside is at {}", outside.address());
        answer_everything(&outside)?;
        let mut clients = Vec::new();
        for mut client in site.containers(CLIENTS)? {
            site.add(&mut client)?;
            clients.push(client.container);
        }
        let server = Server::start(kind, &bench.programs, &site.host, names)?;
        Ok(Self {
            kind,
            server,
            clients,
            costs: Vec::new(),
            delays: [Vec::new(), Vec::new()],
            _outside: outside,
            site,
        })
    }

    /// As many questions as it can answer (or forward without harm): the processor time of each.
    fn cost(&mut self, question: Question, names: u32, round: u32, seconds: &str) -> Result<()> {
        let before = self.server.cpu()?;
        let all_speed = ["-l", seconds];
        let modest = ["-l", seconds, "-Q", MODEST];
        let speed = if question == Question::Forwarded { &modest[..] } else { &all_speed };
        let said = self.ask(question, names, round, speed)?;
        let answered = sum(&said, "Queries completed:")?;
        let rate = sum(&said, "Queries per second:")?;
        let micros = (self.server.cpu()? - before).as_secs_f64() * 1e6 / answered;
        self.costs.push(Cost { question, micros, rate });
        Ok(())
    }

    /// So many a second: the delay of each.
    fn delay(&mut self, nth: usize, question: Question, names: u32, round: u32, seconds: &str) -> Result<()> {
        let each = (CALM / u32::from(CLIENTS)).to_string();
        let said = self.ask(question, names, round + 100, &["-l", seconds, "-Q", &each, "-v"])?;
        // `> NOERROR c1.dns.podman A 0.000123`
        let answers = said.iter().flat_map(|said| said.lines()).filter(|line| line.starts_with("> NOERROR"));
        let delays =
            answers.filter_map(|line| line.rsplit(' ').next()?.parse().ok().map(Duration::from_secs_f64));
        self.delays[nth].extend(delays);
        Ok(())
    }

    /// What each client's dnsperf says.
    fn ask(&self, question: Question, names: u32, round: u32, arguments: &[&str]) -> Result<Vec<String>> {
        let start = |(nth, client): (usize, &Container)| {
            let file = self.site.host.root().join(format!("questions{nth}"));
            fs::write(&file, question.lines(names, &format!("{round}c{nth}")))?;
            let program =
                client.command("dnsperf").args(["-s", GATEWAY, "-q", OPEN, "-c", "1", "-d"]).arg(&file);
            let program = program.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
            program.spawn().context("dnsperf: run benches/run as root, which installs it")
        };
        let asking = self.clients.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
        asking.into_iter().map(said).collect()
    }

    fn median(&self, question: Question, of: impl Fn(&Cost) -> f64) -> f64 {
        let mut figures: Vec<f64> =
            self.costs.iter().filter(|cost| cost.question == question).map(of).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn report_cost(bench: &mut Bench, towns: &[Town], question: Question) -> Result<()> {
    let words = question.words();
    for town in towns {
        let target = match (town.kind, question) {
            (Kind::Rnet, Question::Forwarded) => Target::AtMost(25.0),
            (Kind::Rnet, _) => Target::AtMost(8.0),
            _ => Target::None,
        };
        let (cpu, rate) =
            (town.median(question, |cost| cost.micros), town.median(question, |cost| cost.rate));
        bench.report.verdict(
            &format!("{words}, {}: CPU a question", town.kind.name()),
            cpu,
            " µs",
            target,
        )?;
        bench.report.verdict(
            &format!("{words}, {}: questions a second", town.kind.name()),
            rate,
            "",
            Target::None,
        )?;
    }
    let [ours, aardvark] = [Kind::Rnet, Kind::Aardvark].map(|kind| {
        let town = towns.iter().find(|town| town.kind == kind);
        town.map_or(f64::NAN, |town| town.median(question, |cost| cost.micros))
    });
    let most = if question == Question::Forwarded { 0.5 } else { 2.0 / 3.0 };
    bench.report.verdict(
        &format!("{words}: CPU, of aardvark-dns's"),
        ours / aardvark,
        "",
        Target::AtMost(most),
    )
}

fn report_delay(bench: &mut Bench, town: &Town, what: &str, delays: &[Duration]) -> Result<()> {
    let mut sorted = delays.to_vec();
    sorted.sort();
    let at = |share: usize| {
        sorted.get(sorted.len() * share / 100).map_or(f64::NAN, |delay| delay.as_secs_f64() * 1e6)
    };
    for (name, share) in [("p50", 50), ("p99", 99)] {
        let what = format!("{what} at {CALM}/s, {}: {name}", town.kind.name());
        bench.report.verdict(&what, at(share), " µs", Target::None)?;
    }
    Ok(())
}

fn report_change(bench: &mut Bench, town: &mut Town, names: u32) -> Result<()> {
    let (rounds, ours) = (bench.pick(10, 3), town.kind == Kind::Rnet);
    let changes = (0..rounds).map(|_| town.server.add_name(&town.site.host)).collect::<Result<Vec<_>>>()?;
    let target = if ours { Target::AtMost(2.0) } else { Target::None };
    let median = Spread::of(changes).median;
    bench.report.verdict(&format!("a new name answers, {}", town.kind.name()), median, " ms", target)?;
    let target = if ours && names == 10_000 { Target::AtMost(12.0) } else { Target::None };
    bench.report.verdict(&format!("memory, {}", town.kind.name()), town.server.memory()?, " MB", target)
}

/// ADD and DEL with names, the server running, against those without.
fn adds(bench: &mut Bench) -> Result<()> {
    let rounds = bench.pick(40, 10);
    bench.report.case(format!("ADD and DEL on a network with names and on one without, {rounds} pairs"))?;
    let kinds = [Plugins::RnetNames, Plugins::Rnet];
    let mut sites = kinds.iter().map(|kind| Site::new(*kind, &bench.programs)).collect::<Result<Vec<_>>>()?;
    let cycles = in_turn(&mut sites, Ports::one(MEASURED_PORT), rounds)?;
    bench.report.cycles_head()?;
    for (kind, cycles) in kinds.iter().zip(&cycles) {
        bench.report.cycles(kind.name(), cycles)?;
    }
    let more = cycles[0].add.wall().median - cycles[1].add.wall().median;
    bench.report.verdict("ADD with names takes longer by", more, " ms", Target::AtMost(1.0))
}

/// The server outside: [`Outside`]'s first address in the network that every host gets.
const OUTSIDE: &str = "192.168.77.2";

/// All name servers ask the same server: the machine's resolv.conf is none of theirs here.
fn use_servers_outside() -> Result<()> {
    let file = "/run/resolv.conf";
    fs::write(file, format!("nameserver {OUTSIDE}\n"))?;
    let real = fs::canonicalize("/etc/resolv.conf").context("find /etc/resolv.conf")?;
    rustix::mount::mount_bind(file, real.as_path()).context("put another resolv.conf in its place")
}

/// A server that gives the same address for everything, as fast as it can.
fn answer_everything(outside: &Outside) -> Result<()> {
    let socket = outside.run(|| UdpSocket::bind(("0.0.0.0", 53)))??;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // One question, one answer; what EDNS adds is cut off.
            let Some(end) = buffer[12..len].iter().position(|octet| *octet == 0).map(|root| 12 + root + 5)
            else {
                continue;
            };
            buffer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7];
            buffer[end..end + record.len()].copy_from_slice(&record);
            let _ = socket.send_to(&buffer[..end + record.len()], from);
        }
    });
    Ok(())
}

fn said(asking: Child) -> Result<String> {
    let output = asking.wait_with_output()?;
    ensure!(output.status.success(), "dnsperf: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The figures behind a label of dnsperf's reports, all together.
fn sum(said: &[String], label: &str) -> Result<f64> {
    let figure = |said: &String| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
        let word = line.and_then(|line| line.split_whitespace().next());
        Ok(word.with_context(|| format!("no {label:?} in {said}"))?.parse::<f64>()?)
    };
    said.iter().map(figure).sum()
}
