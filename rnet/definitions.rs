//! Network definitions: the conflist files that every runtime reads, and the built-in default network.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use cni::conflist::{self, List};
use cni::{Dns, Version, fold};
use ipam::HostLocal;
use ipnetwork::IpNetwork;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use store::{NetworkKey, Paths};

use crate::lock::{self, Held};
use crate::names;
use crate::report::Problem;
use crate::subnets::{first_host, last_host};

/// The device of the built-in network.
pub const DEFAULT_DEVICE: &str = "rnet0";

/// A network as its definition tells of it.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The file that defines it; none is the built-in one.
    pub file: Option<PathBuf>,
    /// Its plugins.
    pub list: List,
    /// Its subnets, in the order of its range sets.
    pub subnets: Vec<Subnet>,
    kind: String,
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The address that containers use as their gateway.
    pub gateway: IpAddr,
    /// The part of it that addresses are given from, where it is not the whole.
    pub range: Option<(IpAddr, IpAddr)>,
}

/// What `create` writes into a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The name.
    pub name: String,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// The MTU, where one was given.
    pub mtu: Option<u32>,
    /// The standard plugins instead of `rnet`.
    pub chain: bool,
    /// The highest version that all plugins have.
    pub version: Version,
    /// A name gets the addresses that it had before.
    pub sticky: bool,
    /// Containers find one another by name.
    pub names: bool,
    /// The resolver settings.
    pub dns: Dns,
    /// No answer from outside points into a subnet of ours.
    pub rebinding_guard: bool,
    /// A container sends from its own addresses only.
    pub spoof_guard: bool,
}

/// The folder of the definitions.
#[derive(Clone, Debug)]
pub struct Definitions {
    folder: PathBuf,
}

/// What can be read of the folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// The networks, sorted by name; of several definitions of one name the first, as for every runtime.
    pub networks: Vec<Network>,
    /// Files that define nothing, each with the reason.
    pub broken: Vec<String>,
}

impl Network {
    fn new(list: List, file: Option<PathBuf>) -> Self {
        let subnets = list.plugins.iter().flat_map(subnets_of).collect();
        let first = list.plugins.first().and_then(Value::as_object);
        let kind = first.and_then(|plugin| text(plugin, "type")).unwrap_or_default().to_owned();
        Self { name: list.name.clone(), file, list, subnets, kind }
    }

    /// The id: 16 hex digits out of name and plugin, for networks of one name may be different networks.
    pub fn id(&self) -> String {
        NetworkKey::new(&format!("{} {}", self.name, self.kind())).to_string()
    }

    /// True for the network that no file defines.
    pub fn is_builtin(&self) -> bool {
        self.name == names::DEFAULT && self.kind() == "rnet" && self.file.is_none()
    }

    /// What `ls` calls its driver: `bridge` for our own, else the type of the first plugin.
    pub fn driver(&self) -> &str {
        match self.kind() {
            "rnet" => "bridge",
            other => other,
        }
    }

    /// The type of its first plugin, the one that makes the interface.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its bridge, for the plugins that have one.
    pub fn bridge(&self) -> Option<String> {
        let configured =
            self.first_plugin().and_then(|plugin| text(plugin, "bridge")).filter(|name| !name.is_empty());
        let default = match self.kind() {
            "rnet" => Some(plugins::default_bridge(&self.name)),
            "bridge" => Some("cni0".to_owned()),
            _ => return None,
        };
        configured.map(str::to_owned).or(default)
    }

    /// True if its bridge is its containers' gateway.
    pub fn is_gateway(&self) -> bool {
        let is_set = |key| {
            self.first_plugin().and_then(|plugin| fold::member(plugin, key)) == Some(&Value::Bool(true))
        };
        self.kind() == "rnet"
            || (self.kind() == "bridge" && (is_set("isGateway") || is_set("isDefaultGateway")))
    }

