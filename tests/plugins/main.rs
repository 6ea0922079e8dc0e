//! The CNI plugins as runtimes meet them: the built binary, called by its plugin names on throw-away hosts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod bridges;
mod calls;
mod check;
mod gc;
mod host_local;
mod inexpressible;
mod ipam;
mod ipv6;
mod links;
mod mac_check;
mod macs;
mod ptp;
mod ranges;
mod renamed;
mod results;
mod status;
mod tuning;
mod validation;
