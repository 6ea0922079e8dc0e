//! Names: what may be one, and which one was probably meant.

use crate::report::Problem;

/// Network names with a meaning of their own.
pub const RESERVED: [&str; 3] = ["host", "none", "bridge"];

/// Those of them by which docker starts a container without a network of its own.
pub const WITHOUT_NETWORK: [&str; 2] = ["host", "none"];

/// The built-in default network.
pub const DEFAULT: &str = "bridge";

/// Refuses what CNI does not take as a name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
pub fn check(name: &str) -> Result<(), Problem> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let ok = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && name.bytes().all(inner);
    // A name becomes a file name, and NAME_MAX is 255.
    if ok && name.len() <= 200 { Ok(()) } else { Err(Problem::BadName { name: name.to_owned() }) }
}

/// The name that was probably meant: the nearest one, if few letters differ.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    let near = names.map(|name| (distance(word, name), name)).filter(|(distance, _)| *distance <= allowed);
    near.min().map(|(_, name)| name.to_owned())
}

/// How many letters must be added, removed, changed or swapped with the next one (Damerau's distance).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut table = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            table[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => cheapest(&table, &one, &other, i, j),
            };
        }
    }
    table[one.len()][other.len()]
}

fn cheapest(table: &[Vec<usize>], one: &[char], other: &[char], i: usize, j: usize) -> usize {
    let change = table[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
    let best = change.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
    let swapped = i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
    if swapped { best.min(table[i - 2][j - 2] + 1) } else { best }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_cni() {
        for name in ["a", "0", "my_net.1-x"] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "-a", ".a", "_a", "a b", "a/b", "ä", "a\n", &"a".repeat(201)] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        let near = |word| nearest(word, ["mynet", "web", "lab"].into_iter());
        assert_eq!(near("mynt"), Some("mynet".into()));
        assert_eq!(near("mynte"), Some("mynet".into()));
        assert_eq!(near("wbe"), Some("web".into()));
        assert_eq!(near("other"), None);
    }
}
