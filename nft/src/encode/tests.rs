//! Batches as they are numbered, and messages read back as they were written.

use std::net::SocketAddr;

use netlink_packet_core::NLM_F_EXCL;

use super::elements::{ELEMENTS_PER_MESSAGE, comment};
use super::reply::owner_in;
use super::rule::prefix_mask;
use super::*;
use crate::element::{Element, Entry, Owner, Protocol};

fn longest_element() -> (Entry, Owner) {
    let to: SocketAddr = "[fd00::2]:80".parse().unwrap();
    let element = Element::Publish { host: Some(to.ip()), protocol: Protocol::Tcp, host_port: 80, to };
    (element.entry().unwrap(), Owner::new("0123456789abcdef").unwrap())
}

#[test]
fn a_batch_is_numbered_and_only_its_last_message_is_acknowledged() {
    let (entry, owner) = longest_element();
    let mut batch = Requests::new(u32::MAX);

    batch.begin(Some(7));
    batch.create_element(&entry, owner, true);
    batch.create_element(&entry, owner, false);
    let last = batch.end();

    let messages: Vec<Reply<'_>> = replies(batch.bytes()).map(Option::unwrap).collect();
    let numbers: Vec<u32> = messages.iter().map(|message| message.sequence).collect();
    assert_eq!((numbers, last), (vec![u32::MAX, 0, 1, 2], 1));
    let acked: Vec<bool> = messages.iter().map(|message| message.flags & NLM_F_ACK != 0).collect();
    assert_eq!(acked, [false, false, true, false]);
    assert_eq!(messages[0].number(BATCH_GENERATION), Some(7u32.to_be_bytes()));
    assert_ne!(messages[1].flags & NLM_F_EXCL, 0);
    assert_eq!(messages[2].flags & NLM_F_EXCL, 0);
}

#[test]
fn elements_are_read_back_as_they_were_written() {
    let (entry, owner) = longest_element();
    let mut requests = Requests::new(0);

    requests.create_elements(&[(&entry, owner); 3], true);

    let message = replies(requests.bytes()).next().unwrap().unwrap();
    assert_eq!(message.elements(entry.set), Some(vec![(entry, Some(owner)); 3]));
}

#[test]
fn a_full_message_stays_below_the_limit_of_an_attribute() {
    let mut requests = Requests::new(0);
    let (entry, owner) = longest_element();
    requests.create_elements(&[(&entry, owner); ELEMENTS_PER_MESSAGE + 1], true);
    let lengths: Vec<usize> =
        replies(requests.bytes()).map(|message| message.unwrap().payload.len()).collect();
    assert_eq!(lengths.len(), 2);
    assert!(lengths[0] < 60_000, "{lengths:?}");
}

#[test]
fn masks_have_as_many_bits_as_the_prefix() {
    assert_eq!(prefix_mask(4, 4), [0xf0, 0, 0, 0]);
    assert_eq!(prefix_mask(4, 0), [0, 0, 0, 0]);
    assert_eq!(prefix_mask(16, 10)[..2], [0xff, 0xc0]);
    assert_eq!(prefix_mask(16, 128), [0xff; 16]);
}

#[test]
fn the_comment_may_stand_anywhere_in_the_user_data() {
    let owner = Owner::new("0123456789abcdef").unwrap();
    let mut data = vec![1, 2, 9, 9];
    data.extend(comment(owner));
    assert_eq!(owner_in(&data), Some(owner));
    assert_eq!(owner_in(&data[..data.len() - 3]), None);
    assert_eq!(owner_in(&[COMMENT, 3, b'm', b'e', 0]), None);
    assert_eq!(owner_in(&[]), None);
}

#[test]
fn a_message_that_is_cut_off_is_reported() {
    let mut requests = Requests::new(0);
    requests.get_generation();
    let bytes = requests.bytes();
    let cut = &bytes[..bytes.len() - 1];
    assert!(replies(cut).next().unwrap().is_none());
    assert_eq!(replies(cut).count(), 1);
}
