//! Whom to ask next, and how much: the forwarder's policy, pure. Time comes in from outside.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// After so much silence the next server is asked too (F2).
pub const SILENCE: Duration = Duration::from_secs(1);

/// A question has so long in all (F3).
pub const PATIENCE: Duration = Duration::from_secs(4);

/// The first penalty of a silent server, doubled each time up to [`LONGEST_PENALTY`] (F4).
pub const PENALTY: Duration = Duration::from_secs(30);

/// See [`PENALTY`].
pub const LONGEST_PENALTY: Duration = Duration::from_secs(300);

/// A server that asked us our own question is left out so long, then asked for another proof (R5).
pub const LOOP_BREAK: Duration = Duration::from_secs(300);

/// Forwards in flight (F10).
pub const MOST_IN_FLIGHT: usize = 1024;

/// Forwards in flight for one client (F10).
pub const MOST_PER_CLIENT: usize = 128;

/// So many servers are remembered, and so many clients (H3).
const MOST_REMEMBERED: usize = 4096;

/// No list of servers is followed further.
const MOST_SERVERS: usize = 8;

/// One question's way through its servers.
#[derive(Clone, Debug)]
pub struct Attempt {
    servers: Vec<(SocketAddr, State)>,
    /// Where the next search begins.
    cursor: usize,
    /// Asked at once, besides: it may be alive again.
    beside: Option<SocketAddr>,
    /// When the next server's turn comes.
    next: Instant,
    end: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Failed,
}

/// What to do with a question now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this server, and step on.
    Ask(SocketAddr),
    /// Wait for answers until then, and step on.
    Wait(Instant),
    /// SERVFAIL.
    GiveUp,
}

/// Which servers have been silent, and which loop.
#[derive(Clone, Debug, Default)]
pub struct Health {
    servers: HashMap<SocketAddr, Record>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// The penalty and its end.
    penalty: Option<(Duration, Instant)>,
    /// Until when it is known to loop.
    looping: Option<Instant>,
    /// When it was last probed for a loop.
    probed: Option<Instant>,
}

/// Token buckets with bounded memory: whoever finds no room shares one with all others who found none.
#[derive(Clone, Debug)]
pub struct Buckets<K> {
    rate: f64,
    burst: f64,
    buckets: HashMap<K, Bucket>,
    shared: Bucket,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

/// How many questions are in flight, in all and for each client.
#[derive(Clone, Debug)]
pub struct InFlight<K> {
    all: usize,
    clients: HashMap<K, usize>,
}

impl Attempt {
    /// A question that may be asked of `servers`, in this order, from `now` on.
    fn new(servers: &[SocketAddr], beside: Option<SocketAddr>, now: Instant) -> Self {
        let servers = servers.iter().take(MOST_SERVERS).map(|server| (*server, State::New)).collect();
        Self { servers, cursor: 0, beside, next: now, end: now + PATIENCE }
    }

    /// What to do now. `Ask` is to be followed by another call.
    pub fn step(&mut self, now: Instant) -> Step {
        if now >= self.end || self.servers.iter().all(|(_, state)| *state == State::Failed) {
            return Step::GiveUp;
        }
        if now < self.next {
            return Step::Wait(self.next.min(self.end));
        }
        if let Some(beside) = self.beside.take() {
            self.mark(beside, State::Asked);
            return Step::Ask(beside);
        }
        self.ask_next(now)
    }

    /// In order, and round again: what was silent may have been a lost packet.
    fn ask_next(&mut self, now: Instant) -> Step {
        let count = self.servers.len();
        let indices = (self.cursor..self.cursor + count).map(|index| index % count);
        let Some(index) = { indices }.find(|index| self.servers[*index].1 != State::Failed) else {
            return Step::GiveUp;
        };
        self.cursor = index + 1;
        self.servers[index].1 = State::Asked;
        self.next = now + SILENCE;
        Step::Ask(self.servers[index].0)
    }

