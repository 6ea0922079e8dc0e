//! The worker: one thread, which runs the tasks of a [`Server`] until no network needs it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::PathBuf;
use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;

use crate::binder::{Binder, Way};
use crate::control;
use crate::resolv::Watch;
use crate::server::Server;

/// The start of a worker.
pub(crate) struct Start {
    pub(crate) control: StdUnixListener,
    /// The user, besides root, that may use the control socket.
    pub(crate) uid: u32,
    pub(crate) netns: (u64, u64),
    /// See [`Status::since`](crate::Status::since).
    pub(crate) since: u64,
    pub(crate) resolv_conf: PathBuf,
    /// All records: a [`Known`](crate::Known) in each line.
    pub(crate) table: File,
    /// A byte from it means that a successor takes over.
    pub(crate) orders: Option<OwnedFd>,
    pub(crate) way: Way,
}

/// Serves until there has been no network for a while.
pub(crate) fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(start))
}

async fn serve(start: Start) -> io::Result<()> {
    start.control.set_nonblocking(true)?;
    let control = UnixListener::from_std(start.control)?;
    let server = Server::new(Binder::new(start.way)?, start.netns, start.since);
    let watch = Watch::new(&start.resolv_conf);
    server.read_upstreams(&start.resolv_conf);
    server.fill(start.table).await?;
    drop(tokio::task::spawn_local(follow(Rc::clone(&server), watch, start.resolv_conf)));
    drop(tokio::task::spawn_local(control::serve(Rc::clone(&server), control, start.uid)));
    if let Some(orders) = start.orders.map(StdUnixStream::from) {
        orders.set_nonblocking(true)?;
        drop(tokio::task::spawn_local(obey(Rc::clone(&server), UnixStream::from_std(orders)?)));
    }
    server.until_unused().await;
    Ok(())
}

/// Lands when the parent says so.
async fn obey(server: Rc<Server>, mut orders: UnixStream) {
    if orders.read_u8().await.is_ok() {
        server.hand_over().await;
    }
}

/// Reads the host's servers again whenever they may have changed (R1).
async fn follow(server: Rc<Server>, mut watch: Watch, path: PathBuf) {
    loop {
        watch.changed().await;
        server.read_upstreams(&path);
    }
}
