//! The identifier of a region set.

use std::fmt;

use uuid::Uuid;

/// Namespace of the GUIDs that are derived from content; a random one, fixed for ever.
const NAMESPACE: Uuid = Uuid::from_u128(0x5b6c_0a6e_9d55_4c1c_8f1d_2c60_17a3_94e7);

/// A GUID. It is shown and used in file names in lower case, with dashes and without braces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(Uuid);

impl Guid {
    /// The version 5 GUID of what identifies an image's content, such as a chain of layer digests: the same
    /// content gets the same files.
    pub fn for_content(identity: &[u8]) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, identity))
    }

    /// From the 16 bytes of Windows' layout: u32, u16, u16 in little-endian order, then 8 bytes.
    pub fn from_disk(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes_le(bytes))
    }

    /// The 16 bytes of Windows' layout.
    pub fn to_disk(self) -> [u8; 16] {
        self.0.to_bytes_le()
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Guid {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        let invalid =
            |_| crate::Error::new(crate::ErrorKind::Invalid, format!("{:?} is no GUID", text));
        Uuid::try_parse(text).map(Self).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_windows() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        let guid: Guid = text.parse().unwrap();
        let disk = [
            0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd,
            0xee, 0xff,
        ];
        assert_eq!(guid.to_disk(), disk);
        assert_eq!(Guid::from_disk(disk).to_string(), text);
        assert!("x".parse::<Guid>().is_err());
    }

    #[test]
    fn content_gives_the_same_guid_for_ever() {
        let guid = Guid::for_content(b"sha256:0");
        assert_eq!(guid, Guid::for_content(b"sha256:0"));
        assert_ne!(guid, Guid::for_content(b"sha256:1"));
        assert_eq!(guid.0.get_version_num(), 5);
    }
}
