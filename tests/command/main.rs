//! The command as a person uses it: the built program on a throw-away host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod demo;
mod ended;
mod far_gateway;
mod files;
mod installs;
mod json;
mod lab;
mod lookup;
mod mistakes;
mod names;
mod networks;
mod ports;
mod repair;
mod runs;
mod session;
mod spoof_guard;
mod states;
mod subnets;

use lab::{LONG, Lab, is_dead, kill, started, wait_until};
