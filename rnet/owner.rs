//! Who made a container or a network that is not rnet's, and what to type to that tool.

use std::path::{Path, PathBuf};

use crate::containers::Container;
use crate::definitions::Network;
use crate::report::Problem;

/// What somebody wants to do to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// End its program.
    Stop,
    /// Remove it.
    Remove,
    /// Show what it has written.
    Logs,
}

/// The error for a container that another tool has to stop or remove.
pub fn not_ours(container: &Container, action: Action) -> Problem {
    Problem::NotOurs { name: container.name.clone(), hint: command(container, action) }
}

/// The error for somebody who wants the name of a container that is there.
pub fn name_taken(container: &Container) -> Problem {
    Problem::EndpointExists {
        name: container.name.clone(),
        what: container.place(),
        hint: command(container, Action::Stop),
    }
}

/// The error for a network that another tool has to remove.
pub fn foreign(network: &Network, file: PathBuf) -> Problem {
    let hint = removal(network, &file);
    Problem::ForeignFile { name: network.name.clone(), file, hint }
}

/// What can be typed to the tool that made a container; none if that cannot be told.
fn command(container: &Container, action: Action) -> Option<String> {
    let verb = |stop: &'static str, remove: &'static str| match action {
        Action::Stop => stop,
        Action::Remove => remove,
        Action::Logs => "logs",
    };
    if let Some((namespace, id)) = of_nerdctl(&container.id) {
        let namespace =
            if namespace == "default" { String::new() } else { format!("--namespace {namespace} ") };
        return Some(format!("nerdctl {namespace}{} {}", verb("stop", "rm -f"), &id[..12]));
    }
    match container.netns.as_deref().and_then(Path::file_name)?.to_str()? {
        name if name.starts_with("netns-") => {
            Some(format!("podman {} {}", verb("stop", "rm -f"), container.name))
        }
        name if name.starts_with("cni-") => {
            let id: String = container.id.chars().take(13).collect();
            // Its logs belong to the containers of the pod.
            (action != Action::Logs).then(|| format!("crictl {} {id}", verb("stopp", "rmp -f")))
        }
        _ => None,
    }
}

/// nerdctl puts its namespace before the id.
fn of_nerdctl(id: &str) -> Option<(&str, &str)> {
    let (namespace, id) = id.rsplit_once('-')?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some((namespace, id))
}

fn removal(network: &Network, file: &Path) -> Option<String> {
    let raw = network.list.raw.to_string();
    let is_podmans = network.bridge().is_some_and(|bridge| bridge.starts_with("cni-podman"));
    if is_podmans || raw.contains("\"podman_") {
        // Its default network cannot be removed.
        return (network.name != "podman").then(|| format!("podman network rm {}", network.name));
    }
    if raw.contains("\"nerdctlID\"") || raw.contains("\"nerdctlLabels\"") {
        return (network.name != "bridge").then(|| format!("nerdctl network rm {}", network.name));
    }
    Some(format!("rm {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::network_of;
    use serde_json::json;

    fn container(id: &str, netns: &str) -> Container {
        Container { id: id.into(), name: "web".into(), netns: Some(netns.into()), ..Container::default() }
    }

    #[test]
    fn a_container_is_stopped_by_the_tool_that_made_it() {
        let id = "4f2a".repeat(16);
        let stop = |id: &str, netns: &str| command(&container(id, netns), Action::Stop);
        assert_eq!(stop(&id, "/run/netns/netns-1b2c"), Some("podman stop web".into()));
        assert_eq!(stop(&id, "/var/run/netns/cni-1b2c"), Some("crictl stopp 4f2a4f2a4f2a4".into()));
        assert_eq!(
            stop(&format!("default-{id}"), "/proc/7/ns/net"),
            Some("nerdctl stop 4f2a4f2a4f2a".into())
        );
        assert_eq!(
            command(&container(&format!("k8s.io-{id}"), "/proc/7/ns/net"), Action::Remove),
            Some("nerdctl --namespace k8s.io rm -f 4f2a4f2a4f2a".into())
        );
        assert_eq!(stop("pod", "/run/netns/blue"), None);
    }

    #[test]
    fn a_network_is_removed_by_the_tool_that_made_it() {
        let hint = |more: serde_json::Value, bridge: &str| {
            let mut raw = json!({"cniVersion": "0.4.0", "name": "lab", "plugins": [{"type": "bridge", "bridge": bridge}]});
            raw.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            removal(&network_of(&raw).unwrap(), Path::new("/etc/cni/net.d/lab.conflist"))
        };
        assert_eq!(hint(json!({}), "cni-podman1"), Some("podman network rm lab".into()));
        assert_eq!(hint(json!({"name": "podman"}), "cni-podman0"), None);
        assert_eq!(hint(json!({"nerdctlID": "4f2a"}), "br-4f2a"), Some("nerdctl network rm lab".into()));
        assert_eq!(hint(json!({}), "br0"), Some("rm /etc/cni/net.d/lab.conflist".into()));
    }
}
