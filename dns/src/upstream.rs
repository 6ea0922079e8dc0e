//! The forwarder's policy: which server to ask next. Pure, with the time as a parameter.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a server may be silent before the next one is asked too (F2).
pub const SILENCE: Duration = Duration::from_secs(1);

/// How long a server may be silent before it is asked for another name: it may be slow only with this one (F4).
const DOUBT: Duration = Duration::from_millis(500);

/// The total time of a question, from its arrival (F3, F10).
pub const PATIENCE: Duration = Duration::from_secs(4);

/// The total time of a question while all its servers are known to be silent (F4).
const HOPE: Duration = Duration::from_millis(400);

/// The first penalty of a silent server, doubled each time up to [`LONGEST_PENALTY`] (F4).
pub const PENALTY: Duration = Duration::from_secs(30);

/// See [`PENALTY`].
pub const LONGEST_PENALTY: Duration = Duration::from_secs(300);

/// How long a server is left out that sent the server its own question, before it is probed again (R5).
pub const LOOP_BREAK: Duration = Duration::from_secs(300);

/// How many servers are remembered (H3).
const MOST_REMEMBERED: usize = 4096;

/// How many servers of a list are used.
const MOST_SERVERS: usize = 8;

/// One question's way through its servers.
#[derive(Clone, Debug)]
pub struct Attempt {
    servers: Vec<(SocketAddr, State)>,
    /// Where the next search begins.
    cursor: usize,
    /// The server to try when its time has come: it may be alive.
    doubted: Option<(SocketAddr, Instant)>,
    /// When the next server's turn comes.
    next: Instant,
    /// The pause before the next server is asked too.
    pause: Duration,
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
    /// Ask this server, then call `step` again.
    Ask(SocketAddr),
    /// Try whether this server answers anything, then call `step` again.
    Try(SocketAddr),
    /// Wait for answers until then, and step on.
    Wait(Instant),
    /// Answer SERVFAIL.
    GiveUp,
}

/// The servers that were silent, and those that loop.
#[derive(Clone, Debug, Default)]
pub struct Health {
    servers: HashMap<SocketAddr, Record>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// The penalty and its end.
    penalty: Option<(Duration, Instant)>,
    /// Until when it counts as looping.
    looping: Option<Instant>,
    /// When it was last probed for a loop.
    probed: Option<Instant>,
    /// When it last answered anything.
    answered: Option<Instant>,
    /// Since when it has been on trial.
    tried: Option<Instant>,
}

impl Attempt {
    /// Forwards a question that arrived at `arrived` to `servers`, in this order, from `now` on.
    fn new(servers: &[SocketAddr], due: Option<SocketAddr>, arrived: Instant, now: Instant) -> Self {
        let servers = servers.iter().take(MOST_SERVERS).map(|server| (*server, State::New)).collect();
        let doubted = due.map(|server| (server, now));
        Self { servers, cursor: 0, doubted, next: now, pause: SILENCE, end: arrived + PATIENCE }
    }

    /// The same if none of them has answered lately: all are asked at once, for a short time.
    fn hopeless(servers: &[SocketAddr], arrived: Instant, now: Instant) -> Self {
        let attempt = Self::new(servers, None, arrived, now);
        Self { pause: Duration::ZERO, end: attempt.end.min(now + HOPE), ..attempt }
    }

    /// What to do now. After `Ask` and `Try`, call it again.
    pub fn step(&mut self, now: Instant) -> Step {
        if now >= self.end || self.servers.iter().all(|(_, state)| *state == State::Failed) {
            return Step::GiveUp;
        }
        if let Some((server, _)) = self.doubted.take_if(|(_, due)| *due <= now) {
            return Step::Try(server);
        }
        if now < self.next {
            let due = self.doubted.map_or(self.end, |(_, due)| due);
            return Step::Wait(self.next.min(due).min(self.end));
        }
        self.ask_next(now)
    }

    /// The servers in order, then again from the first: a silence may be a lost packet.
    fn ask_next(&mut self, now: Instant) -> Step {
        let count = self.servers.len();
        let indices = (self.cursor..self.cursor + count).map(|index| index % count);
        let Some(index) = { indices }.find(|index| self.servers[*index].1 != State::Failed) else {
            return Step::GiveUp;
        };
        self.cursor = index + 1;
        self.servers[index].1 = State::Asked;
        let (server, is_last) = (self.servers[index].0, self.cursor >= count);
        if self.pause.is_zero() {
            self.next = if is_last { self.end } else { now };
        } else {
            self.next = now + self.pause;
            self.doubted = Some((server, now + DOUBT));
        }
        Step::Ask(server)
    }

