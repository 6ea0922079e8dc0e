//! `-p`: docker's grammar, and which host ports come out of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::report::Problem;

/// A transport protocol whose ports can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// The ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first one.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

/// One `-p` as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The host address; none is any.
    pub host: Option<IpAddr>,
    /// The host ports; none is any free one.
    pub host_ports: Option<Span>,
    /// The container's ports.
    pub container_ports: Span,
    /// The protocol.
    pub protocol: Protocol,
}

/// One host port that leads to one container port: an entry of `runtimeConfig.portMappings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The host address; none is any.
    pub host: Option<IpAddr>,
    /// The host port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// What is wrong with a `-p`, in docker's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Too many or too few parts.
    #[error("{0:?} is not [HOST-IP:][HOST-PORTS:]PORTS[/PROTO] (write an IPv6 address in brackets)")]
    Shape(String),
    /// A host address that is none.
    #[error("invalid hostIP: {0}")]
    HostIp(String),
    /// A host port that is none, or a range that runs backwards.
    #[error("invalid hostPort: {0}")]
    HostPort(String),
    /// A container port that is none, or a range that runs backwards.
    #[error("invalid containerPort: {0}")]
    ContainerPort(String),
    /// An unknown protocol.
    #[error("invalid proto: {0}")]
    Protocol(String),
    /// Ranges that cannot be paired.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's ports.
        container: Span,
        /// The host's.
        host: Span,
    },
    /// An unknown key of the long form.
    #[error("invalid field key {0:?}: target, published, protocol and host_ip are known")]
    Key(String),
    /// The long form without `target`.
    #[error("missing target in {0:?}")]
    NoTarget(String),
}

/// Who has a host port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A container; the firewall's maps tell of it by themselves.
    Container,
    /// A process of the host, `nginx (pid 812)` where it can be told.
    Process(Option<String>),
}

/// What is known of the host's ports.
pub trait Book {
    /// Who has a port; fails if `host` is no address of this host.
    fn holder(
        &mut self,
        host: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<Option<Holder>, Problem>;
    /// The ports to choose free ones from, the one after the last choice first.
    fn ephemeral(&mut self) -> Vec<u16>;
    /// Remembers a choice, so that the next one is another.
    fn chose(&mut self, port: u16);
}

/// So often a free port is tried that a process of the host turns out to have.
const TRIES: usize = 10;

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.contains('=') { long_form(text) } else { short_form(text) }?.paired()
    }
}

impl Spec {
    /// A range on one side needs a range of the same length on the other, or one container port.
    fn paired(self) -> Result<Self, SpecError> {
        match self.host_ports {
            Some(host) if self.container_ports.len() != 1 && host.len() != self.container_ports.len() => {
                Err(SpecError::Ranges { container: self.container_ports, host })
            }
            _ => Ok(self),
        }
    }

    /// The container's ports, each with the host ports that it may have.
    fn wanted(&self) -> impl Iterator<Item = (u16, Option<Span>)> {
        let one_to_one = self.host_ports.is_some_and(|host| host.len() == self.container_ports.len());
        self.container_ports.ports().enumerate().map(move |(nth, container)| {
            let host = self.host_ports.map(|host| if one_to_one { host.nth(nth) } else { host });
            (container, host)
        })
    }
}

/// Chooses the host ports for all `-p` of one command, and refuses what is not free before anything is changed.
///
/// A fixed port that a container has is left to the firewall's map, the one authority on it.
pub fn resolve(specs: &[Spec], book: &mut dyn Book) -> Result<Vec<Mapping>, Problem> {
    refuse_too_many(specs, book)?;
    let mut chosen: Vec<Mapping> = Vec::new();
    for spec in specs {
        for (container_port, host_ports) in spec.wanted() {
            let host_port = choose(spec, host_ports, &chosen, book)?;
            chosen.push(Mapping { host: spec.host, host_port, container_port, protocol: spec.protocol });
        }
    }
    Ok(chosen)
}

