//! The Container Network Interface as types: arguments, configurations, results, errors, delegation.
//!
//! The crate knows the specification (1.1.0) and how libcni and the reference plugins read it; it knows
//! neither the kernel nor rnet's state. What a plugin does comes in as a [`Plugin`]. The process around it
//! (environment, streams, "is this my own namespace?") comes in as parameters of [`main`]. So a test, or another
//! plugin of the same binary, can run a plugin many times within one process.
//!
//! | file | what it holds |
//! |---|---|
//! | `call.rs` | the environment of a call |
//! | `args.rs` | CNI_ARGS |
//! | `config.rs`, `fold.rs` | the configuration on stdin, its keys matched without regard to case |
//! | `version.rs`, `result.rs` | the versions, and the results in each |
//! | `error.rs`, `fault.rs` | the error that a caller reads; every fault, its code and its text |
//! | `skeleton.rs` | [`main`]: the life of one call |
//! | `delegate.rs`, `conflist.rs` | calling another plugin; calling a whole list of them |

/// The longest name of a network, in bytes: leases are kept in a folder of that name (NAME_MAX).
pub const LONGEST_NAME: usize = 255;

mod args;
mod call;
mod config;
pub mod conflist;
pub mod delegate;
mod error;
mod fault;
pub mod fold;
mod input;
mod result;
mod skeleton;
mod version;

pub use args::Args;
pub use call::{Call, Env, ProcessEnv, Verb};
pub use config::{Attachment, Config};
pub use error::{Error, code};
pub use fault::Fault;
pub use input::Input;
pub use result::{CniResult, Dns, Interface, Ip, Route, cidr};
pub use skeleton::{Plugin, Request, main, tell_panics};
pub use version::Version;

/// JSON as the reference plugins print it: four blanks of indentation, no final newline.
pub fn pretty(value: &serde_json::Value) -> String {
    use serde::Serialize;
    let mut text = Vec::with_capacity(512);
    let layout = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    match value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, layout)) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        // A `Value` always has a JSON text and a `Vec` takes all of it; the compact form is the same document.
        Err(_) => value.to_string(),
    }
}
