//! Beside ufw: it drops what comes in and what is forwarded.

use anyhow::ensure;

use crate::Test;
use crate::site::Site;

pub const TESTS: &[Test] = &[
    ("ufw::first", first),
    ("ufw::later", later),
    ("ufw::reloaded_disabled_and_enabled", reloaded),
    ("ufw::with_default_reject", rejecting),
    ("ufw::the_administrators_own_rules_go_first", own_rules),
];

/// ufw, off again when this goes.
pub struct Ufw<'a>(&'a Site);

impl<'a> Ufw<'a> {
    pub fn on(site: &'a Site, word: &str) -> anyhow::Result<Self> {
        reset(site)?;
        site.run("ufw allow in on out0")?;
        for direction in ["incoming", "routed"] {
            site.run(&format!("ufw default {word} {direction}"))?;
        }
        site.run("ufw --force enable")?;
        Ok(Self(site))
    }
}

impl Drop for Ufw<'_> {
    fn drop(&mut self) {
        let _ = reset(self.0);
    }
}

/// Without what an earlier reset has put aside: ufw refuses a second one in the same second.
fn reset(site: &Site) -> anyhow::Result<()> {
    site.run("find /etc/ufw -name *.rules.2* -delete")?;
    site.run("ufw --force reset").map(drop)
}

fn first() -> anyhow::Result<()> {
    let site = Site::new()?;
    let _ufw = Ufw::on(&site, "deny")?;
    let before = site.snapshot()?;
    let guests = site.guests()?;
    site.works(&guests)?;
    site.tells_nothing()?;
    site.is_closed(&guests)?;
    site.clear()?;
    site.ensure_nothing_left(&before)
}

fn later() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    let _ufw = Ufw::on(&site, "deny")?;
    site.comes_to_work(&guests)?;
    site.iptables_reads_us()?;
    site.comes_to_work(&guests)?;
    site.clear()?;
    site.ensure_no_rules_left()
}

fn reloaded() -> anyhow::Result<()> {
    let site = Site::new()?;
    let _ufw = Ufw::on(&site, "deny")?;
    let guests = site.guests()?;
    for line in ["ufw reload", "ufw disable", "ufw --force enable"] {
        site.run(line)?;
        site.comes_to_work(&guests)?;
    }
    site.clear()?;
    site.ensure_no_rules_left()
}

/// Then the end of the chains is too late.
fn rejecting() -> anyhow::Result<()> {
    for other_first in [true, false] {
        let site = Site::new()?;
        let early = other_first.then(|| Ufw::on(&site, "reject")).transpose()?;
        let guests = site.guests()?;
        let _ufw = early.map_or_else(|| Ufw::on(&site, "reject"), Ok)?;
        site.comes_to_work(&guests)?;
        site.run("ufw reload")?;
        site.comes_to_work(&guests)?;
        site.clear()?;
        site.ensure_no_rules_left()?;
    }
    Ok(())
}

fn own_rules() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    let _ufw = Ufw::on(&site, "deny")?;
    site.comes_to_work(&guests)?;
    site.run("ufw route deny in on rnet-+")?;
    ensure!(site.works(&guests).is_err(), "the administrator's own rule does not count");
    site.run("ufw route delete deny in on rnet-+")?;
    site.comes_to_work(&guests)?;
    site.clear()
}
