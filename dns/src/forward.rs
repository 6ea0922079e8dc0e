//! Asking the servers outside.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter};
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::rand::GetRandomFlags;

use crate::Transport;
use crate::exchange::{Sockets, stream_exchange};
use crate::message::{addresses_in, question_key, servfail};
use crate::share::{Buckets, InFlight, Queue};
use crate::upstream::{Attempt, Health, PATIENCE, Step};

/// Forwards a second and in one burst, for each client (H2).
const RATE: (u32, u32) = (2000, 4000);

/// While questions wait for their turn, so often is looked whether one has its turn or has waited too long.
const TICK: Duration = Duration::from_millis(20);

/// When a place has become free, so many clients are looked at; the next tick looks at all.
const LOOKS: usize = 16;

/// What a question that waits takes in memory beside its own bytes and its servers'.
const WAITING: usize = 400;

/// Questions that are answered by now, but not by each server that was asked: so many are listened for longer.
const MOST_LATE: usize = 16;

/// The log says at most once in so long that clients ask too much, and as often which servers are silent: a client can
/// cause both.
const QUIET: Duration = Duration::from_secs(60);

/// Lines about servers in [`QUIET`].
const MOST_LINES: u32 = 20;

/// The servers of the root: what every server knows or refuses at once, and no client's name. The id is another each time.
const ROOT_QUERY: [u8; 17] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// The label of a probe for loops: 128 random bits.
const PROBE_LABEL: usize = 32;

/// What takes the question again, and the answer, bearing the asker's id.
pub(crate) type Answerer = Box<dyn FnOnce(&[u8], &[u8])>;

/// Says whether an address is one that no answer from outside may point to.
pub(crate) type Forbidden = Box<dyn Fn(IpAddr) -> bool>;

/// Who is charged for a forward.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// The network that it asked by, and its id.
    Container(Arc<str>, Arc<str>),
    Address(IpAddr),
}

impl Client {
    /// A container is one client, on however many networks it is.
    fn key(&self) -> Result<&str, IpAddr> {
        match self {
            Self::Container(_, id) => Ok(id),
            Self::Address(address) => Err(*address),
        }
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Client {}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Display for Client {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(network, container) => write!(f, "container {container} on {network}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A question on its way out.
pub(crate) struct Question<'a> {
    pub(crate) message: &'a [u8],
    pub(crate) transport: Transport,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) client: Client,
    /// None if all answers are welcome (H5).
    pub(crate) forbidden: Option<Forbidden>,
}

/// Equal questions to equal servers: one is asked for all (F5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    key: Vec<u8>,
    transport: Transport,
    servers: Vec<SocketAddr>,
    /// Not all answers are welcome.
    guarded: bool,
}

/// A question before it is under way.
struct Request {
    flight: Flight,
    waiter: Waiter,
    forbidden: Option<Forbidden>,
}

struct Waiter {
    /// Its question: the answer repeats its id and its spelling.
    message: Rc<[u8]>,
    client: Client,
    answer: Answerer,
}

/// What came of asking one server.
enum Outcome {
    Answer(Vec<u8>),
    /// SERVFAIL or REFUSED.
    Declined,
    Unreachable,
}

type Asking = Pin<Box<dyn Future<Output = Outcome>>>;

/// A server that was asked, and when.
struct Ask {
    server: SocketAddr,
    since: Instant,
    asking: Asking,
}

/// All questions that are on their way.
pub(crate) struct Forwarder {
    state: RefCell<State>,
    sockets: Sockets,
}

struct State {
    /// By datagram and by stream: one way may be closed where the other is open.
    health: [Health; 2],
    buckets: Buckets<Client>,
    in_flight: InFlight<Client>,
    queue: Queue<Client, Request>,
    /// Somebody looks after the queue.
    pumped: bool,
    flights: HashMap<Rc<Flight>, Vec<Waiter>>,
    probes: HashMap<[u8; PROBE_LABEL], SocketAddr>,
    /// Answers that come too late are listened for.
    late: usize,
    /// When it was last said that somebody asks too much.
    complained: Option<Instant>,
    /// Lines about servers, since when.
    lines: (u32, Option<Instant>),
}

impl Forwarder {
    pub(crate) fn new() -> Rc<Self> {
        let state = State {
            health: Default::default(),
            buckets: Buckets::new(RATE.0, RATE.1),
            in_flight: InFlight::default(),
            queue: Queue::default(),
            pumped: false,
            flights: HashMap::new(),
            probes: HashMap::new(),
            late: 0,
            complained: None,
            lines: (0, None),
        };
        Rc::new(Self { state: RefCell::new(state), sockets: Sockets::default() })
    }

