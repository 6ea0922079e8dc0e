//! Asking the servers outside.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter};
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::rand::GetRandomFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};

use crate::Transport;
use crate::message::{addresses_in, is_reply_to, question_key, refused, servfail};
use crate::upstream::{Attempt, Buckets, Health, InFlight, PATIENCE, SILENCE, Step};

/// Forwards a second and in one burst, for each client (H2).
const RATE: (u32, u32) = (1000, 2000);

/// So many sockets are kept for the next questions, of each family.
const MOST_IDLE: usize = 64;

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
    /// Replies are received here, then copied: they may be long and seldom are.
    scratch: RefCell<Box<[u8]>>,
    /// Sockets whose reply has come, of IPv4 and IPv6.
    idle: [RefCell<Vec<UdpSocket>>; 2],
}

struct State {
    /// By datagram and by stream: one way may be closed where the other is open.
    health: [Health; 2],
    buckets: Buckets<Client>,
    in_flight: InFlight<Client>,
    flights: HashMap<Rc<Flight>, Vec<Waiter>>,
    probes: HashMap<[u8; PROBE_LABEL], SocketAddr>,
    /// When it was last said that somebody asks too much.
    complained: Option<Instant>,
}

impl Forwarder {
    pub(crate) fn new() -> Rc<Self> {
        let state = State {
            health: Default::default(),
            buckets: Buckets::new(RATE.0, RATE.1),
            in_flight: InFlight::default(),
            flights: HashMap::new(),
            probes: HashMap::new(),
            complained: None,
        };
        let scratch = RefCell::new(vec![0; 1 << 16].into());
        Rc::new(Self { state: RefCell::new(state), scratch, idle: Default::default() })
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
        let mut state = self.state.borrow_mut();
        if !state.may(&client, Instant::now()) {
            return refused(message);
        }
        let flight = Flight { key, transport, servers, guarded: forbidden.is_some() };
        let message: Rc<[u8]> = message.into();
        let waiter = Waiter { message: Rc::clone(&message), client, answer: answer() };
        match state.flights.get_mut(&flight) {
            Some(waiters) => waiters.push(waiter),
            None => {
                let flight = Rc::new(flight);
                state.flights.insert(Rc::clone(&flight), vec![waiter]);
                drop(tokio::task::spawn_local(Rc::clone(self).fly(flight, message, forbidden)));
            }
        }
        None
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

    /// How many questions wait, and the servers that are silent or loop.
    pub(crate) fn status(&self) -> (usize, Vec<SocketAddr>) {
        let (state, now) = (self.state.borrow(), Instant::now());
        let unwell: BTreeSet<_> = state.health.iter().flat_map(|health| health.unwell(now)).collect();
        (state.in_flight.count(), unwell.into_iter().collect())
    }

    async fn fly(self: Rc<Self>, flight: Rc<Flight>, message: Rc<[u8]>, forbidden: Option<Forbidden>) {
        let welcome =
            |answer: &Vec<u8>| forbidden.as_ref().is_none_or(|forbidden| is_welcome(answer, forbidden));
        let answer = self.ask_in_turn(&flight, &message).await.filter(welcome);
        let waiters = self.land(&flight);
        let Some(mut answer) = answer.or_else(|| servfail(&message)) else { return };
        for waiter in waiters {
            address_to(&mut answer, &waiter.message);
            (waiter.answer)(&waiter.message, &answer);
        }
    }

    fn land(&self, flight: &Flight) -> Vec<Waiter> {
        let mut state = self.state.borrow_mut();
        let waiters = state.flights.remove(flight).unwrap_or_default();
        waiters.iter().for_each(|waiter| state.in_flight.end(&waiter.client));
        waiters
    }

    /// F2: the next server after a silence or a failure, while those asked before may still answer.
    async fn ask_in_turn(self: &Rc<Self>, flight: &Flight, message: &[u8]) -> Option<Vec<u8>> {
        let mut attempt =
            self.state.borrow_mut().health(flight.transport).plan(&flight.servers, Instant::now());
        // Nearly always it is one.
        let mut asks = Vec::with_capacity(1);
        loop {
            match attempt.step(Instant::now()) {
                Step::Ask(server) => asks.push(self.ask(server, flight.transport, message)),
                Step::GiveUp => {
                    self.note_silence(flight.transport, &asks);
                    return None;
                }
                Step::Wait(until) => match first(&mut asks, until).await {
                    Some((server, outcome)) => {
                        if let Some(answer) = self.judge(flight.transport, server, outcome, &mut attempt) {
                            return Some(answer);
                        }
                    }
                    None => self.note_silence(flight.transport, &asks),
                },
            }
        }
    }

    fn judge(
        &self,
        transport: Transport,
        server: SocketAddr,
        outcome: Outcome,
        attempt: &mut Attempt,
    ) -> Option<Vec<u8>> {
        let (mut state, now) = (self.state.borrow_mut(), Instant::now());
        let health = state.health(transport);
        match outcome {
            Outcome::Unreachable => note_silent(health, server, now),
            Outcome::Answer(_) | Outcome::Declined => note_answered(health, server),
        }
        match outcome {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Declined | Outcome::Unreachable => {
                attempt.failed(server, now);
                None
            }
        }
    }

    fn note_silence(&self, transport: Transport, asks: &[Ask]) {
        let (mut state, now) = (self.state.borrow_mut(), Instant::now());
        let silent = asks.iter().filter(|ask| now.saturating_duration_since(ask.since) >= SILENCE);
        silent.for_each(|ask| note_silent(state.health(transport), ask.server, now));
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
            Transport::Udp => Box::pin(async move { outcome(this.exchange(server, &query).await) }),
            Transport::Tcp => Box::pin(async move { outcome(stream_exchange(server, &query).await) }),
        };
        Ask { server, since, asking }
    }

