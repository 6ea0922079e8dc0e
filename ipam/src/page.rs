//! A hash table of records of one size in pages of a file, each page with a checksum.
//!
//! A page that is torn, zeroed or garbled is noticed when it is read, and the whole table is rebuilt from its sources.
//! A record is in the page that its hash names, or, if that is full, in one of the next.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;
/// Checksum (8), number of records (2), flag for "a record of this page is in a later one" (1), unused (5).
const HEAD: usize = 16;

/// A page does not have the bytes that were written to it, or cannot be read: the table must be rebuilt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The bytes of the pages.
#[derive(Debug)]
pub(crate) enum Storage {
    /// A file, each of whose pages is read once: it is locked as long as this lives.
    File { file: OwnedFd, read: RefCell<HashMap<u64, Box<[u8; PAGE]>>> },
    /// Memory, for the rest of one operation, if the disk is full or read-only.
    Memory(Vec<u8>),
}

impl Storage {
    pub fn file(file: OwnedFd) -> Self {
        Storage::File { file, read: RefCell::default() }
    }

    /// How many pages of the file were read or written so far.
    #[cfg(test)]
    pub fn pages_seen(&self) -> usize {
        match self {
            Storage::File { read, .. } => read.borrow().len(),
            Storage::Memory(_) => 0,
        }
    }

    /// Reads a piece of the first page, past all checks.
    pub fn read_head(&self, buffer: &mut [u8]) -> Result<(), Unreadable> {
        match self {
            Storage::File { file, .. } => read_at(file, buffer, 0),
            Storage::Memory(bytes) => {
                buffer.copy_from_slice(bytes.get(..buffer.len()).ok_or(Unreadable)?);
                Ok(())
            }
        }
    }

