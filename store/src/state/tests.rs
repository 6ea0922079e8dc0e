//! Records, claims and locks in a new folder.

use super::records::record_name;
use super::*;
use crate::{NetworkKey, Record, Stage};

fn store() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(Paths::under(root.path(), 1)).unwrap();
    (root, store)
}

fn record(container: &str) -> Record {
    Record {
        plugin: "rnet".into(),
        network: "mynet".into(),
        container: container.into(),
        ifname: "eth0".into(),
        ..Record::default()
    }
}

#[test]
fn the_removal_of_the_last_record_says_that_it_was_the_last() {
    let (_root, store) = store();
    store.write_record(&record("web")).unwrap();
    store.write_record(&record("db")).unwrap();

    assert!(!store.remove_record("mynet", "rnet", &record("web").key()).unwrap());
    assert!(store.remove_record("mynet", "rnet", &record("db").key()).unwrap());
    assert!(!store.remove_record("mynet", "rnet", &record("db").key()).unwrap());
}

#[test]
fn a_record_is_found_by_its_key_and_among_all() {
    let (_root, store) = store();
    let mut web = record("web");
    store.write_record(&web).unwrap();
    web.stage = Stage::Committed;
    store.write_record(&web).unwrap();

    assert_eq!(store.record("mynet", "rnet", &web.key()).unwrap(), Some(web.clone()));
    assert_eq!(store.record("mynet", "bridge", &web.key()).unwrap(), None);
    assert_eq!(store.records().unwrap(), [web]);
}

#[test]
fn a_killed_writer_s_file_does_not_keep_a_network_and_is_swept() {
    let (_root, store) = store();
    store.write_record(&record("web")).unwrap();
    let unnamed = store.paths.run().join(UNNAMED);
    std::fs::write(unnamed.join("4711-0"), "{\"stage\":").unwrap();

    assert!(store.remove_record("mynet", "rnet", &record("web").key()).unwrap());
    store.sweep().unwrap();

    assert_eq!(std::fs::read_dir(unnamed).unwrap().count(), 0);
}

#[test]
fn a_record_is_written_although_its_folder_is_removed_at_the_same_moment() {
    let (_root, store) = store();
    let come_and_go = |container: &str| {
        for _ in 0..1000 {
            store.write_record(&record(container)).unwrap();
            store.remove_record("mynet", "rnet", &record(container).key()).unwrap();
        }
    };

    std::thread::scope(|scope| {
        for container in ["web", "db", "cache"] {
            scope.spawn(move || come_and_go(container));
        }
    });

    assert_eq!(store.records().unwrap(), []);
}

#[test]
fn garbage_is_moved_aside_and_counts_as_an_intent() {
    let (_root, store) = store();
    let web = record("web");
    store.write_record(&web).unwrap();
    let name = record_name("mynet", "rnet", &web.key());
    std::fs::write(store.paths.run().join(&name), b"{\"stage\":\"comm").unwrap();

    let found = store.record("mynet", "rnet", &web.key()).unwrap().unwrap();

    assert_eq!(found, Record { stage: Stage::Intent, ..Record::default() });
    assert_eq!(store.record("mynet", "rnet", &web.key()).unwrap(), Some(found));
    assert_eq!(store.records().unwrap(), []);
    store.forget_aside("mynet", "rnet", &web.key()).unwrap();
    assert_eq!(store.record("mynet", "rnet", &web.key()).unwrap(), None);
}

#[test]
fn a_claim_is_shared_until_the_last_is_released() {
    let (_root, store) = store();
    let (web, db) = (record("web").key(), record("db").key());
    store.claim("tcp4-8080", &web).unwrap();
    store.claim("tcp4-8080", &web).unwrap();
    store.claim("tcp4-8080", &db).unwrap();

    assert!(store.is_claimed("tcp4-8080").unwrap());
    assert!(!store.release("tcp4-8080", &web).unwrap());
    assert!(store.release("tcp4-8080", &db).unwrap());
    assert!(!store.is_claimed("tcp4-8080").unwrap());
}

#[test]
fn the_last_to_leave_may_fail_and_try_again() {
    let (_root, store) = store();
    let (web, db) = (record("web").key(), record("db").key());
    store.claim("loopback-br0", &web).unwrap();
    store.claim("loopback-br0", &db).unwrap();

    assert!(!store.leave("loopback-br0", &web).unwrap());
    assert!(store.leave("loopback-br0", &db).unwrap());
    assert!(store.is_claimed("loopback-br0").unwrap() && store.is_left("loopback-br0").unwrap());
    assert!(store.leave("loopback-br0", &db).unwrap());
    assert!(store.abandon("loopback-br0").unwrap());
    assert!(!store.is_left("loopback-br0").unwrap());
    assert!(!store.is_claimed("loopback-br0").unwrap());
}

#[test]
fn a_lock_whose_file_was_removed_while_its_mode_changed_is_taken_again() {
    let (_root, store) = store();
    let network = || LockName::Network("mynet".into());
    let first = store.lock(network(), Mode::Shared, "ADD web/eth0").unwrap();
    std::fs::remove_file(store.paths.run().join(format!("locks/network-{}", NetworkKey::new("mynet"))))
        .unwrap();

    let changed = store.change(first, Mode::Exclusive, "ADD web/eth0").unwrap();

    let late = Lock::take(store.locks.as_fd(), network(), Mode::Shared, "ADD", Duration::from_millis(20));
    assert!(matches!(late, Err(Error::Busy { .. })));
    drop(changed);
}
