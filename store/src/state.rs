//! The folder of this host's records and locks.
//!
//! `records/<network>.<plugin>/<attachment>` are the attachments: a folder that can be removed is a network
//! without attachments, which is how DEL learns that it was the last without reading a list. `networks/` holds
//! what goes away with the last one; `claims/<what>/<attachment>` says who shares something in the same manner.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::below;
use crate::files::{make_below, open_below, write_temporary};
use crate::lock::{Lock, LockName, Mode};
use crate::{
    Error, Folder, Key, Mac, Network, NetworkKey, Paths, Record, create_whole, open_dir, read_whole,
};

/// How long a lock is waited for before the caller is told who holds it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where files are written before they get their name. Not beside it: what a killed process leaves there would
/// keep a folder from being empty, and so a network from ever losing its last attachment.
const UNNAMED: &str = "new";

/// What is made below the folder, where it is needed; `locks` is opened with it.
const FOLDERS: [&str; 7] = ["records", "networks", "claims", "leases", "index", "macs", UNNAMED];

/// What cannot be read.
const ASIDE: &str = "aside";

/// Locks, sockets, and what nobody misses when it is gone.
const LOCKS: &str = "locks";

/// The mark that says that the folder of MACs was made, and nobody has looked yet whether claims were lost with an older one.
const MACS_DOUBT: &str = "macs-doubt";

/// So often is a file written anew whose folder others remove at the same moment.
const ATTEMPTS: usize = 100;

/// This host's records and locks, below [`Paths::run`].
#[derive(Debug)]
pub struct Store {
    paths: Paths,
    run: OwnedFd,
    locks: OwnedFd,
    patience: Duration,
}

impl Store {
    /// Opens the folder (0700, root's), making it where it is missing.
    pub fn open(paths: Paths) -> Result<Self, Error> {
        let run = open_dir(&paths.run(), 0o700)?;
        let locks =
            folder_below(run.as_fd(), LOCKS).map_err(below("open the folder", &paths.run(), LOCKS))?;
        Ok(Self { paths, run, locks, patience: patience() })
    }

    /// Refuses state folders that are links: before anything is made, and for those who open what is in them by its path.
    pub fn require_folders(&self) -> Result<(), Error> {
        for name in FOLDERS {
            match rustix::fs::statat(&self.run, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(_) => return Err(self.failed("open the folder", name)(Errno::NOTDIR)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed("open the folder", name)(errno)),
            }
        }
        Ok(())
    }

