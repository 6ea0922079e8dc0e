//! Values to netlink messages (linux/netfilter/nf_tables.h, nfnetlink.h) and the kernel's messages to values.
//!
//! The attributes are those of `netlink-packet-netfilter`; nesting is done here, for the crate's own measures
//! every level again and again and would take longer than the kernel.

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_HEADER_SIZE, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL,
    NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, Nla, NlasIterator,
};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, Cmp, DataAttribute, ExpressionAttribute, Expressions, GenAttribute,
    Hook as HookAttribute, HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, Meta,
    NfTablesMessageType, Operator, Payload, Register, RuleAttribute, SetAttribute, SetDescription,
    SetElementAttribute, SetElementList, SetFlags, TableAttribute, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};

use crate::element::{Entry, Owner};
use crate::ruleset::{Chain, Family, Field, Hook, Ruleset, Set, Source, TABLE, Table, Term, Type};
use crate::state::Fingerprint;

/// Lengths of `struct nlmsghdr` and `struct nfgenmsg`.
const NETLINK_HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
/// Where `nlmsghdr` keeps its length and flags.
const LENGTH: usize = 0;
const FLAGS: usize = 6;
const SEQUENCE: usize = 8;
/// nfnetlink.h: NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, and NFNL_BATCH_GENID in the former.
const BATCH_BEGIN: u8 = 16;
const BATCH_END: u8 = 17;
const BATCH_GENERATION: u16 = 1;
/// NFTNL_UDATA_SET_ELEM_COMMENT and NFTNL_UDATA_SET_KEYBYTEORDER (libnftnl's udata.h).
const COMMENT: u8 = 0;
const KEY_BYTE_ORDER: u8 = 0;
/// NFTA_SET_ELEM_KEY and so on, as they are read.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USER_DATA: u16 = 6;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_KEY_END: u16 = 10;
/// NFTA_EXPR_DATA, and NFTA_COUNTER_BYTES and NFTA_COUNTER_PACKETS in it.
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
/// NFTA_SET_DESC_SIZE.
const SET_SIZE: u16 = 1;
/// NFTA_SET_EXPR: what each element gets.
const SET_EXPRESSION: u16 = 17;
/// NFT_SET_EVAL, which nft calls dynamic.
const SET_EVAL: u32 = 0x20;
/// How long a dynamic set keeps what a rule added, in milliseconds.
const DYNAMIC_TIMEOUT: u64 = 3_600_000;
/// NFT_PAYLOAD_LL_HEADER, and where the type stands in it.
const LINK_HEADER: u32 = 0;
const ETHER_TYPE: u32 = 12;
/// NFTA_DATA_VALUE.
const DATA_VALUE: u16 = 1;
/// `struct nlattr`.
const NLA_HEADER: usize = 4;
/// Elements in one message: an attribute ends at 64 KiB, an element takes up to 160 bytes.
const ELEMENTS_PER_MESSAGE: usize = 256;
/// The first of the 32-bit registers (NFT_REG32_00).
const REGISTERS: u32 = 8;
const FIRST: u32 = 0;

/// Netlink messages that go to the kernel in one send.
pub(crate) struct Requests {
    bytes: Vec<u8>,
    first: u32,
    count: u32,
    /// Where the last message begins.
    last: usize,
}

impl Requests {
    /// No message yet; they will be numbered from `first`.
    pub fn new(first: u32) -> Self {
        Self { bytes: Vec::with_capacity(4096), first, count: 0, last: 0 }
    }