    /// A new random port for each query, which the kernel chooses (F6). Only `server` is heard.
    async fn exchange(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.connected(server)?;
        let send = || rustix::net::send(socket.as_fd(), query, SendFlags::DONTWAIT);
        // An ICMP message about a kept socket's question before is told to the next who uses it, once.
        send().or_else(|_| {
            forget_errors(&socket);
            send()
        })?;
        let reply = self.reply(&socket, query).await?;
        self.keep(socket, server);
        Ok(reply)
    }

    /// A socket that is given a port by being connected: a new one, or one that has lost its port.
    fn connected(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let idle = self.idle[usize::from(server.is_ipv6())].borrow_mut().pop();
        let socket = match idle {
            Some(socket) => socket,
            None => unconnected(server)?,
        };
        rustix::net::connect(socket.as_fd(), &server)?;
        Ok(socket)
    }

    /// Keeps a socket for another question. It loses its port at once (udp_disconnect in the kernel); what came late lies
    /// there still, and answers no other question.
    fn keep(&self, socket: UdpSocket, server: SocketAddr) {
        let mut idle = self.idle[usize::from(server.is_ipv6())].borrow_mut();
        if idle.len() < MOST_IDLE && rustix::net::connect_unspec(socket.as_fd()).is_ok() {
            // Asks tokio only, not the kernel.
            if socket.try_io(Interest::ERROR, || Ok(())).is_ok() {
                forget_errors(&socket);
            }
            idle.push(socket);
        }
    }

    async fn reply(&self, socket: &UdpSocket, query: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            // An ICMP message makes a socket erroneous, not readable.
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let interest = if ready.is_readable() { Interest::READABLE } else { Interest::ERROR };
            let received = socket.try_io(interest, || {
                let mut buffer = self.scratch.borrow_mut();
                let (len, _) = rustix::net::recv(socket.as_fd(), &mut buffer[..], RecvFlags::DONTWAIT)?;
                Ok(is_reply_to(&buffer[..len], query).then(|| buffer[..len].to_vec()))
            });
            match received {
                Ok(Some(reply)) => return Ok(reply),
                // Forged, or not for us: waiting goes on, and a flood of them stops nobody else.
                Ok(None) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for a random name: if that question comes to us, this server asks us what we ask it (R5).
    async fn probe(self: Rc<Self>, server: SocketAddr) {
        let label = hex(random::<{ PROBE_LABEL / 2 }>());
        self.state.borrow_mut().probes.insert(label, server);
        // Whatever it answers: only the question matters.
        let _ = tokio::time::timeout(PATIENCE, self.exchange(server, &probe_query(&label))).await;
        self.state.borrow_mut().probes.remove(&label);
    }
}

impl State {
    fn health(&mut self, transport: Transport) -> &mut Health {
        &mut self.health[usize::from(transport == Transport::Tcp)]
    }

    /// F10 and H2. Whoever asks too much is named in the log, once a second at most.
    fn may(&mut self, client: &Client, now: Instant) -> bool {
        let may = self.buckets.take(client.clone(), now) && self.in_flight.begin(client.clone());
        let quiet = self.complained.is_some_and(|last| now.saturating_duration_since(last) < SILENCE);
        if !may && !quiet {
            self.complained = Some(now);
            tracing::warn!("{client} asks about the world too often: some questions are refused");
        }
        may
    }
}

fn note_silent(health: &mut Health, server: SocketAddr, now: Instant) {
    if health.silent(server, now) {
        tracing::warn!("server {server} is silent: others are asked first");
    }
}

fn note_answered(health: &mut Health, server: SocketAddr) {
    if health.answered(server) {
        tracing::info!("server {server} answers again");
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

fn unconnected(server: SocketAddr) -> io::Result<UdpSocket> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    // Without it the kernel keeps to itself that a host or a network is unreachable, for that may pass (F2).
    match server {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    UdpSocket::from_std(socket.into())
}

/// Takes what ICMP messages have left in the socket's queue of errors.
fn forget_errors(socket: &UdpSocket) {
    let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
    while rustix::net::recv(socket.as_fd(), &mut [0; 1][..], flags).is_ok() {}
}

/// A question that came by TCP is asked by TCP (F1).
async fn stream_exchange(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes(), query].concat()).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0; len.into()];
    stream.read_exact(&mut reply).await?;
    match is_reply_to(&reply, query) {
        true => Ok(reply),
        false => Err(io::ErrorKind::InvalidData.into()),
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
