//! Calling another plugin, usually the IPAM plugin (CNI specification, section 4).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;

use crate::call::{Call, Verb};
use crate::error::Error;
use crate::fault::Fault;

/// A file that is being written is tried again after 40 ms, then after twice as long each time: for five seconds in
/// total, as libcni does.
const BUSY_TRIES: u32 = 8;
const BUSY_PAUSE: Duration = Duration::from_millis(40);

/// Looks for the regular file `plugin` in the folders of CNI_PATH, the first one wins; symlinks are followed.
///
/// # Errors
/// Code 7: an empty `plugin`, one that is no plain file name, or one that no folder holds; 4: no folder at all.
pub fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
    if plugin.is_empty() {
        return Err(Fault::DelegateUnnamed.into());
    }
    if plugin == "." || plugin == ".." || plugin.contains(['/', '\0']) {
        return Err(Fault::DelegateName { name: plugin.to_owned() }.into());
    }
    if path.is_empty() {
        return Err(Fault::DelegatePaths.into());
    }
    let missing = || Fault::DelegateMissing { name: plugin.to_owned(), path: path.to_vec() }.into();
    path.iter().map(|folder| folder.join(plugin)).find(|file| file.is_file()).ok_or_else(missing)
}

/// Whether `path` leads to the very file this process runs: then a delegate may be called without a process.
pub fn is_this_program(path: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    identity(path).is_some_and(|file| identity(Path::new("/proc/self/exe")) == Some(file))
}

/// Runs the plugin `program` with `verb`, the rest of `call` as its environment and `config` on its stdin; its
/// stderr is copied to this process's. Returns its result for ADD, its answer for VERSION, otherwise `None`.
///
/// # Errors
/// The plugin's own error, unchanged; code 5: it cannot be started; 999: it failed without error JSON; 6: a bad result.
pub fn exec(program: &Path, call: &Call, verb: Verb, config: &Value) -> Result<Option<Value>, Error> {
    let cannot_start = |source| Fault::DelegateStart { program: program.to_owned(), source };
    let output = run(program, call, verb, config).map_err(cannot_start)?;
    // In CNI stderr is for people; losing it changes nothing.
    let _ = io::stderr().write_all(&output.stderr);
    if !output.status.success() {
        return Err(failure(&output));
    }
    match verb {
        Verb::Add | Verb::Version => Ok(Some(result(program, &output.stdout)?)),
        Verb::Check | Verb::Del | Verb::Status | Verb::Gc => Ok(None),
    }
}

fn run(program: &Path, call: &Call, verb: Verb, config: &Value) -> io::Result<Output> {
    let (mut tries, mut pause) = (1, BUSY_PAUSE);
    loop {
        let mut command = command(program, call, verb)?;
        match command.stdin(file_of(config)?).output() {
            // The file is being replaced, and no event tells when that is done.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                sleep(pause);
                (tries, pause) = (tries + 1, pause * 2);
            }
            outcome => return outcome,
        }
    }
}

/// The plugin gets this process's environment and the call's variables, without those that choose which code it loads.
fn command(program: &Path, call: &Call, verb: Verb) -> io::Result<Command> {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| steers_loader(name)) {
        command.env_remove(name);
    }
    let path = std::env::join_paths(&call.path).map_err(io::Error::other)?;
    command
        .env("CNI_COMMAND", verb.as_str())
        .env("CNI_CONTAINERID", &call.container_id)
        .env("CNI_NETNS", &call.netns)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_ARGS", &call.args)
        .env("CNI_PATH", path);
    if call.netns_override {
        command.env("CNI_NETNS_OVERRIDE", "1");
    }
    Ok(command)
}

/// Whether a variable is one of the dynamic linker's (`LD_PRELOAD`, `LD_LIBRARY_PATH` …).
fn steers_loader(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"LD_")
}

/// The configuration as a file in memory: unlike a pipe it need not be fed while the plugin already writes.
fn file_of(config: &Value) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("cni-config", MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(io::BufWriter::new(&file), config)?;
    file.rewind()?;
    Ok(file.into())
}

fn result(program: &Path, stdout: &[u8]) -> Result<Value, Fault> {
    serde_json::from_slice(stdout)
        .map_err(|source| Fault::DelegateResult { program: program.to_owned(), source })
}

/// The error of a failed plugin; if it printed none as JSON, in libcni's words.
fn failure(output: &Output) -> Error {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (output.stdout.is_empty(), output.stderr.is_empty()) {
        (true, true) => silent(output.status),
        (true, false) => Fault::DelegateStderr { stderr: text(&output.stderr) }.into(),
        (false, _) => match serde_json::from_slice::<Error>(&output.stdout) {
            Ok(error) if error == Error::default() => silent(output.status),
            Ok(error) => error,
            Err(source) => Fault::DelegateDiagnostic { stdout: text(&output.stdout), source }.into(),
        },
    }
}

