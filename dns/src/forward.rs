//! Forwarding questions to the upstream servers: whose turn it is, and equal questions asked once.

mod ask;
mod client;
mod wire;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::Transport;
use crate::exchange::Sockets;
use crate::message::{addresses_in, question_key, servfail};
use crate::share::{Buckets, InFlight, Queue};
use crate::upstream::Health;

pub(crate) use client::Client;
use wire::{PROBE_LABEL, address_to};

/// Forwards per second and in one burst, for each client (H2).
const RATE: (u32, u32) = (2000, 4000);

/// How often waiting questions are checked: one may have its turn, or has waited too long.
const TICK: Duration = Duration::from_millis(20);

/// How many clients are checked when a place becomes free; the next tick checks all.
const LOOKS: usize = 16;

/// The memory of a waiting question in bytes, besides its own bytes and its servers'.
const WAITING: usize = 400;

/// The log names a client that asks too much at most once in this time, and limits lines about silent servers: a client
/// can cause both.
const QUIET: Duration = Duration::from_secs(60);

/// Lines about servers in [`QUIET`].
const MOST_LINES: u32 = 20;

/// Takes the question again, and the answer with the asker's id.
pub(crate) type Answerer = Box<dyn FnOnce(&[u8], &[u8])>;

/// Whether an address must not be in an upstream answer.
pub(crate) type AddressFilter = Box<dyn Fn(IpAddr) -> bool>;

/// A question to forward.
pub(crate) struct Question<'a> {
    pub(crate) message: &'a [u8],
    pub(crate) transport: Transport,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) client: Client,
    /// `None` if any answer may be passed on (H5).
    pub(crate) forbidden: Option<AddressFilter>,
}

/// Equal questions to equal servers, which are asked once (F5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    key: Vec<u8>,
    transport: Transport,
    servers: Vec<SocketAddr>,
    /// Whether some answers must not be passed on.
    guarded: bool,
}

/// A question that is not asked yet.
struct Request {
    flight: Flight,
    waiter: Waiter,
    forbidden: Option<AddressFilter>,
}

struct Waiter {
    /// Its question, because the answer repeats its id and its spelling.
    message: Rc<[u8]>,
    client: Client,
    answer: Answerer,
}

/// All forwarded questions.
pub(crate) struct Forwarder {
    state: RefCell<State>,
    sockets: Sockets,
}

struct State {
    /// Over UDP and over TCP: a server may answer only one of them.
    health: [Health; 2],
    buckets: Buckets<Client>,
    in_flight: InFlight<Client>,
    queue: Queue<Client, Request>,
    /// Whether a task serves the queue.
    is_served: bool,
    flights: HashMap<Rc<Flight>, Vec<Waiter>>,
    probes: HashMap<[u8; PROBE_LABEL], SocketAddr>,
    /// How many late answers are awaited.
    late: usize,
    /// When the log last named a client that asks too much.
    last_complaint: Option<Instant>,
    /// How many lines about servers were logged, and since when.
    lines: (u32, Option<Instant>),
}

impl Forwarder {
    pub(crate) fn new() -> Rc<Self> {
        let state = State {
            health: Default::default(),
            buckets: Buckets::new(RATE.0, RATE.1),
            in_flight: InFlight::default(),
            queue: Queue::default(),
            is_served: false,
            flights: HashMap::new(),
            probes: HashMap::new(),
            late: 0,
            last_complaint: None,
            lines: (0, None),
        };
        Rc::new(Self { state: RefCell::new(state), sockets: Sockets::default() })
    }

