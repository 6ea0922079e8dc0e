//! A host to throw away, with a plugin folder.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use netlink::{Link, Netlink};
use netns_fixtures::{Container, Outside, Program, Snapshot};
use nft::{Element, Firewall, Owner};
use serde_json::Value;
use store::{Paths, Store};

use super::{Call, LONG, Outcome, PLUGINS, Who, binary, config_of, entries};

/// A container host, and a folder on it whose plugins lead to the binary. It ends with this value.
///
/// What only some tests need of it stands beside them: `impl Host` in a file of their own.
pub struct Host {
    machine: netns_fixtures::Host,
    neighbour: Option<Outside>,
    /// The folder with the plugins.
    pub plugins: PathBuf,
    /// The id of this boot, where it is not the machine's.
    pub boot: OnceLock<String>,
}

impl Deref for Host {
    type Target = netns_fixtures::Host;

    fn deref(&self) -> &Self::Target {
        &self.machine
    }
}

impl Host {
    /// As after a boot: nothing is there, and it does not forward.
    pub fn new() -> Self {
        let machine = netns_fixtures::Host::new().unwrap();
        let plugins = machine.root().join("bin");
        std::fs::create_dir(&plugins).unwrap();
        for name in PLUGINS {
            std::os::unix::fs::symlink(binary(), plugins.join(name)).unwrap();
        }
        Self { machine, neighbour: None, plugins, boot: OnceLock::new() }
    }

    /// One that forwards IPv4 already: the first network turns it on, and it stays on when the last one goes.
    pub fn forwarding() -> Self {
        let host = Self::new();
        host.set_sysctl("ipv4/ip_forward", "1");
        host
    }

    /// Puts a machine outside beside it, with the second address of each subnet; the host gets the first.
    pub fn beside(mut self, subnets: &[&str]) -> Self {
        let subnets: Vec<_> = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
        self.neighbour = Some(self.machine.outside(&subnets).unwrap());
        self
    }

    /// The machine outside, of a host that was put [`beside`](Self::beside) one.
    pub fn neighbour(&self) -> &Outside {
        self.neighbour.as_ref().unwrap()
    }

