//! Every step of ADD and DEL × how it ends × what is done about it.

use engine::STEPS;
use store::Stage;

use crate::books::State;
use crate::common::{Fault, Guest, Host, Network, Outcome};
use crate::watch::watching;

/// What the runtime does after a call has died or failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    AddAgain,
    Del,
    Gc,
}

/// One way for something to go wrong.
#[derive(Clone, Debug)]
struct Case {
    fault: Fault,
    after: After,
}

/// Whether another container is on the same network: then the network itself neither comes nor goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Company {
    Alone,
    WithSibling,
}

/// How far a recovery has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Recovered {
    /// All the way: the books balance.
    Whole,
    /// The first plugin of the list refused, rightly, and the runtime has to send a DEL.
    NotYet,
}

/// So many failures say enough; each costs a new site.
const ENOUGH: usize = 12;

#[test]
fn rnet_alone_on_its_network() {
    run(&Network::rnet("mynet", "10.7.0.0/24"), Company::Alone);
}

#[test]
fn rnet_beside_another_container() {
    run(&Network::rnet("mynet", "10.7.0.0/24"), Company::WithSibling);
}

#[test]
fn rnet_with_names_alone_on_its_network() {
    run(&Network::named("mynet", "10.7.0.0/24"), Company::Alone);
}

#[test]
fn rnet_with_names_beside_another_container() {
    run(&Network::named("mynet", "10.7.0.0/24"), Company::WithSibling);
}

#[test]
fn dnsname_beside_another_container() {
    let network = Network::named_chain("mynet", "10.7.0.0/24");
    // Its DEL never says that it has failed.
    let told = |case: &Case| case.is_add() || case.fault.failpoint.ends_with(":abort");
    let of_dnsname = |case: &Case| case.fault.plugin == "dnsname" && told(case);
    let cases = cases(&network, Company::WithSibling).into_iter().filter(of_dnsname).collect();
    run_cases(&network, Company::WithSibling, cases);
}

#[test]
fn the_chain_alone_on_its_network() {
    run(&Network::chain("mynet", "10.7.0.0/24"), Company::Alone);
}

/// What restricts a container comes and goes with it, wherever its ADD or DEL ends.
#[test]
fn the_restricted_chain_beside_another_container() {
    let network = Network::restricted("mynet", "10.7.0.0/24");
    let abrupt = |case: &Case| case.fault.failpoint.ends_with(":abort");
    let cases = cases(&network, Company::WithSibling).into_iter().filter(abrupt).collect();
    run_cases(&network, Company::WithSibling, cases);
}

#[test]
fn ptp_and_portmap_alone_on_their_network() {
    run(&Network::ptp("mynet", "10.7.0.0/24"), Company::Alone);
}

#[test]
fn ptp_and_portmap_beside_another_container() {
    run(&Network::ptp("mynet", "10.7.0.0/24"), Company::WithSibling);
}

#[test]
fn portmap_beside_another_container() {
    let network = Network::chain("mynet", "10.7.0.0/24");
    let of_portmap = |case: &Case| case.fault.plugin == "portmap";
    run_cases(
        &network,
        Company::WithSibling,
        cases(&network, Company::WithSibling).into_iter().filter(of_portmap).collect(),
    );
}

/// Behind a guard, which has to know the MAC.
#[test]
fn tuning_alone_on_its_network() {
    let network = Network::tuned("mynet", "10.7.0.0/24");
    let of_tuning = |case: &Case| case.fault.plugin == "tuning";
    let cases = cases(&network, Company::Alone).into_iter().filter(of_tuning).collect();
    run_cases(&network, Company::Alone, cases);
}

fn run(network: &Network, company: Company) {
    run_cases(network, company, cases(network, company));
}

fn run_cases(network: &Network, company: Company, cases: Vec<Case>) {
    let (mut failures, mut at) = (Vec::new(), 0);
    while at < cases.len() && failures.len() < ENOUGH {
        let failure = run_until_one_fails(network, company, &cases, &mut at);
        failures.extend(failure.map(|failure| format!("{:?}: {failure}", cases[at - 1])));
    }
    assert!(
        failures.is_empty(),
        "of {} cases, {} were tried and failed:\n{}",
        cases.len(),
        failures.len(),
        failures.join("\n\n")
    );
}

