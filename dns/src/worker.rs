//! The part of the server that answers: one thread, which owns the table, the sockets and the forwarder. Changes happen
//! between questions, so each question finds the table as it was before or as it is after (G3).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrIn, SockaddrIn6};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify};
use tokio::task::{JoinHandle, LocalSet};

use crate::binder::{Binder, Way};
use crate::control::{Attachment, Listening, Status};
use crate::forward::{Answerer, Client, Forbidden, Forwarder, Question};
use crate::listen::{Batch, Bound, is_own, link_index, link_name};
use crate::resolv::{Watch, localhost_for_any, without_own};
use crate::share::Buckets;
use crate::stream::Connections;
use crate::table::{Asker, Attached, LOOPBACK_LINK};
use crate::watch::Watchers;
use crate::{Asked, Endpoint, Known, Network, Reply, Resolv, Table, askable, control, listen, stream};

/// Error answers a second for each client, and at once (H2).
const ERRORS: u32 = 100;

/// So long without a network: the end (G7).
const FAREWELL: Duration = Duration::from_secs(2);

/// So long is waited for the servers outside before a successor takes over.
const LANDING: Duration = Duration::from_millis(300);

/// 2^64 divided by the golden ratio: multiples of it are spread over all numbers (Knuth, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// So many links are remembered by number.
const MOST_LINKS: usize = 1024;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("network {network}: cannot listen at {address}: {source}")]
    Bind { network: String, address: IpAddr, source: Errno },
    #[error("endpoint {container} {ifname} is on network {network}, not on {other}")]
    Network { container: String, ifname: String, network: String, other: String },
    #[error("no endpoint can be called {container:?} {ifname:?}")]
    Endpoint { container: String, ifname: String },
    #[error("network {network} is not known as it is on record")]
    UnknownNetwork { network: String },
    #[error("the names of {container} {ifname} on network {network} are not known as they are on record")]
    UnknownEndpoint { container: String, ifname: String, network: String },
}

/// What a worker starts with.
pub(crate) struct Start {
    pub(crate) control: StdUnixListener,
    /// Who may speak on the control socket, besides root.
    pub(crate) uid: u32,
    pub(crate) netns: (u64, u64),
    /// See [`Status::since`].
    pub(crate) since: u64,
    pub(crate) resolv_conf: PathBuf,
    /// All that is on record: a [`Known`] in each line.
    pub(crate) table: File,
    /// A byte from it says that a successor takes over.
    pub(crate) orders: Option<OwnedFd>,
    pub(crate) way: Way,
}

/// The server.
pub(crate) struct Server {
    pub(crate) batches: Batches,
    pub(crate) links: Links,
    pub(crate) connections: Connections,
    pub(crate) watchers: Watchers,
    table: RefCell<Table>,
    networks: RefCell<HashMap<String, Network>>,
    listeners: RefCell<HashMap<IpAddr, Listener>>,
    forwarder: Rc<Forwarder>,
    /// The host's servers.
    upstreams: RefCell<Vec<SocketAddr>>,
    errors: RefCell<Buckets<Client>>,
    /// Held during a change, because one may wait for sockets.
    binder: Mutex<Binder>,
    changed: Notify,
    counts: Counts,
    uid: u32,
    netns: (u64, u64),
    since: u64,
}

#[derive(Default)]
struct Counts {
    questions: Cell<u64>,
    forwarded: Cell<u64>,
    suppressed: Cell<u64>,
}

/// Room for datagrams, of each family.
pub(crate) struct Batches {
    pub(crate) v4: RefCell<Batch<SockaddrIn>>,
    pub(crate) v6: RefCell<Batch<SockaddrIn6>>,
}

/// The names of links by number, remembered: a number is not used again.
#[derive(Default)]
pub(crate) struct Links {
    names: RefCell<HashMap<u32, Rc<str>>>,
}

/// The two tasks of an address. They end with it.
struct Listener {
    port: u16,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Links {
    pub(crate) fn name(&self, index: u32) -> Rc<str> {
        if let Some(name) = self.names.borrow().get(&index) {
            return Rc::clone(name);
        }
        // A link that has gone meanwhile is no network's.
        let Some(name) = link_name(index).map(Rc::<str>::from) else { return Rc::from("") };
        let mut names = self.names.borrow_mut();
        if names.len() >= MOST_LINKS {
            names.clear();
        }
        names.insert(index, Rc::clone(&name));
        name
    }

    /// They may have been renamed.
    fn forget(&self) {
        self.names.borrow_mut().clear();
    }
}

/// Serves until there has been no network for a while.
pub(crate) fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(start))
}

