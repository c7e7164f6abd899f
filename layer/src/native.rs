//! Layers that already are images: `application/vnd.erofs.layer…`.
//!
//! Whoever made the image chose every byte of it, and a kernel is to mount it. So it is taken only if this crate's
//! reader understands all of it and finds no rule broken, and if no mark in it makes overlayfs look elsewhere.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc::Receiver;

use erofs::{Image, InodeId, Severity, Tree, Xattr};

use crate::error::{Error, ErrorKind, Result};
use crate::image_file::image_checksum;
use crate::layer_image::{LayerImage, LayerOptions};
use crate::layer_tree::count_names;
use crate::overlay;
use crate::pipeline::{self, Chunk};
use crate::progress::{Cancel, Progress};

/// Takes a layer that is an EROFS image, compressed with Zstandard or not, as it is. In the result `diff_id` and
/// `tar_size` are those of the image as it came, uncompressed; `image_size` is larger by less than a page where the
/// image did not end on one, since kernels cannot read such a file to its end.
///
/// `output` must be empty; after an error it holds rubbish and must be thrown away.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for images that have compressed files, refer to other files, have blocks larger than a
/// page, use other features that are not understood here, or hold redirects and metadata-only copies of overlayfs;
/// [`ErrorKind::Corrupt`], [`ErrorKind::DigestMismatch`], [`ErrorKind::TooLarge`], [`ErrorKind::Cancelled`],
/// [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
pub fn write_native_image(
    source: impl Read + Send,
    output: &File,
    options: &LayerOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<LayerImage> {
    let take = |chunks: Receiver<Chunk>| copy(&chunks, output, cancel);
    let (blob, ()) = pipeline::run(source, options, progress, cancel, take)?;

    let image_size = blob.tar_size.next_multiple_of(erofs::format::PAGE);
    let reading = |error| Error::erofs("the layer is not an image that can be used", error);
    output.set_len(image_size).map_err(|error| Error::io("cannot write the image", error))?;
    let opened = Image::open(output).map_err(reading)?;
    check(&opened)?;
    let tree = opened.load_tree().map_err(reading)?;
    check_marks(&tree)?;
    Ok(LayerImage {
        digest: blob.digest,
        size: blob.size,
        diff_id: blob.diff_id,
        tar_size: blob.tar_size,
        image_size,
        checksum: image_checksum(output)?,
        uuid: opened.uuid(),
        entries: count_names(&tree),
        depends_on_parents: false,
        hides_lower: tree.root().xattr(overlay::OPAQUE) == Some(b"y"),
    })
}

fn copy(chunks: &Receiver<Chunk>, mut output: &File, cancel: &Cancel) -> Result<()> {
    let writeback = sys::Writeback::new(output).ok();
    let mut written = 0;
    for chunk in chunks {
        cancel.check()?;
        output.write_all(&chunk).map_err(|error| Error::io("cannot write the image", error))?;
        if let Some(writeback) = &writeback {
            writeback.start(written, chunk.len() as u64);
        }
        written += chunk.len() as u64;
    }
    Ok(())
}

fn check(image: &Image<&File>) -> Result<()> {
    let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
    if !image.devices().is_empty() {
        return unsupported("the image keeps its data in other files".to_owned());
    }
    if image.block_size() > erofs::format::PAGE {
        return unsupported(format!("the image has blocks of {} bytes", image.block_size()));
    }
    let report = erofs::check(image);
    if report.is_sound() {
        return Ok(());
    }
    let worst = report.findings.iter().max_by_key(|finding| finding.severity());
    let what = worst.map(ToString::to_string).unwrap_or_default();
    match worst.map(|finding| finding.severity()) {
        Some(Severity::Unsupported) if report.is_unsupported() => unsupported(what),
        _ => Err(Error::corrupt(format!("the image breaks the rules of its format: {what}"))),
    }
}

/// Refuses what would make overlayfs take something else for a file or a directory of the layer.
fn check_marks(tree: &Tree) -> Result<()> {
    for index in 0..tree.len() {
        let id = InodeId(u32::try_from(index).unwrap_or(u32::MAX));
        for Xattr { name, value } in &tree[id].xattrs {
            let opaque = &**name == overlay::OPAQUE && &**value != b"y";
            if opaque || overlay::STANDS_FOR_OTHERS.contains(&&**name) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "overlayfs's mark {}=\"{}\" stands for something outside of the layer",
                        name.escape_ascii(),
                        value.escape_ascii()
                    ),
                ));
            }
        }
    }
    Ok(())
}
