//! The sockets of the gateways, kept by the parent for the next worker.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::bind::{self, GatewaySockets};
use crate::channel::send;
use crate::wish::Grant;

/// The port at which a gateway is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The port to which the recorded ruleset sends questions.
    AsRecorded,
    New,
}

/// The sockets of the gateways, kept for the next worker: questions that arrive meanwhile wait in them.
#[derive(Debug, Default)]
pub struct Kept {
    pub(crate) sockets: HashMap<IpAddr, GatewaySockets>,
    /// The ports that a dead server had.
    places: HashMap<IpAddr, u16>,
    /// The guardian of the previous version, and the socket whose end it waits for.
    pub(crate) guardian: Option<(OwnedFd, Pid)>,
}

impl Kept {
    /// No sockets, but the ports to which the ruleset redirects questions, for gateways whose port another program had: the
    /// server listens there again (L3).
    pub fn places(places: HashMap<IpAddr, u16>) -> Self {
        Self { places, ..Self::default() }
    }

    /// Sends a worker the sockets of an address. If that fails, the worker is dead, which the next receive shows.
    pub(crate) fn grant(&mut self, address: IpAddr, link: &str, port: u16, channel: BorrowedFd<'_>) -> Place {
        match self.find_or_bind(address, link, port) {
            Ok((bound, place)) => {
                let _ = send(channel, &Grant::Port(bound.port), &[bound.udp.as_fd(), bound.tcp.as_fd()]);
                place
            }
            Err(errno) => {
                let _ = send(channel, &Grant::Errno(errno.raw_os_error()), &[]);
                Place::AsRecorded
            }
        }
    }

    pub(crate) fn close(&mut self, address: IpAddr, channel: BorrowedFd<'_>) {
        self.sockets.remove(&address);
        let _ = send(channel, &Grant::Closed, &[]);
    }

    fn find_or_bind(
        &mut self,
        address: IpAddr,
        link: &str,
        port: u16,
    ) -> Result<(&GatewaySockets, Place), Errno> {
        Ok(match self.sockets.entry(address) {
            Entry::Occupied(known) => (known.into_mut(), Place::AsRecorded),
            Entry::Vacant(new) => {
                let recorded = self.places.remove(&address);
                let bound = bind(address, link, port, recorded)?;
                let is_there = bound.port == recorded.unwrap_or(port);
                (new.insert(bound), if is_there { Place::AsRecorded } else { Place::New })
            }
        })
    }
}

/// Binds the recorded port if it is free, even if the wanted one is too: then no rule needs to change.
fn bind(address: IpAddr, link: &str, port: u16, recorded: Option<u16>) -> Result<GatewaySockets, Errno> {
    if let Some(recorded) = recorded {
        let bound = bind::bind(address, link, recorded)?;
        if bound.port == recorded {
            return Ok(bound);
        }
    }
    bind::bind(address, link, port)
}
