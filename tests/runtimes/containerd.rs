//! containerd's CRI, the way a kubelet calls it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use netlink::Netns;
use netns_fixtures::Program;
use serde_json::{Value, json};

use crate::checks;
use crate::common::Host;
use crate::guest::{Guest, wait_until};
use crate::harness::Test;
use crate::leftovers::Before;
use crate::network::{Flavour, Network};
use crate::program::{bounded, stdout};
use crate::setup::{IMAGE, NETWORKS, PLUGINS, setup};

/// All tests of this file, for one kind of network.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, crate::Body)] = &[
        ("a_pod_gets_address_route_and_loopback", gets_address),
        ("ping_goes_both_ways", ping),
        ("published_ports_answer_everywhere", ports),
        ("a_port_of_one_host_address_stays_there", port_of_one_address),
        ("outbound_is_masqueraded_and_clients_keep_their_address", masquerade),
        ("a_port_in_use_is_refused_without_harm", port_in_use),
        ("late_dels_without_a_namespace_are_fine", late_dels),
        ("a_late_del_does_not_harm_the_successor", successor),
        ("nothing_is_left_behind", nothing_left),
        ("a_vanished_namespace_leaves_nothing_behind", vanished_namespace),
    ];
    tests.iter().map(|test| crate::test("cri", *flavour, *test)).collect()
}

/// A containerd of its own on the host of a lab. Pods that a test leaves are removed on drop, and then containerd ends.
pub struct Containerd<'a> {
    host: &'a Host,
    socket: PathBuf,
    log: PathBuf,
    server: Child,
    client: Mutex<Client>,
}

/// cri.py: a line of JSON in, a line of JSON out.
struct Client {
    program: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// A published port as the CRI has it.
struct Port {
    udp: bool,
    host_ip: &'static str,
    host: u16,
    container: u16,
}

/// TCP port `host` of every address of the host.
fn tcp(host: u16, container: u16) -> Port {
    Port { udp: false, host_ip: "", host, container }
}

impl<'a> Containerd<'a> {
    /// Starts it; networks must have been made before.
    pub fn start(host: &'a Host) -> anyhow::Result<Self> {
        Self::with_plugins(host, Path::new(PLUGINS))
    }

    /// The same with the plugins of `folder`.
    fn with_plugins(host: &'a Host, folder: &Path) -> anyhow::Result<Self> {
        let dir = host.root().join("containerd");
        fs::create_dir_all(&dir)?;
        let (socket, log) = (dir.join("socket"), dir.join("log"));
        let config = dir.join("config.toml");
        fs::write(&config, configuration(&dir, folder))?;
        let server = background(host, "containerd")
            .arg("--config")
            .arg(config)
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?)
            .spawn()?;
        let client = Mutex::new(Client::start(host, &socket)?);
        let containerd = Self { host, socket, log, server, client };
        containerd.import_image()?;
        Ok(containerd)
    }

    /// `method` of `service`, which must succeed.
    fn call(&self, service: &str, method: &str, request: Value) -> anyhow::Result<Value> {
        let asked = json!({"service": service, "method": method, "request": request});
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer =
            client.ask(&asked).with_context(|| format!("{method}; containerd's log: {}", self.log_end()))?;
        ensure!(answer.get("error").is_none(), "{method} failed: {}", answer["error"]);
        Ok(answer["reply"].take())
    }

    fn runtime(&self, method: &str, request: Value) -> anyhow::Result<Value> {
        self.call("RuntimeService", method, request)
    }

    /// `ctr ARGS` in the CRI's namespace.
    pub fn ctr(&self, args: &[&str]) -> anyhow::Result<String> {
        let ctr = bounded(self.host.netns(), "ctr").arg("--address").arg(&self.socket);
        stdout(ctr.args(["--namespace", "k8s.io"]), "ctr", args)
    }

    /// The CRI takes note of an image in its own time.
    fn import_image(&self) -> anyhow::Result<()> {
        // The first call waits for containerd to be there.
        self.runtime("Version", json!({}))?;
        self.ctr(&["images", "import", &setup().image().to_string_lossy()])?;
        let status = || self.call("ImageService", "ImageStatus", json!({"image": {"image": IMAGE}}));
        wait_until("the CRI knows the image", || Ok(status()?.get("image").is_some()))
    }

    /// RunPodSandbox; returns the id.
    fn run_pod(&self, name: &str, ports: &[Port]) -> anyhow::Result<String> {
        let mappings: Vec<Value> = ports.iter().map(Port::to_json).collect();
        let config = json!({
            "metadata": {"name": name, "namespace": "lab", "uid": format!("uid-{name}")},
            "hostname": name, "port_mappings": mappings, "linux": {},
        });
        let reply = self.runtime("RunPodSandbox", json!({"config": config}))?;
        Ok(reply["pod_sandbox_id"].as_str().context("RunPodSandbox gave no id")?.to_owned())
    }

