//! No room left, and no right to write.

use crate::common::Disk;
use crate::site::{Member, Network, Site};

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
    let site = Site::new();
    let disk = Disk::mount(site.lab.host.root().join("run"));
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = site.member(&network, "web").publishing(8080);
    let before = site.state(&[&web]);
    web.add().unwrap();
    let key = site.store().records().unwrap()[0].key().to_string();

    disk.read_only(true);
    let (code, sentence) = web.del().unwrap_err().refusal();

    assert!(code == IO_FAILURE && sentence.contains("Read-only file system"), "{code} {sentence}");
    assert!(web.addresses().is_empty());
    let owner = nft::Owner::new(&key);
    assert!(site.lab.elements().iter().all(|(_, found)| *found != owner));
    disk.read_only(false);
    web.del().unwrap();
    before.assert_same(&site.state(&[&web]));
}

fn run_out_of_room(network: &Network) {
    let site = Site::new();
    let root = site.lab.host.root().to_path_buf();
    let disks = [Disk::mount(root.join("run")), Disk::mount(root.join("var"))];
    let members: Vec<Member<'_>> =
        (0..20).map(|n| site.member(network, &format!("c{n}")).publishing(8000 + n)).collect();
    let everybody: Vec<&Member<'_>> = members.iter().collect();
    // A chain's bridge stays once it is made, as upstream's does.
    members[0].add().unwrap();
    members[0].del().unwrap();
    let empty = site.state(&everybody);

    let (last, code) = add_until_one_fails(&site, &everybody);

    assert_eq!(code, IO_FAILURE);
    site.assert_balanced(&everybody[..last]);
    assert!(members[..last].iter().all(Member::works));
    disks.iter().for_each(Disk::fill);
    members.iter().for_each(|member| member.del().unwrap());
    disks.iter().for_each(Disk::tidy);
    empty.assert_same(&site.state(&everybody));
}

/// How many fit, and the code of the one that did not, of which nothing may be left.
fn add_until_one_fails(site: &Site, members: &[&Member<'_>]) -> (usize, u64) {
    for (nth, member) in members.iter().enumerate() {
        let before = site.state(members);
        if let Err(outcome) = member.add() {
            // The plugins of the chain that did not fail are the runtime's to undo.
            member.del().unwrap();
            before.assert_same(&site.state(members));
            return (nth, outcome.refusal().0);
        }
    }
    panic!("80 KiB were enough for {} containers", members.len());
}
