//! `rnet install`: links by which runtimes find rnet's plugins.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};
use store::Paths;

use crate::report::{Problem, Style, print, print_json};
use crate::runtimes::{self, Found};
use crate::{kept, networkd};

/// What can be given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of the runtimes' plugins [default: the folders that the runtimes on this host search first]
    pub dir: Option<PathBuf>,
    /// Replace files that are not rnet's, and keep them beside the folder
    #[arg(long)]
    pub force: bool,
    /// Remove the links to rnet, and put back what was there before
    #[arg(long, conflicts_with = "force")]
    pub uninstall: bool,
    /// Only these plugins
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub only: Vec<String>,
}

/// Makes the links and prints each that was not there; or removes them and prints each that was.
pub fn run(args: &Args, style: Style) -> anyhow::Result<u8> {
    let mut told = Told { style, files: Vec::new() };
    let done = change(args, &mut told);
    // What was changed before a failure is told too.
    told.end()?;
    done.map(|()| 0)
}

/// The files that were made or removed: a line for each at once, or one array of JSON at the end.
struct Told {
    style: Style,
    files: Vec<Value>,
}

impl Told {
    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        if !self.style.json {
            return print(&format!("{}\n", path.display()));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.files.push(json!({"type": "file", "name": name, "file": path}));
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        if self.style.json { print_json(&self.files.into()) } else { Ok(()) }
    }
}

fn change(args: &Args, told: &mut Told) -> anyhow::Result<()> {
    let names = names(&args.only)?;
    let (paths, style) = (Paths::new(0), told.style);
    if args.uninstall {
        return uninstall(&names, args.dir.as_deref(), &paths, told);
    }
    let runtimes = runtimes::find(&paths);
    let dirs = match &args.dir {
        Some(dir) => vec![dir.clone()],
        None => {
            choose(&runtimes, &names, args.force, &paths).iter().map(|folder| paths.rooted(folder)).collect()
        }
    };
    install(args, &names, &dirs, told)?;
    if let Some(file) = networkd::write(&paths)? {
        told.file(&file)?;
        style.hint("networkctl reload");
    }
    tell(&runtimes, &names, args.dir.as_deref(), &paths, style);
    Ok(())
}

/// Looks at all folders before it changes any.
fn install(args: &Args, names: &[&str], dirs: &[PathBuf], told: &mut Told) -> anyhow::Result<()> {
    let program = std::env::current_exe().and_then(fs::canonicalize);
    let program = program.map_err(Problem::file("find", "/proc/self/exe".as_ref()))?;
    let mut wanted = Vec::new();
    for dir in dirs {
        fs::create_dir_all(dir).map_err(Problem::file("make the folder", dir))?;
        let dir = fs::canonicalize(dir).map_err(Problem::file("open the folder", dir))?;
        wanted.extend(names.iter().map(|name| dir.join(name)).filter(|link| *link != program));
    }
    if let Some(file) = wanted.iter().find(|link| !args.force && !may_replace(link)) {
        return Err(Problem::InTheWay { file: file.clone() }.into());
    }
    for link in wanted {
        let target = relative(&program, link.parent().unwrap_or(&link));
        if !may_replace(&link) {
            kept::keep(&link)?;
        }
        if make(&link, &target, &program)? {
            told.file(&link)?;
        }
    }
    Ok(())
}

/// The fewest folders by which every runtime takes these plugins from rnet. Of equals, those where nothing is in the
/// way, that are there already, that are not the distribution's.
///
/// Without force, a runtime that has no such folder is left out as long as another has one; it is told of afterwards.
fn choose(runtimes: &[Found], names: &[&str], force: bool, paths: &Paths) -> Vec<PathBuf> {
    let is_taken = |folder: &Path| names.iter().any(|name| !may_replace(&paths.rooted(folder).join(name)));
    let mut open: Vec<Vec<PathBuf>> =
        runtimes.iter().map(|found| eligible(&found.folders, &is_taken)).collect();
    open.retain(|folders| !folders.is_empty());
    let is_served = |folders: &Vec<PathBuf>| folders.iter().any(|folder| !is_taken(folder));
    if !force && open.iter().any(is_served) {
        open.iter_mut().for_each(|folders| folders.retain(|folder| !is_taken(folder)));
        open.retain(|folders| !folders.is_empty());
    }
    if open.is_empty() {
        return vec![runtimes::USUAL.into()];
    }
    // A folder that is new may be the only one that nerdctl then looks into.
    let is_new_barred = runtimes.iter().any(|found| found.name == "nerdctl");
    let mut chosen = Vec::new();
    while let Some(first) = open.first() {
        let rank = |folder: &&PathBuf| {
            let users = open.iter().filter(|folders| folders.contains(folder)).count();
            let is_there = paths.rooted(folder).exists();
            let is_local = ["/opt", "/usr/local"].iter().any(|local| folder.starts_with(local));
            (is_there || !is_new_barred, users, !is_taken(folder), is_there, is_local)
        };
        // The first of equals is the one that the runtime itself puts first.
        let best = first.iter().rev().max_by_key(rank).cloned().unwrap_or_default();
        open.retain(|folders| !folders.contains(&best));
        chosen.push(best);
    }
    chosen
}

