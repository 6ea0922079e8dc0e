//! The server as processes: a small privileged one that binds the sockets and keeps them, and a worker without any
//! privilege that answers. When the worker dies, the next one finds the same sockets and the same table.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FlockOperation, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::binder::{Granted, Way, Wish};
use crate::channel::{receive, send};
use crate::client::{address, netns, open_folder};
use crate::confine::confine;
use crate::guardian::{Errand, Event, Watch};
use crate::listen::{self, Bound};
use crate::trial::{self, Proven, Trial};
use crate::worker::{self, Start};
use crate::{Known, Status, handover};

/// A worker that lived shorter than this is not replaced at once.
pub(crate) const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Then so long passes; it must serve again within a second (G8).
pub(crate) const BREATH: Duration = Duration::from_millis(300);

/// A server that is just ending may hold the lock so long.
const LOCK_TRIES: u32 = 50;

/// A worker that is to land has so long.
const LANDING: Duration = Duration::from_secs(2);

/// See [`LOCK_TRIES`].
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The length of a process's number in the lock, with spaces after it.
const SIGNATURE: usize = 10;

/// Control connections that wait while there is no worker.
const BACKLOG: i32 = 256;

/// The worker's user and group: nobody else's, as nobody's (65534) would be. The number spells "rnet", and lies where
/// neither passwd(5), subordinate users nor systemd give any out (1,879,048,192 to 2,147,483,647).
const OWN_USER: u32 = u32::from_be_bytes(*b"rnet");

/// What the server is started with.
#[derive(Debug)]
pub struct Serve<F> {
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// The port, 53.
    pub port: u16,
    /// The arguments with which this executable calls [`work`]. None: it answers in this very process, with all its
    /// privileges.
    pub worker: Option<Vec<OsString>>,
    /// The arguments with which this executable calls [`crate::guard`]. None: nobody serves anew when this process dies.
    pub guardian: Option<Vec<OsString>>,
    /// The arguments with which this executable calls [`crate::try_out`].
    pub prover: Vec<OsString>,
    /// The arguments with which this executable's file calls [`crate::taken_over`] and [`serve`] in our place (G9).
    pub successor: Vec<OsString>,
    /// The arguments with which this executable makes the ruleset send them to where they are taken now.
    pub redirect: Vec<OsString>,
    /// Tells all that is on record, before each worker's first answer (G5): networks first.
    pub load: F,
    /// Called whenever there is nothing to do for a while.
    pub rest: fn(),
    /// What the parent does besides.
    pub errand: Option<Errand>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is one already.
    #[error("another name server (process {pid}) has the lock {}", path.display())]
    Running {
        /// The lock.
        path: PathBuf,
        /// The process that keeps the other's sockets; 0 if it is just starting.
        pid: u32,
    },
    /// The control socket or its lock cannot be made.
    #[error("cannot make {}", path.display())]
    Control {
        /// The socket or the lock.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// Parent and worker do not understand each other.
    #[error("the name server's parent and worker cannot talk")]
    Talk(#[source] io::Error),
    /// Privileges cannot be dropped: it does not answer with them.
    #[error("cannot drop the privileges of the name server's worker")]
    Privileges(#[source] Errno),
    /// The worker's runtime failed.
    #[error("the name server's worker failed")]
    Work(#[source] io::Error),
}

/// What the parent tells a new worker, with the control socket and the table.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    parent: i32,
    uid: u32,
    netns: (u64, u64),
    since: u64,
    resolv_conf: PathBuf,
}

/// Where the questions to a gateway are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where the ruleset sends them, as far as is on record.
    AsRecorded,
    New,
}

/// How a worker's life ended.
enum End {
    /// Nobody needs it any more.
    Unused,
    Died,
    /// By us, for a successor.
    HandOver(Proven),
}

/// The control socket, and the lock that makes us the only one. Whoever connects from now on is waited for by
/// [`serve`]. Dropping it removes the socket.
#[derive(Debug)]
pub struct Control {
    pub(crate) listener: OwnedFd,
    pub(crate) folder: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) lock: OwnedFd,
    /// When this program came to have it: another version has another time.
    pub(crate) since: u64,
}

/// The sockets of the gateways, kept for the next worker: what has come in meanwhile waits there.
#[derive(Debug, Default)]
pub struct Kept {
    pub(crate) sockets: HashMap<IpAddr, Bound>,
    /// Where they were in the days of a server that has died.
    places: HashMap<IpAddr, u16>,
    /// The guardian of the version before, and the socket whose end it waits for.
    pub(crate) guardian: Option<(OwnedFd, Pid)>,
}

/// Serves until there is no network any more (G7), with the sockets that a server before us has kept. To be called
/// before any thread exists.
pub fn serve<F: Fn(&mut dyn FnMut(Known))>(
    control: &Control,
    mut kept: Kept,
    mut config: Serve<F>,
) -> Result<(), Error> {
    raise_limit();
    control.sign();
    tracing::info!(control = %control.path.display(), "serving");
    let watch = Watch::new(config.guardian.clone(), config.rest, kept.guardian.take());
    let mut watch = watch.with_errand(config.errand.take());
    loop {
        let begun = Instant::now();
        // Before anybody gets an answer: whoever does, knows that it will go on.
        watch.hire();
        let end = match &config.worker {
            Some(arguments) => supervise(&config, arguments, control, &mut kept, &mut watch),
            None => work_here(&config, control).map(|()| End::Unused)?,
        };
        match end {
            // A request may have come while it was ending.
            End::Unused if !control.is_wanted() => {
                tracing::info!("no network needs names any more: the end");
                return Ok(());
            }
            End::Died if begun.elapsed() < SHORT_LIFE => std::thread::sleep(BREATH),
            // Returns if there is no successor: then we go on.
            End::HandOver(successor) => {
                // Ours guards it until it has its own.
                let guardian = watch.guardian();
                let error = handover::to_successor(control, &kept, guardian, &successor, &config.successor);
                tracing::error!(%error, "no other version can take over: this one goes on");
            }
            End::Unused | End::Died => {}
        }
    }
}

/// In milliseconds.
pub(crate) fn since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64) * 1000 + (now.tv_nsec as u64) / 1_000_000
}

