//! A whole server at its sockets: a separate host for each test, and upstream servers that misbehave.
#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dns::{Control, Endpoint, Known, Network, Serve, Status, client};
use netns_fixtures::{Host, Outside};

/// The hidden arguments of the real program: here, a test and a word that makes it a worker.
pub const WORKER: [&str; 4] = ["--exact", "a_worker_needs_its_parent", "--nocapture", AS_WORKER];
pub const AS_WORKER: &str = "as-worker-of-a-server";

pub const GATEWAY: &str = "10.77.0.1";
pub const LONG: Duration = Duration::from_secs(6);

/// A host with a bridge address, a container's address (both on lo, so the host plays all parts), and a server.
pub struct Scene {
    pub host: Arc<Host>,
    pub server: Option<JoinHandle<Result<(), dns::Error>>>,
}

impl Scene {
    pub fn new(resolv: &str) -> Self {
        Self::with(resolv, true, vec![])
    }

    pub fn with(resolv: &str, process: bool, table: Vec<(Network, Vec<Endpoint>)>) -> Self {
        let host = Arc::new(Host::new().unwrap());
        let address = |ip: &str| host.command("ip").args(["addr", "add", ip, "dev", "lo"]).status().unwrap();
        for ip in
            ["10.77.0.1/24", "10.77.0.2/32", "10.78.0.1/24", "fd77::1/64", "192.0.2.1/32", "192.0.2.2/32"]
        {
            assert!(address(ip).success());
        }
        let mut scene = Self { host, server: None };
        scene.write_resolv(resolv);
        scene.start(process, table);
        scene
    }

    pub fn start(&mut self, process: bool, table: Vec<(Network, Vec<Endpoint>)>) {
        let worker = process.then(|| WORKER.map(Into::into).into());
        let (control, resolv_conf) = (Control::open(&self.control()).unwrap(), self.resolv_conf());
        let host = Arc::clone(&self.host);
        let serve = move || {
            let load = move |tell: &mut dyn FnMut(Known)| {
                for (network, endpoints) in &table {
                    tell(Known::Network(network.clone()));
                    endpoints.iter().for_each(|endpoint| tell(Known::Endpoint(endpoint.clone())));
                }
            };
            let (guardian, successor, rest) = (None, Vec::new(), || ());
            let (redirect, prover) = (Vec::new(), Vec::new());
            let config = Serve {
                resolv_conf,
                port: 53,
                worker,
                guardian,
                prover,
                successor,
                redirect,
                load,
                rest,
                errand: None,
            };
            dns::serve(&control, dns::Kept::default(), config)
        };
        self.server = Some(std::thread::spawn(move || host.run(serve).unwrap()));
        wait_for(|| self.host.run(|| client::ping(&self.control())).unwrap().is_ok());
    }

    pub fn control(&self) -> PathBuf {
        self.host.root().join("dns")
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.host.root().join("resolv.conf")
    }

    pub fn write_resolv(&self, text: &str) {
        let new = self.host.root().join("resolv.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.resolv_conf()).unwrap();
    }

    pub fn set(&self, network: &Network, endpoint: Option<&Endpoint>) {
        self.host.run(|| client::set(&self.control(), network, endpoint).unwrap()).unwrap();
    }

    pub fn status(&self) -> Status {
        client::status(&self.control()).unwrap()
    }

    pub fn ask(&self, name: &str) -> Option<Vec<u8>> {
        self.host.run(|| ask(GATEWAY, &query(7, name), LONG)).unwrap()
    }

    /// The response code; 99 for silence.
    pub fn rcode(&self, name: &str) -> u8 {
        self.ask(name).map_or(99, |answer| answer[3] & 0xf)
    }

    pub fn upstream(&self, ip: &str, reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Upstream {
        let socket = self.host.run(|| UdpSocket::bind((ip, 53)).unwrap()).unwrap();
        Upstream::start(socket, reply)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for network in ["net", "net6", "net8"] {
            let _ = client::remove_network(&self.control(), network);
        }
        if let Some(server) = self.server.take()
            && !std::thread::panicking()
        {
            server.join().unwrap().unwrap();
            assert!(!self.control().exists());
        }
    }
}

/// A small server that counts its questions.
pub struct Upstream {
    asked: Arc<AtomicUsize>,
    pub names: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Upstream {
    pub fn start(socket: UdpSocket, reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let (asked, names) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<_>>>::default());
        let this = Self { asked: Arc::clone(&asked), names: Arc::clone(&names) };
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                // A probe for loops has a label of 32 octets and does not count.
                if buffer[12] == 32 {
                    continue;
                }
                // A trial asks for the root: it is answered like any question, and does not count.
                if buffer[12] != 0 {
                    asked.fetch_add(1, Ordering::SeqCst);
                    names.lock().unwrap().push(peer);
                }
                for reply in reply(&buffer[..len]) {
                    socket.send_to(&reply, peer).unwrap();
                }
            }
        });
        this
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

pub fn wait_for(done: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < until, "no answer in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn network() -> Network {
    Network {
        name: "net".into(),
        domain: None,
        bridge: "lo".into(),
        gateways: vec![GATEWAY.parse().unwrap()],
        subnets: vec!["10.77.0.0/24".parse().unwrap()],
        ..Network::default()
    }
}

pub fn endpoint(name: &str, ip: &str) -> Endpoint {
    Endpoint {
        network: "net".into(),
        container: format!("{name}-id"),
        ifname: "eth0".into(),
        names: vec![name.into()],
        addresses: vec![ip.parse().unwrap()],
        upstreams: vec![],
    }
}

pub fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query[..2].copy_from_slice(&id.to_be_bytes());
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

pub fn ask(to: &str, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let to: IpAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().unwrap() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    // Connected: an answer from another address than the one asked is not received (M9).
    socket.connect((to, 53)).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(query).unwrap();
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).ok()?;
    assert_eq!(buffer[..2], query[..2]);
    Some(buffer[..len].to_vec())
}

pub fn reply(query: &[u8], rcode: u8) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply[3] |= rcode;
    reply
}

/// NOERROR with the address 198.51.100.`last`.
pub fn answer(query: &[u8], last: u8) -> Vec<u8> {
    let mut reply = reply(query, 0);
    reply[7] = 1;
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 198, 51, 100, last]);
    reply
}

pub fn with_length(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

pub fn read_with_length(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

pub fn connect() -> TcpStream {
    let stream = TcpStream::connect((GATEWAY, 53)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// A network behind its own link, with one machine that is no endpoint yet.
pub fn behind_a_link(scene: &Scene, name: &str, subnet: &str) -> (Network, Outside) {
    let machine = scene.host.outside(&[subnet.parse().unwrap()]).unwrap();
    let (bridge, gateways) = (machine.link().into(), vec![machine.host_address()]);
    let subnets = vec![subnet.parse().unwrap()];
    let network = Network { name: name.into(), bridge, gateways, subnets, ..Network::default() };
    scene.set(&network, None);
    (network, machine)
}
