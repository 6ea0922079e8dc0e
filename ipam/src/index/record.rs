//! What an index keeps of one lease, and a bitmap of taken addresses, as values and as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use crate::directory::Mark;
use crate::lease::Owner;
use crate::page::{Unreadable, checksum};
use crate::range::number;

/// The length of a lease's record in bytes.
pub(super) const LEASE: usize = 80;
/// log2 of the addresses in one bitmap.
pub(super) const BITS: u32 = 12;
pub(super) const WORDS: usize = (1 << BITS) / 64;
/// The length of a bitmap's record in bytes.
pub(super) const BITMAP: usize = 24 + WORDS * 8;

/// An owner's name in the index.
pub(crate) type OwnerKey = [u8; 16];

/// A bitmap's place: whether IPv6, and the address without its last bits.
pub(super) type Place = (bool, u128);
pub(super) type Bitmap = [u64; WORDS];

/// One lease in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub owner: OwnerKey,
    pub address: IpAddr,
    pub writer: Writer,
}

/// Who wrote a lease file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Another program.
    Foreign,
    /// rnet will write it: if it is killed meanwhile, a file with this owner is rnet's.
    Pending(Life),
    /// rnet, and the file had this mark afterwards.
    Ours(Life, Mark),
}

/// The boot and network namespace (device, inode) that an owner cannot outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub boot: u64,
    pub netns: Option<(u64, u64)>,
}

/// The key of an owner. All interfaces of a container share its first half and so their page.
pub(crate) fn owner_key(owner: &Owner<'_>) -> OwnerKey {
    let id = Sha256::new().chain_update(owner.id);
    let both = id.clone().chain_update([0]).chain_update(owner.ifname);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.finalize()[..8]);
    key[8..].copy_from_slice(&both.finalize()[..8]);
    key
}

/// The number that stands for a boot.
pub(crate) fn boot_number(boot: &str) -> u64 {
    let hash = Sha256::digest(boot);
    hash[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Writer {
    /// Whether a lease whose file looks like `mark` was written by rnet in another boot than `boot`.
    pub fn is_dead(&self, mark: Mark, boot: u64) -> bool {
        matches!(self, Writer::Ours(life, then) if life.boot != boot && *then == mark)
    }
}

pub(super) fn owner_hash(owner: &OwnerKey) -> u64 {
    owner[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// Four neighbouring bitmaps share a hash, so that a long run of taken addresses takes few reads.
pub(super) fn bitmap_hash((v6, prefix): Place) -> u64 {
    checksum(v6.into(), &(prefix >> 2).to_le_bytes())
}

pub(super) fn place_of(ip: IpAddr) -> (Place, usize) {
    let number = number(ip);
    ((ip.is_ipv6(), number >> BITS), (number & ((1 << BITS) - 1)) as usize)
}

/// The first bit from `from` to `to` (both included) that is not set.
pub(super) fn first_zero(bitmap: &Bitmap, from: usize, to: usize) -> Option<usize> {
    let mut at = from;
    while at <= to {
        let ahead = (!bitmap[at / 64]) >> (at % 64);
        if ahead != 0 {
            return Some(at + ahead.trailing_zeros() as usize).filter(|free| *free <= to);
        }
        at = (at / 64 + 1) * 64;
    }
    None
}

pub(super) fn set_bit(bitmap: &mut Bitmap, bit: usize, value: bool) {
    let mask = 1 << (bit % 64);
    match value {
        true => bitmap[bit / 64] |= mask,
        false => bitmap[bit / 64] &= !mask,
    }
}

/// Owner (16), address (16), family (1), writer (1), unused (6), boot, netns device and inode, file inode, ctime.
pub(super) fn encode(record: &Record) -> [u8; LEASE] {
    let nobody = Life { boot: 0, netns: None };
    let blank = Mark { inode: 0, ctime: 0 };
    let (writer, life, mark) = match record.writer {
        Writer::Foreign => (1, nobody, blank),
        Writer::Pending(life) => (2, life, blank),
        Writer::Ours(life, mark) => (3, life, mark),
    };
    let (device, inode) = life.netns.unwrap_or_default();
    let mut bytes = [0; LEASE];
    bytes[..16].copy_from_slice(&record.owner);
    bytes[16..32].copy_from_slice(&number(record.address).to_le_bytes());
    bytes[32] = if record.address.is_ipv6() { 6 } else { 4 };
    bytes[33] = writer;
    for (place, word) in [life.boot, device, inode, mark.inode, mark.ctime as u64].into_iter().enumerate() {
        bytes[40 + place * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, Unreadable> {
    let mut owner = [0; 16];
    owner.copy_from_slice(&bytes[..16]);
    let number = u128::from_le_bytes(array(&bytes[16..32]));
    let word = |place: usize| u64::from_le_bytes(array(&bytes[40 + place * 8..][..8]));
    let netns = Some((word(1), word(2))).filter(|netns| *netns != (0, 0));
    let life = Life { boot: word(0), netns };
    let writer = match bytes[33] {
        1 => Writer::Foreign,
        2 => Writer::Pending(life),
        3 => Writer::Ours(life, Mark { inode: word(3), ctime: word(4) as i64 }),
        _ => return Err(Unreadable),
    };
    let address = match bytes[32] {
        4 => Ipv4Addr::from(number as u32).into(),
        6 => Ipv6Addr::from(number).into(),
        _ => return Err(Unreadable),
    };
    Ok(Record { owner, address, writer })
}

/// Prefix (16), family (1), unused (7), the bits.
pub(super) fn encode_bitmap((v6, prefix): Place, bitmap: &Bitmap) -> [u8; BITMAP] {
    let mut bytes = [0; BITMAP];
    bytes[..16].copy_from_slice(&prefix.to_le_bytes());
    bytes[16] = v6.into();
    for (bytes, word) in bytes[24..].chunks_exact_mut(8).zip(bitmap) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

pub(super) fn decode_place(bytes: &[u8]) -> Place {
    (bytes[16] != 0, u128::from_le_bytes(array(&bytes[..16])))
}

pub(super) fn decode_bitmap(bytes: &[u8]) -> Bitmap {
    let mut bitmap = [0; WORDS];
    for (word, bytes) in bitmap.iter_mut().zip(bytes[24..].chunks_exact(8)) {
        *word = u64::from_le_bytes(array(bytes));
    }
    bitmap
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}
