//! Reparse buffers (MS-FSCC 2.1.2): symbolic links, mount points, and others as they are.

use crate::error::{Error, ErrorKind, Result};

/// Reparse tags that this module knows.
pub mod tag {
    /// A junction or volume mount point.
    pub const MOUNT_POINT: u32 = 0xA000_0003;
    /// A symbolic link.
    pub const SYMLINK: u32 = 0xA000_000C;
    /// A symbolic link of the Windows Subsystem for Linux.
    pub const LX_SYMLINK: u32 = 0xA000_001D;
}

/// Longest whole buffer in bytes.
const BUFFER_MAX: usize = 16_384;
const HEADER: usize = 8;

/// What a reparse buffer says. Names are UTF-16 code units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReparsePoint {
    /// A symbolic link.
    Symlink {
        /// Where it leads, as the kernel sees it.
        substitute: Vec<u16>,
        /// Where it leads, for people. Some programs leave it empty.
        print: Vec<u16>,
        /// Whether it leads somewhere from the directory that it is in, or from the root of the same volume.
        relative: bool,
    },
    /// A junction or volume mount point.
    MountPoint {
        /// Where it leads, as the kernel sees it.
        substitute: Vec<u16>,
        /// Where it leads, for people. Some programs leave it empty.
        print: Vec<u16>,
    },
    /// A symbolic link of the Windows Subsystem for Linux.
    LxSymlink(
        /// Its target in UTF-8.
        Vec<u8>,
    ),
    /// Anything else.
    Other {
        /// Its tag.
        tag: u32,
    },
}

fn damaged() -> Error {
    Error::corrupt("the reparse buffer is damaged")
}

fn units(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect()
}

impl ReparsePoint {
    /// Takes a whole buffer apart, its header of eight bytes included.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if lengths contradict each other.
    pub fn read(buffer: &[u8]) -> Result<Self> {
        let (header, data) = buffer.split_first_chunk::<HEADER>().ok_or_else(damaged)?;
        let [t0, t1, t2, t3, l0, l1, ..] = *header;
        let tag = u32::from_le_bytes([t0, t1, t2, t3]);
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        match tag {
            tag::SYMLINK | tag::MOUNT_POINT => {
                let data = data.get(..length).ok_or_else(damaged)?;
                Self::names(tag, data).ok_or_else(damaged)
            }
            tag::LX_SYMLINK => match data.get(..length).and_then(<[u8]>::split_first_chunk::<4>) {
                Some((_, target)) => {
                    let end = target.iter().position(|byte| *byte == 0).unwrap_or(target.len());
                    Ok(Self::LxSymlink(target[..end].to_vec()))
                }
                None => Err(damaged()),
            },
            tag => Ok(Self::Other { tag }),
        }
    }

    fn names(tag: u32, data: &[u8]) -> Option<Self> {
        let (places, rest) = data.split_first_chunk::<8>()?;
        let (names, flags) = match tag {
            tag::SYMLINK => {
                let (flags, names) = rest.split_first_chunk()?;
                (names, u32::from_le_bytes(*flags))
            }
            _ => (rest, 0),
        };
        let places = units(places);
        let &[s_at, s_length, p_at, p_length] = places.as_slice() else { return None };
        let name = |at: u16, length: u16| {
            let bytes = names.get(at.into()..)?.get(..length.into())?;
            length.is_multiple_of(2).then(|| units(bytes))
        };
        let (substitute, print) = (name(s_at, s_length)?, name(p_at, p_length)?);
        Some(match tag {
            tag::SYMLINK => Self::Symlink { substitute, print, relative: flags & 1 != 0 },
            _ => Self::MountPoint { substitute, print },
        })
    }

    /// A symbolic link to a target as a tar has it: slashes are separators too, and its form decides whether the
    /// link is relative, as Microsoft's importer does.
    pub fn symlink(target: &[u16]) -> Self {
        let print = with_backslashes(target);
        let (substitute, relative) = substituted(&print);
        Self::Symlink { substitute, print, relative }
    }

    /// The same for a mount point, whose target should be absolute.
    pub fn mount_point(target: &[u16]) -> Self {
        let print = with_backslashes(target);
        let (substitute, _) = substituted(&print);
        Self::MountPoint { substitute, print }
    }

