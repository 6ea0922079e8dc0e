//! What `rnet run` made: a network namespace with a name, its files, and the process in it.
//!
//! `endpoints/<id>/` below the run folder holds `endpoint.json`, the pinned namespace `netns`, `resolv.conf`,
//! `hosts`, and `lock`. Each process that will clean up when the endpoint's own process ends holds that lock (shared)
//! until it has. So if the lock is free, none of them is left, and the next command that sees the endpoint cleans up.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use cni::conflist::Attachment;
use cni::{CniResult, Version};
use netlink::{Netns, NetnsId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::Paths;

use crate::definitions::{Network, network_of};
use crate::ended::{Ended, EndedFolder, How};
use crate::expose::Expose;
use crate::lock::{self, Held};
use crate::process::Process;
use crate::report::{Problem, Style};
use crate::runtime::Runtime;

/// One endpoint, as `endpoint.json` keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hex digits: CNI_CONTAINERID.
    pub id: String,
    /// A person's word for it.
    pub name: String,
    /// What it takes for its host's name, if not that of the host itself.
    #[serde(default)]
    pub hostname: Option<String>,
    /// What runs in it.
    pub command: Vec<String>,
    /// When that was started, in milliseconds since 1970; 0 before.
    #[serde(default)]
    pub started: u64,
    /// Ports that it says it serves, published or not: `80/tcp`.
    #[serde(default)]
    pub exposed: Vec<Expose>,
    /// The command line that it was started by, without the program.
    #[serde(default)]
    pub line: Vec<String>,
    /// The working directory of that.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    /// It is remembered when it ends.
    #[serde(default)]
    pub remembered: bool,
    /// The process, once it has been started.
    pub process: Option<Process>,
    /// Its namespace (device, inode); none is the host's.
    pub netns: Option<(u64, u64)>,
    /// The networks it is on, in the order of its interfaces.
    pub joined: Vec<Joined>,
}

/// One network of an endpoint, with all that its DEL needs even if the definition has changed or gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// The network.
    pub network: String,
    /// The interface inside.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: Vec<(String, String)>,
    /// What the plugins get as `runtimeConfig`.
    pub capabilities: Map<String, Value>,
    /// The conflist.
    pub definition: Value,
    /// The result of ADD, once there is one.
    pub result: Option<Value>,
}

impl Joined {
    /// True if it has an address of that family there.
    pub fn has_family(&self, is_v4: bool) -> bool {
        let ips = self.result.as_ref().and_then(|result| result["ips"].as_array());
        let addresses = ips.into_iter().flatten().filter_map(|ip| ip["address"].as_str());
        addresses.into_iter().any(|address| address.contains(':') != is_v4)
    }

    /// True if host ports lead to it.
    pub fn publishes(&self) -> bool {
        let ports = self.capabilities.get("portMappings").and_then(Value::as_array);
        ports.is_some_and(|ports| !ports.is_empty())
    }
}

/// The folder of all endpoints of this host.
#[derive(Clone, Debug)]
pub struct Endpoints {
    folder: PathBuf,
    /// Those that ended.
    pub ended: EndedFolder,
}

impl Endpoints {
    /// The folder below `paths`.
    pub fn of(paths: &Paths) -> Self {
        Self { folder: paths.run().join("endpoints"), ended: EndedFolder::of(paths) }
    }

