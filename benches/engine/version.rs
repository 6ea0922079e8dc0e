//! VERSION, which podman asks every plugin before nearly every command.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::Bench;
use crate::chain::answer;
use crate::measure::{Series, measured};
use crate::report::Target;

/// Runs it.
pub fn run(bench: &mut Bench) -> Result<()> {
    let (ours, reference) = (&bench.programs.ours, &bench.programs.reference);
    let plugins = [
        ("rnet", ours.join("rnet"), Target::AtMost(1.0)),
        ("our bridge", ours.join("bridge"), Target::AtMost(1.0)),
        ("bridge", reference.join("bridge"), Target::None),
        ("portmap", reference.join("portmap"), Target::None),
    ];
    let rounds = bench.pick(200, 20);
    let mut series = plugins.each_ref().map(|_| Series::default());
    for round in 0..=rounds {
        for ((name, plugin, _), series) in plugins.iter().zip(&mut series) {
            let sample = measured(|| ask(plugin)).with_context(|| format!("VERSION of {name}"))?;
            if round > 0 {
                series.push(sample);
            }
        }
    }
    bench.report.case(format!("{rounds} rounds, asked as podman does"))?;
    for ((name, _, target), series) in plugins.iter().zip(&series) {
        bench.report.spread(name, "wall", series.wall())?;
        bench.report.spread(name, "CPU", series.cpu())?;
        bench.report.verdict(&format!("VERSION of {name}"), series.wall().median, " ms", *target)?;
    }
    Ok(())
}

fn ask(plugin: &Path) -> Result<()> {
    let mut command = Command::new(plugin);
    command.env_clear().env("CNI_COMMAND", "VERSION").env("CNI_CONTAINERID", "");
    for key in ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
        command.env(key, "dummy");
    }
    answer(command, r#"{"cniVersion":"1.0.0"}"#).map(drop)
}
