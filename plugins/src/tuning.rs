//! The plugin `tuning`, with the reference plugin's keys: sysctls of a container, and its interface's MAC address, MTU, modes and
//! queue.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cni::{Args, CniResult, Request, code};
use engine::spec::Spec;
use engine::{Host, Settings, check, life, register, tuning};
use regex_lite::Regex;
use serde::Deserialize;
use store::Paths;

use crate::members::parse_mac;
use crate::verbs::Verbs;
use crate::{Error, call, chained};

const PLUGIN: &str = "tuning";

/// The verbs of this plugin.
pub const VERBS: Verbs = Verbs { add, del, check, status, gc };

/// Where the reference plugin keeps what was there before.
const DATA_DIR: &str = "/run/cni/tuning";

/// The sysctls that the administrator allows, one regular expression on each line. Without the file, all are allowed.
const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";

/// Its keys (cni.dev/plugins/current/meta/tuning), which `args.cni` may have too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    sysctl: Option<BTreeMap<String, String>>,
    mac: Option<String>,
    promisc: Option<bool>,
    mtu: Option<u32>,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    queue_length: Option<u32>,
}

/// What else the configuration has for it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FromRuntime {
    args: ArgsMember,
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ArgsMember {
    cni: Keys,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    mac: String,
}

/// The one key that DEL needs: no other fault of a configuration may keep a setting from being restored.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Place {
    data_dir: Option<PathBuf>,
}

/// A configuration that is refused. The texts are upstream's where it has one.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("invalid net sysctl key: {0:?}")]
    Key(String),
    #[error("sysctl {0}: its value has more than one line")]
    Value(String),
    #[error("duplicated sysctl keys are not allowed")]
    Duplicate,
    #[error("Sysctl {key} is not allowed. Only the following sysctls are allowed: [{}]", allowed.join(" "))]
    NotAllowed { key: String, allowed: Vec<String> },
    #[error("line {line:?} of {ALLOW_LIST} is no regular expression: {reason}")]
    Pattern { line: String, reason: String },
    #[error("{ALLOW_LIST} cannot be read: {0}")]
    AllowList(std::io::Error),
    #[error("Required prevResult missing")]
    NotChained,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::AllowList(_) => code::IO_FAILURE,
            _ => code::INVALID_NETWORK_CONFIG,
        };
        Error::Cni(cni::Error { code, msg: refusal.to_string(), details: String::new() })
    }
}

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let settings = settings(request)?;
    let previous = request.config.prev_result()?.ok_or(Refusal::NotChained)?;
    if settings.is_empty() {
        return Ok(previous);
    }
    let spec = Spec { tuning: Some(settings.clone()), ..chained::spec(PLUGIN, request, &previous) };
    life::add(&spec, Some(&call::container(request)?))?;
    Ok(with_settings(previous, &request.call.ifname, &settings))
}

/// By the record; what the reference plugin has left is put back as well.
fn del(request: &Request<'_>) -> Result<(), Error> {
    let settings = Settings { backup: backup(request), ..Settings::default() };
    let netns = request.call.netns.clone().into();
    let spec = Spec { netns, tuning: Some(settings), ..chained::bare(PLUGIN, request) };
    let others = |host: &mut Host| tuning::restore_backup(host, &spec);
    Ok(life::del(&spec, &call::kept(request), others)?)
}

/// Where there is no record, the reference plugin has made the attachment: then all is to be as the configuration says.
fn check(request: &Request<'_>) -> Result<(), Error> {
    let settings = settings(request)?;
    let previous = request.config.prev_result()?.ok_or(Error::NoPrevResult)?;
    if settings.is_empty() {
        return Ok(());
    }
    let spec = Spec { tuning: Some(settings), ..chained::spec(PLUGIN, request, &previous) };
    let mut host = chained::open("CHECK", request)?;
    let mut record = tuning::record(&spec)?;
    record.netns = Some(register::namespace(&call::container(request)?));
    if let Some(found) = host.store.record(&record.network, PLUGIN, &record.key())? {
        record.sections = found.sections;
    }
    Ok(check::health(&mut host, &record)?)
}

