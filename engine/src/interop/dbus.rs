//! As much of D-Bus as firewalld needs: method calls on the system bus, one at a time.
//!
//! A crate would bring an asynchronous runtime, or libdbus, into every ADD: zbus adds over a megabyte. This has no thread,
//! and costs nothing where firewalld is not there.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The system bus (D-Bus specification, "well-known message bus instances").
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// A reload of firewalld takes up to some seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// No answer that is asked for here is as long.
const LONGEST: usize = 1 << 20;

/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Kinds of messages.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bus, or it does not answer.
    #[error("the system bus at {SOCKET} does not answer: {0}")]
    Bus(#[from] io::Error),
    /// The one who was called said no.
    #[error("firewalld refused {member}: {text}")]
    Refused {
        /// The method.
        member: &'static str,
        /// The error's text, which begins with firewalld's own code.
        text: String,
    },
}

/// An argument.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// `s`
    Text(&'a str),
    /// `b`
    Bool(bool),
    /// `i`
    Number(i32),
    /// `as`
    Texts(&'a [String]),
    /// `a(ss)`
    Pairs(&'a [(String, &'a str)]),
    /// `a{sv}`
    Map(&'a [(&'a str, Value<'a>)]),
}

/// Where a method is.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// The service.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
}

/// The answer to a call.
#[derive(Debug, Default)]
pub struct Answer {
    body: Vec<u8>,
}

/// A connection to the system bus.
pub struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
}

impl Bus {
    /// Connects as the calling user (SASL EXTERNAL).
    ///
    /// # Errors
    /// There is no bus.
    pub fn connect() -> Result<Self, Error> {
        let stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Self { stream: BufReader::new(stream), serial: 0 };
        bus.authenticate()?;
        let bus_itself = Object {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
        };
        bus.call(bus_itself, "Hello", &[])?;
        Ok(bus)
    }

    fn authenticate(&mut self) -> Result<(), Error> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut line = String::new();
        self.stream.by_ref().take(LONGEST as u64).read_line(&mut line)?;
        if !line.starts_with("OK ") {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        Ok(self.send(b"BEGIN\r\n")?)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The bus is gone, or the called service refuses.
    pub fn call(
        &mut self,
        of: Object<'_>,
        member: &'static str,
        arguments: &[Value<'_>],
    ) -> Result<Answer, Error> {
        self.serial += 1;
        let message = call(self.serial, of, member, arguments);
        self.send(&message)?;
        loop {
            let message = Message::read(&mut self.stream)?;
            if message.reply_to != Some(self.serial) {
                continue;
            }
            let answer = Answer { body: message.body };
            match message.kind {
                ERROR => {
                    let text = answer.text().map(str::to_owned).or(message.error).unwrap_or_default();
                    return Err(Error::Refused { member, text });
                }
                RETURN => return Ok(answer),
                _ => {}
            }
        }
    }
}

impl Answer {
    /// A text or an object's path at the beginning.
    pub fn text(&self) -> Option<&str> {
        Reader { bytes: &self.body, at: 0 }.text()
    }

    /// The same inside a variant.
    pub fn variant(&self) -> Option<&str> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        reader.signature().filter(|signature| *signature == "s")?;
        reader.text()
    }

    /// A list of texts.
    pub fn texts(&self) -> Vec<String> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let end = reader.number().map_or(0, |length| reader.at + length as usize);
        let mut texts = Vec::new();
        while reader.at < end
            && let Some(text) = reader.text()
        {
            texts.push(text.to_owned());
        }
        texts
    }

    /// A truth value.
    pub fn is_true(&self) -> bool {
        Reader { bytes: &self.body, at: 0 }.number() == Some(1)
    }
}

impl Value<'_> {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Bool(_) => "b",
            Self::Number(_) => "i",
            Self::Texts(_) => "as",
            Self::Pairs(_) => "a(ss)",
            Self::Map(_) => "a{sv}",
        }
    }
}

/// Bytes in the order of the machine that most of us have; each value begins at a multiple of its alignment.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(signature.len() as u8);
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
    }

    /// An array's length does not count the padding in front of its first item.
    fn array(&mut self, alignment: usize, items: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        items(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Text(text) => self.text(text),
            Value::Bool(value) => self.number(u32::from(*value)),
            Value::Number(number) => self.number(number.cast_unsigned()),
            Value::Texts(texts) => self.array(4, |list| texts.iter().for_each(|text| list.text(text))),
            Value::Pairs(pairs) => self.array(8, |list| {
                for (one, other) in *pairs {
                    list.align(8);
                    list.text(one);
                    list.text(other);
                }
            }),
            Value::Map(entries) => self.array(8, |list| {
                for (key, value) in *entries {
                    list.align(8);
                    list.text(key);
                    list.variant(value);
                }
            }),
        }
    }

    fn variant(&mut self, value: &Value<'_>) {
        self.signature(value.signature());
        self.value(value);
    }

    fn field(&mut self, field: u8, signature: &str, text: &str) {
        self.align(8);
        self.0.push(field);
        self.signature(signature);
        if signature == "g" { self.signature(text) } else { self.text(text) }
    }
}