    /// The server is unreachable, or said SERVFAIL or REFUSED: the next one at once.
    pub fn failed(&mut self, server: SocketAddr, now: Instant) {
        self.mark(server, State::Failed);
        self.next = now;
    }

    fn mark(&mut self, server: SocketAddr, to: State) {
        for (_, state) in self.servers.iter_mut().filter(|(other, _)| *other == server) {
            *state = to;
        }
    }
}

impl Health {
    /// Plans a question: live servers first, those under a penalty last; one whose penalty is over is asked beside the
    /// first live one. Looping ones are left out.
    pub fn plan(&mut self, servers: &[SocketAddr], now: Instant) -> Attempt {
        let straight = servers.iter().copied().filter(|server| !self.loops(*server, now));
        let (mut order, silent): (Vec<_>, Vec<_>) = straight.partition(|server| self.is_live(*server));
        let due = silent.iter().copied().find(|server| self.is_due(*server, now));
        let beside = due.filter(|_| !order.is_empty());
        if let Some(server) = beside {
            // One question is enough of a trial.
            self.silent(server, now);
        }
        order.extend(silent);
        Attempt::new(&order, beside, now)
    }

    /// It answered, whatever it said; true if it had been silent.
    pub fn answered(&mut self, server: SocketAddr) -> bool {
        self.servers.get_mut(&server).is_some_and(|record| record.penalty.take().is_some())
    }

    /// It did not answer for [`SILENCE`], or nobody is there. Many questions notice the same silence: one penalty. True
    /// if it had answered before.
    pub fn silent(&mut self, server: SocketAddr, now: Instant) -> bool {
        let Some(record) = self.record(server) else { return false };
        let before = record.penalty;
        match before {
            Some((_, until)) if until > now => {}
            Some((last, _)) => record.penalty = Some(penalty((last * 2).min(LONGEST_PENALTY), now)),
            None => record.penalty = Some(penalty(PENALTY, now)),
        }
        before.is_none()
    }

    /// It sent us our own question.
    pub fn looping(&mut self, server: SocketAddr, now: Instant) {
        if let Some(record) = self.record(server) {
            record.looping = Some(now + LOOP_BREAK);
            record.probed = None;
        }
    }

    /// Whether it is known to loop.
    pub fn loops(&self, server: SocketAddr, now: Instant) -> bool {
        self.servers.get(&server).and_then(|record| record.looping).is_some_and(|until| until > now)
    }

    /// Whether a probe for loops is wanted: for each new server once. The next call says no.
    pub fn wants_probe(&mut self, server: SocketAddr, now: Instant) -> bool {
        let Some(record) = self.record(server) else { return false };
        let first = record.probed.is_none();
        record.probed = record.probed.or(Some(now));
        first
    }

    /// Forgets everything: other servers, or the same in another place.
    pub fn forget(&mut self) {
        self.servers.clear();
    }

    /// The servers under a penalty and those that loop.
    pub fn unwell(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        self.servers.keys().copied().filter(move |server| !self.is_live(*server) || self.loops(*server, now))
    }

    fn is_live(&self, server: SocketAddr) -> bool {
        self.servers.get(&server).is_none_or(|record| record.penalty.is_none())
    }

    fn is_due(&self, server: SocketAddr, now: Instant) -> bool {
        self.servers.get(&server).and_then(|record| record.penalty).is_some_and(|(_, until)| until <= now)
    }

    fn record(&mut self, server: SocketAddr) -> Option<&mut Record> {
        if self.servers.len() >= MOST_REMEMBERED && !self.servers.contains_key(&server) {
            return None;
        }
        Some(self.servers.entry(server).or_default())
    }
}

fn penalty(length: Duration, now: Instant) -> (Duration, Instant) {
    (length, now + length)
}

impl<K: Hash + Eq> Buckets<K> {
    /// Buckets that hold `burst` tokens and get `rate` a second.
    pub fn new(rate: u32, burst: u32) -> Self {
        let (rate, burst) = (f64::from(rate), f64::from(burst));
        Self { rate, burst, buckets: HashMap::new(), shared: Bucket { tokens: burst, filled: None } }
    }

