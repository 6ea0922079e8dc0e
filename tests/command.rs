//! The command as a person uses it: the built program on a throw-away host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use netlink::Netns;
use netns_fixtures::{Host, HttpServer, Program, Snapshot, assert_same, http_get};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(10);

/// A host on which `rnet` is typed.
struct Lab {
    host: Host,
}

/// What a command has said.
#[derive(Debug)]
struct Said {
    stdout: String,
    stderr: String,
    exit: i32,
}

impl Lab {
    fn new() -> Self {
        let host = Host::new().unwrap();
        // The first network turns it on, and it stays on; whether it is on before is the machine's business.
        host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
        Self { host }
    }

    fn program(&self, line: &str) -> Program<'_> {
        // Plugins of the machine are none of this host's.
        let program = self.host.command(env!("CARGO_BIN_EXE_rnet")).env("CNI_PATH", self.plugins());
        program.args(line.split_whitespace())
    }

    /// Types `rnet LINE`.
    fn rnet(&self, line: &str) -> Said {
        said(self.program(line))
    }

    /// Types a line whose last word is a shell script.
    fn script(&self, line: &str, script: &str) -> Said {
        said(self.program(line).args(["sh", "-c", script]))
    }

    /// What a line that succeeds prints.
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let said = self.rnet(line);
        assert_eq!(said.exit, 0, "rnet {line}: {said:?}");
        said.stdout
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    #[track_caller]
    fn fails(&self, line: &str, exit: i32, stderr: &str) {
        let said = self.rnet(line);
        assert_eq!((said.exit, said.stderr.as_str()), (exit, stderr), "rnet {line}: {said:?}");
    }

    fn plugins(&self) -> PathBuf {
        self.host.root().join("opt/cni/bin")
    }

    fn definitions(&self) -> PathBuf {
        self.host.root().join("etc/cni/net.d")
    }

    /// The pid of an endpoint's program, which may be some moments older than what is written down of it.
    fn pid(&self, endpoint: &str) -> u32 {
        let mut pid = None;
        wait_until("the pid is known", || {
            pid = self.json(&format!("inspect --type endpoint {endpoint}"))[0]["pid"].as_u64();
            pid.is_some()
        });
        pid.unwrap() as u32
    }

    /// The processes that watch over endpoints of this host.
    fn supervisors(&self) -> Vec<u32> {
        let root = format!("RNET_ROOT={}\0", self.host.root().display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of = |pid: &u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let supervises = |pid: &u32| {
            String::from_utf8_lossy(&of(pid, "cmdline")).starts_with("rnet\0supervise\0")
                && String::from_utf8_lossy(&of(pid, "environ")).contains(&root)
        };
        pids.filter(supervises).collect()
    }

    /// Everything on the host but the folders that rnet keeps for the next time.
    fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.host.netns(), &[&self.definitions()]).unwrap()
    }

    /// Nothing of any endpoint is left.
    #[track_caller]
    fn nobody_is_left(&self) {
        assert_eq!(self.ok("ps -q"), "");
        wait_until("no supervisor is left", || self.supervisors().is_empty());
        let links = self.host.run(|| std::fs::read_to_string("/proc/net/dev").unwrap()).unwrap();
        assert!(!links.contains("veth"), "{links}");
    }
}

