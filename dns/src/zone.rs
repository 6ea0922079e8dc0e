//! The answer to a question: pure.

use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::entry::valid_name;
use crate::message::{Content, Question, Zone, parse};
use crate::reverse::Reverse;
use crate::table::{Asker, ServedNetwork, StoredEndpoint, Table, View};

const LOCALHOST: &str = "localhost";

/// The zone of single labels, and of all names that do not exist for containers of internal networks.
const ROOT: Zone = Zone(None);

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram: what does not fit is cut (M1, M2).
    Udp,
    /// A stream.
    Tcp,
}

/// A question with what its socket knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The message.
    pub message: &'a [u8],
    /// The asker's address.
    pub from: IpAddr,
    /// The link through which it came; `lo` for the host's own questions.
    pub link: &'a str,
    /// The address that was asked.
    pub to: IpAddr,
    /// How it came.
    pub transport: Transport,
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These bytes are the answer.
    Answer(Vec<u8>),
    /// The answer is an error that a client may not cause too often (H2: REFUSED, FORMERR, NOTIMP, BADVERS, SERVFAIL).
    Error(Vec<u8>),
    /// An upstream server must be asked.
    Forward(Forward),
    /// No answer (M6, V5).
    Drop,
}

/// A question for the upstream servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The servers to ask, in order (F1); empty means the host's.
    pub upstreams: Vec<SocketAddr>,
    /// The container that is charged for it: (network, id); `None` for the host or an unknown asker.
    pub client: Option<(Arc<str>, Arc<str>)>,
    /// An answer with an address in one of rnet's subnets must not be passed on (H5).
    pub guarded: bool,
}

/// The meaning of a name for an asker.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// Endpoints have it: the addresses, network by network.
    Host(Vec<Vec<IpAddr>>, Zone),
    /// It is the address of this name.
    Pointer(String, Zone),
    /// A zone's own name.
    Apex(Zone),
    /// There are, or may be, names below it.
    Inner(Zone),
    /// It would be in one of rnet's zones, but does not exist.
    Unknown(Zone),
    /// Upstream servers know.
    Outside,
}

impl Table {
    /// What to do with a question; `turn` differs each time, so that addresses take turns (A9).
    pub fn answer(&self, asked: &Asked<'_>, turn: u64) -> Reply {
        let asker = self.asker(asked);
        if matches!(asker, Asker::Forged) {
            return Reply::Drop;
        }
        let question = match parse(asked.message) {
            Ok(question) => question,
            Err(reply) => return reply,
        };
        let Asker::Known(view) = asker else { return Reply::Error(question.error(ResponseCode::Refused)) };
        let content = match self.meaning(&view, &question.name) {
            Meaning::Outside if view.leaves_host() => return forward(&view, &question),
            meaning => meaning.content(question.rtype, turn),
        };
        Reply::Answer(question.answer(asked.transport, &content))
    }

    fn meaning(&self, view: &View<'_>, name: &str) -> Meaning {
        let meaning = self.reverse(view, name).or_else(|| self.meaning_of_name(view, name));
        meaning.unwrap_or_else(|| single(view, name))
    }

    /// A name in any of its forms; the whole name comes before its parts (N7).
    fn meaning_of_name(&self, view: &View<'_>, name: &str) -> Option<Meaning> {
        localhost(name)
            .or_else(|| view.whole(name))
            .or_else(|| self.in_domain(view, name))
            .or_else(|| self.in_network(view, name))
    }

    /// A name under the domain of a network.
    fn in_domain(&self, view: &View<'_>, name: &str) -> Option<Meaning> {
        let domain = suffixes(name).find(|suffix| self.is_domain(suffix))?;
        let zone = zone_of(name, domain);
        let Some(head) = before(name, domain) else { return Some(Meaning::Apex(zone)) };
        let of_domain = |served: &&&ServedNetwork| served.domain.as_deref() == Some(domain);
        let addresses = addresses(view.networks.iter().filter(of_domain), head);
        Some(addresses.map_or(Meaning::Unknown(zone), |addresses| Meaning::Host(addresses, zone)))
    }

