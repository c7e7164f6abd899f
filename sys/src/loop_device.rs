//! Loop devices: a file as a block device.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result, compat};

/// How a file is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoopOptions {
    /// The device cannot be written; the file may be open for reading only.
    pub read_only: bool,
    /// Read and write the file past its page cache where its file system allows, so that nothing is cached
    /// twice.
    pub direct_io: bool,
    /// Logical block size in bytes, a power of two from 512 to 4096; 0 is the kernel's default of 512.
    pub block_size: u32,
}

/// A loop device that frees itself: at the last close of it, which is the unmount of what is mounted from it,
/// or this value's drop if nothing was (also by a killed process).
#[derive(Debug)]
pub struct LoopDevice {
    device: File,
    number: u32,
}

// linux/loop.h. Unlike `losetup`, everything is set in one call, so no half-configured device is ever visible.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_SET_STATUS64: libc::Ioctl = 0x4C04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Default)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: Text,
    crypt_name: Text,
    encrypt_key: [u8; 32],
    init: [u64; 2],
}
const _: () = assert!(size_of::<LoopInfo>() == 232);

/// Text that ends with a NUL.
#[repr(transparent)]
struct Text([u8; 64]);

impl Text {
    fn of(name: &Path) -> Self {
        let mut text = Self::default();
        let bytes = name.as_os_str().as_bytes();
        let shown = bytes.len().min(text.0.len() - 1);
        text.0[..shown].copy_from_slice(&bytes[..shown]);
        text
    }
}

impl Default for Text {
    fn default() -> Self {
        Self([0; 64])
    }
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<LoopConfig>() == 304);

