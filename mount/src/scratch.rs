//! Scratch images: an ext4 file system of a fixed size in a sparse file, so that a container can run full
//! without filling the host.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use sys::{DetachedMount, FsContext, LoopDevice, LoopOptions, MountAttributes};

use crate::{Error, ErrorKind, Result};

/// Byte offset and value of ext4's `s_magic` (Linux, `fs/ext4/ext4.h`).
const EXT4_MAGIC_OFFSET: u64 = 1024 + 0x38;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xEF];

/// Directories inside the image, as in a scratch directory of the store.
pub(crate) const UPPER: &str = "fs";
pub(crate) const WORK: &str = "work";

/// Makes the file system in `image` unless it has one.
pub(crate) fn format(image: &Path, size: u64) -> Result<()> {
    let doing = |what: &str| format!("cannot {what} scratch image {}", image.display());
    match File::open(image) {
        Ok(file) => {
            let mut magic = [0; 2];
            if file.read_exact_at(&mut magic, EXT4_MAGIC_OFFSET).is_ok() && magic == EXT4_MAGIC {
                return Ok(());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(doing("open"), error)),
    }
    make(image, size, "ext4", None)
}

/// Makes a file `image` of `size` bytes with a file system of type `sort` (ext2, ext3, ext4, xfs). It is made in a
/// file beside it, which then takes the name, so that a half-made one is never seen.
pub(crate) fn make(image: &Path, size: u64, sort: &str, uuid: Option<&str>) -> Result<()> {
    let doing = |what: &str| format!("cannot {what} disk image {}", image.display());
    let mut name = image.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let made = (|| {
        // Left by a process that was killed here, or anything else: nothing is written through a link.
        match std::fs::remove_file(new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(doing("make"), error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(new)
            .map_err(|error| Error::io(doing("make"), error))?;
        file.set_len(size).map_err(|error| Error::io(doing("size"), error))?;
        make_file_system(new, sort, uuid)?;
        sys::failpoint::hit("scratch-formatted");
        file.sync_all().map_err(|error| Error::io(doing("sync"), error))?;
        std::fs::rename(new, image).map_err(|error| Error::io(doing("name"), error))?;
        let directory = image.parent().unwrap_or(Path::new("/"));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| Error::io(doing("sync the directory of"), error))
    })();
    if made.is_err() {
        let _ = std::fs::remove_file(new);
    }
    made
}

fn make_file_system(image: &Path, sort: &str, uuid: Option<&str>) -> Result<()> {
    // Debian keeps it in /usr/sbin, which the PATH of an ordinary login lacks.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin".into(), "/sbin".into()]);
    let name = format!("mkfs.{sort}");
    let tool =
        directories.iter().map(|directory| directory.join(&name)).find(|tool| tool.is_file());
    let Some(tool) = tool else {
        let package = if sort == "xfs" { "xfsprogs" } else { "e2fsprogs" };
        return Err(Error::new(
            ErrorKind::ToolMissing,
            format!("a scratch of limited size needs {name} (Debian package {package})"),
        ));
    };
    let mut command = Command::new(&tool);
    // Only what must be written now is, so that the file stays sparse; no reserve for root, because root is
    // who writes.
    match sort {
        "xfs" => command.args(["-f", "-q", "-K"]),
        _ => {
            let lazily = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
            command.args(["-F", "-q", "-m", "0", "-E", lazily])
        }
    };
    match (sort, uuid) {
        (_, None) => {}
        ("xfs", Some(uuid)) => {
            command.args(["-m", &format!("uuid={uuid}")]);
        }
        (_, Some(uuid)) => {
            command.args(["-U", uuid]);
        }
    }
    let output = command
        .arg(image)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| Error::io(format!("cannot run {}", tool.display()), error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let (tool, status) = (tool.display(), output.status);
    Err(Error::new(
        if words.contains("too small") { ErrorKind::Invalid } else { ErrorKind::Io },
        format!("{tool} failed on {} ({status}): {}", image.display(), words.trim()),
    ))
}

/// A mount of `image`, attached nowhere, with the number of its loop device.
pub(crate) fn prepare(image: &Path) -> Result<(DetachedMount, u32)> {
    let failed = |error| Error::sys(format!("cannot mount scratch {}", image.display()), error);
    let file =
        OpenOptions::new().read(true).write(true).open(image).map_err(|error| {
            Error::io(format!("cannot open scratch {}", image.display()), error)
        })?;
    let options = LoopOptions { read_only: false, direct_io: true, block_size: 0 };
    let device = LoopDevice::attach(&file, image, &options).map_err(failed)?;
    let mounted = (|| {
        let context = FsContext::open("ext4")?;
        context.set_string("source", device.path())?;
        // What the container deletes becomes a hole in the file again.
        context.set_flag("discard")?;
        context.create()?;
        context.mount(MountAttributes::default())
    })();
    Ok((mounted.map_err(failed)?, device.number()))
}

/// Makes the overlay's directories in the mounted image.
pub(crate) fn make_directories(mount_point: &Path) -> Result<()> {
    for (name, mode) in [(UPPER, 0o755), (WORK, 0o711)] {
        let path = mount_point.join(name);
        match DirBuilder::new().mode(mode).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(Error::io(format!("cannot make {}", path.display()), error));
            }
        }
    }
    Ok(())
}
