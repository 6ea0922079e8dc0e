//! The host's resolv.conf: its content (pure), and its changes.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most servers (resolv.conf(5)); further ones are skipped.
const MOST_SERVERS: usize = 3;

/// How many links are followed, because a link may point to a link.
const MOST_LINKS: usize = 8;

/// Larger than any real one; the rest is not read (H3).
const MOST_BYTES: u64 = 64 * 1024;

/// How often the file is read without inotify (R1).
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The content of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// The first three servers, in order.
    pub nameservers: Vec<Nameserver>,
    /// The search list; the last `search` or `domain` counts.
    pub search: Vec<String>,
    /// Its options about the lookup of names, whichever server is asked.
    pub options: Vec<String>,
}

/// A server with the zone of its link-local address (`fe80::1%eth0`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nameserver {
    /// Its address.
    pub address: IpAddr,
    /// The link's name or number, as written.
    pub zone: Option<String>,
}

/// Notices when the file may have changed, also by a rename or a changed link on the way to it.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    inotify: Option<AsyncFd<OwnedFd>>,
    /// The names whose change counts; events about others are skipped.
    names: BTreeSet<OsString>,
}

impl Resolv {
    /// Reads `text`; unknown lines are skipped (R2).
    pub fn parse(text: &str) -> Self {
        let mut resolv = Self::default();
        for line in text.lines() {
            resolv.take(line);
        }
        resolv
    }

    /// The content of the file; empty if it is missing or cannot be read (R3).
    pub fn read(path: &Path) -> Self {
        let mut start = Vec::new();
        let file = std::fs::File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut start));
        if file.is_err() {
            return Self::default();
        }
        Self::parse(&String::from_utf8_lossy(&start))
    }

    fn take(&mut self, line: &str) {
        // Comments begin a line; text after a value is ignored.
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") if self.nameservers.len() < MOST_SERVERS => {
                self.nameservers.extend(words.next().and_then(Nameserver::parse));
            }
            Some("search") => self.search = words.map(str::to_owned).collect(),
            Some("domain") => self.search = words.take(1).map(str::to_owned).collect(),
            Some("options") => words.for_each(|word| self.take_option(word)),
            _ => {}
        }
    }
}

impl Resolv {
    /// The last option of a kind counts.
    fn take_option(&mut self, word: &str) {
        let kind = |word: &str| word.split(':').next().unwrap_or_default().to_owned();
        if is_about_lookups(word) {
            self.options.retain(|other| kind(other) != kind(word));
            self.options.push(word.to_owned());
        }
    }
}

/// resolv.conf(5), without the options about the file itself (`no-reload`), about debugging, and about what no resolver
/// does any more (`ip6-dotint`, `inet6`).
fn is_about_lookups(option: &str) -> bool {
    const PLAIN: [&str; 9] = [
        "edns0",
        "no-aaaa",
        "no-check-names",
        "no-tld-query",
        "rotate",
        "single-request",
        "single-request-reopen",
        "trust-ad",
        "use-vc",
    ];
    match option.split_once(':') {
        Some(("ndots" | "timeout" | "attempts", number)) => number.parse::<u8>().is_ok(),
        Some(_) => false,
        None => PLAIN.contains(&option),
    }
}

impl Nameserver {
    fn parse(word: &str) -> Option<Self> {
        let (address, zone) = match word.split_once('%') {
            Some((address, zone)) => (address, Some(zone.to_owned())),
            None => (word, None),
        };
        Some(Self { address: address.parse().ok()?, zone })
    }

    /// The address to ask; `index` returns the number of a link's name. `None` if there is no such link.
    pub fn socket(&self, index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
        match (self.address, &self.zone) {
            (IpAddr::V6(address), Some(zone)) => {
                let scope = zone.parse().ok().or_else(|| index(zone))?;
                Some(SocketAddrV6::new(address, 53, 0, scope).into())
            }
            (address, _) => Some(SocketAddr::new(address, 53)),
        }
    }
}

