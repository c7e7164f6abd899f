//! Extended headers: `LENGTH KEY=VALUE\n` records and what they mean.
//!
//! Sources: POSIX.1-2017 `pax` ("pax Extended Header"), GNU tar's manual ("Storing Sparse Files") and the
//! `SCHILY.*` and `LIBARCHIVE.*` keywords as star, GNU tar and libarchive write them.

use std::collections::BTreeMap;

use erofs::Timestamp;

use crate::error::{Error, ErrorKind, Result};

/// Everything that extended headers said about one entry (or about all that follow).
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    /// `SCHILY.xattr.NAME`: raw values.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `LIBARCHIVE.xattr.NAME`: decoded; a raw value of the same name wins.
    pub(super) libarchive_xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: SparseRecords,
    /// Whether `kept` is wanted.
    pub(super) keep: bool,
    /// Records of Windows' files, as they are; the last of a key wins.
    pub(super) kept: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Whether a record is about a file of Windows, and otherwise without meaning here.
fn is_of_windows(key: &[u8]) -> bool {
    matches!(key, b"atime" | b"ctime" | b"LIBARCHIVE.creationtime")
        || key.starts_with(b"MSWINDOWS.")
        || key.starts_with(b"PLYWOOD.")
}

/// `GNU.sparse.*`.
#[derive(Debug, Clone, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// `realsize` (1.0) or `size` (0.x): the length with holes.
    pub(super) real_size: Option<u64>,
    /// Number of pairs promised (0.x).
    pub(super) count: Option<u64>,
    /// Pairs of offset and length (0.x).
    pub(super) map: Vec<(u64, u64)>,
    /// 0.0: an offset that waits for its length.
    offset: Option<u64>,
}

/// Whether a header speaks for the next entry or for all entries that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Entry,
    Global,
}

impl Records {
    /// Takes the records of one extended header on top of those there are. An empty value takes back what a
    /// header before said (POSIX).
    pub(super) fn apply(&mut self, mut bytes: &[u8], scope: Scope) -> Result<()> {
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            self.set(key, value, scope).map_err(|error| {
                if error.kind() == ErrorKind::Corrupt {
                    Error::corrupt(format!("PAX record \"{}\": {error}", key.escape_ascii()))
                } else {
                    error
                }
            })?;
            bytes = rest;
        }
        Ok(())
    }

    /// Roughly the memory that the values take, to bound what global headers pile up.
    pub(super) fn weight(&self) -> u64 {
        let xattrs = self.xattrs.iter().chain(&self.libarchive_xattrs);
        xattrs.map(|(name, value)| (name.len() + value.len() + 64) as u64).sum()
    }

    fn set(&mut self, key: &[u8], value: &[u8], scope: Scope) -> Result<()> {
        if scope == Scope::Global
            && (matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse."))
        {
            // No writer does this, and readers disagree about it: two would see two different layers.
            return Err(Error::invalid(format!(
                "a global PAX header sets \"{}\" for every entry",
                key.escape_ascii()
            )));
        }
        if self.keep && is_of_windows(key) {
            // Microsoft's importer takes no notice of global headers.
            match scope {
                Scope::Entry => drop(self.kept.insert(key.to_vec(), value.to_vec())),
                Scope::Global if matches!(key, b"atime" | b"ctime") => {}
                Scope::Global => {
                    let key = key.escape_ascii();
                    let what = format!("a global PAX header sets \"{key}\" for every entry");
                    return Err(Error::invalid(what));
                }
            }
            return Ok(());
        }
        match key {
            b"path" => self.path = optional(value, name)?,
            b"linkpath" => self.link_path = optional(value, name)?,
            b"size" => self.size = optional(value, decimal)?,
            b"uid" => self.uid = optional(value, decimal)?,
            b"gid" => self.gid = optional(value, decimal)?,
            b"mtime" => self.mtime = optional(value, time)?,
            b"GNU.sparse.major" => self.sparse.major = optional(value, decimal)?,
            b"GNU.sparse.minor" => self.sparse.minor = optional(value, decimal)?,
            b"GNU.sparse.name" => self.sparse.name = optional(value, name)?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = optional(value, decimal)?;
            }
            b"GNU.sparse.numblocks" => self.sparse.count = optional(value, decimal)?,
            b"GNU.sparse.offset" => {
                if self.sparse.offset.replace(decimal(value)?).is_some() {
                    return Err(Error::corrupt("two offsets without a length between them"));
                }
            }
            b"GNU.sparse.numbytes" => {
                let offset = self
                    .sparse
                    .offset
                    .take()
                    .ok_or_else(|| Error::corrupt("a length without an offset"))?;
                self.sparse.map.push((offset, decimal(value)?));
            }
            b"GNU.sparse.map" => {
                let numbers =
                    value.split(|&byte| byte == b',').map(decimal).collect::<Result<Vec<_>>>()?;
                let (pairs, odd) = numbers.as_chunks::<2>();
                if !odd.is_empty() {
                    return Err(Error::corrupt("an offset without a length"));
                }
                self.sparse.map = pairs.iter().map(|&[offset, length]| (offset, length)).collect();
            }
            _ => {
                if let Some(encoded) = key.strip_prefix(b"SCHILY.xattr.") {
                    // An empty value is a legal value here: `trusted.overlay.origin` has one.
                    self.xattrs.insert(unescape_schily(encoded), value.to_vec());
                } else if let Some(encoded) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    self.libarchive_xattrs.insert(percent_decoded(encoded), base64(value)?);
                }
            }
        }
        Ok(())
    }
}

