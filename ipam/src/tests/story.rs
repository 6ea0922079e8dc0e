//! What leases do when nothing goes wrong.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::Origin;

const ALL_ALIVE: &dyn Fn(u64, u64) -> bool = &|_, _| true;

#[test]
fn the_files_are_the_reference_s_byte_for_byte() {
    let lab = Lab::new();
    let sets = sets(r#"[[{"subnet":"10.9.0.0/29"}],[{"subnet":"fd00:0:0::/64"}]]"#);

    let leased = lab.leases().lease(&sets, &eth0("web"), None, &[], Choice::RoundRobin).unwrap();

    assert_eq!(leased[0].address, "10.9.0.2/29".parse().unwrap());
    assert_eq!(leased[0].gateway, Some(ip("10.9.0.1")));
    assert_eq!(leased[1].address, "fd00::2/64".parse().unwrap());
    let files = lab.files();
    let expected = [
        ("10.9.0.2", "web\r\neth0"),
        ("fd00::2", "web\r\neth0"),
        ("last_reserved_ip.0", "10.9.0.2"),
        ("last_reserved_ip.1", "fd00::2"),
        ("lock", ""),
    ];
    assert_eq!(files, expected.map(|(name, content)| (name.to_owned(), content.to_owned())));
    for (name, _) in files {
        let mode = std::fs::metadata(lab.net().join(&name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if name == "lock" { 0o750 } else { 0o600 }, "{name}");
    }
}

#[test]
fn an_exhausted_range_says_so_and_a_released_address_ends_that() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    for (id, address) in [("a", "10.9.0.2"), ("b", "10.9.0.3"), ("c", "10.9.0.4"), ("d", "10.9.0.5")] {
        assert_eq!(add(&leases, &sets, id, &[]).unwrap(), [address]);
    }
    assert!(leases.free(&sets).unwrap());
    add(&leases, &sets, "e", &[]).unwrap();

    assert_eq!(
        add(&leases, &sets, "f", &[]).unwrap_err(),
        "failed to allocate for range 0: no IP addresses available in range set: 10.9.0.1-10.9.0.6"
    );
    assert!(!leases.free(&sets).unwrap());

    assert_eq!(leases.release(&eth0("c")).unwrap(), ips(&["10.9.0.4"]));
    assert!(leases.free(&sets).unwrap());
    assert_eq!(add(&leases, &sets, "f", &[]).unwrap(), ["10.9.0.4"]);
}

#[test]
fn a_preferred_address_comes_first_while_it_is_free() {
    let lab = Lab::new();
    let (preferring, sets) = (|texts| lab.leases().preferring(ips(texts)), small());
    let lowest = |leases: &Leases, id| add_by(leases, &sets, id, &[], Choice::Lowest).unwrap();

    assert_eq!(lowest(&preferring(&["10.9.0.5"]), "a"), ["10.9.0.5"]);
    assert_eq!(lowest(&preferring(&["10.9.0.5"]), "b"), ["10.9.0.2"], "it is taken");
    assert_eq!(lowest(&preferring(&["10.9.0.1", "10.7.0.9"]), "c"), ["10.9.0.3"], "gateway, not of this set");
    assert_eq!(lowest(&preferring(&["10.7.0.9", "10.9.0.6"]), "d"), ["10.9.0.6"]);
    let requested = add_by(&preferring(&["10.9.0.2"]), &sets, "e", &["10.9.0.4"], Choice::Lowest);
    assert_eq!(requested.unwrap(), ["10.9.0.4"], "what is requested wins");
}

#[test]
fn several_sets_give_all_their_addresses_or_none() {
    let lab = Lab::new();
    let leases = lab.leases();
    let sets = sets(r#"[[{"subnet":"10.9.0.0/29"}],[{"subnet":"10.8.0.0/30"}]]"#);
    assert_eq!(add(&leases, &sets, "a", &[]).unwrap(), ["10.9.0.2", "10.8.0.2"]);
    let before = lab.files();

    assert_eq!(
        add(&leases, &sets, "b", &[]).unwrap_err(),
        "failed to allocate for range 1: no IP addresses available in range set: 10.8.0.1-10.8.0.2"
    );

    assert_eq!(lab.files(), before);
    assert_eq!(leases.release(&eth0("a")).unwrap(), ips(&["10.8.0.2", "10.9.0.2"]));
    assert_eq!(add(&leases, &sets, "b", &[]).unwrap(), ["10.9.0.3", "10.8.0.2"]);
}

#[test]
fn requested_addresses_are_given_or_refused_in_the_reference_s_words() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), sets(r#"[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]"#));
    let fault = |id, requested: &[&str]| add(&leases, &sets, id, requested).unwrap_err();

    assert_eq!(add(&leases, &sets, "a", &["10.1.0.7", "10.0.0.3"]).unwrap(), ["10.0.0.3", "10.1.0.7"]);
    assert_eq!(add(&leases, &sets, "b", &["10.1.0.9"]).unwrap(), ["10.0.0.4", "10.1.0.9"]);
    let before = lab.names();

    assert_eq!(
        fault("c", &["10.0.0.1"]),
        "failed to allocate for range 0: requested ip 10.0.0.1 is subnet's gateway"
    );
    assert_eq!(
        fault("c", &["10.0.0.3"]),
        "failed to allocate for range 0: requested IP address 10.0.0.3 is not available in range set \
         10.0.0.1-10.0.0.254"
    );
    assert_eq!(fault("c", &["10.0.9.1"]), "failed to allocate all requested IPs: 10.0.9.1");
    assert_eq!(fault("c", &["10.0.0.8", "10.0.0.9"]), "failed to allocate all requested IPs: 10.0.0.9");
    assert_eq!(
        fault("c", &["10.0.0.0", "10.0.0.255"]),
        "failed to allocate all requested IPs: 10.0.0.0 10.0.0.255"
    );
    assert_eq!(lab.names(), before);
}

#[test]
fn no_owner_gets_two_addresses_of_one_set_even_by_request() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    add(&leases, &sets, "a", &[]).unwrap();

    for requested in [&[][..], &["10.9.0.5"], &["10.9.0.2"]] {
        assert_eq!(
            add(&leases, &sets, "a", requested).unwrap_err(),
            "failed to allocate for range 0: 10.9.0.2 has been allocated to a, duplicate allocation is not allowed"
        );
    }
    let eth1 = Owner { id: "a", ifname: "eth1" };
    assert!(leases.lease(&sets, &eth1, None, &[], Choice::RoundRobin).is_ok());
}

