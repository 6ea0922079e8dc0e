//! The rules of the house, checked by reading its files: how long a file and a test may be, which crate may import which, which
//! files may import each other, and what the engine must not know.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MOST_LINES_OF_A_FILE: usize = 600;
const MOST_LINES_OF_A_TEST: usize = 60;

/// Each crate and the crates of this workspace that it may import. Imports only go down: a crate stands below those that import it.
const CRATES: &[(&str, &[&str])] = &[
    ("cni", &[]),
    ("netlink", &[]),
    ("nft", &[]),
    ("store", &[]),
    ("dns", &[]),
    ("ipam", &["store"]),
    ("engine", &["dns", "ipam", "netlink", "nft", "store"]),
    ("plugins", &["cni", "dns", "engine", "ipam", "netlink", "nft", "store"]),
    ("rnet", &["cni", "dns", "engine", "ipam", "netlink", "netns-fixtures", "nft", "plugins", "store"]),
    ("netns-fixtures", &["netlink"]),
];

/// What the tests of a crate may import besides: hosts to throw away, and the kernel's interface.
const FOR_TESTS: &[&str] = &["netlink", "netns-fixtures"];

/// Files that are still too long. This list only gets shorter.
const LONG_FILES: &[&str] =
    &["rnet/cmd/create.rs", "rnet/cmd/run.rs", "rnet/definitions.rs", "rnet/problem.rs"];

/// Test functions that are still too long: the file and the function. This list only gets shorter.
const LONG_TESTS: &[(&str, &str)] =
    &[("rnet/cmd/create.rs", "every_wrong_subnet_gateway_and_range_is_refused_in_its_own_words")];

const MOST_FILES_OF_A_CIRCLE: usize = 4;

/// Circles of files that still cross a folder or are too long. This list only gets shorter.
const CIRCLES: &[&[&str]] = &[];

/// What no file of the engine may name: its callers' protocol, and how a program ends.
const CALLERS_WORDS: &[&str] = &["cni", "ExitCode", "ExitStatus", "exit", "exit_code", "exit_status"];

/// What it may not import from `serde_json`: its callers' documents. Its own files are types that serde reads and writes.
const DOCUMENTS: &[&str] = &["Value", "Map", "json", "*"];

#[test]
fn no_file_has_more_than_600_lines() {
    let sources = sources();
    let long = sources.iter().filter(|source| source.text.lines().count() > MOST_LINES_OF_A_FILE);
    let long: BTreeSet<&str> = long.map(|source| source.path.as_str()).collect();
    compare("is too long", &long, &LONG_FILES.iter().copied().collect());
}

#[test]
fn no_test_function_has_more_than_60_lines() {
    let sources = sources();
    let tests: Vec<Test<'_>> = sources.iter().flat_map(Source::test_functions).collect();
    let long = tests.iter().filter(|test| test.lines > MOST_LINES_OF_A_TEST);
    let long: BTreeSet<(&str, &str)> = long.map(|test| (test.path, test.name.as_str())).collect();
    compare("is too long", &long, &LONG_TESTS.iter().copied().collect());
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let manifests = manifests();
    let names: BTreeSet<&str> = manifests.iter().map(|manifest| manifest.name.as_str()).collect();
    compare("has no line in CRATES", &names, &CRATES.iter().map(|(name, _)| *name).collect());
    for Manifest { name, imports, test_imports } in &manifests {
        let (_, below) = CRATES.iter().find(|(listed, _)| listed == name).unwrap();
        let ours = |found: &&String| names.contains(found.as_str());
        for import in imports.iter().filter(ours) {
            assert!(below.contains(&import.as_str()), "{name} may not import {import}");
        }
        for import in test_imports.iter().filter(ours) {
            let may = below.contains(&import.as_str()) || FOR_TESTS.contains(&import.as_str());
            assert!(may, "the tests of {name} may not import {import}");
        }
    }
}

