//! Each client's share of the forwarder, and whose turn it is (F10, H2, H3): pure, with the time as a parameter.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::upstream::{PATIENCE, SILENCE};

/// Forwards in flight (F10).
pub const MOST_IN_FLIGHT: usize = 1024;

/// A client may have so many times the places in flight that are left, and the same of the room to wait: a single client
/// gets four fifths, three get four thirteenths each, and some is left for the next (Choudhury and Hahne 1998).
const SHARE: usize = 4;

/// Places in flight only for clients that have few, so that several clients together leave some too.
const RESERVED: usize = 128;

/// See [`RESERVED`].
const FEW: usize = 4;

/// How many bytes of questions may wait for their turn (F10, H3).
pub const MOST_WAITING: usize = 4 << 20;

/// How many clients are remembered (H3).
const MOST_REMEMBERED: usize = 4096;

/// Token buckets with bounded memory: clients without room share one.
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

/// How many questions are in flight, in total and for each client.
#[derive(Clone, Debug)]
pub struct InFlight<K> {
    all: usize,
    clients: HashMap<K, usize>,
}

/// Questions that wait for their turn (F10): the clients take turns, each with its oldest question.
#[derive(Clone, Debug)]
pub struct Queue<K, T> {
    bytes: usize,
    /// The clients with waiting questions; the first is the next one.
    turns: VecDeque<K>,
    lines: HashMap<K, Line<T>>,
}

/// The questions of one client, oldest first.
#[derive(Clone, Debug)]
struct Line<T> {
    bytes: usize,
    waiting: VecDeque<WaitingQuestion<T>>,
}

/// A question that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingQuestion<T> {
    /// When it arrived.
    pub arrived: Instant,
    bytes: usize,
    /// The question.
    pub question: T,
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

    /// Forgets full buckets.
    fn make_room(&mut self, key: &K, now: Instant) {
        let (rate, burst) = (self.rate, self.burst);
        // Not at each call: a flood must not cost a walk through all buckets each time.
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
    /// Whether one more of `client` can have a place (F10).
    pub fn has_room(&self, client: &K) -> bool {
        let own = self.clients.get(client).copied().unwrap_or_default();
        let left = MOST_IN_FLIGHT - self.all;
        if own < FEW { left > 0 } else { own < SHARE * left.saturating_sub(RESERVED) }
    }

    /// Counts one more of `client`, which has room.
    pub fn begin(&mut self, client: K) {
        *self.clients.entry(client).or_default() += 1;
        self.all += 1;
    }

    /// Counts one less of `client`.
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

impl<K, T> Default for Queue<K, T> {
    fn default() -> Self {
        Self { bytes: 0, turns: VecDeque::new(), lines: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone, T> Queue<K, T> {
    /// Whether a question of so many bytes may wait.
    pub fn has_room(&self, client: &K, bytes: usize) -> bool {
        let own = self.lines.get(client).map_or(0, |line| line.bytes);
        let left = MOST_WAITING - self.bytes;
        bytes <= left && own + bytes <= SHARE * left
    }

    /// Lets a question wait, which has room.
    pub fn push(&mut self, client: K, bytes: usize, question: T, arrived: Instant) {
        let line = self.lines.entry(client.clone()).or_insert_with(|| {
            self.turns.push_back(client);
            Line { bytes: 0, waiting: VecDeque::new() }
        });
        line.bytes += bytes;
        self.bytes += bytes;
        line.waiting.push_back(WaitingQuestion { arrived, bytes, question });
    }

    /// Whether a question of `client` waits.
    pub fn holds(&self, client: &K) -> bool {
        self.lines.contains_key(client)
    }

    /// The next question whose client `may` have a place; `None` after `looks` clients that may not.
    pub fn next(&mut self, looks: usize, mut may: impl FnMut(&K) -> bool) -> Option<(K, WaitingQuestion<T>)> {
        for _ in 0..looks.min(self.turns.len()) {
            let client = self.turns.pop_front()?;
            self.turns.push_back(client.clone());
            if may(&client) {
                let question = self.take(&client)?;
                return Some((client, question));
            }
        }
        None
    }

    /// The questions that have waited too long.
    pub fn take_expired(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        for client in self.turns.clone() {
            let is_old = |line: &Line<T>| {
                line.waiting
                    .front()
                    .is_some_and(|first| now.saturating_duration_since(first.arrived) >= PATIENCE)
            };
            while self.lines.get(&client).is_some_and(is_old)
                && let Some(waiting) = self.take(&client)
            {
                expired.push(waiting.question);
            }
        }
        expired
    }

    /// All of them.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<K, T> {
        let lines = std::mem::take(self).lines;
        lines.into_values().flat_map(|line| line.waiting).map(|waiting| waiting.question)
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.lines.values().map(|line| line.waiting.len()).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many clients have questions here.
    pub fn clients(&self) -> usize {
        self.turns.len()
    }

    fn take(&mut self, client: &K) -> Option<WaitingQuestion<T>> {
        let line = self.lines.get_mut(client)?;
        let waiting = line.waiting.pop_front()?;
        line.bytes -= waiting.bytes;
        self.bytes -= waiting.bytes;
        if line.waiting.is_empty() {
            self.lines.remove(client);
            self.turns.retain(|other| other != client);
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

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
    }

    fn take_all(flights: &mut InFlight<u32>, client: u32) -> usize {
        std::iter::from_fn(|| flights.has_room(&client).then(|| flights.begin(client))).count()
    }

    #[test]
    fn f10_places_in_flight_are_shared_and_some_are_left_for_the_next() {
        let mut flights = InFlight::default();
        assert_eq!(take_all(&mut flights, 0), 717, "a single client");
        assert!((1..30).all(|client| take_all(&mut flights, client) >= FEW));
        (0..717).for_each(|_| flights.end(&0));
        assert!(take_all(&mut flights, 99) > 400);
        for client in 100..10_000 {
            take_all(&mut flights, client);
        }
        assert_eq!(flights.count(), MOST_IN_FLIGHT);
    }

    #[test]
    fn f10_clients_take_turns_each_with_its_oldest_question() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (client, question) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            queue.push(client, 100, question, now);
        }
        let mut next = || queue.next(9, |client| *client != "c").map(|(_, waiting)| waiting.question);
        assert_eq!(
            [next(), next(), next(), next(), next(), next()],
            [1, 4, 2, 6, 3, 0].map(|n| (n != 0).then_some(n))
        );
        assert!(!queue.holds(&"a") && queue.holds(&"c"));
        assert_eq!((queue.count(), queue.clients(), queue.bytes), (1, 1, 100));
        assert!(queue.take_expired(now + PATIENCE - SECOND).is_empty());
        assert_eq!(queue.take_expired(now + PATIENCE), [5]);
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn h3_waiting_questions_are_bounded_in_bytes_and_no_client_has_all_room() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut fill = |client: u32| {
            let pushed = (0..100_000)
                .take_while(|_| {
                    let room = queue.has_room(&client, 500);
                    if room {
                        queue.push(client, 500, (), now);
                    }
                    room
                })
                .count();
            pushed * 500
        };
        assert!(fill(0) < MOST_WAITING * 4 / 5 + 1000);
        assert!((1..4).all(|client| fill(client) > 10_000));
        assert!((4..1000).map(fill).all(|bytes| bytes < MOST_WAITING));
        assert!(queue.bytes <= MOST_WAITING);
        assert_eq!(queue.bytes, queue.count() * 500);
    }
}
