//! An image as text: one line for the image, one a device, one an object, in the order of paths.
//!
//! ```text
//! erofs block-size=4096 blocks=9 inodes=3 uuid=… label="" epoch=0.000000000
//! / directory 0755 0:0 mtime=0.000000000 nlink=2
//! /big file 0644 0:0 mtime=0.000000000 nlink=2 size=5000 layout=plain data=0+5000@0:4096
//! /copy hard-link to=/big
//! ```
//!
//! The same image always gives the same text. Bytes that are not printable ASCII, spaces and backslashes
//! are written `\xNN`. What cannot be read gets a line that says so, and the rest follows.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::io;

use crate::format::FileType;
use crate::trail::Trail;
use crate::{DirEntry, Error, ExtentSource, Image, InodeView, Nid, ReadAt, Result, Timestamp};

/// Extents written out for one file; a file with more gets `...` at the end.
const MAX_EXTENTS: usize = 8;

/// Bytes with everything escaped that would break a line or a field.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b'!'..=b'[' | b']'..=b'~' => f.write_char(char::from(*byte)),
            byte => write!(f, "\\x{byte:02x}"),
        })
    }
}

/// A directory whose names are still to be written, in reverse order.
struct Open {
    entries: Vec<DirEntry>,
    trail: Trail,
}

/// Writes an image as text. See the module's words above for the form.
///
/// # Errors
/// Only of `out`, as [`ErrorKind::Io`](crate::ErrorKind::Io): what the image has wrong is part of the text.
pub fn dump<R: ReadAt>(image: &Image<R>, out: &mut dyn io::Write) -> Result<()> {
    write_image(image, out).map_err(|e| Error::io("writing the dump", e))
}

fn write_image<R: ReadAt>(image: &Image<R>, out: &mut dyn io::Write) -> io::Result<()> {
    let superblock = image.superblock();
    let uuid: String = image.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(
        out,
        "erofs block-size={} blocks={} inodes={} uuid={uuid} label=\"{}\" epoch={}",
        image.block_size(),
        superblock.blocks,
        superblock.inos,
        Escaped(image.label()),
        Timestamp { seconds: superblock.epoch.get(), nanoseconds: superblock.fixed_nsec.get() },
    )?;
    for (number, slot) in (1..).zip(image.devices()) {
        let (first, blocks) = image.slot_range(slot);
        let tag = Escaped(crate::reader::until_nul(&slot.tag));
        writeln!(out, "device {number} blocks={blocks} unified={first} tag=\"{tag}\"")?;
    }

    let mut first_names: HashMap<Nid, Trail> = HashMap::new();
    let mut directories = HashSet::new();
    let mut left = image.total_length();
    let mut stack = Vec::new();
    let mut next = Some((image.root(), Trail::root()));
    loop {
        if let Some((nid, trail)) = next.take()
            && let Some(view) = write_object(image, nid, &trail, &mut first_names, out)?
        {
            let shown = Escaped(&trail.path()).to_string();
            if !directories.insert(nid) {
                writeln!(out, "{shown} unreadable: the directory has another name")?;
            } else if trail.is_too_long() {
                writeln!(out, "{shown} unreadable: the path is too long")?;
            } else if view.size > left {
                writeln!(out, "{shown} unreadable: directories are larger than the image")?;
            } else {
                left -= view.size;
                match image.read_dir(&view) {
                    Err(error) => writeln!(out, "{shown} unreadable: {}", one_line(&error))?,
                    Ok(mut entries) => {
                        entries.sort_by(|a, b| b.name.cmp(&a.name));
                        stack.push(Open { entries, trail });
                    }
                }
            }
        }
        let Some(open) = stack.last_mut() else { return Ok(()) };
        match open.entries.pop() {
            Some(entry) => next = Some((entry.nid, open.trail.child(&entry.name))),
            None => drop(stack.pop()),
        }
    }
}

/// Writes an object's line; a directory is returned, to go on in it.
fn write_object<R: ReadAt>(
    image: &Image<R>,
    nid: Nid,
    trail: &Trail,
    first_names: &mut HashMap<Nid, Trail>,
    out: &mut dyn io::Write,
) -> io::Result<Option<InodeView>> {
    let path = trail.path();
    write!(out, "{}", Escaped(&path))?;
    let view = match image.inode(nid) {
        Ok(view) => view,
        Err(error) => {
            writeln!(out, " unreadable: {}", one_line(&error))?;
            return Ok(None);
        }
    };
    if !view.is_dir() {
        if let Some(first) = first_names.get(&nid) {
            writeln!(out, " hard-link to={}", Escaped(&first.path()))?;
            return Ok(None);
        }
        first_names.insert(nid, trail.clone());
    }
    write!(
        out,
        " {} {:04o} {}:{} mtime={} nlink={}",
        type_name(view.file_type),
        view.permissions,
        view.uid,
        view.gid,
        view.mtime,
        view.nlink
    )?;
    match view.file_type {
        FileType::Regular => write_data(image, &view, out)?,
        FileType::Symlink => match image.read_link(&view) {
            Ok(target) => write!(out, " target={}", Escaped(&target))?,
            Err(error) => write!(out, " target=({})", one_line(&error))?,
        },
        FileType::CharDevice | FileType::BlockDevice => {
            write!(out, " device={}:{}", view.device_number.major, view.device_number.minor)?;
        }
        _ => {}
    }
    match image.xattrs(&view) {
        Err(error) => write!(out, " xattrs=({})", one_line(&error))?,
        Ok(mut xattrs) => {
            xattrs.sort();
            for xattr in xattrs {
                write!(out, " {}=\"{}\"", Escaped(&xattr.name), Escaped(&xattr.value))?;
            }
        }
    }
    writeln!(out)?;
    Ok(view.is_dir().then_some(view))
}

