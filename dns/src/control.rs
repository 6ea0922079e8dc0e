//! Clients at the server's unix socket, and what they get.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::protocol::{Request, Response, Seen, line_of};
use crate::server::Server;

/// The longest line; no client needs a longer one.
const LONGEST_LINE: u64 = 1 << 20;

/// A few tens of kilobytes.
const ENDPOINTS_AT_ONCE: usize = 64;

/// A client that sends nothing for so long is disconnected.
const IDLE: Duration = Duration::from_secs(10);

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
