//! The firewall in a real kernel, each test in a separate network namespace.
#![allow(clippy::unwrap_used)] // what is allowed in #[test] functions is allowed in their helpers

mod conntrack;
mod elements;
mod mac_check;
mod ruleset;

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use netlink::Netns;
use netns_fixtures::has_program;
use nft::{Element, Owner, Protocol, Range};

fn on_a_new_host<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    Netns::create().unwrap().run(test).unwrap()
}

fn owner(n: u64) -> Owner {
    Owner::new(&format!("{n:016x}")).unwrap()
}

fn publish(port: u16, to: &str) -> Element {
    Element::Publish { host: None, protocol: Protocol::Tcp, host_port: port, to: to.parse().unwrap() }
}

/// Excludes these sources and destinations from a port.
fn except(port: u16, sources: [&str; 2], destinations: [&str; 2]) -> Element {
    let range = |[first, last]: [&str; 2]| Range::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
    let (sources, destinations) = (range(sources), range(destinations));
    Element::Except { protocol: Protocol::Tcp, host_port: port, sources, destinations }
}

/// What portmap's condition `-s 10.0.0.0/8`, and `! -d fd00::/8`, exclude.
fn exceptions(port: u16) -> Vec<Element> {
    let (all4, all6) = (["0.0.0.0", "255.255.255.255"], ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
    vec![
        except(port, ["0.0.0.0", "9.255.255.255"], all4),
        except(port, ["11.0.0.0", "255.255.255.255"], all4),
        except(port + 1, all4, ["192.0.2.1", "192.0.2.1"]),
        except(port, all6, ["fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        except(port + 1, ["fd00::1", "fd00::7"], ["::", "fd00::7"]),
    ]
}

fn masquerade(address: &str) -> Element {
    Element::Masquerade { address: address.parse().unwrap() }
}

/// What an ADD of a container with one published port adds.
fn one_container(n: u32, port: u16) -> Vec<(Element, Owner)> {
    let address = IpAddr::from((0xac12_0000u32 + n).to_be_bytes());
    let to = SocketAddr::new(address, 80);
    let (protocol, link, bridge) = (Protocol::Tcp, format!("veth{n:08x}"), String::from("rnet0"));
    let mac = [2, 0x42, 0xac, 0x12, (n >> 8) as u8, n as u8];
    let elements = [
        Element::Publish { host: None, protocol, host_port: port, to },
        Element::Published { to, protocol },
        Element::Masquerade { address },
        Element::Home { subnet: "172.18.0.0/16".parse().unwrap(), bridge: bridge.clone() },
        Element::Subnet { subnet: "172.18.0.0/16".parse().unwrap() },
        Element::Isolated { bridge },
        Element::Port { link: link.clone() },
        Element::PortAddress { link, mac, address },
    ];
    elements.map(|element| (element, owner(n.into()))).into()
}

/// Runs `nft`; `None` where it is not installed.
fn nft(arguments: &[&str]) -> Option<String> {
    if !has_program("nft") {
        return None;
    }
    let output = Command::new("nft").args(arguments).stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "nft {arguments:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn nft_stdin(script: &str) {
    let path = format!("/proc/self/fd/{}", 0);
    let mut child = Command::new("nft").args(["-f", &path]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft refused:\n{script}");
}

fn sorted(mut elements: Vec<(Element, Option<Owner>)>) -> Vec<(Element, Option<Owner>)> {
    elements.sort();
    elements
}

fn with_owners(elements: &[(Element, Owner)]) -> Vec<(Element, Option<Owner>)> {
    sorted(elements.iter().map(|(element, owner)| (element.clone(), Some(*owner))).collect())
}
