//! The part of the server that answers: one thread, which owns the table, the sockets and the forwarder. Changes happen
//! between questions, so each question finds the table as it was before or as it is after (G3).

mod changes;
mod links;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

use crate::answers::Answers;
use crate::bind::{is_own, link_index};
use crate::binder::Binder;
use crate::entry::Network;
use crate::forward::{AddressFilter, Answerer, Client, Forwarder, Question};
use crate::listen::Batches;
use crate::protocol::{Listening, Status};
use crate::resolv::{Resolv, localhost_for_any, without_own};
use crate::share::Buckets;
use crate::stream::Connections;
use crate::table::{Asker, LOOPBACK_LINK, StoredEndpoint, Table};
use crate::watch::Watchers;
use crate::zone::{Asked, Reply};
use links::Links;

/// Error answers per second and at once, for each client (H2).
const ERRORS: u32 = 100;

/// The server ends after so long without a network (G7).
const FAREWELL: Duration = Duration::from_secs(2);

/// How long upstream servers are awaited before a successor takes over.
const LANDING: Duration = Duration::from_millis(300);

/// 2^64 divided by the golden ratio: its multiples are spread over all numbers (Knuth, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The server.
pub(crate) struct Server {
    batches: Rc<Batches>,
    connections: Rc<Connections>,
    links: Links,
    pub(crate) watchers: Watchers,
    table: RefCell<Table>,
    networks: RefCell<HashMap<String, Network>>,
    listeners: RefCell<HashMap<IpAddr, Listener>>,
    forwarder: Rc<Forwarder>,
    /// The host's upstream servers.
    upstreams: RefCell<Vec<SocketAddr>>,
    errors: RefCell<Buckets<Client>>,
    /// Held during a change, which may wait for sockets.
    binder: Mutex<Binder>,
    changed: Notify,
    counts: Counts,
    netns: (u64, u64),
    since: u64,
}

#[derive(Default)]
struct Counts {
    questions: Cell<u64>,
    forwarded: Cell<u64>,
    suppressed: Cell<u64>,
}

/// The two tasks of an address, which end with it.
struct Listener {
    port: u16,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Answers for Server {
    fn answer(self: &Rc<Self>, asked: &Asked<'_>, later: impl FnOnce() -> Answerer) -> Option<Vec<u8>> {
        let turn = turn(count(&self.counts.questions));
        if self.forwarder.is_probe(asked.message) {
            return None;
        }
        let reply = self.reply(asked, turn);
        self.watchers.tell(&self.table.borrow(), asked, &reply);
        match reply {
            Reply::Answer(answer) => Some(answer),
            Reply::Error(answer) => self.error(self.client(asked), answer),
            Reply::Drop => None,
            Reply::Forward(forward) => {
                count(&self.counts.forwarded);
                let client = client(forward.client, asked.from);
                let servers = self.servers(&forward.upstreams);
                let forbidden = forward.guarded.then(|| self.forbidden());
                let (message, transport) = (asked.message, asked.transport);
                let question = Question { message, transport, servers, client, forbidden };
                self.forwarder.forward(question, later)
            }
        }
    }

    fn link(&self, index: u32) -> Rc<str> {
        self.links.name(index)
    }

    fn link_to(&self, address: IpAddr) -> Rc<str> {
        let table = self.table.borrow();
        let host = table.owners(address.to_canonical()).next().is_none() && is_own(address);
        let bridge = || table.bridge_of(address).unwrap_or_default();
        if host { LOOPBACK_LINK.into() } else { bridge().into() }
    }
}

impl Server {
    pub(crate) fn new(binder: Binder, netns: (u64, u64), since: u64) -> Rc<Self> {
        Rc::new(Self {
            batches: Rc::new(Batches::new()),
            connections: Rc::default(),
            links: Links::default(),
            watchers: Watchers::default(),
            table: RefCell::new(Table::new()),
            networks: RefCell::default(),
            listeners: RefCell::default(),
            forwarder: Forwarder::new(),
            upstreams: RefCell::default(),
            errors: RefCell::new(Buckets::new(ERRORS, ERRORS)),
            binder: Mutex::new(binder),
            changed: Notify::new(),
            counts: Counts::default(),
            netns,
            since,
        })
    }

    fn reply(&self, asked: &Asked<'_>, turn: u64) -> Reply {
        let table = self.table.borrow();
        let reply = table.answer(asked, turn);
        let is_refused = matches!(reply, Reply::Error(_) | Reply::Drop);
        if is_refused && !matches!(table.asker(asked), Asker::Known(_)) && is_host(asked) {
            return table.answer(&Asked { link: LOOPBACK_LINK, ..*asked }, turn);
        }
        reply
    }

    fn client(&self, asked: &Asked<'_>) -> Client {
        let table = self.table.borrow();
        let container = if let Asker::Known(view) = table.asker(asked) { view.client() } else { None };
        client(container, asked.from)
    }

    /// H5: no upstream answer may have an address in one of the networks' subnets.
    fn forbidden(self: &Rc<Self>) -> AddressFilter {
        let server = Rc::clone(self);
        Box::new(move |address| server.table.borrow().is_inside(address))
    }

    /// H2: a client that causes too many errors gets no answer to some.
    fn error(&self, client: Client, answer: Vec<u8>) -> Option<Vec<u8>> {
        let may = self.errors.borrow_mut().take(client, Instant::now());
        if !may {
            count(&self.counts.suppressed);
        }
        may.then_some(answer)
    }