/// The folders in which rnet's links win: up to the first that has other plugins of these names.
fn eligible(folders: &[PathBuf], is_taken: &impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let last = folders.iter().position(|folder| is_taken(folder)).map_or(folders.len(), |taken| taken + 1);
    folders[..last].to_vec()
}

/// Says which file each runtime takes for each plugin. Of a folder that was given, only the runtimes are told of that look
/// there and find others first.
fn tell(runtimes: &[Found], names: &[&str], given: Option<&Path>, paths: &Paths, style: Style) {
    for found in runtimes {
        let looks_there =
            given.is_none_or(|dir| found.folders.iter().any(|folder| paths.rooted(folder) == dir));
        let (ours, others) = found
            .folders
            .iter()
            .rev()
            .fold(Winners::default(), |winners, folder| winners.under(folder, names, &paths.rooted(folder)))
            .sorted();
        if looks_there && (given.is_none() || !others.is_empty()) {
            tell_of(found, &ours, &others, given.is_some(), style);
        }
    }
}

fn tell_of(found: &Found, ours: &[(PathBuf, Vec<String>)], others: &[String], given: bool, style: Style) {
    let Found { name, remark, .. } = found;
    for (folder, plugins) in ours {
        style.note(format_args!(
            "{name} takes {} from {}: rnet{remark}",
            plugins.join(", "),
            folder.display()
        ));
    }
    if !others.is_empty() {
        style.warn(format_args!("{name} takes {}, which are not rnet's{remark}", others.join(", ")));
        style.hint(match given {
            true => "rnet install (without a folder, it chooses the one that the runtimes search first)",
            false => "rnet install --force (it keeps them beside the folder, and --uninstall puts them back)",
        });
    }
}

/// Whose file a runtime takes for each plugin name: the folder, and whether it is rnet's.
#[derive(Default)]
struct Winners(BTreeMap<String, (PathBuf, bool)>);

impl Winners {
    /// What another folder has wins over what is known so far.
    fn under(mut self, folder: &Path, names: &[&str], place: &Path) -> Self {
        for name in names {
            let file = place.join(name);
            if fs::symlink_metadata(&file).is_ok() {
                self.0.insert((*name).to_owned(), (folder.to_owned(), may_replace(&file)));
            }
        }
        self
    }

    /// rnet's by folder, and the paths of the others.
    fn sorted(self) -> (Vec<(PathBuf, Vec<String>)>, Vec<String>) {
        let (mut ours, mut others) = (BTreeMap::<PathBuf, Vec<String>>::new(), Vec::new());
        for (name, (folder, is_ours)) in self.0 {
            match is_ours {
                true => ours.entry(folder).or_default().push(name),
                false => others.push(folder.join(name).display().to_string()),
            }
        }
        (ours.into_iter().collect(), others)
    }
}

/// What is no link to rnet is left alone, and so is the program itself.
fn uninstall(names: &[&str], dir: Option<&Path>, paths: &Paths, told: &mut Told) -> anyhow::Result<()> {
    let all = || runtimes::all_folders(paths).into_iter().map(|folder| paths.rooted(&folder));
    let dirs: Vec<PathBuf> = dir.map_or_else(|| all().collect(), |dir| vec![dir.to_owned()]);
    for dir in &dirs {
        for link in names.iter().map(|name| dir.join(name)) {
            let is_free = fs::symlink_metadata(&link).is_err() || link.is_symlink() && may_replace(&link);
            let was_there = is_free && link.is_symlink();
            if !kept::put_back(&link, is_free)? && was_there {
                fs::remove_file(&link).map_err(Problem::file("remove", &link))?;
            }
            if was_there {
                told.file(&link)?;
            }
        }
        kept::clear(&dir.join(kept::TEMPORARY));
        kept::tidy(dir);
    }
    let is_link =
        |dir: &PathBuf| names.iter().map(|name| dir.join(name)).any(|l| l.is_symlink() && may_replace(&l));
    if !all().any(|dir| is_link(&dir))
        && let Some(file) = networkd::remove(paths)?
    {
        told.file(&file)?;
    }
    Ok(())
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
    let temporary = link.with_file_name(kept::TEMPORARY);
    kept::clear(&temporary);
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
        let elsewhere = Paths::under(&folder.path().join("root"), 1);
        let mut told = Told { style: Style::default(), files: Vec::new() };
        uninstall(&names(&[]).unwrap(), Some(folder.path()), &elsewhere, &mut told).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["bridge", "loopback", "rnet"]);
    }

    #[test]
    fn unknown_plugins_are_refused_with_a_list() {
        let error = names(&["bridge".into(), "brigde".into()]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no plugin \"brigde\": the plugins are bridge, dnsname, host-local"),
            "{error}"
        );
    }
}
