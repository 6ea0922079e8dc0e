//! A real systemd as process 1 of a host: what its units start, and what goes on when they are stopped.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};

use anyhow::{Context, ensure};
use netns_fixtures::Program;
use serde_json::Value;

use crate::common::Host;
use crate::guest::wait_until;
use crate::harness::Test;
use crate::network::{Flavour, Network};
use crate::program::{bounded, stdout};
use crate::setup::setup;

/// All tests of this file, for one kind of network.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, crate::Body)] = &[("names_outlive_the_unit_that_started_them", outlives_its_unit)];
    tests.iter().map(|test| crate::test("systemd", *flavour, *test)).collect()
}

/// Process 1 of new namespaces with a /run and a tree of control groups of its own; nothing runs there but `starter.service`
/// when it is started. What it sets in the kernel for all (coredumps, numbers of files) it may not write.
const BOOT: &str = r#"
set -eu
group=/run/v2/rnet-test-systemd
mkdir -p /run/v2
mount -t cgroup2 cgroup2 /run/v2
mkdir "$group"
sh -c 'echo 0 >"$0/cgroup.procs" && exec unshare --mount --uts --ipc --pid --cgroup --fork --kill-child --mount-proc sh -euc "$1"' \
    "$group" '
    mount -t tmpfs -o mode=755 tmpfs /run
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    for setting in kernel fs vm; do
        mount --bind /proc/sys/$setting /proc/sys/$setting
        mount -o remount,bind,ro /proc/sys/$setting
    done
    mkdir /run/units
    printf "[Unit]\nDefaultDependencies=no\n" >/run/units/default.target
    printf "%s" "$STARTER" >/run/units/starter.service
    exec env -i container=rnet-test PATH="$PATH" SYSTEMD_UNIT_PATH=/run/units systemd --system --log-target=console
' || :
find "$group" -depth -type d -exec rmdir {} +
umount /run/v2
"#;

/// systemd, its shell, and the process id by which others enter.
struct Systemd<'a> {
    host: &'a Host,
    shell: Child,
    first: String,
}

impl<'a> Systemd<'a> {
    /// Boots; `starter` is the text of starter.service.
    fn boot(host: &'a Host, starter: &str) -> anyhow::Result<Self> {
        let log = fs::File::create(host.root().join("systemd.log"))?;
        let shell = Program::new(host.netns(), "sh")
            .args(["-c", BOOT])
            .env("STARTER", starter)
            .env_remove("RNET_ROOT")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut systemd = Self { host, shell, first: String::new() };
        let listens = || Ok(systemd.find().is_some_and(|first| is_booted(&first)));
        wait_until("systemd's start", listens).with_context(|| systemd.log())?;
        systemd.first = systemd.find().context("systemd has ended")?;
        Ok(systemd)
    }

    /// The shell's child is unshare, whose child is systemd.
    fn find(&self) -> Option<String> {
        child_of(&child_of(&self.shell.id().to_string())?)
    }

    /// What a program prints that is started in systemd's namespaces, but by none of its units.
    fn call(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let enter = ["-t", &self.first, "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--", program];
        let entered = bounded(self.host.netns(), "nsenter").args(enter);
        stdout(entered, program, args).with_context(|| self.log())
    }

    fn rnet(&self, args: &[&str]) -> anyhow::Result<String> {
        self.call(&setup().rnet.to_string_lossy(), args)
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.host.root().join("systemd.log"));
        format!("systemd says: {}", log.unwrap_or_default())
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        // All in its namespaces end with it; the shell puts the control groups away and ends too.
        if let Some(first) = self.find() {
            drop(bounded(self.host.netns(), "kill").args(["-9", &first]).status());
        }
        drop(self.shell.wait());
    }
}

fn child_of(pid: &str) -> Option<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next().map(str::to_owned)
}

fn is_booted(first: &str) -> bool {
    fs::exists(format!("/proc/{first}/root/run/systemd/private")).unwrap_or(false)
}

/// The server is started by a unit with mounts of its own. The unit is stopped, and systemd ends all that is in its group.
fn outlives_its_unit(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let network = Network::make(host, flavour, 1)?;
    let (rnet, name) = (setup().rnet.display(), network.name.as_str());
    let starter = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nPrivateMounts=yes\nTimeoutStopSec=10\n\
         ExecStart={rnet} run --name web --net {name} sleep 1000\n"
    );
    let systemd = Systemd::boot(host, &starter)?;
    systemd.call("systemctl", &["start", "starter"])?;
    let knows_web = || Ok(systemd.rnet(&["dns", "status"]).is_ok_and(|status| status.contains("web")));
    wait_until("web's name", knows_web)?;
    let server: Value = serde_json::from_str(&systemd.rnet(&["dns", "status", "--json"])?)?;
    let group = systemd.call("cat", &[&format!("/proc/{}/cgroup", server["pid"])])?;
    ensure!(group.lines().any(|line| line == "0::/rnet"), "the server's groups: {group}");
    systemd.rnet(&["run", "-d", "--name", "db", "--net", name, "sleep", "1000"])?;

    systemd.call("systemctl", &["stop", "starter"])?;

    ensure!(
        !systemd.call("systemctl", &["show", "starter"])?.contains("ActiveState=active"),
        "it was stopped"
    );
    let look_up = |who: &str| systemd.rnet(&["exec", "db", "getent", "ahostsv4", who]);
    let found: Ipv4Addr = look_up("db")?.split_whitespace().next().context("no address")?.parse()?;
    ensure!(found.to_string().starts_with("10.89.1."), "db is at {found}");
    ensure!(look_up("web").is_err(), "web is gone");
    let after: Value = serde_json::from_str(&systemd.rnet(&["dns", "status", "--json"])?)?;
    ensure!(after["pid"] == server["pid"], "the server is the same: {after}");
    systemd.rnet(&["stop", "db"])?;
    let group_is_gone = || Ok(!systemd.call("ls", &["/sys/fs/cgroup"])?.lines().any(|group| group == "rnet"));
    wait_until("the end of the server's group", group_is_gone)
}
