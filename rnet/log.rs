//! The name server's log: what happened to it, to which network and which container. The command and the plugins say what
//! they have to say at once and keep no log.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use tracing::Level;

/// It lies in memory (/run): of a longer one, the older half goes.
const LONGEST: u64 = 1 << 20;

/// Lets standard error be the log at `path`, as whoever is started by us finds it.
pub fn open(path: &Path) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(rustix::stdio::dup2_stderr(log)?)
}

/// What happens from now on is written to standard error; `ours` says that it is the log, to be kept short.
pub fn start(ours: bool) {
    let subscriber = tracing_subscriber::fmt().with_writer(move || Stderr { ours });
    let subscriber = subscriber.with_max_level(Level::INFO).with_target(false).with_ansi(false);
    // Fails if there is one already.
    let _ = tracing::subscriber::set_global_default(subscriber.finish());
}

struct Stderr {
    ours: bool,
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.ours {
            let _ = shorten(LONGEST);
        }
        io::stderr().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn shorten(longest: u64) -> io::Result<()> {
    let stderr = rustix::stdio::stderr();
    match rustix::fs::fstat(stderr)?.st_size as u64 {
        length if length < longest => Ok(()),
        _ => keep_newer_half(&File::from(stderr.try_clone_to_owned()?), longest),
    }
}

fn keep_newer_half(log: &File, longest: u64) -> io::Result<()> {
    let mut newer = vec![0; longest as usize / 2];
    log.read_exact_at(&mut newer, longest - longest / 2)?;
    let line = newer.iter().position(|octet| *octet == b'\n').map_or(0, |end| end + 1);
    log.set_len(0)?;
    // It is opened for appending.
    (&*log).write_all(&newer[line..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_newer_half_remains_in_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = File::options().create(true).read(true).append(true).open(&path).unwrap();
        (&log).write_all(b"1234567\nabcdefg\nABCDEFG\nxyz\n").unwrap();

        keep_newer_half(&log, 28).unwrap();

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ABCDEFG\nxyz\n");
        (&log).write_all(b"next\n").unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("xyz\nnext\n"));
    }
}