    /// Asks `question`; `answer` gets what comes of it. What can be said at once is returned instead.
    pub(crate) fn forward(
        self: &Rc<Self>,
        question: Question<'_>,
        answer: impl FnOnce() -> Answerer,
    ) -> Option<Vec<u8>> {
        let Question { message, transport, servers, client, forbidden } = question;
        // What has no key is no question that a server could answer.
        let key = question_key(message)?;
        if servers.is_empty() {
            return servfail(message);
        }
        let (mut state, now) = (self.state.borrow_mut(), Instant::now());
        let flight = Flight { key, transport, servers, guarded: forbidden.is_some() };
        let bytes = WAITING + message.len() + flight.key.len() + size_of_val(&flight.servers[..]);
        let at_once = !state.queue.holds(&client) && state.may(&client, now);
        if !at_once && !state.queue.has_room(&client, bytes) {
            state.complain(&client, now);
            return servfail(message);
        }
        let waiter = Waiter { message: message.into(), client: client.clone(), answer: answer() };
        let request = Request { flight, waiter, forbidden };
        if at_once {
            self.launch(&mut state, request, now);
        } else {
            state.complain(&client, now);
            state.queue.push(client, bytes, request, now);
            if !std::mem::replace(&mut state.pumped, true) {
                drop(tokio::task::spawn_local(Rc::clone(self).pump()));
            }
        }
        None
    }

    /// Lets a question go that came at `arrived`; with an equal one that is under way, if there is one.
    fn launch(self: &Rc<Self>, state: &mut State, request: Request, arrived: Instant) {
        let Request { flight, waiter, forbidden } = request;
        match state.flights.get_mut(&flight) {
            Some(waiters) => waiters.push(waiter),
            None => {
                let (flight, message) = (Rc::new(flight), Rc::clone(&waiter.message));
                state.flights.insert(Rc::clone(&flight), vec![waiter]);
                drop(tokio::task::spawn_local(Rc::clone(self).fly(flight, message, forbidden, arrived)));
            }
        }
    }

    /// Looks after the queue for as long as something waits there (F10).
    async fn pump(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            let expired = self.state.borrow_mut().queue.expired(Instant::now());
            expired.into_iter().for_each(|request| fail(request.waiter));
            self.dispatch(usize::MAX);
            let mut state = self.state.borrow_mut();
            if state.queue.is_empty() {
                state.pumped = false;
                return;
            }
        }
    }

    /// Lets those go whose turn it is; so many clients that may not are passed over.
    fn dispatch(self: &Rc<Self>, looks: usize) {
        let mut state = self.state.borrow_mut();
        while let Some((request, arrived)) = state.next(looks, Instant::now()) {
            self.launch(&mut state, request, arrived);
        }
    }

    /// Answers SERVFAIL to all that wait, in the queue and for servers outside (G9).
    pub(crate) fn give_up(&self) {
        let (flights, queued) = {
            let mut state = self.state.borrow_mut();
            let flights: Vec<_> = state.flights.drain().flat_map(|(_, waiters)| waiters).collect();
            flights.iter().for_each(|waiter| state.in_flight.end(&waiter.client));
            (flights, state.queue.drain().map(|request| request.waiter).collect::<Vec<_>>())
        };
        flights.into_iter().chain(queued).for_each(fail);
    }

    /// True if `message` is a probe of ours that came back: its server loops (R5).
    pub(crate) fn is_probe(&self, message: &[u8]) -> bool {
        let mut state = self.state.borrow_mut();
        if state.probes.is_empty() || message.get(12) != Some(&(PROBE_LABEL as u8)) {
            return false;
        }
        let label = message.get(13..).and_then(|rest| rest.first_chunk::<PROBE_LABEL>());
        let server = label.and_then(|label| state.probes.remove(&label.to_ascii_lowercase()[..]));
        let Some(server) = server else { return false };
        let now = Instant::now();
        state.health.iter_mut().for_each(|health| health.looping(server, now));
        tracing::warn!("server {server} asks us what we ask it: it is left out");
        true
    }

