//! New connections from outside to a published port, as the host's published ports multiply.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns_fixtures::{Container, Outside};

use crate::Bench;
use crate::contender::{Kind, Ports, Written};
use crate::measure::{Spread, quiet};
use crate::programs::Programs;
use crate::report::Target;
use crate::site::Site;

/// The first published port.
const FIRST: u16 = 30_000;
/// The containers that share the ports, on every host: only the number of ports differs.
const CONTAINERS: u16 = 10;
/// Connections to one host before it is the next one's turn.
const BATCH: u32 = 100;

/// A host with published ports, a server behind them and a client outside.
struct Town {
    ports: u16,
    outside: Outside,
    times: Vec<Duration>,
    // Before the site: the servers hold the containers' namespaces.
    _servers: Vec<Server>,
    _site: Site,
}

/// Accepts connections on port 80 of a container and closes them.
struct Server {
    container: SocketAddr,
    netns: netlink::Netns,
    stop: Arc<AtomicBool>,
}

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let sizes: &[u16] = bench.pick(&[10, 1_000, 10_000], &[10, 200]);
    let medians = contender(bench, Kind::Rnet, sizes)?;
    let growth = medians.last().zip(medians.first()).map_or(f64::NAN, |(large, small)| large / small);
    let of = format!("p50 at {} published ports, times that at {}", sizes[sizes.len() - 1], sizes[0]);
    bench.report.verdict(&of, growth, "", Target::AtMost(1.1))?;
    // 10,000 ports would take the peers an hour to publish.
    let few: &[u16] = bench.pick(&[10, 1_000], &[10, 100]);
    for peer in [Kind::Reference, Kind::Netavark] {
        contender(bench, peer, few)?;
    }
    Ok(())
}

/// The median on each host, in ms.
fn contender(bench: &mut Bench, kind: Kind, sizes: &[u16]) -> Result<Vec<f64>> {
    let rounds = bench.pick(50, 5);
    bench
        .report
        .case(format!("{}, new TCP connections from outside, {rounds} batches of {BATCH}", kind.name()))?;
    let mut towns =
        sizes.iter().map(|ports| Town::new(kind, &bench.programs, *ports)).collect::<Result<Vec<_>>>()?;
    for round in 0..=rounds {
        towns.iter_mut().try_for_each(|town| town.batch(round))?;
    }
    let mut medians = Vec::new();
    for town in &towns {
        let spread = Spread::of(town.times.iter().copied());
        bench.report.spread(&format!("{} ports", town.ports), "connect", spread)?;
        medians.push(spread.median);
    }
    drop(towns);
    quiet(1);
    Ok(medians)
}

impl Town {
    fn new(kind: Kind, programs: &Programs, ports: u16) -> Result<Self> {
        let mut site = Site::new(kind, programs)?;
        let outside = site.host.outside(&["192.168.77.0/24".parse()?])?;
        let mut servers = Vec::new();
        let share = ports / CONTAINERS;
        for nth in 0..CONTAINERS {
            let resident = site.settle_in(Ports::row(FIRST + nth * share, share, Written::ToOne))?;
            servers.push(Server::start(&resident.container)?);
        }
        Ok(Self { ports, outside, times: Vec::new(), _servers: servers, _site: site })
    }

    /// Connects to ports all over the row; the first batch, in which addresses are resolved, does not count.
    fn batch(&mut self, round: u32) -> Result<()> {
        let (host, ports) = (self.outside.host_address(), u32::from(self.ports));
        let times = self.outside.run(|| {
            let nth = |nth: u32| (round * BATCH + nth).wrapping_mul(7919) % ports;
            (0..BATCH).map(|i| connect(host, FIRST + u16::try_from(nth(i))?)).collect::<Result<Vec<_>>>()
        })??;
        if round > 0 {
            self.times.extend(times);
        }
        Ok(())
    }
}

/// The time of the handshake. The connection ends by a reset, so that neither end keeps it waiting.
fn connect(host: IpAddr, port: u16) -> Result<Duration> {
    let started = Instant::now();
    let stream = TcpStream::connect_timeout(&SocketAddr::new(host, port), Duration::from_secs(5))
        .with_context(|| format!("connect to published port {port}"))?;
    let time = started.elapsed();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).context("set SO_LINGER")?;
    Ok(time)
}

impl Server {
    fn start(container: &Container) -> Result<Self> {
        let netns = netlink::Netns::open(container.path())?;
        let listener = netns.run(|| TcpListener::bind("0.0.0.0:80"))?.context("listen in the container")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                drop(listener.accept());
            }
        });
        Ok(Self { container: SocketAddr::from(([127, 0, 0, 1], 80)), netns, stop })
    }
}

impl Drop for Server {
    /// Wakes the thread, so that it sees that it is to end.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.netns.run(|| TcpStream::connect_timeout(&self.container, Duration::from_secs(1)));
    }
}
