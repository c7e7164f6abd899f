//! Reparse data of links and junctions, as bytes (MS-FSCC 2.1.2.4 and 2.1.2.5).

/// `IO_REPARSE_TAG_MOUNT_POINT`.
const MOUNT_POINT: u32 = 0xA000_0003;
/// `IO_REPARSE_TAG_SYMLINK`.
const SYMLINK: u32 = 0xA000_000C;
/// Longest reparse data, `MAXIMUM_REPARSE_DATA_BUFFER_SIZE`.
pub(crate) const LONGEST: usize = 16 * 1024;

/// The data of a junction to the absolute path `target`, in UTF-16; `None` if it is too long.
pub(crate) fn junction(target: &[u16]) -> Option<Vec<u8>> {
    let (win32, nt) = (wide(r"\\?\"), wide(r"\??\"));
    let plain = target.strip_prefix(win32.as_slice()).unwrap_or(target);
    let substitute: Vec<u16> = nt.into_iter().chain(plain.iter().copied()).collect();
    let substitute_bytes = u16::try_from(substitute.len() * 2).ok()?;
    let print_bytes = u16::try_from(target.len() * 2).ok()?;
    let print_at = substitute_bytes.checked_add(2)?;
    let length = print_at.checked_add(print_bytes)?.checked_add(2 + 8)?;
    let mut data = Vec::with_capacity(usize::from(length) + 8);
    data.extend(MOUNT_POINT.to_le_bytes());
    for field in [length, 0, 0, substitute_bytes, print_at, print_bytes] {
        data.extend(field.to_le_bytes());
    }
    for unit in substitute.iter().chain(&[0]).chain(target).chain(&[0]) {
        data.extend(unit.to_le_bytes());
    }
    (data.len() <= LONGEST).then_some(data)
}

/// Where a link or junction leads, in UTF-16 and as Win32 writes it; `None` for data of another kind, and for
/// data that contradicts itself.
pub(crate) fn target(data: &[u8]) -> Option<Vec<u16>> {
    let names = match u32::from_le_bytes(data.get(..4)?.try_into().ok()?) {
        MOUNT_POINT => 16,
        SYMLINK => 20,
        _ => return None,
    };
    let end = 8 + usize::from(u16_at(data, 4)?);
    let (at, length) = (usize::from(u16_at(data, 8)?), usize::from(u16_at(data, 10)?));
    let bytes = data.get(..end)?.get(names..)?.get(at..)?.get(..length)?;
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    Some(win32(units))
}

/// A name of the object manager as Win32 writes it.
fn win32(name: Vec<u16>) -> Vec<u16> {
    let Some(rest) = name.strip_prefix(wide(r"\??\").as_slice()) else { return name };
    let share = wide(r"UNC\");
    if let Some(share) = rest.strip_prefix(share.as_slice()) {
        return wide(r"\\").into_iter().chain(share.iter().copied()).collect();
    }
    if rest.get(1) == Some(&u16::from(b':')) {
        return rest.to_vec();
    }
    wide(r"\\?\").into_iter().chain(rest.iter().copied()).collect()
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(units: Option<Vec<u16>>) -> Option<String> {
        units.map(|units| String::from_utf16(&units).unwrap())
    }

    fn link(tag: u32, substitute: &str) -> Vec<u8> {
        let names: Vec<u8> = wide(substitute).iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let fixed: u16 = if tag == SYMLINK { 12 } else { 8 };
        let length = u16::try_from(names.len()).unwrap();
        let mut data = tag.to_le_bytes().to_vec();
        for field in [fixed + length, 0, 0, length, length, 0] {
            data.extend(field.to_le_bytes());
        }
        data.resize(usize::from(fixed) + 8, 0);
        data.extend(names);
        data
    }

    // Written down by hand from MS-FSCC 2.1.2.5.
    #[test]
    fn a_junction_has_both_names_each_with_a_nul() {
        let data = junction(&wide(r"C:\a")).unwrap();
        let head = [
            0x03, 0x00, 0x00, 0xA0, 36, 0, 0, 0, // tag, length, reserved
            0, 0, 16, 0, 18, 0, 8, 0, // substitute name and print name: where, how long
        ];
        assert_eq!(data[..16], head);
        let names: Vec<u8> =
            "\\??\\C:\\a\0C:\\a\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(data[16..], names);
        assert_eq!(text(target(&data)).as_deref(), Some(r"C:\a"));
    }

    #[test]
    fn names_of_the_object_manager_become_win32_paths() {
        let volume = r"Volume{7cadcf96-8e6b-5702-8a86-d30724925c2e}\";
        let cases = [
            (MOUNT_POINT, format!(r"\??\{volume}"), format!(r"\\?\{volume}")),
            (SYMLINK, format!(r"\??\{volume}"), format!(r"\\?\{volume}")),
            (SYMLINK, r"\??\UNC\host\share\a".to_owned(), r"\\host\share\a".to_owned()),
            (SYMLINK, r"..\a".to_owned(), r"..\a".to_owned()),
            (MOUNT_POINT, r"\??\D:\x".to_owned(), r"D:\x".to_owned()),
        ];
        for (tag, substitute, wanted) in cases {
            assert_eq!(text(target(&link(tag, &substitute))), Some(wanted));
        }
        let long = junction(&wide(&format!(r"\\?\{volume}"))).unwrap();
        assert_eq!(text(target(&long)), Some(format!(r"\\?\{volume}")));
    }

    #[test]
    fn damaged_and_foreign_data_lead_nowhere() {
        let good = link(SYMLINK, r"\??\C:\a");
        for length in 0..good.len() {
            assert_eq!(target(&good[..length]), None, "{length}");
        }
        assert_eq!(target(&link(0x9000_001A, "a")), None);
        let mut outside = good.clone();
        outside[8] = 0xFF;
        assert_eq!(target(&outside), None);
        assert_eq!(junction(&vec![u16::from(b'a'); 5000]), None);
    }
}