    /// The MTU that it asks for.
    pub fn mtu(&self) -> Option<u64> {
        fold::member(self.first_plugin()?, "mtu")?.as_u64().filter(|mtu| *mtu > 0)
    }

    /// True if its containers find one another by name.
    pub fn has_names(&self) -> bool {
        let plugins = self.list.plugins.iter().filter_map(Value::as_object);
        let mut serving = plugins.filter(|plugin| match text(plugin, "type") {
            Some("rnet") => fold::member(plugin, "names") == Some(&Value::Bool(true)),
            kind => kind == Some("dnsname"),
        });
        serving.next().is_some()
    }

    /// True if a plugin of the list takes this capability (`portMappings`).
    pub fn has_capability(&self, name: &str) -> bool {
        self.list.plugins.iter().filter_map(Value::as_object).any(|plugin| {
            let capabilities = fold::member(plugin, "capabilities");
            capabilities.and_then(|declared| declared.get(name)) == Some(&Value::Bool(true))
        })
    }

    /// The types of all plugins that a runtime has to find, IPAM plugins too.
    pub fn plugin_types(&self) -> Vec<&str> {
        let types = self.plugins_and_ipam().flat_map(|(plugin, ipam)| [Some(plugin), ipam]);
        types.flatten().filter(|kind| !kind.is_empty()).collect()
    }

    /// Those of them that rnet has to find as files. What it has itself runs in its own process, except below a plugin
    /// of another's, which looks for its IPAM plugin in CNI_PATH.
    pub fn executed_types(&self) -> Vec<&str> {
        let types = self.plugins_and_ipam().flat_map(|(plugin, ipam)| {
            let foreign = Some(plugin).filter(|kind| plugins::find(kind).is_none());
            let delegated = ipam.filter(|kind| foreign.is_some() || plugins::find(kind).is_none());
            [foreign, delegated]
        });
        types.flatten().filter(|kind| !kind.is_empty()).collect()
    }

    /// The same network in the highest version of those that it declares and that all of `common` have; unchanged if
    /// there is none.
    pub fn in_common(&self, common: &[Version]) -> Result<Network, cni::Error> {
        let Some(object) = self.list.raw.as_object() else { return Ok(self.clone()) };
        let listed = fold::member(object, "cniVersions").and_then(Value::as_array).into_iter().flatten();
        let declared = listed.chain(fold::member(object, "cniVersion")).filter_map(Value::as_str);
        let declared = declared.filter_map(|text| text.parse::<Version>().ok());
        let Some(version) = declared.filter(|version| common.contains(version)).max() else {
            return Ok(self.clone());
        };
        let mut raw = object.clone();
        raw.retain(|key, _| !["cniversion", "cniversions"].contains(&key.to_ascii_lowercase().as_str()));
        raw.insert("cniVersion".into(), json!(version.as_str()));
        let list = List::parse(Value::Object(raw).to_string().as_bytes())?;
        Ok(Network { list, ..self.clone() })
    }

    fn plugins_and_ipam(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.list.plugins.iter().filter_map(Value::as_object).map(|plugin| {
            let ipam = fold::member(plugin, "ipam").and_then(Value::as_object);
            (text(plugin, "type").unwrap_or_default(), ipam.and_then(|ipam| text(ipam, "type")))
        })
    }

    /// `172.18.0.0/16 on rnet-mynet`, in words for a message.
    pub fn what(&self) -> String {
        let subnets = self.subnet_text();
        match (subnets.is_empty(), self.bridge(), &self.file) {
            (false, Some(bridge), _) => format!("{subnets} on {bridge}"),
            (_, _, Some(file)) => file.display().to_string(),
            _ => subnets,
        }
    }

    /// Its subnets, parted by commas.
    pub fn subnet_text(&self) -> String {
        self.subnets.iter().map(|subnet| subnet.subnet.to_string()).collect::<Vec<_>>().join(",")
    }

