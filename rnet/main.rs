//! The one binary: a CNI plugin when a runtime calls it, a command when a person does.

mod cli;
mod clock;
mod cmd;
mod containers;
mod definitions;
mod detach;
mod ended;
mod endpoint;
mod expose;
mod files;
mod hold;
mod hostports;
mod hostuses;
mod kept;
mod lock;
mod log;
mod loglines;
mod lookup;
mod names;
mod networkd;
mod output;
mod owner;
mod problem;
mod process;
mod program;
mod publish;
mod report;
mod rights;
mod rules;
mod runtime;
mod runtimes;
mod state;
mod stop;
mod subnets;
mod supervisor;
mod table;
mod told;
mod usage;
mod versions;
mod view;
mod watched;

use std::path::Path;
use std::process::ExitCode;

use netlink::Netns;

fn main() -> ExitCode {
    // For the programs of `run` and `exec`, the supervisor, the name server, and the plugins of others.
    netlink::pass_on_stdio_only();
    match plugin_name() {
        Some(name) => plugin(name),
        None => cli::main(),
    }
}

/// The plugin that this call is for: by the file name, or `rnet` itself where a runtime calls that.
fn plugin_name() -> Option<&'static str> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let file_name = Path::new(&program).file_name()?.to_str()?;
    match plugins::named_by(file_name)? {
        "rnet" if file_name == "rnet" => {
            (arguments.len() == 0 && std::env::var_os("CNI_COMMAND").is_some()).then_some("rnet")
        }
        name => Some(name),
    }
}

fn plugin(name: &str) -> ExitCode {
    let Some(plugin) = plugins::find(name) else { return ExitCode::FAILURE };
    cni::tell_panics();
    netlink::finish_before_ending();
    let status = cni::main(
        name,
        plugins::VERSION,
        plugin,
        &cni::ProcessEnv,
        std::io::stdin().lock(),
        std::io::stdout().lock(),
        std::io::stderr().lock(),
        &is_own_netns,
    );
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// True if `path` is the namespace that this program runs in: a container must not be given the host's.
fn is_own_netns(path: &str) -> bool {
    let same = |other: Netns| Netns::current().is_ok_and(|own| own.id() == other.id());
    Netns::open(Path::new(path)).is_ok_and(same)
}
