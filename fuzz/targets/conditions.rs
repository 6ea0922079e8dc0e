//! portmap's conditions: what is understood gives exceptions of one family that do not overlap.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use plugins::conditions::{Family, exceptions};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let words: Vec<Value> = text.lines().map(Value::from).collect();
    for (family, v4) in [(Family::V4, true), (Family::V6, false)] {
        let Ok(found) = exceptions(family, &words) else { continue };
        for (nth, one) in found.iter().enumerate() {
            let addresses = [one.sources.0, one.sources.1, one.destinations.0, one.destinations.1];
            assert!(addresses.iter().all(|address| address.is_ipv4() == v4));
            let meets = |a: (IpAddr, IpAddr), b: (IpAddr, IpAddr)| a.0 <= b.1 && b.0 <= a.1;
            let overlaps = found[..nth].iter().any(|other| {
                meets(one.sources, other.sources) && meets(one.destinations, other.destinations)
            });
            assert!(!overlaps, "{one:?}");
        }
    }
});
