//! The index beside a lease directory: which addresses are taken, what each owner has, and, for leases that rnet
//! wrote, in which boot and for which network namespace.
//!
//! One file of pages read by pread(2) and written by pwrite(2): the header, a table of leases by owner, and a
//! table of bitmaps of 4096 addresses each, so that large IPv6 ranges cost only what is taken of them. Every
//! operation reads a handful of pages, whatever the number of leases. It is a cache, valid only for the state of
//! the directory that its header names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::directory::{Mark, Stamp};
use crate::lease::Owner;
use crate::page::{PAGE, Page, Storage, Table, Unreadable, checksum};
use crate::pool::Span;
use crate::range::{address, number};

/// The header's first word; another number for another layout.
const MAGIC: u64 = u64::from_le_bytes(*b"rnetls01");
const HEADER_WORDS: usize = 14;
/// Flags of one word, whose second is younger than the layout: an index without it is read as before.
const SETTLED: u64 = 1;
const DOUBTFUL: u64 = 2;
const LEASE: usize = 80;
/// log2 of the addresses in one bitmap.
const BITS: u32 = 12;
const WORDS: usize = (1 << BITS) / 64;
const BITMAP: usize = 24 + WORDS * 8;

/// An owner's name in the index.
pub(crate) type OwnerKey = [u8; 16];

/// A bitmap's place: whether IPv6, and the address without its last bits.
type Place = (bool, u128);
type Bitmap = [u64; WORDS];

/// What the index knows of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub owner: OwnerKey,
    pub address: IpAddr,
    pub written: Written,
}

/// Who wrote a lease file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Another program.
    Foreign,
    /// rnet is about to: if it dies meanwhile, a file with this owner is its.
    Pending(Life),
    /// rnet, and the file looked like this afterwards.
    Ours(Life, Mark),
}

/// What an owner's life is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub boot: u64,
    pub netns: Option<(u64, u64)>,
}

/// What the whole index holds, and for which state of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub stamp: Stamp,
    /// The boot in which it was built.
    pub boot: u64,
    /// Entries of the directory that are named after an address.
    pub names: u64,
    /// Leases of other boots.
    pub dead: u64,
    /// Leases may have been lost before it was built.
    pub is_doubtful: bool,
    leases: u64,
    bitmaps: u64,
    lease_pages: u64,
    bitmap_pages: u64,
}

/// An index, open.
#[derive(Debug)]
pub(crate) struct Index {
    storage: Storage,
    pub header: Header,
    /// The first write that failed: the file is not what it should be and must not be trusted again.
    broken: Option<Errno>,
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

impl Written {
    /// Whether a lease whose file looks like `mark` was written by rnet in another boot than `boot`.
    pub fn is_dead(&self, mark: Mark, boot: u64) -> bool {
        matches!(self, Written::Ours(life, then) if life.boot != boot && *then == mark)
    }
}

impl Index {
    /// The index in `file`, if it is one.
    pub fn load(file: OwnedFd) -> Option<Self> {
        Self::at(Storage::file(file))
    }

    /// An index that lies in memory.
    pub fn in_memory(image: Vec<u8>) -> Option<Self> {
        Self::at(Storage::Memory(image))
    }

    fn at(storage: Storage) -> Option<Self> {
        let header = Header::read(&storage)?;
        Some(Self { storage, header, broken: None })
    }

    /// The bytes of an index of `records` with those addresses taken.
    pub fn image(
        stamp: Stamp,
        boot: u64,
        names: u64,
        records: &[Record],
        taken: impl Iterator<Item = IpAddr>,
    ) -> Vec<u8> {
        let mut bitmaps = BTreeMap::new();
        for ip in taken {
            let (place, bit) = place_of(ip);
            set_bit(bitmaps.entry(place).or_insert([0; WORDS]), bit, true);
        }
        let dead = records
            .iter()
            .filter(|record| matches!(record.written, Written::Ours(life, _) if life.boot != boot));
        let header =
            Header { stamp, boot, names, dead: dead.count() as u64, ..Header::of(records, &bitmaps) };
        assemble(header, records, &bitmaps)
    }

    /// The same index with room for `more` leases, or `None` if it has that.
    pub fn grown(&self, more: u64) -> Result<Option<Vec<u8>>, Unreadable> {
        let Header { leases, bitmaps, .. } = self.header;
        if leases + more <= self.leases().room() && bitmaps + more <= self.bitmaps().room() {
            return Ok(None);
        }
        let records = self.records()?;
        let bitmaps = self.all_bitmaps()?;
        let sizes = Header::of(&records, &bitmaps);
        let header = Header {
            leases: sizes.leases,
            bitmaps: sizes.bitmaps,
            lease_pages: Table::pages_for(sizes.leases + more, LEASE),
            bitmap_pages: Table::pages_for(sizes.bitmaps + more, BITMAP),
            ..self.header
        };
        Ok(Some(assemble(header, &records, &bitmaps)))
    }

