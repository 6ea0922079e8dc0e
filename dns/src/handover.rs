//! Another version of the program goes on with our sockets, in our process: not one question is lost (G9).

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::channel::{MOST, receive, send};
use crate::listen::Bound;
use crate::serve::{Control, Kept, since_boot};

/// Room for all messages, for nobody reads them before we are gone: a network takes some hundred bytes.
const ROOM: usize = 4 << 20;

/// One message to the successor, its descriptors beside it.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// The control socket, its folder, its lock.
    Control(PathBuf),
    /// For each, the sockets of UDP and TCP.
    Sockets(Vec<(IpAddr, u16)>),
}

/// Puts everything into a socket that the successor finds as its standard input, and becomes the successor: what
/// lies now where this program was started from. Returns only if that cannot be.
pub(crate) fn to_successor(control: &Control, kept: &Kept, arguments: &[OsString]) -> io::Error {
    match prepare(control, kept) {
        Ok(theirs) => become_successor(theirs, arguments),
        Err(error) => error,
    }
}

/// What the server before this process has left at standard input.
///
/// # Errors
/// It left nothing, or what this version does not understand.
pub fn taken_over() -> io::Result<(Control, Kept)> {
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    let (mut control, mut kept) = (None, Kept::default());
    loop {
        match receive::<Message>(channel.as_fd(), RecvFlags::DONTWAIT) {
            Ok((Message::Control(path), handed)) => control = Some(of_control(path, handed)?),
            Ok((Message::Sockets(places), handed)) => take(&mut kept, places, handed),
            // All is there when we are.
            Err(_) => break,
        }
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    control.map(|control| (control, kept)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn prepare(control: &Control, kept: &Kept) -> io::Result<OwnedFd> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&ours, ROOM);
    // Rather no successor than to wait for a reader for ever.
    rustix::io::ioctl_fionbio(&ours, true)?;
    send(ours.as_fd(), &Message::Control(control.path.clone()), &control.descriptors())?;
    let sockets: Vec<_> = kept.sockets.iter().collect();
    for some in sockets.chunks(MOST / 2) {
        let places = some.iter().map(|(address, bound)| (**address, bound.port)).collect();
        let handed: Vec<BorrowedFd<'_>> =
            some.iter().flat_map(|(_, bound)| [bound.udp.as_fd(), bound.tcp.as_fd()]).collect();
        send(ours.as_fd(), &Message::Sockets(places), &handed)?;
    }
    Ok(theirs)
}

fn become_successor(theirs: OwnedFd, arguments: &[OsString]) -> io::Error {
    match program() {
        Ok(program) => Command::new(program).arg0("rnet").args(arguments).stdin(theirs).exec(),
        Err(error) => error,
    }
}

/// The file that we were started from, whatever lies there by now.
pub(crate) fn program() -> io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?.into_os_string();
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| PathBuf::from(&path), PathBuf::from))
}

fn of_control(path: PathBuf, handed: Vec<OwnedFd>) -> io::Result<Control> {
    let [listener, folder, lock] =
        <[OwnedFd; 3]>::try_from(handed).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Control { listener, folder, path, lock, since: since_boot() })
}

fn take(kept: &mut Kept, places: Vec<(IpAddr, u16)>, handed: Vec<OwnedFd>) {
    let mut handed = handed.into_iter();
    for (address, port) in places {
        if let (Some(udp), Some(tcp)) = (handed.next(), handed.next()) {
            kept.sockets.insert(address, Bound { udp, tcp, port });
        }
    }
}
