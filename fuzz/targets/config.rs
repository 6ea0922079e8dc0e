//! What a runtime writes to a plugin's standard input, and network lists.
#![no_main]

use cni::Config;
use cni::conflist::List;
use ipam::{HostLocal, check_overlaps};
use libfuzzer_sys::fuzz_target;

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Section {
    ipam: HostLocal,
}

fuzz_target!(|json: &[u8]| {
    let _ = List::parse(json);
    let Ok(config) = Config::parse(json) else { return };
    let _ = (config.prev_result(), config.valid_attachments());
    let Ok(Section { ipam }) = config.section() else { return };
    let Ok(sets) = ipam.ranges(&[]) else { return };
    let _ = check_overlaps(&sets);
    for set in &sets {
        // A set that was taken has an address of its own, and it says so.
        let first = set.ranges().first().map(|range| range.start).expect("no empty set is taken");
        assert!(set.contains(first), "{first} is not in {set}");
    }
});
