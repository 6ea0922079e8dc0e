//! What stops traffic although rnet writes into other firewalls is told, with the line to type, until that was typed.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::Test;
use crate::site::{Guests, Site};

pub const TESTS: &[Test] = &[
    ("told::a_table_of_the_users_that_drops_what_comes_in", own_input),
    ("told::a_table_of_the_users_that_drops_what_is_forwarded", own_forward),
    ("told::a_rule_in_front_of_rnets_own", rule_in_front),
    ("told::a_rule_before_the_way_is_chosen", raw),
    ("told::a_check_of_source_addresses", source_check),
    ("told::only_replies_to_a_published_port_are_not_asked_for", published_only),
    ("told::a_bridge_of_any_name", any_name),
    ("told::what_rnet_heals_is_not_told", healed),
    ("told::interop_that_is_off", disabled),
    ("told::the_users_own_rules_of_ufw", ufw),
    ("told::containers_of_one_bridge", across),
    ("told::nothing_is_left_of_a_probe", nothing_left),
    ("told::nothing_is_left_of_a_probe_that_was_killed", killed),
];

/// Everything that tells, one after another: each its own text, and what it says.
fn all_that_tell(site: &Site) -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("ls", site.said("rnet ls")?),
        ("run", site.said("rnet run -d --rm --net mynet sleep 1")?),
        ("interop status", site.said("rnet interop status")?),
        ("dns status", site.said("rnet dns status")?),
        ("STATUS", site.status("mynet")?),
    ])
}

/// All of them tell of a word; `dns status` only of names.
fn ensure_told(site: &Site, word: &str, about_names: bool) -> anyhow::Result<()> {
    for (who, said) in all_that_tell(site)? {
        let tells = who != "dns status" || about_names;
        ensure!(said.contains(word) == tells, "{who}: {said}");
    }
    Ok(())
}

fn ensure_silent(site: &Site) -> anyhow::Result<()> {
    for (who, said) in all_that_tell(site)? {
        ensure!(said.is_empty(), "{who}: {said}");
    }
    Ok(())
}

/// Types all hints until there are none any more; then all works.
fn type_hints(site: &Site) -> anyhow::Result<Vec<String>> {
    let mut typed = Vec::new();
    for _ in 0..4 {
        let hints = site.hints("rnet ls")?;
        for hint in &hints {
            site.shell(hint)?;
        }
        if hints.is_empty() {
            break;
        }
        typed.extend(hints);
    }
    Ok(typed)
}

/// Told, then typed, then silent, and all works.
fn heals(site: &Site, guests: &Guests, word: &str, about_names: bool) -> anyhow::Result<Vec<String>> {
    ensure!(site.works(guests).is_err(), "it works all the same");
    ensure_told(site, word, about_names)?;
    let typed = type_hints(site)?;
    ensure!(!typed.is_empty(), "no hints");
    ensure_silent(site)?;
    site.works(guests).with_context(|| format!("after {typed:#?}"))?;
    Ok(typed)
}

fn own_input() -> anyhow::Result<()> {
    let site = Site::new()?;
    site.shell("nft 'table inet mine { chain in { type filter hook input priority 0; policy drop; iif lo accept; iifname out0 accept; }; }'")?;
    let said = site.said("rnet create early --subnet 10.97.0.0/24")?;
    ensure!(said.contains("chain inet mine in"), "create: {said}");
    let guests = site.guests()?;
    let typed = heals(&site, &guests, "chain inet mine in", true)?;
    ensure!(typed[0].starts_with("nft 'insert rule inet mine in iifname \"rnet-*\""), "{typed:?}");
    let said = site.said("rnet create late --subnet 10.96.0.0/24")?;
    ensure!(said.is_empty(), "create: {said}");
    site.clear()
}

fn own_forward() -> anyhow::Result<()> {
    for rule in ["policy drop;", "policy accept; ct state established accept; reject;"] {
        let site = Site::new()?;
        site.shell(&format!(
            "nft 'table inet mine {{ chain thru {{ type filter hook forward priority 0; {rule} }}; }}'"
        ))?;
        let said = site.said("rnet create early --subnet 10.97.0.0/24")?;
        ensure!(said.contains("chain inet mine thru"), "create: {said}");
        let guests = site.guests()?;
        let said = site.said("rnet run -d --rm --net mynet -p 3355:80 sleep 1")?;
        ensure!(
            said.contains("published ports of network mynet") && said.contains("3355/tcp"),
            "run: {said}"
        );
        heals(&site, &guests, "chain inet mine thru", false)?;
        site.clear()?;
    }
    Ok(())
}

fn rule_in_front() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    site.run("iptables -I FORWARD -s 10.99.0.0/24 ! -d 10.99.0.0/24 -p tcp -j DROP")?;
    let typed = heals(&site, &guests, "chain ip filter FORWARD", false)?;
    ensure!(typed.contains(&"iptables -I FORWARD -i rnet-+ -j ACCEPT".into()), "{typed:?}");
    site.run("iptables -N mine")?;
    site.run("iptables -A mine -p udp -j REJECT")?;
    site.run("iptables -I INPUT ! -i lo -j mine")?;
    let typed = heals(&site, &guests, "chain ip filter INPUT (mine)", true)?;
    ensure!(typed.contains(&"iptables -I INPUT -i rnet-+ -p udp --dport 53 -j ACCEPT".into()), "{typed:?}");
    site.clear()
}

