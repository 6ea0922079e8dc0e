//! Files that appear whole or not at all, opened by descriptor and without following links.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::Error;
use crate::error::below;
use crate::paths::trusted_env;

/// Opens the folder at `path`, and makes it and its parents (mode 0755, the last `mode`) if they are missing.
///
/// The last component is not followed if it is a symbolic link. Its parents are: the administrator decides where a folder
/// is (`dataDir`, `/var/lib` on another disk), and a user who can plant links there could also change the configuration.
///
/// # Errors
/// If the folder cannot be made or opened; [`Error::Link`] if a symbolic link is the cause.
pub fn open_dir(path: &Path, mode: u32) -> Result<OwnedFd, Error> {
    match open_existing(path) {
        Err(Errno::NOENT) => make_dir(path, mode).and_then(|()| open_existing(path)),
        other => other,
    }
    .map_err(Error::on_path("open the folder", path))
}

/// Opens the folder at `path` if there is one; see [`open_dir`].
///
/// # Errors
/// If the folder exists but cannot be opened; [`Error::Link`] if a symbolic link is the cause.
pub fn find_dir(path: &Path) -> Result<Option<OwnedFd>, Error> {
    match open_existing(path) {
        // No folder can have a name that is too long.
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        other => other.map(Some).map_err(Error::on_path("open the folder", path)),
    }
}

/// The place of a folder: at a path, or below an open folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// That folder, and the way from there, on which no link is followed.
    below: Option<(Arc<OwnedFd>, String)>,
}

impl Folder {
    /// A folder at `path`, opened as by [`open_dir`].
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), below: None }
    }

    /// The folder `name` below `base`, which is at the path `base_path`.
    pub(crate) fn below(base: BorrowedFd<'_>, base_path: &Path, name: &str) -> Result<Self, Errno> {
        let base = rustix::io::fcntl_dupfd_cloexec(base, 0)?;
        Ok(Self { path: base_path.join(name), below: Some((Arc::new(base), name.to_owned())) })
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, and makes it (0700 below another folder, otherwise `mode`) if it is missing.
    ///
    /// # Errors
    /// If it cannot be made or opened; [`Error::Link`] if a symbolic link is the cause.
    pub fn open(&self, mode: u32) -> Result<OwnedFd, Error> {
        let Some((base, name)) = &self.below else { return open_dir(&self.path, mode) };
        let opened = match open_below(base.as_fd(), name, READABLE) {
            Err(Errno::NOENT) => {
                make_below(base.as_fd(), name).and_then(|()| open_below(base.as_fd(), name, READABLE))
            }
            other => other,
        };
        opened.map_err(|errno| self.error(name, errno))
    }

    /// Opens it if it exists.
    ///
    /// # Errors
    /// If it exists but cannot be opened; [`Error::Link`] if a symbolic link is the cause.
    pub fn find(&self) -> Result<Option<OwnedFd>, Error> {
        let Some((base, name)) = &self.below else { return find_dir(&self.path) };
        match open_below(base.as_fd(), name, READABLE) {
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            other => other.map(Some).map_err(|errno| self.error(name, errno)),
        }
    }

    fn error(&self, name: &str, errno: Errno) -> Error {
        let levels = name.split('/').count();
        let base = self.path.ancestors().nth(levels).unwrap_or(&self.path);
        below("open the folder", base, name)(errno)
    }
}

impl From<&Path> for Folder {
    fn from(path: &Path) -> Self {
        Self::at(path)
    }
}

impl From<&Folder> for Folder {
    fn from(folder: &Folder) -> Self {
        folder.clone()
    }
}

impl From<&PathBuf> for Folder {
    fn from(path: &PathBuf) -> Self {
        Self::at(path)
    }
}

/// A folder whose entries are read.
const READABLE: OFlags = OFlags::DIRECTORY;

/// Makes sure that files can be made in the folder at `path` or, if it is missing, that it can be made itself.
///
/// # Errors
/// The kernel's reason why they cannot be made.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    let access =
        |folder| rustix::fs::accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    for folder in path.ancestors() {
        match access(folder) {
            // Nothing can be made below a link that leads nowhere.
            Err(Errno::NOENT) if std::fs::read_link(folder).is_ok() => {
                return Err(Error::on_path("write to", folder)(Errno::NOENT));
            }
            Err(Errno::NOENT) => {}
            other => return other.map_err(Error::file("write to", folder)),
        }
    }
    Err(Error::file("write to", path)(Errno::NOENT))
}

