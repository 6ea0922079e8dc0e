//! Kinds of links and filters that this kernel does not have: their modules, and the options that build them.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Body;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rustix::io::Errno;

use crate::error::Error;
use crate::handle::Netlink;
use crate::request::Request;
use crate::socket::{Message, Refusal};

/// A kind of link that rnet makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `ip link add type bridge`
    Bridge,
    /// `ip link add type veth`
    Veth,
}

/// No link has an MTU of one byte: the kernel looks for the kind first, and refuses the MTU then.
const IMPOSSIBLE_MTU: u32 = 1;
const PROBE: &str = "rnet-probe";

impl Kind {
    fn info(self) -> InfoKind {
        match self {
            Self::Bridge => InfoKind::Bridge,
            Self::Veth => InfoKind::Veth,
        }
    }

    /// The error for a kernel that does not know the kind.
    pub(crate) fn missing(self) -> Error {
        match self {
            Self::Bridge => missing("bridges", "bridge", "CONFIG_BRIDGE"),
            Self::Veth => missing("veth pairs", "veth", "CONFIG_VETH"),
        }
    }
}

/// The error for a refusal whose cause is a missing part of the kernel.
pub(crate) fn absence(request: &Request, refusal: &Refusal) -> Option<Error> {
    match (request, refusal.errno) {
        (Request::Bridge { .. }, Errno::OPNOTSUPP) => Some(Kind::Bridge.missing()),
        // If the hook was refused, the filters have none (EINVAL).
        (Request::LoopbackGuard { .. }, Errno::NOENT | Errno::INVAL) => Some(missing(
            "filters at a link's ingress",
            "sch_ingress cls_bpf",
            "CONFIG_NET_SCH_INGRESS CONFIG_NET_CLS_BPF",
        )),
        _ => None,
    }
}

fn missing(what: &'static str, module: &'static str, option: &'static str) -> Error {
    Error::Missing { what, module, option }
}

impl Netlink {
    /// Tries whether this kernel can make such links, by asking for one with an invalid MTU.
    ///
    /// # Errors
    /// [`Error::Missing`] if it cannot.
    pub fn require_kind(&mut self, kind: Kind) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(PROBE.into()),
            LinkAttribute::Mtu(IMPOSSIBLE_MTU),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind.info())]),
        ];
        let message = Message::new(Body::NewLink(link), NLM_F_CREATE | NLM_F_EXCL);
        match self.verdict(message)? {
            Some(Refusal { errno: Errno::OPNOTSUPP, .. }) => Err(kind.missing()),
            Some(_) => Ok(()),
            // For a kernel that makes it anyway.
            None => self.remove_probe(),
        }
    }

    fn remove_probe(&mut self) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(PROBE.into())];
        self.verdict(Message::new(Body::DelLink(link), 0)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mac, Netns};

    fn module(request: &Request, errno: Errno) -> Option<&'static str> {
        match absence(request, &Refusal { errno, detail: String::new() }) {
            Some(Error::Missing { module, .. }) => Some(module),
            _ => None,
        }
    }

    #[test]
    fn a_missing_part_of_the_kernel_is_named_with_its_module() {
        let bridge = Request::Bridge { name: "br0".into(), mac: Mac([2; 6]), mtu: None, snooping: false };
        let guard = Request::LoopbackGuard { index: 2, name: "br0".into(), mark: 1 };

        assert_eq!(module(&bridge, Errno::OPNOTSUPP), Some("bridge"));
        assert_eq!(module(&bridge, Errno::EXIST), None);
        assert_eq!(module(&guard, Errno::NOENT), Some("sch_ingress cls_bpf"));
        assert_eq!(module(&guard, Errno::PERM), None);
        let text = Kind::Veth.missing().to_string();
        assert_eq!(text, "this kernel lacks veth pairs (veth, CONFIG_VETH); hint: modprobe -a veth");
    }

    #[test]
    fn asking_for_a_kind_leaves_nothing() {
        let asked = || {
            let mut netlink = Netlink::here().unwrap();
            let before = netlink.links().unwrap();
            netlink.require_kind(Kind::Bridge).unwrap();
            netlink.require_kind(Kind::Veth).unwrap();
            assert_eq!(netlink.links().unwrap(), before);
        };
        Netns::create().unwrap().run(asked).unwrap();
    }
}
