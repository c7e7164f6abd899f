//! Times: decimal seconds since 1970 in a tar, 100 ns since 1601 in an image.
//!
//! Microsoft's code goes through nanoseconds in 64 bits and wraps around before 1677 and after 2262. Here every
//! `FILETIME` is exact in both directions, 0 included.

use cimfs::FileTime;
use erofs::Timestamp;

/// Ticks of 100 ns from 1601 to 1970.
const EPOCH: i128 = 116_444_736_000_000_000;
const TICKS: i128 = 10_000_000;

/// From a time in a tar: an optional sign, seconds, and an optional fraction, of which what is finer than 100 ns is
/// cut off towards 1970. `None` if it is none, before 1601, or past what 64 bits hold.
pub fn parse_time(text: &[u8]) -> Option<FileTime> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = parts.next().filter(|whole| !whole.is_empty())?;
    let fraction = parts.next().unwrap_or_default();
    let mut ticks: i128 = 0;
    for digit in whole {
        ticks = ticks * 10 + value(*digit)?;
        if ticks > i128::from(u64::MAX) {
            return None;
        }
    }
    for place in 0..7 {
        ticks = ticks * 10 + fraction.get(place).map_or(Some(0), |digit| value(*digit))?;
    }
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    from_ticks(if negative { -ticks } else { ticks })
}

/// From what the tar reader made of `mtime`.
pub(super) fn from_timestamp(time: Timestamp) -> Option<FileTime> {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    from_ticks(nanoseconds / 100)
}

/// As a tar has it: the shortest text, of at most seven digits behind the point.
pub fn time_text(time: FileTime) -> String {
    let ticks = i128::from(time.0) - EPOCH;
    let sign = if ticks < 0 { "-" } else { "" };
    let (whole, fraction) = (ticks.abs() / TICKS, ticks.abs() % TICKS);
    match fraction {
        0 => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction:07}").trim_end_matches('0').into(),
    }
}

/// Seconds since 1970, rounded down, if there is no fraction and the field of a header can hold them.
pub(super) fn header_seconds(time: FileTime) -> (u64, bool) {
    let ticks = i128::from(time.0) - EPOCH;
    let seconds = u64::try_from(ticks.div_euclid(TICKS)).ok().filter(|it| *it < 1 << 33);
    (seconds.unwrap_or(0), seconds.is_some() && ticks % TICKS == 0)
}

fn value(digit: u8) -> Option<i128> {
    digit.is_ascii_digit().then(|| i128::from(digit - b'0'))
}

fn from_ticks(ticks: i128) -> Option<FileTime> {
    u64::try_from(ticks + EPOCH).ok().map(FileTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_ticks() {
        for (text, ticks) in [
            ("1.5", 116_444_736_015_000_000),
            ("-1.5", 116_444_735_985_000_000),
            ("1.12345678999", 116_444_736_011_234_567),
            ("-0.0000001", 116_444_735_999_999_999),
            ("-0.00000001", 116_444_736_000_000_000),
            ("1.", 116_444_736_010_000_000),
            ("+1", 116_444_736_010_000_000),
            ("0", 116_444_736_000_000_000),
            ("1705320000", 133_497_936_000_000_000),
            // Where Microsoft's code wraps around to the year 2185.
            ("-11644473600", 0),
        ] {
            assert_eq!(parse_time(text.as_bytes()), Some(FileTime(ticks)), "{text}");
        }
        for bad in
            ["abc", "", "1e9", "1.2.3", " 1", "-", ".5", "1.x", "1.00000000x", "-11644473601"]
        {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad:?}");
        }
        let endless = "9".repeat(100);
        assert_eq!(parse_time(endless.as_bytes()), None);
    }

    #[test]
    fn ticks_become_texts_and_come_back() {
        for (ticks, text) in [
            (116_444_735_999_999_999, "-0.0000001"),
            (116_444_735_990_000_000, "-1"),
            (133_497_936_001_234_567, "1705320000.1234567"),
            (133_497_936_000_000_000, "1705320000"),
            (0, "-11644473600"),
        ] {
            assert_eq!(time_text(FileTime(ticks)), text);
            assert_eq!(parse_time(text.as_bytes()), Some(FileTime(ticks)));
        }
        for ticks in [1, u64::MAX, i64::MAX as u64, 116_444_736_000_000_001, 48_491_090_211_286_549]
        {
            let text = time_text(FileTime(ticks));
            assert_eq!(parse_time(text.as_bytes()), Some(FileTime(ticks)), "{text}");
        }
    }

    #[test]
    fn headers_hold_whole_seconds() {
        let at = |text: &str| header_seconds(parse_time(text.as_bytes()).unwrap());
        assert_eq!(at("1705320000"), (1_705_320_000, true));
        assert_eq!(at("1705320000.5"), (1_705_320_000, false));
        assert_eq!(at("-0.0000001"), (0, false));
        assert_eq!(at("-1"), (0, false));
        assert_eq!(at("8589934592"), (0, false));
        let cut = Timestamp { seconds: -1, nanoseconds: 999_999_990 };
        assert_eq!(from_timestamp(cut), parse_time(b"0"));
    }
}
