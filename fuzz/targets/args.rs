//! CNI_ARGS.
#![no_main]

use cni::Args;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(args) = Args::parse(text, &["TAG"]) else { return };
    let _ = (args.mac(), args.k8s_pod_name(), args.k8s_pod_namespace(), args.ips());
    if let Some(tag) = args.get("TAG") {
        assert!(text.contains(tag));
    }
});
