//! Importing container images: archives in, layers and images in the store out.
//!
//! ```text
//!  open archives ──▶ plan: which layers are there? ──▶ convert the others ──▶ commit, image by image
//!   (no store)          (store open, briefly)           (no store, parallel)    (store open, briefly)
//! ```
//!
//! What grows, grows in a [`Staging`] directory, so that the store stays free for others. Each image is committed in
//! one transaction: its layers, snapshots, documents and names are all there or none of them. Nothing is committed
//! unless every layer of every image of the call was converted; after that, a failing commit leaves the images
//! before it in place. What a failed, cancelled or killed import leaves in `staging/` or `layers/` goes with the
//! import itself, or with the next opening of the store.

mod commit;
mod convert;
mod plan;
mod progress;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Read;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use layer::archive::{Archive, Platform};
use layer::{Cancel, Digest};
use serde::{Deserialize, Serialize};

pub use self::progress::{Event, PlannedLayer, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::layers::LayerId;
use crate::reference::canonical_reference;
use crate::staging::Staging;
use crate::store::{OpenOptions, Store};

/// What to import.
pub enum Source {
    /// An archive, or the directory of an OCI image layout.
    Path(PathBuf),
    /// The same, opened already by whoever may read it: `/proc/self/fd/N`.
    Opened {
        /// What to call it in messages.
        name: PathBuf,
        /// Where it is found.
        path: PathBuf,
    },
    /// Something that is read once, such as standard input.
    Reader {
        /// What to call it in messages.
        name: String,
        /// The bytes of an archive.
        reader: Box<dyn Read + Send>,
    },
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Path(path) | Self::Opened { name: path, .. } => path.display().to_string(),
            Self::Reader { name, .. } => name.clone(),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.name())
    }
}

/// How to import.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImportOptions {
    /// Names for the images, in their order, instead of those that the archives give; empty: the archives' names.
    pub references: Vec<String>,
    /// The platform to take of images for several; `None`: the host's.
    pub platform: Option<Platform>,
    /// The image on which bare layers are stacked.
    pub base: Option<String>,
    /// Most bytes that an uncompressed layer, and an archive that must be copied to be read, may have.
    pub max_size: Option<u64>,
    /// Most layers to convert at a time; `None`: as many as there are processors.
    pub jobs: Option<NonZeroUsize>,
    /// How long to wait for another process that has the store open.
    pub wait: Duration,
    /// Make the layers' hash trees, too: see [`Store::seal_layer`].
    #[serde(default)]
    pub verity: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            references: Vec::new(),
            platform: None,
            base: None,
            max_size: None,
            jobs: None,
            wait: OpenOptions::default().wait,
            verity: false,
        }
    }
}

/// An image that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedImage {
    /// Its names in the store, at least one.
    pub references: Vec<String>,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Digest of its config.
    pub config: Digest,
    /// The platform that it is for.
    pub platform: Platform,
    /// Its layers, base first.
    pub layers: Vec<ImportedLayer>,
    /// Its committed snapshots (the chainIDs), base first.
    pub chain: Vec<String>,
}

/// A layer of an imported image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedLayer {
    /// What the archive calls it.
    pub label: String,
    /// Its id in the store.
    pub id: LayerId,
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Digest of its blob; `None` if it was reused and the archive does not say.
    pub digest: Option<Digest>,
    /// Length of its blob in bytes; `None` likewise.
    pub size: Option<u64>,
    /// Length of its uncompressed tar in bytes.
    pub tar_size: u64,
    /// Length of its layer image in bytes.
    pub image_size: u64,
    /// It was not converted: the store had it, or the same layer came before.
    pub reused: bool,
    /// How long its conversion took, its fsync included.
    pub elapsed: Duration,
}

