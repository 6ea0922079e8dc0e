//! kill -9 at moments of no choosing, with eight processes at a time.
//!
//! The long form, by hand: `RNET_KILL_ROUNDS=2000 cargo test --test faults kills::`.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::books::audit::doubles;
use crate::common::{Guest, Host, Network};
use crate::judge;

/// Unless `RNET_KILL_ROUNDS` says otherwise.
const ROUNDS: usize = 100;
/// Processes at a time.
const AT_ONCE: usize = 8;
/// Containers, of which the processes of a round take different ones.
const MEMBERS: usize = 12;
/// Rounds between two clearings, which are by DEL and by GC in turn.
const BETWEEN_CLEARINGS: usize = 20;
/// No process outlives this; many have ended by then.
const LATEST: Duration = Duration::from_millis(40);
/// One kill of so many must have hit a process that was still running; else this shows nothing.
const HITS: usize = 4;

#[test]
fn rnet_killed_at_random() {
    kill_at_random(&Network::rnet("mynet", "10.7.0.0/24"));
}

#[test]
fn rnet_with_names_killed_at_random() {
    kill_at_random(&Network::named("mynet", "10.7.0.0/24"));
}

#[test]
fn the_chain_killed_at_random() {
    kill_at_random(&Network::chain("mynet", "10.7.0.0/24"));
}

fn kill_at_random(network: &Network) {
    let mut dice = Dice::seeded();
    let host = Host::with_outside();
    let guests: Vec<Guest<'_>> =
        (0..MEMBERS).map(|n| host.guest(network, &format!("c{n}")).publishing(8000 + n as u16)).collect();
    let everybody: Vec<&Guest<'_>> = guests.iter().collect();
    // A chain's bridge stays once it is made, as upstream's does.
    guests[0].add().unwrap();
    guests[0].del().unwrap();
    let other = Network::rnet("other", "10.8.0.0/24");
    let stranger = host.guest(&other, "stranger").publishing(9000);
    judge::know_the_way(&host, &["10.7.0.0/24", "10.8.0.0/24"]);
    let before = host.state(&everybody);
    let mut moments = Moments { latest: LATEST, hits: 0 };
    let rounds = rounds();
    for round in 1..=rounds {
        moments.after(kill_a_round(&mut dice, &guests, moments.latest));
        assert_eq!(doubles(&everybody), Vec::<String>::new(), "round {round}");
        if round % BETWEEN_CLEARINGS == 0 {
            nobody_is_open(&host, network, &everybody, &stranger);
            clear(&guests, (round / BETWEEN_CLEARINGS).is_multiple_of(2));
            host.assert_balanced(&everybody);
            before.assert_same(&host.state(&everybody));
        }
    }
    let kills = rounds * AT_ONCE;
    eprintln!("{} of {kills} kills hit a process that was still running", moments.hits);
    assert!(moments.hits * HITS >= kills, "{} of {kills}", moments.hits);
}

fn rounds() -> usize {
    std::env::var("RNET_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// Whatever was killed: the next ADD finds everything in its place, and nobody reaches an isolated container.
fn nobody_is_open(host: &Host, network: &Network, guests: &[&Guest<'_>], stranger: &Guest<'_>) {
    stranger.add().unwrap();
    if network.main_plugin() == "rnet" {
        assert_eq!(judge::elements(host), Vec::<String>::new());
        let there = guests.iter().copied().filter(|guest| !guest.addresses().is_empty());
        let open: Vec<String> = std::thread::scope(|scope| {
            let judged: Vec<_> =
                there.map(|guest| scope.spawn(move || judge::open(host, guest, &[stranger]))).collect();
            judged.into_iter().flat_map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(open, Vec::<String>::new());
    }
    stranger.del().unwrap();
}

/// When the kills come, so that about every second one hits: how long a call takes is the machine's business.
struct Moments {
    latest: Duration,
    hits: usize,
}

impl Moments {
    fn after(&mut self, hits: usize) {
        self.hits += hits;
        let factor = if hits * 2 < AT_ONCE { 0.9 } else { 1.1 };
        self.latest = self.latest.mul_f64(factor).clamp(Duration::from_millis(1), LATEST);
    }
}

/// Different containers, each by one process: it may meet what earlier rounds have left, and others of the network.
/// Returns how many of them were still running.
fn kill_a_round(dice: &mut Dice, guests: &[Guest<'_>], latest: Duration) -> usize {
    let first = dice.below(MEMBERS);
    let start = Instant::now();
    let children: Vec<(Child, Instant)> = (0..AT_ONCE)
        .map(|nth| {
            let child = start_one(dice, &guests[(first + nth) % MEMBERS]);
            (child, start + latest.mul_f64(dice.fraction()))
        })
        .collect();
    children.into_iter().map(|(child, moment)| usize::from(kill_at(child, moment))).sum()
}

/// One plugin of an ADD or a DEL; what comes before it in the list goes undisturbed.
fn start_one(dice: &mut Dice, guest: &Guest<'_>) -> Child {
    let plugins = guest.network.plugins();
    let verb = if dice.below(2) == 0 { "ADD" } else { "DEL" };
    let plugin = plugins[dice.below(plugins.len())];
    if verb == "ADD" && plugin != plugins[0] {
        let outcome = guest.call("ADD", plugins[0], None, None).run();
        // Refused if it is there from before: then the result of that ADD is the one to go on from.
        if outcome.status == 0 {
            guest.remember(Some(outcome.json()));
        } else if guest.remembered().is_none() {
            return guest.spawn("DEL", plugin);
        }
    }
    guest.spawn(verb, plugin)
}

/// True if the kill ended it, not it itself.
fn kill_at(mut child: Child, moment: Instant) -> bool {
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    let left = moment.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)).unwrap();
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().unwrap().signal() == Some(Signal::KILL.as_raw())
}

fn clear(guests: &[Guest<'_>], by_gc: bool) {
    if by_gc {
        guests[0].gc(&[]).unwrap();
    }
    // A runtime sends DEL until it succeeds, which here must be at once.
    guests.iter().for_each(|guest| guest.del().unwrap());
}

/// xorshift64; its seed is told, so that a failure can be had again (as far as the moments allow).
struct Dice(u64);

impl Dice {
    fn seeded() -> Self {
        let asked = std::env::var("RNET_SEED").ok().and_then(|text| text.parse().ok());
        let time = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        let seed = asked.unwrap_or_else(time);
        eprintln!("RNET_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn fraction(&mut self) -> f64 {
        self.below(1 << 20) as f64 / f64::from(1 << 20)
    }
}
