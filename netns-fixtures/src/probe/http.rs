//! An HTTP/1.0 server of one page, and a client (RFC 1945): what `curl` and Tomcat do in the study
//! notes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use netlink::Netns;

use super::Deadline;
use crate::Error;

/// How long the server waits for a client that connects and says nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// A server of one page. It stops when dropped.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

/// What a server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl HttpServer {
    /// Serves `page` at `address` in `netns`; port 0 takes a free one. It accepts connections when
    /// this returns.
    pub fn start(netns: &Netns, address: SocketAddr, page: &str) -> Result<Self, Error> {
        let failed = |doing| move |source| Error::Socket { doing, address, source };
        let listener = netns.run(|| TcpListener::bind(address))?.map_err(failed("listen on"))?;
        let address = listener.local_addr().map_err(failed("name"))?;
        let accepting = listener.try_clone().map_err(failed("copy"))?;
        let peers = Arc::default();
        let seen = Arc::clone(&peers);
        let page = page.to_owned();
        let thread = Some(std::thread::spawn(move || serve(&accepting, &page, &seen)));
        Ok(Self { listener, address, peers, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses its clients had, as it saw them, in the order of their coming.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The address of its last client.
    pub fn last_peer(&self) -> Option<IpAddr> {
        self.peers().last().map(SocketAddr::ip)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Wakes the accept(2) of the thread, which then fails (Linux).
        let _ = rustix::net::shutdown(self.listener.as_fd(), rustix::net::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Fetches `http://ADDRESS[:PORT][/PATH]` from inside `from`, all within `timeout`. No names, no
/// redirects.
pub fn http_get(from: &Netns, url: &str, timeout: Duration) -> Result<Page, Error> {
    let (to, path) = parse_url(url).ok_or_else(|| Error::Url { url: url.into() })?;
    let answer =
        from.run(|| fetch(to, path, timeout))?.map_err(|source| Error::NoPage { url: url.into(), source })?;
    parse_page(&answer)
        .ok_or_else(|| Error::NotHttp { url: url.into(), answer: answer.chars().take(80).collect() })
}

fn serve(listener: &TcpListener, page: &str, seen: &Mutex<Vec<SocketAddr>>) {
    while let Ok((stream, peer)) = listener.accept() {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
        // A client that breaks off concerns only itself.
        let _ = answer(stream, page);
    }
}

fn answer(mut stream: TcpStream, page: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if !read_request(&mut stream)? {
        return Ok(());
    }
    let length = page.len();
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{page}")
}

/// Reads to the empty line; false if the client only connected.
fn read_request(stream: &mut TcpStream) -> io::Result<bool> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(false),
            len => request.extend_from_slice(&buffer[..len]),
        }
    }
    Ok(true)
}

fn fetch(to: SocketAddr, path: &str, timeout: Duration) -> io::Result<String> {
    let deadline = Deadline::after(timeout);
    let mut stream = TcpStream::connect_timeout(&to, deadline.left()?)?;
    stream.set_write_timeout(Some(deadline.left()?))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\nUser-Agent: rnet\r\n\r\n")?;
    let answer = read_to_end(&mut stream, deadline)?;
    let _ = stream.shutdown(Shutdown::Both);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn read_to_end(stream: &mut TcpStream, deadline: Deadline) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(deadline.left()?))?;
        match stream.read(&mut buffer)? {
            0 => return Ok(answer),
            len => answer.extend_from_slice(&buffer[..len]),
        }
    }
}

fn parse_url(url: &str) -> Option<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let bare = authority.trim_start_matches('[').trim_end_matches(']');
    let on_port_80 = || bare.parse().ok().map(|ip| SocketAddr::new(ip, 80));
    authority.parse().ok().or_else(on_port_80).map(|to| (to, path))
}

fn parse_page(answer: &str) -> Option<Page> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut status_line = head.lines().next()?.split(' ');
    let version = status_line.next()?;
    let status = status_line.next()?.parse().ok()?;
    version.starts_with("HTTP/").then(|| Page { status, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;

    const LONG: Duration = Duration::from_secs(5);

    #[test]
    fn a_page_is_served_until_the_server_is_dropped() {
        let host = Host::new().unwrap();
        let outside =
            host.outside(&["192.168.77.0/24".parse().unwrap(), "fd77::/64".parse().unwrap()]).unwrap();
        let server = HttpServer::start(host.netns(), "[::]:80".parse().unwrap(), "It works").unwrap();
        for url in ["http://192.168.77.1", "http://192.168.77.1:80/a/b", "http://[fd77::1]:80/"] {
            let page = http_get(outside.netns(), url, LONG).unwrap();
            assert_eq!(page, Page { status: 200, body: "It works".into() }, "{url}");
        }
        assert_eq!(server.last_peer(), Some("fd77::2".parse().unwrap()));
        assert_eq!(server.peers().len(), 3);
        drop(server);
        let gone = http_get(outside.netns(), "http://192.168.77.1", LONG).unwrap_err();
        assert!(matches!(gone, Error::NoPage { .. }), "{gone}");
    }

    #[test]
    fn a_silent_server_costs_no_more_than_the_timeout() {
        let host = Host::new().unwrap();
        let listener = host.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let late = http_get(host.netns(), &url, Duration::from_millis(100)).unwrap_err();
        assert!(matches!(late, Error::NoPage { .. }), "{late}");
    }

    #[test]
    fn a_url_is_an_address_with_or_without_port_and_path() {
        let to = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(parse_url("http://1.2.3.4"), Some((to("1.2.3.4:80"), "/")));
        assert_eq!(parse_url("http://1.2.3.4:8080/x"), Some((to("1.2.3.4:8080"), "/x")));
        assert_eq!(parse_url("http://[fd00::1]/"), Some((to("[fd00::1]:80"), "/")));
        assert_eq!(parse_url("http://name/"), None);
        assert_eq!(parse_url("1.2.3.4"), None);
    }
}