/// Removes the server's own listening addresses: it would ask itself (R5).
pub(crate) fn without_own(servers: &[SocketAddr], own: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    servers.iter().copied().filter(|server| !own(server.ip().to_canonical())).collect()
}

/// `0.0.0.0` and `::` mean this host (resolv.conf(5)).
pub(crate) fn localhost_for_any(server: SocketAddr) -> SocketAddr {
    match server.ip() {
        IpAddr::V4(any) if any.is_unspecified() => SocketAddr::new([127, 0, 0, 1].into(), server.port()),
        IpAddr::V6(any) if any.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), server.port()),
        _ => server,
    }
}

impl Watch {
    /// Begins to watch; needs a tokio runtime. A file read after this misses no change.
    pub fn new(path: &Path) -> Self {
        let mut watch = Self { path: path.into(), inotify: None, names: BTreeSet::new() };
        watch.arm();
        watch
    }

    /// Returns when the file may have changed.
    pub async fn changed(&mut self) {
        loop {
            let Some(inotify) = &self.inotify else { return self.look_again().await };
            let Ok(mut ready) = inotify.ready(Interest::READABLE).await else {
                return self.look_again().await;
            };
            let relevant = drain(inotify.get_ref(), &self.names);
            ready.clear_ready();
            if relevant {
                // Another link may lead to it now, or a folder on the way may exist now.
                return self.arm();
            }
        }
    }

    /// Without inotify, whose instances are limited (fs.inotify.max_user_instances), the clock decides.
    async fn look_again(&mut self) {
        tokio::time::sleep(LOOK_EVERY).await;
        self.arm();
    }

    fn arm(&mut self) {
        self.names.clear();
        self.inotify = self.watch().ok();
    }

    fn watch(&mut self) -> Result<AsyncFd<OwnedFd>, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        for (folder, name) in places(&self.path) {
            inotify::add_watch(&inotify, &folder, events())?;
            self.names.insert(name);
        }
        // Deprecated for descriptors that are not owned; this one is owned.
        #[expect(deprecated)]
        AsyncFd::with_interest(inotify, Interest::READABLE).map_err(|_| Errno::MFILE)
    }
}

fn events() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::MODIFY
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
}

/// Takes all events; true if one of them is about one of `names` or about a folder itself.
fn drain(inotify: &OwnedFd, names: &BTreeSet<OsString>) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    let mut relevant = false;
    while let Ok(event) = events.next() {
        let named = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
        relevant |= named.is_none_or(|name| names.contains(name))
            || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
    }
    relevant
}

/// The folders to watch, each with the name in it: of the file, and of what it links to, link after link.
fn places(path: &Path) -> Vec<(CString, OsString)> {
    let mut places = Vec::new();
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        places.extend(existing(&path));
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    places
}

