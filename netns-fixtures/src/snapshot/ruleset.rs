//! The nf_tables ruleset, dumped raw and rendered without knowing its expressions.
//!
//! It shares no code with the crate that writes rulesets, so neither can hide the other's mistake.
//! Attributes keep their numbers (linux/netfilter/nf_tables.h); handles, uses, counters and
//! expiries are left out.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink::Netns;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::Error;

/// One kind of object: how to ask for it, which attributes name it, and which change by themselves.
struct Kind {
    what: &'static str,
    /// NFT_MSG_GET…
    get: u8,
    names: &'static [u16],
    passing: &'static [u16],
}

const TABLES: Kind = Kind { what: "table", get: 1, names: &[1], passing: &[3, 4, 5] };
const CHAINS: Kind = Kind { what: "chain", get: 4, names: &[1, 3], passing: &[2, 6, 8, 9, 11] };
const RULES: Kind = Kind { what: "rule", get: 7, names: &[1, 2], passing: &[3, 6, 8, 9] };
const SETS: Kind = Kind { what: "set", get: 10, names: &[1, 2], passing: &[10, 14, 16, 19, 20] };
const ELEMENTS: Kind = Kind { what: "element", get: 13, names: &[1, 2], passing: &[5, 8] };
const OBJECTS: Kind = Kind { what: "object", get: 19, names: &[1, 2], passing: &[4, 5, 6, 7] };
const FLOWTABLES: Kind = Kind { what: "flowtable", get: 23, names: &[1, 2], passing: &[4, 5, 6] };

/// NLA_TYPE_MASK
const TYPE_MASK: u16 = 0x3fff;
const SUBSYSTEM: u16 = 10;
const DUMP: u16 = 0x0001 | 0x0300;
const INTERRUPTED: u16 = 0x0010;
/// A ruleset that changes this often during its dump is no state to compare.
const ATTEMPTS: usize = 20;

/// One object of a dump: its family and its attributes.
struct Object {
    family: u8,
    attributes: Vec<u8>,
}

pub(super) fn lines(netns: &Netns) -> Result<Vec<String>, Error> {
    netns.run(ruleset)?.map_err(|(what, source)| Error::Ruleset { what, netns: netns.path().into(), source })
}

fn ruleset() -> Result<Vec<String>, (&'static str, io::Error)> {
    let socket = socket().map_err(|error| ("socket", error))?;
    match dump(&socket, &TABLES, 0, &[]) {
        // A kernel without nf_tables: no ruleset is an empty one.
        Err((_, error)) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            return Ok(Vec::new());
        }
        tables => tables?,
    };
    let mut lines = Vec::new();
    for kind in [TABLES, CHAINS, SETS, OBJECTS, FLOWTABLES] {
        let objects = dump(&socket, &kind, 0, &[])?;
        lines.extend(objects.iter().map(|object| object.line(&kind)));
        if kind.what == SETS.what {
            for set in &objects {
                lines.extend(elements(&socket, set)?);
            }
        }
    }
    lines.extend(numbered_rules(&dump(&socket, &RULES, 0, &[])?));
    Ok(lines)
}

/// The order of a chain's rules is part of its state.
fn numbered_rules(rules: &[Object]) -> Vec<String> {
    let mut count: HashMap<String, usize> = HashMap::new();
    let line = |rule: &Object| {
        let chain = rule.name(&RULES);
        let nth = count.entry(chain.clone()).and_modify(|nth| *nth += 1).or_insert(1);
        format!("{chain} {nth:3}: {}", rule.text(&RULES))
    };
    rules.iter().map(line).collect()
}

/// One line for each element of `set`. NFTA_SET_ELEM_LIST_TABLE and _SET have the numbers of
/// NFTA_SET_TABLE and _NAME.
fn elements(socket: &OwnedFd, set: &Object) -> Result<Vec<String>, (&'static str, io::Error)> {
    let names: Vec<u8> = SETS.names.iter().flat_map(|name| attribute(*name, set.value(*name))).collect();
    let lists = dump(socket, &ELEMENTS, set.family, &names)?;
    let lines = lists.iter().flat_map(|list| {
        let name = list.name(&ELEMENTS);
        let items = nested(list.value(3)).unwrap_or_default();
        items.into_iter().map(move |(_, item)| format!("{name}: {}", render(item, ELEMENTS.passing)))
    });
    Ok(lines.collect())
}

impl Object {
    fn line(&self, kind: &Kind) -> String {
        format!("{}: {}", self.name(kind), self.text(kind))
    }

    /// `rule inet rnet forward`
    fn name(&self, kind: &Kind) -> String {
        let names = kind.names.iter().map(|name| text(self.value(*name)).unwrap_or_default());
        let names: Vec<String> = names.collect();
        format!("{} {} {}", kind.what, family_name(self.family), names.join(" "))
    }

    fn text(&self, kind: &Kind) -> String {
        let left_out = [kind.names, kind.passing].concat();
        render(&self.attributes, &left_out)
    }

    fn value(&self, number: u16) -> &[u8] {
        let attributes = nested(&self.attributes).unwrap_or_default();
        attributes.into_iter().find(|(kind, _)| *kind == number).map_or(&[], |(_, value)| value)
    }
}