    fn first_plugin(&self) -> Option<&Map<String, Value>> {
        self.list.plugins.first().and_then(Value::as_object)
    }
}

impl Wanted {
    /// The document of the definition.
    pub fn conflist(&self) -> Value {
        let plugins = if self.chain { self.chain() } else { vec![self.rnet()] };
        let versions = [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0].into_iter();
        let versions: Vec<_> = versions.filter(|it| *it <= self.version).map(Version::as_str).collect();
        json!({
            "cniVersion": self.version.min(Version::V1_0_0).as_str(),
            "cniVersions": versions,
            // Several runtimes may use it, and each knows its own containers only.
            "disableGC": true,
            "name": self.name,
            "plugins": plugins,
        })
    }

    fn rnet(&self) -> Value {
        let mut plugin = json!({"type": "rnet", "bridge": self.bridge()});
        self.put_mtu(&mut plugin);
        plugin["capabilities"] = json!({"portMappings": true, "ips": true, "mac": true, "aliases": true});
        if !self.sticky {
            plugin["stickyAddresses"] = json!(false);
        }
        if self.names {
            plugin["names"] = json!(true);
            plugin["capabilities"]["dns"] = json!(true);
        }
        if !self.spoof_guard {
            plugin["spoofGuard"] = json!(false);
        }
        self.put_rebinding_guard(&mut plugin);
        put_dns(&mut plugin, &self.dns);
        plugin["ipam"] = json!({"ranges": self.ranges()});
        plugin
    }

    fn chain(&self) -> Vec<Value> {
        let default = |subnet: &Subnet| if subnet.subnet.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let routes: Vec<Value> = self.subnets.iter().map(|subnet| json!({"dst": default(subnet)})).collect();
        let mut bridge = json!({
            "type": "bridge",
            "bridge": self.bridge(),
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
        });
        self.put_mtu(&mut bridge);
        bridge["capabilities"] = json!({"ips": true});
        bridge["ipam"] = json!({"type": "host-local", "ranges": self.ranges(), "routes": routes});
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        if !self.names {
            put_dns(&mut bridge, &self.dns);
            return vec![bridge, portmap];
        }
        // The rest is dnsname's, which adds to what the plugins before it tell.
        put_dns(&mut bridge, &Dns { search: self.dns.search.clone(), ..Dns::default() });
        vec![bridge, portmap, self.dnsname()]
    }

    fn dnsname(&self) -> Value {
        let mut plugin = json!({"type": "dnsname"});
        if let Some(domain) = &self.dns.domain {
            plugin["domainName"] = json!(domain);
        }
        if !self.dns.nameservers.is_empty() {
            plugin["remoteServers"] = json!(self.dns.nameservers);
        }
        self.put_rebinding_guard(&mut plugin);
        plugin["capabilities"] = json!({"aliases": true, "dns": true});
        plugin
    }

    fn put_rebinding_guard(&self, plugin: &mut Value) {
        if self.rebinding_guard {
            plugin["rebindingGuard"] = json!(true);
        }
    }

    fn bridge(&self) -> String {
        if self.name == names::DEFAULT { DEFAULT_DEVICE.into() } else { plugins::default_bridge(&self.name) }
    }

    fn put_mtu(&self, plugin: &mut Value) {
        if let Some(mtu) = self.mtu {
            plugin["mtu"] = json!(mtu);
        }
    }

    /// One set for each subnet: a container gets an address of each.
    fn ranges(&self) -> Vec<Value> {
        let set = |subnet: &Subnet| {
            let mut range = json!({"subnet": subnet.subnet, "gateway": subnet.gateway});
            if let Some((start, end)) = subnet.range {
                range["rangeStart"] = json!(start);
                range["rangeEnd"] = json!(end);
            }
            json!([range])
        };
        self.subnets.iter().map(set).collect()
    }
}

impl Subnet {
    /// A subnet whose gateway is its first host.
    pub fn of(subnet: IpNetwork) -> Self {
        Self { subnet, gateway: first_host(subnet), range: None }
    }

