//! No room left, and no right to write.

use crate::common::{Disk, Guest, Host, Network};

/// CNI: input or output failed.
const IO_FAILURE: u64 = 5;

#[test]
fn an_rnet_add_that_finds_no_room_fails_clean_and_del_needs_none() {
    run_out_of_room(&Network::rnet("mynet", "10.7.0.0/24"));
}

#[test]
fn an_add_of_the_chain_that_finds_no_room_fails_clean_and_del_needs_none() {
    run_out_of_room(&Network::chain("mynet", "10.7.0.0/24"));
}

#[test]
fn a_del_on_a_read_only_disk_takes_the_kernels_part_away_and_says_what_is_left() {
    let host = Host::with_outside();
    let disk = Disk::mount(host.root().join("run"));
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = host.guest(&network, "web").publishing(8080);
    let before = host.state(&[&web]);
    web.add().unwrap();
    let key = host.store().records().unwrap()[0].key().to_string();

    disk.read_only(true);
    let (code, sentence) = web.del().unwrap_err().refusal();

    assert!(code == IO_FAILURE && sentence.contains("Read-only file system"), "{code} {sentence}");
    assert!(web.addresses().is_empty());
    let owner = nft::Owner::new(&key);
    assert!(host.elements().iter().all(|(_, found)| *found != owner));
    disk.read_only(false);
    web.del().unwrap();
    before.assert_same(&host.state(&[&web]));
}

fn run_out_of_room(network: &Network) {
    let host = Host::with_outside();
    let root = host.root().to_path_buf();
    let disks = [Disk::mount(root.join("run")), Disk::mount(root.join("var"))];
    let guests: Vec<Guest<'_>> =
        (0..20).map(|n| host.guest(network, &format!("c{n}")).publishing(8000 + n)).collect();
    let everybody: Vec<&Guest<'_>> = guests.iter().collect();
    // A chain's bridge stays once it is made, as upstream's does.
    guests[0].add().unwrap();
    guests[0].del().unwrap();
    let empty = host.state(&everybody);

    let (last, code) = add_until_one_fails(&host, &everybody);

    assert_eq!(code, IO_FAILURE);
    host.assert_balanced(&everybody[..last]);
    assert!(guests[..last].iter().all(Guest::works));
    disks.iter().for_each(Disk::fill);
    guests.iter().for_each(|guest| guest.del().unwrap());
    disks.iter().for_each(Disk::tidy);
    empty.assert_same(&host.state(&everybody));
}

/// How many fit, and the code of the one that did not, of which nothing may be left.
fn add_until_one_fails(host: &Host, guests: &[&Guest<'_>]) -> (usize, u64) {
    for (nth, guest) in guests.iter().enumerate() {
        let before = host.state(guests);
        if let Err(outcome) = guest.add() {
            // The plugins of the chain that did not fail are the runtime's to undo.
            guest.del().unwrap();
            before.assert_same(&host.state(guests));
            return (nth, outcome.refusal().0);
        }
    }
    panic!("80 KiB were enough for {} containers", guests.len());
}