/// Attributes as `{number: value …}`, strings as strings, other bytes in hexadecimal. Whether bytes
/// are attributes is guessed by their form: the kernel does not mark them. Equal bytes always give
/// equal text, which is all that a comparison needs.
fn render(bytes: &[u8], left_out: &[u16]) -> String {
    if let Some(text) = text(bytes) {
        return format!("{text:?}");
    }
    let Some(attributes) = nested(bytes) else { return hexadecimal(bytes) };
    if let Some(name) = stateful(&attributes) {
        return name;
    }
    let shown = attributes.iter().filter(|(number, _)| !left_out.contains(number));
    let shown: Vec<String> =
        shown.map(|(number, value)| format!("{number}:{}", render(value, &[]))).collect();
    format!("{{{}}}", shown.join(" "))
}

/// An expression (name 1, data 2) whose data are counts or times.
fn stateful(attributes: &[(u16, &[u8])]) -> Option<String> {
    let name = text(attributes.iter().find(|(number, _)| *number == 1)?.1)?;
    ["counter", "last", "quota"].contains(&name.as_str()).then_some(name)
}

/// The attributes that `bytes` consist of, all of them, or None.
fn nested(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut attributes = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let half = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let (length, number) = (usize::from(half(0)?), half(2)? & TYPE_MASK);
        let plausible = (1..64).contains(&number);
        attributes.push((number, plausible.then(|| rest.get(4..length))??));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (!attributes.is_empty()).then_some(attributes)
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_suffix(&[0])?;
    let printable = !text.is_empty() && text.iter().all(|byte| (b' '..=b'~').contains(byte));
    printable.then(|| String::from_utf8_lossy(text).into_owned())
}

/// Comments and interface names, padded with zeros, stay readable.
fn hexadecimal(bytes: &[u8]) -> String {
    let letters = bytes.iter().filter(|byte| byte.is_ascii_graphic()).count();
    if letters >= 4 && bytes.contains(&0) {
        return format!("\"{}\"", bytes.escape_ascii()).replace("\\x00", "·");
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn family_name(family: u8) -> String {
    let name = match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        other => return other.to_string(),
    };
    name.into()
}

fn socket() -> io::Result<OwnedFd> {
    let protocol = Some(rustix::net::netlink::NETFILTER);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(10)))?;
    Ok(socket)
}

/// All objects of a kind, repeated while the kernel says that the dump was interrupted.
fn dump(
    socket: &OwnedFd,
    kind: &Kind,
    family: u8,
    attributes: &[u8],
) -> Result<Vec<Object>, (&'static str, io::Error)> {
    let failed = |error: io::Error| (kind.what, error);
    for _ in 0..ATTEMPTS {
        let request = request(kind.get, family, attributes);
        rustix::net::send(socket, &request, SendFlags::empty()).map_err(|e| failed(e.into()))?;
        if let Some(objects) = answers(socket).map_err(failed)? {
            return Ok(objects);
        }
    }
    Err(failed(io::ErrorKind::Interrupted.into()))
}

/// nlmsghdr, nfgenmsg, attributes.
fn request(get: u8, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = (16 + 4 + attributes.len()) as u32;
    let kind = SUBSYSTEM << 8 | u16::from(get);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &number.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// None if the dump was interrupted by a change.
fn answers(socket: &OwnedFd) -> io::Result<Option<Vec<Object>>> {
    let mut objects = Vec::new();
    let mut whole = true;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let (len, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..len];
        while let Some((header, payload, next)) = message(rest) {
            whole &= header.flags & INTERRUPTED == 0;
            match header.kind {
                2 | 3 => return ended(payload).map(|()| whole.then_some(objects)),
                _ => objects.extend(object(payload)),
            }
            rest = next;
        }
    }
}

struct Header {
    kind: u16,
    flags: u16,
}

/// The first message of `bytes`, its payload, and what follows it.
fn message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let header = Header { kind: half(4)?, flags: half(6)? };
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((header, bytes.get(16..length)?, next))
}

fn object(payload: &[u8]) -> Option<Object> {
    Some(Object { family: *payload.first()?, attributes: payload.get(4..)?.to_vec() })
}

/// NLMSG_ERROR and NLMSG_DONE begin with an errno, negated.
fn ended(payload: &[u8]) -> io::Result<()> {
    match payload.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_rendered_by_number_and_counters_by_name() {
        let expression = [attribute(1, b"counter\0"), attribute(2, &attribute(1, &[0; 8]))].concat();
        let name = attribute(3, b"forward\0");
        let handle = attribute(2, &[0, 0, 0, 7]);
        let all = [name, handle, attribute(4, &attribute(1, &expression))].concat();
        assert_eq!(render(&all, &[2]), "{3:\"forward\" 4:{1:counter}}");
    }

    #[test]
    fn bytes_that_are_no_attributes_are_hexadecimal_or_readable() {
        assert_eq!(render(&[172, 18, 0, 2], &[]), "ac120002");
        let mut name = b"veth1234".to_vec();
        name.resize(16, 0);
        assert_eq!(render(&name, &[]), "\"veth1234········\"");
    }
}
