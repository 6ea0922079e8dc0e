//! Requests to the server. They block for a bounded time, because they are on the path of ADD.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::de::DeserializeOwned;

use crate::entry::{Endpoint, Network};
use crate::process::netns;
use crate::protocol::{Attachment, Listening, Request, Response, Seen, Status, line_of};
use crate::socket::{address, holder_of, open_folder};

/// The longest wait for an answer, as long as for a lock. Usually it takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait for a restart: another version is tried out before it takes over.
const RESTART: Duration = Duration::from_secs(20);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process listens: the server does not run.
    #[error("no name server listens at {}", path.display())]
    NotThere {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// It does not answer, or not completely.
    #[error("the name server at {} does not answer", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It runs, and does not answer in time.
    #[error(
        "the name server (process {pid}) does not answer within {} s: it was stopped, hangs, or this machine is overloaded",
        waited.as_secs_f32()
    )]
    Silent {
        /// The process that keeps its sockets; 0 if that is not known.
        pid: u32,
        /// How long the caller waited.
        waited: Duration,
    },
    /// It refused the request.
    #[error("the name server at {} says: {said}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Its message.
        said: String,
    },
    /// Its answer cannot be parsed: it may be another version.
    #[error("the answer of the name server at {} cannot be understood", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The running version continues: the installed one cannot take its place.
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
    /// True if there is no server, or one that is ending: another can be started. False for one that runs and does not
    /// answer in time.
    pub fn is_absent(&self) -> bool {
        matches!(self, Error::NotThere { .. } | Error::NoAnswer { .. })
    }
}

/// Makes `network` known, and `endpoint` on it: afterwards its names answer. Returns where the server listens for it.
///
/// # Errors
/// Any of [`Error`]; for one that [is absent](Error::is_absent) a server must be started first.
pub fn set(socket: &Path, network: &Network, endpoint: Option<&Endpoint>) -> Result<Vec<Listening>, Error> {
    let request =
        Request::Set { network: Box::new(network.clone()), endpoint: endpoint.cloned().map(Box::new) };
    Ok(here(socket, ask(socket, &request)?)?.listeners)
}

/// The same for a server that may not run yet.
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

/// Removes an endpoint: afterwards its names do not answer.
///
/// # Errors
/// Any of [`Error`]; an unknown endpoint is none.
pub fn remove_endpoint(socket: &Path, network: &str, container: &str, ifname: &str) -> Result<(), Error> {
    let endpoint = Attachment { container: container.into(), ifname: ifname.into() };
    ask(socket, &Request::Remove { network: network.into(), endpoint: Some(endpoint) }).map(drop)
}

/// Removes a network with all its endpoints; the server stops listening at its addresses.
///
/// # Errors
/// Any of [`Error`]; an unknown network is none.
pub fn remove_network(socket: &Path, network: &str) -> Result<(), Error> {
    ask(socket, &Request::Remove { network: network.into(), endpoint: None }).map(drop)
}

/// The server's state, and the endpoints that it knows.
///
/// # Errors
/// Any of [`Error`].
pub fn status(socket: &Path) -> Result<Status, Error> {
    let status = ask(socket, &Request::Status {})?.unwrap_or_default();
    Ok(Status { endpoints: endpoints(socket)?, ..status })
}

/// Where the server listens for questions.
///
/// # Errors
/// Any of [`Error`].
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

/// The lines that answer a request; `patience` is the longest wait for each.
fn listen_to(
    path: &Path,
    request: &Request,
    patience: Option<Duration>,
) -> Result<impl Iterator<Item = Result<String, Error>>, Error> {
    let failed = move |source| answer_error(path, source, patience.unwrap_or_default());
    let socket = connect(path, PATIENCE)?;
    socket.set_read_timeout(patience).map_err(failed)?;
    line_of(request).and_then(|line| (&socket).write_all(&line)).map_err(failed)?;
    Ok(BufReader::new(socket).lines().map(move |line| line.map_err(failed)))
}

fn parse<T: DeserializeOwned>(path: &Path, line: &str) -> Result<T, Error> {
    serde_json::from_str(line).map_err(|source| Error::Answer { path: path.into(), source })
}

