//! Questions parsed and answers built, with the limits of M1, M2 and M6–M8.
//!
//! What resolvers send, a question and at most an OPT without options, is read here; anything else is read by
//! hickory-proto. Answers are written by hand: all their names are the question's, or a part of it, and so pointers.

use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::HTTPS;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{DNSClass, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::entry::valid_octet;
use crate::zone::{Reply, Transport};

/// Where the question stands.
const HEADER: usize = 12;

/// What we take over UDP, and the most we send, so that nothing is fragmented (M1).
const OWN_SIZE: u16 = 1232;

/// The most without EDNS, and the least anybody can ask for (RFC 6891, 6.2.3).
const LEAST_SIZE: u16 = 512;

/// A question has an OPT and perhaps a signature; more records only make work (H3).
const MOST_RECORDS: u32 = 8;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const CD: u16 = 0x0010;

/// The header, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    id: u16,
    flags: u16,
    /// Questions, answers, authorities, additionals.
    counts: [u16; 4],
}

/// What the client's OPT says.
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
    /// Name, type and class as they came: the answer repeats them (N4).
    wire: &'a [u8],
    /// The name in lower case, without the last dot; `?` stands for octets that no name of ours has.
    pub name: String,
    /// The type.
    pub rtype: RecordType,
    class: DNSClass,
    edns: Option<Edns>,
}

/// A zone that the question's name lies in: where in the name it begins; none is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zone(pub Option<usize>);

/// What a local answer says of the question's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// It has these addresses, all of one family.
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

/// SERVFAIL for a question; none if it is not one that has an answer.
pub fn servfail(message: &[u8]) -> Option<Vec<u8>> {
    Some(parse(message).ok()?.error(ResponseCode::ServFail))
}

/// REFUSED for a question; none if it is not one that has an answer.
pub fn refused(message: &[u8]) -> Option<Vec<u8>> {
    Some(parse(message).ok()?.error(ResponseCode::Refused))
}

/// What questions have in common whose answers are the same but for the id (F5): name in lower case, type, class, flags
/// (RD, CD) and what EDNS says (DO, size, options). None for what is no good question.
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

/// The addresses that a message answers with, in the family that they lead to; none if it is malformed.
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

/// Where a service may be found too (RFC 9460, 7.3).
fn hints(value: &SvcParamValue) -> Vec<IpAddr> {
    match value {
        SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|v4| v4.0.into()).collect(),
        SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|v6| v6.0.into()).collect(),
        _ => Vec::new(),
    }
}

/// Reads a question that can be answered; else says what is to be done with the message (M1, M6–M8).
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

    /// An error without the question, which could not be read.
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
                (records <= MOST_RECORDS).then(|| unusual(message))??
            }
            _ => return None,
        };
        let [.., t, y, c, l] = *wire else { return None };
        let rtype = u16::from_be_bytes([t, y]).into();
        Some(Self { header, wire, name, rtype, class: u16::from_be_bytes([c, l]).into(), edns })
    }

    /// Why a message that could be read has no other answer than an error.
    fn fault(&self) -> Option<ResponseCode> {
        if self.edns.is_some_and(|edns| edns.version > 0) {
            return Some(ResponseCode::BADVERS);
        }
        // A transfer is not for us to give, and not to be asked for outside (A5).
        let transfer = matches!(self.rtype, RecordType::AXFR | RecordType::IXFR);
        (self.class != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
    }

    /// Whether the client wants us to ask others.
    pub(crate) fn recursion_desired(&self) -> bool {
        self.header.flags & RD != 0
    }

    /// An answer that says nothing but `code`.
    pub(crate) fn error(&self, code: ResponseCode) -> Vec<u8> {
        Answer::new(self, Transport::Tcp).finish(code, 0)
    }

    /// The answer with authority (A8), cut if it is too long for the way it takes (M2).
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

    /// The longest answer.
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

/// The name as text, and name, type and class as they stand. A first name has nothing before it to point to: one with
/// a pointer is malformed (M7).
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
        name.extend(label.iter().copied().map(folded));
        rest = after;
    }
}

