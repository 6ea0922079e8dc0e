//! Settings of an interface that is there, and of the network namespace that it is in: sysctls, MAC address, MTU, promiscuous and
//! all-multicast mode, the queue's length.
//!
//! What each was before is on record before anything is changed, and DEL puts it back. The same is written into a file of the
//! reference plugin's format, so that either plugin undoes what the other has done.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use netlink::{Link, Mac, Netlink, Netns, Request};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::ser::PrettyFormatter;
use store::{Record, Sysctl};

use super::{guard, macs};
use crate::drivers::makers;
use crate::feature::Feature;
use crate::making::Making;
use crate::settings::Settings;
use crate::spec::Spec;
use crate::{Error, Finding, Host, failpoint};

/// The feature of this file.
pub struct Tuning;

/// Its part of a record.
const SECTION: &str = "tuning";

/// What a record says of it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Section {
    wanted: Settings,
    /// None as long as nothing was changed.
    before: Option<Before>,
}

/// What was there before.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Before {
    link: Backup,
    sysctls: Vec<Sysctl>,
    changed_mac: Option<ChangedMac>,
}

/// The MAC that the record of the interface's maker had, and the one that it was given.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ChangedMac {
    maker: String,
    bridge: Option<String>,
    from: store::Mac,
    to: store::Mac,
}

/// The reference plugin's file (plugins/meta/tuning, `configToRestore`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct Backup {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<store::Mac>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    queue_length: Option<u32>,
}

/// A setting that is not as it was made. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum Altered {
    #[error("Error: Tuning configured value of /proc/sys/net/{key} is {wanted}, current value is {found}")]
    Sysctl { key: String, wanted: String, found: String },
    #[error("Error: Tuning configured Ethernet of {ifname} is {wanted}, current value is {found}")]
    Mac { ifname: String, wanted: store::Mac, found: String },
    #[error(
        "Error: Tuning link {ifname} configured promisc is {wanted}, current value is {}",
        u8::from(!wanted)
    )]
    Promiscuous { ifname: String, wanted: bool },
    #[error("Error: Tuning configured MTU of {ifname} is {wanted}, current value is {found}")]
    Mtu { ifname: String, wanted: u32, found: u32 },
    #[error(
        "Error: Tuning configured all-multicast mode of {ifname} is {wanted}, current value is {}",
        !wanted
    )]
    AllMulticast { ifname: String, wanted: bool },
    #[error(
        "Error: Tuning configured Transmit Queue Length of {ifname} is {wanted}, current value is {found}"
    )]
    QueueLength { ifname: String, wanted: u32, found: u32 },
}

impl Feature for Tuning {
    fn claim(&self, _: &mut Host, making: &mut Making<'_>) -> Result<(), Error> {
        describe(making.spec, &mut making.record)
    }

    fn prepare(&self, host: &mut Host, inside: &mut Netlink, making: &mut Making<'_>) -> Result<(), Error> {
        let Some(wanted) = &making.spec.tuning else { return Ok(()) };
        let ifname = &making.record.ifname;
        let link = inside.link(ifname)?.ok_or_else(|| absent(ifname))?;
        let maker = maker(host, &making.record)?;
        let maker = maker.as_ref();
        let before = before(host, inside, &link, wanted, maker)?;
        let (file, changed_mac) = (before.link.clone(), before.changed_mac.clone());
        making.record.set_section(SECTION, &Section { wanted: wanted.clone(), before: Some(before) })?;
        host.store.write_record(&making.record)?;
        write_backup(host, &wanted.backup, &file)?;
        failpoint::pass("add.originals")?;
        let changed_mac = changed_mac.map(|changed| (changed.from, changed.to));
        if let Some((maker, macs)) = maker.zip(changed_mac) {
            macs::change(host, maker, macs, "add.mac")?;
            announce(inside, maker)?;
        }
        for (key, value) in &wanted.sysctls {
            set_sysctl(inside, key, value)?;
        }
        inside.send(&wanted.requests(&link))?;
        if let Some(macs) = changed_mac.filter(|_| maker.is_some_and(|maker| maker.guarded)) {
            change_link_local(inside, &link, macs)?;
        }
        failpoint::pass("add.tuned")
    }

    /// What cannot be put back must not keep a container from being removed: it is told, and DEL goes on.
    fn dismiss(&self, host: &mut Host, record: &Record) -> Result<(), Error> {
        let Some(Section { wanted, before: Some(before) }) = record.section(SECTION)? else { return Ok(()) };
        let inside = enter(record)?;
        if let Some(changed) = &before.changed_mac {
            // First: the announcement of the MAC has to pass the guard.
            give_back(host, record, changed, inside.is_some())?;
        }
        if let Some(mut inside) = inside {
            restore(&mut inside, &record.ifname, &before).unwrap_or_else(|error| tell(record, &error));
        }
        failpoint::pass("del.tuned")?;
        remove_backup(host, &wanted.backup)
    }

