//! A disk that is full, or that nobody may write to.

use std::path::PathBuf;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A file system of 80 KiB. Unmounted on drop.
pub struct Disk(PathBuf);

impl Disk {
    /// A new one at `path`.
    pub fn mount(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), c"size=80k").unwrap();
        Self(path)
    }

    /// Leaves no room.
    pub fn fill(&self) {
        // As much as fits; the last write is refused.
        let _ = std::fs::write(self.0.join("filler"), vec![0; 64 << 10]);
    }

    /// Makes room again.
    pub fn tidy(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }

    /// Lets nobody write, or everybody again.
    pub fn read_only(&self, yes: bool) {
        let flags = if yes { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount(&self.0, flags, c"size=80k").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
