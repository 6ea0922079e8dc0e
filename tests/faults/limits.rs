//! A process that may open few files (`kernel/limits`).

use std::ops::RangeInclusive;

use crate::common::{Guest, Host, Network, Outcome};

/// From too few to begin with to more than enough.
const FILES: RangeInclusive<u32> = 5..=44;

#[test]
fn an_add_that_may_open_few_files_works_or_leaves_nothing() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = host.guest(&network, "web").publishing(8080);

    let worked: Vec<bool> = FILES.map(|files| works_or_leaves_nothing(&web, "rnet", files)).collect();

    assert!(worked.is_sorted() && worked.contains(&true), "{worked:?}");
}

#[test]
fn an_add_that_starts_a_name_server_or_runs_another_plugin_works_or_leaves_nothing_too() {
    for network in [Network::named("mynet", "10.7.0.0/24"), Network::chain("mynet", "10.7.0.0/24")] {
        let host = Host::with_outside();
        let web = host.guest(&network, "web").publishing(8080);
        // A chain's bridge stays once it is made, as upstream's does.
        web.add().unwrap();
        web.del().unwrap();
        for files in FILES.step_by(5) {
            works_or_leaves_nothing(&web, network.main_plugin(), files);
        }
    }
}

#[test]
fn a_del_that_may_open_few_files_can_be_repeated() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let web = host.guest(&network, "web").publishing(8080);
    let before = host.state(&[&web]);
    for files in 5..=20 {
        web.add().unwrap();

        let outcome = limited(&web, "DEL", "rnet", files);

        // Below that it cannot even read its books.
        assert!(files < 14 || outcome.status == 0, "{files}: {outcome:?}");
        web.del().unwrap();
        before.assert_same(&host.state(&[&web]));
    }
}

/// True if ADD worked; afterwards everything is as before.
fn works_or_leaves_nothing(guest: &Guest<'_>, plugin: &str, files: u32) -> bool {
    let before = guest.host.state(&[guest]);

    let outcome = limited(guest, "ADD", plugin, files);

    if outcome.status != 0 {
        assert_ne!(outcome.refusal().1, "", "{files}");
        before.assert_same(&guest.host.state(&[guest]));
    }
    guest.del().unwrap();
    before.assert_same(&guest.host.state(&[guest]));
    outcome.status == 0
}

/// A call of a plugin that may have `files` open at once.
fn limited(guest: &Guest<'_>, verb: &str, plugin: &str, files: u32) -> Outcome {
    let host = &guest.host;
    let program = host.plugins.join(plugin);
    host.install_script("limited", &format!("#!/bin/sh\nulimit -n {files}\nexec {}\n", program.display()));
    let config = guest.network.config(plugin, &guest.ports, None);
    host.cni(verb, "limited", &guest.who, &config)
}