/// The file's folder, or the nearest one that exists, with the next name on the way.
fn existing(path: &Path) -> Option<(CString, OsString)> {
    let mut ancestors = path.ancestors().zip(path.ancestors().skip(1));
    let (child, folder) = ancestors.find(|(_, folder)| folder.as_os_str().is_empty() || folder.is_dir())?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    Some((CString::new(folder.as_os_str().as_bytes()).ok()?, child.file_name()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<String> {
        let index = |zone: &str| (zone == "eth0").then_some(7);
        let servers = Resolv::parse(text).nameservers;
        servers.iter().filter_map(|server| server.socket(index)).map(|s| s.to_string()).collect()
    }

    #[test]
    fn h3_only_as_much_of_a_file_is_read_as_a_real_one_has() {
        assert_eq!(Resolv::read(Path::new("/dev/zero")), Resolv::default());
    }

    #[test]
    fn the_first_three_servers_count_and_unknown_words_do_not() {
        let text = "# by hand\n; so\noptions edns0 no-such-thing:9\nnameserver\nnameserver nonsense\n\
                    frobnicate 1\n\tnameserver 10.0.0.1 # first\nnameserver 127.0.0.53\nnameserver ::1\n\
                    nameserver 10.0.0.4\n";
        assert_eq!(servers(text), ["10.0.0.1:53", "127.0.0.53:53", "[::1]:53"]);
        assert!(servers("").is_empty());
        assert!(servers("\0\u{fffd}nameserver").is_empty());
    }

    #[test]
    fn a_link_local_server_has_its_zone() {
        let text = "nameserver fe80::1%eth0\nnameserver fe80::1%3\nnameserver fe80::1%gone\n";
        assert_eq!(servers(text), ["[fe80::1%7]:53", "[fe80::1%3]:53"]);
    }

    #[test]
    fn the_last_search_list_counts() {
        let resolv = Resolv::parse("domain one\nsearch two three\n");
        assert_eq!(resolv.search, ["two", "three"]);
        assert_eq!(Resolv::parse("search two three\ndomain one x\n").search, ["one"]);
    }

    #[test]
    fn the_server_s_own_addresses_are_removed() {
        let servers = ["10.0.0.1:53", "10.1.0.1:53", "[::ffff:10.1.0.1]:53"].map(|s| s.parse().unwrap());
        let own: IpAddr = "10.1.0.1".parse().unwrap();
        assert_eq!(without_own(&servers, |ip| ip == own), [servers[0]]);
        assert_eq!(localhost_for_any("0.0.0.0:53".parse().unwrap()), "127.0.0.1:53".parse().unwrap());
        assert_eq!(localhost_for_any("[::]:53".parse().unwrap()), "[::1]:53".parse().unwrap());
    }

    /// Each change must be noticed within 1 s (R1), and `other`, which is none, not at all.
    #[test]
    fn writing_renaming_and_relinking_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, target) = (folder.path().join("etc/resolv.conf"), folder.path().join("run/stub/r.conf"));
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        write(&file, "nameserver 10.0.0.1");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut watch = Watch::new(&file);
            let mut seen = async |what: &str, change: &dyn Fn(), expected: Option<&str>| {
                change();
                let seen = tokio::time::timeout(Duration::from_millis(500), watch.changed()).await;
                assert_eq!(seen.is_ok(), expected.is_some(), "{what}");
                while tokio::time::timeout(Duration::from_millis(20), watch.changed()).await.is_ok() {}
                let first = Resolv::read(&file).nameservers.first().map(|server| server.address.to_string());
                assert_eq!(first.unwrap_or_default(), expected.unwrap_or("10.0.0.2"), "{what}");
            };
            seen("written", &|| write(&file, "nameserver 10.0.0.2"), Some("10.0.0.2")).await;
            seen("other", &|| write(&file.with_file_name("hosts"), "x"), None).await;
            let new = file.with_file_name("new");
            let rename = |text| {
                write(&new, text);
                std::fs::rename(&new, &file).unwrap();
            };
            seen("renamed", &|| rename("nameserver 10.0.0.3"), Some("10.0.0.3")).await;
            seen("renamed again", &|| rename("nameserver 10.0.0.4"), Some("10.0.0.4")).await;
            seen("emptied", &|| write(&file, ""), Some("")).await;
            seen("removed", &|| std::fs::remove_file(&file).unwrap(), Some("")).await;
            let link = || std::os::unix::fs::symlink("../run/stub/r.conf", &file).unwrap();
            seen("a link to nowhere", &link, Some("")).await;
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            write(&target, "nameserver 10.0.0.5");
            seen("its target", &|| write(&target, "nameserver 10.0.0.6"), Some("10.0.0.6")).await;
            let new = target.with_file_name("new");
            write(&new, "nameserver 10.0.0.7");
            seen("its target renamed", &|| std::fs::rename(&new, &target).unwrap(), Some("10.0.0.7")).await;
        });
    }
}
