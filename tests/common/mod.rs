//! A lab for tests of the built binary: a throw-away host, a plugin folder that leads to the binary, and calls as
//! runtimes make them.
#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use netlink::{Link, Netlink, Netns};
use netns_fixtures::{Container, Host, Program, Snapshot};
use nft::{Element, Firewall, Owner};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::{Value, json};

/// Every plugin that the binary can be.
pub const PLUGINS: [&str; 6] = ["bridge", "dnsname", "host-local", "loopback", "portmap", "rnet"];

/// Every version of the specification.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Long enough for what must come.
pub const LONG: Duration = Duration::from_secs(5);

/// Long enough to see that nothing comes.
pub const SOON: Duration = Duration::from_millis(300);

/// The rnet under test: the one that Cargo has built, or the file that RNET_TEST_BINARY names.
pub fn binary() -> PathBuf {
    std::env::var_os("RNET_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_rnet").into(), PathBuf::from)
}

/// A host, and a folder on it with the plugins. It ends with this value.
pub struct Lab {
    pub host: Host,
    pub plugins: PathBuf,
}

/// Whom a call is about.
#[derive(Clone, Debug)]
pub struct Who {
    pub id: String,
    pub netns: String,
    pub ifname: String,
    pub args: String,
}

/// One call of a plugin, as a runtime makes it.
pub struct Call<'a> {
    lab: &'a Lab,
    program: PathBuf,
    variables: BTreeMap<String, String>,
    input: Vec<u8>,
    arguments: Vec<String>,
    group: Option<u32>,
}

/// What a call left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The exit status; 128 and the signal's number if one ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Lab {
    /// A new host with a plugin folder.
    pub fn new() -> Self {
        let host = Host::new().unwrap();
        let plugins = host.root().join("bin");
        std::fs::create_dir(&plugins).unwrap();
        for name in PLUGINS {
            std::os::unix::fs::symlink(binary(), plugins.join(name)).unwrap();
        }
        Self { host, plugins }
    }

    /// Calls `plugin` with `verb` for `who`; `config` goes to its standard input.
    pub fn cni(&self, verb: &str, plugin: &str, who: &Who, config: &Value) -> Outcome {
        self.call(verb, plugin, who).input(config.to_string()).run()
    }

    /// A call that can be changed before it is made.
    pub fn call(&self, verb: &str, plugin: &str, who: &Who) -> Call<'_> {
        let path = self.plugins.to_string_lossy().into_owned();
        self.bare_call(plugin)
            .set("CNI_COMMAND", verb)
            .set("CNI_CONTAINERID", &who.id)
            .set("CNI_NETNS", &who.netns)
            .set("CNI_IFNAME", &who.ifname)
            .set("CNI_ARGS", &who.args)
            .set("CNI_PATH", &path)
    }

    /// A call without any variable of CNI.
    pub fn bare_call(&self, plugin: &str) -> Call<'_> {
        let program = self.plugins.join(plugin);
        Call {
            lab: self,
            program,
            variables: BTreeMap::new(),
            input: Vec::new(),
            arguments: Vec::new(),
            group: None,
        }
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
        let container = self.host.container(name).unwrap();
        let who = Who::of(&container);
        (container, who)
    }

    /// Links, addresses, routes and sysctls of the host.
    pub fn netlink(&self) -> Netlink {
        Netlink::inside(self.host.netns()).unwrap()
    }

    /// The link of that name on the host.
    pub fn link(&self, name: &str) -> Option<Link> {
        self.netlink().link(name).unwrap()
    }

    /// The links of the host but `lo`, by name.
    pub fn links(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
        names.retain(|name| name != "lo");
        names.sort();
        names
    }

    /// Runs `f` with the host's ruleset.
    pub fn firewall<T: Send>(&self, f: impl FnOnce(&mut Firewall) -> T + Send) -> T {
        self.host.run(|| f(&mut Firewall::open().unwrap())).unwrap()
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

    /// Everything the host's namespace holds, and every file that rnet keeps, but for locks, which say who held
    /// them last, and the index of leases, which is a cache.
    pub fn snapshot(&self) -> Snapshot {
        self.await_the_end_of_flows();
        let root = self.host.root();
        let mut folders = vec![root.join("var/lib/cni"), root.join("etc")];
        let passing = |path: &PathBuf| path.ends_with("locks") || path.ends_with("index");
        folders
            .extend(entries(&self.run_folder()).into_iter().filter(|path| path.is_dir() && !passing(path)));
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        Snapshot::of(self.host.netns(), &folders).unwrap()
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
        let cookie = self.host.run(|| netlink::cookie().unwrap()).unwrap();
        store::Paths::under(self.host.root(), cookie).run()
    }

    /// A file below the host's directory, its content as text.
    pub fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.host.root().join(path)).ok()
    }

    /// Puts a program of the given text into the plugin folder.
    pub fn install_script(&self, name: &str, text: &str) {
        netns_fixtures::write_program(self.plugins.join(name), text).unwrap();
    }
}

impl Who {
    /// A container's `eth0`.
    pub fn of(container: &Container) -> Self {
        Self::named(container.name(), &container.path().to_string_lossy())
    }

    /// `eth0` of whatever has this id and this namespace.
    pub fn named(id: &str, netns: &str) -> Self {
        Self { id: id.into(), netns: netns.into(), ifname: "eth0".into(), args: String::new() }
    }

