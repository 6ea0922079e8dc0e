//! firewalld's part: a zone for our bridges and a policy by which what comes from them may go on, by D-Bus.
//!
//! Both are permanent, so they outlive a reload and a restart. The zone `trusted` would do it in one call, but opens every
//! port of the host to containers.

use nft::{Links, Passage};

use super::dbus::{Answer, Bus, Error, Object, Value};

/// Our zone and our policy.
const ZONE: &str = "rnet";
const POLICY: &str = "rnet-out";
const NAME: &str = "org.fedoraproject.FirewallD1";
const RUNTIME: &str = "/org/fedoraproject/FirewallD1";
const CONFIG: &str = "/org/fedoraproject/FirewallD1/config";
/// What firewalld keeps of a definition that was removed.
const REMAINS: [&str; 2] = ["/etc/firewalld/zones/rnet.xml.old", "/etc/firewalld/policies/rnet-out.xml.old"];
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];

/// How things stand with firewalld.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneState {
    /// The interfaces in our zone, as firewalld writes them.
    pub interfaces: Vec<String>,
    /// Interfaces that the administrator has put into another zone, with that zone.
    pub elsewhere: Vec<(String, String)>,
    /// Published ports are closed, except those that firewalld itself forwards.
    pub strict: bool,
}

/// What can go wrong, besides the bus.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No answer, or a refusal.
    #[error(transparent)]
    Bus(#[from] Error),
    /// An interface is in another zone.
    #[error(
        "firewalld has {interface} in zone {zone}, so its traffic follows that zone's rules; to let rnet decide, type: \
         firewall-cmd --permanent --zone={zone} --remove-interface={interface} && firewall-cmd --reload"
    )]
    Elsewhere {
        /// As firewalld writes it.
        interface: String,
        /// Not ours.
        zone: String,
    },
}

/// Lets firewalld pass our traffic, at once and for good.
///
/// # Errors
/// firewalld does not answer or refuses, or the administrator has put a bridge into another zone.
pub fn let_pass(passage: &Passage) -> Result<(), Trouble> {
    let mut firewalld = Firewalld(Bus::connect()?);
    let interfaces: Vec<String> = passage.bridges.iter().map(Links::to_string).collect();
    let placed = firewalld.placed(&interfaces)?;
    firewalld.define(&placed.interfaces, &passage.ports)?;
    firewalld.enforce(&placed.interfaces, &passage.ports)?;
    match placed.elsewhere.into_iter().next() {
        Some((interface, zone)) => Err(Trouble::Elsewhere { interface, zone }),
        None => Ok(()),
    }
}

/// Takes zone and policy away again. The zone that is in force has no interface then, and goes with the next reload: one
/// for its sake would cost the administrator what he has set for this run only. If firewalld is not there, it has nothing.
pub fn leave() {
    let Ok(bus) = Bus::connect() else { return };
    let mut firewalld = Firewalld(bus);
    let interfaces = firewalld.zone("getInterfaces", &[Value::Text(ZONE)]).map(|answer| answer.texts());
    for interface in interfaces.unwrap_or_default() {
        let _ = firewalld.zone("removeInterface", &[Value::Text(ZONE), Value::Text(&interface)]);
    }
    for (by_name, name, interface) in
        [("getPolicyByName", POLICY, "config.policy"), ("getZoneByName", ZONE, "config.zone")]
    {
        let path = firewalld.config(by_name, &[Value::Text(name)]);
        if let Some(path) = path.ok().as_ref().and_then(Answer::text)
            && firewalld.is_named(path, interface, name)
        {
            let _ = firewalld.call(path, interface, "remove", &[]);
        }
    }
    for file in REMAINS {
        let _ = std::fs::remove_file(file);
    }
}

/// What firewalld says; `None` if it does not answer.
pub fn state() -> Option<ZoneState> {
    let mut firewalld = Firewalld(Bus::connect().ok()?);
    let interfaces = firewalld.zone("getInterfaces", &[Value::Text(ZONE)]).map(|answer| answer.texts());
    Some(ZoneState {
        interfaces: interfaces.unwrap_or_default(),
        elsewhere: Vec::new(),
        strict: firewalld.is_strict(),
    })
}

/// The zone that an interface is in, by its name or by a beginning with `+`.
pub fn zone_of(interface: &str) -> Option<String> {
    let answer = Firewalld(Bus::connect().ok()?).zone("getZoneOfInterface", &[Value::Text(interface)]);
    answer.ok()?.text().filter(|zone| !zone.is_empty()).map(str::to_owned)
}

/// The zone of interfaces that are in none.
pub fn default_zone() -> Option<String> {
    let answer = Firewalld(Bus::connect().ok()?).call(RUNTIME, "", "getDefaultZone", &[]);
    answer.ok()?.text().map(str::to_owned)
}

struct Firewalld(Bus);

impl Firewalld {
    fn call(
        &mut self,
        path: &str,
        interface: &str,
        member: &'static str,
        arguments: &[Value<'_>],
    ) -> Result<Answer, Error> {
        let interface = if interface.is_empty() { NAME.to_owned() } else { format!("{NAME}.{interface}") };
        self.0.call(Object { destination: NAME, path, interface: &interface }, member, arguments)
    }

    fn zone(&mut self, member: &'static str, arguments: &[Value<'_>]) -> Result<Answer, Error> {
        self.call(RUNTIME, "zone", member, arguments)
    }