fn call(serial: u32, of: Object<'_>, member: &str, arguments: &[Value<'_>]) -> Vec<u8> {
    let mut body = Writer::default();
    arguments.iter().for_each(|argument| body.value(argument));
    let signature: String = arguments.iter().map(Value::signature).collect();
    // Little-endian, no flags, version 1.
    let mut message = Writer(vec![b'l', CALL, 0, 1]);
    message.number(body.0.len() as u32);
    message.number(serial);
    message.array(8, |fields| {
        fields.field(PATH, "o", of.path);
        fields.field(INTERFACE, "s", of.interface);
        fields.field(MEMBER, "s", member);
        fields.field(DESTINATION, "s", of.destination);
        if !signature.is_empty() {
            fields.field(SIGNATURE, "g", &signature);
        }
    });
    message.align(8);
    message.0.append(&mut body.0);
    message.0
}

/// What is of interest in a message that has come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    kind: u8,
    reply_to: Option<u32>,
    error: Option<String>,
    body: Vec<u8>,
}

impl Message {
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut fixed = [0; 16];
        stream.read_exact(&mut fixed)?;
        let number =
            |at: usize| fixed[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default() as usize;
        let (body, fields) = (number(4), number(12));
        // The bus and firewalld are of this machine's byte order.
        if fixed[0] != b'l' || body > LONGEST || fields > LONGEST {
            return Err(invalid());
        }
        let mut header = vec![0; fields.next_multiple_of(8)];
        stream.read_exact(&mut header)?;
        let mut message = Self { kind: fixed[1], body: vec![0; body], ..Self::default() };
        stream.read_exact(&mut message.body)?;
        message.read_fields(&header[..fields]).ok_or_else(invalid)?;
        Ok(message)
    }

    fn read_fields(&mut self, bytes: &[u8]) -> Option<()> {
        let mut reader = Reader { bytes, at: 0 };
        while reader.at < bytes.len() {
            reader.align(8);
            let field = reader.byte()?;
            match (field, reader.signature()?) {
                (REPLY_SERIAL, "u") => self.reply_to = Some(reader.number()?),
                (ERROR_NAME, "s") => self.error = Some(reader.text()?.to_owned()),
                (_, "s" | "o") => drop(reader.text()?),
                (_, "u") => drop(reader.number()?),
                (_, "g") => drop(reader.signature()?),
                _ => return None,
            }
        }
        Some(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()? as usize;
        let text = self.take(length)?;
        self.take(1)?;
        str::from_utf8(text).ok()
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.byte()?.into();
        let text = self.take(length)?;
        self.take(1)?;
        str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Object<'static> = Object { destination: "a.b", path: "/a", interface: "a.c" };

    /// Out of the specification's section "Message format", by hand.
    #[test]
    fn a_call_is_written_as_the_specification_says() {
        let message = call(1, OBJECT, "M", &[Value::Text("x")]);

        let fixed = [b'l', 1, 0, 1, 6, 0, 0, 0, 1, 0, 0, 0, 71, 0, 0, 0];
        assert_eq!(message[..16], fixed);
        assert_eq!(message[16..27], [1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'a', 0]);
        assert_eq!(message.len(), 16 + 72 + 6);
        assert_eq!(message[88..], [1, 0, 0, 0, b'x', 0]);
    }

    #[test]
    fn lists_are_read_as_they_were_written() {
        let (names, pairs) = (["a".to_owned(), "bcdef".to_owned()], [("53".to_owned(), "udp")]);
        let mut writer = Writer::default();
        writer.value(&Value::Texts(&names));
        assert_eq!(Answer { body: writer.0 }.texts(), names);

        let map = [
            ("interfaces", Value::Texts(&names)),
            ("forward", Value::Bool(true)),
            ("ports", Value::Pairs(&pairs)),
        ];
        let mut writer = Writer::default();
        writer.value(&Value::Map(&map));
        let mut reader = Reader { bytes: &writer.0, at: 0 };
        let length = reader.number().unwrap() as usize;
        reader.align(8);
        assert_eq!((reader.text(), reader.signature()), (Some("interfaces"), Some("as")));
        assert_eq!(length + 8, writer.0.len());
    }

    #[test]
    fn an_answer_that_is_cut_off_or_too_long_is_an_error() {
        let whole = call(7, OBJECT, "M", &[Value::Text("x")]);
        for length in 0..whole.len() {
            assert!(Message::read(&mut &whole[..length]).is_err(), "{length}");
        }
        assert!(Message::read(&mut &whole[..]).is_ok());
        let mut long = whole;
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Message::read(&mut &long[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
