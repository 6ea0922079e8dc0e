//! rnet's rules in iptables' chains: written, read back, and their place.

use netlink_packet_netfilter::nftables::{NfTablesMessageType, RuleAttribute};

use super::read::is_end_of_ufw;
use super::*;
use crate::encode::{Requests, replies, text_comment};

fn passage() -> Passage {
    let bridges = vec![Links::beginning("rnet-"), Links::named("br1").unwrap()];
    Passage { bridges, ports: vec![53], uplinks: vec![] }
}

fn own(handle: u64, rule: &Rule) -> FoundRule {
    FoundRule {
        handle,
        is_own: true,
        rule: Some(rule.clone()),
        input: rule.input.clone(),
        ..FoundRule::default()
    }
}

fn end(handle: u64) -> FoundRule {
    FoundRule { handle, ends: true, ..FoundRule::default() }
}

#[test]
fn rules_are_read_back_as_they_were_written() {
    let passage = passage();
    let docker = Passage::docker(&[]);
    let mut rules = passage.forward(&docker);
    rules.extend(passage.input(Family::Ip6));
    for rule in rules {
        let mut requests = Requests::new(0);
        requests.filter_rule(NfTablesMessageType::NewRule, 0, Family::Ip6, Chain::Input, |message| {
            message.put(&RuleAttribute::Handle(7));
            message.nest(&RuleAttribute::Expressions(vec![]), |list| list.interop_rule(&rule));
            message.put(&RuleAttribute::UserData(text_comment(COMMENT)));
        });
        let found = replies(requests.bytes()).next().unwrap().unwrap().interop_rule().unwrap();
        assert_eq!(found, own(7, &rule));
    }
}

#[test]
fn the_rules_of_forward_leave_what_goes_to_docker_to_docker() {
    let own_name = FoundRule { input: Links::named("mydocker"), ..FoundRule::default() };
    let usual = FoundRule { input: Links::named("br-0123"), ..FoundRule::default() };
    let docker = Passage::docker(&[own_name, usual]);
    let passage = Passage { bridges: vec![Links::beginning("rnet-")], ..Passage::default() };

    let text = |links: &Option<Links>| links.as_ref().map(Links::to_string).unwrap_or_default();
    let rules = passage.forward(&docker);
    let rules: Vec<_> = rules.iter().map(|r| (text(&r.input), text(&r.output), r.returns)).collect();

    let expected = [
        ("", "rnet-+", false),
        ("rnet-+", "docker0", true),
        ("rnet-+", "br-+", true),
        ("rnet-+", "mydocker", true),
        ("rnet-+", "", false),
    ];
    assert_eq!(rules, expected.map(|(input, output, returns)| (input.into(), output.into(), returns)));
}

#[test]
fn rules_stay_last_and_before_the_one_that_drops_the_rest() {
    let rules = passage().forward(&[]);
    let own: Vec<FoundRule> = (10..).zip(&rules).map(|(handle, rule)| own(handle, rule)).collect();
    let other = FoundRule { handle: 3, ..FoundRule::default() };
    let chain = |rules: Vec<FoundRule>| FoundChain { drops: false, rules };
    let handles: Vec<u64> = own.iter().map(|found| found.handle).collect();
    let moved =
        |before| Some(Change { create: false, delete: handles.clone(), rules: rules.clone(), before });

    let last = [vec![other.clone()], own.clone()].concat();
    assert_eq!(chain(last.clone()).change(rules.clone()), None);
    assert_eq!(chain([last.clone(), vec![end(9)]].concat()).change(rules.clone()), None);
    let first = [own.clone(), vec![other.clone()]].concat();
    assert_eq!(chain(first).change(rules.clone()), moved(None), "another program appended a rule");
    let behind = [vec![end(9)], own.clone()].concat();
    assert_eq!(chain(behind).change(rules.clone()), moved(Some(9)), "no packet comes this far");
    let new = Change { create: false, delete: vec![], rules: rules.clone(), before: Some(9) };
    assert_eq!(chain(vec![other, end(9)]).change(rules.clone()), Some(new));
}

#[test]
fn a_made_chain_or_table_is_one_line_of_text_and_back() {
    let forward = Made { family: Family::Ip, chain: Some(Chain::Forward) };
    assert_eq!(
        (forward.to_string().as_str(), "ip filter FORWARD".parse()),
        ("ip filter FORWARD", Ok(forward))
    );
    assert_eq!("ip6 filter".parse(), Ok(Made { family: Family::Ip6, chain: None }));
    assert_eq!("ip nat".parse::<Made>(), Err(()));
}

#[test]
fn ufw_is_known_by_the_ends_of_its_rules() {
    for chain in ["ufw-reject-forward", "ufw6-reject-input", "ufw-after-logging-input"] {
        assert!(is_end_of_ufw(chain), "{chain}");
    }
    assert!(!is_end_of_ufw("ufw-before-forward") && !is_end_of_ufw("DOCKER-USER"));
}

#[test]
fn a_name_is_exact_or_a_beginning() {
    assert!(Links::beginning("rnet-").covers("rnet-mynet") && !Links::beginning("rnet-").covers("rnet0"));
    assert!(
        Links::named("rnet0").unwrap().covers("rnet0") && !Links::named("rnet0").unwrap().covers("rnet01")
    );
    let like_docker = |name| Links::like_docker(name).map(|links| links.to_string());
    assert_eq!(
        (like_docker("br-lan"), like_docker("br-0123456789ab"), like_docker("eth0")),
        (Some("br-lan".into()), None, None)
    );
    assert_eq!((Links::named("a+"), Links::named(""), Links::named("a b")), (None, None, None));
}