    /// The host has other servers now.
    pub(crate) fn forget(&self) {
        self.state.borrow_mut().health.iter_mut().for_each(Health::forget);
    }

    /// How many questions are outside, how many wait for their turn, and the servers that are silent or loop.
    pub(crate) fn status(&self) -> (usize, usize, Vec<SocketAddr>) {
        let (state, now) = (self.state.borrow(), Instant::now());
        let unwell: BTreeSet<_> = state.health.iter().flat_map(|health| health.unwell(now)).collect();
        (state.in_flight.count(), state.queue.count(), unwell.into_iter().collect())
    }

    async fn fly(
        self: Rc<Self>,
        flight: Rc<Flight>,
        message: Rc<[u8]>,
        forbidden: Option<Forbidden>,
        arrived: Instant,
    ) {
        let welcome =
            |answer: &Vec<u8>| forbidden.as_ref().is_none_or(|forbidden| is_welcome(answer, forbidden));
        let answer = self.ask_in_turn(&flight, &message, arrived).await.filter(welcome);
        let waiters = self.land(&flight);
        let Some(mut answer) = answer.or_else(|| servfail(&message)) else { return };
        for waiter in waiters {
            address_to(&mut answer, &waiter.message);
            (waiter.answer)(&waiter.message, &answer);
        }
        self.dispatch(LOOKS);
    }

    fn land(&self, flight: &Flight) -> Vec<Waiter> {
        let mut state = self.state.borrow_mut();
        let waiters = state.flights.remove(flight).unwrap_or_default();
        waiters.iter().for_each(|waiter| state.in_flight.end(&waiter.client));
        waiters
    }

    /// F2: the next server after a silence or a failure, while those asked before may still answer.
    async fn ask_in_turn(
        self: &Rc<Self>,
        flight: &Flight,
        message: &[u8],
        arrived: Instant,
    ) -> Option<Vec<u8>> {
        let transport = flight.transport;
        let mut attempt =
            self.state.borrow_mut().health(transport).plan(&flight.servers, arrived, Instant::now());
        // Nearly always it is one.
        let mut asks = Vec::with_capacity(1);
        let answer = loop {
            match attempt.step(Instant::now()) {
                Step::Ask(server) => asks.push(self.ask(server, transport, message)),
                Step::Try(server) => self.try_out(server, transport, &asks),
                Step::GiveUp => break None,
                Step::Wait(until) => match first(&mut asks, until).await {
                    Some((server, outcome)) => {
                        if let Some(answer) = self.judge(transport, server, outcome, &mut attempt) {
                            break Some(answer);
                        }
                    }
                    None => self.note_silence(transport, &asks),
                },
            }
        };
        if !asks.is_empty() {
            self.note_silence(transport, &asks);
            self.listen_on(transport, asks);
        }
        answer
    }

    fn judge(
        &self,
        transport: Transport,
        server: SocketAddr,
        outcome: Outcome,
        attempt: &mut Attempt,
    ) -> Option<Vec<u8>> {
        self.note(transport, server, &outcome);
        match outcome {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Declined | Outcome::Unreachable => {
                attempt.failed(server, Instant::now());
                None
            }
        }
    }

    /// F4: whatever it answers, it is there.
    fn note(&self, transport: Transport, server: SocketAddr, outcome: &Outcome) {
        let (mut state, now) = (self.state.borrow_mut(), Instant::now());
        let health = state.health(transport);
        match outcome {
            Outcome::Unreachable => {
                if health.silent(server, now) {
                    state.say_silent(server, now);
                }
            }
            Outcome::Answer(_) | Outcome::Declined => {
                if health.answered(server, now) && state.may_say(now) {
                    tracing::info!("server {server} answers again");
                }
            }
        }
    }

    fn note_silence(&self, transport: Transport, asks: &[Ask]) {
        let (mut state, now) = (self.state.borrow_mut(), Instant::now());
        for ask in asks {
            if state.health(transport).unanswered(ask.server, ask.since, now) {
                state.say_silent(ask.server, now);
            }
        }
    }

    /// F4: a server that answers late is there all the same.
    fn listen_on(self: &Rc<Self>, transport: Transport, asks: Vec<Ask>) {
        for ask in asks {
            let mut state = self.state.borrow_mut();
            if state.late < MOST_LATE {
                state.late += 1;
                drop(tokio::task::spawn_local(Rc::clone(self).hear_late(transport, ask)));
            }
        }
    }

