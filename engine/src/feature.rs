//! A feature: what an attachment has besides its interface.

use netlink::Netlink;
use nft::{Element, Owner};
use store::{Lock, Network, Record};

use crate::making::Making;
use crate::{Error, Finding, Host};

/// What becomes of a network's record.
pub type Change = Box<dyn FnOnce(Network) -> Network>;

/// What is done about a refused element.
#[derive(Debug)]
pub enum Settled {
    /// Nothing: the ADD fails.
    No,
    /// The attachment asks for something else now.
    Otherwise,
    /// The holder of what was asked for is dead: its elements go.
    Bury(Box<Record>),
}

/// A part of an attachment besides its interface. Each function is a moment; a feature has those that it needs.
///
/// Everything that a feature does in the kernel must be on record before it is done, and must be undone by what is on record.
pub trait Feature {
    /// Its elements for one attachment, from the record alone.
    fn elements(&self, _record: &Record) -> Vec<Element> {
        Vec::new()
    }

    /// Its elements for a network, each with its owner, from the network's record alone.
    fn network_elements(&self, _network: &Network) -> Vec<(Element, Owner)> {
        Vec::new()
    }

    /// True if the attachment needs rules, whether or not it has elements.
    fn needs_rules(&self, _record: &Record) -> bool {
        false
    }

    /// ADD: before there is an interface. What only this attachment may have is claimed.
    ///
    /// # Errors
    /// A living attachment has it.
    fn claim(&self, _host: &mut Host, _making: &mut Making<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// ADD: the interface is there, and nothing passes it yet.
    ///
    /// # Errors
    /// The ADD fails.
    fn admit(&self, _host: &mut Host, _making: &mut Making<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// ADD and DEL: a lock that is held while elements are put in or taken out.
    ///
    /// # Errors
    /// It is not free in time.
    fn lock(&self, _host: &Host, _record: &Record) -> Result<Option<Lock>, Error> {
        Ok(None)
    }

    /// ADD: the elements are about to be put in, under the lock.
    ///
    /// # Errors
    /// A living attachment has what an element is for.
    fn reserve(&self, _host: &mut Host, _record: &mut Record) -> Result<(), Error> {
        Ok(())
    }

    /// ADD: the kernel or [`Feature::reserve`] refused an element.
    ///
    /// # Errors
    /// The ADD fails.
    fn settle(&self, _host: &mut Host, _record: &mut Record, _refusal: &Error) -> Result<Settled, Error> {
        Ok(Settled::No)
    }

    /// ADD: all elements are in the kernel. As long as `ruleset` is held, no rebuild comes that does not know of them.
    ///
    /// # Errors
    /// The ADD fails.
    fn confirm(&self, _host: &mut Host, _record: &Record, _ruleset: &mut Option<Lock>) -> Result<(), Error> {
        Ok(())
    }

    /// ADD: inside the container, before its interface comes up.
    ///
    /// # Errors
    /// The ADD fails.
    fn prepare(
        &self,
        _host: &mut Host,
        _inside: &mut Netlink,
        _making: &mut Making<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// ADD: inside the container, whose interface is up and reached.
    ///
    /// # Errors
    /// The ADD fails.
    fn announce(&self, _host: &Host, _inside: &mut Netlink, _making: &Making<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// ADD: the record is committed, and whenever the network was made whole while containers are on it. What comes back is to be
    /// changed in what is on record of the network.
    ///
    /// # Errors
    /// The ADD fails, and is undone.
    fn publish(
        &self,
        _host: &mut Host,
        _record: &Record,
        _network: &Network,
    ) -> Result<Option<Change>, Error> {
        Ok(None)
    }

    /// ADD: everything is done. Nothing that is remembered here is worth a failure.
    fn remember(&self, _host: &Host, _making: &Making<'_>) {}

    /// DEL: first of all. A failure here must not keep DEL from going on.
    fn withdraw(&self, _host: &Host, _record: &Record) {}

    /// DEL: true if there is something to free although the record says that its ADD did not come that far.
    ///
    /// # Errors
    /// It cannot be found out.
    fn holds_any(&self, _host: &mut Host, _record: &Record) -> Result<bool, Error> {
        Ok(false)
    }

    /// DEL: the elements are gone, under the lock.
    ///
    /// # Errors
    /// Something could not be freed; DEL goes on and fails at its end.
    fn free(&self, _host: &mut Host, _record: &Record) -> Result<(), Error> {
        Ok(())
    }

    /// DEL: what the feature has in the kernel besides elements goes.
    ///
    /// # Errors
    /// Something could not be removed; DEL goes on and fails at its end.
    fn dismiss(&self, _host: &mut Host, _record: &Record) -> Result<(), Error> {
        Ok(())
    }

    /// DEL: the interface is gone. Claims are given back.
    ///
    /// # Errors
    /// A claim could not be given back.
    fn release(&self, _host: &mut Host, _record: &Record) -> Result<(), Error> {
        Ok(())
    }

    /// The network has no attachment any more, and its record is about to go.
    fn forget(&self, _host: &Host, _network: &Network) {}

    /// Tells what is not as it should be, apart from elements.
    ///
    /// # Errors
    /// It cannot be found out.
    fn look(&self, _host: &mut Host, _record: &Record, _tell: &mut dyn FnMut(Finding)) -> Result<(), Error> {
        Ok(())
    }

    /// The bridge of these attachments was made anew, or their ports were put back on it.
    ///
    /// # Errors
    /// Something could not be restored.
    fn reattach(&self, _host: &mut Host, _records: &[Record]) -> Result<(), Error> {
        Ok(())
    }

    /// The ruleset was made anew, perhaps after a flush: what foreign tables hold for attachments on record comes back.
    ///
    /// # Errors
    /// It could not be restored.
    fn restore(&self, _host: &mut Host) -> Result<(), Error> {
        Ok(())
    }
}
