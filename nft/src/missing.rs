//! What a kernel lacks: which module it is in, and which option it was built without.
//!
//! Everything here may be a module that is blacklisted, cannot be loaded (`modules_disabled`), or was not built. The
//! kernel itself says only EINVAL, ENOENT or EOPNOTSUPP.

use netlink_packet_core::NlasIterator;
use netlink_packet_netfilter::nftables::NfTablesMessageType;
use rustix::io::Errno;

/// A part of the kernel that rnet needs and that is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Feature {
    /// What it is for.
    pub what: &'static str,
    /// The module that has it; several, separated by blanks, where the kernel does not say which.
    pub module: String,
    /// The option that builds it, in the same way.
    pub option: String,
}

/// nfnetlink.h: NFNL_SUBSYS_CTNETLINK, NFNL_SUBSYS_NFTABLES; NONE is a batch.
const CONNTRACK: u8 = 1;
const NF_TABLES: u8 = 10;
const BATCH: u8 = 0;
/// NFTA_CHAIN_TYPE, NFTA_RULE_EXPRESSIONS, and NFTA_EXPR_NAME in an NFTA_LIST_ELEM.
const CHAIN_TYPE: u16 = 7;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
/// Lengths of `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
/// NFPROTO_BRIDGE
const BRIDGE: u8 = 7;
/// `meta` in the family of bridges: a module of its own, unless it is built in.
const BRIDGE_META: &str = "meta (bridge)";
/// The expressions that nf_tables itself has (nf_tables_core.c).
const BUILT_IN: [&str; 11] = [
    "bitwise",
    "byteorder",
    "cmp",
    "dynset",
    "exthdr",
    "immediate",
    "last",
    "lookup",
    "meta",
    "payload",
    "range",
];
/// `counter` has been one of them since Linux 5.18.
const COUNTER: &str = "counter";

impl Feature {
    fn new(what: &'static str, module: &str, option: &str) -> Self {
        Self { what, module: module.into(), option: option.into() }
    }

    /// The netfilter sockets themselves.
    pub(crate) fn nfnetlink() -> Self {
        Self::new("netfilter's netlink sockets", "nfnetlink", "CONFIG_NETFILTER_NETLINK")
    }

    fn nf_tables() -> Self {
        Self::new("nf_tables", "nf_tables", "CONFIG_NF_TABLES")
    }

    fn conntrack() -> Self {
        Self::new("the list of tracked connections", "nf_conntrack_netlink", "CONFIG_NF_CT_NETLINK")
    }

    /// One of these kinds of expressions: the kernel does not say which one it does not know.
    fn any_of(names: &[String]) -> Option<Self> {
        let join = |part: fn(&str) -> (String, String)| {
            let (modules, options): (Vec<_>, Vec<_>) = names.iter().map(|name| part(name)).unzip();
            (modules.join(" "), options.join(" "))
        };
        let (module, option) = join(|name| match name {
            // For both families at once, and for bridges, there are modules of their own.
            "fib" => ("nft_fib_inet".into(), "CONFIG_NFT_FIB_INET".into()),
            BRIDGE_META => ("nft_meta_bridge".into(), "CONFIG_NFT_BRIDGE_META".into()),
            other => (format!("nft_{other}"), format!("CONFIG_NFT_{}", other.to_uppercase())),
        });
        (!names.is_empty()).then_some(Self { what: "a kind of firewall rule", module, option })
    }
}

/// The feature that is missing according to the answer to a request; `first` is true for BATCH_BEGIN.
pub(crate) fn subsystem(subsystem: u8, first: bool, errno: Errno) -> Option<Feature> {
    match (subsystem, errno) {
        (NF_TABLES, Errno::INVAL) => Some(Feature::nf_tables()),
        (BATCH, Errno::OPNOTSUPP) if first => Some(Feature::nf_tables()),
        (CONNTRACK, Errno::INVAL) => Some(Feature::conntrack()),
        _ => None,
    }
}

/// The missing feature for which the kernel refused one of these messages, the first that it refused. It is none that an
/// earlier message of the same family had.
pub(crate) fn find_missing(messages: &[u8], refused: usize) -> Option<Feature> {
    let messages: Vec<Message<'_>> = split(messages).collect();
    let message = messages.get(refused)?;
    match message.kind {
        kind if kind == u8::from(NfTablesMessageType::NewTable) => Some(match message.family {
            BRIDGE => Feature::new("nf_tables for bridges", "nf_tables", "CONFIG_NF_TABLES_BRIDGE"),
            _ => Feature::new("nf_tables for IPv4 and IPv6 together", "nf_tables", "CONFIG_NF_TABLES_INET"),
        }),
        kind if kind == u8::from(NfTablesMessageType::NewChain) => {
            message.chain_type().and_then(|kind| match &kind[..] {
                "nat" => {
                    Some(Feature::new("address translation by nf_tables", "nft_chain_nat", "CONFIG_NFT_NAT"))
                }
                _ => None,
            })
        }
        kind if kind == u8::from(NfTablesMessageType::NewRule) => {
            let earlier = messages[..refused].iter().filter(|earlier| earlier.family == message.family);
            let known: Vec<String> = earlier.flat_map(Message::expressions).collect();
            let mut new: Vec<String> = message.expressions();
            new.retain(|name| !known.contains(name) && !is_built_in(name));
            // A rule may have one kind twice.
            new.sort();
            new.dedup();
            Feature::any_of(&new)
        }
        _ => None,
    }
}

/// A message of a batch.
struct Message<'a> {
    kind: u8,
    family: u8,
    attributes: &'a [u8],
}

