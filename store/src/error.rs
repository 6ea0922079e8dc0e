//! What can go wrong with rnet's files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

/// A failure of the state folder, in words that a person can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file or folder failed.
    #[error("cannot {action} {}: {errno}", path.display())]
    File {
        /// What was being done, as a verb: `open`, `write`, `remove`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A symbolic link is where rnet makes or opens a folder or file, and leads nowhere or is not allowed there.
    #[error("{} is a symbolic link to {}, {}", path.display(), target.display(), advice(*dangling))]
    Link {
        /// The link.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
        /// Whether the target is missing.
        dangling: bool,
    },
    /// A lock was not free within the time allowed; nothing was changed.
    #[error("another rnet holds {what} ({holder}) and did not let go within {} s; nothing was changed", waited.as_secs())]
    Busy {
        /// The lock, in words: `the network "mynet"`.
        what: String,
        /// The process that took it last: `pid 4711: ADD web/eth0`.
        holder: String,
        /// How long the caller waited.
        waited: Duration,
    },
    /// A file that rnet writes has other content.
    #[error("{} is not a record of rnet's: {reason}", path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A part of a record is not what the feature that wrote it expects.
    #[error(
        "the record of container {who} on network {network} has a part {section:?} that cannot be used: {reason}"
    )]
    Section {
        /// The feature.
        section: &'static str,
        /// The container.
        who: String,
        /// The network.
        network: String,
        /// What the parser said.
        reason: String,
    },
}

impl Error {
    /// For `map_err`: the error of `action` on `path`.
    pub(crate) fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Error {
        let path = path.as_ref().to_owned();
        move |errno| Error::File { action, path, errno }
    }

    /// The same for a path on which a symbolic link may be the cause. The last component is never followed.
    pub(crate) fn on_path(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Error {
        let path = path.as_ref().to_owned();
        move |errno| find_link(&path, errno).unwrap_or(Error::File { action, path, errno })
    }
}

/// The error of `action` on `name` below `base`, where no link on the way is followed.
pub(crate) fn below<'a>(
    action: &'static str,
    base: &Path,
    name: &'a str,
) -> impl FnOnce(Errno) -> Error + use<'a> {
    let (base, path) = (base.to_owned(), base.join(name));
    move |errno| {
        let link = path.ancestors().take_while(|link| *link != base).find_map(|link| {
            let target = std::fs::read_link(link).ok()?;
            Some(Error::Link { path: link.to_owned(), target, dangling: !link.exists() })
        });
        let is_about_links = [Errno::LOOP, Errno::NOTDIR, Errno::EXIST, Errno::NOENT].contains(&errno);
        link.filter(|_| is_about_links).unwrap_or(Error::File { action, path, errno })
    }
}

/// The link on the way to `path` that leads nowhere, or `path` itself if it is a link.
fn find_link(path: &Path, errno: Errno) -> Option<Error> {
    if ![Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::EXIST].contains(&errno) {
        return None;
    }
    path.ancestors().find_map(|link| {
        let target = std::fs::read_link(link).ok()?;
        let dangling = !link.exists();
        (dangling || link == path).then(|| Error::Link { path: link.to_owned(), target, dangling })
    })
}

fn advice(dangling: bool) -> &'static str {
    match dangling {
        true => "which does not exist; hint: mount or make that, or remove the link",
        false => "and rnet follows none there; hint: remove the link, or bind-mount the folder",
    }
}
