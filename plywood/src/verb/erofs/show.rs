//! `info`, `ls`, `cat`, `stat`

use std::collections::HashSet;
use std::fs::File;

use anyhow::{Context as _, Result};
use erofs::format::FileType;
use erofs::{ExtentSource, Image, InodeView, Nid};
use serde::Serialize;
use serde_json::json;

use super::open;
use crate::Session;
use crate::cli::{CatArgs, FileArgs, ListArgs, StatArgs};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::output::{self, JsonPath, hex};

/// An inode's attributes as JSON shows them.
#[derive(Serialize)]
struct Attributes {
    #[serde(flatten)]
    path: JsonPath,
    r#type: &'static str,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    nid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl Attributes {
    fn new(path: &[u8], inode: &InodeView, target: Option<&[u8]>) -> Self {
        Self {
            path: JsonPath::new(path),
            r#type: type_name(inode.file_type),
            mode: format!("{:04o}", inode.permissions),
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            mtime: time(inode),
            nid: inode.nid.0,
            device: is_node(inode.file_type)
                .then_some([inode.device_number.major, inode.device_number.minor]),
            target: target.map(|target| match std::str::from_utf8(target) {
                Ok(text) => text.to_owned(),
                Err(_) => escape::name(target),
            }),
        }
    }
}

pub(crate) fn info(session: &mut Session, args: &FileArgs) -> Result<()> {
    let image = open(&args.file, &args.devices)?;
    let superblock = *image.superblock();
    let uuid = uuid::Uuid::from_bytes(image.uuid());
    let checksum = match image.verify_checksum() {
        Ok(()) if image.compat().contains(erofs::format::Compat::SB_CHKSUM) => "valid",
        Ok(()) => "none",
        Err(error) if error.kind() == erofs::ErrorKind::Corrupt => "wrong",
        Err(error) => return Err(error).context("cannot verify the superblock's checksum"),
    };
    let names =
        |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(",") };
    let compat: Vec<String> =
        image.compat().iter_names().map(|(name, _)| name.to_lowercase()).collect();
    let incompat: Vec<String> =
        image.incompat().iter_names().map(|(name, _)| name.to_lowercase()).collect();
    let devices: Vec<(String, u32)> = image
        .devices()
        .iter()
        .map(|slot| {
            let end = slot.tag.iter().position(|byte| *byte == 0).unwrap_or(slot.tag.len());
            (escape::name(&slot.tag[..end]), slot.blocks.get())
        })
        .collect();
    let built = output::time(
        i128::from(superblock.epoch.get()) * 1_000_000_000
            + i128::from(superblock.fixed_nsec.get()),
    );
    if session.output.is_json() {
        let devices: Vec<_> =
            devices.iter().map(|(tag, blocks)| json!({ "tag": tag, "blocks": blocks })).collect();
        return session.output.json(&json!({
            "uuid": uuid.to_string(),
            "label": escape::name(image.label()),
            "block_size": image.block_size(),
            "blocks": superblock.blocks.get(),
            "inodes": superblock.inos.get(),
            "length": image.length(),
            "epoch": built,
            "root": image.root().0,
            "compat": compat,
            "incompat": incompat,
            "checksum": checksum,
            "devices": devices,
        }));
    }
    for (name, value) in [
        ("uuid", uuid.to_string()),
        ("label", escape::name(image.label())),
        ("block size", image.block_size().to_string()),
        ("blocks", superblock.blocks.get().to_string()),
        ("inodes", superblock.inos.get().to_string()),
        ("length", format!("{} ({})", image.length(), output::size(image.length()))),
        ("epoch", built),
        ("root nid", image.root().0.to_string()),
        ("compatible", names(compat)),
        ("incompatible", names(incompat)),
        ("checksum", checksum.to_owned()),
        ("devices", devices.len().to_string()),
    ] {
        session.output.line(format!("{name:<13} {value}").trim_end())?;
    }
    for (index, (tag, blocks)) in devices.iter().enumerate() {
        session
            .output
            .line(format!("  device {:<4} {blocks} blocks  {tag}", index + 1).trim_end())?;
    }
    Ok(())
}

