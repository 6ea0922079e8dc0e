//! A newcomer with the README: types each command of README.md, in order, and compares what it prints with what the README says.
//!
//! `tests/documents.rs` makes sure that the Chinese README has the same commands, and that `.ci/run` runs those that begin with `cargo`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::Host;
use crate::harness::Test;
use crate::leftovers::Before;
use crate::network::Flavour;
use crate::program::{bounded, stdout};
use crate::setup::{IMAGE, PLUGINS, setup};

#[path = "../common/readme.rs"]
mod text;

use text::Step;

/// Where the README puts the binary.
const PROGRAMS: &str = "/usr/local/bin";
/// The image that the README's podman runs; on the tests' host it is the tests' own.
const README_IMAGE: &str = "docker.io/library/busybox";
/// In the README's output, stands for anything; alone in a line, for any lines.
const ANYTHING: &str = "…";

/// All tests of this file.
pub fn tests(flavour: &Flavour) -> Vec<Test> {
    let tests: &[(&str, crate::Body)] = &[("every_command_prints_what_is_said", every_command)];
    tests
        .iter()
        .filter(|_| *flavour == Flavour::Created)
        .map(|test| crate::test("readme", *flavour, *test))
        .collect()
}

fn every_command(host: &Host, _: Flavour) -> anyhow::Result<()> {
    let before = Before::of(host)?;
    let _newcomer = Newcomer::new()?;
    crate::podman::Podman { host }.call(&["tag", IMAGE, README_IMAGE])?;
    let folder = setup().dir.join("newcomer");
    fs::create_dir_all(&folder)?;
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"))?;
    let steps: Vec<Step> = text::steps(&text).into_iter().filter(|step| !is_build(step)).collect();
    ensure!(steps.len() > 10, "only {} commands were found", steps.len());
    let failures: Vec<String> = steps
        .iter()
        .filter_map(|step| follow(host, &folder, step).err())
        .map(|error| format!("{error:#}"))
        .collect();
    // The README uninstalls in the end; the tests behind this one want their plugins.
    setup().restore_plugins()?;
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    before.ensure_nothing_left(host)
}

/// The gate builds and installs in its own way.
fn is_build(step: &Step) -> bool {
    step.command.starts_with("cargo ") || step.command.starts_with("install ")
}

/// A host that has the binary, and no plugin yet.
struct Newcomer;

impl Newcomer {
    fn new() -> anyhow::Result<Self> {
        for folder in [PROGRAMS, PLUGINS] {
            mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None)
                .with_context(|| format!("mount {folder}"))?;
        }
        symlink(&setup().rnet, Path::new(PROGRAMS).join("rnet"))?;
        Ok(Self)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        for folder in [PROGRAMS, PLUGINS] {
            let _ = unmount(folder, UnmountFlags::DETACH);
        }
    }
}

fn follow(host: &Host, folder: &Path, step: &Step) -> anyhow::Result<()> {
    let program = crate::podman::environment(setup(), bounded(host.netns(), "sh")).current_dir(folder);
    let printed = stdout(program, &step.command, &["-c", &format!("{} 2>&1", step.command)])?;
    let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
    ensure!(
        is_said(&printed, &step.output),
        "`{}`\n  the README says:\n{}\n  it prints:\n{}",
        step.command,
        step.output.join("\n"),
        printed.join("\n")
    );
    Ok(())
}

fn is_said(printed: &[&str], said: &[String]) -> bool {
    if said == [ANYTHING] {
        return !printed.is_empty();
    }
    printed.len() == said.len() && printed.iter().zip(said).all(|(printed, said)| matches(printed, said))
}

/// True if `printed` is what is `said`, part by part between the places that stand for anything.
fn matches(printed: &str, said: &str) -> bool {
    let mut parts = said.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let mut last = "";
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        (rest, last) = (after, part);
    }
    rest.is_empty() || (last.is_empty() && said.ends_with(ANYTHING))
}