    /// The same container's other interface.
    pub fn ifname(self, ifname: &str) -> Self {
        Self { ifname: ifname.into(), ..self }
    }

    /// With CNI_ARGS.
    pub fn args(self, args: &str) -> Self {
        Self { args: args.into(), ..self }
    }

    /// With another CNI_NETNS.
    pub fn netns(self, netns: &str) -> Self {
        Self { netns: netns.into(), ..self }
    }
}

impl<'a> Call<'a> {
    /// Sets a variable.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// What it reads.
    pub fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = text.into();
        self
    }

    /// With arguments, as a person calls the command.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// Makes the call in a process group that is there.
    pub fn in_group(self, group: u32) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Makes the call and waits for its end.
    pub fn run(self) -> Outcome {
        let output = self.program().input(self.input.clone()).output().unwrap();
        let status = output.status.code().or(output.status.signal().map(|signal| 128 + signal)).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts the call, its input in a file, its output thrown away; for tests that kill it.
    pub fn spawn(self) -> Child {
        self.spawn_to(Stdio::null())
    }

    /// The same with a standard output.
    pub fn spawn_to(self, stdout: Stdio) -> Child {
        let mut input = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut input, &self.input).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        self.program().stdin(input).stdout(stdout).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Nothing of the caller's environment reaches the plugin, but for how it ends.
    fn program(&self) -> Program<'a> {
        let root = self.lab.host.root();
        let mut program = self.lab.host.command(&self.program).env_clear().env("RNET_ROOT", root);
        program = program.args(&self.arguments);
        if let Some(group) = self.group {
            program = program.process_group(group);
        }
        program.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&self.variables)
    }
}

impl Outcome {
    /// The document on stdout of a call that must have succeeded, saying nothing on stderr.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Success without a word.
    #[track_caller]
    pub fn silent(&self) {
        assert_eq!((self.status, self.stdout.as_str(), self.stderr.as_str()), (0, "", ""), "{self:?}");
    }

    /// Failure: the error JSON, with exit status 1.
    #[track_caller]
    pub fn error(&self) -> Value {
        assert_eq!((self.status, self.stderr.as_str()), (1, ""), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Failure: the error's code and message.
    #[track_caller]
    pub fn refusal(&self) -> (u64, String) {
        let error = self.error();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
    }
}

/// The configuration of a network of type `rnet` with these subnets.
pub fn rnet(name: &str, subnets: &[&str]) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "type": "rnet", "ipam": {"ranges": ranges(subnets)}})
}

/// The configuration of a network of type `bridge` on the bridge `br0` with host-local and these subnets.
pub fn bridge(name: &str, subnets: &[&str]) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": "br0",
        "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": ranges(subnets)},
    })
}

/// One range set for each subnet.
pub fn ranges(subnets: &[&str]) -> Value {
    subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect()
}

/// `config` with the members of `more` over its own.
pub fn with(config: &Value, more: Value) -> Value {
    let mut whole = config.clone();
    for (key, value) in more.as_object().unwrap() {
        whole[key] = value.clone();
    }
    whole
}

/// `config` with published ports: host address, host port, container port and protocol of each.
pub fn publishing(config: &Value, ports: &[(&str, u16, u16, &str)]) -> Value {
    let mapping = |(host, from, to, protocol): &(&str, u16, u16, &str)| json!({"hostIP": host, "hostPort": from, "containerPort": to, "protocol": protocol});
    let mappings: Vec<Value> = ports.iter().map(mapping).collect();
    with(config, json!({"runtimeConfig": {"portMappings": mappings}}))
}

/// What a plugin of a list gets on its standard input.
pub fn config_of(list: &Value, plugin: &Value, previous: Option<&Value>) -> Value {
    let mut config = with(plugin, json!({"name": list["name"], "cniVersion": list["cniVersion"]}));
    if let Some(previous) = previous {
        config["prevResult"] = previous.clone();
    }
    config
}

/// The container's address in a result: the first of that family, without its prefix length.
pub fn address(result: &Value, v6: bool) -> std::net::IpAddr {
    let ips = result["ips"].as_array().unwrap().iter();
    let mut ips = ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap());
    ips.find(|ip: &std::net::IpAddr| ip.is_ipv6() == v6).unwrap()
}

/// Links, addresses, routes and sysctls of a container.
pub fn inside(netns: &Netns) -> Netlink {
    Netlink::inside(netns).unwrap()
}

/// The differences between two snapshots, but for the address that was given last: a failed ADD uses one up.
pub fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let lines = before.diff(after).unwrap_or_default();
    lines.lines().filter(|line| !line.contains("last_reserved_ip")).map(str::to_owned).collect()
}

/// What a folder holds; nothing if it is not there.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// A file system of 80 KiB. Unmounted on drop.
pub struct Disk(PathBuf);

impl Disk {
    /// A new one at `path`.
    pub fn mount(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), c"size=80k").unwrap();
        Self(path)
    }

    /// Leaves no room.
    pub fn fill(&self) {
        // As much as fits; the last write is refused.
        let _ = std::fs::write(self.0.join("filler"), vec![0; 64 << 10]);
    }

    /// Makes room again.
    pub fn tidy(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }

    /// Lets nobody write, or everybody again.
    pub fn read_only(&self, yes: bool) {
        let flags = if yes { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount(&self.0, flags, c"size=80k").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
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
