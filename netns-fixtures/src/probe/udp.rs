//! A UDP echo server, and a client whose source port can be chosen: two ends of a flow.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use netlink::Netns;

use super::{Deadline, is_silence};
use crate::Error;

/// A server that sends every datagram back. It stops when dropped.
#[derive(Debug)]
pub struct UdpEcho {
    socket: UdpSocket,
    address: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One end of a UDP flow: the same source address and port for every exchange.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpEcho {
    /// Echoes at `address` in `netns`; port 0 takes a free one.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self, Error> {
        let failed = |doing| move |source| Error::Socket { doing, address, source };
        let socket = bind(netns, address)?;
        let address = socket.local_addr().map_err(failed("name"))?;
        let echoing = socket.try_clone().map_err(failed("copy"))?;
        let (peers, stopped) = (Arc::default(), Arc::default());
        let (seen, stop) = (Arc::clone(&peers), Arc::clone(&stopped));
        let thread = Some(std::thread::spawn(move || echo(&echoing, &seen, &stop)));
        Ok(Self { socket, address, peers, stopped, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The senders of the datagrams it got, as it saw them, in the order of their coming.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the recvfrom(2) of the thread, although it says ENOTCONN (Linux).
        let _ = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl UdpClient {
    /// A client at `source` in `netns`, for instance `0.0.0.0:40000`.
    pub fn bind(netns: &Netns, source: SocketAddr) -> Result<Self, Error> {
        Ok(Self { socket: bind(netns, source)? })
    }

    /// Sends `payload` to `to` and returns what `to` answers, or None if nothing came in `timeout`
    /// or nothing can come.
    pub fn exchange(
        &self,
        to: SocketAddr,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Option<Vec<u8>>, Error> {
        match self.ask(to, payload, Deadline::after(timeout)) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_silence(&error) => Ok(None),
            Err(source) => Err(Error::Probe { doing: "send a datagram to", to: to.ip(), source }),
        }
    }

    /// Datagrams from others are passed over: an answer from a wrong address is no answer.
    fn ask(&self, to: SocketAddr, payload: &[u8], deadline: Deadline) -> io::Result<Vec<u8>> {
        self.socket.send_to(payload, to)?;
        let mut buffer = [0; 65536];
        loop {
            self.socket.set_read_timeout(Some(deadline.left()?))?;
            let (len, from) = self.socket.recv_from(&mut buffer)?;
            if from == to {
                return Ok(buffer[..len].to_vec());
            }
        }
    }
}

fn bind(netns: &Netns, address: SocketAddr) -> Result<UdpSocket, Error> {
    let socket = netns.run(|| UdpSocket::bind(address))?;
    socket.map_err(|source| Error::Socket { doing: "bind", address, source })
}

fn echo(socket: &UdpSocket, seen: &Mutex<Vec<SocketAddr>>, stopped: &AtomicBool) {
    let mut buffer = [0; 65536];
    while !stopped.load(Ordering::SeqCst) {
        // An error is an ICMP message about an earlier answer; after shutdown(2) the flag is set.
        if let Ok((len, peer)) = socket.recv_from(&mut buffer)
            && !stopped.load(Ordering::SeqCst)
        {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
            let _ = socket.send_to(&buffer[..len], peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;

    #[test]
    fn datagrams_come_back_to_the_chosen_port_until_the_server_is_dropped() {
        let host = Host::new().unwrap();
        let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
        let echo = UdpEcho::start(host.netns(), "192.168.77.1:7".parse().unwrap()).unwrap();
        let client = UdpClient::bind(outside.netns(), "0.0.0.0:40000".parse().unwrap()).unwrap();
        let answer = client.exchange(echo.address(), b"hello", Duration::from_secs(5)).unwrap();
        assert_eq!(answer.as_deref(), Some(&b"hello"[..]));
        assert_eq!(echo.peers(), ["192.168.77.2:40000".parse().unwrap()]);
        let address = echo.address();
        drop(echo);
        let answer = client.exchange(address, b"hello", Duration::from_millis(100)).unwrap();
        assert_eq!(answer, None);
    }
}