fn status(request: &Request<'_>) -> Result<(), Error> {
    let host = Host::ready(format!("STATUS {}", call::id(request)))?;
    let settings = settings(request)?;
    let folder = host.store.paths().rooted(settings.backup.parent().unwrap_or(&settings.backup));
    Ok(store::check_writable(&folder).map_err(engine::Error::not_ready)?)
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    Ok(life::gc(&chained::bare(PLUGIN, request), &call::valid(request))?)
}

/// What is to be changed. `args.cni` goes before the plugin's own keys.
fn settings(request: &Request<'_>) -> Result<Settings, Error> {
    let own: Keys = request.config.section()?;
    let FromRuntime { args, runtime_config } = request.config.section()?;
    let call_args = Args::of(request.call, &[])?;
    let more = args.cni;
    let macs = [more.mac, given(&runtime_config.mac), call_args.mac().map(str::to_owned), own.mac];
    let sysctls = sysctls(own.sysctl.unwrap_or_default(), more.sysctl.unwrap_or_default());
    if !sysctls.is_empty() {
        refuse_others(&Paths::new(netlink::cookie()?), sysctls.keys())?;
    }
    let ifname = &request.call.ifname;
    let sysctls = sysctls.into_iter().map(|(key, value)| Ok((path(&key, ifname)?, one_line(&key, value)?)));
    let is_set = |number: &u32| *number > 0;
    let settings = Settings {
        sysctls: sysctls.collect::<Result<_, Refusal>>()?,
        mac: mac(macs.into_iter().flatten().next())?,
        promiscuous: more.promisc.or(own.promisc),
        mtu: more.mtu.or(own.mtu).filter(is_set),
        all_multicast: more.allmulti.or(own.allmulti),
        queue_length: more.queue_length.or(own.queue_length),
        backup: backup(request),
    };
    refuse_twice(&settings.sysctls)?;
    Ok(settings)
}

fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// An empty text asks for none.
fn mac(text: Option<String>) -> Result<Option<store::Mac>, Error> {
    let text = text.filter(|text| !text.is_empty());
    Ok(text.map(|text| parse_mac(&text)).transpose()?.map(|mac| store::Mac(mac.0)))
}

fn sysctls(mut own: BTreeMap<String, String>, more: BTreeMap<String, String>) -> BTreeMap<String, String> {
    own.retain(|key, _| more.keys().all(|other| slashes(other) != slashes(key)));
    own.extend(more);
    own
}

/// Refuses a key that the administrator's list does not have.
fn refuse_others<'k>(paths: &Paths, mut keys: impl Iterator<Item = &'k String>) -> Result<(), Refusal> {
    let text = match std::fs::read_to_string(paths.rooted(ALLOW_LIST.as_ref())) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Refusal::AllowList)?,
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let pattern = |line: &str| {
        Regex::new(line)
            .map_err(|error| Refusal::Pattern { line: line.to_owned(), reason: error.to_string() })
    };
    let patterns = lines.clone().map(pattern).collect::<Result<Vec<_>, _>>()?;
    // Upstream's versions differ in what they compare: the key as it is written, or with slashes.
    let is_allowed = |key: &String| {
        patterns.iter().any(|pattern| pattern.is_match(key) || pattern.is_match(&slashes(key)))
    };
    match keys.find(|key| !is_allowed(key)) {
        Some(key) => {
            Err(Refusal::NotAllowed { key: key.clone(), allowed: lines.map(str::to_owned).collect() })
        }
        None => Ok(()),
    }
}

/// One setting under two keys: `net.core.somaxconn` and `net/core/somaxconn`.
fn refuse_twice(sysctls: &[(String, String)]) -> Result<(), Refusal> {
    let mut keys: Vec<&String> = sysctls.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) { Err(Refusal::Duplicate) } else { Ok(()) }
}

/// As sysctl(8) reads a key: its first separator is the one between folders, and the other one is part of a name.
fn slashes(key: &str) -> String {
    let swapped = |letter: char| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => key.chars().map(swapped).collect(),
        _ => key.to_owned(),
    }
}