#[test]
fn the_engine_knows_no_caller() {
    for source in sources().iter().filter(|source| source.path.starts_with("engine/src/")) {
        let code = code_of(&source.text);
        let named = callers_words(&code);
        assert!(named.is_empty(), "{} names {named:?}", source.path);
    }
}

/// The rule above must not be green because it sees nothing.
#[test]
fn a_callers_word_is_found_in_code_and_not_in_comments_or_texts() {
    for (text, found) in [
        ("use cni::Call;", vec!["cni"]),
        ("let list: serde_json::Value = parse();", vec!["Value"]),
        ("use serde_json::{Map, from_str};\nlet x: Value = json!(1);", vec!["Map"]),
        ("use serde_json::*;", vec!["*"]),
        ("let own: Value = serde_json::from_str(text); enum Value {}", vec![]),
        ("fn status(self) -> ExitCode { exit(2) }", vec!["ExitCode", "exit"]),
        ("/// As cni::Call has it.\nlet text = \"cni::Value\"; // exit", vec![]),
        ("let values = Values::new(icni::x, r#\"a \" Value\"#, '\"', b'\\'', exits)", vec![]),
    ] {
        assert_eq!(callers_words(&code_of(text)), found, "{text}");
    }
}

/// Files that import each other can only be understood and changed together.
#[test]
fn no_circle_of_files_crosses_a_folder_or_has_more_than_4() {
    let sources = sources();
    let found = CRATES.iter().flat_map(|(name, _)| Imports::of(&folder_of(name), &sources).circles());
    let found: Vec<Vec<&str>> = found.filter(|circle| is_wrong(circle)).collect();
    let found: BTreeSet<&[&str]> = found.iter().map(Vec::as_slice).collect();
    compare("is a circle of imports", &found, &CIRCLES.iter().copied().collect());
}

/// ADD asks the name server, so the client must not bring a runtime with it.
#[test]
fn the_client_of_the_name_server_needs_neither_tokio_nor_hickory() {
    let sources = sources();
    let imports = Imports::of("dns/src/", &sources);
    let needed = imports.needed_by("client");
    assert!(needed.contains("protocol"), "{needed:?}");
    for name in needed.iter().chain(&["client"]) {
        let code = &imports.modules[*name].code;
        let named: Vec<_> = words(code).filter(|word| ["tokio", "hickory_proto"].contains(word)).collect();
        assert!(named.is_empty(), "dns::{name} names {named:?}");
    }
}

/// The rule above must not be green because it sees nothing.
#[test]
fn a_made_up_circle_is_found_through_every_kind_of_import() {
    let sources = [
        ("a/src/lib.rs", "mod uses;\nmod inline;\nmod up;\npub use up::{Up, deep::Deep as Renamed};"),
        ("a/src/uses.rs", "use std::io;\nuse crate::{\n    inline::{self, X},\n};"),
        ("a/src/inline.rs", "fn f() -> crate::Renamed { crate::outside::x() }"),
        ("a/src/up/mod.rs", "mod deep;\nmod leaf;\nuse deep::Deep;\nuse crate::leaf as other;"),
        ("a/src/up/deep.rs", "use super::super::uses::Y as Z;\nuse super::leaf;"),
        (
            "a/src/up/leaf.rs",
            "// crate::uses\npub(in crate::up) struct X;\n#[cfg(test)]\nuse crate::up::deep;",
        ),
        ("a/src/up/tests.rs", "use super::deep::Deep;\nuse crate::uses;"),
        ("a/src/leaf.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n    use crate::up;\n}"),
        ("a/src/pair.rs", "use crate::other_of_pair::X;"),
        ("a/src/other_of_pair.rs", "fn f() { super::pair::g() }"),
    ];
    let sources = sources.map(|(path, text)| Source { path: path.into(), text: text.into() });
    let imports = Imports::of("a/src/", &sources);
    let crossing = vec!["a/src/inline.rs", "a/src/up/deep.rs", "a/src/uses.rs"];
    let pair = vec!["a/src/other_of_pair.rs", "a/src/pair.rs"];
    assert_eq!(imports.circles(), BTreeSet::from([crossing.clone(), pair.clone()]));
    assert!(is_wrong(&crossing) && !is_wrong(&pair));
    assert!(is_wrong(&["a/1.rs", "a/2.rs", "a/3.rs", "a/4.rs", "a/5.rs"]));
    assert!(!is_wrong(&["a/1.rs", "a/2.rs", "a/3.rs", "a/4.rs"]));
}

