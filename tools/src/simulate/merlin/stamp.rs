//! Time stamps as Merlin writes them, without allocation.
//!
//! # Units
//! Times are nanoseconds since 1970-01-01 UTC. The simulated Merlin PC keeps its clock in UTC, so both stamps of a
//! header show the same time.

/// Bytes of the first stamp, `yyyy-mm-dd hh:mm:ss.uuuuuu`.
pub(super) const LOCAL_BYTES: usize = 26;
/// Bytes of the `MQ1A` stamp, `yyyy-mm-ddThh:mm:ss.nnnnnnnnnZ`.
pub(super) const UTC_BYTES: usize = 30;

/// Writes stamps; the calendar part is computed once per second.
#[derive(Debug, Clone)]
pub(super) struct Stamps {
    second: u64,
    nanos: u32,
    day_and_time: [u8; 19],
}

impl Stamps {
    /// Stamps of this moment.
    pub(super) fn at(unix_ns: u64) -> Self {
        let mut stamps = Self { second: u64::MAX, nanos: 0, day_and_time: *b"1970-01-01T00:00:00" };
        stamps.set(unix_ns);
        stamps
    }

    /// Moves to another moment.
    pub(super) fn set(&mut self, unix_ns: u64) {
        let second = unix_ns / 1_000_000_000;
        self.nanos = (unix_ns % 1_000_000_000) as u32;
        if second == self.second {
            return;
        }
        self.second = second;
        let (year, month, day) = civil_date(second / 86_400);
        let text = &mut self.day_and_time;
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second / 3600 % 24);
        digits(&mut text[14..16], second / 60 % 60);
        digits(&mut text[17..19], second % 60);
    }

    /// Writes `yyyy-mm-dd hh:mm:ss.uuuuuu` to the first 26 bytes.
    pub(super) fn write_local(&self, out: &mut [u8]) {
        out[..19].copy_from_slice(&self.day_and_time);
        out[10] = b' ';
        out[19] = b'.';
        digits(&mut out[20..LOCAL_BYTES], u64::from(self.nanos / 1000));
    }

    /// Writes `yyyy-mm-ddThh:mm:ss.nnnnnnnnnZ` to the first 30 bytes.
    pub(super) fn write_utc(&self, out: &mut [u8]) {
        out[..19].copy_from_slice(&self.day_and_time);
        out[19] = b'.';
        digits(&mut out[20..29], u64::from(self.nanos));
        out[29] = b'Z';
    }

    /// `dd/mm/yyyy hh:mm:ss`, as in the acquisition header.
    pub(super) fn header_text(&self) -> String {
        let text = String::from_utf8_lossy(&self.day_and_time).into_owned();
        format!("{}/{}/{} {}", &text[8..10], &text[5..7], &text[0..4], &text[11..19])
    }
}

/// Writes a number with leading zeros, filling `out`; digits that do not fit are cut on the left.
pub(super) fn digits(out: &mut [u8], mut value: u64) {
    for byte in out.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day number counted from 1970-01-01 in the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Count from 0000-03-01: leap days then fall at the end of a year, and of each 400-year cycle of 146 097 days.
    let days = days + 719_468;
    let day_of_cycle = days % 146_097;
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = days / 146_097 * 400 + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known moments, among them a leap day and the last second of a year.
    #[test]
    fn known_moments() {
        let text = |unix_ns| {
            let mut out = [0; UTC_BYTES];
            Stamps::at(unix_ns).write_utc(&mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(text(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(text(1_618_494_227_008_505_401), "2021-04-15T13:43:47.008505401Z");
        assert_eq!(text(951_782_400_000_000_000), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(text(1_735_689_599_999_999_999), "2024-12-31T23:59:59.999999999Z");
        let mut local = [0; LOCAL_BYTES];
        Stamps::at(1_618_494_227_008_505_401).write_local(&mut local);
        assert_eq!(&local, b"2021-04-15 13:43:47.008505");
        assert_eq!(Stamps::at(1_618_494_227_000_000_000).header_text(), "15/04/2021 13:43:47");
    }

    /// The calendar agrees with counting days one by one for 140 years.
    #[test]
    fn calendar_agrees_with_counting() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for number in 0..51_000 {
            assert_eq!(civil_date(number), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
