//! Beside firewalld: its chains accept by policy and reject by their last rule.

use std::path::Path;

use anyhow::ensure;

use crate::Test;
use crate::site::{Daemon, Site, wait_until};

pub const TESTS: &[Test] = &[
    ("firewalld::first", first),
    ("firewalld::later", later),
    ("firewalld::reloaded_restarted_and_stopped", reloaded),
    ("firewalld::a_zone_of_somebodys_choice_is_told", elsewhere),
    ("firewalld::other_ports_of_the_host_stay_closed", narrow),
];

/// The bus and firewalld.
struct Running {
    firewalld: Option<Daemon>,
    _bus: Daemon,
}

impl Running {
    fn start(site: &Site) -> anyhow::Result<Self> {
        std::fs::create_dir_all("/run/dbus")?;
        for folder in ["zones", "policies"] {
            let folder = Path::new("/etc/firewalld").join(folder);
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder)?;
        }
        let bus = site.start("dbus-daemon --system --nofork --nopidfile")?;
        wait_until("the bus is there", || Ok(std::fs::metadata("/run/dbus/system_bus_socket").map(drop)?))?;
        let mut running = Self { firewalld: None, _bus: bus };
        running.up(site)?;
        Ok(running)
    }

    fn up(&mut self, site: &Site) -> anyhow::Result<()> {
        self.firewalld = Some(site.start("firewalld --nofork --nopid")?);
        wait_until("firewalld runs", || site.run("firewall-cmd --state").map(drop))
    }

    fn down(&mut self) {
        self.firewalld = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.down();
        let _ = std::fs::remove_file("/run/dbus/system_bus_socket");
    }
}

/// rnet keeps nothing, and nothing in force has to do with it.
fn ensure_gone(site: &Site) -> anyhow::Result<()> {
    let kept = site.run("firewall-cmd --permanent --get-zones")?
        + &site.run("firewall-cmd --permanent --get-policies")?;
    ensure!(!kept.contains("rnet"), "kept: {kept}");
    let active = site.run("firewall-cmd --get-active-zones")?;
    ensure!(!active.contains("rnet"), "in force: {active}");
    let files =
        std::fs::read_dir("/etc/firewalld/zones")?.chain(std::fs::read_dir("/etc/firewalld/policies")?);
    let files: Vec<_> = files.flatten().map(|file| file.file_name()).collect();
    ensure!(files.is_empty(), "files: {files:?}");
    site.run("firewall-cmd --reload")?;
    site.ensure_no_rules_left()
}

fn first() -> anyhow::Result<()> {
    let site = Site::new()?;
    let _running = Running::start(&site)?;
    let guests = site.guests()?;
    site.works(&guests)?;
    site.tells_nothing()?;
    site.is_closed(&guests)?;
    site.clear()?;
    ensure_gone(&site)?;
    // Once more: the zone is gone from the configuration.
    let guests = site.guests_of("mynet")?;
    site.works(&guests)?;
    site.clear()?;
    ensure_gone(&site)
}

fn later() -> anyhow::Result<()> {
    let site = Site::new()?;
    let guests = site.guests()?;
    let _running = Running::start(&site)?;
    site.comes_to_work(&guests)?;
    site.clear()?;
    ensure_gone(&site)
}

fn reloaded() -> anyhow::Result<()> {
    let site = Site::new()?;
    let mut running = Running::start(&site)?;
    let guests = site.guests()?;
    for line in ["firewall-cmd --reload", "firewall-cmd --complete-reload"] {
        site.run(line)?;
        site.comes_to_work(&guests)?;
    }
    running.down();
    site.comes_to_work(&guests)?;
    running.up(&site)?;
    site.comes_to_work(&guests)?;
    site.clear()?;
    ensure_gone(&site)
}

fn elsewhere() -> anyhow::Result<()> {
    let site = Site::new()?;
    let _running = Running::start(&site)?;
    site.run("firewall-cmd --permanent --zone=drop --add-interface=rnet-+")?;
    site.run("firewall-cmd --reload")?;
    let guests = site.guests()?;
    ensure!(site.works(&guests).is_err(), "the administrator's choice was overridden");
    let zone = site.run("firewall-cmd --get-zone-of-interface=rnet-+")?;
    ensure!(zone.trim() == "drop", "{zone}");
    let status = site.host.command(env!("CARGO_BIN_EXE_rnet")).args(["interop", "status"]).output()?;
    let told = String::from_utf8(status.stderr)?;
    let hint = "firewall-cmd --permanent --zone=drop --remove-interface=rnet-+ && firewall-cmd --reload";
    ensure!(told.contains(hint), "{told}");
    site.host.command("sh").args(["-c", hint]).output()?;
    site.comes_to_work(&guests)?;
    site.clear()
}

/// The zone opens port 53 and no other.
fn narrow() -> anyhow::Result<()> {
    let site = Site::new()?;
    let _running = Running::start(&site)?;
    let guests = site.guests()?;
    let _server =
        netns_fixtures::HttpServer::start(site.host.netns(), "0.0.0.0:8088".parse()?, "the host's")?;
    crate::site::never_reaches(&guests.web.netns, "10.99.0.1".parse()?, 8088)?;
    site.works(&guests)?;
    site.clear()
}
