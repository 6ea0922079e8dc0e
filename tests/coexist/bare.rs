//! Policies and rules that an administrator sets by hand.

use anyhow::ensure;

use crate::Test;
use crate::site::Site;

pub const TESTS: &[Test] = &[
    ("bare::dropping_policies_before_the_first_container", policies_before),
    ("bare::dropping_policies_after_the_first_container", policies_after),
    ("bare::a_last_rule_that_rejects", last_rule),
    ("bare::rules_that_somebody_flushed_come_back", flushed),
    ("bare::a_bridge_of_any_name", any_name),
    ("bare::what_was_made_goes_with_the_last_network", nothing_left),
    ("bare::disabled_nothing_is_written", disabled),
    ("bare::a_network_can_be_left_alone", left_alone),
];

/// Whatever the chains are, nothing is typed.
fn close(site: &Site) -> anyhow::Result<()> {
    for program in ["iptables", "ip6tables"] {
        site.run(&format!("{program} -P FORWARD DROP"))?;
        site.run(&format!("{program} -P INPUT DROP"))?;
        site.run(&format!("{program} -A INPUT -i out0 -j ACCEPT"))?;
    }
    Ok(())
}

fn policies_before() -> anyhow::Result<()> {
    let site = Site::new()?;
    close(&site)?;
    let before = site.snapshot()?;
    let guests = site.guests()?;
    site.works(&guests)?;
    site.is_closed(&guests)?;
    site.clear()?;
    site.ensure_nothing_left(&before)
}

fn policies_after() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    site.works(&guests)?;
    close(&site)?;
    site.comes_to_work(&guests)?;
    site.iptables_reads_us()?;
    site.comes_to_work(&guests)?;
    site.clear()?;
    site.ensure_no_rules_left()
}

/// As iptables-services of RHEL has it.
fn last_rule() -> anyhow::Result<()> {
    let site = Site::new()?;
    for program in ["iptables", "ip6tables"] {
        site.run(&format!("{program} -A FORWARD -j REJECT"))?;
        site.run(&format!("{program} -A INPUT -i out0 -j ACCEPT"))?;
        site.run(&format!("{program} -A INPUT -j DROP"))?;
    }
    let before = site.snapshot()?;
    let guests = site.guests()?;
    site.works(&guests)?;
    // What is forbidden in front of our rules stays forbidden.
    site.run("iptables -I FORWARD -i out0 -p tcp --dport 80 -j DROP")?;
    ensure!(site.works(&guests).is_err(), "the administrator's own rule does not count");
    site.run("iptables -D FORWARD 1")?;
    site.clear()?;
    site.ensure_nothing_left(&before)
}

fn flushed() -> anyhow::Result<()> {
    let site = Site::new()?;
    close(&site)?;
    let guests = site.guests()?;
    site.run("iptables -F FORWARD")?;
    site.comes_to_work(&guests)?;
    site.run("nft flush ruleset")?;
    close(&site)?;
    site.comes_to_work(&guests)?;
    site.clear()?;
    site.ensure_no_rules_left()
}

/// The built-in network's is called rnet0.
fn any_name() -> anyhow::Result<()> {
    let site = Site::new()?;
    close(&site)?;
    let before = site.snapshot()?;
    let guests = site.guests()?;
    site.run("rnet run -d --name other sleep 1000")?;
    let listed = site.run("iptables -S")?;
    ensure!(listed.contains("-A FORWARD -o rnet0 -m comment"), "{listed}");
    ensure!(listed.contains("-A INPUT -i rnet0 -p udp"), "{listed}");
    site.works(&guests)?;
    site.run("rnet rm -f other")?;
    let listed = site.run("iptables -S")?;
    ensure!(!listed.contains("rnet0") && listed.contains("rnet-+"), "{listed}");
    site.clear()?;
    site.ensure_nothing_left(&before)
}

fn nothing_left() -> anyhow::Result<()> {
    let site = Site::new()?;
    let before = site.snapshot()?;
    for _ in 0..2 {
        let guests =
            if site.run("rnet ls -q")?.is_empty() { site.guests()? } else { site.guests_of("mynet")? };
        site.works(&guests)?;
        site.clear()?;
        site.ensure_nothing_left(&before)?;
    }
    // What somebody put into a chain that we made keeps it.
    let guests = site.guests().or_else(|_| site.guests_of("mynet"))?;
    site.run("iptables -I FORWARD -s 192.0.2.1 -j DROP")?;
    site.works(&guests)?;
    site.clear()?;
    let listed = site.run("iptables -S FORWARD")?;
    ensure!(listed.trim() == "-P FORWARD ACCEPT\n-A FORWARD -s 192.0.2.1/32 -j DROP", "{listed}");
    Ok(())
}

fn disabled() -> anyhow::Result<()> {
    let site = Site::new()?;
    site.run("rnet interop disable")?;
    let guests = site.guests()?;
    site.works(&guests)?;
    ensure!(!site.run("nft list ruleset")?.contains("rnet-interop"), "rules although disabled");
    close(&site)?;
    ensure!(site.works(&guests).is_err(), "another program's rules are there");
    site.run("rnet interop enable")?;
    site.works(&guests)?;
    site.run("rnet interop disable")?;
    ensure!(site.works(&guests).is_err(), "the rules stay");
    site.clear()
}

/// By a key of its definition.
fn left_alone() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    site.run("rnet create other --subnet 10.98.0.0/24")?;
    let file = site.host.root().join("etc/cni/net.d/rnet-other.conflist");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("\"type\": \"rnet\",", "\"type\": \"rnet\", \"interop\": false,"))?;
    site.run("rnet run -d --name alone --net other sleep 1000")?;
    let listed = site.run("iptables -S FORWARD")?;
    ensure!(listed.contains("-o rnet-mynet") && !listed.contains("rnet-+"), "{listed}");
    ensure!(!listed.contains("rnet-other"), "{listed}");
    site.works(&guests)?;
    site.run("rnet rm -f alone")?;
    ensure!(site.run("iptables -S FORWARD")?.contains("-o rnet-+"), "the wildcard is not back");
    site.clear()?;
    site.ensure_no_rules_left()
}
