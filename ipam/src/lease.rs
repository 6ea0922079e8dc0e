//! A lease and its file: `<container id>\r\n<ifname>`, host-local's format byte for byte.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The container id.
    pub id: &'a str,
    /// The name of the interface in the container; empty in files of host-local's old format, which lack it.
    pub ifname: &'a str,
}

/// An address just given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// The address with its range's prefix.
    pub address: IpNetwork,
    /// The range's gateway.
    pub gateway: Option<IpAddr>,
}

/// An address that was seen in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The address.
    pub address: IpAddr,
    /// The user of the address, for a message.
    pub by: String,
}

/// One lease on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// The owner's container id.
    pub id: String,
    /// The owner's ifname; empty in host-local's old format.
    pub ifname: String,
    /// Who wrote it and when.
    pub origin: Origin,
}

/// Who wrote a lease's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Another program, or rnet whose index was lost: whether the owner is alive is unknown.
    Foreign,
    /// rnet, in this boot.
    Ours {
        /// Device and inode of the owner's network namespace, if the caller gave them.
        netns: Option<(u64, u64)>,
    },
    /// rnet, in a boot that is over: the owner is dead and the address free.
    Dead,
}

impl Owner<'_> {
    /// The content of this owner's lease files.
    pub(crate) fn content(&self) -> String {
        match self.ifname {
            "" => self.id.to_owned(),
            ifname => format!("{}\r\n{ifname}", self.id),
        }
    }
}

/// The owner, container id and ifname, that a lease file names; `None` if it names none (empty, torn, garbage).
///
/// White space around the whole is ignored, as the reference does; a bare newline between the two is accepted.
pub(crate) fn parse(content: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(content).ok()?.trim();
    let (id, ifname) = text.split_once('\n').unwrap_or((text, ""));
    let id = id.strip_suffix('\r').unwrap_or(id);
    let named = is_id(id) && (ifname.is_empty() || is_ifname(ifname));
    named.then_some((id, ifname))
}

/// The address after which a file of the lease directory is named; other files are no leases.
pub(crate) fn address_of(name: &str) -> Option<IpAddr> {
    name.parse().ok().filter(|address: &IpAddr| address.to_string() == name)
}

fn is_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_ifname(text: &str) -> bool {
    text.len() < 16 && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "/:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_file_names_its_owner() {
        let owner = Owner { id: "b9f2", ifname: "eth0" };

        assert_eq!(owner.content(), "b9f2\r\neth0");
        assert_eq!(parse(owner.content().as_bytes()), Some(("b9f2", "eth0")));
        assert_eq!(parse(b"old-format_1.x\r\n"), Some(("old-format_1.x", "")));
        assert_eq!(parse(b"b9f2\neth0\n"), Some(("b9f2", "eth0")));
    }

    #[test]
    fn empty_and_garbage_files_name_no_owner() {
        for content in
            [&b""[..], b"\r\n", b"\0\0\0\0", b"two words", b"\xff\xfe", b"a\r\neth0\r\nmore", b"a\r\n/etc"]
        {
            assert_eq!(parse(content), None, "{content:?}");
        }
    }

    #[test]
    fn only_an_address_as_it_is_printed_names_a_lease_file() {
        assert!(address_of("10.9.0.2").is_some() && address_of("fd00::2").is_some());
        for name in ["lock", "last_reserved_ip.0", "fd00::0002", "FD00::2", "10.9.0.2 ", "10.9.0"] {
            assert_eq!(address_of(name), None, "{name}");
        }
    }
}
