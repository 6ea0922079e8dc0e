//! Programs of `rnet run` and `exec`: how they start, end and are cleaned up.

use netns_fixtures::assert_same;
use rustix::process::Signal;

use crate::common::{Host, is_dead, signal, wait_until};
use crate::shell::started;

#[test]
fn a_program_gets_no_descriptor_that_the_caller_left_open() {
    let host = Host::forwarding();
    host.ok("create mynet");
    let list = host.root().join("list");
    let look = format!("'readlink /proc/self/fd/* > {} ; sleep 1000'", list.display());
    let leaking = |line: &str| {
        let script = format!("exec 7</etc/passwd 9</etc/group; exec {} {line}", env!("CARGO_BIN_EXE_rnet"));
        let output =
            host.command("sh").env("CNI_PATH", host.installed_plugins()).args(["-c", &script]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let is_leaked = |list: &str| list.contains("/etc/passwd") || list.contains("/etc/group");

    leaking(&format!("run -d --name web --net mynet sh -c {look}"));
    wait_until("the list is written", || {
        std::fs::read_to_string(&list).is_ok_and(|list| list.contains("null"))
    });
    let seen = [
        std::fs::read_to_string(&list).unwrap(),
        leaking("exec web sh -c 'readlink /proc/self/fd/*'"),
        leaking("run --net mynet sh -c 'readlink /proc/self/fd/*'"),
        leaking("run --net host sh -c 'readlink /proc/self/fd/*'"),
    ];

    assert!(seen.iter().all(|list| !list.is_empty() && !is_leaked(list)), "{seen:#?}");
    let everybodys = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
        let environ = std::fs::read(process.path().join("environ")).ok()?;
        let root = format!("RNET_ROOT={}\0", host.root().display());
        String::from_utf8_lossy(&environ).contains(&root).then(|| process.path().join("fd"))
    });
    let open = everybodys.flat_map(|fds| std::fs::read_dir(fds).into_iter().flatten().flatten());
    let open: Vec<String> =
        open.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string())).collect();
    assert!(!open.is_empty() && !open.iter().any(|path| is_leaked(path)), "{open:#?}");
}

#[test]
fn a_program_in_the_foreground_gives_its_status_and_leaves_nothing() {
    let host = Host::forwarding();
    let before = host.network_snapshot();
    assert_eq!(host.script("run --name web", "exit 7").status, 7);
    assert_eq!(host.script("run --name web", "kill -KILL $$").status, 137);
    let hosts = host.script("run --name web", "cat /etc/hosts; echo; cat /proc/net/route | wc -l");
    assert!(hosts.stdout.contains("172.18.0.2\tweb\n") && hosts.stdout.ends_with("\n3\n"), "{hosts:?}");
    host.fails(
        "run /no/such/program",
        127,
        "error: cannot execute \"/no/such/program\": no such file or directory\n",
    );
    host.fails("run /etc", 126, "error: cannot execute \"/etc\": permission denied\n");
    host.fails(
        "run -d nosuchprogram",
        127,
        "error: cannot execute \"nosuchprogram\": no such file or directory\n \
         hint: no image is needed: rnet run PROGRAM [ARGUMENT]...\n",
    );
    host.nobody_is_left();
    assert_same(&before, &host.network_snapshot());
}

#[test]
fn an_interrupted_run_is_cleaned_up_however_it_was_interrupted() {
    let host = Host::forwarding();
    let before = host.network_snapshot();
    for ending in [Signal::TERM, Signal::INT, Signal::KILL] {
        let mut run = started(host.program("run --name web"), "echo ready; exec sleep 1000");
        let pid = host.pid("web");
        signal(run.id(), ending);
        run.wait().unwrap();
        wait_until("the program has ended", || is_dead(pid));
        wait_until("the endpoint is gone", || host.ok("ps -q").is_empty());
        host.nobody_is_left();
        assert_same(&before, &host.network_snapshot());
    }
}

#[test]
fn a_signal_is_passed_on_and_run_ends_with_its_program_after_the_clean_up() {
    let host = Host::forwarding();
    let before = host.network_snapshot();
    for ending in [Signal::TERM, Signal::INT] {
        let script = "trap 'exit 3' TERM INT; echo ready; while :; do sleep 0.01; done";
        let mut run = started(host.program("run --name web"), script);
        signal(run.id(), ending);
        assert_eq!(run.wait().unwrap().code(), Some(3));
        assert_same(&before, &host.network_snapshot());
    }
    host.nobody_is_left();
}

#[test]
fn none_host_and_several_networks() {
    let host = Host::forwarding();
    host.ok("create one");
    host.ok("create two");
    let links = "cut -d: -f1 -s /proc/net/dev | tr -d ' ' | sort | tr '\\n' ' '";
    assert_eq!(host.script("run --net none", links).stdout, "lo ");
    assert_eq!(host.script("run --net one --net two", links).stdout, "eth0 eth1 lo ");
    let own = host.netns().id().ino;
    let said = host.script("run --net host -p 8080:80", "readlink /proc/self/ns/net");
    assert_eq!(said.stdout, format!("net:[{own}]\n"));
    assert_eq!(said.stderr, "warning: \"host\" publishes no ports, -p has no effect\n");
    host.nobody_is_left();
}

