//! What kind of image a disk's file is, and QEMU's words for it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::{Error, ErrorKind, Result, ScsiDisk, ScsiKind};

/// Of a VHD's footer, which are its last bytes (Microsoft's VHD specification 1.0).
const FOOTER: u64 = 512;
const COOKIE: &[u8] = b"conectix";
const DISK_TYPE: usize = 60;

/// The block device node of a disk.
///
/// The file's name decides whether it can be a VHD or VHDX, its content whether it is: what a guest writes to a raw
/// disk must not turn it into a disk of another kind at the next start.
pub(super) fn node(name: &str, disk: &ScsiDisk) -> Result<Value> {
    let path = &disk.path;
    let failed = |error| Error::io(format!("cannot attach {}", path.display()), error);
    let text = path.to_str().ok_or_else(|| invalid(path, "its path is not UTF-8"))?;
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    let driver = match (&disk.kind, kind.is_file(), kind.is_block_device()) {
        (ScsiKind::VirtualDisk, true, _) => "file",
        (ScsiKind::PassThrough, _, true) => "host_device",
        (ScsiKind::VirtualDisk, ..) => return Err(invalid(path, "it is not a file")),
        (ScsiKind::PassThrough, ..) => return Err(invalid(path, "it is not a block device")),
        (ScsiKind::Extensible(_), ..) => {
            let message =
                format!("cannot attach {}: QEMU has no extensible virtual disks", path.display());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    };
    let (format, size) = match driver {
        "file" => format_of(path)?,
        _ => (Format::Raw, None),
    };
    let mut node = json!({
        "node-name": name,
        "driver": format.driver(),
        "read-only": disk.read_only,
        "discard": "unmap",
        "file": { "driver": driver, "filename": text, "read-only": disk.read_only, "discard": "unmap" },
    });
    if let Some(size) = size {
        node["size"] = size.into();
    }
    Ok(node)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Raw,
    Vpc,
    Vhdx,
}

impl Format {
    fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vpc => "vpc",
            Self::Vhdx => "vhdx",
        }
    }
}

/// The format, and how many of the file's bytes are the disk where not all are.
fn format_of(path: &Path) -> Result<(Format, Option<u64>)> {
    let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length == 0 {
        return Err(invalid(path, "it is empty"));
    }
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("vhd") if length > FOOTER => {
            let mut footer = [0; FOOTER as usize];
            file.seek(SeekFrom::Start(length - FOOTER)).map_err(failed)?;
            file.read_exact(&mut footer).map_err(failed)?;
            if !footer.starts_with(COOKIE) {
                return Ok((Format::Raw, None));
            }
            match footer[DISK_TYPE..DISK_TYPE + 4] {
                // Fixed: the data as it is. The driver for VHDs would cut the size to whole cylinders.
                [0, 0, 0, 2] => Ok((Format::Raw, Some(length - FOOTER))),
                [0, 0, 0, 3] => Ok((Format::Vpc, None)),
                _ => Err(invalid(path, "it is a differencing VHD or of an unknown type")),
            }
        }
        Some("vhdx") => {
            let mut start = [0; 8];
            let found = file.read(&mut start).map_err(failed)?;
            Ok((if start[..found] == *b"vhdxfile" { Format::Vhdx } else { Format::Raw }, None))
        }
        _ => Ok((Format::Raw, None)),
    }
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("cannot attach {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &Path) -> ScsiDisk {
        ScsiDisk { path: path.to_owned(), read_only: true, kind: ScsiKind::VirtualDisk }
    }

    #[test]
    fn a_disk_s_kind_is_told_by_name_and_content() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, data: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, data).unwrap();
            path
        };
        let footer = |kind: u8| {
            let mut data = vec![7; 4096 + 512];
            data[4096..4104].copy_from_slice(COOKIE);
            data[4096 + DISK_TYPE..][..4].copy_from_slice(&[0, 0, 0, kind]);
            data
        };
        let told = |path: &Path| {
            let node = node("n", &disk(path)).unwrap();
            (node["driver"].as_str().unwrap().to_owned(), node.get("size").cloned())
        };
        assert_eq!(told(&write("a.vhd", &footer(2))), ("raw".into(), Some(json!(4096))));
        assert_eq!(told(&write("b.VHD", &footer(3))), ("vpc".into(), None));
        assert!(node("n", &disk(&write("c.vhd", &footer(4)))).is_err());
        assert_eq!(told(&write("d.vhdx", b"vhdxfile....")), ("vhdx".into(), None));
        // What a guest wrote to its raw disk says nothing.
        assert_eq!(told(&write("scratch", b"vhdxfile....")), ("raw".into(), None));
        assert_eq!(told(&write("scratch.img", &footer(3))), ("raw".into(), None));
        let empty = node("n", &disk(&write("empty", b""))).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::Invalid);
        let gone = node("n", &disk(&directory.path().join("gone"))).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }
}
