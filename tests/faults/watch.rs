//! Others' traffic, watched while something is done to a network (I4: it holds at every moment).

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use netns_fixtures::{HttpServer, http_get, ping};

use crate::books::HOST;
use crate::common::{Guest, Host, LONG};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// A container whose traffic is watched: its published port from outside, itself from the host.
struct Watched<'a> {
    host: &'a Host,
    address: IpAddr,
    url: String,
    id: String,
}

/// Runs `work` while the containers are pinged and their pages fetched all the time; panics if anything was lost.
pub fn watching<T>(guests: &[&Guest<'_>], work: impl FnOnce() -> T) -> T {
    let servers: Vec<HttpServer> = guests.iter().map(|guest| serve(guest)).collect();
    let watched: Vec<Watched<'_>> = guests.iter().map(|guest| Watched::of(guest)).collect();
    let (done, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let result = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut lost = Vec::new();
            while !done.load(Ordering::Relaxed) {
                lost.extend(watched.iter().filter_map(Watched::look));
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            lost
        });
        let _ends = Ends(&done);
        let result = work();
        drop(_ends);
        assert_eq!(watching.join().unwrap(), Vec::<String>::new(), "others lost traffic");
        result
    });
    assert!(looks.into_inner() > 0, "nobody looked");
    drop(servers);
    result
}

/// Ends the watch, also when the work panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a> Watched<'a> {
    fn of(guest: &Guest<'a>) -> Self {
        let port = &guest.ports[0]["hostPort"];
        Self {
            host: guest.host,
            address: guest.address(),
            url: format!("http://{HOST}:{port}"),
            id: guest.who.id.clone(),
        }
    }

    fn look(&self) -> Option<String> {
        if ping(self.host.netns(), self.address, LONG).unwrap().is_none() {
            return Some(format!("{} was not reached", self.address));
        }
        match http_get(self.host.neighbour().netns(), &self.url, LONG) {
            Ok(page) if page.body == self.id => None,
            other => Some(format!("{}: {other:?}", self.url)),
        }
    }
}

fn serve(guest: &Guest<'_>) -> HttpServer {
    HttpServer::start(guest.container.netns(), "0.0.0.0:80".parse().unwrap(), &guest.who.id).unwrap()
}
