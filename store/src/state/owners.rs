//! MACs and addresses, each of which belongs to one record: symbolic links that name it.

use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::Store;
use super::folder::{ATTEMPTS, parent};
use super::records::record_path;
use crate::files::make_below;
use crate::{Error, Mac, Record};

/// The mark that the folder of MACs was made, and that claims may have been lost with an older one.
const MACS_DOUBT: &str = "macs-doubt";

impl Store {
    /// Claims a MAC on a bridge for a record. `Some` means that another record has it, and holds that one if it still
    /// exists.
    ///
    /// # Errors
    /// If the link cannot be made or read, or the other record cannot be read.
    pub fn claim_mac(
        &self,
        bridge: &str,
        mac: Mac,
        record: &Record,
    ) -> Result<Option<Option<Record>>, Error> {
        self.acquire(&mac_name(bridge, mac), record)
    }

    /// The same for an address. `place` is the bridge on which it must be unique, or empty for the whole host.
    ///
    /// # Errors
    /// As [`Store::claim_mac`].
    pub fn claim_address(
        &self,
        place: &str,
        ip: IpAddr,
        record: &Record,
    ) -> Result<Option<Option<Record>>, Error> {
        self.acquire(&address_name(place, ip), record)
    }

    /// Makes a record the owner of `name`, unless another is.
    fn acquire(&self, name: &str, record: &Record) -> Result<Option<Option<Record>>, Error> {
        let target = record_path(record);
        for _ in 0..ATTEMPTS {
            match self.link(&target, name) {
                Ok(()) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.error("create", name)(errno)),
            }
            match self.follow(name)? {
                Some(own) if own == target => return Ok(None),
                Some(other) => return self.record_at(&other).map(Some),
                None => {}
            }
        }
        Err(self.error("create", name)(Errno::EXIST))
    }

    /// Claims a MAC of a dead attachment. The caller holds the lock under which all callers do this.
    ///
    /// # Errors
    /// If the old link cannot be removed or the new one cannot be made.
    pub fn take_mac(&self, bridge: &str, mac: Mac, record: &Record) -> Result<(), Error> {
        self.take_over(&mac_name(bridge, mac), record)
    }

    /// The same for an address.
    ///
    /// # Errors
    /// As [`Store::take_mac`].
    pub fn take_address(&self, place: &str, ip: IpAddr, record: &Record) -> Result<(), Error> {
        self.take_over(&address_name(place, ip), record)
    }

    fn take_over(&self, name: &str, record: &Record) -> Result<(), Error> {
        self.remove(name)?;
        self.link(&record_path(record), name).map_err(self.error("create", name))
    }

    /// Releases a MAC, if the record has it.
    ///
    /// # Errors
    /// If the link cannot be read or removed.
    pub fn release_mac(&self, bridge: &str, mac: Mac, record: &Record) -> Result<(), Error> {
        self.disown(&mac_name(bridge, mac), record)
    }

    /// The same for an address.
    ///
    /// # Errors
    /// As [`Store::release_mac`].
    pub fn release_address(&self, place: &str, ip: IpAddr, record: &Record) -> Result<(), Error> {
        self.disown(&address_name(place, ip), record)
    }

    fn disown(&self, name: &str, record: &Record) -> Result<(), Error> {
        match self.follow(name)? {
            Some(own) if own == record_path(record) => self.remove(name),
            _ => Ok(()),
        }
    }

    /// True from the moment the folder of MACs was made until [`Store::forget_doubt_of_macs`]. One system call.
    ///
    /// # Errors
    /// If the kernel cannot look for the mark.
    pub fn are_macs_doubtful(&self) -> Result<bool, Error> {
        self.is_marked(MACS_DOUBT)
    }

    /// Records that no claim is missing.
    pub fn forget_doubt_of_macs(&self) {
        self.unmark(MACS_DOUBT);
    }

    /// Makes the link `name`, and its state folder if that is missing.
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

    /// The target of one of rnet's links; it is a note, and leads nowhere.
    fn follow(&self, name: &str) -> Result<Option<String>, Error> {
        let read = self.at(name).and_then(|(at, last)| rustix::fs::readlinkat(at, last, Vec::new()));
        match read {
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            other => other
                .map(|target| Some(target.to_string_lossy().into_owned()))
                .map_err(self.error("read", name)),
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
}

fn mac_name(bridge: &str, mac: Mac) -> String {
    format!("macs/{}-{mac}", bridge.replace('/', "."))
}

/// Never the name of a MAC, because an address has no hyphen.
fn address_name(place: &str, ip: IpAddr) -> String {
    format!("macs/@{}@{ip}", place.replace('/', "."))
}
