//! The server's processes: a small privileged parent that binds the sockets and keeps them, and a worker without any
//! privilege that answers. When the worker dies, the next one gets the same sockets and the same table.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::binder::Way;
use crate::channel::{receive, send};
use crate::confine::confine;
use crate::entry::Known;
use crate::error::Error;
use crate::guardian::{Errand, Event, Watch};
use crate::handover;
use crate::kept::{Kept, Place};
use crate::process::{BREATH, SHORT_LIFE, netns, spawn};
use crate::program::ProvenProgram;
use crate::protocol::Status;
use crate::socket::Control;
use crate::trial::{self, Trial};
use crate::wish::Wish;
use crate::worker::{self, Start};

/// How long a worker may take to land.
const LANDING: Duration = Duration::from_secs(2);

/// The worker's user and group: unlike 65534 (nobody) no other process has it. The number spells "rnet", and is in a range
/// that neither passwd(5), subordinate users nor systemd assign (1,879,048,192 to 2,147,483,647).
const OWN_USER: u32 = u32::from_be_bytes(*b"rnet");

/// The configuration of a server.
#[derive(Debug)]
pub struct Serve<F> {
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// The port, 53.
    pub port: u16,
    /// The arguments with which this executable calls [`work`]. `None`: this same process answers, with all its privileges.
    pub worker: Option<Vec<OsString>>,
    /// The arguments with which this executable calls [`crate::guard`]. `None`: no process serves after this one dies.
    pub guardian: Option<Vec<OsString>>,
    /// The arguments with which this executable calls [`crate::try_out`].
    pub prover: Vec<OsString>,
    /// The arguments with which this executable's file calls [`crate::taken_over`] and [`serve`] in this one's place (G9).
    pub successor: Vec<OsString>,
    /// The arguments with which this executable makes the ruleset redirect questions to the ports of now.
    pub redirect: Vec<OsString>,
    /// Passes all records, networks first, before each worker's first answer (G5).
    pub load: F,
    /// Called when the server has had nothing to do for a while.
    pub rest: fn(),
    /// A further task of the parent.
    pub errand: Option<Errand>,
}

/// The first message to a new worker, with the control socket and the table.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    parent: i32,
    uid: u32,
    netns: (u64, u64),
    since: u64,
    resolv_conf: PathBuf,
}

/// How a worker ended.
enum End {
    /// No network needs it any more.
    Unused,
    Died,
    /// The parent ended it for a successor.
    HandOver(ProvenProgram),
}

/// Serves until there is no network any more (G7), with the sockets that the previous server has kept. Call it before any
/// thread exists.
///
/// # Errors
/// If a server without a worker process cannot answer.
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
        // Before any client gets an answer, so that an answer means that the server is guarded.
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
            // Returns if there is no successor: then this server continues.
            End::HandOver(successor) => {
                // This server's guardian guards it until it has its own.
                let guardian = watch.guardian();
                let error = handover::to_successor(control, &kept, guardian, &successor, &config.successor);
                tracing::error!(%error, "no other version can take over: this one continues");
            }
            End::Unused | End::Died => {}
        }
    }
}

/// The worker's life. Its standard input is the socket to its parent.
///
/// # Errors
/// [`Error::Talk`] without a parent at standard input, [`Error::Privileges`] if they cannot be dropped, [`Error::Work`] if
/// the runtime fails.
pub fn work() -> Result<(), Error> {
    let channel = io::stdin().as_fd().try_clone_to_owned().map_err(Error::Talk)?;
    let (greeting, sockets) =
        receive::<Greeting>(channel.as_fd(), RecvFlags::empty()).map_err(Error::Talk)?;
    // The lock is held to the worker's end: until then no other server can bind its ports.
    let [control, table, _lock, orders] =
        <[OwnedFd; 4]>::try_from(sockets).map_err(|_| Error::Talk(io::ErrorKind::InvalidData.into()))?;
    drop_privileges(greeting.parent).map_err(Error::Privileges)?;
    // A kernel or processor may lack seccomp; the other restrictions remain.
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

/// One worker's life as its parent sees it. One that cannot be started, for lack of memory or descriptors, counts as dead.
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
            tracing::error!(%error, "cannot start the process that answers; trying again");
            return End::Died;
        }
    };
    let mut worker = Worker { child, channel: ours, orders: None, trial: None, successor: None };
    if let Ok(mut recorded) = worker.greet(config, control, kept) {
        // Ends with the worker, which is the only process with the other end.
        while let Some((wish, handed)) = worker.next_wish(control, watch) {
            match wish {
                Wish::Bind { address, link } => {
                    let place = kept.grant(address, &link, config.port, worker.channel.as_fd());
                    // An address without a record belongs to an ADD, which redirects it itself.
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

/// A worker and its parent's end of the channel.
struct Worker {
    child: Child,
    channel: OwnedFd,
    /// A byte through it tells the worker to land.
    orders: Option<OwnedFd>,
    trial: Option<Trial>,
    /// The successor for which it was told to land, and until when.
    successor: Option<(ProvenProgram, Instant)>,
}

impl Worker {
    /// Sends a new worker its first message; returns the gateways on record.
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

    /// Its next request; `None` if it has died, or does not land in time.
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
            return trial::refuse(&client, "another version is being tried out now");
        }
        self.trial = Trial::begin(arguments, client);
    }

    /// Ends a trial: tells the worker to land, or everything continues as before.
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

/// Starts the program that redirects all questions to the ports of now. It continues by itself, because its work waits
/// for locks whose holders may wait for this server.
fn redirect<F>(config: &Serve<F>) {
    let mut command = Command::new("/proc/self/exe");
    let started =
        command.arg0("rnet").args(&config.redirect).stdin(Stdio::null()).stdout(Stdio::null()).status();
    if !started.as_ref().is_ok_and(ExitStatus::success) {
        tracing::error!(
            ?started,
            "the server listens at other ports than before, and questions cannot be redirected to them"
        );
    }
}

/// All records, as a worker gets them.
struct Records {
    /// A file in memory with a line for each: a message has no room for ten thousand endpoints, and so neither process
    /// holds more than one at a time.
    file: File,
    /// The gateways at which to listen. A new worker does not hear of networks that were removed while there was none.
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

/// H1. The worker also ends with its parent, without which nothing binds or restarts for it.
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
    // The parent may have died before that.
    match rustix::process::getppid() {
        Some(now) if now.as_raw_pid() != parent => Err(Errno::SRCH),
        _ => Ok(()),
    }
}

/// In another user namespace the worker's user may not exist, and root is not the host's.
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