fn folded(octet: u8) -> char {
    if valid_octet(octet) { octet.to_ascii_lowercase().into() } else { '?' }
}

/// What EDNS says in a message of any form; none if it is malformed.
fn unusual(message: &[u8]) -> Option<Option<Edns>> {
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

/// An answer in the making.
struct Answer<'a> {
    question: &'a Question<'a>,
    bytes: Vec<u8>,
    /// The room there is, without the OPT record's.
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

    /// Says that the zone knows no more (A7).
    fn add_authority(&mut self, zone: Zone) {
        self.authorities += self.record(zone, RecordType::SOA, &soa(zone));
    }

    /// Writes a record if there is room for all of it; returns how many were written.
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
    /// Its name: the part of the question's name from there on. The distance from dot to dot is that from label to label.
    fn pointer(self) -> Vec<u8> {
        match self.0 {
            Some(start) => ((0xc000 | (HEADER + start)) as u16).to_be_bytes().into(),
            None => vec![0],
        }
    }
}

/// As RFC 6303 has it for local zones; MINIMUM 0, so that nobody remembers what is not there (A7).
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::{Edns as HickoryEdns, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::SVCB;
    use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
    use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey};
    use hickory_proto::rr::{Name, Record};
    use proptest::prelude::*;

    use super::*;

    fn asked(name: &str) -> Message {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    fn with_edns(size: u16, version: u8) -> Message {
        let mut edns = HickoryEdns::new();
        edns.set_max_payload(size).set_version(version);
        let mut message = asked("db.");
        message.set_edns(edns);
        message
    }

    fn bytes(message: &Message) -> Vec<u8> {
        message.to_vec().unwrap()
    }

    /// A hundred addresses, as many as fit.
    fn hundred(message: &Message, transport: Transport) -> (usize, Message) {
        let addresses = (0..100).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let message = bytes(message);
        let answer = parse(&message).unwrap().answer(transport, &Content::Addresses(addresses));
        (answer.len(), Message::from_vec(&answer).unwrap())
    }

    fn error(message: &[u8]) -> Message {
        match parse(message) {
            Err(Reply::Error(bytes)) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn code(message: &[u8]) -> ResponseCode {
        error(message).metadata.response_code
    }

    #[test]
    fn m1_an_opt_record_is_answered_with_an_opt_record_of_our_size() {
        let (_, answer) = hundred(&with_edns(4096, 0), Transport::Udp);
        let edns = answer.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.version(), edns.rcode_high()), (OWN_SIZE, 0, 0));
        assert_eq!(hundred(&asked("db."), Transport::Udp).1.edns, None);
    }

    #[test]
    fn m1_answers_are_as_long_as_the_client_takes_but_never_longer_than_1232() {
        for (size, limit) in [(0, 512), (511, 512), (600, 600), (1232, 1232), (4096, 1232), (65535, 1232)] {
            let (length, answer) = hundred(&with_edns(size, 0), Transport::Udp);
            assert!((limit - 16 < length) && (length <= limit), "{size}: {length}");
            assert!(answer.metadata.truncation);
        }
    }

    #[test]
    fn m1_later_versions_are_badvers_and_options_are_ignored() {
        let answer = error(&bytes(&with_edns(1232, 1)));
        // The number has two names.
        assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
        assert_eq!((answer.edns.unwrap().version(), answer.queries.len()), (0, 1));
        let mut message = with_edns(1232, 0);
        let subnet = EdnsOption::Subnet(ClientSubnet::new([10, 0, 0, 0].into(), 8, 0));
        for option in
            [subnet, EdnsOption::Unknown(10, b"a cookie".into()), EdnsOption::Unknown(65001, Vec::new())]
        {
            message.edns.as_mut().unwrap().options_mut().insert(option);
        }
        let (_, answer) = hundred(&message, Transport::Udp);
        assert!(answer.edns.unwrap().options().as_ref().is_empty());
    }

    #[test]
    fn m1_dnssec_ok_is_repeated() {
        let mut message = with_edns(1232, 0);
        message.edns.as_mut().unwrap().set_dnssec_ok(true);
        assert!(hundred(&message, Transport::Tcp).1.edns.unwrap().flags().dnssec_ok);
    }

    #[test]
    fn m2_what_does_not_fit_is_cut_between_records_and_comes_whole_over_tcp() {
        let (length, answer) = hundred(&asked("db."), Transport::Udp);
        assert!(answer.metadata.truncation && length <= 512);
        assert_eq!(answer.answers.len(), (512 - HEADER - 8) / 16);
        let (_, answer) = hundred(&asked("db."), Transport::Tcp);
        assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 100));
    }

    #[test]
    fn m2_even_tcp_has_an_end() {
        let addresses = (0..5000).map(|n| IpAddr::V4(n.into())).collect();
        let message = bytes(&with_edns(1232, 0));
        let answer = parse(&message).unwrap().answer(Transport::Tcp, &Content::Addresses(addresses));
        let answer = Message::from_vec(&answer).unwrap();
        assert!(answer.metadata.truncation && answer.answers.len() > 4000 && answer.edns.is_some());
    }

    #[test]
    fn m6_what_is_shorter_than_a_header_or_an_answer_itself_is_dropped() {
        let message = bytes(&asked("db."));
        for length in 0..HEADER {
            assert_eq!(parse(&message[..length]), Err(Reply::Drop));
        }
        let mut answer = message.clone();
        answer[2] |= 0x80;
        assert_eq!(parse(&answer), Err(Reply::Drop));
        assert_eq!((servfail(&answer), refused(&answer)), (None, None));
    }

    #[test]
    fn m7_malformed_messages_and_other_counts_of_questions_are_formerr_with_the_id() {
        let message = bytes(&asked("db."));
        for length in HEADER..message.len() {
            assert_eq!(code(&message[..length]), ResponseCode::FormErr);
        }
        assert_eq!(error(&message[..HEADER]).metadata.id, 4711);
        let patched = |place: usize, byte: u8| {
            let mut message = message.clone();
            message[place] = byte;
            code(&message)
        };
        let (questions, answers, first_label) = (5, 7, HEADER);
        for (place, byte) in
            [(questions, 0), (questions, 2), (answers, 1), (answers, 200), (first_label, 0x41)]
        {
            assert_eq!(patched(place, byte), ResponseCode::FormErr);
        }
        assert_eq!(code(&[&message[..], b"more"].concat()), ResponseCode::FormErr);
    }

    #[test]
    fn m7_a_question_that_points_anywhere_is_malformed() {
        let header = &bytes(&asked("db."))[..HEADER];
        for target in [0, 4, 11, 12, 13, 14, 200] {
            for name in [&[0xc0, target][..], &[2, b'd', b'b', 0xc0, target]] {
                assert_eq!(code(&[header, name, &[0, 1, 0, 1]].concat()), ResponseCode::FormErr);
            }
        }
    }

    #[test]
    fn m7_two_opt_records_are_malformed_and_other_records_are_not() {
        let mut message = with_edns(1232, 0);
        let address = Record::from_rdata(Name::root(), 0, RData::A(Ipv4Addr::LOCALHOST.into()));
        message.add_additional(address);
        let one = bytes(&message);
        assert!(parse(&one).unwrap().edns.is_some());
        let mut two = [&one[..], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]].concat();
        two[11] += 1;
        assert_eq!(code(&two), ResponseCode::FormErr);
    }

    #[test]
    fn m8_other_operations_are_notimp_and_other_classes_refused() {
        for op in [OpCode::Status, OpCode::Notify, OpCode::Update] {
            let mut message = asked("db.");
            message.metadata.op_code = op;
            let answer = error(&bytes(&message));
            assert_eq!((answer.metadata.response_code, answer.metadata.op_code), (ResponseCode::NotImp, op));
            assert_eq!(code(&bytes(&message)[..HEADER]), ResponseCode::NotImp);
        }
        for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::Unknown(4711)] {
            let mut message = asked("db.");
            message.queries[0].set_query_class(class);
            assert_eq!(error(&bytes(&message)).metadata.response_code, ResponseCode::Refused);
            assert_eq!(error(&bytes(&message)).queries, message.queries);
        }
    }

    #[test]
    fn f3_a_question_that_nobody_answers_is_answered_with_an_error() {
        let message = with_edns(1232, 0);
        let answer = Message::from_vec(&servfail(&bytes(&message)).unwrap()).unwrap();
        assert_eq!((answer.metadata.id, &answer.queries), (4711, &message.queries));
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(answer.edns.is_some() && !answer.metadata.authoritative);
        let answer = Message::from_vec(&refused(&bytes(&message)).unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn f5_questions_are_equal_whatever_their_id_and_case_but_not_if_their_answers_may_differ() {
        let key = |message: &Message| question_key(&bytes(message)).unwrap();
        let mut same = asked("DB.");
        same.metadata.id = 1;
        assert_eq!(key(&asked("db.")), key(&same));
        let mut others =
            [asked("db2."), asked("db."), asked("db."), with_edns(1232, 0), with_edns(512, 0), asked("db.")];
        others[1].metadata.checking_disabled = true;
        others[2].metadata.recursion_desired = false;
        others[5].queries[0].set_query_type(RecordType::AAAA);
        for other in others {
            assert_ne!(key(&asked("db.")), key(&other));
        }
        assert_eq!(question_key(b"nonsense"), None);
    }

    #[test]
    fn f6_a_reply_has_the_id_and_the_question() {
        let question = asked("db.");
        let mut reply = asked("DB.").into_response();
        assert!(is_reply_to(&bytes(&reply), &bytes(&question)));
        assert!(!is_reply_to(&bytes(&question), &bytes(&question)));
        reply.metadata.id += 1;
        assert!(!is_reply_to(&bytes(&reply), &bytes(&question)));
        assert!(!is_reply_to(&bytes(&asked("db2.").into_response()), &bytes(&question)));
        for length in 0..bytes(&question).len() {
            assert!(!is_reply_to(&bytes(&question.clone().into_response())[..length], &bytes(&question)));
        }
    }

    #[test]
    fn h5_addresses_are_found_however_they_are_told() {
        let hints = vec![
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![Ipv4Addr::new(10, 0, 0, 3).into()]))),
            (
                SvcParamKey::Ipv6Hint,
                SvcParamValue::Ipv6Hint(IpHint(vec!["::ffff:10.0.0.4".parse().unwrap()])),
            ),
        ];
        let service = SVCB::new(1, Name::root(), hints);
        let mut answer = asked("db.").into_response();
        for data in [
            RData::A(Ipv4Addr::new(10, 0, 0, 1).into()),
            RData::AAAA("::ffff:10.0.0.2".parse().unwrap()),
            RData::SVCB(service.clone()),
            RData::HTTPS(HTTPS(service)),
        ] {
            answer.add_answer(Record::from_rdata(Name::root(), 0, data));
        }
        let expected = [1, 2, 3, 4, 3, 4].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(addresses_in(&bytes(&answer)).unwrap(), expected);
        assert_eq!(addresses_in(&bytes(&asked("db."))), Some(Vec::new()));
    }

    /// A resolver may overlook what is broken behind the address that it looks for.
    #[test]
    fn h5_a_malformed_message_has_no_addresses_that_could_be_trusted() {
        let mut answer = asked("db.").into_response();
        answer.add_answer(Record::from_rdata(Name::root(), 0, RData::A(Ipv4Addr::LOCALHOST.into())));
        let mut answer = bytes(&answer);
        answer[11] += 1;
        answer.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
        assert_eq!(addresses_in(&answer), None);
    }

    /// A question with a name of any octets, perhaps with an OPT record, sometimes spoilt.
    fn questions() -> impl Strategy<Value = Vec<u8>> {
        let label = prop::collection::vec(any::<u8>(), 1..64);
        let labels = prop_oneof![
            prop::collection::vec(label, 0..6),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3), 60..130),
        ];
        let opt = prop::option::of(any::<[u8; 6]>());
        let spoil = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
        (labels, any::<[u8; 4]>(), any::<[u8; 4]>(), opt, spoil).prop_map(
            |(labels, start, end, opt, spoil)| {
                let mut message = [&start[..], &[0, 1, 0, 0, 0, 0, 0, opt.is_some().into()]].concat();
                for label in labels {
                    message.push(label.len() as u8);
                    message.extend(label);
                }
                message.push(0);
                message.extend(end);
                message.extend(opt.iter().flat_map(|opt| [&[0, 0, 41], &opt[..], &[0, 0]].concat()));
                if let Some((place, byte)) = spoil {
                    let place = place.index(message.len());
                    message[place] = byte;
                }
                message
            },
        )
    }

    proptest! {
        /// The two readers must not disagree on what a message says.
        #[test]
        fn hickory_reads_what_we_read(message in questions()) {
            let (ours, theirs) = (Question::read(&message), Message::from_vec(&message));
            if let Some(ours) = ours {
                let theirs = theirs.unwrap();
                let query = &theirs.queries[0];
                let labels = ours.name.split('.').filter(|label| !label.is_empty()).count();
                prop_assert_eq!(labels, query.name.iter().count());
                prop_assert_eq!((ours.rtype, ours.class), (query.query_type, query.query_class));
                let mut edns = ours.edns;
                edns.iter_mut().for_each(|edns| edns.size = edns.size.max(512));
                prop_assert_eq!(Some(edns), unusual(&message));
            } else if let Ok(theirs) = theirs {
                // We are stricter in this: one question, without pointers, and nothing behind.
                let again = theirs.to_vec().unwrap();
                let one = theirs.queries.len() == 1;
                prop_assert!(!one || again.len() != message.len(), "{:?}", theirs);
            }
        }

        #[test]
        fn any_question_is_repeated_exactly_within_the_limit(message in questions(), count in 0..200_u32) {
            let Ok(question) = parse(&message) else { return Ok(()) };
            let addresses = (0..count).map(|n| IpAddr::V4(n.into())).collect();
            let end = HEADER + question.wire.len();
            for content in [Content::Addresses(addresses), Content::Unknown(Zone(Some(0))), Content::Nothing(Zone(None))] {
                let answer = question.answer(Transport::Udp, &content);
                prop_assert!(answer.len() <= question.limit(Transport::Udp));
                prop_assert_eq!(&answer[HEADER..end], &message[HEADER..end]);
                let read = Message::from_vec(&answer).unwrap();
                prop_assert!(read.answers.iter().all(|record| record.name == read.queries[0].name));
                prop_assert_eq!(read.edns.is_some(), question.edns.is_some());
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(message in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = (parse(&message), question_key(&message), is_reply_to(&message, &message));
        }

        #[test]
        fn no_records_make_the_reader_panic(mut message in questions(), tail in prop::collection::vec(any::<u8>(), 0..80),
                                            counts in any::<[u8; 3]>()) {
            for (place, count) in [7, 9, 11].into_iter().zip(counts) {
                message[place] = count % 4;
            }
            message.extend(tail);
            let _ = (parse(&message), question_key(&message), is_reply_to(&message, &message));
        }
    }
}
