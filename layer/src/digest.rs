//! Digests of blobs (SHA-256, OCI's) and checksums of layer images (BLAKE3, ours).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::{Error, ErrorKind, Result};

/// A SHA-256 digest as OCI writes it: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// From the 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Reads `sha256:<64 hex>`. Other algorithms are [`ErrorKind::Unsupported`], anything else
    /// [`ErrorKind::Invalid`].
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("sha256", digits)) => unhex(digits).map(Self).ok_or_else(|| {
                Error::invalid(format!("{text:?} is not a digest: 64 lower-case hexadecimal digits must follow the colon"))
            }),
            Some((algorithm, _)) if !algorithm.is_empty() => Err(Error::new(
                ErrorKind::Unsupported,
                format!("digest algorithm {algorithm:?} is not supported, only sha256 is"),
            )),
            _ => Err(Error::invalid(format!("{text:?} is not a digest (sha256:<64 hexadecimal digits>)"))),
        }
    }
}

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Digester(sha2::Sha256);

impl Digester {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

/// BLAKE3 over a layer image's body followed by its header; see [`image_checksum`](crate::image_checksum).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum([u8; 32]);

impl Checksum {
    /// From the 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", hex(&self.0))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Checksum {
    type Err = Error;

    /// Reads `blake3:<64 hex>`.
    fn from_str(text: &str) -> Result<Self> {
        text.strip_prefix("blake3:").and_then(unhex).map(Self).ok_or_else(|| {
            Error::invalid(format!("{text:?} is not a checksum (blake3:<64 hexadecimal digits>)"))
        })
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(Digest);
serde_as_text!(Checksum);

fn hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// Lower case only: OCI's grammar for sha256 has no capitals, and one digest must have one spelling.
fn unhex(digits: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = digits.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_reads_what_it_writes() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.hex(), EMPTY["sha256:".len()..]);
        assert_eq!(Digester::default().finish(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("{EMPTY:?}"));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn digest_refuses_other_spellings() {
        let cases = [
            ("", ErrorKind::Invalid),
            ("sha256", ErrorKind::Invalid),
            (":00", ErrorKind::Invalid),
            ("sha256:", ErrorKind::Invalid),
            ("sha512:00", ErrorKind::Unsupported),
            (&EMPTY.to_uppercase(), ErrorKind::Unsupported),
            (&EMPTY.replace("e3", "E3"), ErrorKind::Invalid),
            (&EMPTY[..EMPTY.len() - 1], ErrorKind::Invalid),
            (&EMPTY.replace("e3", "ä"), ErrorKind::Invalid),
            (&format!("{EMPTY}0"), ErrorKind::Invalid),
        ];
        for (text, kind) in cases {
            assert_eq!(text.parse::<Digest>().unwrap_err().kind(), kind, "{text:?}");
        }
        assert!("blake3:00".parse::<Checksum>().is_err());
    }
}
