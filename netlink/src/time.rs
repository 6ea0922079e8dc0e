//! Local time for messages: the C library knows the time zones.

use std::mem::MaybeUninit;

/// How many seconds local time is ahead of UTC at a moment (seconds since 1970), by TZ or /etc/localtime (localtime_r(3)).
pub fn local_offset(seconds: i64) -> i64 {
    let mut local = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both point at locals of the right types, and nothing in this process changes the environment meanwhile.
    let found = unsafe { libc::localtime_r(&seconds, local.as_mut_ptr()) };
    if found.is_null() {
        return 0;
    }
    // SAFETY: localtime_r has filled it in.
    unsafe { local.assume_init() }.tm_gmtoff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_zone_is_a_day_ahead() {
        assert!(local_offset(1_796_051_232).abs() < 86_400);
    }
}