    /// Every endpoint, sorted by name.
    pub fn list(&self) -> anyhow::Result<Vec<Endpoint>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Problem::file("read the folder", &self.folder))?,
        };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut endpoints: Vec<Endpoint> = ids.filter_map(|id| self.load(&id)).collect();
        endpoints.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(endpoints)
    }

    /// The endpoint `id` as it is now; none if it has been removed.
    pub fn load(&self, id: &str) -> Option<Endpoint> {
        serde_json::from_slice(&fs::read(self.path(id).join("endpoint.json")).ok()?).ok()
    }

    /// Makes an endpoint that has nothing yet but its name and id, held by this process. Without a name it goes
    /// by the first twelve digits of its id.
    pub fn create(&self, name: Option<&str>, command: Vec<String>) -> anyhow::Result<(Endpoint, Held)> {
        let folder = store::open_dir(&self.folder, 0o700)?;
        let _alone = lock::take(folder, true, lock::PATIENCE, "the names of endpoints")?;
        if let Some(name) = name {
            self.free_name(name)?;
        }
        let id = random_id()?;
        let name = name.map_or_else(|| id[..12].to_owned(), str::to_owned);
        let endpoint = Endpoint { id, name, command, ..Endpoint::default() };
        // The lock first: an endpoint that can be seen and is not held would be cleared away.
        let held = self.hold(&endpoint)?;
        self.save(&endpoint).inspect_err(|_| {
            // The error to tell is the first one.
            let _ = fs::remove_dir_all(self.path(&endpoint.id));
        })?;
        Ok((endpoint, held))
    }

    /// Writes an endpoint down, whole.
    pub fn save(&self, endpoint: &Endpoint) -> anyhow::Result<()> {
        let path = self.path(&endpoint.id);
        let dir = store::open_dir(&path, 0o700)?;
        let json = serde_json::to_vec(endpoint)?;
        store::replace_whole(dir.as_fd(), "endpoint.json", &json, 0o600).with_context(|| {
            format!("endpoint {:?} cannot be written down in {}", endpoint.name, path.display())
        })
    }

    /// Says that this process cleans up when the endpoint ends.
    pub fn hold(&self, endpoint: &Endpoint) -> anyhow::Result<Held> {
        Ok(lock::take(self.lock_file(endpoint)?, false, lock::PATIENCE, &words(endpoint))?)
    }

    /// Waits at most `patience` until nobody holds the endpoint any more; true if it is gone by then.
    pub fn wait_gone(&self, endpoint: &Endpoint, patience: Duration) -> anyhow::Result<bool> {
        let Ok(file) = open_lock(&self.path(&endpoint.id), OFlags::empty()) else { return Ok(true) };
        let _alone = lock::take(file, true, patience, &words(endpoint))?;
        Ok(self.load(&endpoint.id).is_none())
    }

    /// Detaches an endpoint from its networks and removes its namespace and files. Can be repeated, after a failure
    /// and by several at once.
    pub fn remove(&self, endpoint: &Endpoint, runtime: &Runtime) -> anyhow::Result<()> {
        // What is on disk may know of more than the caller: networks joined meanwhile.
        let found = self.load(&endpoint.id);
        let endpoint = found.as_ref().unwrap_or(endpoint);
        let mut failed = None;
        for joined in endpoint.joined.iter().rev() {
            let left = self.detach(endpoint, joined, runtime);
            failed = failed.or(left.err());
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.discard(endpoint)
    }

    /// Removes namespace and files of an endpoint, whatever else is left of it.
    pub fn discard(&self, endpoint: &Endpoint) -> anyhow::Result<()> {
        self.load(&endpoint.id).map_or(Ok(()), |found| self.remember(&found))?;
        let dir = self.path(&endpoint.id);
        unpin(&dir.join("netns"))?;
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Problem::file("remove", &dir)(error).into())
            }
            _ => Ok(()),
        }
    }

    /// Remembers an endpoint whose end nobody has seen, because its supervisor was killed.
    fn remember(&self, endpoint: &Endpoint) -> anyhow::Result<()> {
        if endpoint.started == 0 || !endpoint.remembered {
            return Ok(self.ended.forget(&endpoint.id)?);
        }
        match self.ended.load(&endpoint.id) {
            Some(_) => Ok(()),
            None => self.ended.write(&Ended::now(endpoint.clone(), How::Unseen)),
        }
    }

    /// Removes every endpoint that has ended and that nobody cares for: a killed supervisor leaves address, ports and
    /// network in use. What cannot be removed is told, and waits for the next one.
    pub fn sweep(&self, style: Style) -> anyhow::Result<()> {
        for left in
            self.list()?.iter().filter(|endpoint| !endpoint.is_running() && self.is_abandoned(endpoint))
        {
            if let Err(error) = self.remove(left, &Runtime::new()) {
                style.warn(format_args!(
                    "endpoint {:?} has ended and cannot be removed: {error:#}",
                    left.name
                ));
            }
        }
        self.ended.sweep(self);
        Ok(())
    }

    /// Where the files of an endpoint are.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// CNI_NETNS of an endpoint.
    pub fn netns_path(&self, id: &str) -> PathBuf {
        self.path(id).join("netns")
    }

    /// The attachment of an endpoint to one of its networks, as the plugins see it.
    pub fn attachment(&self, endpoint: &Endpoint, joined: &Joined) -> Attachment {
        Attachment {
            container_id: endpoint.id.clone(),
            netns: self.netns_path(&endpoint.id).to_string_lossy().into_owned(),
            ifname: joined.ifname.clone(),
            args: joined.args.clone(),
            capabilities: joined.capabilities.clone(),
        }
    }

    /// The files that a program in the endpoint sees in place of the host's: (source, target).
    pub fn binds(&self, id: &str) -> Vec<(PathBuf, PathBuf)> {
        let files = [("resolv.conf", "/etc/resolv.conf"), ("hosts", "/etc/hosts")];
        let binds = files.map(|(source, target)| (self.path(id).join(source), PathBuf::from(target)));
        binds.into_iter().filter(|(source, _)| source.exists()).collect()
    }

    fn detach(&self, endpoint: &Endpoint, joined: &Joined, runtime: &Runtime) -> anyhow::Result<()> {
        let network = joined.network()?;
        let result = joined.result(&network);
        Ok(runtime.del(&network.list, &self.attachment(endpoint, joined), result.as_ref())?)
    }

    /// Refuses a name in use; clears away an endpoint of that name that has ended.
    fn free_name(&self, name: &str) -> anyhow::Result<()> {
        for found in self.list()?.into_iter().filter(|endpoint| endpoint.name == name) {
            if found.is_running() || !self.has_ended(&found) {
                return Err(found.exists().into());
            }
            self.remove(&found, &Runtime::new())?;
        }
        Ok(())
    }

    fn is_abandoned(&self, endpoint: &Endpoint) -> bool {
        matches!(self.wait_gone(endpoint, Duration::ZERO), Ok(false))
    }

    /// True once nobody cares for an endpoint that does not run: at once, or when its supervisor has cleaned up.
    fn has_ended(&self, endpoint: &Endpoint) -> bool {
        let patience = if endpoint.process.is_some() { lock::PATIENCE } else { Duration::ZERO };
        self.wait_gone(endpoint, patience).is_ok()
    }

    fn lock_file(&self, endpoint: &Endpoint) -> anyhow::Result<OwnedFd> {
        let dir = self.path(&endpoint.id);
        store::open_dir(&dir, 0o700)?;
        Ok(open_lock(&dir, OFlags::CREATE).map_err(Problem::file("open the lock", &dir.join("lock")))?)
    }
}