    /// The sequence number of the first message.
    pub fn first(&self) -> u32 {
        self.first
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whom the first message is for (NFNL_SUBSYS_…); 0 for a batch.
    pub fn subsystem(&self) -> u8 {
        self.bytes.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]).to_be_bytes()[0])
    }

    /// Appends a message.
    pub fn message(
        &mut self,
        kind: (NetfilterSubsystem, u8),
        flags: u16,
        header: &NetfilterHeader,
        attributes: impl FnOnce(&mut Self),
    ) {
        let sequence = self.first.wrapping_add(self.count);
        let kind = u16::from_be_bytes([kind.0.into(), kind.1]);
        self.count += 1;
        self.last = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.emit(header);
        attributes(self);
        let length = (self.bytes.len() - self.last) as u32;
        self.bytes[self.last + LENGTH..][..4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends the messages of another, numbered anew.
    pub fn append(&mut self, other: &Requests) {
        let mut rest = other.bytes();
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            let (message, next) = rest.split_at(length.min(rest.len()));
            self.last = self.bytes.len();
            self.bytes.extend_from_slice(message);
            let sequence = self.first.wrapping_add(self.count);
            self.bytes[self.last + SEQUENCE..][..4].copy_from_slice(&sequence.to_ne_bytes());
            self.count += 1;
            rest = next;
        }
    }

    /// Appends an attribute.
    pub fn put(&mut self, attribute: &impl Nla) {
        self.emit(attribute);
    }

    /// Appends `container`, of which only the type counts, with what `inside` appends.
    pub fn nest(&mut self, container: &impl Nla, inside: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(&DefaultNla::new(container.kind(), Vec::new()));
        inside(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn emit(&mut self, what: &impl Emitable) {
        let start = self.bytes.len();
        self.bytes.resize(start + what.buffer_len(), 0);
        what.emit(&mut self.bytes[start..]);
    }

    /// Appends a message for nf_tables.
    pub fn nftables(
        &mut self,
        kind: NfTablesMessageType,
        flags: u16,
        family: Family,
        attributes: impl FnOnce(&mut Self),
    ) {
        let header = NetfilterHeader::new(protocol_family(family), 0, 0);
        self.message((NetfilterSubsystem::NfTables, kind.into()), flags, &header, attributes)
    }

    /// Opens a transaction; with a generation, the kernel refuses it (ERESTART) if anything was changed since.
    pub fn begin(&mut self, generation: Option<u32>) {
        self.batch(BATCH_BEGIN, generation);
    }

    /// Closes the transaction; returns the number of the message whose acknowledgement tells its success.
    ///
    /// That is the last one before BATCH_END: errors of any message come without being asked for.
    pub fn end(&mut self) -> u32 {
        let flags = self.last + FLAGS;
        let old = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]);
        self.bytes[flags..flags + 2].copy_from_slice(&(old | NLM_F_ACK).to_ne_bytes());
        self.batch(BATCH_END, None);
        self.first.wrapping_add(self.count - 2)
    }

    fn batch(&mut self, kind: u8, generation: Option<u32>) {
        let subsystem = u8::from(NetfilterSubsystem::NfTables).into();
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem);
        self.message((NetfilterSubsystem::None, kind), 0, &header, |message| {
            if let Some(generation) = generation {
                message.put(&DefaultNla::new(BATCH_GENERATION, generation.to_be_bytes().into()));
            }
        })
    }

    /// Deletes one of rnet's tables that is there.
    pub fn delete_table(&mut self, table: &Table) {
        self.nftables(NfTablesMessageType::DeleteTable, 0, table.family, |message| {
            message.put(&TableAttribute::Name(TABLE.into()));
        });
    }

    /// Creates both tables with their chains, sets and rules.
    pub fn create_tables(&mut self, ruleset: &Ruleset) {
        for table in ruleset.tables {
            self.create_table(table);
            for chain in table.chains {
                self.create_chain(table, chain);
            }
            for (id, set) in (1..).zip(table.sets) {
                self.create_set(set, id);
            }
            for chain in table.chains {
                for rule in chain.rules {
                    self.create_rule(table, chain, rule);
                }
            }
        }
    }

    fn create_table(&mut self, table: &Table) {
        self.nftables(NfTablesMessageType::NewTable, NLM_F_CREATE, table.family, |message| {
            message.put(&TableAttribute::Name(TABLE.into()));
            message.put(&TableAttribute::Flags(Default::default()));
        });
    }

    fn create_chain(&mut self, table: &Table, chain: &Chain) {
        self.nftables(NfTablesMessageType::NewChain, NLM_F_CREATE, table.family, |message| {
            message.put(&ChainAttribute::Table(TABLE.into()));
            message.put(&ChainAttribute::Name(chain.name.into()));
            message.put(&ChainAttribute::Type(chain.kind.into()));
            message.put(&ChainAttribute::Policy(verdict_code(Term::Accept)));
            message.nest(&ChainAttribute::Hook(vec![]), |hook| {
                hook.put(&HookAttribute::Number(hook_number(chain.hook)));
                hook.put(&HookAttribute::Priority(chain.priority.cast_unsigned()));
            });
        });
    }

    fn create_set(&mut self, set: &Set, id: u32) {
        self.nftables(NfTablesMessageType::NewSet, NLM_F_CREATE, set.family, |message| {
            message.put(&SetAttribute::Table(TABLE.into()));
            message.put(&SetAttribute::Name(set.name.into()));
            message.put(&SetAttribute::Flags(set_flags(set)));
            message.put(&SetAttribute::KeyType(type_id(set.key)));
            message.put(&SetAttribute::KeyLen(width(set.key)));
            if !set.data.is_empty() {
                message.put(&SetAttribute::DataType(type_id(set.data)));
                message.put(&SetAttribute::DataLen(width(set.data)));
            }
            message.put(&SetAttribute::Id(id));
            if set.interval {
                message.put_field_widths(set.key);
            }
            if let Some(size) = set.dynamic {
                message.nest(&SetAttribute::Description(vec![]), |description| {
                    description.attribute(SET_SIZE, &size.to_be_bytes());
                });
            }
            if set.counted {
                message.nest(&DefaultNla::new(SET_EXPRESSION, Vec::new()), |expression| {
                    expression.put(&ExpressionAttribute::Name("counter".into()));
                    expression.nest(&ExpressionAttribute::Data(Expressions::Unknown(vec![])), |_| {});
                });
            }
            message.put(&SetAttribute::UserData(set_user_data(set)));
        });
    }

    /// The kernel wants to know where the fields of an interval's key begin (NFTA_SET_DESC_CONCAT).
    fn put_field_widths(&mut self, key: &[Type]) {
        self.nest(&SetAttribute::Description(vec![]), |description| {
            description.nest(&SetDescription::Concat(vec![]), |concat| {
                for part in key {
                    concat.nest(&ListAttribute::<DefaultNla>::Element(vec![]), |field| {
                        // NFTA_SET_FIELD_LEN
                        field.put(&DefaultNla::new(1, part.width.to_be_bytes().into()));
                    });
                }
            });
        });
    }

    fn create_rule(&mut self, table: &Table, chain: &Chain, rule: &[Term]) {
        let flags = NLM_F_CREATE | netlink_packet_core::NLM_F_APPEND;
        self.nftables(NfTablesMessageType::NewRule, flags, table.family, |message| {
            message.put(&RuleAttribute::Table(TABLE.into()));
            message.put(&RuleAttribute::Chain(chain.name.into()));
            message.nest(&RuleAttribute::Expressions(vec![]), |expressions| {
                for term in rule {
                    expressions.term(term);
                }
            });
        });
    }

    /// Adds elements, those of one set next to each other several to a message; the kernel does not say which one it
    /// refuses. `exclusive` makes an equal key an error (EEXIST).
    pub fn create_elements(&mut self, elements: &[(&Entry, Owner)], exclusive: bool) {
        let flags = if exclusive { NLM_F_CREATE | NLM_F_EXCL } else { NLM_F_CREATE };
        for chunk in of_one_set(elements, |(entry, _)| entry.set) {
            let Some((Entry { set, .. }, _)) = chunk.first() else { continue };
            self.elements(NfTablesMessageType::NewSetElement, flags, set, |list| {
                chunk.iter().for_each(|(entry, owner)| list.element(entry, *owner));
            });
        }
    }

    /// Adds one element; `exclusive` makes an equal key an error (EEXIST).
    pub fn create_element(&mut self, entry: &Entry, owner: Owner, exclusive: bool) {
        self.create_elements(&[(entry, owner)], exclusive);
    }

    /// Deletes the elements with these keys, whatever their data and comments; those of one set next to each other
    /// several to a message.
    pub fn delete_elements(&mut self, entries: &[&Entry]) {
        for chunk in of_one_set(entries, |entry| entry.set) {
            let Some(Entry { set, .. }) = chunk.first() else { continue };
            self.elements(NfTablesMessageType::DeleteSetElement, 0, set, |list| {
                chunk.iter().for_each(|entry| list.key(entry));
            });
        }
    }

    /// Asks for the element with this key (not a dump).
    pub fn get_element(&mut self, entry: &Entry) {
        self.elements(NfTablesMessageType::GetSetElement, 0, entry.set, |list| list.key(entry))
    }

    /// Asks for a set, without its elements.
    pub fn get_set(&mut self, set: &Set) {
        self.nftables(NfTablesMessageType::GetSet, 0, set.family, |message| {
            message.put(&SetAttribute::Table(TABLE.into()));
            message.put(&SetAttribute::Name(set.name.into()));
        });
    }

    /// Asks for all elements of a set.
    pub fn dump_elements(&mut self, set: &Set) {
        self.nftables(NfTablesMessageType::GetSetElement, NLM_F_DUMP, set.family, |message| {
            message.put(&SetElementList::Table(TABLE.into()));
            message.put(&SetElementList::Set(set.name.into()));
        })
    }

    /// Asks for the number of the ruleset's last change (NFT_MSG_GETGEN).
    pub fn get_generation(&mut self) {
        self.nftables(NfTablesMessageType::GetGen, 0, Family::Inet, |_| {})
    }

    /// Asks for a table of ours.
    pub fn get_table(&mut self, table: &Table) {
        self.nftables(NfTablesMessageType::GetTable, 0, table.family, |message| {
            message.put(&TableAttribute::Name(TABLE.into()));
        })
    }

    /// Asks for all rules of a table of ours, in order.
    pub fn dump_rules(&mut self, table: &Table) {
        self.nftables(NfTablesMessageType::GetRule, NLM_F_DUMP, table.family, |message| {
            message.put(&RuleAttribute::Table(TABLE.into()));
        })
    }

    fn elements(&mut self, kind: NfTablesMessageType, flags: u16, set: &Set, list: impl FnOnce(&mut Self)) {
        self.nftables(kind, flags, set.family, |message| {
            message.put(&SetElementList::Table(TABLE.into()));
            message.put(&SetElementList::Set(set.name.into()));
            message.nest(&SetElementList::Elements(vec![]), list);
        })
    }

    /// An element with its data and the comment that names its owner.
    fn element(&mut self, entry: &Entry, owner: Owner) {
        self.nest(&ListAttribute::<DefaultNla>::Element(vec![]), |element| {
            element.bounds(entry);
            if let Some(data) = &entry.data {
                element.data(&SetElementAttribute::Data(DataAttribute::Unspec), data);
            }
            element.attribute(ELEMENT_USER_DATA, &comment(owner));
        });
    }

    /// What an element is found by.
    fn key(&mut self, entry: &Entry) {
        self.nest(&ListAttribute::<DefaultNla>::Element(vec![]), |element| element.bounds(entry));
    }

    fn bounds(&mut self, entry: &Entry) {
        self.data(&SetElementAttribute::Key(DataAttribute::Unspec), &entry.key);
        if let Some(end) = &entry.end {
            self.data(&SetElementAttribute::KeyEnd(vec![]), end);
        }
    }

    fn data(&mut self, container: &impl Nla, bytes: &[u8]) {
        self.nest(container, |data| data.attribute(DATA_VALUE, bytes));
    }

    /// By hand: there are thousands of them, and the crate's take their bytes in a vector each.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (NLA_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn term(&mut self, term: &Term) {
        match term {
            Term::Is(field, value) | Term::Implied(field, value) => {
                self.load(field, FIRST);
                self.compare(Operator::Equal, value.bytes);
            }
            Term::IsNot(field, value) => {
                self.load(field, FIRST);
                self.compare(Operator::NotEqual, value.bytes);
            }
            Term::Within(field, value, bits) => self.within(field, value.bytes, *bits),
            Term::Masked(field, mask, value) => {
                self.load(field, FIRST);
                self.mask(mask.bytes);
                self.compare(Operator::Equal, value.bytes);
            }
            Term::Has(field, value) => {
                self.load(field, FIRST);
                self.mask(value.bytes);
                self.compare(Operator::NotEqual, &[0; 4][..value.bytes.len()]);
            }
            Term::HasNot(field, value) => {
                self.load(field, FIRST);
                self.mask(value.bytes);
                self.compare(Operator::Equal, &[0; 4][..value.bytes.len()]);
            }
            Term::Add(fields, set) => self.add(fields, set),
            Term::In(fields, set) => self.lookup(fields, set, &[]),
            Term::NotIn(fields, set) => self.lookup(fields, set, &[Lookup::Flags(1)]), // NFT_LOOKUP_F_INV
            Term::Dnat(fields, map) => {
                self.lookup(fields, map, &[Lookup::DestinationRegister(register(FIRST))]);
                self.dnat(map);
            }
            Term::Masquerade => self.other("masq", &[]),
            Term::Mark(value) => self.mark(value.bytes),
            Term::Counter => self.other("counter", &[]),
            Term::Accept | Term::Drop | Term::Return => self.verdict(*term),
        }
    }

    fn expression(&mut self, name: &str, attributes: impl FnOnce(&mut Self)) {
        self.nest(&ListAttribute::<DefaultNla>::Element(vec![]), |element| {
            element.put(&ExpressionAttribute::Name(name.into()));
            element.nest(&ExpressionAttribute::Data(Expressions::Unknown(vec![])), attributes);
        });
    }

    /// An expression that the crate does not know, of 32-bit attributes.
    fn other(&mut self, name: &str, attributes: &[(u16, u32)]) {
        self.expression(name, |expression| {
            for (kind, value) in attributes {
                expression.put(&DefaultNla::new(*kind, value.to_be_bytes().into()));
            }
        });
    }

    /// Loads a field into a register.
    pub fn load(&mut self, field: &Field, slot: u32) {
        let destination = REGISTERS + slot;
        match field.source {
            Source::Meta(key) => self.expression("meta", |meta| {
                meta.put(&Meta::Key(key.into()));
                meta.put(&Meta::DestinationRegister(register(slot)));
            }),
            Source::Payload(base, offset) => self.expression("payload", |payload| {
                payload.put(&Payload::DestinationRegister(register(slot)));
                payload.put(&Payload::Base(base));
                payload.put(&Payload::Offset(offset));
                payload.put(&Payload::Len(field.width));
            }),
            // NFTA_CT_KEY, NFTA_CT_DREG
            Source::Conntrack(key) => self.other("ct", &[(2, key), (1, destination)]),
            // NFTA_FIB_FLAGS: NFTA_FIB_F_DADDR; NFTA_FIB_RESULT: NFT_FIB_RESULT_ADDRTYPE; NFTA_FIB_DREG
            Source::FibDaddrType => self.other("fib", &[(3, 2), (2, 3), (1, destination)]),
            // NFTA_FIB_F_SADDR, NFTA_FIB_F_IIF and NFTA_FIB_F_PRESENT; NFT_FIB_RESULT_OIF
            Source::FibSaddrIif => self.other("fib", &[(3, 1 | 8 | 32), (2, 1), (1, destination)]),
        }
    }

    /// Goes on with the rule if the first register has this value.
    pub fn equals(&mut self, bytes: &[u8]) {
        self.compare(Operator::Equal, bytes);
    }

    /// Counts what comes so far.
    pub fn counter(&mut self) {
        self.other("counter", &[]);
    }

    fn compare(&mut self, operator: Operator, bytes: &[u8]) {
        self.expression("cmp", |cmp| {
            cmp.put(&Cmp::SourceRegister(register(FIRST)));
            cmp.put(&Cmp::Op(operator));
            cmp.data(&Cmp::Data(DataAttribute::Unspec), bytes);
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        self.expression("bitwise", |bitwise| {
            bitwise.put(&Bitwise::SourceRegister(register(FIRST)));
            bitwise.put(&Bitwise::DestinationRegister(register(FIRST)));
            bitwise.put(&Bitwise::Length(mask.len() as u32));
            bitwise.data(&Bitwise::Mask(DataAttribute::Unspec), mask);
            bitwise.data(&Bitwise::Xor(DataAttribute::Unspec), &vec![0; mask.len()]);
        });
    }

    /// Whole bytes are compared without a mask, as nft does it.
    fn within(&mut self, field: &Field, value: &[u8], bits: u32) {
        if bits.is_multiple_of(8) {
            let width = bits / 8;
            self.load(&Field { width, ..*field }, FIRST);
            self.compare(Operator::Equal, &value[..width as usize]);
        } else {
            self.load(field, FIRST);
            self.mask(&prefix_mask(value.len(), bits));
            self.compare(Operator::Equal, value);
        }
    }

    fn load_all(&mut self, fields: &[Field]) {
        let mut slot = FIRST;
        for field in fields {
            self.load(field, slot);
            slot += field.width.div_ceil(4);
        }
    }

    /// NFTA_DYNSET_SET_NAME, NFTA_DYNSET_OP: NFT_DYNSET_OP_ADD, NFTA_DYNSET_SREG_KEY, NFTA_DYNSET_TIMEOUT
    fn add(&mut self, fields: &[Field], set: &Set) {
        self.load_all(fields);
        self.expression("dynset", |dynset| {
            let name = [set.name.as_bytes(), &[0]].concat();
            dynset.attribute(1, &name);
            dynset.attribute(3, &0u32.to_be_bytes());
            dynset.attribute(4, &REGISTERS.to_be_bytes());
            dynset.attribute(6, &DYNAMIC_TIMEOUT.to_be_bytes());
        });
    }

    fn lookup(&mut self, fields: &[Field], set: &Set, more: &[Lookup]) {
        self.load_all(fields);
        self.expression("lookup", |lookup| {
            lookup.put(&Lookup::SourceRegister(register(FIRST)));
            lookup.put(&Lookup::Set(set.name.into()));
            more.iter().for_each(|attribute| lookup.put(attribute));
        });
    }

    /// NFTA_NAT_TYPE: NFT_NAT_DNAT; NFTA_NAT_FAMILY; NFTA_NAT_REG_ADDR_MIN; NFTA_NAT_REG_PROTO_MIN
    fn dnat(&mut self, map: &Set) {
        let family = if map.v6 { NetfilterProtoFamily::IPv6 } else { NetfilterProtoFamily::IPv4 };
        let port = REGISTERS + map.data[0].width / 4;
        self.other("nat", &[(1, 1), (2, u8::from(family).into()), (3, REGISTERS), (5, port)]);
    }

    /// NFT_META_MARK
    fn mark(&mut self, mark: &[u8]) {
        self.set_meta(3, mark);
    }

    /// NFTA_META_KEY; NFTA_META_SREG
    pub fn set_meta(&mut self, key: u32, value: &[u8]) {
        self.expression("immediate", |immediate| {
            immediate.put(&Immediate::DestinationRegister(register(FIRST)));
            immediate.data(&Immediate::Data(DataAttribute::Unspec), value);
        });
        self.other("meta", &[(2, key), (3, REGISTERS)]);
    }

    fn verdict(&mut self, verdict: Term) {
        self.verdict_code(verdict_code(verdict), None);
    }

    /// Ends the rule with a verdict, for a jump with the chain it leads to.
    pub fn verdict_code(&mut self, code: u32, chain: Option<&str>) {
        let code = VerdictAttribute::Code(Verdict::from(code));
        let chain = chain.map(|chain| VerdictAttribute::Chain(chain.into()));
        self.expression("immediate", |immediate| {
            immediate.put(&Immediate::DestinationRegister(Register::Verdict));
            immediate.nest(&Immediate::Data(DataAttribute::Unspec), |data| {
                data.nest(&DataAttribute::Verdict(vec![]), |verdict| {
                    verdict.put(&code);
                    chain.iter().for_each(|chain| verdict.put(chain));
                });
            });
        });
    }
}

fn register(slot: u32) -> Register {
    Register::from(REGISTERS + slot)
}

/// NF_DROP, NF_ACCEPT, NFT_RETURN
fn verdict_code(verdict: Term) -> u32 {
    match verdict {
        Term::Accept => 1,
        Term::Return => Verdict::Return.into(),
        _ => 0,
    }
}

fn protocol_family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::Inet => NetfilterProtoFamily::Inet,
        Family::Bridge => NetfilterProtoFamily::Bridge,
        Family::Ip => NetfilterProtoFamily::IPv4,
        Family::Ip6 => NetfilterProtoFamily::IPv6,
    }
}

