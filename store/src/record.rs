//! The records of an attachment, of a network and of a published port, as JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Id, Key, Mac, Protocol};

/// How far an ADD got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Begun. A process that finds this under the attachment's lock has found a killed ADD.
    #[default]
    Intent,
    /// Everything the record says is in the kernel.
    Committed,
}

/// One attachment (a container's interface on a network), as one plugin made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    /// How far its ADD got.
    pub stage: Stage,
    /// The plugin that wrote it: `rnet`, `bridge`, `portmap`.
    pub plugin: String,
    /// The network's name.
    pub network: String,
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// The container's name, if the runtime passes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The container's network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<Namespace>,
    /// The bridge it is attached to, or the interface through which its ports are reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The host end of its veth pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The container end's MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// The host ports that lead to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Packets that are excluded from those ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Exception>,
    /// Its traffic to other networks is masqueraded.
    #[serde(skip_serializing_if = "is_false")]
    pub masquerade: bool,
    /// Only its published ports may be reached from other networks.
    #[serde(skip_serializing_if = "is_false")]
    pub isolated: bool,
    /// Frames with a source that is not its own are dropped at its port.
    #[serde(skip_serializing_if = "is_false")]
    pub guarded: bool,
    /// A frame may leave through the port by which it came in, as configured.
    #[serde(skip_serializing_if = "is_false")]
    pub hairpin: bool,
    /// Its port reaches only the gateway.
    #[serde(skip_serializing_if = "is_false")]
    pub port_isolated: bool,
    /// Frames with a MAC that is not its own are dropped by the rules of `macspoofchk`.
    #[serde(skip_serializing_if = "is_false")]
    pub mac_checked: bool,
    /// Hairpin and loopback clients of its ports are masqueraded.
    #[serde(skip_serializing_if = "is_false")]
    pub snat: bool,
    /// All clients of its ports are masqueraded.
    #[serde(skip_serializing_if = "is_false")]
    pub masquerade_all: bool,
    /// Its names on its network, if names are served: the container's name, aliases, its short id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The upstream servers for its questions, before the network's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<SocketAddr>,
    /// A digest of its ADD's input, by which a DEL under another network name is recognised. A plugin that makes an
    /// interface hashes the configuration without its name, a chained one the previous result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// The folder of rnet's leases that has its addresses; `None` if another plugin leased them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases: Option<PathBuf>,
    /// What features keep of it, each under its name: see [`Record::section`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sections: BTreeMap<String, Value>,
}

impl Record {
    /// The record that `plugin` writes of an attachment, without any content.
    pub fn of(plugin: &str, id: &Id) -> Self {
        let Id { network, container, ifname } = id.clone();
        Self { plugin: plugin.into(), network, container, ifname, ..Self::default() }
    }

    /// Which attachment it is of.
    pub fn id(&self) -> Id {
        let (network, container) = (self.network.clone(), self.container.clone());
        Id { network, container, ifname: self.ifname.clone() }
    }

    /// The key that names everything this attachment owns.
    pub fn key(&self) -> Key {
        Key::new(&self.network, &self.container, &self.ifname)
    }

    /// What the feature `name` keeps in this record; `None` if it keeps nothing.
    ///
    /// # Errors
    /// [`Error::Section`]: it cannot be read as a `T`.
    pub fn section<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Error> {
        let read = |section| T::deserialize(section).map_err(self.bad_section(name));
        self.sections.get(name).map(read).transpose()
    }

    /// Keeps `section` for the feature `name`, in place of what it kept before. The record is not written.
    ///
    /// # Errors
    /// [`Error::Section`]: JSON has no form for it.
    pub fn set_section<T: Serialize>(&mut self, name: &'static str, section: &T) -> Result<(), Error> {
        let section = serde_json::to_value(section).map_err(self.bad_section(name))?;
        self.sections.insert(name.to_owned(), section);
        Ok(())
    }

    fn bad_section(&self, section: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
        let (who, network) = (self.who().to_owned(), self.network.clone());
        move |error| Error::Section { section, who, network, reason: error.to_string() }
    }

    /// The container in a message: its name, or the first twelve characters of its id.
    pub fn who(&self) -> &str {
        let short = self.container.char_indices().nth(12).map_or(self.container.len(), |(end, _)| end);
        self.name.as_deref().unwrap_or(&self.container[..short])
    }
}

/// A network namespace: its path and its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// CNI_NETNS.
    pub path: PathBuf,
    /// The device of the nsfs.
    pub dev: u64,
    /// The inode there.
    pub ino: u64,
}

/// An address of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address with its network's prefix length, `172.18.0.2/16`.
    pub address: IpNetwork,
    /// The gateway that its routes use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The host address it is published on; `None` is any local address of the container address's family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// The host port.
    pub host_port: u16,
    /// The container's address.
    pub container: IpAddr,
    /// The container's port.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// Sources and destinations that are excluded from an attachment's published ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// The first and the last source address.
    pub sources: (IpAddr, IpAddr),
    /// The first and the last destination address, of the same family.
    pub destinations: (IpAddr, IpAddr),
}

