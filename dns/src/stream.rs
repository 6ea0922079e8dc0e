//! Questions over TCP: many on a connection, answered as they are ready, and bounded in time and number (M3 to M5).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

use crate::answers::Answers;
use crate::message::servfail;
use crate::table::LOOPBACK_LINK;
use crate::zone::{Asked, Transport};

/// A connection is closed after so long without a question, or without taking an answer.
const IDLE: Duration = Duration::from_secs(5);

/// A message that has begun must be complete after this.
const REST: Duration = Duration::from_secs(2);

/// The most connections of one client.
const MOST_PER_CLIENT: usize = 8;

/// The most connections of all clients.
const MOST: usize = 256;

/// With so many bytes of answers that the client has not taken, no further question is read.
const MOST_UNSENT: usize = 1 << 16;

/// How many bytes of upstream answers wait until there is room for them. Longer ones are not kept (H3).
const MOST_WAITING: usize = 1 << 18;

/// With so many forwarded questions, no further one of this connection is read.
const MOST_OUTSIDE: usize = 64;

/// How many questions are answered in one turn; other connections wait no longer than that.
const MOST_AT_ONCE: usize = 32;

/// How many bytes are read at once.
const CHUNK: usize = 4096;

/// The open connections, oldest first.
pub(crate) struct Connections {
    open: RefCell<Vec<Rc<Entry>>>,
    /// Held by the connection whose turn it is: only one, so that datagrams and changes wait for no more than one.
    turn: Semaphore,
}

struct Entry {
    client: IpAddr,
    /// When it last did something; `None` while it waits for an answer or is in the middle of a message.
    idle_since: Cell<Option<Instant>>,
    close: Notify,
    closing: Cell<bool>,
    /// It ends once its questions are answered.
    landing: Cell<bool>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { open: RefCell::default(), turn: Semaphore::new(1) }
    }
}

impl Connections {
    /// Makes room for a connection of `client` and enters it; `None` if there is no idle one to close.
    fn enter(&self, client: IpAddr) -> Option<Rc<Entry>> {
        let mut open = self.open.borrow_mut();
        open.retain(|entry| !entry.closing.get());
        let own = open.iter().filter(|entry| entry.client == client).count();
        if own >= MOST_PER_CLIENT {
            close_idle(&mut open, client)?;
        } else if open.len() >= MOST {
            // A client of few connections must not suffer from those of many.
            let greediest = greediest(&open)?;
            close_idle(&mut open, client).or_else(|| close_idle(&mut open, greediest))?;
        }
        let entry = Entry {
            client,
            idle_since: Cell::new(Some(Instant::now())),
            close: Notify::new(),
            closing: Cell::new(false),
            landing: Cell::new(false),
        };
        let entry = Rc::new(entry);
        open.push(Rc::clone(&entry));
        Some(entry)
    }

    fn leave(&self, entry: &Rc<Entry>) {
        self.open.borrow_mut().retain(|other| !Rc::ptr_eq(other, entry));
    }

