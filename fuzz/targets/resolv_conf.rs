//! resolv.conf.
#![no_main]

use ipam::ResolvConf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let conf = ResolvConf::parse(text);
    let words = conf.nameservers.iter().chain(&conf.search).chain(&conf.options).chain(&conf.domain);
    for word in words {
        assert!(!word.contains(char::is_whitespace) && text.contains(word.as_str()));
    }
});
