//! What a delegate or an earlier plugin answered: what was understood is understood again as each version writes it.
#![no_main]

use cni::{CniResult, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(value) = serde_json::from_slice(json) else { return };
    let Ok(result) = CniResult::parse_any(&value, Version::LATEST) else { return };
    for version in Version::SUPPORTED {
        let Ok(written) = result.to_json(version) else { continue };
        let again = CniResult::parse(&written, version).expect("what was written can be read");
        assert_eq!(again.to_json(version).expect("and written"), written);
    }
});