/// The path of a key below /proc/sys/net, with the interface's name in place of the first IFNAME.
fn path(key: &str, ifname: &str) -> Result<String, Refusal> {
    let slashes = slashes(key);
    let refusal = || Refusal::Key(slashes.clone());
    let path = slashes.strip_prefix("net/").ok_or_else(refusal)?;
    let is_bad = |part: &str| matches!(part, "" | "." | "..") || part.contains(char::is_control);
    if path.split('/').any(is_bad) {
        return Err(refusal());
    }
    Ok(path.replacen("IFNAME", ifname, 1))
}

fn one_line(key: &str, value: String) -> Result<String, Refusal> {
    if value.contains(['\n', '\0']) { Err(Refusal::Value(key.to_owned())) } else { Ok(value) }
}

/// Container id and interface name were checked with the call: neither can lead out of the folder.
fn backup(request: &Request<'_>) -> PathBuf {
    let place: Place = request.config.section().unwrap_or_default();
    let folder = place.data_dir.filter(|folder| !folder.as_os_str().is_empty());
    let file = format!("{}_{}.json", request.call.container_id, request.call.ifname);
    folder.unwrap_or_else(|| DATA_DIR.into()).join(file)
}

/// The result with what was changed of the container's interface.
fn with_settings(mut previous: CniResult, ifname: &str, settings: &Settings) -> CniResult {
    let is_it = |interface: &&mut cni::Interface| interface.name == ifname && interface.sandbox.is_some();
    for interface in previous.interfaces.iter_mut().filter(is_it) {
        interface.mac = settings.mac.map(|mac| mac.to_string()).or_else(|| interface.mac.take());
        // As upstream, only a plugin before this one can have said it.
        interface.mtu = interface.mtu.map(|mtu| settings.mtu.map_or(mtu, |mtu| mtu as _));
    }
    previous
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_sysctl_8_reads_it_and_leads_nowhere_else() {
        for (key, expected) in [
            ("net.core.somaxconn", "core/somaxconn"),
            ("net/core/somaxconn", "core/somaxconn"),
            ("net.ipv4.conf.IFNAME.arp_filter", "ipv4/conf/eth0.7/arp_filter"),
            ("net/ipv4/conf/IFNAME/arp_filter", "ipv4/conf/eth0.7/arp_filter"),
            ("net.ipv4.conf.eth0/7.arp_filter", "ipv4/conf/eth0.7/arp_filter"),
            ("net/ipv4/conf/eth0.7/arp_filter", "ipv4/conf/eth0.7/arp_filter"),
            ("net.nf_conntrack_max", "nf_conntrack_max"),
        ] {
            assert_eq!(path(key, "eth0.7").unwrap(), expected);
        }
        for (key, shown) in [
            ("kernel.hostname", "kernel/hostname"),
            ("net", "net"),
            ("net.", "net/"),
            ("netx.a", "netx/a"),
            ("/net/core/somaxconn", "/net/core/somaxconn"),
            ("net/../kernel/hostname", "net/../kernel/hostname"),
            ("net.//.kernel.hostname", "net/../kernel/hostname"),
            ("net.ipv4..a", "net/ipv4//a"),
        ] {
            assert_eq!(
                path(key, "eth0").unwrap_err().to_string(),
                format!("invalid net sysctl key: {shown:?}")
            );
        }
    }

    #[test]
    fn one_setting_under_two_keys_is_refused_and_one_of_args_goes_first() {
        let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let own = of(&[("net.core.somaxconn", "1"), ("net.ipv4.ip_forward", "1")]);

        let merged = sysctls(own, of(&[("net/core/somaxconn", "2")]));

        assert_eq!(merged, of(&[("net/core/somaxconn", "2"), ("net.ipv4.ip_forward", "1")]));
        assert!(
            refuse_twice(&[("a".into(), "1".into()), ("b".into(), "2".into()), ("a".into(), "3".into())])
                .is_err()
        );
    }
}