#[test]
fn exec_becomes_the_program() {
    let host = Host::forwarding();
    host.ok("run -d --name web sleep 1000");
    assert_eq!(host.script("exec web", "exit 9").status, 9);
    host.fails(
        "exec web nosuchprogram",
        127,
        "error: cannot execute \"nosuchprogram\": no such file or directory\n",
    );
    // A program that expects SIGPIPE to end it must not find it ignored.
    let ignored = host.script("exec web", "grep SigIgn /proc/self/status");
    let ignored = ignored.stdout.split_whitespace().nth(1).map(|mask| u64::from_str_radix(mask, 16).unwrap());
    assert_eq!(ignored.map(|mask| mask & 1 << 12), Some(0));
    let netns = host.script("exec web", "readlink /proc/self/ns/net").stdout;
    assert_eq!(netns, host.script("exec web", &format!("readlink /proc/{}/ns/net", host.pid("web"))).stdout);
    host.ok("stop web");
}

#[test]
fn stop_kills_what_does_not_end() {
    let host = Host::forwarding();
    let ready = host.root().join("ready");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 1000; done", ready.display());
    assert_eq!(host.script("run -d --name web", &script).stdout, "web\n");
    wait_until("the trap is set", || ready.exists());
    assert_eq!(host.ok("stop -t 0 web"), "web\n");
    host.nobody_is_left();
}

#[test]
fn an_endpoint_whose_supervisor_was_killed_is_removed_by_stop_rm_or_its_name() {
    let host = Host::forwarding();
    host.ok("create mynet");
    for end in ["stop web", "rm -f web", "run -d --name web --net mynet sleep 1000"] {
        host.ok("run -d --name web --net mynet sleep 1000");
        let program = host.pid("web");
        host.supervisors().into_iter().for_each(|pid| signal(pid, Signal::KILL));
        wait_until("the supervisor is dead", || host.supervisors().is_empty());
        if end.starts_with("run") {
            host.fails(
                end,
                4,
                &format!(
                    "error: endpoint with name web already exists (pid {program})\n hint: rnet stop web\n"
                ),
            );
            signal(program, Signal::KILL);
            wait_until("the program is dead", || is_dead(program));
        }
        assert_eq!(host.ok(end), "web\n");
        let _ = host.rnet("stop web");
        host.nobody_is_left();
    }
}

#[test]
fn an_endpoint_that_nobody_cares_for_keeps_no_address_no_port_and_no_network() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.7.0.0/30 tiny");
    for next in ["run --net tiny -p 8080:80 true", "rm tiny"] {
        host.ok("run -d --name web --net tiny -p 8080:80 sleep 1000");
        let program = host.pid("web");
        for pid in host.supervisors().into_iter().chain([program]) {
            signal(pid, Signal::KILL);
        }
        wait_until("all are dead", || host.supervisors().is_empty() && is_dead(program));
        assert!(host.ok("ps").contains(&format!("pid {program} (dead)")), "{}", host.ok("ps"));
        host.ok(next);
        host.nobody_is_left();
    }
}

/// As `ip netns exec` shows it; the machine's own links are no business of theirs.
#[test]
fn programs_see_the_links_of_their_endpoint_below_sys() {
    let host = Host::forwarding();
    host.ok("create --subnet 10.9.0.0/24 --mtu 1400 lab");
    let script = "ls -x /sys/class/net; cat /sys/class/net/eth0/mtu";
    let seen = |line: &str| host.script(line, script).stdout.split_whitespace().collect::<Vec<_>>().join(" ");

    assert_eq!(seen("run --name web --net lab"), "eth0 lo 1400");
    host.ok("run -d --name db --net lab sleep 1000");
    assert_eq!(seen("exec db"), "eth0 lo 1400");
    assert_eq!(host.script("run --net none", "ls /sys/class/net").stdout, "lo\n");
    // Limits are looked up there.
    let groups = host.command("ls").arg("/sys/fs/cgroup").output().unwrap().stdout;
    assert_eq!(host.script("exec db", "ls /sys/fs/cgroup").stdout.into_bytes(), groups);
    host.ok("stop db");
}

/// Another runtime calls GC with its own list, in which nothing of `rnet run` is.
#[test]
fn a_runtimes_gc_spares_what_run_made_and_says_what_it_removed() {
    let host = Host::forwarding();
    host.ok("create mynet");
    host.ok("run -d --name web --net mynet sleep 1000");
    host.ok(&format!("install {}", host.installed_plugins().display()));
    let text = std::fs::read_to_string(host.definitions().join("rnet-mynet.conflist")).unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["disableGC"], true);
    let mut config = list["plugins"][0].clone();
    config["name"] = "mynet".into();
    config["cniVersion"] = "1.1.0".into();
    let call = |verb: &str, id: &str, netns: &str, config: &serde_json::Value| {
        let plugin = host.command(host.installed_plugins().join("rnet")).env("RNET_ROOT", host.root());
        let path = host.installed_plugins().display().to_string();
        let plugin = plugin.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id).env("CNI_NETNS", netns);
        let called =
            plugin.env("CNI_IFNAME", "eth0").env("CNI_PATH", path).input(config.to_string()).output();
        let called = called.unwrap();
        assert!(called.status.success(), "{called:?}");
        String::from_utf8(called.stderr).unwrap()
    };
    let foreign = host.container("foreign").0;
    call("ADD", "foreign", &foreign.path().display().to_string(), &config);
    // Without the counters of traffic.
    let row = |name: &str| -> Vec<String> {
        let table = host.ok("ps");
        let row = table.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        row.split_whitespace().take(4).map(str::to_owned).collect()
    };
    let web = row("web");
    config["cni.dev/valid-attachments"] = serde_json::json!([]);

    let told = call("GC", "", "", &config);

    assert!(told.contains("foreign") && told.contains("mynet") && !told.contains("web"), "{told}");
    assert_eq!(row("web"), web);
    host.ok("run -d --name db --net mynet sleep 1000");
    assert!(row("db").contains(&"172.18.0.3".to_owned()), "web keeps its lease: {:?}", row("db"));
    host.ok("rm -f web db");
}
