//! `snapshot diff`: what a snapshot changes over its parent.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use erofs::{Image, Tree};
use layer::Cancel;
use mount::{Holder, HolderKind};
use serde_json::json;
use store::{Kind, Layer, ScratchPaths, Staging};
use sys::directory::Directory;
use sys::process::Process;

use crate::Session;
use crate::cli::SnapshotDiffArgs;
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::host::{Host, require_root};
use crate::interrupt::cancel_on_signal;
use crate::output::{self, JsonPath};
use crate::store_handle::StoreHandle;

/// How overlayfs marks a directory that hides the one below it.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// What a layer says about one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Something is there that hides what is below; for directories, joins it.
    Entry,
    /// Nothing is to be there.
    Whiteout,
    /// A directory that hides all of the one below it.
    Opaque,
}

type Marks = BTreeMap<Vec<u8>, Mark>;

pub(crate) fn diff(session: &mut Session, args: &SnapshotDiffArgs) -> Result<()> {
    let cancel = cancel_on_signal()?;
    if args.tar {
        session.output.must_not_be_terminal("a tar")?;
    }
    crate::container::refuse_in_vm(&session.host, &args.key)?;
    let store = session.host.existing_store()?;
    let snapshot = store.stat(args.key.as_bytes())?;
    let doing = || format!("cannot compare {} with its parent", args.key);
    // One of containerd's, in the making or made of an applied layer and what was written over it.
    if snapshot.layers.len() > usize::from(snapshot.kind == Kind::Committed) {
        let what = format!("{}: its changes are in several layers", doing());
        return Err(Failure::new(Exit::NotSupported, what).into());
    }
    let below = match (&snapshot.parent, args.tar) {
        (Some(parent), false) => store.committed_layers(parent)?,
        _ => Vec::new(),
    };
    match snapshot.kind {
        Kind::View => Ok(()),
        Kind::Committed => {
            let layers = store.committed_layers(&snapshot.key)?;
            drop(store);
            let layer = layers.first().filter(|layer| snapshot.layers.contains(&layer.id));
            let layer = layer
                .ok_or_else(|| Failure::new(Exit::Corrupt, "the snapshot's layer is missing"))?;
            let image = open(&layer.path)?;
            match args.tar {
                true => tar(session, &image, &cancel),
                false => show(session, &marks_of_image(&image).with_context(doing)?, &below),
            }
        }
        Kind::Active => {
            let scratch = Scratch::of(&session.host, &store, &args.key)?;
            drop(store);
            if !args.tar {
                let marks = marks_of_directory(&scratch.upper).with_context(doing);
                scratch.release(&session.host)?;
                return show(session, &marks?, &below);
            }
            let result = tar_of_directory(session, &scratch.upper, &cancel).with_context(doing);
            scratch.release(&session.host)?;
            result
        }
    }
}

/// The upper directory of an active snapshot, mounted for the time being if it is in a disk image.
struct Scratch {
    upper: PathBuf,
    holder: Option<Holder>,
}

impl Scratch {
    fn of(host: &Host, store: &StoreHandle, key: &str) -> Result<Self> {
        let chain = store.chain(key.as_bytes())?;
        match &chain.scratch {
            Some(ScratchPaths::Directory { upper, .. }) => {
                Ok(Self { upper: upper.clone(), holder: None })
            }
            Some(ScratchPaths::Image { .. }) => {
                require_root("looking into a scratch of a fixed size")?;
                // Not of the kind of snapshots: those are given back when there is none of that name.
                let holder = Holder::new(HolderKind::User, format!("diff of {key}"))
                    .with_process(Process::current()?);
                let scratch = host
                    .registry()?
                    .hold_scratch(&chain, &holder)
                    .with_context(|| format!("cannot mount the scratch of {key}"))?;
                Ok(Self { upper: scratch.upper, holder: Some(holder) })
            }
            None => Err(Failure::new(Exit::Corrupt, "an active snapshot without scratch").into()),
        }
    }

