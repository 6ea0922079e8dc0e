//! rnet's tables as messages: created with their chains, sets and rules, deleted and asked for.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ExpressionAttribute, Expressions, Hook as HookAttribute, HookNumber, InetHookNumber,
    ListAttribute, NfTablesMessageType, RuleAttribute, SetAttribute, SetDescription, SetFlags,
    TableAttribute,
};

use super::{Requests, verdict_code};
use crate::ruleset::{Chain, Hook, Ruleset, Set, TABLE, Table, Term, Type};

/// NFTA_SET_DESC_SIZE.
const SET_SIZE: u16 = 1;
/// NFTA_SET_EXPR: what each element gets.
const SET_EXPRESSION: u16 = 17;
/// NFT_SET_EVAL, which nft calls dynamic.
const SET_EVAL: u32 = 0x20;
/// NFTNL_UDATA_SET_KEYBYTEORDER (libnftnl's udata.h).
const KEY_BYTE_ORDER: u8 = 0;

impl Requests {
    /// Deletes one of rnet's tables; it must exist.
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

    /// The kernel needs the widths of the fields of an interval's key (NFTA_SET_DESC_CONCAT).
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

    /// Asks for a set, without its elements.
    pub fn get_set(&mut self, set: &Set) {
        self.nftables(NfTablesMessageType::GetSet, 0, set.family, |message| {
            message.put(&SetAttribute::Table(TABLE.into()));
            message.put(&SetAttribute::Name(set.name.into()));
        });
    }

    /// Asks for one of rnet's tables.
    pub fn get_table(&mut self, table: &Table) {
        self.nftables(NfTablesMessageType::GetTable, 0, table.family, |message| {
            message.put(&TableAttribute::Name(TABLE.into()));
        })
    }

    /// Asks for all rules of one of rnet's tables, in order.
    pub fn dump_rules(&mut self, table: &Table) {
        self.nftables(NfTablesMessageType::GetRule, NLM_F_DUMP, table.family, |message| {
            message.put(&RuleAttribute::Table(TABLE.into()));
        })
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

/// How nft shall print keys; the kernel ignores it.
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
