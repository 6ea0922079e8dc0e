//! Requests out, answers in: one send for a batch or a dump, and what the kernel's answers mean.

use netlink_packet_core::NLM_F_DUMP_INTR;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::{ATTEMPTS, Firewall};
use crate::encode::{Reply, Requests, replies};
use crate::error::Error;
use crate::missing::{Feature, subsystem};

/// How many bytes of the send buffer netlink keeps for itself (netlink_sendmsg).
const SEND_RESERVE: usize = 32;

/// nfnetlink's ERESTART, which only the kernel uses, and EINTR.
const RESTART: i32 = 85;
const INTERRUPTED: i32 = Errno::INTR.raw_os_error();

/// What the kernel said to one transaction.
pub(crate) enum Outcome {
    Done,
    /// Another program has changed the ruleset since the generation that was given.
    Changed,
    /// Message numbers (from the first after BATCH_BEGIN) with their errors.
    Refused(Vec<(usize, Errno)>),
}

impl Firewall {
    /// What `fill` reads and changes, in a transaction that the kernel refuses if anything changed in between.
    pub(crate) fn until_undisturbed(
        &mut self,
        doing: &'static str,
        fill: impl Fn(&mut Self, &mut Requests) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            // Numbered when it is sent: the questions of `fill` are sent before it.
            let mut batch = Requests::new(0);
            fill(self, &mut batch)?;
            match self.transact(doing, Some(generation), |requests| requests.append(&batch))? {
                Outcome::Done => return Ok(()),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(refusal(doing, &errors)),
            }
        }
        Err(Error::Restless { doing, attempts: ATTEMPTS })
    }

    /// Asks whether one thing exists.
    pub(super) fn is_there(&mut self, ask: impl FnOnce(&mut Requests)) -> Result<bool, Error> {
        const DOING: &str = "looking for another program's table or chain";
        let mut requests = self.requests();
        ask(&mut requests);
        let mut found = false;
        self.exchange(DOING, &requests, |reply| {
            found |= message(DOING, &reply, &[Errno::NOENT])?.is_some();
            Ok(())
        })?;
        Ok(found)
    }

    /// One question with one answer.
    pub(super) fn ask<T>(
        &mut self,
        doing: &'static str,
        ask: impl FnOnce(&mut Requests),
        read: impl Fn(&Reply<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let mut requests = self.requests();
        ask(&mut requests);
        let mut answer = None;
        self.exchange(doing, &requests, |reply| {
            answer = message(doing, &reply, &[])?.and_then(|reply| read(&reply)).or(answer.take());
            Ok(())
        })?;
        answer.ok_or(Error::Answer { doing })
    }

    /// A transaction that no existing element can make fail.
    pub(super) fn commit(
        &mut self,
        doing: &'static str,
        fill: impl FnOnce(&mut Requests),
    ) -> Result<(), Error> {
        match self.transact(doing, None, fill)? {
            Outcome::Refused(errors) => Err(refusal(doing, &errors)),
            Outcome::Done | Outcome::Changed => Ok(()),
        }
    }

    /// Sends one batch and reads the kernel's answers to it; an empty one is not sent.
    pub(crate) fn transact(
        &mut self,
        doing: &'static str,
        generation: Option<u32>,
        fill: impl FnOnce(&mut Requests),
    ) -> Result<Outcome, Error> {
        let mut batch = self.requests();
        batch.begin(generation);
        fill(&mut batch);
        if batch.count() == 1 {
            return Ok(Outcome::Done);
        }
        let (first, last) = (batch.first(), batch.end());
        let (mut errors, mut done) = (Vec::new(), false);
        self.exchange(doing, &batch, |reply| {
            match reply.errno() {
                Some(0) => done |= reply.sequence == last,
                Some(errno) => {
                    errors.push((reply.sequence.wrapping_sub(first), Errno::from_raw_os_error(errno)))
                }
                None => {}
            }
            Ok(())
        })?;
        let outcome = outcome(doing, &errors, done)?;
        self.commits = self.commits.wrapping_add(u32::from(matches!(outcome, Outcome::Done)));
        Ok(outcome)
    }

    /// Reads a whole dump, again if the kernel says that changes came between.
    pub(crate) fn dump<T>(
        &mut self,
        doing: &'static str,
        ask: impl Fn(&mut Requests),
        mut read: impl FnMut(Reply<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            let mut requests = self.requests();
            ask(&mut requests);
            let (mut found, mut whole, mut disturbed) = (Vec::new(), false, false);
            self.exchange(doing, &requests, |reply| {
                disturbed |= reply.flags & NLM_F_DUMP_INTR != 0 || reply.errno() == Some(INTERRUPTED);
                match message(doing, &reply, &[Errno::NOENT, Errno::INTR])? {
                    Some(message) => found.push(read(message).ok_or(Error::Answer { doing })?),
                    None => whole = true,
                }
                Ok(())
            })?;
            if whole && !disturbed {
                return Ok(found);
            }
        }
        Err(Error::Restless { doing, attempts: ATTEMPTS })
    }

    /// Sends the requests and reads until the queue is empty.
    pub(crate) fn exchange(
        &mut self,
        doing: &'static str,
        requests: &Requests,
        mut read: impl FnMut(Reply<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.is_usable {
            return Err(Error::Missing(Feature::nfnetlink()));
        }
        self.make_room(requests.bytes().len());
        let bytes = requests.bytes().len();
        rustix::net::send(&self.socket, requests.bytes(), SendFlags::empty())
            .map_err(|errno| Error::Send { doing, bytes, errno })?;
        let first = requests.first();
        self.messages += u64::from(requests.count());
        let mut failed = None;
        while let Some(length) = self.receive(doing)? {
            for reply in replies(&self.buffer[..length]) {
                let reply = reply.ok_or(Error::Answer { doing })?;
                let nth = reply.sequence.wrapping_sub(first);
                if nth < requests.count() && failed.is_none() {
                    let missing = absence(requests, &reply, nth);
                    failed =
                        missing.map_or_else(|| read(reply), |missing| Err(Error::Missing(missing))).err();
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The length of the next answer, `None` when there is no more.
    fn receive(&mut self, doing: &'static str) -> Result<Option<usize>, Error> {
        loop {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, whole)) if whole <= length => return Ok(Some(length)),
                Ok(_) => return Err(Error::Answer { doing }),
                Err(Errno::AGAIN) => return Ok(None),
                // Some answers did not fit; those that did, errors first, are still to be read.
                Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(errno) => return Err(Error::Receive { doing, errno }),
            }
        }
    }

    /// Enlarges the send buffer where needed; without the privilege, as far as `net.core.wmem_max` allows.
    pub(super) fn make_room(&mut self, bytes: usize) {
        let wanted = bytes + SEND_RESERVE;
        if wanted > self.room {
            // If this is refused, the send that follows reports it.
            let _ = sockopt::set_socket_send_buffer_size_force(&self.socket, wanted)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&self.socket, wanted));
            self.room = sockopt::socket_send_buffer_size(&self.socket).unwrap_or(self.room);
        }
    }
}

