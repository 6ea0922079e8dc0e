//! `enter_sandbox` wants a process of one thread, which the test harness is not: this test is a
//! program of its own.

use std::error::Error;
use std::time::Duration;

use netlink::Netns;
use netns_fixtures::{Host, enter_sandbox, ping};

fn main() -> Result<(), Box<dyn Error>> {
    let outside = Netns::current()?.id();
    std::fs::write("/run/before", "x")?;
    enter_sandbox()?;
    assert_ne!(Netns::current()?.id(), outside);
    assert_eq!(std::fs::read_dir("/run")?.count(), 0, "/run is not private");
    assert_eq!(rustix::process::geteuid().as_raw(), 0);
    let host = Host::new()?;
    assert!(host.root().starts_with("/run"));
    let neighbour = host.outside(&["192.168.77.0/24".parse()?])?;
    host.container("c1")?;
    let long = Duration::from_secs(5);
    assert!(ping(neighbour.netns(), neighbour.host_address(), long)?.is_some());
    Ok(())
}