/// The worker's life. Its standard input is the socket to its parent.
pub fn work() -> Result<(), Error> {
    let channel = io::stdin().as_fd().try_clone_to_owned().map_err(Error::Talk)?;
    let (greeting, sockets) =
        receive::<Greeting>(channel.as_fd(), RecvFlags::empty()).map_err(Error::Talk)?;
    // The lock is held to our end: until then nobody else can have our ports.
    let [control, table, _lock, orders] =
        <[OwnedFd; 4]>::try_from(sockets).map_err(|_| Error::Talk(io::ErrorKind::InvalidData.into()))?;
    drop_privileges(greeting.parent).map_err(Error::Privileges)?;
    // On a kernel or a processor without it, the rest has to do.
    let _ = confine();
    let start = Start {
        control: control.into(),
        uid: greeting.uid,
        netns: greeting.netns,
        since: greeting.since,
        resolv_conf: greeting.resolv_conf,
        table: table.into(),
        orders: Some(orders),
        way: Way::Parent(channel),
    };
    worker::run(start).map_err(Error::Work)
}

fn work_here<F: Fn(&mut dyn FnMut(Known))>(config: &Serve<F>, control: &Control) -> Result<(), Error> {
    let start = Start {
        control: UnixListener::from(control.listener.try_clone().map_err(Error::Work)?),
        uid: rustix::process::geteuid().as_raw(),
        netns: netns().map_err(Error::Work)?,
        since: control.since,
        resolv_conf: config.resolv_conf.clone(),
        table: Records::write(&config.load).map_err(Error::Work)?.file,
        orders: None,
        way: Way::Here(config.port),
    };
    worker::run(start).map_err(Error::Work)
}

