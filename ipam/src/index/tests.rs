//! An index in memory and in a file: what it finds, how it grows, how much it reads.

use super::*;
use crate::directory::Mark;
use crate::lease::Owner;

const STAMP: Stamp = Stamp { device: 1, inode: 2, mtime: 3, settled: true };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn record(id: &str, address: &str) -> Record {
    let owner = owner_key(&Owner { id, ifname: "eth0" });
    let life = Life { boot: 7, netns: Some((4, 4026531840)) };
    Record { owner, address: ip(address), writer: Writer::Ours(life, Mark { inode: 9, ctime: -1 }) }
}

fn empty() -> Index {
    Index::in_memory(Index::image(STAMP, 7, 0, &[], [].into_iter())).unwrap()
}

fn span(first: &str, last: &str) -> Span {
    Span { first: ip(first), last: ip(last) }
}

#[test]
fn a_lease_is_found_by_its_owner_until_it_is_removed() {
    let mut index = empty();
    let (four, six) = (record("web", "10.9.0.2"), record("web", "fd00::2"));

    index.put(four);
    index.put(six);
    index.put(record("db", "10.9.0.3"));
    index.put(Record { writer: Writer::Foreign, ..four });

    let web = index.leases_of(&four.owner).unwrap();
    assert_eq!(web, [Record { writer: Writer::Foreign, ..four }, six]);
    index.forget(&four.owner, four.address);
    assert_eq!(index.leases_of(&four.owner).unwrap(), [six]);
    assert_eq!((index.len(), index.write_error()), (2, None));
}

#[test]
fn runs_of_taken_addresses_are_skipped_across_bitmaps() {
    let taken = (0..20_000).map(|n| address(ip("10.9.0.0"), number(ip("10.9.0.0")) + n));
    let mut index = Index::in_memory(Index::image(STAMP, 7, 0, &[], taken)).unwrap();

    assert_eq!(index.first_free(span("10.9.0.0", "10.9.255.254")).unwrap(), Some(ip("10.9.78.32")));
    assert_eq!(index.first_free(span("10.9.0.0", "10.9.78.31")).unwrap(), None);
    index.set_taken(ip("10.9.3.200"), false);
    assert_eq!(index.first_free(span("10.9.0.0", "10.9.255.254")).unwrap(), Some(ip("10.9.3.200")));
    assert_eq!(index.first_free(span("10.9.3.201", "10.9.78.40")).unwrap(), Some(ip("10.9.78.32")));
    assert_eq!(index.first_free(span("fd00::1", "fd00::ffff:ffff:ffff:ffff")).unwrap(), Some(ip("fd00::1")));
}

#[test]
fn it_grows_and_keeps_everything() {
    let mut index = empty();
    let leases: Vec<Record> = (0..3000)
        .map(|n| {
            record(&format!("c{n}"), &address(ip("fd00::"), number(ip("fd00::")) + n * 10_000).to_string())
        })
        .collect();

    for lease in &leases {
        if let Some(image) = index.with_room_for(1).unwrap() {
            index = Index::in_memory(image).unwrap();
        }
        index.put(*lease);
        index.set_taken(lease.address, true);
    }

    assert!(leases.iter().all(|lease| index.leases_of(&lease.owner).unwrap() == [*lease]));
    assert_eq!(index.first_free(span("fd00::2710", "fd00::ffff")).unwrap(), Some(ip("fd00::2711")));
    assert_eq!((index.records().unwrap().len(), index.len(), index.write_error()), (3000, 3000, None));
}

#[test]
fn an_owner_may_have_more_leases_than_a_page_holds() {
    let mut index = empty();

    for n in 0..90 {
        index.put(record("many", &format!("10.9.0.{n}")));
    }

    assert_eq!(index.write_error(), None);
    assert_eq!(index.leases_of(&record("many", "10.9.0.1").owner).unwrap().len(), 90);
}

#[test]
fn with_sixty_thousand_leases_a_lease_still_touches_few_pages() {
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
    assert_eq!(index.leases_of(&new.owner).unwrap(), []);
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