    async fn hear_late(self: Rc<Self>, transport: Transport, ask: Ask) {
        let end = ask.since + PATIENCE;
        if let Ok(outcome @ (Outcome::Answer(_) | Outcome::Declined)) =
            tokio::time::timeout_at(end.into(), ask.asking).await
        {
            self.note(transport, ask.server, &outcome);
        }
        self.state.borrow_mut().late -= 1;
    }

    /// Sees whether a server answers anything at all: one that leaves a question unanswered, or whose penalty is over.
    fn try_out(self: &Rc<Self>, server: SocketAddr, transport: Transport, asks: &[Ask]) {
        let now = Instant::now();
        let since = asks.iter().find(|ask| ask.server == server).map_or(now, |ask| ask.since);
        if self.state.borrow_mut().health(transport).wants_trial(server, since, now) {
            let ask = self.ask(server, transport, &ROOT_QUERY);
            drop(tokio::task::spawn_local(Rc::clone(self).hear_trial(transport, ask)));
        }
    }

    async fn hear_trial(self: Rc<Self>, transport: Transport, ask: Ask) {
        if let Ok(outcome) = tokio::time::timeout(PATIENCE, ask.asking).await {
            self.note(transport, ask.server, &outcome);
        }
        self.state.borrow_mut().health(transport).tried(ask.server);
    }

    fn ask(self: &Rc<Self>, server: SocketAddr, transport: Transport, message: &[u8]) -> Ask {
        let since = Instant::now();
        // A probe goes by datagram, whatever the question did.
        if self.state.borrow_mut().health(Transport::Udp).wants_probe(server, since) {
            drop(tokio::task::spawn_local(Rc::clone(self).probe(server)));
        }
        let query = with_new_id(message);
        let this = Rc::clone(self);
        let asking: Asking = match transport {
            Transport::Udp => Box::pin(async move { outcome(this.sockets.exchange(server, &query).await) }),
            Transport::Tcp => Box::pin(async move { outcome(stream_exchange(server, &query).await) }),
        };
        Ask { server, since, asking }
    }

    /// Asks for a random name: if that question comes to us, this server asks us what we ask it (R5).
    async fn probe(self: Rc<Self>, server: SocketAddr) {
        let label = hex(random::<{ PROBE_LABEL / 2 }>());
        self.state.borrow_mut().probes.insert(label, server);
        // Whatever it answers: only the question matters.
        let _ = tokio::time::timeout(PATIENCE, self.sockets.exchange(server, &probe_query(&label))).await;
        self.state.borrow_mut().probes.remove(&label);
    }
}

impl State {
    fn health(&mut self, transport: Transport) -> &mut Health {
        &mut self.health[usize::from(transport == Transport::Tcp)]
    }

    /// F10 and H2: takes a place for a question of `client`, if it may have one now.
    fn may(&mut self, client: &Client, now: Instant) -> bool {
        let may = self.in_flight.has_room(client) && self.buckets.take(client.clone(), now);
        if may {
            self.in_flight.begin(client.clone());
        }
        may
    }

    /// The next question of those that wait, with a place, and when it came.
    fn next(&mut self, looks: usize, now: Instant) -> Option<(Request, Instant)> {
        let Self { in_flight, buckets, queue, .. } = self;
        let may = |client: &Client| in_flight.has_room(client) && buckets.take(client.clone(), now);
        let (client, waiting) = queue.next(looks.min(queue.clients()), may)?;
        self.in_flight.begin(client);
        Some((waiting.question, waiting.arrived))
    }

    /// A client that asks too much is named in the log, seldom enough not to fill it.
    fn complain(&mut self, client: &Client, now: Instant) {
        if self.complained.is_none_or(|last| now.saturating_duration_since(last) >= QUIET) {
            self.complained = Some(now);
            tracing::warn!("{client} asks the upstream servers more than it may: its questions wait");
        }
    }

    fn say_silent(&mut self, server: SocketAddr, now: Instant) {
        if self.may_say(now) {
            tracing::warn!("server {server} is silent: others are asked first");
        }
    }

    /// Whether something may be said of a server: a client's own ones may come and go at its will.
    fn may_say(&mut self, now: Instant) -> bool {
        let (lines, since) = &mut self.lines;
        if since.is_none_or(|since| now.saturating_duration_since(since) >= QUIET) {
            (*lines, *since) = (0, Some(now));
        }
        *lines += 1;
        *lines <= MOST_LINES
    }
}

