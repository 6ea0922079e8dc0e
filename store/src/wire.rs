//! The types of the wire in records, parsed once when a record is read. A record with other texts is garbage.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// The transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A text in a record that is no Ethernet address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address")]
pub struct ParseMacError(String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        let mut next = || parts.next().filter(is_byte).map(|part| u8::from_str_radix(part, 16));
        for byte in &mut bytes {
            let Some(Ok(value)) = next() else { return Err(ParseMacError(text.to_owned())) };
            *byte = value;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(ParseMacError(text.to_owned())) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_as_it_was_written_and_other_texts_are_refused() {
        let mac = Mac([2, 0x42, 0xac, 0x12, 0, 2]);
        assert_eq!(serde_json::to_string(&mac).unwrap(), "\"02:42:ac:12:00:02\"");
        assert_eq!(serde_json::from_str::<Mac>("\"02:42:ac:12:00:02\"").unwrap(), mac);
        for text in
            ["", "02:42:ac:12:00", "02:42:ac:12:00:02:03", "02:42:ac:12:00:g2", "no mac", "+2:42:ac:12:00:02"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_protocol_is_one_of_three() {
        assert_eq!(serde_json::from_str::<Protocol>("\"sctp\"").unwrap(), Protocol::Sctp);
        assert!(serde_json::from_str::<Protocol>("\"icmp\"").is_err());
    }
}