    /// Takes a token of `key`; false if there is none.
    pub fn take(&mut self, key: K, now: Instant) -> bool {
        let (rate, burst) = (self.rate, self.burst);
        self.make_room(&key, now);
        let full = Bucket { tokens: burst, filled: None };
        let room = self.buckets.len() < MOST_REMEMBERED || self.buckets.contains_key(&key);
        let bucket = if room { self.buckets.entry(key).or_insert(full) } else { &mut self.shared };
        bucket.take(rate, burst, now)
    }

    /// Full buckets need not be remembered.
    fn make_room(&mut self, key: &K, now: Instant) {
        let (rate, burst) = (self.rate, self.burst);
        // Not at each call: looking through them all must not be what a flood costs us.
        let due = self.shared.filled.is_none_or(|last| now.saturating_duration_since(last) > SILENCE);
        if self.buckets.len() >= MOST_REMEMBERED && due && !self.buckets.contains_key(key) {
            self.shared.fill(rate, burst, now);
            self.buckets.retain(|_, bucket| bucket.level(rate, burst, now) < burst);
        }
    }
}

impl Bucket {
    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        self.fill(rate, burst, now);
        let has = self.tokens >= 1.0;
        self.tokens -= if has { 1.0 } else { 0.0 };
        has
    }

    fn fill(&mut self, rate: f64, burst: f64, now: Instant) {
        self.tokens = self.level(rate, burst, now);
        self.filled = Some(now);
    }

    fn level(&self, rate: f64, burst: f64, now: Instant) -> f64 {
        let passed = self.filled.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        (self.tokens + passed.as_secs_f64() * rate).min(burst)
    }
}

impl<K> Default for InFlight<K> {
    fn default() -> Self {
        Self { all: 0, clients: HashMap::new() }
    }
}

impl<K: Hash + Eq> InFlight<K> {
    /// Counts one more of `client`; false if that is too many (F10).
    pub fn begin(&mut self, client: K) -> bool {
        if self.all >= MOST_IN_FLIGHT {
            return false;
        }
        let count = self.clients.entry(client).or_default();
        let room = *count < MOST_PER_CLIENT;
        *count += usize::from(room);
        self.all += usize::from(room);
        room
    }

