//! The kernel's messages to values: attributes, errors, sets, elements and rules.

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLA_TYPE_MASK, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, Nla, NlasIterator,
};
use netlink_packet_netfilter::nftables::{
    DataAttribute, GenAttribute, RuleAttribute, SetAttribute, SetElementList, TableAttribute,
};

use super::{COMMENT, DATA_VALUE, ELEMENT_USER_DATA};
use crate::element::{Entry, Owner};
use crate::ruleset::Set;
use crate::state::Fingerprint;

/// Lengths of `struct nlmsghdr` and `struct nfgenmsg`.
const NETLINK_HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
/// NFTA_SET_ELEM_KEY, _DATA, _EXPR and _KEY_END.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_KEY_END: u16 = 10;
/// NFTA_EXPR_DATA, and NFTA_COUNTER_BYTES and NFTA_COUNTER_PACKETS in it.
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
/// NFT_PAYLOAD_LL_HEADER, and the offset of the type in it.
const LINK_HEADER: u32 = 0;
const ETHER_TYPE: u32 = 12;

/// One message from the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Everything after `struct nlmsghdr`.
    pub payload: &'a [u8],
}

/// The messages in the bytes of one read; `None` for one that is cut off.
pub(crate) fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Option<Reply<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Ok(buffer) = NetlinkBuffer::new_checked(bytes) else {
            bytes = &[];
            return Some(None);
        };
        let length = buffer.length() as usize;
        let payload = &bytes[NETLINK_HEADER..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, flags, sequence) = (buffer.message_type(), buffer.flags(), buffer.sequence_number());
        Some(Some(Reply { kind, flags, sequence, payload }))
    })
}

impl<'a> Reply<'a> {
    /// The attributes of a netfilter message.
    pub fn attributes(&self) -> &'a [u8] {
        self.payload.get(NETFILTER_HEADER..).unwrap_or_default()
    }

    /// The error number of an NLMSG_ERROR or NLMSG_DONE message, 0 for an acknowledgement and a good end.
    pub fn errno(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        let code = self.payload.first_chunk::<4>()?;
        i32::from_ne_bytes(*code).checked_neg()
    }

    /// The value of the first attribute of this kind.
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        attributes(self.attributes())
            .find_map(|(found, value)| (found == kind & NLA_TYPE_MASK).then_some(value))
    }

    /// An attribute's big-endian number of `N` bytes.
    pub fn number<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        self.attribute(kind)?.try_into().ok()
    }

    /// The comment of a rule in a NFT_MSG_NEWRULE.
    pub fn comment(&self) -> Option<String> {
        comment_in(self.attribute(RuleAttribute::UserData(vec![]).kind())?)
    }

    /// The generation in a NFT_MSG_NEWGEN.
    pub fn generation(&self) -> Option<u32> {
        self.number(GenAttribute::Id(0).kind()).map(u32::from_be_bytes)
    }

    /// The flags of a table in a NFT_MSG_NEWTABLE.
    pub fn table_flags(&self) -> Option<u32> {
        self.number(TableAttribute::Flags(Default::default()).kind()).map(u32::from_be_bytes)
    }

    /// The number of elements in a NFT_MSG_NEWSET.
    pub fn set_size(&self) -> Option<u32> {
        self.number(SetAttribute::Count(0).kind()).map(u32::from_be_bytes)
    }

    /// Chain and expressions of a rule in a NFT_MSG_NEWRULE, without its counters. Its handle does not count either: a
    /// ruleset that nft has saved and loaded again works as before.
    pub fn rule(&self) -> Option<Fingerprint> {
        let chain = self.attribute(RuleAttribute::Chain(String::new()).kind())?;
        let expressions = attributes(self.attribute(RuleAttribute::Expressions(vec![]).kind())?);
        let lasting = expressions.filter_map(|(_, expression)| essence(expression));
        Some(lasting.fold(Fingerprint::new().and(chain), |rule, expression| rule.and(expression)))
    }

    /// The elements of `set` in a NFT_MSG_NEWSETELEM, with the owners that their comments name.
    ///
    /// Parsed by hand: the crate's parser prints the whole list into an error text for each element of it.
    pub fn elements(&self, set: &'static Set) -> Option<Vec<(Entry, Option<Owner>)>> {
        let list = self.attribute(SetElementList::Elements(vec![]).kind())?;
        Some(attributes(list).map(|(_, item)| element(set, item)).collect())
    }

    /// The elements of a set with counters, with their packets and bytes.
    pub fn counts(&self, set: &'static Set) -> Option<Vec<(Entry, (u64, u64))>> {
        let list = self.attribute(SetElementList::Elements(vec![]).kind())?;
        let with_count = |item| Some((element(set, item).0, count(item)?));
        Some(attributes(list).filter_map(|(_, item)| with_count(item)).collect())
    }
}