    fn run(&self, name: &str, ports: &[Port]) -> anyhow::Result<(String, Guest)> {
        let id = self.run_pod(name, ports)?;
        let running = self.inspect(&id, name)?.serving()?;
        Ok((id, running))
    }

    /// Where the pod is, by PodSandboxStatus.
    fn inspect(&self, id: &str, name: &str) -> anyhow::Result<Guest> {
        let status = self.runtime("PodSandboxStatus", json!({"pod_sandbox_id": id, "verbose": true}))?;
        let address = status["status"]["network"]["ip"].as_str().unwrap_or_default();
        let info: Value = serde_json::from_str(status["info"]["info"].as_str().unwrap_or("null"))?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
        let netns = namespaces.iter().find(|namespace| namespace["type"] == "network");
        let netns = netns.and_then(|namespace| namespace["path"].as_str()).context("the pod has no netns")?;
        Ok(Guest {
            name: name.into(),
            netns: Netns::open(netns.as_ref())?,
            address: address
                .parse()
                .with_context(|| format!("the CRI knows no address of pod {name}: {status}"))?,
        })
    }

    /// StopPodSandbox. It may be called as often as one likes, and calls DEL each time.
    fn stop(&self, id: &str) -> anyhow::Result<()> {
        self.runtime("StopPodSandbox", json!({"pod_sandbox_id": id})).map(drop)
    }

    fn remove(&self, id: &str) -> anyhow::Result<()> {
        self.runtime("RemovePodSandbox", json!({"pod_sandbox_id": id})).map(drop)
    }

    fn remove_all(&self) -> anyhow::Result<()> {
        let pods = self.runtime("ListPodSandbox", json!({}))?;
        let ids = pods["items"].as_array().cloned().unwrap_or_default();
        ids.iter().filter_map(|pod| pod["id"].as_str()).try_for_each(|id| {
            self.stop(id)?;
            self.remove(id)
        })
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // The test is over, or failing for a better reason.
        let _ = self.remove_all();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Client {
    fn start(host: &Host, socket: &Path) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtimes/cri.py");
        // Debian's Python, which has Debian's grpc.
        let program = background(host, "/usr/bin/python3").arg(script).arg(socket).arg("/usr/bin/containerd");
        let mut program = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let asked = program.stdin.take().context("cri.py has no stdin")?;
        let answers = BufReader::new(program.stdout.take().context("cri.py has no stdout")?);
        Ok(Self { program, asked, answers })
    }

    fn ask(&mut self, asked: &Value) -> anyhow::Result<Value> {
        writeln!(self.asked, "{asked}").context("cri.py does not listen")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("cri.py gave no answer")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Port {
    fn to_json(&self) -> Value {
        let protocol = i32::from(self.udp);
        json!({"protocol": protocol, "host_ip": self.host_ip, "host_port": self.host, "container_port": self.container})
    }
}

/// A program that goes on until it is killed.
fn background<'a>(host: &'a Host, program: &str) -> Program<'a> {
    host.command(program).env_remove("RNET_ROOT").stdin(Stdio::null())
}

/// As Debian ships it, except for its folders; without control groups and OOM scores, which are the machine's.
fn configuration(dir: &Path, plugins: &Path) -> String {
    let (dir, plugins) = (dir.display(), plugins.display());
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/socket"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_cgroup = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{NETWORKS}"
"#
    )
}

fn gets_address(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let (_, pod) = containerd.run("web", &[])?;
    checks::addressed(&pod, &network)
}

fn ping(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let (_, one) = containerd.run("one", &[])?;
    let (_, other) = containerd.run("other", &[])?;
    checks::pings_both_ways(host, &network, &one, &other)
}

/// containerd writes the keys of port mappings with capitals; a plugin that overlooks them publishes nothing.
fn ports(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let dns = Port { udp: true, host_ip: "", host: 5300, container: 53 };
    let (_, web) = containerd.run("web", &[tcp(8080, 80), dns])?;
    let (_, other) = containerd.run("other", &[])?;
    checks::published(host, &network, &web, &other, 8080)?;
    checks::published_udp(host, &network, &web, &other, (5300, 53))
}

fn port_of_one_address(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let inner = Port { host_ip: "127.0.0.1", ..tcp(8081, 80) };
    let outer = Port { host_ip: "192.168.77.1", ..tcp(8082, 80) };
    containerd.run("web", &[inner, outer])?;
    let (localhost, address) = (std::net::IpAddr::from([127, 0, 0, 1]), host.neighbour().host_address());
    checks::shows_the_page(host.netns(), "the host", (localhost, 8081).into())?;
    checks::is_closed(host.neighbour().netns(), "outside", (address, 8081).into())?;
    checks::shows_the_page(host.neighbour().netns(), "outside", (address, 8082).into())?;
    checks::is_closed(host.netns(), "the host", (localhost, 8082).into())
}