fn said(program: Program<'_>) -> Said {
    let output = program.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said {
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        exit: output.status.code().unwrap_or(-1),
    }
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True once a process runs nothing any more; its parent may not have noticed yet.
fn is_dead(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A foreground `rnet run` whose program has said that it runs.
fn started(program: Program<'_>, script: &str) -> Child {
    let mut child = program.args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

#[test]
fn a_session() {
    let lab = Lab::new();
    let before = lab.snapshot();

    let created = lab.rnet("create mynet");
    assert_eq!((created.stdout.as_str(), created.exit), ("mynet\n", 0));
    assert_eq!(created.stderr, " hint: runtimes find no plugin rnet: rnet install /opt/cni/bin\n");
    lab.fails(
        "create b --subnet 172.18.5.0/24",
        4,
        "error: 172.18.5.0/24 overlaps 172.18.0.0/16 of network \"mynet\"\n \
         hint: next free: --subnet 172.19.0.0/16      (rnet ls --all shows every subnet in use)\n",
    );
    assert_eq!(
        lab.ok("ls"),
        "NAME    DRIVER   SUBNET          GATEWAY      BRIDGE       ENDPOINTS   STATE\n\
         mynet   bridge   172.18.0.0/16   172.18.0.1   rnet-mynet   0           absent\n"
    );

    assert_eq!(lab.ok("run -d --name web --net mynet -p 8080:80 sleep 1000"), "web\n");
    assert_eq!(lab.ok("run -d --name db --net mynet sleep 1000"), "db\n");
    assert_eq!(
        lab.ok("ls"),
        "NAME    DRIVER   SUBNET          GATEWAY      BRIDGE       ENDPOINTS   STATE\n\
         mynet   bridge   172.18.0.0/16   172.18.0.1   rnet-mynet   2           ok\n"
    );
    let (web, db) = (lab.pid("web"), lab.pid("db"));
    let ps = lab.ok("ps");
    let lines: Vec<Vec<&str>> = ps.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ENDPOINT", "NET", "IP", "MAC", "PORTS", "RX/TX", "NETNS"]);
    let db = db.to_string();
    assert_eq!(
        (&lines[1][..4], &lines[1][5..]),
        (&["db", "mynet", "172.18.0.3", "02:42:ac:12:00:03"][..], &["pid", &db][..])
    );
    let web_row = ["web", "mynet", "172.18.0.2", "02:42:ac:12:00:02", "0.0.0.0:8080->80"];
    assert_eq!(&lines[2][..5], web_row);
    assert_eq!(lines[2][7], web.to_string());
    assert_eq!(lab.ok("ps -q"), "db\nweb\n");

    let inside = lab.rnet("exec web cat /etc/hosts");
    assert!(inside.stdout.contains("172.18.0.2\tweb\n"), "{inside:?}");
    lab.fails(
        "rm mynet",
        4,
        "error: network \"mynet\" has 2 endpoints: db (172.18.0.3), web (172.18.0.2)\n hint: rnet rm --detach mynet\n",
    );

    assert_eq!(lab.ok("stop web db"), "web\ndb\n");
    lab.nobody_is_left();
    assert_eq!(lab.ok("rm mynet"), "mynet\n");
    assert_eq!(lab.ok("ls -q"), "");
    assert_same(&before, &lab.snapshot());
}

#[test]
fn a_name_that_comes_back_has_its_address_unless_the_network_says_otherwise() {
    let lab = Lab::new();
    lab.ok("create sticky");
    lab.ok("create other --no-sticky");
    for (network, second, swapped) in [("sticky", "3", false), ("other", "3", true)] {
        let run = |name: &str| lab.ok(&format!("run -d --name {name} --net {network} sleep 1000"));
        let ip_of = |name: &str| {
            let row = lab.ok("ps");
            let row = row.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
            row.split_whitespace().nth(2).unwrap().to_owned()
        };
        run("tomcat01");
        run("tomcat02");
        let before = (ip_of("tomcat01"), ip_of("tomcat02"));
        assert!(before.1.ends_with(second), "{before:?}");

        lab.ok("stop tomcat01 tomcat02");
        run("tomcat02");
        run("tomcat01");

        let after = (ip_of("tomcat01"), ip_of("tomcat02"));
        assert_eq!(after, if swapped { (before.1, before.0) } else { before });
        lab.ok("stop tomcat01 tomcat02");
    }
    lab.ok("rm sticky");
    assert_eq!(std::fs::read_dir(lab.host.root().join("var/lib/rnet/addresses")).unwrap().count(), 0);
}

#[test]
fn a_published_port_answers_and_a_second_claim_is_refused() {
    let lab = Lab::new();
    let outside = lab.host.outside(&["192.168.77.0/24".parse().unwrap()]).unwrap();
    lab.ok("create mynet");
    lab.ok("run -d --name web --net mynet -p 8080:80 sleep 1000");
    let netns = Netns::open(format!("/proc/{}/ns/net", lab.pid("web")).as_ref()).unwrap();
    let _server = HttpServer::start(&netns, "172.18.0.2:80".parse().unwrap(), "hello").unwrap();

    let page = http_get(outside.netns(), "http://192.168.77.1:8080/", LONG).unwrap();
    assert!(format!("{page:?}").contains("hello"), "{page:?}");

    lab.fails(
        "run --name other --net mynet -p 8080:80 true",
        4,
        "error: Bind for 0.0.0.0:8080 failed: port is already allocated, by \"web\" on \"mynet\"\n",
    );
    assert_eq!(lab.ok("ps -q"), "web\n");
    let page = http_get(outside.netns(), "http://192.168.77.1:8080/", LONG).unwrap();
    assert!(format!("{page:?}").contains("hello"), "{page:?}");
}

#[test]
fn a_port_of_a_host_process_is_refused_before_anything_is_changed() {
    let lab = Lab::new();
    lab.ok("create mynet");
    let _taken = lab.host.run(|| std::net::TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap();

    let said = lab.rnet("run --net mynet -p 8080:80 true");

    let text = "error: failed to bind host port 0.0.0.0:8080/tcp: address already in use, by ";
    assert!(said.exit == 4 && said.stderr.starts_with(text), "{said:?}");
    assert!(said.stderr.contains(&format!("(pid {})", std::process::id())), "{said:?}");
    lab.nobody_is_left();
}

#[test]
fn free_ports_are_chosen_and_told() {
    let lab = Lab::new();
    lab.ok("create mynet");
    let told = lab.json("run -d --json --net mynet -p 80 -p 127.0.0.1::53/udp -p 7000-7002:81 sleep 1000");
    let port = |index: usize| told["networks"][0]["ports"][index]["hostPort"].as_u64().unwrap();
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u64 = first.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!([port(0), port(1), port(2)], [first, first + 1, 7000]);
    assert_eq!(told["name"].as_str().unwrap(), &told["id"].as_str().unwrap()[..12]);

    let next = lab.json("run -d --json --net mynet -p 80 -p 7000-7002:81 sleep 1000");
    let ports = &next["networks"][0]["ports"];
    assert_eq!((ports[0]["hostPort"].as_u64(), ports[1]["hostPort"].as_u64()), (Some(first + 2), Some(7001)));
    let names = lab.ok("ps -q");
    lab.ok(&format!("stop {}", names.replace('\n', " ")));
    lab.nobody_is_left();
}

#[test]
fn a_program_gets_no_descriptor_that_the_caller_left_open() {
    let lab = Lab::new();
    lab.ok("create mynet");
    let list = lab.host.root().join("list");
    let look = format!("'readlink /proc/self/fd/* > {} ; sleep 1000'", list.display());
    let leaking = |line: &str| {
        let script = format!("exec 7</etc/passwd 9</etc/group; exec {} {line}", env!("CARGO_BIN_EXE_rnet"));
        let output = lab.host.command("sh").env("CNI_PATH", lab.plugins()).args(["-c", &script]).output();
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
        let root = format!("RNET_ROOT={}\0", lab.host.root().display());
        String::from_utf8_lossy(&environ).contains(&root).then(|| process.path().join("fd"))
    });
    let open = everybodys.flat_map(|fds| std::fs::read_dir(fds).into_iter().flatten().flatten());
    let open: Vec<String> =
        open.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string())).collect();
    assert!(!open.is_empty() && !open.iter().any(|path| is_leaked(path)), "{open:#?}");
}

#[test]
fn a_program_in_the_foreground_gives_its_status_and_leaves_nothing() {
    let lab = Lab::new();
    let before = lab.snapshot();
    assert_eq!(lab.script("run --name web", "exit 7").exit, 7);
    assert_eq!(lab.script("run --name web", "kill -KILL $$").exit, 137);
    let hosts = lab.script("run --name web", "cat /etc/hosts; echo; cat /proc/net/route | wc -l");
    assert!(hosts.stdout.contains("172.18.0.2\tweb\n") && hosts.stdout.ends_with("\n3\n"), "{hosts:?}");
    lab.fails(
        "run /no/such/program",
        127,
        "error: cannot execute \"/no/such/program\": no such file or directory\n",
    );
    lab.fails("run /etc", 126, "error: cannot execute \"/etc\": permission denied\n");
    lab.fails(
        "run -d nosuchprogram",
        127,
        "error: cannot execute \"nosuchprogram\": no such file or directory\n",
    );
    lab.nobody_is_left();
    assert_same(&before, &lab.snapshot());
}

#[test]
fn an_interrupted_run_is_cleaned_up_however_it_was_interrupted() {
    let lab = Lab::new();
    let before = lab.snapshot();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::KILL]
    {
        let mut run = started(lab.program("run --name web"), "echo ready; exec sleep 1000");
        let pid = lab.pid("web");
        kill(run.id(), signal);
        run.wait().unwrap();
        wait_until("the program has ended", || is_dead(pid));
        wait_until("the endpoint is gone", || lab.ok("ps -q").is_empty());
        lab.nobody_is_left();
        assert_same(&before, &lab.snapshot());
    }
}

