//! Names as containers see them: plugins, name server and kernel together.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod deaths;
mod life;
mod lists;
mod log;
mod port_53;
mod server;
mod upgrade;
mod views;