/// Imports all images of all sources into the store at `root`, which is made if there is none.
///
/// When this returns, everything is durable. Images that have no name in their archive are named by their
/// manifest's digest. An image that has a name of another is replaced under that name.
///
/// # Errors
/// `NotFound` for a missing file or base; `Corrupt` for a damaged archive or one that is not what its digests
/// promise; `NeedsBase`; `Unsupported` for images of other platforms and layers of unknown kinds; `Invalid`, `TooLarge`,
/// `Cancelled`; and those of [`Store::open`].
pub fn import(
    root: &Path,
    sources: Vec<Source>,
    options: &ImportOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<ImportedImage>> {
    perform(&Target::Root(root), sources, options, progress, cancel)
}

/// As [`import`], into a store that is open and stays so.
///
/// # Errors
/// As [`import`], but for those of [`Store::open`].
pub fn import_into(
    store: &Store,
    sources: Vec<Source>,
    options: &ImportOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<ImportedImage>> {
    perform(&Target::Open(store), sources, options, progress, cancel)
}

/// Where to import to.
enum Target<'a> {
    /// The store of this directory, which is open only while its metadata is needed.
    Root(&'a Path),
    Open(&'a Store),
}

/// A store that is open for now.
enum Access<'a> {
    Own(Box<Store>),
    Given(&'a Store),
}

impl Target<'_> {
    fn root(&self) -> &Path {
        match self {
            Self::Root(root) => root,
            Self::Open(store) => store.root(),
        }
    }

    fn open(&self, wait: Duration) -> Result<Access<'_>> {
        Ok(match self {
            Self::Root(root) => {
                let options = OpenOptions { wait, ..OpenOptions::default() };
                Access::Own(Box::new(Store::open(root, options)?))
            }
            Self::Open(store) => Access::Given(store),
        })
    }
}

impl Deref for Access<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        match self {
            Self::Own(store) => store,
            Self::Given(store) => store,
        }
    }
}

fn perform(
    target: &Target<'_>,
    sources: Vec<Source>,
    options: &ImportOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<ImportedImage>> {
    let references = options.references.iter().map(|name| canonical_reference(name));
    let references = references.collect::<Result<Vec<_>>>()?;
    check_platform(options.platform.as_ref())?;
    let root = target.root();
    let open = || target.open(options.wait);
    let staging = match Staging::new(root) {
        // There is no store: opening makes one.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            drop(open()?);
            Staging::new(root)?
        }
        staging => staging?,
    };
    let archives = open_archives(sources, &staging, options, cancel)?;
    let mut plan = plan::Plan::new(&archives, options)?;
    plan.name(references)?;
    {
        let store = open()?;
        plan.compare(&store, &staging, options)?;
    }
    drop(archives);
    progress.report(&Event::Planned { layers: &plan.layers() });
    let layers = convert::convert(&plan, &staging, options, progress, cancel)?;
    cancel.check().map_err(|error| Error::layer("importing", error))?;
    let images = commit::Ready::of(plan, layers)?;
    progress.report(&Event::Committing { images: images.len() });
    let store = open()?;
    let mut imported = Vec::new();
    for image in images {
        let image = store.take_image(&staging, image)?;
        if options.verity {
            for layer in &image.layers {
                cancel.check().map_err(|error| Error::layer("making hash trees", error))?;
                store.seal_layer(&layer.id)?;
            }
        }
        progress.report(&Event::Committed { image: &image });
        imported.push(image);
    }
    Ok(imported)
}

/// An opened archive and what to call it.
struct Opened {
    name: String,
    archive: Archive,
}

fn open_archives(
    sources: Vec<Source>,
    staging: &Staging,
    options: &ImportOptions,
    cancel: &Cancel,
) -> Result<Vec<Opened>> {
    let number = AtomicUsize::new(0);
    let spool = || {
        let name = format!("archive-{}", number.fetch_add(1, Ordering::Relaxed));
        let file = staging.create(&name).map_err(std::io::Error::other)?;
        // Without a name it is gone as soon as nobody reads it any more.
        std::fs::remove_file(staging.path().join(name))?;
        Ok(file)
    };
    let open = layer::archive::OpenOptions { spool: &spool, max_size: options.max_size, cancel };
    let open_one = |source: Source| {
        let name = source.name();
        let archive = match source {
            Source::Path(path) => Archive::open(&path, &open),
            Source::Opened { name, path } => Archive::open_shown(&path, &name, &open),
            Source::Reader { reader, .. } => Archive::from_reader(reader, &open),
        };
        let archive = archive.map_err(|error| Error::layer(format!("importing {name}"), error))?;
        Ok(Opened { name, archive })
    };
    sources.into_iter().map(open_one).collect()
}

/// The OS whose layers become CIMs.
const WINDOWS: &str = "windows";

/// EROFS holds Linux file systems, CIMs those of Windows.
fn check_platform(platform: Option<&Platform>) -> Result<()> {
    match platform {
        Some(platform) if !["linux", WINDOWS].contains(&platform.os.as_str()) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("images for {platform} cannot be imported, only those for linux and windows"),
        )),
        _ => Ok(()),
    }
}
