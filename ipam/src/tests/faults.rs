//! What leases do when something goes wrong.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::*;
use crate::directory::Directory;
use crate::index::{Life, Record, Writer, boot_number, owner_key};
use crate::session::{Job, Session, Shelf};
use crate::{Origin, Refusal};

/// A tmpfs of this size mounted at a folder of the lab, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(lab: &Lab, name: &str, options: &str) -> Self {
        let path = lab.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", rustix::mount::MountFlags::empty(), &*options).unwrap();
        Self(path)
    }

    fn fill(&self) {
        let file = fs::File::create(self.0.join("ballast")).unwrap();
        for block in 0.. {
            if file.write_at(&[1; 4096], block * 4096).is_err() {
                break;
            }
        }
    }

    fn make_read_only(&self) {
        rustix::mount::mount_remount(&self.0, rustix::mount::MountFlags::RDONLY, c"").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Does `work` as a process would that is killed before it ends the operation.
fn kill_after<T>(lab: &Lab, work: impl FnOnce(&mut Session<'_>) -> T) -> T {
    let directory = Directory::open(&(&lab.net()).into()).unwrap();
    let shelf = Shelf::new((&lab.shelf()).into(), &directory.real_path());
    let _lock = directory.lock(Duration::from_secs(10)).unwrap();
    work(&mut Session::enter(&directory, &shelf, boot_number(BOOT)).unwrap())
}

fn index_file(lab: &Lab) -> PathBuf {
    fs::read_dir(lab.shelf()).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn empty_and_garbage_files_hold_no_address() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    let garbage: [&[u8]; 5] = [b"", b"\0\0\0", b"two words", b"\r\n", b"\xff\xfe\xfd"];
    for (n, content) in (2..).zip(garbage) {
        lab.write(&format!("10.9.0.{n}"), content);
    }

    assert!(leases.free(&sets).unwrap());
    assert_eq!(add(&leases, &sets, "asked", &["10.9.0.4"]).unwrap(), ["10.9.0.4"]);
    for (id, address) in [("a", "10.9.0.5"), ("b", "10.9.0.6"), ("c", "10.9.0.2"), ("d", "10.9.0.3")] {
        assert_eq!(add(&leases, &sets, id, &[]).unwrap(), [address]);
    }
    assert!(!leases.free(&sets).unwrap());
    assert_eq!(lab.files()[0], ("10.9.0.2".into(), "c\r\neth0".into()));
}

#[test]
fn an_entry_that_is_no_plain_file_is_kept_and_its_address_not_given() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    fs::create_dir(lab.net().join("10.9.0.2")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", lab.net().join("10.9.0.3")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, lab.net().join("10.9.0.4"), 0o600.into()).unwrap();

    assert_eq!(add(&leases, &sets, "a", &[]).unwrap(), ["10.9.0.5"]);
    assert!(add(&leases, &sets, "b", &["10.9.0.3"]).unwrap_err().contains("is not available"));
    assert_eq!(leases.gc(Some(&[]), &|_, _| false).unwrap(), ips(&["10.9.0.5"]));
    assert_eq!(lab.names(), ["10.9.0.2", "10.9.0.3", "10.9.0.4"]);
}

#[test]
fn garbage_that_got_a_second_name_after_the_index_was_made_is_skipped() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    lab.write("10.9.0.2", b"");
    assert!(leases.free(&sets).unwrap());
    fs::hard_link(lab.net().join("10.9.0.2"), lab.folder.path().join("other")).unwrap();

    assert_eq!(add(&leases, &sets, "a", &[]).unwrap(), ["10.9.0.3"]);
}

#[test]
fn a_lease_file_with_a_second_name_is_not_removed() {
    let lab = Lab::new();
    let leases = lab.leases();
    add(&leases, &small(), "a", &[]).unwrap();
    fs::hard_link(lab.net().join("10.9.0.2"), lab.folder.path().join("other")).unwrap();

    let text = leases.release(&eth0("a")).unwrap_err().to_string();

    assert!(text.contains("10.9.0.2: it is no longer the single plain file"), "{text}");
    assert_eq!(lab.names(), ["10.9.0.2"]);
}

#[test]
fn without_its_index_the_directory_gives_the_same_answers() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    for id in ["a", "b", "c"] {
        add(&leases, &sets, id, &[]).unwrap();
    }
    fs::remove_file(index_file(&lab)).unwrap();

    assert_eq!(leases.held(&eth0("b")).unwrap(), ips(&["10.9.0.3"]));
    assert_eq!(add(&leases, &sets, "d", &[]).unwrap(), ["10.9.0.5"]);
    assert_eq!(leases.release(&eth0("c")).unwrap(), ips(&["10.9.0.4"]));
}

