//! resolv.conf and hosts of a program, whatever becomes of the host's.

use crate::common::Host;

/// A line of shell that gives a host's /etc of this test's own, then `run`s and `exec`s, with what happens to the
/// host's files between; `$RNET` is the command, `$T` a folder of this test's.
fn in_own_etc(host: &Host, script: &str) -> String {
    let folder = host.root().join("t");
    std::fs::create_dir_all(&folder).unwrap();
    let prepare = "set -e
        mkdir -p $T/etc/folder
        cp /etc/passwd /etc/nsswitch.conf $T/etc/
        echo host > $T/etc/hosts; echo before > $T/etc/folder/file; ln -s folder/file $T/etc/link
        mount --bind $T/etc /etc\n";
    let program = host.command("unshare").args(["--mount", "sh", "-c", &format!("{prepare}{script}")]);
    let program = program.env("T", &folder).env("RNET", env!("CARGO_BIN_EXE_rnet"));
    let output = program.env("CNI_PATH", host.installed_plugins()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

const OWN: &str = "nameserver 10.9.0.1\nsearch dns.rnet\n";

/// DHCP and VPNs write another file and rename it.
#[test]
fn a_running_program_keeps_its_files_when_the_hosts_are_replaced() {
    let links = [
        ("a file", "echo nameserver 192.0.2.1 > /etc/resolv.conf", "/etc/resolv.conf"),
        (
            "a link as systemd-resolved's",
            "mkdir -p $T/run; echo nameserver 127.0.0.53 > $T/run/stub; ln -s $T/run/stub /etc/resolv.conf",
            "$T/run/stub",
        ),
        (
            "a link that is replaced by a file",
            "mkdir -p $T/run; echo nameserver 127.0.0.53 > $T/run/stub; ln -s $T/run/stub /etc/resolv.conf",
            "/etc/resolv.conf",
        ),
        ("no file", "true", "/etc/resolv.conf"),
        ("a link that leads nowhere", "ln -s $T/nowhere /etc/resolv.conf", "$T/nowhere"),
    ];
    for (what, prepare, replaced) in links {
        let host = Host::forwarding();
        host.ok("create --subnet 10.9.0.0/24 mynet");
        let script = format!(
            "{prepare}
            $RNET run --name web --net mynet sh -c '
                cat /etc/resolv.conf; touch $T/ready
                while [ ! -e $T/replaced ]; do sleep 0.02; done
                cat /etc/resolv.conf /etc/hosts' > $T/out &
            while [ ! -e $T/ready ]; do sleep 0.02; done
            for round in 1 2 3; do
                echo nameserver 192.0.2.66 > $T/new; mv $T/new {replaced}
                echo foreign > $T/new; mv $T/new /etc/hosts
                $RNET exec web cat /etc/resolv.conf
            done
            touch $T/replaced; wait; cat $T/out; cat /etc/resolv.conf",
        );
        let said = in_own_etc(&host, &script);
        let hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.9.0.2\tweb\n";
        let expected = format!("{}{OWN}{hosts}nameserver 192.0.2.66\n", OWN.repeat(4));
        assert_eq!(said, expected, "{what}");
    }
}

#[test]
fn everything_else_in_etc_is_the_hosts() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 mynet");
    let script = "
        echo nameserver 192.0.2.1 > /etc/resolv.conf
        cd $T
        $RNET run --net mynet sh -c '
            pwd; ls /etc; cat /etc/link; echo by the program > /etc/folder/file; cmp /etc/passwd $T/etc/passwd
            touch /etc/new 2>&1; echo added >> /etc/hosts; tail -n 1 /etc/hosts'
        cat /etc/folder/file; cat /etc/hosts; ls /etc";
    let said = in_own_etc(&host, script);
    let expected = format!(
        "{}\nfolder\nhosts\nlink\nnsswitch.conf\npasswd\nresolv.conf\nbefore\n\
         touch: cannot touch '/etc/new': Read-only file system\nadded\nby the program\nhost\n\
         folder\nhosts\nlink\nnsswitch.conf\npasswd\nresolv.conf\n",
        host.root().join("t").display()
    );
    assert_eq!(said, expected);
}

/// Options that say how to look names up; others are about the file, or about what nobody does any more.
#[test]
fn the_hosts_options_are_passed_on_where_they_concern_lookups() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 mynet");
    host.ok("create --subnet 10.8.0.0/24 --no-dns bare");
    let script = "
        printf 'nameserver 192.0.2.1\\noptions ndots:2 debug timeout:1\\noptions edns0 no-reload trust-ad ndots:3\\n' \\
            > /etc/resolv.conf
        $RNET run --net mynet cat /etc/resolv.conf
        $RNET run --net bare cat /etc/resolv.conf | head -n 1";
    let said = in_own_etc(&host, script);
    assert_eq!(said, format!("{OWN}options timeout:1 edns0 trust-ad ndots:3\nnameserver 192.0.2.1\n"));
}

/// It is told before anything is done.
#[test]
fn a_name_that_cannot_be_looked_up_is_told() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 mynet");
    let refused = host.rnet("run --net mynet --network-alias localhost true");
    assert!(refused.status == 2 && refused.stderr.contains("own loopback"), "{refused:?}");
    let long = "x".repeat(64);
    for name in [long.as_str(), "localhost"] {
        let said = host.rnet(&format!("run --name {name} --net mynet true"));
        let expected = format!("warning: no other container can look up the name {name:?}: ");
        assert!(said.status == 0 && said.stderr.starts_with(&expected), "{said:?}");
    }
    assert_eq!(host.rnet("run --name web.1 --net mynet true").stderr, "");
}