impl Endpoint {
    /// The process, if it runs.
    pub fn running(&self) -> Option<Process> {
        self.process.filter(|process| process.is_alive())
    }

    /// True if its process runs.
    pub fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// The error for somebody who wants its name.
    pub fn exists(&self) -> Problem {
        let what = match self.process {
            Some(process) => format!("pid {}", process.pid),
            None => "being started".to_owned(),
        };
        let hint = Some(format!("rnet stop {}", self.name));
        Problem::EndpointExists { name: self.name.clone(), what, hint }
    }

    /// True if `netns` is the endpoint's.
    pub fn is_netns(&self, netns: NetnsId) -> bool {
        self.netns == Some((netns.dev, netns.ino))
    }
}

impl Joined {
    /// The network as it was when it was joined.
    pub fn network(&self) -> Result<Network, cni::Error> {
        network_of(&self.definition)
    }

    /// The result of ADD.
    pub fn result(&self, network: &Network) -> Option<CniResult> {
        CniResult::parse_any(self.result.as_ref()?, network.list.cni_version).ok()
    }

    /// Keeps the result of ADD.
    pub fn set_result(&mut self, result: &CniResult, version: Version) -> Result<(), cni::Error> {
        self.result = Some(result.to_json(version)?);
        Ok(())
    }
}

