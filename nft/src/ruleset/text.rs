//! The ruleset as `nft --stateless list ruleset` (nft 1.0.6) prints it.

use std::fmt;

use super::term::Term;
use super::{Chain, Family, Hook, Ruleset, Set, TABLE, Table};

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| write!(f, "{table}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {TABLE} {{", self.family)?;
        for set in self.sets {
            writeln!(f, "{set}")?;
        }
        for (i, chain) in self.chains.iter().enumerate() {
            write!(f, "{}{chain}", if i == 0 { "" } else { "\n" })?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\t{} {} {{", if self.data.is_empty() { "set" } else { "map" }, self.name)?;
        match self.type_of {
            Some((text, _)) => write!(f, "\t\ttypeof {text}")?,
            None => write!(f, "\t\ttype {}", join(self.key, |t| t.name))?,
        }
        if !self.data.is_empty() {
            write!(f, " : {}", join(self.data, |t| t.name))?;
        }
        if let Some(size) = self.dynamic {
            write!(f, "\n\t\tsize {size}\n\t\tflags dynamic,timeout")?;
        }
        if self.counted {
            write!(f, "\n\t\tcounter")?;
        }
        let flags = if self.interval { "\n\t\tflags interval" } else { "" };
        writeln!(f, "{flags}\n\t}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, hook, priority_name, .. } = self;
        writeln!(f, "\tchain {name} {{")?;
        writeln!(f, "\t\ttype {kind} hook {hook} priority {priority_name}; policy accept;")?;
        for rule in self.rules {
            let terms: Vec<String> = rule.iter().filter_map(Term::text).collect();
            writeln!(f, "\t\t{}", terms.join(" "))?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl Term {
    /// nft's text, unless it leaves the term out.
    fn text(&self) -> Option<String> {
        Some(match self {
            Self::Implied(..) => return None,
            Self::Is(field, value) | Self::Has(field, value) => format!("{} {}", field.text, value.text),
            Self::HasNot(field, value) => format!("{} ! {}", field.text, value.text),
            Self::Add(fields, set) => {
                format!("add @{} {{ {} timeout 1h }}", set.name, join(fields, |f| f.text))
            }
            Self::IsNot(field, value) => format!("{} != {}", field.text, value.text),
            Self::Within(field, value, bits) => format!("{} {}/{bits}", field.text, value.text),
            Self::Masked(field, mask, value) => {
                format!("{} & {} == {}", field.text, mask.text, value.text)
            }
            Self::In(fields, set) => format!("{} @{}", join(fields, |f| f.text), set.name),
            Self::NotIn(fields, set) => format!("{} != @{}", join(fields, |f| f.text), set.name),
            Self::Dnat(fields, map) => {
                let family = if map.v6 { "ip6" } else { "ip" };
                format!("dnat {family} to {} map @{}", join(fields, |f| f.text), map.name)
            }
            Self::Masquerade => "masquerade".into(),
            Self::Mark(value) => format!("meta mark set {}", value.text),
            Self::Counter => "counter".into(),
            Self::Accept => "accept".into(),
            Self::Drop => "drop".into(),
            Self::Return => "return".into(),
        })
    }
}

/// A concatenation as nft writes it.
fn join<T>(parts: &[T], text: impl Fn(&T) -> &'static str) -> String {
    parts.iter().map(text).collect::<Vec<_>>().join(" . ")
}
