//! A rule's terms as the kernel's expressions (NFTA_RULE_EXPRESSIONS).

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta,
    Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::{Requests, verdict_code};
use crate::ruleset::{Field, Set, Source, Term};

/// How long a dynamic set keeps what a rule added, in milliseconds.
const DYNAMIC_TIMEOUT: u64 = 3_600_000;
/// The first of the 32-bit registers (NFT_REG32_00).
const REGISTERS: u32 = 8;
/// The slot of the first register.
const FIRST: u32 = 0;

impl Requests {
    pub(super) fn term(&mut self, term: &Term) {
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
            Term::Masquerade => self.raw("masq", &[]),
            Term::Mark(value) => self.mark(value.bytes),
            Term::Counter => self.raw("counter", &[]),
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
    fn raw(&mut self, name: &str, attributes: &[(u16, u32)]) {
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
            Source::Conntrack(key) => self.raw("ct", &[(2, key), (1, destination)]),
            // NFTA_FIB_FLAGS: NFTA_FIB_F_DADDR; NFTA_FIB_RESULT: NFT_FIB_RESULT_ADDRTYPE; NFTA_FIB_DREG
            Source::FibDaddrType => self.raw("fib", &[(3, 2), (2, 3), (1, destination)]),
            // NFTA_FIB_F_SADDR, NFTA_FIB_F_IIF and NFTA_FIB_F_PRESENT; NFT_FIB_RESULT_OIF
            Source::FibSaddrIif => self.raw("fib", &[(3, 1 | 8 | 32), (2, 1), (1, destination)]),
        }
    }

    /// The rule continues only if the first register has this value.
    pub fn equals(&mut self, bytes: &[u8]) {
        self.compare(Operator::Equal, bytes);
    }

    /// Counts the packets that come this far.
    pub fn counter(&mut self) {
        self.raw("counter", &[]);
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
        self.raw("nat", &[(1, 1), (2, u8::from(family).into()), (3, REGISTERS), (5, port)]);
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
        self.raw("meta", &[(2, key), (3, REGISTERS)]);
    }

    fn verdict(&mut self, verdict: Term) {
        self.verdict_code(verdict_code(verdict), None);
    }

    /// Ends the rule with a verdict; a jump has the chain that it leads to.
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

pub(super) fn prefix_mask(width: usize, bits: u32) -> Vec<u8> {
    let mask = !u128::MAX.checked_shr(bits).unwrap_or(0);
    mask.to_be_bytes()[..width].to_vec()
}
