//! `rnet logs`: what the program of `rnet run -d` has written.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::json;

use crate::clock;
use crate::ended::EndedFolder;
use crate::lookup::{Kinds, Thing};
use crate::output::{Lines, Piece, Reader, Stream, last, tail};
use crate::owner::{Action, not_ours};
use crate::report::{Problem, Style, print};
use crate::view::View;

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The endpoint: its name, id, or at least six digits of its id
    #[arg(value_name = "EP")]
    pub endpoint: String,
    /// Follow the output until the program ends
    #[arg(short, long)]
    pub follow: bool,
    /// Show only the last N lines, or all
    #[arg(short = 'n', long, value_name = "LINES", value_parser = lines)]
    pub tail: Option<usize>,
    /// Show when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
}

/// A number, or docker's `all`.
fn lines(text: &str) -> Result<usize, String> {
    if text == "all" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| "expected a number of lines, or all".into())
}

/// Writes to stdout and stderr what the program has written there; as JSON, an object for each line to stdout.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let mut view = View::open("logs")?;
    let known = view.known(&[])?;
    let id = match known.find(&args.endpoint, Kinds::Endpoints)? {
        Thing::Ended(ended) => ended.endpoint.id.clone(),
        _ => {
            let container = known.living(&args.endpoint)?;
            let endpoint = container.endpoint.as_ref().ok_or_else(|| not_ours(container, Action::Logs))?;
            endpoint.id.clone()
        }
    };
    let folder = view.endpoints.ended.path(&id);
    if !folder.exists() {
        return Err(Problem::NoLogs { name: args.endpoint.clone() }.into());
    }
    // Before the first look: nothing that is written behind it is missed.
    let changes = args.follow.then(|| watch(&folder)).transpose()?;
    let (mut reader, mut lines) = (Reader::new(&folder), Lines::default());
    let kept = lines.pieces(&last(reader.frames()));
    write(&tail(kept, args.tail.unwrap_or(usize::MAX)), args, style)?;
    let Some(changes) = changes else { return Ok(0) };
    loop {
        let over = is_over(&view.endpoints.ended, &id);
        write(&lines.pieces(&reader.frames()), args, style)?;
        if over {
            return Ok(0);
        }
        wait(&changes)?;
    }
}

fn is_over(ended: &EndedFolder, id: &str) -> bool {
    ended.load(id).is_some() || !ended.path(id).exists()
}

fn watch(folder: &Path) -> anyhow::Result<rustix::fd::OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC)?;
    let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
    inotify::add_watch(&changes, folder, what).map_err(Problem::file("watch", folder))?;
    Ok(changes)
}

/// Returns when something has changed; what, the next look tells.
fn wait(changes: &rustix::fd::OwnedFd) -> anyhow::Result<()> {
    match rustix::io::read(changes, &mut [0; 4096]) {
        Err(rustix::io::Errno::INTR) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

fn write(pieces: &[Piece], args: &Args, style: Style) -> anyhow::Result<()> {
    pieces.iter().try_for_each(|piece| if style.json { write_json(piece) } else { write_piece(piece, args) })
}

/// By the clock of the place for a person, exactly for a program.
fn time(millis: u64) -> String {
    match io::stdout().is_terminal() {
        true => clock::local(i64::try_from(millis / 1000).unwrap_or(i64::MAX)),
        false => clock::utc(millis),
    }
}

fn write_json(piece: &Piece) -> anyhow::Result<()> {
    let stream = if piece.stream == Stream::Out { "stdout" } else { "stderr" };
    let line = String::from_utf8_lossy(&piece.bytes);
    print(&format!("{}\n", json!({"time": clock::utc(piece.millis), "stream": stream, "text": line})))
}

fn write_piece(piece: &Piece, args: &Args) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    if args.timestamps && piece.begins {
        bytes.extend(format!("{} ", time(piece.millis)).bytes());
    }
    bytes.extend(&piece.bytes);
    let written = match piece.stream {
        Stream::Out => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
        Stream::Err => io::stderr().write_all(&bytes),
    };
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Problem::Closed.into()),
        other => Ok(other.map_err(Problem::file("write", "the program's output".as_ref()))?),
    }
}