impl Message<'_> {
    fn chain_type(&self) -> Option<String> {
        find(self.attributes, CHAIN_TYPE).map(|value| text(&value))
    }

    fn expressions(&self) -> Vec<String> {
        let Some(list) = find(self.attributes, RULE_EXPRESSIONS) else { return Vec::new() };
        let elements =
            NlasIterator::new(&list[..]).filter_map(|element| Some(element.ok()?.value().to_vec()));
        let names = elements.filter_map(|element| find(&element, EXPRESSION_NAME)).map(|name| text(&name));
        let in_family =
            |name| if self.family == BRIDGE && name == "meta" { BRIDGE_META.to_owned() } else { name };
        names.map(in_family).collect()
    }
}

fn is_built_in(name: &str) -> bool {
    BUILT_IN.contains(&name) || name == COUNTER && !is_before(5, 18)
}

/// By the kernel's release; one that cannot be read counts as new.
fn is_before(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(second))) => (first, second) < (major, minor),
        _ => false,
    }
}

fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut found = NlasIterator::new(attributes).filter_map(Result::ok);
    found.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn split(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let [_, kind] = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]).to_be_bytes();
        let message = bytes.get(..length)?;
        let found = Message { kind, family: *message.get(16)?, attributes: message.get(HEADERS..)? };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Requests;
    use crate::ruleset::Ruleset;
    use crate::{Element, Firewall, Owner, Subject};

    fn batch() -> Vec<u8> {
        let mut requests = Requests::new(0);
        requests.create_tables(&Ruleset::constant());
        requests.bytes().to_vec()
    }

    /// The feature of the first message whose refusal names that module.
    fn first_refusal(module: &str) -> Option<Feature> {
        let batch = batch();
        (0..split(&batch).count())
            .filter_map(|nth| find_missing(&batch, nth))
            .find(|feature| feature.module.split(' ').any(|one| one == module))
    }

    #[test]
    fn a_missing_subsystem_is_recognised_by_its_answer() {
        let module = |kind, first, errno| subsystem(kind, first, errno).map(|feature| feature.module);

        assert_eq!(module(NF_TABLES, true, Errno::INVAL).as_deref(), Some("nf_tables"));
        assert_eq!(module(BATCH, true, Errno::OPNOTSUPP).as_deref(), Some("nf_tables"));
        assert_eq!(module(CONNTRACK, true, Errno::INVAL).as_deref(), Some("nf_conntrack_netlink"));
        assert_eq!(module(BATCH, false, Errno::OPNOTSUPP), None, "one message of several");
        assert_eq!(module(NF_TABLES, true, Errno::NOENT), None);
        assert_eq!(module(CONNTRACK, true, Errno::NOENT), None);
    }

    #[test]
    fn a_module_is_named_once() {
        let batch = batch();
        for feature in (0..split(&batch).count()).filter_map(|nth| find_missing(&batch, nth)) {
            let mut modules: Vec<&str> = feature.module.split(' ').collect();
            modules.sort_unstable();
            let named = modules.len();
            modules.dedup();
            assert_eq!(modules.len(), named, "{}", feature.module);
        }
    }

    #[test]
    fn a_refused_message_of_the_ruleset_names_what_it_needs() {
        for (module, option) in [
            ("nf_tables", "CONFIG_NF_TABLES_INET"),
            ("nft_chain_nat", "CONFIG_NFT_NAT"),
            ("nft_ct", "CONFIG_NFT_CT"),
            ("nft_fib_inet", "CONFIG_NFT_FIB_INET"),
            ("nft_masq", "CONFIG_NFT_MASQ"),
            ("nft_nat", "CONFIG_NFT_NAT"),
            ("nft_meta_bridge", "CONFIG_NFT_BRIDGE_META"),
        ] {
            let feature = first_refusal(module).expect(module);
            assert!(feature.option.split(' ').any(|one| one == option), "{feature:?}");
        }
    }

    #[test]
    fn what_nf_tables_has_itself_is_never_missing() {
        let batch = batch();
        let features = (0..split(&batch).count()).filter_map(|nth| find_missing(&batch, nth));
        let modules: Vec<String> = features.map(|feature| feature.module).collect();
        assert!(BUILT_IN.iter().all(|name| !modules.contains(&format!("nft_{name}"))), "{modules:?}");
    }

    /// A DEL must not fail where nothing can exist.
    #[test]
    fn without_netfilter_there_is_nothing_to_remove_and_nothing_can_be_added() {
        let owner = Owner::new("00aa00aa00aa00aa").unwrap();
        let masquerade = Element::Masquerade { address: "10.0.0.2".parse().unwrap() };
        let elements = [(masquerade.clone(), owner)];
        let mut firewall = Firewall::without_netfilter();

        assert_eq!(firewall.owners(&[masquerade]).unwrap(), [None]);
        assert_eq!(firewall.withdraw(&elements, &[]).unwrap(), None);
        assert_eq!(firewall.elements().unwrap(), []);
        assert!(firewall.stale().unwrap().is_empty());
        assert!(!firewall.are_left(&["10.0.0.2".parse().unwrap()]).unwrap());
        firewall.drop_tables().unwrap();
        assert!(!firewall.uncheck_mac(&Subject::new("c1", "eth0").unwrap()).unwrap());
        for refused in [firewall.add(&elements).unwrap_err(), firewall.state().unwrap_err()] {
            assert_eq!(refused.missing(), Some(&Feature::nfnetlink()), "{refused}");
        }
    }
}
