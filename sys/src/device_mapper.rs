//! Device-mapper: block devices that are made of others (`/dev/mapper/control`, linux/dm-ioctl.h).

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::{Error, Result};

const CONTROL: &str = "/dev/mapper/control";
/// Bytes of `struct dm_ioctl`: versions, sizes, a name of 128 and a UUID of 129 bytes.
const HEADER: usize = 312;
/// Bytes of `struct dm_target_spec`.
const TARGET: usize = 40;
const NAME_AT: usize = 48;
/// Longest name, without its NUL.
const NAME_MAX: usize = 127;
const READ_ONLY: u32 = 1;
/// The kernel wipes its copy of the request: tables of dm-crypt hold keys.
const SECURE_DATA: u32 = 1 << 15;

const DEV_CREATE: u32 = 3;
const DEV_REMOVE: u32 = 4;
const DEV_SUSPEND: u32 = 6;
const TABLE_LOAD: u32 = 9;

/// What a mapped device is made of.
#[derive(Debug, Clone, Copy)]
pub struct MappedTarget<'a> {
    /// `linear`, `verity`, `crypt`.
    pub kind: &'a str,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// The target's parameters.
    pub parameters: &'a str,
    /// Nothing can be written to it.
    pub read_only: bool,
    /// The parameters hold a key.
    pub secret: bool,
}

/// Makes the device `name` of one target and activates it; the number N of its node `/dev/dm-N`.
///
/// # Errors
/// `EBUSY` if the name is taken or a device below is in use, `EINVAL` for parameters the target refuses, `ENXIO`
/// without device-mapper. Nothing is left behind.
pub fn map_device(name: &str, target: &MappedTarget<'_>) -> Result<u32> {
    let flags =
        if target.read_only { READ_ONLY } else { 0 } | if target.secret { SECURE_DATA } else { 0 };
    request(DEV_CREATE, "DM_DEV_CREATE", name, flags, None)?;
    let made = request(TABLE_LOAD, "DM_TABLE_LOAD", name, flags, Some(target))
        // Resuming swaps the table that was loaded in.
        .and_then(|_| request(DEV_SUSPEND, "DM_DEV_SUSPEND", name, flags, None));
    match made {
        Ok(answer) => Ok(minor(&answer)),
        Err(error) => {
            // What matters is why it could not be made.
            let _ = unmap_device(name);
            Err(error)
        }
    }
}

/// Removes the device `name`.
///
/// # Errors
/// `EBUSY` while it is in use, `ENXIO` if there is none.
pub fn unmap_device(name: &str) -> Result<()> {
    request(DEV_REMOVE, "DM_DEV_REMOVE", name, 0, None).map(|_| ())
}

/// The minor number of the answer's device, which the kernel packs as `new_encode_dev` does.
fn minor(answer: &[u8]) -> u32 {
    let device =
        answer.get(40..44).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    (device & 0xff) | ((device >> 12) & 0xf_ff00)
}

fn encode(name: &str, flags: u32, target: Option<&MappedTarget<'_>>) -> Option<Vec<u8>> {
    let name_fits = !name.is_empty() && name.len() <= NAME_MAX && !name.contains('\0');
    if !name_fits {
        return None;
    }
    let mut bytes = vec![0; HEADER];
    if let Some(target) = target {
        let kind = target.kind.as_bytes();
        if kind.len() >= 16 || target.parameters.contains('\0') {
            return None;
        }
        let mut spec = vec![0; TARGET];
        spec[8..16].copy_from_slice(&target.sectors.to_ne_bytes());
        spec[24..24 + kind.len()].copy_from_slice(kind);
        bytes.extend_from_slice(&spec);
        bytes.extend_from_slice(target.parameters.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let size = u32::try_from(bytes.len()).ok()?;
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, 4);
    put(12, size);
    put(16, HEADER as u32);
    put(20, u32::from(target.is_some()));
    put(28, flags);
    bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
    Some(bytes)
}

#[expect(unsafe_code, reason = "ioctls of device-mapper")]
fn request(
    number: u32,
    call: &str,
    name: &str,
    flags: u32,
    target: Option<&MappedTarget<'_>>,
) -> Result<Vec<u8>> {
    // The parameters may hold a key, so they are never shown.
    let kind = target.map_or("", |target| target.kind);
    let failed =
        |source: std::io::Error| Error::new(format!("ioctl({call}, {name} {kind})"), source);
    let mut bytes =
        encode(name, flags, target).ok_or_else(|| failed(rustix::io::Errno::INVAL.into()))?;
    let control = File::options()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(|source| Error::new(format!("open({CONTROL})"), source))?;
    // _IOWR(0xfd, number, struct dm_ioctl).
    let request = 3 << 30 | (HEADER as u32) << 16 | 0xfd << 8 | number;
    // SAFETY: the buffer begins with a dm_ioctl whose data_size is the buffer's length, and the kernel reads and
    // writes no further than that.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request as _, bytes.as_mut_ptr()) };
    match result {
        0 => Ok(bytes),
        _ => Err(failed(std::io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_layout() {
        let target = MappedTarget {
            kind: "linear",
            sectors: 8,
            parameters: "/dev/pmem0 16",
            read_only: true,
            secret: false,
        };
        let bytes = encode("a", READ_ONLY, Some(&target)).unwrap();
        assert_eq!(bytes.len(), HEADER + TARGET + 16);
        assert_eq!(&bytes[NAME_AT..NAME_AT + 2], b"a\0");
        assert_eq!(bytes[12..16], 368_u32.to_ne_bytes());
        assert_eq!(bytes[20..24], 1_u32.to_ne_bytes());
        assert_eq!(&bytes[HEADER + 24..HEADER + 31], b"linear\0");
        assert_eq!(&bytes[HEADER + TARGET..HEADER + TARGET + 14], b"/dev/pmem0 16\0");
        assert!(encode(&"n".repeat(128), 0, None).is_none());
        assert!(encode("", 0, None).is_none());
        assert!(
            encode("a", 0, Some(&MappedTarget { kind: "sixteen-letters-", ..target })).is_none()
        );
    }

    #[test]
    fn minors_are_unpacked() {
        let mut answer = vec![0; HEADER];
        answer[40..44].copy_from_slice(&(0xfd02_u32 | 0x1 << 20).to_ne_bytes());
        assert_eq!(minor(&answer), 0x102);
    }
}
