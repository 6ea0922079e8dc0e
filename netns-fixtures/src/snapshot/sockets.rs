//! Sockets that wait for others: listening TCP, bound UDP.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use netlink::Netns;

use crate::Error;

/// proc(5), /proc/net/tcp: the states LISTEN and, of UDP, "not connected".
const WAITING: [(&str, &str); 4] = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")];

pub(super) fn lines(netns: &Netns) -> Result<Vec<String>, Error> {
    Ok(netns.run(|| WAITING.iter().flat_map(|(file, state)| waiting(file, state)).collect())?)
}

/// /proc/net is that of the process; the thread's own is below thread-self.
fn waiting(file: &str, state: &str) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let sockets = table.lines().skip(1).filter_map(|row| address_in_state(row, state));
    sockets.map(|address| format!("socket {} {address}", file.trim_end_matches('6'))).collect()
}

fn address_in_state(row: &str, state: &str) -> Option<SocketAddr> {
    let mut columns = row.split_whitespace();
    let local = columns.nth(1)?;
    if columns.nth(1)? != state {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    Some(SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel prints an address as one or four words in the machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = hex.get(at..at + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_table_is_an_address_in_a_state() {
        let row = "  0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000";
        if cfg!(target_endian = "little") {
            assert_eq!(address_in_state(row, "0A"), Some("127.0.0.1:53".parse().unwrap()));
            let v6 = "000080FE000000000000000001000000";
            assert_eq!(address(v6), Some("fe80::1".parse().unwrap()));
        }
        assert_eq!(address_in_state(row, "07"), None);
    }
}
