//! Malformed messages and many networks: rules H4 and L5.

use crate::*;

/// Questions for names that exist and for others, with octets changed and bytes after them.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let names =
        ["many.", "many.front.", "db.dns.podman.", "9.9.18.172.in-addr.arpa.", "localhost.", "a.example."];
    let types = [RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::SOA, RecordType::ANY];
    let spoil = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let opt = prop::option::of(any::<u16>());
    let (names, types) = (prop::sample::select(names.to_vec()), prop::sample::select(types.to_vec()));
    (names, types, opt, spoil, prop::collection::vec(any::<u8>(), 0..3)).prop_map(
        |(name, rtype, opt, spoil, tail)| {
            let mut message = question(name, rtype);
            message.edns = opt.map(|size| Edns::new().set_max_payload(size).clone());
            let mut message = message.to_vec().unwrap();
            for (place, byte) in spoil {
                let place = place.index(message.len());
                message[place] = byte;
            }
            message.extend(tail);
            message
        },
    )
}

fn crowd() -> World {
    let mut world = world();
    for n in 0..200 {
        let address = format!("172.18.2.{n}");
        world.table.set_endpoint(&endpoint("front", &format!("c-{n}"), &["many"], &[&address]));
    }
    world
}

proptest! {
    #[test]
    fn h4_no_message_causes_an_answer_that_is_too_long_or_malformed(
        messages in prop::collection::vec(
            prop_oneof![4 => messages(), 1 => prop::collection::vec(any::<u8>(), 0..100)], 1..50),
    ) {
        let world = crowd();
        for message in messages {
            let asked = Asked {
                message: &message, from: ip(WEB.0), link: WEB.1, to: ip("172.18.0.1"), transport: Transport::Udp,
            };
            let (Reply::Answer(answer) | Reply::Error(answer)) = world.table.answer(&asked, 7) else { continue };
            let size = Message::from_vec(&message).ok().and_then(|read| read.edns).map(|edns| edns.max_payload());
            prop_assert!(answer.len() <= usize::from(size.unwrap_or(512).clamp(512, 1232)));
            let read = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(&answer[..2], &message[..2]);
            prop_assert!(read.metadata.message_type == MessageType::Response);
        }
    }
}

#[test]
fn l5_a_thousand_networks_are_distinguished() {
    let mut world = world();
    for n in 0..1000_u32 {
        let (a, b) = (n / 250, n % 250);
        let (gateway, subnet) = (format!("10.{a}.{b}.1"), format!("10.{a}.{b}.0/24"));
        world.table.set_network(network(&format!("net{n}"), &[&gateway], &[&subnet]));
        let address = format!("10.{a}.{b}.2");
        world.table.set_endpoint(&endpoint(&format!("net{n}"), &format!("c-{n}"), &["db"], &[&address]));
    }
    assert_eq!(world.a(("10.3.249.9", "br-net999"), "db."), "10.3.249.2");
    assert_eq!(world.a(("10.3.249.9", "br-net999"), "db.net998."), "unknown");
    assert_eq!(world.a(("10.3.249.9", "br-net998"), "db."), "silence");
}
