//! Files of an image's root filesystem, read from its layer images where nothing mounts them on this host.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use erofs::format::FileType;
use erofs::{DeviceNumber, Image, InodeView};

use crate::exit::{Exit, Failure};

/// The images of a chain, topmost first.
pub(super) struct LayerFiles(Vec<Image<File>>);

impl LayerFiles {
    pub(super) fn open<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<Self> {
        let open = |path: &Path| -> Result<Image<File>> {
            let file =
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            Image::open(file).with_context(|| format!("{} cannot be read", path.display()))
        };
        Ok(Self(paths.map(open).collect::<Result<_>>()?))
    }

    /// The text of a file, as overlayfs would show it; empty if there is none. A symbolic link that leads to
    /// another layer is not followed: then it is empty too.
    pub(super) fn text(&self, path: &[&str], most: u64) -> Result<String> {
        let shown = path.join("/");
        let doing = || format!("cannot read /{shown} of the image");
        'layers: for image in &self.0 {
            let mut inode = image.inode(image.root()).with_context(doing)?;
            let mut hides_the_rest = false;
            for name in path {
                if !inode.is_dir() {
                    return Ok(String::new());
                }
                hides_the_rest |= is_opaque(image, &inode).with_context(doing)?;
                let entry = image.lookup(&inode, name.as_bytes()).with_context(doing)?;
                inode = match entry {
                    Some(entry) => image.inode(entry.nid).with_context(doing)?,
                    None if hides_the_rest => return Ok(String::new()),
                    None => continue 'layers,
                };
                if is_whiteout(&inode) {
                    return Ok(String::new());
                }
            }
            if inode.file_type == FileType::Symlink {
                let full = format!("/{shown}");
                inode = match image.resolve(full.as_bytes(), true) {
                    Ok(inode) => inode,
                    Err(error) if error.kind() == erofs::ErrorKind::NotFound => {
                        return Ok(String::new());
                    }
                    Err(error) => return Err(error).with_context(doing),
                };
            }
            return read(image, &inode, most, &shown);
        }
        Ok(String::new())
    }
}

fn read(image: &Image<File>, inode: &InodeView, most: u64, shown: &str) -> Result<String> {
    let refuse = |what: &str| {
        Err(Failure::new(Exit::Corrupt, format!("/{shown} of the image is {what}")).into())
    };
    if inode.file_type != FileType::Regular {
        return refuse("not a file");
    }
    if inode.size > most {
        return refuse("too large");
    }
    let mut bytes = Vec::new();
    image
        .reader(inode)
        .take(most)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read /{shown} of the image"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_opaque(image: &Image<File>, inode: &InodeView) -> erofs::Result<bool> {
    let xattrs = image.xattrs(inode)?;
    Ok(xattrs
        .iter()
        .any(|xattr| &*xattr.name == b"trusted.overlay.opaque" && &*xattr.value == b"y"))
}

fn is_whiteout(inode: &InodeView) -> bool {
    inode.file_type == FileType::CharDevice && inode.device_number == DeviceNumber::WHITEOUT
}

#[cfg(test)]
mod tests {
    use erofs::{Content, FileData, ImageWriter, Inode, InodeId, Tree, WriterOptions};

    use super::*;

    fn add(tree: &mut Tree, dir: InodeId, name: &str, content: Content) -> InodeId {
        let id = tree.add(Inode { content, ..Inode::directory() });
        tree[dir].entries_mut().unwrap().insert(name.as_bytes().into(), id);
        id
    }

    fn file(text: &str) -> Content {
        Content::Regular(FileData::Bytes(text.as_bytes().into()))
    }

    fn layers(fill: &[&dyn Fn(&mut Tree)]) -> LayerFiles {
        let dir = tempfile::tempdir().unwrap();
        let images = fill.iter().enumerate().map(|(number, fill)| {
            let mut tree = Tree::new();
            fill(&mut tree);
            let writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
            let (bytes, _) = writer.finish(&tree, [1; 16]).unwrap();
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, bytes).unwrap();
            path
        });
        let images: Vec<_> = images.collect();
        LayerFiles::open(images.iter().map(|path| path.as_path())).unwrap()
    }

    #[test]
    fn a_file_is_the_topmost_one() {
        let etc = |tree: &mut Tree| add(tree, Tree::ROOT, "etc", Inode::directory().content);
        let base = |tree: &mut Tree| {
            let etc = etc(tree);
            add(tree, etc, "passwd", file("base"));
        };
        let other = |tree: &mut Tree| {
            let etc = etc(tree);
            add(tree, etc, "group", file("group"));
        };
        let opaque = |tree: &mut Tree| {
            let etc = etc(tree);
            tree[etc].set_xattr(b"trusted.overlay.opaque", b"y");
        };
        let gone = |tree: &mut Tree| {
            let etc = etc(tree);
            add(tree, etc, "passwd", Content::CharDevice(DeviceNumber::WHITEOUT));
        };
        let link = |tree: &mut Tree| {
            let etc = etc(tree);
            add(tree, etc, "passwd", Content::Symlink((*b"real").into()));
            add(tree, etc, "real", file("linked"));
        };
        let passwd = |layers: &LayerFiles| layers.text(&["etc", "passwd"], 100).unwrap();
        assert_eq!(passwd(&layers(&[&other, &base])), "base");
        assert_eq!(passwd(&layers(&[&opaque, &base])), "");
        assert_eq!(passwd(&layers(&[&gone, &base])), "");
        assert_eq!(passwd(&layers(&[&link, &base])), "linked");
        assert_eq!(passwd(&layers(&[&|_: &mut Tree| {}])), "");
        assert!(layers(&[&base]).text(&["etc", "passwd"], 2).is_err());
        assert!(layers(&[&base]).text(&["etc"], 2).is_err());
    }
}