fn hook_number(hook: Hook) -> HookNumber {
    HookNumber::Inet(match hook {
        Hook::Prerouting => InetHookNumber::PreRouting,
        Hook::Forward => InetHookNumber::Forward,
        Hook::Output => InetHookNumber::LocalOut,
        Hook::Postrouting => InetHookNumber::PostRouting,
    })
}

fn set_flags(set: &Set) -> SetFlags {
    let map = if set.data.is_empty() { SetFlags::empty() } else { SetFlags::Map };
    let interval = if set.interval { SetFlags::Interval | SetFlags::Concat } else { SetFlags::empty() };
    let dynamic = if set.dynamic.is_some() {
        SetFlags::from_bits_retain(SET_EVAL) | SetFlags::Timeout
    } else {
        SetFlags::empty()
    };
    map | interval | dynamic
}

/// nft's number for a concatenation: six bits for each type.
fn type_id(types: &[Type]) -> u32 {
    types.iter().fold(0, |id, part| id << 6 | part.id)
}

fn width(types: &[Type]) -> u32 {
    types.iter().map(|part| part.width.next_multiple_of(4)).sum()
}

/// What tells nft how to print keys; the kernel does not look at it.
fn set_user_data(set: &Set) -> Vec<u8> {
    // nft's enum byteorder: none for concatenations, host order for names, network order for the rest.
    let order = match set.key {
        [Type { name: "ifname", .. }] => 1,
        [_] => 2,
        _ => 0u32,
    };
    let mut data = vec![KEY_BYTE_ORDER, 4];
    data.extend_from_slice(&order.to_ne_bytes());
    data.extend_from_slice(set.type_of.map_or(&[], |(_, encoded)| encoded));
    data
}