    /// The server is unreachable, or said SERVFAIL or REFUSED: the next one at once.
    pub fn note_failure(&mut self, server: SocketAddr, now: Instant) {
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
    /// Plans a question that arrived at `arrived`: live servers first, those under a penalty last; one whose penalty is over
    /// is tried meanwhile. Looping ones are left out. If none is live, all are asked at once, for a short time (F4).
    pub fn plan(&mut self, servers: &[SocketAddr], arrived: Instant, now: Instant) -> Attempt {
        let straight = servers.iter().copied().filter(|server| !self.loops(*server, now));
        let (mut order, silent): (Vec<_>, Vec<_>) = straight.partition(|server| self.is_live(*server));
        if order.is_empty() {
            return Attempt::hopeless(&silent, arrived, now);
        }
        let due = silent.iter().copied().find(|server| self.is_due(*server, now));
        if let Some(server) = due {
            // One trial is enough.
            self.note_silence(server, now);
        }
        order.extend(silent);
        Attempt::new(&order, due, arrived, now)
    }

    /// It answered anything; true if it had been silent.
    pub fn note_answer(&mut self, server: SocketAddr, now: Instant) -> bool {
        let Some(record) = self.record(server) else { return false };
        record.answered = Some(now);
        record.penalty.take().is_some()
    }

    /// A question asked at `since` has no answer. If the server has answered nothing else for [`SILENCE`], it is silent;
    /// true if it was not before.
    pub fn note_unanswered(&mut self, server: SocketAddr, since: Instant, now: Instant) -> bool {
        let over = now.saturating_duration_since(since) >= SILENCE;
        over && !self.has_answered(server, since) && self.note_silence(server, now)
    }

    /// It said nothing for [`SILENCE`], or is unreachable. Many questions notice the same silence, which is one penalty.
    /// True if it had answered before.
    pub fn note_silence(&mut self, server: SocketAddr, now: Instant) -> bool {
        let Some(record) = self.record(server) else { return false };
        let before = record.penalty;
        match before {
            Some((_, until)) if until > now => {}
            Some((last, _)) => record.penalty = Some(penalty((last * 2).min(LONGEST_PENALTY), now)),
            None => record.penalty = Some(penalty(PENALTY, now)),
        }
        before.is_none()
    }

    /// Whether a trial is wanted of a server that has left a question of `since` unanswered, or whose penalty is over:
    /// one at a time, and none if it has answered something meanwhile.
    pub fn wants_trial(&mut self, server: SocketAddr, since: Instant, now: Instant) -> bool {
        if self.has_answered(server, since) {
            return false;
        }
        let Some(record) = self.record(server) else { return false };
        let runs = record.tried.is_some_and(|tried| now.saturating_duration_since(tried) < PATIENCE);
        record.tried = if runs { record.tried } else { Some(now) };
        !runs
    }

    /// Its trial is over.
    pub fn end_trial(&mut self, server: SocketAddr) {
        if let Some(record) = self.servers.get_mut(&server) {
            record.tried = None;
        }
    }

    fn has_answered(&self, server: SocketAddr, since: Instant) -> bool {
        self.servers.get(&server).and_then(|record| record.answered).is_some_and(|answered| answered >= since)
    }

    /// It sent the server its own question.
    pub fn mark_looping(&mut self, server: SocketAddr, now: Instant) {
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

    /// Forgets everything, because the servers are others now, or elsewhere.
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

    /// The first server that is asked.
    fn first_of(mut attempt: Attempt, now: Instant) -> Step {
        loop {
            match attempt.step(now) {
                Step::Try(_) => {}
                step => return step,
            }
        }
    }

    #[test]
    fn silence_leads_to_a_trial_to_the_next_server_and_at_last_to_servfail() {
        let now = Instant::now();
        let mut attempt = Health::default().plan(&three(), now, now);
        for (seconds, n) in [(0, 1), (1, 2), (2, 3), (3, 1)] {
            let now = now + SECOND * seconds;
            assert_eq!(attempt.step(now), Step::Ask(server(n)));
            assert_eq!(attempt.step(now), Step::Wait(now + DOUBT));
            assert_eq!(attempt.step(now + DOUBT), Step::Try(server(n)));
            assert_eq!(attempt.step(now + DOUBT), Step::Wait(now + SECOND));
        }
        assert_eq!(attempt.step(now + PATIENCE), Step::GiveUp);
    }

    #[test]
    fn f10_a_question_that_has_waited_has_less_time_to_be_answered() {
        let arrived = Instant::now();
        let now = arrived + SECOND * 3;
        let mut attempt = Health::default().plan(&three(), arrived, now);
        assert_eq!(attempt.step(now), Step::Ask(server(1)));
        assert_eq!(attempt.step(now + SECOND), Step::GiveUp);
    }

    #[test]
    fn a_failure_leads_to_the_next_server_at_once_and_each_fails_once() {
        let now = Instant::now();
        let mut attempt = Health::default().plan(&three(), now, now);
        for n in 1..=3 {
            assert_eq!(attempt.step(now), Step::Ask(server(n)));
            attempt.note_failure(server(n), now);
        }
        assert_eq!(attempt.step(now), Step::GiveUp);
        assert_eq!(Health::default().plan(&[], now, now).step(now), Step::GiveUp);
    }

    #[test]
    fn f4_a_silent_server_is_asked_last_and_tried_beside_a_live_one() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.note_silence(server(1), now);
        health.note_silence(server(1), now);
        let first = |health: &mut Health, now| first_of(health.plan(&three(), now, now), now);
        assert_eq!(first(&mut health, now + PENALTY - SECOND), Step::Ask(server(2)));
        let due = now + PENALTY;
        let mut attempt = health.plan(&three(), due, due);
        assert_eq!(attempt.step(due), Step::Try(server(1)));
        assert_eq!(attempt.step(due), Step::Ask(server(2)));
        // The trial itself doubled the penalty; an answer takes it away.
        let plan = health.plan(&three(), due + SECOND, due + PENALTY * 2 - SECOND);
        assert!(plan.doubted.is_none());
        health.note_answer(server(1), due + SECOND);
        assert_eq!(first(&mut health, due + SECOND), Step::Ask(server(1)));
    }

    #[test]
    fn f4_a_server_that_answers_anything_meanwhile_is_not_silent() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.note_answer(server(1), now + SECOND / 2);
        assert!(!health.note_unanswered(server(1), now, now + SECOND) && health.is_live(server(1)));
        assert!(
            !health.note_unanswered(server(1), now + SECOND, now + SECOND * 2 - DOUBT),
            "too early to say"
        );
        assert!(health.note_unanswered(server(1), now + SECOND, now + SECOND * 2));
        assert!(!health.is_live(server(1)));
    }