    /// Where the files are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The folder of what nobody misses when it is gone: locks, and the socket of whoever closes others' sockets.
    pub fn passing(&self) -> BorrowedFd<'_> {
        self.locks.as_fd()
    }

    /// Takes the lock `name`, waiting at most ten seconds; `what` tells others who holds it.
    pub fn lock(&self, name: LockName, mode: Mode, what: &str) -> Result<Lock, Error> {
        Lock::take(self.locks.as_fd(), name, mode, what, self.patience)
    }

    /// How long a lock is waited for.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Waits a tenth as long for every lock from now on: for an undo after a lock was waited for in vain.
    pub fn hurry(&mut self) {
        self.patience /= 10;
    }

    /// Takes a lock anew in another mode. The kernel lets go in between: look again at what was read before.
    pub fn change(&self, mut lock: Lock, mode: Mode, what: &str) -> Result<Lock, Error> {
        // Its file may have been removed while nobody held it: then it would lock nothing.
        if lock.change(self.locks.as_fd(), mode)? {
            Ok(lock)
        } else {
            self.lock(lock.into_name(), mode, what)
        }
    }

    /// Removes the file of a lock that is held alone and whose subject is gone.
    pub fn retire(&self, lock: Lock) -> Result<(), Error> {
        lock.remove(self.locks.as_fd())
    }

    /// The record that `plugin` wrote of an attachment. One that cannot be read is set aside and counts as an
    /// intent without content, until it is forgotten: what its key names is still found.
    pub fn record(&self, network: &str, plugin: &str, key: &Key) -> Result<Option<Record>, Error> {
        let name = record_name(network, plugin, key);
        match self.read(&name)? {
            None => Ok(self.exists(&aside_name(&name))?.then(Record::default)),
            found => Ok(found),
        }
    }

    /// Forgets that a record was set aside: all that its key names is gone.
    pub fn forget_aside(&self, network: &str, plugin: &str, key: &Key) -> Result<(), Error> {
        let name = aside_name(&record_name(network, plugin, key));
        match self.remove(&name) {
            // A folder stays, under a name by which it is no record's.
            Err(Error::File { errno: Errno::ISDIR, .. }) => {
                let moved = self
                    .at(&name)
                    .and_then(|(at, last)| rustix::fs::renameat(&at, last, &at, format!("{last}.folder")));
                moved.map_err(self.failed("set aside", &name))
            }
            other => other,
        }
    }

    /// Writes a record whole, in place of the one before.
    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        self.replace(&record_name(&record.network, &record.plugin, &record.key()), &json(record))
    }

    /// Removes a record; true if it was its network's last one for this plugin.
    pub fn remove_record(&self, network: &str, plugin: &str, key: &Key) -> Result<bool, Error> {
        self.remove(&record_name(network, plugin, key))?;
        self.remove_folder(&format!("records/{}", folder_name(network, plugin)))
    }

    /// True if any record of `plugin` on `network` is there.
    pub fn has_records(&self, network: &str, plugin: &str) -> Result<bool, Error> {
        self.exists(&format!("records/{}", folder_name(network, plugin)))
    }

    /// Every record of every network, in no order. For a rebuild, `ps` and `gc`; never on the path of ADD or DEL.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        self.each_record(|record| records.push(record))?;
        Ok(records)
    }

    /// The same, one after another: there may be many.
    pub fn each_record(&self, mut each: impl FnMut(Record)) -> Result<(), Error> {
        for folder in self.list("records")? {
            for file in self.list(&format!("records/{folder}"))? {
                let record = self.read::<Record>(&format!("records/{folder}/{file}"))?;
                // One that was set aside just now says nothing of an attachment.
                record.into_iter().filter(|record| !record.container.is_empty()).for_each(&mut each);
            }
        }
        Ok(())
    }

    /// What `plugin` made for the network `name`.
    pub fn network(&self, name: &str, plugin: &str) -> Result<Option<Network>, Error> {
        self.read(&format!("networks/{}", folder_name(name, plugin)))
    }

    /// Remembers what was made for a network.
    pub fn write_network(&self, network: &Network) -> Result<(), Error> {
        self.replace(&format!("networks/{}", folder_name(&network.name, &network.plugin)), &json(network))
    }

    /// Forgets a network.
    pub fn remove_network(&self, name: &str, plugin: &str) -> Result<(), Error> {
        self.remove(&format!("networks/{}", folder_name(name, plugin)))
    }

    /// Every network that something was made for.
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        let mut networks = Vec::new();
        for file in self.list("networks")? {
            networks.extend(self.read::<Network>(&format!("networks/{file}"))?);
        }
        // One that was set aside just now says nothing of a network.
        networks.retain(|network| !network.name.is_empty());
        Ok(networks)
    }

    /// Says that the attachment `key` shares `what` (a file name of ours); doing so twice is the same as once.
    pub fn claim(&self, what: &str, key: &Key) -> Result<(), Error> {
        let name = format!("claims/{what}");
        for _ in 0..ATTEMPTS {
            let dir = match folder_below(self.run.as_fd(), &name) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(self.failed("open the folder", &name))?,
            };
            match create_whole(dir.as_fd(), key.as_str(), b"", 0o600) {
                // The caller that saw the last claim go has just removed the folder.
                Err(Error::File { errno: Errno::NOENT, .. }) => {}
                other => return other.map(drop),
            }
        }
        Err(self.failed("create", &name)(Errno::NOENT))
    }

    /// Claims a MAC on a bridge for a record: `Some` says who has it, with that one's record if there is one still.
    pub fn claim_mac(
        &self,
        bridge: &str,
        mac: Mac,
        record: &Record,
    ) -> Result<Option<Option<Record>>, Error> {
        self.own(&mac_name(bridge, mac), record)
    }

    /// The same for an address. `place` is the bridge on which nobody else may have it, or empty for the whole host.
    pub fn claim_address(
        &self,
        place: &str,
        ip: IpAddr,
        record: &Record,
    ) -> Result<Option<Option<Record>>, Error> {
        self.own(&address_name(place, ip), record)
    }

    /// Makes a record the only one that has `name`, unless another has it.
    fn own(&self, name: &str, record: &Record) -> Result<Option<Option<Record>>, Error> {
        let target = record_path(record);
        for _ in 0..ATTEMPTS {
            match self.link(&target, name) {
                Ok(()) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("create", name)(errno)),
            }
            match self.follow(name)? {
                Some(own) if own == target => return Ok(None),
                Some(other) => return self.record_at(&other).map(Some),
                None => {}
            }
        }
        Err(self.failed("create", name)(Errno::EXIST))
    }

    /// Claims a MAC that a dead one has. Under the lock that all who do this take.
    pub fn take_mac(&self, bridge: &str, mac: Mac, record: &Record) -> Result<(), Error> {
        self.take_over(&mac_name(bridge, mac), record)
    }

    /// The same for an address.
    pub fn take_address(&self, place: &str, ip: IpAddr, record: &Record) -> Result<(), Error> {
        self.take_over(&address_name(place, ip), record)
    }

    fn take_over(&self, name: &str, record: &Record) -> Result<(), Error> {
        self.remove(name)?;
        self.link(&record_path(record), name).map_err(self.failed("create", name))
    }

    /// Gives a MAC back, if the record has it.
    pub fn release_mac(&self, bridge: &str, mac: Mac, record: &Record) -> Result<(), Error> {
        self.disown(&mac_name(bridge, mac), record)
    }

    /// The same for an address.
    pub fn release_address(&self, place: &str, ip: IpAddr, record: &Record) -> Result<(), Error> {
        self.disown(&address_name(place, ip), record)
    }

    fn disown(&self, name: &str, record: &Record) -> Result<(), Error> {
        match self.follow(name)? {
            Some(own) if own == record_path(record) => self.remove(name),
            _ => Ok(()),
        }
    }

    /// True since the folder of MACs was made, until somebody says that no claim is missing. One system call.
    pub fn are_macs_doubtful(&self) -> Result<bool, Error> {
        self.is_marked(MACS_DOUBT)
    }

    /// No claim is missing.
    pub fn forget_doubt_of_macs(&self) {
        self.unmark(MACS_DOUBT);
    }

    /// Sets a mark that nobody misses when it is gone.
    pub fn mark(&self, name: &str) -> Result<(), Error> {
        create_whole(self.locks.as_fd(), name, b"", 0o600).map(drop)
    }

    /// True if that mark is set. One system call.
    pub fn is_marked(&self, name: &str) -> Result<bool, Error> {
        match rustix::fs::statat(&self.locks, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            other => other.map(|_| true).map_err(self.failed("look for", name)),
        }
    }

    /// Takes a mark away.
    pub fn unmark(&self, name: &str) {
        // One that stays costs the next one an announcement.
        let _ = rustix::fs::unlinkat(&self.locks, name, AtFlags::empty());
    }

    /// The link `name` in a state folder, made where it is missing.
    fn link(&self, target: &str, name: &str) -> Result<(), Errno> {
        match self.at(name).and_then(|(at, last)| rustix::fs::symlinkat(target, at, last)) {
            Err(Errno::NOENT) => {
                // It is made for the first time, or was lost with all claims.
                let _ = self.mark(MACS_DOUBT);
                make_below(self.run.as_fd(), parent(name))?;
                let (at, last) = self.at(name)?;
                rustix::fs::symlinkat(target, at, last)
            }
            other => other,
        }
    }

    /// What one of rnet's links says; it is a note, and leads nowhere.
    fn follow(&self, name: &str) -> Result<Option<String>, Error> {
        let read = self.at(name).and_then(|(at, last)| rustix::fs::readlinkat(at, last, Vec::new()));
        match read {
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            other => other
                .map(|target| Some(target.to_string_lossy().into_owned()))
                .map_err(self.failed("read", name)),
        }
    }

    /// The record that one of rnet's links names.
    fn record_at(&self, target: &str) -> Result<Option<Record>, Error> {
        let parts: Vec<&str> = target.split('/').collect();
        let is_name = |part: &&str| !part.is_empty() && !part.starts_with('.');
        if parts.len() != 2 || !parts.iter().all(is_name) {
            return Ok(None);
        }
        let record = self.read::<Record>(&format!("records/{target}"))?;
        Ok(record.filter(|record| !record.container.is_empty()))
    }

    /// The folder of `path`, by descriptor, and its last name.
    fn at<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Errno> {
        let way = OFlags::PATH | OFlags::DIRECTORY;
        match path.rsplit_once('/') {
            Some((folder, last)) => Ok((open_below(self.run.as_fd(), folder, way)?, last)),
            None => Ok((open_below(self.run.as_fd(), ".", way)?, path)),
        }
    }

    /// For `map_err`: a failed `action` on `name` below the folder.
    fn failed<'a>(&self, action: &'static str, name: &'a str) -> impl FnOnce(Errno) -> Error + use<'a> {
        below(action, &self.paths.run(), name)
    }

    /// Takes a claim back; true if `what` has no claim left and it was this call that saw the last one go.
    pub fn release(&self, what: &str, key: &Key) -> Result<bool, Error> {
        self.release_key(what, key.as_str())
    }

    /// Takes back a claim of an attachment that no record names any more.
    pub fn release_key(&self, what: &str, key: &str) -> Result<bool, Error> {
        self.remove(&format!("claims/{what}/{key}"))?;
        self.abandon(what)
    }

    /// Takes a claim back, but leaves `what` claimed by nobody in particular until [`Store::abandon`]: for what has
    /// to be undone with the last claim, if need be by a second try. True if no claim is left.
    pub fn leave(&self, what: &str, key: &Key) -> Result<bool, Error> {
        self.remove(&format!("claims/{what}/{key}"))?;
        self.is_empty(&format!("claims/{what}"))
    }

    /// Ends `what` if it has no claim left; true if it was this call that did.
    pub fn abandon(&self, what: &str) -> Result<bool, Error> {
        self.remove_folder(&format!("claims/{what}"))
    }

    /// True if anybody claims `what`. One system call.
    pub fn is_claimed(&self, what: &str) -> Result<bool, Error> {
        self.exists(&format!("claims/{what}"))
    }

    /// True if the attachment `key` claims `what`. One system call.
    pub fn is_claimant(&self, what: &str, key: &Key) -> Result<bool, Error> {
        self.exists(&format!("claims/{what}/{key}"))
    }

    /// True if the last claim of `what` was taken back by [`Store::leave`] and it was not abandoned yet.
    pub fn is_left(&self, what: &str) -> Result<bool, Error> {
        Ok(self.is_claimed(what)? && self.is_empty(&format!("claims/{what}"))?)
    }

    /// Who claims `what`. For messages and for whoever must look closer; reads one small folder.
    pub fn claimants(&self, what: &str) -> Result<Vec<String>, Error> {
        self.list(&format!("claims/{what}"))
    }

    /// All that anybody claims. For whoever cannot tell any more what that is.
    pub fn claimed(&self) -> Result<Vec<String>, Error> {
        self.list("claims")
    }

    /// The small text kept under `name`: which ruleset rnet last wrote, for example.
    pub fn note(&self, name: &str) -> Result<Option<String>, Error> {
        let bytes = read_whole(self.run.as_fd(), name)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Forgets the text kept under `name`.
    pub fn remove_note(&self, name: &str) -> Result<(), Error> {
        self.remove(name)
    }

    /// Keeps a small text under `name`.
    pub fn write_note(&self, name: &str, text: &str) -> Result<(), Error> {
        self.replace(name, text.as_bytes())
    }

    /// Removes what killed processes were writing. Whoever is writing at this moment does so again.
    pub fn sweep(&self) -> Result<(), Error> {
        self.list(UNNAMED)?.iter().try_for_each(|name| self.remove(&format!("{UNNAMED}/{name}")))
    }

    /// Puts a file in place of the one at `path`, in one step; its folder is made where it is missing.
    fn replace(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let written = self.write_unnamed(bytes).map_err(self.failed("write", UNNAMED))?;
            let renamed = self.at(path).and_then(|(at, last)| written.rename(at.as_fd(), last));
            match renamed {
                Ok(()) => return Ok(()),
                Err(errno) => {
                    // The error to report is the first one.
                    let _ = self.remove(&format!("{UNNAMED}/{}", written.name));
                    self.after_rename(errno, path).map_err(self.failed("write", path))?;
                }
            }
        }
        Err(self.failed("write", path)(Errno::NOENT))
    }

    fn write_unnamed(&self, bytes: &[u8]) -> Result<Unnamed, Errno> {
        let write = || {
            let folder = open_below(self.run.as_fd(), UNNAMED, OFlags::PATH | OFlags::DIRECTORY)?;
            let name = write_temporary(folder.as_fd(), "", bytes, 0o600)?;
            Ok(Unnamed { folder, name })
        };
        match write() {
            Err(Errno::NOENT) => {
                make_below(self.run.as_fd(), UNNAMED)?;
                write()
            }
            other => other,
        }
    }

    /// The folder was never made, or somebody has just removed it because it was empty.
    fn after_rename(&self, errno: Errno, path: &str) -> Result<(), Errno> {
        match errno {
            Errno::NOENT if path.contains('/') => match make_below(self.run.as_fd(), parent(path)) {
                // It goes again already: the next attempt makes it.
                Err(Errno::NOENT) => Ok(()),
                other => other,
            },
            _ => Err(errno),
        }
    }

    fn read<T: DeserializeOwned + Default>(&self, name: &str) -> Result<Option<T>, Error> {
        let value = match read_whole(self.run.as_fd(), name) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).ok(),
            // A folder or a link has its name.
            Err(Error::File { errno: Errno::LOOP | Errno::ISDIR, .. }) if !self.is_led_astray(name) => None,
            Err(Error::File { action, errno, .. }) => return Err(self.failed(action, name)(errno)),
            Err(error) => return Err(error),
        };
        match value {
            Some(value) => Ok(Some(value)),
            None => self.set_aside(name).map(|()| Some(T::default())),
        }
    }

    /// A torn or foreign file must stop nothing; it is kept for whoever wants to know.
    fn set_aside(&self, name: &str) -> Result<(), Error> {
        let set_aside = || {
            let aside = folder_below(self.run.as_fd(), ASIDE)?;
            let (at, last) = self.at(name)?;
            rustix::fs::renameat(at, last, aside, name.replace('/', "."))
        };
        set_aside().map_err(self.failed("set aside", name))
    }

    /// True if the folder of a file is a link and not a state folder: the file itself is not to blame.
    fn is_led_astray(&self, name: &str) -> bool {
        self.at(name).is_err()
    }

    /// The files that were set aside because they could not be read: where each was.
    pub fn aside(&self) -> Result<Vec<String>, Error> {
        self.list("aside")
    }

    fn exists(&self, name: &str) -> Result<bool, Error> {
        match open_below(self.run.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            other => other.map(|_| true).map_err(self.failed("look for", name)),
        }
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        match self.at(name).and_then(|(at, last)| rustix::fs::unlinkat(at, last, AtFlags::empty())) {
            Err(Errno::NOENT) => Ok(()),
            other => other.map_err(self.failed("remove", name)),
        }
    }

    /// True if the folder was there and empty, and so is gone now.
    fn remove_folder(&self, name: &str) -> Result<bool, Error> {
        match self.at(name).and_then(|(at, last)| rustix::fs::unlinkat(at, last, AtFlags::REMOVEDIR)) {
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            other => other.map(|()| true).map_err(self.failed("remove", name)),
        }
    }

    fn list(&self, name: &str) -> Result<Vec<String>, Error> {
        self.first(name, usize::MAX)
    }

    fn is_empty(&self, name: &str) -> Result<bool, Error> {
        Ok(self.first(name, 1)?.is_empty())
    }

    /// At most `count` of the names in a folder; none if there is no folder.
    fn first(&self, name: &str, count: usize) -> Result<Vec<String>, Error> {
        let dir = match open_below(self.run.as_fd(), name, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            other => other.map_err(self.failed("open the folder", name))?,
        };
        let entries = rustix::fs::Dir::read_from(&dir).map_err(self.failed("read the folder", name))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        // `.` and `..`, for no name of ours begins so.
        let real = |name: &Result<String, Errno>| !name.as_ref().is_ok_and(|name| name.starts_with('.'));
        names.filter(real).take(count).collect::<Result<_, _>>().map_err(self.failed("read the folder", name))
    }

    /// True if a container of this id was started by `rnet run`, and is not tidied up yet.
    pub fn is_endpoint(&self, container: &str) -> Result<bool, Error> {
        self.exists(&format!("endpoints/{container}/netns"))
    }

    /// The folder of an `rnet` network's leases.
    pub fn leases(&self, network: &str) -> PathBuf {
        self.paths.leases().join(network)
    }

    /// The folder at `path`. Below the state folder it is found by descriptors, and no link is followed.
    pub fn folder(&self, path: &Path) -> Result<Folder, Error> {
        let base = self.paths.run();
        match path.strip_prefix(&base).ok().and_then(Path::to_str) {
            Some(name) if !name.is_empty() => {
                Folder::below(self.run.as_fd(), &base, name).map_err(self.failed("open the folder", name))
            }
            _ => Ok(Folder::at(path)),
        }
    }
}