/// One worker's life as its parent sees it. One that cannot be started, for want of memory or descriptors, has died.
fn supervise<F: Fn(&mut dyn FnMut(Known))>(
    config: &Serve<F>,
    arguments: &[OsString],
    control: &Control,
    kept: &mut Kept,
    watch: &mut Watch,
) -> End {
    let (ours, child) = match spawn(arguments) {
        Ok(started) => started,
        Err(error) => {
            tracing::error!(%error, "the process that answers cannot be started: once more");
            return End::Died;
        }
    };
    let mut worker = Worker { child, channel: ours, orders: None, trial: None, successor: None };
    if let Ok(mut recorded) = worker.greet(config, control, kept) {
        // Ends when the worker does, for it alone has the other end.
        while let Some((wish, handed)) = worker.next_wish(control, watch) {
            match wish {
                Wish::Bind { address, link } => {
                    let place = kept.grant(address, &link, config.port, worker.channel.as_fd());
                    // What is not on record yet is an ADD's, which sees to it.
                    if place == Place::New && recorded.contains(&address) {
                        recorded.clear();
                        redirect(config);
                    }
                }
                Wish::Close { address } => kept.close(address, worker.channel.as_fd()),
                Wish::Replace => worker.begin_trial(&config.prover, handed),
                Wish::HandOver => break,
            }
        }
    }
    worker.end()
}

/// A worker as its parent has it.
struct Worker {
    child: Child,
    channel: OwnedFd,
    /// A byte through it says that the worker is to land.
    orders: Option<OwnedFd>,
    trial: Option<Trial>,
    /// It has been told to land, for this one, until then.
    successor: Option<(Proven, Instant)>,
}

impl Worker {
    /// Tells a new worker what it has to know; returns the gateways that are on record.
    fn greet<F: Fn(&mut dyn FnMut(Known))>(
        &mut self,
        config: &Serve<F>,
        control: &Control,
        kept: &mut Kept,
    ) -> io::Result<HashSet<IpAddr>> {
        let records = Records::write(&config.load)?;
        kept.sockets.retain(|address, _| records.gateways.contains(address));
        let greeting = Greeting {
            parent: rustix::process::getpid().as_raw_pid(),
            uid: rustix::process::geteuid().as_raw(),
            netns: netns()?,
            since: control.since,
            resolv_conf: std::path::absolute(&config.resolv_conf)?,
        };
        let (orders, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let handed = [control.listener.as_fd(), records.file.as_fd(), control.lock.as_fd(), theirs.as_fd()];
        send(self.channel.as_fd(), &greeting, &handed)?;
        self.orders = Some(orders);
        Ok(records.gateways)
    }

    /// What it wants next; none if it has died, or does not land in time.
    fn next_wish(&mut self, control: &Control, watch: &mut Watch) -> Option<(Wish, Vec<OwnedFd>)> {
        loop {
            let landing = self.successor.as_ref().map(|(_, end)| (self.channel.as_fd(), *end));
            let trial = self.trial.as_ref().map(|trial| (trial.as_fd(), trial.end()));
            match watch.wait_for(self.channel.as_fd(), landing.or(trial)) {
                Event::Trial if self.successor.is_some() => return None,
                Event::Trial => self.judge(control),
                _ => return receive(self.channel.as_fd(), RecvFlags::empty()).ok(),
            }
        }
    }

    fn begin_trial(&mut self, arguments: &[OsString], handed: Vec<OwnedFd>) {
        let Some(client) = handed.into_iter().next() else { return };
        if self.trial.is_some() || self.successor.is_some() {
            return trial::refuse(&client, "another version is being tried out just now");
        }
        self.trial = Trial::begin(arguments, client);
    }

    /// A trial is over: the worker is told to land, or all goes on as before.
    fn judge(&mut self, control: &Control) {
        let Some((verdict, client)) = self.trial.take().map(Trial::verdict) else { return };
        match verdict {
            Ok(successor) => {
                let netns = netns().unwrap_or_default();
                let pid = self.child.id();
                trial::promise(&client, Status { pid, netns, since: control.since, ..Status::default() });
                let landed = self.orders.as_ref().map(|orders| rustix::io::write(orders, &[0]));
                tracing::info!(ordered = landed.is_some(), "another version takes over");
                self.successor = Some((successor, Instant::now() + LANDING));
            }
            Err(why) => trial::refuse(&client, &why),
        }
    }

    fn end(mut self) -> End {
        if self.successor.is_some() {
            let _ = self.child.kill();
        }
        drop(self.channel);
        match (self.child.wait(), self.successor) {
            (_, Some((successor, _))) => End::HandOver(successor),
            (Ok(status), None) if status.success() => End::Unused,
            (status, None) => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::error!(%status, "the process that answers has ended: another takes its place");
                End::Died
            }
        }
    }
}

