//! The name server's log: what happened to it, to which network and which container. The command and the plugins say what
//! they have to say at once and keep no log.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Level, Metadata};

/// It lies in memory (/run): of a longer one, the older half goes.
const LONGEST: u64 = 1 << 20;

/// A longer line is cut.
const LONGEST_LINE: usize = 1000;

/// So many lines at once, and so many a second: what comes beyond is counted. Containers by the hundred may start at once,
/// with two lines each.
const LINES: (f64, f64) = (2000.0, 50.0);

/// The crates whose lines are written: what others say may hold whatever a client has sent.
const OURS: [&str; 8] = ["cni", "dns", "ipam", "netlink", "nft", "plugins", "rnet", "store"];

/// Makes the log at `path` standard error, as the processes that rnet starts find it.
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
    let _ = tracing::subscriber::set_global_default(Ours(subscriber.finish()));
}

/// What our own crates say.
struct Ours<S>(S);

impl<S: Subscriber> Subscriber for Ours<S> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_ours(metadata) { self.0.register_callsite(metadata) } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata) && self.0.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        self.0.max_level_hint()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.0.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.0.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.0.record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        self.0.event(event);
    }

    fn enter(&self, span: &Id) {
        self.0.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.0.exit(span);
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let name = metadata.target().split("::").next().unwrap_or_default();
    OURS.contains(&name)
}

/// How many lines may be written now, and how many were not.
#[derive(Debug)]
struct Allowance {
    lines: f64,
    since: Option<Instant>,
    left_out: u64,
}

static ALLOWANCE: Mutex<Allowance> = Mutex::new(Allowance { lines: LINES.0, since: None, left_out: 0 });

impl Allowance {
    /// Takes a line's place: how many were left out before it; none if it is left out too.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = self.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        (self.lines, self.since) = ((self.lines + passed * LINES.1).min(LINES.0), Some(now));
        if self.lines < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The line as it is written: in ASCII that a terminal does not obey, and not too long.
fn tidy(line: &[u8]) -> Vec<u8> {
    let (line, end) = match line.strip_suffix(b"\n") {
        Some(line) => (line, "\n"),
        None => (line, ""),
    };
    let kept = &line[..line.len().min(LONGEST_LINE)];
    let plain = |octet: &u8| if octet.is_ascii_control() { b'?' } else { *octet };
    let cut: &[u8] = if kept.len() < line.len() { b" ..." } else { b"" };
    kept.iter().map(plain).chain(cut.iter().copied()).chain(end.bytes()).collect()
}

struct Stderr {
    ours: bool,
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let allowed = ALLOWANCE.lock().map_or(Some(0), |mut allowance| allowance.take(Instant::now()));
        let Some(left_out) = allowed else { return Ok(line.len()) };
        if self.ours {
            let _ = shorten(LONGEST);
        }
        let note = if left_out > 0 { format!("{left_out} lines are missing here\n") } else { String::new() };
        io::stderr().write_all(&[note.as_bytes(), &tidy(line)].concat())?;
        Ok(line.len())
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
    fn a_flood_of_lines_is_counted_and_not_written() {
        let mut allowance = Allowance { lines: LINES.0, since: None, left_out: 0 };
        let now = Instant::now();
        assert_eq!((0..5000).filter(|_| allowance.take(now).is_some()).count(), 2000);
        assert_eq!(allowance.take(now + std::time::Duration::from_secs(1)), Some(3000));
        assert_eq!(allowance.take(now + std::time::Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn a_line_has_no_control_characters_and_an_end() {
        assert_eq!(tidy(b"a\x1b[2J\tb\n"), b"a?[2J?b\n");
        let long = tidy(&[&[b'x'; 5000][..], b"\n"].concat());
        assert!(long.len() == LONGEST_LINE + 5 && long.ends_with(b"x ...\n"));
    }

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
