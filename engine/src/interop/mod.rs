//! Living beside the host's other firewalls: they are told to let the traffic of `rnet` networks pass.
//!
//! In nf_tables an accept of our own table says nothing to the chains of others, and a drop of theirs is final. So where
//! docker, ufw or the administrator drop by default, our rules go into iptables-nft's own chains, and firewalld gets a
//! zone. They are written with the first network, because docker may come at any later time, and go with the last one.
//! What is reached is still decided by our own isolation.
//!
//! Nothing here may fail an ADD or a DEL: what goes wrong is on record, and `rnet interop status` tells it.

mod dbus;
mod firewalld;

use std::collections::BTreeSet;

use nft::{Links, Made, Passage, PassageRule};
use serde::{Deserialize, Serialize};
use store::{LockName, Mode, Network, Store};

use crate::served::PORT;
use crate::{Error, Host, transaction};

pub use firewalld::{ZoneState, default_zone, state as zones, zone_of};

/// What is kept while there are rules.
const NOTE: &str = "interop";

/// The note that says what a probe found the last time, and by which version.
pub(crate) const PROBED: &str = "probe";

/// Machines outside that nobody keeps containers from on purpose: root servers of DNS. No packet comes to them.
pub(crate) const OUTSIDE: [&str; 2] = ["198.41.0.4", "2001:503:ba3e::2:30"];

/// The beginning of the names of all bridges that rnet names itself.
const OWN: &str = "rnet-";

/// The plugin whose networks are helped.
pub(crate) const PLUGIN: &str = "rnet";

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Note {
    /// Always: an empty note is none.
    begun: bool,
    /// The tables and chains of iptables that were missing, in nft's words.
    made: BTreeSet<String>,
    /// Empty if nothing has been written yet, or not all of it.
    bridges: Vec<String>,
    ports: Vec<u16>,
    /// firewalld has rnet's zone.
    firewalld: bool,
    /// What went wrong the last time.
    troubles: Vec<String>,
}

/// How rnet lives beside the host's other firewalls.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Not turned off by `rnet interop disable`.
    pub enabled: bool,
    /// The bridges that are helped, as iptables writes them.
    pub bridges: Vec<String>,
    /// rnet's rules in iptables' chains.
    pub rules: Vec<PassageRule>,
    /// firewalld's part, where it runs in this namespace.
    pub firewalld: Option<ZoneState>,
    /// What went wrong the last time.
    pub troubles: Vec<String>,
}

/// A network comes or has changed. Only what has never been written for it costs anything: whether it is still there is
/// asked whenever others have written.
///
/// # Errors
/// The note cannot be read or written. What other firewalls refuse is in the note.
pub fn network_comes(host: &mut Host) -> Result<(), Error> {
    let note = Note::read(host)?;
    let passage = passage(host, None)?;
    if note.is_for(&passage) || (passage.bridges.is_empty() && note == Note::default()) {
        return Ok(());
    }
    write(host, note, &passage).map(drop)
}

/// Others have changed a ruleset: what they took away is written again. Returns how many transactions that took.
///
/// # Errors
/// As for [`network_comes`].
pub fn others_have_written(host: &mut Host) -> Result<u32, Error> {
    let note = Note::read(host)?;
    let passage = passage(host, None)?;
    if passage.bridges.is_empty() && note == Note::default() {
        return Ok(0);
    }
    write(host, note, &passage)
}

/// A network goes and others stay.
///
/// # Errors
/// As for [`network_comes`].
pub fn network_goes(host: &mut Host, network: &Network) -> Result<(), Error> {
    let note = Note::read(host)?;
    let passage = passage(host, Some(network))?;
    if note == Note::default() || note.is_for(&passage) {
        return Ok(());
    }
    write(host, note, &passage).map(drop)
}

/// The last network goes: our rules and our tables, in one transaction.
///
/// # Errors
/// The tables cannot be removed.
pub fn drop_tables(host: &mut Host) -> Result<(), Error> {
    let note = Note::read(host)?;
    if note == Note::default() {
        return Ok(host.firewall()?.drop_tables()?);
    }
    let alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    if host.firewall()?.close_passage(&note.made(), true).is_err() {
        // A foreign table must not keep rnet's.
        host.firewall()?.drop_tables()?;
    }
    // Before the lock goes: a caller that waits for it to look again learns from that that there is nothing left to write.
    host.store.remove_note(NOTE)?;
    drop(alone);
    leave_firewalld(host, &note)
}

/// What a probe found may be over.
pub(crate) fn forget_probe(host: &Host) -> Result<(), Error> {
    Ok(host.store.remove_note(PROBED)?)
}