    /// The whole buffer: the substitute name first, each name with a NUL behind it that does not count.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] from 16,384 bytes on; [`ErrorKind::Invalid`] for [`ReparsePoint::Other`].
    pub fn write(&self) -> Result<Vec<u8>> {
        let (tag, flags, substitute, print) = match self {
            Self::Symlink { substitute, print, relative } => {
                let flags = u32::from(*relative).to_le_bytes();
                (tag::SYMLINK, flags.to_vec(), substitute, print)
            }
            Self::MountPoint { substitute, print } => {
                (tag::MOUNT_POINT, Vec::new(), substitute, print)
            }
            Self::LxSymlink(target) => {
                let data = [&2_u32.to_le_bytes(), target.as_slice()].concat();
                return with_header(tag::LX_SYMLINK, &data);
            }
            Self::Other { tag } => {
                let what = format!("nothing but the tag {tag:#010x} is known of the reparse point");
                return Err(Error::invalid(what));
            }
        };
        let [s_length, p_length] = [substitute, print].map(|name| 2 * name.len());
        let mut data = Vec::with_capacity(s_length + p_length + 16);
        for value in [0, s_length, s_length + 2, p_length] {
            let value = u16::try_from(value).map_err(|_| too_large())?;
            data.extend_from_slice(&value.to_le_bytes());
        }
        data.extend_from_slice(&flags);
        for name in [substitute, print] {
            data.extend(name.iter().chain([&0]).flat_map(|unit| unit.to_le_bytes()));
        }
        with_header(tag, &data)
    }

    /// Where it leads, for people: the print name, or what the substitute name says if there is none.
    pub fn target(&self) -> Option<Vec<u16>> {
        match self {
            Self::Symlink { substitute, print, .. } | Self::MountPoint { substitute, print } => {
                Some(if print.is_empty() { printed(substitute) } else { print.clone() })
            }
            Self::LxSymlink(target) => super::name::decode_wtf8(target),
            Self::Other { .. } => None,
        }
    }

    /// Its tag.
    pub fn tag(&self) -> u32 {
        match self {
            Self::Symlink { .. } => tag::SYMLINK,
            Self::MountPoint { .. } => tag::MOUNT_POINT,
            Self::LxSymlink(_) => tag::LX_SYMLINK,
            Self::Other { tag } => *tag,
        }
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, "the target is too long for a reparse buffer of 16,384 bytes")
}

fn with_header(tag: u32, data: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(data.len()).map_err(|_| too_large())?;
    if HEADER + data.len() > BUFFER_MAX {
        return Err(too_large());
    }
    let mut buffer = tag.to_le_bytes().to_vec();
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&[0, 0]);
    buffer.extend_from_slice(data);
    Ok(buffer)
}

const BACKSLASH: u16 = b'\\' as u16;

fn with_backslashes(target: &[u16]) -> Vec<u16> {
    target.iter().map(|unit| if *unit == u16::from(b'/') { BACKSLASH } else { *unit }).collect()
}

