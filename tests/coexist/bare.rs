//! Policies and rules that an administrator sets by hand.

use anyhow::ensure;

use crate::Test;
use crate::common::Host;

pub const TESTS: &[Test] = &[
    ("bare::dropping_policies_before_the_first_container", policies_before),
    ("bare::dropping_policies_after_the_first_container", policies_after),
    ("bare::a_last_rule_that_rejects", last_rule),
    ("bare::rules_that_were_flushed_come_back", flushed),
    ("bare::a_bridge_of_any_name", any_name),
    ("bare::what_was_made_goes_with_the_last_network", nothing_left),
    ("bare::disabled_nothing_is_written", disabled),
    ("bare::a_network_can_be_left_alone", left_alone),
];

/// Whatever the chains are, nothing is typed.
fn close(host: &Host) -> anyhow::Result<()> {
    for program in ["iptables", "ip6tables"] {
        host.execute(&format!("{program} -P FORWARD DROP"))?;
        host.execute(&format!("{program} -P INPUT DROP"))?;
        host.execute(&format!("{program} -A INPUT -i out0 -j ACCEPT"))?;
    }
    Ok(())
}

fn policies_before(host: &Host) -> anyhow::Result<()> {
    close(host)?;
    let before = host.network_snapshot()?;
    let guests = host.guests()?;
    host.works(&guests)?;
    host.is_closed(&guests)?;
    host.clear()?;
    host.ensure_nothing_left(&before)
}

fn policies_after(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    host.works(&guests)?;
    close(host)?;
    host.comes_to_work(&guests)?;
    host.iptables_reads_rnets_rules()?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    host.ensure_no_rules_left()
}

/// As iptables-services of RHEL has it.
fn last_rule(host: &Host) -> anyhow::Result<()> {
    for program in ["iptables", "ip6tables"] {
        host.execute(&format!("{program} -A FORWARD -j REJECT"))?;
        host.execute(&format!("{program} -A INPUT -i out0 -j ACCEPT"))?;
        host.execute(&format!("{program} -A INPUT -j DROP"))?;
    }
    let before = host.network_snapshot()?;
    let guests = host.guests()?;
    host.works(&guests)?;
    // What is forbidden in front of our rules stays forbidden.
    host.execute("iptables -I FORWARD -i out0 -p tcp --dport 80 -j DROP")?;
    ensure!(host.works(&guests).is_err(), "the administrator's own rule does not count");
    host.execute("iptables -D FORWARD 1")?;
    host.clear()?;
    host.ensure_nothing_left(&before)
}

fn flushed(host: &Host) -> anyhow::Result<()> {
    close(host)?;
    let guests = host.guests()?;
    host.execute("iptables -F FORWARD")?;
    host.comes_to_work(&guests)?;
    host.execute("nft flush ruleset")?;
    close(host)?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    host.ensure_no_rules_left()
}

/// The built-in network's is called rnet0.
fn any_name(host: &Host) -> anyhow::Result<()> {
    close(host)?;
    let before = host.network_snapshot()?;
    let guests = host.guests()?;
    host.execute("rnet run -d --name other sleep 1000")?;
    let listed = host.execute("iptables -S")?;
    ensure!(listed.contains("-A FORWARD -o rnet0 -m comment"), "{listed}");
    ensure!(listed.contains("-A INPUT -i rnet0 -p udp"), "{listed}");
    host.works(&guests)?;
    host.execute("rnet rm -f other")?;
    let listed = host.execute("iptables -S")?;
    ensure!(!listed.contains("rnet0") && listed.contains("rnet-+"), "{listed}");
    host.clear()?;
    host.ensure_nothing_left(&before)
}

fn nothing_left(host: &Host) -> anyhow::Result<()> {
    let before = host.network_snapshot()?;
    for _ in 0..2 {
        let guests =
            if host.execute("rnet ls -q")?.is_empty() { host.guests()? } else { host.guests_of("mynet")? };
        host.works(&guests)?;
        host.clear()?;
        host.ensure_nothing_left(&before)?;
    }
    // A foreign rule in a chain that rnet made keeps the chain.
    let guests = host.guests().or_else(|_| host.guests_of("mynet"))?;
    host.execute("iptables -I FORWARD -s 192.0.2.1 -j DROP")?;
    host.works(&guests)?;
    host.clear()?;
    let listed = host.execute("iptables -S FORWARD")?;
    ensure!(listed.trim() == "-P FORWARD ACCEPT\n-A FORWARD -s 192.0.2.1/32 -j DROP", "{listed}");
    Ok(())
}

fn disabled(host: &Host) -> anyhow::Result<()> {
    host.execute("rnet interop disable")?;
    let guests = host.guests()?;
    host.works(&guests)?;
    ensure!(!host.execute("nft list ruleset")?.contains("rnet-interop"), "rules although disabled");
    close(host)?;
    ensure!(host.works(&guests).is_err(), "another program's rules are there");
    host.execute("rnet interop enable")?;
    host.works(&guests)?;
    host.execute("rnet interop disable")?;
    ensure!(host.works(&guests).is_err(), "the rules stay");
    host.clear()
}

/// By a key of its definition.
fn left_alone(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    host.execute("rnet create other --subnet 10.98.0.0/24")?;
    let file = host.root().join("etc/cni/net.d/rnet-other.conflist");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("\"type\": \"rnet\",", "\"type\": \"rnet\", \"interop\": false,"))?;
    host.execute("rnet run -d --name alone --net other sleep 1000")?;
    let listed = host.execute("iptables -S FORWARD")?;
    ensure!(listed.contains("-o rnet-mynet") && !listed.contains("rnet-+"), "{listed}");
    ensure!(!listed.contains("rnet-other"), "{listed}");
    host.works(&guests)?;
    host.execute("rnet rm -f alone")?;
    ensure!(host.execute("iptables -S FORWARD")?.contains("-o rnet-+"), "the wildcard is not back");
    host.clear()?;
    host.ensure_no_rules_left()
}
