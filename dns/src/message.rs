//! Questions parsed and answers built, with the limits of M1, M2 and M6–M8.
//!
//! The usual message, a question and at most an OPT without options, is read here; hickory-proto reads any other.
//! Answers are written by hand: all their names are the question's, or a part of it, and so pointers (RFC 1035, 4.1.4).

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::HTTPS;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{DNSClass, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::entry::valid_octet;
use crate::zone::{Reply, Transport};

/// The length of the header (RFC 1035, 4.1.1), after which the question begins.
const HEADER: usize = 12;

/// The longest UDP message that the server takes and sends, in bytes, so that nothing is fragmented (M1).
const OWN_SIZE: u16 = 1232;

/// The longest UDP answer without EDNS, and the least that a client can ask for (RFC 6891, 6.2.3).
const LEAST_SIZE: u16 = 512;

/// The most records: a question has an OPT and perhaps a signature; more records only cost time (H3).
const MOST_RECORDS: u32 = 8;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const CD: u16 = 0x0010;

/// The header (RFC 1035, 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    id: u16,
    flags: u16,
    /// Questions, answers, authorities, additionals.
    counts: [u16; 4],
}

/// The client's OPT record (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    size: u16,
    version: u8,
    dnssec_ok: bool,
}

/// A message with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question<'a> {
    header: Header,
    /// Name, type and class as received: the answer repeats them (N4).
    wire: &'a [u8],
    /// The name in lower case, without the last dot; `?` stands for octets that none of rnet's names has.
    pub name: String,
    /// The type.
    pub rtype: RecordType,
    class: DNSClass,
    edns: Option<Edns>,
}

/// The zone of the question's name, as its offset in the name; `None` is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zone(pub Option<usize>);

/// The content of a local answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The name has these addresses, all of one family.
    Addresses(Vec<IpAddr>),
    /// It is the address of this name.
    Pointer(String),
    /// It is a zone: the SOA record.
    Soa(Zone),
    /// It is a zone: the NS record.
    Ns(Zone),
    /// It exists, but has no such record.
    Nothing(Zone),
    /// It does not exist.
    Unknown(Zone),
}

/// SERVFAIL for a question; `None` if the message has no answer.
pub fn servfail(message: &[u8]) -> Option<Vec<u8>> {
    Some(parse(message).ok()?.error(ResponseCode::ServFail))
}

/// REFUSED for a question; `None` if the message has no answer.
pub fn refusal(message: &[u8]) -> Option<Vec<u8>> {
    Some(parse(message).ok()?.error(ResponseCode::Refused))
}

/// A key that questions share if their answers differ only in the id (F5): name in lower case, type, class, flags (RD, CD)
/// and EDNS (DO, size, options). `None` if the message is no valid question.
pub fn question_key(message: &[u8]) -> Option<Vec<u8>> {
    let question = Question::read(message)?;
    let mut key = question.wire.to_ascii_lowercase();
    key.extend(question.header.flags.to_be_bytes());
    key.extend(message.get(HEADER + question.wire.len()..)?);
    Some(key)
}

/// Whether `reply` is an answer with the id and the question of `question` (F6); the case may differ.
pub fn is_reply_to(reply: &[u8], question: &[u8]) -> bool {
    let (Some(answer), Some(asked)) = (Header::read(reply), Header::read(question)) else { return false };
    let Some((_, wire)) = question_section(question) else { return false };
    let same = reply.get(HEADER..HEADER + wire.len()).is_some_and(|other| other.eq_ignore_ascii_case(wire));
    same && answer.id == asked.id && answer.questions() == 1 && answer.flags & (QR | OPCODE) == QR
}

/// The addresses in a message's answers, IPv4-mapped ones as IPv4; `None` if it is malformed.
pub fn addresses_in(message: &[u8]) -> Option<Vec<IpAddr>> {
    let message = Message::from_vec(message).ok()?;
    let addresses = message.answers.iter().flat_map(|record| addresses_of(&record.data));
    Some(addresses.map(|address| address.to_canonical()).collect())
}

fn addresses_of(data: &RData) -> Vec<IpAddr> {
    match data {
        RData::A(v4) => vec![v4.0.into()],
        RData::AAAA(v6) => vec![v6.0.into()],
        RData::SVCB(service) | RData::HTTPS(HTTPS(service)) => {
            service.svc_params.iter().flat_map(|(_, value)| hints(value)).collect()
        }
        _ => Vec::new(),
    }
}

/// The addresses in the hints of a service record (RFC 9460, 7.3).
fn hints(value: &SvcParamValue) -> Vec<IpAddr> {
    match value {
        SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|v4| v4.0.into()).collect(),
        SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|v6| v6.0.into()).collect(),
        _ => Vec::new(),
    }
}

