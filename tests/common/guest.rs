//! A container that comes and goes.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Deref;
use std::process::Child;
use std::sync::Mutex;
use std::time::Duration;

use netns_fixtures::{Container, HttpServer, http_get, ping, wait_for_carrier};
use serde_json::{Value, json};

use super::{Call, Host, LONG, Network, Outcome, Published, Who, address, inside, mappings};

/// A failpoint in one plugin of a list: `add.veth:abort`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub plugin: String,
    pub failpoint: String,
}

/// A container, the network that it comes to, its ports, and the result that the runtime remembers of its ADD.
pub struct Guest<'a> {
    pub host: &'a Host,
    pub network: Network,
    pub container: Container,
    pub who: Who,
    pub ports: Value,
    result: Mutex<Option<Value>>,
}

impl Deref for Guest<'_> {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Host {
    /// A container for `network`, without an interface yet; its `lo` is up, which ADD sees to and DEL leaves.
    pub fn guest(&self, network: &Network, name: &str) -> Guest<'_> {
        let (container, who) = self.container(name);
        let lo = netlink::Request::LinkUp { index: 1, name: "lo".into() };
        inside(container.netns()).send(&[lo]).unwrap();
        let (network, ports, result) = (network.clone(), json!([]), Mutex::default());
        Guest { host: self, network, container, who, ports, result }
    }

    /// A new container on the network of one plugin, with these ports published. Its port forwards when this returns: the kernel
    /// takes up to two milliseconds for that, which ADD does not wait for.
    #[track_caller]
    pub fn attach(&self, name: &str, config: &Value, ports: &[Published]) -> Guest<'_> {
        let guest = Guest { ports: mappings(ports), ..self.guest(&Network::of(config), name) };
        guest.attached()
    }

    /// The same on a network of several plugins.
    #[track_caller]
    pub fn attach_list(&self, name: &str, list: &Value) -> Guest<'_> {
        self.guest(&Network { list: list.clone() }, name).attached()
    }
}

impl Guest<'_> {
    /// Known by its name to whom it shares a network with that has names.
    pub fn named(self) -> Self {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAME={}", self.who.id);
        Self { who: self.who.args(&args), ..self }
    }

    /// Attached, and its port forwards.
    #[track_caller]
    pub fn attached(self) -> Self {
        self.add().unwrap();
        self.await_port();
        self
    }

    /// Publishes TCP `port` on every address as the container's 80, and UDP `port` on one address as its 53.
    pub fn publishing(self, port: u16) -> Self {
        let host = self.host.neighbour().host_address();
        let tcp = json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"});
        let udp = json!({"hostIP": host, "hostPort": port, "containerPort": 53, "protocol": "udp"});
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

    /// DEL of the one plugin, as after a restart of the runtime: it remembers no result. It must succeed and say nothing.
    #[track_caller]
    pub fn detach(&self) {
        self.call("DEL", self.network.main_plugin(), None, None).run().silent();
    }

    /// GC of all plugins: only `valid` containers' `eth0` may stay.
    pub fn gc(&self, valid: &[&str]) -> Result<(), Outcome> {
        let attachments: Vec<Value> =
            valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
        for plugin in self.network.plugins() {
            let mut config = self.network.config(plugin, &json!([]), None);
            config["cni.dev/valid-attachments"] = json!(attachments);
            let outcome = self.host.cni("GC", plugin, &self.who, &config);
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
        let call = self.host.call(verb, plugin, &self.who).input(config.to_string());
        match fault.filter(|fault| fault.plugin == plugin) {
            Some(fault) => call.set("RNET_FAILPOINT", &fault.failpoint),
            None => call,
        }
    }

    /// The result that the runtime has kept.
    pub fn remembered(&self) -> Option<Value> {
        self.result.lock().unwrap().clone()
    }

    /// The result of its last ADD.
    #[track_caller]
    pub fn result(&self) -> Value {
        self.remembered().unwrap()
    }

    /// What the plugin that made its interface was given.
    pub fn config(&self) -> Value {
        self.network.config(self.network.main_plugin(), &self.ports, None)
    }

    /// The host's end of its pair, as its result names it.
    #[track_caller]
    pub fn port(&self) -> String {
        let result = self.result();
        let mut on_host =
            result["interfaces"].as_array().unwrap().iter().filter(|it| it["sandbox"].is_null());
        on_host.next_back().unwrap()["name"].as_str().unwrap().to_owned()
    }

    /// Waits until its port forwards.
    #[track_caller]
    pub fn await_port(&self) {
        assert!(wait_for_carrier(self.host.netns(), &self.port(), LONG).unwrap());
    }

    /// Its IPv4 address, by its result.
    #[track_caller]
    pub fn v4(&self) -> IpAddr {
        address(&self.result(), false)
    }

    /// Its IPv6 address, by its result.
    #[track_caller]
    pub fn v6(&self) -> IpAddr {
        address(&self.result(), true)
    }

    /// Its IPv4 and its IPv6 address.
    #[track_caller]
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// A page of its name at this port, on all its addresses.
    pub fn serves(&self, port: u16) -> HttpServer {
        HttpServer::start(self.netns(), (Ipv6Addr::UNSPECIFIED, port).into(), &self.who.id).unwrap()
    }

    /// What the runtime keeps from now on.
    pub fn remember(&self, result: Option<Value>) {
        *self.result.lock().unwrap() = result;
    }

    /// The addresses of its interface as the kernel has them.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut inside = inside(self.container.netns());
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
        (0..5).any(|_| ping(self.host.netns(), to, Duration::from_secs(1)).unwrap().is_some())
    }

    /// True if the machine outside gets this container's own page from its published port.
    pub fn answers(&self) -> bool {
        self.answers_within(LONG)
    }

    /// The same, for what may be expected to fail.
    pub fn answers_within(&self, patience: Duration) -> bool {
        let server = HttpServer::start(self.container.netns(), "0.0.0.0:80".parse().unwrap(), &self.who.id);
        let host = self.host.neighbour().host_address();
        let url = format!("http://{host}:{}", self.ports[0]["hostPort"]);
        let page = http_get(self.host.neighbour().netns(), &url, patience);
        drop(server);
        page.is_ok_and(|page| page.body == self.who.id)
    }
}
