//! Programs that a test compares with and that a machine need not have.

/// With this variable everything that a test compares with must be there.
const COMPLETE: &str = "RNET_TEST_COMPLETE";

/// Whether `program` is installed. A test without it says what it does not see; `.ci/run` sets RNET_TEST_COMPLETE=1, and then it fails.
///
/// # Panics
/// Without the program, where the variable is set.
pub fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    compares(found, &format!("{program} is not installed"))
}

/// The same for anything else that a test needs: `lacking` says what is not there.
///
/// # Panics
/// If it is not there, where the variable is set.
pub fn compares(found: bool, lacking: &str) -> bool {
    if !found {
        assert!(std::env::var_os(COMPLETE).is_none(), "{COMPLETE} is set, and {lacking}");
        eprintln!("{lacking}: this test compares less");
    }
    found
}