/// What may share a message: neighbours of one set.
fn of_one_set<T>(all: &[T], set: impl Fn(&T) -> &Set) -> impl Iterator<Item = &[T]> {
    let neighbours = all.chunk_by(move |a, b| set(a).name == set(b).name);
    neighbours.flat_map(|neighbours| neighbours.chunks(ELEMENTS_PER_MESSAGE))
}

/// An element's comment as nft stores it: type, length, text, NUL.
fn comment(owner: Owner) -> Vec<u8> {
    text_comment(&owner.comment())
}

/// The same for any text of at most 254 bytes; a rule's comment has the same form.
pub(crate) fn text_comment(text: &str) -> Vec<u8> {
    let mut data = vec![COMMENT, text.len() as u8 + 1];
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}

fn prefix_mask(width: usize, bits: u32) -> Vec<u8> {
    let mask = !u128::MAX.checked_shr(bits).unwrap_or(0);
    mask.to_be_bytes()[..width].to_vec()
}

/// One message from the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Everything after `struct nlmsghdr`.
    pub payload: &'a [u8],
}

/// The messages in what one read gave; `None` for one that is cut off.
pub(crate) fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Option<Reply<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Ok(buffer) = NetlinkBuffer::new_checked(bytes) else {
            bytes = &[];
            return Some(None);
        };
        let length = buffer.length() as usize;
        let payload = &bytes[NETLINK_HEADER..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, flags, sequence) = (buffer.message_type(), buffer.flags(), buffer.sequence_number());
        Some(Some(Reply { kind, flags, sequence, payload }))
    })
}

