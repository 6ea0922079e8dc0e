//! A result that nobody can read is no attachment.

use std::fs::OpenOptions;
use std::io::pipe;
use std::process::Stdio;

use crate::common::{Host, Network};

#[test]
fn an_add_whose_reply_cannot_be_written_is_undone() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let guest = host.guest(&network, "web").publishing(8080);
    let before = host.state(&[&guest]);
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let unread = || Stdio::from(pipe().unwrap().1);

    for stdout in [full(), unread()] {
        let mut child = guest.call("ADD", "rnet", None, None).spawn_to(stdout);

        assert_eq!(child.wait().unwrap().code(), Some(1));
        before.assert_same(&host.state(&[&guest]));
    }
}

#[test]
fn a_del_says_nothing_and_needs_no_reader() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let guest = host.guest(&network, "web").publishing(8080);
    let before = host.state(&[&guest]);
    guest.add().unwrap();
    let full = Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());

    let mut child = guest.call("DEL", "rnet", None, None).spawn_to(full);

    assert!(child.wait().unwrap().success());
    before.assert_same(&host.state(&[&guest]));
}

#[test]
fn a_panic_is_told_as_code_999_and_the_del_that_follows_undoes_it() {
    let host = Host::with_outside();
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let guest = host.guest(&network, "web").publishing(8080);
    let before = host.state(&[&guest]);
    for step in ["add.veth", "add.inside"] {
        let call = guest.call("ADD", "rnet", None, None).set("RNET_FAILPOINT", &format!("{step}:panic"));

        let (code, message) = call.run().refusal();

        assert_eq!(code, 999);
        assert!(message.starts_with(&format!("the plugin panicked: failpoint {step} (")), "{message}");
        guest.del().unwrap();
        before.assert_same(&host.state(&[&guest]));
    }
}
