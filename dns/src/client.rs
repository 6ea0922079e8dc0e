//! What the plugins say to the server. It blocks and is bounded in time: this is in the path of ADD.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::DeserializeOwned;

use crate::control::{Attachment, Listening, Request, Response, Status, line_of};
use crate::serve::holder_of;
use crate::{Endpoint, Network, Seen};

/// A request takes well under a millisecond; on a starved machine it is waited for as long as for a lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// Another version is tried out before it takes over: that may take so long in all.
const RESTART: Duration = Duration::from_secs(20);

/// Why a request had no success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens: the server does not run.
    #[error("no name server listens at {}", path.display())]
    NotThere {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// It does not answer, or not to the end.
    #[error("the name server at {} does not answer", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is there, and does not answer in time.
    #[error(
        "the name server (process {pid}) does not answer within {} s: it was stopped, hangs, or this machine is overloaded",
        waited.as_secs_f32()
    )]
    Silent {
        /// The process that keeps its sockets; 0 if that is not known.
        pid: u32,
        /// How long was waited.
        waited: Duration,
    },
    /// It did not do it.
    #[error("the name server at {} says: {said}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Its own words.
        said: String,
    },
    /// Its answer makes no sense to us: it may be of another version.
    #[error("the name server at {} answers what cannot be understood", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The version that was there goes on: the installed one cannot take its place.
    #[error("the name server that ran before goes on: {said}")]
    NotReplaced {
        /// Why the other cannot.
        said: String,
    },
    /// It serves another network namespace.
    #[error("the name server at {} (process {pid}) is in another network namespace", path.display())]
    Elsewhere {
        /// The socket.
        path: PathBuf,
        /// Its process.
        pid: u32,
    },
}

impl Error {
    /// True if there is no server, or one that is just ending: another can be started. One that is there and does not
    /// answer in time is none of these.
    pub fn is_absent(&self) -> bool {
        matches!(self, Error::NotThere { .. } | Error::NoAnswer { .. })
    }
}

/// Makes `network` known, and `endpoint` on it: afterwards its names answer. Tells where its questions are taken.
///
/// # Errors
/// Any of [`Error`]; one that [is absent](Error::is_absent) says that a server has to be started first.
pub fn set(socket: &Path, network: &Network, endpoint: Option<&Endpoint>) -> Result<Vec<Listening>, Error> {
    let request =
        Request::Set { network: Box::new(network.clone()), endpoint: endpoint.cloned().map(Box::new) };
    Ok(here(socket, ask(socket, &request)?)?.listeners)
}

/// The same for a server that may not be there, or not yet.
pub(crate) fn set_within(
    socket: &Path,
    network: &Network,
    endpoint: &Endpoint,
    patience: Duration,
) -> Result<Vec<Listening>, Error> {
    let (network, endpoint) = (Box::new(network.clone()), Some(Box::new(endpoint.clone())));
    let status = ask_within(socket, &Request::Set { network, endpoint }, patience)?;
    Ok(status.unwrap_or_default().listeners)
}

/// Makes an endpoint unknown: afterwards its names do not answer.
pub fn remove_endpoint(socket: &Path, network: &str, container: &str, ifname: &str) -> Result<(), Error> {
    let endpoint = Attachment { container: container.into(), ifname: ifname.into() };
    ask(socket, &Request::Remove { network: network.into(), endpoint: Some(endpoint) }).map(drop)
}

/// Makes a network unknown with all its endpoints; its addresses are listened at no more.
pub fn remove_network(socket: &Path, network: &str) -> Result<(), Error> {
    ask(socket, &Request::Remove { network: network.into(), endpoint: None }).map(drop)
}

/// How the server goes, and the endpoints that it knows.
pub fn status(socket: &Path) -> Result<Status, Error> {
    let status = ask(socket, &Request::Status {})?.unwrap_or_default();
    Ok(Status { endpoints: endpoints(socket)?, ..status })
}

/// Where questions are taken.
pub fn listening(socket: &Path) -> Result<Vec<Listening>, Error> {
    Ok(here(socket, ask(socket, &Request::Status {})?)?.listeners)
}

fn endpoints(path: &Path) -> Result<Vec<Endpoint>, Error> {
    let mut endpoints = Vec::new();
    for line in listen_to(path, &Request::Endpoints {}, Some(PATIENCE))? {
        match line? {
            line if line.is_empty() => return Ok(endpoints),
            line => endpoints.push(parse(path, &line)?),
        }
    }
    Err(Error::NoAnswer { path: path.into(), source: io::ErrorKind::UnexpectedEof.into() })
}

/// The lines that answer a request that has more than one; for each is waited so long at most.
fn listen_to(
    path: &Path,
    request: &Request,
    patience: Option<Duration>,
) -> Result<impl Iterator<Item = Result<String, Error>>, Error> {
    let failed = move |source| unanswered(path, source, patience.unwrap_or_default());
    let socket = connect(path, PATIENCE)?;
    socket.set_read_timeout(patience).map_err(failed)?;
    line_of(request).and_then(|line| (&socket).write_all(&line)).map_err(failed)?;
    Ok(BufReader::new(socket).lines().map(move |line| line.map_err(failed)))
}

fn parse<T: DeserializeOwned>(path: &Path, line: &str) -> Result<T, Error> {
    serde_json::from_str(line).map_err(|source| Error::Answer { path: path.into(), source })
}

