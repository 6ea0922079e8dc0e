//! Conntrack's entries: found by the flows that made them, counted and deleted.

use std::collections::HashMap;
use std::net::IpAddr;

use rustix::io::Errno;

use super::exchange::message;
use super::{Firewall, QUESTIONS};
use crate::conntrack::{ConntrackEntry, Flow, count, filters};
use crate::encode::{Reply, Requests};
use crate::error::Error;

impl Firewall {
    /// Deletes exactly the conntrack entries that these flows make stale; returns their number. An entry without
    /// translation concerns the host only if it went to one of the host's addresses: `is_local` is asked once for each.
    ///
    /// # Errors
    /// If the kernel lacks conntrack's netlink, or other programs change the table during every attempt to read it.
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

    pub(crate) fn delete_all_tracked(&mut self, tracked: &[ConntrackEntry]) -> Result<usize, Error> {
        tracked.chunks(QUESTIONS).map(|chunk| self.delete_tracked(chunk)).sum()
    }

    /// How many conntrack entries there are in this namespace (IPCTNL_MSG_CT_GET_STATS).
    ///
    /// # Errors
    /// If the kernel lacks conntrack's netlink or its answer cannot be read.
    pub fn tracked(&mut self) -> Result<u32, Error> {
        self.ask("counting conntrack entries", Requests::count_tracked, count)
    }

    pub(crate) fn find_tracked(
        &mut self,
        flows: &[Flow],
        is_local: &mut impl FnMut(IpAddr) -> bool,
    ) -> Result<Vec<ConntrackEntry>, Error> {
        const DOING: &str = "reading conntrack entries";
        let mut stale: Vec<ConntrackEntry> = Vec::new();
        for filter in filters(flows, self.tracked()?) {
            let ask = |requests: &mut Requests| requests.dump_tracked(filter);
            let mut is_stale = |tracked: &ConntrackEntry| tracked.is_stale(flows, is_local);
            let read = |reply: Reply<'_>| Some(ConntrackEntry::parse(&reply).filter(&mut is_stale));
            stale.extend(self.dump(DOING, ask, read)?.into_iter().flatten());
        }
        Ok(stale)
    }

    fn delete_tracked(&mut self, tracked: &[ConntrackEntry]) -> Result<usize, Error> {
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
}