/// Reads a question that can be answered; otherwise returns what to do with the message (M1, M6–M8).
pub(crate) fn parse(message: &[u8]) -> Result<Question<'_>, Reply> {
    let header = Header::read(message).filter(|header| header.flags & QR == 0).ok_or(Reply::Drop)?;
    let question = Question::read(message);
    let fault = match &question {
        _ if header.flags & OPCODE != 0 => Some(ResponseCode::NotImp),
        Some(question) => question.fault(),
        None => Some(ResponseCode::FormErr),
    };
    match (question, fault) {
        (Some(question), None) => Ok(question),
        (Some(question), Some(fault)) => Err(Reply::Error(question.error(fault))),
        (None, fault) => Err(Reply::Error(header.error(fault.unwrap_or(ResponseCode::FormErr)))),
    }
}

impl Header {
    fn read(message: &[u8]) -> Option<Self> {
        let [i, d, f, g, counts @ ..] = message.first_chunk::<HEADER>()?;
        let [q, r, a, n, u, t, e, x] = *counts;
        let counts = [[q, r], [a, n], [u, t], [e, x]].map(u16::from_be_bytes);
        Some(Self { id: u16::from_be_bytes([*i, *d]), flags: u16::from_be_bytes([*f, *g]), counts })
    }

    fn questions(self) -> u16 {
        self.counts[0]
    }

    fn bytes(self) -> impl Iterator<Item = u8> {
        [self.id, self.flags].into_iter().chain(self.counts).flat_map(u16::to_be_bytes)
    }

    /// The header of an answer to this one (A8).
    fn answer(self, code: ResponseCode, flags: u16, counts: [u16; 4]) -> Self {
        let kept = self.flags & (OPCODE | RD | CD);
        Self { id: self.id, flags: QR | RA | kept | flags | u16::from(code.low()), counts }
    }

    /// An error answer without the question, which could not be read.
    fn error(self, code: ResponseCode) -> Vec<u8> {
        self.answer(code, 0, [0; 4]).bytes().collect()
    }
}

impl<'a> Question<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let header = Header::read(message)?;
        let (name, wire) = question_section(message)?;
        let edns = match (header.counts, message.get(HEADER + wire.len()..)?) {
            ([1, 0, 0, 0], []) => None,
            // The root's name, type 41, size, upper bits of the code, version, flags, no options.
            ([1, 0, 0, 1], &[0, 0, 41, s, t, _, version, flags, _, 0, 0]) => {
                Some(Edns { size: u16::from_be_bytes([s, t]), version, dnssec_ok: flags & 0x80 != 0 })
            }
            ([1, answers, authorities, additionals], _) => {
                let records = u32::from(answers) + u32::from(authorities) + u32::from(additionals);
                (records <= MOST_RECORDS).then(|| read_edns(message))??
            }
            _ => return None,
        };
        let [.., t, y, c, l] = *wire else { return None };
        let rtype = u16::from_be_bytes([t, y]).into();
        Some(Self { header, wire, name, rtype, class: u16::from_be_bytes([c, l]).into(), edns })
    }

    /// The error code for a message that can be read but not answered.
    fn fault(&self) -> Option<ResponseCode> {
        if self.edns.is_some_and(|edns| edns.version > 0) {
            return Some(ResponseCode::BADVERS);
        }
        // Zone transfers are neither answered nor forwarded (A5).
        let transfer = matches!(self.rtype, RecordType::AXFR | RecordType::IXFR);
        (self.class != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
    }

    /// Whether the client wants its question forwarded (RD).
    pub(crate) fn recursion_desired(&self) -> bool {
        self.header.flags & RD != 0
    }

    /// An answer with only `code`.
    pub(crate) fn error(&self, code: ResponseCode) -> Vec<u8> {
        Answer::new(self, Transport::Tcp).finish(code, 0)
    }

    /// The answer with authority (A8), cut if it is too long for its transport (M2).
    pub(crate) fn answer(&self, transport: Transport, content: &Content) -> Vec<u8> {
        let mut answer = Answer::new(self, transport);
        let code =
            if let Content::Unknown(_) = content { ResponseCode::NXDomain } else { ResponseCode::NoError };
        match content {
            Content::Addresses(addresses) => answer.addresses(addresses),
            Content::Pointer(name) => answer.add(RecordType::PTR, &labels(name)),
            Content::Soa(zone) => answer.add(RecordType::SOA, &soa(*zone)),
            Content::Ns(zone) => answer.add(RecordType::NS, &zone.pointer()),
            Content::Nothing(zone) | Content::Unknown(zone) => answer.add_authority(*zone),
        }
        answer.finish(code, AA)
    }

    /// The longest answer in bytes.
    fn limit(&self, transport: Transport) -> usize {
        let size = match (transport, self.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.size.clamp(LEAST_SIZE, OWN_SIZE),
            (Transport::Udp, None) => LEAST_SIZE,
        };
        size.into()
    }

    /// The OPT record, if the client sent one; DO is repeated (RFC 3225).
    fn opt(&self, code: ResponseCode) -> impl Iterator<Item = u8> + use<> {
        let opt = self.edns.map(|edns| {
            let [s, t] = OWN_SIZE.to_be_bytes();
            [0, 0, 41, s, t, code.high(), 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
        });
        opt.into_iter().flatten()
    }
}

/// The name as text, and name, type and class as bytes. The first name has nothing before it to point to, so one with a
/// pointer is malformed (M7).
fn question_section(message: &[u8]) -> Option<(String, &[u8])> {
    let section = message.get(HEADER..)?;
    let (mut name, mut rest) = (String::with_capacity(64), section);
    loop {
        let (length, after) = rest.split_first()?;
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        if label.is_empty() {
            return Some((name, section.get(..section.len() - after.len() + 4)?));
        }
        let dot = if name.is_empty() { "" } else { "." };
        if *length > 63 || name.len() + dot.len() + label.len() > 253 {
            return None;
        }
        name.push_str(dot);
        name.extend(label.iter().copied().map(fold_octet));
        rest = after;
    }
}

fn fold_octet(octet: u8) -> char {
    if valid_octet(octet) { octet.to_ascii_lowercase().into() } else { '?' }
}

/// The OPT record in a message of any form; `None` if the message is malformed.
fn read_edns(message: &[u8]) -> Option<Option<Edns>> {
    let mut decoder = BinDecoder::new(message);
    let edns = Message::read(&mut decoder).ok()?.edns;
    decoder.is_empty().then(|| {
        edns.map(|edns| Edns {
            size: edns.max_payload(),
            version: edns.version(),
            dnssec_ok: edns.flags().dnssec_ok,
        })
    })
}

/// An answer being written.
struct Answer<'a> {
    question: &'a Question<'a>,
    bytes: Vec<u8>,
    /// The longest answer without the OPT record, in bytes.
    limit: usize,
    answers: u16,
    authorities: u16,
    cut: u16,
}

