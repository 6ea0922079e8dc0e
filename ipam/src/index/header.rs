//! The header of an index: its layout, its sizes, and the state of the directory for which it is valid.

use std::collections::BTreeMap;

use super::record::{BITMAP, Bitmap, LEASE, Place, Record};
use crate::directory::Stamp;
use crate::page::{Storage, Table, checksum};

/// The header's first word; another number for another layout.
const MAGIC: u64 = u64::from_le_bytes(*b"rnetls01");
/// The length of the header in words of eight bytes; the last two hold the checksum and nothing.
pub(super) const HEADER_WORDS: usize = 14;
/// Flags of one word. The second is newer than the layout; an index without it is read as before.
const SETTLED: u64 = 1;
const DOUBTFUL: u64 = 2;

/// The sizes of an index, and the state of the directory for which it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub stamp: Stamp,
    /// The boot in which it was built.
    pub boot: u64,
    /// Number of the directory's entries that are named after an address.
    pub names: u64,
    /// Number of leases of other boots.
    pub dead: u64,
    /// Whether leases may have been lost before the index was built.
    pub is_doubtful: bool,
    pub(super) leases: u64,
    pub(super) bitmaps: u64,
    pub(super) lease_pages: u64,
    pub(super) bitmap_pages: u64,
}

impl Header {
    /// Whether an index with this header may be used for a directory in state `stamp`, in `boot`.
    pub fn fits(&self, stamp: &Stamp, boot: u64) -> bool {
        let Stamp { device, inode, mtime, settled } = self.stamp;
        settled && boot == self.boot && (device, inode, mtime) == (stamp.device, stamp.inode, stamp.mtime)
    }

    pub(super) fn of(records: &[Record], bitmaps: &BTreeMap<Place, Bitmap>) -> Self {
        let (leases, bitmaps) = (records.len() as u64, bitmaps.len() as u64);
        Self {
            stamp: Stamp { device: 0, inode: 0, mtime: 0, settled: false },
            boot: 0,
            names: 0,
            dead: 0,
            is_doubtful: true,
            leases,
            bitmaps,
            lease_pages: Table::pages_for(leases, LEASE),
            bitmap_pages: Table::pages_for(bitmaps, BITMAP),
        }
    }

    pub(super) fn tables(&self) -> (Table, Table) {
        let leases = Table { first: 1, pages: self.lease_pages, record: LEASE };
        (leases, Table { first: 1 + self.lease_pages, pages: self.bitmap_pages, record: BITMAP })
    }

    pub(super) fn read(storage: &Storage) -> Option<Self> {
        let mut bytes = [0; HEADER_WORDS * 8];
        storage.read_head(&mut bytes).ok()?;
        let mut words = [0; HEADER_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Self::decode(&words).filter(|header| header.encode() == bytes)
    }

    fn decode(words: &[u64; HEADER_WORDS]) -> Option<Self> {
        let [
            magic,
            device,
            inode,
            mtime,
            settled,
            boot,
            names,
            dead,
            leases,
            bitmaps,
            lease_pages,
            bitmap_pages,
            ..,
        ] = *words;
        let stamp = Stamp { device, inode, mtime: mtime as i64, settled: settled & SETTLED != 0 };
        let is_doubtful = settled & DOUBTFUL != 0;
        let sane = |pages: u64| pages.is_power_of_two() && pages < 1 << 40;
        let header =
            Self { stamp, boot, names, dead, is_doubtful, leases, bitmaps, lease_pages, bitmap_pages };
        (magic == MAGIC && sane(lease_pages) && sane(bitmap_pages)).then_some(header)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_WORDS * 8] {
        let Stamp { device, inode, mtime, settled } = self.stamp;
        let Self { boot, names, dead, leases, bitmaps, lease_pages, bitmap_pages, .. } = *self;
        let flags = if settled { SETTLED } else { 0 } | if self.is_doubtful { DOUBTFUL } else { 0 };
        let words = [
            MAGIC,
            device,
            inode,
            mtime as u64,
            flags,
            boot,
            names,
            dead,
            leases,
            bitmaps,
            lease_pages,
            bitmap_pages,
        ];
        let mut bytes = [0; HEADER_WORDS * 8];
        for (place, word) in words.into_iter().enumerate() {
            bytes[place * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(0, &bytes[..words.len() * 8]);
        bytes[words.len() * 8..][..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}
