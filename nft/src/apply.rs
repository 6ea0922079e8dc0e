//! The one file that talks to the kernel's nf_tables and conntrack, by one socket.
//!
//! nfnetlink works inside sendmsg(2): when it returns, every answer lies in the socket's queue (a dump goes on
//! inside recvmsg(2)). So nothing here ever waits: an empty queue means that all has been said.

mod interop;
mod trace;

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::NLM_F_DUMP_INTR;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::conntrack::{Flow, Tracked, count, filters};
use crate::element::{Element, Entry, Owner};
use crate::encode::{Reply, Requests, replies};
use crate::error::{Error, or_empty};
use crate::mac_check::{Found, MacCheck, Subject};
use crate::missing::{Feature, lacking, subsystem};
use crate::ruleset::{Ruleset, Set, Table};
use crate::stale::{self, Stale};
use crate::state::{Fingerprint, State, TableState};

pub use interop::{LastChange, last_change, watch};
pub use trace::Tracer;

/// The kernel's largest answer: a dump gives up to 32 KiB, an error repeats the message that caused it.
const READ: usize = 128 << 10;
/// What netlink keeps of the send buffer for itself (netlink_sendmsg).
const SEND_RESERVE: usize = 32;
/// Questions in one send, so that the answers fit into the smallest receive buffer.
const QUESTIONS: usize = 64;
/// An answer to a question takes as long as so many elements of a dump.
const DUMP_RATIO: usize = 8;
/// What the constant part of a rebuild takes at most, and one element.
const RULES_SIZE: usize = 32 << 10;
const ELEMENT_SIZE: usize = 192;
/// nfnetlink's ERESTART, which only the kernel uses, and EINTR.
const RESTART: i32 = 85;
const INTERRUPTED: i32 = Errno::INTR.raw_os_error();
/// How often something is tried again that others disturbed by their own changes.
pub(crate) const ATTEMPTS: u32 = 100;

/// One netfilter socket, in the network namespace of the thread that opened it.
///
/// After a delete its close waits up to 20 ms inside the kernel: keep it to the end, or hand its descriptor
/// to the process that waits anyway.
#[derive(Debug)]
pub struct Firewall {
    socket: OwnedFd,
    /// False in a kernel without netfilter sockets.
    is_usable: bool,
    buffer: Vec<u8>,
    messages: u64,
    commits: u32,
    room: usize,
}

/// What came of a rebuild.
#[derive(Debug)]
pub struct Rebuilt {
    /// What identifies the constant part.
    pub state: State,
    /// The elements that are not in it.
    pub left_out: Vec<LeftOut>,
}

/// An element that a ruleset cannot hold, or not beside the others.
#[derive(Debug)]
pub struct LeftOut {
    /// The element.
    pub element: Element,
    /// Whose it is.
    pub owner: Owner,
    /// Why it is not there.
    pub why: Error,
}

/// An element that was looked for by its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Absent,
    /// There, with the owner that its comment names.
    Held(Option<Owner>),
}

/// The elements of a set: their keys and owners.
type Held = HashMap<Vec<u8>, Option<Owner>>;

/// What the kernel said to one transaction.
pub(crate) enum Outcome {
    Done,
    /// Others have changed the ruleset since the generation that was given.
    Changed,
    /// Message numbers (from the first after BATCH_BEGIN) with their errors.
    Refused(Vec<(usize, Errno)>),
}

