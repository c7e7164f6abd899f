//! Devices made of devices: a part of one, one that proves what it reads, one that is encrypted.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bridge::VerityInfo;
use sys::MappedTarget;

use crate::{Error, ErrorKind, Result};

/// Bytes of a sector in device-mapper's tables.
const SECTOR: u64 = 512;
/// How long a device that was just unmounted may still be held (by its last writes).
const RELEASE: Duration = Duration::from_secs(5);

/// Mapped devices that lie upon each other. Dropping removes them, topmost first.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    names: Vec<String>,
}

impl Stack {
    /// Removes all; what could not be removed stays on the list, so that it can be tried again.
    pub(crate) fn close(&mut self) -> Result<()> {
        while let Some(name) = self.names.last() {
            let until = Instant::now() + RELEASE;
            loop {
                match sys::unmap_device(name) {
                    Ok(()) => break,
                    Err(error) if error.errno() == Some(libc::ENXIO) => break,
                    Err(error) if error.errno() == Some(libc::EBUSY) && Instant::now() < until => {
                        thread::sleep(Duration::from_millis(20));
                    }
                    Err(error) => return Err(Error::failed(format!("closing {name}"), error)),
                }
            }
            self.names.pop();
        }
        Ok(())
    }

    fn map(&mut self, name: String, target: &MappedTarget<'_>) -> Result<PathBuf> {
        let number = sys::map_device(&name, target)
            .map_err(|error| Error::failed(format!("making {name}"), error))?;
        self.names.push(name);
        Ok(PathBuf::from(format!("/dev/dm-{number}")))
    }

    /// A part of `device`.
    pub(crate) fn linear(
        &mut self,
        name: String,
        device: &Path,
        offset: u64,
        size: u64,
    ) -> Result<PathBuf> {
        if !offset.is_multiple_of(SECTOR) || !size.is_multiple_of(SECTOR) || size == 0 {
            let message = format!("{name}: {size} bytes at {offset} are not whole sectors");
            return Err(Error::invalid(message));
        }
        let end = offset.checked_add(size);
        let device_size = size_of_device(device)?;
        if end.is_none_or(|end| end > device_size) {
            let message = format!(
                "{name}: {size} bytes at {offset} are beyond the {device_size} of {}",
                device.display()
            );
            return Err(Error::invalid(message));
        }
        let parameters = format!("{} {}", device.display(), offset / SECTOR);
        let target = MappedTarget {
            kind: "linear",
            sectors: size / SECTOR,
            parameters: &parameters,
            read_only: true,
            secret: false,
        };
        self.map(name, &target)
    }

    /// `device` with every block proved by the hash tree on `tree`, else by the one behind its data. `prefix` begins the
    /// new device's name.
    pub(crate) fn verity(
        &mut self,
        prefix: &str,
        device: &Path,
        tree: Option<&Path>,
        verity: &VerityInfo,
    ) -> Result<PathBuf> {
        let table = VerityTable::of(verity)?;
        let parameters = table.parameters(device, tree);
        // A name has at most 127 bytes; the digest's beginning tells it apart.
        let digest = verity.root_digest.get(..32).unwrap_or(&verity.root_digest);
        let target = MappedTarget {
            kind: "verity",
            sectors: table.data_bytes / SECTOR,
            parameters: &parameters,
            read_only: true,
            secret: false,
        };
        self.map(format!("{prefix}-{digest}"), &target)
    }

    /// `device`, encrypted with a key that exists in the kernel only: what was written is lost with it.
    pub(crate) fn crypt(&mut self, name: String, device: &Path) -> Result<PathBuf> {
        // Two keys of 256 bits: aes-xts takes one for the data and one for the place.
        let key = sys::file::random_name(64)
            .map_err(|error| Error::failed(format!("{name}: a random key"), error))?;
        let size = size_of_device(device)? / SECTOR / 8 * 8;
        let parameters =
            format!("aes-xts-plain64 {key} 0 {} 0 1 sector_size:4096", device.display());
        let target = MappedTarget {
            kind: "crypt",
            sectors: size,
            parameters: &parameters,
            read_only: false,
            secret: true,
        };
        self.map(name, &target)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Whoever wants to know closes it; this is the way out of errors, which have a cause already.
        let _ = self.close();
    }
}

