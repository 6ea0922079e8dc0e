//! What packets do on a host with rnet's networks: who reaches whom, as whom, and what never arrives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod attacker;
mod chain;
mod conditions;
mod former;
mod guard;
mod inherited;
mod isolation;
mod loopback;
mod mac_check;
mod nowhere;
mod packets;
mod ports;
mod ptp;
mod published;
mod replaced;
mod sources;
