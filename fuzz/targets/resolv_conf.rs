//! resolv.conf, as leases take it over and as the name server reads it.
#![no_main]

use ipam::ResolvConf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let conf = ResolvConf::parse(text);
    let words = conf.nameservers.iter().chain(&conf.search).chain(&conf.options).chain(&conf.domain);
    for word in words {
        assert!(!word.contains(char::is_whitespace) && text.contains(word.as_str()));
    }
    let resolv = dns::Resolv::parse(text);
    assert!(
        resolv.nameservers.len() <= 3 && resolv.search.iter().all(|domain| text.contains(domain.as_str()))
    );
    for server in &resolv.nameservers {
        assert!(
            server.socket(|_| None).is_none_or(|socket| socket.ip() == server.address && socket.port() == 53)
        );
    }
});
