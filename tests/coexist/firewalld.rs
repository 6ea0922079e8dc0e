//! Beside firewalld: its chains accept by policy and reject by their last rule.

use std::path::Path;

use anyhow::ensure;

use crate::Test;
use crate::common::Host;
use crate::works::{Daemon, wait_until};

pub const TESTS: &[Test] = &[
    ("firewalld::first", first),
    ("firewalld::later", later),
    ("firewalld::reloaded_restarted_and_stopped", reloaded),
    ("firewalld::a_zone_that_the_administrator_chose_is_told", elsewhere),
    ("firewalld::other_ports_of_the_host_stay_closed", narrow),
];

/// The bus and firewalld.
struct Firewalld {
    firewalld: Option<Daemon>,
    _bus: Daemon,
}

impl Firewalld {
    fn start(host: &Host) -> anyhow::Result<Self> {
        std::fs::create_dir_all("/run/dbus")?;
        for folder in ["zones", "policies"] {
            let folder = Path::new("/etc/firewalld").join(folder);
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder)?;
        }
        let bus = host.start("dbus-daemon --system --nofork --nopidfile")?;
        wait_until("the bus is there", || Ok(std::fs::metadata("/run/dbus/system_bus_socket").map(drop)?))?;
        let mut firewalld = Self { firewalld: None, _bus: bus };
        firewalld.up(host)?;
        Ok(firewalld)
    }

    fn up(&mut self, host: &Host) -> anyhow::Result<()> {
        self.firewalld = Some(host.start("firewalld --nofork --nopid")?);
        wait_until("firewalld runs", || host.execute("firewall-cmd --state").map(drop))
    }

    fn down(&mut self) {
        self.firewalld = None;
    }
}

impl Drop for Firewalld {
    fn drop(&mut self) {
        self.down();
        let _ = std::fs::remove_file("/run/dbus/system_bus_socket");
    }
}

/// rnet keeps nothing, and nothing in force has to do with it.
fn ensure_gone(host: &Host) -> anyhow::Result<()> {
    let kept = host.execute("firewall-cmd --permanent --get-zones")?
        + &host.execute("firewall-cmd --permanent --get-policies")?;
    ensure!(!kept.contains("rnet"), "kept: {kept}");
    let active = host.execute("firewall-cmd --get-active-zones")?;
    ensure!(!active.contains("rnet"), "in force: {active}");
    let files =
        std::fs::read_dir("/etc/firewalld/zones")?.chain(std::fs::read_dir("/etc/firewalld/policies")?);
    let files: Vec<_> = files.flatten().map(|file| file.file_name()).collect();
    ensure!(files.is_empty(), "files: {files:?}");
    host.execute("firewall-cmd --reload")?;
    host.ensure_no_rules_left()
}

fn first(host: &Host) -> anyhow::Result<()> {
    let _running = Firewalld::start(host)?;
    let guests = host.guests()?;
    host.works(&guests)?;
    host.tells_nothing()?;
    host.is_closed(&guests)?;
    host.clear()?;
    ensure_gone(host)?;
    // Once more: the zone is gone from the configuration.
    let guests = host.guests_of("mynet")?;
    host.works(&guests)?;
    host.clear()?;
    ensure_gone(host)
}

fn later(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    let _running = Firewalld::start(host)?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    ensure_gone(host)
}

fn reloaded(host: &Host) -> anyhow::Result<()> {
    let mut running = Firewalld::start(host)?;
    let guests = host.guests()?;
    for line in ["firewall-cmd --reload", "firewall-cmd --complete-reload"] {
        host.execute(line)?;
        host.comes_to_work(&guests)?;
    }
    running.down();
    host.comes_to_work(&guests)?;
    running.up(host)?;
    host.comes_to_work(&guests)?;
    host.clear()?;
    ensure_gone(host)
}

fn elsewhere(host: &Host) -> anyhow::Result<()> {
    let _running = Firewalld::start(host)?;
    host.execute("firewall-cmd --permanent --zone=drop --add-interface=rnet-+")?;
    host.execute("firewall-cmd --reload")?;
    let guests = host.guests()?;
    ensure!(host.works(&guests).is_err(), "the administrator's choice was overridden");
    let zone = host.execute("firewall-cmd --get-zone-of-interface=rnet-+")?;
    ensure!(zone.trim() == "drop", "{zone}");
    let status = host.command(env!("CARGO_BIN_EXE_rnet")).args(["interop", "status"]).output()?;
    let told = String::from_utf8(status.stderr)?;
    let hint = "firewall-cmd --permanent --zone=drop --remove-interface=rnet-+ && firewall-cmd --reload";
    ensure!(told.contains(hint), "{told}");
    host.command("sh").args(["-c", hint]).output()?;
    host.comes_to_work(&guests)?;
    host.clear()
}

/// The zone opens port 53 and no other.
fn narrow(host: &Host) -> anyhow::Result<()> {
    let _running = Firewalld::start(host)?;
    let guests = host.guests()?;
    let _server = netns_fixtures::HttpServer::start(host.netns(), "0.0.0.0:8088".parse()?, "the host's")?;
    crate::works::never_reaches(&guests.web.netns, "10.99.0.1".parse()?, 8088)?;
    host.works(&guests)?;
    host.clear()
}
