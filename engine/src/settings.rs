//! Settings of an interface that is there, and of its network namespace.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is to be changed. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Settings {
    /// Keys below /proc/sys/net and their values, in the order in which they are written.
    pub sysctls: Vec<(String, String)>,
    /// The MAC address.
    pub mac: Option<store::Mac>,
    /// What is not addressed to the interface comes in too. `false` changes nothing, and CHECK looks for it.
    pub promiscuous: Option<bool>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// Packets to all groups come in.
    pub all_multicast: Option<bool>,
    /// How many packets may wait to be sent.
    pub queue_length: Option<u32>,
    /// The reference plugin's file of what was there before.
    pub backup: PathBuf,
}

impl Settings {
    /// True if ADD has nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { sysctls, mac, promiscuous, mtu, all_multicast, queue_length, backup: _ } = self;
        sysctls.is_empty()
            && (mac.is_none() && mtu.is_none() && queue_length.is_none())
            && (promiscuous.is_none() && all_multicast.is_none())
    }
}
