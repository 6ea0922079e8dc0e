//! rtnetlink inside a namespace, for callers that are not asynchronous.

use futures_util::TryStreamExt;
use netlink::Netns;
use netlink_packet_route::link::LinkMessage;
use rtnetlink::Handle;

use crate::Error;

/// Runs `ask` with a handle that serves `netns`; `doing` says what for if it fails.
pub(crate) fn rtnl<T: Send>(
    netns: &Netns,
    doing: &'static str,
    ask: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send,
) -> Result<T, Error> {
    inside(netns, doing, async || {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        tokio::spawn(connection);
        ask(handle).await
    })
}

/// Runs `f` in `netns`, in a runtime of its thread; the sockets it makes belong there.
pub(crate) fn inside<T: Send>(
    netns: &Netns,
    doing: &'static str,
    f: impl AsyncFnOnce() -> Result<T, rtnetlink::Error> + Send,
) -> Result<T, Error> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(failed)?.block_on(f())
    };
    netns.run(run)?.map_err(|source| Error::Rtnetlink { doing, netns: netns.path().into(), source })
}

/// All messages of a dump.
pub(crate) async fn all<T>(
    dump: impl futures_util::Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, rtnetlink::Error> {
    dump.try_collect().await
}

/// The link called `name`, None if there is none.
pub(crate) async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    match all(handle.link().get().match_name(name).execute()).await {
        Ok(found) => Ok(found.into_iter().next()),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -NO_DEVICE => Ok(None),
        Err(error) => Err(error),
    }
}

/// The index of the link called `name`, None if there is none.
pub(crate) async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    Ok(link(handle, name).await?.map(|link| link.header.index))
}

const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// rtnetlink has no variant for an I/O error; its own sockets report theirs so.
pub(crate) fn failed(error: std::io::Error) -> rtnetlink::Error {
    rtnetlink::Error::NamespaceError(error.to_string())
}