#[test]
fn round_robin_lets_a_released_address_rest_and_lowest_gives_it_at_once() {
    for (choice, expected) in [(Choice::RoundRobin, "10.9.0.4"), (Choice::Lowest, "10.9.0.2")] {
        let lab = Lab::new();
        let (leases, sets) = (lab.leases(), small());
        add_by(&leases, &sets, "a", &[], choice).unwrap();
        add_by(&leases, &sets, "b", &[], choice).unwrap();
        leases.release(&eth0("a")).unwrap();

        assert_eq!(add_by(&leases, &sets, "c", &[], choice).unwrap(), [expected]);
    }
}

#[test]
fn releasing_is_idempotent_and_takes_only_the_owner_s() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    add(&leases, &sets, "a", &[]).unwrap();
    add(&leases, &sets, "b", &[]).unwrap();

    assert_eq!(leases.release(&Owner { id: "a", ifname: "eth1" }).unwrap(), NOTHING);
    assert_eq!(leases.release(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
    assert_eq!(leases.release(&eth0("a")).unwrap(), NOTHING);

    assert_eq!(lab.names(), ["10.9.0.3"]);
    assert_eq!(leases.held(&eth0("b")).unwrap(), ips(&["10.9.0.3"]));
    assert_eq!(leases.holder(ip("10.9.0.3")).unwrap(), Some(owner_pair("b", "eth0")));
    assert_eq!(leases.holder(ip("10.9.0.2")).unwrap(), None);
}

#[test]
fn a_lease_in_the_old_format_belongs_to_the_container_unless_it_has_a_newer_one() {
    let lab = Lab::new();
    let leases = lab.leases();
    lab.write("10.9.0.2", "old");
    lab.write("10.9.0.3", "both");
    lab.write("10.9.0.4", "both\r\neth0");

    assert_eq!(leases.held(&eth0("old")).unwrap(), ips(&["10.9.0.2"]));
    assert!(add(&leases, &small(), "old", &[]).unwrap_err().contains("duplicate allocation"));
    assert_eq!(leases.release(&eth0("old")).unwrap(), ips(&["10.9.0.2"]));
    assert_eq!(leases.release(&eth0("both")).unwrap(), ips(&["10.9.0.4"]));
    assert_eq!(lab.names(), ["10.9.0.3"]);
}

#[test]
fn after_a_reboot_the_old_owner_gets_its_old_address_and_others_first_those_that_were_free() {
    let lab = Lab::new();
    let sets = small();
    for id in ["a", "b", "c"] {
        add(&lab.leases(), &sets, id, &[]).unwrap();
    }
    let leases = lab.in_boot("boot-2");

    assert_eq!(leases.held(&eth0("b")).unwrap(), NOTHING);
    assert_eq!(leases.holder(ip("10.9.0.3")).unwrap(), None);
    assert_eq!(add(&leases, &sets, "b", &[]).unwrap(), ["10.9.0.3"]);
    assert_eq!(add(&leases, &sets, "new", &[]).unwrap(), ["10.9.0.5"]);
    assert_eq!(leases.held(&eth0("b")).unwrap(), ips(&["10.9.0.3"]));
    let origins: Vec<_> = leases.list().unwrap().into_iter().map(|lease| (lease.id, lease.origin)).collect();
    let ours = Origin::Ours { netns: Some((4, 1000)) };
    let expected = [("a", Origin::Dead), ("b", ours), ("c", Origin::Dead), ("new", ours)];
    assert_eq!(origins, expected.map(|(id, origin)| (id.to_owned(), origin)));
}

#[test]
fn a_full_pool_frees_the_leases_of_another_boot() {
    let lab = Lab::new();
    let sets = small();
    for id in ["a", "b", "c", "d"] {
        add(&lab.leases(), &sets, id, &[]).unwrap();
    }
    let leases = lab.in_boot("boot-2");
    assert_eq!(add(&leases, &sets, "a", &[]).unwrap(), ["10.9.0.2"]);
    assert_eq!(add(&leases, &sets, "e", &[]).unwrap(), ["10.9.0.6"]);

    assert!(leases.free(&sets).unwrap());
    assert_eq!(add(&leases, &sets, "f", &[]).unwrap(), ["10.9.0.3"]);
    assert_eq!(lab.names(), ["10.9.0.2", "10.9.0.3", "10.9.0.6"]);
}

#[test]
fn a_dead_lease_is_freed_for_a_request_of_its_address() {
    let lab = Lab::new();
    add(&lab.leases(), &small(), "a", &[]).unwrap();

    assert_eq!(add(&lab.in_boot("boot-2"), &small(), "b", &["10.9.0.2"]).unwrap(), ["10.9.0.2"]);
    assert_eq!(lab.files()[0].1, "b\r\neth0");
}

#[test]
fn a_reboot_frees_no_foreign_lease() {
    let lab = Lab::new();
    let sets = sets(r#"[[{"subnet":"10.9.0.0/30"}]]"#);
    add(&lab.leases(), &sets, "a", &[]).unwrap();
    // The reference gave the address to another container after rnet's was gone.
    lab.leases().release(&eth0("a")).unwrap();
    lab.write("10.9.0.2", "a\r\neth0");
    lab.leases().list().unwrap();
    let leases = lab.in_boot("boot-2");

    assert!(add(&leases, &sets, "b", &[]).unwrap_err().contains("no IP addresses available"));
    assert!(add(&leases, &sets, "b", &["10.9.0.2"]).unwrap_err().contains("is not available"));
    assert_eq!(leases.gc(None, &|_, _| false).unwrap(), NOTHING);
    assert_eq!(leases.held(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
}

#[test]
fn a_lease_whose_file_was_rewritten_is_no_longer_ours() {
    let lab = Lab::new();
    add(&lab.leases(), &small(), "a", &[]).unwrap();
    std::fs::remove_file(lab.net().join("10.9.0.2")).unwrap();
    lab.write("10.9.0.2", "a\r\neth0");

    let leases = lab.in_boot("boot-2");

    assert_eq!(leases.list().unwrap()[0].origin, Origin::Foreign);
    assert!(add(&leases, &small(), "a", &[]).unwrap_err().contains("duplicate allocation"));
}

#[test]
fn gc_keeps_valid_leases_and_frees_all_others() {
    let lab = Lab::new();
    let (leases, sets) = (lab.leases(), small());
    for id in ["a", "b", "c"] {
        add(&leases, &sets, id, &[]).unwrap();
    }
    lab.write("10.9.0.5", "foreign\r\neth0");
    lab.write("10.9.0.6", "");
    lab.write("10.9.0.200", "old");
    lab.write("10.9.0.201", "a");

    let freed = leases.gc(Some(&[owner_pair("a", "eth0"), owner_pair("b", "eth1")]), ALL_ALIVE).unwrap();

    assert_eq!(freed, ips(&["10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6", "10.9.0.200"]));
    assert_eq!(lab.names(), ["10.9.0.2", "10.9.0.201"]);
    assert_eq!(leases.held(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
    assert_eq!(add_by(&leases, &sets, "d", &[], Choice::Lowest).unwrap(), ["10.9.0.3"]);
}

#[test]
fn gc_without_a_list_frees_only_the_provably_dead() {
    let lab = Lab::new();
    let sets = small();
    add(&lab.in_boot("boot-0"), &sets, "earlier", &[]).unwrap();
    let leases = lab.leases();
    for (id, netns) in [("dead", Some((4, 1))), ("alive", Some((4, 2))), ("unknown", None)] {
        leases.lease(&sets, &eth0(id), netns, &[], Choice::RoundRobin).unwrap();
    }
    lab.write("10.9.0.100", "foreign\r\neth0");

    let freed = leases.gc(None, &|device, inode| (device, inode) == (4, 2)).unwrap();

    assert_eq!(freed, ips(&["10.9.0.2", "10.9.0.3"]));
    let left: Vec<_> = leases.list().unwrap().into_iter().map(|lease| lease.id).collect();
    assert_eq!(left, ["alive", "unknown", "foreign"]);
}

#[test]
fn a_vast_ipv6_range_costs_only_as_much_as_its_taken_addresses() {
    let lab = Lab::new();
    let leases = lab.leases();
    let sets = sets(r#"[[{"subnet":"fd00::/16"}]]"#);

    for n in 0..60 {
        let far = format!("fd00:{n}:{n}::ffff:ffff:ffff");
        assert_eq!(add(&leases, &sets, &format!("far{n}"), &[&far]).unwrap(), [ip(&far).to_string()]);
    }
    add(&leases, &sets, "near", &["fd00::2"]).unwrap();

    assert_eq!(add(&leases, &sets, "next", &[]).unwrap(), ["fd00::3"]);
    let index = std::fs::read_dir(lab.shelf()).unwrap().next().unwrap().unwrap();
    assert!(index.metadata().unwrap().len() < 256 * 1024);
}

#[test]
fn looking_for_a_directory_does_not_make_it() {
    let lab = Lab::new();

    assert!(Leases::find(&lab.net(), &lab.shelf(), BOOT).unwrap().is_none());
    assert!(!lab.net().exists());
    add(&lab.leases(), &small(), "a", &[]).unwrap();

    let found = Leases::find(&lab.net(), &lab.shelf(), BOOT).unwrap().unwrap();
    assert_eq!(found.held(&eth0("a")).unwrap(), ips(&["10.9.0.2"]));
}

#[test]
fn two_paths_to_one_directory_share_its_index() {
    let lab = Lab::new();
    add(&lab.leases(), &small(), "a", &[]).unwrap();
    std::os::unix::fs::symlink(lab.folder.path().join("networks"), lab.folder.path().join("link")).unwrap();

    let other = Leases::open(&lab.folder.path().join("link/net"), &lab.shelf(), "boot-2").unwrap();

    assert_eq!(other.list().unwrap()[0].origin, Origin::Dead);
    assert_eq!(std::fs::read_dir(lab.shelf()).unwrap().count(), 1);
}