/// Packets and bytes that an element has counted, from the inside of its NFTA_LIST_ELEM.
fn count(item: &[u8]) -> Option<(u64, u64)> {
    let find = |kind, bytes| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let counter = find(EXPRESSION_DATA, find(ELEMENT_EXPRESSION, item)?)?;
    let number = |kind| Some(u64::from_be_bytes(find(kind, counter)?.try_into().ok()?));
    Some((number(COUNTER_PACKETS)?, number(COUNTER_BYTES)?))
}

/// The attributes in `bytes`, without the flags of their types; ends at the first that is malformed.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let whole = NlasIterator::new(bytes).map_while(Result::ok);
    whole.filter_map(|nla| Some((nla.kind(), nla.into_inner().get(NLA_HEADER_SIZE..nla.length().into())?)))
}

/// The part of an expression (the inside of a NFTA_LIST_ELEM) that identifies it. A counter does not. And when nft
/// loads a rule that it has listed, it writes the same in another way: it changes the byte order of a single byte, takes
/// a frame's protocol from the kernel instead of the frame, and compares with a zero of one byte (1.1.7) or four.
fn essence(expression: &[u8]) -> Option<&[u8]> {
    let find = |kind, bytes| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    // NFTA_EXPR_NAME, NFTA_EXPR_DATA
    let (name, data) = (find(1, expression), find(2, expression));
    let number = |kind| find(kind, data?).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
    match name? {
        b"counter\0" | b"byteorder\0" => None,
        // NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET; NFTA_META_KEY: NFT_META_PROTOCOL
        b"payload\0" if (number(2), number(3)) == (Some(LINK_HEADER), Some(ETHER_TYPE)) => Some(b"protocol"),
        b"meta\0" if number(2) == Some(1) => Some(b"protocol"),
        // NFTA_CMP_OP: NFT_CMP_EQ; NFTA_CMP_DATA and the NFTA_DATA_VALUE in it
        b"cmp\0" if number(2) == Some(0) && find(3, data?).is_some_and(is_zero) => Some(b"is zero"),
        _ => Some(expression),
    }
}

fn is_zero(data: &[u8]) -> bool {
    attributes(data).any(|(kind, value)| kind == DATA_VALUE && value.iter().all(|byte| *byte == 0))
}

/// The element in a NFTA_LIST_ELEM; one without a key is unknown to `Element::from_entry`.
fn element(set: &'static Set, item: &[u8]) -> (Entry, Option<Owner>) {
    let mut entry = Entry { set, key: Vec::new(), end: None, data: None };
    let mut owner = None;
    for (kind, value) in attributes(item) {
        match kind {
            ELEMENT_KEY => entry.key = value_in(value).unwrap_or_default(),
            ELEMENT_KEY_END => entry.end = value_in(value),
            ELEMENT_DATA => entry.data = value_in(value),
            ELEMENT_USER_DATA => owner = owner_in(value),
            _ => {}
        }
    }
    (entry, owner)
}

/// The NFTA_DATA_VALUE in a key or in data.
pub(crate) fn value_in(data: &[u8]) -> Option<Vec<u8>> {
    let kind = DataAttribute::Value(Vec::new()).kind();
    attributes(data).find_map(|(found, value)| (found == kind).then(|| value.to_vec()))
}

/// The owner in an element's user data.
pub(super) fn owner_in(data: &[u8]) -> Option<Owner> {
    Owner::from_comment(&comment_in(data)?)
}

/// The comment in user data, TLVs of one byte type and one byte length.
fn comment_in(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let (value, next) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            let text = std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()?;
            return Some(text.to_owned());
        }
        data = next;
    }
    None
}
