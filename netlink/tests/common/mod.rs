//! A host and a container for each test, in new network namespaces.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "clippy does not see that these are tests")]

use netlink::{Mac, Netlink, Netns, Request, Veth, VethPair};

/// Whether the kernel's answer describes the new link (NLM_F_ECHO for links, since Linux 6.2). Otherwise it is asked again.
pub fn echoes_links() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 2)
}

/// Runs a test inside a network namespace that ends with it.
pub fn on_a_host(test: impl FnOnce() + Send) {
    Netns::create().unwrap().run(test).unwrap();
}

/// Makes a bridge, up, and returns its index.
pub fn bridge(host: &mut Netlink, name: &str) -> u32 {
    let mac = Mac([2, 0x42, 0, 0, 0, 1]);
    host.send(&[Request::Bridge { name: name.into(), mac, mtu: None, snooping: true }]).unwrap();
    let index = host.link(name).unwrap().unwrap().index;
    host.send(&[Request::LinkUp { index, name: name.into() }]).unwrap();
    index
}

/// Makes a veth pair from the bridge `master` into `container`, where its end is eth0.
pub fn attach(host: &mut Netlink, name: &str, master: u32, container: &Netns) -> VethPair {
    host.create_veth(&veth(name, Some(master), container)).unwrap()
}

/// A pair whose container end is eth0.
pub fn veth<'a>(name: &'a str, master: Option<u32>, container: &'a Netns) -> Veth<'a> {
    Veth { name, mac: None, mtu: None, master, peer: "eth0", peer_mac: None, peer_netns: container, up: true }
}

/// Requests that set the container's lo and eth0 up.
pub fn up(index: u32) -> Vec<Request> {
    [(1, "lo"), (index, "eth0")].map(|(index, name)| Request::LinkUp { index, name: name.into() }).to_vec()
}
