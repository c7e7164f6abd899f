//! Where a reparse point leads, as the text of a symbolic link.
//!
//! Source: MS-FSCC 2.1.2.4 (symbolic links) and 2.1.2.5 (mount points).

use cimfs::format::{TAG_MOUNT_POINT, TAG_SYMLINK};

use super::name::name_bytes;

/// Tag, length and reserved bytes of every reparse buffer.
const HEADER: usize = 8;
/// Longest target that Linux takes.
const TARGET_MAX: usize = 4095;

/// The target of a symbolic link or mount point: its print name or, without one, the substitute name without the
/// prefix of the object manager. Backslashes are slashes then, as in layer tars; a drive letter stays what it is,
/// so that `C:\Windows` is `C:/Windows`, which leads nowhere on Linux.
///
/// `None` for other tags, and for what is no text that a link can have.
pub fn link_target(buffer: &[u8]) -> Option<Vec<u8>> {
    let tag = u32::from_le_bytes(*buffer.first_chunk()?);
    let names = match tag {
        TAG_MOUNT_POINT => HEADER + 8,
        TAG_SYMLINK => HEADER + 12,
        _ => return None,
    };
    let field = |index: usize| -> Option<usize> {
        let bytes = buffer.get(HEADER + 2 * index..)?.first_chunk()?;
        Some(u16::from_le_bytes(*bytes).into())
    };
    let text = |offset: usize, length: usize| -> Option<Vec<u16>> {
        let start = names + field(offset)?;
        let bytes = buffer.get(start..start + field(length)?)?;
        let (units, rest) = bytes.as_chunks::<2>();
        rest.is_empty().then(|| units.iter().map(|unit| u16::from_le_bytes(*unit)).collect())
    };
    let mut target = text(2, 3)?;
    if target.is_empty() {
        target = text(0, 1)?;
        let prefix: Vec<u16> = r"\??\".encode_utf16().collect();
        if target.starts_with(&prefix) {
            target.drain(..prefix.len());
        }
    }
    let slashed = target.into_iter().map(|unit| match u8::try_from(unit) {
        Ok(b'\\') => b'/'.into(),
        _ => unit,
    });
    let target = name_bytes(slashed);
    let fits = (1..=TARGET_MAX).contains(&target.len()) && !target.contains(&0);
    fits.then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(tag: u32, substitute: &str, print: &str) -> Vec<u8> {
        let units = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let (substitute, print) = (units(substitute), units(print));
        let short = |length: usize| u16::try_from(length).unwrap().to_le_bytes();
        let mut buffer = tag.to_le_bytes().to_vec();
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend(short(0));
        buffer.extend(short(substitute.len()));
        buffer.extend(short(substitute.len() + 2));
        buffer.extend(short(print.len()));
        if tag == TAG_SYMLINK {
            buffer.extend_from_slice(&[1, 0, 0, 0]);
        }
        buffer.extend(substitute);
        buffer.extend_from_slice(&[0, 0]);
        buffer.extend(print);
        buffer.extend_from_slice(&[0, 0]);
        buffer
    }

    #[test]
    fn targets_are_print_names_with_slashes() {
        let target = |tag, substitute, print| link_target(&buffer(tag, substitute, print));
        for (tag, substitute, print, expected) in [
            (TAG_SYMLINK, r"..\x", r"..\x", "../x"),
            (TAG_SYMLINK, r"\??\C:\Users", r"C:\Users", "C:/Users"),
            (TAG_MOUNT_POINT, r"\??\C:\Users", r"C:\Users", "C:/Users"),
            (TAG_MOUNT_POINT, r"\??\C:\Users", "", "C:/Users"),
            (TAG_MOUNT_POINT, r"\??\Volume{0}\", "", "Volume{0}/"),
            (TAG_SYMLINK, "ü", "ü", "ü"),
        ] {
            assert_eq!(target(tag, substitute, print).as_deref(), Some(expected.as_bytes()));
        }
        assert_eq!(target(TAG_SYMLINK, "", ""), None);
        assert_eq!(target(TAG_SYMLINK, "a\0b", ""), None);
        assert_eq!(target(0x8000_0023, "a", "a"), None);
        assert_eq!(target(TAG_SYMLINK, &"x".repeat(4096), ""), None);
    }

    #[test]
    fn cut_buffers_have_no_target() {
        for tag in [TAG_SYMLINK, TAG_MOUNT_POINT] {
            let whole = buffer(tag, "abc", "");
            for length in 0..whole.len() - 6 {
                assert_eq!(link_target(&whole[..length]), None, "{length}");
            }
        }
    }
}