fn open_existing(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Fails with ENOENT if a parent is a link that leads nowhere: it cannot be made, because the link exists.
fn make_dir(path: &Path, mode: u32) -> Result<(), Errno> {
    let made = match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Err(Errno::NOENT) => {
            let parent = path.parent().ok_or(Errno::NOENT)?;
            make_dir(parent, 0o755)?;
            rustix::fs::mkdir(path, Mode::from_raw_mode(mode))
        }
        other => other,
    };
    if made == Err(Errno::EXIST) { Ok(()) } else { made }
}

/// Opens `path` below `dir` without following any link on the way (ELOOP).
pub(crate) fn open_below(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
        // A filter of system calls may not know it (docker before 20.10): open component by component.
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(dir, path, flags),
        other => other,
    }
}

fn open_step_by_step(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let Some((folders, name)) = path.rsplit_once('/') else {
        return rustix::fs::openat(dir, path, flags | OFlags::NOFOLLOW, Mode::empty());
    };
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(dir, ".", way, Mode::empty())?;
    for folder in folders.split('/') {
        at = rustix::fs::openat(&at, folder, way, Mode::empty())?;
    }
    rustix::fs::openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// Makes the folder `path` below `dir` (0700) and those on the way, following no link.
pub(crate) fn make_below(dir: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let (mut end, mut parent) = (0, None::<OwnedFd>);
    for folder in path.split('/') {
        let at = parent.as_ref().map_or(dir, AsFd::as_fd);
        match rustix::fs::mkdirat(at, folder, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        end += folder.len() + usize::from(end > 0);
        parent = Some(open_below(dir, &path[..end], OFlags::PATH | OFlags::DIRECTORY)?);
    }
    Ok(())
}

/// Reads the regular file `name` in `dir`; `None` if there is none.
///
/// # Errors
/// If the file cannot be opened or read, or a symbolic link has its name.
pub fn read_whole(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let file = match open_below(dir, name, OFlags::RDONLY) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(Error::file("open", name))?,
    };
    let mut bytes = Vec::with_capacity(1024);
    while rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))
        .map_err(Error::file("read", name))?
        > 0
    {
        bytes.reserve(1024);
    }
    Ok(Some(bytes))
}

/// The content of a kernel file that one read(2) returns completely: at most 1 KiB.
pub(crate) fn read_short(path: &str) -> Result<Vec<u8>, Errno> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(1024);
    rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))?;
    Ok(bytes)
}

/// Creates `name` in `dir` with `bytes`, complete from the first moment it is visible (O_TMPFILE, linkat).
///
/// Returns false, and changes nothing, if the name exists. Not synced: it need not survive a power loss.
///
/// # Errors
/// If the file cannot be written.
pub fn create_whole(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], mode: u32) -> Result<bool, Error> {
    let linked = create_unnamed(dir, bytes, mode).and_then(|file| {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
    });
    let linked = match linked {
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => rename_new(dir, name, bytes, mode, RenameFlags::NOREPLACE),
        other => other,
    };
    match linked {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(Error::file("create", name)(errno)),
    }
}

/// Writes `name` in `dir` and replaces an existing file in one step (temporary file, rename). Not synced.
///
/// # Errors
/// If the file cannot be written; then the old one stays.
pub fn replace_whole(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], mode: u32) -> Result<(), Error> {
    rename_new(dir, name, bytes, mode, RenameFlags::empty()).map_err(Error::file("write", name))
}

fn create_unnamed(dir: BorrowedFd<'_>, bytes: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, ".", flags, Mode::from_raw_mode(mode))?;
    write_all(file.as_fd(), bytes)?;
    Ok(file)
}

fn rename_new(
    dir: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
    mode: u32,
    how: RenameFlags,
) -> Result<(), Errno> {
    let temporary = write_temporary(dir, ".new-", bytes, mode)?;
    let renamed = rustix::fs::renameat_with(dir, &temporary, dir, name, how);
    if renamed.is_err() {
        // No other process uses this name; the error to report is the first one.
        let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
    }
    renamed
}

