//! The options of a mount, fstab style, sorted by who they are for.

use sys::MountAttributes;

use crate::{Error, ErrorKind, Result};

/// What begins the options that are for a mount manager.
const INTERNAL: &str = "X-containerd.";
const MKDIR: &str = "X-containerd.mkdir.";
const MKFS: &str = "X-containerd.mkfs.";
const DM_VERITY: &str = "X-containerd.dmverity=";

/// Options as containerd's `mount(2)` helper reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) attributes: MountAttributes,
    /// A bind mount, whatever the type says; `true`: with the mounts below.
    pub(super) bind: Option<bool>,
    /// The source is a file to be attached to a loop device; `true`: past its page cache.
    pub(super) looped: Option<bool>,
    /// For the file system.
    pub(super) data: Vec<String>,
}

impl Options {
    pub(super) fn read(options: &[String]) -> Result<Self> {
        let mut read = Self::default();
        let mut direct = false;
        let attributes = &mut read.attributes;
        for option in options {
            match option.as_str() {
                "ro" => attributes.read_only = true,
                "rw" => attributes.read_only = false,
                "nosuid" => attributes.no_suid = true,
                "suid" => attributes.no_suid = false,
                "nodev" => attributes.no_dev = true,
                "dev" => attributes.no_dev = false,
                "noexec" => attributes.no_exec = true,
                "exec" => attributes.no_exec = false,
                "noatime" => (attributes.no_atime, attributes.strict_atime) = (true, false),
                "strictatime" => (attributes.no_atime, attributes.strict_atime) = (false, true),
                "atime" | "relatime" | "norelatime" | "nostrictatime" => {
                    (attributes.no_atime, attributes.strict_atime) = (false, false);
                }
                "nodiratime" => attributes.no_dir_atime = true,
                "diratime" => attributes.no_dir_atime = false,
                "bind" => read.bind = read.bind.or(Some(false)),
                "rbind" => read.bind = Some(true),
                "loop" => read.looped = Some(false),
                "direct-io" => direct = true,
                "defaults" | "async" | "nomand" => {}
                "remount" => return Err(invalid("there is nothing to remount in an activation")),
                dm_verity if dm_verity.starts_with(DM_VERITY) => return Err(no_verity()),
                internal if internal.starts_with(INTERNAL) => {
                    return Err(invalid(format!("the option {internal:?} means nothing here")));
                }
                map if map.starts_with("uidmap=") || map.starts_with("gidmap=") => {
                    return Err(Error::new(
                        ErrorKind::NotSupported,
                        "mapped owners are for the labels of a snapshot, not for an activation",
                    ));
                }
                data => read.data.push(data.to_owned()),
            }
        }
        match (read.looped, direct) {
            (Some(_), _) => read.looped = Some(direct),
            (None, true) => read.data.push("direct-io".to_owned()),
            (None, false) => {}
        }
        Ok(read)
    }
}

/// Options of an `erofs` mount: its extra devices and what concerns the mount alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ErofsOptions {
    pub(super) attributes: MountAttributes,
    pub(super) devices: Vec<String>,
}

impl ErofsOptions {
    pub(super) fn read(options: &[String]) -> Result<Self> {
        let Options { attributes, bind, data, .. } = Options::read(options)?;
        if bind.is_some() {
            return Err(invalid("an erofs mount is no bind mount"));
        }
        let mut devices = Vec::new();
        for option in data {
            match option.strip_prefix("device=") {
                Some(device) if !device.is_empty() => devices.push(device.to_owned()),
                _ => return Err(invalid(format!("{option:?} is no option of an erofs mount"))),
            }
        }
        Ok(Self { attributes, devices })
    }
}

/// A directory that a `mkdir/` mount wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirectoryWish {
    pub(super) path: String,
    pub(super) mode: u16,
    pub(super) owner: Option<(u32, u32)>,
}

/// Takes the wishes out of `options`.
pub(super) fn take_directories(options: &mut Vec<String>) -> Result<Vec<DirectoryWish>> {
    let mut wishes = Vec::new();
    for option in options.extract_if(.., |option| option.starts_with(MKDIR)) {
        let bad = |why: &str| invalid(format!("the option {option:?} is not valid: {why}"));
        let value = option[MKDIR.len()..].strip_prefix("path=");
        let value = value.ok_or_else(|| bad("it is not path=DIRECTORY[:MODE[:UID:GID]]"))?;
        let parts: Vec<&str> = value.splitn(4, ':').collect();
        let mode = |text: &str| {
            let mode = u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
            mode.filter(|_| !text.starts_with('+')).ok_or_else(|| bad("the mode is not octal"))
        };
        let id = |text: &str| text.parse::<u32>().map_err(|_| bad("an owner is not a number"));
        let (mode, owner) = match parts[..] {
            [_] => (0o700, None),
            [_, bits] => (mode(bits)?, None),
            [_, bits, uid, gid] => (mode(bits)?, Some((id(uid)?, id(gid)?))),
            _ => return Err(bad("an owner needs a group")),
        };
        wishes.push(DirectoryWish { path: parts[0].to_owned(), mode, owner });
    }
    Ok(wishes)
}

/// A file system that a `mkfs/` mount wants in its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileSystemWish {
    pub(super) sort: String,
    pub(super) size: u64,
    pub(super) uuid: Option<String>,
}

