//! What the guards at ports have dropped: how much at each, and the sources of the last hour.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::apply::Firewall;
use crate::element::Entry;
use crate::encode::Requests;
use crate::error::{Error, or_empty};
use crate::ruleset::{PORTS, REFUSED4, REFUSED6};

/// What was dropped at a guarded port since its guard was put into the kernel.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Refused {
    /// Frames.
    pub packets: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Senders that are not the port's own, those of the last hour.
    pub sources: Vec<Source>,
}

/// The sender that a frame names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Source {
    /// Its IP source, or the sender that an ARP message names.
    pub address: IpAddr,
    /// The MAC in its frame.
    pub mac: [u8; 6],
}

impl Firewall {
    /// What was dropped, by the name of the port. Dumps whole sets.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read, or other programs change the ruleset during every attempt.
    pub fn refused(&mut self) -> Result<HashMap<String, Refused>, Error> {
        let mut ports = self.count_at_ports()?;
        for set in [&REFUSED4, &REFUSED6] {
            for (entry, _) in or_empty(self.dump_set(set))? {
                let Some((link, mac, address)) = entry.sender() else { continue };
                if let Some(port) = ports.get_mut(&link) {
                    port.sources.push(Source { address, mac });
                }
            }
        }
        ports.values_mut().for_each(|port| port.sources.sort());
        Ok(ports)
    }

    fn count_at_ports(&mut self) -> Result<HashMap<String, Refused>, Error> {
        let ask = |requests: &mut Requests| requests.dump_elements(&PORTS);
        let found = or_empty(self.dump("reading what was dropped", ask, |reply| reply.counts(&PORTS)))?;
        let port = |(entry, (packets, bytes)): (Entry, _)| {
            Some((entry.link()?, Refused { packets, bytes, sources: Vec::new() }))
        };
        Ok(found.into_iter().flatten().filter_map(port).collect())
    }
}
