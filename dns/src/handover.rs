//! Another version of the program continues with the sockets, in the same process: no question is lost (G9).

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::bind::GatewaySockets;
use crate::channel::{MOST, receive, send};
use crate::kept::Kept;
use crate::process::since_boot;
use crate::program::ProvenProgram;
use crate::socket::Control;

/// Room for all messages, because they are read only after this program is gone: a network takes some hundred bytes.
const ROOM: usize = 4 << 20;

/// One message to the successor, its descriptors beside it.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// The control socket, its folder, its lock.
    Control(PathBuf),
    /// For each, the sockets of UDP and TCP.
    Sockets(Vec<(IpAddr, u16)>),
    /// The process that serves if the successor dies before it has its own guardian, and the socket whose end it waits for.
    /// It comes last, so that a version that does not know it has read all others.
    Guardian(i32),
}

/// Puts everything into a socket that becomes the successor's standard input, and becomes the successor, which was tried
/// out. Returns only if that fails.
pub(crate) fn to_successor(
    control: &Control,
    kept: &Kept,
    guardian: Option<(&OwnedFd, u32)>,
    successor: &ProvenProgram,
    arguments: &[OsString],
) -> io::Error {
    let prepared = prepare(control, kept).and_then(|(ours, theirs)| {
        if let Some((channel, pid)) = guardian {
            send(ours.as_fd(), &Message::Guardian(pid as i32), &[channel.as_fd()])?;
        }
        rustix::stdio::dup2_stdin(&theirs)?;
        Ok(())
    });
    let error = prepared.map_or_else(|error| error, |()| successor.become_it(arguments));
    let _ = quiet_stdin();
    error
}

/// What the previous server has left at standard input.
///
/// # Errors
/// It left nothing, or something that this version does not understand.
pub fn taken_over() -> io::Result<(Control, Kept)> {
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    let (mut control, mut kept) = (None, Kept::default());
    loop {
        match receive::<Message>(channel.as_fd(), RecvFlags::DONTWAIT) {
            Ok((Message::Control(path), handed)) => control = Some(of_control(path, handed)?),
            Ok((Message::Sockets(places), handed)) => take(&mut kept, places, handed),
            Ok((Message::Guardian(pid), handed)) => {
                kept.guardian = handed.into_iter().next().zip(Pid::from_raw(pid));
            }
            // All messages were sent before this program began.
            Err(_) => break,
        }
    }
    quiet_stdin()?;
    control.map(|control| (control, kept)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn quiet_stdin() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdin(null)?)
}

/// A socket that holds everything, and the end for the successor.
pub(crate) fn prepare(control: &Control, kept: &Kept) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&ours, ROOM);
    // A full socket means no successor, instead of waiting for a reader for ever.
    rustix::io::ioctl_fionbio(&ours, true)?;
    send(ours.as_fd(), &Message::Control(control.path.clone()), &control.descriptors())?;
    let sockets: Vec<_> = kept.sockets.iter().collect();
    for some in sockets.chunks(MOST / 2) {
        let places = some.iter().map(|(address, bound)| (**address, bound.port)).collect();
        let handed: Vec<BorrowedFd<'_>> =
            some.iter().flat_map(|(_, bound)| [bound.udp.as_fd(), bound.tcp.as_fd()]).collect();
        send(ours.as_fd(), &Message::Sockets(places), &handed)?;
    }
    Ok((ours, theirs))
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
            kept.sockets.insert(address, GatewaySockets { udp, tcp, port });
        }
    }
}
