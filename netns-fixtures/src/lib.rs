//! Throw-away hosts, containers, probes and snapshots: what tests and `rnet demo` play container
//! host with.
//!
//! - [`Host`] is a network namespace with a temporary directory; [`Container`] and [`Outside`] are
//!   its inhabitants and its neighbours.
//! - The probes ([`ping`], [`http_get`], [`HttpServer`], [`tcp_connect`], [`UdpEcho`],
//!   [`UdpClient`], [`lookup`], [`Frames`]) see what the network really does; no other program is needed.
//! - [`Snapshot`] is everything a namespace and some directories hold, comparable and with a
//!   readable difference.
//! - [`bridge_filter_settings`] says what this kernel's br_netfilter can be.
//! - [`wait_for_carrier`] listens until a link works.
//! - [`ip_addr`], [`bridge_link`] and [`ip_route`] print as the well-known commands do.
//!
//! All of it needs root over the current network namespace: tests get that from `sandbox.sh`, a
//! program from [`enter_sandbox`].

mod bridge_filter;
mod carrier;
mod error;
mod fdb;
mod host;
mod install;
mod lacking;
mod probe;
mod program;
mod rtnl;
mod sandbox;
mod show;
mod snapshot;
mod view;

pub use bridge_filter::{bridge_filter_settings, set_bridge_filter};
pub use carrier::wait_for_carrier;
pub use error::Error;
pub use fdb::bridge_macs;
pub use host::{Container, Host, Outside};
pub use install::{copy_program, write_program};
pub use lacking::{compares, has_program};
pub use probe::dns::{Lookup, lookup, lookup_address};
pub use probe::frame;
pub use probe::frames::Frames;
pub use probe::http::{HttpServer, Page, http_get};
pub use probe::icmp::ping;
pub use probe::tcp::{Connection, tcp_connect};
pub use probe::udp::{UdpClient, UdpEcho};
pub use program::Program;
pub use sandbox::enter_sandbox;
pub use show::{Dialect, bridge_link, ip_addr, ip_route};
pub use snapshot::{Snapshot, assert_same};
