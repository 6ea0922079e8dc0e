//! How the interface of an attachment comes to be, is found again, and goes: one file for each way, one line for it in
//! [`DRIVERS`].

pub mod bridge;
pub mod given;
pub mod ptp;
pub mod veth;

use crate::driver::Driver;

/// Every driver. What no other one serves was given by another program.
pub static DRIVERS: [&(dyn Driver + Sync); 3] = [&bridge::Bridge, &ptp::Ptp, &given::Given];

/// The driver of the interfaces that records of `plugin` are of.
pub fn of(plugin: &str) -> &'static dyn Driver {
    let serves = |driver: &&&(dyn Driver + Sync)| driver.plugins().contains(&plugin);
    DRIVERS.iter().find(serves).map_or(&given::Given, |driver| *driver)
}

/// The plugins whose attachments are interfaces that rnet makes.
pub fn makers() -> impl Iterator<Item = &'static str> {
    DRIVERS.iter().flat_map(|driver| driver.plugins()).copied()
}
