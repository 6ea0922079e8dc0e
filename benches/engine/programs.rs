//! Where the programs under comparison are.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Debian's containernetworking-plugins.
const REFERENCE: &str = "/usr/lib/cni";
const NETAVARK: [&str; 3] =
    ["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark", "/usr/local/libexec/podman/netavark"];
/// The names by which the chain calls our binary.
const NAMES: [&str; 5] = ["bridge", "firewall", "host-local", "portmap", "rnet"];

/// The programs under comparison.
#[derive(Clone)]
pub struct Programs {
    /// The binary of this project.
    pub binary: PathBuf,
    /// A folder with links to it by the plugins' names: CNI_PATH.
    pub ours: PathBuf,
    /// The same with links to another build of it, if one was named.
    pub before: Option<PathBuf>,
    /// The folder with the reference plugins: CNI_PATH.
    pub reference: PathBuf,
    /// The netavark program.
    pub netavark: PathBuf,
}

impl Programs {
    /// Our binary is `RNET_BIN`, which benches/run sets to the plain release build, else the one that Cargo built
    /// beside this benchmark. `before` is another build of it.
    ///
    /// Fails if a peer is missing: a comparison with nobody is none.
    pub fn find(before: Option<&Path>) -> Result<Self> {
        let binary = match std::env::var_os("RNET_BIN") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(env!("CARGO_BIN_EXE_rnet")),
        };
        let binary = found(&binary)?;
        let before = before.map(found).transpose()?;
        let before = before.map(|binary| linked(&binary, "/run/bench-plugins-before")).transpose()?;
        let reference = PathBuf::from(REFERENCE);
        for plugin in ["bridge", "host-local", "portmap", "firewall"] {
            require(&reference.join(plugin))?;
        }
        let netavark = NETAVARK.iter().map(PathBuf::from).find(|path| is_program(path));
        let netavark = netavark.context("no netavark: run benches/run as root, which installs it")?;
        let ours = linked(&binary, "/run/bench-plugins")?;
        Ok(Self { ours, before, binary, reference, netavark })
    }

    /// True if it is the binary that users get, false if Cargo's own with its failpoints, which are dead weight.
    pub fn plain(&self) -> bool {
        std::env::var_os("RNET_BIN").is_some()
    }

    /// What the peers say of themselves, for the head of the report.
    pub fn peers(&self) -> String {
        // Debian's plugins were built without their version.
        let mut package = Command::new("dpkg-query");
        package.args(["--show", "--showformat", "${Package} ${Version}", "containernetworking-plugins"]);
        let netavark = first_line(Command::new(&self.netavark).arg("--version"));
        let iptables = first_line(Command::new("iptables").arg("--version"));
        format!("peers: {}; {netavark}; {iptables}", first_line(&mut package))
    }
}

fn require(program: &Path) -> Result<()> {
    match is_program(program) {
        true => Ok(()),
        false => bail!("no {}: run benches/run as root, which installs it", program.display()),
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn found(binary: &Path) -> Result<PathBuf> {
    fs::canonicalize(binary).with_context(|| format!("no rnet at {}", binary.display()))
}

/// A folder with links to a binary by the plugins' names.
fn linked(binary: &Path, folder: &str) -> Result<PathBuf> {
    let dir = PathBuf::from(folder);
    fs::create_dir_all(&dir).context("make the plugin folder")?;
    for name in NAMES {
        symlink(binary, dir.join(name)).with_context(|| format!("link {name}"))?;
    }
    Ok(dir)
}

/// What a program says first, on either stream; empty if it says nothing.
fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.stdin(std::process::Stdio::null()).output() else { return String::new() };
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned()
}
