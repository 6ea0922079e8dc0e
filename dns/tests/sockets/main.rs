//! The whole server at its sockets: a separate host for each test, questions by datagram and stream, upstreams that
//! misbehave, and a worker process that is killed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};

mod askers;
#[path = "../common/mod.rs"]
mod common;
mod forwarding;
mod serving;
mod streams;

use common::{AS_WORKER, LONG, query, read_with_length, with_length};

#[test]
fn a_worker_needs_its_parent() {
    if std::env::args().any(|argument| argument == AS_WORKER) {
        return dns::work().unwrap();
    }
    let refused = dns::work().unwrap_err();
    assert_eq!(refused.to_string(), "the name server's parent and worker cannot talk");
}

fn connect_between(from: IpAddr, to: IpAddr) -> TcpStream {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (family, kind) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, flags, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(from, 0)).unwrap();
    rustix::net::connect(&socket, &SocketAddr::new(to, 53)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// The same over TCP.
fn rcode_over_tcp(from: &str, to: IpAddr, name: &str) -> u8 {
    let mut stream = connect_between(from.parse().unwrap(), to);
    stream.write_all(&with_length(&query(1, name))).unwrap();
    read_with_length(&mut stream).map_or(99, |answer| answer[3] & 0xf)
}
