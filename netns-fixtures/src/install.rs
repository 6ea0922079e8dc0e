//! Programs that a test writes and starts.
//!
//! A process of its own writes them. A file that this process has open for writing can be inherited by what another test's
//! thread starts at that moment, and is then busy (ETXTBSY, execve(2)).

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a program, with its mode.
///
/// # Errors
///
/// If cp(1) cannot be started or fails.
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let mut copy = Command::new("cp");
    succeeded(copy.arg("--").arg(from.as_ref()).arg(to.as_ref()).status()?.success(), to.as_ref())
}

/// Writes a program that everybody may start.
///
/// # Errors
///
/// If sh(1) cannot be started or write the file.
pub fn write_program(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"cat >"$0" && chmod 755 "$0""#]).arg(path.as_ref()).stdin(Stdio::piped());
    let mut writer = shell.spawn()?;
    if let Some(mut stdin) = writer.stdin.take() {
        stdin.write_all(content.as_ref())?;
    }
    succeeded(writer.wait()?.success(), path.as_ref())
}

fn succeeded(success: bool, path: &Path) -> io::Result<()> {
    match success {
        true => Ok(()),
        false => Err(io::Error::other(format!("cannot write {}", path.display()))),
    }
}