/// More ports than can be chosen are refused at once: to try them all takes minutes.
fn refuse_too_many(specs: &[Spec], book: &mut dyn Book) -> Result<(), Problem> {
    let mut wanted: BTreeMap<(Option<IpAddr>, &str), (usize, &Spec)> = BTreeMap::new();
    for spec in specs.iter().filter(|spec| spec.host_ports.is_none()) {
        wanted.entry((spec.host, spec.protocol.as_str())).or_insert((0, spec)).0 +=
            spec.container_ports.len();
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let ports = book.ephemeral();
    let too_many = wanted.values().find(|(count, _)| *count > ports.len());
    too_many.map_or(Ok(()), |(_, spec)| Err(exhausted(spec, whole(&ports))))
}

impl Mapping {
    /// The entry in `runtimeConfig.portMappings`.
    pub fn to_json(&self) -> Value {
        let mut entry = json!({
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol.as_str(),
        });
        if let Some(host) = self.host {
            entry["hostIP"] = json!(host.to_string());
        }
        entry
    }

    /// True if both cannot be published: one port on one address, or on any address and on one of its family.
    fn collides(&self, host: Option<IpAddr>, port: u16, protocol: Protocol) -> bool {
        let any = |host: Option<IpAddr>| host.is_none_or(|host| host.is_unspecified());
        let family = self.host.zip(host).is_none_or(|(one, other)| one.is_ipv4() == other.is_ipv4());
        let address = any(self.host) || any(host) || self.host == host;
        self.host_port == port && self.protocol == protocol && family && address
    }
}

impl Span {
    /// One port.
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// True if it is a single port.
    pub fn is_one(self) -> bool {
        self.first == self.last
    }

    /// True if the port is one of them.
    pub fn has(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn len(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Each of them.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    fn nth(self, nth: usize) -> Self {
        // `nth` counts the ports of a span of the same length, so it never leaves this one.
        Self::one(self.first.saturating_add(u16::try_from(nth).unwrap_or(u16::MAX)).min(self.last))
    }

    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|port| *port > 0 && plain)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let span = Self { first: port(first)?, last: port(last)? };
        (span.first <= span.last).then_some(span)
    }
}

impl Protocol {
    /// The word in configurations and after the slash.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// The protocol of that word.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let fits = |protocol: &Protocol| protocol.as_str().eq_ignore_ascii_case(text);
        known.into_iter().find(fits).ok_or_else(|| SpecError::Protocol(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&fold(self.first, self.last))
    }
}

/// `80`, `80-90`.
pub fn fold(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// A host address as docker prints it: brackets around IPv6, `0.0.0.0` for any.
pub fn host_text(host: Option<IpAddr>) -> String {
    match host {
        None => "0.0.0.0".into(),
        Some(IpAddr::V4(host)) => host.to_string(),
        Some(IpAddr::V6(host)) => format!("[{host}]"),
    }
}

fn short_form(text: &str) -> Result<Spec, SpecError> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Protocol::parse(protocol)?;
    let (host, host_ports, container_ports) =
        parts(ports).ok_or_else(|| SpecError::Shape(text.to_owned()))?;
    Ok(Spec {
        host: host.map(host_ip).transpose()?,
        host_ports: host_ports.map(host_span).transpose()?,
        container_ports: container_span(container_ports)?,
        protocol,
    })
}

/// Host address, host ports, container ports.
type Parts<'a> = (Option<&'a str>, Option<&'a str>, &'a str);

