//! Programs that must succeed.

use std::ffi::OsStr;

use anyhow::{Context, ensure};
use netlink::Netns;
use netns_fixtures::Program;
use serde_json::Value;

use crate::common::Host;
use crate::setup::setup;

/// Longer than anything here takes; a runtime that hangs must not hang the gate.
const TIME_LIMIT_SECONDS: &str = "60";

/// `program` to be started in `netns`, ended if it takes too long.
///
/// Without RNET_ROOT: with a runtime the usual places are in use. They are private to the tests (netns-fixtures/sandbox.sh).
pub fn bounded<'a>(netns: &'a Netns, program: &str) -> Program<'a> {
    Program::new(netns, "timeout")
        .args(["--kill-after=5", TIME_LIMIT_SECONDS, program])
        .env_remove("RNET_ROOT")
}

/// What `program` with `args` prints, trimmed; what it says on stderr is the error if it fails.
pub fn stdout<A: AsRef<OsStr>>(program: Program<'_>, about: &str, args: &[A]) -> anyhow::Result<String> {
    let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    let line = format!("{about} {}", shown.join(" "));
    let output = program.args(args).output().with_context(|| line.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}` failed ({}): {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `ip -json ARGS` in `netns`: a witness that shares no code with what is tested.
pub fn ip(netns: &Netns, args: &[&str]) -> anyhow::Result<Value> {
    let text = stdout(bounded(netns, "ip").arg("-json"), "ip", args)?;
    serde_json::from_str(if text.is_empty() { "[]" } else { &text }).context("`ip -json` printed no JSON")
}

impl Host {
    /// What `rnet ARGS` prints, whose folders are the usual ones.
    pub fn rnet_prints(&self, args: &[&str]) -> anyhow::Result<String> {
        stdout(bounded(self.netns(), &setup().rnet.to_string_lossy()), "rnet", args)
    }
}
