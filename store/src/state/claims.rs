//! Claims: what several attachments share, until the last one leaves.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::Store;
use super::folder::{ATTEMPTS, folder_below};
use crate::{Error, Key, create_whole};

impl Store {
    /// Records that the attachment `key` shares `what` (a file name); repeating it changes nothing.
    ///
    /// # Errors
    /// If the claim cannot be written.
    pub fn claim(&self, what: &str, key: &Key) -> Result<(), Error> {
        let name = format!("claims/{what}");
        for _ in 0..ATTEMPTS {
            let dir = match folder_below(self.run.as_fd(), &name) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(self.error("open the folder", &name))?,
            };
            match create_whole(dir.as_fd(), key.as_str(), b"", 0o600) {
                // The caller that released the last claim has just removed the folder.
                Err(Error::File { errno: Errno::NOENT, .. }) => {}
                other => return other.map(drop),
            }
        }
        Err(self.error("create", &name)(Errno::NOENT))
    }

    /// Releases a claim; true if it was the last one of `what`.
    ///
    /// # Errors
    /// If the claim or its folder cannot be removed.
    pub fn release(&self, what: &str, key: &Key) -> Result<bool, Error> {
        self.release_key(what, key.as_str())
    }

    /// Releases a claim of an attachment that has no record any more.
    ///
    /// # Errors
    /// If the claim or its folder cannot be removed.
    pub fn release_key(&self, what: &str, key: &str) -> Result<bool, Error> {
        self.remove(&format!("claims/{what}/{key}"))?;
        self.abandon(what)
    }

    /// Releases a claim, but `what` counts as claimed until [`Store::abandon`]: for what must be undone with the last
    /// claim, by a second try if the first fails. True if no claim is left.
    ///
    /// # Errors
    /// If the claim cannot be removed or the folder cannot be read.
    pub fn leave(&self, what: &str, key: &Key) -> Result<bool, Error> {
        self.remove(&format!("claims/{what}/{key}"))?;
        self.is_empty(&format!("claims/{what}"))
    }

    /// Ends `what` if it has no claim left; true if this call did.
    ///
    /// # Errors
    /// If the folder cannot be removed.
    pub fn abandon(&self, what: &str) -> Result<bool, Error> {
        self.remove_folder(&format!("claims/{what}"))
    }

    /// True if any attachment claims `what`. One system call.
    ///
    /// # Errors
    /// If the kernel cannot look for the folder.
    pub fn is_claimed(&self, what: &str) -> Result<bool, Error> {
        self.exists(&format!("claims/{what}"))
    }

    /// True if the attachment `key` claims `what`. One system call.
    ///
    /// # Errors
    /// If the kernel cannot look for the claim.
    pub fn is_claimant(&self, what: &str, key: &Key) -> Result<bool, Error> {
        self.exists(&format!("claims/{what}/{key}"))
    }

    /// True if [`Store::leave`] released the last claim of `what` and it was not abandoned yet.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn is_left(&self, what: &str) -> Result<bool, Error> {
        Ok(self.is_claimed(what)? && self.is_empty(&format!("claims/{what}"))?)
    }

    /// The attachments that claim `what`. Reads one small folder.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn claimants(&self, what: &str) -> Result<Vec<String>, Error> {
        self.list(&format!("claims/{what}"))
    }

    /// Everything that is claimed, for callers that no longer know its names.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn claimed(&self) -> Result<Vec<String>, Error> {
        self.list("claims")
    }
}
