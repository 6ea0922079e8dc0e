//! The rules of docs/rules.md about views, names, answers and what stays on the host, as a container sees them.

#![allow(clippy::unwrap_used, reason = "clippy.toml's allow-unwrap-in-tests does not reach helpers")]

mod answers;
mod limits;
mod names;
mod outside;
mod views;

use std::cell::Cell;
use std::net::IpAddr;

use dns::{Asked, Endpoint, Forward, Network, Reply, Table, Transport};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

/// A table, and how often it was asked.
struct World {
    table: Table,
    turn: Cell<u64>,
}

/// An asker: source address and link.
type Who = (&'static str, &'static str);

const WEB: Who = ("172.18.0.2", "br-front");
const DB: Who = ("172.19.0.2", "br-back");
const BOTH_BY_FRONT: Who = ("172.18.0.3", "br-front");
const BOTH_BY_BACK: Who = ("172.19.0.3", "br-back");
const SECRET: Who = ("172.20.0.2", "br-vault");
const UNREGISTERED: Who = ("172.18.7.7", "br-front");
const STRANGER: Who = ("10.0.0.9", "eth0");
const HOST: Who = ("172.18.0.1", "lo");

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(name: &str, gateways: &[&str], subnets: &[&str]) -> Network {
    Network {
        name: name.into(),
        domain: Some("dns.podman".into()),
        bridge: format!("br-{name}"),
        gateways: gateways.iter().map(|gateway| ip(gateway)).collect(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        ..Network::default()
    }
}

fn endpoint(network: &str, container: &str, names: &[&str], addresses: &[&str]) -> Endpoint {
    Endpoint {
        network: network.into(),
        container: container.into(),
        ifname: format!("eth-{network}"),
        names: names.iter().map(|name| (*name).into()).collect(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        upstreams: Vec::new(),
    }
}

/// `web` is on front, `db` on back, `both` on both; `secret` is on vault, which is internal.
fn world() -> World {
    let mut table = Table::new();
    table.set_network(network("front", &["172.18.0.1", "fd00:18::1"], &["172.18.0.0/16", "fd00:18::/64"]));
    table.set_network(network("back", &["172.19.0.1"], &["172.19.0.0/24"]));
    let vault = network("vault", &["172.20.0.1"], &["172.20.0.0/20"]);
    table.set_network(Network { internal: true, domain: Some("vault.example".into()), ..vault });
    let web = ["web", "www", "0123456789ab", "webhost"];
    for endpoint in [
        endpoint("front", "c-web", &web, &["172.18.0.2", "fd00:18::2"]),
        endpoint("front", "c-both", &["both"], &["172.18.0.3"]),
        endpoint("back", "c-both", &["both"], &["172.19.0.3"]),
        endpoint("back", "c-db", &["db"], &["172.19.0.2"]),
        endpoint("vault", "c-secret", &["secret"], &["172.20.0.2"]),
    ] {
        assert!(table.set_endpoint(&endpoint));
    }
    World { table, turn: Cell::new(0) }
}

fn question(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

impl World {
    fn reply(&self, who: Who, message: &[u8]) -> Reply {
        let (from, link) = who;
        let to = ip("172.18.0.1");
        let asked = Asked { message, from: ip(from), link, to, transport: Transport::Tcp };
        self.turn.set(self.turn.get() + 1);
        self.table.answer(&asked, self.turn.get())
    }

    fn answer(&self, who: Who, name: &str, rtype: RecordType) -> Message {
        match self.reply(who, &question(name, rtype).to_vec().unwrap()) {
            Reply::Answer(bytes) | Reply::Error(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// The outcome of a question, in short.
    fn ask(&self, who: Who, name: &str, rtype: RecordType) -> String {
        match self.reply(who, &question(name, rtype).to_vec().unwrap()) {
            Reply::Answer(bytes) | Reply::Error(bytes) => short(&Message::from_vec(&bytes).unwrap()),
            Reply::Forward(_) => "forwarded".into(),
            Reply::Drop => "silence".into(),
        }
    }

    fn a(&self, who: Who, name: &str) -> String {
        self.ask(who, name, RecordType::A)
    }

    fn ptr(&self, who: Who, address: &str) -> String {
        self.ask(who, &Name::from(ip(address)).to_string(), RecordType::PTR)
    }

    fn forward(&self, who: Who) -> Forward {
        match self.reply(who, &question("example.com.", RecordType::A).to_vec().unwrap()) {
            Reply::Forward(forward) => forward,
            other => panic!("{other:?}"),
        }
    }
}

/// The answers' data, or a word for the kind of empty answer.
fn short(message: &Message) -> String {
    let data: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
    match message.metadata.response_code {
        ResponseCode::NoError if data.is_empty() => "nothing".into(),
        ResponseCode::NoError => data.join(" "),
        ResponseCode::NXDomain => "unknown".into(),
        ResponseCode::Refused => "refused".into(),
        other => other.to_string(),
    }
}

fn zone(message: &Message) -> String {
    message.authorities[0].name.to_string()
}
