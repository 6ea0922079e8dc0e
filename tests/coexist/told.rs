//! What stops traffic although rnet writes into other firewalls is told, with the line to type, until that was typed.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::Test;
use crate::common::Host;
use crate::works::Guests;

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
fn all_that_tell(host: &Host) -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("ls", host.said("rnet ls")?),
        ("run", host.said("rnet run -d --rm --net mynet sleep 1")?),
        ("interop status", host.said("rnet interop status")?),
        ("dns status", host.said("rnet dns status")?),
        ("STATUS", host.status("mynet")?),
    ])
}

/// All of them tell of a word; `dns status` only of names.
fn ensure_told(host: &Host, word: &str, about_names: bool) -> anyhow::Result<()> {
    for (who, said) in all_that_tell(host)? {
        let tells = who != "dns status" || about_names;
        ensure!(said.contains(word) == tells, "{who}: {said}");
    }
    Ok(())
}

fn ensure_silent(host: &Host) -> anyhow::Result<()> {
    for (who, said) in all_that_tell(host)? {
        ensure!(said.is_empty(), "{who}: {said}");
    }
    Ok(())
}

/// Types all hints until there are none any more; then all works.
fn type_hints(host: &Host) -> anyhow::Result<Vec<String>> {
    let mut typed = Vec::new();
    for _ in 0..4 {
        let hints = host.hints("rnet ls")?;
        for hint in &hints {
            host.shell(hint)?;
        }
        if hints.is_empty() {
            break;
        }
        typed.extend(hints);
    }
    Ok(typed)
}

/// Told, then typed, then silent, and all works.
fn heals(host: &Host, guests: &Guests, word: &str, about_names: bool) -> anyhow::Result<Vec<String>> {
    ensure!(host.works(guests).is_err(), "it works all the same");
    ensure_told(host, word, about_names)?;
    let typed = type_hints(host)?;
    ensure!(!typed.is_empty(), "no hints");
    ensure_silent(host)?;
    host.works(guests).with_context(|| format!("after {typed:#?}"))?;
    Ok(typed)
}

fn own_input(host: &Host) -> anyhow::Result<()> {
    host.shell("nft 'table inet mine { chain in { type filter hook input priority 0; policy drop; iif lo accept; iifname out0 accept; }; }'")?;
    let said = host.said("rnet create early --subnet 10.97.0.0/24")?;
    ensure!(said.contains("chain inet mine in"), "create: {said}");
    let guests = host.guests()?;
    let typed = heals(host, &guests, "chain inet mine in", true)?;
    ensure!(typed[0].starts_with("nft 'insert rule inet mine in iifname \"rnet-*\""), "{typed:?}");
    let said = host.said("rnet create late --subnet 10.96.0.0/24")?;
    ensure!(said.is_empty(), "create: {said}");
    host.clear()
}

fn own_forward(_: &Host) -> anyhow::Result<()> {
    for rule in ["policy drop;", "policy accept; ct state established accept; reject;"] {
        let host = Host::on_the_way_out()?;
        host.shell(&format!(
            "nft 'table inet mine {{ chain thru {{ type filter hook forward priority 0; {rule} }}; }}'"
        ))?;
        let said = host.said("rnet create early --subnet 10.97.0.0/24")?;
        ensure!(said.contains("chain inet mine thru"), "create: {said}");
        let guests = host.guests()?;
        let said = host.said("rnet run -d --rm --net mynet -p 3355:80 sleep 1")?;
        ensure!(
            said.contains("published ports of network mynet") && said.contains("3355/tcp"),
            "run: {said}"
        );
        heals(&host, &guests, "chain inet mine thru", false)?;
        host.clear()?;
    }
    Ok(())
}

fn rule_in_front(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    host.execute("iptables -I FORWARD -s 10.99.0.0/24 ! -d 10.99.0.0/24 -p tcp -j DROP")?;
    let typed = heals(host, &guests, "chain ip filter FORWARD", false)?;
    ensure!(typed.contains(&"iptables -I FORWARD -i rnet-+ -j ACCEPT".into()), "{typed:?}");
    host.execute("iptables -N mine")?;
    host.execute("iptables -A mine -p udp -j REJECT")?;
    host.execute("iptables -I INPUT ! -i lo -j mine")?;
    let typed = heals(host, &guests, "chain ip filter INPUT (mine)", true)?;
    ensure!(typed.contains(&"iptables -I INPUT -i rnet-+ -p udp --dport 53 -j ACCEPT".into()), "{typed:?}");
    host.clear()
}

fn raw(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    host.execute("iptables -t raw -A PREROUTING -i out0 -p tcp --dport 3344 -j DROP")?;
    let typed = heals(host, &guests, "chain ip raw PREROUTING", false)?;
    ensure!(typed == ["iptables -t raw -I PREROUTING -p tcp --dport 3344 -j ACCEPT"], "{typed:?}");
    host.clear()
}