    /// What the index knows of `owner`'s leases.
    pub fn owned(&self, owner: &OwnerKey) -> Result<Vec<Record>, Unreadable> {
        let chain = self.leases().chain(&self.storage, owner_hash(owner))?;
        let records = chain.iter().flat_map(Page::records).map(decode);
        records.filter(|record| !matches!(record, Ok(other) if other.owner != *owner)).collect()
    }

    /// All leases, page by page, beginning with the page that `start` falls on.
    pub fn lease_pages_from(&self, start: u64) -> impl Iterator<Item = Result<Vec<Record>, Unreadable>> {
        let table = self.leases();
        (0..table.pages).map(move |step| {
            let page = table.page(&self.storage, start.wrapping_add(step) & (table.pages - 1))?;
            page.records().map(decode).collect()
        })
    }

    /// All leases; fails if one page can't be read.
    pub fn records(&self) -> Result<Vec<Record>, Unreadable> {
        let table = self.leases();
        let mut records = Vec::new();
        for place in 0..table.pages {
            for record in table.page(&self.storage, place)?.records() {
                records.push(decode(record)?);
            }
        }
        Ok(records)
    }

    /// Whatever can still be read of the leases.
    pub fn salvage(&self) -> Vec<Record> {
        let table = self.leases();
        let pages = (0..table.pages).filter_map(|place| table.page(&self.storage, place).ok());
        pages
            .flat_map(|page| page.records().filter_map(|record| decode(record).ok()).collect::<Vec<_>>())
            .collect()
    }

    /// The first address in `span` that is not taken.
    pub fn first_free(&self, span: Span) -> Result<Option<IpAddr>, Unreadable> {
        let (last, mut from) = (number(span.last), number(span.first));
        let mut read: Option<(u64, Vec<Page>)> = None;
        loop {
            let (place, bit) = place_of(address(span.first, from));
            let end = last.min(from | ((1 << BITS) - 1));
            let hash = bitmap_hash(place);
            // Neighbouring bitmaps lie in one page.
            let chain = match read.take().filter(|(at, _)| *at == hash) {
                Some((_, chain)) => chain,
                None => self.bitmaps().chain(&self.storage, hash)?,
            };
            let Some((page, slot)) = find_bitmap(&chain, place) else {
                return Ok(Some(address(span.first, from)));
            };
            let bitmap = decode_bitmap(page_record(&chain[page], slot)?);
            if let Some(free) = first_zero(&bitmap, bit, bit + (end - from) as usize) {
                return Ok(Some(address(span.first, from + (free - bit) as u128)));
            }
            if end == last {
                return Ok(None);
            }
            read = Some((hash, chain));
            from = end + 1;
        }
    }

    /// Notes a lease, in place of what was noted of the same owner and address.
    pub fn put(&mut self, record: Record) {
        let done = self.try_put(&record);
        self.note(done);
    }

    /// Forgets a lease.
    pub fn forget(&mut self, owner: &OwnerKey, address: IpAddr) {
        let done = self.try_forget(owner, address);
        self.note(done);
    }

    /// Notes that an address is taken, or free.
    pub fn set_taken(&mut self, ip: IpAddr, taken: bool) {
        let done = self.try_set_taken(ip, taken);
        self.note(done);
    }

    /// Declares the index valid for this state of the directory.
    pub fn seal(&mut self, stamp: Stamp) {
        self.header.stamp = stamp;
        let done = self.storage.write_head(&self.header.encode());
        self.note(done);
    }

    /// Why what was written may not be there.
    pub fn broken(&self) -> Option<Errno> {
        self.broken
    }

    /// How many leases it holds.
    pub fn len(&self) -> u64 {
        self.header.leases
    }

    fn note(&mut self, done: Result<(), Errno>) {
        self.broken = self.broken.or(done.err());
    }

    fn try_put(&mut self, record: &Record) -> Result<(), Errno> {
        let (table, hash) = (self.leases(), owner_hash(&record.owner));
        let mut chain = table.chain(&self.storage, hash).map_err(damage)?;
        if let Some((page, slot)) = find_lease(&chain, &record.owner, record.address) {
            chain[page].replace(slot, &encode(record));
            return chain[page].write(&mut self.storage);
        }
        self.header.leases += 1;
        self.add(table, hash, &encode(record))
    }

