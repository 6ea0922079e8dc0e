//! Given a host, when something is done and undone, then its snapshots tell.

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};

use super::*;
use crate::Host;
use crate::rtnl::{index_of, rtnl};

type Asked = Result<(), rtnetlink::Error>;

fn snapshot(host: &Host) -> Snapshot {
    Snapshot::of(host.netns(), &[host.root()]).unwrap()
}

fn ask(host: &Host, f: impl AsyncFnOnce(Handle) -> Asked + Send) {
    rtnl(host.netns(), "change the host", f).unwrap();
}

async fn index(handle: &Handle, name: &str) -> u32 {
    index_of(handle, name).await.unwrap().unwrap()
}

/// A bridge with a port that has a hairpin, an address, neighbours.
async fn build(handle: Handle) -> Asked {
    let link = handle.link();
    link.add(LinkBridge::new("br0").up().build()).execute().await?;
    link.add(LinkVeth::new("veth0", "veth1").build()).execute().await?;
    let bridge = index(&handle, "br0").await;
    link.change(LinkUnspec::new_with_name("veth0").controller(bridge).up().build()).execute().await?;
    let ip: IpAddr = "172.18.0.1".parse().unwrap();
    handle.address().add(bridge, ip, 16).execute().await?;
    let neighbour: IpAddr = "172.18.0.2".parse().unwrap();
    let mac = [2, 0x42, 172, 18, 0, 2];
    handle.neighbours().add(bridge, neighbour).link_layer_address(&mac).execute().await?;
    let port = index(&handle, "veth0").await;
    let fdb = handle.neighbours().add_bridge(port, &[2, 0x42, 9, 9, 9, 9]);
    fdb.state(NeighbourState::Permanent).flags(NeighbourFlags::Controller).execute().await
}

async fn demolish(handle: Handle) -> Asked {
    for name in ["veth0", "br0"] {
        handle.link().del(index(&handle, name).await).execute().await?;
    }
    Ok(())
}

#[test]
fn what_is_made_shows_and_what_is_undone_is_as_before() {
    let host = Host::new().unwrap();
    let before = snapshot(&host);
    ask(&host, build);
    let between = snapshot(&host);
    let diff = before.diff(&between).unwrap();
    for expected in [
        "+ link br0: kind \"bridge\" up mtu 1500 master - mac any",
        "+ link veth0: kind \"veth\" up mtu 1500 master br0",
        "+ port veth0: ",
        "+ address br0: 172.18.0.1/16 ",
        "+ route table 254: Unicast 172.18.0.0/16 dev br0 src 172.18.0.1",
        "+ neighbour br0: NeighbourFlags(0x0) 172.18.0.2 02:42:ac:12:00:02",
        "02:42:09:09:09:09",
        "mac of br0,veth0",
        "+ sysctl ipv4/conf/br0/route_localnet = 0",
    ] {
        assert!(diff.contains(expected), "{expected}\n{diff}");
    }
    assert!(!diff.contains("\n- "), "{diff}");
    ask(&host, demolish);
    assert_same(&before, &snapshot(&host));
}

#[test]
fn other_indexes_and_macs_make_no_difference() {
    let host = Host::new().unwrap();
    ask(&host, build);
    let first = snapshot(&host);
    ask(&host, demolish);
    ask(&host, build);
    assert_same(&first, &snapshot(&host));
}

#[test]
fn a_port_flag_a_sysctl_and_an_alias_make_a_difference() {
    let host = Host::new().unwrap();
    ask(&host, build);
    let before = snapshot(&host);
    let set = |key: &str| fs::write(Path::new("/proc/sys/net").join(key), "1").unwrap();
    host.run(|| set("ipv4/conf/br0/route_localnet")).unwrap();
    ask(&host, async |handle| {
        let alias = LinkUnspec::new_with_name("veth0").alias("rnet").build();
        handle.link().change(alias).execute().await
    });
    let diff = before.diff(&snapshot(&host)).unwrap();
    assert!(diff.contains("- sysctl ipv4/conf/br0/route_localnet = 0"), "{diff}");
    assert!(diff.contains("+ sysctl ipv4/conf/br0/route_localnet = 1"), "{diff}");
    assert!(diff.contains("alias \"rnet\""), "{diff}");
    assert_eq!(diff.lines().count(), 4, "{diff}");
}