    /// Limits the addresses that are given to those of `range` that a host can have.
    pub fn limited_to(self, range: IpNetwork) -> Self {
        let start = range.network().max(first_host(self.subnet));
        let end = range.broadcast().min(last_host(self.subnet));
        Self { range: Some((start, end)), ..self }
    }
}

impl Definitions {
    /// The folder where this host's definitions are.
    pub fn of(paths: &Paths) -> Self {
        Self { folder: paths.definitions() }
    }

    /// The file that `create` writes for a network.
    pub fn file_name(name: &str) -> String {
        format!("rnet-{name}.conflist")
    }

    /// True if rnet wrote the definition of this network.
    pub fn is_ours(&self, network: &Network) -> bool {
        network.file.as_deref() == Some(&self.folder.join(Self::file_name(&network.name)))
    }

    /// Every network that is defined here.
    pub fn list(&self) -> Result<Listing, cni::Error> {
        // Lists before single configurations, as for every runtime that looks for a name.
        let (lists, singles): (Vec<_>, Vec<_>) = conflist::files(&self.folder)?
            .into_iter()
            .partition(|file| file.extension() == Some("conflist".as_ref()));
        let (mut listing, mut seen) = (Listing::default(), HashSet::new());
        for file in lists.into_iter().chain(singles) {
            match List::read(&file) {
                Ok(list) if seen.insert(list.name.clone()) => {
                    listing.networks.push(Network::new(list, Some(file)));
                }
                Ok(list) => listing.broken.push(format!(
                    "{}: another file also defines network {:?}",
                    file.display(),
                    list.name
                )),
                Err(error) => listing.broken.push(format!("{}: {}", file.display(), error.msg)),
            }
        }
        listing.networks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listing)
    }

    /// Keeps the definitions as they are (shared), or keeps all others from them (alone). Waits at most ten seconds.
    pub fn lock(&self, alone: bool) -> anyhow::Result<Held> {
        let folder = self.open()?;
        Ok(lock::take(
            folder,
            alone,
            lock::PATIENCE,
            &format!("the definitions in {}", self.folder.display()),
        )?)
    }

    /// Keeps the definitions as they are, if there are any: to use them makes no folder for them.
    pub fn keep(&self, alone: bool) -> anyhow::Result<Option<Held>> {
        if self.folder.exists() { self.lock(alone).map(Some) } else { Ok(None) }
    }

    /// Writes a definition whole, so that it outlives a power loss: file, rename, folder. Returns the file.
    pub fn write(&self, wanted: &Wanted) -> anyhow::Result<PathBuf> {
        let dir = self.open()?;
        let name = Self::file_name(&wanted.name);
        let text = format!("{:#}\n", wanted.conflist());
        let file = self.folder.join(&name);
        write_synced(&dir, &name, text.as_bytes()).map_err(Problem::file("write", &file))?;
        Ok(file)
    }

    /// Removes the definition that rnet wrote for a network.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let dir = self.open()?;
        let name = Self::file_name(name);
        let removed = match rustix::fs::unlinkat(&dir, &name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other.and_then(|()| rustix::fs::fsync(&dir)),
        };
        Ok(removed.map_err(Problem::file("remove", &self.folder.join(name)))?)
    }

    fn open(&self) -> Result<OwnedFd, store::Error> {
        store::open_dir(&self.folder, 0o755)
    }
}

fn put_dns(plugin: &mut Value, dns: &Dns) {
    if !dns.is_empty() {
        plugin["dns"] = json!(dns);
    }
}

