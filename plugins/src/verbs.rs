//! The verbs of a plugin, each a function with this crate's error.

use cni::{CniResult, Plugin, Request};

use crate::Error;

/// What a plugin does, verb by verb.
pub struct Verbs {
    /// ADD.
    pub add: fn(&Request<'_>) -> Result<CniResult, Error>,
    /// DEL.
    pub del: fn(&Request<'_>) -> Result<(), Error>,
    /// CHECK.
    pub check: fn(&Request<'_>) -> Result<(), Error>,
    /// STATUS.
    pub status: fn(&Request<'_>) -> Result<(), Error>,
    /// GC.
    pub gc: fn(&Request<'_>) -> Result<(), Error>,
}

impl Plugin for Verbs {
    fn add(&self, request: &Request<'_>) -> Result<CniResult, cni::Error> {
        Ok((self.add)(request)?)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok((self.del)(request)?)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok((self.check)(request)?)
    }

    fn status(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok((self.status)(request)?)
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), cni::Error> {
        Ok((self.gc)(request)?)
    }
}