    /// Forwards `question`; `answer` gets the outcome. An answer that is known at once is returned instead.
    pub(crate) fn forward(
        self: &Rc<Self>,
        question: Question<'_>,
        answer: impl FnOnce() -> Answerer,
    ) -> Option<Vec<u8>> {
        let Question { message, transport, servers, client, forbidden } = question;
        // A message without a key is no question that a server could answer.
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
            if !std::mem::replace(&mut state.is_served, true) {
                drop(tokio::task::spawn_local(Rc::clone(self).pump()));
            }
        }
        None
    }

    /// Asks a question that arrived at `arrived`, or lets it share the answer of an equal one that is asked already.
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

    /// Serves the queue while a question waits in it (F10).
    async fn pump(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            let expired = self.state.borrow_mut().queue.take_expired(Instant::now());
            expired.into_iter().for_each(|request| fail(request.waiter));
            self.dispatch(usize::MAX);
            let mut state = self.state.borrow_mut();
            if state.queue.is_empty() {
                state.is_served = false;
                return;
            }
        }
    }

    /// Asks the questions whose turn it is; skips at most `looks` clients that may not.
    fn dispatch(self: &Rc<Self>, looks: usize) {
        let mut state = self.state.borrow_mut();
        while let Some((request, arrived)) = state.next(looks, Instant::now()) {
            self.launch(&mut state, request, arrived);
        }
    }

    /// Answers SERVFAIL to all that wait, in the queue and for upstream servers (G9).
    pub(crate) fn give_up(&self) {
        let (flights, queued) = {
            let mut state = self.state.borrow_mut();
            let flights: Vec<_> = state.flights.drain().flat_map(|(_, waiters)| waiters).collect();
            flights.iter().for_each(|waiter| state.in_flight.end(&waiter.client));
            (flights, state.queue.drain().map(|request| request.waiter).collect::<Vec<_>>())
        };
        flights.into_iter().chain(queued).for_each(fail);
    }

    /// True if `message` is one of the server's own probes that came back: then that upstream server loops (R5).
    pub(crate) fn is_probe(&self, message: &[u8]) -> bool {
        let mut state = self.state.borrow_mut();
        if state.probes.is_empty() || message.get(12) != Some(&(PROBE_LABEL as u8)) {
            return false;
        }
        let label = message.get(13..).and_then(|rest| rest.first_chunk::<PROBE_LABEL>());
        let server = label.and_then(|label| state.probes.remove(&label.to_ascii_lowercase()[..]));
        let Some(server) = server else { return false };
        let now = Instant::now();
        state.health.iter_mut().for_each(|health| health.mark_looping(server, now));
        tracing::warn!("server {server} sends our own questions back to us: it is left out");
        true
    }

    /// Forgets the servers' health, because the host has other servers now.
    pub(crate) fn forget(&self) {
        self.state.borrow_mut().health.iter_mut().for_each(Health::forget);
    }

    /// How many questions are asked, how many wait for their turn, and the servers that are silent or loop.
    pub(crate) fn status(&self) -> (usize, usize, Vec<SocketAddr>) {
        let (state, now) = (self.state.borrow(), Instant::now());
        let unwell: BTreeSet<_> = state.health.iter().flat_map(|health| health.unwell(now)).collect();
        (state.in_flight.count(), state.queue.count(), unwell.into_iter().collect())
    }

    async fn fly(
        self: Rc<Self>,
        flight: Rc<Flight>,
        message: Rc<[u8]>,
        forbidden: Option<AddressFilter>,
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

    /// Takes a place for the next waiting question; returns it and its arrival.
    fn next(&mut self, looks: usize, now: Instant) -> Option<(Request, Instant)> {
        let Self { in_flight, buckets, queue, .. } = self;
        let may = |client: &Client| in_flight.has_room(client) && buckets.take(client.clone(), now);
        let (client, waiting) = queue.next(looks.min(queue.clients()), may)?;
        self.in_flight.begin(client);
        Some((waiting.question, waiting.arrived))
    }

    /// Names a client that asks too much in the log, seldom enough not to fill it.
    fn complain(&mut self, client: &Client, now: Instant) {
        if self.last_complaint.is_none_or(|last| now.saturating_duration_since(last) >= QUIET) {
            self.last_complaint = Some(now);
            tracing::warn!("{client} asks the upstream servers more than it may: its questions wait");
        }
    }

    fn log_silent(&mut self, server: SocketAddr, now: Instant) {
        if self.may_log(now) {
            tracing::warn!("server {server} is silent: others are asked first");
        }
    }

    /// Whether a line about a server may be logged: a client can make its own servers come and go.
    fn may_log(&mut self, now: Instant) -> bool {
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

/// H5. An answer that cannot be parsed is not passed on, because the client may parse it.
fn is_welcome(answer: &[u8], forbidden: &AddressFilter) -> bool {
    addresses_in(answer).is_some_and(|addresses| !addresses.into_iter().any(forbidden))
}
