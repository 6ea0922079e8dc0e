//! Questions for those who watch (G11): sent to the clients that listen now, and written nowhere.

use std::cell::RefCell;

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::sync::broadcast::{self, Receiver, Sender};

use crate::protocol::Seen;
use crate::{Asked, Reply, Table};

/// A watcher that is so many questions behind misses some.
const MOST_WAITING: usize = 1024;

impl Seen {
    fn of(table: &Table, asked: &Asked<'_>, reply: &Reply) -> Self {
        let mut seen = Self { from: Some(asked.from), answer: answer(reply), ..Self::default() };
        if let Some(own) = table.owners(asked.from.to_canonical()).next() {
            seen.network = own.network.to_string();
            seen.container = own.container().to_owned();
            seen.asker = own.names().next().unwrap_or(own.container()).to_owned();
        }
        match query(asked.message) {
            Some(query) => {
                seen.name = printable(&query.name().to_ascii());
                seen.rtype = query.query_type().to_string();
            }
            None => seen.name = format!("{} bytes that are no question", asked.message.len()),
        }
        seen
    }
}

/// The asker chooses the octets, and a terminal would obey some of them.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

fn query(message: &[u8]) -> Option<Query> {
    Message::from_vec(message).ok()?.queries.first().cloned()
}

fn answer(reply: &Reply) -> String {
    match reply {
        Reply::Forward(_) => "forwarded".into(),
        Reply::Drop => "dropped".into(),
        Reply::Answer(bytes) | Reply::Error(bytes) => Message::from_vec(bytes).map_or_else(
            |error| error.to_string(),
            |message| {
                let data = message.answers.iter().map(|record| format!(" {}", record.data));
                [mnemonic(message.metadata.response_code)].into_iter().chain(data).collect()
            },
        ),
    }
}

/// As dig writes it (RFC 6895, 2.3).
fn mnemonic(code: ResponseCode) -> String {
    format!("{code:?}").to_ascii_uppercase()
}

/// The clients that watch.
#[derive(Default)]
pub(crate) struct Watchers {
    /// `None` while no client watches, because it has room for all that may wait.
    seen: RefCell<Option<Sender<Seen>>>,
}

impl Watchers {
    pub(crate) fn join(&self) -> Receiver<Seen> {
        self.seen.borrow_mut().get_or_insert_with(|| broadcast::channel(MOST_WAITING).0).subscribe()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.borrow().as_ref().map_or(0, Sender::receiver_count)
    }

    /// Called for each question: without a watcher it must cost no more than this check.
    pub(crate) fn tell(&self, table: &Table, asked: &Asked<'_>, reply: &Reply) {
        let mut seen = self.seen.borrow_mut();
        seen.take_if(|seen| seen.send(Seen::of(table, asked, reply)).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_line_for_people() {
        let seen = Seen {
            from: Some("172.18.0.3".parse().unwrap()),
            network: "mynet".into(),
            asker: "db".into(),
            name: "web.".into(),
            rtype: "A".into(),
            answer: "NOERROR 172.18.0.2".into(),
            ..Seen::default()
        };
        assert_eq!(seen.to_string(), "172.18.0.3 db on mynet: web. A: NOERROR 172.18.0.2");
        assert_eq!(printable("a\u{1b}[2Jb.\u{fc}."), "a?[2Jb.?.");
        assert_eq!(Seen { missed: 7, ..Seen::default() }.to_string(), "… 7 questions came too fast");
    }
}