/// Lets the program that is now at the server's path continue in its place, with its sockets and all names (G9).
/// Returns when that answers.
///
/// # Errors
/// Any of [`Error`]; [`Error::NotReplaced`] if it does not serve: the server continues as before.
pub fn restart(socket: &Path) -> Result<(), Error> {
    let until = Instant::now() + RESTART;
    let old = match ask_within(socket, &Request::Restart {}, RESTART) {
        Err(Error::Refused { said, .. }) => return Err(Error::NotReplaced { said }),
        other => other?.unwrap_or_default(),
    };
    loop {
        // Until then the old one answers, or the connection ends without an answer.
        let answer = ask(socket, &Request::Ping {});
        if let Ok(Some(status)) = &answer
            && status.pid != old.pid
        {
            let said = "its program could not be started again".to_owned();
            return if status.since == old.since { Err(Error::NotReplaced { said }) } else { Ok(()) };
        }
        if Instant::now() > until {
            return Err(answer.err().unwrap_or_else(|| silence_error(socket, RESTART)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Makes sure that the server answers, is in this network namespace (G8, L6) and knows exactly both.
///
/// # Errors
/// Any of [`Error`]; [`Error::Refused`] says what it does not know.
pub fn check(socket: &Path, network: &Network, endpoint: &Endpoint) -> Result<(), Error> {
    let request = Request::Check { network: Box::new(network.clone()), endpoint: Box::new(endpoint.clone()) };
    here(socket, ask(socket, &request)?).map(drop)
}

/// Calls `each` for every question from now on, until `each` fails or the server ends.
///
/// # Errors
/// Any of [`Error`] at the beginning, and [`Error::NoAnswer`] with what `each` returned.
pub fn watch(socket: &Path, mut each: impl FnMut(Seen) -> io::Result<()>) -> Result<(), Error> {
    // The first line identifies the server.
    for line in listen_to(socket, &Request::Watch {}, None)?.skip(1) {
        let outcome = each(parse(socket, &line?)?);
        outcome.map_err(|source| Error::NoAnswer { path: socket.into(), source })?;
    }
    Ok(())
}

/// Makes sure that the server answers and is in this network namespace (G8, L6).
///
/// # Errors
/// Any of [`Error`].
pub fn ping(socket: &Path) -> Result<(), Error> {
    here(socket, ask(socket, &Request::Ping {})?).map(drop)
}

/// Refuses the answer of a server in another network namespace (L6).
fn here(socket: &Path, status: Option<Status>) -> Result<Status, Error> {
    let status = status.unwrap_or_default();
    match netns() {
        Ok(here) if here != status.netns => Err(Error::Elsewhere { path: socket.into(), pid: status.pid }),
        Ok(_) | Err(_) => Ok(status),
    }
}

fn ask(path: &Path, request: &Request) -> Result<Option<Status>, Error> {
    ask_within(path, request, PATIENCE)
}

fn ask_within(path: &Path, request: &Request, patience: Duration) -> Result<Option<Status>, Error> {
    let until = Instant::now() + patience;
    let socket = connect(path, patience)?;
    let line = exchange(socket, request, until).map_err(|source| answer_error(path, source, patience))?;
    match serde_json::from_slice(&line) {
        Ok(Response::Ok(status)) => Ok(status),
        Ok(Response::Error(said)) => Err(Error::Refused { path: path.into(), said }),
        Err(source) => Err(Error::Answer { path: path.into(), source }),
    }
}

fn connect(path: &Path, patience: Duration) -> Result<UnixStream, Error> {
    match connect_through_folder(path, patience) {
        // A process listens, and accepts no connection.
        Err(Errno::AGAIN) => Err(silence_error(path, patience)),
        other => other.map_err(|source| Error::NotThere { path: path.into(), source }),
    }
}

/// Connects through the folder's descriptor: an address has room for 107 bytes, a path may be longer (unix(7)).
fn connect_through_folder(path: &Path, patience: Duration) -> Result<UnixStream, Errno> {
    let folder = open_folder(path)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // connect(2) waits if too many connect at once, but no longer than this.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &address(&folder, path)?)?;
    Ok(socket.into())
}

/// EAGAIN means that the time is up.
fn answer_error(path: &Path, source: io::Error, waited: Duration) -> Error {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silence_error(path, waited),
        _ => Error::NoAnswer { path: path.into(), source },
    }
}

fn silence_error(path: &Path, waited: Duration) -> Error {
    Error::Silent { pid: holder_of(path), waited }
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