    /// `rnet LINE`, which finds no plugins of the machine's.
    pub fn program(&self, line: &str) -> Program<'_> {
        self.command(binary()).env("CNI_PATH", self.installed_plugins()).args(line.split_whitespace())
    }

    /// What `rnet LINE` says.
    pub fn rnet(&self, line: &str) -> Outcome {
        Outcome::of(self.program(line))
    }

    /// Where `rnet` installs plugins and looks for them.
    pub fn installed_plugins(&self) -> PathBuf {
        self.root().join("opt/cni/bin")
    }

    /// Calls `plugin` with `verb` for `who`; `config` goes to its standard input.
    pub fn cni(&self, verb: &str, plugin: &str, who: &Who, config: &Value) -> Outcome {
        self.call(verb, plugin, who).input(config.to_string()).run()
    }

    /// A call that can be changed before it is made.
    pub fn call(&self, verb: &str, plugin: &str, who: &Who) -> Call<'_> {
        let path = self.plugins.to_string_lossy().into_owned();
        let call = self
            .bare_call(plugin)
            .set("CNI_COMMAND", verb)
            .set("CNI_CONTAINERID", &who.id)
            .set("CNI_NETNS", &who.netns)
            .set("CNI_IFNAME", &who.ifname)
            .set("CNI_ARGS", &who.args)
            .set("CNI_PATH", &path);
        match self.boot.get() {
            Some(boot) => call.set("RNET_BOOT_ID", boot),
            None => call,
        }
    }

    /// A call without any variable of CNI.
    pub fn bare_call(&self, plugin: &str) -> Call<'_> {
        Call::of(self, self.plugins.join(plugin))
    }

    /// ADD, which must succeed: its result.
    #[track_caller]
    pub fn add(&self, plugin: &str, who: &Who, config: &Value) -> Value {
        self.cni("ADD", plugin, who, config).json()
    }

    /// DEL, which must succeed and say nothing.
    #[track_caller]
    pub fn del(&self, plugin: &str, who: &Who, config: &Value) {
        self.cni("DEL", plugin, who, config).silent();
    }

    /// ADD of a list, each plugin given the result of the one before. If one fails, the list is deleted in
    /// reverse, as runtimes do, and the failure returned.
    pub fn add_list(&self, list: &Value, who: &Who) -> Outcome {
        let mut outcome = None::<Outcome>;
        for plugin in plugins_of(list) {
            let previous = outcome.as_ref().map(Outcome::json);
            let next = self.cni("ADD", kind(plugin), who, &config_of(list, plugin, previous.as_ref()));
            if next.status != 0 {
                self.del_list(list, who, None);
                return next;
            }
            outcome = Some(next);
        }
        outcome.unwrap()
    }

    /// CHECK of a list, up to the first that fails.
    pub fn check_list(&self, list: &Value, who: &Who, result: &Value) -> Outcome {
        let check = |plugin| self.cni("CHECK", kind(plugin), who, &config_of(list, plugin, Some(result)));
        until_one_fails(plugins_of(list).map(check))
    }

    /// DEL of a list in reverse, up to the first that fails.
    pub fn del_list(&self, list: &Value, who: &Who, result: Option<&Value>) -> Outcome {
        let del = |plugin| self.cni("DEL", kind(plugin), who, &config_of(list, plugin, result));
        until_one_fails(plugins_of(list).rev().map(del))
    }

    /// A container called `name`, and who it is on its first interface.
    pub fn container(&self, name: &str) -> (Container, Who) {
        let container = self.machine.container(name).unwrap();
        let who = Who::of(&container);
        (container, who)
    }

    /// Links, addresses, routes and sysctls of the host.
    pub fn netlink(&self) -> Netlink {
        Netlink::inside(self.netns()).unwrap()
    }

    /// The link of that name on the host.
    pub fn link(&self, name: &str) -> Option<Link> {
        self.netlink().link(name).unwrap()
    }

    /// The links of the host except `lo`, by name.
    pub fn links(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
        names.retain(|name| name != "lo");
        names.sort();
        names
    }

    /// Runs `f` with the host's ruleset.
    pub fn firewall<T: Send>(&self, f: impl FnOnce(&mut Firewall) -> T + Send) -> T {
        self.run(|| f(&mut Firewall::open().unwrap())).unwrap()
    }

    /// Every element of rnet's, with its owner.
    pub fn elements(&self) -> Vec<(Element, Option<Owner>)> {
        self.firewall(|firewall| firewall.elements().unwrap())
    }

    /// A sysctl of the host, below net.
    pub fn sysctl(&self, key: &str) -> Option<String> {
        self.netlink().sysctl(key).unwrap()
    }

    /// Sets a sysctl of the host.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        self.netlink().set_sysctl(key, value).unwrap();
    }

    /// Everything the host's namespace holds, and every file that rnet keeps, except for locks, which say who held
    /// them last, and the index of leases, which is a cache.
    pub fn snapshot(&self) -> Snapshot {
        self.await_the_end_of_flows();
        let root = self.root();
        let mut folders = vec![root.join("var/lib/cni"), root.join("etc")];
        let passing = |path: &PathBuf| path.ends_with("locks") || path.ends_with("index");
        folders
            .extend(entries(&self.run_folder()).into_iter().filter(|path| path.is_dir() && !passing(path)));
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        Snapshot::of(self.netns(), &folders).unwrap()
    }

    /// A child of DEL forgets the flows of a container that is gone, and then that there is anything to forget.
    pub fn await_the_end_of_flows(&self) {
        let begun = std::time::Instant::now();
        let any = || self.firewall(|firewall| !firewall.stale().unwrap().is_empty());
        while any() && begun.elapsed() < LONG {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where the host's records, locks and leases lie.
    pub fn run_folder(&self) -> PathBuf {
        self.paths().run()
    }

    fn paths(&self) -> Paths {
        let cookie = self.run(|| netlink::cookie().unwrap()).unwrap();
        match self.boot.get() {
            Some(boot) => Paths::in_boot(self.root(), cookie, boot),
            None => Paths::under(self.root(), cookie),
        }
    }

    /// rnet's records and claims.
    pub fn store(&self) -> Store {
        Store::open(self.paths()).unwrap()
    }

    /// host-local's folder.
    pub fn host_local(&self) -> PathBuf {
        self.paths().host_local()
    }

    /// A file below the host's directory, its content as text.
    pub fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root().join(path)).ok()
    }

    /// Puts a program of the given text into the plugin folder.
    pub fn install_script(&self, name: &str, text: &str) {
        netns_fixtures::write_program(self.plugins.join(name), text).unwrap();
    }
}

fn plugins_of(list: &Value) -> std::slice::Iter<'_, Value> {
    list["plugins"].as_array().unwrap().iter()
}

fn kind(plugin: &Value) -> &str {
    plugin["type"].as_str().unwrap()
}

fn until_one_fails(outcomes: impl Iterator<Item = Outcome>) -> Outcome {
    let mut last = Outcome { status: 0, stdout: String::new(), stderr: String::new() };
    for outcome in outcomes {
        last = outcome;
        if last.status != 0 {
            break;
        }
    }
    last
}
