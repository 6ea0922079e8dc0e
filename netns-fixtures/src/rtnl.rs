//! rtnetlink inside a namespace, for callers that are not asynchronous.

use futures_util::TryStreamExt;
use netlink::Netns;
use rtnetlink::Handle;

use crate::Error;

/// Runs `ask` with a handle that serves `netns`; `doing` says what for if it fails.
pub(crate) fn rtnl<T: Send>(
    netns: &Netns,
    doing: &'static str,
    ask: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send,
) -> Result<T, Error> {
    netns
        .run(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
                tokio::spawn(connection);
                ask(handle).await
            })
        })?
        .map_err(|source| Error::Rtnetlink { doing, netns: netns.path().into(), source })
}

/// All messages of a dump.
pub(crate) async fn all<T>(
    dump: impl futures_util::Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, rtnetlink::Error> {
    dump.try_collect().await
}

/// The index of the link called `name`, None if there is none.
pub(crate) async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    let found = all(handle.link().get().match_name(name.to_owned()).execute()).await;
    match found {
        Ok(links) => Ok(links.first().map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -NO_DEVICE => Ok(None),
        Err(error) => Err(error),
    }
}

const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

fn failed(error: std::io::Error) -> rtnetlink::Error {
    rtnetlink::Error::NamespaceError(error.to_string())
}
