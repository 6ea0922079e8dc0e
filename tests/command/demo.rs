//! The demo: every line that it shows as a command can be typed.

use crate::common::Host;

#[test]
fn what_the_demo_shows_can_be_copied() {
    let host = Host::forwarding();
    let output =
        host.command(env!("CARGO_BIN_EXE_rnet")).env_remove("RNET_ROOT").arg("demo").output().unwrap();
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success() && shown.ends_with("All steps worked.\n"), "{output:?}");

    let lines: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(lines.len() > 15, "{shown}");
    assert!(lines.iter().all(|line| !line.contains('…') && !line.starts_with("docker")), "{lines:#?}");
    // In their order, as a person would.
    for line in lines {
        let script = format!("rnet() {{ {} \"$@\"; }}; {line}", env!("CARGO_BIN_EXE_rnet"));
        host.on_host(&script);
    }
    host.nobody_is_left();
}
