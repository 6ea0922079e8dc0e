//! What it costs that nobody inherits flows: ADD and DEL on a host where conntrack knows one flow, and on one where it knows
//! very many.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context, Result, ensure};

use crate::Bench;
use crate::contender::{Kind, Ports};
use crate::measure::quiet;
use crate::report::Target;
use crate::site::{Cycles, MEASURED_PORT, Site, in_turn};

/// So many milliseconds may the flows of others add.
const MOST: Target = Target::AtMost(0.3);
/// How long conntrack keeps what was not answered, in seconds.
const KEPT: &str = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout";
/// How many entries it has.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Runs it: a container with a TCP port, and one with a UDP port, whose flows are looked for.
///
/// With `--before FILE` that build works on a host with as many flows. Where a link goes down, the kernel looks through all
/// flows for those that it masqueraded, some 45 ms for 100,000 (`iterate_cleanup_work`): that is in everybody's DEL.
pub fn run(bench: &mut Bench) -> Result<()> {
    let flows: u32 = bench.pick(100_000, 10_000);
    let rounds = bench.pick(50, 5);
    let mut sites = vec![Site::new(Kind::Rnet, &bench.programs)?, Site::new(Kind::Rnet, &bench.programs)?];
    if bench.programs.before.is_some() {
        sites.push(Site::new(Kind::RnetBefore, &bench.programs)?);
    }
    for (site, flows) in sites.iter().zip([1, flows, flows]) {
        site.host.run(|| make_flows(flows))??;
    }
    for (protocol, ports) in [("TCP", Ports::one(MEASURED_PORT)), ("UDP", Ports::one_udp(MEASURED_PORT))] {
        bench.report.case(format!("one published {protocol} port, {rounds} rounds"))?;
        let cycles = in_turn(&mut sites, ports, rounds)?;
        judge(bench, flows, &cycles)?;
    }
    drop(sites);
    quiet(bench.pick(3, 1));
    Ok(())
}

fn judge(bench: &mut Bench, flows: u32, cycles: &[Cycles]) -> Result<()> {
    let many = &cycles[1];
    let names = ["rnet, 1 flow".into(), format!("rnet, {flows} flows"), format!("before, {flows} flows")];
    bench.report.cycles_head()?;
    for (name, cycles) in names.iter().zip(cycles) {
        bench.report.cycles(name, cycles)?;
    }
    longer(bench, "than with 1 flow", many, &cycles[0], Target::None)?;
    cycles.get(2).map_or(Ok(()), |before| longer(bench, "than the build before", many, before, MOST))
}

fn longer(bench: &mut Bench, than: &str, cycles: &Cycles, others: &Cycles, target: Target) -> Result<()> {
    for (verb, wall, other) in
        [("ADD", cycles.add.wall(), others.add.wall()), ("DEL", cycles.del.wall(), others.del.wall())]
    {
        bench.report.verdict(&format!("{verb}, longer {than}"), wall.median - other.median, " ms", target)?;
    }
    Ok(())
}

/// Makes conntrack know this many flows, in the calling thread's network namespace: a datagram each to another loopback
/// address.
fn make_flows(flows: u32) -> Result<()> {
    std::fs::write(KEPT, "3600").context(KEPT)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for nth in 0..flows {
        let [_, high, middle, low] = nth.to_be_bytes();
        socket.send_to(b"x", (Ipv4Addr::new(127, 100 + high, middle, low), 9))?;
    }
    let known: u32 = std::fs::read_to_string(COUNT).context(COUNT)?.trim().parse()?;
    ensure!(
        known >= flows,
        "conntrack knows {known} flows instead of {flows}: is net.netfilter.nf_conntrack_max too low?"
    );
    Ok(())
}