fn optional<T>(value: &[u8], read: impl Fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
    if value.is_empty() { Ok(None) } else { read(value).map(Some) }
}

/// Splits the first record off: key, value, the rest.
fn record(bytes: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let damaged = || {
        let shown = &bytes[..bytes.len().min(40)];
        Error::corrupt(format!("damaged PAX record: \"{}\"", shown.escape_ascii()))
    };
    let space = bytes.iter().take(20).position(|&byte| byte == b' ').ok_or_else(damaged)?;
    let length = decimal(&bytes[..space]).map_err(|_| damaged())?;
    let length = usize::try_from(length).map_err(|_| damaged())?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(damaged());
    }
    let body = &bytes[space + 1..length - 1];
    let equals = body.iter().position(|&byte| byte == b'=').ok_or_else(damaged)?;
    if equals == 0 {
        return Err(damaged());
    }
    Ok((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

fn name(value: &[u8]) -> Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(Error::invalid(format!(
            "the name \"{}\" holds a NUL byte",
            value.escape_ascii()
        )));
    }
    Ok(value.to_vec())
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64> {
    let not_a_number =
        || Error::corrupt(format!("\"{}\" is not a number of 64 bits", digits.escape_ascii()));
    if digits.is_empty() {
        return Err(not_a_number());
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'));
        digit.and_then(|digit| value.checked_mul(10)?.checked_add(digit)).ok_or_else(not_a_number)
    })
}

