//! A veth pair whose host end is a port of a bridge.

mod look;
pub mod port;
mod shared;

use netlink::Link;
use store::{Network, Record};

use super::veth;
use crate::driver::Driver;
use crate::held::Held;
use crate::making::{Ends, Making};
use crate::spec::{Interface, Lease, Outcome, Spec};
use crate::{Error, Finding, Host, lost};

/// The driver of this file.
pub struct Bridge;

impl Driver for Bridge {
    fn plugins(&self) -> &'static [&'static str] {
        &["rnet", "bridge"]
    }

    fn hold(&self, host: &mut Host, making: &mut Making<'_>) -> Result<Held, Error> {
        shared::hold(host, making.spec, &making.lease)
    }

    fn make(&self, host: &mut Host, making: &mut Making<'_>, held: &Held) -> Result<Ends, Error> {
        let bridge = bridge_of(held)?;
        veth::create(host, making, Some(bridge.index), making.spec.mtu.or(Some(bridge.mtu)))
    }

    fn open(&self, host: &mut Host, making: &Making<'_>, held: &Held, ends: &Ends) -> Result<(), Error> {
        let bridge = bridge_of(held)?;
        ends.host.map_or(Ok(()), |index| port::open(host, making, bridge, index))
    }

    /// Bridge, host end, container.
    fn interfaces(&self, making: &Making<'_>, held: &Held) -> Vec<Interface> {
        let Making { spec, record, .. } = making;
        let mac = held.bridge.as_ref().and_then(|bridge| bridge.mac);
        let bridge =
            Interface { name: spec.bridge.clone(), mac: mac.map(|mac| mac.to_string()), netns: None };
        [bridge].into_iter().chain(veth::interfaces(record)).collect()
    }

    fn require(&self, host: &mut Host, spec: &Spec) -> Result<(), Error> {
        if let Some(link) = host.netlink.link(&spec.bridge)?
            && link.kind.as_deref() != Some("bridge")
        {
            return Err(Error::not_ready(Error::NotABridge { name: spec.bridge.clone() }));
        }
        host.require_links()
    }

    fn look(
        &self,
        host: &mut Host,
        spec: &Spec,
        record: &Record,
        previous: Option<&Outcome>,
        tell: &mut dyn FnMut(Finding),
    ) -> Result<(), Error> {
        look::look(host, spec, record, previous, tell)
    }

    fn withdraw_lost(
        &self,
        host: &mut Host,
        spec: &Spec,
        previous: Option<&Outcome>,
        unknown: Record,
    ) -> Result<Record, Error> {
        lost::withdraw(host, spec, previous, unknown)
    }

    fn make_whole(&self, host: &mut Host, spec: &Spec, lease: &Lease) -> Result<Option<Held>, Error> {
        shared::make_whole(host, spec, lease)
    }

    fn retire(&self, host: &mut Host, network: &Network) -> Result<(), Error> {
        if network.owns_bridge { shared::remove(host, network) } else { Ok(()) }
    }
}

fn bridge_of(held: &Held) -> Result<&Link, Error> {
    held.bridge.as_ref().ok_or_else(|| Error::NotABridge { name: held.network.bridge.clone() })
}