    /// Lets every connection end once its questions are answered.
    pub(crate) fn land(&self) {
        for entry in self.open.borrow().iter() {
            entry.landing.set(true);
            entry.close.notify_one();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }
}

/// Closes the oldest idle connection of `client`.
fn close_idle(open: &mut Vec<Rc<Entry>>, client: IpAddr) -> Option<()> {
    let idle = open.iter().filter(|entry| entry.client == client && entry.idle_since.get().is_some());
    let oldest = Rc::clone(idle.min_by_key(|entry| entry.idle_since.get())?);
    oldest.closing.set(true);
    oldest.close.notify_one();
    open.retain(|entry| !Rc::ptr_eq(entry, &oldest));
    Some(())
}

fn greediest(open: &[Rc<Entry>]) -> Option<IpAddr> {
    let count = |client| open.iter().filter(|entry| entry.client == client).count();
    let idle = open.iter().filter(|entry| entry.idle_since.get().is_some());
    idle.map(|entry| entry.client).max_by_key(|client| count(*client))
}

/// Accepts connections to `address` until the task is ended.
pub(crate) async fn serve(
    server: Rc<impl Answers>,
    connections: Rc<Connections>,
    socket: OwnedFd,
    address: IpAddr,
) {
    let Ok(listener) = TcpListener::from_std(socket.into()) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => begin(&server, &connections, stream, peer, address),
            // Too many descriptors: pause, because the connection still waits and accept(2) would fail again at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn begin(
    server: &Rc<impl Answers>,
    connections: &Rc<Connections>,
    stream: TcpStream,
    peer: SocketAddr,
    to: IpAddr,
) {
    let Some(entry) = connections.enter(peer.ip()) else { return };
    let (server, connections) = (Rc::clone(server), Rc::clone(connections));
    let connection = Connection::new(stream, peer.ip(), to, &*server, Rc::clone(&entry));
    drop(tokio::task::spawn_local(async move {
        // A reset or half a message ends only this connection (M5).
        let _ = connection.run(&server, &connections).await;
        connections.leave(&entry);
    }));
}

struct Connection {
    stream: TcpStream,
    from: IpAddr,
    to: IpAddr,
    /// The bridge behind which `from` is. A forged source gets no answer to its SYN (V5).
    link: Rc<str>,
    entry: Rc<Entry>,
    /// Bytes read that are not yet a whole message.
    inbox: Vec<u8>,
    /// Answers to write.
    outbox: Vec<u8>,
    /// Forwarded questions.
    outside: usize,
    answers: mpsc::UnboundedReceiver<Vec<u8>>,
    answered: mpsc::UnboundedSender<Vec<u8>>,
    /// The bytes of their answers that have arrived.
    waiting: Rc<Cell<usize>>,
    /// When something was last read or written, and when the message in the inbox began.
    moved: Instant,
    begun: Option<Instant>,
    /// The client sends nothing more; it may still read.
    ended: bool,
}

impl Connection {
    fn new(stream: TcpStream, from: IpAddr, to: IpAddr, server: &impl Answers, entry: Rc<Entry>) -> Self {
        let (answered, answers) = mpsc::unbounded_channel();
        let link = if from == to { LOOPBACK_LINK.into() } else { server.link_to(from) };
        Self {
            stream,
            from,
            to,
            link,
            entry,
            inbox: Vec::new(),
            outbox: Vec::new(),
            outside: 0,
            answers,
            answered,
            waiting: Rc::default(),
            moved: Instant::now(),
            begun: None,
            ended: false,
        }
    }

