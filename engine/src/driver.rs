//! A driver: how the interface of an attachment comes to be.

use netlink::{Link, Netlink};
use store::{Network, Record};

use crate::held::Held;
use crate::making::{Ends, Making};
use crate::spec::{Interface, Lease, Outcome, Spec};
use crate::{Error, Finding, Host, link};

/// One way to make an interface. The defaults are those of a veth pair.
pub trait Driver {
    /// The plugins in whose names records of such interfaces are written.
    fn plugins(&self) -> &'static [&'static str];

    /// ADD: makes sure of what the attachments of the network share, and keeps it there.
    ///
    /// # Errors
    /// It cannot be made, or belongs to something else.
    fn hold(&self, host: &mut Host, making: &mut Making<'_>) -> Result<Held, Error>;

    /// ADD: makes the interface. Nothing passes it yet.
    ///
    /// # Errors
    /// The kernel refuses it, or its name is taken.
    fn make(&self, host: &mut Host, making: &mut Making<'_>, held: &Held) -> Result<Ends, Error>;

    /// ADD: what guards the interface is complete. It passes from now on.
    ///
    /// # Errors
    /// The kernel refuses it.
    fn open(&self, host: &mut Host, making: &Making<'_>, held: &Held, ends: &Ends) -> Result<(), Error>;

    /// ADD: addresses and routes inside the container.
    ///
    /// # Errors
    /// The kernel refuses one.
    fn dress(
        &self,
        host: &Host,
        inside: &mut Netlink,
        making: &Making<'_>,
        ends: &Ends,
    ) -> Result<(), Error> {
        ends.container.map_or(Ok(()), |index| link::dress(host, inside, making, index))
    }

    /// The interfaces that ADD tells of; the container's is the last.
    fn interfaces(&self, making: &Making<'_>, held: &Held) -> Vec<Interface>;

    /// True if a second attachment under the same name is refused while the first lives. Otherwise it takes its place.
    fn refuses_second(&self) -> bool {
        true
    }

    /// DEL: lets nothing more come from the container, which may be alive. The link that is to be removed.
    ///
    /// # Errors
    /// The kernel cannot be asked, or refuses it.
    fn silence(&self, host: &mut Host, record: &Record) -> Result<Option<Link>, Error> {
        link::silence(host, record)
    }

    /// DEL: there is no record. Removes what the kernel or the caller still shows of the attachment, and returns what the rest of
    /// DEL goes by.
    ///
    /// # Errors
    /// Something could not be removed.
    fn withdraw_lost(
        &self,
        host: &mut Host,
        spec: &Spec,
        previous: Option<&Outcome>,
        unknown: Record,
    ) -> Result<Record, Error>;

    /// Tells what is not as ADD left it on the host's side of the interface. `previous` is what ADD told, where it was kept.
    ///
    /// # Errors
    /// It cannot be found out.
    fn look(
        &self,
        host: &mut Host,
        spec: &Spec,
        record: &Record,
        previous: Option<&Outcome>,
        tell: &mut dyn FnMut(Finding),
    ) -> Result<(), Error>;

    /// STATUS: the kernel can make such an interface.
    ///
    /// # Errors
    /// What is missing.
    fn require(&self, host: &mut Host, spec: &Spec) -> Result<(), Error>;

    /// Makes what the attachments of a network share whole again, if any is on it. `lease` has an address of each subnet.
    ///
    /// # Errors
    /// Something could not be made.
    fn make_whole(&self, _host: &mut Host, _spec: &Spec, _lease: &Lease) -> Result<Option<Held>, Error> {
        Ok(None)
    }

    /// The network's last attachment has gone. What was made for the network goes.
    ///
    /// # Errors
    /// It could not be removed.
    fn retire(&self, _host: &mut Host, _network: &Network) -> Result<(), Error> {
        Ok(())
    }
}