#[test]
fn a_garbled_or_torn_index_gives_the_same_answers() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), sets(r#"[[{"subnet":"10.9.0.0/24"}]]"#));
    let ids: Vec<String> = (0..40).map(|n| format!("c{n}")).collect();
    for id in &ids {
        add(&leases, &sets, id, &[]).unwrap();
    }
    let intact = fs::read(index_file(&lab)).unwrap();

    for at in (0..intact.len()).step_by(509) {
        let mut bytes = intact.clone();
        bytes[at..].iter_mut().take(700).for_each(|byte| *byte = byte.wrapping_mul(3).wrapping_add(at as u8));
        for damaged in [&bytes[..], &intact[..at], &[&intact[..at], &vec![0; intact.len() - at]].concat()] {
            fs::write(index_file(&lab), damaged).unwrap();
            let id = &ids[at % ids.len()];
            assert_eq!(leases.held(&eth0(id)).unwrap().len(), 1, "{id} after damage at {at}");
        }
    }
    fs::write(index_file(&lab), &intact[..100]).unwrap();
    assert_eq!(add(&leases, &sets, "next", &[]).unwrap(), ["10.9.0.42"]);
}

#[test]
fn a_lease_written_by_a_process_that_was_killed_before_the_index_was_is_found_and_ours() {
    let lab = Lab::new();
    let sets = small();
    add(&lab.leases(), &sets, "a", &[]).unwrap();
    let owner = eth0("b");
    let job = Job {
        sets: &sets,
        owner,
        netns: Some((4, 9)),
        requested: &[],
        preferred: &[],
        choice: Choice::RoundRobin,
        witness: &|| Ok(Vec::new()),
    };

    kill_after(&lab, |session| session.lease(&job)).unwrap();

    let leases = lab.leases();
    assert_eq!(leases.held(&owner).unwrap(), ips(&["10.9.0.3"]));
    assert_eq!(leases.list().unwrap()[1].origin, Origin::Ours { netns: Some((4, 9)) });
    assert_eq!(add(&leases, &sets, "c", &[]).unwrap(), ["10.9.0.4"]);
    assert_eq!(lab.in_boot("boot-2").list().unwrap()[1].origin, Origin::Dead);
}

#[test]
fn a_process_killed_before_its_lease_file_existed_leaves_nothing() {
    let lab = Lab::new();
    let sets = small();
    add(&lab.leases(), &sets, "a", &[]).unwrap();
    let life = Life { boot: boot_number(BOOT), netns: None };
    let pending = Writer::Pending(life);

    kill_after(&lab, |session| {
        session.note(Record { owner: owner_key(&eth0("b")), address: ip("10.9.0.3"), writer: pending });
    });

    let leases = lab.leases();
    assert_eq!(leases.held(&eth0("b")).unwrap(), NOTHING);
    assert_eq!(leases.list().unwrap().len(), 1);
    assert_eq!(add(&leases, &sets, "c", &[]).unwrap(), ["10.9.0.3"]);
    assert_eq!(add(&leases, &sets, "b", &[]).unwrap(), ["10.9.0.4"]);
}