/// Turns it on or off for this host, and does at once what follows.
///
/// # Errors
/// The setting cannot be kept, or the rules cannot be changed.
pub fn set_enabled(host: &mut Host, enabled: bool) -> Result<(), Error> {
    let _lock = host.lock(LockName::Ruleset, Mode::Exclusive)?;
    keep(&host.store, enabled)?;
    let (note, passage) = (Note::read(host)?, passage(host, None)?);
    write(host, note, &passage)?;
    match Note::read(host)?.troubles.first() {
        Some(trouble) => Err(Error::Interop(trouble.clone())),
        None => Ok(()),
    }
}

/// How things stand, read from the kernel and from firewalld.
///
/// # Errors
/// The ruleset cannot be read.
pub fn state(host: &mut Host) -> Result<State, Error> {
    let note = Note::read(host)?;
    let firewalld = if host.firewall()?.has_firewalld()? { firewalld::state() } else { None };
    Ok(State {
        enabled: is_enabled(&host.store),
        bridges: passage(host, None)?.bridges.iter().map(Links::to_string).collect(),
        rules: host.firewall()?.passage_rules()?,
        firewalld,
        troubles: note.troubles,
    })
}

/// The file stands for the setting: empty files appear whole.
fn keep(store: &Store, enabled: bool) -> Result<(), Error> {
    let file = store.paths().interop_off();
    let kept = match enabled {
        true => std::fs::remove_file(&file),
        false => std::fs::create_dir_all(store.paths().state())
            .and_then(|()| std::fs::File::create(&file).map(drop)),
    };
    match kept {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Interop(format!("cannot write {}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}

/// Whether rnet writes into other firewalls of this host.
pub fn is_on(host: &Host) -> bool {
    is_enabled(&host.store)
}

fn is_enabled(store: &Store) -> bool {
    !store.paths().interop_off().exists()
}

/// What is to pass, of all networks on record but one.
fn passage(host: &Host, except: Option<&Network>) -> Result<Passage, Error> {
    if !is_enabled(&host.store) {
        return Ok(Passage::default());
    }
    let is_gone = |network: &Network| {
        except.is_some_and(|gone| (&gone.name, &gone.plugin) == (&network.name, &network.plugin))
    };
    let mut networks = host.store.networks()?;
    networks.retain(|network| network.plugin == PLUGIN && !is_gone(network));
    Ok(passage_of(&networks))
}

/// One name for all bridges that rnet names itself, so that the next network costs nothing; the others by their own. Where
/// one of the former is to be left alone, all have to be named.
fn passage_of(networks: &[Network]) -> Passage {
    let all = networks.iter().flat_map(|network| network.former.iter().chain([network]));
    let (alone, helped): (Vec<&Network>, Vec<&Network>) = all.partition(|network| network.no_interop);
    if helped.is_empty() {
        return Passage::default();
    }
    let is_own = |network: &&Network| network.bridge.starts_with(OWN);
    let wildcard = (!alone.iter().any(is_own)).then(|| Links::beginning(OWN));
    let covered = |links: &Links| wildcard.as_ref().is_some_and(|all| all.covers(&links.to_string()));
    let named: BTreeSet<Links> = helped.iter().filter_map(|network| Links::named(&network.bridge)).collect();
    let named: Vec<Links> = named.into_iter().filter(|links| !covered(links)).collect();
    Passage {
        bridges: wildcard.into_iter().chain(named).collect(),
        ports: ports(&helped),
        uplinks: Vec::new(),
    }
}

/// Where questions are taken: port 53, or, if another program has that, the name server's own port.
fn ports(networks: &[&Network]) -> Vec<u16> {
    let zones = networks.iter().filter_map(|network| network.zone.as_ref());
    let moved = zones.flat_map(|zone| &zone.moved).map(|to| to.port());
    let ports: BTreeSet<u16> = moved.chain([PORT]).collect();
    ports.into_iter().collect()
}

/// The interfaces by which the outside is reached, if docker's bridges might be called so.
fn uplinks(host: &mut Host) -> Vec<Links> {
    let mut found = Vec::new();
    for outside in OUTSIDE {
        let route = outside.parse().ok().and_then(|outside| host.netlink.route_to(outside).ok().flatten());
        let link = route.and_then(|(index, _)| host.netlink.link_by_index(index).ok().flatten());
        let links = link.and_then(|link| Links::like_docker(&link.name));
        found.extend(links.filter(|links| !found.contains(links)));
    }
    found
}

/// Writes what is to pass into all firewalls, or takes everything away; returns the number of transactions.
fn write(host: &mut Host, mut note: Note, passage: &Passage) -> Result<u32, Error> {
    let was_written = note != Note::default();
    // What it says of these rules may be over.
    forget_probe(host)?;
    note.begun = true;
    note.troubles.clear();
    (note.bridges, note.ports) = (Vec::new(), Vec::new());
    let alone = host.lock(LockName::Transaction, Mode::Exclusive)?;
    if was_written && Note::read(host)? == Note::default() {
        return Ok(0);
    }
    let followed = change(host, &mut note, passage);
    let followed = followed.unwrap_or_else(|error| {
        note.troubles.push(error.to_string());
        None
    });
    if let Some(generation) = followed {
        transaction::follow(host, generation, 1)?;
    }
    if !passage.bridges.is_empty() {
        note.write(&host.store)?;
    }
    drop(alone);
    look_after_firewalld(host, &mut note, passage)?;
    if passage.bridges.is_empty() && note.troubles.is_empty() {
        host.store.remove_note(NOTE)?;
    } else if passage.bridges.is_empty() || Note::read(host)? != Note::default() {
        note.bridges = passage.bridges.iter().map(Links::to_string).collect();
        note.ports.clone_from(&passage.ports);
        // Another call may have made them meanwhile.
        note.made.extend(Note::read(host)?.made);
        note.write(&host.store)?;
    }
    Ok(followed.map_or(0, |_| 1))
}

/// The part of iptables.
fn change(host: &mut Host, note: &mut Note, passage: &Passage) -> Result<Option<u32>, Error> {
    if passage.bridges.is_empty() {
        let followed = host.firewall()?.close_passage(&note.made(), false)?;
        if followed.is_some() {
            host.note_deletion()?;
        }
        note.made.clear();
        return Ok(followed);
    }
    let passage = &Passage { uplinks: uplinks(host), ..passage.clone() };
    let (firewall, store) = host.firewall_and_store()?;
    // Written down first: after a kill the last DEL still knows what to take away.
    let about_to_make = |made: &[Made]| {
        if !made.is_empty() {
            note.made.extend(made.iter().map(Made::to_string));
            let _ = note.write(store);
        }
    };
    Ok(firewall.let_pass(passage, about_to_make)?)
}

fn look_after_firewalld(host: &mut Host, note: &mut Note, passage: &Passage) -> Result<(), Error> {
    if passage.bridges.is_empty() {
        leave_firewalld(host, note)?;
        note.firewalld = false;
    } else if host.firewall()?.has_firewalld()? {
        let _alone = host.lock(LockName::Firewalld, Mode::Exclusive)?;
        // The last network may have gone while we waited.
        if Note::read(host)? != Note::default() {
            note.firewalld = true;
            note.troubles.extend(firewalld::let_pass(passage).err().map(|error| error.to_string()));
        }
    }
    Ok(())
}

fn leave_firewalld(host: &Host, note: &Note) -> Result<(), Error> {
    if note.firewalld {
        let _alone = host.lock(LockName::Firewalld, Mode::Exclusive)?;
        firewalld::leave();
    }
    Ok(())
}

impl Note {
    /// A note that rnet cannot read counts as none.
    fn read(host: &Host) -> Result<Self, Error> {
        let text = host.store.note(NOTE)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    fn write(&self, store: &Store) -> Result<(), Error> {
        let text = serde_json::to_string(self).unwrap_or_default();
        Ok(store.write_note(NOTE, &text)?)
    }

    /// Whether just this was written, and without trouble.
    fn is_for(&self, passage: &Passage) -> bool {
        let bridges = passage.bridges.iter().map(Links::to_string);
        self.troubles.is_empty() && bridges.eq(self.bridges.iter().cloned()) && self.ports == passage.ports
    }

    fn made(&self) -> Vec<Made> {
        self.made.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(bridge: &str) -> Network {
        Network { bridge: bridge.into(), plugin: PLUGIN.into(), ..Network::default() }
    }

    fn bridges(networks: &[Network]) -> Vec<String> {
        passage_of(networks).bridges.iter().map(Links::to_string).collect()
    }

    #[test]
    fn one_name_stands_for_all_bridges_that_rnet_names() {
        assert_eq!(bridges(&[]), [""; 0]);
        assert_eq!(bridges(&[network("rnet-a"), network("rnet-b")]), ["rnet-+"]);
        assert_eq!(
            bridges(&[network("rnet-a"), network("rnet0"), network("br1")]),
            ["rnet-+", "br1", "rnet0"]
        );
    }

    #[test]
    fn a_network_that_is_to_be_left_alone_is_not_helped_by_its_name() {
        let alone = Network { no_interop: true, ..network("rnet-alone") };
        assert_eq!(bridges(&[network("rnet-a"), alone.clone()]), ["rnet-a"]);
        assert_eq!(bridges(&[alone]), [""; 0]);
    }

    #[test]
    fn questions_pass_where_they_are_taken() {
        let moved = vec!["172.18.0.1:40053".parse().unwrap()];
        let zone = store::Zone { moved, ..store::Zone::default() };
        let passage = passage_of(&[network("rnet-a"), Network { zone: Some(zone), ..network("rnet-b") }]);
        assert_eq!(passage.ports, [53, 40053]);
    }
}