    fn look(&self, _: &mut Host, record: &Record, tell: &mut dyn FnMut(Finding)) -> Result<(), Error> {
        let Some(Section { wanted, .. }) = record.section(SECTION)? else { return Ok(()) };
        let Some(mut inside) = enter(record)? else { return Ok(()) };
        for (key, wanted) in wanted.sysctls.clone() {
            let found = inside.sysctl(&key)?.unwrap_or_else(|| "missing".into());
            if !is_same(&found, &wanted) {
                tell(Finding::Changed(Altered::Sysctl { key, wanted, found }.to_string()));
            }
        }
        match inside.link(&record.ifname)? {
            Some(link) => {
                wanted.altered(&link).for_each(|altered| tell(Finding::Changed(altered.to_string())))
            }
            None => tell(Finding::NoContainerLink(record.ifname.clone())),
        }
        Ok(())
    }
}

/// The record that ADD would write for `spec`: the reference plugin writes none.
///
/// # Errors
/// The settings have no form in a record.
pub fn record(spec: &Spec) -> Result<Record, Error> {
    let mut record = spec.record();
    describe(spec, &mut record)?;
    Ok(record)
}

/// Undoes what the reference plugin has done, by the file that it left, and removes the file. Without a file it does nothing.
///
/// # Errors
/// The file cannot be read or removed.
pub fn restore_backup(host: &Host, spec: &Spec) -> Result<(), Error> {
    let Some(settings) = &spec.tuning else { return Ok(()) };
    let Some(link) = read_backup(host, &settings.backup)? else { return Ok(()) };
    let record = spec.record();
    if let Ok(netns) = Netns::open(&spec.netns) {
        let before = Before { link, ..Before::default() };
        restore(&mut Netlink::inside(&netns)?, &record.ifname, &before)
            .unwrap_or_else(|error| tell(&record, &error));
    }
    remove_backup(host, &settings.backup)
}

fn describe(spec: &Spec, record: &mut Record) -> Result<(), Error> {
    let Some(wanted) = spec.tuning.clone() else { return Ok(()) };
    Ok(record.set_section(SECTION, &Section { wanted, before: None })?)
}

/// The requests to the kernel, and the comparison with it.
impl Settings {
    /// In upstream's order.
    fn requests(&self, link: &Link) -> Vec<Request> {
        let promisc = self.promiscuous.filter(|on| *on);
        Backup {
            mac: self.mac,
            promisc,
            mtu: self.mtu,
            allmulti: self.all_multicast,
            queue_length: self.queue_length,
        }
        .requests(link)
    }

    fn altered(&self, link: &Link) -> impl Iterator<Item = Altered> {
        let ifname = || link.name.clone();
        let mac = self.mac.filter(|mac| link.mac != Some(Mac(mac.0)));
        let found = || link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let mac = mac.map(|wanted| Altered::Mac { ifname: ifname(), wanted, found: found() });
        let promiscuous = self.promiscuous.filter(|wanted| *wanted != link.promisc);
        let promiscuous = promiscuous.map(|wanted| Altered::Promiscuous { ifname: ifname(), wanted });
        let mtu = self.mtu.filter(|mtu| *mtu != link.mtu);
        let mtu = mtu.map(|wanted| Altered::Mtu { ifname: ifname(), wanted, found: link.mtu });
        let all = self.all_multicast.filter(|wanted| *wanted != link.all_multicast);
        let all = all.map(|wanted| Altered::AllMulticast { ifname: ifname(), wanted });
        let (queue, found) = (self.queue_length, link.queue_length);
        let queue = queue.filter(|wanted| *wanted != found);
        let queue = queue.map(|wanted| Altered::QueueLength { ifname: ifname(), wanted, found });
        [mac, promiscuous, mtu, all, queue].into_iter().flatten()
    }
}

impl Backup {
    /// What a link has of that which is to be changed.
    fn of(link: &Link, wanted: &Settings) -> Self {
        Self {
            mac: wanted.mac.and(link.mac).map(|mac| store::Mac(mac.0)),
            promisc: wanted.promiscuous.filter(|on| *on).map(|_| link.promisc),
            mtu: wanted.mtu.map(|_| link.mtu),
            allmulti: wanted.all_multicast.map(|_| link.all_multicast),
            queue_length: wanted.queue_length.map(|_| link.queue_length),
        }
    }

    /// These values, and where one is missing that of `other`.
    fn or(self, other: Self) -> Self {
        Self {
            mac: self.mac.or(other.mac),
            promisc: self.promisc.or(other.promisc),
            mtu: self.mtu.or(other.mtu),
            allmulti: self.allmulti.or(other.allmulti),
            queue_length: self.queue_length.or(other.queue_length),
        }
    }

