//! The verbs, one file each: `Args` is what is given, `run` does it and returns the exit status.

pub mod create;
pub mod demo;
pub mod dns;
pub mod exec;
pub mod inspect;
pub mod install;
pub mod ls;
pub mod ps;
pub mod rm;
pub mod run;
pub mod stop;
pub mod supervise;

use crate::report::{Problem, Style, exit_of, print};

/// Does something for each argument and prints what was done, going on after an error; the first failure decides.
fn each(
    words: &[String],
    style: Style,
    mut act: impl FnMut(&str) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<u8> {
    let mut failures = Vec::new();
    for word in words {
        match act(word) {
            Ok(done) => done.map_or(Ok(()), |name| print(&format!("{name}\n")))?,
            Err(error) if matches!(error.downcast_ref(), Some(Problem::Closed)) => return Err(error),
            Err(error) => {
                style.tell(&error);
                failures.push(exit_of(&error));
            }
        }
    }
    match failures.first() {
        None => Ok(0),
        Some(exit) => Err(Problem::AlreadyTold { failures: failures.len(), exit: *exit }.into()),
    }
}