fn size_of_device(device: &Path) -> Result<u64> {
    use std::io::Seek as _;
    std::fs::File::open(device)
        .and_then(|mut file| file.seek(std::io::SeekFrom::End(0)))
        .map_err(|error| Error::failed(format!("the size of {}", device.display()), error))
}

/// A verity table, checked.
struct VerityTable<'a> {
    info: &'a VerityInfo,
    data_bytes: u64,
    block: u64,
}

impl<'a> VerityTable<'a> {
    fn of(info: &'a VerityInfo) -> Result<Self> {
        let invalid =
            |what: &str| Err(Error::new(ErrorKind::Invalid, format!("verity information: {what}")));
        let hexadecimal = |text: &str| {
            text.len() <= 512
                && text.len().is_multiple_of(2)
                && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let (Ok(data_bytes), Ok(block)) =
            (u64::try_from(info.ext4_size_in_bytes), u64::try_from(info.block_size))
        else {
            return invalid("a negative size");
        };
        let block = if block == 0 { 4096 } else { block };
        if !block.is_power_of_two() || !(512..=65536).contains(&block) {
            return invalid("the block size is no power of two from 512 to 65536");
        }
        if data_bytes == 0 || !data_bytes.is_multiple_of(block) {
            return invalid("the data is not a number of whole blocks");
        }
        if info.root_digest.is_empty() || !hexadecimal(&info.root_digest) {
            return invalid("the root digest is not in hexadecimal digits");
        }
        if !hexadecimal(&info.salt) {
            return invalid("the salt is not in hexadecimal digits");
        }
        if !matches!(info.version, 0 | 1) {
            return invalid("an unknown version of the format");
        }
        if !matches!(info.algorithm.as_str(), "" | "sha256" | "sha512") {
            return invalid("an unknown algorithm");
        }
        Ok(Self { info, data_bytes, block })
    }

    /// Documentation/admin-guide/device-mapper/verity.rst. Format 1 whatever the request says: 0 is ChromeOS's.
    fn parameters(&self, device: &Path, tree: Option<&Path>) -> String {
        let blocks = self.data_bytes / self.block;
        let (hashes, before) = match tree {
            Some(tree) => (tree.display(), 0),
            None => (device.display(), blocks),
        };
        let hash_start = before + u64::from(self.info.super_block);
        let (device, block) = (device.display(), self.block);
        let algorithm = match self.info.algorithm.as_str() {
            "" => "sha256",
            named => named,
        };
        let salt = match self.info.salt.as_str() {
            "" => "-",
            salt => salt,
        };
        let mut text = format!("1 {device} {hashes} {block} {block}");
        let _ = write!(text, " {blocks} {hash_start} {algorithm} {} {salt}", self.info.root_digest);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> VerityInfo {
        VerityInfo {
            ext4_size_in_bytes: 8192,
            version: 1,
            algorithm: "sha256".to_owned(),
            super_block: true,
            root_digest: "ab".repeat(32),
            salt: String::new(),
            block_size: 4096,
            hash_device: None,
        }
    }

    #[test]
    fn a_verity_table_is_the_kernels() {
        let digest = "ab".repeat(32);
        let info = info();
        let table = VerityTable::of(&info).unwrap();
        assert_eq!(
            table.parameters(Path::new("/dev/sda"), None),
            format!("1 /dev/sda /dev/sda 4096 4096 2 3 sha256 {digest} -")
        );
        assert_eq!(
            table.parameters(Path::new("/dev/sda"), Some(Path::new("/dev/sdb"))),
            format!("1 /dev/sda /dev/sdb 4096 4096 2 1 sha256 {digest} -")
        );
    }

    #[test]
    fn nothing_of_a_request_reaches_a_table_unchecked() {
        let bad = [
            VerityInfo { root_digest: "ab 8".to_owned(), ..info() },
            VerityInfo { root_digest: String::new(), ..info() },
            VerityInfo { salt: "0 1 ignore_corruption".to_owned(), ..info() },
            VerityInfo { algorithm: "md5 -".to_owned(), ..info() },
            VerityInfo { ext4_size_in_bytes: -1, ..info() },
            VerityInfo { ext4_size_in_bytes: 4097, ..info() },
            VerityInfo { block_size: 3, ..info() },
            VerityInfo { block_size: i64::MIN, ..info() },
            VerityInfo { version: 2, ..info() },
        ];
        for info in bad {
            let error = VerityTable::of(&info).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{info:?}");
        }
    }
}
