//! Reading the kernel's answers: messages and attributes in the buffer.
//!
//! Answers are read here and not by netlink-packet-route: it parses every attribute of every link
//! and refuses the whole message for one of unknown form. An unusual link on a host must not hide
//! the others.

use std::net::IpAddr;

use crate::socket::Answer;

const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const KIND_MASK: u16 = 0x3fff;

/// The messages of one datagram; one that is cut off at its end is left out.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let payload = bytes.get(HEADER_LEN..length)?;
        let answer = Answer::new(u16_at(bytes, 4)?, u16_at(bytes, 6)?, u32_at(bytes, 8)?, payload);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The attributes that begin these bytes, as (kind, value).
#[derive(Clone)]
pub(crate) struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes after a fixed header.
    pub fn after(payload: &'a [u8], header: usize) -> Self {
        Self(payload.get(header..).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER_LEN..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A number in host byte order, if it is within `bytes`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

/// A number in host byte order, if it is within `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

/// A number in host byte order, if it is within `bytes`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_ne_bytes)
}

/// The first `N` bytes, if there are as many.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Four or sixteen octets.
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => array::<4>(bytes, 0).map(IpAddr::from),
        16 => array::<16>(bytes, 0).map(IpAddr::from),
        _ => None,
    }
}

/// A string that may end in NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_walked_with_their_padding() {
        let mut bytes = [6, 0, 3, 0, b'a', 0, 0, 0].to_vec();
        bytes.extend([8, 0, 4, 0x80, 1, 0, 0, 0]);
        let read: Vec<_> = Attributes(&bytes).collect();
        assert_eq!(read, [(3, &b"a\0"[..]), (4, &[1, 0, 0, 0][..])]);
        assert_eq!(text(read[0].1), "a");
    }

    #[test]
    fn what_is_cut_off_or_lies_about_its_length_ends_the_walk() {
        for bytes in [&[][..], &[8], &[8, 0, 1, 0, 1], &[0, 0, 1, 0], &[3, 0, 1, 0], &[255, 255, 1, 0]] {
            assert_eq!(Attributes(bytes).count(), 0, "{bytes:?}");
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        let shorter_than_its_header = [15, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(messages(&shorter_than_its_header).count(), 0);
    }

    #[test]
    fn a_datagram_holds_several_messages() {
        let mut bytes = [18, 0, 0, 0, 16, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 9, 0, 0].to_vec();
        bytes.extend([16, 0, 0, 0, 17, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        let read: Vec<_> = messages(&bytes).map(|m| (m.kind, m.payload.len())).collect();
        assert_eq!(read, [(16, 2), (17, 0)]);
    }
}
