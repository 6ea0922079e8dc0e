//! Faults: what must stay true when the plugins die, fail, are stopped, lose their disk, their rules or their
//! containers (the fault table: I1 to I5).
//!
//! Everything is done to the built binary, on throw-away hosts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../books/mod.rs"]
mod books;
#[path = "../common/mod.rs"]
mod common;

mod boot;
mod del;
mod disk;
mod elements;
mod flush;
mod garbage;
mod judge;
mod kills;
mod limits;
mod locks;
mod lost;
mod matrix;
mod network;
mod replies;
mod upgrade;
mod watch;
