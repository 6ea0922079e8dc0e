//! What the server writes down, and what `rnet dns watch` shows.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use netns_fixtures::lookup;

use crate::common::{Host, SOON, binary, wait_until};
use crate::server::{GATEWAY, ask, at, kill, known, mynet, unknown};

/// G11. Options that cannot be read, with words of the client's in them.
#[test]
fn a_container_writes_nothing_into_the_log() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let before = host.rnet("dns log").stdout;
    web.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for n in 0..4000_u16 {
            let [high, low] = n.to_be_bytes();
            let mut question =
                vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, b'w', b'e', b'b', 0, 0, 1, 0, 1];
            // An OPT record with one option, of this code.
            question.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 14, 0, low % 20, 0, 10]);
            question.extend(b"SECRETMARK");
            socket.send_to(&question, at(GATEWAY)).unwrap();
        }
    })
    .unwrap();
    // The one among them may have been lost with so many others.
    wait_until("an answer", || lookup(web.netns(), at(GATEWAY), "web", false, SOON).unwrap().is_some());

    let log = host.rnet("dns log").stdout;

    assert!(!log.contains("SECRET") && !log.contains("83, 69, 67, 82"), "{}", &log[log.len() - 500..]);
    assert!(log.len() < before.len() + 500, "{} of {}", log.len(), before.len());
}

#[test]
fn the_log_tells_networks_and_containers_and_no_question() {
    let host = Host::forwarding();
    assert_eq!(host.rnet("dns log").status, 3);
    let web = host.join("web", &mynet());
    let (worker, _) = host.server();
    assert_eq!(ask(&web, "secret"), unknown());
    kill(worker);
    wait_until("another worker", || host.server().0 != worker);
    web.detach();
    host.wait_for_its_end();

    let log = host.rnet("dns log").stdout;

    let expected = [
        "serving control=",
        "answering networks=1 endpoints=1",
        "listening network=\"mynet\" address=10.7.0.1 port=53",
        "set network=\"mynet\" container=\"web\" ifname=\"eth0\" names=[\"web\"] addresses=[10.7.0.2]",
        "the process that answers has ended: another takes its place status=signal: 9 (SIGKILL)",
        "answering networks=1 endpoints=1",
        "removed network=\"mynet\" container=\"web\" ifname=\"eth0\"",
        "network removed network=\"mynet\"",
        "no network needs names any more: the end",
    ];
    let mut lines = log.lines();
    for part in expected {
        assert!(lines.any(|line| line.contains(part)), "{part} is missing, or not there in order:\n{log}");
    }
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn a_watcher_sees_each_question_and_its_answer() {
    let host = Host::forwarding();
    let web = host.join("web", &mynet());
    let db = host.join("db", &mynet());
    let watch = host.command(binary());
    let mut watch = watch.args(["dns", "watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // It has begun when the first one is told.
    let first = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while host.status().json()["watchers"] == 0 {
                thread::sleep(Duration::from_millis(5));
            }
            ask(&db, "web")
        });
        let first = lines.next().unwrap().unwrap();
        assert_eq!(asking.join().unwrap(), known(&[web.v4()]));
        first
    });

    assert_eq!(first, format!("{} db on mynet: web. A: NOERROR {}", db.v4(), web.v4()));
    assert_eq!(ask(&web, "nosuch"), unknown());
    assert_eq!(lines.next().unwrap().unwrap(), format!("{} web on mynet: nosuch. A: NXDOMAIN", web.v4()));
    ask(&web, "example.org");
    assert_eq!(
        lines.next().unwrap().unwrap(),
        format!("{} web on mynet: example.org. A: forwarded", web.v4())
    );
    watch.kill().unwrap();
    watch.wait().unwrap();
    wait_until("its leaving", || {
        ask(&web, "web");
        host.status().json()["watchers"] == 0
    });
}
