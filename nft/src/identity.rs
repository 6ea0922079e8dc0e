//! The number by which two programs know that they write the same ruleset.

use crate::encode::Requests;
use crate::ruleset::{Ruleset, TABLES};

/// The identity of the constant ruleset. It is known beforehand, because to encode the whole ruleset takes 0.1 ms of each ADD.
const IDENTITY: u64 = 0xa266_c293_88e3_eb83;

impl Ruleset {
    /// A hash of the ruleset as it is written to the kernel: two programs with the same number write the same.
    pub fn identity(&self) -> u64 {
        // Attributes are written in the machine's own order of bytes.
        let is_known = cfg!(target_endian = "little") && std::ptr::eq(self.tables, &TABLES);
        if is_known { IDENTITY } else { self.encoded_identity() }
    }

    fn encoded_identity(&self) -> u64 {
        let mut requests = Requests::new(0);
        requests.create_tables(self);
        hash(requests.bytes())
    }
}

/// Eight bytes at a time, because each ADD computes it.
fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let rest = rest.iter().map(|byte| u64::from(*byte));
    words.iter().map(|word| u64::from_le_bytes(*word)).chain(rest).fold(bytes.len() as u64, |hash, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails because the ruleset was changed, write the new number into [`IDENTITY`].
    #[test]
    fn the_identity_is_that_of_the_encoded_ruleset() {
        assert_eq!(
            format!("{IDENTITY:#018x}"),
            format!("{:#018x}", Ruleset { tables: &TABLES }.encoded_identity())
        );
    }
}