/// On one site, for making one is slow.
fn run_until_one_fails(
    network: &Network,
    company: Company,
    cases: &[Case],
    at: &mut usize,
) -> Option<String> {
    let host = Host::with_outside();
    let other = Network::rnet("other", "10.8.0.0/24");
    let stranger = host.guest(&other, "stranger").publishing(9000);
    stranger.add().unwrap();
    let sibling = host.guest(network, "sibling").publishing(9001);
    sibling.add().unwrap();
    if company == Company::Alone {
        // A bridge of the chain stays, as upstream's does; that is no difference then.
        sibling.del().unwrap();
    }
    let residents: Vec<&Guest<'_>> =
        if company == Company::Alone { vec![&stranger] } else { vec![&stranger, &sibling] };
    let guest = host.guest(network, "web").publishing(8080);
    watching(&residents, || {
        let before = host.state(&[&residents[..], &[&guest]].concat());
        while let Some(case) = cases.get(*at) {
            *at += 1;
            if let Err(failure) = case.run(&host, &before, &residents, &guest) {
                return Some(failure);
            }
        }
        None
    })
}

fn cases(network: &Network, company: Company) -> Vec<Case> {
    let mut cases = Vec::new();
    for plugin in network.plugins() {
        for step in STEPS.into_iter().filter(|step| passes(plugin, step, company)) {
            for how in ["abort", "error"] {
                let fault = Fault { plugin: plugin.into(), failpoint: format!("{step}:{how}") };
                let afters = [After::AddAgain, After::Del, After::Gc];
                cases.extend(afters.map(|after| Case { fault: fault.clone(), after }));
            }
        }
    }
    cases
}

/// The steps of a network, which its first attachment and its last one pass.
const OF_THE_NETWORK: [&str; 14] = [
    "add.network",
    "add.bridge",
    "add.advertisements",
    "add.gateway",
    "add.forward",
    "add.elements",
    "add.moment",
    "add.address",
    "add.ready",
    "del.network",
    "del.elements",
    "del.bridge",
    "del.forgotten",
    "del.network-record",
];
/// Those of a network without a bridge of its own: of `ptp`, and of a plugin that follows another.
const OF_A_REMEMBERED_NETWORK: [&str; 7] = [
    "add.network",
    "add.elements",
    "del.network",
    "del.elements",
    "del.bridge",
    "del.forgotten",
    "del.network-record",
];
/// Those of IPv6, of elements that a network shares with no other, of a bridge that was lost, of a name server that could not have its port, and of flows that are left to
/// a child: `network.rs`, `names`, `former.rs`.
const RARE: [&str; 8] = [
    "add.force-all",
    "add.force-default",
    "add.force-bridge",
    "add.missing",
    "add.reattach",
    "add.moved",
    "add.redirected",
    "del.noted",
];
const OF_AN_INTERFACE: [&str; 7] =
    ["add.lease", "add.veth", "add.inside", "add.port", "del.veth", "del.lease", "add.names"];

/// Those of what is changed inside, and of a MAC that is the guard's business.
const OF_TUNING: [&str; 5] = ["add.originals", "add.mac", "add.tuned", "del.mac", "del.tuned"];

/// The steps that a plugin has.
fn passes(plugin: &str, step: &str, company: Company) -> bool {
    let chained = engine::drivers::makers().all(|maker| maker != plugin);
    let without_bridge = chained || plugin == "ptp";
    match step {
        _ if RARE.contains(&step) => false,
        _ if OF_TUNING.contains(&step) || step == "add.inside" && chained => plugin == "tuning",
        // Each of its host ends forwards.
        "add.forward" if plugin == "ptp" => true,
        // They hold the network in every ADD.
        "add.address" if chained => true,
        // It publishes nothing.
        "add.rules" | "add.conntrack" | "del.conntrack" if plugin == "dnsname" || plugin == "tuning" => false,
        "add.names" if plugin == "dnsname" => true,
        _ if chained && OF_AN_INTERFACE.contains(&step) => false,
        _ if without_bridge && OF_THE_NETWORK.contains(&step) => {
            company == Company::Alone && OF_A_REMEMBERED_NETWORK.contains(&step)
        }
        _ => company == Company::Alone || !OF_THE_NETWORK.contains(&step),
    }
}