#[test]
fn a_release_that_was_killed_half_way_is_finished_by_the_next() {
    let lab = Lab::new();
    let sets = sets(r#"[[{"subnet":"10.9.0.0/29"}],[{"subnet":"fd00::/64"}]]"#);
    add(&lab.leases(), &sets, "a", &[]).unwrap();

    kill_after(&lab, |_| fs::remove_file(lab.net().join("10.9.0.2"))).unwrap();

    assert_eq!(lab.leases().release(&eth0("a")).unwrap(), ips(&["fd00::2"]));
    assert_eq!(lab.leases().release(&eth0("a")).unwrap(), NOTHING);
}

#[test]
fn an_index_that_cannot_be_written_fails_only_a_lease() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    lab.write("10.9.0.2", "a\r\neth0");
    fs::write(lab.shelf(), "in the way").unwrap();

    let text = add(&leases, &sets, "b", &[]).unwrap_err();

    assert!(text.starts_with("cannot write the index of leases "), "{text}");
    assert_eq!(lab.names(), ["10.9.0.2"]);
    assert_eq!(leases.held(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
    assert_eq!(leases.release(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
    assert_eq!(leases.list().unwrap(), []);
}

#[test]
fn on_a_full_disk_a_lease_leaves_nothing_and_a_release_works() {
    let lab = Lab::new();
    let disk = Disk::new(&lab, "networks", "size=64k");
    let (leases, sets) = (lab.leases(), sets(r#"[[{"subnet":"10.9.0.0/29"}],[{"subnet":"fd00::/64"}]]"#));
    add(&leases, &sets, "a", &[]).unwrap();
    add(&leases, &sets, "b", &[]).unwrap();
    disk.fill();

    let text = add(&leases, &sets, "c", &[]).unwrap_err();

    assert!(text.contains("No space left"), "{text}");
    assert_eq!(lab.names(), ["10.9.0.2", "10.9.0.3", "fd00::2", "fd00::3"]);
    assert_eq!(leases.release(&eth0("a")).unwrap().len(), 2);
    assert_eq!(lab.names(), ["10.9.0.3", "fd00::3"]);
    assert_eq!(add(&leases, &sets, "c", &[]).unwrap(), ["10.9.0.4", "fd00::4"]);
}

#[test]
fn on_a_full_disk_for_the_index_a_release_works_and_lasts() {
    let lab = Lab::new();
    let disk = Disk::new(&lab, "index", "size=64k");
    let (leases, sets) = (lab.leases(), small());
    add(&leases, &sets, "a", &[]).unwrap();
    fs::remove_file(index_file(&lab)).unwrap();
    disk.fill();

    assert!(add(&leases, &sets, "b", &[]).unwrap_err().starts_with("cannot write the index of leases "));
    assert_eq!(leases.release(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
    assert_eq!(leases.release(&eth0("a")).unwrap(), NOTHING);
    fs::remove_file(disk.0.join("ballast")).unwrap();
    assert_eq!(add_by(&leases, &sets, "b", &[], Choice::Lowest).unwrap(), ["10.9.0.2"]);
}

#[test]
fn a_read_only_index_still_shows_which_leases_are_dead() {
    let lab = Lab::new();
    let disk = Disk::new(&lab, "index", "size=64k");
    add(&lab.leases(), &small(), "a", &[]).unwrap();
    add(&lab.leases(), &small(), "b", &[]).unwrap();
    disk.make_read_only();
    let leases = lab.in_boot("boot-2");

    assert!(leases.list().unwrap().iter().all(|lease| lease.origin == Origin::Dead));
    let text = add(&leases, &small(), "c", &[]).unwrap_err();
    assert!(text.ends_with("Read-only file system (os error 30)"), "{text}");
    assert_eq!(leases.release(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
    assert_eq!(leases.gc(None, &|_, _| true).unwrap(), ips(&["10.9.0.3"]));
}

#[test]
fn a_read_only_directory_answers_and_says_what_it_cannot_free() {
    let lab = Lab::new();
    let disk = Disk::new(&lab, "networks", "size=64k");
    let (leases, sets) = (lab.leases(), small());
    add(&leases, &sets, "a", &[]).unwrap();
    add(&leases, &sets, "b", &[]).unwrap();
    disk.make_read_only();
    let leases_now = lab.leases();

    assert_eq!(leases_now.held(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
    let text = leases.release(&eth0("a")).unwrap_err().to_string();
    assert!(text.ends_with("networks/net/10.9.0.2: Read-only file system (os error 30)"), "{text}");
    let Err(Error::Incomplete { freed, failures }) = leases.gc(Some(&[]), &|_, _| false) else { panic!() };
    assert_eq!((freed.len(), failures.len()), (0, 2));
}

#[test]
fn another_program_s_change_is_noticed_even_if_it_follows_at_once() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());

    for round in 0..50 {
        let id = format!("a{round}");
        let address = add_by(&leases, &sets, &id, &[], Choice::Lowest).unwrap();
        assert_eq!(address, ["10.9.0.2"]);
        fs::remove_file(lab.net().join("10.9.0.2")).unwrap();
        lab.write("10.9.0.2", "other\r\neth0");
        assert_eq!(leases.held(&eth0(&id)).unwrap(), NOTHING);
        assert_eq!(leases.release(&eth0("other")).unwrap(), ips(&["10.9.0.2"]));
    }
}

#[test]
fn an_exhausted_pool_looks_again_before_it_says_so() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), sets(r#"[[{"subnet":"10.9.0.0/30"}]]"#));
    add(&leases, &sets, "a", &[]).unwrap();
    let before = fs::metadata(lab.net()).unwrap().modified().unwrap();
    fs::remove_file(lab.net().join("10.9.0.2")).unwrap();
    fs::File::open(lab.net()).unwrap().set_modified(before).unwrap();

    assert!(leases.free(&sets).unwrap());
    assert_eq!(add(&leases, &sets, "b", &[]).unwrap(), ["10.9.0.2"]);
}

#[test]
fn an_address_that_another_program_took_unnoticed_is_not_given_twice() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    add(&leases, &sets, "a", &[]).unwrap();
    let before = fs::metadata(lab.net()).unwrap().modified().unwrap();
    lab.write("10.9.0.3", "other\r\neth0");
    fs::File::open(lab.net()).unwrap().set_modified(before).unwrap();

    assert_eq!(add(&leases, &sets, "b", &[]).unwrap(), ["10.9.0.4"]);
}

#[test]
fn sixteen_at_once_never_get_the_same_address() {
    let lab = Lab::new();
    let sets = sets(r#"[[{"subnet":"10.9.0.0/24"}],[{"subnet":"fd00::/64"}]]"#);

    let given: Vec<Vec<String>> = std::thread::scope(|scope| {
        let start = |thread: usize| {
            let (lab, sets) = (&lab, &sets);
            scope.spawn(move || {
                let leases = lab.leases();
                let mut given = Vec::new();
                for n in 0..12 {
                    let id = format!("c{thread}-{n}");
                    let addresses = add(&leases, sets, &id, &[]).unwrap();
                    match n % 3 {
                        0 => assert_eq!(leases.release(&eth0(&id)).unwrap().len(), 2),
                        _ => given.extend(addresses),
                    }
                }
                given
            })
        };
        let threads: Vec<_> = (0..16).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    let given: Vec<String> = given.concat();
    let unique: BTreeSet<String> = given.iter().cloned().collect();
    assert_eq!((given.len(), unique.len()), (16 * 8 * 2, 16 * 8 * 2));
    assert_eq!(lab.names().into_iter().collect::<BTreeSet<_>>(), unique);
}

#[test]
fn a_stopped_holder_of_the_lock_is_named_and_nothing_changes() {
    let lab = Lab::new();
    let sets = small();
    let held = Directory::open(&(&lab.net()).into()).unwrap();
    let lock = held.lock(Duration::from_secs(10)).unwrap();
    let leases = lab.leases().with_patience(Duration::from_millis(50));

    let text = add(&leases, &sets, "a", &[]).unwrap_err();

    assert!(text.contains(&format!("by pid {}", std::process::id())), "{text}");
    drop(lock);
    assert_eq!(lab.leases().with_patience(Duration::from_secs(10)).list().unwrap(), []);
}

#[test]
fn a_refusal_carries_what_details_need() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), sets(r#"[[{"subnet":"10.9.0.0/30"}]]"#));
    add(&leases, &sets, "a", &[]).unwrap();
    let refused =
        |requested: &[&str]| match leases.lease(&sets, &eth0("b"), None, &ips(requested), Choice::Lowest) {
            Err(Error::Refused { set: 0, refusal }) => refusal,
            other => panic!("{other:?}"),
        };

    assert!(matches!(refused(&[]), Refusal::Exhausted { held: 1, .. }));
    assert!(
        matches!(refused(&["10.9.0.2"]), Refusal::Unavailable { holder: Some(holder), .. } if holder == owner_pair("a", "eth0"))
    );
}