/// The built-in network on `subnet`: as docker's, it has no names, and who comes back gets any free address.
pub fn default_network(subnet: IpNetwork) -> anyhow::Result<Network> {
    let wanted = Wanted {
        name: names::DEFAULT.into(),
        subnets: vec![Subnet::of(subnet)],
        mtu: None,
        chain: false,
        version: Version::LATEST,
        sticky: false,
        names: false,
        dns: Dns::default(),
        rebinding_guard: false,
        spoof_guard: true,
    };
    let list = List::parse(wanted.conflist().to_string().as_bytes())?;
    Ok(Network::new(list, None))
}

/// A network out of a document that was kept: the definition as an endpoint found it.
pub fn network_of(raw: &Value) -> Result<Network, cni::Error> {
    Ok(Network::new(List::parse(raw.to_string().as_bytes())?, None))
}

/// A network that no file defines any more, by what its plugin remembers of it.
pub fn network_as_made(made: &store::Network) -> Result<Network, cni::Error> {
    let gateway = |subnet: &IpNetwork| {
        let found = made.gateways.iter().map(IpNetwork::ip).find(|gateway| subnet.contains(*gateway));
        found.unwrap_or_else(|| first_host(*subnet))
    };
    let ranges = made.subnets.iter().map(|subnet| json!([{"subnet": subnet, "gateway": gateway(subnet)}]));
    let plugin = json!({
        "type": made.plugin,
        "bridge": made.bridge,
        "names": made.zone.is_some(),
        "ipam": {"ranges": ranges.collect::<Vec<_>>()},
    });
    network_of(&json!({"cniVersion": "1.0.0", "name": made.name, "plugins": [plugin]}))
}

fn write_synced(dir: &OwnedFd, name: &str, bytes: &[u8]) -> Result<(), Errno> {
    let temporary = format!(".{name}.{}", rustix::process::getpid());
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, &temporary, flags, Mode::from_raw_mode(0o644))?;
    let written = write_all(&file, bytes)
        .and_then(|()| rustix::fs::fsync(&file))
        .and_then(|()| rustix::fs::renameat(dir, &temporary, dir, name))
        .and_then(|()| rustix::fs::fsync(dir));
    if written.is_err() {
        // The error to tell is the first one.
        let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
    }
    written
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::write(file.as_fd(), bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn text<'a>(section: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fold::member(section, key).and_then(Value::as_str)
}

/// The subnets in the `ipam` section of a plugin. What host-local could not read is no subnet here either.
fn subnets_of(plugin: &Value) -> Vec<Subnet> {
    let Some(section) = plugin.as_object().and_then(|plugin| fold::member(plugin, "ipam")) else {
        return Vec::new();
    };
    let Ok(ipam) = fold::from_value::<HostLocal>(section) else { return Vec::new() };
    let old = ipam.subnet.map(|subnet| (subnet, ipam.gateway, ipam.range_start, ipam.range_end));
    let sets = ipam.ranges.unwrap_or_default().into_iter().flatten();
    let new = sets.filter_map(|r| Some((r.subnet?, r.gateway, r.range_start, r.range_end)));
    old.into_iter()
        .chain(new)
        .map(|(subnet, gateway, start, end)| read_subnet(subnet, gateway, start, end))
        .collect()
}

