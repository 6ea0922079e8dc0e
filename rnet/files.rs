//! The files that a program in an endpoint sees in place of the host's: resolv.conf and hosts.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use cni::Dns;
use dns::Resolv;
use engine::RESOLV_CONF;

use crate::report::Problem;

/// systemd-resolved's list of the servers behind its own 127.0.0.53.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The hosts file: localhost, and the endpoint's own addresses with its names, blanks between them.
pub fn hosts(names: &str, addresses: &[IpAddr]) -> String {
    let own = addresses.iter().map(|address| format!("{address}\t{names}\n"));
    let localhost = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    std::iter::once(localhost).chain(own).collect()
}

/// The resolv.conf: what the network says, else the host's without the servers that only the host can reach.
///
/// If none is left, none is put in their place: a public server would be told what was meant for a private one.
pub fn resolv_conf(dns: &Dns) -> String {
    if !dns.nameservers.is_empty() {
        let options = if dns.options.is_empty() { host_options() } else { dns.options.clone() };
        return of_network(&Dns { options, ..dns.clone() });
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = read(RESOLV_CONF);
    let mut reachable = without_loopback(&own);
    if has_server(&own) && !has_server(&reachable) {
        reachable = without_loopback(&read(BEHIND_RESOLVED));
    }
    // The last search list of a file counts (resolv.conf(5)).
    reachable + &of_network(dns)
}

/// Writes both files into the folder of an endpoint.
pub fn write(folder: &Path, resolv_conf: &str, hosts: &str) -> Result<(), Problem> {
    for (name, text) in [("resolv.conf", resolv_conf), ("hosts", hosts)] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(Problem::file("write", &path))?;
    }
    Ok(())
}

fn of_network(dns: &Dns) -> String {
    let mut lines: Vec<String> =
        dns.nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let search: Vec<&str> = dns.search.iter().chain(&dns.domain).map(String::as_str).collect();
    if !search.is_empty() {
        lines.push(format!("search {}\n", search.join(" ")));
    }
    if !dns.options.is_empty() {
        lines.push(format!("options {}\n", dns.options.join(" ")));
    }
    lines.concat()
}

/// What the host's file says about how to look names up, whichever server is asked.
fn host_options() -> Vec<String> {
    Resolv::read(Path::new(RESOLV_CONF)).options
}

fn without_loopback(text: &str) -> String {
    let reachable = |line: &&str| server(line).is_none_or(|server| !server.is_loopback());
    text.lines().filter(reachable).map(|line| format!("{line}\n")).collect()
}

fn has_server(text: &str) -> bool {
    text.lines().any(|line| server(line).is_some())
}

/// The address of a `nameserver` line; a zone behind it (`fe80::1%eth0`) makes it none, and none of the loopback's.
fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_knows_localhost_and_the_endpoint() {
        let addresses = ["172.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(
            hosts("web", &addresses),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n172.18.0.2\tweb\nfd00::2\tweb\n"
        );
    }

    #[test]
    fn servers_on_the_hosts_loopback_are_left_out() {
        let text = "# mine\nnameserver 127.0.0.53\nnameserver  10.0.0.1\nnameserver ::1\nsearch lan\noptions edns0\n";
        assert_eq!(without_loopback(text), "# mine\nnameserver  10.0.0.1\nsearch lan\noptions edns0\n");
        assert!(
            has_server("nameserver 127.0.0.53") && !has_server(&without_loopback("nameserver 127.0.0.53"))
        );
    }

    #[test]
    fn a_search_list_goes_with_the_hosts_servers() {
        let dns = Dns { search: vec!["example.net".into()], ..Dns::default() };
        assert!(resolv_conf(&dns).ends_with("search example.net\n"));
    }

    #[test]
    fn what_the_network_says_wins() {
        let dns = Dns {
            nameservers: vec!["172.18.0.1".into()],
            search: vec!["mynet".into()],
            options: vec!["ndots:0".into()],
            ..Dns::default()
        };
        assert_eq!(resolv_conf(&dns), "nameserver 172.18.0.1\nsearch mynet\noptions ndots:0\n");
    }
}