    /// `name.NETWORK` (N2); a longer one only if it is known (N9).
    fn in_network(&self, view: &View<'_>, name: &str) -> Option<Meaning> {
        let known = suffixes(name).skip(1).find_map(|network| {
            let called = |served: &&&ServedNetwork| *served.called == *network;
            let addresses = addresses(view.networks.iter().filter(called), before(name, network)?)?;
            Some(Meaning::Host(addresses, zone_of(name, network)))
        });
        known.or_else(|| {
            // A network with the name of a domain hides nothing of that domain: names are found above, or upstream.
            let (_, network) = name.split_once('.').filter(|(_, network)| !network.contains('.'))?;
            self.is_network(network).then(|| Meaning::Unknown(zone_of(name, network)))
        })
    }

    /// A name under in-addr.arpa or ip6.arpa, if all its addresses are in one of the networks' subnets, in view or not (V6).
    fn reverse(&self, view: &View<'_>, name: &str) -> Option<Meaning> {
        let reverse = Reverse::parse(name)?;
        let prefix = match loopback_prefix(&reverse) {
            Some(prefix) => prefix,
            None => self.subnet_of(reverse.address, reverse.length)?,
        };
        let length = reverse.zone_length(prefix);
        let zone = last_labels(name, reverse.labels(length));
        Some(match reverse {
            Reverse { pure: false, .. } => Meaning::Unknown(zone),
            Reverse { address, .. } if reverse.is_address() => self
                .pointer(view, address)
                .map_or(Meaning::Unknown(zone), |name| Meaning::Pointer(name, zone)),
            // A part of an address has no record, but exists: there are addresses below it (RFC 8020).
            _ if reverse.length > length => Meaning::Inner(zone),
            _ => Meaning::Apex(zone),
        })
    }

    /// The name of an address (A4).
    fn pointer(&self, view: &View<'_>, address: IpAddr) -> Option<String> {
        if address.is_loopback() {
            return Some(LOCALHOST.into());
        }
        let sees = |own: &&Arc<StoredEndpoint>| {
            view.networks.iter().any(|served| *served.network.name == *own.network)
        };
        self.owners(address).filter(sees).find_map(|own| {
            let name = own.names().next()?;
            let forms = [format!("{name}.{}", own.network), name.into()];
            forms.into_iter().find(|form| self.leads_to(view, form, address))
        })
    }

    /// Whether a name can be asked for and has the address; a form may be too long, or another endpoint's whole name.
    fn leads_to(&self, view: &View<'_>, name: &str, address: IpAddr) -> bool {
        let meaning =
            valid_name(name).then(|| self.meaning_of_name(view, &name.to_ascii_lowercase())).flatten();
        matches!(meaning, Some(Meaning::Host(groups, _)) if groups.iter().flatten().any(|one| *one == address))
    }
}

impl View<'_> {
    /// A name as it is, dots and all (N7).
    fn whole(&self, name: &str) -> Option<Meaning> {
        let zone = Zone(name.contains('.').then_some(0));
        Some(Meaning::Host(addresses(self.networks.iter(), name)?, zone))
    }

    /// Whether questions may be forwarded: one ordinary network is enough (F9).
    fn leaves_host(&self) -> bool {
        self.networks.iter().any(|served| !served.network.internal)
    }

    /// Whether one of the networks wants the rebinding guard (H5).
    fn is_guarded(&self) -> bool {
        self.networks.iter().any(|served| served.network.rebinding_guard)
    }

    /// The container's own servers, or a network's (F1).
    fn upstreams(&self) -> Vec<SocketAddr> {
        let own = self.endpoints.iter().map(|own| &*own.upstreams);
        let ordinary = self.networks.iter().filter(|served| !served.network.internal);
        let mut lists = own.chain(ordinary.map(|served| &*served.network.upstreams));
        lists.find(|list| !list.is_empty()).unwrap_or_default().into()
    }
}

impl Meaning {
    fn content(self, rtype: RecordType, turn: u64) -> Content {
        let (content, zone) = match (self, rtype) {
            (Self::Host(addresses, zone), _) => (some_addresses(&addresses, rtype, turn), zone),
            (Self::Pointer(name, zone), RecordType::PTR | RecordType::ANY) => {
                (Some(Content::Pointer(name)), zone)
            }
            (Self::Apex(zone), RecordType::SOA | RecordType::ANY) => (Some(Content::Soa(zone)), zone),
            (Self::Apex(zone), RecordType::NS) => (Some(Content::Ns(zone)), zone),
            (Self::Pointer(_, zone) | Self::Apex(zone) | Self::Inner(zone), _) => (None, zone),
            (Self::Unknown(zone), _) => (Some(Content::Unknown(zone)), zone),
            (Self::Outside, _) => (Some(Content::Unknown(ROOT)), ROOT),
        };
        content.unwrap_or(Content::Nothing(zone))
    }
}