/// [`PATIENCE`], unless a test is in a hurry.
#[cfg(feature = "failpoints")]
fn patience() -> Duration {
    let asked = std::env::var("RNET_PATIENCE_MS").ok().and_then(|text| text.parse().ok());
    asked.map_or(PATIENCE, Duration::from_millis)
}

#[cfg(not(feature = "failpoints"))]
fn patience() -> Duration {
    PATIENCE
}

fn folder_name(network: &str, plugin: &str) -> String {
    format!("{}.{plugin}", NetworkKey::new(network))
}

fn record_name(network: &str, plugin: &str, key: &Key) -> String {
    format!("records/{}/{key}", folder_name(network, plugin))
}

fn aside_name(name: &str) -> String {
    format!("{ASIDE}/{}", name.replace('/', "."))
}

fn mac_name(bridge: &str, mac: Mac) -> String {
    format!("macs/{}-{mac}", bridge.replace('/', "."))
}

/// No MAC has such a name: an address has no hyphen.
fn address_name(place: &str, ip: IpAddr) -> String {
    format!("macs/@{}@{ip}", place.replace('/', "."))
}

/// Where a record is below `records`.
fn record_path(record: &Record) -> String {
    format!("{}/{}", folder_name(&record.network, &record.plugin), record.key())
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Opens a folder below `dir`, made where it is missing.
fn folder_below(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match open_below(dir, name, OFlags::DIRECTORY) {
        Err(Errno::NOENT) => make_below(dir, name).and_then(|()| open_below(dir, name, OFlags::DIRECTORY)),
        other => other,
    }
}

/// A file before it has its name.
struct Unnamed {
    folder: OwnedFd,
    name: String,
}

impl Unnamed {
    fn rename(&self, to: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        rustix::fs::renameat(&self.folder, &self.name, to, name)
    }
}

/// Our own types hold nothing that JSON cannot say.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stage;

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Paths::under(root.path(), 1)).unwrap();
        (root, store)
    }

    fn record(container: &str) -> Record {
        Record {
            plugin: "rnet".into(),
            network: "mynet".into(),
            container: container.into(),
            ifname: "eth0".into(),
            ..Record::default()
        }
    }

    #[test]
    fn the_last_record_says_that_it_was_the_last() {
        let (_root, store) = store();
        store.write_record(&record("web")).unwrap();
        store.write_record(&record("db")).unwrap();

        assert!(!store.remove_record("mynet", "rnet", &record("web").key()).unwrap());
        assert!(store.remove_record("mynet", "rnet", &record("db").key()).unwrap());
        assert!(!store.remove_record("mynet", "rnet", &record("db").key()).unwrap());
    }

    #[test]
    fn a_record_is_found_by_its_key_and_among_all() {
        let (_root, store) = store();
        let mut web = record("web");
        store.write_record(&web).unwrap();
        web.stage = Stage::Committed;
        store.write_record(&web).unwrap();

        assert_eq!(store.record("mynet", "rnet", &web.key()).unwrap(), Some(web.clone()));
        assert_eq!(store.record("mynet", "bridge", &web.key()).unwrap(), None);
        assert_eq!(store.records().unwrap(), [web]);
    }

    #[test]
    fn what_a_killed_writer_left_does_not_keep_a_network_and_is_swept() {
        let (_root, store) = store();
        store.write_record(&record("web")).unwrap();
        let unnamed = store.paths.run().join(UNNAMED);
        std::fs::write(unnamed.join("4711-0"), "{\"stage\":").unwrap();

        assert!(store.remove_record("mynet", "rnet", &record("web").key()).unwrap());
        store.sweep().unwrap();

        assert_eq!(std::fs::read_dir(unnamed).unwrap().count(), 0);
    }

    #[test]
    fn a_record_is_written_although_its_folder_goes_at_the_same_moment() {
        let (_root, store) = store();
        let come_and_go = |container: &str| {
            for _ in 0..1000 {
                store.write_record(&record(container)).unwrap();
                store.remove_record("mynet", "rnet", &record(container).key()).unwrap();
            }
        };

        std::thread::scope(|scope| {
            for container in ["web", "db", "cache"] {
                scope.spawn(move || come_and_go(container));
            }
        });

        assert_eq!(store.records().unwrap(), []);
    }

    #[test]
    fn garbage_is_set_aside_and_counts_as_an_intent() {
        let (_root, store) = store();
        let web = record("web");
        store.write_record(&web).unwrap();
        let name = record_name("mynet", "rnet", &web.key());
        std::fs::write(store.paths.run().join(&name), b"{\"stage\":\"comm").unwrap();

        let found = store.record("mynet", "rnet", &web.key()).unwrap().unwrap();

        assert_eq!(found, Record { stage: Stage::Intent, ..Record::default() });
        assert_eq!(store.record("mynet", "rnet", &web.key()).unwrap(), Some(found));
        assert_eq!(store.records().unwrap(), []);
        store.forget_aside("mynet", "rnet", &web.key()).unwrap();
        assert_eq!(store.record("mynet", "rnet", &web.key()).unwrap(), None);
    }

    #[test]
    fn a_claim_is_shared_until_the_last_lets_go() {
        let (_root, store) = store();
        let (web, db) = (record("web").key(), record("db").key());
        store.claim("tcp4-8080", &web).unwrap();
        store.claim("tcp4-8080", &web).unwrap();
        store.claim("tcp4-8080", &db).unwrap();

        assert!(store.is_claimed("tcp4-8080").unwrap());
        assert!(!store.release("tcp4-8080", &web).unwrap());
        assert!(store.release("tcp4-8080", &db).unwrap());
        assert!(!store.is_claimed("tcp4-8080").unwrap());
    }

    #[test]
    fn the_last_who_leaves_may_fail_and_come_again() {
        let (_root, store) = store();
        let (web, db) = (record("web").key(), record("db").key());
        store.claim("loopback-br0", &web).unwrap();
        store.claim("loopback-br0", &db).unwrap();

        assert!(!store.leave("loopback-br0", &web).unwrap());
        assert!(store.leave("loopback-br0", &db).unwrap());
        assert!(store.is_claimed("loopback-br0").unwrap() && store.is_left("loopback-br0").unwrap());
        assert!(store.leave("loopback-br0", &db).unwrap());
        assert!(store.abandon("loopback-br0").unwrap());
        assert!(!store.is_left("loopback-br0").unwrap());
        assert!(!store.is_claimed("loopback-br0").unwrap());
    }

    #[test]
    fn a_lock_whose_file_went_while_its_mode_changed_is_taken_anew() {
        let (_root, store) = store();
        let network = || LockName::Network("mynet".into());
        let first = store.lock(network(), Mode::Shared, "ADD web/eth0").unwrap();
        std::fs::remove_file(store.paths.run().join(format!("locks/network-{}", NetworkKey::new("mynet"))))
            .unwrap();

        let changed = store.change(first, Mode::Exclusive, "ADD web/eth0").unwrap();

        let late = Lock::take(store.locks.as_fd(), network(), Mode::Shared, "ADD", Duration::from_millis(20));
        assert!(matches!(late, Err(Error::Busy { .. })));
        drop(changed);
    }
}