    fn config(&mut self, member: &'static str, arguments: &[Value<'_>]) -> Result<Answer, Error> {
        self.call(CONFIG, "config", member, arguments)
    }

    /// The interfaces that are in our zone or in none, and those in another one.
    fn placed(&mut self, interfaces: &[String]) -> Result<ZoneState, Error> {
        let mut placed = ZoneState::default();
        for interface in interfaces {
            let answer = self.zone("getZoneOfInterface", &[Value::Text(interface)])?;
            match answer.text().unwrap_or_default() {
                "" | ZONE => placed.interfaces.push(interface.clone()),
                zone => placed.elsewhere.push((interface.clone(), zone.to_owned())),
            }
        }
        Ok(placed)
    }

    /// The permanent part.
    fn define(&mut self, interfaces: &[String], ports: &[u16]) -> Result<(), Error> {
        let pairs = pairs(ports);
        match self.config("getZoneByName", &[Value::Text(ZONE)]) {
            Ok(path) => self.extend(path.text().unwrap_or_default(), interfaces, &pairs)?,
            Err(Error::Refused { .. }) => {
                let settings = [
                    ("description", Value::Text("Bridges of rnet's networks. Written and removed by rnet.")),
                    ("target", Value::Text("default")),
                    ("interfaces", Value::Texts(interfaces)),
                    ("forward", Value::Bool(true)),
                    ("ports", Value::Pairs(&pairs)),
                ];
                self.config("addZone2", &[Value::Text(ZONE), Value::Map(&settings)])?;
            }
            Err(error) => return Err(error),
        }
        if self.config("getPolicyByName", &[Value::Text(POLICY)]).is_ok() {
            return Ok(());
        }
        let (from, to) = ([ZONE.to_owned()], ["ANY".to_owned()]);
        let settings = [
            ("target", Value::Text("ACCEPT")),
            ("ingress_zones", Value::Texts(&from)),
            ("egress_zones", Value::Texts(&to)),
        ];
        self.config("addPolicy", &[Value::Text(POLICY), Value::Map(&settings)]).map(drop)
    }

    fn extend(&mut self, path: &str, interfaces: &[String], ports: &[(String, &str)]) -> Result<(), Error> {
        if !self.is_named(path, "config.zone", ZONE) {
            let text = "its definitions were renumbered meanwhile".into();
            return Err(Error::Refused { member: "getZoneByName", text });
        }
        for interface in interfaces {
            if !self.call(path, "config.zone", "queryInterface", &[Value::Text(interface)])?.is_true() {
                self.call(path, "config.zone", "addInterface", &[Value::Text(interface)])?;
            }
        }
        for (port, protocol) in ports {
            let arguments = [Value::Text(port), Value::Text(protocol)];
            if !self.call(path, "config.zone", "queryPort", &arguments)?.is_true() {
                self.call(path, "config.zone", "addPort", &arguments)?;
            }
        }
        Ok(())
    }

    /// The part in force. A zone and a policy that are new come with a reload only.
    fn enforce(&mut self, interfaces: &[String], ports: &[u16]) -> Result<(), Error> {
        let zones = self.zone("getZones", &[])?.texts();
        let policies = self.call(RUNTIME, "policy", "getPolicies", &[])?.texts();
        if !zones.iter().any(|zone| zone == ZONE) || !policies.iter().any(|policy| policy == POLICY) {
            self.call(RUNTIME, "", "reload", &[])?;
        }
        for interface in interfaces {
            if self.zone("getZoneOfInterface", &[Value::Text(interface)])?.text() != Some(ZONE) {
                self.zone("addInterface", &[Value::Text(ZONE), Value::Text(interface)])?;
            }
        }
        for (port, protocol) in pairs(ports) {
            let arguments = [Value::Text(ZONE), Value::Text(&port), Value::Text(protocol)];
            if !self.zone("queryPort", &arguments)?.is_true() {
                self.zone("addPort", &[arguments[0], arguments[1], arguments[2], Value::Number(0)])?;
            }
        }
        Ok(())
    }

    /// Older versions do not know the word.
    fn is_strict(&mut self) -> bool {
        let strict = self.property(CONFIG, "config", "StrictForwardPorts");
        matches!(strict.as_deref(), Some("yes" | "true"))
    }

    /// A reload in between gives the objects other numbers: rnet must change only its own.
    fn is_named(&mut self, path: &str, interface: &str, name: &str) -> bool {
        self.property(path, interface, "name").as_deref() == Some(name)
    }

    fn property(&mut self, path: &str, interface: &str, name: &str) -> Option<String> {
        let properties = Object { destination: NAME, path, interface: "org.freedesktop.DBus.Properties" };
        let interface = format!("{NAME}.{interface}");
        let answer = self.0.call(properties, "Get", &[Value::Text(&interface), Value::Text(name)]);
        answer.ok()?.variant().map(str::to_owned)
    }
}

fn pairs(ports: &[u16]) -> Vec<(String, &'static str)> {
    ports.iter().flat_map(|port| PROTOCOLS.map(|protocol| (port.to_string(), protocol))).collect()
}
