//! A link as RTM_GETLINK tells it, its attributes by name.

use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use rtnetlink::Handle;

use crate::rtnl::all;

/// What is shown of a link, and compared. Missing texts are empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub index: u32,
    pub flags: LinkFlags,
    pub name: String,
    pub kind: String,
    pub alias: String,
    pub qdisc: String,
    pub state: String,
    pub mac: Vec<u8>,
    pub broadcast: Vec<u8>,
    pub mtu: u32,
    pub queue_length: u32,
    pub master: Option<u32>,
    /// IFLA_LINK: a veth's peer, in the namespace `netnsid` (None: this one).
    pub peer: Option<u32>,
    pub netnsid: Option<i32>,
    pub settings: Vec<LinkInfo>,
    pub port: Vec<InfoBridgePort>,
}

/// All links, by index.
pub(crate) async fn links(handle: &Handle) -> Result<Vec<View>, rtnetlink::Error> {
    let mut links: Vec<View> =
        all(handle.link().get().execute()).await?.into_iter().map(View::from).collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

impl View {
    pub fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// State, priority and cost of a bridge port.
    pub fn port_state(&self) -> (&'static str, u16, u32) {
        let mut shown = ("", 0, 0);
        for attribute in &self.port {
            match attribute {
                InfoBridgePort::State(state) => shown.0 = port_state_name(*state),
                InfoBridgePort::Priority(priority) => shown.1 = *priority,
                InfoBridgePort::Cost(cost) => shown.2 = *cost,
                _ => {}
            }
        }
        shown
    }

    fn set(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name = name,
            LinkAttribute::IfAlias(alias) => self.alias = alias,
            LinkAttribute::Qdisc(qdisc) => self.qdisc = qdisc,
            LinkAttribute::OperState(state) => self.state = state_name(state),
            LinkAttribute::Address(mac) => self.mac = mac,
            LinkAttribute::Broadcast(mac) => self.broadcast = mac,
            LinkAttribute::Mtu(mtu) => self.mtu = mtu,
            LinkAttribute::TxQueueLen(length) => self.queue_length = length,
            LinkAttribute::Controller(index) => self.master = Some(index),
            LinkAttribute::Link(index) => self.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => self.netnsid = Some(id),
            LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| self.learn(info)),
            _ => {}
        }
    }

    fn learn(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = kind.to_string(),
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => self.port = port,
            LinkInfo::Data(_) => self.settings.push(info),
            _ => {}
        }
    }
}

impl From<LinkMessage> for View {
    fn from(message: LinkMessage) -> Self {
        let LinkMessage { header, attributes, .. } = message;
        let mut view = Self { index: header.index, flags: header.flags, ..Self::default() };
        attributes.into_iter().for_each(|attribute| view.set(attribute));
        view
    }
}

/// The name of the link with this index; its number if there is none.
pub(crate) fn name_of(links: &[View], index: u32) -> String {
    match links.iter().find(|link| link.index == index) {
        Some(link) => link.name.clone(),
        None => format!("if{index}"),
    }
}

/// Colon-separated hexadecimal bytes.
pub(crate) fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn state_name(state: State) -> String {
    let name = match state {
        State::Unknown => "UNKNOWN",
        State::NotPresent => "NOTPRESENT",
        State::Down => "DOWN",
        State::LowerLayerDown => "LOWERLAYERDOWN",
        State::Testing => "TESTING",
        State::Dormant => "DORMANT",
        State::Up => "UP",
        other => return u8::from(other).to_string(),
    };
    name.into()
}

fn port_state_name(state: BridgePortState) -> &'static str {
    match state {
        BridgePortState::Disabled => "disabled",
        BridgePortState::Listening => "listening",
        BridgePortState::Learning => "learning",
        BridgePortState::Forwarding => "forwarding",
        BridgePortState::Blocking => "blocking",
        _ => "unknown",
    }
}