#[test]
fn files_differ_by_name_mode_and_content() {
    let host = Host::new().unwrap();
    let write = |name: &str, text: &str| fs::write(host.root().join(name), text).unwrap();
    fs::create_dir(host.root().join("dir")).unwrap();
    write("dir/a", "one");
    write("b", "same");
    let before = snapshot(&host);
    write("dir/a", "two");
    write("c", "");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(host.root().join("b"), mode).unwrap();
    let diff = before.diff(&snapshot(&host)).unwrap();
    let root = host.root().display();
    for expected in [format!("- file {root}/dir/a: "), format!("+ file {root}/c: ")] {
        assert!(diff.contains(&expected), "{expected}\n{diff}");
    }
    assert!(diff.contains(&format!("+ file {root}/b: 600 4 bytes")), "{diff}");
    assert_eq!(diff.lines().count(), 5, "{diff}");
}

#[test]
fn a_pinned_namespace_is_a_mount() {
    let host = Host::new().unwrap();
    let before = snapshot(&host);
    let container = host.container("c1").unwrap();
    let diff = before.diff(&snapshot(&host)).unwrap();
    assert!(diff.contains("netns/c1: mount"), "{diff}");
    container.remove().unwrap();
    let diff = before.diff(&snapshot(&host)).unwrap();
    assert_eq!(diff, format!("+ file {}/netns: directory 755\n", host.root().display()));
}

#[test]
fn a_listener_shows_while_it_listens() {
    let host = Host::new().unwrap();
    let before = snapshot(&host);
    let listener = host.run(|| TcpListener::bind("127.0.0.1:53").unwrap()).unwrap();
    assert_eq!(before.diff(&snapshot(&host)).unwrap(), "+ socket tcp 127.0.0.1:53\n");
    drop(listener);
    assert_same(&before, &snapshot(&host));
}

const RULESET: &str = "
    table inet t {
        set s { type ipv4_addr . inet_service; elements = { 10.0.0.1 . 80 comment \"rnet:0123\" }; }
        chain c {
            type filter hook forward priority 0; policy accept;
            counter drop
            ip saddr 10.0.0.1 accept
        }
    }";

/// Loads a ruleset by nft; false, with less compared, where nft is not installed.
fn nft(host: &Host, ruleset: &str) -> bool {
    let installed = crate::has_program("nft");
    if installed {
        let output = host.command("nft").args(["-f", "-"]).input(ruleset).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    installed
}

#[test]
fn the_ruleset_shows_and_its_handles_do_not() {
    let host = Host::new().unwrap();
    let empty = snapshot(&host);
    if !nft(&host, RULESET) {
        return;
    }
    let loaded = snapshot(&host);
    let diff = empty.diff(&loaded).unwrap();
    for expected in [
        "+ table inet t:",
        "+ chain inet t c:",
        "+ set inet t s:",
        "+ element inet t s: {",
        "rnet:0123",
        "+ rule inet t c   1: {4:{1:counter",
        "+ rule inet t c   2: ",
    ] {
        assert!(diff.contains(expected), "{expected}\n{diff}");
    }
    assert!(nft(&host, &format!("flush ruleset; {RULESET}")));
    assert_same(&loaded, &snapshot(&host));
    assert!(nft(&host, "flush ruleset"));
    assert_same(&empty, &snapshot(&host));
}

#[test]
fn counters_do_not_count_but_elements_and_the_order_of_rules_do() {
    let host = Host::new().unwrap();
    if !nft(&host, RULESET) {
        return;
    }
    let loaded = snapshot(&host);
    nft(&host, "add element inet t s { 10.0.0.2 . 80 }");
    let diff = loaded.diff(&snapshot(&host)).unwrap();
    assert!(diff.starts_with("+ element inet t s: ") && diff.lines().count() == 1, "{diff}");
    let swapped = RULESET.replace("counter drop", "").replace("accept\n", "accept\ncounter drop\n");
    nft(&host, &format!("flush ruleset; {swapped}"));
    let diff = loaded.diff(&snapshot(&host)).unwrap();
    assert_eq!(diff.lines().count(), 4, "{diff}");
    let counted = RULESET.replace("counter drop", "counter packets 7 bytes 700 drop");
    nft(&host, &format!("flush ruleset; {counted}"));
    assert_same(&loaded, &snapshot(&host));
}

#[test]
#[should_panic(expected = "+ file")]
fn assert_same_shows_the_difference() {
    let host = Host::new().unwrap();
    let before = snapshot(&host);
    fs::write(host.root().join("left-over"), "x").unwrap();
    assert_same(&before, &snapshot(&host));
}

#[test]
fn equal_lines_are_counted() {
    let one = Snapshot { lines: vec!["x".into()] };
    let two = Snapshot { lines: vec!["x".into(), "x".into()] };
    assert_eq!(one.diff(&two).as_deref(), Some("+ x\n"));
    assert_eq!(two.diff(&one).as_deref(), Some("- x\n"));
    assert_eq!(one.diff(&one), None);
}
