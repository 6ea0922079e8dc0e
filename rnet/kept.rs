//! What `install --force` finds in the way is kept beside the folder, and `install --uninstall` puts it back.
//!
//! At no moment is a plugin missing, or the only copy of a file in danger: it gets its second name first, and then one
//! rename puts the link, or the file, in its place. Killed in between, either command can be repeated.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::problem::Problem;

/// What a file is called until it has its name; a killed command leaves it, and the next one clears it away.
pub const TEMPORARY: &str = ".rnet-new";

/// Where the files of a folder are kept: not inside, where runtimes look at everything.
pub fn folder(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".before-rnet");
    dir.with_file_name(name)
}

/// Gives `file` a second name in the folder beside its own. A younger file takes the place of an older one.
pub fn keep(file: &Path) -> Result<(), Problem> {
    let (dir, name) = (file.parent().unwrap_or(file), file.file_name().unwrap_or_default());
    let folder = folder(dir);
    fs::create_dir_all(&folder).map_err(Problem::file("make the folder", &folder))?;
    let temporary = folder.join(TEMPORARY);
    clear(&temporary);
    let kept = fs::hard_link(file, &temporary).or_else(|_| copy(file, &temporary));
    let kept = kept.and_then(|()| fs::rename(&temporary, folder.join(name)));
    kept.and_then(|()| File::open(&folder)?.sync_all()).map_err(|error| {
        // The error to tell is the first one.
        clear(&temporary);
        Problem::file("keep", file)(error)
    })
}

/// Puts a kept file back in one step, in place of the link `place` or of nothing; false if none was kept. If another
/// file is there, it is younger, and the kept one stays where it is.
pub fn put_back(place: &Path, is_free: bool) -> Result<bool, Problem> {
    let (dir, name) = (place.parent().unwrap_or(place), place.file_name().unwrap_or_default());
    let kept = folder(dir).join(name);
    let Ok(found) = fs::symlink_metadata(&kept) else { return Ok(false) };
    if is_free {
        return fs::rename(&kept, place).map(|()| true).map_err(Problem::file("put back", place));
    }
    // It was killed before the link came: one file with two names.
    let is_same =
        fs::symlink_metadata(place).is_ok_and(|it| (it.dev(), it.ino()) == (found.dev(), found.ino()));
    if is_same {
        fs::remove_file(&kept).map_err(Problem::file("remove", &kept))?;
    }
    Ok(false)
}

/// Removes the folder of kept files if it is empty.
pub fn tidy(dir: &Path) {
    clear(&folder(dir).join(TEMPORARY));
    let _ = fs::remove_dir(folder(dir));
}

/// Removes what a killed command left under a temporary name.
pub fn clear(temporary: &Path) {
    // Mostly there is nothing; whatever else is wrong shows when the name is used.
    let _ = fs::remove_file(temporary);
}

/// For folders on different file systems, and file systems without second names.
fn copy(file: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(file)?.is_symlink() {
        return symlink(fs::read_link(file)?, to);
    }
    fs::copy(file, to)?;
    File::open(to)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_kept_and_put_back_and_a_younger_one_wins() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("cni");
        fs::create_dir(&dir).unwrap();
        let bridge = dir.join("bridge");
        for text in ["old", "young"] {
            fs::write(&bridge, text).unwrap();
            keep(&bridge).unwrap();
            assert_eq!(fs::read_to_string(&bridge).unwrap(), text, "it stays until the link comes");
            fs::remove_file(&bridge).unwrap();
        }
        assert!(put_back(&bridge, true).unwrap());
        assert!(!put_back(&bridge, true).unwrap());
        assert_eq!(fs::read_to_string(&bridge).unwrap(), "young");

        keep(&bridge).unwrap();
        assert!(!put_back(&bridge, false).unwrap(), "killed before the link came");
        tidy(&dir);
        assert!(bridge.exists() && !folder(&dir).exists());
    }
}
