//! Endpoints that ended: what they were, when and how they ended, and what their programs wrote.
//!
//! `ended/<id>/` below the run folder holds the output of a detached program while it runs (output.rs), and `ended.json` from
//! its end on. An endpoint that was started with `--rm` leaves nothing here.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::Paths;

use crate::endpoint::{Endpoint, Endpoints};
use crate::output::now;
use crate::report::Problem;

/// So long an endpoint that ended is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// So many are remembered.
const MOST: usize = 100;

const FILE: &str = "ended.json";

/// How a program ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// By itself.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// Nobody saw it: its supervisor was killed.
    #[default]
    Unseen,
}

/// An endpoint that ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// What it was.
    pub endpoint: Endpoint,
    /// When its program was started, in milliseconds since 1970.
    pub started: u64,
    /// When it ended.
    pub ended: u64,
    /// How.
    pub how: How,
}

/// The folder of the endpoints of this host that ended.
#[derive(Clone, Debug)]
pub struct EndedFolder {
    folder: PathBuf,
}

impl How {
    /// What waiting for a program says.
    pub fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => How::Status(code),
            (None, Some(signal)) => How::Signal(signal),
            (None, None) => How::Unseen,
        }
    }

    /// The exit status by which a shell tells of it.
    pub fn exit(self) -> Option<u8> {
        match self {
            How::Status(code) => Some(u8::try_from(code).unwrap_or(u8::MAX)),
            How::Signal(signal) => u8::try_from(128 + signal).ok(),
            How::Unseen => None,
        }
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            How::Status(code) => write!(f, "status {code}"),
            How::Signal(signal) => write!(f, "signal {signal}"),
            How::Unseen => f.write_str("status unknown"),
        }
    }
}

impl Ended {
    /// Of an endpoint that ends at this moment.
    pub fn now(endpoint: Endpoint, how: How) -> Self {
        Self { started: endpoint.started, endpoint, ended: now(), how }
    }

    /// `4 s ago`.
    pub fn ago(&self) -> String {
        ago(Duration::from_millis(now().saturating_sub(self.ended)))
    }

    /// STATUS of `ps -a`: `exited (3) 4 s ago`.
    pub fn status_text(&self) -> String {
        match self.how.exit() {
            Some(exit) => format!("exited ({exit}) {}", self.ago()),
            None => format!("exited (unknown) {}", self.ago()),
        }
    }

    /// The error for a verb that needs an endpoint that runs.
    pub fn is_over(&self) -> Problem {
        Problem::Ended { name: self.endpoint.name.clone(), ago: self.ago(), how: self.how.to_string() }
    }

    fn is_forgotten(&self) -> bool {
        now().saturating_sub(self.ended) > REMEMBERED.as_millis() as u64
    }
}

impl EndedFolder {
    /// The folder below `paths`.
    pub fn of(paths: &Paths) -> Self {
        Self { folder: paths.run().join("ended") }
    }

    /// Where the output of an endpoint is, and was.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Makes the folder for the output of an endpoint that is about to start.
    pub fn begin(&self, id: &str) -> Result<PathBuf, store::Error> {
        let path = self.path(id);
        store::open_dir(&path, 0o700)?;
        Ok(path)
    }

    /// Every endpoint that ended and is remembered, the last one first.
    pub fn list(&self) -> Vec<Ended> {
        let mut ended: Vec<Ended> = self.ids().iter().filter_map(|id| self.load(id)).collect();
        ended.retain(|ended| !ended.is_forgotten());
        ended.sort_by(|one, other| (other.ended, &one.endpoint.id).cmp(&(one.ended, &other.endpoint.id)));
        ended.truncate(MOST);
        ended
    }

    /// The endpoint `id`, if it has ended and is remembered.
    pub fn load(&self, id: &str) -> Option<Ended> {
        serde_json::from_slice(&fs::read(self.path(id).join(FILE)).ok()?).ok()
    }

    /// Remembers how an endpoint ended.
    pub fn write(&self, ended: &Ended) -> anyhow::Result<()> {
        let dir = store::open_dir(&self.path(&ended.endpoint.id), 0o700)?;
        Ok(store::replace_whole(dir.as_fd(), FILE, &serde_json::to_vec(ended)?, 0o600)?)
    }

    /// Forgets an endpoint and its output.
    pub fn forget(&self, id: &str) -> Result<(), Problem> {
        remove(&self.path(id))
    }

    /// Forgets all of that name.
    pub fn forget_name(&self, name: &str) -> Result<(), Problem> {
        let named = self.list().into_iter().filter(|ended| ended.endpoint.name == name);
        named.into_iter().try_for_each(|ended| self.forget(&ended.endpoint.id))
    }

    /// Forgets those that are too old or too many, and output whose endpoint was lost.
    pub fn sweep(&self, endpoints: &Endpoints) {
        // In this order: one that ends meanwhile is first among the living, then among the remembered.
        let mut ids = self.ids();
        ids.retain(|id| !endpoints.path(id).exists());
        let kept: Vec<String> = self.list().into_iter().map(|ended| ended.endpoint.id).collect();
        for id in ids.iter().filter(|id| !kept.contains(id)) {
            // The next one tries again.
            let _ = self.forget(id);
        }
    }

    fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

fn remove(folder: &Path) -> Result<(), Problem> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Problem::file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// `4 s ago`, `3 min ago`, `2 h ago`.
fn ago(past: Duration) -> String {
    match past.as_secs() {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, EndedFolder, Endpoints) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path(), 1);
        (root, EndedFolder::of(&paths), Endpoints::of(&paths))
    }

    fn ended(id: &str, name: &str, ended: u64) -> Ended {
        let endpoint = Endpoint { id: id.into(), name: name.into(), ..Endpoint::default() };
        Ended { endpoint, ended, how: How::Status(3), ..Ended::default() }
    }

    #[test]
    fn the_last_hundred_of_a_day_are_remembered() {
        let (_root, folder, endpoints) = folder();
        let (now, day) = (now(), REMEMBERED.as_millis() as u64);
        for number in 0..102 {
            folder.write(&ended(&format!("id{number}"), "web", now - number)).unwrap();
        }
        folder.write(&ended("old", "old", now - day - 1000)).unwrap();
        folder.begin("lost").unwrap();

        assert_eq!(folder.list().len(), MOST);
        assert_eq!(folder.list()[0].endpoint.id, "id0");
        folder.sweep(&endpoints);
        assert_eq!(folder.ids().len(), MOST);

        folder.forget_name("web").unwrap();
        assert_eq!(folder.ids(), [""; 0]);
    }

    #[test]
    fn the_end_is_told_in_words() {
        let ended = Ended { how: How::Signal(9), ..ended("id", "web", now() - 4200) };
        assert_eq!(ended.is_over().to_string(), "no endpoint \"web\" (it ended 4 s ago, signal 9)");
        assert_eq!(ended.status_text(), "exited (137) 4 s ago");
        assert_eq!(ago(Duration::from_secs(7300)), "2 h ago");
    }
}