#[test]
fn a_signal_is_passed_on_and_run_ends_with_its_program_after_the_clean_up() {
    let lab = Lab::new();
    let before = lab.snapshot();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let script = "trap 'exit 3' TERM INT; echo ready; while :; do sleep 0.01; done";
        let mut run = started(lab.program("run --name web"), script);
        kill(run.id(), signal);
        assert_eq!(run.wait().unwrap().code(), Some(3));
        assert_same(&before, &lab.snapshot());
    }
    lab.nobody_is_left();
}

#[test]
fn the_default_network_is_there_while_somebody_is_on_it() {
    let lab = Lab::new();
    lab.ok("run -d --name web sleep 1000");
    let ls = lab.ok("ls");
    assert!(ls.contains("bridge   bridge   172.18.0.0/16   172.18.0.1   rnet0    1           ok"), "{ls}");
    lab.ok("create mynet");
    assert!(lab.ok("ls").contains("mynet    bridge   172.19.0.0/16"));
    assert!(!lab.definitions().join("rnet-bridge.conflist").exists());
    lab.ok("stop web");
    assert_eq!(lab.ok("ls -q"), "mynet\n");
}

#[test]
fn none_host_and_several_networks() {
    let lab = Lab::new();
    lab.ok("create one");
    lab.ok("create two");
    let links = "cut -d: -f1 -s /proc/net/dev | tr -d ' ' | sort | tr '\\n' ' '";
    assert_eq!(lab.script("run --net none", links).stdout, "lo ");
    assert_eq!(lab.script("run --net one --net two", links).stdout, "eth0 eth1 lo ");
    let own = lab.host.netns().id().ino;
    let host = lab.script("run --net host -p 8080:80", "readlink /proc/self/ns/net");
    assert_eq!(host.stdout, format!("net:[{own}]\n"));
    assert_eq!(host.stderr, "warning: \"host\" publishes no ports, -p has no effect\n");
    lab.nobody_is_left();
}