    fn requests(&self, link: &Link) -> Vec<Request> {
        let (index, name) = (link.index, || link.name.clone());
        let mac = self.mac.map(|mac| Request::LinkMac { index, name: name(), mac: Mac(mac.0) });
        let promisc = self.promisc.map(|on| Request::LinkPromisc { index, name: name(), on });
        let mtu = self.mtu.map(|mtu| Request::LinkMtu { index, name: name(), mtu });
        let all = self.allmulti.map(|on| Request::LinkAllMulticast { index, name: name(), on });
        let queue = self.queue_length.map(|length| Request::LinkQueue { index, name: name(), length });
        [mac, promisc, mtu, all, queue].into_iter().flatten().collect()
    }
}

/// What is there now. What a file of the reference plugin says goes first: it was there before that plugin changed it.
fn before(
    host: &Host,
    inside: &Netlink,
    link: &Link,
    wanted: &Settings,
    maker: Option<&Record>,
) -> Result<Before, Error> {
    let earlier = read_backup(host, &wanted.backup)?.unwrap_or_default();
    let known = maker.and_then(|maker| maker.mac);
    let macs = known.zip(wanted.mac).filter(|(known, wanted)| known != wanted);
    let changed = |(maker, (from, to)): (&Record, (store::Mac, store::Mac))| {
        let (maker, bridge) = (maker.plugin.clone(), maker.bridge.clone());
        ChangedMac { maker, bridge, from, to }
    };
    let changed_mac = maker.zip(macs).map(changed);
    let announced = maker.filter(|_| changed_mac.is_some()).map(announcing).unwrap_or_default();
    let keys = wanted.sysctls.iter().map(|(key, _)| key.clone()).chain(announced);
    // A key that cannot be read has nothing that could be put back.
    let was = |key: String| Some(Sysctl { was: inside.sysctl(&key).ok().flatten()?, key });
    Ok(Before {
        link: earlier.or(Backup::of(link, wanted)),
        sysctls: keys.filter_map(was).collect(),
        changed_mac,
    })
}

/// The record of the plugin that made the interface, if it is one of rnet's.
fn maker(host: &Host, record: &Record) -> Result<Option<Record>, Error> {
    for plugin in makers() {
        let found = host.store.record(&record.network, plugin, &record.key())?;
        if let Some(maker) = found.filter(|maker| !maker.container.is_empty()) {
            return Ok(Some(maker));
        }
    }
    Ok(None)
}

/// The keys by which the kernel tells neighbours of a new MAC.
fn announcing(maker: &Record) -> Vec<String> {
    let ifname = &maker.ifname;
    let has_v6 = maker.addresses.iter().any(|address| address.address.is_ipv6());
    let v6 = has_v6.then(|| format!("ipv6/conf/{ifname}/ndisc_notify"));
    std::iter::once(format!("ipv4/conf/{ifname}/arp_notify")).chain(v6).collect()
}

fn announce(inside: &Netlink, maker: &Record) -> Result<(), Error> {
    announcing(maker).iter().try_for_each(|key| Ok(inside.set_sysctl_if_there(key, "1")?))
}

fn set_sysctl(inside: &Netlink, key: &str, value: &str) -> Result<(), Error> {
    // One that can only be written has no value that it could have already.
    match inside.sysctl(key) {
        Ok(_) => inside.set_sysctl(key, value)?,
        Err(_) => inside.write_sysctl(key, value).map(|()| true)?,
    };
    Ok(())
}

/// In upstream's words, and the kernel's.
fn absent(ifname: &str) -> Error {
    let request = format!("ip link show dev {ifname}");
    Error::of(format!("failed to get {ifname:?}"))(netlink::Error::Request {
        request,
        errno: Errno::NODEV,
        detail: String::new(),
    })
}

/// A guard knows the IPv6 address that the kernel makes of a MAC. The kernel makes no other one when the MAC changes.
fn change_link_local(
    inside: &mut Netlink,
    link: &Link,
    (from, to): (store::Mac, store::Mac),
) -> Result<(), netlink::Error> {
    let [from, to] = [from, to].map(|mac| IpAddr::V6(guard::link_local(Mac(mac.0))));
    let found = inside.addresses(Some(link.index))?;
    let Some(old) = found.iter().find(|found| found.address.ip() == from) else { return Ok(()) };
    let (index, name) = (link.index, || link.name.clone());
    let address = IpNetwork::new(to, old.address.prefix()).unwrap_or(to.into());
    let mut requests = vec![Request::AddressDel { index, name: name(), address: old.address }];
    if found.iter().all(|found| found.address.ip() != to) {
        requests.insert(0, Request::AddressAdd { index, name: name(), address });
    }
    inside.send(&requests)
}

