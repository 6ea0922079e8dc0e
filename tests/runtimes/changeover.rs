//! A host that changes from the reference plugins to rnet, or back, while containers run: the plugins of Debian, and rnet's,
//! called as runtimes call them.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use netns_fixtures::{Connection, Container, tcp_connect};
use serde_json::{Value, json};

use crate::common::Host;
use crate::guest::wait_until;
use crate::harness::Test;
use crate::network::Flavour;
use crate::program::{bounded, ip, stdout};
use crate::setup::PLUGINS;

/// Where Debian keeps the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LEASES: &str = "/var/lib/cni/networks/net1";

/// All tests of this file.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, crate::Body)] = &[
        ("a_container_of_the_reference_plugins_leaves_nothing", leaves_nothing),
        ("a_container_whose_namespace_is_gone_leaves_nothing", leaves_nothing_without_netns),
        ("a_neighbour_of_the_reference_plugins_is_left_alone", leaves_neighbours),
        ("rules_of_the_reference_plugins_nft_backend_go", nft_forms_go),
        ("rules_in_iptables_legacy_keep_the_address", legacy_rules_keep_the_address),
        ("a_container_of_rnet_that_the_reference_plugins_delete", and_back),
    ];
    let chain = *flavour == Flavour::Chain;
    tests.iter().filter(|_| chain).map(|test| crate::test("changeover", *flavour, *test)).collect()
}

/// Calls of plugins on a host, with this PATH, by which they find iptables.
struct Caller<'a> {
    host: &'a Host,
    path: String,
}

impl<'a> Caller<'a> {
    fn on(host: &'a Host) -> Self {
        Self { host, path: SEARCH_PATH.into() }
    }

    /// One plugin of `folder`; what it prints.
    fn call(&self, folder: &str, verb: &str, who: &Holder, config: &Value) -> anyhow::Result<String> {
        let plugin = config["type"].as_str().context("a plugin has a type")?;
        let program = Path::new(folder).join(plugin);
        let call = bounded(self.host.netns(), &program.to_string_lossy())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &who.id)
            .env("CNI_NETNS", &who.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", folder)
            .env("PATH", &self.path)
            .input(config.to_string());
        let none: [&str; 0] = [];
        let output = call.args(none).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{verb} of {folder}/{plugin} for {}: {said}", who.id);
        Ok(said)
    }

    /// ADD of bridge and portmap.
    fn add(&self, folder: &str, who: &Holder) -> anyhow::Result<Value> {
        let result: Value = serde_json::from_str(&self.call(folder, "ADD", who, &bridge(None))?)?;
        self.call(folder, "ADD", who, &portmap(who, Some(&result)))?;
        Ok(result)
    }

    /// DEL of portmap and bridge.
    fn del(&self, folder: &str, who: &Holder, result: Option<&Value>) -> anyhow::Result<()> {
        self.call(folder, "DEL", who, &portmap(who, result))?;
        self.call(folder, "DEL", who, &bridge(result)).map(drop)
    }

    /// As nft tells it, and as iptables does, which knows its own comments.
    fn ruleset(&self) -> anyhow::Result<String> {
        let all = ["-c", "nft list ruleset; iptables-save; ip6tables-save"];
        stdout(bounded(self.host.netns(), "sh"), "sh", &all)
    }

    /// Rules and chains that bear the container's id or lead to chains of its own, and links of the bridge.
    fn ensure_gone(&self, who: &Holder) -> anyhow::Result<()> {
        let rules = self.ruleset()?;
        ensure!(!rules.contains(&format!("id: \\\"{}", who.id)), "rules are left of {}:\n{rules}", who.id);
        let own = rules.lines().filter(|line| line.contains("chain CNI-") && !line.contains("HOSTPORT"));
        ensure!(own.clone().count() == 0, "chains are left: {:?}", own.collect::<Vec<_>>());
        let ports = ip(self.host.netns(), &["link", "show", "master", "br1"])?;
        ensure!(ports.as_array().is_some_and(Vec::is_empty), "ports of {} are left: {ports}", who.id);
        let leases = fs::read_dir(LEASES)?.flatten().map(|file| file.file_name());
        let leases: Vec<_> = leases.filter(|name| name.to_string_lossy().contains("10.89.1.")).collect();
        ensure!(leases.is_empty(), "leases are left: {leases:?}");
        Ok(())
    }
}

/// The container that a call is about, and the port that it publishes.
struct Holder {
    id: String,
    netns: String,
    port: u16,
}

impl Holder {
    fn of(container: &Container, port: u16) -> Self {
        Self { id: container.name().into(), netns: container.path().to_string_lossy().into_owned(), port }
    }
}

