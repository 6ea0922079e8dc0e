//! Elements as messages: created, deleted and asked for by their keys.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessageType, SetElementAttribute, SetElementList,
};

use super::{ELEMENT_USER_DATA, Requests, text_comment};
use crate::element::{Entry, Owner};
use crate::ruleset::{Set, TABLE};

/// Elements in one message: an attribute ends at 64 KiB, an element takes up to 160 bytes.
pub(super) const ELEMENTS_PER_MESSAGE: usize = 256;

impl Requests {
    /// Adds elements; neighbours of one set share a message, of which the kernel does not say which one it refuses.
    /// `exclusive` makes an equal key an error (EEXIST).
    pub fn create_elements(&mut self, elements: &[(&Entry, Owner)], exclusive: bool) {
        let flags = if exclusive { NLM_F_CREATE | NLM_F_EXCL } else { NLM_F_CREATE };
        for chunk in of_one_set(elements, |(entry, _)| entry.set) {
            let Some((Entry { set, .. }, _)) = chunk.first() else { continue };
            self.elements(NfTablesMessageType::NewSetElement, flags, set, |list| {
                chunk.iter().for_each(|(entry, owner)| list.element(entry, *owner));
            });
        }
    }

    /// Adds one element; `exclusive` makes an equal key an error (EEXIST).
    pub fn create_element(&mut self, entry: &Entry, owner: Owner, exclusive: bool) {
        self.create_elements(&[(entry, owner)], exclusive);
    }

    /// Deletes the elements with these keys, whatever their data and comments; neighbours of one set share a message.
    pub fn delete_elements(&mut self, entries: &[&Entry]) {
        for chunk in of_one_set(entries, |entry| entry.set) {
            let Some(Entry { set, .. }) = chunk.first() else { continue };
            self.elements(NfTablesMessageType::DeleteSetElement, 0, set, |list| {
                chunk.iter().for_each(|entry| list.key(entry));
            });
        }
    }

    /// Asks for the element with this key (not a dump).
    pub fn get_element(&mut self, entry: &Entry) {
        self.elements(NfTablesMessageType::GetSetElement, 0, entry.set, |list| list.key(entry))
    }

    /// Asks for all elements of a set.
    pub fn dump_elements(&mut self, set: &Set) {
        self.nftables(NfTablesMessageType::GetSetElement, NLM_F_DUMP, set.family, |message| {
            message.put(&SetElementList::Table(TABLE.into()));
            message.put(&SetElementList::Set(set.name.into()));
        })
    }

    fn elements(&mut self, kind: NfTablesMessageType, flags: u16, set: &Set, list: impl FnOnce(&mut Self)) {
        self.nftables(kind, flags, set.family, |message| {
            message.put(&SetElementList::Table(TABLE.into()));
            message.put(&SetElementList::Set(set.name.into()));
            message.nest(&SetElementList::Elements(vec![]), list);
        })
    }

    /// An element with its data and the comment that names its owner.
    fn element(&mut self, entry: &Entry, owner: Owner) {
        self.nest(&ListAttribute::<DefaultNla>::Element(vec![]), |element| {
            element.bounds(entry);
            if let Some(data) = &entry.data {
                element.data(&SetElementAttribute::Data(DataAttribute::Unspec), data);
            }
            element.attribute(ELEMENT_USER_DATA, &comment(owner));
        });
    }

    /// What an element is found by.
    fn key(&mut self, entry: &Entry) {
        self.nest(&ListAttribute::<DefaultNla>::Element(vec![]), |element| element.bounds(entry));
    }

    fn bounds(&mut self, entry: &Entry) {
        self.data(&SetElementAttribute::Key(DataAttribute::Unspec), &entry.key);
        if let Some(end) = &entry.end {
            self.data(&SetElementAttribute::KeyEnd(vec![]), end);
        }
    }
}

/// The elements that share a message: neighbours of one set.
fn of_one_set<T>(all: &[T], set: impl Fn(&T) -> &Set) -> impl Iterator<Item = &[T]> {
    let neighbours = all.chunk_by(move |a, b| set(a).name == set(b).name);
    neighbours.flat_map(|neighbours| neighbours.chunks(ELEMENTS_PER_MESSAGE))
}

/// An element's comment as nft stores it: type, length, text, NUL.
pub(super) fn comment(owner: Owner) -> Vec<u8> {
    text_comment(&owner.comment())
}
