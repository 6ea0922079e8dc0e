//! Random histories, compared after each step with a model that keeps a plain map and scans it.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::range::{address, number};
use crate::{Origin, Span, order};

const OWNERS: u8 = 7;

#[derive(Clone, Debug)]
enum Step {
    Lease { owner: u8, lowest: bool, requested: Option<u8> },
    Release { owner: u8 },
    Reboot,
    ForeignLease { owner: u8, last: u8 },
    ForeignRelease { last: u8 },
    Garbage { last: u8 },
    IndexLost,
    Gc { valid: u8 },
    GcDead,
}

/// Who wrote a lease; rnet in a boot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writer {
    Foreign,
    Rnet(u32),
}

#[derive(Default)]
struct Model {
    leases: BTreeMap<IpAddr, (u8, Writer)>,
    last: HashMap<usize, IpAddr>,
    boot: u32,
}

impl Model {
    fn is_dead(&self, ip: &IpAddr) -> bool {
        matches!(self.leases.get(ip), Some((_, Writer::Rnet(boot))) if *boot != self.boot)
    }

    /// What a lease should give; `None` for any refusal.
    fn lease(
        &mut self,
        sets: &[RangeSet],
        owner: u8,
        lowest: bool,
        requested: Option<IpAddr>,
    ) -> Option<Vec<IpAddr>> {
        let mut picks = Vec::new();
        for (place, set) in sets.iter().enumerate() {
            picks.push(self.pick(set, place, owner, lowest, requested.filter(|ip| set.contains(*ip)))?);
        }
        if requested.is_some_and(|ip| !sets.iter().any(|set| set.contains(ip))) {
            return None;
        }
        for (place, ip) in picks.iter().enumerate() {
            self.leases.insert(*ip, (owner, Writer::Rnet(self.boot)));
            self.last.insert(place, *ip);
        }
        Some(picks)
    }

    fn pick(
        &mut self,
        set: &RangeSet,
        place: usize,
        owner: u8,
        lowest: bool,
        requested: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let own: Vec<IpAddr> = self
            .leases
            .iter()
            .filter(|(ip, (by, _))| *by == owner && set.contains(**ip))
            .map(|(ip, _)| *ip)
            .collect();
        if own.iter().any(|ip| !self.is_dead(ip)) {
            return None;
        }
        if let Some(ip) = requested {
            let free = !self.leases.contains_key(&ip) || self.is_dead(&ip);
            if free && set.gives(ip) {
                self.leases.remove(&ip);
                return Some(ip);
            }
            return None;
        }
        if let Some(ip) = own.into_iter().find(|ip| set.gives(*ip)) {
            return Some(ip);
        }
        self.next(set, place, lowest).or_else(|| {
            let dead: Vec<IpAddr> = self.leases.keys().filter(|ip| set.contains(**ip)).copied().collect();
            for ip in dead {
                if self.is_dead(&ip) && set.gives(ip) {
                    self.leases.remove(&ip);
                }
            }
            self.next(set, place, lowest)
        })
    }

    fn next(&self, set: &RangeSet, place: usize, lowest: bool) -> Option<IpAddr> {
        let choice = if lowest { Choice::Lowest } else { Choice::RoundRobin };
        let all = |span: Span| (number(span.first)..=number(span.last)).map(move |n| address(span.first, n));
        let mut candidates = order(set, choice, self.last.get(&place).copied()).into_iter().flat_map(all);
        candidates.find(|ip| !self.leases.contains_key(ip))
    }

