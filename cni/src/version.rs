//! The versions of the specification that rnet speaks, and how far an unknown one can still be compared.

use std::fmt;
use std::str::FromStr;

use crate::fault::Fault;

/// A version of the CNI specification, older ones smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0, the version of a configuration that names none.
    V0_1_0,
    /// 0.2.0, which brought VERSION.
    V0_2_0,
    /// 0.3.0, the first with interfaces in its result.
    V0_3_0,
    /// 0.3.1, which brought lists of plugins.
    V0_3_1,
    /// 0.4.0, which brought CHECK and prevResult on DEL.
    V0_4_0,
    /// 1.0.0, which dropped `version` from the result's addresses.
    V1_0_0,
    /// 1.1.0, which brought GC and STATUS.
    V1_1_0,
}

/// Three generations of result formats; within one, a result of another version is read without conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// 0.1.0 and 0.2.0: one `ip4`, one `ip6`.
    V0_1,
    /// 0.3.0 to 0.4.0: interfaces, and addresses that say their version.
    V0_3,
    /// 1.x.
    V1,
}

impl Version {
    /// All supported versions, the oldest first.
    pub const SUPPORTED: [Version; 7] = [
        Version::V0_1_0,
        Version::V0_2_0,
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];

    /// The newest supported version.
    pub const LATEST: Version = Version::V1_1_0;

    /// The text of the specification, e.g. `1.1.0`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn generation(self) -> Generation {
        match self {
            Version::V0_1_0 | Version::V0_2_0 => Generation::V0_1,
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => Generation::V0_3,
            Version::V1_0_0 | Version::V1_1_0 => Generation::V1,
        }
    }

    pub(crate) fn numbers(self) -> Numbers {
        match self {
            Version::V0_1_0 => Numbers([0, 1, 0]),
            Version::V0_2_0 => Numbers([0, 2, 0]),
            Version::V0_3_0 => Numbers([0, 3, 0]),
            Version::V0_3_1 => Numbers([0, 3, 1]),
            Version::V0_4_0 => Numbers([0, 4, 0]),
            Version::V1_0_0 => Numbers([1, 0, 0]),
            Version::V1_1_0 => Numbers([1, 1, 0]),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = Fault;

    /// Only the exact text is a version: `1.0` is not.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let matching = |version: &Version| version.as_str() == text;
        Version::SUPPORTED
            .into_iter()
            .find(matching)
            .ok_or_else(|| Fault::Incompatible { config: text.to_owned() })
    }
}

/// One to three numbers, supported or not: enough to say "older" or "newer" (libcni's `ParseVersion`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Numbers([u32; 3]);

impl FromStr for Numbers {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let refusal = || Fault::VersionNumbers { text: text.to_owned() };
        let mut numbers = [0; 3];
        for (position, part) in text.split('.').enumerate() {
            *numbers.get_mut(position).ok_or_else(refusal)? = part.parse().map_err(|_| refusal())?;
        }
        Ok(Numbers(numbers))
    }
}

/// The supported versions joined by `separator`, each put through `quote`.
pub(crate) fn list_supported(separator: &str, quote: impl Fn(&str) -> String) -> String {
    Version::SUPPORTED.map(|version| quote(version.as_str())).join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_is_read_back_from_its_text() {
        for version in Version::SUPPORTED {
            assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        }
    }

    #[test]
    fn versions_and_their_numbers_are_ordered_by_age() {
        assert!(Version::SUPPORTED.is_sorted());
        assert!(Version::SUPPORTED.map(Version::numbers).is_sorted());
        for version in Version::SUPPORTED {
            assert_eq!(version.as_str().parse::<Numbers>().unwrap(), version.numbers());
        }
        assert_eq!(Version::SUPPORTED.last(), Some(&Version::LATEST));
    }

    #[test]
    fn a_short_or_padded_text_is_no_version() {
        for text in ["", "1", "1.0", "1.0.0 ", "v1.0.0", "1.00.0", "0.5.0", "2.0.0"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn one_to_three_numbers_can_be_compared_even_if_unsupported() {
        let numbers = |text: &str| text.parse::<Numbers>().unwrap();
        assert_eq!(numbers("1"), Numbers([1, 0, 0]));
        assert_eq!(numbers("1.2"), Numbers([1, 2, 0]));
        assert!(numbers("0.10.0") > numbers("0.4.0"));
        for text in ["", "one", "1.0.0.0", "1..0", "1.0.0-rc1"] {
            assert!(text.parse::<Numbers>().is_err(), "{text}");
        }
    }
}