#[test]
fn an_endpoint_whose_supervisor_was_killed_is_removed_by_stop_rm_or_its_name() {
    let lab = Lab::new();
    lab.ok("create mynet");
    for end in ["stop web", "rm -f web", "run -d --name web --net mynet sleep 1000"] {
        lab.ok("run -d --name web --net mynet sleep 1000");
        let program = lab.pid("web");
        lab.supervisors().into_iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL));
        wait_until("the supervisor is dead", || lab.supervisors().is_empty());
        if end.starts_with("run") {
            lab.fails(
                end,
                4,
                &format!(
                    "error: endpoint with name web already exists (pid {program})\n hint: rnet stop web\n"
                ),
            );
            kill(program, rustix::process::Signal::KILL);
            wait_until("the program is dead", || is_dead(program));
        }
        assert_eq!(lab.ok(end), "web\n");
        let _ = lab.rnet("stop web");
        lab.nobody_is_left();
    }
}

#[test]
fn stop_kills_what_does_not_end() {
    let lab = Lab::new();
    let ready = lab.host.root().join("ready");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 1000; done", ready.display());
    assert_eq!(lab.script("run -d --name web", &script).stdout, "web\n");
    wait_until("the trap is set", || ready.exists());
    assert_eq!(lab.ok("stop -t 0 web"), "web\n");
    lab.nobody_is_left();
}

#[test]
fn rm_detaches_users_only_when_told_to() {
    let lab = Lab::new();
    lab.ok("create mynet");
    lab.ok("run -d --name web --net mynet sleep 1000");
    let pid = lab.pid("web");
    lab.fails(
        "rm web",
        4,
        &format!("error: endpoint \"web\" is running (pid {pid})\n hint: rnet stop web\n"),
    );
    assert_eq!(lab.ok("rm --detach mynet"), "mynet\n");
    assert_eq!(lab.ok("ls -q"), "");
    assert_eq!(lab.script("exec web", "cut -d: -f1 -s /proc/net/dev | tr -d ' \\n'").stdout, "lo");
    assert_eq!(lab.ok("rm -f web"), "web\n");
    lab.nobody_is_left();
}

#[test]
fn exec_becomes_the_program() {
    let lab = Lab::new();
    lab.ok("run -d --name web sleep 1000");
    assert_eq!(lab.script("exec web", "exit 9").exit, 9);
    lab.fails(
        "exec web nosuchprogram",
        127,
        "error: cannot execute \"nosuchprogram\": no such file or directory\n",
    );
    // A program that expects SIGPIPE to end it must not find it ignored.
    let ignored = lab.script("exec web", "grep SigIgn /proc/self/status");
    let ignored = ignored.stdout.split_whitespace().nth(1).map(|mask| u64::from_str_radix(mask, 16).unwrap());
    assert_eq!(ignored.map(|mask| mask & 1 << 12), Some(0));
    let netns = lab.script("exec web", "readlink /proc/self/ns/net").stdout;
    assert_eq!(netns, lab.script("exec web", &format!("readlink /proc/{}/ns/net", lab.pid("web"))).stdout);
    lab.ok("stop web");
}