fn bridge(previous: Option<&Value>) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.89.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let mut config = json!({"cniVersion": "0.4.0", "name": "net1", "type": "bridge", "bridge": "br1",
        "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam});
    previous.into_iter().for_each(|previous| config["prevResult"] = previous.clone());
    config
}

fn portmap(who: &Holder, previous: Option<&Value>) -> Value {
    let ports = json!([{"hostPort": who.port, "containerPort": 80, "protocol": "tcp"}]);
    let mut config = json!({"cniVersion": "0.4.0", "name": "net1", "type": "portmap",
        "runtimeConfig": {"portMappings": ports}});
    previous.into_iter().for_each(|previous| config["prevResult"] = previous.clone());
    config
}

/// With the result that libcni remembers, and without.
fn leaves_nothing(host: &Host, _: Flavour) -> anyhow::Result<()> {
    for with_result in [true, false] {
        let caller = Caller::on(host);
        let container = host.container("old").0;
        let who = Holder::of(&container, 8080);
        let result = caller.add(REFERENCE, &who)?;
        ensure!(caller.ruleset()?.contains("old"), "the reference plugins wrote no rules to nf_tables");

        caller.del(PLUGINS, &who, with_result.then_some(&result))?;

        caller.ensure_gone(&who)?;
        caller.del(PLUGINS, &who, with_result.then_some(&result))?;
    }
    Ok(())
}

fn leaves_nothing_without_netns(host: &Host, _: Flavour) -> anyhow::Result<()> {
    let caller = Caller::on(host);
    let container = host.container("old").0;
    let who = Holder::of(&container, 8080);
    let result = caller.add(REFERENCE, &who)?;
    // The container lives on, as with runtimes that name no namespace any more.
    let nameless = Holder { netns: String::new(), ..who };
    caller.del(PLUGINS, &nameless, Some(&result))?;
    caller.ensure_gone(&nameless)?;

    let container = host.container("older").0;
    let who = Holder::of(&container, 8081);
    caller.add(REFERENCE, &who)?;
    container.remove()?;
    drop(container);
    caller.del(PLUGINS, &who, None)?;
    // With the namespace the kernel takes the veth, in its own time.
    wait_until("the veth is gone", || Ok(caller.ensure_gone(&who).is_ok()))
}

/// The next holder of the address is not reached by the port of the one before; a neighbour's port goes on.
fn leaves_neighbours(host: &Host, _: Flavour) -> anyhow::Result<()> {
    let caller = Caller::on(host);
    let [old, neighbour] = ["old", "neighbour"].map(|name| host.container(name).0);
    let (who, other) = (Holder::of(&old, 8080), Holder::of(&neighbour, 8081));
    let result = caller.add(REFERENCE, &who)?;
    let kept = caller.add(REFERENCE, &other)?;
    let open = |port: u16| {
        let to = (host.neighbour().host_address(), port).into();
        tcp_connect(host.neighbour().netns(), to, std::time::Duration::from_secs(1))
    };
    let _serving = neighbour.run(|| std::net::TcpListener::bind("0.0.0.0:80"))??;
    ensure!(open(8081)? == Connection::Open, "the neighbour's port does not answer before");

    // A DEL for another network on the same bridge, on which the container never was.
    let mut elsewhere = bridge(None);
    elsewhere["name"] = json!("net2");
    caller.call(PLUGINS, "DEL", &who, &elsewhere)?;
    ensure!(caller.ruleset()?.contains("old"), "another network's DEL removed rules");
    let inside = ip(old.netns(), &["link", "show", "eth0"])?;
    ensure!(inside.as_array().is_some_and(|links| links.len() == 1), "another network's DEL removed eth0");

    caller.del(PLUGINS, &who, Some(&result))?;

    let rules = caller.ruleset()?;
    ensure!(!rules.contains("\\\"old"), "rules are left:\n{rules}");
    ensure!(open(8081)? == Connection::Open, "the neighbour's port does not answer any more");
    caller.del(PLUGINS, &other, Some(&kept))?;
    caller.ensure_gone(&other)
}

/// What upstream's nft backends write since 1.6 (its names and comments: ipmasq_nftables_linux.go, portmap_nftables.go).
fn nft_forms_go(host: &Host, _: Flavour) -> anyhow::Result<()> {
    let caller = Caller::on(host);
    let container = host.container("c1").0;
    let who = Holder::of(&container, 8080);
    let sum = ["-c", "printf net1 | sha512sum | cut -c1-16"];
    let network = stdout(bounded(host.netns(), "sh"), "sh", &sum)?;
    let instance = "f4d01f2ef4b92245, net: net1, if: eth0, id: c1";
    let rules = format!(
        "table inet cni_plugins_masquerade {{
  chain masq_checks {{
    ip saddr 10.89.1.2 ip daddr != 10.89.1.0/24 masquerade comment \"{network}-{instance}\"
    ip saddr 10.89.1.3 masquerade comment \"{network}-0000000000000000, net: net1, if: eth0, id: c2\"
    ip saddr 10.89.1.4 masquerade
  }}
}}"
    );
    let ports = "table ip cni_hostport {
  chain hostports {
    tcp dport 8080 dnat to 10.89.1.2:80 comment \"c1\"
    tcp dport 8081 dnat to 10.89.1.3:80 comment \"c11\"
  }
  chain hostip_hostports {
    ip daddr 192.168.77.1 tcp dport 8082 dnat to 10.89.1.2:80 comment \"c1\"
  }
  chain masquerading {
    ip saddr 10.89.1.2 ip daddr 10.89.1.2 masquerade comment \"c1\"
  }
}
table ip6 cni_hostport {
  chain hostports {
    tcp dport 8080 dnat to [fd00::2]:80 comment \"c1\"
  }
}";
    let script = format!("nft -f - <<'E'\n{rules}\n{ports}\nE");
    stdout(bounded(host.netns(), "sh"), "sh", &["-c", &script])?;

    caller.del(PLUGINS, &who, None)?;

    let left = caller.ruleset()?;
    let comments = left.lines().filter_map(|line| line.split("comment ").nth(1)).collect::<Vec<_>>();
    let others = comments.iter().all(|comment| comment.contains("id: c2") || *comment == "\"c11\"");
    ensure!(comments.len() == 2 && others, "left:\n{left}");
    ensure!(left.contains("10.89.1.4"), "a rule without a comment is gone:\n{left}");
    Ok(())
}

