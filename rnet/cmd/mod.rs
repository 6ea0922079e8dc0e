//! The verbs, one file each: `Args` is what is given, `run` does it and returns the exit status.

pub mod create;
pub mod demo;
pub mod dns;
pub mod exec;
pub mod inspect;
pub mod install;
pub mod interop;
pub mod logs;
pub mod ls;
pub mod port;
pub mod ps;
pub mod repair;
pub mod rm;
pub mod run;
pub mod start;
pub mod stop;
pub mod supervise;

use serde_json::{Value, json};

use crate::definitions::Network;
use crate::report::{Problem, Style, exit_of, print, print_json};

/// What a verb has done something to.
struct Done {
    kind: &'static str,
    name: String,
    id: String,
    /// What was found wrong and is right again.
    mended: Option<Vec<String>>,
}

impl Done {
    fn network(network: &Network) -> Self {
        Self { kind: "network", name: network.name.clone(), id: network.id(), mended: None }
    }

    fn endpoint(id: &str, name: &str) -> Self {
        Self { kind: "endpoint", name: name.to_owned(), id: id.to_owned(), mended: None }
    }

    fn json(&self) -> Value {
        let mut done = json!({"type": self.kind, "name": self.name, "id": self.id});
        if let Some(mended) = &self.mended {
            done["mended"] = json!(mended);
        }
        done
    }

    /// The name, and a line for each thing that was mended.
    fn text(&self) -> String {
        let mended = self.mended.iter().flatten().map(|finding| format!("  mended: {finding}\n"));
        [format!("{}\n", self.name)].into_iter().chain(mended).collect()
    }
}

/// `-q`: names, one a line; or as a JSON array.
fn print_names<'a>(names: impl Iterator<Item = &'a str>, style: Style) -> anyhow::Result<u8> {
    if style.json {
        print_json(&names.collect())?;
    } else {
        print(&names.map(|name| format!("{name}\n")).collect::<String>())?;
    }
    Ok(0)
}

/// Does something for each argument and prints what was done, going on after an error; the first failure decides.
fn each(
    words: &[String],
    style: Style,
    mut act: impl FnMut(&str) -> anyhow::Result<Option<Done>>,
) -> anyhow::Result<u8> {
    let (mut failures, mut all) = (Vec::new(), Vec::new());
    for word in words {
        match act(word) {
            // As JSON it is one array.
            Ok(done) if style.json => all.extend(done.map(|done| done.json())),
            Ok(done) => done.map_or(Ok(()), |done| print(&done.text()))?,
            Err(error) if matches!(error.downcast_ref(), Some(Problem::Closed)) => return Err(error),
            Err(error) => {
                style.tell(&error);
                failures.push(exit_of(&error));
            }
        }
    }
    if style.json {
        print_json(&all.into())?;
    }
    match failures.first() {
        None => Ok(0),
        Some(exit) => Err(Problem::AlreadyTold { failures: failures.len(), exit: *exit }.into()),
    }
}
