//! Agreement with the reference host-local, where it is installed; without it these tests compare nothing,
//! and fail with RNET_TEST_COMPLETE=1, which `.ci/run` sets.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::*;

const REFERENCE: &str = "/usr/lib/cni/host-local";

/// The reference on a lab's directory, with these ranges.
struct Reference<'a> {
    lab: &'a Lab,
    ranges: &'a str,
}

impl<'a> Reference<'a> {
    fn installed(lab: &'a Lab, ranges: &'a str) -> Option<Self> {
        let installed = std::path::Path::new(REFERENCE).exists();
        if !installed {
            assert!(
                std::env::var_os("RNET_TEST_COMPLETE").is_none(),
                "RNET_TEST_COMPLETE is set, and {REFERENCE} is not there"
            );
            eprintln!("{REFERENCE} is not installed: nothing is compared");
        }
        installed.then_some(Self { lab, ranges })
    }

    fn call(&self, verb: &str, id: &str, requested: &[&str]) -> Result<Value, String> {
        let ranges: Value = serde_json::from_str(self.ranges).unwrap();
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge",
            "ipam": { "type": "host-local", "dataDir": self.lab.folder.path().join("networks"), "ranges": ranges },
            "args": { "cni": { "ips": requested } },
        });
        let mut child = Command::new(REFERENCE)
            .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_NETNS", "/x"), ("CNI_PATH", "/x")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        match output.status.success() {
            true => Ok(answer),
            false => Err(answer["msg"].as_str().unwrap_or_default().to_owned()),
        }
    }

    fn add(&self, id: &str, requested: &[&str]) -> Result<Vec<String>, String> {
        let answer = self.call("ADD", id, requested)?;
        let address = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        Ok(answer["ips"].as_array().unwrap().iter().map(address).collect())
    }

    fn del(&self, id: &str) {
        self.call("DEL", id, &[]).unwrap();
    }
}

#[test]
fn the_same_calls_give_the_same_answers_and_files() {
    let ranges = r#"[[{"subnet":"10.8.0.0/29","rangeStart":"10.8.0.3"},{"subnet":"10.8.1.0/30","gateway":"10.8.1.2"}],
                     [{"subnet":"fd00::/64"}]]"#;
    let (theirs, ours) = (Lab::new(), Lab::new());
    let Some(reference) = Reference::installed(&theirs, ranges) else { return };
    let (leases, sets) = (ours.leases(), sets(ranges));

    for (verb, id, requested) in [
        ("ADD", "a", &[][..]),
        ("ADD", "b", &["fd00::9"]),
        ("ADD", "c", &["10.8.1.1"]),
        ("DEL", "a", &[]),
        ("ADD", "d", &[]),
        ("ADD", "d", &[]),
        ("ADD", "e", &["10.8.1.1"]),
        ("ADD", "e", &["10.8.1.2"]),
        ("ADD", "f", &[]),
        ("DEL", "b", &[]),
        ("DEL", "nobody", &[]),
        ("ADD", "g", &[]),
        ("ADD", "h", &[]),
        ("ADD", "i", &[]),
        ("ADD", "j", &[]),
        ("DEL", "g", &[]),
    ] {
        match verb {
            "ADD" => assert_eq!(add(&leases, &sets, id, requested), reference.add(id, requested), "{id}"),
            _ => {
                reference.del(id);
                leases.release(&eth0(id)).unwrap();
            }
        }
        assert_eq!(ours.files(), theirs.files(), "after {verb} {id}");
    }
    // Last, because here the reference moves a set's pointer although the call fails.
    assert_eq!(add(&leases, &sets, "k", &["10.8.0.1"]), reference.add("k", &["10.8.0.1"]));
    assert_eq!(ours.names(), theirs.names());
}

#[test]
fn a_host_may_change_between_the_two_at_any_moment() {
    let ranges = r#"[[{"subnet":"10.8.0.0/28"}],[{"subnet":"fd00::/64"}]]"#;
    let lab = Lab::new();
    let Some(reference) = Reference::installed(&lab, ranges) else { return };
    let (leases, sets) = (lab.leases(), sets(ranges));

    for n in 2..12 {
        let given = match n % 2 {
            0 => add(&leases, &sets, &format!("c{n}"), &[]),
            _ => reference.add(&format!("c{n}"), &[]),
        };
        assert_eq!(given.unwrap(), [format!("10.8.0.{n}"), format!("fd00::{n:x}")]);
    }
    assert!(add(&leases, &sets, "c3", &[]).unwrap_err().contains("duplicate allocation"));
    assert!(reference.add("c4", &[]).unwrap_err().contains("duplicate allocation"));
    reference.call("CHECK", "c2", &[]).unwrap();
    for n in 2..12 {
        match n % 2 {
            0 => reference.del(&format!("c{n}")),
            _ => assert_eq!(leases.release(&eth0(&format!("c{n}"))).unwrap().len(), 2),
        }
    }
    assert_eq!(lab.names(), Vec::<String>::new());
}

#[test]
fn both_at_once_never_give_the_same_address() {
    let ranges = r#"[[{"subnet":"10.8.0.0/25"}]]"#;
    let lab = Lab::new();
    let Some(reference) = Reference::installed(&lab, ranges) else { return };
    let sets = sets(ranges);

    let one = |thread: usize, n: usize| match thread % 2 {
        0 => add(&lab.leases(), &sets, &format!("c{thread}-{n}"), &[]).unwrap(),
        _ => reference.add(&format!("c{thread}-{n}"), &[]).unwrap(),
    };
    let eight = |thread| (0..8).flat_map(|n| one(thread, n)).collect::<Vec<_>>();
    let given: Vec<Vec<String>> = std::thread::scope(|scope| {
        let eight = &eight;
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(move || eight(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    let given = given.concat();
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(lab.leases().list().unwrap().len(), 64);
}