/// What lies in iptables-legacy can be seen and not be changed without a race: the address is not given until it is gone.
fn legacy_rules_keep_the_address(host: &Host, _: Flavour) -> anyhow::Result<()> {
    let mut caller = Caller::on(host);
    let folder = host.root().join("legacy");
    fs::create_dir(&folder)?;
    for name in ["iptables", "ip6tables"] {
        std::os::unix::fs::symlink(format!("/usr/sbin/{name}-legacy"), folder.join(name))?;
    }
    caller.path = format!("{}:{SEARCH_PATH}", folder.display());
    let [old, other] = ["old", "other"].map(|name| host.container(name).0);
    let (who, neighbour) = (Holder::of(&old, 8080), Holder::of(&other, 8081));
    let result = caller.add(REFERENCE, &who)?;
    let kept = caller.add(REFERENCE, &neighbour)?;
    let legacy = || stdout(bounded(host.netns(), "sh"), "sh", &["-c", "iptables-legacy-save"]);
    ensure!(legacy()?.contains("old"), "the reference plugins did not write to iptables-legacy");
    // DEL of an unknown container succeeds, also if other containers have rules there.
    let nobody = Holder { id: "nobody".into(), netns: who.netns.clone(), port: 8082 };
    caller.del(PLUGINS, &nobody, None)?;

    for config in [portmap(&who, Some(&result)), bridge(Some(&result))] {
        let said = match caller.call(PLUGINS, "DEL", &who, &config) {
            Ok(_) => anyhow::bail!("DEL of {} left rules of \"old\" and said nothing", config["type"]),
            Err(error) => error.to_string(),
        };
        ensure!(Path::new(LEASES).join("10.89.1.2").exists(), "the address was freed: {said}");
        let hint = said.split("hint: ").nth(1).and_then(|hint| hint.split('"').next());
        let hint = hint.with_context(|| format!("no hint in {said}"))?;
        stdout(bounded(host.netns(), "sh"), "sh", &["-c", hint])?;
    }
    ensure!(!legacy()?.contains("old") && legacy()?.contains("other"), "left: {}", legacy()?);

    caller.del(PLUGINS, &who, Some(&result))?;
    ensure!(!Path::new(LEASES).join("10.89.1.2").exists(), "the address was not freed");
    caller.del(REFERENCE, &neighbour, Some(&kept))?;
    caller.ensure_gone(&who)
}

/// The reference plugins 1.1.1 free the lease and fail at a chain that they miss; what rnet made stays until rnet is asked.
fn and_back(host: &Host, _: Flavour) -> anyhow::Result<()> {
    let caller = Caller::on(host);
    let container = host.container("new").0;
    let who = Holder::of(&container, 8080);
    let result = caller.add(PLUGINS, &who)?;

    let refused = caller.del(REFERENCE, &who, Some(&result));
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("CNI-")),
        "the reference plugins deleted it"
    );

    let rules = caller.ruleset()?;
    ensure!(rules.contains("10.89.1.2"), "it was expected that rnet's elements stay:\n{rules}");
    caller.del(PLUGINS, &who, Some(&result))?;
    let rules = caller.ruleset()?;
    ensure!(!rules.contains("10.89.1.2") && !rules.contains("table inet rnet"), "rules are left:\n{rules}");
    caller.ensure_gone(&who)
}
