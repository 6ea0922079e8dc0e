//! Leases that were lost while their addresses are in use.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::InUse;

/// The lab's leases with a witness that sees these addresses in use, and how often it was called.
fn seeing(lab: &Lab, addresses: &'static [&'static str]) -> (Leases, Rc<Cell<usize>>) {
    let asked = Rc::new(Cell::new(0));
    let counter = asked.clone();
    let leases = lab.leases().seeing(move || {
        counter.set(counter.get() + 1);
        let seen = |text: &&str| InUse { address: ip(text), by: "veth1".into() };
        Ok(addresses.iter().map(seen).collect())
    });
    (leases, asked)
}

#[test]
fn addresses_in_use_are_not_given_and_once_all_have_leases_the_witness_is_not_called() {
    let (lab, sets) = (Lab::new(), small());
    let seen: &[&str] = &["10.9.0.1", "10.9.0.2", "10.9.0.4", "10.9.0.6", "192.0.2.7"];

    let (leases, asked) = seeing(&lab, seen);
    assert_eq!(add_by(&leases, &sets, "a", &[], Choice::Lowest).unwrap(), ["10.9.0.3"]);
    let refused = leases.lease(&sets, &eth0("b"), None, &ips(&["10.9.0.4"]), Choice::Lowest).unwrap_err();
    assert!(matches!(refused, Error::Refused { refusal: Refusal::InUse { by, .. }, .. } if by == "veth1"));
    assert_eq!(add(&leases, &sets, "b", &[]).unwrap(), ["10.9.0.5"]);
    assert!(add(&leases, &sets, "c", &[]).unwrap_err().contains("no IP addresses available"));
    assert_eq!(asked.get(), 4);

    // All addresses in use have leases now.
    let (leases, asked) = seeing(&lab, &["10.9.0.1", "10.9.0.3", "10.9.0.5"]);
    assert_eq!(add(&leases, &sets, "c", &[]).unwrap(), ["10.9.0.6"]);
    assert_eq!(add(&leases, &sets, "d", &[]).unwrap(), ["10.9.0.2"]);
    assert_eq!(asked.get(), 1);
}

#[test]
fn the_doubt_survives_a_release_and_a_larger_index() {
    let (lab, sets) = (Lab::new(), sets(r#"[[{"subnet":"10.9.0.0/16"}]]"#));
    for n in 0..200 {
        let (leases, asked) = seeing(&lab, &["10.9.0.100"]);
        let given = add_by(&leases, &sets, &format!("c{n}"), &[], Choice::Lowest).unwrap();
        assert_ne!(given, ["10.9.0.100"]);
        assert_eq!(asked.get(), 1);
        if n % 10 == 0 {
            leases.release(&eth0(&format!("c{n}"))).unwrap();
        }
    }
}

#[test]
fn a_lease_file_that_is_lost_brings_the_doubt_back() {
    let (lab, sets) = (Lab::new(), small());
    let (leases, _) = seeing(&lab, &["10.9.0.2", "10.9.0.3"]);
    lab.leases();
    for (id, address) in [("a", "10.9.0.4"), ("b", "10.9.0.5")] {
        assert_eq!(add(&leases, &sets, id, &[]).unwrap(), [address]);
    }
    let (leases, asked) = seeing(&lab, &["10.9.0.4", "10.9.0.5"]);
    add(&leases, &sets, "c", &["10.9.0.2"]).unwrap();
    std::fs::remove_file(lab.net().join("10.9.0.4")).unwrap();

    assert_eq!(add_by(&leases, &sets, "d", &[], Choice::Lowest).unwrap(), ["10.9.0.3"]);
    assert_eq!(asked.get(), 2);
}

#[test]
fn a_witness_that_fails_stops_only_an_add() {
    let (lab, sets) = (Lab::new(), small());
    let blind = || lab.leases().seeing(|| Err(Error::Unseen { reason: "no socket".into() }));

    assert!(add(&blind(), &sets, "a", &[]).unwrap_err().contains("no socket"));

    assert!(blind().free(&sets).unwrap());
    assert_eq!(blind().release(&eth0("a")).unwrap(), NOTHING);
    assert_eq!(add(&lab.leases(), &sets, "a", &[]).unwrap(), ["10.9.0.2"]);
    assert_eq!(add(&blind(), &sets, "b", &[]).unwrap(), ["10.9.0.3"]);
}
