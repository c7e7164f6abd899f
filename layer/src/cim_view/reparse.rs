//! Where a reparse point leads, as the text of a symbolic link.

use crate::windows::{ReparsePoint, encode_wtf8};

/// Longest target that Linux takes.
const TARGET_MAX: usize = 4095;

/// The target of a symbolic link or mount point. Backslashes are slashes then, as in layer tars; a drive letter stays
/// what it is, so that `C:\Windows` is `C:/Windows`, which leads nowhere on Linux.
///
/// `None` for other tags, and for what is damaged or no text that a link can have.
pub(super) fn link_target(buffer: &[u8]) -> Option<Vec<u8>> {
    let point = ReparsePoint::read(buffer).ok()?;
    let separator = match point {
        // Written by Linux, where it is a letter like others.
        ReparsePoint::LxSymlink(_) => None,
        _ => Some(u16::from(b'\\')),
    };
    let slashed = point.target()?.into_iter();
    let slashed = slashed.map(|unit| if Some(unit) == separator { b'/'.into() } else { unit });
    let target = encode_wtf8(slashed);
    let fits = (1..=TARGET_MAX).contains(&target.len()) && !target.contains(&0);
    fits.then_some(target)
}

#[cfg(test)]
mod tests {
    use cimfs::format::{TAG_MOUNT_POINT, TAG_SYMLINK};

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
        let length = short(buffer.len() - 8);
        buffer[4..6].copy_from_slice(&length);
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
        let linux = ReparsePoint::LxSymlink(br"../a\b".to_vec()).write().unwrap();
        assert_eq!(link_target(&linux).unwrap(), br"../a\b");
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
