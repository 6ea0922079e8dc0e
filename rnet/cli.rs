//! The command line: its verbs and what holds for all of them.

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::cmd::{
    create, demo, dns, exec, inspect, install, interop, logs, ls, port, ps, repair, rm, run, start, stop,
    supervise,
};
use crate::report::{self, Problem, Style};
use crate::usage;

/// Container networks: bridges, leases, published ports and names, for container runtimes and for you.
#[derive(Debug, Parser)]
#[command(name = "rnet", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Global {
    /// Print JSON: data on stdout, errors on stderr
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Colour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a network
    Create(create::Args),
    /// List networks
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show networks and endpoints in detail, as JSON
    Inspect(inspect::Args),
    /// Remove networks and endpoints
    #[command(alias = "remove")]
    Rm(rm::Args),
    /// Run a program in its own network namespace
    Run(run::Args),
    /// Run a program in the network namespace of an endpoint
    Exec(exec::Args),
    /// List endpoints
    Ps(ps::Args),
    /// Stop endpoints that `run` started
    Stop(stop::Args),
    /// Start endpoints again that have ended
    Start(start::Args),
    /// Show the output of a program that `run -d` started
    Logs(logs::Args),
    /// Show where an endpoint's ports are published
    Port(port::Args),
    /// Restore the bridges, ports and rules of networks
    #[command(alias = "reload")]
    Repair(repair::Args),
    /// Link rnet's plugins into a folder of CNI plugins
    Install(install::Args),
    /// Inspect and control the name server
    Dns(dns::Args),
    /// Show, enable and disable the rules for other firewalls (docker, ufw, firewalld)
    Interop(interop::Args),
    /// Show how rnet works, in a throw-away host; this machine is not changed
    Demo(demo::Args),
    /// Wait for the end of an endpoint, and clean up
    #[command(hide = true)]
    Supervise(supervise::Args),
    /// The same verbs, as docker has them
    #[command(hide = true)]
    Network {
        #[command(subcommand)]
        verb: NetworkVerb,
    },
}

#[derive(Debug, Subcommand)]
enum NetworkVerb {
    /// Create a network
    Create(create::Args),
    /// List networks
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show networks in detail, as JSON
    Inspect(inspect::Args),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(rm::Args),
    /// Restore the bridges, ports and rules of networks
    #[command(alias = "reload")]
    Repair(repair::Args),
}

/// What `run` and `exec` end with where other verbs end with 1: their other statuses are the program's.
const RNET_FAILED: u8 = 125;

/// Runs the command.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => report::status(cli.run()),
        Err(error) => report::status(usage(&error)),
    }
}

impl Cli {
    fn run(self) -> u8 {
        let style = self.global.style();
        let failed =
            if matches!(self.verb, Verb::Run(_) | Verb::Exec(_) | Verb::Start(_)) { RNET_FAILED } else { 1 };
        match self.verb.run(style) {
            Ok(exit) => exit,
            Err(error) => match style.tell(&error) {
                // What a program ended with is its own.
                1 if !matches!(error.downcast_ref(), Some(Problem::EndedAtOnce { .. })) => failed,
                other => other,
            },
        }
    }
}

impl Global {
    fn style(&self) -> Style {
        let colour = match self.color {
            Colour::Auto => report::stderr_wants_colour(),
            Colour::Always => true,
            Colour::Never => false,
        };
        Style { json: self.json, colour }
    }
}

impl Verb {
    fn run(self, style: Style) -> anyhow::Result<u8> {
        match self {
            Verb::Create(args) => create::run(&args, style),
            Verb::Ls(args) => ls::run(&args, style),
            Verb::Inspect(args) => inspect::run(&args, style),
            Verb::Rm(args) => rm::run(&args, style),
            Verb::Run(args) => run::run(&args, style),
            Verb::Exec(args) => exec::run(&args),
            Verb::Ps(args) => ps::run(&args, style),
            Verb::Stop(args) => stop::run(&args, style),
            Verb::Start(args) => start::run(&args, style),
            Verb::Logs(args) => logs::run(&args, style),
            Verb::Port(args) => port::run(&args, style),
            Verb::Repair(args) => repair::run(&args, style),
            Verb::Install(args) => install::run(&args, style),
            Verb::Dns(args) => dns::run(&args, style),
            Verb::Interop(args) => interop::run(&args, style),
            Verb::Demo(_) => demo::run(),
            Verb::Supervise(args) => supervise::run(&args),
            Verb::Network { verb } => verb.into_verb().run(style),
        }
    }
}

impl NetworkVerb {
    fn into_verb(self) -> Verb {
        match self {
            NetworkVerb::Create(args) => Verb::Create(args),
            NetworkVerb::Ls(args) => Verb::Ls(args),
            NetworkVerb::Inspect(args) => Verb::Inspect(args),
            NetworkVerb::Rm(args) => Verb::Rm(args),
            NetworkVerb::Repair(args) => Verb::Repair(args),
        }
    }
}

/// Help and version are data; anything else clap has to say is a mistake in usage.
fn usage(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return report::print(&text).map_or(1, |()| 0);
    }
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let json = words.iter().any(|word| word == "--json");
    let style = Style { json, colour: report::stderr_wants_colour() };
    let is_help = error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if let Some(said) = usage::said(error, &Cli::command(), &words).filter(|_| json || !is_help) {
        return style.tell(&Problem::Usage { message: said.message, hint: said.hint }.into());
    }
    if json {
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        return style.tell(&Problem::Usage { message, hint: None }.into());
    }
    // A closed stderr leaves nobody to tell.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), usage::without_tips(&text).as_bytes());
    2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn dockers_words_and_aliases_are_understood() {
        assert!(matches!(parse("rnet network create mynet").unwrap().verb, Verb::Network { .. }));
        assert!(matches!(parse("rnet list").unwrap().verb, Verb::Ls(_)));
        assert!(matches!(parse("rnet remove mynet").unwrap().verb, Verb::Rm(_)));
        assert!(parse("rnet --json network ls -q").unwrap().global.json);
    }

    #[test]
    fn what_follows_the_command_of_run_is_the_commands_own() {
        let Verb::Run(args) = parse("rnet run -d --name web -p 8080:80 httpd -f -p 80 --json").unwrap().verb
        else {
            panic!("another verb")
        };
        assert_eq!(args.command, ["httpd", "-f", "-p", "80", "--json"]);
        assert!(args.detach && args.publish.len() == 1);
        let Verb::Exec(args) = parse("rnet exec web ping -c1 db").unwrap().verb else {
            panic!("another verb")
        };
        assert_eq!(
            (args.endpoint.as_str(), args.command),
            ("web", vec!["ping".into(), "-c1".into(), "db".into()])
        );
    }

    #[test]
    fn mistakes_in_usage_are_refused() {
        for line in [
            "rnet",
            "rnet nosuch",
            "rnet create --nosuch",
            "rnet run",
            "rnet run --nosuch x",
            "rnet run -p 80/abc x",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