/// Seconds with an optional sign and fraction; digits behind the ninth of the fraction are dropped.
fn time(value: &[u8]) -> Result<Timestamp> {
    let (negative, digits) = match value {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(Error::corrupt(format!("\"{}\" is not a time", value.escape_ascii())));
    }
    let nanoseconds = (0..9)
        .map(|place| fraction.get(place).map_or(0, |digit| u32::from(digit - b'0')))
        .fold(0, |value, digit| value * 10 + digit);
    let out_of_range =
        |_| Error::corrupt(format!("the time {} is out of range", value.escape_ascii()));
    let seconds = i64::try_from(whole).map_err(out_of_range)?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// GNU tar writes `=` as `%3D` and `%` as `%25` in the names of xattrs, and nothing else.
fn unescape_schily(name: &[u8]) -> Vec<u8> {
    unescape(name, |byte| matches!(byte, b'=' | b'%'))
}

fn percent_decoded(name: &[u8]) -> Vec<u8> {
    unescape(name, |_| true)
}

/// Replaces `%XX` where it stands for a byte that is wanted, and leaves everything else.
fn unescape(name: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let digit = |position: usize| {
        let digit = char::from(*name.get(position)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let mut plain = Vec::with_capacity(name.len());
    let mut position = 0;
    while let Some(&byte) = name.get(position) {
        position += 1;
        let coded = if byte == b'%' { digit(position).zip(digit(position + 1)) } else { None };
        match coded.map(|(high, low)| high << 4 | low).filter(|&coded| wanted(coded)) {
            Some(coded) => {
                plain.push(coded);
                position += 2;
            }
            None => plain.push(byte),
        }
    }
    plain
}

/// Standard alphabet, padding optional (libarchive writes none).
fn base64(text: &[u8]) -> Result<Vec<u8>> {
    let text = text.trim_ascii_end();
    let end = text.iter().position(|&byte| byte == b'=').unwrap_or(text.len());
    let (digits, padding) = text.split_at(end);
    let bad = || Error::corrupt("the value is not base64");
    if padding.len() > 2 || !padding.iter().all(|&byte| byte == b'=') || digits.len() % 4 == 1 {
        return Err(bad());
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(bad()),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xFF) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(bytes: &[u8]) -> Result<Records> {
        let mut records = Records::default();
        records.apply(bytes, Scope::Entry)?;
        Ok(records)
    }

    #[test]
    fn records_are_split_by_their_length() {
        let records = applied(b"12 path=a\nb\n9 uid=42\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(records.uid, Some(42));
        assert_eq!(applied(b"12 path=a=b\n").unwrap().path.as_deref(), Some(&b"a=b"[..]));
        for bad in [
            &b"x"[..],
            b"9 path=ab\n",
            b"12 path=ab\n",
            b"10 path=abc",
            b"4 a\n",
            b"5 =a\n",
            b"3 \n",
            b"99999999999999999999 a=b\n",
            b"-6 a=b\n",
            b" 6 a=b\n",
        ] {
            let error = applied(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", bad.escape_ascii());
        }
        assert_eq!(applied(b"11 path=a\0\n").unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn empty_value_takes_back() {
        let mut records = applied(b"9 uid=42\n").unwrap();
        records.apply(b"7 uid=\n", Scope::Entry).unwrap();
        assert_eq!(records.uid, None);
    }

    #[test]
    fn times() {
        let good: [(&[u8], i64, u32); 6] = [
            (b"1735689600", 1_735_689_600, 0),
            (b"1.5", 1, 500_000_000),
            (b"1.123456789999", 1, 123_456_789),
            (b"-1", -1, 0),
            (b"-1.25", -2, 750_000_000),
            (b"7.", 7, 0),
        ];
        for (text, seconds, nanoseconds) in good {
            assert_eq!(time(text).unwrap(), Timestamp { seconds, nanoseconds });
        }
        for bad in [&b""[..], b"-", b".5", b"1.x", b"+1", b"1e3", b"9223372036854775808"] {
            assert!(time(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn xattr_names_and_values() {
        assert_eq!(unescape_schily(b"user.a%3Db%25c%41%"), b"user.a=b%c%41%");
        assert_eq!(percent_decoded(b"user.%C3%A4%2"), b"user.\xc3\xa4%2");
        assert_eq!(base64(b"AQID").unwrap(), [1, 2, 3]);
        assert_eq!(base64(b"AQI").unwrap(), [1, 2]);
        assert_eq!(base64(b"AQ==").unwrap(), [1]);
        assert!(base64(b"").unwrap().is_empty());
        for bad in [&b"A"[..], b"A*==", b"AQ===", b"AQ=A"] {
            assert!(base64(bad).is_err());
        }
    }

    #[test]
    fn global_headers_may_not_name_or_size() {
        let mut records = Records::default();
        let error = records.apply(b"9 size=1\n", Scope::Global).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        records.apply(b"9 uid=42\n", Scope::Global).unwrap();
        assert_eq!(records.uid, Some(42));
    }
}
