//! Records of attachments and of networks.

use rustix::io::Errno;

use super::Store;
use super::folder::{ASIDE, json};
use crate::{Error, Key, Network, NetworkKey, Record};

impl Store {
    /// The record that `plugin` wrote of an attachment. One that cannot be parsed is moved aside and counts as an
    /// intent without content until [`Store::forget_aside`]: what its key names can still be found.
    ///
    /// # Errors
    /// If the record cannot be read or moved aside.
    pub fn record(&self, network: &str, plugin: &str, key: &Key) -> Result<Option<Record>, Error> {
        let name = record_name(network, plugin, key);
        match self.read(&name)? {
            None => Ok(self.exists(&aside_name(&name))?.then(Record::default)),
            found => Ok(found),
        }
    }

    /// Removes a record that was moved aside, once all that its key names is gone.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn forget_aside(&self, network: &str, plugin: &str, key: &Key) -> Result<(), Error> {
        let name = aside_name(&record_name(network, plugin, key));
        match self.remove(&name) {
            // A folder stays, under a name that belongs to no record.
            Err(Error::File { errno: Errno::ISDIR, .. }) => {
                let moved = self
                    .at(&name)
                    .and_then(|(at, last)| rustix::fs::renameat(&at, last, &at, format!("{last}.folder")));
                moved.map_err(self.error("set aside", &name))
            }
            other => other,
        }
    }

    /// Writes a record in place of the one before, in one step.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        self.replace(&record_name(&record.network, &record.plugin, &record.key()), &json(record))
    }

    /// Removes a record; true if it was its network's last one for this plugin.
    ///
    /// # Errors
    /// If the record or its folder cannot be removed.
    pub fn remove_record(&self, network: &str, plugin: &str, key: &Key) -> Result<bool, Error> {
        self.remove(&record_name(network, plugin, key))?;
        self.remove_folder(&format!("records/{}", folder_name(network, plugin)))
    }

    /// True if there is any record of `plugin` on `network`.
    ///
    /// # Errors
    /// If the kernel cannot look for the folder.
    pub fn has_records(&self, network: &str, plugin: &str) -> Result<bool, Error> {
        self.exists(&format!("records/{}", folder_name(network, plugin)))
    }

    /// Every record of every network, in no order. For a rebuild, `ps` and `gc`, never on the path of ADD or DEL.
    ///
    /// # Errors
    /// If a folder or record cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        self.each_record(|record| records.push(record))?;
        Ok(records)
    }

    /// Calls `each` with every record, one after another, because there may be many.
    ///
    /// # Errors
    /// If a folder or record cannot be read; `each` was called for those before.
    pub fn each_record(&self, mut each: impl FnMut(Record)) -> Result<(), Error> {
        for folder in self.list("records")? {
            for file in self.list(&format!("records/{folder}"))? {
                let record = self.read::<Record>(&format!("records/{folder}/{file}"))?;
                // One that was just moved aside describes no attachment.
                record.into_iter().filter(|record| !record.container.is_empty()).for_each(&mut each);
            }
        }
        Ok(())
    }

    /// What `plugin` made for the network `name`.
    ///
    /// # Errors
    /// If the file cannot be read or moved aside.
    pub fn network(&self, name: &str, plugin: &str) -> Result<Option<Network>, Error> {
        self.read(&format!("networks/{}", folder_name(name, plugin)))
    }

    /// Writes what was made for a network.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_network(&self, network: &Network) -> Result<(), Error> {
        self.replace(&format!("networks/{}", folder_name(&network.name, &network.plugin)), &json(network))
    }

    /// Removes what was written of a network.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove_network(&self, name: &str, plugin: &str) -> Result<(), Error> {
        self.remove(&format!("networks/{}", folder_name(name, plugin)))
    }

    /// Every network for which something was made.
    ///
    /// # Errors
    /// If the folder or a file cannot be read.
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        let mut networks = Vec::new();
        for file in self.list("networks")? {
            networks.extend(self.read::<Network>(&format!("networks/{file}"))?);
        }
        // One that was just moved aside describes no network.
        networks.retain(|network| !network.name.is_empty());
        Ok(networks)
    }

    /// The files that were moved aside because they could not be parsed, by their former paths with dots for slashes.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn aside(&self) -> Result<Vec<String>, Error> {
        self.list("aside")
    }
}

fn folder_name(network: &str, plugin: &str) -> String {
    format!("{}.{plugin}", NetworkKey::new(network))
}

pub(super) fn record_name(network: &str, plugin: &str, key: &Key) -> String {
    format!("records/{}/{key}", folder_name(network, plugin))
}

fn aside_name(name: &str) -> String {
    format!("{ASIDE}/{}", name.replace('/', "."))
}

/// The path of a record below `records`.
pub(super) fn record_path(record: &Record) -> String {
    format!("{}/{}", folder_name(&record.network, &record.plugin), record.key())
}
