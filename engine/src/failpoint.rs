//! Failpoints: a test build can be told to die, fail or wait at any step of ADD and DEL.
//!
//! `RNET_FAILPOINT=STEP:abort`, `STEP:error`, `STEP:panic`, `STEP:stop` or `STEP:delay=MS`, where STEP is one of [`STEPS`].
//! Compiled in by the feature `failpoints` only.

/// Every step, in the order in which an attachment passes them; those of a network are passed by its first and its last one only.
pub const STEPS: [&str; 45] = [
    "add.lock",
    "add.intent",
    "add.lease",
    "add.network",
    "add.bridge",
    "add.advertisements",
    "add.gateway",
    "add.force-all",
    "add.force-default",
    "add.force-bridge",
    "add.forward",
    "add.missing",
    "add.elements",
    "add.moment",
    "add.reattach",
    "add.address",
    "add.ready",
    "add.veth",
    "add.rules",
    "add.conntrack",
    "add.port",
    "add.originals",
    "add.mac",
    "add.tuned",
    "add.inside",
    "add.commit",
    "add.moved",
    "add.redirected",
    "add.names",
    "add.reply",
    "del.lock",
    "del.names",
    "del.rules",
    "del.conntrack",
    "del.mac",
    "del.tuned",
    "del.veth",
    "del.lease",
    "del.record",
    "del.network",
    "del.elements",
    "del.bridge",
    "del.forgotten",
    "del.network-record",
    "del.noted",
];

/// Passes `step`, unless a test asked for something else to happen there.
///
/// # Errors
/// A test asked for an error.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_step: &'static str) -> Result<(), crate::Error> {
    Ok(())
}

/// Passes `step`, unless a test asked for something else to happen there.
///
/// # Errors
/// A test asked for an error.
#[cfg(feature = "failpoints")]
pub fn pass(step: &'static str) -> Result<(), crate::Error> {
    debug_assert!(STEPS.contains(&step), "{step} is not in the list of steps");
    let asked = std::env::var("RNET_FAILPOINT").unwrap_or_default();
    let Some(("", how)) = asked.split_once(step) else { return Ok(()) };
    match how.strip_prefix(':') {
        Some("abort") => std::process::abort(),
        Some("panic") => panic!("failpoint {step}"),
        Some("error") => Err(crate::Error::Failpoint { step }),
        Some("stop") => {
            // Until a SIGCONT comes; its parent learns of it by waitid(2).
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            Ok(())
        }
        Some(delay) => {
            let millis = delay.strip_prefix("delay=").and_then(|ms| ms.parse().ok()).unwrap_or(0);
            std::thread::sleep(std::time::Duration::from_millis(millis));
            Ok(())
        }
        None => Ok(()),
    }
}