    fn try_forget(&mut self, owner: &OwnerKey, address: IpAddr) -> Result<(), Errno> {
        let mut chain = self.leases().chain(&self.storage, owner_hash(owner)).map_err(damage)?;
        let Some((page, slot)) = find_lease(&chain, owner, address) else { return Ok(()) };
        chain[page].remove(slot);
        self.header.leases = self.header.leases.saturating_sub(1);
        chain[page].write(&mut self.storage)
    }

    fn try_set_taken(&mut self, ip: IpAddr, taken: bool) -> Result<(), Errno> {
        let (table, (place, bit)) = (self.bitmaps(), place_of(ip));
        let hash = bitmap_hash(place);
        let mut chain = table.chain(&self.storage, hash).map_err(damage)?;
        let found = find_bitmap(&chain, place);
        let record = found.map(|(page, slot)| page_record(&chain[page], slot)).transpose().map_err(damage)?;
        let mut bitmap = record.map_or([0; WORDS], decode_bitmap);
        set_bit(&mut bitmap, bit, taken);
        if let Some((page, slot)) = found {
            chain[page].replace(slot, &encode_bitmap(place, &bitmap));
            return chain[page].write(&mut self.storage);
        }
        self.header.bitmaps += 1;
        self.add(table, hash, &encode_bitmap(place, &bitmap))
    }

    fn add(&mut self, table: Table, hash: u64, record: &[u8]) -> Result<(), Errno> {
        let pages = table.add(&self.storage, hash, record).map_err(damage)?.ok_or(Errno::NOSPC)?;
        // The page with the record first: a reader never finds the way to a record that is not there.
        pages.into_iter().rev().try_for_each(|mut page| page.write(&mut self.storage))
    }

    fn all_bitmaps(&self) -> Result<BTreeMap<Place, Bitmap>, Unreadable> {
        let table = self.bitmaps();
        let mut all = BTreeMap::new();
        for place in 0..table.pages {
            let page = table.page(&self.storage, place)?;
            all.extend(page.records().map(|record| (decode_place(record), decode_bitmap(record))));
        }
        all.retain(|_, bitmap| bitmap.iter().any(|word| *word != 0));
        Ok(all)
    }

    fn leases(&self) -> Table {
        self.header.tables().0
    }

    fn bitmaps(&self) -> Table {
        self.header.tables().1
    }
}

impl Header {
    /// Whether an index with this header may be used for a directory in state `stamp`, in `boot`.
    pub fn fits(&self, stamp: &Stamp, boot: u64) -> bool {
        let Stamp { device, inode, mtime, settled } = self.stamp;
        settled && boot == self.boot && (device, inode, mtime) == (stamp.device, stamp.inode, stamp.mtime)
    }