impl Case {
    /// The fault, the recovery, and then all must be as before.
    fn run(
        &self,
        host: &Host,
        before: &State,
        residents: &[&Guest<'_>],
        guest: &Guest<'_>,
    ) -> Result<(), String> {
        let everybody = [residents, &[guest]].concat();
        self.fail(host, &everybody, guest)?;
        if self.undoes_itself(guest) {
            compare("after the failed ADD", before, &host.state(&everybody))?;
        }
        if self.recover(host, residents, guest)? == Recovered::Whole {
            balanced("after the recovery", host, &everybody)?;
        }
        guest.del().map_err(|outcome| told("the last DEL", &outcome))?;
        compare("after the last DEL", before, &host.state(&everybody))
    }

    fn is_add(&self) -> bool {
        self.fault.failpoint.starts_with("add.")
    }

    /// An ADD that fails, not dies, and is the only plugin that has done anything.
    fn undoes_itself(&self, guest: &Guest<'_>) -> bool {
        self.is_add()
            && self.fault.failpoint.ends_with(":error")
            && self.fault.plugin == guest.network.main_plugin()
    }

    fn fail(&self, host: &Host, everybody: &[&Guest<'_>], guest: &Guest<'_>) -> Result<(), String> {
        let outcome = if self.is_add() {
            guest.add_with(Some(&self.fault)).map(drop)
        } else {
            guest.add().map_err(|outcome| told("the ADD before", &outcome))?;
            balanced("before the fault", host, everybody)?;
            guest.del_with(Some(&self.fault))
        };
        match outcome {
            Ok(()) => Err("the failpoint was not met".into()),
            Err(outcome) if self.fault.failpoint.ends_with(":abort") == (outcome.status > 128) => Ok(()),
            Err(outcome) => Err(told("the fault", &outcome)),
        }
    }

    fn recover(&self, host: &Host, residents: &[&Guest<'_>], guest: &Guest<'_>) -> Result<Recovered, String> {
        match self.after {
            After::AddAgain => return add_again(host, guest),
            After::Del => guest.del().map_err(|outcome| told("DEL", &outcome))?,
            After::Gc => {
                let valid: Vec<&str> = residents.iter().map(|resident| resident.who.id.as_str()).collect();
                guest.gc(&valid).map_err(|outcome| told("GC", &outcome))?;
            }
        }
        Ok(Recovered::Whole)
    }
}

/// Half an attachment is made whole; a whole one, of which only the runtime does not know, is refused and unharmed.
fn add_again(host: &Host, guest: &Guest<'_>) -> Result<Recovered, String> {
    const ALREADY_ATTACHED: u64 = 103;
    let addresses = guest.addresses();
    let whole = is_whole(host, guest);
    match (guest.add(), whole) {
        (Ok(_), false) if guest.works() => Ok(Recovered::Whole),
        (Ok(_), false) => Err("the container is not reached after the second ADD".into()),
        (Ok(_), true) => Err("a second ADD was not refused".into()),
        (Err(outcome), true) if outcome.refusal().0 == ALREADY_ATTACHED && guest.addresses() == addresses => {
            Ok(Recovered::NotYet)
        }
        (Err(outcome), _) => Err(told("ADD again", &outcome)),
    }
}

fn is_whole(host: &Host, guest: &Guest<'_>) -> bool {
    host.store().records().unwrap().iter().any(|record| {
        record.container == guest.who.id
            && record.plugin == guest.network.main_plugin()
            && record.stage == Stage::Committed
    })
}

fn balanced(when: &str, host: &Host, guests: &[&Guest<'_>]) -> Result<(), String> {
    let findings = host.audit(guests);
    if findings.is_empty() { Ok(()) } else { Err(format!("{when}:\n  {}", findings.join("\n  "))) }
}

fn compare(when: &str, before: &State, after: &State) -> Result<(), String> {
    let difference = before.difference(after);
    if difference.is_empty() { Ok(()) } else { Err(format!("{when}:\n  {}", difference.join("\n  "))) }
}

fn told(who: &str, outcome: &Outcome) -> String {
    format!("{who} ended with {}: {}{}", outcome.status, outcome.stdout, outcome.stderr)
}