/// Fails for what breaks a rule and is no exception, and for an exception that breaks no rule any more.
#[track_caller]
fn compare<T: Ord + std::fmt::Debug>(fault: &str, found: &BTreeSet<T>, listed: &BTreeSet<T>) {
    let new: Vec<_> = found.difference(listed).collect();
    assert!(new.is_empty(), "{fault}: {new:#?}");
    let needless: Vec<_> = listed.difference(found).collect();
    assert!(needless.is_empty(), "take these out of the list in tests/house.rs: {needless:#?}");
}

/// The words of a caller that `code` holds.
fn callers_words(code: &str) -> Vec<&str> {
    let documents = code.split("serde_json::").skip(1).flat_map(|path| {
        let list = path.strip_prefix('{').and_then(|list| list.split('}').next());
        words(list.unwrap_or_else(|| path.split([';', '(', '<', '>', ' ', '!']).next().unwrap_or_default()))
    });
    let documents = documents.filter(|word| DOCUMENTS.contains(word));
    words(code).filter(|word| CALLERS_WORDS.contains(word)).chain(documents).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '*')
}

/// A file of Rust.
struct Source {
    /// From the top of the tree.
    path: String,
    text: String,
}

/// A function for tests.
struct Test<'a> {
    path: &'a str,
    name: String,
    lines: usize,
}

impl Source {
    /// All functions of a tree of tests; elsewhere those behind `#[cfg(test)]`.
    fn test_functions(&self) -> Vec<Test<'_>> {
        let is_for_tests = self.path.split('/').any(|part| ["tests", "netns-fixtures"].contains(&part))
            || self.path.ends_with("/tests.rs");
        let marked = self.text.find("#[cfg(test)]").unwrap_or(self.text.len());
        let code = code_of(&self.text[if is_for_tests { 0 } else { marked }..]);
        let lines: Vec<&str> = code.lines().collect();
        let begins = (0..lines.len()).filter_map(|nth| Some((nth, function(lines[nth])?.to_owned())));
        let test = |(nth, name)| Test { path: &self.path, name, lines: length(&lines[nth..]) };
        begins.map(test).collect()
    }
}

/// The name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe"];
    let begins = before.split_whitespace().all(|word| qualifiers.contains(&word));
    begins.then(|| after.split(['(', '<']).next()).flatten()
}

/// How many lines the item has that begins on the first of these; rustfmt puts its last brace below its first letter.
fn length(lines: &[&str]) -> usize {
    let indent = lines[0].len() - lines[0].trim_start().len();
    let ends = |line: &&str| {
        let line = &line[indent.min(line.len())..];
        line.starts_with('}') || (!line.starts_with(' ') && (line.ends_with(';') || line.ends_with('}')))
    };
    lines.iter().position(ends).map_or(lines.len(), |last| last + 1)
}

/// `text` with blanks for all that is in comments and quotes; the lines stay.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest).or_else(|| quoted(rest)).unwrap_or(0);
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        match skipped {
            0 => code.push(first),
            _ => code.extend(rest[..taken].chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = &rest[taken..];
    }
    code
}

/// How long the comment is that `rest` begins with.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    let inner = rest.strip_prefix("/*")?;
    Some(inner.find("*/").map_or(rest.len(), |end| end + 4))
}