    #[test]
    fn f4_one_trial_is_under_way_at_a_time() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(health.wants_trial(server(1), now, now + DOUBT));
        assert!(!health.wants_trial(server(1), now, now + DOUBT));
        health.end_trial(server(1));
        assert!(health.wants_trial(server(1), now, now + DOUBT));
        assert!(health.wants_trial(server(1), now, now + DOUBT + PATIENCE), "a lost one is none");
        health.note_answer(server(2), now);
        assert!(!health.wants_trial(server(2), now, now + DOUBT));
    }

    #[test]
    fn f4_if_all_are_silent_all_are_asked_at_once_for_a_short_time() {
        let (mut health, now) = (Health::default(), Instant::now());
        for server in three() {
            health.note_silence(server, now);
        }
        let mut attempt = health.plan(&three(), now, now);
        (1..=3).for_each(|n| assert_eq!(attempt.step(now), Step::Ask(server(n))));
        assert_eq!(attempt.step(now), Step::Wait(now + HOPE));
        assert_eq!(attempt.step(now + HOPE), Step::GiveUp);
    }

    #[test]
    fn penalties_double_to_five_minutes_and_a_single_server_is_asked_anyway() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for length in [30, 60, 120, 240, 300, 300] {
            health.note_silence(server(1), now);
            assert!(!health.is_due(server(1), now + SECOND * (length - 1)));
            now += SECOND * length;
            assert!(health.is_due(server(1), now));
        }
        assert_eq!(health.plan(&[server(1)], now, now).step(now), Step::Ask(server(1)));
    }

    #[test]
    fn a_looping_server_is_left_out_for_a_while() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(health.wants_probe(server(1), now) && !health.wants_probe(server(1), now));
        health.mark_looping(server(1), now);
        assert_eq!(health.plan(&three(), now, now).step(now), Step::Ask(server(2)));
        assert_eq!(health.plan(&[server(1)], now, now).step(now), Step::GiveUp);
        let later = now + LOOP_BREAK;
        assert_eq!(health.plan(&[server(1)], later, later).step(later), Step::Ask(server(1)));
        assert!(health.wants_probe(server(1), later));
    }

    #[test]
    fn h3_however_many_servers_there_are_memory_is_bounded() {
        let (mut health, now) = (Health::default(), Instant::now());
        (0..10_000)
            .for_each(|port| _ = health.note_silence(SocketAddr::new([10, 0, 0, 1].into(), port), now));
        assert_eq!(health.servers.len(), MOST_REMEMBERED);
    }
}
