//! Is a container as open as it should be, and no more?

use std::net::IpAddr;

use engine::elements;
use netlink::Netns;
use netns_fixtures::{HttpServer, http_get};
use store::Stage;

use crate::common::{Guest, Host, LONG, SOON};

/// A port of the container that nobody has published.
const UNPUBLISHED: u16 = 81;

/// Makes the machine outside a hostile neighbour, who knows the way to the containers.
pub fn know_the_way(host: &Host, subnets: &[&str]) {
    for subnet in subnets {
        host.neighbour().route_via_host(subnet.parse().unwrap()).unwrap();
    }
}

/// What is wrong with an isolated container, in sentences; `strangers` are on other networks.
pub fn isolated(host: &Host, guest: &Guest<'_>, strangers: &[&Guest<'_>]) -> Vec<String> {
    let mut findings = open(host, guest, strangers);
    findings.extend(connected(host, guest));
    findings.extend(elements(host));
    findings
}

/// Who reaches what nobody has published.
pub fn open(host: &Host, guest: &Guest<'_>, strangers: &[&Guest<'_>]) -> Vec<String> {
    let Some(address) = guest.addresses().first().copied() else {
        return vec!["it has no address".into()];
    };
    let _page = serve(guest, UNPUBLISHED);
    let outside = ("the machine outside", host.neighbour().netns());
    let others = strangers.iter().map(|stranger| (stranger.who.id.as_str(), stranger.container.netns()));
    let attempts = std::iter::once(outside).chain(others);
    std::thread::scope(|scope| {
        let attempts: Vec<_> = attempts
            .map(|(who, from)| (who, scope.spawn(move || reaches(from, address, UNPUBLISHED))))
            .collect();
        let through =
            attempts.into_iter().filter_map(|(who, attempt)| attempt.join().unwrap().then_some(who));
        through.map(|who| format!("{who} reaches an unpublished port of {}", guest.who.id)).collect()
    })
}

/// What it must be able to do and is not: to be reached by its published port, and to get out.
pub fn connected(host: &Host, guest: &Guest<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    if !guest.works() {
        findings.push(format!("{} is not reached by its published port", guest.who.id));
    }
    let there = host.neighbour().addresses()[0].ip();
    let _page = HttpServer::start(host.neighbour().netns(), (there, 80).into(), "theirs").unwrap();
    if http_get(guest.container.netns(), &format!("http://{there}:80"), LONG).is_err() {
        findings.push(format!("{} does not get out", guest.who.id));
    }
    findings
}

/// What the networks and the committed records ask for and the kernel has not.
pub fn elements(host: &Host) -> Vec<String> {
    let store = host.store();
    let networks = store.networks().unwrap();
    let records = store.records().unwrap();
    let committed = records.iter().filter(|record| record.stage == Stage::Committed);
    let of_networks = networks.iter().flat_map(elements::network_elements);
    let wanted: Vec<_> = of_networks.chain(committed.flat_map(elements::attachment)).collect();
    let missing = |one| !host.firewall(|firewall| firewall.holds(std::slice::from_ref(one)).unwrap());
    wanted.iter().filter(|one| missing(one)).map(|(element, _)| format!("{element} is missing")).collect()
}

fn serve(guest: &Guest<'_>, port: u16) -> HttpServer {
    HttpServer::start(guest.container.netns(), ([0, 0, 0, 0], port).into(), &guest.who.id).unwrap()
}

fn reaches(from: &Netns, to: IpAddr, port: u16) -> bool {
    http_get(from, &format!("http://{to}:{port}"), SOON).is_ok()
}