impl LoopDevice {
    /// Attaches `file` to a free device. `name` is only shown (its first 63 bytes) to people who ask the
    /// device.
    ///
    /// # Errors
    /// Those of the loop driver; `EBUSY` if other processes kept taking the device that was free.
    pub fn attach(file: &File, name: &Path, options: &LoopOptions) -> Result<Self> {
        /// Other processes may take the free device first; each time another one is offered.
        const ATTEMPTS: u32 = 64;
        const CONTROL: &str = "/dev/loop-control";
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open(CONTROL)
            .map_err(|source| Error::new(format!("open({CONTROL})"), source))?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let number = free_number(&control)?;
            match Self::attach_to(number, file, name, options) {
                Ok(device) => return Ok(device),
                Err(error)
                    if attempt < ATTEMPTS
                        && matches!(
                            error.errno(),
                            Some(libc::EBUSY | libc::EAGAIN | libc::ENOENT | libc::ENXIO)
                        ) =>
                {
                    // Someone between taking and configuring makes GET_FREE answer the same number again.
                    std::thread::sleep(std::time::Duration::from_micros(100 * u64::from(attempt)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn attach_to(number: u32, file: &File, name: &Path, options: &LoopOptions) -> Result<Self> {
        let path = device_path(number);
        let device = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(&path)
            .map_err(|source| Error::new(format!("open({})", path.display()), source))?;
        let mut result = Ok(());
        for direct_io in compat::loop_direct_io(options.direct_io) {
            result = configure(&device, file, name, options, *direct_io);
            match &result {
                Err(source) if source.raw_os_error() == Some(libc::EINVAL) => {}
                _ => break,
            }
        }
        match result {
            Ok(()) => Ok(Self { device, number }),
            Err(source) => {
                let (path, name) = (path.display(), name.display());
                Err(Error::new(
                    format!("ioctl({path}, LOOP_CONFIGURE, {name}, {options:?})"),
                    source,
                ))
            }
        }
    }

    /// The device node.
    pub fn path(&self) -> PathBuf {
        device_path(self.number)
    }

    /// The N of `/dev/loopN`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The device of this number, if it has a file and was attached with this `name`.
    ///
    /// # Errors
    /// Those of opening and asking it.
    pub fn find(number: u32, name: &Path) -> Result<Option<Self>> {
        let path = device_path(number);
        let device = match File::open(&path) {
            Ok(device) => device,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::new(format!("open({})", path.display()), source)),
        };
        match status(&device) {
            Ok(info) if info.file_name.0 == Text::of(name).0 => Ok(Some(Self { device, number })),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(source) => {
                let call = format!("ioctl({}, LOOP_GET_STATUS64)", path.display());
                Err(Error::new(call, source))
            }
        }
    }

    /// With `keep`, the device stays although nobody has it open; without, it frees itself again with its last
    /// user, as from the start.
    ///
    /// # Errors
    /// Those of the loop driver.
    pub fn keep(&self, keep: bool) -> Result<()> {
        let changed = status(&self.device).and_then(|mut info| {
            info.flags &= !LO_FLAGS_AUTOCLEAR;
            if !keep {
                info.flags |= LO_FLAGS_AUTOCLEAR;
            }
            set_status(&self.device, &info)
        });
        changed.map_err(|source| {
            let path = self.path();
            Error::new(format!("ioctl({}, LOOP_SET_STATUS64)", path.display()), source)
        })
    }

    /// The open device; as long as it or a mount of it is open, the file stays attached.
    pub fn file(&self) -> &File {
        &self.device
    }
}

fn device_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

#[expect(unsafe_code, reason = "an ioctl without arguments")]
fn free_number(control: &File) -> Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no memory of ours.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| {
        let source = std::io::Error::last_os_error();
        Error::new("ioctl(/dev/loop-control, LOOP_CTL_GET_FREE)", source)
    })
}

#[expect(unsafe_code, reason = "an ioctl with a structure")]
fn configure(
    device: &File,
    file: &File,
    name: &Path,
    options: &LoopOptions,
    direct_io: bool,
) -> std::io::Result<()> {
    let mut flags = LO_FLAGS_AUTOCLEAR;
    if options.read_only {
        flags |= LO_FLAGS_READ_ONLY;
    }
    if direct_io {
        flags |= LO_FLAGS_DIRECT_IO;
    }
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let config = LoopConfig {
        fd,
        block_size: options.block_size,
        info: LoopInfo { flags, file_name: Text::of(name), ..LoopInfo::default() },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose layout LoopConfig has (asserted sizes,
    // `repr(C)`), during the call.
    let result =
        unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, std::ptr::from_ref(&config)) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "an ioctl with a structure")]
fn status(device: &File) -> std::io::Result<LoopInfo> {
    let mut info = LoopInfo::default();
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, whose layout LoopInfo has (asserted size,
    // `repr(C)`), during the call; any bytes are valid in it.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, std::ptr::from_mut(&mut info))
    };
    if result == 0 { Ok(info) } else { Err(std::io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "an ioctl with a structure")]
fn set_status(device: &File, info: &LoopInfo) -> std::io::Result<()> {
    // SAFETY: LOOP_SET_STATUS64 reads one `struct loop_info64`, as above, during the call.
    let result =
        unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64, std::ptr::from_ref(info)) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A loop device that has a file, from sysfs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttachedLoop {
    /// The N of `/dev/loopN`.
    pub number: u32,
    /// The file, as the kernel shows it now: with ` (deleted)` once it is.
    pub file: PathBuf,
    /// Frees itself at the last close.
    pub autoclear: bool,
    /// Bypasses the file's page cache.
    pub direct_io: bool,
}

/// All loop devices of this machine that have a file, in order of number.
///
/// # Errors
/// Those of reading `/sys/block`.
pub fn attached_loops() -> Result<Vec<AttachedLoop>> {
    const DIRECTORY: &str = "/sys/block";
    let failed = |source| Error::new(format!("readdir({DIRECTORY})"), source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(DIRECTORY).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        let Some(number) = number else { continue };
        let attribute = |name: &str| std::fs::read(entry.path().join("loop").join(name)).ok();
        // Gone between the two looks, or never attached.
        let Some(file) = attribute("backing_file") else { continue };
        let file = file.strip_suffix(b"\n").unwrap_or(&file);
        let is_one = |value: Option<Vec<u8>>| value.is_some_and(|value| value.starts_with(b"1"));
        found.push(AttachedLoop {
            number,
            file: PathBuf::from(std::ffi::OsStr::from_bytes(file)),
            autoclear: is_one(attribute("autoclear")),
            direct_io: is_one(attribute("dio")),
        });
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(path: &Path) -> Vec<AttachedLoop> {
        attached_loops().unwrap().into_iter().filter(|entry| entry.file == path).collect()
    }

    #[test]
    fn privileged_a_dropped_device_frees_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        let options = LoopOptions { read_only: true, direct_io: true, block_size: 4096 };
        let device =
            LoopDevice::attach(&file, &path, &options).expect("needs root and loop devices");
        let attached = ours(&path);
        assert_eq!(attached.len(), 1);
        assert_eq!(attached[0].number, device.number());
        assert!(attached[0].autoclear);
        drop(device);
        // The kernel clears it in a work item.
        for _ in 0..200 {
            if ours(&path).is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("still attached: {:?}", ours(&path));
    }

    #[test]
    fn privileged_a_kept_device_outlives_its_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        let options = LoopOptions { read_only: true, direct_io: false, block_size: 0 };
        let name = Path::new("plywood test of a kept device");
        let device = LoopDevice::attach(&file, name, &options).expect("needs root");
        device.keep(true).unwrap();
        let number = device.number();
        drop(device);
        assert!(!ours(&path)[0].autoclear);
        assert!(LoopDevice::find(number, Path::new("another")).unwrap().is_none());
        let found = LoopDevice::find(number, name).unwrap().unwrap();
        found.keep(false).unwrap();
        drop(found);
        for _ in 0..200 {
            if LoopDevice::find(number, name).unwrap().is_none() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("still attached: {:?}", ours(&path));
    }

    #[test]
    fn privileged_many_threads_get_different_devices() {
        let directory = tempfile::tempdir().unwrap();
        let threads: Vec<_> = (0..8)
            .map(|index| {
                let path = directory.path().join(format!("disk{index}"));
                std::fs::write(&path, vec![0; 1 << 16]).unwrap();
                std::thread::spawn(move || {
                    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
                    LoopDevice::attach(&file, &path, &LoopOptions::default()).expect("needs root")
                })
            })
            .collect();
        let devices: Vec<LoopDevice> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let mut numbers: Vec<u32> = devices.iter().map(LoopDevice::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), devices.len());
    }
}