fn masquerade(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let (_, web) = containerd.run("web", &[tcp(8181, 81)])?;
    let (_, other) = containerd.run("other", &[])?;
    checks::masqueraded(host, &web)?;
    checks::clients_keep_their_address(host, &web, &other, (8181, 81))
}

/// Unlike podman, containerd does not look for conflicts itself.
fn port_in_use(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let (_, first) = containerd.run("first", &[tcp(8080, 80)])?;
    let refused =
        containerd.run_pod("second", &[tcp(8080, 80)]).err().context("the second pod got the port too")?;
    ensure!(format!("{refused:#}").contains("8080"), "the refusal does not name the port: {refused:#}");
    let (_, other) = containerd.run("other", &[])?;
    checks::published(host, &network, &first, &other, 8080)?;
    drop(containerd);
    network.remove(host)?;
    before.ensure_nothing_left(host)
}

/// The DELs of a pod come two and three times, the later ones with an empty CNI_NETNS and without prevResult.
fn late_dels(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let network = Network::make(host, flavour, 1)?;
    let record = host.root().join("calls");
    let containerd = Containerd::with_plugins(host, &recording_plugins(host, &record)?)?;
    let (id, _) = containerd.run("web", &[tcp(8080, 80)])?;
    containerd.stop(&id)?;
    containerd.stop(&id)?;
    containerd.remove(&id)?;
    let calls = fs::read_to_string(&record)?;
    let added = calls.lines().filter(|call| call.starts_with("ADD ") && call.contains(r#""HostPort":8080"#));
    ensure!(added.count() == 1, "no ADD had capitalised keys, so nothing was tested: {calls}");
    let late =
        calls.lines().filter(|call| call.starts_with("DEL netns= ") && !call.contains(r#""prevResult""#));
    ensure!(late.count() >= 2, "no DEL came late, so nothing was tested: {calls}");
    drop(containerd);
    network.remove(host)?;
    before.ensure_nothing_left(host)
}

/// A folder of plugins that write down how they are called: `VERB netns=PATH STDIN`.
fn recording_plugins(host: &Host, record: &Path) -> anyhow::Result<PathBuf> {
    let folder = host.root().join("recording");
    fs::create_dir_all(&folder)?;
    for name in ["bridge", "portmap", "tuning", "rnet"] {
        let file = folder.join(name);
        let script = format!(
            "#!/bin/sh\nstdin=$(cat)\n\
             printf '%s netns=%s %s\\n' \"$CNI_COMMAND\" \"$CNI_NETNS\" \"$stdin\" >>{}\n\
             printf %s \"$stdin\" | {PLUGINS}/{name}\n",
            record.display()
        );
        netns_fixtures::write_program(&file, &script)?;
    }
    ["host-local", "loopback", "dnsname"]
        .iter()
        .try_for_each(|name| symlink(Path::new(PLUGINS).join(name), folder.join(name)))?;
    Ok(folder)
}

/// The successor has the host port, and where the lowest free address is taken, the address too.
fn successor(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let (_, other) = containerd.run("other", &[])?;
    let (old, _) = containerd.run("web", &[tcp(8080, 80)])?;
    containerd.stop(&old)?;
    let (_, web) = containerd.run("web2", &[tcp(8080, 80)])?;
    checks::answers_at_once(host.netns(), "the host", web.ip())?;
    containerd.stop(&old)?;
    containerd.remove(&old)?;
    checks::published(host, &network, &web, &other, 8080)?;
    checks::pings_both_ways(host, &network, &web, &other)?;
    checks::masqueraded(host, &web)
}

fn nothing_left(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let (one, _) = containerd.run("one", &[tcp(8080, 80), Port { host_ip: "127.0.0.1", ..tcp(8081, 81) }])?;
    let (other, _) = containerd.run("other", &[Port { udp: true, ..tcp(8080, 80) }])?;
    for id in [one, other] {
        containerd.stop(&id)?;
        containerd.remove(&id)?;
    }
    drop(containerd);
    network.remove(host)?;
    before.ensure_nothing_left(host)
}

/// The pin goes while the pod's processes hold the namespace: the only DEL has no namespace, and the veth pair is still there.
fn vanished_namespace(host: &Host, flavour: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let network = Network::make(host, flavour, 1)?;
    let containerd = Containerd::start(host)?;
    let (id, pod) = containerd.run("web", &[tcp(8080, 80)])?;
    Netns::unpin(pod.netns.path())?;
    containerd.stop(&id)?;
    containerd.remove(&id)?;
    drop(containerd);
    network.remove(host)?;
    // `pod` still holds the namespace.
    before.ensure_nothing_left(host)?;
    drop(pod);
    Ok(())
}