    fn servers(&self, own: &[SocketAddr]) -> Vec<SocketAddr> {
        let listeners = self.listeners.borrow();
        let upstreams = self.upstreams.borrow();
        let servers = if own.is_empty() { &upstreams[..] } else { own };
        without_own(servers, |ip| listeners.contains_key(&ip))
    }

    /// Asks the parent for a successor; the client at `stream` gets the outcome.
    pub(crate) async fn replace(&self, stream: UnixStream) {
        let Ok(client) = stream.into_std().map(OwnedFd::from) else { return };
        self.binder.lock().await.replace(client).await;
    }

    /// Lets a successor continue. No question is received any more, so that none is lost with this process: new ones wait in
    /// the sockets. Forwarded questions and those over TCP have a moment to be answered; then the answer is SERVFAIL.
    pub(crate) async fn hand_over(&self) {
        let mut binder = self.binder.lock().await;
        self.listeners.borrow_mut().clear();
        self.connections.land();
        let _ = tokio::time::timeout(LANDING, self.until_landed()).await;
        self.forwarder.give_up();
        // Answers over TCP are written by their own tasks.
        let _ = tokio::time::timeout(LANDING, self.until_landed()).await;
        binder.hand_over().await;
    }

    async fn until_landed(&self) {
        let waits = || {
            let (in_flight, waiting, _) = self.forwarder.status();
            in_flight + waiting + self.connections.count() > 0
        };
        while waits() {
            tokio::time::sleep(LANDING / 100).await;
        }
    }

    pub(crate) fn read_upstreams(&self, path: &Path) {
        let servers = Resolv::read(path).nameservers;
        let sockets = servers.iter().filter_map(|server| server.socket(link_index));
        let sockets: Vec<_> = sockets.map(localhost_for_any).collect();
        if *self.upstreams.borrow() != sockets {
            tracing::info!(servers = ?sockets, "resolv.conf");
            self.upstreams.replace(sockets);
            self.forwarder.forget();
        }
    }

    pub(crate) async fn until_unused(&self) {
        loop {
            let used = !self.networks.borrow().is_empty();
            let change = self.changed.notified();
            if used {
                change.await;
            } else if tokio::time::timeout(FAREWELL, change).await.is_err() {
                return;
            }
        }
    }

    /// The process that answers, and its namespace.
    pub(crate) fn identity(&self) -> Status {
        Status { pid: std::process::id(), netns: self.netns, since: self.since, ..Status::default() }
    }

    /// The same, and the ports at which it listens for `addresses`.
    pub(crate) fn listening_at(&self, addresses: &[IpAddr]) -> Status {
        let listeners = self.listeners.borrow();
        let listening =
            |address: &IpAddr| Some(Listening { address: *address, port: listeners.get(address)?.port });
        Status { listeners: addresses.iter().filter_map(listening).collect(), ..self.identity() }
    }

    /// The current endpoints.
    pub(crate) fn stored_endpoints(&self) -> Vec<Arc<StoredEndpoint>> {
        self.table.borrow().stored().cloned().collect()
    }

    /// The state, without the endpoints.
    pub(crate) fn status(&self) -> Status {
        let (in_flight, waiting, unwell) = self.forwarder.status();
        let mut addresses: Vec<_> = self.listeners.borrow().keys().copied().collect();
        addresses.sort();
        Status {
            networks: self.networks.borrow().len(),
            upstreams: self.servers(&[]),
            unwell,
            in_flight,
            waiting,
            connections: self.connections.count(),
            watchers: self.watchers.count(),
            questions: self.counts.questions.get(),
            forwarded: self.counts.forwarded.get(),
            suppressed: self.counts.suppressed.get(),
            ..self.listening_at(&addresses)
        }
    }
}

fn count(counter: &Cell<u64>) -> u64 {
    counter.replace(counter.get().wrapping_add(1))
}

/// A different number for each question. Not the count itself: resolvers ask A and AAAA in turn, so all A would be odd.
fn turn(number: u64) -> u64 {
    number.wrapping_mul(SPREAD) >> 40
}

/// The client to charge: the container, if it is known.
fn client(container: Option<(Arc<str>, Arc<str>)>, from: IpAddr) -> Client {
    container.map_or(Client::Address(from), |(network, id)| Client::Container(network, id))
}

/// V3. If the host asks a gateway from another of its addresses, the kernel names the bridge as the link. It accepts no IPv4
/// datagram with such a source from outside (fib_validate_source), but it does for IPv6, where the source proves nothing (V5).
fn is_host(asked: &Asked<'_>) -> bool {
    asked.from.is_ipv4() && is_own(asked.from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A9. A client that asks in a pattern (every second question, every third) meets all addresses.
    #[test]
    fn turns_follow_no_pattern_of_the_questions() {
        for (step, addresses) in [(1, 2), (2, 2), (2, 3), (2, 4), (3, 3), (4, 8)] {
            let mut firsts = vec![0; addresses];
            (0..100).for_each(|asked| firsts[(turn(asked * step) % addresses as u64) as usize] += 1);
            assert!(firsts.iter().all(|count| *count * addresses > 50), "{step}: {firsts:?}");
        }
    }
}
