//! host-local: its files byte for byte, its choice of addresses, its refusals (docs/rules.md: H1 to H4, G6).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{Disk, Host, Outcome, Who, entries, rnet, with};

const FOLDER: &str = "var/lib/cni/networks/n";

fn network(ipam: Value) -> Value {
    with(
        &json!({"cniVersion": "1.1.0", "name": "n", "type": "x"}),
        json!({"ipam": with(&json!({"type": "host-local"}), ipam)}),
    )
}

fn one(subnet: &str) -> Value {
    network(json!({"ranges": [[{"subnet": subnet}]]}))
}

fn who(id: &str) -> Who {
    Who::named(id, "/run/netns/none")
}

/// The addresses that an ADD for `id` gives.
#[track_caller]
fn lease(host: &Host, id: &str, config: &Value) -> Vec<String> {
    let result = host.add("host-local", &who(id), config);
    result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}

fn refused(host: &Host, id: &str, config: &Value) -> (u64, String) {
    host.cni("ADD", "host-local", &who(id), config).refusal()
}

fn path(host: &Host, name: &str) -> PathBuf {
    host.root().join(FOLDER).join(name)
}

/// Name, mode and content of every file, sorted.
fn files(host: &Host) -> Vec<(String, u32, String)> {
    let mut files: Vec<_> = entries(&host.root().join(FOLDER))
        .into_iter()
        .map(|path| {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, mode, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn file(name: &str, mode: u32, text: &str) -> (String, u32, String) {
    (name.into(), mode, text.into())
}

#[test]
fn the_folder_is_upstreams_byte_for_byte() {
    let host = Host::new();
    let config = network(json!({"ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]}));
    assert_eq!(lease(&host, "c1", &config), ["10.9.0.2/24", "fd09::2/64"]);
    let made = [
        file("10.9.0.2", 0o600, "c1\r\neth0"),
        file("fd09::2", 0o600, "c1\r\neth0"),
        file("last_reserved_ip.0", 0o600, "10.9.0.2"),
        file("last_reserved_ip.1", 0o600, "fd09::2"),
        file("lock", 0o750, ""),
    ];
    assert_eq!(files(&host), made);
    let folder = fs::metadata(host.root().join(FOLDER)).unwrap();
    assert_eq!(folder.permissions().mode() & 0o7777, 0o755);

    host.del("host-local", &who("c1"), &config);

    assert_eq!(files(&host), made[2..]);
    host.del("host-local", &who("c1"), &config);
}

#[test]
fn the_next_address_comes_after_the_last_and_wraps() {
    let host = Host::new();
    let config = one("10.9.0.0/29");
    for (id, address) in [("a", "10.9.0.2/29"), ("b", "10.9.0.3/29"), ("c", "10.9.0.4/29")] {
        assert_eq!(lease(&host, id, &config), [address]);
    }
    host.del("host-local", &who("a"), &config);
    for (id, address) in [("d", "10.9.0.5/29"), ("e", "10.9.0.6/29"), ("f", "10.9.0.2/29")] {
        assert_eq!(lease(&host, id, &config), [address]);
    }
}

#[test]
fn a_full_range_is_told_by_add_and_status_until_something_is_free() {
    let host = Host::new();
    let config = one("10.9.0.0/29");
    let status = || host.cni("STATUS", "host-local", &who(""), &config);
    for id in ["a", "b", "c", "d", "e"] {
        status().silent();
        lease(&host, id, &config);
    }
    let full = "no IP addresses available in range set: 10.9.0.1-10.9.0.6";
    assert_eq!(refused(&host, "f", &config), (100, format!("failed to allocate for range 0: {full}")));
    assert_eq!(status().refusal(), (50, full.into()));

    host.del("host-local", &who("c"), &config);

    status().silent();
    assert_eq!(lease(&host, "f", &config), ["10.9.0.4/29"]);
}

#[test]
fn asked_addresses_are_given_wherever_they_are_asked_for() {
    let host = Host::new();
    let config = network(json!({"ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]}));
    let runtime = with(&config, json!({"runtimeConfig": {"ips": ["10.9.0.50/24", "fd09::50"]}}));
    assert_eq!(lease(&host, "a", &runtime), ["10.9.0.50/24", "fd09::50/64"]);
    let args = with(&config, json!({"args": {"cni": {"ips": ["10.9.0.51"]}}}));
    assert_eq!(lease(&host, "b", &args)[0], "10.9.0.51/24");
    let union = with(
        &args,
        json!({"runtimeConfig": {"ips": ["fd09::52"]}, "args": {"cni": {"ips": ["10.9.0.52", "10.9.0.52"]}}}),
    );
    // CNI_ARGS counts only where nothing else is asked for.
    let caller = who("c").args("IP=10.9.0.99");
    let both = host.add("host-local", &caller, &union);
    assert_eq!(
        (&both["ips"][0]["address"], &both["ips"][1]["address"]),
        (&json!("10.9.0.52/24"), &json!("fd09::52/64"))
    );
    let by_args = host.add("host-local", &who("d").args("IP=10.9.0.53,fd09::53"), &config);
    assert_eq!(by_args["ips"][1]["address"], "fd09::53/64");
}

#[test]
fn an_asked_address_that_cannot_be_given_is_refused_in_upstreams_words() {
    let host = Host::new();
    let config = one("10.9.0.0/24");
    let asking = |ip: &str| with(&config, json!({"runtimeConfig": {"ips": [ip]}}));
    lease(&host, "a", &asking("10.9.0.3"));
    let cases = [
        ("10.9.0.1", 101, "failed to allocate for range 0: requested ip 10.9.0.1 is subnet's gateway"),
        (
            "10.9.0.3",
            101,
            "failed to allocate for range 0: requested IP address 10.9.0.3 is not available in range set 10.9.0.1-10.9.0.254",
        ),
        ("10.0.9.1", 101, "failed to allocate all requested IPs: 10.0.9.1"),
        ("bad", 7, "invalid IP address bad"),
    ];
    for (ip, code, text) in cases {
        assert_eq!(refused(&host, "b", &asking(ip)), (code, text.into()));
    }
    let duplicate = "failed to allocate for range 0: 10.9.0.3 has been allocated to a, duplicate allocation is not allowed";
    assert_eq!(refused(&host, "a", &config), (103, duplicate.into()));
    assert_eq!(refused(&host, "a", &asking("10.9.0.9")), (103, duplicate.into()));
    assert_eq!(files(&host).len(), 3);
}

#[test]
fn all_range_sets_or_none() {
    let host = Host::new();
    let config = network(json!({"ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "10.8.0.0/30"}]]}));
    lease(&host, "a", &config);
    assert_eq!(
        refused(&host, "b", &config),
        (
            100,
            "failed to allocate for range 1: no IP addresses available in range set: 10.8.0.1-10.8.0.2"
                .into()
        )
    );
    assert_eq!(files(&host).iter().filter(|file| file.2.contains('b')).count(), 0);
}

#[test]
fn wrong_ranges_are_refused_in_upstreams_words() {
    let host = Host::new();
    let cases = [
        (json!({"ranges": []}), "no IP ranges specified"),
        (json!({}), "no IP ranges specified"),
        (
            json!({"subnet": "10.0.0.1/24"}),
            "invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0",
        ),
        (
            json!({"subnet": "10.0.0.0/31"}),
            "invalid range set 0: Network 10.0.0.0/31 too small to allocate from",
        ),
        (
            json!({"subnet": "10.0.0.0/32"}),
            "invalid range set 0: Network 10.0.0.0/32 too small to allocate from",
        ),
        (
            json!({"subnet": "fd00::/127"}),
            "invalid range set 0: Network fd00::/127 too small to allocate from",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}),
            "invalid range set 0: RangeStart 10.0.1.1 not in network 10.0.0.0/24",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.1"}),
            "invalid range set 0: RangeEnd 10.0.1.1 not in network 10.0.0.0/24",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.5"}),
            "invalid range set 0: RangeStart 10.0.0.9 not in network 10.0.0.0/24",
        ),
        (json!({"ranges": [[]]}), "invalid range set 0: empty range set"),
        (
            json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}),
            "invalid range set 0: mixed address families",
        ),
        (
            json!({"ranges": [[{"subnet": "10.1.0.0/22"}, {"subnet": "10.1.2.0/24"}]]}),
            "invalid range set 0: subnets 10.1.0.1-10.1.3.254 and 10.1.2.1-10.1.2.254 overlap",
        ),
        (
            json!({"ranges": [[{"subnet": "10.1.0.0/22"}], [{"subnet": "10.1.2.0/24"}]]}),
            "range set 0 overlaps with 1",
        ),
    ];
    for (ipam, text) in cases {
        assert_eq!(refused(&host, "a", &network(ipam)), (7, text.into()));
    }
    let none = json!({"cniVersion": "1.0.0", "name": "n", "type": "x"});
    assert_eq!(refused(&host, "a", &none), (7, "IPAM config missing 'ipam' key".into()));
}

#[test]
fn routes_and_resolver_settings_are_passed_on() {
    let host = Host::new();
    let resolv = host.root().join("resolv.conf");
    fs::write(
        &resolv,
        "# c\nnameserver 10.9.0.1\nnameserver fd09::1\ndomain d\nsearch a b\noptions ndots:2\n",
    )
    .unwrap();
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.9.0.9", "priority": 7, "table": 0, "mtu": 1400}]);
    let config = network(
        json!({"subnet": "10.9.0.0/24", "gateway": "10.9.0.254", "routes": routes, "resolvConf": resolv}),
    );
    let result = host.add("host-local", &who("a"), &config);
    assert_eq!(result["ips"], json!([{"address": "10.9.0.1/24", "gateway": "10.9.0.254"}]));
    assert_eq!(result["routes"], routes);
    let dns = json!({"nameservers": ["10.9.0.1", "fd09::1"], "domain": "d", "search": ["a", "b"], "options": ["ndots:2"]});
    assert_eq!(result["dns"], dns);

    let missing = network(json!({"subnet": "10.9.0.0/24", "resolvConf": "/nowhere"}));
    assert_eq!(refused(&host, "b", &missing).1, "open /nowhere: no such file or directory");
    assert_eq!(files(&host).len(), 3);
}

#[test]
fn a_data_folder_of_ones_own_and_ranges_of_the_runtime() {
    let host = Host::new();
    let config = network(json!({"dataDir": "/var/run/cni", "ranges": [[{"subnet": "10.9.0.0/24"}]]}));
    let runtime =
        json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24", "rangeStart": "10.7.0.7"}]]}});
    assert_eq!(lease(&host, "a", &with(&config, runtime)), ["10.7.0.7/24", "10.9.0.2/24"]);
    assert_eq!(host.read("var/run/cni/n/10.7.0.7").as_deref(), Some("a\r\neth0"));
    // A DEL needs to know where, nothing else.
    let bare = network(json!({"dataDir": "/var/run/cni", "ranges": "nonsense"}));
    host.del("host-local", &who("a"), &bare);
    assert_eq!(host.read("var/run/cni/n/10.7.0.7"), None);
}

#[test]
fn check_needs_a_lease_of_this_container() {
    let host = Host::new();
    let config = one("10.9.0.0/24");
    let result = host.add("host-local", &who("a"), &config);
    let config = with(&config, json!({"prevResult": result}));
    host.cni("CHECK", "host-local", &who("a"), &config).silent();
    let text = "host-local: Failed to find address added by container b";
    assert_eq!(host.cni("CHECK", "host-local", &who("b"), &config).refusal().1, text);
}

/// Another host's files, or what a power cut left: neither blocks a range for ever.
#[test]
fn empty_and_garbage_files_are_free_and_old_ones_are_released() {
    let host = Host::new();
    let config = one("10.9.0.0/29");
    fs::create_dir_all(host.root().join(FOLDER)).unwrap();
    for last in 2..=6 {
        fs::write(path(&host, &format!("10.9.0.{last}")), "").unwrap();
    }
    host.cni("STATUS", "host-local", &who(""), &config).silent();
    assert_eq!(lease(&host, "a", &config), ["10.9.0.2/29"]);

    fs::remove_file(path(&host, "10.9.0.5")).unwrap();
    fs::write(path(&host, "10.9.0.5"), "old").unwrap();
    host.del("host-local", &who("old"), &config);
    assert!(!path(&host, "10.9.0.5").exists());
}

#[test]
fn a_link_planted_in_the_folder_leads_nowhere() {
    let host = Host::new();
    let config = one("10.9.0.0/24");
    let victim = host.root().join("victim");
    fs::write(&victim, "a\r\neth0").unwrap();
    fs::create_dir_all(host.root().join(FOLDER)).unwrap();
    symlink(&victim, path(&host, "10.9.0.2")).unwrap();

    let given: Outcome = host.cni("ADD", "host-local", &who("a"), &config);
    let freed = host.cni("DEL", "host-local", &who("a"), &config);
    let collected =
        host.cni("GC", "host-local", &who(""), &with(&config, json!({"cni.dev/valid-attachments": []})));

    assert_eq!(fs::read_to_string(&victim).unwrap(), "a\r\neth0", "{given:?} {freed:?} {collected:?}");
}

#[test]
fn a_file_planted_by_a_hard_link_is_not_written_and_its_address_not_given() {
    let host = Host::new();
    let config = one("10.9.0.0/24");
    let victim = host.root().join("victim");
    fs::write(&victim, "secret").unwrap();
    fs::create_dir_all(host.root().join(FOLDER)).unwrap();
    for name in ["last_reserved_ip.0", "10.9.0.2", "10.9.0.4"] {
        fs::hard_link(&victim, path(&host, name)).unwrap();
    }

    assert_eq!(lease(&host, "a", &config), ["10.9.0.3/24"]);
    assert_eq!(lease(&host, "b", &config), ["10.9.0.5/24"]);

    assert_eq!(fs::read_to_string(&victim).unwrap(), "secret");
    assert!(files(&host).contains(&file("last_reserved_ip.0", 0o600, "10.9.0.5")));
}

#[test]
fn a_folder_that_is_a_link_is_refused() {
    let host = Host::new();
    let elsewhere = host.root().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    let folder = host.root().join(FOLDER);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    symlink(&elsewhere, &folder).unwrap();

    let (code, text) = refused(&host, "a", &one("10.9.0.0/24"));

    assert!(code == 5 && text.contains(FOLDER), "{code} {text}");
    assert!(entries(&elsewhere).is_empty());
}

#[test]
fn gc_frees_what_belongs_to_no_valid_attachment() {
    let host = Host::new();
    let config = one("10.9.0.0/24");
    for id in ["a", "b", "c"] {
        lease(&host, id, &config);
    }
    fs::write(path(&host, "10.9.0.77"), "foreign\r\neth0").unwrap();
    let valid = json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth1"}]);
    host.cni("GC", "host-local", &who(""), &with(&config, json!({"cni.dev/valid-attachments": valid})))
        .silent();
    let left: Vec<String> = files(&host).into_iter().map(|file| file.0).collect();
    assert_eq!(left, ["10.9.0.2", "last_reserved_ip.0", "lock"]);
}

#[test]
fn gc_without_a_list_frees_only_the_provably_dead() {
    let host = Host::new();
    let config = one("10.9.0.0/24");
    let (living, alive) = host.container("living");
    let (dying, dead) = host.container("dying");
    host.add("host-local", &alive, &config);
    host.add("host-local", &dead, &config);
    fs::write(path(&host, "10.9.0.77"), "foreign\r\neth0").unwrap();
    dying.remove().unwrap();
    drop(dying);

    host.cni("GC", "host-local", &who(""), &config).silent();

    let left: Vec<String> = files(&host).into_iter().map(|file| file.0).collect();
    assert_eq!(left, ["10.9.0.2", "10.9.0.77", "last_reserved_ip.0", "lock"]);
    drop(living);
}

/// Before 0.3.0 a result has room for one address of each family.
#[test]
fn old_versions_know_one_address_of_each_family() {
    let host = Host::new();
    let config = network(json!({"ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "10.8.0.0/24"}]]}));
    let old = with(&config, json!({"cniVersion": "0.2.0"}));
    assert_eq!(
        refused(&host, "a", &old),
        (7, "CNI version 0.2.0 does not support more than 1 address per family".into())
    );
    assert!(files(&host).is_empty());
    host.del("host-local", &who("a"), &old);
    assert_eq!(lease(&host, "a", &config).len(), 2);
}

/// CHECK and STATUS change nothing, and where there is no folder there is nothing to free.
#[test]
fn only_add_makes_the_folder() {
    let host = Host::new();
    let config = one("10.9.0.0/24");
    let networks = host.root().join("var/lib/cni/networks");
    let previous = json!({"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24"}]}});

    let checked = host.cni("CHECK", "host-local", &who("a"), &with(&config, previous)).refusal();
    assert_eq!(checked, (107, "host-local: Failed to find address added by container a".into()));
    host.cni("STATUS", "host-local", &who(""), &config).silent();
    host.cni("GC", "host-local", &who(""), &with(&config, json!({"cni.dev/valid-attachments": []}))).silent();
    host.del("host-local", &who("a"), &config);
    assert!(!networks.exists());

    let own = rnet("n", &["172.18.0.0/24"]);
    host.cni("STATUS", "rnet", &who(""), &own).silent();
    host.del("rnet", &who("a"), &own);
    assert!(!host.run_folder().join("leases").exists());
    lease(&host, "a", &config);
}

#[test]
fn a_del_of_nothing_succeeds_where_nothing_can_be_written() {
    let host = Host::new();
    let disk = Disk::mount(host.root().join("var/lib"));
    disk.read_only(true);
    host.del("host-local", &who("a"), &one("10.9.0.0/24"));
}