/// The part of the kernel that should have answered, if it is not there.
fn absence(requests: &Requests, reply: &Reply<'_>, nth: u32) -> Option<Feature> {
    let errno = Errno::from_raw_os_error(reply.errno().filter(|errno| *errno != 0)?);
    subsystem(requests.subsystem(), nth == 0, errno)
}

/// A message that is neither an acknowledgement nor an end; the errors in `fine` count as such.
pub(crate) fn message<'a>(
    doing: &'static str,
    reply: &Reply<'a>,
    fine: &[Errno],
) -> Result<Option<Reply<'a>>, Error> {
    match reply.errno() {
        None => Ok(Some(*reply)),
        Some(0) => Ok(None),
        Some(errno) => match Errno::from_raw_os_error(errno) {
            errno if fine.contains(&errno) => Ok(None),
            errno => Err(Error::Kernel { doing, errno }),
        },
    }
}

/// What the errors of a batch mean; message 0 is BATCH_BEGIN and stands for the whole.
fn outcome(doing: &'static str, errors: &[(u32, Errno)], done: bool) -> Result<Outcome, Error> {
    match errors.iter().find(|(message, _)| *message == 0) {
        Some((_, errno)) if errno.raw_os_error() == RESTART => Ok(Outcome::Changed),
        Some((_, errno)) => Err(Error::Kernel { doing, errno: *errno }),
        None if !errors.is_empty() => Ok(Outcome::Refused(
            errors.iter().map(|(message, errno)| (*message as usize - 1, *errno)).collect(),
        )),
        None if done => Ok(Outcome::Done),
        None => Err(Error::Answer { doing }),
    }
}

/// The error of a transaction whose messages need not be told apart.
pub(super) fn refusal(doing: &'static str, errors: &[(usize, Errno)]) -> Error {
    match errors.first() {
        Some((_, Errno::NOENT)) => Error::Absent,
        Some((_, errno)) => Error::Kernel { doing, errno: *errno },
        None => Error::Answer { doing },
    }
}

/// The same for a transaction that is not about rnet's own tables.
pub(crate) fn foreign_refusal(doing: &'static str, errors: &[(usize, Errno)]) -> Error {
    errors.first().map_or(Error::Answer { doing }, |(_, errno)| Error::Kernel { doing, errno: *errno })
}
