//! The command as a person uses it: the built program on a throw-away host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod demo;
mod docker_words;
mod ended;
mod far_gateway;
mod files;
mod installs;
mod json;

mod lookup;
mod mistakes;
mod names;
mod networks;
mod ports;
mod repair;
mod runs;
mod session;
mod shell;
mod spoof_guard;
mod states;
mod subnets;
