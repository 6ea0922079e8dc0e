//! The name server of a host, and questions as its containers ask them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netns_fixtures::{Container, Lookup, Snapshot, lookup, lookup_address};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{
    Guest, Host, Network, Outcome, Who, children, differences, parent_of, rnet, signal, wait_until, with,
};

/// Longer than any answer takes.
pub const LONG: Duration = Duration::from_secs(6);

pub const NOERROR: u8 = 0;
pub const SERVFAIL: u8 = 2;
pub const NXDOMAIN: u8 = 3;
pub const REFUSED: u8 = 5;

/// The network `mynet`, whose gateway is .1.
pub const GATEWAY: &str = "10.7.0.1";

/// The server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processes {
    pub worker: u32,
    pub parent: u32,
    pub guardian: u32,
}

impl Host {
    /// A container that is called `name`.
    pub fn named(&self, name: &str) -> (Container, Who) {
        let (container, who) = self.container(name);
        (container, who.args(&format!("IgnoreUnknown=1;K8S_POD_NAME={name}")))
    }

    /// A container that is called `name`, on `config`'s network.
    #[track_caller]
    pub fn join(&self, name: &str, config: &Value) -> Guest<'_> {
        let guest = self.guest(&Network::of(config), name).named();
        guest.add().unwrap();
        guest
    }

    /// What `rnet dns status` says.
    pub fn status(&self) -> Outcome {
        self.rnet("dns status --json")
    }

    /// The process that answers, and its parent.
    pub fn server(&self) -> (u32, u32) {
        let pid = self.status().json()["pid"].as_u64().unwrap() as u32;
        (pid, parent_of(pid).unwrap())
    }

    /// All of the server's processes, when all are there.
    pub fn server_processes(&self) -> Processes {
        let mut processes = None;
        wait_until("worker, parent and guardian", || {
            processes = self.server_processes_of_now();
            processes.is_some()
        });
        processes.unwrap()
    }

    /// One may be dying: a process that is not found, or has another parent, does not count.
    fn server_processes_of_now(&self) -> Option<Processes> {
        let status = self.status();
        let status = (status.status == 0).then(|| status.json())?;
        let worker = status["pid"].as_u64()? as u32;
        let parent = parent_of(worker).filter(|parent| is_called(*parent, "serve"))?;
        let guardian = children(parent).into_iter().find(|child| is_called(*child, "guard"))?;
        Some(Processes { worker, parent, guardian })
    }

    /// Ends the server as a whole: guardian and parent at once, and so the worker.
    pub fn kill_server(&self) {
        let Processes { parent, guardian, .. } = self.server_processes();
        signal(parent, Signal::STOP);
        kill(guardian);
        kill(parent);
        wait_until("its death", || self.status().status != 0);
    }

    /// Waits until the server has ended by itself, which takes two seconds.
    pub fn wait_for_its_end(&self) {
        // To ask it would keep it: a request that waits when it ends is served.
        let socket = self.run_folder().join("locks/dns");
        wait_until("the server's end", || !socket.exists());
    }

    /// Nothing is there that was not there before, except for what the leases' folder remembers, and nobody serves.
    #[track_caller]
    pub fn is_as(&self, before: &Snapshot) {
        self.wait_for_its_end();
        let left = differences(before, &self.snapshot());
        let left: Vec<_> = left.into_iter().filter(|line| !line.contains("/leases/")).collect();
        assert!(left.is_empty(), "{left:#?}");
    }
}

/// `mynet` with names.
pub fn mynet() -> Value {
    named("mynet", &["10.7.0.0/24"])
}

/// A network of type `rnet` with names.
pub fn named(name: &str, subnets: &[&str]) -> Value {
    with(&rnet(name, subnets), json!({"names": true, "dns": {"domain": "dns.rnet"}}))
}

/// What `mynet`'s gateway says to `container` about the IPv4 addresses of `name`.
#[track_caller]
pub fn ask(container: &Container, name: &str) -> Lookup {
    ask_at(container, GATEWAY, name)
}

#[track_caller]
pub fn ask_at(container: &Container, gateway: &str, name: &str) -> Lookup {
    lookup(container.netns(), at(gateway), name, false, LONG).unwrap().expect("an answer")
}

/// The name of an address.
#[track_caller]
pub fn name_of(container: &Container, address: IpAddr) -> Lookup {
    let IpAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
    let address: Ipv4Addr = address;
    lookup_address(container.netns(), at(GATEWAY), address, LONG).unwrap().expect("an answer")
}

pub fn at(gateway: &str) -> SocketAddr {
    SocketAddr::new(gateway.parse().unwrap(), 53)
}

/// An answer with these addresses.
pub fn known(addresses: &[IpAddr]) -> Lookup {
    Lookup { addresses: addresses.to_vec(), ..Lookup::default() }
}

/// The answer that there is no such name.
pub fn unknown() -> Lookup {
    Lookup { code: NXDOMAIN, ..Lookup::default() }
}

/// Whether `word` is among the words of its command line.
fn is_called(pid: u32, word: &str) -> bool {
    let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split('\0').any(|other| other == word)
}

/// Ends a process that this test started.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}
