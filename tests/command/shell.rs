//! What is typed on a host, and what must come of it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use netlink::Netns;
use netns_fixtures::{Container, Program, Snapshot};
use serde_json::Value;

use crate::common::{Host, Outcome, Who, inside, wait_until};

impl Host {
    /// Types a line whose last word is a shell script.
    pub fn script(&self, line: &str, script: &str) -> Outcome {
        Outcome::of(self.program(line).args(["sh", "-c", script]))
    }

    /// What a line that succeeds prints.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let said = self.rnet(line);
        assert_eq!(said.status, 0, "rnet {line}: {said:?}");
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
        let output = self.command("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    #[track_caller]
    pub fn fails(&self, line: &str, exit: i32, stderr: &str) {
        let said = self.rnet(line);
        assert_eq!((said.status, said.stderr.as_str()), (exit, stderr), "rnet {line}: {said:?}");
    }

    pub fn definitions(&self) -> PathBuf {
        self.root().join("etc/cni/net.d")
    }

    /// What a line says that fails, with that status.
    #[track_caller]
    pub fn refused(&self, line: &str, exit: i32) -> String {
        let said = self.rnet(line);
        assert_eq!(said.status, exit, "rnet {line}: {said:?}");
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
        inside(&netns).link("eth0").unwrap().unwrap().mtu
    }

    /// The processes that watch over endpoints of this host.
    pub fn supervisors(&self) -> Vec<u32> {
        self.processes("rnet\0supervise\0")
    }

    /// ADD by the plugin that `config` names, as a runtime that calls the container `name` does it.
    #[track_caller]
    pub fn add_named(&self, config: &Value, container: &Container, id: &str, name: &str) {
        let who = Who::named(id, container.path().to_str().unwrap());
        let who = who.args(&format!("IgnoreUnknown=1;K8S_POD_NAME={name}"));
        self.add(config["type"].as_str().unwrap(), &who, config);
    }

    /// The host's network and definitions, without the folders that rnet keeps for the next time.
    pub fn network_snapshot(&self) -> Snapshot {
        Snapshot::of(self.netns(), &[&self.definitions()]).unwrap()
    }

    /// Nothing of any endpoint is left.
    #[track_caller]
    pub fn nobody_is_left(&self) {
        assert_eq!(self.ok("ps -q"), "");
        wait_until("no supervisor is left", || self.supervisors().is_empty());
        let links = self.run(|| std::fs::read_to_string("/proc/net/dev").unwrap()).unwrap();
        assert!(!links.contains("veth"), "{links}");
    }
}

/// A foreground `rnet run` whose program has said that it runs.
pub fn started(program: Program<'_>, script: &str) -> Child {
    let mut child = program.args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}
