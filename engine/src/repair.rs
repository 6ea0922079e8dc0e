//! A network made whole again while containers are on it: what other programs have changed in the kernel becomes what is on record.

use store::{Address, Record, Stage};

use crate::spec::{Lease, Spec};
use crate::{Error, Finding, Host, check, drivers, life, ruleset};

/// What a repair has found.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What is as it should be again.
    pub mended: Vec<Finding>,
    /// What is not.
    pub left: Vec<Finding>,
}

/// Makes a network whole, if any container is on it: what its driver and the features find wrong on the host's side of each.
///
/// # Errors
/// Something could not be looked at or made.
pub fn repair(spec: &Spec) -> Result<Repaired, Error> {
    let mut host = Host::open(format!("repair {}", spec.id.network))?;
    let mut records = host.store.records()?;
    records.retain(|record| record.network == spec.id.network && record.stage == Stage::Committed);
    let found = look(&mut host, spec, &records)?;
    let own: Vec<&Record> = records.iter().filter(|record| record.plugin == spec.plugin).collect();
    if let Some(held) = drivers::of(spec.plugin).make_whole(&mut host, spec, &lease(&own))? {
        ruleset::restore(&mut host)?;
        match own.first() {
            Some(record) => life::publish(&mut host, record, held)?,
            None => drop(held),
        }
    }
    let left = if found.is_empty() { Vec::new() } else { look(&mut host, spec, &records)? };
    host.close();
    let mended = found.into_iter().filter(|finding| !left.contains(finding)).collect();
    Ok(Repaired { mended, left })
}

/// Each thing once: what is wrong with the bridge is wrong for all.
fn look(host: &mut Host, spec: &Spec, records: &[Record]) -> Result<Vec<Finding>, Error> {
    let mut found: Vec<Finding> = Vec::new();
    for record in records {
        check::look(host, spec, record, &mut |finding| {
            if !found.contains(&finding) {
                found.push(finding);
            }
        })?;
    }
    Ok(found)
}

/// One address for each subnet and gateway that containers have.
fn lease(records: &[&Record]) -> Lease {
    let mut addresses: Vec<Address> = Vec::new();
    for address in records.iter().flat_map(|record| &record.addresses) {
        let is_known = |ip: &Address| {
            ip.gateway == address.gateway
                && ip.address.prefix() == address.address.prefix()
                && ip.address.contains(address.address.ip())
        };
        if !addresses.iter().any(is_known) {
            addresses.push(address.clone());
        }
    }
    Lease { addresses, ..Lease::default() }
}
