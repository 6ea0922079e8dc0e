//! Beside ufw: it drops what comes in and what is forwarded.

use anyhow::ensure;

use crate::Test;
use crate::common::Host;

pub const TESTS: &[Test] = &[
    ("ufw::first", first),
    ("ufw::later", later),
    ("ufw::reloaded_disabled_and_enabled", reloaded),
    ("ufw::with_default_reject", rejecting),
    ("ufw::the_administrators_own_rules_go_first", own_rules),
];

/// ufw, off again when this goes.
pub struct Ufw<'a>(&'a Host);

impl<'a> Ufw<'a> {
    pub fn on(host: &'a Host, word: &str) -> anyhow::Result<Self> {
        reset(host)?;
        host.execute("ufw allow in on out0")?;
        for direction in ["incoming", "routed"] {
            host.execute(&format!("ufw default {word} {direction}"))?;
        }
        host.execute("ufw --force enable")?;
        Ok(Self(host))
    }
}

impl Drop for Ufw<'_> {
    fn drop(&mut self) {
        let _ = reset(self.0);
    }
}

/// Without what an earlier reset has put aside: ufw refuses a second one in the same second.
fn reset(host: &Host) -> anyhow::Result<()> {
    host.execute("find /etc/ufw -name *.rules.2* -delete")?;
    host.execute("ufw --force reset").map(drop)
}

fn first(host: &Host) -> anyhow::Result<()> {
    let _ufw = Ufw::on(host, "deny")?;
    let before = host.network_snapshot()?;
    let guests = host.guests()?;
    host.works(&guests)?;
    host.tells_nothing()?;
    host.is_closed(&guests)?;
    host.clear()?;
    host.ensure_nothing_left(&before)
}

fn later(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    let _ufw = Ufw::on(host, "deny")?;
    host.comes_to_work(&guests)?;
    host.iptables_reads_rnets_rules()?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    host.ensure_no_rules_left()
}

fn reloaded(host: &Host) -> anyhow::Result<()> {
    let _ufw = Ufw::on(host, "deny")?;
    let guests = host.guests()?;
    for line in ["ufw reload", "ufw disable", "ufw --force enable"] {
        host.execute(line)?;
        host.comes_to_work(&guests)?;
    }
    host.clear()?;
    host.ensure_no_rules_left()
}

/// Then the end of the chains is too late.
fn rejecting(_: &Host) -> anyhow::Result<()> {
    for other_first in [true, false] {
        let host = Host::on_the_way_out()?;
        let early = other_first.then(|| Ufw::on(&host, "reject")).transpose()?;
        let guests = host.guests()?;
        let _ufw = early.map_or_else(|| Ufw::on(&host, "reject"), Ok)?;
        host.comes_to_work(&guests)?;
        host.execute("ufw reload")?;
        host.comes_to_work(&guests)?;
        host.clear()?;
        host.ensure_no_rules_left()?;
    }
    Ok(())
}

fn own_rules(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    let _ufw = Ufw::on(host, "deny")?;
    host.comes_to_work(&guests)?;
    host.execute("ufw route deny in on rnet-+")?;
    ensure!(host.works(&guests).is_err(), "the administrator's own rule does not count");
    host.execute("ufw route delete deny in on rnet-+")?;
    host.comes_to_work(&guests)?;
    host.clear()
}