impl<'a> Reply<'a> {
    /// The attributes of a netfilter message.
    pub fn attributes(&self) -> &'a [u8] {
        self.payload.get(NETFILTER_HEADER..).unwrap_or_default()
    }

    /// The error number of an NLMSG_ERROR or NLMSG_DONE message, 0 for an acknowledgement and a good end.
    pub fn errno(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        let code = self.payload.first_chunk::<4>()?;
        i32::from_ne_bytes(*code).checked_neg()
    }

    /// The value of the first attribute of this kind.
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        attributes(self.attributes())
            .find_map(|(found, value)| (found == kind & NLA_TYPE_MASK).then_some(value))
    }

    /// An attribute's big-endian number of `N` bytes.
    pub fn number<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        self.attribute(kind)?.try_into().ok()
    }

    /// The comment of a rule in a NFT_MSG_NEWRULE.
    pub fn comment(&self) -> Option<String> {
        comment_in(self.attribute(RuleAttribute::UserData(vec![]).kind())?)
    }

    /// The generation in a NFT_MSG_NEWGEN.
    pub fn generation(&self) -> Option<u32> {
        self.number(GenAttribute::Id(0).kind()).map(u32::from_be_bytes)
    }

    /// The flags of a table in a NFT_MSG_NEWTABLE.
    pub fn table_flags(&self) -> Option<u32> {
        self.number(TableAttribute::Flags(Default::default()).kind()).map(u32::from_be_bytes)
    }

    /// The number of elements in a NFT_MSG_NEWSET.
    pub fn set_size(&self) -> Option<u32> {
        self.number(SetAttribute::Count(0).kind()).map(u32::from_be_bytes)
    }

    /// Chain and expressions of a rule in a NFT_MSG_NEWRULE, except its counters. Not its handle: a ruleset that nft has saved
    /// and loaded again works as before.
    pub fn rule(&self) -> Option<Fingerprint> {
        let chain = self.attribute(RuleAttribute::Chain(String::new()).kind())?;
        let expressions = attributes(self.attribute(RuleAttribute::Expressions(vec![]).kind())?);
        let lasting = expressions.filter_map(|(_, expression)| essence(expression));
        Some(lasting.fold(Fingerprint::new().and(chain), |rule, expression| rule.and(expression)))
    }

    /// The elements of `set` in a NFT_MSG_NEWSETELEM, with the owners that their comments name.
    ///
    /// By hand: the crate's parser prints the whole list into an error text for each element of it.
    pub fn elements(&self, set: &'static Set) -> Option<Vec<(Entry, Option<Owner>)>> {
        let list = self.attribute(SetElementList::Elements(vec![]).kind())?;
        Some(attributes(list).map(|(_, item)| element(set, item)).collect())
    }

    /// The elements of a set that counts, with packets and bytes.
    pub fn counted(&self, set: &'static Set) -> Option<Vec<(Entry, (u64, u64))>> {
        let list = self.attribute(SetElementList::Elements(vec![]).kind())?;
        let counted = |item| Some((element(set, item).0, count(item)?));
        Some(attributes(list).filter_map(|(_, item)| counted(item)).collect())
    }
}