/// Answers SERVFAIL.
fn fail(waiter: Waiter) {
    if let Some(answer) = servfail(&waiter.message) {
        (waiter.answer)(&waiter.message, &answer);
    }
}

/// The first outcome; None if there is none until then. A flood of forged replies must not keep the clock from
/// being looked at, so that comes first.
///
/// Who answers at once needs no clock: to start one costs a system call.
async fn first(asks: &mut Vec<Ask>, until: Instant) -> Option<(SocketAddr, Outcome)> {
    if let Some(outcome) = poll_fn(|context| Poll::Ready(outcome_of_any(asks, context))).await {
        return Some(outcome);
    }
    let mut sleep = pin!(tokio::time::sleep_until(until.into()));
    poll_fn(|context| {
        if sleep.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        outcome_of_any(asks, context).map_or(Poll::Pending, |outcome| Poll::Ready(Some(outcome)))
    })
    .await
}

fn outcome_of_any(asks: &mut Vec<Ask>, context: &mut Context<'_>) -> Option<(SocketAddr, Outcome)> {
    let mut polled = asks.iter_mut().map(|ask| ask.asking.as_mut().poll(context)).enumerate();
    let (index, outcome) = polled.find_map(|(index, polled)| match polled {
        Poll::Ready(outcome) => Some((index, outcome)),
        Poll::Pending => None,
    })?;
    Some((asks.swap_remove(index).server, outcome))
}

fn outcome(reply: io::Result<Vec<u8>>) -> Outcome {
    match reply {
        Ok(reply) if matches!(reply.get(3).map(|flags| flags & 0xf), Some(2 | 5)) => Outcome::Declined,
        Ok(reply) => Outcome::Answer(reply),
        Err(_) => Outcome::Unreachable,
    }
}

/// H5. Others may read what we cannot, so that is not passed on.
fn is_welcome(answer: &[u8], forbidden: &Forbidden) -> bool {
    addresses_in(answer).is_some_and(|addresses| !addresses.into_iter().any(forbidden))
}

fn with_new_id(message: &[u8]) -> Vec<u8> {
    [&random::<2>(), message.get(2..).unwrap_or_default()].concat()
}

/// Gives `answer` the id of `question`, and its spelling of the name (N4): somebody else may have asked with other
/// capitals. Both have the same question, so it is as long in both.
fn address_to(answer: &mut [u8], question: &[u8]) {
    let name = 12..12 + name_len(question.get(12..).unwrap_or_default());
    for part in [0..2, name] {
        if let (Some(to), Some(from)) = (answer.get_mut(part.clone()), question.get(part)) {
            to.copy_from_slice(from);
        }
    }
}

fn name_len(wire: &[u8]) -> usize {
    let mut len = 0;
    while let Some(label) = wire.get(len).filter(|label| **label != 0) {
        len += 1 + usize::from(*label);
    }
    len
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // It cannot fail on Linux once the machine has booted; 256 bytes come at once (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty());
    bytes
}

fn hex(bytes: [u8; PROBE_LABEL / 2]) -> [u8; PROBE_LABEL] {
    let digit =
        |index: usize| b"0123456789abcdef"[usize::from((bytes[index / 2] >> (4 * (index % 2))) & 0xf)];
    std::array::from_fn(digit)
}

/// TXT of `LABEL.TOP`, both random: no zone has it, and only whoever is asked learns of it.
fn probe_query(label: &[u8; PROBE_LABEL]) -> Vec<u8> {
    let [first, second] = random();
    let header = [first, second, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let question = [&[PROBE_LABEL as u8], &label[..], &[8], &label[..8], &[0, 0, 16, 0, 1]].concat();
    [&header[..], &question].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f10_a_container_is_one_client_on_all_its_networks() {
        let client = |network: &str, id: &str| Client::Container(network.into(), id.into());
        let address = |ip: &str| Client::Address(ip.parse().unwrap());
        let mut buckets = Buckets::new(1, 1);
        let mut take = |client| buckets.take(client, Instant::now());
        assert!(take(client("front", "web")) && !take(client("back", "web")));
        assert!(take(client("front", "db")) && take(address("10.0.0.1")) && !take(address("10.0.0.1")));
    }
}
