//! Leases that another program rewrote in place, which changes no time stamp of the directory: the file decides.

use super::*;

/// A directory with `count` leases of c0, c1, …, seen by an operation since.
fn full(count: usize) -> (Lab, Vec<RangeSet>) {
    let (lab, sets) = (Lab::new(), sets(r#"[[{"subnet":"10.9.0.0/16"}]]"#));
    for n in 0..count {
        add(&lab.leases(), &sets, &format!("c{n}"), &[]).unwrap();
    }
    (lab, sets)
}

#[test]
fn a_release_frees_what_the_file_says() {
    let (lab, _) = full(20);
    lab.write("10.9.0.9", "new\r\neth0");

    assert_eq!(lab.leases().release(&eth0("c7")).unwrap(), NOTHING);
    assert_eq!(lab.leases().held(&eth0("new")).unwrap(), ips(&["10.9.0.9"]));
    assert_eq!(lab.leases().release(&eth0("new")).unwrap(), ips(&["10.9.0.9"]));
}

#[test]
fn an_address_is_given_as_soon_as_its_file_is_empty() {
    let (lab, sets) = full(20);
    lab.write("10.9.0.9", "");
    assert_eq!(add_by(&lab.leases(), &sets, "new", &[], Choice::Lowest).unwrap(), ["10.9.0.9"]);
}

#[test]
fn an_empty_file_that_gets_an_owner_is_a_lease() {
    let (lab, sets) = full(3);
    lab.write("10.9.0.9", "");
    add(&lab.leases(), &sets, "other", &[]).unwrap();
    lab.write("10.9.0.9", "new\r\neth0");
    assert!(
        add(&lab.leases(), &sets, "new", &[]).unwrap_err().contains("10.9.0.9 has been allocated to new")
    );
    assert_eq!(lab.leases().release(&eth0("new")).unwrap(), ips(&["10.9.0.9"]));
}

/// With more leases than an operation compares, the address that the caller expects leads to the file.
#[test]
fn the_file_of_an_expected_address_is_read_however_many_leases_there_are() {
    let (lab, _) = full(1500);
    lab.write("10.9.2.9", "new\r\neth0");

    let expecting = || lab.leases().expecting(ips(&["10.9.2.9", "10.9.2.8"]));
    assert_eq!(expecting().held(&eth0("new")).unwrap(), ips(&["10.9.2.9"]));
    lab.write("10.9.2.10", "newer\r\neth0");
    let expecting = lab.leases().expecting(ips(&["10.9.2.10"]));
    assert_eq!(expecting.release(&eth0("newer")).unwrap(), ips(&["10.9.2.10"]));
}

#[test]
fn a_full_range_is_compared_completely_before_it_is_reported_full() {
    let lab = Lab::new();
    let sets = sets(r#"[[{"subnet":"10.9.0.0/25"}]]"#);
    for n in 0..125 {
        add(&lab.leases(), &sets, &format!("c{n}"), &[]).unwrap();
    }
    assert!(!lab.leases().free(&sets).unwrap());
    lab.write("10.9.0.77", "");
    assert!(lab.leases().free(&sets).unwrap());
    assert_eq!(add(&lab.leases(), &sets, "new", &[]).unwrap(), ["10.9.0.77"]);
}

#[test]
fn a_file_that_changed_and_says_the_same_costs_no_new_index() {
    let (lab, sets) = full(10);
    lab.write("10.9.0.9", "c7\r\neth0");
    assert_eq!(lab.leases().held(&eth0("c7")).unwrap(), ips(&["10.9.0.9"]));
    add(&lab.leases(), &sets, "new", &[]).unwrap();
    assert_eq!(lab.leases().release(&eth0("c7")).unwrap(), ips(&["10.9.0.9"]));
}

/// With more leases than an operation compares, the one file in question decides: that of the container's own address, or
/// that of the address to be given.
#[test]
fn the_file_in_question_is_read_however_many_leases_there_are() {
    let (lab, sets) = full(1500);
    let holds = |address: &str| std::fs::read_to_string(lab.net().join(address)).unwrap();
    for (n, by) in [(7, "new"), (700, "c701"), (1400, "")] {
        let address = format!("10.9.{}.{}", (n + 2) / 256, (n + 2) % 256);
        let content = if by.is_empty() { String::new() } else { format!("{by}\r\neth0") };
        lab.write(&address, &content);

        let freed = lab.leases().release(&eth0(&format!("c{n}"))).unwrap();

        assert_eq!((freed, holds(&address)), (NOTHING.to_vec(), content), "{address} is another's by now");
    }
    // A requested address whose file names an owner is refused, whatever the index says.
    lab.write("10.9.2.9", "newest\r\neth0");
    let refused = add(&lab.leases(), &sets, "x", &["10.9.2.9"]).unwrap_err();
    assert!(refused.contains("10.9.2.9 is not available"), "{refused}");
    // The owner of a rewritten file is found, although only the file names it.
    assert_eq!(lab.leases().release(&eth0("newest")).unwrap(), ips(&["10.9.2.9"]));
    lab.write("10.9.2.8", "other\r\neth0");
    let given = add_by(&lab.leases(), &sets, "y", &[], Choice::Lowest).unwrap();
    assert_eq!((given, holds("10.9.2.8")), (vec!["10.9.2.9".to_owned()], "other\r\neth0".into()));
}
