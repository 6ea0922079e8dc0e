//! Questions and answers with the limits of M1 to M8, against hickory-proto as the second reader.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns as HickoryEdns, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey};
use hickory_proto::rr::{Name, Record};
use proptest::prelude::*;

use super::*;

fn a_question(name: &str) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn with_edns(size: u16, version: u8) -> Message {
    let mut edns = HickoryEdns::new();
    edns.set_max_payload(size).set_version(version);
    let mut message = a_question("db.");
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
fn m1_an_opt_record_is_answered_with_an_opt_record_of_the_server_s_size() {
    let (_, answer) = hundred(&with_edns(4096, 0), Transport::Udp);
    let edns = answer.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.rcode_high()), (OWN_SIZE, 0, 0));
    assert_eq!(hundred(&a_question("db."), Transport::Udp).1.edns, None);
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
fn m2_a_long_answer_is_cut_between_records_and_comes_whole_over_tcp() {
    let (length, answer) = hundred(&a_question("db."), Transport::Udp);
    assert!(answer.metadata.truncation && length <= 512);
    assert_eq!(answer.answers.len(), (512 - HEADER - 8) / 16);
    let (_, answer) = hundred(&a_question("db."), Transport::Tcp);
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
fn m6_a_message_shorter_than_a_header_and_an_answer_are_dropped() {
    let message = bytes(&a_question("db."));
    for length in 0..HEADER {
        assert_eq!(parse(&message[..length]), Err(Reply::Drop));
    }
    let mut answer = message.clone();
    answer[2] |= 0x80;
    assert_eq!(parse(&answer), Err(Reply::Drop));
    assert_eq!((servfail(&answer), refusal(&answer)), (None, None));
}

#[test]
fn m7_malformed_messages_and_other_counts_of_questions_are_formerr_with_the_id() {
    let message = bytes(&a_question("db."));
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
    for (place, byte) in [(questions, 0), (questions, 2), (answers, 1), (answers, 200), (first_label, 0x41)] {
        assert_eq!(patched(place, byte), ResponseCode::FormErr);
    }
    assert_eq!(code(&[&message[..], b"more"].concat()), ResponseCode::FormErr);
}

#[test]
fn m7_a_question_that_points_anywhere_is_malformed() {
    let header = &bytes(&a_question("db."))[..HEADER];
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
        let mut message = a_question("db.");
        message.metadata.op_code = op;
        let answer = error(&bytes(&message));
        assert_eq!((answer.metadata.response_code, answer.metadata.op_code), (ResponseCode::NotImp, op));
        assert_eq!(code(&bytes(&message)[..HEADER]), ResponseCode::NotImp);
    }
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::Unknown(4711)] {
        let mut message = a_question("db.");
        message.queries[0].set_query_class(class);
        assert_eq!(error(&bytes(&message)).metadata.response_code, ResponseCode::Refused);
        assert_eq!(error(&bytes(&message)).queries, message.queries);
    }
}

#[test]
fn f3_a_question_without_an_upstream_answer_is_answered_with_an_error() {
    let message = with_edns(1232, 0);
    let answer = Message::from_vec(&servfail(&bytes(&message)).unwrap()).unwrap();
    assert_eq!((answer.metadata.id, &answer.queries), (4711, &message.queries));
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(answer.edns.is_some() && !answer.metadata.authoritative);
    let answer = Message::from_vec(&refusal(&bytes(&message)).unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn f5_questions_are_equal_whatever_their_id_and_case_but_not_if_their_answers_may_differ() {
    let key = |message: &Message| question_key(&bytes(message)).unwrap();
    let mut same = a_question("DB.");
    same.metadata.id = 1;
    assert_eq!(key(&a_question("db.")), key(&same));
    let mut others = [
        a_question("db2."),
        a_question("db."),
        a_question("db."),
        with_edns(1232, 0),
        with_edns(512, 0),
        a_question("db."),
    ];
    others[1].metadata.checking_disabled = true;
    others[2].metadata.recursion_desired = false;
    others[5].queries[0].set_query_type(RecordType::AAAA);
    for other in others {
        assert_ne!(key(&a_question("db.")), key(&other));
    }
    assert_eq!(question_key(b"nonsense"), None);
}

#[test]
fn f6_a_reply_has_the_id_and_the_question() {
    let question = a_question("db.");
    let mut reply = a_question("DB.").into_response();
    assert!(is_reply_to(&bytes(&reply), &bytes(&question)));
    assert!(!is_reply_to(&bytes(&question), &bytes(&question)));
    reply.metadata.id += 1;
    assert!(!is_reply_to(&bytes(&reply), &bytes(&question)));
    assert!(!is_reply_to(&bytes(&a_question("db2.").into_response()), &bytes(&question)));
    for length in 0..bytes(&question).len() {
        assert!(!is_reply_to(&bytes(&question.clone().into_response())[..length], &bytes(&question)));
    }
}

#[test]
fn h5_addresses_are_found_in_every_record_type() {
    let hints = vec![
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![Ipv4Addr::new(10, 0, 0, 3).into()]))),
        (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec!["::ffff:10.0.0.4".parse().unwrap()]))),
    ];
    let service = SVCB::new(1, Name::root(), hints);
    let mut answer = a_question("db.").into_response();
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
    assert_eq!(addresses_in(&bytes(&a_question("db."))), Some(Vec::new()));
}

/// A resolver may overlook what is malformed after the address that it looks for.
#[test]
fn h5_a_malformed_message_has_no_addresses_that_could_be_trusted() {
    let mut answer = a_question("db.").into_response();
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
    (labels, any::<[u8; 4]>(), any::<[u8; 4]>(), opt, spoil).prop_map(|(labels, start, end, opt, spoil)| {
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
    })
}

proptest! {
    /// The two readers must not disagree on what a message says.
    #[test]
    fn hickory_reads_the_same(message in questions()) {
        let (own, theirs) = (Question::read(&message), Message::from_vec(&message));
        if let Some(own) = own {
            let theirs = theirs.unwrap();
            let query = &theirs.queries[0];
            let labels = own.name.split('.').filter(|label| !label.is_empty()).count();
            prop_assert_eq!(labels, query.name.iter().count());
            prop_assert_eq!((own.rtype, own.class), (query.query_type, query.query_class));
            let mut edns = own.edns;
            edns.iter_mut().for_each(|edns| edns.size = edns.size.max(512));
            prop_assert_eq!(Some(edns), read_edns(&message));
        } else if let Ok(theirs) = theirs {
            // This reader is stricter: one question, without pointers, and nothing after it.
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
