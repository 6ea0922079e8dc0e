//! Questions to the name server: anybody on a network can send anything.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use dns::{Asked, Endpoint, Network, Reply, Table, Transport};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

/// Longer answers do not leave by datagram.
const MOST: usize = 1232;

static TABLE: LazyLock<Table> = LazyLock::new(table);

fuzz_target!(|input: (bool, u64, &[u8])| {
    let (stream, turn, message) = input;
    let transport = if stream { Transport::Tcp } else { Transport::Udp };
    let asked = Asked { message, from: ip("10.7.0.2"), link: "br0", to: ip("10.7.0.1"), transport };
    match TABLE.answer(&asked, turn) {
        Reply::Answer(answer) | Reply::Error(answer) => check(message, &answer, stream),
        Reply::Forward(_) => {
            assert!(dns::question_key(message).is_some());
            for made in [dns::servfail(message), dns::refusal(message)] {
                check(message, &made.expect("what is forwarded can be answered"), stream);
            }
        }
        Reply::Drop => assert!(message.len() < 12 || message[2] & 0x80 != 0),
    }
});

/// It answers this message, others can read it, and it is no longer than it may be.
fn check(message: &[u8], answer: &[u8], stream: bool) {
    assert_eq!(answer[..2], message[..2]);
    assert!(answer[2] & 0x80 != 0);
    assert!(stream || answer.len() <= MOST);
    Message::from_vec(answer).expect("an answer is a message");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn table() -> Table {
    let mut table = Table::new();
    for (name, subnet, gateway) in [("net", "10.7.0.0/24", "10.7.0.1"), ("my.net", "fd07::/64", "fd07::1")] {
        table.set_network(Network {
            name: name.into(),
            domain: Some("dns.rnet".into()),
            bridge: "br0".into(),
            gateways: vec![ip(gateway)],
            subnets: vec![subnet.parse().unwrap()],
            ..Network::default()
        });
    }
    for host in 2..102 {
        let container = format!("c{host}");
        let names = vec![container.clone(), "all".into()];
        let addresses = vec![ip(&format!("10.7.0.{host}")), ip(&format!("fd07::{host}"))];
        let endpoint = Endpoint {
            network: "net".into(),
            container,
            ifname: "eth0".into(),
            names,
            addresses,
            ..Endpoint::default()
        };
        assert!(table.set_endpoint(&endpoint));
    }
    table
}