    fn of(records: &[Record], bitmaps: &BTreeMap<Place, Bitmap>) -> Self {
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

    fn tables(&self) -> (Table, Table) {
        let leases = Table { first: 1, pages: self.lease_pages, record: LEASE };
        (leases, Table { first: 1 + self.lease_pages, pages: self.bitmap_pages, record: BITMAP })
    }

    fn read(storage: &Storage) -> Option<Self> {
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

    fn encode(&self) -> [u8; HEADER_WORDS * 8] {
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

fn assemble(header: Header, records: &[Record], bitmaps: &BTreeMap<Place, Bitmap>) -> Vec<u8> {
    let (leases, taken) = header.tables();
    let mut bytes = vec![0; PAGE];
    bytes[..HEADER_WORDS * 8].copy_from_slice(&header.encode());
    bytes.extend(fill(leases, records.iter().map(|record| (owner_hash(&record.owner), encode(record)))));
    bytes.extend(fill(
        taken,
        bitmaps.iter().map(|(place, bits)| (bitmap_hash(*place), encode_bitmap(*place, bits))),
    ));
    bytes
}

/// The bytes of a table with these records, for which it has room.
fn fill<const N: usize>(table: Table, records: impl Iterator<Item = (u64, [u8; N])>) -> Vec<u8> {
    let mut pages: Vec<Page> = (0..table.pages).map(|n| Page::empty(table.first + n, N)).collect();
    for (hash, record) in records {
        for step in 0..table.pages {
            let page = &mut pages[(hash.wrapping_add(step) & (table.pages - 1)) as usize];
            if page.push(&record) {
                break;
            }
            page.set_continues();
        }
    }
    pages.iter_mut().flat_map(|page| *page.sealed()).collect()
}

fn damage(_: Unreadable) -> Errno {
    Errno::IO
}

fn owner_hash(owner: &OwnerKey) -> u64 {
    owner[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// Four neighbouring bitmaps have one hash, so that a long run of taken addresses is passed in few reads.
fn bitmap_hash((v6, prefix): Place) -> u64 {
    checksum(v6.into(), &(prefix >> 2).to_le_bytes())
}

fn place_of(ip: IpAddr) -> (Place, usize) {
    let number = number(ip);
    ((ip.is_ipv6(), number >> BITS), (number & ((1 << BITS) - 1)) as usize)
}

fn find_lease(chain: &[Page], owner: &OwnerKey, ip: IpAddr) -> Option<(usize, usize)> {
    find(chain, |record| record[..16] == *owner && decode(record).is_ok_and(|record| record.address == ip))
}

fn find_bitmap(chain: &[Page], place: Place) -> Option<(usize, usize)> {
    find(chain, |record| decode_place(record) == place)
}

/// The first record that is wanted: its page in the chain and its place in the page.
fn find(chain: &[Page], wanted: impl Fn(&[u8]) -> bool) -> Option<(usize, usize)> {
    let slots = chain.iter().map(|page| page.records().position(&wanted));
    slots.enumerate().find_map(|(page, slot)| Some((page, slot?)))
}

fn page_record(page: &Page, slot: usize) -> Result<&[u8], Unreadable> {
    page.records().nth(slot).ok_or(Unreadable)
}

/// The first bit from `from` to `to` (both included) that is not set.
fn first_zero(bitmap: &Bitmap, from: usize, to: usize) -> Option<usize> {
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

fn set_bit(bitmap: &mut Bitmap, bit: usize, value: bool) {
    let mask = 1 << (bit % 64);
    match value {
        true => bitmap[bit / 64] |= mask,
        false => bitmap[bit / 64] &= !mask,
    }
}

/// Owner (16), address (16), family (1), writer (1), unused (6), boot, netns device and inode, file inode, ctime.
fn encode(record: &Record) -> [u8; LEASE] {
    let nobody = Life { boot: 0, netns: None };
    let blank = Mark { inode: 0, ctime: 0 };
    let (writer, life, mark) = match record.written {
        Written::Foreign => (1, nobody, blank),
        Written::Pending(life) => (2, life, blank),
        Written::Ours(life, mark) => (3, life, mark),
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

fn decode(bytes: &[u8]) -> Result<Record, Unreadable> {
    let mut owner = [0; 16];
    owner.copy_from_slice(&bytes[..16]);
    let number = u128::from_le_bytes(array(&bytes[16..32]));
    let word = |place: usize| u64::from_le_bytes(array(&bytes[40 + place * 8..][..8]));
    let netns = Some((word(1), word(2))).filter(|netns| *netns != (0, 0));
    let life = Life { boot: word(0), netns };
    let written = match bytes[33] {
        1 => Written::Foreign,
        2 => Written::Pending(life),
        3 => Written::Ours(life, Mark { inode: word(3), ctime: word(4) as i64 }),
        _ => return Err(Unreadable),
    };
    let address = match bytes[32] {
        4 => Ipv4Addr::from(number as u32).into(),
        6 => Ipv6Addr::from(number).into(),
        _ => return Err(Unreadable),
    };
    Ok(Record { owner, address, written })
}

/// Prefix (16), family (1), unused (7), the bits.
fn encode_bitmap((v6, prefix): Place, bitmap: &Bitmap) -> [u8; BITMAP] {
    let mut bytes = [0; BITMAP];
    bytes[..16].copy_from_slice(&prefix.to_le_bytes());
    bytes[16] = v6.into();
    for (bytes, word) in bytes[24..].chunks_exact_mut(8).zip(bitmap) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode_place(bytes: &[u8]) -> Place {
    (bytes[16] != 0, u128::from_le_bytes(array(&bytes[..16])))
}

fn decode_bitmap(bytes: &[u8]) -> Bitmap {
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

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { device: 1, inode: 2, mtime: 3, settled: true };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn record(id: &str, address: &str) -> Record {
        let owner = owner_key(&Owner { id, ifname: "eth0" });
        let life = Life { boot: 7, netns: Some((4, 4026531840)) };
        Record { owner, address: ip(address), written: Written::Ours(life, Mark { inode: 9, ctime: -1 }) }
    }

    fn empty() -> Index {
        Index::in_memory(Index::image(STAMP, 7, 0, &[], [].into_iter())).unwrap()
    }

    fn span(first: &str, last: &str) -> Span {
        Span { first: ip(first), last: ip(last) }
    }

    #[test]
    fn a_lease_is_found_by_its_owner_until_it_is_forgotten() {
        let mut index = empty();
        let (four, six) = (record("web", "10.9.0.2"), record("web", "fd00::2"));

        index.put(four);
        index.put(six);
        index.put(record("db", "10.9.0.3"));
        index.put(Record { written: Written::Foreign, ..four });

        let web = index.owned(&four.owner).unwrap();
        assert_eq!(web, [Record { written: Written::Foreign, ..four }, six]);
        index.forget(&four.owner, four.address);
        assert_eq!(index.owned(&four.owner).unwrap(), [six]);
        assert_eq!((index.len(), index.broken()), (2, None));
    }

    #[test]
    fn runs_of_taken_addresses_are_passed_across_bitmaps() {
        let taken = (0..20_000).map(|n| address(ip("10.9.0.0"), number(ip("10.9.0.0")) + n));
        let mut index = Index::in_memory(Index::image(STAMP, 7, 0, &[], taken)).unwrap();

        assert_eq!(index.first_free(span("10.9.0.0", "10.9.255.254")).unwrap(), Some(ip("10.9.78.32")));
        assert_eq!(index.first_free(span("10.9.0.0", "10.9.78.31")).unwrap(), None);
        index.set_taken(ip("10.9.3.200"), false);
        assert_eq!(index.first_free(span("10.9.0.0", "10.9.255.254")).unwrap(), Some(ip("10.9.3.200")));
        assert_eq!(index.first_free(span("10.9.3.201", "10.9.78.40")).unwrap(), Some(ip("10.9.78.32")));
        assert_eq!(
            index.first_free(span("fd00::1", "fd00::ffff:ffff:ffff:ffff")).unwrap(),
            Some(ip("fd00::1"))
        );
    }

    #[test]
    fn it_grows_and_keeps_everything() {
        let mut index = empty();
        let leases: Vec<Record> = (0..3000)
            .map(|n| {
                record(
                    &format!("c{n}"),
                    &address(ip("fd00::"), number(ip("fd00::")) + n * 10_000).to_string(),
                )
            })
            .collect();

        for lease in &leases {
            if let Some(image) = index.grown(1).unwrap() {
                index = Index::in_memory(image).unwrap();
            }
            index.put(*lease);
            index.set_taken(lease.address, true);
        }

        assert!(leases.iter().all(|lease| index.owned(&lease.owner).unwrap() == [*lease]));
        assert_eq!(index.first_free(span("fd00::2710", "fd00::ffff")).unwrap(), Some(ip("fd00::2711")));
        assert_eq!((index.records().unwrap().len(), index.len(), index.broken()), (3000, 3000, None));
    }

    #[test]
    fn an_owner_may_have_more_leases_than_a_page_holds() {
        let mut index = empty();

        for n in 0..90 {
            index.put(record("many", &format!("10.9.0.{n}")));
        }

        assert_eq!(index.broken(), None);
        assert_eq!(index.owned(&record("many", "10.9.0.1").owner).unwrap().len(), 90);
    }

    #[test]
    fn with_sixty_thousand_leases_a_lease_still_touches_a_handful_of_pages() {
        let first = number(ip("172.18.0.2"));
        let leases: Vec<Record> = (0..60_000)
            .map(|n| record(&format!("c{n}"), &address(ip("0.0.0.0"), first + n).to_string()))
            .collect();
        let image = Index::image(STAMP, 7, 60_000, &leases, leases.iter().map(|lease| lease.address));
        let file = tempfile::tempfile().unwrap();
        rustix::io::pwrite(&file, &image, 0).unwrap();
        let mut index = Index::load(file.into()).unwrap();

        let free = index.first_free(span("172.18.0.2", "172.18.255.254")).unwrap().unwrap();
        let new = Record { address: free, ..record("new", "172.18.0.2") };
        assert_eq!(index.owned(&new.owner).unwrap(), []);
        index.put(new);
        index.set_taken(free, true);

        assert_eq!(free, address(free, first + 60_000));
        assert!(index.storage.pages_seen() <= 8, "{} pages", index.storage.pages_seen());
    }

    #[test]
    fn a_header_fits_only_the_state_and_the_boot_it_was_made_for() {
        let header = empty().header;

        assert!(header.fits(&STAMP, 7));
        assert!(!header.fits(&Stamp { mtime: 4, ..STAMP }, 7) && !header.fits(&STAMP, 8));
        assert!(!Header { stamp: Stamp { settled: false, ..STAMP }, ..header }.fits(&STAMP, 7));
    }
}
