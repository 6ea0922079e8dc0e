//! A network made whole again while containers are on it: what other programs have changed in the kernel becomes what is on record.

use cni::{CniResult, Ip, Request};
use store::{Record, Stage};

use crate::{Error, Host, attach, bridge, names, network, rnet, ruleset};

/// Makes the network of a configuration for `rnet` or `bridge` whole, if any container is on it: its bridge with addresses and
/// forwarding, its ports with their flags, the guard of the loopback, the ruleset, the names.
pub fn repair(plugin: &str, request: &Request<'_>) -> Result<(), Error> {
    let plan = match plugin {
        "rnet" => rnet::plan(request)?,
        _ => bridge::plan(request)?,
    };
    let mut host = Host::open(format!("repair {}", plan.network))?;
    let mut records = attach::of_network(&host, &plan)?;
    records.retain(|record| record.stage == Stage::Committed);
    if let Some(held) = network::make_whole(&mut host, &plan, &lease(&records))? {
        ruleset::restore(&mut host)?;
        match records.first() {
            Some(record) => names::announce(&mut host, record, held)?,
            None => drop(held),
        }
    }
    host.close();
    Ok(())
}

/// One address for each subnet and gateway that containers have.
fn lease(records: &[Record]) -> CniResult {
    let mut ips: Vec<Ip> = Vec::new();
    for address in records.iter().flat_map(|record| &record.addresses) {
        let is_known = |ip: &Ip| {
            ip.gateway == address.gateway
                && ip.address.prefix() == address.address.prefix()
                && ip.address.contains(address.address.ip())
        };
        if !ips.iter().any(is_known) {
            ips.push(Ip { address: address.address, gateway: address.gateway, interface: None });
        }
    }
    CniResult { ips, ..CniResult::default() }
}