    async fn run(mut self, server: &Rc<impl Answers>, connections: &Connections) -> io::Result<()> {
        // Answers are written whole, so waiting to fill a packet would only delay them.
        self.stream.set_nodelay(true)?;
        while self.has_more() || self.wait().await? {
            let turn = connections.turn.acquire().await;
            self.take_messages(server);
            self.write()?;
            self.note_idle();
            if self.is_done() {
                return Ok(());
            }
            // Other tasks get their turn: tokio polls the kernel for them.
            tokio::task::yield_now().await;
            drop(turn);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.ended && !self.has_more() && self.outbox.is_empty() && self.outside == 0
    }

    /// Whether there are questions to be answered, and room for the answers.
    fn has_more(&self) -> bool {
        self.has_room() && whole_message(&self.inbox).is_some()
    }

    /// Waits until something can be done; false if the time is up.
    async fn wait(&mut self) -> io::Result<bool> {
        let reading = !self.ended && self.has_room();
        let writing = !self.outbox.is_empty();
        let deadline = self.deadline();
        tokio::select! {
            ready = self.stream.readable(), if reading => ready.and_then(|()| self.read()).map(|()| true),
            ready = self.stream.writable(), if writing => ready.map(|()| true),
            Some(answer) = self.answers.recv(), if self.outbox.len() < MOST_UNSENT => {
                self.outside -= 1;
                self.waiting.update(|bytes| bytes - answer.len());
                self.queue(&answer);
                Ok(true)
            }
            () = self.entry.close.notified() => {
                let landing = self.entry.landing.get() && self.read_rest().is_ok();
                self.ended = true;
                Ok(landing)
            }
            () = tokio::time::sleep_until(deadline) => Ok(false),
        }
    }

    fn has_room(&self) -> bool {
        self.outbox.len() < MOST_UNSENT && self.outside < MOST_OUTSIDE
    }

    fn deadline(&self) -> Instant {
        match self.begun {
            Some(begun) if self.has_room() => begun + REST,
            // The forwarder fails sooner than this.
            _ if self.outside > 0 && self.outbox.is_empty() => self.moved + 2 * IDLE,
            _ => self.moved + IDLE,
        }
    }

    fn note_idle(&self) {
        let busy = self.begun.is_some() || self.outside > 0 || !self.outbox.is_empty();
        self.entry.idle_since.set((!busy).then_some(self.moved));
    }

    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(len) => {
                self.inbox.extend_from_slice(&chunk[..len]);
                self.moved = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads what is there, because unread bytes would turn the end into a reset.
    fn read_rest(&mut self) -> io::Result<()> {
        let mut before = None;
        while before != Some(self.inbox.len()) && self.inbox.len() < MOST_UNSENT {
            before = Some(self.inbox.len());
            self.read()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.stream.try_write(&self.outbox) {
                Ok(len) => {
                    self.outbox.drain(..len);
                    self.moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Answers the whole messages of the inbox while there is room for answers.
    fn take_messages(&mut self, server: &Rc<impl Answers>) {
        let inbox = std::mem::take(&mut self.inbox);
        let (mut rest, mut taken) = (&inbox[..], 0);
        while self.has_room()
            && taken < MOST_AT_ONCE
            && let Some((message, after)) = whole_message(rest)
        {
            self.take(server, message);
            (rest, taken) = (after, taken + 1);
        }
        let waits = whole_message(rest).is_some();
        let whole = rest.is_empty() || waits;
        let begun = if rest.len() == inbox.len() { self.begun } else { None };
        self.begun = (!whole).then(|| begun.unwrap_or_else(Instant::now));
        self.inbox = rest.to_vec();
    }

    fn take(&mut self, server: &Rc<impl Answers>, message: &[u8]) {
        let (from, to, link) = (self.from, self.to, Rc::clone(&self.link));
        let asked = Asked { message, from, link: &link, to, transport: Transport::Tcp };
        let mut outside = false;
        let answer = server.answer(&asked, || {
            outside = true;
            let (answered, waiting) = (self.answered.clone(), Rc::clone(&self.waiting));
            Box::new(move |question, answer| drop(answered.send(keep_answer(&waiting, question, answer))))
        });
        self.outside += usize::from(outside);
        answer.iter().for_each(|answer| self.queue(answer));
    }

    fn queue(&mut self, answer: &[u8]) {
        // An answer that is too long for its length field cannot be sent.
        if let Ok(len) = u16::try_from(answer.len()) {
            self.outbox.extend_from_slice(&len.to_be_bytes());
            self.outbox.extend_from_slice(answer);
        }
    }
}

/// The answer, or SERVFAIL if there is no room for it among those that wait.
fn keep_answer(waiting: &Cell<usize>, question: &[u8], answer: &[u8]) -> Vec<u8> {
    let fits = waiting.get() + answer.len() <= MOST_WAITING;
    let answer = if fits { answer.to_vec() } else { servfail(question).unwrap_or_default() };
    waiting.update(|bytes| bytes + answer.len());
    answer
}

/// The first message, and what comes after it.
fn whole_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*len).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_where_their_length_says() {
        assert_eq!(whole_message(&[0, 2, 7, 8, 0, 9]), Some((&[7, 8][..], &[0, 9][..])));
        for partial in [&[][..], &[0], &[0, 2], &[0, 2, 7]] {
            assert_eq!(whole_message(partial), None);
        }
    }

    #[test]
    fn h3_answers_that_nobody_takes_are_kept_up_to_a_limit_then_they_are_short() {
        let question = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        let (waiting, answer) = (Cell::new(0), vec![0; 60_000]);
        let lengths: Vec<_> = (0..64).map(|_| keep_answer(&waiting, &question, &answer).len()).collect();
        assert_eq!(
            (lengths.iter().filter(|len| **len == answer.len()).count(), lengths[63]),
            (4, question.len())
        );
        assert_eq!(waiting.get(), lengths.iter().sum::<usize>());
    }

    #[test]
    fn over_the_limit_a_client_loses_its_own_oldest_idle_connection() {
        let (connections, one) = (Connections::default(), IpAddr::from([10, 0, 0, 1]));
        let entries: Vec<_> = (0..MOST_PER_CLIENT).map(|_| connections.enter(one).unwrap()).collect();
        entries[0].idle_since.set(None);
        connections.enter(one).unwrap();
        assert!(!entries[0].closing.get() && entries[1].closing.get() && !entries[2].closing.get());
        assert_eq!(connections.count(), MOST_PER_CLIENT);
        connections.open.borrow().iter().for_each(|entry| entry.idle_since.set(None));
        assert!(connections.enter(one).is_none());
        assert!(connections.enter([10, 0, 0, 2].into()).is_some());
    }

    #[test]
    fn when_all_places_are_taken_the_greediest_gives_one() {
        let connections = Connections::default();
        let client = |n: usize| IpAddr::from([10, 0, 0, n as u8]);
        let entries: Vec<_> =
            (0..MOST).map(|n| connections.enter(client(n / MOST_PER_CLIENT)).unwrap()).collect();
        connections.enter(client(100)).unwrap();
        assert_eq!(connections.count(), MOST);
        assert_eq!(entries.iter().filter(|entry| entry.closing.get()).count(), 1);
    }
}