/// Lets what lies where the server's program was started from go on in its place, with its sockets and all names (G9).
/// Returns when that answers.
///
/// # Errors
/// Any of [`Error`]; [`Error::NotReplaced`] if it does not serve: the server goes on as before.
pub fn restart(socket: &Path) -> Result<(), Error> {
    let until = Instant::now() + RESTART;
    let old = match ask_within(socket, &Request::Restart {}, RESTART) {
        Err(Error::Refused { said, .. }) => return Err(Error::NotReplaced { said }),
        other => other?.unwrap_or_default(),
    };
    loop {
        // Until then the old one answers, or nobody to the end.
        let answer = ask(socket, &Request::Ping {});
        if let Ok(Some(status)) = &answer
            && status.pid != old.pid
        {
            let said = "its program could not be started again".to_owned();
            return if status.since == old.since { Err(Error::NotReplaced { said }) } else { Ok(()) };
        }
        if Instant::now() > until {
            return Err(answer.err().unwrap_or_else(|| silent(socket, RESTART)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Fails unless the server answers, is in our network namespace (G8, L6) and knows both just so.
///
/// # Errors
/// Any of [`Error`]; [`Error::Refused`] says what it does not know.
pub fn check(socket: &Path, network: &Network, endpoint: &Endpoint) -> Result<(), Error> {
    let request = Request::Check { network: Box::new(network.clone()), endpoint: Box::new(endpoint.clone()) };
    here(socket, ask(socket, &request)?).map(drop)
}

/// Calls `each` for every question that anybody asks from now on, until it or the server has enough.
///
/// # Errors
/// Any of [`Error`] at the beginning, and [`Error::NoAnswer`] with what `each` returned.
pub fn watch(socket: &Path, mut each: impl FnMut(Seen) -> io::Result<()>) -> Result<(), Error> {
    // The first line says who answers.
    for line in listen_to(socket, &Request::Watch {}, None)?.skip(1) {
        let told = each(parse(socket, &line?)?);
        told.map_err(|source| Error::NoAnswer { path: socket.into(), source })?;
    }
    Ok(())
}

/// Fails unless the server answers and is in our network namespace (G8, L6).
pub fn ping(socket: &Path) -> Result<(), Error> {
    here(socket, ask(socket, &Request::Ping {})?).map(drop)
}

/// Refuses what a server of another network namespace says (L6).
fn here(socket: &Path, status: Option<Status>) -> Result<Status, Error> {
    let status = status.unwrap_or_default();
    match netns() {
        Ok(here) if here != status.netns => Err(Error::Elsewhere { path: socket.into(), pid: status.pid }),
        Ok(_) | Err(_) => Ok(status),
    }
}

/// Device and inode of our network namespace.
pub(crate) fn netns() -> io::Result<(u64, u64)> {
    let netns = std::fs::metadata("/proc/thread-self/ns/net")?;
    Ok((netns.dev(), netns.ino()))
}

fn ask(path: &Path, request: &Request) -> Result<Option<Status>, Error> {
    ask_within(path, request, PATIENCE)
}

fn ask_within(path: &Path, request: &Request, patience: Duration) -> Result<Option<Status>, Error> {
    let until = Instant::now() + patience;
    let socket = connect(path, patience)?;
    let line = exchange(socket, request, until).map_err(|source| unanswered(path, source, patience))?;
    match serde_json::from_slice(&line) {
        Ok(Response::Ok(status)) => Ok(status),
        Ok(Response::Error(said)) => Err(Error::Refused { path: path.into(), said }),
        Err(source) => Err(Error::Answer { path: path.into(), source }),
    }
}

fn connect(path: &Path, patience: Duration) -> Result<UnixStream, Error> {
    match connected(path, patience) {
        // Somebody listens, and takes nobody.
        Err(Errno::AGAIN) => Err(silent(path, patience)),
        other => other.map_err(|source| Error::NotThere { path: path.into(), source }),
    }
}

/// By way of the folder's descriptor: an address has room for 107 bytes, a path may have more.
fn connected(path: &Path, patience: Duration) -> Result<UnixStream, Errno> {
    let folder = open_folder(path)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // connect(2) waits if too many do so at once: no longer than this.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &address(&folder, path)?)?;
    Ok(socket.into())
}

/// The kernel tells by EAGAIN that the time is up.
fn unanswered(path: &Path, source: io::Error, waited: Duration) -> Error {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silent(path, waited),
        _ => Error::NoAnswer { path: path.into(), source },
    }
}

fn silent(path: &Path, waited: Duration) -> Error {
    Error::Silent { pid: holder_of(path), waited }
}

/// The folder that `path` is in.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The address of the socket `path`, whose folder is open as `folder`.
pub(crate) fn address(folder: &OwnedFd, path: &Path) -> Result<SocketAddrUnix, Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    SocketAddrUnix::new(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

fn exchange(socket: UnixStream, request: &Request, until: Instant) -> io::Result<Vec<u8>> {
    (&socket).write_all(&line_of(request)?)?;
    let mut answer = Vec::new();
    let mut reader = BufReader::new(socket);
    while answer.last() != Some(&b'\n') {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        reader.get_ref().set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = piece.len();
        answer.extend_from_slice(piece);
        reader.consume(len);
    }
    Ok(answer)
}
