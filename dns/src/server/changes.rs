//! Changes of the table, and the listeners that they open and close.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::rc::Rc;

use rustix::io::Errno;

use super::{Listener, Server};
use crate::bind::GatewaySockets;
use crate::binder::Binder;
use crate::entry::{Endpoint, Known, Network, askable};
use crate::protocol::Attachment;
use crate::{listen, stream};

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("network {network}: cannot listen at {address}: {source}")]
    Bind { network: String, address: IpAddr, source: Errno },
    #[error("endpoint {container} {ifname} is on network {network}, not on {other}")]
    Network { container: String, ifname: String, network: String, other: String },
    #[error("no endpoint can be called {container:?} {ifname:?}")]
    Endpoint { container: String, ifname: String },
    #[error("network {network} is not known as it is on record")]
    UnknownNetwork { network: String },
    #[error("the names of {container} {ifname} on network {network} are not known as they are on record")]
    UnknownEndpoint { container: String, ifname: String, network: String },
}

impl Server {
    /// Sets a network and an endpoint on it; when this returns, its names answer.
    pub(crate) async fn set(
        self: &Rc<Self>,
        network: Network,
        endpoint: Option<Endpoint>,
    ) -> Result<(), Error> {
        if let Some(endpoint) = endpoint.as_ref().filter(|endpoint| endpoint.network != network.name) {
            return Err(misplacement(endpoint, network.name));
        }
        let mut binder = self.binder.lock().await;
        let known = self.networks.borrow().get(&network.name).cloned();
        if known.as_ref() != Some(&network) || !self.listens(&network) {
            self.set_network(&mut binder, network, known).await?;
        }
        if let Some(endpoint) = endpoint {
            let known = self.table.borrow_mut().set_endpoint(&endpoint);
            log_unaskable(&endpoint);
            let Endpoint { network, container, ifname, names, addresses, .. } = endpoint;
            if !known {
                return Err(Error::Endpoint { container, ifname });
            }
            tracing::info!(network, container, ifname, ?names, ?addresses, "set");
        }
        Ok(())
    }

    /// Whether exactly both are known.
    pub(crate) fn check(&self, network: &Network, endpoint: &Endpoint) -> Result<(), Error> {
        if self.networks.borrow().get(&network.name) != Some(network) || !self.listens(network) {
            return Err(Error::UnknownNetwork { network: network.name.clone() });
        }
        if self.table.borrow().knows(endpoint) {
            return Ok(());
        }
        let Endpoint { container, ifname, network, .. } = endpoint.clone();
        Err(Error::UnknownEndpoint { container, ifname, network })
    }

    /// Changes the table first, so that a listener always knows its network. Goes back to `known` if it cannot listen.
    async fn set_network(
        self: &Rc<Self>,
        binder: &mut Binder,
        network: Network,
        known: Option<Network>,
    ) -> Result<(), Error> {
        let name = network.name.clone();
        let past = known.iter().flat_map(|known| known.gateways.clone());
        let touched: Vec<_> = past.chain(network.gateways.clone()).collect();
        self.know(network.clone());
        let listening = self.listen(binder, &network).await;
        match (&listening, known) {
            (Ok(()), _) => {}
            (Err(_), Some(known)) => self.know(known),
            (Err(_), None) => self.forget(&name),
        }
        self.close_unused(binder, &touched).await;
        self.changed.notify_one();
        listening
    }

    fn know(&self, network: Network) {
        self.table.borrow_mut().set_network(network.clone());
        self.networks.borrow_mut().insert(network.name.clone(), network);
        // Its bridge may have been renamed.
        self.links.forget();
    }

    fn forget(&self, network: &str) {
        self.table.borrow_mut().remove_network(network);
        self.networks.borrow_mut().remove(network);
        self.links.forget();
    }

