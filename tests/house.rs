//! The rules of the house, checked by reading its files: how long a file and a test may be, which crate may import which, and what
//! the engine must not know.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
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
