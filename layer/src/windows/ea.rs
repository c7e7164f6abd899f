//! Extended attributes: a chain of `FILE_FULL_EA_INFORMATION` structures (MS-FSCC 2.4.15).
//! [`cimfs::Eas`] reads them.

use crate::error::{Error, ErrorKind, Result};

/// Makes the chain of attributes of names and values. Each structure is padded to four bytes, the last too, as
/// Microsoft's encoder does.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a name that is empty, holds a NUL or is longer than 255 bytes, [`ErrorKind::TooLarge`]
/// if a value or all together have more than 65,535 bytes.
pub fn write_eas<'a>(eas: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    let mut last = None;
    for (name, value) in eas {
        let shown = name.escape_ascii();
        let name_length = u8::try_from(name.len())
            .ok()
            .filter(|length| *length > 0 && !name.contains(&0))
            .ok_or_else(|| {
                Error::invalid(format!("no extended attribute is called \"{shown}\""))
            })?;
        let value_length = u16::try_from(value.len()).map_err(|_| too_large())?;
        let start = buffer.len();
        if let Some(last) = last.replace(start) {
            let step = u32::try_from(start - last).map_err(|_| too_large())?;
            buffer[last..last + 4].copy_from_slice(&step.to_le_bytes());
        }
        buffer.extend_from_slice(&[0, 0, 0, 0, 0, name_length]);
        buffer.extend_from_slice(&value_length.to_le_bytes());
        buffer.extend_from_slice(name);
        buffer.push(0);
        buffer.extend_from_slice(value);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
    }
    match u16::try_from(buffer.len()) {
        Ok(_) => Ok(buffer),
        Err(_) => Err(too_large()),
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, "the extended attributes need more than 65,535 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_those_of_microsofts_encoder() {
        let chain = write_eas([(&b"FOO"[..], &[1, 2, 3][..]), (b"BAR", &[0x76])]).unwrap();
        let expected =
            b"\x10\0\0\0\0\x03\x03\0FOO\0\x01\x02\x03\0\0\0\0\0\0\x03\x01\0BAR\0\x76\0\0\0";
        assert_eq!(chain, expected);
        let read: Vec<_> = cimfs::Eas::new(&chain).map(|ea| ea.unwrap()).collect();
        assert_eq!((read[1].name, read[1].value), (&b"BAR"[..], &[0x76][..]));
        assert!(write_eas([]).unwrap().is_empty());
        let long = [b'x'; 256];
        for (name, value) in
            [(&b""[..], &b""[..]), (&long, b""), (b"a\0", b""), (b"a", &[0; 65_536])]
        {
            assert!(write_eas([(name, value)]).is_err());
        }
        assert!(write_eas([(&b"a"[..], &[0; 40_000][..]), (b"b", &[0; 40_000])]).is_err());
    }
}