async fn serve(start: Start) -> io::Result<()> {
    start.control.set_nonblocking(true)?;
    let control = UnixListener::from_std(start.control)?;
    let server = Server::new(Binder::new(start.way)?, start.uid, start.netns, start.since);
    let watch = Watch::new(&start.resolv_conf);
    server.read_upstreams(&start.resolv_conf);
    server.fill(start.table).await?;
    drop(tokio::task::spawn_local(follow(Rc::clone(&server), watch, start.resolv_conf)));
    drop(tokio::task::spawn_local(control::serve(Rc::clone(&server), control, server.uid)));
    if let Some(orders) = start.orders.map(StdUnixStream::from) {
        orders.set_nonblocking(true)?;
        drop(tokio::task::spawn_local(obey(Rc::clone(&server), UnixStream::from_std(orders)?)));
    }
    server.until_unused().await;
    Ok(())
}

/// Lands when the parent says so.
async fn obey(server: Rc<Server>, mut orders: UnixStream) {
    if orders.read_u8().await.is_ok() {
        server.hand_over().await;
    }
}

/// Takes the host's servers anew whenever they may have changed (R1).
async fn follow(server: Rc<Server>, mut watch: Watch, path: PathBuf) {
    loop {
        watch.changed().await;
        server.read_upstreams(&path);
    }
}

impl Server {
    fn new(binder: Binder, uid: u32, netns: (u64, u64), since: u64) -> Rc<Self> {
        let batches = Batches { v4: RefCell::new(Batch::new()), v6: RefCell::new(Batch::new()) };
        Rc::new(Self {
            batches,
            links: Links::default(),
            connections: Connections::default(),
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
            uid,
            netns,
            since,
        })
    }

    /// Answers a question at once, or returns none: then silence is due, or what `later` makes gets the answer.
    pub(crate) fn answer(
        self: &Rc<Self>,
        asked: &Asked<'_>,
        later: impl FnOnce() -> Answerer,
    ) -> Option<Vec<u8>> {
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

    fn reply(&self, asked: &Asked<'_>, turn: u64) -> Reply {
        let table = self.table.borrow();
        let reply = table.answer(asked, turn);
        let turned_away = matches!(reply, Reply::Error(_) | Reply::Drop);
        if turned_away && !matches!(table.asker(asked), Asker::Known(_)) && is_host(asked) {
            return table.answer(&Asked { link: LOOPBACK_LINK, ..*asked }, turn);
        }
        reply
    }

    fn client(&self, asked: &Asked<'_>) -> Client {
        let table = self.table.borrow();
        let container = if let Asker::Known(view) = table.asker(asked) { view.client() } else { None };
        client(container, asked.from)
    }

    /// H5: no answer from outside may point into a subnet of ours.
    fn forbidden(self: &Rc<Self>) -> Forbidden {
        let server = Rc::clone(self);
        Box::new(move |address| server.table.borrow().is_inside(address))
    }

    /// H2: whoever causes too many errors gets no answer to some.
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

    /// The link that a connection from `address` comes by. Nobody else can have one from an address of the host's.
    pub(crate) fn link_to(&self, address: IpAddr) -> Rc<str> {
        let table = self.table.borrow();
        let host = table.owners(address.to_canonical()).next().is_none() && is_own(address);
        let bridge = || table.bridge_of(address).unwrap_or_default();
        if host { LOOPBACK_LINK.into() } else { bridge().into() }
    }

    /// Takes a network and an endpoint on it; when this returns, its names answer.
    pub(crate) async fn set(
        self: &Rc<Self>,
        network: Network,
        endpoint: Option<Endpoint>,
    ) -> Result<(), Error> {
        if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| endpoint.network != network.name) {
            return Err(misplaced(endpoint, network.name));
        }
        let mut binder = self.binder.lock().await;
        let known = self.networks.borrow().get(&network.name).cloned();
        if known.as_ref() != Some(&network) || !self.listens(&network) {
            self.set_network(&mut binder, network, known).await?;
        }
        if let Some(endpoint) = endpoint {
            let known = self.table.borrow_mut().set_endpoint(&endpoint);
            tell_of_unaskable(&endpoint);
            let Endpoint { network, container, ifname, names, addresses, .. } = endpoint;
            if !known {
                return Err(Error::Endpoint { container, ifname });
            }
            tracing::info!(network, container, ifname, ?names, ?addresses, "set");
        }
        Ok(())
    }

