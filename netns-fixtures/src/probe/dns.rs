//! A question to a name server. By hand, for one question and its addresses need no library (RFC 1035, 4.1).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use netlink::Netns;

use super::{Deadline, is_silence};
use crate::Error;

/// The number of a question: nobody else's is open on its socket.
const ID: [u8; 2] = [0x72, 0x6e];

/// Recursion is desired; one question, no records.
const HEADER: [u8; 10] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// The type of an address record: A and AAAA.
const A: u16 = 1;
const AAAA: u16 = 28;
/// The type of an address's name.
const PTR: u16 = 12;

/// What a name server says to one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The response code: 0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    pub code: u8,
    /// The addresses, in their order.
    pub addresses: Vec<IpAddr>,
    /// The names that records of an address's question point to.
    pub names: Vec<String>,
}

/// Asks `server` from `netns` for the addresses of `name`, of IPv6 if `v6`. None is silence for so long.
pub fn lookup(
    netns: &Netns,
    server: SocketAddr,
    name: &str,
    v6: bool,
    timeout: Duration,
) -> Result<Option<Lookup>, Error> {
    ask(netns, server, &question(name, if v6 { AAAA } else { A }), timeout)
}

/// Asks `server` from `netns` who has `address`.
pub fn lookup_address(
    netns: &Netns,
    server: SocketAddr,
    address: Ipv4Addr,
    timeout: Duration,
) -> Result<Option<Lookup>, Error> {
    let [a, b, c, d] = address.octets();
    ask(netns, server, &question(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), PTR), timeout)
}

fn ask(
    netns: &Netns,
    server: SocketAddr,
    question: &[u8],
    timeout: Duration,
) -> Result<Option<Lookup>, Error> {
    match netns.run(|| exchange(server, question, Deadline::after(timeout)))? {
        Ok(answer) => Ok(Some(parse(&answer).unwrap_or_default())),
        Err(error) if is_silence(&error) => Ok(None),
        Err(source) => Err(Error::Probe { doing: "ask the name server", to: server.ip(), source }),
    }
}

fn exchange(server: SocketAddr, question: &[u8], deadline: Deadline) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // An answer from anywhere else is none.
    socket.connect(server)?;
    socket.send(question)?;
    let mut buffer = [0; 4096];
    loop {
        socket.set_read_timeout(Some(deadline.left()?))?;
        let len = socket.recv(&mut buffer)?;
        if buffer[..len].starts_with(&ID) {
            return Ok(buffer[..len].to_vec());
        }
    }
}

fn question(name: &str, rtype: u16) -> Vec<u8> {
    let mut message = [ID.as_slice(), &HEADER].concat();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(rtype.to_be_bytes());
    message.extend(1u16.to_be_bytes());
    message
}

/// The code and the records of an answer; none if it is malformed.
fn parse(message: &[u8]) -> Option<Lookup> {
    let mut lookup = Lookup { code: message.get(3)? & 0xf, ..Lookup::default() };
    let answers = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let mut at = after_name(message, 12)? + 4;
    for _ in 0..answers {
        let fixed = after_name(message, at)?;
        let rtype = u16::from_be_bytes(message.get(fixed..fixed + 2)?.try_into().ok()?);
        let length = u16::from_be_bytes(message.get(fixed + 8..fixed + 10)?.try_into().ok()?);
        let start = fixed + 10;
        at = start + usize::from(length);
        let data = message.get(start..at)?;
        match rtype {
            A => lookup.addresses.push(<[u8; 4]>::try_from(data).ok()?.into()),
            AAAA => lookup.addresses.push(<[u8; 16]>::try_from(data).ok()?.into()),
            PTR => lookup.names.push(name_at(message, start)?),
            _ => {}
        }
    }
    Some(lookup)
}

/// Where a name that begins at `at` ends: after its root or its first pointer.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length < 64 => at += 1 + usize::from(length),
            _ => return Some(at + 2),
        }
    }
}

/// The name at `at`; each pointer goes further back than all before, so it ends.
fn name_at(message: &[u8], mut at: usize) -> Option<String> {
    let (mut labels, mut limit) = (Vec::new(), at);
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some(labels.join(".")),
            1..64 => {
                labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + length)?).into_owned());
                at += 1 + length;
            }
            _ => {
                let to = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                (at, limit) = (to < limit).then_some((to, to))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_pointers() {
        let mut message = question("db.mynet", A);
        message[2..12].copy_from_slice(&[0x84, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 172, 18, 0, 2]);

        let lookup = parse(&message).unwrap();

        assert_eq!((lookup.code, lookup.addresses), (0, vec!["172.18.0.2".parse().unwrap()]));
        assert_eq!(name_at(&message, 12).unwrap(), "db.mynet");
        assert_eq!(parse(&message[..message.len() - 1]), None);
    }

    #[test]
    fn names_that_point_at_themselves_end() {
        assert_eq!(name_at(&[0xc0, 0], 0), None);
        assert_eq!(name_at(&[1, b'a', 0xc0, 0], 0), None, "the second time round, too");
    }
}