fn parts(text: &str) -> Option<Parts<'_>> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, ports) = rest.split_once("]:")?;
        let (host_ports, container) = ports.split_once(':')?;
        return (!container.contains(':')).then_some((Some(host), given(host_ports), container));
    }
    match text.split(':').collect::<Vec<_>>()[..] {
        [container] => Some((None, None, container)),
        [host_ports, container] => Some((None, given(host_ports), container)),
        [host, host_ports, container] => Some((Some(host), given(host_ports), container)),
        _ => None,
    }
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// `target=80,published=8080,protocol=tcp`; `mode` means nothing here and is let through.
fn long_form(text: &str) -> Result<Spec, SpecError> {
    let (mut target, mut published, mut protocol, mut host) = (None, None, Protocol::Tcp, None);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| SpecError::Key(field.to_owned()))?;
        match key {
            "target" => target = Some(container_span(value)?),
            "published" => published = Some(host_span(value)?),
            "protocol" => protocol = Protocol::parse(value)?,
            "host_ip" => host = Some(host_ip(value)?),
            "mode" => {}
            _ => return Err(SpecError::Key(key.to_owned())),
        }
    }
    let container_ports = target.ok_or_else(|| SpecError::NoTarget(text.to_owned()))?;
    Ok(Spec { host, host_ports: published, container_ports, protocol })
}

fn host_ip(text: &str) -> Result<IpAddr, SpecError> {
    text.parse().map_err(|_| SpecError::HostIp(text.to_owned()))
}

fn host_span(text: &str) -> Result<Span, SpecError> {
    Span::parse(text).ok_or_else(|| SpecError::HostPort(text.to_owned()))
}

/// The container's ports: `80`, `80-90`.
pub fn container_span(text: &str) -> Result<Span, SpecError> {
    Span::parse(text).ok_or_else(|| SpecError::ContainerPort(text.to_owned()))
}

fn choose(
    spec: &Spec,
    allowed: Option<Span>,
    chosen: &[Mapping],
    book: &mut dyn Book,
) -> Result<u16, Problem> {
    match allowed {
        Some(span) if span.len() == 1 => fixed(spec, span.first, chosen, book),
        Some(span) => {
            let free = first_free(spec, span.ports(), usize::MAX, chosen, book)?;
            free.ok_or_else(|| exhausted(spec, span))
        }
        None => ephemeral(spec, chosen, book),
    }
}

fn fixed(spec: &Spec, port: u16, chosen: &[Mapping], book: &mut dyn Book) -> Result<u16, Problem> {
    if is_chosen(spec, port, chosen) {
        return Err(Problem::PortTwice { host: host_text(spec.host), port });
    }
    match book.holder(spec.host, port, spec.protocol)? {
        Some(Holder::Process(holder)) => Err(Problem::PortInUse {
            host: host_text(spec.host),
            port,
            protocol: spec.protocol.as_str(),
            holder,
        }),
        Some(Holder::Container) | None => Ok(port),
    }
}

fn ephemeral(spec: &Spec, chosen: &[Mapping], book: &mut dyn Book) -> Result<u16, Problem> {
    let ports = book.ephemeral();
    let whole = whole(&ports);
    let port =
        first_free(spec, ports.into_iter(), TRIES, chosen, book)?.ok_or_else(|| exhausted(spec, whole))?;
    book.chose(port);
    Ok(port)
}

fn whole(ports: &[u16]) -> Span {
    Span { first: ports.iter().copied().min().unwrap_or(0), last: ports.iter().copied().max().unwrap_or(0) }
}

fn first_free(
    spec: &Spec,
    ports: impl Iterator<Item = u16>,
    tries: usize,
    chosen: &[Mapping],
    book: &mut dyn Book,
) -> Result<Option<u16>, Problem> {
    let mut processes = 0;
    for port in ports.filter(|port| !is_chosen(spec, *port, chosen)) {
        match book.holder(spec.host, port, spec.protocol)? {
            None => return Ok(Some(port)),
            Some(Holder::Container) => {}
            Some(Holder::Process(_)) => processes += 1,
        }
        if processes == tries {
            break;
        }
    }
    Ok(None)
}

fn is_chosen(spec: &Spec, port: u16, chosen: &[Mapping]) -> bool {
    chosen.iter().any(|mapping| mapping.collides(spec.host, port, spec.protocol))
}