fn text(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// The substitute name of a target, and whether it is relative.
fn substituted(target: &[u16]) -> (Vec<u16>, bool) {
    let prefixed = |prefix: &str, rest: &[u16]| [text(prefix).as_slice(), rest].concat();
    let drive = |first: &u16| u8::try_from(*first).is_ok_and(|byte| byte.is_ascii_alphabetic());
    if let Some(rest) = target.strip_prefix(text(r"\\?\").as_slice()) {
        return (prefixed(r"\??\", rest), false);
    }
    match target {
        [BACKSLASH, BACKSLASH, rest @ ..] => (prefixed(r"\??\UNC\", rest), false),
        [first, 0x3A, ..] if drive(first) => (prefixed(r"\??\", target), false),
        _ => (target.to_vec(), true),
    }
}

/// What a print name should have been.
fn printed(substitute: &[u16]) -> Vec<u16> {
    if let Some(rest) = substitute.strip_prefix(text(r"\??\UNC\").as_slice()) {
        return [text(r"\\").as_slice(), rest].concat();
    }
    substitute.strip_prefix(text(r"\??\").as_slice()).unwrap_or(substitute).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(target: &str) -> Vec<u8> {
        ReparsePoint::symlink(&text(target)).write().unwrap()
    }

    fn substitute(buffer: &[u8]) -> (String, String, bool) {
        match ReparsePoint::read(buffer).unwrap() {
            ReparsePoint::Symlink { substitute, print, relative } => (
                String::from_utf16(&substitute).unwrap(),
                String::from_utf16(&print).unwrap(),
                relative,
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn links_are_those_of_microsofts_importer() {
        let mut expected = b"\x0c\0\0\xa0\x24\0\0\0\0\0\x0a\0\x0c\0\x0a\0\x01\0\0\0".to_vec();
        expected.extend(text("a.txt\0a.txt\0").iter().flat_map(|unit| unit.to_le_bytes()));
        assert_eq!(link("a.txt"), expected);
        assert_eq!(link(""), b"\x0c\0\0\xa0\x10\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0");
        for (target, length, substitute_name, print, relative) in [
            ("dir/sub", 52, r"dir\sub", r"dir\sub", true),
            ("C:/Windows/x", 80, r"\??\C:\Windows\x", r"C:\Windows\x", false),
            ("/usr/bin", 56, r"\usr\bin", r"\usr\bin", true),
            (r"\\?\C:\x", 56, r"\??\C:\x", r"\\?\C:\x", false),
            ("//srv/share", 80, r"\??\UNC\srv\share", r"\\srv\share", false),
            ("C:rel", 52, r"\??\C:rel", "C:rel", false),
            (r"\??\C:\x", 56, r"\??\C:\x", r"\??\C:\x", true),
        ] {
            let buffer = link(target);
            assert_eq!(buffer.len(), length, "{target}");
            assert_eq!(substitute(&buffer), (substitute_name.into(), print.into(), relative));
        }
    }

    #[test]
    fn junctions_are_those_of_microsofts_importer() {
        let junction = |target: &str| ReparsePoint::mount_point(&text(target)).write().unwrap();
        let buffer = junction(r"C:\Windows");
        assert_eq!(buffer.len(), 68);
        assert_eq!(&buffer[..16], b"\x03\0\0\xa0\x3c\0\0\0\0\0\x1c\0\x1e\0\x14\0");
        assert_eq!(junction("sub").len(), 32);
        let volume = r"\\?\Volume{00112233-4455-6677-8899-aabbccddeeff}\";
        assert_eq!(junction(volume).len(), 216);
        assert_eq!(ReparsePoint::read(&junction(volume)).unwrap().target(), Some(text(volume)));
    }

    #[test]
    fn targets_without_print_names_are_found() {
        for (kernel, people) in
            [(r"\??\C:\x", r"C:\x"), (r"\??\UNC\srv\share", r"\\srv\share"), ("sub", "sub")]
        {
            let point = ReparsePoint::MountPoint { substitute: text(kernel), print: Vec::new() };
            let read = ReparsePoint::read(&point.write().unwrap()).unwrap();
            assert_eq!(read.target(), Some(text(people)));
        }
        let linux = ReparsePoint::LxSymlink(b"/bin/sh".to_vec());
        let read = ReparsePoint::read(&linux.write().unwrap()).unwrap();
        assert_eq!((read.target(), read.tag()), (Some(text("/bin/sh")), tag::LX_SYMLINK));
        let other = ReparsePoint::read(b"\x23\0\0\x80\0\0\0\0").unwrap();
        assert_eq!(other, ReparsePoint::Other { tag: 0x8000_0023 });
        assert!(other.write().is_err() && other.target().is_none());
    }

    #[test]
    fn damaged_buffers_are_refused() {
        let buffer = link(r"C:\x");
        for cut in 0..buffer.len() {
            assert!(ReparsePoint::read(&buffer[..cut]).is_err(), "{cut}");
        }
        for at in 8..16 {
            let mut other = buffer.clone();
            other[at] = 0xFF;
            assert!(ReparsePoint::read(&other).is_err(), "{at}");
        }
        assert!(ReparsePoint::symlink(&[0x61; 9000]).write().is_err());
        assert!(ReparsePoint::symlink(&[0x61; 40_000]).write().is_err());
    }
}
