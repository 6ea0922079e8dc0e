//! Others' traffic, watched while something is done to a network (I4: it holds at every moment).

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use netns_fixtures::{Host, HttpServer, Outside, http_get, ping};

use crate::common::LONG;
use crate::site::{HOST, Member};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// A container whose traffic is watched: its published port from outside, itself from the host.
struct Watched<'a> {
    host: &'a Host,
    outside: &'a Outside,
    address: IpAddr,
    url: String,
    id: String,
}

/// Runs `work` while the containers are pinged and their pages fetched all the time; panics if anything was lost.
pub fn watching<T>(members: &[&Member<'_>], work: impl FnOnce() -> T) -> T {
    let servers: Vec<HttpServer> = members.iter().map(|member| serve(member)).collect();
    let watched: Vec<Watched<'_>> = members.iter().map(|member| Watched::of(member)).collect();
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
    fn of(member: &Member<'a>) -> Self {
        let port = &member.ports[0]["hostPort"];
        Self {
            host: &member.site.lab.host,
            outside: &member.site.outside,
            address: member.address(),
            url: format!("http://{HOST}:{port}"),
            id: member.who.id.clone(),
        }
    }

    fn look(&self) -> Option<String> {
        if ping(self.host.netns(), self.address, LONG).unwrap().is_none() {
            return Some(format!("{} was not reached", self.address));
        }
        match http_get(self.outside.netns(), &self.url, LONG) {
            Ok(page) if page.body == self.id => None,
            other => Some(format!("{}: {other:?}", self.url)),
        }
    }
}

fn serve(member: &Member<'_>) -> HttpServer {
    HttpServer::start(member.container.netns(), "0.0.0.0:80".parse().unwrap(), &member.who.id).unwrap()
}
