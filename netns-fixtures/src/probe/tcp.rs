//! Can a TCP connection be made?

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use netlink::Netns;

use super::is_silence;
use crate::Error;

/// How an attempt to connect ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// It was accepted.
    Open,
    /// It was refused by a reset: the host is there, nobody listens.
    Refused,
    /// Nothing answered in time, or no route leads there.
    TimedOut,
}

/// Tries to connect to `to` from inside `from`, and closes at once.
pub fn tcp_connect(from: &Netns, to: SocketAddr, timeout: Duration) -> Result<Connection, Error> {
    match from.run(|| TcpStream::connect_timeout(&to, timeout))? {
        Ok(_) => Ok(Connection::Open),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Connection::Refused),
        Err(error) if is_silence(&error) => Ok(Connection::TimedOut),
        Err(source) => Err(Error::Probe { doing: "connect to", to: to.ip(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, HttpServer};

    #[test]
    fn open_refused_and_timed_out_are_told_apart() {
        let host = Host::new().unwrap();
        let outside = host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
        let server = HttpServer::start(host.netns(), "0.0.0.0:0".parse().unwrap(), "x").unwrap();
        let open = server.address().port();
        let shut = if open == 1024 { 1025 } else { 1024 };
        let long = Duration::from_secs(5);
        let connect = |ip: &str, port, timeout| {
            let to = SocketAddr::new(ip.parse().unwrap(), port);
            tcp_connect(outside.netns(), to, timeout).unwrap()
        };
        assert_eq!(connect("192.168.77.1", open, long), Connection::Open);
        assert_eq!(connect("192.168.77.1", shut, long), Connection::Refused);
        let soon = Duration::from_millis(200);
        assert_eq!(connect("192.168.77.9", open, soon), Connection::TimedOut);
        assert_eq!(connect("203.0.113.1", open, long), Connection::TimedOut);
    }
}