fn silent(status: ExitStatus) -> Error {
    Fault::DelegateSilent { status }.into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    /// A folder with one shell script named `ipam`.
    fn plugin(script: &str) -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("ipam");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        (dir, file)
    }

    fn call() -> Call {
        Call {
            verb: Verb::Add,
            container_id: "c1".to_owned(),
            netns: "/run/netns/c1".to_owned(),
            ifname: "eth0".to_owned(),
            args: "K=V".to_owned(),
            path: vec![PathBuf::from("/a"), PathBuf::from("/b")],
            netns_override: true,
            own_delegates: false,
        }
    }

    fn refusal(script: &str) -> Error {
        let (_dir, file) = plugin(script);
        exec(&file, &call(), Verb::Add, &json!({})).unwrap_err()
    }

    #[test]
    fn the_first_regular_file_of_the_path_is_found() {
        let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        fs::create_dir(first.path().join("ipam")).unwrap();
        fs::write(second.path().join("real"), "").unwrap();
        symlink("real", second.path().join("ipam")).unwrap();
        let path = [PathBuf::from("/nowhere"), first.path().to_owned(), second.path().to_owned()];
        assert_eq!(find("ipam", &path).unwrap(), second.path().join("ipam"));
    }

    #[test]
    fn a_missing_plugin_is_reported_in_libcni_s_words() {
        let path = [PathBuf::from("/a"), PathBuf::from("/b")];
        assert_eq!(find("", &path), Err(Error::new(7, "no plugin name provided")));
        assert_eq!(find("a/b", &path), Err(Error::new(7, "invalid plugin name: a/b")));
        assert_eq!(find("..", &path), Err(Error::new(7, "invalid plugin name: ..")));
        assert_eq!(find("x", &[]), Err(Error::new(4, "no paths provided").with_details("CNI_PATH")));
        assert_eq!(find("x", &path), Err(Error::new(7, r#"failed to find plugin "x" in path [/a /b]"#)));
    }

    #[test]
    fn this_program_is_known_by_its_file_not_by_its_name() {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("host-local");
        symlink(std::env::current_exe().unwrap(), &link).unwrap();
        assert!(is_this_program(&link));
        assert!(!is_this_program(Path::new("/bin/sh")));
        assert!(!is_this_program(Path::new("/nowhere")));
    }

    #[test]
    fn a_plugin_gets_the_call_with_another_verb_and_the_whole_config() {
        let script = r#"echo "$CNI_COMMAND|$CNI_CONTAINERID|$CNI_NETNS|$CNI_IFNAME|$CNI_ARGS|$CNI_PATH|$CNI_NETNS_OVERRIDE" >"$0.env"
            cat >"$0.stdin""#;
        let (_dir, file) = plugin(script);
        let config = json!({"name": "net", "unknown": {"Kept": [1, null]}});
        assert_eq!(exec(&file, &call(), Verb::Del, &config), Ok(None));
        let written = |suffix: &str| fs::read_to_string(format!("{}.{suffix}", file.display())).unwrap();
        assert_eq!(written("env"), "DEL|c1|/run/netns/c1|eth0|K=V|/a:/b|1\n");
        assert_eq!(written("stdin"), config.to_string());
    }

    #[test]
    fn an_add_returns_its_result_whatever_the_sizes() {
        let (_dir, file) = plugin("cat");
        let config = json!({"ips": [], "filling": "x".repeat(300_000)});
        assert_eq!(exec(&file, &call(), Verb::Add, &config), Ok(Some(config)));
    }

    #[test]
    fn a_plugin_s_error_is_returned_unchanged() {
        let script = r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"lock"}'; exit 3"#;
        assert_eq!(refusal(script), Error::new(11, "busy").with_details("lock"));
    }

    #[test]
    fn a_failure_without_error_json_is_reported_in_libcni_s_words() {
        let silent = "netplugin failed with no error message: exit status: 3";
        assert_eq!(refusal("exit 3"), Error::new(999, silent));
        assert_eq!(refusal("echo '{}'; exit 3"), Error::new(999, silent));
        assert_eq!(refusal("printf oops >&2; exit 1"), Error::new(999, r#"netplugin failed: "oops""#));
        let garbage = refusal("printf oops; exit 1");
        assert_eq!(garbage.code, 999);
        let expected = r#"netplugin failed but error parsing its diagnostic message "oops": "#;
        assert!(garbage.msg.starts_with(expected), "{garbage}");
    }

    #[test]
    fn a_success_without_result_is_an_error_for_add_only() {
        let (_dir, file) = plugin("exit 0");
        let error = exec(&file, &call(), Verb::Add, &json!({})).unwrap_err();
        assert_eq!(error.code, 6);
        for verb in [Verb::Del, Verb::Check, Verb::Gc, Verb::Status] {
            assert_eq!(exec(&file, &call(), verb, &json!({})), Ok(None));
        }
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let error = exec(Path::new("/nowhere/ipam"), &call(), Verb::Add, &json!({})).unwrap_err();
        let expected = "cannot run plugin /nowhere/ipam: No such file or directory (os error 2)";
        assert_eq!(error, Error::new(5, expected));
    }

    #[test]
    fn a_file_that_is_still_being_written_is_tried_again() {
        let (_dir, file) = plugin(r#"echo '{"ips":[]}'"#);
        let writer = OpenOptions::new().append(true).open(&file).unwrap();
        let closing = thread::spawn(move || {
            sleep(Duration::from_millis(200));
            drop(writer);
        });
        assert_eq!(exec(&file, &call(), Verb::Add, &json!({})), Ok(Some(json!({"ips": []}))));
        closing.join().unwrap();
    }

    #[test]
    fn variables_of_the_dynamic_linker_are_dropped() {
        // The variables of a process are shared by its tests, so the command is looked at, not run.
        assert!(steers_loader(OsStr::new("LD_PRELOAD")));
        assert!(!steers_loader(OsStr::new("OLD_PWD")));
        let command = command(Path::new("/bin/true"), &call(), Verb::Add).unwrap();
        let removed = |name: &OsStr| command.get_envs().any(|(key, value)| key == name && value.is_none());
        for (name, _) in std::env::vars_os() {
            assert_eq!(removed(&name), steers_loader(&name), "{name:?}");
        }
    }
}
