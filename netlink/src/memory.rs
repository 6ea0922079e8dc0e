//! Memory that a process does not need while it waits.

use std::ptr;
use std::slice;

/// Releases the memory of the program's own text and constants: pages that are needed again come back from the kernel's
/// cache of the file, a few at a time.
pub fn give_back_program() {
    // SAFETY: the function has the type that is asked for, and is called before this returns.
    unsafe { libc::dl_iterate_phdr(Some(give_back), ptr::null_mut()) };
}

/// Releases the pages of the first object, which is the program, and stops there.
unsafe extern "C" fn give_back(
    program: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr(3) hands a valid description to its callback.
    let program = unsafe { &*program };
    // SAFETY: so many program headers are there, for as long as the program is.
    let headers = unsafe { slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into()) };
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    for header in loaded.filter(|header| header.p_flags & libc::PF_W == 0) {
        let start = (program.dlpi_addr + header.p_vaddr) as usize;
        let (start, length) = whole_pages(start, header.p_memsz as usize);
        // SAFETY: no code, not even a relocation, writes to such a segment, so its pages are the file's and can be read
        // again; a running program's file cannot be written to (ETXTBSY).
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED) };
    }
    1
}

/// The pages that belong only to one segment, and their length.
fn whole_pages(start: usize, length: usize) -> (usize, usize) {
    let page = rustix::param::page_size();
    let (first, end) = (start.next_multiple_of(page), start + length);
    (first, (end - end % page).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_file() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_program_continues_without_its_pages() {
        let before = resident_file();

        // Other tests fetch pages meanwhile.
        let tries = (0..20).map(|_| {
            give_back_program();
            resident_file()
        });
        let after = tries.min().unwrap();

        assert!(after < before / 2 + 200, "{before} kB before, {after} kB after");
    }

    #[test]
    fn pages_that_are_shared_with_another_segment_stay() {
        let page = rustix::param::page_size();

        assert_eq!(whole_pages(page, 2 * page), (page, 2 * page));
        assert_eq!(whole_pages(page + 1, 2 * page), (2 * page, page));
        assert_eq!(whole_pages(page + 1, 5).1, 0);
    }
}