/// One record set (RFC 8482), if the type asks for addresses and there are some.
fn some_addresses(groups: &[Vec<IpAddr>], rtype: RecordType, turn: u64) -> Option<Content> {
    let families: &[fn(&IpAddr) -> bool] = match rtype {
        RecordType::A => &[IpAddr::is_ipv4],
        RecordType::AAAA => &[IpAddr::is_ipv6],
        RecordType::ANY => &[IpAddr::is_ipv4, IpAddr::is_ipv6],
        _ => &[],
    };
    let sets =
        families.iter().map(|family| groups.iter().flat_map(|group| rotate(group, *family, turn)).collect());
    sets.map(Content::Addresses).find(|set| *set != Content::Addresses(Vec::new()))
}

/// The addresses of a family, each turn with another one first.
fn rotate(group: &[IpAddr], family: fn(&IpAddr) -> bool, turn: u64) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = group.iter().copied().filter(family).collect();
    if let Some(first) = turn.checked_rem(addresses.len() as u64) {
        addresses.rotate_left(first as usize);
    }
    addresses
}

/// The addresses of a name (in lower case), network by network; `None` if no endpoint has it.
fn addresses<'t>(
    networks: impl Iterator<Item = &'t &'t ServedNetwork>,
    name: &str,
) -> Option<Vec<Vec<IpAddr>>> {
    let groups = networks.filter_map(|served| {
        let mut holders = served.holders(name).peekable();
        holders.peek()?;
        Some(holders.flat_map(|one| one.addresses().iter().copied()).collect())
    });
    Some(groups.collect::<Vec<_>>()).filter(|groups| !groups.is_empty())
}

/// The loopback's name, which is never forwarded (RFC 6761, 6.3).
fn localhost(name: &str) -> Option<Meaning> {
    let is_localhost = name == LOCALHOST || before(name, LOCALHOST).is_some();
    let loopback = || vec![vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]];
    is_localhost.then(|| Meaning::Host(loopback(), zone_of(name, LOCALHOST)))
}

fn loopback_prefix(reverse: &Reverse) -> Option<u8> {
    let prefix = if reverse.address.is_ipv4() { 8 } else { 128 };
    (reverse.address.is_loopback() && reverse.length >= prefix).then_some(prefix)
}

/// A name that no endpoint has: a single label is not forwarded (F8). A network's name has names below it.
fn single(view: &View<'_>, name: &str) -> Meaning {
    match name {
        "" => Meaning::Outside,
        _ if name.contains('.') => Meaning::Outside,
        _ if view.networks.iter().any(|served| *served.called == *name) => {
            Meaning::Inner(zone_of(name, name))
        }
        _ => Meaning::Unknown(ROOT),
    }
}

fn forward(view: &View<'_>, question: &Question<'_>) -> Reply {
    if !question.recursion_desired() {
        return Reply::Error(question.error(ResponseCode::Refused));
    }
    Reply::Forward(Forward { upstreams: view.upstreams(), client: view.client(), guarded: view.is_guarded() })
}

/// The name and what follows each of its dots.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    iter::successors(Some(name), |rest| rest.split_once('.').map(|(_, rest)| rest))
}

/// The part before a suffix and its dot.
fn before<'n>(name: &'n str, suffix: &str) -> Option<&'n str> {
    name.strip_suffix(suffix)?.strip_suffix('.')
}

fn zone_of(name: &str, suffix: &str) -> Zone {
    Zone(Some(start(name, suffix)))
}

fn start(name: &str, suffix: &str) -> usize {
    name.len() - suffix.len()
}

/// The zone whose name is that of the last so many labels.
fn last_labels(name: &str, count: usize) -> Zone {
    let dot = name.rmatch_indices('.').nth(count.saturating_sub(1));
    Zone(Some(dot.map_or(0, |(place, _)| place + 1)))
}
