//! The books: leases, records, kernel objects and claims each have their counterpart (I1, I2, I3 of the fault model).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use engine::{drivers, elements};
use nft::Subject;
use store::{Record, Stage};

use crate::common::{Guest, Host, Network};

/// An address, and the container and interface that have it.
type Holder = (IpAddr, String, String);

impl Host {
    /// Everything that has no counterpart, in sentences. `members` are all containers there ever were.
    pub fn audit(&self, guests: &[&Guest<'_>]) -> Vec<String> {
        let records = self.store().records().unwrap();
        let mut findings = stages(&records);
        findings.extend(self.network_findings(&records));
        findings.extend(self.lease_findings(&records, guests));
        findings.extend(self.link_findings(&records));
        findings.extend(self.element_findings(&records));
        findings.extend(self.claim_findings(&records));
        findings.extend(self.mac_check_findings(&records, guests));
        findings.extend(self.name_findings(&records));
        findings.extend(doubles(guests));
        findings
    }

    /// Panics if the books do not balance.
    #[track_caller]
    pub fn assert_balanced(&self, guests: &[&Guest<'_>]) {
        let findings = self.audit(guests);
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    /// A network is remembered exactly as long as it has a record.
    fn network_findings(&self, records: &[Record]) -> Vec<String> {
        let kept = self.store().networks().unwrap();
        let kept: BTreeSet<_> = kept.into_iter().map(|network| (network.name, network.plugin)).collect();
        let used = records.iter().map(|record| (record.network.clone(), record.plugin.clone())).collect();
        differences("network", &kept, &used, "is remembered without a record", "has records and is not known")
    }

    /// A lease for each address of a record, a record for each lease, and the address in the container.
    fn lease_findings(&self, records: &[Record], guests: &[&Guest<'_>]) -> Vec<String> {
        let networks: BTreeMap<_, _> = guests.iter().map(|m| (m.network.name(), &m.network)).collect();
        let leased = networks.values().flat_map(|network| leases_in(&self.lease_folder(network))).collect();
        let is_maker = |record: &&Record| drivers::makers().any(|maker| maker == record.plugin);
        let interfaces = records.iter().filter(is_maker);
        let recorded = interfaces.flat_map(|record| {
            let holder = |ip| (ip, record.container.clone(), record.ifname.clone());
            record.addresses.iter().map(move |address| holder(address.address.ip()))
        });
        let recorded = recorded.collect();
        let inside = guests.iter().flat_map(|guest| {
            let who = &guest.who;
            guest.addresses().into_iter().map(|ip| (ip, who.id.clone(), who.ifname.clone()))
        });
        let inside: BTreeSet<Holder> = inside.collect();
        [
            differences("lease", &leased, &recorded, "has no record", "is recorded and has no file"),
            differences(
                "address",
                &inside,
                &recorded,
                "has no record",
                "is recorded and not in the container",
            ),
        ]
        .concat()
    }

    /// A host end for each record that names one, and a record for each host end.
    fn link_findings(&self, records: &[Record]) -> Vec<String> {
        let links = self.netlink().links().unwrap();
        let pairs = links.iter().filter(|link| link.name.starts_with("veth"));
        let found = pairs.map(|link| (link.name.clone(), link.alias.clone().unwrap_or_default())).collect();
        let named =
            records.iter().filter_map(|record| Some((record.link.clone()?, record.key().to_string())));
        differences("link", &found, &named.collect(), "has no record", "is recorded and not there")
    }

    /// Exactly the elements that the records ask for.
    fn element_findings(&self, records: &[Record]) -> Vec<String> {
        let networks = self.store().networks().unwrap();
        let wanted = networks
            .iter()
            .flat_map(elements::network_elements)
            .chain(records.iter().flat_map(elements::attachment));
        let wanted = wanted.map(|(element, owner)| (element.to_string(), Some(owner))).collect();
        let found = self.elements().into_iter().map(|(element, owner)| (element.to_string(), owner));
        differences("element", &found.collect(), &wanted, "has no record", "is recorded and not there")
    }

    /// The rules of macspoofchk are there exactly for those whose record asks for them.
    fn mac_check_findings(&self, records: &[Record], guests: &[&Guest<'_>]) -> Vec<String> {
        let is_wanted = |guest: &Guest<'_>| {
            let of_guest =
                |record: &&Record| record.container == guest.who.id && record.ifname == guest.who.ifname;
            records.iter().filter(of_guest).any(|record| record.mac_checked)
        };
        let is_there = |guest: &Guest<'_>| {
            let subject = Subject::new(&guest.who.id, &guest.who.ifname).unwrap();
            self.firewall(|firewall| firewall.knows_mac_check(&subject).unwrap())
        };
        let states = guests.iter().map(|guest| (guest, is_wanted(guest), is_there(guest)));
        let wrong = states.filter(|(_, wanted, found)| wanted != found);
        wrong
            .map(|(guest, wanted, _)| format!("macspoofchk of {}: recorded {wanted}", guest.who.id))
            .collect()
    }

    /// Claims belong to records with ports; the loopback is open exactly where it is claimed.
    fn claim_findings(&self, records: &[Record]) -> Vec<String> {
        let publishing: BTreeSet<String> = records
            .iter()
            .filter(|record| !record.ports.is_empty())
            .map(|record| record.key().to_string())
            .collect();
        let mut findings = Vec::new();
        let claims = self.store().paths().run().join("claims");
        for what in names(&claims) {
            let claimants = names(&claims.join(&what));
            let strangers = claimants.iter().filter(|key| !publishing.contains(*key));
            findings.extend(strangers.map(|key| format!("claim {what} of {key} has no record with ports")));
            findings.extend(claimants.is_empty().then(|| format!("claim {what} has no claimant")));
        }
        for link in self.netlink().links().unwrap() {
            let open = self.sysctl(&format!("ipv4/conf/{}/route_localnet", link.name));
            let claimed = claims.join(format!("loopback-{}", link.name)).exists();
            if claimed != (open.as_deref() == Some("1")) {
                findings.push(format!("route_localnet of {} is {open:?}, claimed: {claimed}", link.name));
            }
        }
        findings
    }

    /// The name server knows exactly those that the records name. Where no network has names, there need be none.
    fn name_findings(&self, records: &[Record]) -> Vec<String> {
        let networks = self.store().networks().unwrap();
        if networks.iter().all(|network| network.zone.is_none()) {
            return Vec::new();
        }
        let status = match dns::client::status(&self.store().paths().name_server()) {
            Ok(status) => status,
            Err(error) => return vec![error.to_string()],
        };
        let told = status.endpoints.into_iter();
        let told = told.map(|told| (told.network, told.container, told.ifname, told.names, told.addresses));
        let recorded = records.iter().filter(|record| !record.names.is_empty()).map(|record| {
            let addresses: Vec<IpAddr> =
                record.addresses.iter().map(|address| address.address.ip()).collect();
            let Record { network, container, ifname, names, .. } = record.clone();
            (network, container, ifname, names, addresses)
        });
        let (told, recorded) = (told.collect(), recorded.collect());
        differences("name", &told, &recorded, "has no record", "is recorded and not served")
    }

    fn lease_folder(&self, network: &Network) -> PathBuf {
        match network.main_plugin() {
            "rnet" => self.store().leases(network.name()),
            _ => self.host_local().join(network.name()),
        }
    }
}

/// After a recovery no ADD is half done.
fn stages(records: &[Record]) -> Vec<String> {
    let half = records.iter().filter(|record| record.stage != Stage::Committed);
    half.map(|record| format!("{} of {} on {} is half done", record.ifname, record.container, record.network))
        .collect()
}

/// I1: no address is in two places.
pub fn doubles(guests: &[&Guest<'_>]) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut findings = Vec::new();
    for guest in guests {
        for ip in guest.addresses() {
            let key = (guest.network.name().to_owned(), ip);
            if let Some(other) = seen.insert(key, guest.who.id.clone()) {
                findings.push(format!("{ip} is given to {other} and to {}", guest.who.id));
            }
        }
    }
    findings
}

fn leases_in(folder: &Path) -> Vec<Holder> {
    let lease = |name: String| {
        let ip = name.parse().ok()?;
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        let (id, ifname) = text.split_once("\r\n").unwrap();
        Some((ip, id.to_owned(), ifname.to_owned()))
    };
    names(folder).into_iter().filter_map(lease).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn differences<T: Ord + std::fmt::Debug>(
    what: &str,
    found: &BTreeSet<T>,
    wanted: &BTreeSet<T>,
    surplus: &str,
    missing: &str,
) -> Vec<String> {
    let more = found.difference(wanted).map(|one| format!("{what} {one:?} {surplus}"));
    let less = wanted.difference(found).map(|one| format!("{what} {one:?} {missing}"));
    more.chain(less).collect()
}