pub(crate) fn ls(session: &mut Session, args: &ListArgs) -> Result<()> {
    let image = open(&args.file, &args.devices)?;
    let start = normal(args.path.as_encoded_bytes());
    let inode = image.resolve(&start, true).context("cannot list")?;
    if !inode.is_dir() {
        return show(session, &image, &start, &start, &inode, args.long);
    }
    // Directories that are open above the current one, each with its entries still to be shown, last first.
    let mut open = vec![(start, children(&image, &inode)?)];
    let mut seen = HashSet::from([inode.nid]);
    while let Some((path, entries)) = open.last_mut() {
        let Some((name, nid)) = entries.pop() else {
            open.pop();
            continue;
        };
        let full = join(path, &name);
        let inode = image.inode(nid).with_context(|| cannot_read(&full))?;
        let shown = if args.recursive { &full } else { &*name };
        show(session, &image, &full, shown, &inode, args.long)?;
        if args.recursive && inode.is_dir() {
            // A damaged image could hold a directory inside itself, and the listing would never end.
            if !seen.insert(nid) {
                anyhow::bail!(Failure::new(
                    Exit::Corrupt,
                    format!("{}: a directory that has two names", escape::name(&full))
                ));
            }
            let entries = children(&image, &inode).with_context(|| cannot_read(&full))?;
            open.push((full, entries));
        }
    }
    Ok(())
}

type Child = (Box<[u8]>, Nid);

/// A directory's entries in reverse order of name, to be popped.
fn children(image: &Image<File>, dir: &InodeView) -> Result<Vec<Child>> {
    let entries = image.read_dir(dir).context("cannot read the directory")?;
    let mut children: Vec<Child> =
        entries.into_iter().map(|entry| (entry.name, entry.nid)).collect();
    children.sort_unstable_by(|a, b| b.cmp(a));
    Ok(children)
}

fn show(
    session: &mut Session,
    image: &Image<File>,
    full: &[u8],
    shown: &[u8],
    inode: &InodeView,
    long: bool,
) -> Result<()> {
    let json = session.output.is_json();
    if !json && !long {
        return session.output.line(escape::name(shown));
    }
    let target = match inode.file_type {
        FileType::Symlink => Some(image.read_link(inode).with_context(|| cannot_read(full))?),
        _ => None,
    };
    if json {
        return session.output.json(&Attributes::new(full, inode, target.as_deref()));
    }
    let size = match is_node(inode.file_type) {
        true => format!("{}, {}", inode.device_number.major, inode.device_number.minor),
        false => inode.size.to_string(),
    };
    let arrow = target.map(|target| format!(" -> {}", escape::name(&target))).unwrap_or_default();
    session.output.line(format!(
        "{} {:>3} {:>5} {:>5} {size:>10} {} {}{arrow}",
        mode_text(inode),
        inode.nlink,
        inode.uid,
        inode.gid,
        time(inode),
        escape::name(shown),
    ))
}

pub(crate) fn cat(session: &mut Session, args: &CatArgs) -> Result<()> {
    let image = open(&args.file, &args.devices)?;
    // Everything is looked up before anything is written, so that a wrong name writes nothing.
    let mut files = Vec::new();
    for path in &args.paths {
        let inode = image.resolve(path.as_encoded_bytes(), true).context("cannot read")?;
        if inode.file_type != FileType::Regular {
            let path = escape::name(path.as_encoded_bytes());
            let what = type_name(inode.file_type);
            anyhow::bail!(Failure::new(Exit::Usage, format!("{path} is a {what}, not a file")));
        }
        files.push((path, inode));
    }
    let mut buffer = vec![0; 1 << 20];
    for (path, inode) in files {
        let mut offset = 0;
        loop {
            let count = image
                .read_at(&inode, &mut buffer, offset)
                .with_context(|| cannot_read(path.as_encoded_bytes()))?;
            if count == 0 {
                break;
            }
            session.output.bytes(&buffer[..count])?;
            offset += count as u64;
        }
    }
    Ok(())
}

pub(crate) fn stat(session: &mut Session, args: &StatArgs) -> Result<()> {
    let image = open(&args.file, &args.devices)?;
    for path in &args.paths {
        let path = normal(path.as_encoded_bytes());
        let inode = image.resolve(&path, false).context("cannot look up")?;
        stat_one(session, &image, &path, &inode).with_context(|| cannot_read(&path))?;
    }
    Ok(())
}