    /// Writes a piece of the first page.
    pub fn write_head(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        match self {
            Storage::File { file, .. } => write_at(file, bytes, 0),
            Storage::Memory(memory) => {
                memory[..bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn read_page(&self, number: u64) -> Result<Box<[u8; PAGE]>, Unreadable> {
        let mut page = Box::new([0; PAGE]);
        match self {
            Storage::File { file, read } => {
                if let Some(known) = read.borrow().get(&number) {
                    return Ok(known.clone());
                }
                read_at(file, &mut page[..], number * PAGE as u64)?;
                read.borrow_mut().insert(number, page.clone());
            }
            Storage::Memory(bytes) => {
                let from = number as usize * PAGE;
                page.copy_from_slice(bytes.get(from..from + PAGE).ok_or(Unreadable)?);
            }
        }
        Ok(page)
    }

    fn write_page(&mut self, number: u64, page: &[u8; PAGE]) -> Result<(), Errno> {
        match self {
            Storage::File { file, read } => {
                read.get_mut().insert(number, Box::new(*page));
                write_at(file, page, number * PAGE as u64)
            }
            Storage::Memory(memory) => {
                let from = number as usize * PAGE;
                memory[from..from + PAGE].copy_from_slice(page);
                Ok(())
            }
        }
    }
}

fn read_at(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<(), Unreadable> {
    let wanted = buffer.len();
    match rustix::io::pread(file, buffer, offset) {
        Ok(read) if read == wanted => Ok(()),
        _ => Err(Unreadable),
    }
}

fn write_at(file: &OwnedFd, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    match rustix::io::pwrite(file, bytes, offset)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}

/// The place of a table and the size of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its first page.
    pub first: u64,
    /// How many pages, a power of two.
    pub pages: u64,
    /// Bytes in a record.
    pub record: usize,
}

impl Table {
    /// Pages for `records` records, with room for as many again.
    pub fn pages_for(records: u64, record: usize) -> u64 {
        let per_page = ((PAGE - HEAD) / record) as u64;
        (2 * records).div_ceil(per_page).next_power_of_two().max(2)
    }

    /// How many records it holds before it should grow.
    pub fn room(&self) -> u64 {
        self.pages * ((PAGE - HEAD) / self.record) as u64 * 3 / 5
    }

    /// The pages that may have records of `hash`, the page that it names first.
    pub fn chain(&self, storage: &Storage, hash: u64) -> Result<Vec<Page>, Unreadable> {
        let mut chain = Vec::with_capacity(1);
        for step in 0..self.pages {
            let page = self.page(storage, hash.wrapping_add(step) & (self.pages - 1))?;
            let more = page.continues();
            chain.push(page);
            if !more {
                break;
            }
        }
        Ok(chain)
    }

    /// Page `place` of this table.
    pub fn page(&self, storage: &Storage, place: u64) -> Result<Page, Unreadable> {
        let number = self.first + place;
        let page = Page { number, record: self.record, bytes: storage.read_page(number)? };
        if page.is_sound() { Ok(page) } else { Err(Unreadable) }
    }

    /// Adds a record to a chain that lacks it and returns the pages to write; `None` if the table is full.
    pub fn add(&self, storage: &Storage, hash: u64, record: &[u8]) -> Result<Option<Vec<Page>>, Unreadable> {
        let mut full = Vec::new();
        for step in 0..self.pages {
            let mut page = self.page(storage, hash.wrapping_add(step) & (self.pages - 1))?;
            if page.push(record) {
                full.push(page);
                return Ok(Some(full));
            }
            page.set_continues();
            full.push(page);
        }
        Ok(None)
    }
}

/// One page of a table.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    number: u64,
    record: usize,
    bytes: Box<[u8; PAGE]>,
}

impl Page {
    pub fn empty(number: u64, record: usize) -> Self {
        Self { number, record, bytes: Box::new([0; PAGE]) }
    }

    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes[HEAD..self.end()].chunks_exact(self.record)
    }

    pub fn replace(&mut self, place: usize, record: &[u8]) {
        let from = HEAD + place * self.record;
        self.bytes[from..from + self.record].copy_from_slice(record);
    }

    /// Removes a record; the last one takes its place.
    pub fn remove(&mut self, place: usize) {
        let last = self.end() - self.record;
        let from = HEAD + place * self.record;
        self.bytes.copy_within(last..last + self.record, from);
        self.set_count(self.count() - 1);
    }

    /// Writes the page with its checksum.
    pub fn write(&mut self, storage: &mut Storage) -> Result<(), Errno> {
        let number = self.number;
        storage.write_page(number, self.with_checksum())
    }

    /// The page's bytes with its checksum.
    pub fn with_checksum(&mut self) -> &[u8; PAGE] {
        let sum = self.sum();
        self.bytes[..8].copy_from_slice(&sum.to_le_bytes());
        &self.bytes
    }

    /// Appends a record; false if the page is full.
    pub fn push(&mut self, record: &[u8]) -> bool {
        let end = self.end();
        if end + self.record > PAGE {
            return false;
        }
        self.bytes[end..end + self.record].copy_from_slice(record);
        self.set_count(self.count() + 1);
        true
    }

    fn count(&self) -> usize {
        u16::from_le_bytes([self.bytes[8], self.bytes[9]]).into()
    }

    fn set_count(&mut self, count: usize) {
        self.bytes[8..10].copy_from_slice(&(count as u16).to_le_bytes());
    }

    fn end(&self) -> usize {
        HEAD + self.count() * self.record
    }

    pub fn continues(&self) -> bool {
        self.bytes[10] != 0
    }

    pub fn set_continues(&mut self) {
        self.bytes[10] = 1;
    }

    fn is_sound(&self) -> bool {
        self.end() <= PAGE && self.bytes[..8] == self.sum().to_le_bytes()
    }

    fn sum(&self) -> u64 {
        checksum(self.number, &self.bytes[8..self.end()])
    }
}

/// A sum that almost certainly differs if a byte differs; never 0 for zeroes. It does not stop forgers: the file is
/// root's.
pub(crate) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(seed ^ 0x9e37_79b9_7f4a_7c15, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: usize = 80;

    fn table(pages: u64) -> (Table, Storage) {
        let bytes = (0..pages).flat_map(|number| *Page::empty(number, RECORD).with_checksum()).collect();
        (Table { first: 0, pages, record: RECORD }, Storage::Memory(bytes))
    }

    fn add(table: &Table, storage: &mut Storage, hash: u64, fill: u8) -> bool {
        let pages = table.add(storage, hash, &[fill; RECORD]).unwrap();
        pages.is_some_and(|pages| pages.into_iter().all(|mut page| page.write(storage).is_ok()))
    }

    #[test]
    fn records_of_one_hash_run_over_into_the_next_pages_until_the_table_is_full() {
        let (table, mut storage) = table(2);

        let added = (0..=255).filter(|fill| add(&table, &mut storage, 1, *fill)).count();

        assert_eq!(added, 2 * ((PAGE - HEAD) / RECORD));
        let chain = table.chain(&storage, 1).unwrap();
        assert_eq!(chain.iter().flat_map(Page::records).count(), added);
    }

    #[test]
    fn a_removed_record_is_gone_and_the_others_stay() {
        let (table, mut storage) = table(2);
        assert!((1..=3).all(|fill| add(&table, &mut storage, 0, fill)));

        let mut page = table.page(&storage, 0).unwrap();
        page.remove(0);
        page.write(&mut storage).unwrap();

        let left: Vec<u8> = table.page(&storage, 0).unwrap().records().map(|record| record[0]).collect();
        assert_eq!(left, [3, 2]);
    }

    #[test]
    fn a_garbled_or_zeroed_page_is_noticed() {
        for (at, with) in [(0, 1), (8, 200), (9, 255), (10, 1), (HEAD, 9), (HEAD + RECORD - 1, 9)] {
            let (table, mut storage) = table(2);
            assert!(add(&table, &mut storage, 0, 7));
            let Storage::Memory(bytes) = &mut storage else { panic!() };
            bytes[at] = with;
            assert_eq!(table.page(&storage, 0).err(), Some(Unreadable), "byte {at}");
        }
        assert!(table_of_zeroes().page(&Storage::Memory(vec![0; PAGE]), 0).is_err());
    }

    fn table_of_zeroes() -> Table {
        Table { first: 0, pages: 1, record: RECORD }
    }
}
