//! What all tests of a run share: private mounts, the plugin folder, the image, podman's configuration.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use netlink::Netns;
use rustix::mount::{MountFlags, mount};

use crate::program::{bounded, stdout};

/// Where containerd, `ctr` and most others look for plugins if nobody tells them.
pub const PLUGINS: &str = "/opt/cni/bin";
/// The image of all containers (image.sh).
pub const IMAGE: &str = "localhost/rnet-test:latest";
/// What the image's server answers.
pub const PAGE: &str = "a page out of a container";
/// Configurations of networks, for all runtimes.
pub const NETWORKS: &str = "/etc/cni/net.d";

const OURS: [&str; 7] = ["bridge", "host-local", "loopback", "portmap", "tuning", "rnet", "dnsname"];
/// A reference plugin that rnet has none of.
const BANDWIDTH: &str = "/usr/lib/cni/bandwidth";
const RUNTIMES: [&str; 5] = ["podman", "conmon", "crun", "runc", "containerd"];

static SETUP: OnceLock<Setup> = OnceLock::new();

/// The surroundings of this run.
pub fn setup() -> &'static Setup {
    SETUP.get().expect("it was prepared before the first test")
}

/// The surroundings of one run.
pub struct Setup {
    /// The plugins are another's: a peer run.
    pub peer: bool,
    /// The binary under test.
    pub rnet: PathBuf,
    /// A folder for whatever the run needs.
    pub dir: PathBuf,
    versions: String,
}

impl Setup {
    /// Prepares the run of this program. A missing program is an error: where these tests are wanted, everything they need has been installed.
    pub fn prepare() -> anyhow::Result<&'static Self> {
        ensure!(
            std::env::var_os("RNET_SANDBOX").is_some(),
            "these tests change /etc, /opt and /var/lib: start them through Cargo's runner, netns-fixtures/sandbox.sh"
        );
        let netns = Netns::current()?;
        let foreign = std::env::var_os("RNET_TEST_PLUGINS").map(PathBuf::from);
        let rnet = crate::common::binary();
        let setup = Self {
            peer: foreign.is_some(),
            rnet: fs::canonicalize(&rnet).with_context(|| format!("no binary at {}", rnet.display()))?,
            dir: PathBuf::from("/run/rnet-runtimes"),
            versions: versions(&netns)?,
        };
        private_mounts()?;
        fs::create_dir_all(&setup.dir)?;
        // The machine's own networks are none of the tests'.
        let _ = fs::remove_dir_all(NETWORKS);
        fs::create_dir_all(NETWORKS)?;
        setup.fill_plugin_folder(foreign.as_deref())?;
        make_image(&netns, &setup.image())?;
        crate::podman::prepare(&setup, &netns)?;
        Ok(SETUP.get_or_init(|| setup))
    }

    /// The archive that holds [`IMAGE`].
    pub fn image(&self) -> PathBuf {
        self.dir.join("image.tar")
    }

    /// What is tested, with which runtimes, for the report.
    pub fn about(&self) -> String {
        let plugins =
            if self.peer { "the reference plugins".into() } else { self.rnet.display().to_string() };
        format!("{plugins} ({})", self.versions)
    }

    /// Puts back the links that a test removed.
    pub fn restore_plugins(&self) -> anyhow::Result<()> {
        let links = OURS.map(|name| Path::new(PLUGINS).join(name)).into_iter();
        Ok(links.filter(|link| !link.exists()).try_for_each(|link| symlink(&self.rnet, link))?)
    }

    /// Links by which the binary under test, or a peer's, is found.
    fn fill_plugin_folder(&self, foreign: Option<&Path>) -> anyhow::Result<()> {
        fs::create_dir_all(PLUGINS)?;
        let links: Vec<(String, PathBuf)> = match foreign {
            None => OURS.iter().map(|name| ((*name).to_owned(), self.rnet.clone())).collect(),
            Some(folder) => OURS[..5].iter().map(|name| ((*name).to_owned(), folder.join(name))).collect(),
        };
        for (name, file) in links.into_iter().chain([("bandwidth".into(), BANDWIDTH.into())]) {
            ensure!(file.exists(), "the plugin {} is missing", file.display());
            symlink(&file, Path::new(PLUGINS).join(name))?;
        }
        Ok(())
    }
}

fn versions(netns: &Netns) -> anyhow::Result<String> {
    let version = |program: &&str| {
        let said = stdout(bounded(netns, program), program, &["--version"])?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    };
    Ok(RUNTIMES.iter().map(version).collect::<anyhow::Result<Vec<_>>>()?.join(", "))
}

/// podman keeps its locks in /dev/shm, which the runner's namespaces share with the machine; the plugin folder lies below /opt.
fn private_mounts() -> anyhow::Result<()> {
    for place in ["/dev/shm", "/opt"] {
        mount("tmpfs", place, "tmpfs", MountFlags::empty(), None)
            .with_context(|| format!("mount {place}"))?;
    }
    Ok(())
}

fn make_image(netns: &Netns, file: &Path) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtimes/image.sh");
    stdout(bounded(netns, "sh").arg(script), "image.sh", &[file])?;
    Ok(())
}