    /// One of `client` has ended.
    pub fn end(&mut self, client: &K) {
        let Some(count) = self.clients.get_mut(client) else { return };
        *count -= 1;
        self.all -= 1;
        if *count == 0 {
            self.clients.remove(client);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn server(n: u8) -> SocketAddr {
        SocketAddr::new([10, 0, 0, n].into(), 53)
    }

    fn three() -> [SocketAddr; 3] {
        [server(1), server(2), server(3)]
    }

    #[test]
    fn silence_leads_to_the_next_server_and_at_last_to_servfail() {
        let now = Instant::now();
        let mut attempt = Health::default().plan(&three(), now);
        for (seconds, n) in [(0, 1), (1, 2), (2, 3), (3, 1)] {
            let now = now + SECOND * seconds;
            assert_eq!(attempt.step(now), Step::Ask(server(n)));
            assert_eq!(attempt.step(now), Step::Wait(now + SECOND));
        }
        assert_eq!(attempt.step(now + PATIENCE), Step::GiveUp);
    }

    #[test]
    fn a_failure_leads_to_the_next_server_at_once_and_each_fails_once() {
        let now = Instant::now();
        let mut attempt = Health::default().plan(&three(), now);
        for n in 1..=3 {
            assert_eq!(attempt.step(now), Step::Ask(server(n)));
            attempt.failed(server(n), now);
        }
        assert_eq!(attempt.step(now), Step::GiveUp);
        assert_eq!(Health::default().plan(&[], now).step(now), Step::GiveUp);
    }

    #[test]
    fn a_silent_server_goes_to_the_end_and_is_tried_beside_a_live_one() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.silent(server(1), now);
        health.silent(server(1), now);
        let first = |health: &mut Health, now| health.plan(&three(), now).step(now);
        assert_eq!(first(&mut health, now + PENALTY - SECOND), Step::Ask(server(2)));
        let due = now + PENALTY;
        let mut attempt = health.plan(&three(), due);
        assert_eq!(attempt.step(due), Step::Ask(server(1)));
        assert_eq!(attempt.step(due), Step::Ask(server(2)));
        // The trial itself doubled the penalty; an answer takes it away.
        assert_eq!(first(&mut health, due + PENALTY * 2 - SECOND), Step::Ask(server(2)));
        health.answered(server(1));
        assert_eq!(first(&mut health, due + SECOND), Step::Ask(server(1)));
    }

    #[test]
    fn penalties_double_to_five_minutes_and_a_lone_server_is_asked_all_the_same() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for length in [30, 60, 120, 240, 300, 300] {
            health.silent(server(1), now);
            assert!(!health.is_due(server(1), now + SECOND * (length - 1)));
            now += SECOND * length;
            assert!(health.is_due(server(1), now));
        }
        assert_eq!(health.plan(&[server(1)], now).step(now), Step::Ask(server(1)));
    }

    #[test]
    fn a_looping_server_is_left_out_for_a_while() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(health.wants_probe(server(1), now) && !health.wants_probe(server(1), now));
        health.looping(server(1), now);
        assert_eq!(health.plan(&three(), now).step(now), Step::Ask(server(2)));
        assert_eq!(health.plan(&[server(1)], now).step(now), Step::GiveUp);
        let later = now + LOOP_BREAK;
        assert_eq!(health.plan(&[server(1)], later).step(later), Step::Ask(server(1)));
        assert!(health.wants_probe(server(1), later));
    }

    #[test]
    fn buckets_hold_their_burst_and_fill_again() {
        let (mut buckets, now) = (Buckets::new(1000, 2000), Instant::now());
        assert_eq!((0..3000).filter(|_| buckets.take("c1", now)).count(), 2000);
        assert!(buckets.take("c2", now));
        assert_eq!((0..3000).filter(|_| buckets.take("c1", now + SECOND)).count(), 1000);
    }

    #[test]
    fn however_many_clients_there_are_memory_is_bounded() {
        let (mut buckets, now) = (Buckets::new(1, 2), Instant::now());
        let granted = (0..100_000).filter(|client| buckets.take(*client, now)).count();
        assert_eq!(granted, MOST_REMEMBERED + 2);
        assert_eq!(buckets.buckets.len(), MOST_REMEMBERED);
        assert!(buckets.take(7_000_000, now + SECOND * 5));
        assert_eq!(buckets.buckets.len(), 1);
        let mut health = Health::default();
        (0..10_000).for_each(|port| _ = health.silent(SocketAddr::new([10, 0, 0, 1].into(), port), now));
        assert_eq!(health.servers.len(), MOST_REMEMBERED);
    }

    #[test]
    fn questions_in_flight_are_counted_by_client_and_in_all() {
        let mut flights = InFlight::default();
        assert_eq!((0..200).filter(|_| flights.begin(0)).count(), MOST_PER_CLIENT);
        let begun = (0..4000).filter(|n| flights.begin(1 + n / 200)).count();
        assert_eq!(begun, MOST_IN_FLIGHT - MOST_PER_CLIENT);
        assert_eq!(flights.count(), MOST_IN_FLIGHT);
        (0..200).for_each(|_| flights.end(&0));
        assert_eq!(flights.count(), MOST_IN_FLIGHT - MOST_PER_CLIENT);
        assert!(flights.begin(99));
    }
}
