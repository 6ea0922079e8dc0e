//! A container that comes and goes.

use std::net::IpAddr;
use std::process::Child;
use std::sync::Mutex;
use std::time::Duration;

use netns_fixtures::{Container, HttpServer, http_get, ping};
use serde_json::{Value, json};

use super::{HOST, Network, Site};
use crate::common::{self, Call, LONG, Outcome, Who};

/// A failpoint in one plugin of a list: `add.veth:abort`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub plugin: String,
    pub failpoint: String,
}

/// A container of a network, its ports, and the result that the runtime remembers of its ADD.
pub struct Member<'a> {
    pub site: &'a Site,
    pub network: &'a Network,
    pub container: Container,
    pub who: Who,
    pub ports: Value,
    result: Mutex<Option<Value>>,
}

impl<'a> Member<'a> {
    pub fn new(site: &'a Site, network: &'a Network, name: &str) -> Self {
        let (container, who) = site.lab.container(name);
        let lo = netlink::Request::LinkUp { index: 1, name: "lo".into() };
        common::inside(container.netns()).send(&[lo]).unwrap();
        Self { site, network, container, who, ports: json!([]), result: Mutex::default() }
    }

    /// Publishes TCP `port` on every address as the container's 80, and UDP `port` on one address as its 53.
    pub fn publishing(self, port: u16) -> Self {
        let tcp = json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"});
        let udp = json!({"hostIP": HOST, "hostPort": port, "containerPort": 53, "protocol": "udp"});
        Self { ports: json!([tcp, udp]), ..self }
    }

    /// ADD of all plugins, each given the result of the one before.
    pub fn add(&self) -> Result<Value, Outcome> {
        self.add_with(None)
    }

    /// The same with a failpoint in one of them; the runtime stops at the first that fails and undoes nothing.
    pub fn add_with(&self, fault: Option<&Fault>) -> Result<Value, Outcome> {
        self.remember(None);
        let mut previous = None;
        for plugin in self.network.plugins() {
            let outcome = self.call("ADD", plugin, previous.as_ref(), fault).run();
            if outcome.status != 0 {
                return Err(outcome);
            }
            previous = Some(outcome.json());
        }
        self.remember(previous.clone());
        Ok(previous.unwrap())
    }

    /// DEL of all plugins in reverse, with the result if there is one; the runtime stops at the first that fails.
    pub fn del(&self) -> Result<(), Outcome> {
        self.del_with(None)
    }

    /// The same with a failpoint in one of them.
    pub fn del_with(&self, fault: Option<&Fault>) -> Result<(), Outcome> {
        let previous = self.remembered();
        for plugin in self.network.plugins().into_iter().rev() {
            let outcome = self.call("DEL", plugin, previous.as_ref(), fault).run();
            if outcome.status != 0 {
                return Err(outcome);
            }
        }
        self.remember(None);
        Ok(())
    }

    /// GC of all plugins: only `valid` containers' `eth0` may stay.
    pub fn gc(&self, valid: &[&str]) -> Result<(), Outcome> {
        let attachments: Vec<Value> =
            valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
        for plugin in self.network.plugins() {
            let mut config = self.network.config(plugin, &json!([]), None);
            config["cni.dev/valid-attachments"] = json!(attachments);
            let outcome = self.site.lab.cni("GC", plugin, &self.who, &config);
            if outcome.status != 0 {
                return Err(outcome);
            }
        }
        Ok(())
    }

    /// Starts one plugin of an ADD or DEL and does not wait for it.
    pub fn spawn(&self, verb: &str, plugin: &str) -> Child {
        let previous = self.remembered();
        self.call(verb, plugin, previous.as_ref(), None).spawn()
    }

    /// One call of one plugin.
    pub fn call(
        &self,
        verb: &str,
        plugin: &str,
        previous: Option<&Value>,
        fault: Option<&Fault>,
    ) -> Call<'_> {
        let config = self.network.config(plugin, &self.ports, previous);
        let mut call = self.site.lab.call(verb, plugin, &self.who).input(config.to_string());
        if let Some(boot) = self.site.boot.get() {
            call = call.set("RNET_BOOT_ID", boot);
        }
        match fault.filter(|fault| fault.plugin == plugin) {
            Some(fault) => call.set("RNET_FAILPOINT", &fault.failpoint),
            None => call,
        }
    }

    /// The result that the runtime has kept.
    pub fn remembered(&self) -> Option<Value> {
        self.result.lock().unwrap().clone()
    }

    /// What the runtime keeps from now on.
    pub fn remember(&self, result: Option<Value>) {
        *self.result.lock().unwrap() = result;
    }

    /// The addresses of its interface as the kernel has them.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut inside = common::inside(self.container.netns());
        let Some(link) = inside.link(&self.who.ifname).unwrap() else { return Vec::new() };
        let found = inside.addresses(Some(link.index)).unwrap().into_iter().map(|found| found.address.ip());
        found.filter(IpAddr::is_ipv4).collect()
    }

    pub fn address(&self) -> IpAddr {
        self.addresses()[0]
    }

    /// True if the host reaches it, and the machine outside its published port, if it has one.
    pub fn works(&self) -> bool {
        let addresses = self.addresses();
        !addresses.is_empty()
            && addresses.iter().all(|to| self.is_reached(*to))
            && (self.ports.as_array().unwrap().is_empty() || self.answers())
    }

    /// True if the host reaches all its addresses.
    pub fn is_on_the_network(&self) -> bool {
        self.addresses().iter().all(|to| self.is_reached(*to))
    }

    /// The first echo may be lost: ADD does not wait until the kernel has noticed the carrier.
    fn is_reached(&self, to: IpAddr) -> bool {
        (0..5).any(|_| ping(self.site.lab.host.netns(), to, Duration::from_secs(1)).unwrap().is_some())
    }

    /// True if the machine outside gets this container's own page from its published port.
    pub fn answers(&self) -> bool {
        self.answers_within(LONG)
    }

    /// The same, for what may be expected to fail.
    pub fn answers_within(&self, patience: Duration) -> bool {
        let server = HttpServer::start(self.container.netns(), "0.0.0.0:80".parse().unwrap(), &self.who.id);
        let url = format!("http://{HOST}:{}", self.ports[0]["hostPort"]);
        let page = http_get(self.site.outside.netns(), &url, patience);
        drop(server);
        page.is_ok_and(|page| page.body == self.who.id)
    }
}