#[test]
fn a_chain_of_standard_plugins_works_once_they_are_installed() {
    let lab = Lab::new();
    assert_eq!(lab.ok("create --chain --subnet 10.9.0.0/24 lab"), "lab\n");
    let missing = lab.rnet("run --net lab true");
    assert!(
        missing.exit == 125 && missing.stderr.ends_with(" hint: rnet install /opt/cni/bin\n"),
        "{missing:?}"
    );

    let links = lab.ok(&format!("install {}", lab.plugins().display()));
    assert!(links.lines().count() >= 5 && links.contains("/opt/cni/bin/host-local\n"), "{links}");
    assert!(std::fs::read_link(lab.plugins().join("bridge")).unwrap().is_relative());
    assert_eq!(lab.ok(&format!("install {}", lab.plugins().display())), "");

    lab.ok("run -d --name web --net lab -p 8080:80 sleep 1000");
    let ps = lab.ok("ps");
    assert!(ps.contains("web        lab   10.9.0.2   02:42:0a:09:00:02   0.0.0.0:8080->80"), "{ps}");
    assert!(lab.ok("ls").contains("rnet-lab   1           ok"));
    lab.ok("stop web");
    lab.nobody_is_left();
    assert_eq!(lab.ok("rm lab"), "lab\n");
}

#[test]
fn install_does_not_overwrite_what_is_not_ours() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.plugins()).unwrap();
    let bridge = lab.plugins().join("bridge");
    std::fs::write(&bridge, "somebody's").unwrap();
    let dir = lab.plugins().display().to_string();
    let text =
        format!("error: {} exists and is not a link to rnet\n hint: --force replaces it\n", bridge.display());
    lab.fails(&format!("install {dir}"), 4, &text);
    assert_eq!(std::fs::read_dir(lab.plugins()).unwrap().count(), 1, "nothing was changed");

    let portmap = format!("{dir}/portmap\n");
    assert_eq!(lab.ok(&format!("install --only portmap {dir}")), portmap);
    assert!(lab.ok(&format!("install --force {dir}")).contains(&format!("{}\n", bridge.display())));
}

#[test]
fn a_network_is_described_as_json() {
    let lab = Lab::new();
    lab.ok("create --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.128/25 --mtu 1400 lab");
    let shown = &lab.json("inspect lab")[0];
    assert_eq!(
        shown["subnets"].to_string(),
        r#"[{"subnet":"10.9.0.0/24","gateway":"10.9.0.254","rangeStart":"10.9.0.128","rangeEnd":"10.9.0.254"}]"#
    );
    assert_eq!((shown["bridge"].as_str(), shown["mtu"].as_u64()), (Some("rnet-lab"), Some(1400)));
    lab.ok("run -d --name web --net lab sleep 1000");
    assert_eq!(lab.json("ls --json")[0]["endpoints"], 1);
    let web = &lab.json("inspect web")[0];
    assert_eq!(web["networks"][0]["addresses"][0], "10.9.0.128/24");
    assert_eq!(web["networks"][0]["gateway"], "10.9.0.254");
    let mtu = lab.script("exec web", "cat /sys/class/net/eth0/mtu 2>/dev/null || true").stdout;
    assert!(mtu.is_empty() || mtu == "1400\n", "{mtu}");
    let id = web["id"].as_str().unwrap();
    assert_eq!(lab.json(&format!("inspect {}", &id[..8]))[0]["name"], "web");
    lab.ok("stop web");
}