/// Writes a file with an unused name that begins with `prefix`, and returns the name. If it fails, no file is left.
pub(crate) fn write_temporary(
    dir: BorrowedFd<'_>,
    prefix: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<String, Errno> {
    let (name, file) = create_temporary(dir, prefix, mode)?;
    let written = write_all(file.as_fd(), bytes);
    if written.is_err() {
        let _ = rustix::fs::unlinkat(dir, &name, AtFlags::empty());
    }
    written.map(|()| name)
}

/// A killed process may have had the same number and left its file: then the next name is tried.
fn create_temporary(dir: BorrowedFd<'_>, prefix: &str, mode: u32) -> Result<(String, OwnedFd), Errno> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}{}-{count}", rustix::process::getpid());
        match rustix::fs::openat(dir, &name, flags, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) => {}
            other => return other.map(|file| (name, file)),
        }
    }
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::write(file, bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// The variable that replaces the boot id (tests).
pub(crate) const BOOT_ID: &str = "RNET_BOOT_ID";

/// The kernel's id of this boot (/proc/sys/kernel/random/boot_id), or the value of `RNET_BOOT_ID` (tests).
///
/// # Errors
/// If /proc is not mounted.
pub fn boot_id() -> Result<String, Error> {
    static READ: OnceLock<String> = OnceLock::new();
    if let Some(id) = trusted_env(BOOT_ID) {
        return Ok(id.to_string_lossy().into_owned());
    }
    if let Some(id) = READ.get() {
        return Ok(id.clone());
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let id = read_short(path).map_err(Error::file("read", path))?;
    Ok(READ.get_or_init(|| String::from_utf8_lossy(&id).trim().to_owned()).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let dir = open_dir(folder.path(), 0o700).unwrap();
        (folder, dir)
    }

    #[test]
    fn a_file_is_created_once_and_keeps_its_first_content() {
        let (_folder, dir) = folder();

        assert!(create_whole(dir.as_fd(), "172.18.0.2", b"first", 0o600).unwrap());
        assert!(!create_whole(dir.as_fd(), "172.18.0.2", b"second", 0o600).unwrap());

        assert_eq!(read_whole(dir.as_fd(), "172.18.0.2").unwrap().unwrap(), b"first");
    }

    #[test]
    fn a_replaced_file_leaves_no_temporary_behind() {
        let (folder, dir) = folder();

        replace_whole(dir.as_fd(), "record", &[b'a'; 5000], 0o600).unwrap();
        replace_whole(dir.as_fd(), "record", b"new", 0o600).unwrap();

        assert_eq!(read_whole(dir.as_fd(), "record").unwrap().unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_of_a_killed_process_with_the_same_number_do_not_disturb() {
        let (folder, dir) = folder();
        let leftover = write_temporary(dir.as_fd(), ".new-", b"half", 0o600).unwrap();
        let (prefix, count) = leftover.rsplit_once('-').unwrap();
        for ahead in 1..20 {
            let name = format!("{prefix}-{}", count.parse::<u64>().unwrap() + ahead);
            std::fs::write(folder.path().join(name), "half").unwrap();
        }

        replace_whole(dir.as_fd(), "record", b"whole", 0o600).unwrap();

        assert_eq!(read_whole(dir.as_fd(), "record").unwrap().unwrap(), b"whole");
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let (folder, dir) = folder();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "secret").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join("record")).unwrap();

        assert!(matches!(read_whole(dir.as_fd(), "record"), Err(Error::File { errno: Errno::LOOP, .. })));
        replace_whole(dir.as_fd(), "record", b"new", 0o600).unwrap();

        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "secret");
    }

    #[test]
    fn parents_are_made_and_a_link_in_place_of_the_folder_is_refused() {
        let (folder, _) = folder();

        open_dir(&folder.path().join("run/rnet/7"), 0o700).unwrap();
        std::os::unix::fs::symlink("/tmp", folder.path().join("leases")).unwrap();

        assert!(open_dir(&folder.path().join("leases"), 0o700).is_err());
    }
}
