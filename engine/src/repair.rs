//! A network made whole again while containers are on it: what other programs have changed in the kernel becomes what is on record.

use store::{Address, Record, Stage};

use crate::spec::{Lease, Spec};
use crate::{Error, Host, drivers, life, register, ruleset};

/// Makes a network whole, if any container is on it: its bridge with addresses and forwarding, its ports with their flags, the
/// guard of the loopback, the ruleset, the names.
///
/// # Errors
/// What could not be mended.
pub fn repair(spec: &Spec) -> Result<(), Error> {
    let mut host = Host::open(format!("repair {}", spec.id.network))?;
    let mut records = register::of_network(&host, spec.plugin, &spec.id.network)?;
    records.retain(|record| record.stage == Stage::Committed);
    if let Some(held) = drivers::of(spec.plugin).make_whole(&mut host, spec, &lease(&records))? {
        ruleset::restore(&mut host)?;
        match records.first() {
            Some(record) => life::publish(&mut host, record, held)?,
            None => drop(held),
        }
    }
    host.close();
    Ok(())
}

/// One address for each subnet and gateway that containers have.
fn lease(records: &[Record]) -> Lease {
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
