//! A throw-away host on which `rnet` is typed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use netlink::{Netlink, Netns};
use netns_fixtures::{Container, Host, Program, Snapshot};
use serde_json::Value;

pub const LONG: Duration = Duration::from_secs(10);

/// A host on which `rnet` is typed.
pub struct Lab {
    pub host: Host,
}

/// What a command has said.
#[derive(Debug)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub exit: i32,
}

impl Lab {
    pub fn new() -> Self {
        let host = Host::new().unwrap();
        // The first network turns it on, and it stays on; whether it is on before is the machine's business.
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
        Self { host }
    }

    pub fn program(&self, line: &str) -> Program<'_> {
        // Plugins of the machine are none of this host's.
        let program = self.host.command(env!("CARGO_BIN_EXE_rnet")).env("CNI_PATH", self.plugins());
        program.args(line.split_whitespace())
    }

    /// Types `rnet LINE`.
    pub fn rnet(&self, line: &str) -> Said {
        said(self.program(line))
    }

    /// Types a line whose last word is a shell script.
    pub fn script(&self, line: &str, script: &str) -> Said {
        said(self.program(line).args(["sh", "-c", script]))
    }

    /// What a line that succeeds prints.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let said = self.rnet(line);
        assert_eq!(said.exit, 0, "rnet {line}: {said:?}");
        said.stdout
    }

    /// Types `ip LINE` on the host.
    #[track_caller]
    pub fn host_ip(&self, line: &str) {
        self.on_host(&format!("ip {line}"));
    }

    /// Runs a shell script on the host: what it prints.
    #[track_caller]
    pub fn on_host(&self, script: &str) -> String {
        let output = self.host.command("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    #[track_caller]
    pub fn fails(&self, line: &str, exit: i32, stderr: &str) {
        let said = self.rnet(line);
        assert_eq!((said.exit, said.stderr.as_str()), (exit, stderr), "rnet {line}: {said:?}");
    }

    pub fn plugins(&self) -> PathBuf {
        self.host.root().join("opt/cni/bin")
    }

    pub fn definitions(&self) -> PathBuf {
        self.host.root().join("etc/cni/net.d")
    }

    /// What a line says that fails, with that status.
    #[track_caller]
    pub fn refused(&self, line: &str, exit: i32) -> String {
        let said = self.rnet(line);
        assert_eq!(said.exit, exit, "rnet {line}: {said:?}");
        said.stderr
    }

    /// STATE of a network as `ls` shows it.
    pub fn state(&self, network: &str) -> String {
        let networks = self.json("ls --json");
        let found = networks.as_array().unwrap().iter().find(|line| line["name"] == network).cloned();
        let found = found.unwrap_or_else(|| panic!("no {network} in {networks}"));
        match found["reason"].as_str() {
            None => found["state"].as_str().unwrap().to_owned(),
            Some(reason) => format!("{} ({reason})", found["state"].as_str().unwrap()),
        }
    }

    /// The pid of an endpoint's program, which may be some moments older than what is written down of it.
    pub fn pid(&self, endpoint: &str) -> u32 {
        let mut pid = None;
        wait_until("the pid is known", || {
            pid = self.json(&format!("inspect --type endpoint {endpoint}"))[0]["pid"].as_u64();
            pid.is_some()
        });
        pid.unwrap() as u32
    }

    /// The MTU of an endpoint's eth0, by the kernel's word.
    pub fn mtu_of(&self, endpoint: &str) -> u32 {
        let netns = Netns::open(format!("/proc/{}/ns/net", self.pid(endpoint)).as_ref()).unwrap();
        Netlink::inside(&netns).unwrap().link("eth0").unwrap().unwrap().mtu
    }

    /// The processes that watch over endpoints of this host.
    pub fn supervisors(&self) -> Vec<u32> {
        self.processes("rnet\0supervise\0")
    }

    /// The processes of this host whose command line begins so.
    pub fn processes(&self, line: &str) -> Vec<u32> {
        let root = format!("RNET_ROOT={}\0", self.host.root().display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of = |pid: &u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let supervises = |pid: &u32| {
            String::from_utf8_lossy(&of(pid, "cmdline")).starts_with(line)
                && String::from_utf8_lossy(&of(pid, "environ")).contains(&root)
        };
        pids.filter(supervises).collect()
    }

    /// ADD by the plugin that `config` names, as a runtime that calls the container `name` does it.
    #[track_caller]
    pub fn add(&self, config: &Value, container: &Container, id: &str, name: &str) {
        let plugins = self.host.root().join("own-plugins");
        std::fs::create_dir_all(&plugins).unwrap();
        for plugin in ["bridge", "host-local", "portmap", "rnet"] {
            // Not the first call.
            let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rnet"), plugins.join(plugin));
        }
        let program = self.host.command(plugins.join(config["type"].as_str().unwrap()));
        let program = program.envs([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", container.path().to_str().unwrap()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &format!("IgnoreUnknown=1;K8S_POD_NAME={name}")),
            ("CNI_PATH", plugins.to_str().unwrap()),
        ]);
        let output = program.input(config.to_string()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Everything on the host but the folders that rnet keeps for the next time.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.host.netns(), &[&self.definitions()]).unwrap()
    }

    /// Nothing of any endpoint is left.
    #[track_caller]
    pub fn nobody_is_left(&self) {
        assert_eq!(self.ok("ps -q"), "");
        wait_until("no supervisor is left", || self.supervisors().is_empty());
        let links = self.host.run(|| std::fs::read_to_string("/proc/net/dev").unwrap()).unwrap();
        assert!(!links.contains("veth"), "{links}");
    }
}

pub fn said(program: Program<'_>) -> Said {
    let output = program.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said {
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        exit: output.status.code().unwrap_or(-1),
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True once a process runs nothing any more; its parent may not have noticed yet.
pub fn is_dead(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    // The worker of a name server that was killed dies with it.
    let sent = rustix::process::kill_process(pid, signal);
    assert!(matches!(sent, Ok(()) | Err(rustix::io::Errno::SRCH)), "{sent:?}");
}

/// A foreground `rnet run` whose program has said that it runs.
pub fn started(program: Program<'_>, script: &str) -> Child {
    let mut child = program.args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}
