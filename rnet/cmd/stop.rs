//! `rnet stop`: ends what `rnet run` started.

use std::time::Duration;

use crate::owner::{Action, not_ours};
use crate::report::Style;
use crate::view::View;
use crate::{rights, stop};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Endpoints: their names, ids, or the beginning of an id
    #[arg(required = true, value_name = "EP")]
    pub names: Vec<String>,
    /// Seconds between TERM and KILL
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub time: u64,
}

/// Stops each, and prints the names of what was stopped.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    rights::require()?;
    let mut view = View::open("stop")?;
    super::each(&args.names, style, |word| {
        let known = view.known(&[])?;
        let container = known.living(word)?;
        let endpoint = container.endpoint.as_ref().ok_or_else(|| not_ours(container, Action::Stop))?;
        stop::end(endpoint, Duration::from_secs(args.time), &view.endpoints)?;
        Ok(Some(super::Done::endpoint(&container.id, &container.name)))
    })
}