    fn release(self, host: &Host) -> Result<()> {
        if let Some(holder) = self.holder {
            host.registry()?.release(&holder).context("cannot unmount the scratch")?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<Image<File>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Image::open(file).with_context(|| format!("cannot read {}", path.display()))
}

fn tar(session: &mut Session, image: &Image<File>, cancel: &Cancel) -> Result<()> {
    match layer::write_layer_tar(image, session.output.stream(), cancel) {
        Err(error) if output::is_closed(&error) => Err(crate::exit::OutputClosed.into()),
        other => other.map(drop).context("cannot write the layer's tar"),
    }
}

/// By way of a layer image, as a commit makes it, so that a diff and a later commit's export are the same bytes.
fn tar_of_directory(session: &mut Session, upper: &Path, cancel: &Cancel) -> Result<()> {
    let staging = Staging::new(session.host.root())?;
    let file = staging.create("diff.erofs")?;
    layer::write_directory_image(upper, &file, cancel)?;
    let image = open(&staging.path().join("diff.erofs"))?;
    tar(session, &image, cancel)
}

fn marks_of_image(image: &Image<File>) -> Result<Marks> {
    let tree = image.load_tree()?;
    let mut marks = Marks::new();
    let mut open = vec![(Vec::new(), Tree::ROOT)];
    while let Some((path, id)) = open.pop() {
        for (name, child) in tree[id].entries().into_iter().flatten() {
            let path = join(&path, name);
            let inode = &tree[*child];
            let mark = match inode.is_whiteout() {
                true => Mark::Whiteout,
                false if inode.xattr(OPAQUE) == Some(b"y") => Mark::Opaque,
                false => Mark::Entry,
            };
            marks.insert(path.clone(), mark);
            if inode.entries().is_some() {
                open.push((path, *child));
            }
        }
    }
    Ok(marks)
}

fn marks_of_directory(upper: &Path) -> Result<Marks> {
    const TYPE: u32 = 0o170_000;
    const DIRECTORY: u32 = 0o040_000;
    const CHARACTER_DEVICE: u32 = 0o020_000;
    let mut marks = Marks::new();
    // A container may nest directories deeper than files can be open: every one is closed before the next is opened.
    let mut open = vec![Vec::new()];
    let top = Directory::open(upper)?;
    while let Some(path) = open.pop() {
        let mut directory: Option<Directory> = None;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            directory = Some(directory.as_ref().unwrap_or(&top).open_directory(part)?);
        }
        let directory = directory.as_ref().unwrap_or(&top);
        for name in directory.names()? {
            let name = name.as_bytes();
            let status = directory.status(name)?;
            let path = join(&path, name);
            let kind = status.mode & TYPE;
            let mark = match (kind, status.device_number) {
                (CHARACTER_DEVICE, (0, 0)) => Mark::Whiteout,
                (DIRECTORY, _) if is_opaque(directory, name)? => Mark::Opaque,
                _ => Mark::Entry,
            };
            marks.insert(path.clone(), mark);
            if kind == DIRECTORY {
                open.push(path);
            }
        }
    }
    Ok(marks)
}

fn is_opaque(directory: &Directory, name: &[u8]) -> Result<bool> {
    let xattrs = directory.xattrs(name)?;
    Ok(xattrs.iter().any(|(name, value)| name == OPAQUE && value == b"y"))
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = path.to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Prints the marks, knowing from the layers below what is new and what was there.
fn show(session: &mut Session, marks: &Marks, below: &[Layer]) -> Result<()> {
    if marks.is_empty() {
        return Ok(());
    }
    let images = below.iter().rev().map(|layer| open(&layer.path)).collect::<Result<Vec<_>>>()?;
    let merged =
        erofs::merge(&images.iter().collect::<Vec<_>>()).context("cannot read the layers below")?;
    let opaque: Vec<&[u8]> = marks
        .iter()
        .filter(|(_, mark)| **mark == Mark::Opaque)
        .map(|(path, _)| path.as_slice())
        .collect();
    // Below a directory that hides the lower one, everything is new.
    let is_hidden = |path: &[u8]| {
        let mut slashes = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        slashes.any(|(end, _)| opaque.binary_search(&&path[..end]).is_ok())
    };
    for (path, mark) in marks {
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let was_there = !is_hidden(path) && merged.tree.lookup(parts).is_some();
        let (sign, change) = match mark {
            Mark::Whiteout => ('-', "removed"),
            Mark::Opaque if was_there => ('o', "replaced"),
            _ if was_there => ('~', "modified"),
            _ => ('+', "added"),
        };
        if session.output.is_json() {
            let mut value = json!(JsonPath::new(path));
            value["change"] = json!(change);
            session.output.json(&value)?;
        } else {
            session.output.line(format!("{sign} {}", escape::name(path)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_and_a_directory_show_the_same_marks() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("fs/a/b")).unwrap();
        std::fs::write(dir.path().join("fs/a/b/c"), "text").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("fs/out")).unwrap();
        let from_directory = marks_of_directory(&dir.path().join("fs")).unwrap();
        let path = dir.path().join("image.erofs");
        let file = File::create_new(&path).unwrap();
        layer::write_directory_image(&dir.path().join("fs"), &file, &Cancel::new()).unwrap();
        let from_image = marks_of_image(&open(&path).unwrap()).unwrap();
        assert_eq!(from_directory, from_image);
        let paths: Vec<&[u8]> = from_image.keys().map(Vec::as_slice).collect();
        assert_eq!(paths, [&b"/a"[..], b"/a/b", b"/a/b/c", b"/out"]);
    }
}