/// Goes on after a failure, and returns the first one.
fn restore(inside: &mut Netlink, ifname: &str, before: &Before) -> Result<(), Error> {
    let sent = inside.link(ifname)?.map_or(Ok(()), |link| {
        inside.send(&before.link.requests(&link))?;
        let changed = before.changed_mac.as_ref();
        changed.map_or(Ok(()), |changed| change_link_local(inside, &link, (changed.to, changed.from)))
    });
    let sysctls = before.sysctls.iter().rev();
    let failed: Vec<_> =
        sysctls.filter_map(|Sysctl { key, was }| inside.set_sysctl_if_there(key, was).err()).collect();
    sent.and(failed.into_iter().next().map_or(Ok(()), Err)).map_err(Error::from)
}

/// The record of the interface's maker has its first MAC again. If the container is gone, its own DEL goes by the one that it has.
fn give_back(host: &mut Host, record: &Record, changed: &ChangedMac, is_there: bool) -> Result<(), Error> {
    let ChangedMac { maker, bridge, from, to } = changed;
    let found = host.store.record(&record.network, maker, &record.key())?;
    let is_it = |maker: &Record| maker.mac == Some(*from) || maker.mac == Some(*to);
    let found = found.filter(is_it);
    let kept = found.as_ref().and_then(|maker| maker.mac);
    match found.filter(|_| is_there) {
        None => {
            // Its own DEL releases the MAC that its record has.
            let gone = Record { bridge: bridge.clone(), ..Record::of(maker, &record.id()) };
            let mut others = [*from, *to].into_iter().filter(|mac| Some(*mac) != kept);
            others.try_for_each(|mac| macs::disown(host, &gone, mac))
        }
        Some(maker) => match macs::change(host, &maker, (*to, *from), "del.mac") {
            // The two are told apart again as soon as this one is gone, which it is about to be.
            Err(error @ Error::MacTaken { .. }) => {
                tell(record, &error);
                Ok(())
            }
            other => other,
        },
    }
}

/// The namespace of a record, if its path still leads to it.
fn enter(record: &Record) -> Result<Option<Netlink>, Error> {
    let Some(known) = &record.netns else { return Ok(None) };
    let Ok(netns) = Netns::open(&known.path) else { return Ok(None) };
    if (netns.id().dev, netns.id().ino) != (known.dev, known.ino) {
        return Ok(None);
    }
    Ok(Some(Netlink::inside(&netns)?))
}

fn tell(record: &Record, error: &Error) {
    let (who, ifname) = (record.who(), &record.ifname);
    eprintln!("tuning: {ifname} of {who:?} is not as it was before: {error}");
}

/// The kernel says most lists with tabs between their numbers.
fn is_same(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

/// The folder and the name of the reference plugin's file.
fn place(host: &Host, backup: &Path) -> (PathBuf, String) {
    let folder = host.store.paths().rooted(backup.parent().unwrap_or(backup));
    (folder, backup.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// As the reference plugin, nothing where there is nothing to put back.
fn write_backup(host: &Host, backup: &Path, content: &Backup) -> Result<(), Error> {
    if *content == Backup::default() {
        return Ok(());
    }
    let (folder, name) = place(host, backup);
    let mut bytes = Vec::new();
    let mut pretty = serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" "));
    // Numbers, booleans and texts: all of that has a form.
    let _ = content.serialize(&mut pretty);
    let folder = store::open_dir(&folder, 0o700)?;
    Ok(store::replace_whole(folder.as_fd(), &name, &bytes, 0o600)?)
}

/// What cannot be read as one is none, as for the reference plugin.
fn read_backup(host: &Host, backup: &Path) -> Result<Option<Backup>, Error> {
    let (folder, name) = place(host, backup);
    let Some(folder) = store::find_dir(&folder)? else { return Ok(None) };
    let bytes = store::read_whole(folder.as_fd(), &name)?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_default()))
}

fn remove_backup(host: &Host, backup: &Path) -> Result<(), Error> {
    let (folder, name) = place(host, backup);
    let Some(folder) = store::find_dir(&folder)? else { return Ok(()) };
    match rustix::fs::unlinkat(&folder, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(store::Error::File { action: "remove", path: backup.to_owned(), errno }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_the_same_whatever_is_between_their_numbers() {
        assert!(is_same("4096\t131072\t6291456", "4096 131072 6291456"));
        assert!(!is_same("4096 131072", "4096 131072 6291456"));
    }

    #[test]
    fn the_reference_plugins_file_is_read_and_its_values_go_first() {
        let file: Backup =
            serde_json::from_str("{\n \"mac\": \"02:42:0a:01:00:02\",\n \"mtu\": 1500\n}").unwrap();
        let now = Backup { mtu: Some(1400), allmulti: Some(false), ..Backup::default() };

        let whole = file.clone().or(now);

        assert_eq!(whole, Backup { allmulti: Some(false), ..file });
    }
}