/// Packets and bytes that an element has counted, by what lies in its NFTA_LIST_ELEM.
fn count(item: &[u8]) -> Option<(u64, u64)> {
    let find = |kind, bytes| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let counter = find(EXPRESSION_DATA, find(ELEMENT_EXPRESSION, item)?)?;
    let number = |kind| Some(u64::from_be_bytes(find(kind, counter)?.try_into().ok()?));
    Some((number(COUNTER_PACKETS)?, number(COUNTER_BYTES)?))
}

/// The attributes in `bytes`, without the flags of their types; ends where they make no sense.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let whole = NlasIterator::new(bytes).map_while(Result::ok);
    whole.filter_map(|nla| Some((nla.kind(), nla.into_inner().get(NLA_HEADER_SIZE..nla.length().into())?)))
}

/// What counts of an expression, the inside of a NFTA_LIST_ELEM. Not a counter; and what nft writes for a rule that it has
/// listed is another way to say the same: it turns the bytes of a single byte round, takes a frame's protocol from the
/// kernel instead of the frame, and compares with a nothing of one byte (1.1.7) or four.
fn essence(expression: &[u8]) -> Option<&[u8]> {
    let find = |kind, bytes| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    // NFTA_EXPR_NAME, NFTA_EXPR_DATA
    let (name, data) = (find(1, expression), find(2, expression));
    let number = |kind| find(kind, data?).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
    match name? {
        b"counter\0" | b"byteorder\0" => None,
        // NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET; NFTA_META_KEY: NFT_META_PROTOCOL
        b"payload\0" if (number(2), number(3)) == (Some(LINK_HEADER), Some(ETHER_TYPE)) => Some(b"protocol"),
        b"meta\0" if number(2) == Some(1) => Some(b"protocol"),
        // NFTA_CMP_OP: NFT_CMP_EQ; NFTA_CMP_DATA and the NFTA_DATA_VALUE in it
        b"cmp\0" if number(2) == Some(0) && find(3, data?).is_some_and(is_zero) => Some(b"is zero"),
        _ => Some(expression),
    }
}

