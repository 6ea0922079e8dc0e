//! Tables of iptables outside nf_tables, which `iptables -V` calls `legacy`: read, never written.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::Error;

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES (linux/netfilter_ipv4/ip_tables.h); those of IPv6 are the same.
const GET_INFO: c_int = 64;
const GET_ENTRIES: c_int = 65;
/// XT_TABLE_MAXNAMELEN
const NAME: usize = 32;
/// `struct ipt_getinfo` ends with the size of the entries.
const INFO: usize = NAME + 13 * 4;
/// The table may change between the two questions (EAGAIN).
const ATTEMPTS: usize = 10;

/// `struct ipt_get_entries`, whose entries have the alignment of their counters.
#[repr(C)]
struct GetEntries {
    name: [u8; NAME],
    size: u32,
    entries: [u64; 0],
}

/// True if iptables-legacy has `chain` in `table` of the calling thread's namespace. It does not load a table that is not
/// in use.
///
/// # Errors
/// [`Error::LegacyTable`] if the table is in use and cannot be read.
pub fn has_legacy_chain(v6: bool, table: &str, chain: &str) -> Result<bool, Error> {
    if !is_in_use(v6, table) {
        return Ok(false);
    }
    let entries =
        entries(v6, table).map_err(|errno| Error::LegacyTable { v6, table: table.into(), errno })?;
    Ok(names_chain(&entries, chain))
}

/// /proc lists the tables that a namespace has, without making them.
fn is_in_use(v6: bool, table: &str) -> bool {
    let family = if v6 { "ip6" } else { "ip" };
    let names = std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
    names.is_ok_and(|names| names.lines().any(|name| name == table))
}

/// Whether the entries have the chain: it begins with an entry whose target is ERROR (`struct xt_error_target`), after
/// which its name follows at a fixed distance.
fn names_chain(entries: &[u8], chain: &str) -> bool {
    const ERROR: &[u8] = b"ERROR\0";
    const DISTANCE: usize = 30;
    let name = [chain.as_bytes(), &[0]].concat();
    let starts = entries.windows(ERROR.len()).enumerate().filter(|(_, window)| *window == ERROR);
    let mut named = starts.filter_map(|(at, _)| entries.get(at + DISTANCE..));
    named.any(|rest| rest.starts_with(&name))
}

fn entries(v6: bool, table: &str) -> Result<Vec<u8>, Errno> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let level = if v6 { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
    for _ in 0..ATTEMPTS {
        let mut info = vec![0; INFO];
        put_name(&mut info, table);
        ask(&socket, level, GET_INFO, &mut info)?;
        let size = info[INFO - 4..].try_into().map(u32::from_ne_bytes).unwrap_or_default();
        let mut entries = vec![0; size_of::<GetEntries>() + size as usize];
        put_name(&mut entries, table);
        entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        match ask(&socket, level, GET_ENTRIES, &mut entries) {
            Err(Errno::AGAIN) => {}
            other => return other.map(|()| entries),
        }
    }
    Err(Errno::AGAIN)
}

fn put_name(bytes: &mut [u8], table: &str) {
    let length = table.len().min(NAME - 1);
    bytes[..length].copy_from_slice(&table.as_bytes()[..length]);
}

fn ask(socket: &OwnedFd, level: c_int, option: c_int, bytes: &mut [u8]) -> Result<(), Errno> {
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the buffer's own length, and the socket is open.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            bytes.as_mut_ptr().cast(),
            ptr::from_mut(&mut length),
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_recognised_by_its_first_entry_not_only_by_its_name() {
        let entry = |chain: &str| {
            let mut bytes = vec![0; 100];
            bytes[20..26].copy_from_slice(b"ERROR\0");
            bytes[50..50 + chain.len()].copy_from_slice(chain.as_bytes());
            bytes
        };

        assert!(names_chain(&entry("CNI-1"), "CNI-1"));
        assert!(!names_chain(&entry("CNI-12"), "CNI-1") && !names_chain(&entry("CNI"), "CNI-1"));
        assert!(!names_chain(b"-j CNI-1\0 ERROR\0", "CNI-1"));
    }
}