    /// Whether both are known just so.
    pub(crate) fn check(&self, network: &Network, endpoint: &Endpoint) -> Result<(), Error> {
        if self.networks.borrow().get(&network.name) != Some(network) || !self.listens(network) {
            return Err(Error::UnknownNetwork { network: network.name.clone() });
        }
        if self.table.borrow().knows(endpoint) {
            return Ok(());
        }
        let Endpoint { container, ifname, network, .. } = endpoint.clone();
        Err(Error::UnknownEndpoint { container, ifname, network })
    }

    /// The table first: a listener never meets a network it does not know. Back to `known` if it cannot listen.
    async fn set_network(
        self: &Rc<Self>,
        binder: &mut Binder,
        network: Network,
        known: Option<Network>,
    ) -> Result<(), Error> {
        let name = network.name.clone();
        let past = known.iter().flat_map(|known| known.gateways.clone());
        let touched: Vec<_> = past.chain(network.gateways.clone()).collect();
        self.know(network.clone());
        let listening = self.listen(binder, &network).await;
        match (&listening, known) {
            (Ok(()), _) => {}
            (Err(_), Some(known)) => self.know(known),
            (Err(_), None) => self.forget(&name),
        }
        self.close_unused(binder, &touched).await;
        self.changed.notify_one();
        listening
    }

    fn know(&self, network: Network) {
        self.table.borrow_mut().set_network(network.clone());
        self.networks.borrow_mut().insert(network.name.clone(), network);
        // One of its links may have been renamed.
        self.links.forget();
    }

    fn forget(&self, network: &str) {
        self.table.borrow_mut().remove_network(network);
        self.networks.borrow_mut().remove(network);
        self.links.forget();
    }

    /// Asks the parent for a successor, which tells the client at `stream` what comes of it.
    pub(crate) async fn replace(&self, stream: UnixStream) {
        let Ok(client) = stream.into_std().map(OwnedFd::from) else { return };
        self.binder.lock().await.replace(client).await;
    }

