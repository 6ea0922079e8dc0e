//! A throw-away network namespace with links into the host: to a bridge as a container has one, and to an interface of the
//! host's as a machine outside has one. Whatever happens to this process, the links go with the namespace.

use std::collections::HashMap;
use std::time::Duration;

use ipnetwork::IpNetwork;
use netlink::{Frames, Mac, Netlink, Netns, Request, Veth};
use nft::{Arrival, Fate, Magic, Tracer};

use super::frame::{Packet, frame, hello};
use crate::Error;

/// A packet that was neither stopped nor taken at the end is looked for so long, and sent again so often.
const PATIENCE: Duration = Duration::from_millis(30);
const TRIES: usize = 3;
/// The MACs of the two machines that the lab plays: locally administered.
const ONE: Mac = Mac([0x0a, 0x72, 0x6e, 0x65, 0x74, 0x01]);
const OTHER: Mac = Mac([0x0a, 0x72, 0x6e, 0x65, 0x74, 0x02]);

/// The namespace, and what was made of it.
pub struct Lab {
    netns: Netns,
    inside: Netlink,
    frames: Frames,
    tracer: Tracer,
    magic: Magic,
    links: HashMap<Place, End>,
}

/// Where a link of the lab leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The bridge with this index.
    Port(u32),
    /// What comes here is received by the interface with this index.
    Behind(u32),
    /// An interface that stands for a bridge which is not there yet: its name and its addresses.
    InsteadOf(String, Vec<IpNetwork>),
}

/// Both ends of a link.
#[derive(Clone, Copy, Debug)]
struct End {
    host: u32,
    inside: u32,
    mac: Mac,
}

impl Lab {
    /// Makes the namespace.
    pub fn new() -> Result<Self, Error> {
        let netns = Netns::create()?;
        let (inside, frames) = (Netlink::inside(&netns)?, Frames::inside(&netns)?);
        Ok(Self { inside, frames, tracer: Tracer::open()?, magic: magic(), links: HashMap::new(), netns })
    }

    /// The bytes by which its packets are known.
    pub fn magic(&self) -> Magic {
        self.magic
    }

    /// Makes a link to a place, once.
    pub fn connect(&mut self, host: &mut Netlink, place: Place) -> Result<(), Error> {
        if self.links.contains_key(&place) {
            return Ok(());
        }
        // The links of containers have a hash behind `veth`, of which no letter is a `p`.
        let (name, peer) = (format!("vethprobe{}", self.links.len()), format!("end{}", self.links.len()));
        let (master, name) = match &place {
            Place::Port(bridge) => (Some(*bridge), name),
            Place::Behind(_) => (None, name),
            Place::InsteadOf(bridge, _) => (None, bridge.clone()),
        };
        remove_left(host, &name)?;
        let veth = Veth {
            name: &name,
            mac: None,
            mtu: None,
            master,
            peer: &peer,
            peer_mac: None,
            peer_netns: &self.netns,
            up: false,
        };
        let pair = host.create_veth(&veth)?;
        let mac = host.link(&name)?.and_then(|link| link.mac).unwrap_or(OTHER);
        self.links.insert(place.clone(), End { host: pair.host, inside: pair.container, mac });
        let quiet = |index, name: &str| Request::LinkNoAutoAddress { index, name: name.to_owned() };
        let up = |index, name: &str| Request::LinkUp { index, name: name.to_owned() };
        self.inside.send(&[quiet(pair.container, &peer), up(pair.container, &peer)])?;
        let mut requests = vec![quiet(pair.host, &name)];
        match place {
            // It plays two containers: what one sends to the other comes back.
            Place::Port(_) => requests.push(hairpin(pair.host, &name)),
            Place::Behind(to) => {
                requests.push(Request::IngressRedirect { index: pair.host, name: name.clone(), to });
            }
            Place::InsteadOf(..) => {}
        }
        // The last: a bridge takes a port for usable that has its carrier when it comes up.
        requests.push(up(pair.host, &name));
        if let Place::InsteadOf(_, addresses) = place {
            let add = |address| Request::AddressAdd { index: pair.host, name: name.clone(), address };
            requests.extend(addresses.into_iter().map(add));
            // Every ADD turns it on for the host.
            for family in ["ipv4", "ipv6"] {
                let _ = host.set_sysctl_if_there(&format!("{family}/conf/{name}/forwarding"), "1");
            }
        }
        Ok(host.send(&requests)?)
    }

    /// A link that cannot be what it should be: nothing is said of what would come by it.
    pub fn leave(&mut self, place: &Place) -> Result<(), Error> {
        if let Some(end) = self.links.remove(place) {
            netlink::delete_link(end.host, &[], false)?;
        }
        Ok(())
    }

    /// Sends a packet from a place to the host, whose link there has the MAC `to`, and says what became of it. A place that is
    /// not connected stops nothing.
    pub fn send(&mut self, place: &Place, to: Option<Mac>, packet: &Packet) -> Result<Fate, Error> {
        let Some(end) = self.links.get(place).copied() else { return Ok(Fate::Passed(Arrival::default())) };
        let Some(bytes) = frame(ONE, to.unwrap_or(end.mac), packet, self.magic) else {
            return Ok(Fate::Passed(Arrival::default()));
        };
        self.send_frame(end, &bytes)
    }

    /// Sends a packet from one port of a bridge to another.
    pub fn send_across(&mut self, place: &Place, bridge: Mac, packet: &Packet) -> Result<Fate, Error> {
        let Some(end) = self.links.get(place).copied() else { return Ok(Fate::Passed(Arrival::default())) };
        self.frames.send(end.inside, &hello(OTHER, bridge))?;
        let Some(bytes) = frame(ONE, OTHER, packet, self.magic) else {
            return Ok(Fate::Passed(Arrival::default()));
        };
        self.send_frame(end, &bytes)
    }

    fn send_frame(&mut self, end: End, bytes: &[u8]) -> Result<Fate, Error> {
        for _ in 0..TRIES {
            self.tracer.clear();
            self.frames.send(end.inside, bytes)?;
            match self.tracer.fate(PATIENCE) {
                Fate::Lost => {}
                fate => return Ok(fate),
            }
        }
        Ok(Fate::Lost)
    }

    /// Removes its links at once instead of with the namespace.
    pub fn close(self) -> Result<(), Error> {
        for end in self.links.values() {
            netlink::delete_link(end.host, &[], false)?;
        }
        Ok(())
    }
}

/// What a probe has left that was killed a moment ago: its namespace may still be going.
fn remove_left(host: &mut Netlink, name: &str) -> Result<(), Error> {
    if let Some(left) = host.link(name)? {
        netlink::delete_link(left.index, &[], false)?;
    }
    Ok(())
}

fn hairpin(index: u32, name: &str) -> Request {
    let name = name.to_owned();
    Request::Port { index, name, hairpin: Some(true), isolated: None, learning: None, group_forward: None }
}

/// Other packets have other bytes there: drawn anew each time.
fn magic() -> Magic {
    let mut magic = Magic::default();
    let _ = rustix::rand::getrandom(&mut magic, rustix::rand::GetRandomFlags::empty());
    magic
}
