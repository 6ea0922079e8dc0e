//! rnet's state: records of attachments and networks, the locks around them, the paths of files, and writing them so
//! that each appears whole or not at all.
//!
//! Nothing here knows the kernel's network: the other crates decide what a record means.

mod error;
mod files;
mod key;
mod lock;
mod paths;
mod record;
mod state;
mod user;
mod wire;

pub use error::Error;
pub use files::{
    Folder, boot_id, check_writable, create_whole, find_dir, open_dir, read_whole, replace_whole,
};
pub use key::{Id, Key, NetworkKey};
pub use lock::{Lock, LockName, Mode};
pub use paths::Paths;
pub use record::{Address, Exception, Namespace, Network, Port, Record, Stage, Sysctl, Zone};
pub use state::Store;
pub use user::in_user_namespace;
pub use wire::{Mac, ParseMacError, Protocol};