/// Takes the wish out of `options`.
pub(super) fn take_file_system(options: &mut Vec<String>) -> Result<FileSystemWish> {
    const SORTS: [&str; 4] = ["ext2", "ext3", "ext4", "xfs"];
    let mut wish = FileSystemWish { sort: "ext4".to_owned(), size: 0, uuid: None };
    for option in options.extract_if(.., |option| option.starts_with(MKFS)) {
        let bad = |why: &str| invalid(format!("the option {option:?} is not valid: {why}"));
        let (key, value) = option[MKFS.len()..].split_once('=').unwrap_or((&option, ""));
        match key {
            "size" => wish.size = bytes(value).ok_or_else(|| bad("it is no number of bytes"))?,
            "fs" if SORTS.contains(&value) => value.clone_into(&mut wish.sort),
            "fs" => return Err(bad("only ext2, ext3, ext4 and xfs can be made")),
            "uuid" if is_uuid(value) => wish.uuid = Some(value.to_owned()),
            "uuid" => return Err(bad("it is no UUID")),
            _ => return Err(bad("there is no such option")),
        }
    }
    match wish.size {
        0 => Err(invalid("a file system can be made only with X-containerd.mkfs.size")),
        _ => Ok(wish),
    }
}

/// A size as Docker writes it: a number, perhaps with a fraction, and a binary unit (`k`, `MB`, `gib`, …).
fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).filter(|size| i64::try_from(*size).is_ok());
    }
    let (whole, fraction) = number.split_once('.')?;
    let digits = |text: &str| text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(fraction) || fraction.is_empty() || whole.is_empty() {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole = whole.parse::<u64>().ok()?;
    let total = u128::from(whole) * scale + fraction.parse::<u128>().ok()?;
    let size = u64::try_from((total << shift) / scale).ok()?;
    i64::try_from(size).is_ok().then_some(size)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn no_verity() -> Error {
    Error::new(
        ErrorKind::NotSupported,
        "dm-verity for layers is not supported: mount them without X-containerd.dmverity",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn options_are_sorted_by_who_they_are_for() {
        let given =
            list(&["ro", "rbind", "loop", "direct-io", "nosuid", "size=1", "lowerdir=/a:/b"]);
        let read = Options::read(&given).unwrap();
        assert!(read.attributes.read_only && read.attributes.no_suid);
        assert_eq!((read.bind, read.looped), (Some(true), Some(true)));
        assert_eq!(read.data, ["size=1", "lowerdir=/a:/b"]);
        assert!(!Options::read(&list(&["ro", "rw"])).unwrap().attributes.read_only);
        assert_eq!(Options::read(&list(&["direct-io"])).unwrap().data, ["direct-io"]);
        for (option, kind) in [
            ("remount", ErrorKind::Invalid),
            ("X-containerd.odd=1", ErrorKind::Invalid),
            ("X-containerd.dmverity=/x", ErrorKind::NotSupported),
            ("uidmap=0:1:2", ErrorKind::NotSupported),
        ] {
            assert_eq!(Options::read(&list(&[option])).unwrap_err().kind(), kind, "{option}");
        }
        let erofs = ErofsOptions::read(&list(&["ro", "loop", "device=/a", "device=/b"])).unwrap();
        assert_eq!(erofs.devices, ["/a", "/b"]);
        for option in ["device=", "user_xattr", "rbind"] {
            assert!(ErofsOptions::read(&list(&[option])).is_err(), "{option}");
        }
    }

    #[test]
    fn directories_are_taken_out() {
        let mut options = list(&[
            "ro",
            "X-containerd.mkdir.path=/a/b",
            "X-containerd.mkdir.path=/c:0755",
            "X-containerd.mkdir.path=/d:711:5:6",
        ]);
        let wishes = take_directories(&mut options).unwrap();
        assert_eq!(options, ["ro"]);
        let parts: Vec<_> =
            wishes.iter().map(|wish| (wish.path.as_str(), wish.mode, wish.owner)).collect();
        assert_eq!(
            parts,
            [("/a/b", 0o700, None), ("/c", 0o755, None), ("/d", 0o711, Some((5, 6)))]
        );
        for bad in [
            "",
            "mode=1",
            "path=/a:",
            "path=/a:9",
            "path=/a:1755",
            "path=/a:755:1",
            "path=/a:755:1:x",
        ] {
            let mut options = vec![format!("{MKDIR}{bad}")];
            assert_eq!(
                take_directories(&mut options).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_file_system_needs_a_size() {
        let wish = |options: &[&str]| {
            let mut options: Vec<String> =
                options.iter().map(|option| format!("{MKFS}{option}")).collect();
            take_file_system(&mut options)
        };
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        let whole = wish(&["fs=xfs", "size=512MiB", &format!("uuid={uuid}")]).unwrap();
        assert_eq!((whole.sort.as_str(), whole.size), ("xfs", 512 << 20));
        assert_eq!(whole.uuid.as_deref(), Some(uuid));
        assert_eq!(wish(&["size=1"]).unwrap().sort, "ext4");
        for bad in [
            &["fs=ext4"][..],
            &["size=0"],
            &["size=1", "fs=btrfs"],
            &["size=1", "uuid=random"],
            &["size=1", "x=y"],
            &["size"],
        ] {
            assert_eq!(wish(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_docker_writes_them() {
        for (text, size) in [
            ("0", Some(0)),
            ("67108864", Some(64 << 20)),
            ("64m", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1.5g", Some(3 << 29)),
            ("2 kb", Some(2048)),
            ("1b", Some(1)),
            ("8191p", Some(8191 << 50)),
            ("", None),
            ("-1", None),
            ("1e3", None),
            (".5g", None),
            ("1.g", None),
            ("8192p", None),
            ("1x", None),
            ("99999999999999999999", None),
            ("18446744073709551615k", None),
        ] {
            assert_eq!(bytes(text), size, "{text}");
        }
    }
}
