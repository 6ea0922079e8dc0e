//! The rights that changing verbs need, asked for before anything is touched.

use rustix::thread::CapabilitySet;

use crate::report::Problem;

const NEEDED: [(CapabilitySet, &str); 2] =
    [(CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"), (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")];

/// Refuses a caller without CAP_NET_ADMIN and CAP_SYS_ADMIN (setns, bind mounts).
pub fn require() -> Result<(), Problem> {
    // A kernel that does not tell will refuse by itself.
    let Ok(sets) = rustix::thread::capabilities(None) else { return Ok(()) };
    let missing = missing(sets.effective);
    if missing.is_empty() { Ok(()) } else { Err(Problem::NotPermitted { missing, again: again() }) }
}

/// The command line of this process with sudo in front, as it can be typed again. In a user namespace sudo gives no right
/// that is missing.
pub fn again() -> Option<String> {
    if store::in_user_namespace() {
        return None;
    }
    let words = std::env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy()));
    Some(["sudo".to_owned(), "rnet".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" "))
}

fn missing(effective: CapabilitySet) -> Vec<&'static str> {
    NEEDED
        .into_iter()
        .filter(|(capability, _)| !effective.contains(*capability))
        .map(|(_, name)| name)
        .collect()
}

/// A word that a shell reads as itself; others in single quotes.
pub fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:=,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(CapabilitySet::NET_ADMIN), ["CAP_SYS_ADMIN"]);
        assert_eq!(missing(CapabilitySet::empty()), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert!(missing(CapabilitySet::all()).is_empty());
    }

    #[test]
    fn a_word_is_quoted_for_the_shell_only_where_it_must_be() {
        assert_eq!(quoted("10.9.0.1:8080:80/tcp"), "10.9.0.1:8080:80/tcp");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
