//! File systems on block devices: telling which, making, mounting.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use sys::{DetachedMount, FsContext, MountAttributes};

use crate::children::{Children, program};
use crate::{Error, ErrorKind, Result};

/// Making a file system on a large scratch, under an emulator that does everything in software.
const MAKE_LIMIT: Duration = Duration::from_secs(120);

/// Where a file system's magic number is: type, offset, bytes. From the file systems' headers in Linux
/// (`ext4.h`, `xfs_format.h`, `erofs_fs.h`, `squashfs_fs.h`, `btrfs_tree.h`) and the signatures of a DOS boot sector's
/// relatives that must not be taken for blank.
const MAGICS: [(&str, u64, &[u8]); 8] = [
    ("ext4", 1024 + 56, &[0x53, 0xef]),
    ("xfs", 0, b"XFSB"),
    ("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("squashfs", 0, b"hsqs"),
    ("btrfs", 65536 + 64, b"_BHRfS_M"),
    ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    ("LVM", 512, b"LABELONE"),
    ("a partition table", 510, &[0x55, 0xaa]),
];

/// Which file system (or other content) a device has; `None` for nothing that is known.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn probe(device: &Path) -> Result<Option<&'static str>> {
    let failed = |error| Error::failed(format!("reading {}", device.display()), error);
    let file = File::open(device).map_err(failed)?;
    for (name, offset, magic) in MAGICS {
        let mut bytes = vec![0; magic.len()];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) if bytes == magic => return Ok(Some(name)),
            Ok(()) => {}
            // Too small for that one.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(None)
}

/// Makes sure that a device has a file system of type `wanted`: makes one on a blank device, accepts what is of that
/// type, and refuses to overwrite anything else that it knows.
pub(crate) fn ensure(children: &Children, device: &Path, wanted: &str) -> Result<()> {
    match probe(device)? {
        Some(found) if found == wanted => Ok(()),
        Some(found) => {
            let message = format!(
                "{} holds {found} and not {wanted}; it is not overwritten",
                device.display()
            );
            Err(Error::new(ErrorKind::Busy, message))
        }
        None => make(children, device, wanted),
    }
}

/// Makes a file system of type `wanted`, whatever the device holds.
pub(crate) fn make(children: &Children, device: &Path, wanted: &str) -> Result<()> {
    let mut command = match wanted {
        "ext4" => {
            let mut command = program("mkfs.ext4")?;
            // Tables are zeroed by the kernel later: a scratch of many GiB is ready at once.
            command.args(["-q", "-F", "-m", "0"]);
            command.args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"]);
            command
        }
        "xfs" => {
            let mut command = program("mkfs.xfs")?;
            command.args(["-q", "-f", "-K"]);
            command
        }
        other => return Err(Error::invalid(format!("{other:?} cannot be made here"))),
    };
    children.run(command.arg(device), MAKE_LIMIT).map(drop)
}

/// Mount options, sorted by who understands them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Properties of the mount.
    pub(crate) attributes: MountAttributes,
    /// The mount is taken out of its peer group.
    pub(crate) private: bool,
    /// For the file system, as they came.
    pub(crate) others: Vec<String>,
}

impl Options {
    /// Of words as in an OCI mount's options.
    pub(crate) fn of(words: &[String]) -> Self {
        let mut options = Self::default();
        let attributes = &mut options.attributes;
        for word in words {
            match word.as_str() {
                word if word.eq_ignore_ascii_case("ro") => attributes.read_only = true,
                "nosuid" => attributes.no_suid = true,
                "nodev" => attributes.no_dev = true,
                "noexec" => attributes.no_exec = true,
                "noatime" => attributes.no_atime = true,
                "nodiratime" => attributes.no_dir_atime = true,
                "strictatime" => attributes.strict_atime = true,
                "private" | "rprivate" | "slave" | "rslave" => options.private = true,
                // What a mount is anyway, and what says how the container gets it.
                "rw" | "bind" | "rbind" | "defaults" | "suid" | "dev" | "exec" | "atime"
                | "diratime" | "relatime" | "shared" | "rshared" | "" => {}
                other => options.others.push(other.to_owned()),
            }
        }
        options
    }
}

/// Mounts `device` at `target`, which exists. The type is looked for if it is empty.
pub(crate) fn mount(
    device: &Path,
    target: &Path,
    file_system: &str,
    read_only: bool,
    words: &[String],
) -> Result<()> {
    let found;
    let file_system = match file_system {
        "" => {
            found = probe(device)?;
            found.ok_or_else(|| {
                let message = format!("{}: no file system that is known", device.display());
                Error::new(ErrorKind::Failed, message)
            })?
        }
        named => named,
    };
    let mut options = Options::of(words);
    options.attributes.read_only |= read_only;
    let what = format!("mounting {} ({file_system}) at {}", device.display(), target.display());
    let mount = configured(device, file_system, &options)
        .map_err(|error| Error::failed(what.clone(), error))?;
    mount.attach(target).map_err(|error| Error::failed(what, error))
}

fn configured(device: &Path, file_system: &str, options: &Options) -> sys::Result<DetachedMount> {
    let context = FsContext::open(file_system)?;
    context.set_string("source", device)?;
    if options.attributes.read_only {
        context.set_flag("ro")?;
        // A journal that must be replayed cannot be on a disk that cannot be written.
        match file_system {
            "ext4" => context.set_flag("noload")?,
            "xfs" => context.set_flag("norecovery")?,
            _ => {}
        }
    }
    for option in &options.others {
        match option.split_once('=') {
            Some((key, value)) => context.set_string(key, value)?,
            None => context.set_flag(option)?,
        }
    }
    context.create()?;
    let mount = context.mount(options.attributes)?;
    if options.private {
        mount.make_private()?;
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_by_their_magic() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let file = File::create(&image).unwrap();
        assert_eq!(probe(&image).unwrap(), None, "an empty file");
        file.set_len(1 << 20).unwrap();
        assert_eq!(probe(&image).unwrap(), None);
        for (name, offset, magic) in MAGICS {
            let file = File::create(&image).unwrap();
            file.set_len(1 << 20).unwrap();
            file.write_all_at(magic, offset).unwrap();
            assert_eq!(probe(&image).unwrap(), Some(name));
        }
        assert!(probe(directory.path()).is_err());
    }

    #[test]
    fn a_file_system_is_made_on_nothing_and_over_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let children = Children::default();
        ensure(&children, &image, "ext4").unwrap();
        assert_eq!(probe(&image).unwrap(), Some("ext4"));
        let before = std::fs::read(&image).unwrap();
        ensure(&children, &image, "ext4").unwrap();
        let error = ensure(&children, &image, "xfs").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(std::fs::read(&image).unwrap() == before, "nothing of it changed");
        File::create(&image).unwrap().set_len(8 << 20).unwrap();
        assert!(ensure(&children, &image, "-exotic").is_err());
    }

    #[test]
    fn options_are_sorted() {
        let words: Vec<String> =
            ["RO", "nodev", "rbind", "rprivate", "data=journal", "rw"].map(str::to_owned).into();
        let options = Options::of(&words);
        assert!(options.attributes.read_only && options.attributes.no_dev && options.private);
        assert_eq!(options.others, ["data=journal"]);
    }
}