#[test]
fn every_mistake_has_its_words_and_its_exit_status() {
    let lab = Lab::new();
    lab.ok("create mynet");
    lab.ok("create --subnet 10.7.0.0/30 tiny");
    lab.ok("run -d --name web --net mynet sleep 1000");
    lab.ok("run -d --name full --net tiny sleep 1000");
    std::fs::write(
        lab.definitions().join("87-podman.conflist"),
        r#"{"cniVersion":"0.4.0","name":"podman","plugins":[{"type":"bridge","bridge":"cni-podman0","ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.0.0/16"}]]}}]}"#,
    )
    .unwrap();
    let pid = lab.pid("web");
    let foreign = lab.definitions().join("87-podman.conflist");
    let cases: &[(&str, i32, &str, &str)] = &[
        ("create mynet", 4, "exists", "network with name mynet already exists (172.18.0.0/16 on rnet-mynet)"),
        (
            "create a --subnet 10.88.3.0/24",
            4,
            "overlap",
            "10.88.3.0/24 overlaps 10.88.0.0/16 of network \"podman\"",
        ),
        (
            "run --net host --hostname app true",
            2,
            "usage",
            "--hostname and --net host cannot be given together",
        ),
        ("create a --subnet 10.9.0.1/24", 2, "subnet-invalid", "10.9.0.1/24 has host bits set"),
        (
            "create a --subnet 10.9.0.0/24 --gateway 10.8.0.1",
            2,
            "outside",
            "gateway 10.8.0.1 is not in 10.9.0.0/24",
        ),
        (
            "create a --subnet 10.9.0.0/24 --ip-range 10.8.0.0/25",
            2,
            "outside",
            "range 10.8.0.0/25 is not in 10.9.0.0/24",
        ),
        ("create a --gateway 10.8.0.1", 2, "outside", "--gateway needs --subnet"),
        (
            "create a/b",
            2,
            "name-invalid",
            "\"a/b\" is not a name: letters, digits and _ . - are allowed, a letter or digit first",
        ),
        ("create host", 2, "name-invalid", "operation is not permitted on predefined host network"),
        ("inspect --type network mynt", 3, "not-found", "no network \"mynt\""),
        ("inspect mynt", 3, "not-found", "no network or endpoint \"mynt\""),
        ("run --net mynt true", 3, "not-found", "no network \"mynt\""),
        ("stop wbe", 3, "not-found", "no endpoint \"wbe\""),
        ("exec wbe true", 3, "not-found", "no endpoint \"wbe\""),
        ("rm nothing-like-it", 3, "not-found", "no network or endpoint \"nothing-like-it\""),
        ("rm mynet", 4, "in-use", "network \"mynet\" has 1 endpoint: web (172.18.0.2)"),
        ("rm bridge", 4, "predefined", "bridge is a pre-defined network and cannot be removed"),
        ("run --name web true", 4, "exists", &format!("endpoint with name web already exists (pid {pid})")),
        (
            "run --name a:b true",
            2,
            "name-invalid",
            "\"a:b\" is not a name: letters, digits and _ . - are allowed, a letter or digit first",
        ),
        ("run --net mynet --ip 10.9.0.7 true", 2, "outside", "address 10.9.0.7 is not in 172.18.0.0/16"),
        (
            "run --net mynet --ip 172.18.0.2 true",
            4,
            "address-taken",
            "Address already in use: 172.18.0.2 is held by \"web\"",
        ),
        (
            "run --net tiny true",
            6,
            "addresses-exhausted",
            "no available IPv4 addresses on this network's address pools: tiny (10.7.0.0/30), 1 held by full; gc freed 0",
        ),
        (
            "run --net mynet -p 203.0.113.9:80:80 true",
            2,
            "host-address",
            "cannot publish on 203.0.113.9: it is not an address of this host",
        ),
        (
            "run --net none --net mynet true",
            2,
            "usage",
            "--net none and another --net cannot be given together",
        ),
        (
            "run -p 70000:80 true",
            2,
            "usage",
            "invalid value '70000:80' for '--publish <SPEC>': invalid hostPort: 70000",
        ),
        ("create --nosuch", 2, "usage", "unexpected argument '--nosuch' found"),
        (
            "install --only nosuch /tmp/never",
            3,
            "not-found",
            "no plugin \"nosuch\": there are bridge, dnsname, host-local, loopback, portmap, rnet",
        ),
        (
            "rm podman",
            4,
            "foreign",
            &format!("network \"podman\" is defined by {}, which rnet did not write", foreign.display()),
        ),
    ];
    for (line, exit, code, message) in cases {
        let said = lab.rnet(&format!("--json {line}"));
        assert_eq!(said.exit, *exit, "rnet {line}: {said:?}");
        let told: Value =
            serde_json::from_str(&said.stderr).unwrap_or_else(|_| panic!("rnet {line}: {said:?}"));
        assert_eq!(told["error"]["code"].as_str(), Some(*code), "rnet {line}");
        assert_eq!(told["error"]["message"].as_str(), Some(*message), "rnet {line}");
    }
    assert_eq!(lab.ok("ps -q"), "full\nweb\n", "nothing was changed");
    assert_eq!(lab.ok("ls -q"), "mynet\npodman\ntiny\n");
    lab.ok("stop web full");
    lab.nobody_is_left();
}

#[test]
fn hints_can_be_typed() {
    let lab = Lab::new();
    lab.ok("create mynet");
    lab.fails("rm mynt", 3, "error: no network or endpoint \"mynt\"\n hint: did you mean \"mynet\"?\n");
    lab.fails(
        "create a --subnet 10.9.0.1/24",
        2,
        "error: 10.9.0.1/24 has host bits set\n hint: --subnet 10.9.0.0/24\n",
    );
    let missing = lab.rnet("inspect nothing");
    assert_eq!((missing.stdout.as_str(), missing.exit), ("[]\n", 3));
    assert_eq!(lab.ok("create --ignore-existing mynet"), "mynet\n");
    assert_eq!(lab.ok("create"), "net0\n");
    assert_eq!(lab.ok("network create"), "net1\n");
    assert_eq!(lab.ok("rm -f nothing net0"), "net0\n");
    let several = lab.rnet("network rm nothing net1");
    assert_eq!((several.stdout.as_str(), several.exit), ("net1\n", 3));
}

