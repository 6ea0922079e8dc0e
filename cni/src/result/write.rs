//! A result as each generation of the specification writes it (section 5), key by key in its order.

use serde_json::{Map, Value};

use super::{CniResult, Dns, Interface, Ip, Route};
use crate::error::Error;
use crate::fault::Fault;
use crate::version::Version;

impl CniResult {
    pub(super) fn write_v0_1(&self, version: Version) -> Result<Value, Error> {
        let [ip4, ip6] = [true, false].map(|v4| self.of_family(v4));
        if ip4.is_none() && ip6.is_none() {
            return Err(Fault::NoAddress.into());
        }
        let json = Members::new(version).put_some("ip4", ip4).put_some("ip6", ip6);
        Ok(json.put("dns", self.dns.write_in_struct_order()).value())
    }

    /// The first address of a family with the family's routes.
    fn of_family(&self, v4: bool) -> Option<Value> {
        let ip = self.ips.iter().find(|ip| ip.address.is_ipv4() == v4)?;
        let routes = self.routes.iter().filter(|route| route.dst.is_ipv4() == v4);
        let routes =
            routes.map(|route| Members::default().put("dst", text(&route.dst)).put_text("gw", &route.gw));
        let json = Members::default().put("ip", text(&ip.address)).put_text("gateway", &ip.gateway);
        Some(json.put_list("routes", routes.map(Members::value)).value())
    }

    pub(super) fn write_v0_3(&self, version: Version) -> Value {
        Members::new(version)
            .put_list("interfaces", self.interfaces.iter().map(Interface::write_v0_3))
            .put_list("ips", self.ips.iter().map(Ip::write_v0_3))
            .put_list("routes", self.routes.iter().map(Route::write_v0_3))
            .put("dns", self.dns.write_in_struct_order())
            .value()
    }

    pub(super) fn write_v1(&self, version: Version) -> Value {
        let dns = (!self.dns.is_empty()).then(|| self.dns.write_alphabetically());
        Members::new(version)
            .put_some("dns", dns)
            .put_list("interfaces", self.interfaces.iter().map(Interface::write_v1))
            .put_list("ips", self.ips.iter().map(Ip::write_v1))
            .put_list("routes", self.routes.iter().map(Route::write_v1))
            .value()
    }
}

impl Interface {
    fn write_v0_3(&self) -> Value {
        Members::default()
            .put("name", self.name.as_str())
            .put_text("mac", &self.mac)
            .put_text("sandbox", &self.sandbox)
            .value()
    }

    pub(super) fn write_v1(&self) -> Value {
        Members::default()
            .put_text("mac", &self.mac)
            .put_some("mtu", self.mtu)
            .put("name", self.name.as_str())
            .put_text("pciID", &self.pci_id)
            .put_text("sandbox", &self.sandbox)
            .put_text("socketPath", &self.socket_path)
            .value()
    }
}

impl Ip {
    fn write_v0_3(&self) -> Value {
        Members::default()
            .put("version", if self.address.is_ipv4() { "4" } else { "6" })
            .put_some("interface", self.interface)
            .put("address", text(&self.address))
            .put_text("gateway", &self.gateway)
            .value()
    }

    fn write_v1(&self) -> Value {
        Members::default()
            .put("address", text(&self.address))
            .put_text("gateway", &self.gateway)
            .put_some("interface", self.interface)
            .value()
    }
}

impl Route {
    fn write_v0_3(&self) -> Value {
        Members::default()
            .put("dst", text(&self.dst))
            .put_text("gw", &self.gw)
            .put_some("mtu", self.mtu)
            .put_some("advmss", self.advmss)
            .put_some("priority", self.priority)
            .put_some("table", self.table)
            .put_some("scope", self.scope)
            .value()
    }

    fn write_v1(&self) -> Value {
        Members::default()
            .put_some("advmss", self.advmss)
            .put("dst", text(&self.dst))
            .put_text("gw", &self.gw)
            .put_some("mtu", self.mtu)
            .put_some("priority", self.priority)
            .put_some("scope", self.scope)
            .put_some("table", self.table)
            .value()
    }
}

impl Dns {
    fn write_in_struct_order(&self) -> Value {
        Members::default()
            .put_list("nameservers", self.nameservers.iter().map(text))
            .put_text("domain", &self.domain)
            .put_list("search", self.search.iter().map(text))
            .put_list("options", self.options.iter().map(text))
            .value()
    }

    fn write_alphabetically(&self) -> Value {
        Members::default()
            .put_text("domain", &self.domain)
            .put_list("nameservers", self.nameservers.iter().map(text))
            .put_list("options", self.options.iter().map(text))
            .put_list("search", self.search.iter().map(text))
            .value()
    }
}
/// The members of a JSON object in the order they are put.
#[derive(Default)]
struct Members(Map<String, Value>);

impl Members {
    fn new(version: Version) -> Self {
        Members::default().put("cniVersion", version.as_str())
    }

    fn put(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn put_some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.put(key, value),
            None => self,
        }
    }

    fn put_text(self, key: &str, value: &Option<impl ToString>) -> Self {
        self.put_some(key, value.as_ref().map(text))
    }

    fn put_list(self, key: &str, items: impl Iterator<Item = Value>) -> Self {
        let items: Vec<Value> = items.collect();
        if items.is_empty() { self } else { self.put(key, items) }
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

fn text(value: &impl ToString) -> Value {
    Value::String(value.to_string())
}
