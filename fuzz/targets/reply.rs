//! Replies of servers outside, genuine or forged, to a question that was forwarded.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &[u8])| {
    let (question, reply) = input;
    let addresses = dns::addresses_in(reply).unwrap_or_default();
    assert!(addresses.iter().all(|address| address.to_canonical() == *address));
    if dns::is_reply_to(reply, question) {
        assert_eq!(reply[..2], question[..2]);
        assert!(reply[2] & 0x80 != 0 && question.len() >= 12);
        // What has another number answers another question.
        let mut other = reply.to_vec();
        other[0] ^= 1;
        assert!(!dns::is_reply_to(&other, question));
    }
    if let Some(key) = dns::question_key(question) {
        let mut again = question.to_vec();
        again[1] ^= 0xff;
        assert_eq!(dns::question_key(&again), Some(key), "the number is none of the question's");
    }
});
