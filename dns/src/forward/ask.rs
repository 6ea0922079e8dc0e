//! Asking one upstream server after another, until one answers (F2, F4).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::wire::{PROBE_LABEL, hex, probe_query, random, with_new_id};
use super::{Flight, Forwarder};
use crate::Transport;
use crate::exchange::stream_exchange;
use crate::upstream::{Attempt, PATIENCE, Step};

/// How many late answers are awaited: of servers that were asked, while another has answered.
const MOST_LATE: usize = 16;

/// NS of the root: every server knows or refuses it at once, and it has no client's name. The id differs each time.
const ROOT_QUERY: [u8; 17] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// The outcome of asking one server.
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

impl Forwarder {
    /// F2: asks the next server after a silence or a failure, while the earlier ones may still answer.
    pub(super) async fn ask_in_turn(
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
                attempt.note_failure(server, Instant::now());
                None
            }
        }
    }

    /// F4: any answer shows that the server is alive.
    fn note(&self, transport: Transport, server: SocketAddr, outcome: &Outcome) {
        let (mut state, now) = (self.state.borrow_mut(), Instant::now());
        let health = state.health(transport);
        match outcome {
            Outcome::Unreachable => {
                if health.note_silence(server, now) {
                    state.log_silent(server, now);
                }
            }
            Outcome::Answer(_) | Outcome::Declined => {
                if health.note_answer(server, now) && state.may_log(now) {
                    tracing::info!("server {server} answers again");
                }
            }
        }
    }

    fn note_silence(&self, transport: Transport, asks: &[Ask]) {
        let (mut state, now) = (self.state.borrow_mut(), Instant::now());
        for ask in asks {
            if state.health(transport).note_unanswered(ask.server, ask.since, now) {
                state.log_silent(ask.server, now);
            }
        }
    }

    /// F4: a server that answers late is alive too.
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

    /// Tries whether a server answers anything: one that left a question unanswered, or whose penalty is over.
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
        self.state.borrow_mut().health(transport).end_trial(ask.server);
    }

    fn ask(self: &Rc<Self>, server: SocketAddr, transport: Transport, message: &[u8]) -> Ask {
        let since = Instant::now();
        // A probe uses UDP, whatever the question used.
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

    /// Asks for a random name: if that question comes back, the server forwards to this one (R5).
    async fn probe(self: Rc<Self>, server: SocketAddr) {
        let label = hex(random::<{ PROBE_LABEL / 2 }>());
        self.state.borrow_mut().probes.insert(label, server);
        // The answer does not matter, only whether the question comes back.
        let _ = tokio::time::timeout(PATIENCE, self.sockets.exchange(server, &probe_query(&label))).await;
        self.state.borrow_mut().probes.remove(&label);
    }
}

/// The first outcome; `None` if there is none until then. The timer is checked first, so that a flood of forged replies
/// cannot delay it.
///
/// A server that answers at once needs no timer: starting one costs a system call.
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