fn read_subnet(
    subnet: IpNetwork,
    gateway: Option<IpAddr>,
    start: Option<IpAddr>,
    end: Option<IpAddr>,
) -> Subnet {
    let whole = Subnet::of(IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet));
    let limited = start.is_some() || end.is_some();
    let range = (start.unwrap_or(first_host(subnet)), end.unwrap_or(last_host(subnet)));
    Subnet { gateway: gateway.unwrap_or(whole.gateway), range: limited.then_some(range), ..whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(subnet: &str, chain: bool) -> Wanted {
        let subnets = vec![Subnet::of(subnet.parse().unwrap())];
        Wanted {
            name: "mynet".into(),
            subnets,
            mtu: None,
            chain,
            version: Version::LATEST,
            sticky: true,
            names: false,
            dns: Dns::default(),
            rebinding_guard: false,
            spoof_guard: true,
        }
    }

    fn definitions() -> (tempfile::TempDir, Definitions) {
        let root = tempfile::tempdir().unwrap();
        let definitions = Definitions::of(&Paths::under(root.path(), 1));
        (root, definitions)
    }

    #[test]
    fn a_network_is_one_plugin_that_does_everything() {
        let expected = r#"{
  "cniVersion": "1.0.0",
  "cniVersions": [
    "0.4.0",
    "1.0.0",
    "1.1.0"
  ],
  "disableGC": true,
  "name": "mynet",
  "plugins": [
    {
      "type": "rnet",
      "bridge": "rnet-mynet",
      "capabilities": {
        "portMappings": true,
        "ips": true,
        "mac": true,
        "aliases": true
      },
      "ipam": {
        "ranges": [
          [
            {
              "subnet": "172.18.0.0/16",
              "gateway": "172.18.0.1"
            }
          ]
        ]
      }
    }
  ]
}"#;
        assert_eq!(format!("{:#}", wanted("172.18.0.0/16", false).conflist()), expected);
    }

    #[test]
    fn a_chain_is_the_standard_plugins() {
        let mut wanted = wanted("10.9.0.0/24", true);
        wanted.mtu = Some(1400);
        let conflist = wanted.conflist();
        assert_eq!(
            conflist["plugins"].to_string(),
            concat!(
                r#"[{"type":"bridge","bridge":"rnet-mynet","isGateway":true,"ipMasq":true,"hairpinMode":true,"mtu":1400,"#,
                r#""capabilities":{"ips":true},"ipam":{"type":"host-local","#,
                r#""ranges":[[{"subnet":"10.9.0.0/24","gateway":"10.9.0.1"}]],"routes":[{"dst":"0.0.0.0/0"}]}},"#,
                r#"{"type":"portmap","capabilities":{"portMappings":true}}]"#
            )
        );
    }

    #[test]
    fn names_and_resolver_settings_go_to_the_plugins_that_take_them() {
        let dns = Dns {
            domain: Some("lab".into()),
            nameservers: vec!["9.9.9.9".into()],
            search: vec!["example.net".into()],
            ..Dns::default()
        };
        let written =
            |chain, names| Wanted { names, dns: dns.clone(), ..wanted("10.9.0.0/24", chain) }.conflist();
        let whole = json!({"nameservers": ["9.9.9.9"], "domain": "lab", "search": ["example.net"]});

        let one = &written(false, true)["plugins"][0];
        assert_eq!((&one["names"], &one["dns"]), (&json!(true), &whole));
        assert_eq!(one["capabilities"]["dns"], json!(true));

        let chain = &written(true, true)["plugins"];
        assert_eq!(chain[0]["dns"], json!({"search": ["example.net"]}));
        assert_eq!(
            chain[2].to_string(),
            r#"{"type":"dnsname","domainName":"lab","remoteServers":["9.9.9.9"],"capabilities":{"aliases":true,"dns":true}}"#
        );
        assert_eq!(written(true, false)["plugins"][0]["dns"], whole);

        for (chain, place) in [(false, 0), (true, 2)] {
            let guarded = Wanted { rebinding_guard: true, names: true, ..wanted("10.9.0.0/24", chain) };
            assert_eq!(guarded.conflist()["plugins"][place]["rebindingGuard"], json!(true));
        }
    }

    #[test]
    fn a_range_keeps_to_addresses_that_a_host_can_have() {
        let range = |subnet: &str, range: &str| {
            let (start, end) =
                Subnet::of(subnet.parse().unwrap()).limited_to(range.parse().unwrap()).range.unwrap();
            (start.to_string(), end.to_string())
        };
        assert_eq!(range("10.9.0.0/24", "10.9.0.64/26"), ("10.9.0.64".into(), "10.9.0.127".into()));
        assert_eq!(range("10.9.0.0/24", "10.9.0.0/25"), ("10.9.0.1".into(), "10.9.0.127".into()));
        assert_eq!(range("10.9.0.0/24", "10.9.0.128/25"), ("10.9.0.128".into(), "10.9.0.254".into()));
    }

    #[test]
    fn what_was_written_is_listed_and_removed_again() {
        let (_root, definitions) = definitions();
        let file = definitions.write(&wanted("172.18.0.0/16", false)).unwrap();

        let listing = definitions.list().unwrap();
        let network = &listing.networks[0];
        assert_eq!(network.file.as_deref(), Some(file.as_path()));
        assert!(definitions.is_ours(network));
        assert_eq!((network.driver(), network.kind()), ("bridge", "rnet"));
        assert_eq!(network.what(), "172.18.0.0/16 on rnet-mynet");
        assert_eq!(network.subnets, [Subnet::of("172.18.0.0/16".parse().unwrap())]);
        assert!(network.has_capability("portMappings") && !network.has_capability("bandwidth"));

        definitions.remove("mynet").unwrap();
        assert_eq!(std::fs::read_dir(&definitions.folder).unwrap().count(), 0);
        definitions.remove("mynet").unwrap();
    }

    #[test]
    fn definitions_of_others_are_read_in_every_form() {
        let (_root, definitions) = definitions();
        std::fs::create_dir_all(&definitions.folder).unwrap();
        let write = |name: &str, text: &str| std::fs::write(definitions.folder.join(name), text).unwrap();
        write(
            "87-podman.conflist",
            r#"{"cniVersion":"0.4.0","name":"podman","plugins":[{"type":"bridge","bridge":"cni-podman0",
            "ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.0.0/16","gateway":"10.88.0.1"}]]}}]}"#,
        );
        write(
            "99-old.conf",
            r#"{"cniVersion":"0.3.1","name":"old","type":"macvlan","ipam":{"type":"host-local",
            "subnet":"10.1.2.0/24","rangeStart":"10.1.2.100"}}"#,
        );
        write(
            "00-dhcp.conflist",
            r#"{"cniVersion":"1.0.0","name":"dhcp","plugins":[{"type":"ipvlan","ipam":{"type":"dhcp"}}]}"#,
        );
        write("10-second.conflist", r#"{"cniVersion":"1.0.0","name":"old","plugins":[{"type":"bridge"}]}"#);
        write("50-broken.conflist", "{");

        let listing = definitions.list().unwrap();

        let shown = listing.networks.iter().map(|n| format!("{} {} {}", n.name, n.driver(), n.subnet_text()));
        // The list of a name hides its single configuration, as libcni looks for lists first.
        assert_eq!(shown.collect::<Vec<_>>(), ["dhcp ipvlan ", "old bridge ", "podman bridge 10.88.0.0/16"]);
        assert!(listing.networks.iter().all(|network| !definitions.is_ours(network)));
        let [broken, hidden] = &listing.broken[..] else { panic!("{:?}", listing.broken) };
        assert!(broken.contains("50-broken.conflist"), "{broken}");
        assert!(hidden.ends_with("99-old.conf: another file also defines network \"old\""), "{hidden}");
    }

    #[test]
    fn the_types_include_the_ipam_plugins() {
        let raw = wanted("10.9.0.0/24", true).conflist();
        let network = network_of(&raw).unwrap();
        assert_eq!(network.plugin_types(), ["bridge", "host-local", "portmap"]);
        assert_eq!(network.executed_types(), [""; 0], "rnet has it");
        let own = default_network("172.18.0.0/16".parse().unwrap()).unwrap();
        assert_eq!((own.plugin_types(), own.executed_types()), (vec!["rnet"], vec![]));
    }

    #[test]
    fn the_default_network_has_a_device_of_its_own() {
        let network = default_network("172.18.0.0/16".parse().unwrap()).unwrap();
        assert_eq!(network.what(), "172.18.0.0/16 on rnet0");
        assert_eq!(network.file, None);
    }
}