    /// Removes an endpoint or a whole network; an unknown one is fine.
    pub(crate) async fn remove(&self, network: &str, endpoint: Option<&Attachment>) {
        let mut binder = self.binder.lock().await;
        match endpoint {
            Some(Attachment { container, ifname }) => {
                self.table.borrow_mut().remove_endpoint(network, container, ifname);
                tracing::info!(network, container, ifname, "removed");
            }
            None => {
                let known = self.networks.borrow().get(network).cloned();
                self.forget(network);
                self.close_unused(&mut binder, &known.unwrap_or_default().gateways).await;
                self.changed.notify_one();
                tracing::info!(network, "network removed");
            }
        }
    }

    /// Listens at the gateways at which it does not listen yet; no other listener is touched (L5).
    async fn listen(self: &Rc<Self>, binder: &mut Binder, network: &Network) -> Result<(), Error> {
        for address in network.gateways.iter().copied() {
            if self.listeners.borrow().contains_key(&address) {
                continue;
            }
            let bound = binder.bind(address, &network.bridge).await;
            let name = &network.name;
            match &bound {
                Ok(GatewaySockets { port, .. }) => {
                    tracing::info!(network = name, %address, port, "listening")
                }
                Err(error) => tracing::warn!(network = name, %address, %error, "cannot listen"),
            }
            let bound = bound.map_err(|source| Error::Bind { network: name.clone(), address, source })?;
            self.listeners.borrow_mut().insert(address, self.begin(bound, address));
        }
        Ok(())
    }

    fn listens(&self, network: &Network) -> bool {
        let listeners = self.listeners.borrow();
        network.gateways.iter().all(|address| listeners.contains_key(address))
    }

    fn begin(self: &Rc<Self>, bound: GatewaySockets, address: IpAddr) -> Listener {
        let (batches, connections) = (Rc::clone(&self.batches), Rc::clone(&self.connections));
        let datagrams = listen::serve(Rc::clone(self), batches, bound.udp, address);
        let streams = stream::serve(Rc::clone(self), connections, bound.tcp, address);
        let (datagrams, streams) = (tokio::task::spawn_local(datagrams), tokio::task::spawn_local(streams));
        Listener { port: bound.port, tasks: [datagrams, streams] }
    }

    /// Stops listening at those of the addresses that no network needs.
    async fn close_unused(&self, binder: &mut Binder, touched: &[IpAddr]) {
        for address in touched {
            let used = self.networks.borrow().values().any(|network| network.gateways.contains(address));
            if !used && self.listeners.borrow_mut().remove(address).is_some() {
                binder.close(*address).await;
            }
        }
    }

    /// Fills the table from the records, before the first answer (G5). A network at whose gateways it cannot listen does not
    /// affect the others.
    pub(crate) async fn fill(self: &Rc<Self>, table: File) -> io::Result<()> {
        let (mut networks, mut endpoints) = (Vec::new(), 0);
        for line in BufReader::new(table).lines() {
            match serde_json::from_str(&line?)? {
                Known::Network(network) => {
                    self.know(network.clone());
                    networks.push(network);
                }
                Known::Endpoint(endpoint) => {
                    endpoints += usize::from(self.table.borrow_mut().set_endpoint(&endpoint))
                }
            }
        }
        tracing::info!(networks = networks.len(), endpoints, "answering");
        let mut binder = self.binder.lock().await;
        for network in &networks {
            let _ = self.listen(&mut binder, network).await;
        }
        Ok(())
    }
}

/// N6: logs the names that no other container can look up.
fn log_unaskable(endpoint: &Endpoint) {
    let Endpoint { network, container, names, .. } = endpoint;
    for name in names.iter().filter(|name| !askable(name)) {
        tracing::warn!(network, container, name, "other containers cannot look this name up");
    }
}

fn misplacement(endpoint: &Endpoint, other: String) -> Error {
    let Endpoint { container, ifname, network, .. } = endpoint.clone();
    Error::Network { container, ifname, network, other }
}