/// How long the text or the character is that `rest` begins with; `'a` alone is a lifetime.
fn quoted(rest: &str) -> Option<usize> {
    let marks = rest.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
    if let Some(marks) = marks.filter(|marks| rest[1 + marks..].starts_with('"')) {
        let end = format!("\"{}", "#".repeat(marks));
        let inner = &rest[marks + 2..];
        return Some(inner.find(&end).map_or(rest.len(), |at| marks + 2 + at + end.len()));
    }
    let mark = rest.chars().next().filter(|first| ['"', '\''].contains(first))?;
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == mark => return Some(at + 1),
            _ if mark == '\'' && at > 1 && !rest.starts_with("'\\") => return None,
            _ => {}
        }
    }
    None
}

/// Which files of a crate import which.
struct Imports<'a> {
    modules: BTreeMap<String, Module<'a>>,
}

/// A file, and what it imports: the name here, and the path. Other files may import these names from it.
struct Module<'a> {
    path: &'a str,
    code: String,
    imports: BTreeMap<String, String>,
}

impl<'a> Imports<'a> {
    fn of(folder: &str, sources: &'a [Source]) -> Self {
        let of_tests = |path: &str| path.contains("/tests/") || path.ends_with("/tests.rs");
        let modules = sources.iter().filter(|source| !of_tests(&source.path)).filter_map(|source| {
            let name = source.path.strip_prefix(folder)?.strip_suffix(".rs")?.replace('/', "::");
            let name = name.strip_suffix("::mod").unwrap_or(&name);
            let name = if ["lib", "main"].contains(&name) { "" } else { name };
            let code = without_tests(&code_of(&source.text));
            let imports =
                code.split("use ").skip(1).flat_map(|tree| flatten(tree.split(';').next().unwrap()));
            let imports = imports.map(|path| match path.split_once(" as ") {
                Some((path, name)) => (name.to_owned(), path.to_owned()),
                None => (path.rsplit("::").next().unwrap().to_owned(), path.clone()),
            });
            let imports = imports.collect();
            Some((name.to_owned(), Module { path: &source.path, code, imports }))
        });
        Self { modules: modules.collect() }
    }

    /// The sets of files of which each reaches all others.
    fn circles(&self) -> BTreeSet<Vec<&'a str>> {
        let needs: BTreeMap<&str, _> =
            self.modules.keys().map(|name| (&**name, self.needed_by(name))).collect();
        let on_a_circle = needs.iter().filter(|(name, others)| others.contains(*name));
        let circle = |(name, others): (&&str, &BTreeSet<&str>)| {
            let others = others.iter().filter(|other| needs[*other].contains(name));
            let mut circle: Vec<&str> = others.map(|other| self.modules[*other].path).collect();
            circle.sort_unstable();
            circle
        };
        on_a_circle.map(circle).collect()
    }

    /// All that a file needs, directly or not; itself only on a circle.
    fn needed_by<'n>(&'n self, name: &'n str) -> BTreeSet<&'n str> {
        let mut needed = BTreeSet::new();
        let mut next = vec![name];
        while let Some(name) = next.pop() {
            next.extend(self.imported_by(name).into_iter().filter(|name| needed.insert(*name)));
        }
        needed
    }

    /// The other files that a file names by `crate::` or `super::`. What a file names of its own children is left out: a folder's
    /// first file lists what is in the folder.
    fn imported_by(&self, name: &str) -> BTreeSet<&str> {
        let code = &self.modules[name].code;
        let begins = ["crate::", "super::"].iter().flat_map(|begin| code.match_indices(begin));
        let begins = begins.filter(|(at, _)| !code[..*at].ends_with("::") && !code[..*at].ends_with("(in "));
        let paths = begins.flat_map(|(at, _)| flatten(tree(&code[at..])));
        paths.filter_map(|path| self.file_of(name, &path)).filter(|other| *other != name).collect()
    }

    /// The file that holds what `path` means in the module `at`; re-exports are followed.
    fn file_of(&self, at: &str, path: &str) -> Option<&str> {
        let (mut at, _) = self.modules.get_key_value(at)?;
        let path = path.split(" as ").next()?;
        let mut names = path.split("::").map(str::trim);
        while let Some(name) = names.next() {
            let child = if at.is_empty() { name.to_owned() } else { format!("{at}::{name}") };
            let next = match name {
                "crate" => "",
                "super" => at.rsplit_once("::").map_or("", |(parent, _)| parent),
                "self" => at,
                _ if self.modules.contains_key(&child) => &child,
                _ => match self.modules[at].imports.get(name) {
                    Some(import) if import != name => {
                        let rest = names.map(|name| format!("::{name}"));
                        return self.file_of(at, &(import.clone() + &rest.collect::<String>()));
                    }
                    _ => return Some(at),
                },
            };
            (at, _) = self.modules.get_key_value(next)?;
        }
        Some(at)
    }
}

