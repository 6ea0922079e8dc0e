//! Times as people read them.

/// `2026-11-30T15:07:12.123Z` of milliseconds since 1970.
pub fn utc(millis: u64) -> String {
    let civil = Civil::of(i64::try_from(millis / 1000).unwrap_or(i64::MAX));
    format!("{civil}.{:03}Z", millis % 1000)
}

/// The same for a person at a terminal: `2026-11-30 16:07:12`, by the clock of the place.
pub fn local(seconds: i64) -> String {
    Civil::of(seconds + netlink::local_offset(seconds)).to_string().replace('T', " ")
}

/// The seconds since 1970 of `2026-11-30T15:07:12`, whatever follows.
pub fn seconds(text: &str) -> Option<i64> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) }; // from March
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year, month (1 to 12), day (1 to 31).
    pub date: (i64, u32, u32),
    /// Hour, minute, second.
    pub time: (u32, u32, u32),
}

impl Civil {
    /// Of seconds since 1970, in the proleptic Gregorian calendar (Howard Hinnant, chrono-compatible date algorithms).
    pub fn of(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400) as u32);
        let shifted = days + 719_468; // days since 0000-03-01
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153; // from March
        let day = (day_of_year - (153 * month + 2) / 5 + 1) as u32;
        let month = if month < 10 { month + 3 } else { month - 9 } as u32;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { date: (year, month, day), time: (second / 3600, second / 60 % 60, second % 60) }
    }
}

impl std::fmt::Display for Civil {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ((year, month, day), (hour, minute, second)) = (self.date, self.time);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_826_145_007), "2000-02-29T12:09:05.007Z");
        assert_eq!(utc(1_796_051_232_999), "2026-11-30T15:07:12.999Z");
        for moment in [0, 951_826_145, 1_796_051_232, 4_107_542_399] {
            assert_eq!(seconds(&Civil::of(moment).to_string()), Some(moment));
        }
        assert_eq!(seconds("no date"), None);
        assert_eq!(Civil::of(-1).to_string(), "1969-12-31T23:59:59");
    }
}
