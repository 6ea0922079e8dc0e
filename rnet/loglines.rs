//! The name server's log as people read it: short lines, and on a terminal the time of the place.

use serde_json::{Value, json};

use crate::clock;

/// Ids of containers are cut to the digits that docker shows.
const SHORT: usize = 12;

/// The log, line by line; with `local` by the clock of the place.
pub fn shown(log: &str, local: bool) -> String {
    log.lines().map(|line| format!("{}\n", one(line, local))).collect()
}

/// The log as objects, one a line.
pub fn json(log: &str) -> String {
    log.lines().map(|line| format!("{}\n", object(line))).collect()
}

fn one(line: &str, local: bool) -> String {
    let text = short_ids(line);
    let Some((time, rest)) = text.split_once(' ') else { return text };
    match clock::seconds(time) {
        None => text,
        Some(seconds) if local => format!("{} {}", clock::local(seconds), rest.trim_start()),
        // Milliseconds are enough.
        Some(_) => format!("{}Z {}", time.get(..23).unwrap_or(time).trim_end_matches('Z'), rest.trim_start()),
    }
}

fn object(line: &str) -> Value {
    let mut words = line.splitn(2, ' ');
    let (time, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim_start());
    let Some((level, text)) = rest.split_once(' ').filter(|_| clock::seconds(time).is_some()) else {
        return json!({"time": null, "level": null, "text": line});
    };
    json!({"time": time, "level": level.to_lowercase(), "text": text.trim_start()})
}

/// Rows of 64 hex digits, cut.
fn short_ids(line: &str) -> String {
    let (mut shown, mut digits) = (String::with_capacity(line.len()), String::new());
    for letter in line.chars().map(Some).chain([None]) {
        match letter.filter(char::is_ascii_hexdigit) {
            Some(digit) => digits.push(digit),
            None => {
                let end = if digits.len() == 64 { SHORT } else { digits.len() };
                shown.push_str(&digits[..end]);
                digits.clear();
                shown.extend(letter);
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> String {
        format!("2026-11-30T15:07:12.123456Z  INFO set network=\"mynet\" container=\"{}\"", "4f2a".repeat(16))
    }

    #[test]
    fn a_line_is_short_and_keeps_what_is_no_id() {
        let expected = "2026-11-30T15:07:12.123Z INFO set network=\"mynet\" container=\"4f2a4f2a4f2a\"\n";
        assert_eq!(shown(&line(), false), expected);
        assert_eq!(shown("panicked at 4f2a\n", false), "panicked at 4f2a\n");
        let local = shown(&line(), true);
        assert!(local.ends_with(" INFO set network=\"mynet\" container=\"4f2a4f2a4f2a\"\n"), "{local}");
        assert!(local.starts_with("2026-1") && local.get(10..11) == Some(" "), "{local}");
    }

    #[test]
    fn a_program_gets_the_whole_line_in_parts() {
        let told: Value = serde_json::from_str(&json(&line())).unwrap();
        assert_eq!((&told["level"], &told["time"]), (&"info".into(), &"2026-11-30T15:07:12.123456Z".into()));
        assert!(told["text"].as_str().unwrap().ends_with("4f2a4f2a\""));
    }
}
