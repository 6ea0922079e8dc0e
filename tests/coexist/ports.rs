//! Host ports that two programs want.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::Test;
use crate::common::Host;
use crate::works::wait_until;

pub const TESTS: &[Test] = &[
    ("ports::what_rnet_run_publishes_is_held", held),
    ("ports::docker_is_refused_a_port_that_is_published", docker_later),
    ("ports::a_port_that_docker_has_is_refused", docker_first),
    ("ports::rules_that_take_a_published_port_are_told", rules),
];

/// As docker-proxy takes it.
fn take(kind: &str, address: &str) -> String {
    let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
    let listen = if kind == "STREAM" { "s.listen()" } else { "pass" };
    format!(
        "python3 -c 'from socket import *\ns=socket({family},SOCK_{kind})\ns.setsockopt(SOL_SOCKET,SO_REUSEADDR,1)\n\
         if \":\" in \"{address}\": s.setsockopt(IPPROTO_IPV6,IPV6_V6ONLY,1)\n\
         s.bind((\"{address}\",3344))\n{listen}'"
    )
}

fn held(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    host.execute("rnet run -d --name udp --net mynet -p 3344:80/udp sleep 1000")?;
    for (kind, address) in
        [("STREAM", "0.0.0.0"), ("STREAM", "::"), ("DGRAM", "0.0.0.0"), ("STREAM", "127.0.0.1")]
    {
        let taken = host.shell(&take(kind, address));
        let refused =
            taken.as_ref().err().is_some_and(|error| format!("{error:#}").contains("already in use"));
        ensure!(refused, "{kind} {address}: {taken:?}");
    }
    host.works(&guests)?;
    drop(guests);
    host.execute("rnet rm -f udp")?;
    // Again at once, as often as you like.
    for _ in 0..5 {
        host.execute("rnet rm -f web")?;
        host.execute("rnet run -d --name web --net mynet -p 3344:80 sleep 1000")?;
    }
    wait_until("it is held again", || {
        let taken = host.shell(&take("STREAM", "0.0.0.0"));
        ensure!(taken.is_err(), "nobody has it");
        Ok(())
    })?;
    host.execute("rnet rm -f web")?;
    wait_until("it is free", || host.shell(&take("STREAM", "0.0.0.0")).map(drop))?;
    host.execute("rnet rm -f db").map(drop)
}

/// A container of docker's with a published port; its image is one program.
fn container(host: &Host) -> anyhow::Result<()> {
    let root = Path::new("/run/rnet-docker/image");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let curl = format!("curl -sS --fail-with-body --unix-socket {} ", &crate::docker::SOCKET[7..]);
    host.shell(&format!(
        "tar -C {} -c bin | {curl} -X POST -H Content-Type:application/x-tar --data-binary @- \
         'http://d/v1.41/images/create?fromSrc=-&repo=bb'",
        root.display()
    ))?;
    let body = r#"{"Image":"bb","Cmd":["/bin/busybox","sleep","1000"],"ExposedPorts":{"80/tcp":{}},"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"3344"}]}}}"#;
    let json = "-X POST -H Content-Type:application/json";
    host.shell(&format!("{curl} {json} -d '{body}' 'http://d/v1.41/containers/create?name=theirs'"))?;
    // Without --fail: docker's words are in the body.
    let start = format!("curl -sS --unix-socket {} {json}", &crate::docker::SOCKET[7..]);
    let said = host.shell(&format!("{start} http://d/v1.41/containers/theirs/start"))?;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}

fn docker_later(host: &Host) -> anyhow::Result<()> {
    let _docker = crate::docker::dockerd(host)?;
    let guests = host.guests()?;
    let refused = container(host);
    let text = refused.as_ref().map_or_else(|error| format!("{error:#}"), |()| "it runs".into());
    ensure!(text.contains("already in use"), "docker: {text}");
    host.works(&guests)?;
    ensure!(host.said("rnet ls")?.is_empty(), "{}", host.said("rnet ls")?);
    host.clear()
}

fn docker_first(host: &Host) -> anyhow::Result<()> {
    let _docker = crate::docker::dockerd(host)?;
    container(host)?;
    host.execute("rnet create mynet --subnet 10.99.0.0/24")?;
    let refused = host.execute("rnet run -d --name web --net mynet -p 3344:80 sleep 1000");
    let text = format!("{:#}", refused.err().context("docker's port is published")?);
    ensure!(text.contains("3344") && text.contains("docker-proxy"), "{text}");
    Ok(())
}

/// A runtime that calls the plugins holds its ports itself, or does not; and not every docker listens.
fn rules(host: &Host) -> anyhow::Result<()> {
    let guests = host.guests()?;
    ensure!(host.said("rnet ls")?.is_empty(), "{}", host.said("rnet ls")?);
    host.execute("iptables -t nat -N DOCKER")?;
    host.execute("iptables -t nat -A DOCKER -p tcp --dport 3344 -j DNAT --to-destination 10.99.0.77:8080")?;
    host.execute("iptables -t nat -I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER")?;
    ensure!(host.works(&guests).is_err(), "rnet's rules come first");
    for line in ["rnet ls", "rnet interop status", "rnet run -d --rm --net mynet sleep 1"] {
        let said = host.said(line)?;
        let tells = ["3344/tcp (web)", "lead to 10.99.0.77:8080", "docker", "chain ip nat"];
        ensure!(tells.iter().all(|word| said.contains(word)), "{line}: {said}");
    }
    host.execute("iptables -t nat -F PREROUTING")?;
    ensure!(host.said("rnet ls")?.is_empty(), "{}", host.said("rnet ls")?);
    host.works(&guests)?;
    host.clear()
}