fn exhausted(spec: &Spec, span: Span) -> Problem {
    Problem::PortsExhausted { first: span.first, last: span.last, protocol: spec.protocol.as_str() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host on which some ports are taken; its ephemeral ports are 32768 to 32771.
    #[derive(Default)]
    struct Host {
        containers: Vec<u16>,
        processes: Vec<u16>,
        last: Option<u16>,
    }

    impl Book for Host {
        fn holder(&mut self, _: Option<IpAddr>, port: u16, _: Protocol) -> Result<Option<Holder>, Problem> {
            let process =
                || self.processes.contains(&port).then(|| Holder::Process(Some("nginx (pid 812)".into())));
            Ok(self.containers.contains(&port).then_some(Holder::Container).or_else(process))
        }

        fn ephemeral(&mut self) -> Vec<u16> {
            let after = self.last.map_or(0, |last| usize::from(last - 32767));
            (0..4).map(|nth| 32768 + ((after + nth) % 4) as u16).collect()
        }

        fn chose(&mut self, port: u16) {
            self.last = Some(port);
        }
    }

    fn specs(texts: &[&str]) -> Vec<Spec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// `HOST:PORT->PORT/PROTO`, as `rnet ps` shows it.
    fn resolved(texts: &[&str], host: &mut Host) -> Result<Vec<String>, String> {
        let mappings = resolve(&specs(texts), host).map_err(|problem| problem.to_string())?;
        let line = |m: &Mapping| {
            format!("{}:{}->{}/{}", host_text(m.host), m.host_port, m.container_port, m.protocol.as_str())
        };
        Ok(mappings.iter().map(line).collect())
    }

    #[test]
    fn dockers_grammar_is_understood() {
        let cases: [(&str, &[&str]); 17] = [
            ("3344:80", &["0.0.0.0:3344->80/tcp"]),
            ("80", &["0.0.0.0:32768->80/tcp"]),
            (":80", &["0.0.0.0:32768->80/tcp"]),
            ("80/udp", &["0.0.0.0:32768->80/udp"]),
            ("80-81", &["0.0.0.0:32768->80/tcp", "0.0.0.0:32769->81/tcp"]),
            ("127.0.0.1:9000:80", &["127.0.0.1:9000->80/tcp"]),
            ("127.0.0.1::80/udp", &["127.0.0.1:32768->80/udp"]),
            ("[::1]:8080:80", &["[::1]:8080->80/tcp"]),
            ("[fd00::1]::80", &["[fd00::1]:32768->80/tcp"]),
            ("0.0.0.0:8080:80", &["0.0.0.0:8080->80/tcp"]),
            ("7000-7002:80", &["0.0.0.0:7000->80/tcp"]),
            ("8000-8001:80-81", &["0.0.0.0:8000->80/tcp", "0.0.0.0:8001->81/tcp"]),
            ("8080:80/SCTP", &["0.0.0.0:8080->80/sctp"]),
            ("65535:1", &["0.0.0.0:65535->1/tcp"]),
            ("target=80,published=8080,protocol=udp", &["0.0.0.0:8080->80/udp"]),
            ("published=8080,target=80,mode=host", &["0.0.0.0:8080->80/tcp"]),
            ("target=80", &["0.0.0.0:32768->80/tcp"]),
        ];
        for (given, expected) in cases {
            assert_eq!(resolved(&[given], &mut Host::default()).unwrap(), expected, "{given}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_dockers_words() {
        let cases = [
            ("70000:80", "invalid hostPort: 70000"),
            ("0:80", "invalid hostPort: 0"),
            ("+1:80", "invalid hostPort: +1"),
            ("9-8:80", "invalid hostPort: 9-8"),
            ("8080:", "invalid containerPort: "),
            ("8080:70000", "invalid containerPort: 70000"),
            ("x", "invalid containerPort: x"),
            ("", "invalid containerPort: "),
            ("80/abc", "invalid proto: abc"),
            ("80/", "invalid proto: "),
            ("1-3:80-81", "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
            ("8080:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8080"),
            ("10.0.0:8080:80", "invalid hostIP: 10.0.0"),
            (":8080:80", "invalid hostIP: "),
            (
                "[::1:8080:80",
                "\"[::1:8080:80\" is not [HOST-IP:][HOST-PORTS:]PORTS[/PROTO] (write an IPv6 address in brackets)",
            ),
            (
                "::1:8080:80",
                "\"::1:8080:80\" is not [HOST-IP:][HOST-PORTS:]PORTS[/PROTO] (write an IPv6 address in brackets)",
            ),
            (
                "target=80,publshed=1",
                "invalid field key \"publshed\": target, published, protocol and host_ip are known",
            ),
            ("published=80", "missing target in \"published=80\""),
        ];
        for (given, text) in cases {
            assert_eq!(given.parse::<Spec>().unwrap_err().to_string(), text, "{given}");
        }
    }

    #[test]
    fn a_range_gives_its_first_free_port() {
        let mut host = Host { containers: vec![7000], processes: vec![7001], last: None };
        assert_eq!(resolved(&["7000-7002:80"], &mut host).unwrap(), ["0.0.0.0:7002->80/tcp"]);
        host.containers.push(7002);
        assert_eq!(resolved(&["7000-7002:80"], &mut host).unwrap_err(), "no free host port in 7000-7002/tcp");
    }

    #[test]
    fn more_ports_than_there_are_free_ones_are_refused_before_any_is_chosen() {
        let mut host = Host::default();
        let text = "no free host port in 32768-32771/udp";
        assert_eq!(resolved(&["80-84/udp"], &mut host).unwrap_err(), text);
        assert_eq!(resolved(&["80", "80-82/udp", "90-91/udp"], &mut host).unwrap_err(), text);
        assert_eq!(host.last, None);
        assert_eq!(resolved(&["80-83", "80-83/udp"], &mut host).unwrap().len(), 8);
    }

    #[test]
    fn free_ports_are_handed_out_in_turn_and_wrap_around() {
        let mut host = Host { processes: vec![32769], ..Host::default() };
        let got: Vec<_> = (0..4).map(|_| resolved(&["80"], &mut host).unwrap()[0].clone()).collect();
        let port = |n: u16| format!("0.0.0.0:{n}->80/tcp");
        assert_eq!(got, [port(32768), port(32770), port(32771), port(32768)]);
    }

    #[test]
    fn a_fixed_port_of_a_process_is_refused_and_of_a_container_left_to_the_firewall() {
        let mut host = Host { processes: vec![8080], containers: vec![8081], last: None };
        assert_eq!(
            resolved(&["8080:80"], &mut host).unwrap_err(),
            "failed to bind host port 0.0.0.0:8080/tcp: address already in use, by nginx (pid 812)"
        );
        assert!(resolved(&["8081:80"], &mut host).is_ok());
    }

    #[test]
    fn one_command_does_not_take_a_port_twice() {
        let taken = "Bind for 127.0.0.1:80 failed: port is already allocated, by another -p of this command";
        assert_eq!(resolved(&["80:80", "127.0.0.1:80:81"], &mut Host::default()).unwrap_err(), taken);
        assert!(resolved(&["80:80", "80:80/udp"], &mut Host::default()).is_ok());
        assert!(resolved(&["127.0.0.1:80:80", "127.0.0.2:80:80"], &mut Host::default()).is_ok());
        let two = resolved(&["7000-7001:80", "7000-7001:81"], &mut Host::default()).unwrap();
        assert_eq!(two, ["0.0.0.0:7000->80/tcp", "0.0.0.0:7001->81/tcp"]);
    }

    #[test]
    fn a_mapping_is_an_entry_of_the_runtimes_configuration() {
        let mapping = &resolve(&specs(&["127.0.0.1:8080:80/udp"]), &mut Host::default()).unwrap()[0];
        assert_eq!(
            mapping.to_json().to_string(),
            r#"{"hostPort":8080,"containerPort":80,"protocol":"udp","hostIP":"127.0.0.1"}"#
        );
    }
}