/// Starts this executable with `arguments`, and a socket to us as its standard input.
pub(crate) fn spawn(arguments: &[OsString]) -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // This very file, also if another version has taken its place.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rnet").args(arguments).current_dir("/").stdin(theirs).stdout(Stdio::null());
    Ok((ours, command.spawn()?))
}

/// Lets all questions be sent to where they are taken. It waits for locks that may wait for us: so it is only started,
/// and goes on by itself.
fn redirect<F>(config: &Serve<F>) {
    let mut command = Command::new("/proc/self/exe");
    let started =
        command.arg0("rnet").args(&config.redirect).stdin(Stdio::null()).stdout(Stdio::null()).status();
    if !started.as_ref().is_ok_and(ExitStatus::success) {
        tracing::error!(
            ?started,
            "questions are taken at other ports than before, and nobody sends them there"
        );
    }
}

/// All that is on record, as a worker is given it.
struct Records {
    /// A line for each thing, in memory: a message has no room for ten thousand endpoints, and neither process has
    /// more than one of them in hand.
    file: File,
    /// Where questions are to be taken. Of networks that have gone while there was no worker, nobody tells a new one.
    gateways: HashSet<IpAddr>,
}

impl Records {
    fn write(load: &impl Fn(&mut dyn FnMut(Known))) -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("records", MemfdFlags::CLOEXEC)?);
        let (mut writer, mut gateways) = (BufWriter::new(&file), HashSet::new());
        let mut failed = Ok(());
        load(&mut |known| {
            if let Known::Network(network) = &known {
                gateways.extend(&network.gateways);
            }
            let written = serde_json::to_writer(&mut writer, &known).map_err(io::Error::from);
            if let Err(error) = written.and_then(|()| writer.write_all(b"\n")) {
                failed = Err(error);
            }
        });
        failed?;
        writer.flush()?;
        drop(writer);
        (&file).rewind()?;
        Ok(Self { file, gateways })
    }
}

/// H1. The worker also ends with its parent: nobody would bind or restart for it.
fn drop_privileges(parent: i32) -> Result<(), Errno> {
    rustix::thread::set_no_new_privs(true)?;
    if rustix::process::geteuid().is_root() && is_initial_user_namespace() {
        let (uid, gid) = (Uid::from_raw(OWN_USER), Gid::from_raw(OWN_USER));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that.
    match rustix::process::getppid() {
        Some(now) if now.as_raw_pid() != parent => Err(Errno::SRCH),
        _ => Ok(()),
    }
}

/// Elsewhere the other users may not exist, and root is not root.
fn is_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn raise_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
}

