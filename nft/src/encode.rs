//! Values to netlink messages (linux/netfilter/nf_tables.h, nfnetlink.h) and the kernel's messages to values.
//!
//! The attributes are those of `netlink-packet-netfilter`. Nesting is done here, because that crate measures every
//! level repeatedly and would take longer than the kernel.

mod elements;
mod reply;
mod rule;
mod tables;
#[cfg(test)]
mod tests;

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, Nla};
use netlink_packet_netfilter::nftables::{NfTablesMessageType, Verdict};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};

use crate::ruleset::{Family, Term};

pub(crate) use reply::{Reply, attributes, replies, value_in};

/// Offsets of length, flags and number in `nlmsghdr`.
const LENGTH: usize = 0;
const FLAGS: usize = 6;
const SEQUENCE: usize = 8;
/// nfnetlink.h: NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, and NFNL_BATCH_GENID in the former.
const BATCH_BEGIN: u8 = 16;
const BATCH_END: u8 = 17;
const BATCH_GENERATION: u16 = 1;
/// NFTNL_UDATA_SET_ELEM_COMMENT (libnftnl's udata.h).
const COMMENT: u8 = 0;
/// NFTA_SET_ELEM_USERDATA.
const ELEMENT_USER_DATA: u16 = 6;
/// NFTA_DATA_VALUE.
const DATA_VALUE: u16 = 1;
/// The length of `struct nlattr`.
const NLA_HEADER: usize = 4;

/// Netlink messages that go to the kernel in one send.
pub(crate) struct Requests {
    bytes: Vec<u8>,
    first: u32,
    count: u32,
    /// Where the last message begins.
    last: usize,
}

impl Requests {
    /// No message yet; they will be numbered from `first`.
    pub fn new(first: u32) -> Self {
        Self { bytes: Vec::with_capacity(4096), first, count: 0, last: 0 }
    }

    /// The sequence number of the first message.
    pub fn first(&self) -> u32 {
        self.first
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// The subsystem of the first message (NFNL_SUBSYS_…); 0 for a batch.
    pub fn subsystem(&self) -> u8 {
        self.bytes.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]).to_be_bytes()[0])
    }

    /// Appends a message.
    pub fn message(
        &mut self,
        kind: (NetfilterSubsystem, u8),
        flags: u16,
        header: &NetfilterHeader,
        attributes: impl FnOnce(&mut Self),
    ) {
        let sequence = self.first.wrapping_add(self.count);
        let kind = u16::from_be_bytes([kind.0.into(), kind.1]);
        self.count += 1;
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.emit(header);
        attributes(self);
        let length = (self.bytes.len() - self.last) as u32;
        self.bytes[self.last + LENGTH..][..4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends the messages of another, with new numbers.
    pub fn append(&mut self, other: &Requests) {
        let mut rest = other.bytes();
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            let (message, next) = rest.split_at(length.min(rest.len()));
            self.last = self.bytes.len();
            self.bytes.extend_from_slice(message);
            let sequence = self.first.wrapping_add(self.count);
            self.bytes[self.last + SEQUENCE..][..4].copy_from_slice(&sequence.to_ne_bytes());
            self.count += 1;
            rest = next;
        }
    }

    /// Appends an attribute.
    pub fn put(&mut self, attribute: &impl Nla) {
        self.emit(attribute);
    }

    /// Appends `container`, of which only the type counts, with what `inside` appends.
    pub fn nest(&mut self, container: &impl Nla, inside: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(&DefaultNla::new(container.kind(), Vec::new()));
        inside(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn emit(&mut self, what: &impl Emitable) {
        let start = self.bytes.len();
        self.bytes.resize(start + what.buffer_len(), 0);
        what.emit(&mut self.bytes[start..]);
    }

    /// Appends a message for nf_tables.
    pub fn nftables(
        &mut self,
        kind: NfTablesMessageType,
        flags: u16,
        family: Family,
        attributes: impl FnOnce(&mut Self),
    ) {
        let header = NetfilterHeader::new(protocol_family(family), 0, 0);
        self.message((NetfilterSubsystem::NfTables, kind.into()), flags, &header, attributes)
    }

    /// Opens a transaction; with a generation, the kernel refuses it (ERESTART) if anything was changed since.
    pub fn begin(&mut self, generation: Option<u32>) {
        self.batch(BATCH_BEGIN, generation);
    }

    /// Closes the transaction; returns the number of the message whose acknowledgement means success.
    ///
    /// That is the last one before BATCH_END; errors of any message come without a request.
    pub fn end(&mut self) -> u32 {
        let flags = self.last + FLAGS;
        let old = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]);
        self.bytes[flags..flags + 2].copy_from_slice(&(old | NLM_F_ACK).to_ne_bytes());
        self.batch(BATCH_END, None);
        self.first.wrapping_add(self.count - 2)
    }

    fn batch(&mut self, kind: u8, generation: Option<u32>) {
        let subsystem = u8::from(NetfilterSubsystem::NfTables).into();
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem);
        self.message((NetfilterSubsystem::None, kind), 0, &header, |message| {
            if let Some(generation) = generation {
                message.put(&DefaultNla::new(BATCH_GENERATION, generation.to_be_bytes().into()));
            }
        })
    }

    /// Asks for the number of the ruleset's last change (NFT_MSG_GETGEN).
    pub fn get_generation(&mut self) {
        self.nftables(NfTablesMessageType::GetGen, 0, Family::Inet, |_| {})
    }

    fn data(&mut self, container: &impl Nla, bytes: &[u8]) {
        self.nest(container, |data| data.attribute(DATA_VALUE, bytes));
    }

    /// Written by hand: there are thousands of them, and the crate's attributes allocate a vector each.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (NLA_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// NF_DROP, NF_ACCEPT, NFT_RETURN
fn verdict_code(verdict: Term) -> u32 {
    match verdict {
        Term::Accept => 1,
        Term::Return => Verdict::Return.into(),
        _ => 0,
    }
}

fn protocol_family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::Inet => NetfilterProtoFamily::Inet,
        Family::Bridge => NetfilterProtoFamily::Bridge,
        Family::Ip => NetfilterProtoFamily::IPv4,
        Family::Ip6 => NetfilterProtoFamily::IPv6,
    }
}

/// The same for any text of at most 254 bytes; a rule's comment has the same form.
pub(crate) fn text_comment(text: &str) -> Vec<u8> {
    let mut data = vec![COMMENT, text.len() as u8 + 1];
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}