    /// Lets a successor go on. Nothing is taken any more, so that nothing is lost with us: what comes in waits in the
    /// sockets, and what was forwarded or asked over TCP has a moment to come back; then SERVFAIL is its answer.
    pub(crate) async fn hand_over(&self) {
        let mut binder = self.binder.lock().await;
        self.listeners.borrow_mut().clear();
        self.connections.land();
        let _ = tokio::time::timeout(LANDING, self.until_landed()).await;
        self.forwarder.give_up();
        // What was asked over TCP is written by its own task.
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

    /// Makes an endpoint or a whole network unknown. What is not there need not be removed.
    pub(crate) async fn remove(&self, network: &str, endpoint: Option<&Attachment>) {
        let mut binder = self.binder.lock().await;
        match endpoint {
            Some(Attachment { container, ifname }) => {
                self.table.borrow_mut().remove_endpoint(network, container, ifname);
                tracing::info!(network, container, ifname, "removed");
            }
            None => {
                let known = self.networks.borrow().get(network).cloned();
                self.forget(network);
                self.close_unused(&mut binder, &known.unwrap_or_default().gateways).await;
                self.changed.notify_one();
                tracing::info!(network, "network removed");
            }
        }
    }

    /// Listens at the gateways where it does not yet; no other listener is touched (L5).
    async fn listen(self: &Rc<Self>, binder: &mut Binder, network: &Network) -> Result<(), Error> {
        for address in network.gateways.iter().copied() {
            if self.listeners.borrow().contains_key(&address) {
                continue;
            }
            let bound = binder.bind(address, &network.bridge).await;
            let name = &network.name;
            match &bound {
                Ok(Bound { port, .. }) => tracing::info!(network = name, %address, port, "listening"),
                Err(error) => tracing::warn!(network = name, %address, %error, "cannot listen"),
            }
            let bound = bound.map_err(|source| Error::Bind { network: name.clone(), address, source })?;
            self.listeners.borrow_mut().insert(address, self.begin(bound, address));
        }
        Ok(())
    }

    fn listens(&self, network: &Network) -> bool {
        let listeners = self.listeners.borrow();
        network.gateways.iter().all(|address| listeners.contains_key(address))
    }

    fn begin(self: &Rc<Self>, bound: Bound, address: IpAddr) -> Listener {
        let datagrams = tokio::task::spawn_local(listen::serve(Rc::clone(self), bound.udp, address));
        let streams = tokio::task::spawn_local(stream::serve(Rc::clone(self), bound.tcp, address));
        Listener { port: bound.port, tasks: [datagrams, streams] }
    }

    /// Listens no more at those of the addresses that no network needs.
    async fn close_unused(&self, binder: &mut Binder, touched: &[IpAddr]) {
        for address in touched {
            let used = self.networks.borrow().values().any(|network| network.gateways.contains(address));
            if !used && self.listeners.borrow_mut().remove(address).is_some() {
                binder.close(*address).await;
            }
        }
    }

    /// The table as the records have it, before the first answer (G5). A network that cannot be listened on does not
    /// keep the others from it.
    async fn fill(self: &Rc<Self>, table: File) -> io::Result<()> {
        let (mut networks, mut endpoints) = (Vec::new(), 0);
        for line in BufReader::new(table).lines() {
            match serde_json::from_str(&line?)? {
                Known::Network(network) => {
                    self.know(network.clone());
                    networks.push(network);
                }
                Known::Endpoint(endpoint) => {
                    endpoints += usize::from(self.table.borrow_mut().set_endpoint(&endpoint))
                }
            }
        }
        tracing::info!(networks = networks.len(), endpoints, "answering");
        let mut binder = self.binder.lock().await;
        for network in &networks {
            let _ = self.listen(&mut binder, network).await;
        }
        Ok(())
    }

    fn read_upstreams(&self, path: &Path) {
        let servers = Resolv::read(path).nameservers;
        let sockets = servers.iter().filter_map(|server| server.socket(link_index));
        let sockets: Vec<_> = sockets.map(localhost_for_any).collect();
        if *self.upstreams.borrow() != sockets {
            tracing::info!(servers = ?sockets, "resolv.conf");
            self.upstreams.replace(sockets);
            self.forwarder.forget();
        }
    }

    async fn until_unused(&self) {
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

    /// Who answers, and where.
    pub(crate) fn identity(&self) -> Status {
        Status { pid: std::process::id(), netns: self.netns, since: self.since, ..Status::default() }
    }

    /// The same, and where the questions to `addresses` are taken.
    pub(crate) fn listening_at(&self, addresses: &[IpAddr]) -> Status {
        let listeners = self.listeners.borrow();
        let listening =
            |address: &IpAddr| Some(Listening { address: *address, port: listeners.get(address)?.port });
        Status { listeners: addresses.iter().filter_map(listening).collect(), ..self.identity() }
    }

    /// The endpoints of now.
    pub(crate) fn attached(&self) -> Vec<Arc<Attached>> {
        self.table.borrow().attached().cloned().collect()
    }

    /// How it goes, but for the endpoints.
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

/// Another one for each question. Not their number itself: resolvers ask A and AAAA in turn, so all A would be odd.
fn turn(number: u64) -> u64 {
    number.wrapping_mul(SPREAD) >> 40
}

/// Who is charged: the container, if it is known.
fn client(container: Option<(Arc<str>, Arc<str>)>, from: IpAddr) -> Client {
    container.map_or(Client::Address(from), |(network, id)| Client::Container(network, id))
}

/// V3. The kernel names the bridge for what the host sends to a gateway from another address of its own, and takes no
/// datagram of IPv4 with such an address from outside (fib_validate_source). Of IPv6 it does: that proves nothing (V5).
fn is_host(asked: &Asked<'_>) -> bool {
    asked.from.is_ipv4() && is_own(asked.from)
}

/// N6: nobody finds who is called so, and that is said.
fn tell_of_unaskable(endpoint: &Endpoint) {
    let Endpoint { network, container, names, .. } = endpoint;
    for name in names.iter().filter(|name| !askable(name)) {
        tracing::warn!(network, container, name, "other containers cannot look this name up");
    }
}

fn misplaced(endpoint: &Endpoint, other: String) -> Error {
    let Endpoint { container, ifname, network, .. } = endpoint.clone();
    Error::Network { container, ifname, network, other }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A9. Every second question, every third: whoever asks in a pattern meets all addresses.
    #[test]
    fn turns_follow_no_pattern_of_the_questions() {
        for (step, addresses) in [(1, 2), (2, 2), (2, 3), (2, 4), (3, 3), (4, 8)] {
            let mut firsts = vec![0; addresses];
            (0..100).for_each(|asked| firsts[(turn(asked * step) % addresses as u64) as usize] += 1);
            assert!(firsts.iter().all(|count| *count * addresses > 50), "{step}: {firsts:?}");
        }
    }
}