impl Control {
    /// Makes the socket at `path`, with its lock beside it.
    ///
    /// # Errors
    /// [`Error::Running`] if another server has the lock, [`Error::Control`] if one of the two cannot be made.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = lock(name.into())?;
        let failed = |source| Error::Control { path: path.into(), source };
        let folder = open_folder(path).map_err(failed)?;
        let listener = listen(&folder, path).map_err(failed)?;
        Ok(Self { listener, folder, path: path.into(), lock, since: since_boot() })
    }

    /// Removes the socket: nobody serves it any more. The lock is still held, so it is ours.
    pub fn remove(&self) {
        if let Some(name) = self.path.file_name() {
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
    }

    /// Lets those who find the lock taken know by whom.
    fn sign(&self) {
        let signature = format!("{:<1$}", std::process::id(), SIGNATURE);
        let _ = rustix::io::pwrite(&self.lock, signature.as_bytes(), 0);
    }

    /// What a child that is to serve in our place must keep.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.listener.as_fd(), self.folder.as_fd(), self.lock.as_fd()]
    }

    /// Whether a connection waits.
    fn is_wanted(&self) -> bool {
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        matches!(rustix::event::poll(&mut ready, Some(&Timespec::default())), Ok(1..))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The lock is what counts, not a socket that somebody left behind (G6).
fn lock(path: PathBuf) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Control { path: path.clone(), source };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(source) => return Err(failed(source)),
        }
    }
    Err(Error::Running { path, pid: holder(&lock) })
}

/// The process that serves at a socket, as it has signed the lock beside; 0 if that is not known.
pub(crate) fn holder_of(socket: &Path) -> u32 {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(PathBuf::from(name), flags, Mode::empty()).map_or(0, |lock| holder(&lock))
}

/// Who signed the lock.
fn holder(lock: &OwnedFd) -> u32 {
    let mut text = [0; SIGNATURE];
    let read = rustix::io::pread(lock, &mut text, 0).unwrap_or_default();
    std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn listen(folder: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let _ = rustix::fs::unlinkat(folder, path.file_name().ok_or(Errno::INVAL)?, AtFlags::empty());
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address(folder, path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl Kept {
    /// No sockets, but where the ruleset sends the questions to gateways whose port somebody else had: there they are
    /// taken again (L3).
    pub fn places(places: HashMap<IpAddr, u16>) -> Self {
        Self { places, ..Self::default() }
    }

    /// If the answer cannot be sent, the worker is dead: seen at the next receive.
    fn grant(&mut self, address: IpAddr, link: &str, port: u16, channel: BorrowedFd<'_>) -> Place {
        match self.bound(address, link, port) {
            Ok((bound, place)) => {
                let _ = send(channel, &Granted::Port(bound.port), &[bound.udp.as_fd(), bound.tcp.as_fd()]);
                place
            }
            Err(errno) => {
                let _ = send(channel, &Granted::Errno(errno.raw_os_error()), &[]);
                Place::AsRecorded
            }
        }
    }

    fn close(&mut self, address: IpAddr, channel: BorrowedFd<'_>) {
        self.sockets.remove(&address);
        let _ = send(channel, &Granted::Closed, &[]);
    }

    fn bound(&mut self, address: IpAddr, link: &str, port: u16) -> Result<(&Bound, Place), Errno> {
        Ok(match self.sockets.entry(address) {
            Entry::Occupied(known) => (known.into_mut(), Place::AsRecorded),
            Entry::Vacant(new) => {
                let recorded = self.places.remove(&address);
                let bound = bind(address, link, port, recorded)?;
                let is_there = bound.port == recorded.unwrap_or(port);
                (new.insert(bound), if is_there { Place::AsRecorded } else { Place::New })
            }
        })
    }
}

/// At the recorded port if it can be had, also if the one wanted is free by now: nobody has to change a rule.
fn bind(address: IpAddr, link: &str, port: u16, recorded: Option<u16>) -> Result<Bound, Errno> {
    if let Some(recorded) = recorded {
        let bound = listen::bind(address, link, recorded)?;
        if bound.port == recorded {
            return Ok(bound);
        }
    }
    listen::bind(address, link, port)
}