    fn drop_where(&mut self, over: impl Fn(&Self, &IpAddr) -> bool) -> Vec<IpAddr> {
        let gone: Vec<IpAddr> = self.leases.keys().copied().filter(|ip| over(self, ip)).collect();
        self.leases.retain(|ip, _| !gone.contains(ip));
        gone
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let owner = || 0..OWNERS;
    let last = || 1..7_u8;
    let step = prop_oneof![
        8 => (owner(), any::<bool>(), prop::option::weighted(0.3, 0..9_u8))
            .prop_map(|(owner, lowest, requested)| Step::Lease { owner, lowest, requested }),
        4 => owner().prop_map(|owner| Step::Release { owner }),
        1 => Just(Step::Reboot),
        2 => (owner(), last()).prop_map(|(owner, last)| Step::ForeignLease { owner, last }),
        1 => last().prop_map(|last| Step::ForeignRelease { last }),
        1 => last().prop_map(|last| Step::Garbage { last }),
        1 => Just(Step::IndexLost),
        1 => any::<u8>().prop_map(|valid| Step::Gc { valid }),
        1 => Just(Step::GcDead),
    ];
    prop::collection::vec(step, 1..40)
}

fn id(owner: u8) -> String {
    format!("c{owner}")
}

fn four(last: u8) -> IpAddr {
    ip(&format!("10.9.0.{last}"))
}

/// Takes one step in both worlds and compares what they say.
fn take(step: &Step, lab: &Lab, sets: &[RangeSet], model: &mut Model) {
    let leases = lab.in_boot(&model.boot.to_string());
    match *step {
        Step::Lease { owner, lowest, requested } => {
            let requested = requested.map(four);
            let choice = if lowest { Choice::Lowest } else { Choice::RoundRobin };
            let given = leases.lease(sets, &eth0(&id(owner)), None, requested.as_slice(), choice).ok();
            let given = given.map(|given| given.iter().map(|leased| leased.address.ip()).collect::<Vec<_>>());
            assert_eq!(given, model.lease(sets, owner, lowest, requested));
        }
        Step::Release { owner } => {
            let gone = model.drop_where(|model, ip| model.leases[ip].0 == owner);
            assert_eq!(leases.release(&eth0(&id(owner))).unwrap(), gone);
        }
        Step::Reboot => model.boot += 1,
        Step::ForeignLease { owner, last } => {
            model.leases.entry(four(last)).or_insert_with(|| {
                let _ = std::fs::remove_file(lab.net().join(four(last).to_string()));
                lab.write(&four(last).to_string(), eth0(&id(owner)).content());
                (owner, Writer::Foreign)
            });
        }
        Step::ForeignRelease { last } => {
            let _ = std::fs::remove_file(lab.net().join(four(last).to_string()));
            model.leases.remove(&four(last));
        }
        Step::Garbage { last } => {
            if !model.leases.contains_key(&four(last)) {
                lab.write(&four(last).to_string(), "");
            }
        }
        Step::IndexLost => {
            let _ = std::fs::remove_dir_all(lab.shelf());
            model.leases.values_mut().for_each(|(_, writer)| *writer = Writer::Foreign);
        }
        Step::Gc { valid } => {
            let is_valid = |owner: u8| valid >> owner & 1 == 1;
            let list: Vec<_> =
                (0..OWNERS).filter(|owner| is_valid(*owner)).map(|n| owner_pair(&id(n), "eth0")).collect();
            leases.gc(Some(&list), &|_, _| true).unwrap();
            model.drop_where(|model, ip| !is_valid(model.leases[ip].0));
        }
        Step::GcDead => {
            leases.gc(None, &|_, _| true).unwrap();
            model.drop_where(Model::is_dead);
        }
    }
}

fn compare(lab: &Lab, sets: &[RangeSet], model: &Model) {
    let leases = lab.in_boot(&model.boot.to_string());
    let listed: Vec<_> =
        leases.list().unwrap().into_iter().map(|lease| (lease.address, lease.id, lease.origin)).collect();
    let origin = |ip: &IpAddr, writer: Writer| match writer {
        Writer::Foreign => Origin::Foreign,
        Writer::Rnet(_) if model.is_dead(ip) => Origin::Dead,
        Writer::Rnet(_) => Origin::Ours { netns: None },
    };
    let expected: Vec<_> =
        model.leases.iter().map(|(ip, (owner, writer))| (*ip, id(*owner), origin(ip, *writer))).collect();
    assert_eq!(listed, expected);
    for owner in 0..OWNERS {
        let living = model.leases.iter().filter(|(ip, (by, _))| *by == owner && !model.is_dead(ip));
        assert_eq!(leases.held(&eth0(&id(owner))).unwrap(), living.map(|(ip, _)| *ip).collect::<Vec<_>>());
    }
    for ip in (1..7).map(four) {
        let holder = model.leases.get(&ip).filter(|_| !model.is_dead(&ip));
        assert_eq!(leases.holder(ip).unwrap(), holder.map(|(owner, _)| owner_pair(&id(*owner), "eth0")));
    }
    let has_free = |set: &RangeSet| {
        model.next(set, 9, true).is_some()
            || model.leases.keys().any(|ip| set.gives(*ip) && model.is_dead(ip))
    };
    assert_eq!(leases.free(sets).unwrap(), sets.iter().all(has_free));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_as_if_only_the_files_were_read(steps in steps()) {
        let lab = Lab::new();
        lab.leases();
        let sets = sets(
            r#"[[{"subnet":"10.9.0.0/29","rangeEnd":"10.9.0.3"},{"subnet":"10.9.0.0/29","rangeStart":"10.9.0.5"}],
                [{"subnet":"fd00::/124","rangeEnd":"fd00::5"}]]"#,
        );
        let mut model = Model::default();

        for step in &steps {
            take(step, &lab, &sets, &mut model);
            compare(&lab, &sets, &model);
        }
    }
}
