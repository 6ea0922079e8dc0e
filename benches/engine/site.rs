//! A host with one contender at work, and the operations measured there.

use anyhow::{Context, Result};
use netns_fixtures::Host;

use crate::contender::{Attachment, Contender, Kind, Ports};
use crate::measure::{Sample, Series, measured, reap_orphans};
use crate::programs::Programs;

/// Residents publish from here upwards, one port each.
const RESIDENT_PORTS: u16 = 20_000;
/// The measured container's port.
pub const MEASURED_PORT: u16 = 8080;

/// A host of its own for one contender: no rule, link or file of another is on it.
///
/// One resident is there from the start and keeps the bridge and the base rules: every ADD and DEL measured is one on
/// a network in use.
pub struct Site {
    /// Its network namespace and files.
    pub host: Host,
    /// Who works here.
    pub kind: Kind,
    contender: Box<dyn Contender>,
    residents: Vec<Attachment>,
    made: u16,
}

/// ADDs and the DELs that undid them.
#[derive(Default)]
pub struct Cycles {
    /// The ADDs.
    pub add: Series,
    /// The DELs.
    pub del: Series,
}

impl Site {
    /// A new host with one resident.
    pub fn new(kind: Kind, programs: &Programs) -> Result<Self> {
        let mut site = Self::empty(kind, programs)?;
        site.fill(1)?;
        Ok(site)
    }

    /// A new host without anybody.
    pub fn empty(kind: Kind, programs: &Programs) -> Result<Self> {
        let host = Host::new()?;
        let contender = kind.contender(programs, host.root());
        Ok(Self { host, kind, contender, residents: Vec::new(), made: 0 })
    }

    /// The same host, where another contender works from now on.
    pub fn move_on(self, kind: Kind, programs: &Programs) -> Self {
        let contender = kind.contender(programs, self.host.root());
        Self { kind, contender, ..self }
    }

    /// Adds residents, each with one published port, until there are `count`.
    pub fn fill(&mut self, count: u16) -> Result<()> {
        while self.residents.len() < usize::from(count) {
            let ports = Ports::one(RESIDENT_PORTS + self.made);
            self.settle_in(ports)?;
        }
        reap_orphans();
        Ok(())
    }

    /// Adds a resident with these ports.
    pub fn settle_in(&mut self, ports: Ports) -> Result<&Attachment> {
        let mut resident = self.container(ports)?;
        self.run(|contender| contender.add(&mut resident))?;
        self.residents.push(resident);
        self.residents.last().context("a resident that was just added")
    }

    /// All residents leave, one after the other. Their namespaces end with what is returned.
    pub fn leave(&mut self) -> Result<Vec<Attachment>> {
        let mut residents = std::mem::take(&mut self.residents);
        self.run(|contender| residents.iter_mut().try_for_each(|resident| contender.del(resident)))?;
        Ok(residents)
    }

    /// A new container, not attached yet.
    pub fn container(&mut self, ports: Ports) -> Result<Attachment> {
        self.made += 1;
        let container = self.host.container(&format!("c{}", self.made))?;
        Ok(Attachment::new(container, self.made, ports))
    }

    /// `count` of them, with a published port each.
    pub fn containers(&mut self, count: u16) -> Result<Vec<Attachment>> {
        (0..count).map(|_| self.container(Ports::one(RESIDENT_PORTS + self.made))).collect()
    }

    /// One ADD, measured.
    pub fn add(&self, attachment: &mut Attachment) -> Result<Sample> {
        self.run(|contender| measured(|| contender.add(attachment)))
    }

    /// One DEL, measured.
    pub fn del(&self, attachment: &mut Attachment) -> Result<Sample> {
        self.run(|contender| measured(|| contender.del(attachment)))
    }

    /// Lets the contender work from the host's network namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce(&dyn Contender) -> Result<T> + Send) -> Result<T> {
        self.host.run(|| work(self.contender.as_ref()))?.with_context(|| self.kind.name())
    }
}

/// ADDs and DELs on each site in turn (ADD, ADD, …, DEL, DEL, …), `rounds` times after a round that does not count.
///
/// Each round has new containers, made before it starts. Every other round goes backwards through the sites, so that
/// nobody always follows the same one: the kernel goes on with a DEL after it.
pub fn in_turn(sites: &mut [Site], ports: Ports, rounds: usize) -> Result<Vec<Cycles>> {
    let mut cycles: Vec<Cycles> = sites.iter().map(|_| Cycles::default()).collect();
    // Namespaces end after the last round: the kernel's work on them is nobody's here.
    let mut spent = Vec::new();
    for round in 0..=rounds {
        let mut attachments: Vec<Attachment> =
            sites.iter_mut().map(|site| site.container(ports)).collect::<Result<_>>()?;
        let backwards = round % 2 == 1;
        let adds = each(sites, &mut attachments, backwards, Site::add)?;
        let dels = each(sites, &mut attachments, backwards, Site::del)?;
        spent.append(&mut attachments);
        if round > 0 {
            let samples = adds.into_iter().zip(dels);
            cycles.iter_mut().zip(samples).for_each(|(cycle, (add, del))| cycle.push(add, del));
        }
    }
    Ok(cycles)
}

type Operation = fn(&Site, &mut Attachment) -> Result<Sample>;

fn each(
    sites: &[Site],
    attachments: &mut [Attachment],
    backwards: bool,
    operation: Operation,
) -> Result<Vec<Sample>> {
    let work = |(site, attachment): (&Site, &mut Attachment)| operation(site, attachment);
    let turns = sites.iter().zip(attachments);
    let mut samples: Vec<Sample> = match backwards {
        false => turns.map(work).collect::<Result<_>>()?,
        true => turns.rev().map(work).collect::<Result<_>>()?,
    };
    if backwards {
        samples.reverse();
    }
    Ok(samples)
}

impl Cycles {
    fn push(&mut self, add: Sample, del: Sample) {
        self.add.push(add);
        self.del.push(del);
    }
}
