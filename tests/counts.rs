//! What an ADD and a DEL cost that does not depend on the machine: processes, netlink messages, rules.
//!
//! One test, because the number of processes is read from the whole pid namespace of this program.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "books/mod.rs"]
mod books;
#[path = "common/mod.rs"]
mod common;

use netns_fixtures::{compares, has_program};
use serde_json::Value;

use common::{Guest, Host, Network};

/// So often is the same done; others on a busy machine can only add to a number.
const ROUNDS: usize = 20;

/// Processes and threads beside the plugin's own process, and netlink messages in the host's namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Cost {
    tasks: u64,
    messages: u64,
}

#[test]
fn what_a_call_costs_is_frozen() {
    let host = Host::with_outside();
    let mynet = Network::rnet("mynet", "10.7.0.0/24");
    let resident = host.guest(&mynet, "resident").publishing(9000);
    resident.add().unwrap();

    let alone = costs(&host, &host.guest(&mynet, "web"), &[("tcp", 8080)]);
    let rules = host.firewall(|firewall| firewall.state().unwrap());
    let crowd: Vec<Guest<'_>> =
        (0..100).map(|n| host.guest(&mynet, &format!("c{n}")).publishing(10000 + n)).collect();
    crowd.iter().for_each(|guest| drop(guest.add().unwrap()));

    // ADD itself visits the container's namespace; the child of DEL waits for the kernel, and its one message is
    // not among the others. Nothing is executed. The port comes up in a message of its own, when its guard is there,
    // and another silences it before its guard goes.
    // ADD asks whether its address (one message for each) is stale, DEL whether conntrack knows any flow.
    // A kernel before 6.2 does not tell in its answer what links it has made, and is asked.
    let add = Cost { tasks: 0, messages: 19 + u64::from(!echoes_links()) };
    let del = Cost { tasks: 1, messages: 17 };
    assert_eq!(alone, [add, del]);
    assert_eq!(costs(&host, &host.guest(&mynet, "late"), &[("tcp", 8081)]), [add, del], "among 100 others");
    assert_eq!(host.firewall(|firewall| firewall.state().unwrap()), rules, "a container adds elements only");
    names_cost_no_more(&host, [add, del]);
    let programs = executed(&host, &host.guest(&mynet, "traced").publishing(8082));
    assert!(
        programs.is_none_or(|programs| programs == [1, 1]),
        "a call executes nothing but itself: {programs:?}"
    );
}

/// The first container starts the name server; from then on names are told over its socket, by nobody but the plugin.
fn names_cost_no_more(host: &Host, cost: [Cost; 2]) {
    let named = Network::named("named", "10.8.0.0/24");
    let resident = host.guest(&named, "named-resident").publishing(9002);
    resident.add().unwrap();

    assert_eq!(costs(host, &host.guest(&named, "named-web"), &[("tcp", 8083)]), cost, "with names");

    let programs = executed(host, &host.guest(&named, "named-traced").publishing(8084));
    assert!(programs.is_none_or(|programs| programs == [1, 1]), "{programs:?}");
    resident.del().unwrap();
}

/// The programs that an ADD and a DEL execute, their own among them; `None` where strace is missing or may not trace.
fn executed(host: &Host, guest: &Guest<'_>) -> Option<[usize; 2]> {
    if !has_program("strace") || !compares(can_trace(host), "strace may not trace here") {
        return None;
    }
    let log = host.root().join("executed");
    let plugin = host.plugins.join("rnet");
    let trace = "strace -f -qq -e trace=execve,execveat";
    let script = format!("#!/bin/sh\nexec {trace} -o {} {}\n", log.display(), plugin.display());
    host.install_script("traced", &script);
    let run = |verb: &str| {
        let config = guest.network.config("rnet", &guest.ports, None);
        let outcome = host.cni(verb, "traced", &guest.who, &config);
        assert_eq!(outcome.status, 0, "{verb}: {outcome:?}");
        std::fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains("exec")).count()
    };
    Some(["ADD", "DEL"].map(run))
}

/// Yama, or a seccomp filter of a container, may forbid it.
fn can_trace(host: &Host) -> bool {
    let traced = host.command("strace").args(["-qq", "-o", "/dev/null", "true"]).output().unwrap();
    traced.status.success()
}

/// The cost of ADD and of DEL in some rounds: the fewest processes, the most messages.
fn costs(host: &Host, guest: &Guest<'_>, ports: &[(&str, u16)]) -> [Cost; 2] {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, port)| serde_json::json!({"hostPort": port, "containerPort": 80, "protocol": protocol}))
        .collect();
    let config = guest.network.config("rnet", &ports.into(), None);
    let rounds = (0..ROUNDS).map(|_| ["ADD", "DEL"].map(|verb| cost(host, guest, verb, &config)));
    let rounds: Vec<[Cost; 2]> = rounds.collect();
    [0, 1].map(|verb| Cost {
        tasks: rounds.iter().map(|round| round[verb].tasks).min().unwrap(),
        // Nobody else sends in the name of these calls: each round must cost the same.
        messages: rounds.iter().map(|round| round[verb].messages).max().unwrap(),
    })
}

fn cost(host: &Host, guest: &Guest<'_>, verb: &str, config: &Value) -> Cost {
    let file = host.root().join("messages");
    let call = |verb: &str| {
        let call = host.call(verb, "rnet", &guest.who).input(config.to_string());
        let before = last_pid();
        let outcome = call.set("RNET_MESSAGES", file.to_str().unwrap()).run();
        assert_eq!(outcome.status, 0, "{outcome:?}");
        last_pid() - before
    };
    // VERSION starts nothing: what it costs is the cost of calling.
    let calling = call("VERSION");
    let tasks = call(verb) - calling;
    Cost { tasks, messages: std::fs::read_to_string(file).unwrap().parse().unwrap() }
}

/// The number that was given last to a process or thread in this pid namespace (proc(5), /proc/loadavg).
fn last_pid() -> u64 {
    std::fs::read_to_string("/proc/loadavg").unwrap().split_whitespace().last().unwrap().parse().unwrap()
}

/// Whether the kernel answers RTM_NEWLINK with the link (NLM_F_ECHO), as it does since Linux 6.2.
fn echoes_links() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 2)
}
