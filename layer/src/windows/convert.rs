//! A Windows layer's tar into a CIM: options, result, and the function that does it.

use std::io::Read;
use std::sync::mpsc::Receiver;

use cimfs::{DirectorySet, Guid, Image, ImageWriter, WritableSet};

use super::description::AbsentTimes;
use super::image_set::ImageSet;
use super::intake::{Counts, Intake};
use super::processing::Processing;
use super::usual::AbsentSecurity;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer_image::{LayerBlob, LayerOptions};
use crate::pipeline::{self, Chunk, ChunkReader};
use crate::progress::{Cancel, Progress};
use crate::tar::{End, Reader};

/// What is known and wanted about a Windows layer before it is read.
#[derive(Debug, Clone, Default)]
pub struct WindowsOptions {
    /// The blob, as for other layers.
    pub blob: LayerOptions,
    /// How the image is written.
    pub image: cimfs::WriterOptions,
    /// Whether it is a layer or just a tree.
    pub processing: Processing,
    /// What the times that the tar leaves out become.
    pub absent_times: AbsentTimes,
    /// Who may do what with files of which the tar does not say it.
    pub absent_security: AbsentSecurity,
    /// Distinguishes images of the same layer on the same parent, which otherwise have the same identifier and
    /// cannot lie in one directory. Usually empty.
    pub variant: String,
}

/// What was made of a Windows layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowsLayer {
    /// The blob as it came, and its tar.
    pub blob: LayerBlob,
    /// Identifier of the image's own regions: version 5 over the diffID, and for a fork over its parent's.
    pub guid: Guid,
    /// Length of the image's own region files in bytes.
    pub image_size: u64,
    /// Number of entries in the tar.
    pub entries: u64,
    /// Alternate streams among them.
    pub streams: u64,
    /// Whiteouts among them.
    pub whiteouts: u64,
    /// Bases of hives that were merged.
    pub merged_hives: u64,
    /// Oddities in the changes of hives; see [`hive::Warning`](crate::hive::Warning).
    pub hive_warnings: u64,
    /// Entries with attributes that an image has no room for, such as "not indexed"; they are gone.
    pub lost_attributes: u64,
    /// Entries without a security descriptor; see [`WindowsOptions::absent_security`].
    pub without_security: u64,
}

/// Makes a CIM of a Windows layer's blob in one pass: a fresh one of a base layer, else a fork of `parent`, the image
/// of the layer below. Both lie in `set`, and `name` is that of the filesystem file. When this returns, the image is
/// durable; after an error there is nothing of it.
///
/// Paths are kept: the image has `Files`, `Hives`, and whatever else the tar has. Whiteouts delete from the fork what
/// the layers below have. Alternate streams are kept, which hcsshim's importer of CIMs fails at. In a layer
/// ([`Processing::Layer`]) the registry's bases and `layout` are added.
///
/// File data goes straight through; memory is bounded by the number of entries, and by the size of a hive where hives
/// are merged. The same tar on the same parent gives the same bytes.
///
/// **Unverified on Windows.** Where hcsshim's importers differ: paths that are absolute, lead upwards or have names
/// that NTFS cannot store, devices, opaque directories, malformed security descriptors, a path that is said twice, and
/// a whiteout behind what it would delete are refused; times are exact from 1601 on; a missing directory entry is an
/// error unless the layers below have the directory. A whiteout that comes before a new file of the same name is about
/// the layers below, as OCI says; Windows' own importer deletes the new file.
///
/// # Errors
/// As [`write_layer_image`](crate::write_layer_image); `Invalid` if `name` or the identifier is taken, or for a layer
/// that is none for Windows; `MissingParent` for changes to a hive that no layer below has.
pub fn write_windows_layer(
    source: impl Read + Send,
    set: &DirectorySet,
    name: &str,
    parent: Option<&str>,
    options: &WindowsOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<WindowsLayer> {
    let set = ImageSet(set.clone());
    write_windows_layer_to(source, &set, name, parent, options, progress, cancel)
}

/// The same into any set of files, such as memory.
///
/// # Errors
/// As [`write_windows_layer`].
pub fn write_windows_layer_to<S: WritableSet + Clone>(
    source: impl Read + Send,
    set: &S,
    name: &str,
    parent: Option<&str>,
    options: &WindowsOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<WindowsLayer> {
    let below = parent.map(|parent| Image::open(set, parent)).transpose();
    let below = below.map_err(|error| Error::cimfs("cannot open the parent", error))?;
    let parent_guid = below.as_ref().map(Image::guid);
    let writer = begin(set, name, parent, options)?;
    let intake = Intake::new(writer, below, options, cancel);

    let take = |chunks| take_tar(chunks, intake);
    let (blob, taken) = pipeline::run(source, &options.blob, progress, cancel, take)?;
    let Taken { mut intake, end } = taken;
    blob.check_end(end, &options.blob)?;
    if options.processing == Processing::Layer {
        intake.process()?;
    }
    let Intake { mut writer, counts, .. } = intake;
    let storing = |error| Error::cimfs("cannot write the image", error);
    writer.set_guid(identifier(&blob.diff_id, parent_guid, &options.variant)).map_err(storing)?;
    let summary = writer.commit().map_err(storing)?;
    let Counts { entries, streams, whiteouts, .. } = counts;
    let Counts { merged_hives, hive_warnings, lost_attributes, without_security, .. } = counts;
    Ok(WindowsLayer {
        blob,
        guid: summary.guid,
        image_size: summary.regions.iter().sum(),
        entries,
        streams,
        whiteouts,
        merged_hives,
        hive_warnings,
        lost_attributes,
        without_security,
    })
}

/// The digest is not known before the end, so the image begins under an identifier made of its name.
fn begin<S: WritableSet + Clone>(
    set: &S,
    name: &str,
    parent: Option<&str>,
    options: &WindowsOptions,
) -> Result<ImageWriter<S>> {
    let guid = Guid::for_content(format!("being written: {name}").as_bytes());
    let image = options.image.clone();
    let writer = match parent {
        Some(parent) => ImageWriter::fork(set.clone(), parent, name, guid, image),
        None => ImageWriter::create(set.clone(), name, guid, image),
    };
    writer.map_err(|error| Error::cimfs("cannot begin the image", error))
}

fn identifier(diff_id: &Digest, parent: Option<Guid>, variant: &str) -> Guid {
    let mut text = format!("windows layer {diff_id}");
    if let Some(parent) = parent {
        text += &format!(" on {parent}");
    }
    if !variant.is_empty() {
        text += &format!(" variant {variant}");
    }
    Guid::for_content(text.as_bytes())
}

struct Taken<'o, S: WritableSet> {
    intake: Intake<'o, S>,
    end: Option<End>,
}

/// Takes the tar's entries in and reads what may follow its end, which counts for the digests only.
fn take_tar<S: WritableSet>(
    chunks: Receiver<Chunk>,
    mut intake: Intake<'_, S>,
) -> Result<Taken<'_, S>> {
    let mut tar = Reader::of_windows(ChunkReader::new(chunks));
    intake.take_all(&mut tar)?;
    let end = tar.end();
    tar.into_inner().drain();
    Ok(Taken { intake, end })
}