fn write_data<R: ReadAt>(
    image: &Image<R>,
    view: &InodeView,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    match view.is_packed() {
        true => write!(out, " size={} layout=packed", view.size)?,
        false => write!(out, " size={} layout={}", view.size, view.layout)?,
    }
    for (index, extent) in image.extents(view).enumerate() {
        write!(out, "{}", if index == 0 { " data=" } else { "," })?;
        if index == MAX_EXTENTS {
            return write!(out, "...");
        }
        match extent {
            Err(error) => write!(out, "({})", one_line(&error))?,
            Ok(extent) => {
                write!(out, "{}+{}@", extent.offset, extent.length)?;
                match extent.source {
                    ExtentSource::Hole => write!(out, "hole")?,
                    ExtentSource::Inline { position } => write!(out, "inline:{position}")?,
                    ExtentSource::Blocks { device, position } => {
                        write!(out, "{device}:{position}")?
                    }
                }
            }
        }
    }
    Ok(())
}

fn one_line(error: &Error) -> String {
    // A cause below us (of reading) is worth its words; escaping keeps the line a line.
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default()).escape_debug().to_string()
}

fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Unknown => "unknown",
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::CharDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Symlink => "symlink",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WriterOptions;
    use crate::testing::{sample, worked_example};

    fn text(bytes: Vec<u8>) -> String {
        let mut out = Vec::new();
        dump(&Image::open(bytes).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_worked_example_is_three_lines() {
        insta::assert_snapshot!(text(worked_example(12)), @r#"
        erofs block-size=4096 blocks=2 inodes=2 uuid=00000000000000000000000000000000 label="" epoch=0.000000000
        / directory 0755 0:0 mtime=0.000000000 nlink=2
        /hi file 0644 0:0 mtime=0.000000000 nlink=1 size=6 layout=inline data=0+6@inline:4256
        "#);
    }

    #[test]
    fn the_sample_has_every_kind_of_line() {
        let text = text(sample(WriterOptions::default()).1);
        let kept = text.lines().filter(|line| !line.starts_with("/many/name"));
        insta::assert_snapshot!(kept.collect::<Vec<_>>().join("\n"), @r#"
        erofs block-size=4096 blocks=13 inodes=315 uuid=5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a label="" epoch=0.000000000
        / directory 0755 0:0 mtime=0.000000000 nlink=6
        /a file 0644 0:0 mtime=0.000000000 nlink=2 size=6 layout=inline data=0+6@inline:29024
        /acl file 0644 0:0 mtime=0.000000000 nlink=1 size=3 layout=inline data=0+3@inline:29172 system.posix_acl_access="\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x06\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff" user.first="1" user.secnd="2"
        /big file 0644 0:0 mtime=0.000000000 nlink=1 size=5000 layout=plain data=0+5000@0:4096
        /chr char 0644 0:0 mtime=0.000000000 nlink=1 device=1:3
        /deep directory 0644 0:0 mtime=0.000000000 nlink=3
        /deep/er directory 0644 0:0 mtime=0.000000000 nlink=2
        /deep/er/end file 0644 0:0 mtime=0.000000000 nlink=1 size=0 layout=plain
        /dir directory 0644 0:0 mtime=0.000000000 nlink=2
        /dir/x hard-link to=/a
        /fifo fifo 0644 0:0 mtime=0.000000000 nlink=1
        /link symlink 0644 0:0 mtime=0.000000000 nlink=1 target=dir/x
        /many directory 0644 0:0 mtime=0.000000000 nlink=2
        /opaque directory 0644 0:0 mtime=0.000000000 nlink=2 trusted.overlay.opaque="y"
        /sparse file 0644 0:0 mtime=0.000000000 nlink=1 size=1048576 layout=chunks data=0+4096@0:12288,4096+520192@hole,524288+8192@0:16384,532480+516096@hole
        /taken char 0644 0:0 mtime=0.000000000 nlink=1 device=0:0
        "#);
    }

    #[test]
    fn times_are_decimal_numbers() {
        for (seconds, nanoseconds, shown) in [
            (0, 0, "0.000000000"),
            (5, 500_000_000, "5.500000000"),
            (-6, 500_000_000, "-5.500000000"),
            (-1, 999_999_999, "-0.000000001"),
            (-1, 0, "-1.000000000"),
            (i64::MIN, 0, "-9223372036854775808.000000000"),
        ] {
            assert_eq!(Timestamp { seconds, nanoseconds }.to_string(), shown);
        }
    }

    #[test]
    fn escapes_keep_fields_apart() {
        assert_eq!(Escaped(b"a b\\c\n\xff\"").to_string(), "a\\x20b\\x5cc\\x0a\\xff\"");
    }
}