#[test]
fn a_network_and_an_endpoint_may_share_a_name() {
    let lab = Lab::new();
    lab.ok("create web");
    lab.ok("run -d --name web --net web sleep 1000");
    let text = "error: \"web\" is ambiguous: network \"web\", endpoint \"web\"\n hint: --type network or --type endpoint\n";
    let said = lab.rnet("inspect web");
    assert_eq!((said.stdout.as_str(), said.stderr.as_str(), said.exit), ("[]\n", text, 4));
    assert_eq!(lab.json("inspect --type endpoint web")[0]["type"], "endpoint");
    assert_eq!(lab.ok("rm -f --type endpoint web"), "web\n");
    assert_eq!(lab.ok("rm --type network web"), "web\n");
}

#[test]
fn subnets_of_others_are_avoided_and_a_mere_route_only_warns() {
    let lab = Lab::new();
    let _outside = lab.host.outside(&["172.18.7.0/24".parse().unwrap()]).unwrap();
    let podman = lab.host.root().join("etc/containers/networks");
    std::fs::create_dir_all(&podman).unwrap();
    std::fs::write(podman.join("web.json"), r#"{"name":"web","subnets":[{"subnet":"172.19.0.0/24"}]}"#)
        .unwrap();

    lab.ok("create mynet");
    assert!(lab.ok("ls").contains("172.20.0.0/16"));
    let warned = lab.rnet("create --subnet 172.18.7.0/24 lab");
    assert_eq!((warned.stdout.as_str(), warned.exit), ("lab\n", 0));
    assert!(
        warned
            .stderr
            .starts_with("warning: 172.18.7.0/24 overlaps 172.18.7.0/24 of the host's route dev out0\n")
    );
    lab.fails(
        "create --subnet 172.19.0.0/16 other",
        4,
        "error: 172.19.0.0/16 overlaps 172.19.0.0/24 of podman's network \"web\"\n \
         hint: next free: --subnet 172.21.0.0/16      (rnet ls --all shows every subnet in use)\n",
    );
    let all = lab.ok("ls --all");
    assert!(all.contains("podman") && all.contains("out0"), "{all}");
}

#[test]
fn an_ipv6_network_and_one_of_both_families() {
    let lab = Lab::new();
    lab.ok("create --subnet fd00:1::/64 six");
    lab.ok("create --subnet 10.9.0.0/24 --subnet fd00:2::/64 both");
    assert_eq!(lab.ok("run -d --name one --net six sleep 1000"), "one\n");
    assert_eq!(lab.ok("run -d --name two --net both sleep 1000"), "two\n");
    let ps = lab.ok("ps");
    assert!(ps.contains("fd00:1::2 ") && ps.contains("10.9.0.2,fd00:2::2"), "{ps}");
    let ls = lab.ok("ls");
    assert!(ls.contains("10.9.0.0/24,fd00:2::/64   10.9.0.1,fd00:2::1"), "{ls}");
    lab.ok("stop one two");
    lab.nobody_is_left();
}

#[test]
fn without_rights_nothing_is_touched() {
    let lab = Lab::new();
    let program =
        lab.host.command("setpriv").args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
    let program = program.args([env!("CARGO_BIN_EXE_rnet"), "create", "mynet"]);
    // Where util-linux has no setpriv, the unit test of the rights has to do.
    let Ok(output) = program.output() else { return };
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert_eq!(stderr, "error: not permitted: this needs CAP_NET_ADMIN\n hint: sudo rnet create mynet\n");
    assert!(!lab.definitions().exists());
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let lab = Lab::new();
    let mut child = lab.program("ls").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn help_and_version_are_data() {
    let lab = Lab::new();
    assert!(lab.ok("--help").contains("Usage: rnet"));
    assert!(lab.ok("--version").starts_with("rnet 0."));
    assert!(lab.ok("create --help").contains("--ip-range"));
    assert_eq!(lab.rnet("").exit, 2);
}

#[test]
fn names_are_served_on_networks_of_users_and_told() {
    let lab = Lab::new();
    lab.fails(
        "dns status",
        3,
        "error: no name server runs: it is started by the first container on a network with names\n hint: rnet ls (rnet inspect NET shows whether a network has names)\n",
    );
    lab.ok(
        "create --subnet 10.9.0.0/24 --dns 192.0.2.53 --dns-search example.net --domain lab.internal mynet",
    );
    lab.ok("run -d --name web --net mynet --network-alias www sleep 1000");
    lab.ok("run -d --name db --net mynet --dns 192.0.2.99 --dns-search other.net sleep 1000");

    let files = |endpoint: &str| lab.script(&format!("exec {endpoint}"), "cat /etc/resolv.conf").stdout;
    assert_eq!(files("web"), "nameserver 10.9.0.1\nsearch lab.internal example.net\n");
    assert_eq!(files("db"), "nameserver 10.9.0.1\nsearch lab.internal other.net\n");
    let hosts = lab.script("exec web", "cat /etc/hosts").stdout;
    assert!(hosts.contains("10.9.0.2\tweb\n"), "{hosts}");

    let id = lab.json("inspect web")[0]["id"].as_str().unwrap()[..12].to_owned();
    let status = lab.ok("dns status");
    assert!(status.starts_with("LISTENER   PORT   STATE\n10.9.0.1   53     ok\n"), "{status}");
    assert!(status.contains(&format!("mynet     web,www,{id}   10.9.0.2    {id}\n")), "{status}");
    let told = lab.json("dns status --json");
    assert_eq!(told["endpoints"][0]["upstreams"], serde_json::json!(["192.0.2.99:53"]), "{told}");
    let network = &lab.json("inspect mynet")[0]["dns"];
    assert_eq!(
        network.to_string(),
        r#"{"domain":"lab.internal","servers":["10.9.0.1"],"upstreams":["192.0.2.53"],"redirected":[]}"#
    );
    let names = &lab.json("inspect web")[0]["networks"][0]["names"];
    assert_eq!(names, &serde_json::json!(["web", "www", id]));

    // Those who have a resolver of the machine's at hand see the same by its way.
    let found = lab.script("exec db", "getent hosts www").stdout;
    assert_eq!(found, "10.9.0.2        www.lab.internal\n");
    lab.ok("stop web");
    assert_eq!(lab.script("exec db", "getent hosts www").exit, 2);
    lab.ok("run -d --name web --net mynet sleep 1000");
    assert_eq!(lab.script("exec db", "getent hosts web").stdout, "10.9.0.2        web.lab.internal\n");
    lab.ok("stop web db");
    lab.nobody_is_left();
}

#[test]
fn a_hostname_is_the_programs_own_and_known_on_its_networks() {
    let lab = Lab::new();
    lab.ok("create --subnet 10.9.0.0/24 --domain lab.internal mynet");
    lab.ok("run -d --name web --net mynet --hostname app sleep 1000");
    lab.ok("run -d --name db --net mynet sleep 1000");
    let outside = lab.script("exec db", "uname -n").stdout;

    assert_eq!(lab.script("exec web", "uname -n").stdout, "app\n");
    let inside = lab.script("run --net mynet --hostname other", "uname -n; tail -n 1 /etc/hosts").stdout;
    assert!(inside.starts_with("other\n10.9.0.4\tother "), "{inside}");
    assert_ne!(outside, "app\n");
    assert_eq!(lab.script("exec db", "getent hosts app").stdout, "10.9.0.2        app.lab.internal\n");
    // The first name is the one that an address has.
    assert_eq!(lab.script("exec db", "getent hosts 10.9.0.2").stdout, "10.9.0.2        web.mynet\n");
    lab.ok("stop web");
    assert_eq!(lab.script("exec db", "getent hosts app").exit, 2);
    lab.ok("stop db");
    lab.nobody_is_left();
}

#[test]
fn a_network_without_names_says_so_where_they_are_asked_for() {
    let lab = Lab::new();
    let warned = lab.rnet("create --subnet 10.9.0.0/24 dev");
    assert_eq!(
        (warned.exit, warned.stderr.lines().next().unwrap()),
        (
            0,
            "warning: \"dev\" is also a public domain: names like example.dev are not found from this network's containers"
        )
    );
    lab.ok("create --no-dns --dns 192.0.2.53 --subnet 10.8.0.0/24 bare");
    assert!(lab.json("inspect bare")[0]["dns"].is_null());
    let said = lab.rnet("run --name web --net bare --network-alias www cat /etc/resolv.conf");
    assert_eq!(said.stdout, "nameserver 192.0.2.53\n");
    assert_eq!(lab.json("inspect bare")[0]["names"], serde_json::json!(false));
    let own = lab.ok("run --net bare --dns 192.0.2.99 --dns-search example.net cat /etc/resolv.conf");
    assert_eq!(own, "nameserver 192.0.2.99\nsearch example.net\n", "what is given wins");
    assert_eq!(said.stderr, "warning: no network of \"web\" has names, --network-alias has no effect\n");
    assert_eq!(lab.rnet("dns status").exit, 3, "nobody has started a server");
    lab.fails(
        "create --domain a..b other",
        2,
        "error: \"a..b\" is not a domain: parts of 1 to 63 letters, digits, - and _ are wanted, with dots between\n",
    );
    let bad = lab.rnet("run --net dev --network-alias a..b true");
    assert!(bad.exit != 0 && bad.stderr.contains("alias \"a..b\" on network \"dev\" is no name"), "{bad:?}");
    lab.nobody_is_left();
}