fn is_zero(data: &[u8]) -> bool {
    attributes(data).any(|(kind, value)| kind == DATA_VALUE && value.iter().all(|byte| *byte == 0))
}

/// What lies in a NFTA_LIST_ELEM; an element without a key is none that `Element::from_entry` knows.
fn element(set: &'static Set, item: &[u8]) -> (Entry, Option<Owner>) {
    let mut entry = Entry { set, key: Vec::new(), end: None, data: None };
    let mut owner = None;
    for (kind, value) in attributes(item) {
        match kind {
            ELEMENT_KEY => entry.key = value_in(value).unwrap_or_default(),
            ELEMENT_KEY_END => entry.end = value_in(value),
            ELEMENT_DATA => entry.data = value_in(value),
            ELEMENT_USER_DATA => owner = owner_in(value),
            _ => {}
        }
    }
    (entry, owner)
}

/// The NFTA_DATA_VALUE in a key or in data.
pub(crate) fn value_in(data: &[u8]) -> Option<Vec<u8>> {
    let kind = DataAttribute::Value(Vec::new()).kind();
    attributes(data).find_map(|(found, value)| (found == kind).then(|| value.to_vec()))
}

/// The owner in an element's user data.
fn owner_in(data: &[u8]) -> Option<Owner> {
    Owner::from_comment(&comment_in(data)?)
}

