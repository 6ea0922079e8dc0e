//! Files: path, kind, mode, size, and a hash of what is in them.

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::Error;

/// All that is below `dir`, not `dir` itself; nothing if it is not there.
pub(super) fn lines(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::File { doing: "list", path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let device = fs::metadata(dir).map_err(failed)?.dev();
    let mut lines = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let about = fs::symlink_metadata(&path).map_err(failed)?;
        lines.push(format!("file {}: {}", path.display(), described(&path, &about, device)));
        if about.is_dir() {
            lines.extend(self::lines(&path)?);
        }
    }
    Ok(lines)
}

fn described(path: &Path, about: &Metadata, device: u64) -> String {
    let mode = about.mode() & 0o7777;
    let kind = about.file_type();
    if kind.is_dir() {
        format!("directory {mode:o}")
    } else if about.dev() != device {
        // A pinned namespace, for one.
        "mount".into()
    } else if kind.is_symlink() {
        format!("link to {}", fs::read_link(path).unwrap_or_default().display())
    } else if kind.is_file() {
        format!("{mode:o} {} bytes {}", about.len(), content(path))
    } else if kind.is_socket() {
        format!("socket {mode:o}")
    } else {
        format!("special {mode:o}")
    }
}

fn content(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            format!("hash {:016x}", hasher.finish())
        }
        Err(error) => format!("unreadable ({})", error.kind()),
    }
}
