//! Security descriptors, reparse buffers and extended attributes.

use crate::format::RegionOffset;
use crate::{Error, FileView, Image, ReadAt, Result};

impl<R: ReadAt> Image<R> {
    /// The security descriptor in self-relative form; `None` if the file has none, which none should.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn security_descriptor(&self, file: &FileView) -> Result<Option<Vec<u8>>> {
        self.counted(file.entry.security)
    }

    /// The reparse buffer with its own header (tag, length, reserved); `None` if the file is no reparse point.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn reparse_buffer(&self, file: &FileView) -> Result<Option<Vec<u8>>> {
        self.counted(file.entry.reparse)
    }

    /// The extended attributes as they are on disk: `FILE_FULL_EA_INFORMATION` structures. Empty without any.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn ea_buffer(&self, file: &FileView) -> Result<Vec<u8>> {
        match file.entry.ea_length.get() {
            0 => Ok(Vec::new()),
            length => self.regions().read_bytes(file.entry.eas, length.into()),
        }
    }

    /// Bytes behind a length of 16 bits.
    fn counted(&self, offset: RegionOffset) -> Result<Option<Vec<u8>>> {
        if offset.is_null() {
            return Ok(None);
        }
        let length: zerocopy::little_endian::U16 = self.regions().read_struct(offset)?;
        let past = || Error::corrupt(offset, "an object past the end of its region");
        let start = offset.checked_add(2).ok_or_else(past)?;
        self.regions().read_bytes(start, length.get().into()).map(Some)
    }
}

/// An extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ea<'a> {
    /// `FILE_NEED_EA` (0x80) and nothing else.
    pub flags: u8,
    /// Name, up to 254 bytes of the OEM code page.
    pub name: &'a [u8],
    /// Value.
    pub value: &'a [u8],
}

/// The attributes in a chain of `FILE_FULL_EA_INFORMATION`: u32 offset of the next (0 for the last, multiples
/// of 4), u8 flags, u8 length of the name, u16 length of the value, the name, a NUL, the value.
#[derive(Debug, Clone)]
pub struct Eas<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Eas<'a> {
    /// Over the bytes of [`Image::ea_buffer`].
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { rest: Some(buffer).filter(|buffer| !buffer.is_empty()) }
    }

    fn take(&mut self) -> Option<Option<Ea<'a>>> {
        let bytes = self.rest.take()?;
        Some(parse_ea(bytes).map(|(ea, rest)| {
            self.rest = rest;
            ea
        }))
    }
}

fn parse_ea(bytes: &[u8]) -> Option<(Ea<'_>, Option<&[u8]>)> {
    let (head, body) = bytes.split_first_chunk::<8>()?;
    let [n0, n1, n2, n3, flags, name_length, v0, v1] = *head;
    let (name, body) = body.split_at_checked(name_length.into())?;
    let (nul, body) = body.split_first()?;
    let (value, _) = body.split_at_checked(u16::from_le_bytes([v0, v1]).into())?;
    let used = 8 + name.len() + 1 + value.len();
    let rest = match usize::try_from(u32::from_le_bytes([n0, n1, n2, n3])).ok()? {
        0 => None,
        next if next >= used => Some(bytes.get(next..)?),
        _ => return None,
    };
    (*nul == 0 && !name.is_empty()).then_some((Ea { flags, name, value }, rest))
}

impl<'a> Iterator for Eas<'a> {
    type Item = Result<Ea<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let malformed =
            || Error::new(crate::ErrorKind::Corrupt, "the extended attributes are malformed");
        self.take().map(|ea| ea.ok_or_else(malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_attributes_are_taken_apart() {
        let chain = b"\x10\0\0\0\x80\x03\x02\0ABC\0xy\0\0\0\0\0\0\0\x01\0\0N\0";
        let eas: Vec<_> = Eas::new(chain).map(Result::unwrap).collect();
        assert_eq!(eas[0], Ea { flags: 0x80, name: b"ABC", value: b"xy" });
        assert_eq!(eas[1], Ea { flags: 0, name: b"N", value: b"" });
        assert_eq!((eas.len(), Eas::new(b"").count()), (2, 0));
        for cut in 1..chain.len() {
            assert!(Eas::new(&chain[..cut]).any(|ea| ea.is_err()), "{cut}");
        }
        for next in 1..14 {
            let mut looping = chain.to_vec();
            looping[0] = next;
            assert!(Eas::new(&looping).any(|ea| ea.is_err()), "{next}");
        }
    }
}
