//! The index beside a lease directory: which addresses are taken, what each owner has, and, for leases that rnet
//! wrote, in which boot and for which network namespace.
//!
//! One file of pages read by pread(2) and written by pwrite(2): the header, a table of leases by owner, and a
//! table of bitmaps of 4096 addresses each, so that a large IPv6 range costs only as much as its taken addresses. Every
//! operation reads a few pages, whatever the number of leases. The index is a cache, valid only for the state of
//! the directory that its header names.

mod header;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::directory::Stamp;
use crate::page::{PAGE, Page, Storage, Table, Unreadable};
use crate::pool::Span;
use crate::range::{address, number};

use header::HEADER_WORDS;
pub(crate) use header::Header;
use record::{
    BITMAP, BITS, Bitmap, LEASE, Place, WORDS, bitmap_hash, decode, decode_bitmap, decode_place, encode,
    encode_bitmap, first_zero, owner_hash, place_of, set_bit,
};
pub(crate) use record::{Life, OwnerKey, Record, Writer, boot_number, owner_key};

/// An index, open.
#[derive(Debug)]
pub(crate) struct Index {
    storage: Storage,
    pub header: Header,
    /// The error of the first write that failed: the file must not be trusted again.
    write_error: Option<Errno>,
}

impl Index {
    /// The index in `file`, if it is one.
    pub fn load(file: OwnedFd) -> Option<Self> {
        Self::at(Storage::file(file))
    }

    /// An index in memory.
    pub fn in_memory(image: Vec<u8>) -> Option<Self> {
        Self::at(Storage::Memory(image))
    }

    fn at(storage: Storage) -> Option<Self> {
        let header = Header::read(&storage)?;
        Some(Self { storage, header, write_error: None })
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
            .filter(|record| matches!(record.writer, Writer::Ours(life, _) if life.boot != boot));
        let header =
            Header { stamp, boot, names, dead: dead.count() as u64, ..Header::of(records, &bitmaps) };
        assemble(header, records, &bitmaps)
    }

    /// A copy of the index with room for `more` leases; `None` if this one has room.
    pub fn with_room_for(&self, more: u64) -> Result<Option<Vec<u8>>, Unreadable> {
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

    /// `owner`'s leases in the index.
    pub fn leases_of(&self, owner: &OwnerKey) -> Result<Vec<Record>, Unreadable> {
        let chain = self.leases().chain(&self.storage, owner_hash(owner))?;
        let records = chain.iter().flat_map(Page::records).map(decode);
        records.filter(|record| !matches!(record, Ok(other) if other.owner != *owner)).collect()
    }

    /// All leases, page by page, beginning with page `start` (modulo the number of pages).
    pub fn lease_pages_from(&self, start: u64) -> impl Iterator<Item = Result<Vec<Record>, Unreadable>> {
        let table = self.leases();
        (0..table.pages).map(move |step| {
            let page = table.page(&self.storage, start.wrapping_add(step) & (table.pages - 1))?;
            page.records().map(decode).collect()
        })
    }

    /// All leases; fails if a page cannot be read.
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

    /// The leases in those pages that can still be read.
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
            // Neighbouring bitmaps are in one page.
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

    /// Records a lease, in place of an earlier record of the same owner and address.
    pub fn put(&mut self, record: Record) {
        let done = self.try_put(&record);
        self.note(done);
    }

    /// Removes a lease.
    pub fn forget(&mut self, owner: &OwnerKey, address: IpAddr) {
        let done = self.try_forget(owner, address);
        self.note(done);
    }

    /// Marks an address as taken or free.
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

    /// The error of the first write that failed.
    pub fn write_error(&self) -> Option<Errno> {
        self.write_error
    }

    /// How many leases it holds.
    pub fn len(&self) -> u64 {
        self.header.leases
    }

    fn note(&mut self, done: Result<(), Errno>) {
        self.write_error = self.write_error.or(done.err());
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
        // The page with the record first: a reader is never led to a page that lacks it.
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

/// The bytes of a table that has room for these records.
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
    pages.iter_mut().flat_map(|page| *page.with_checksum()).collect()
}

fn damage(_: Unreadable) -> Errno {
    Errno::IO
}

fn find_lease(chain: &[Page], owner: &OwnerKey, ip: IpAddr) -> Option<(usize, usize)> {
    find(chain, |record| record[..16] == *owner && decode(record).is_ok_and(|record| record.address == ip))
}

fn find_bitmap(chain: &[Page], place: Place) -> Option<(usize, usize)> {
    find(chain, |record| decode_place(record) == place)
}

/// The first wanted record: its page in the chain and its place in the page.
fn find(chain: &[Page], wanted: impl Fn(&[u8]) -> bool) -> Option<(usize, usize)> {
    let slots = chain.iter().map(|page| page.records().position(&wanted));
    slots.enumerate().find_map(|(page, slot)| Some((page, slot?)))
}

fn page_record(page: &Page, slot: usize) -> Result<&[u8], Unreadable> {
    page.records().nth(slot).ok_or(Unreadable)
}