fn raw() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    site.run("iptables -t raw -A PREROUTING -i out0 -p tcp --dport 3344 -j DROP")?;
    let typed = heals(&site, &guests, "chain ip raw PREROUTING", false)?;
    ensure!(typed == ["iptables -t raw -I PREROUTING -p tcp --dport 3344 -j ACCEPT"], "{typed:?}");
    site.clear()
}

/// A route that leads elsewhere than where the packets come from.
fn source_check() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    site.run("sysctl -qw net.ipv4.conf.rnet-mynet.rp_filter=1")?;
    site.run("ip rule add to 10.99.0.0/24 iif lo table 77 priority 5")?;
    site.run("ip route add 10.99.0.0/24 dev out0 table 77")?;
    let said = site.said("rnet ls")?;
    let _ = &guests;
    ensure!(said.contains("rp_filter of rnet-mynet is 1"), "{said}");
    Ok(())
}

fn published_only() -> anyhow::Result<()> {
    let site = Site::new()?;
    site.shell("nft 'table ip mine { chain thru { type filter hook forward priority 10; iifname out0 ct state new drop; }; }'")?;
    let guests = site.guests()?;
    let typed = heals(&site, &guests, "published ports of network mynet", false)?;
    ensure!(typed == ["nft 'insert rule ip mine thru oifname \"rnet-*\" counter accept'"], "{typed:?}");
    site.clear()
}

/// Where the bridge's name is the user's, the lines name it.
fn any_name() -> anyhow::Result<()> {
    let site = Site::new()?;
    site.shell("nft 'table inet mine { chain in { type filter hook input priority 0; policy drop; iif lo accept; iifname out0 accept; }; }'")?;
    site.run("rnet create mynet --subnet 10.99.0.0/24 --subnet fd99::/64")?;
    let file = site.host.root().join("etc/cni/net.d/rnet-mynet.conflist");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("\"rnet-mynet\"", "\"lan7\""))?;
    let guests = site.guests_of("mynet")?;
    let typed = heals(&site, &guests, "chain inet mine in", true)?;
    ensure!(typed.iter().all(|line| line.contains("\"lan7\"")), "{typed:?}");
    site.clear()
}

fn healed() -> anyhow::Result<()> {
    let site = Site::new()?;
    for program in ["iptables", "ip6tables"] {
        site.run(&format!("{program} -P FORWARD DROP"))?;
        site.run(&format!("{program} -P INPUT DROP"))?;
        site.run(&format!("{program} -A INPUT -i out0 -j ACCEPT"))?;
    }
    let said = site.said("rnet create other --subnet 10.98.0.0/24")?;
    ensure!(said.is_empty(), "create: {said}");
    let guests = site.guests()?;
    ensure_silent(&site)?;
    site.works(&guests)?;
    site.clear()
}

fn disabled() -> anyhow::Result<()> {
    let site = Site::new()?;
    site.run("iptables -P FORWARD DROP")?;
    site.run("rnet interop disable")?;
    let said = site.said("rnet create other --subnet 10.98.0.0/24")?;
    ensure!(said.contains("rnet interop enable"), "create: {said}");
    let guests = site.guests()?;
    let typed = heals(&site, &guests, "chain ip filter FORWARD", false)?;
    ensure!(typed == ["rnet interop enable"], "{typed:?}");
    site.clear()
}

fn ufw() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    let _ufw = crate::ufw::Ufw::on(&site, "deny")?;
    site.comes_to_work(&guests)?;
    ensure_silent(&site)?;
    site.run("ufw route deny in on rnet-+")?;
    let typed = heals(&site, &guests, "ufw-user-forward", false)?;
    ensure!(
        typed.contains(&"ufw route prepend allow in on rnet-+ && ufw route allow in on rnet-+".into()),
        "{typed:?}"
    );
    site.run("ufw deny in on rnet-+")?;
    let typed = heals(&site, &guests, "ufw-user-input", true)?;
    ensure!(typed[0].starts_with("ufw prepend allow in on rnet-+ to any port 53 && "), "{typed:?}");
    site.clear()
}

fn across() -> anyhow::Result<()> {
    let site = Site::new()?;
    site.shell("nft 'table bridge mine { chain thru { type filter hook forward priority -200; ip protocol tcp drop; ip6 nexthdr tcp drop; }; }'")?;
    let guests = site.guests()?;
    heals(&site, &guests, "do not reach one another", false)?;
    site.clear()
}

fn nothing_left() -> anyhow::Result<()> {
    let site = Site::new()?;
    let before = site.snapshot()?;
    site.shell(
        "nft 'table inet mine { chain thru { type filter hook forward priority 0; policy drop; }; }'",
    )?;
    let guests = site.guests()?;
    let between = site.snapshot()?;
    ensure!(site.said("rnet ls")?.contains("chain inet mine thru"), "not told");
    site.said("rnet interop status")?;
    site.ensure_nothing_left(&between)?;
    drop(guests);
    site.clear()?;
    site.shell("nft delete table inet mine")?;
    site.ensure_nothing_left(&before)
}

fn killed() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    let before = site.snapshot()?;
    for delay in (0..60).map(|step| step * 250) {
        let program = env!("CARGO_BIN_EXE_rnet");
        let mut child = site
            .host
            .command(program)
            .args(["interop", "status"])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        std::thread::sleep(std::time::Duration::from_micros(delay));
        child.kill()?;
        child.wait()?;
    }
    crate::site::wait_until("all is gone", || site.ensure_nothing_left(&before))?;
    ensure!(!Path::new("/sys/class/net/vethprobe0").exists(), "a link is left");
    site.works(&guests)?;
    site.clear()
}
