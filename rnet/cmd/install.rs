//! `rnet install`: links by which runtimes find rnet's plugins.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use crate::report::{Problem, print};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of the runtimes' plugins, /opt/cni/bin for most
    pub dir: PathBuf,
    /// Replace files that are not rnet's
    #[arg(long)]
    pub force: bool,
    /// Remove the links to rnet instead
    #[arg(long, conflicts_with = "force")]
    pub uninstall: bool,
    /// These plugins only
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub only: Vec<String>,
}

/// Makes the links and prints each that was not there; or removes them and prints each that was.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let names = names(&args.only)?;
    if args.uninstall {
        return uninstall(&names, &args.dir);
    }
    let program = std::env::current_exe().and_then(fs::canonicalize);
    let program = program.map_err(Problem::file("find", "/proc/self/exe".as_ref()))?;
    fs::create_dir_all(&args.dir).map_err(Problem::file("make the folder", &args.dir))?;
    let dir = fs::canonicalize(&args.dir).map_err(Problem::file("open the folder", &args.dir))?;
    let wanted: Vec<PathBuf> =
        names.iter().map(|name| dir.join(name)).filter(|link| *link != program).collect();
    if let Some(file) = wanted.iter().find(|link| !args.force && !may_replace(link)) {
        return Err(Problem::InTheWay { file: file.clone() }.into());
    }
    let target = relative(&program, &dir);
    for link in wanted {
        if make(&link, &target, &program)? {
            print(&format!("{}\n", link.display()))?;
        }
    }
    Ok(0)
}

/// What is no link to rnet is somebody else's, and so is the program itself.
fn uninstall(names: &[&str], dir: &Path) -> anyhow::Result<u8> {
    for link in names.iter().map(|name| dir.join(name)).filter(|link| link.is_symlink() && may_replace(link))
    {
        fs::remove_file(&link).map_err(Problem::file("remove", &link))?;
        print(&format!("{}\n", link.display()))?;
    }
    Ok(0)
}

fn names(only: &[String]) -> Result<Vec<&str>, Problem> {
    let known = plugins::PLUGINS.map(|(name, _)| name);
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Problem::NoPlugin { name: unknown.clone() });
    }
    Ok(if only.is_empty() { known.to_vec() } else { only.iter().map(String::as_str).collect() })
}

/// What is not there, and a link to some rnet, wherever that is or was.
fn may_replace(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Err(_) => true,
        Ok(_) => {
            fs::read_link(path).is_ok_and(|target| target.file_name() == Some("rnet".as_ref()))
                || is_this(path)
        }
    }
}

fn is_this(path: &Path) -> bool {
    cni::delegate::is_this_program(path)
}

/// Puts a link in place in one step; false if it was there.
fn make(link: &Path, target: &Path, program: &Path) -> Result<bool, Problem> {
    if fs::read_link(link).is_ok() && fs::canonicalize(link).is_ok_and(|found| found == program) {
        return Ok(false);
    }
    let temporary = link.with_file_name(format!(".rnet-{}", std::process::id()));
    symlink(target, &temporary).map_err(Problem::file("make the link", link))?;
    fs::rename(&temporary, link).map_err(|error| {
        // The error to tell is the first one.
        let _ = fs::remove_file(&temporary);
        Problem::file("make the link", link)(error)
    })?;
    Ok(true)
}

/// The way from the folder `from` to `to`, both absolute: links made of it survive when all moves together.
fn relative(to: &Path, from: &Path) -> PathBuf {
    let (to, from): (Vec<Component>, Vec<Component>) =
        (to.components().collect(), from.components().collect());
    let common = to.iter().zip(&from).take_while(|(one, other)| one == other).count();
    let up = from[common..].iter().map(|_| Component::ParentDir);
    up.chain(to[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_the_short_way() {
        let way = |to: &str, from: &str| relative(to.as_ref(), from.as_ref()).display().to_string();
        assert_eq!(way("/usr/local/bin/rnet", "/opt/cni/bin"), "../../../usr/local/bin/rnet");
        assert_eq!(way("/opt/rnet/rnet", "/opt/cni/bin"), "../../rnet/rnet");
        assert_eq!(way("/opt/cni/bin/rnet", "/opt/cni/bin"), "rnet");
    }

    #[test]
    fn only_what_is_rnets_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("bridge"), "somebody's").unwrap();
        symlink("/usr/bin/rnet", path("portmap")).unwrap();
        symlink("/bin/sh", path("loopback")).unwrap();
        assert!(!may_replace(&path("bridge")) && !may_replace(&path("loopback")));
        assert!(may_replace(&path("portmap")) && may_replace(&path("host-local")));
    }

    #[test]
    fn a_link_replaces_what_was_there_and_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let (program, link) = (folder.path().join("rnet"), folder.path().join("bridge"));
        fs::write(&program, "").unwrap();
        fs::write(&link, "somebody's").unwrap();
        assert!(make(&link, "rnet".as_ref(), &program).unwrap());
        assert!(!make(&link, "rnet".as_ref(), &program).unwrap());
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("rnet"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn only_links_to_rnet_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("bridge"), "somebody's").unwrap();
        fs::write(path("rnet"), "the program").unwrap();
        symlink("rnet", path("portmap")).unwrap();
        symlink("/bin/sh", path("loopback")).unwrap();
        uninstall(&names(&[]).unwrap(), folder.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["bridge", "loopback", "rnet"]);
    }

    #[test]
    fn unknown_plugins_are_refused_with_a_list() {
        let error = names(&["bridge".into(), "brigde".into()]).unwrap_err();
        assert!(
            error.to_string().starts_with("no plugin \"brigde\": there are bridge, dnsname, host-local"),
            "{error}"
        );
    }
}