/// The comment in user data, TLVs of one byte type and one byte length.
fn comment_in(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let (value, next) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            let text = std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()?;
            return Some(text.to_owned());
        }
        data = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::element::{Element, Protocol};

    fn longest_element() -> (Entry, Owner) {
        let to: SocketAddr = "[fd00::2]:80".parse().unwrap();
        let element = Element::Publish { host: Some(to.ip()), protocol: Protocol::Tcp, host_port: 80, to };
        (element.entry().unwrap(), Owner::new("0123456789abcdef").unwrap())
    }

    #[test]
    fn a_batch_is_numbered_and_only_its_last_message_is_acknowledged() {
        let (entry, owner) = longest_element();
        let mut batch = Requests::new(u32::MAX);

        batch.begin(Some(7));
        batch.create_element(&entry, owner, true);
        batch.create_element(&entry, owner, false);
        let last = batch.end();

        let messages: Vec<Reply<'_>> = replies(batch.bytes()).map(Option::unwrap).collect();
        let numbers: Vec<u32> = messages.iter().map(|message| message.sequence).collect();
        assert_eq!((numbers, last), (vec![u32::MAX, 0, 1, 2], 1));
        let acked: Vec<bool> = messages.iter().map(|message| message.flags & NLM_F_ACK != 0).collect();
        assert_eq!(acked, [false, false, true, false]);
        assert_eq!(messages[0].number(BATCH_GENERATION), Some(7u32.to_be_bytes()));
        assert_ne!(messages[1].flags & NLM_F_EXCL, 0);
        assert_eq!(messages[2].flags & NLM_F_EXCL, 0);
    }

    #[test]
    fn elements_are_read_back_as_they_were_written() {
        let (entry, owner) = longest_element();
        let mut requests = Requests::new(0);

        requests.create_elements(&[(&entry, owner); 3], true);

        let message = replies(requests.bytes()).next().unwrap().unwrap();
        assert_eq!(message.elements(entry.set), Some(vec![(entry, Some(owner)); 3]));
    }

    #[test]
    fn a_full_message_stays_below_the_limit_of_an_attribute() {
        let mut requests = Requests::new(0);
        let (entry, owner) = longest_element();
        requests.create_elements(&[(&entry, owner); ELEMENTS_PER_MESSAGE + 1], true);
        let lengths: Vec<usize> =
            replies(requests.bytes()).map(|message| message.unwrap().payload.len()).collect();
        assert_eq!(lengths.len(), 2);
        assert!(lengths[0] < 60_000, "{lengths:?}");
    }

    #[test]
    fn masks_have_as_many_bits_as_the_prefix() {
        assert_eq!(prefix_mask(4, 4), [0xf0, 0, 0, 0]);
        assert_eq!(prefix_mask(4, 0), [0, 0, 0, 0]);
        assert_eq!(prefix_mask(16, 10)[..2], [0xff, 0xc0]);
        assert_eq!(prefix_mask(16, 128), [0xff; 16]);
    }

    #[test]
    fn the_comment_may_stand_anywhere_in_the_user_data() {
        let owner = Owner::new("0123456789abcdef").unwrap();
        let mut data = vec![1, 2, 9, 9];
        data.extend(comment(owner));
        assert_eq!(owner_in(&data), Some(owner));
        assert_eq!(owner_in(&data[..data.len() - 3]), None);
        assert_eq!(owner_in(&[COMMENT, 3, b'm', b'e', 0]), None);
        assert_eq!(owner_in(&[]), None);
    }

    #[test]
    fn a_message_that_is_cut_off_is_told() {
        let mut requests = Requests::new(0);
        requests.get_generation();
        let bytes = requests.bytes();
        let cut = &bytes[..bytes.len() - 1];
        assert!(replies(cut).next().unwrap().is_none());
        assert_eq!(replies(cut).count(), 1);
    }
}