/// A route that leads elsewhere than where the packets come from.
fn source_check(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    host.execute("sysctl -qw net.ipv4.conf.rnet-mynet.rp_filter=1")?;
    host.execute("ip rule add to 10.99.0.0/24 iif lo table 77 priority 5")?;
    host.execute("ip route add 10.99.0.0/24 dev out0 table 77")?;
    let said = host.said("rnet ls")?;
    let _ = &guests;
    ensure!(said.contains("rp_filter of rnet-mynet is 1"), "{said}");
    Ok(())
}

fn published_only(host: &Host) -> anyhow::Result<()> {
    host.shell("nft 'table ip mine { chain thru { type filter hook forward priority 10; iifname out0 ct state new drop; }; }'")?;
    let guests = host.guests()?;
    let typed = heals(host, &guests, "published ports of network mynet", false)?;
    ensure!(typed == ["nft 'insert rule ip mine thru oifname \"rnet-*\" counter accept'"], "{typed:?}");
    host.clear()
}

/// Where the bridge's name is the user's, the lines name it.
fn any_name(host: &Host) -> anyhow::Result<()> {
    host.shell("nft 'table inet mine { chain in { type filter hook input priority 0; policy drop; iif lo accept; iifname out0 accept; }; }'")?;
    host.execute("rnet create mynet --subnet 10.99.0.0/24 --subnet fd99::/64")?;
    let file = host.root().join("etc/cni/net.d/rnet-mynet.conflist");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("\"rnet-mynet\"", "\"lan7\""))?;
    let guests = host.guests_of("mynet")?;
    let typed = heals(host, &guests, "chain inet mine in", true)?;
    ensure!(typed.iter().all(|line| line.contains("\"lan7\"")), "{typed:?}");
    host.clear()
}

fn healed(host: &Host) -> anyhow::Result<()> {
    for program in ["iptables", "ip6tables"] {
        host.execute(&format!("{program} -P FORWARD DROP"))?;
        host.execute(&format!("{program} -P INPUT DROP"))?;
        host.execute(&format!("{program} -A INPUT -i out0 -j ACCEPT"))?;
    }
    let said = host.said("rnet create other --subnet 10.98.0.0/24")?;
    ensure!(said.is_empty(), "create: {said}");
    let guests = host.guests()?;
    ensure_silent(host)?;
    host.works(&guests)?;
    host.clear()
}

fn disabled(host: &Host) -> anyhow::Result<()> {
    host.execute("iptables -P FORWARD DROP")?;
    host.execute("rnet interop disable")?;
    let said = host.said("rnet create other --subnet 10.98.0.0/24")?;
    ensure!(said.contains("rnet interop enable"), "create: {said}");
    let guests = host.guests()?;
    let typed = heals(host, &guests, "chain ip filter FORWARD", false)?;
    ensure!(typed == ["rnet interop enable"], "{typed:?}");
    host.clear()
}

fn ufw(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    let _ufw = crate::ufw::Ufw::on(host, "deny")?;
    host.comes_to_work(&guests)?;
    ensure_silent(host)?;
    host.execute("ufw route deny in on rnet-+")?;
    let typed = heals(host, &guests, "ufw-user-forward", false)?;
    ensure!(
        typed.contains(&"ufw route prepend allow in on rnet-+ && ufw route allow in on rnet-+".into()),
        "{typed:?}"
    );
    host.execute("ufw deny in on rnet-+")?;
    let typed = heals(host, &guests, "ufw-user-input", true)?;
    ensure!(typed[0].starts_with("ufw prepend allow in on rnet-+ to any port 53 && "), "{typed:?}");
    host.clear()
}

fn across(host: &Host) -> anyhow::Result<()> {
    host.shell("nft 'table bridge mine { chain thru { type filter hook forward priority -200; ip protocol tcp drop; ip6 nexthdr tcp drop; }; }'")?;
    let guests = host.guests()?;
    heals(host, &guests, "do not reach one another", false)?;
    host.clear()
}

fn nothing_left(host: &Host) -> anyhow::Result<()> {
    let before = host.network_snapshot()?;
    host.shell(
        "nft 'table inet mine { chain thru { type filter hook forward priority 0; policy drop; }; }'",
    )?;
    let guests = host.guests()?;
    let between = host.network_snapshot()?;
    ensure!(host.said("rnet ls")?.contains("chain inet mine thru"), "not told");
    host.said("rnet interop status")?;
    host.ensure_nothing_left(&between)?;
    drop(guests);
    host.clear()?;
    host.shell("nft delete table inet mine")?;
    host.ensure_nothing_left(&before)
}

fn killed(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    let before = host.network_snapshot()?;
    for delay in (0..60).map(|step| step * 250) {
        let program = env!("CARGO_BIN_EXE_rnet");
        let mut child =
            host.command(program).args(["interop", "status"]).stdout(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(std::time::Duration::from_micros(delay));
        child.kill()?;
        child.wait()?;
    }
    crate::works::wait_until("all is gone", || host.ensure_nothing_left(&before))?;
    ensure!(!Path::new("/sys/class/net/vethprobe0").exists(), "a link is left");
    host.works(&guests)?;
    host.clear()
}