fn stat_one(
    session: &mut Session,
    image: &Image<File>,
    path: &[u8],
    inode: &InodeView,
) -> Result<()> {
    let target = match inode.file_type {
        FileType::Symlink => Some(image.read_link(inode)?),
        _ => None,
    };
    let xattrs = image.xattrs(inode)?;
    let mut extents = Vec::new();
    if inode.file_type == FileType::Regular {
        for extent in image.extents(inode) {
            extents.push(extent?);
        }
    }
    if session.output.is_json() {
        let mut value = serde_json::to_value(Attributes::new(path, inode, target.as_deref()))?;
        value["layout"] = json!(inode.layout.to_string());
        value["position"] = json!(inode.position);
        value["xattrs"] = xattrs
            .iter()
            .map(|xattr| {
                json!({ "name": escape::name(&xattr.name), "value_hex": hex(&xattr.value) })
            })
            .collect();
        value["extents"] = extents
            .iter()
            .map(|extent| {
                let (source, device, position) = match extent.source {
                    ExtentSource::Hole => ("hole", None, None),
                    ExtentSource::Inline { position } => ("inline", None, Some(position)),
                    ExtentSource::Blocks { device, position } => {
                        ("blocks", Some(device), Some(position))
                    }
                };
                json!({
                    "offset": extent.offset,
                    "length": extent.length,
                    "source": source,
                    "device": device,
                    "position": position,
                })
            })
            .collect();
        return session.output.json(&value);
    }
    let mut lines = vec![
        ("path", escape::name(path)),
        ("type", type_name(inode.file_type).to_owned()),
        ("mode", format!("{:04o} ({})", inode.permissions, mode_text(inode))),
        ("owner", format!("{}:{}", inode.uid, inode.gid)),
        ("links", inode.nlink.to_string()),
        ("size", inode.size.to_string()),
        ("mtime", time(inode)),
        ("nid", inode.nid.0.to_string()),
        ("layout", format!("{}, {}", inode.layout, form(inode))),
        ("position", format!("{:#x}", inode.position)),
    ];
    if let Some(target) = &target {
        lines.push(("target", escape::name(target)));
    }
    if is_node(inode.file_type) {
        let device = inode.device_number;
        lines.push(("device", format!("{}:{}", device.major, device.minor)));
    }
    for xattr in &xattrs {
        let value = escape::name(&xattr.value);
        lines.push(("xattr", format!("{}={value}", escape::name(&xattr.name))));
    }
    for extent in &extents {
        let source = match extent.source {
            ExtentSource::Hole => "hole".to_owned(),
            ExtentSource::Inline { position } => format!("inline at {position:#x}"),
            ExtentSource::Blocks { device: 0, position } => format!("at {position:#x}"),
            ExtentSource::Blocks { device, position } => {
                format!("at {position:#x} of device {device}")
            }
        };
        lines.push(("extent", format!("{}+{} {source}", extent.offset, extent.length)));
    }
    for (name, value) in lines {
        session.output.line(format!("{name:<9} {value}").trim_end())?;
    }
    Ok(())
}

fn form(inode: &InodeView) -> &'static str {
    if inode.extended { "64-byte inode" } else { "32-byte inode" }
}

fn cannot_read(path: &[u8]) -> String {
    format!("cannot read {}", escape::name(path))
}

/// A path with one leading slash, none at its end and none doubled.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(path.len() + 1);
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        normal.push(b'/');
        normal.extend_from_slice(part);
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    normal
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn time(inode: &InodeView) -> String {
    output::time(
        i128::from(inode.mtime.seconds) * 1_000_000_000 + i128::from(inode.mtime.nanoseconds),
    )
}

fn is_node(file_type: FileType) -> bool {
    matches!(file_type, FileType::CharDevice | FileType::BlockDevice)
}

fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Unknown => "unknown",
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Symlink => "symlink",
    }
}

/// `drwxr-sr-t`, as ls(1) shows it.
fn mode_text(inode: &InodeView) -> String {
    let kind = match inode.file_type {
        FileType::Unknown => '?',
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Symlink => 'l',
    };
    let bits = inode.permissions;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let group = bits >> shift;
        text.push(if group & 4 != 0 { 'r' } else { '-' });
        text.push(if group & 2 != 0 { 'w' } else { '-' });
        text.push(match (group & 1 != 0, bits & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal() {
        for (path, expected) in
            [("", "/"), ("/", "/"), ("a//b/", "/a/b"), ("./a/./b", "/a/b"), ("/a", "/a")]
        {
            assert_eq!(normal(path.as_bytes()), expected.as_bytes(), "{path}");
        }
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
    }
}
