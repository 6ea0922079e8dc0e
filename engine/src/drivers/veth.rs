//! The veth pair of an attachment: one end on the host, the other in the container.

use netlink::{Mac, Veth};
use store::Record;

use crate::making::{Ends, Making};
use crate::spec::Interface;
use crate::{Error, Host, link, register, unrecorded};

/// So many names are tried before the host end's name is said to be taken.
const ATTEMPTS: usize = 4;

/// Makes the pair: one message; the peer is born in the container under its final name. The host end stays down: until
/// its guard is complete nobody in the container may send.
///
/// The record names the host end before it exists. If another link has the name, that link is left alone
/// and the next one tried.
///
/// # Errors
/// A living attachment has the interface, or every name is taken.
pub fn create(
    host: &mut Host,
    making: &mut Making<'_>,
    master: Option<u32>,
    mtu: Option<u32>,
) -> Result<Ends, Error> {
    let Some(container) = making.container else { return Ok(Ends::default()) };
    let record = &mut making.record;
    let mac = record.mac.map(|mac| Mac(mac.0));
    for attempt in 0..ATTEMPTS {
        let name = record.key().link(attempt);
        if attempt > 0 {
            record.link = Some(name.clone());
            host.store.write_record(record)?;
        }
        let veth = Veth {
            name: &name,
            mac: Some(link::host_mac(record)),
            mtu,
            master,
            peer: &record.ifname,
            peer_mac: mac,
            peer_netns: container,
            up: false,
        };
        match host.netlink.create_veth(&veth) {
            Err(netlink::Error::LinkExists { .. }) if unrecorded::port(host, record)?.is_some() => {
                return Err(register::already_attached_unrecorded(record));
            }
            Err(netlink::Error::LinkExists { .. }) if host.netlink.link(&name)?.is_some() => {}
            Err(netlink::Error::LinkExists { .. }) => {
                return Err(Error::InterfaceTaken { ifname: record.ifname.clone(), link: name });
            }
            other => {
                let pair = other?;
                return Ok(Ends { host: Some(pair.host), container: Some(pair.container) });
            }
        }
    }
    Err(Error::LinkNamesTaken { names: (0..ATTEMPTS).map(|attempt| record.key().link(attempt)).collect() })
}

/// The host end and the container's end, as ADD tells of them.
pub fn interfaces(record: &Record) -> [Interface; 2] {
    let netns = record.netns.as_ref().map(|netns| netns.path.to_string_lossy().into_owned());
    let interface = |name: &str, mac: Option<Mac>, netns| Interface {
        name: name.to_owned(),
        mac: mac.map(|mac| mac.to_string()),
        netns,
    };
    [
        interface(record.link.as_deref().unwrap_or_default(), Some(link::host_mac(record)), None),
        interface(&record.ifname, record.mac.map(|mac| Mac(mac.0)), netns),
    ]
}
