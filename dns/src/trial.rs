//! An installed version must serve before it gets the sockets (G9). It is tried out beside this one, with its own socket,
//! folder and network, and is asked a question. A file that crashes, hangs or is no program changes nothing.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};

use crate::channel::{receive, send};
use crate::entry::{Endpoint, Network};
use crate::kept::Kept;
use crate::process::spawn;
use crate::program::{self, ProvenProgram};
use crate::protocol::{Response, Status, line_of};
use crate::socket::Control;
use crate::{client, handover};

/// It must serve within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest wait for the process that tries it out.
const LONGEST: Duration = Duration::from_secs(10);

/// The longest wait for each request and question: the program may have ended meanwhile.
const MOMENT: Duration = Duration::from_millis(100);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// The first bytes of a program for Linux (elf(5)).
const MAGIC: [u8; 4] = *b"\x7fELF";

/// The name of the trial's network and of its only endpoint.
const NAME: &str = "trial";

/// The program that passed a trial, or why it failed.
type Verdict = Result<ProvenProgram, String>;

/// A trial under way, as the server sees it.
pub(crate) struct Trial {
    channel: OwnedFd,
    child: Child,
    since: Instant,
    /// The client that waits for the successor.
    client: OwnedFd,
}

impl Trial {
    /// Lets a process of this version, called with `arguments`, try out the installed one.
    pub(crate) fn begin(arguments: &[OsString], client: OwnedFd) -> Option<Self> {
        match spawn(arguments) {
            Ok((channel, child)) => Some(Self { channel, child, since: Instant::now(), client }),
            Err(error) => {
                refuse(&client, &format!("nothing can be tried out: {error}"));
                None
            }
        }
    }

    /// When its time is up.
    pub(crate) fn end(&self) -> Instant {
        self.since + LONGEST
    }

    /// Its verdict, and the client that waits for it. Called when there is something to read, or its time is up.
    pub(crate) fn verdict(mut self) -> (Verdict, OwnedFd) {
        let received = receive::<Verdict>(self.channel.as_fd(), RecvFlags::DONTWAIT);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let gone = |_| Err("the process that tried it out did not answer".to_owned());
        (received.map_or_else(gone, |(verdict, _)| verdict), self.client)
    }
}

impl AsFd for Trial {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Tells the waiting client that there is no successor.
pub(crate) fn refuse(client: &OwnedFd, why: &str) {
    tracing::error!(why, "no other version can take over: this one continues");
    tell(client, &Response::Error(why.to_owned()));
}

/// Tells the waiting client that there will be a successor: it is there when another process answers.
pub(crate) fn promise(client: &OwnedFd, status: Status) {
    tell(client, &Response::Ok(Some(status)));
}

fn tell(client: &OwnedFd, response: &Response) {
    if let Ok(line) = line_of(response) {
        // A client that no longer listens needs no answer.
        let _ = rustix::net::send(client, &line, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

/// Tries out the installed version in `folder`, which is made for it, and sends the verdict to the server at standard
/// input. `starter` are the arguments with which this executable calls [`become_program`], before the file's name and
/// `arguments`; `variables` lead the other version to the folder.
///
/// # Errors
/// There is no server at standard input.
pub fn try_out(
    folder: &Path,
    starter: &[OsString],
    arguments: &[OsString],
    variables: &[(&str, OsString)],
) -> io::Result<()> {
    let verdict = program::path().and_then(|path| {
        let before = ProvenProgram::of(&path)?;
        is_program(&path)?;
        let _ = fs::remove_dir_all(folder);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let outcome = serve_in(folder, starter, &path, arguments, variables);
        let _ = fs::remove_dir_all(folder);
        outcome.map(|()| before)
    });
    let verdict: Verdict = verdict.map_err(|error| error.to_string());
    send(io::stdin().as_fd(), &verdict, &[])
}

fn is_program(path: &Path) -> io::Result<()> {
    let mut begin = [0; MAGIC.len()];
    let read = File::open(path)?.read_exact(&mut begin);
    match read {
        Ok(()) if begin == MAGIC => Ok(()),
        _ => Err(io::Error::other(format!("{} is no program for Linux", path.display()))),
    }
}

fn serve_in(
    folder: &Path,
    starter: &[OsString],
    path: &Path,
    arguments: &[OsString],
    variables: &[(&str, OsString)],
) -> io::Result<()> {
    let socket = folder.join("control");
    let control = Control::open(&socket).map_err(io::Error::other)?;
    let (_ours, handed) = handover::prepare(&control, &Kept::default())?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rnet").args(starter).arg(path).args(arguments).current_dir("/");
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(handed).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let outcome = until_it_serves(&mut child, &socket, path);
    // Its worker ends with it.
    let _ = child.kill();
    let _ = child.wait();
    outcome
}

fn until_it_serves(child: &mut Child, socket: &Path, path: &Path) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            let path = path.display();
            return Err(io::Error::other(format!("{path} was tried out and ended ({status})")));
        }
        if serves(socket) {
            return Ok(());
        }
        if Instant::now() > end {
            let (path, waited) = (path.display(), PATIENCE.as_secs());
            return Err(io::Error::other(format!(
                "{path} was tried out and did not serve within {waited} s"
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether it takes a network and answers a question for it.
fn serves(socket: &Path) -> bool {
    let [.., high, low] = std::process::id().to_be_bytes();
    // A loopback address at which probably no other program listens; if one does, the server takes another port.
    let (gateway, member) = (Ipv4Addr::new(127, 83, high, low), Ipv4Addr::new(192, 0, 2, 1));
    let network = Network {
        name: NAME.into(),
        bridge: "lo".into(),
        gateways: vec![gateway.into()],
        ..Network::default()
    };
    let endpoint = Endpoint {
        network: NAME.into(),
        container: NAME.into(),
        ifname: "eth0".into(),
        names: vec![NAME.into()],
        addresses: vec![member.into()],
        ..Endpoint::default()
    };
    let listening = client::set_within(socket, &network, &endpoint, MOMENT).unwrap_or_default();
    listening.first().is_some_and(|listening| answers(gateway.into(), listening.port, member))
}

/// Whether the server answers with the address of [`NAME`]. If the loopback is down it cannot be asked, and it is enough
/// that it listens.
fn answers(gateway: IpAddr, port: u16, member: Ipv4Addr) -> bool {
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05trial\x00\x00\x01\x00\x01";
    let to = SocketAddr::new(gateway, port);
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return true };
    if socket.set_read_timeout(Some(MOMENT)).and_then(|()| socket.send_to(question, to)).is_err() {
        return true;
    }
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap_or_default();
    answer[..length].ends_with(&member.octets())
}