impl Firewall {
    /// Opens a socket in the calling thread's network namespace. Where the kernel has none of the kind, there is nothing in the
    /// ruleset, and nothing can be added.
    pub fn open() -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC;
        let failed = |errno| Error::Socket { errno };
        let protocol = Some(netlink::NETFILTER);
        let opened = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol);
        let is_usable = opened.as_ref().err() != Some(&Errno::PROTONOSUPPORT);
        let socket = match opened {
            // Nothing is ever sent by it.
            _ if !is_usable => rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None),
            other => other,
        };
        let socket = socket.map_err(failed)?;
        let room = sockopt::socket_send_buffer_size(&socket).map_err(failed)?;
        Ok(Self { socket, is_usable, buffer: vec![0; READ], messages: 0, commits: 0, room })
    }

    /// One in a kernel that has no netfilter sockets.
    #[cfg(test)]
    pub(crate) fn without_netfilter() -> Self {
        Self { is_usable: false, ..Self::open().unwrap() }
    }

    /// Adds elements in one transaction: all of them or none.
    ///
    /// A [`Element::Publish`] whose key is there already is refused with [`Error::Taken`], whatever it leads
    /// to. Any other element may be there; if it is a container's and belongs to somebody else, who must be
    /// gone, it changes hands. [`Error::Absent`] means that the tables must be rebuilt.
    pub fn add(&mut self, elements: &[(Element, Owner)]) -> Result<(), Error> {
        const DOING: &str = "adding elements";
        let mut entries = entries(elements)?;
        // Two host ports may lead to one endpoint; a host port given twice is a mistake to be told.
        drop_doubles(&mut entries, |element| !element.is_claim());
        let (shared, own): (Vec<&Owned<'_>>, Vec<_>) =
            entries.iter().partition(|owned| owned.element.is_shared());
        let fill = |batch: &mut Requests| {
            batch.create_elements(&by_set(own), true);
            batch.create_elements(&by_set(shared), false);
        };
        match self.transact(DOING, None, fill)? {
            Outcome::Refused(_) => self.add_singly(&entries),
            _ => Ok(()),
        }
    }

    /// The owners of elements, read by key: the cost does not depend on how many others there are.
    ///
    /// `None` for what is absent, carries no comment of rnet's or could never be in a ruleset ([`Element::fault`]).
    pub fn owners(&mut self, elements: &[Element]) -> Result<Vec<Option<Owner>>, Error> {
        let entries: Vec<Option<Entry>> = elements.iter().map(|element| element.entry().ok()).collect();
        let (found, _) = or_empty(self.look_up(entries.iter().flatten()))?;
        let mut found = found.into_iter().map(Presence::owner);
        Ok(entries.iter().map(|entry| entry.as_ref().and_then(|_| found.next().flatten())).collect())
    }

    /// Removes those of the elements that are there and belong to their owner, in one transaction.
    ///
    /// Nobody's change can come between the look and the delete. Absent elements and tables are fine, and so are
    /// elements that no ruleset can hold. Returns the generation that the deletion followed upon, so that its own is the
    /// next one; `None` if there was nothing to delete.
    pub fn remove(&mut self, elements: &[(Element, Owner)]) -> Result<Option<u32>, Error> {
        self.withdraw(elements, &[])
    }

    /// The same for a container that leaves addresses behind, which are stale from then on.
    pub fn withdraw(&mut self, elements: &[(Element, Owner)], left: &[IpAddr]) -> Result<Option<u32>, Error> {
        const DOING: &str = "removing elements";
        let mut entries = possible_entries(elements, &mut Vec::new());
        drop_doubles(&mut entries, |_| true);
        let entries: Vec<(Entry, Owner)> =
            entries.into_iter().map(|owned| (owned.entry, owned.owner)).collect();
        let left: Vec<Stale> = left.iter().map(|address| Stale::left(*address)).collect();
        self.remove_and_leave(DOING, &entries, &left)
    }

    pub(crate) fn remove_entries(&mut self, entries: &[(Entry, Owner)]) -> Result<Option<u32>, Error> {
        self.remove_and_leave("removing elements", entries, &[])
    }

    fn remove_and_leave(
        &mut self,
        doing: &'static str,
        entries: &[(Entry, Owner)],
        left: &[Stale],
    ) -> Result<Option<u32>, Error> {
        let marks: Vec<Entry> = left.iter().map(Stale::entry).collect();
        for _ in 0..ATTEMPTS {
            let asked = entries.iter().map(|(entry, _)| entry).chain(&marks);
            let (mut found, generation) = match self.look_up(asked) {
                Err(Error::Missing(_)) => return Ok(None),
                other => other?,
            };
            let marked = found.split_off(entries.len());
            let own = entries.iter().zip(found);
            let own = own.filter(|((_, owner), found)| *found == Presence::Held(Some(*owner)));
            let mut own: Vec<&Entry> = own.map(|((entry, _), _)| entry).collect();
            if own.is_empty() {
                return Ok(None);
            }
            own.sort_by_key(|entry| entry.set.name);
            let outcome = self.transact(doing, Some(generation), |batch| {
                batch.delete_elements(&own);
                left.iter().zip(&marked).for_each(|(stale, found)| {
                    stale::replace(batch, stale, *found != Presence::Absent);
                });
            });
            match outcome? {
                Outcome::Done => return Ok(Some(generation)),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(refusal(doing, &errors)),
            }
        }
        Err(Error::Restless { doing, attempts: ATTEMPTS })
    }

    /// What `fill` reads and changes, with nobody's change in between.
    pub(crate) fn until_undisturbed(
        &mut self,
        doing: &'static str,
        fill: impl Fn(&mut Self, &mut Requests) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            // Numbered by what is sent first: the questions of `fill` come before.
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

    /// Puts the whole ruleset into the kernel with these elements, these stale addresses and no others, in one transaction; again if others
    /// change any ruleset before its state is read.
    ///
    /// A process that may not enlarge its send buffer as it likes (no CAP_NET_ADMIN in the initial user
    /// namespace) sends what does not fit into `net.core.wmem_max` in further transactions.
    ///
    /// An element that cannot be in it is left out and told of: it must not keep all others from being there.
    pub fn rebuild(&mut self, elements: &[(Element, Owner)], stale: &[Stale]) -> Result<Rebuilt, Error> {
        let mut left_out = Vec::new();
        let mut entries = possible_entries(elements, &mut left_out);
        drop_double_claims(&mut entries, &mut left_out);
        let state = match self.rebuild_whole(&entries, stale) {
            Err(Error::Kernel { errno, .. }) if is_about_an_element(errno) => {
                self.drop_refused(&mut entries, &mut left_out)?;
                self.rebuild_whole(&entries, stale)?
            }
            other => other?,
        };
        Ok(Rebuilt { state, left_out })
    }

    /// Drops the elements that the kernel refuses beside the others: they are put in once, each in a message of its own,
    /// by which the kernel tells of all that it refuses.
    fn drop_refused(
        &mut self,
        entries: &mut Vec<Owned<'_>>,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<(), Error> {
        const DOING: &str = "looking for elements that cannot be";
        self.make_room(RULES_SIZE + entries.len() * ELEMENT_SIZE);
        for _ in 0..ATTEMPTS {
            let mut first = 0;
            let (generation, present) = (self.generation()?, self.present_tables()?);
            let outcome = self.transact(DOING, Some(generation), |batch| {
                present.iter().for_each(|table| batch.delete_table(table));
                batch.create_tables(&Ruleset::constant());
                first = batch.count() as usize - 1;
                entries.iter().for_each(|owned| batch.create_element(&owned.entry, owned.owner, false));
            })?;
            let errors = match outcome {
                Outcome::Done => return Ok(()),
                Outcome::Changed => continue,
                Outcome::Refused(errors) => errors,
            };
            let refused: HashMap<usize, Errno> =
                errors.iter().filter_map(|(at, errno)| Some((at.checked_sub(first)?, *errno))).collect();
            if refused.is_empty() {
                return Err(refusal(DOING, &errors));
            }
            leave_out(entries, &refused, left_out);
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    fn rebuild_whole(&mut self, entries: &[Owned<'_>], stale: &[Stale]) -> Result<State, Error> {
        const DOING: &str = "rebuilding the ruleset";
        let entries = by_set(entries.iter().collect());
        self.make_room(RULES_SIZE + entries.len() * ELEMENT_SIZE);
        let fitting = self.room.saturating_sub(RULES_SIZE) / ELEMENT_SIZE;
        let (now, later) = entries.split_at(entries.len().min(fitting));
        let later: Vec<_> = later.chunks(fitting.max(1)).collect();
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let present = self.present_tables()?;
            // Only what is there: a table that is made only to be deleted costs the next transaction a grace period.
            let replaced = self.transact(DOING, Some(before), |batch| {
                present.iter().for_each(|table| batch.delete_table(table));
                batch.create_tables(&Ruleset::constant());
                batch.create_elements(now, false);
                stale.iter().for_each(|stale| stale::replace(batch, stale, false));
            });
            let refused = match replaced {
                Ok(Outcome::Done) => None,
                Ok(Outcome::Changed) => continue,
                Ok(Outcome::Refused(errors)) => Some(refusal(DOING, &errors)),
                Err(error) => Some(error),
            };
            if let Some(error) = refused {
                return self.require_rules().and(Err(error));
            }
            later
                .iter()
                .try_for_each(|chunk| self.commit(DOING, |batch| batch.create_elements(chunk, false)))?;
            // Read while somebody else wrote, it might be the state of a ruleset that was flushed again.
            let state = self.state()?;
            if self.generation()? == before.wrapping_add(1 + later.len() as u32) {
                return state.ok_or(Error::Absent);
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// Fails with [`Error::Missing`] if this kernel could not take the rules, by trying. Changes nothing: a transaction without its
    /// end is taken back.
    pub fn require_rules(&mut self) -> Result<(), Error> {
        const DOING: &str = "trying the rules";
        let mut batch = self.requests();
        batch.begin(None);
        batch.create_tables(&Ruleset::constant());
        let first = batch.first();
        let mut refused = None;
        self.exchange(DOING, &batch, |reply| {
            let errno = reply.errno().filter(|errno| *errno != 0).map(Errno::from_raw_os_error);
            refused = refused.or(errno.map(|errno| (reply.sequence.wrapping_sub(first) as usize, errno)));
            Ok(())
        })?;
        let Some((nth, errno)) = refused else { return Ok(()) };
        let feature = lacking(batch.bytes(), nth);
        Err(feature.map_or(Error::Kernel { doing: DOING, errno }, Error::Missing))
    }

    /// Removes both tables; absent ones are fine.
    pub fn drop_tables(&mut self) -> Result<(), Error> {
        or_empty(self.drop_present_tables())
    }

    /// The number of the last change to any ruleset of this namespace, ours or not (NFT_MSG_GETGEN).
    pub fn generation(&mut self) -> Result<u32, Error> {
        const DOING: &str = "reading the generation";
        self.ask(DOING, Requests::get_generation, |reply| reply.generation())
    }

    /// What identifies the constant part in the kernel; `None` if one of the tables is missing.
    pub fn state(&mut self) -> Result<Option<State>, Error> {
        let tables = Ruleset::constant().tables;
        let states = tables.iter().map(|table| self.table_state(table)).collect::<Result<_, _>>()?;
        let states: Option<Vec<TableState>> = states;
        Ok(states.map(|tables| State { tables }))
    }

    /// All elements of ours with the owners that their comments name.
    pub fn elements(&mut self) -> Result<Vec<(Element, Option<Owner>)>, Error> {
        let mut found = Vec::new();
        for set in Ruleset::constant().sets().filter(|set| set.dynamic.is_none()) {
            let ask = |requests: &mut Requests| requests.dump_elements(set);
            let elements = or_empty(self.dump("reading elements", ask, |reply| reply.elements(set)))?;
            found.extend(elements.into_iter().flatten());
        }
        Ok(whole_elements(&found))
    }

    /// Deletes the conntrack entries that these flows make stale, and no others; returns their number. What is not
    /// translated is about the host only if it went to an address that is the host's: that is asked once for each.
    pub fn forget(
        &mut self,
        flows: &[Flow],
        mut is_local: impl FnMut(IpAddr) -> bool,
    ) -> Result<usize, Error> {
        let mut known = HashMap::new();
        let mut is_local = |ip| *known.entry(ip).or_insert_with(|| is_local(ip));
        let stale = self.find_tracked(flows, &mut is_local)?;
        self.delete_all_tracked(&stale)
    }

    pub(crate) fn delete_all_tracked(&mut self, tracked: &[Tracked]) -> Result<usize, Error> {
        tracked.chunks(QUESTIONS).map(|chunk| self.delete_tracked(chunk)).sum()
    }

    /// How many conntrack entries there are.
    pub fn tracked(&mut self) -> Result<u32, Error> {
        self.ask("counting conntrack entries", Requests::count_tracked, count)
    }

    /// Puts the rules of `macspoofchk` into the shared table `bridge nat`, in place of those that are there already.
    pub fn check_macs(&mut self, checks: &[MacCheck]) -> Result<(), Error> {
        checks.chunks(QUESTIONS).try_for_each(|checks| self.check_some_macs(checks))
    }

    /// Removes a subject's jump and chains and nothing else; true if there was anything.
    pub fn uncheck_mac(&mut self, subject: &Subject) -> Result<bool, Error> {
        const DOING: &str = "removing the rules of macspoofchk";
        for _ in 0..ATTEMPTS {
            let generation = or_empty(self.generation())?;
            let chains = or_empty(self.mac_chains(subject))?;
            if chains.is_empty() {
                return Ok(false);
            }
            let jumps = self.mac_jumps(std::slice::from_ref(subject))?;
            let outcome = self.transact(DOING, Some(generation), |batch| {
                jumps.iter().for_each(|handle| batch.delete_bridge_nat_jump(*handle));
                batch.delete_bridge_nat_chains(&chains);
            });
            match outcome? {
                Outcome::Done => return Ok(true),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(foreign_refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// True if a check's rules are in the kernel, each where it belongs and none beside them.
    pub fn checks_mac(&mut self, check: &MacCheck) -> Result<bool, Error> {
        let mut found = self.mac_rules(Requests::dump_bridge_nat_jumps)?;
        found.retain(|rule| rule.comment.as_deref() == Some(&check.subject.comment()));
        for chain in [check.subject.chain(), check.subject.mac_chain()] {
            found.extend(self.mac_rules(|requests| requests.dump_bridge_nat_rules(&chain))?);
        }
        let found = found.into_iter().map(|rule| (rule.comment, rule.expressions));
        Ok(found.eq(check.rules().map(|rule| (Some(rule.comment), Some(rule.expressions)))))
    }

    /// True if anything of a subject's is in the kernel.
    pub fn knows_mac_check(&mut self, subject: &Subject) -> Result<bool, Error> {
        Ok(!or_empty(self.mac_chains(subject))?.is_empty())
    }

    /// True if the chain is there that the rules of `macspoofchk` hang on.
    pub fn has_bridge_nat(&mut self) -> Result<bool, Error> {
        self.is_there(Requests::get_bridge_nat)
    }

    /// How many transactions were committed so far: each has raised the generation by one.
    pub fn commits(&self) -> u32 {
        self.commits
    }

    /// How many netlink messages were sent so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

impl AsFd for Firewall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What an answer says of `entry`. Asked for an interval, the kernel tells of any that the first key lies in.
fn presence(entry: &Entry, elements: &[(Entry, Option<Owner>)]) -> Presence {
    let is_it = |found: &Entry| entry.end.is_none() || (&found.key, &found.end) == (&entry.key, &entry.end);
    if elements.iter().any(|(found, _)| is_it(found)) {
        return Presence::Held(elements.iter().find_map(|(_, owner)| *owner));
    }
    Presence::Absent
}

/// What is to be added or removed: one kernel element of an element, and its owner.
struct Owned<'a> {
    element: &'a Element,
    entry: Entry,
    owner: Owner,
}

impl Presence {
    pub(crate) fn owner(self) -> Option<Owner> {
        match self {
            Self::Absent => None,
            Self::Held(owner) => owner,
        }
    }
}

impl Firewall {
    /// One element to a message: the kernel says which of them it refuses.
    fn add_singly(&mut self, entries: &[Owned<'_>]) -> Result<(), Error> {
        const DOING: &str = "adding elements";
        let fill = |batch: &mut Requests| {
            for Owned { element, entry, owner } in entries {
                batch.create_element(entry, *owner, !element.is_shared());
            }
        };
        match self.transact(DOING, None, fill)? {
            Outcome::Refused(errors) => self.add_again(entries, errors),
            _ => Ok(()),
        }
    }

    /// Judges a refused add. What only is there already is looked at, and taken over from whoever had it.
    fn add_again(&mut self, entries: &[Owned<'_>], errors: Vec<(usize, Errno)>) -> Result<(), Error> {
        const DOING: &str = "taking over elements";
        self.judge(entries, &errors)?;
        for _ in 0..ATTEMPTS {
            let (found, generation) = self.look_up(entries.iter().map(|owned| &owned.entry))?;
            refuse_held_claims(entries, &found)?;
            let fill = |batch: &mut Requests| {
                entries.iter().zip(&found).for_each(|(owned, found)| take_over(batch, owned, *found));
            };
            match self.transact(DOING, Some(generation), fill)? {
                Outcome::Done => return Ok(()),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// Turns the errors of an add into ours, unless all of them are about what may be there already.
    fn judge(&mut self, entries: &[Owned<'_>], errors: &[(usize, Errno)]) -> Result<(), Error> {
        let told = errors.iter().filter_map(|(at, errno)| Some((entries.get(*at)?.element, *errno)));
        let told: Vec<(&Element, Errno)> = told.collect();
        if let Some((claim, _)) = told.iter().find(|(e, errno)| e.is_claim() && *errno == Errno::EXIST) {
            let holder = self.owners(std::slice::from_ref(*claim))?.pop().flatten();
            return Err(Error::Taken { element: (*claim).clone(), holder });
        }
        match told.iter().find(|(_, errno)| *errno != Errno::EXIST) {
            Some((_, Errno::NOENT)) => Err(Error::Absent),
            Some((element, errno)) => Err(Error::Refused { element: (*element).clone(), errno: *errno }),
            None => Ok(()),
        }
    }

    fn check_some_macs(&mut self, checks: &[MacCheck]) -> Result<(), Error> {
        const DOING: &str = "adding the rules of macspoofchk";
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let mut known = Vec::new();
            for check in checks {
                // A jump cannot be there without the chain that it leads to.
                if self.knows_mac_check(&check.subject)? {
                    known.push(check.subject.clone());
                }
            }
            let jumps = if known.is_empty() { Vec::new() } else { self.mac_jumps(&known)? };
            // What is new cannot be doubled by what others do meanwhile.
            let generation = (!known.is_empty()).then_some(generation);
            let outcome = self.transact(DOING, generation, |batch| {
                batch.share_bridge_nat();
                jumps.iter().for_each(|handle| batch.delete_bridge_nat_jump(*handle));
                checks.iter().for_each(|check| batch.create_mac_check(check));
            });
            match outcome? {
                Outcome::Done => return Ok(()),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(foreign_refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    /// The names of a subject's chains that are there.
    fn mac_chains(&mut self, subject: &Subject) -> Result<Vec<String>, Error> {
        let mut chains = Vec::new();
        for chain in [subject.chain(), subject.mac_chain()] {
            if self.is_there(|requests| requests.get_bridge_nat_chain(&chain))? {
                chains.push(chain);
            }
        }
        Ok(chains)
    }

    /// The handles of the rules in the shared chain that bear these subjects' comments.
    fn mac_jumps(&mut self, subjects: &[Subject]) -> Result<Vec<u64>, Error> {
        let comments: HashSet<String> = subjects.iter().map(Subject::comment).collect();
        let rules = self.mac_rules(Requests::dump_bridge_nat_jumps)?.into_iter();
        let own =
            rules.filter(|rule| rule.comment.as_ref().is_some_and(|comment| comments.contains(comment)));
        Ok(own.map(|rule| rule.handle).collect())
    }

    fn mac_rules(&mut self, ask: impl Fn(&mut Requests)) -> Result<Vec<Found>, Error> {
        self.dump("reading the rules of macspoofchk", ask, |reply| reply.mac_check_rule())
    }

    /// Asks for one thing that may be absent.
    fn is_there(&mut self, ask: impl FnOnce(&mut Requests)) -> Result<bool, Error> {
        const DOING: &str = "looking for a table or chain of others";
        let mut requests = self.requests();
        ask(&mut requests);
        let mut found = false;
        self.exchange(DOING, &requests, |reply| {
            found |= message(DOING, &reply, &[Errno::NOENT])?.is_some();
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads elements by key, and the generation before.
    fn look_up<'e>(
        &mut self,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> Result<(Vec<Presence>, u32), Error> {
        let generation = self.generation()?;
        let entries: Vec<&Entry> = entries.collect();
        let dumped = self.dump_crowded(&entries)?;
        let (mut found, mut open) = (vec![Presence::Absent; entries.len()], Vec::new());
        for (at, entry) in entries.iter().enumerate() {
            match dumped.get(entry.set.name) {
                Some(held) => {
                    found[at] = held.get(&entry.key).map_or(Presence::Absent, |o| Presence::Held(*o))
                }
                None => open.push(at),
            }
        }
        for chunk in open.chunks(QUESTIONS) {
            let asked: Vec<&Entry> = chunk.iter().map(|at| entries[*at]).collect();
            chunk.iter().zip(self.ask_for(&asked)?).for_each(|(at, presence)| found[*at] = presence);
        }
        Ok((found, generation))
    }

    /// Reads whole those sets of which so much is asked that this is faster.
    fn dump_crowded(&mut self, entries: &[&Entry]) -> Result<HashMap<&'static str, Held>, Error> {
        let mut asked: HashMap<&'static str, (&'static Set, usize)> = HashMap::new();
        if entries.len() > QUESTIONS {
            entries.iter().for_each(|entry| asked.entry(entry.set.name).or_insert((entry.set, 0)).1 += 1);
        }
        let mut dumped = HashMap::new();
        for (set, asked) in asked.into_values().filter(|(_, asked)| *asked > QUESTIONS) {
            if self.size(set)?.is_some_and(|size| size < asked * DUMP_RATIO) {
                let elements = self.dump_set(set)?;
                dumped.insert(
                    set.name,
                    elements.into_iter().map(|(entry, owner)| (entry.key, owner)).collect(),
                );
            }
        }
        Ok(dumped)
    }

    /// How many elements a set has; `None` if it is absent or the kernel (before 6.15) does not tell.
    fn size(&mut self, set: &Set) -> Result<Option<usize>, Error> {
        const DOING: &str = "reading a set's size";
        let mut requests = self.requests();
        requests.get_set(set);
        let mut size = None;
        self.exchange(DOING, &requests, |reply| {
            size = size.or(message(DOING, &reply, &[Errno::NOENT])?.and_then(|set| set.set_size()));
            Ok(())
        })?;
        Ok(size.map(|size| size as usize))
    }

    /// All elements of one set; none if it is absent.
    pub(crate) fn dump_set(&mut self, set: &'static Set) -> Result<Vec<(Entry, Option<Owner>)>, Error> {
        let ask = |requests: &mut Requests| requests.dump_elements(set);
        let parts = self.dump("reading elements", ask, |reply| reply.elements(set))?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Those of the entries that are there, as they are.
    pub(crate) fn found(&mut self, entries: &[&Entry]) -> Result<Vec<(Entry, Option<Owner>)>, Error> {
        const DOING: &str = "looking up elements";
        let mut requests = self.requests();
        let first = requests.first();
        entries.iter().for_each(|entry| requests.get_element(entry));
        let mut found = Vec::new();
        self.exchange(DOING, &requests, |reply| {
            let at = reply.sequence.wrapping_sub(first) as usize;
            if let Some(message) = message(DOING, &reply, &[Errno::NOENT])? {
                found.extend(message.elements(entries[at].set).ok_or(Error::Answer { doing: DOING })?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    pub(crate) fn ask_for(&mut self, entries: &[&Entry]) -> Result<Vec<Presence>, Error> {
        const DOING: &str = "looking up elements";
        let mut requests = self.requests();
        let first = requests.first();
        entries.iter().for_each(|entry| requests.get_element(entry));
        let mut found = vec![Presence::Absent; entries.len()];
        self.exchange(DOING, &requests, |reply| {
            let at = reply.sequence.wrapping_sub(first) as usize;
            if let Some(message) = message(DOING, &reply, &[Errno::NOENT])? {
                let elements = message.elements(entries[at].set).ok_or(Error::Answer { doing: DOING })?;
                found[at] = presence(entries[at], &elements);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn drop_present_tables(&mut self) -> Result<(), Error> {
        const DOING: &str = "removing the tables";
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let present = self.present_tables()?;
            let delete = |batch: &mut Requests| present.iter().for_each(|table| batch.delete_table(table));
            match self.transact(DOING, Some(generation), delete)? {
                Outcome::Done => return Ok(()),
                Outcome::Changed => {}
                Outcome::Refused(errors) => return Err(refusal(DOING, &errors)),
            }
        }
        Err(Error::Restless { doing: DOING, attempts: ATTEMPTS })
    }

    fn present_tables(&mut self) -> Result<Vec<&'static Table>, Error> {
        let mut present = Vec::new();
        for table in Ruleset::constant().tables {
            present.extend(self.table(table)?.map(|_| *table));
        }
        Ok(present)
    }

    /// A table's flags, if it is there.
    fn table(&mut self, table: &Table) -> Result<Option<u32>, Error> {
        const DOING: &str = "reading the tables";
        let mut requests = self.requests();
        requests.get_table(table);
        let mut found = None;
        self.exchange(DOING, &requests, |reply| {
            found = found.or(message(DOING, &reply, &[Errno::NOENT])?.and_then(|table| table.table_flags()));
            Ok(())
        })?;
        Ok(found)
    }

    fn table_state(&mut self, table: &Table) -> Result<Option<TableState>, Error> {
        const DOING: &str = "reading the rules";
        let Some(flags) = self.table(table)? else { return Ok(None) };
        let ask = |requests: &mut Requests| requests.dump_rules(table);
        let rules = self.dump(DOING, ask, |reply| reply.rule())?;
        let rules = rules.iter().fold(Fingerprint::new(), |all, rule| all.with(*rule));
        Ok(Some(TableState { flags, rules }))
    }

    pub(crate) fn find_tracked(
        &mut self,
        flows: &[Flow],
        is_local: &mut impl FnMut(IpAddr) -> bool,
    ) -> Result<Vec<Tracked>, Error> {
        const DOING: &str = "reading conntrack entries";
        let mut stale: Vec<Tracked> = Vec::new();
        for filter in filters(flows, self.tracked()?) {
            let ask = |requests: &mut Requests| requests.dump_tracked(filter);
            let mut is_stale = |tracked: &Tracked| tracked.is_stale(flows, is_local);
            let read = |reply: Reply<'_>| Some(Tracked::parse(&reply).filter(&mut is_stale));
            stale.extend(self.dump(DOING, ask, read)?.into_iter().flatten());
        }
        Ok(stale)
    }

    /// One question with one answer.
    fn ask<T>(
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

    fn delete_tracked(&mut self, tracked: &[Tracked]) -> Result<usize, Error> {
        const DOING: &str = "deleting conntrack entries";
        let mut requests = self.requests();
        tracked.iter().for_each(|tracked| requests.delete_tracked(tracked));
        let mut deleted = 0;
        self.exchange(DOING, &requests, |reply| {
            // ENOENT: it ended by itself, or two filters found it.
            message(DOING, &reply, &[Errno::NOENT])?;
            deleted += usize::from(reply.errno() == Some(0));
            Ok(())
        })?;
        Ok(deleted)
    }

    pub(crate) fn requests(&self) -> Requests {
        Requests::new(self.messages as u32)
    }

    /// A transaction that nobody's elements can stand against.
    fn commit(&mut self, doing: &'static str, fill: impl FnOnce(&mut Requests)) -> Result<(), Error> {
        match self.transact(doing, None, fill)? {
            Outcome::Refused(errors) => Err(refusal(doing, &errors)),
            Outcome::Done | Outcome::Changed => Ok(()),
        }
    }

    /// Sends one batch and reads what the kernel has to say to it; an empty one is not sent.
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

    /// Enlarges the send buffer if it must be; without the privilege, as far as `net.core.wmem_max` allows.
    fn make_room(&mut self, bytes: usize) {
        let wanted = bytes + SEND_RESERVE;
        if wanted > self.room {
            // What is refused here is told by the send that follows.
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
fn refusal(doing: &'static str, errors: &[(usize, Errno)]) -> Error {
    match errors.first() {
        Some((_, Errno::NOENT)) => Error::Absent,
        Some((_, errno)) => Error::Kernel { doing, errno: *errno },
        None => Error::Answer { doing },
    }
}

/// The same where nothing is said of our own tables.
pub(crate) fn foreign_refusal(doing: &'static str, errors: &[(usize, Errno)]) -> Error {
    errors.first().map_or(Error::Answer { doing }, |(_, errno)| Error::Kernel { doing, errno: *errno })
}

/// The entries of those elements that a ruleset can hold, and which it cannot.
fn possible_entries<'e>(elements: &'e [(Element, Owner)], left_out: &mut Vec<LeftOut>) -> Vec<Owned<'e>> {
    let mut all = Vec::with_capacity(elements.len() + 1);
    for (element, owner) in elements {
        match element.entries() {
            Ok(entries) => all.extend(entries.map(|entry| Owned { element, entry, owner: *owner })),
            Err(why) => left_out.push(LeftOut { element: element.clone(), owner: *owner, why }),
        }
    }
    all
}

fn entries(elements: &[(Element, Owner)]) -> Result<Vec<Owned<'_>>, Error> {
    let mut all = Vec::with_capacity(elements.len() + 1);
    for (element, owner) in elements {
        all.extend(element.entries()?.map(|entry| Owned { element, entry, owner: *owner }));
    }
    Ok(all)
}

/// Keeps the first of equal keys, among those elements that may be given twice.
fn drop_doubles(entries: &mut Vec<Owned<'_>>, may: impl Fn(&Element) -> bool) {
    let mut seen = HashSet::with_capacity(entries.len());
    entries
        .retain(|owned| !may(owned.element) || seen.insert((owned.entry.set.name, owned.entry.key.clone())));
}

/// Adds what is absent and replaces what somebody else has, but for what containers share.
fn take_over(batch: &mut Requests, owned: &Owned<'_>, found: Presence) {
    let Owned { element, entry, owner } = owned;
    let held = found != Presence::Absent;
    if held && (element.is_shared() || found.owner() == Some(*owner)) {
        return;
    }
    if held {
        batch.delete_elements(&[entry]);
    }
    batch.create_element(entry, *owner, !element.is_shared());
}

fn refuse_held_claims(entries: &[Owned<'_>], found: &[Presence]) -> Result<(), Error> {
    let held =
        |(owned, found): &(&Owned<'_>, &Presence)| owned.element.is_claim() && **found != Presence::Absent;
    match entries.iter().zip(found).find(held) {
        Some((owned, found)) => Err(Error::Taken { element: owned.element.clone(), holder: found.owner() }),
        None => Ok(()),
    }
}

/// Takes those out that were refused, by their places.
fn leave_out(entries: &mut Vec<Owned<'_>>, refused: &HashMap<usize, Errno>, left_out: &mut Vec<LeftOut>) {
    let mut places = 0..;
    entries.retain(|owned| {
        let errno = places.next().and_then(|place: usize| refused.get(&place));
        left_out.extend(errno.map(|errno| {
            let element = owned.element.clone();
            let why = Error::Refused { element: element.clone(), errno: *errno };
            LeftOut { element, owner: owned.owner, why }
        }));
        errno.is_none()
    });
}

/// Of two claims of one key the first stays.
fn drop_double_claims<'e>(entries: &mut Vec<Owned<'e>>, left_out: &mut Vec<LeftOut>) {
    let mut claims: HashMap<(&str, Vec<u8>), (&'e Element, Owner)> = HashMap::with_capacity(entries.len());
    entries.retain(|owned| {
        let Owned { element, owner, .. } = *owned;
        if !element.is_claim() {
            return true;
        }
        let held = match claims.entry((owned.entry.set.name, owned.entry.key.clone())) {
            Vacant(free) => {
                free.insert((element, owner));
                return true;
            }
            Occupied(held) => *held.get(),
        };
        if held != (element, owner) {
            let why = Error::Taken { element: element.clone(), holder: Some(held.1) };
            left_out.push(LeftOut { element: element.clone(), owner, why });
        }
        false
    });
}

/// What the kernel says of an element that does not go with the others: its key overlaps another's, or is none.
fn is_about_an_element(errno: Errno) -> bool {
    [Errno::EXIST, Errno::NOTEMPTY, Errno::INVAL, Errno::RANGE].contains(&errno)
}

/// Elements of one set next to each other.
fn by_set<'e>(mut entries: Vec<&'e Owned<'_>>) -> Vec<(&'e Entry, Owner)> {
    entries.sort_by_key(|owned| owned.entry.set.name);
    entries.into_iter().map(|owned| (&owned.entry, owned.owner)).collect()
}

/// Elements all of whose kernel elements are there.
fn whole_elements(found: &[(Entry, Option<Owner>)]) -> Vec<(Element, Option<Owner>)> {
    let present: HashSet<(&str, &[u8])> =
        found.iter().map(|(entry, _)| (entry.set.name, &entry.key[..])).collect();
    let whole = |element: &Element| {
        element
            .entries()
            .is_ok_and(|mut all| all.all(|entry| present.contains(&(entry.set.name, &entry.key[..]))))
    };
    let elements = found.iter().filter_map(|(entry, owner)| Some((Element::from_entry(entry)?, *owner)));
    elements.filter(|(element, _)| whole(element)).collect()
}
