//! The bytes of forwarded messages: ids, the spelling of names, and the probe for loops.

use rustix::rand::GetRandomFlags;

/// The label of a probe for loops: 128 random bits.
pub(super) const PROBE_LABEL: usize = 32;

pub(super) fn with_new_id(message: &[u8]) -> Vec<u8> {
    [&random::<2>(), message.get(2..).unwrap_or_default()].concat()
}

/// Gives `answer` the id of `question`, and its spelling of the name (N4), which another client may have written with
/// other capitals. Both have the same question, so it is as long in both.
pub(super) fn address_to(answer: &mut [u8], question: &[u8]) {
    let name = 12..12 + name_len(question.get(12..).unwrap_or_default());
    for part in [0..2, name] {
        if let (Some(to), Some(from)) = (answer.get_mut(part.clone()), question.get(part)) {
            to.copy_from_slice(from);
        }
    }
}

fn name_len(wire: &[u8]) -> usize {
    let mut len = 0;
    while let Some(label) = wire.get(len).filter(|label| **label != 0) {
        len += 1 + usize::from(*label);
    }
    len
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // This cannot fail on Linux once the machine has booted; up to 256 bytes come at once (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty());
    bytes
}

pub(super) fn hex(bytes: [u8; PROBE_LABEL / 2]) -> [u8; PROBE_LABEL] {
    let digit =
        |index: usize| b"0123456789abcdef"[usize::from((bytes[index / 2] >> (4 * (index % 2))) & 0xf)];
    std::array::from_fn(digit)
}

/// TXT of `LABEL.TOP`, both random: no zone has it, and only the asked server learns it.
pub(super) fn probe_query(label: &[u8; PROBE_LABEL]) -> Vec<u8> {
    let [first, second] = random();
    let header = [first, second, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let question = [&[PROBE_LABEL as u8], &label[..], &[8], &label[..8], &[0, 0, 16, 0, 1]].concat();
    [&header[..], &question].concat()
}
