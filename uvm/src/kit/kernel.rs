//! The kernel inside of a bzImage.

use crate::{Error, ErrorKind, Result};

/// Where the header of the x86 boot protocol (version 2.08) has what, in bytes from the image's beginning.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// How a frame of zstd begins (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// No kernel is larger.
const LARGEST: u64 = 512 << 20;

/// The ELF file in a bzImage that is packed with zstd, as Debian's are; nothing of any other image. QEMU enters it by
/// PVH, and so an emulated processor need not unpack it, which takes a second.
///
/// # Errors
/// The image is damaged.
pub(super) fn unpack(image: &[u8]) -> Result<Option<Vec<u8>>> {
    let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("the kernel {what}"));
    let number = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).and_then(|number| usize::try_from(number).ok())
    };
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Ok(None);
    }
    let setup = (usize::from(image[SETUP_SECTORS]) + 1) * 512;
    let range = number(PAYLOAD_OFFSET).zip(number(PAYLOAD_LENGTH)).and_then(|(offset, length)| {
        let start = setup.checked_add(offset)?;
        // The last four bytes are the size of what is unpacked.
        Some(start..start.checked_add(length)?.checked_sub(4)?)
    });
    let payload =
        range.and_then(|range| image.get(range)).ok_or_else(|| corrupt("is cut short"))?;
    if !payload.starts_with(&ZSTD) {
        return Ok(None);
    }
    let mut elf = Vec::new();
    zstd::Decoder::new(payload)
        .and_then(|decoder| {
            std::io::Read::read_to_end(&mut std::io::Read::take(decoder, LARGEST), &mut elf)
        })
        .map_err(|error| Error::caused(ErrorKind::Corrupt, "cannot unpack the kernel", error))?;
    match elf.starts_with(b"\x7fELF") {
        true => Ok(Some(elf)),
        false => Err(corrupt("has no ELF file in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len() + 4).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(&[0; 16]);
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0; 4]);
        image
    }

    #[test]
    fn a_kernel_is_found_in_its_image() {
        let packed = |data: &[u8]| image(&zstd::encode_all(data, 1).unwrap());
        assert_eq!(unpack(&packed(b"\x7fELF and more")).unwrap().unwrap(), b"\x7fELF and more");
        assert_eq!(unpack(b"\x7fELF already").unwrap(), None);
        assert_eq!(unpack(&image(b"\x1f\x8b gzip")).unwrap(), None);
        for damaged in [packed(b"no elf"), packed(b"\x7fELF")[..1030].to_vec()] {
            assert_eq!(unpack(&damaged).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