impl<'a> Answer<'a> {
    fn new(question: &'a Question<'a>, transport: Transport) -> Self {
        let mut bytes = Vec::with_capacity(question.wire.len() + 96);
        bytes.extend([0; HEADER]);
        bytes.extend(question.wire);
        let limit = question.limit(transport) - question.opt(ResponseCode::NoError).count();
        Self { question, bytes, limit, answers: 0, authorities: 0, cut: 0 }
    }

    fn addresses(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            match address {
                IpAddr::V4(v4) => self.add(RecordType::A, &v4.octets()),
                IpAddr::V6(v6) => self.add(RecordType::AAAA, &v6.octets()),
            }
        }
    }

    /// Adds a record of the question's name.
    fn add(&mut self, rtype: RecordType, data: &[u8]) {
        let whole_name = Zone(Some(0));
        self.answers += self.record(whole_name, rtype, data);
    }

    /// Adds the zone's SOA record to the authority section (A7).
    fn add_authority(&mut self, zone: Zone) {
        self.authorities += self.record(zone, RecordType::SOA, &soa(zone));
    }

    /// Writes a record if all of it fits; returns how many were written.
    fn record(&mut self, owner: Zone, rtype: RecordType, data: &[u8]) -> u16 {
        let owner = owner.pointer();
        if self.cut != 0 || self.bytes.len() + owner.len() + 10 + data.len() > self.limit {
            self.cut = TC;
            return 0;
        }
        self.bytes.extend(owner);
        self.bytes.extend(u16::from(rtype).to_be_bytes());
        // Class IN, TTL 0: addresses change at every start (A6).
        self.bytes.extend([0, 1, 0, 0, 0, 0]);
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
        1
    }

    fn finish(mut self, code: ResponseCode, flags: u16) -> Vec<u8> {
        let additionals = u16::from(self.question.edns.is_some());
        self.bytes.extend(self.question.opt(code));
        let counts = [1, self.answers, self.authorities, additionals];
        let header = self.question.header.answer(code, flags | self.cut, counts);
        self.bytes.iter_mut().zip(header.bytes()).for_each(|(place, byte)| *place = byte);
        self.bytes
    }
}

impl Zone {
    /// Its name as a pointer to that part of the question's name. Offsets between dots are offsets between labels.
    fn pointer(self) -> Vec<u8> {
        match self.0 {
            Some(start) => ((0xc000 | (HEADER + start)) as u16).to_be_bytes().into(),
            None => vec![0],
        }
    }
}

/// The SOA record of local zones (RFC 6303, 3); MINIMUM 0, so that no negative answer is cached (A7).
fn soa(zone: Zone) -> Vec<u8> {
    let [serial, refresh, retry, expire, minimum] = [1_u32, 3600, 1200, 604_800, 0].map(u32::to_be_bytes);
    let numbers = [serial, refresh, retry, expire, minimum].concat();
    [zone.pointer(), labels("nobody.invalid"), numbers].concat()
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
