//! Another version of rnet, whose constant ruleset is another: what counts is what *this* program would write.
//!
//! The other version is this binary with `RNET_RULESET_WITHOUT`, which leaves a chain out of its ruleset.

use std::time::Duration;

use netns_fixtures::http_get;

use crate::common::{Guest, Host, LONG, Network, Outcome, SOON};
use crate::judge;

const SUBNET: &str = "10.7.0.0/24";

/// By this chain the host itself reaches published ports.
const CHAIN: &str = "output";

#[test]
fn an_upgrade_brings_its_rules_with_the_next_add() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", SUBNET);
    judge::know_the_way(&host, &[SUBNET]);
    let (old, new) =
        (host.guest(&network, "old").publishing(8080), host.guest(&network, "new").publishing(8081));
    add_by_another_version(&old);
    assert!(!reaches_within(&host, &old, SOON), "the chain is there already");
    let (_, said) = check(&old).refusal();
    assert!(said.contains("another version of rnet wrote the ruleset"), "{said}");

    new.add().unwrap();

    assert!(host_reaches(&host, &old) && host_reaches(&host, &new));
    assert_eq!(check(&old).status, 0, "{:?}", check(&old));
    assert_eq!(judge::isolated(&host, &old, &[]), Vec::<String>::new());
    assert_eq!(judge::isolated(&host, &new, &[]), Vec::<String>::new());
}

#[test]
fn a_downgrade_takes_them_away_again_and_harms_nobody() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", SUBNET);
    judge::know_the_way(&host, &[SUBNET]);
    let (old, new) =
        (host.guest(&network, "old").publishing(8080), host.guest(&network, "new").publishing(8081));
    let before = host.state(&[&old, &new]);
    old.add().unwrap();
    assert!(host_reaches(&host, &old));

    add_by_another_version(&new);

    assert!(!reaches_within(&host, &old, SOON), "its chain is not that version's");
    assert_eq!(judge::isolated(&host, &old, &[]), Vec::<String>::new());
    assert_eq!(judge::isolated(&host, &new, &[]), Vec::<String>::new());
    old.del().unwrap();
    new.del().unwrap();
    before.assert_same(&host.state(&[&old, &new]));
}

/// The note of a version that knew of no identity.
#[test]
fn what_an_earlier_version_noted_is_no_reason_to_trust_its_rules() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", SUBNET);
    let (old, new) =
        (host.guest(&network, "old").publishing(8080), host.guest(&network, "new").publishing(8081));
    add_by_another_version(&old);
    let note = host.store().note("ruleset").unwrap().unwrap();
    let earlier = note.split_once(' ').unwrap().1;
    host.store().write_note("ruleset", earlier).unwrap();

    new.add().unwrap();

    assert!(host_reaches(&host, &old) && host_reaches(&host, &new));
}

#[test]
fn a_container_without_elements_of_its_own_is_looked_after_too() {
    let mut network = Network::rnet("mynet", SUBNET);
    network.list["plugins"][0]["ipMasq"] = false.into();
    network.list["plugins"][0]["spoofGuard"] = false.into();
    let host = Host::with_outside();
    judge::know_the_way(&host, &[SUBNET]);
    let (old, new) = (host.guest(&network, "old"), host.guest(&network, "new"));
    old.add().unwrap();
    host.firewall(|firewall| firewall.drop_tables().unwrap());

    new.add().unwrap();

    assert_eq!(judge::open(&host, &old, &[]), Vec::<String>::new());
    assert_eq!(judge::open(&host, &new, &[]), Vec::<String>::new());
}

fn add_by_another_version(guest: &Guest<'_>) {
    let outcome = guest.call("ADD", "rnet", None, None).set("RNET_RULESET_WITHOUT", CHAIN).run();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    guest.remember(Some(outcome.json()));
}

fn check(guest: &Guest<'_>) -> Outcome {
    guest.call("CHECK", "rnet", guest.remembered().as_ref(), None).run()
}

/// Whether a client on the host reaches the published port by one of the host's addresses.
fn host_reaches(host: &Host, guest: &Guest<'_>) -> bool {
    reaches_within(host, guest, LONG)
}

fn reaches_within(host: &Host, guest: &Guest<'_>, patience: Duration) -> bool {
    let address = ([0, 0, 0, 0], 80).into();
    let _page = netns_fixtures::HttpServer::start(guest.container.netns(), address, &guest.who.id).unwrap();
    let url = format!("http://127.0.0.1:{}", guest.ports[0]["hostPort"]);
    let page = http_get(host.netns(), &url, patience);
    page.is_ok_and(|page| page.body == guest.who.id)
}
