//! A container goes and another comes: its address, its flows (docs/rules.md: P2, C4).

use std::time::Duration;

use netns_fixtures::{UdpClient, ping};
use nft::Element;
use serde_json::json;

use crate::common::{Guest, Host, LONG, bridge, rnet, wait_until, with};
use crate::packets::{A, Flow, HOST, echo, to};

/// One packet, answered: a repeated request would come later than this.
const FIRST: Duration = Duration::from_millis(900);

#[test]
fn a_reused_address_answers_at_the_first_ping() {
    for network in [rnet("a", &A), bridge("a", &A)] {
        let host = Host::connected();
        let here = host.netns();
        let asking = |mac: &str| {
            let ips = json!({"ips": ["172.18.0.9/16", "fd18::9/64"], "mac": mac});
            with(&network, json!({"runtimeConfig": ips}))
        };
        let peer = host.attach("peer", &network, &[]);
        // Some have MACs that nobody could have guessed, the last has the usual one again.
        for (name, mac) in [
            ("c1", ""),
            ("c2", ""),
            ("c3", "02:00:00:00:00:03"),
            ("c4", "02:00:00:00:00:04"),
            ("c5", ""),
            ("c6", ""),
        ] {
            let guest = host.attach(name, &asking(mac), &[]);
            for (who, from) in [("the host", here), ("a neighbour", peer.netns())] {
                for ip in guest.both() {
                    assert!(
                        ping(from, ip, FIRST).unwrap().is_some(),
                        "{} from {who}: {ip} of {name}",
                        network["type"]
                    );
                }
            }
            guest.detach();
        }
    }
}

fn client(host: &Host, port: u16) -> UdpClient {
    UdpClient::bind(host.neighbour().netns(), to("0.0.0.0", port)).unwrap()
}

/// An application sends again; a black hole answers nothing at all.
fn answered(client: &UdpClient, port: u16) -> bool {
    client.exchange(to(HOST[0], port), b"hello", LONG).unwrap().is_some()
}

#[test]
fn a_udp_flow_under_way_reaches_the_replacement() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let port = [("", 5353, 53, "udp")];
    let (one, client) = (host.attach("one", &network, &port), client(&host, 40000));
    let echo_one = echo(one.netns(), "0.0.0.0", 53);
    assert!(answered(&client, 5353));
    assert_eq!(echo_one.peers().last().unwrap().to_string(), "192.168.77.2:40000");

    one.detach();
    // Another takes the old address, so the flow must not go there.
    let squatter = host.attach("squatter", &network, &[]);
    assert_eq!(squatter.v4(), one.v4());
    let squatting = echo(squatter.netns(), "0.0.0.0", 53);
    let two = host.attach("two", &network, &port);
    let echo_two = echo(two.netns(), "0.0.0.0", 53);

    assert!(answered(&client, 5353));
    assert_eq!(echo_two.peers().last().unwrap().to_string(), "192.168.77.2:40000");
    assert!(squatting.peers().is_empty());
}

/// The flow began before there was a container: its packets went to the host itself.
#[test]
fn a_udp_flow_that_came_too_early_reaches_the_container() {
    let host = Host::connected();
    let client = client(&host, 40000);
    let early = client.exchange(to(HOST[0], 5353), b"early", Duration::from_millis(200));
    assert!(early.is_err() || early.unwrap().is_none());
    let one = host.attach("one", &rnet("a", &A), &[("", 5353, 53, "udp")]);
    let _echo = echo(one.netns(), "0.0.0.0", 53);
    assert!(answered(&client, 5353));
}

/// Without its element a new flow would find nothing: this one goes on because nobody touched it.
#[test]
fn a_neighbours_udp_flow_survives() {
    let host = Host::connected();
    let network = rnet("a", &A);
    let (one, two) = (
        host.attach("one", &network, &[("", 5353, 53, "udp")]),
        host.attach("two", &network, &[("", 5454, 53, "udp")]),
    );
    let (_echo_one, _echo_two) = (echo(one.netns(), "0.0.0.0", 53), echo(two.netns(), "0.0.0.0", 53));
    let (first, second) = (client(&host, 40000), client(&host, 40001));
    assert!(answered(&first, 5353) && answered(&second, 5454));

    one.detach();
    let _again = host.attach("one-again", &network, &[("", 5353, 53, "udp")]);
    take_away(&host, 5454);

    assert!(answered(&second, 5454));
    let fresh = client(&host, 40002);
    let lost = fresh.exchange(to(HOST[0], 5454), b"hello", Duration::from_millis(200));
    assert!(lost.is_err() || lost.unwrap().is_none(), "the element was gone, so the flow went on by itself");
}

/// Removes the elements that publish a host port.
fn take_away(host: &Host, port: u16) {
    let publish =
        |element: &Element| matches!(element, Element::Publish { host_port, .. } if *host_port == port);
    let found: Vec<_> = host.elements().into_iter().filter(|(element, _)| publish(element)).collect();
    let owned: Vec<_> = found.into_iter().map(|(element, owner)| (element, owner.unwrap())).collect();
    assert!(!owned.is_empty());
    host.firewall(|firewall| firewall.remove(&owned).unwrap());
}

/// It went to a port of that number, but not to the host: the host only passes it on, untranslated.
#[test]
fn a_flow_that_passes_through_survives() {
    let host = Host::connected();
    let network = with(&rnet("a", &A), json!({"ipMasq": false}));
    let asking = host.attach("asking", &network, &[]);
    let server = host.neighbour().address().to_string();
    let flow = Flow::begin(asking.netns(), to(&server, 5353), host.neighbour().netns(), 5353);
    assert!(flow.goes_on());

    let one = host.attach("one", &network, &[("", 5353, 53, "udp")]);
    one.detach();

    assert!(flow.goes_on(), "its network lets in answers only");
}

/// A late DEL of the first must not harm the second, which has its port by now (docs/rules.md: G4), and, where somebody has freed
/// it, its address.
#[test]
fn a_late_del_harms_nobody() {
    for asked in ["172.18.0.3", "172.18.0.2"] {
        late_del(asked);
    }
}

fn late_del(asked: &str) {
    let host = Host::connected();
    let network = rnet("a", &A);
    let ports = [("", 8080, 80, "tcp"), ("", 5353, 53, "udp")];
    let one = host.attach("one", &network, &ports);
    // The container died with its namespace, and nobody called DEL.
    one.container.remove().unwrap();
    let (port, config, one_v4) = (one.port(), one.config(), one.v4().to_string());
    let Guest { container, who, .. } = one;
    drop(container);
    wait_until("its pair is gone", || host.link(&port).is_none());
    if asked == one_v4 {
        std::fs::remove_file(host.run_folder().join("leases/a").join(asked)).unwrap();
    }
    let asking = with(&network, json!({"runtimeConfig": {"ips": [format!("{asked}/16")]}}));
    let two = host.attach("two", &asking, &ports);
    assert_eq!(two.v4().to_string(), asked);
    let _server = two.serves(80);
    let flow = Flow::begin(host.neighbour().netns(), to(HOST[0], 5353), two.netns(), 53);

    host.del("rnet", &who.netns(""), &config);

    assert!(flow.goes_on());
    crate::packets::all_get(
        "two",
        &[
            ("outside", host.neighbour().netns(), to(HOST[0], 8080)),
            ("host", host.netns(), to("127.0.0.1", 8080)),
        ],
    );
    let result = with(&two.config(), json!({"prevResult": two.result()}));
    host.cni("CHECK", "rnet", &two.who, &result).silent();
}
