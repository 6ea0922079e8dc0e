//! The bridge port of an attachment: which flags it has, and what is wrong with one that is there.

use netlink::{Link, Request};
use store::Record;

use crate::spec::Spec;

/// Which frames to the bridge group, 01:80:c2:00:00:00 to :0f, a guarded port takes as any other, so that they meet its
/// guard and end there. Otherwise the bridge learns from them, and hands them to the host as if they were for the port
/// itself. All but :01, which it drops, and which cannot be named.
const GUARDED_GROUP: u16 = 0xfffd;

/// What is wrong with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not a port of its bridge.
    Off,
    /// It is down.
    Down,
    /// A flag is not as ADD set it.
    Flag {
        /// The flag, in words of `ip link set … type bridge_slave`.
        flag: &'static str,
        /// What it is.
        found: bool,
    },
    /// Frames to the bridge's group pass its guard.
    Group,
}

/// A record as its configuration has it: one of an earlier version does not know how its port was configured.
pub fn as_configured(spec: &Spec, record: &Record) -> Record {
    let is_it = record.network == spec.id.network && record.plugin == spec.plugin;
    Record {
        hairpin: record.hairpin || is_it && spec.hairpin,
        port_isolated: record.port_isolated || is_it && spec.port_isolation,
        ..record.clone()
    }
}

/// What ADD asks for; none if a new port is right as it is.
pub fn flags(record: &Record, index: u32, name: &str) -> Option<Request> {
    let hairpin = wants_hairpin(record).then_some(true);
    let isolated = record.port_isolated.then_some(true);
    let group_forward = record.guarded.then_some(GUARDED_GROUP);
    let any = hairpin.or(isolated).is_some() || group_forward.is_some();
    let name = name.to_owned();
    any.then_some(Request::Port { index, name, hairpin, isolated, learning: None, group_forward })
}

/// What is wrong with the host end of an attachment on the bridge with that index. Flags that ADD does not set may be others'.
pub fn wrong(record: &Record, link: &Link, bridge: u32) -> Option<Wrong> {
    if link.master != Some(bridge) {
        return Some(Wrong::Off);
    }
    if !link.up {
        return Some(Wrong::Down);
    }
    let flags = [
        ("hairpin", wants_hairpin(record), link.hairpin),
        ("isolated", record.port_isolated, link.isolated),
        ("learning", true, link.learning),
    ];
    let lost = flags.into_iter().find(|(_, wanted, found)| *wanted && *found == Some(false));
    if let Some((flag, ..)) = lost {
        return Some(Wrong::Flag { flag, found: false });
    }
    if record.plugin == "rnet" && !record.port_isolated && link.isolated == Some(true) {
        return Some(Wrong::Flag { flag: "isolated", found: true });
    }
    let lets_pass = record.guarded && link.group_forward.is_some_and(|mask| mask != GUARDED_GROUP);
    lets_pass.then_some(Wrong::Group)
}

/// True if frames may leave by the port that they came in by: as configured, and on an `rnet` network for a
/// container that asks for its own published port.
fn wants_hairpin(record: &Record) -> bool {
    record.hairpin || !record.ports.is_empty() && record.isolated
}