/// The path that `code` begins with, with the names in its braces.
fn tree(code: &str) -> &str {
    let mut depth = 0;
    let ends = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        let is_part = c.is_alphanumeric() || ['_', ':', '}'].contains(&c);
        depth < 0 || (depth == 0 && !is_part)
    };
    let tree = &code[..code.find(ends).unwrap_or(code.len())];
    // `crate::x {` begins a value.
    if tree.contains("::{") { tree } else { tree.split('{').next().unwrap() }
}

/// Each path of an import: `a::{b, c::{self, d}}` is `a::b`, `a::c` and `a::c::d`.
fn flatten(tree: &str) -> Vec<String> {
    let Some((before, inner)) = tree.split_once('{') else {
        return vec![tree.trim().trim_end_matches("::self").to_owned()];
    };
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let mut depth = 0;
    let parts = inner.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(|part| flatten(&format!("{}{part}", before.trim()))).collect()
}

/// `code` without the items behind `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let lines: Vec<&str> = code.lines().collect();
    let (mut kept, mut at) = (String::new(), 0);
    while at < lines.len() {
        if lines[at].trim() == "#[cfg(test)]" {
            at += 1 + length(&lines[at + 1..]);
        } else {
            kept.extend([lines[at], "\n"]);
            at += 1;
        }
    }
    kept
}

fn folder_of(name: &str) -> String {
    match name {
        "rnet" => "rnet/".to_owned(),
        _ => format!("{name}/src/"),
    }
}

/// Whether a circle of files is too long, or its files are in more than one folder.
fn is_wrong(circle: &[&str]) -> bool {
    let folder =
        |path: &str| path.trim_end_matches("/mod.rs").rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let folders: BTreeSet<_> = circle.iter().map(|path| folder(path)).collect();
    circle.len() > MOST_FILES_OF_A_CIRCLE || folders.len() > 1
}

/// A crate, and the crates that it and its tests name.
struct Manifest {
    name: String,
    imports: Vec<String>,
    test_imports: Vec<String>,
}

/// The manifests of the workspace's crates. That of fuzz/ stands apart.
fn manifests() -> Vec<Manifest> {
    let folders = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let folders = folders.filter(|folder| !folder.ends_with("fuzz")).chain([root().to_owned()]);
    let texts = folders.filter_map(|folder| std::fs::read_to_string(folder.join("Cargo.toml")).ok());
    texts.map(|text| manifest(&text)).collect()
}

fn manifest(text: &str) -> Manifest {
    let (mut section, mut name) = ("", String::new());
    let (mut imports, mut test_imports) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let key = line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
        match (line.starts_with('['), section) {
            (true, _) => section = line,
            (_, "[package]") if key == "name" => name = line.split('"').nth(1).unwrap().to_owned(),
            (_, "[dependencies]" | "[build-dependencies]") => imports.push(key),
            (_, "[dev-dependencies]") => test_imports.push(key),
            _ => {}
        }
    }
    Manifest { name, imports, test_imports }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of Rust in the tree.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        Source { path, text }
    };
    let sources: Vec<Source> = paths.into_iter().map(source).collect();
    assert!(sources.len() > 200, "only {} files were found", sources.len());
    sources
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}
