//! The protocol of the server's unix socket: one line of JSON each way. All that the client needs, so neither tokio nor
//! hickory.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::entry::{Endpoint, Network};

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

/// A question and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Seen {
    /// The asker's address; `None` if questions were missed here.
    pub from: Option<IpAddr>,
    /// The asker's network.
    pub network: String,
    /// The asker's id.
    pub container: String,
    /// The asker's first name.
    pub asker: String,
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub rtype: String,
    /// `NOERROR 172.18.0.2`, `NXDOMAIN`, `forwarded`, `dropped`.
    pub answer: String,
    /// How many questions came too fast to be sent.
    pub missed: u64,
}

impl Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(from) = self.from else { return write!(f, "… {} questions came too fast", self.missed) };
        match self.asker.as_str() {
            "" => write!(f, "{from}")?,
            asker => write!(f, "{from} {asker} on {}", self.network)?,
        }
        write!(f, ": {} {}: {}", self.name, self.rtype, self.answer)
    }
}

/// A line of either direction: JSON without a line end, and one after it.
pub(crate) fn line_of(said: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    Ok(line)
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
