//! The protocol of the server's unix socket: one line of JSON each way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::worker::Server;
use crate::{Endpoint, Network, Seen};

/// The longest line; no client needs a longer one.
const LONGEST_LINE: u64 = 1 << 20;

/// A few tens of kilobytes.
const ENDPOINTS_AT_ONCE: usize = 64;

/// A client that sends nothing for so long is disconnected.
const IDLE: Duration = Duration::from_secs(10);

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Set a network and, if one is given, an endpoint on it. Its names answer afterwards (G1).
    Set {
        network: Box<Network>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<Box<Endpoint>>,
    },
    /// Remove an endpoint, or the network with all its endpoints if none is given.
    Remove {
        network: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<Attachment>,
    },
    /// Whether exactly this network and endpoint are known, and the server listens for the network. Changes nothing.
    Check { network: Box<Network>, endpoint: Box<Endpoint> },
    /// The server's state, without the endpoints.
    Status {},
    /// The endpoints, a line for each, and an empty line after them: there may be many, and they must not be in memory
    /// twice.
    Endpoints {},
    /// Only what costs nothing with any number of names: the process and its namespace.
    Ping {},
    /// Let the program at the server's path continue in its place, if it serves. Answered when that is known.
    Restart {},
    /// After the answer, a line for each question, until either side closes the connection (G11).
    Watch {},
}

/// An endpoint's place on its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) container: String,
    pub(crate) ifname: String,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Response {
    Ok(Option<Status>),
    Error(String),
}

/// The server's state. Members that an answer does not have are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// The process that answers.
    pub pid: u32,
    /// Its network namespace: device and inode.
    pub netns: (u64, u64),
    /// When this version of the program began to serve, in milliseconds since the boot.
    pub since: u64,
    /// The addresses at which it listens.
    pub listeners: Vec<Listening>,
    /// The networks it knows.
    pub networks: usize,
    /// The endpoints it knows.
    pub endpoints: Vec<Endpoint>,
    /// The host's upstream servers, without the server's own addresses.
    pub upstreams: Vec<SocketAddr>,
    /// Those that are silent or loop.
    pub unwell: Vec<SocketAddr>,
    /// Questions that are forwarded and not answered yet.
    pub in_flight: usize,
    /// Questions that wait for their turn.
    pub waiting: usize,
    /// Open TCP connections.
    pub connections: usize,
    /// Questions so far.
    pub questions: u64,
    /// Of those, the forwarded ones.
    pub forwarded: u64,
    /// Clients that watch all questions now.
    pub watchers: usize,
    /// Error answers that were not sent, because their askers caused too many.
    pub suppressed: u64,
}

/// A gateway address at which the server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listening {
    /// The gateway's address.
    pub address: IpAddr,
    /// The port. If it is not the wanted one, another program has that one, and questions must be redirected to this.
    pub port: u16,
}

/// Accepts connections until the task is ended. Only root and `uid` are served (G6).
pub(crate) async fn serve(server: Rc<Server>, listener: UnixListener, uid: u32) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if may_speak(&stream, uid) => {
                let server = Rc::clone(&server);
                drop(tokio::task::spawn_local(async move { converse(&server, stream).await }));
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn may_speak(stream: &UnixStream, uid: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == uid)
}

async fn converse(server: &Rc<Server>, stream: UnixStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        let mut limited = (&mut stream).take(LONGEST_LINE);
        let read = tokio::time::timeout(IDLE, limited.read_line(&mut line)).await;
        if read.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
            return Ok(());
        }
        match serde_json::from_str(&line) {
            Ok(Request::Endpoints {}) => tell_endpoints(server, &mut stream).await?,
            Ok(Request::Restart {}) => {
                server.replace(stream.into_inner()).await;
                return Ok(());
            }
            Ok(Request::Watch {}) => {
                let watch = server.watchers.join();
                stream.write_all(&line_of(&Response::Ok(Some(server.identity())))?).await?;
                return report(watch, stream.into_inner()).await;
            }
            Ok(request) => stream.write_all(&line_of(&respond(server, request).await)?).await?,
            Err(error) => stream.write_all(&line_of(&Response::Error(error.to_string()))?).await?,
        }
    }
}

/// A line of either direction: JSON without a line end, and one after it.
pub(crate) fn line_of(said: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    Ok(line)
}

async fn tell_endpoints(server: &Server, stream: &mut BufReader<UnixStream>) -> io::Result<()> {
    for some in server.stored_endpoints().chunks(ENDPOINTS_AT_ONCE) {
        let lines = some.iter().map(|endpoint| line_of(&endpoint.as_told()));
        stream.write_all(&lines.collect::<io::Result<Vec<_>>>()?.concat()).await?;
    }
    stream.write_all(b"\n").await
}

/// Sends the questions seen for as long as the client listens.
async fn report(mut watch: Receiver<Seen>, stream: UnixStream) -> io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    loop {
        let seen = tokio::select! {
            seen = watch.recv() => seen,
            // The client sends nothing more, so anything readable is its end.
            _ = from.read_u8() => return Ok(()),
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(RecvError::Lagged(missed)) => Seen { missed, ..Seen::default() },
            Err(RecvError::Closed) => return Ok(()),
        };
        to.write_all(&line_of(&seen)?).await?;
    }
}

async fn respond(server: &Rc<Server>, request: Request) -> Response {
    match request {
        Request::Set { network, endpoint } => {
            let gateways = network.gateways.clone();
            match server.set(*network, endpoint.map(|endpoint| *endpoint)).await {
                Ok(()) => Response::Ok(Some(server.listening_at(&gateways))),
                Err(error) => Response::Error(error.to_string()),
            }
        }
        Request::Remove { network, endpoint } => {
            server.remove(&network, endpoint.as_ref()).await;
            Response::Ok(None)
        }
        Request::Check { network, endpoint } => match server.check(&network, &endpoint) {
            Ok(()) => Response::Ok(Some(server.identity())),
            Err(error) => Response::Error(error.to_string()),
        },
        Request::Status {} => Response::Ok(Some(server.status())),
        // The last three need more than an answer.
        Request::Ping {} | Request::Endpoints {} | Request::Restart {} | Request::Watch {} => {
            Response::Ok(Some(server.identity()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(request: &Request) -> String {
        serde_json::to_string(request).unwrap()
    }

    #[test]
    fn requests_are_lines_that_a_person_can_write() {
        assert_eq!(line(&Request::Status {}), r#"{"status":{}}"#);
        let remove = Request::Remove { network: "n".into(), endpoint: None };
        assert_eq!(line(&remove), r#"{"remove":{"network":"n"}}"#);
        let network = Network { name: "n".into(), ..Network::default() };
        let set = Request::Set { network: Box::new(network), endpoint: None };
        assert_eq!(serde_json::from_str::<Request>(&line(&set)).unwrap(), set);
        assert_eq!(serde_json::from_str::<Request>(r#"{"set":{"network":{"name":"n"}}}"#).unwrap(), set);
        assert_eq!(serde_json::to_string(&Response::Ok(None)).unwrap(), r#"{"ok":null}"#);
    }
}
