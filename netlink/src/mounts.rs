//! Files that a program sees in place of the host's, for its whole life.
//!
//! A mount over a file ends when the host replaces that file: the kernel removes it from the old file's name, in all mount
//! namespaces (rename(2) over it, `detach_mounts` in the kernel). DHCP clients and VPNs replace /etc/resolv.conf in this
//! way. So the program gets its own folder around the file: a tmpfs, whose names no other program changes, with everything
//! that was in the folder mounted into it.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// The planned mounts, complete before a fork: [`Mounts::make`] only makes system calls.
#[derive(Debug, Default)]
pub struct Mounts {
    folders: Vec<Folder>,
}

/// A folder of the program's own.
#[derive(Debug)]
struct Folder {
    path: CString,
    /// What was in it.
    entries: Vec<Entry>,
    /// Files and the paths at which they shall be seen.
    own: Vec<(CString, CString)>,
}

/// An entry of a folder: its name there, and its path.
#[derive(Debug)]
struct Entry {
    name: CString,
    path: CString,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder,
    /// A link and its target.
    Link(CString),
    File,
}

impl Mounts {
    /// Plans that each first path is seen as the second, whether something is there or not. A second path in a missing
    /// folder is left out.
    ///
    /// # Errors
    /// If a folder cannot be read, or a path contains a NUL byte.
    pub fn plan(files: &[(PathBuf, PathBuf)]) -> io::Result<Self> {
        let mut mounts = Self::default();
        for (_, target) in files {
            let Some(path) = target.parent() else { continue };
            let text = c_string(path.as_os_str())?;
            if mounts.folders.iter().any(|folder| folder.path == text) || !path.is_dir() {
                continue;
            }
            let own: Vec<_> = files.iter().filter(|(_, target)| target.parent() == Some(path)).collect();
            mounts.folders.push(Folder {
                path: text,
                entries: entries(path, |name| {
                    own.iter().any(|(_, target)| target.file_name() == Some(name))
                })?,
                own: own.into_iter().map(c_paths).collect::<io::Result<_>>()?,
            });
        }
        Ok(mounts)
    }

    /// Makes the mounts. Call it in a mount namespace that the host does not see.
    ///
    /// # Errors
    /// The kernel's refusal of a mount.
    pub fn make(&self) -> Result<(), Errno> {
        let here = rustix::fs::open(c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let made = self.folders.iter().try_for_each(Folder::make);
        rustix::process::fchdir(&here)?;
        made
    }
}

impl Folder {
    fn make(&self) -> Result<(), Errno> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        // This descriptor still reaches what the tmpfs hides.
        rustix::process::chdir(self.path.as_c_str())?;
        rustix::mount::mount(c"rnet", self.path.as_c_str(), c"tmpfs", flags, c"mode=755")?;
        self.entries.iter().try_for_each(Entry::make)?;
        for (source, target) in &self.own {
            make_file(target)?;
            bind(source, target, MountFlags::BIND)?;
        }
        // Other files written here would be lost, so writing is refused.
        let read_only = flags | MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(self.path.as_c_str(), read_only, c"")
    }
}

impl Entry {
    fn make(&self) -> Result<(), Errno> {
        let made = match &self.kind {
            Kind::Link(to) => return rustix::fs::symlink(to.as_c_str(), self.path.as_c_str()),
            Kind::Folder => rustix::fs::mkdir(self.path.as_c_str(), Mode::RWXU)
                .and_then(|()| bind(&self.name, &self.path, MountFlags::BIND | MountFlags::REC)),
            Kind::File => make_file(&self.path).and_then(|()| bind(&self.name, &self.path, MountFlags::BIND)),
        };
        match made {
            // It was removed meanwhile.
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

fn make_file(path: &CString) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path.as_c_str(), flags, Mode::RUSR | Mode::WUSR).map(drop)
}

fn bind(source: &CString, target: &CString, flags: MountFlags) -> Result<(), Errno> {
    rustix::mount::mount(source.as_c_str(), target.as_c_str(), c"", flags, None)
}

fn entries(folder: &Path, is_own: impl Fn(&OsStr) -> bool) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_own(&name) {
            continue;
        }
        let Some(kind) = kind(&entry)? else { continue };
        entries.push(Entry { name: c_string(&name)?, path: c_string(entry.path().as_os_str())?, kind });
    }
    Ok(entries)
}

/// `None` if it was removed meanwhile.
fn kind(entry: &fs::DirEntry) -> io::Result<Option<Kind>> {
    let kind = entry.file_type()?;
    if !kind.is_symlink() {
        return Ok(Some(if kind.is_dir() { Kind::Folder } else { Kind::File }));
    }
    match fs::read_link(entry.path()) {
        Ok(to) => Ok(Some(Kind::Link(c_string(to.as_os_str())?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn c_paths((source, target): &(PathBuf, PathBuf)) -> io::Result<(CString, CString)> {
    Ok((c_string(source.as_os_str())?, c_string(target.as_os_str())?))
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}