/// What rnet made for a network and removes with its last attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Network {
    /// Committed: everything of it is in the kernel. The next ADD completes an intent, whether the network was being made
    /// or removed.
    pub stage: Stage,
    /// The network's name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Its bridge, or the interface through which its containers are reached.
    pub bridge: String,
    /// rnet made the bridge, and removes it.
    pub owns_bridge: bool,
    /// Its subnets, in CIDR form.
    pub subnets: Vec<IpNetwork>,
    /// The gateways of its containers, which are the bridge's addresses while it exists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpNetwork>,
    /// It is cut off from other networks except for published ports.
    pub isolated: bool,
    /// Its definition says that rnet must not change other firewalls: they may stop its traffic.
    #[serde(skip_serializing_if = "is_false")]
    pub no_interop: bool,
    /// Another program, or another plugin of a list, makes its interfaces.
    #[serde(skip_serializing_if = "is_false")]
    pub given: bool,
    /// Its names, if they are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Its records from before its definition named another bridge: containers of that time may still exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Network>,
}

/// The names of a network, as the name server gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Zone {
    /// The domain under which its names exist too, besides `name.NETWORK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The addresses at which its containers ask.
    pub gateways: Vec<IpAddr>,
    /// The subnets whose addresses belong to it.
    pub subnets: Vec<IpNetwork>,
    /// No question is forwarded.
    #[serde(skip_serializing_if = "is_false")]
    pub internal: bool,
    /// Its upstream servers for all other questions; none means the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<SocketAddr>,
    /// Answers of upstream servers with an address in one of rnet's subnets are dropped.
    #[serde(skip_serializing_if = "is_false")]
    pub rebinding_guard: bool,
    /// Where the name server listens instead, for gateways whose port 53 another program has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<SocketAddr>,
}

impl Zone {
    /// True if this has all that `planned` has.
    pub fn covers(&self, planned: &Zone) -> bool {
        let kept =
            |zone: &Zone| (zone.domain.clone(), zone.internal, zone.upstreams.clone(), zone.rebinding_guard);
        kept(self) == kept(planned)
            && planned.gateways.iter().all(|gateway| self.gateways.contains(gateway))
            && planned.subnets.iter().all(|subnet| self.subnets.contains(subnet))
    }

    /// This zone in place of `past`, whose gateways and subnets its older containers still need.
    pub fn after(mut self, past: Zone) -> Self {
        let (gateways, subnets) = (past.gateways.into_iter(), past.subnets.into_iter());
        let gateways: Vec<_> = gateways.filter(|gateway| !self.gateways.contains(gateway)).collect();
        let subnets: Vec<_> = subnets.filter(|subnet| !self.subnets.contains(subnet)).collect();
        self.gateways.extend(gateways);
        self.subnets.extend(subnets);
        self.moved = past.moved;
        self
    }
}

/// A kernel setting and the value it had before rnet changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// The key below /proc/sys/net, `ipv4/conf/rnet0/route_localnet`.
    pub key: String,
    /// The value to put back.
    pub was: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_only_the_members_that_are_set_and_is_read_back_equal() {
        let record = Record {
            plugin: "rnet".into(),
            network: "mynet".into(),
            container: "4f2a9c0011223344".into(),
            ifname: "eth0".into(),
            guarded: true,
            ..Record::default()
        };

        let json = serde_json::to_string(&record).unwrap();

        assert!(!json.contains("masquerade") && json.contains("\"guarded\":true"));
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }

    /// As the version before wrote it.
    #[test]
    fn a_record_with_a_mac_and_ports_is_read_and_one_with_unknown_words_is_not() {
        let old = r#"{"stage":"committed","plugin":"rnet","network":"n","container":"c","ifname":"eth0",
            "mac":"02:42:ac:12:00:02","addresses":[{"address":"172.18.0.2/16","gateway":"172.18.0.1"}],
            "ports":[{"hostPort":8080,"container":"172.18.0.2","containerPort":80,"protocol":"tcp"}]}"#;

        let record: Record = serde_json::from_str(old).unwrap();

        assert_eq!(record.mac, Some(Mac([2, 0x42, 0xac, 0x12, 0, 2])));
        assert_eq!(record.ports[0].protocol, Protocol::Tcp);
        for (word, other) in [("\"tcp\"", "\"icmp\""), ("02:42:ac:12:00:02", "02:42")] {
            assert!(serde_json::from_str::<Record>(&old.replace(word, other)).is_err(), "{other}");
        }
    }

    #[test]
    fn a_section_is_read_as_it_was_kept_and_not_as_something_else() {
        let mut record =
            Record { container: "4f2a9c001122".into(), network: "n".into(), ..Record::default() };
        assert_eq!(record.section::<Sysctl>("tuning").unwrap(), None);

        let section = Sysctl { key: "core/somaxconn".into(), was: "4096".into() };
        record.set_section("tuning", &section).unwrap();

        let read: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.section("tuning").unwrap(), Some(section));
        assert_eq!(
            read.section::<Vec<u8>>("tuning").unwrap_err().to_string(),
            "the record of container 4f2a9c001122 on network n has a part \"tuning\" that cannot be used: invalid type: map, \
             expected a sequence"
        );
    }

    #[test]
    fn a_container_without_a_name_is_shown_by_its_short_id() {
        let mut record = Record { container: "4f2a9c00112233445566".into(), ..Record::default() };
        assert_eq!(record.who(), "4f2a9c001122");

        record.name = Some("web".into());
        assert_eq!(record.who(), "web");
    }
}