/// 256 bits from the kernel's generator as 64 hex digits.
fn random_id() -> anyhow::Result<String> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(Problem::file("read", path))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn open_lock(dir: &Path, create: OFlags) -> Result<OwnedFd, Errno> {
    let flags = create | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(dir.join("lock"), flags, Mode::from_raw_mode(0o600))
}

fn unpin(path: &Path) -> Result<(), netlink::Error> {
    match Netns::unpin(path) {
        // Not there, or no mount: nothing holds the namespace here.
        Err(netlink::Error::Unpin { errno: Errno::NOENT | Errno::INVAL, .. }) => Ok(()),
        other => other,
    }
}

fn words(endpoint: &Endpoint) -> String {
    format!("the endpoint {:?}", endpoint.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> (tempfile::TempDir, Endpoints) {
        let root = tempfile::tempdir().unwrap();
        let endpoints = Endpoints::of(&Paths::under(root.path(), 1));
        (root, endpoints)
    }

    #[test]
    fn an_endpoint_is_found_again_until_it_is_removed() {
        let (_root, endpoints) = endpoints();
        let (web, _held) = endpoints.create(Some("web"), vec!["sleep".into()]).unwrap();
        let (nameless, _held) = endpoints.create(None, Vec::new()).unwrap();

        assert_eq!(endpoints.load(&web.id), Some(web.clone()));
        assert_eq!((web.id.len(), &nameless.name), (64, &nameless.id[..12].to_owned()));
        assert_eq!(endpoints.list().unwrap().len(), 2);

        endpoints.remove(&web, &Runtime::new()).unwrap();
        endpoints.remove(&web, &Runtime::new()).unwrap();

        assert_eq!(endpoints.list().unwrap(), [nameless]);
        assert!(!endpoints.path(&web.id).exists());
    }

    #[test]
    fn a_name_is_given_once_while_somebody_holds_it() {
        let (_root, endpoints) = endpoints();
        let (mut web, held) = endpoints.create(Some("web"), Vec::new()).unwrap();

        let starting = endpoints.create(Some("web"), Vec::new()).unwrap_err();
        assert_eq!(starting.to_string(), "endpoint with name web already exists (being started)");
        web.process = Process::of(std::process::id());
        endpoints.save(&web).unwrap();
        drop(held);

        let running = endpoints.create(Some("web"), Vec::new()).unwrap_err();
        assert_eq!(
            running.to_string(),
            format!("endpoint with name web already exists (pid {})", std::process::id())
        );
    }

    #[test]
    fn a_name_whose_owner_is_dead_is_free() {
        let (_root, endpoints) = endpoints();
        let (first, held) = endpoints.create(Some("web"), Vec::new()).unwrap();
        drop(held);

        let (second, _held) = endpoints.create(Some("web"), Vec::new()).unwrap();

        assert_ne!(first.id, second.id);
        assert_eq!(endpoints.list().unwrap(), [second]);
    }

    #[test]
    fn a_wait_for_the_end_tells_whether_it_is_gone() {
        let (_root, endpoints) = endpoints();
        let (web, held) = endpoints.create(Some("web"), Vec::new()).unwrap();
        assert!(endpoints.wait_gone(&web, Duration::from_millis(10)).is_err());

        drop(held);
        assert!(!endpoints.wait_gone(&web, Duration::from_millis(10)).unwrap());
        endpoints.remove(&web, &Runtime::new()).unwrap();

        assert!(endpoints.wait_gone(&web, Duration::from_millis(10)).unwrap());
    }
}
