//! Views in files, made once for each image and found again by what they are made of.

use std::fs::{self, File, OpenOptions};
use std::io::Seek as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cimfs::{DirectorySet, Image, ReadAt};
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use super::ahead::{Ahead, AheadSet};
use super::view_file::ViewFile;
use super::{VERSION, ViewSummary, cim_error, write_cim_view};
use crate::error::{Error, Result};
use crate::layer_image::image_uuid;
use crate::progress::Cancel;

/// End of the name of a view that is being made.
const UNFINISHED: &str = "unfinished";

/// A view that is there to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CimView {
    /// The view's file.
    pub path: PathBuf,
    /// Its extra devices in their order: the image's region files.
    pub devices: Vec<PathBuf>,
    /// What was written, if it was not there already.
    pub made: Option<ViewSummary>,
}

/// Finds the view of the image whose filesystem file is `image` in the directory `cache`, or makes it there. Views can
/// be deleted at any time, also while they are mounted.
///
/// A view is that of the bytes of the filesystem file, of the headers and lengths of the region files and of the
/// times at which they were written last, so it is made anew for an image that was replaced by another.
///
/// # Errors
/// As [`write_cim_view`]; `Invalid` for an image whose name is not Unicode.
pub fn view_of(image: &Path, cache: &Path, cancel: &Cancel) -> Result<CimView> {
    let doing = |what: &str| format!("cannot {what} {}", image.display());
    let absolute = image.canonicalize().map_err(|error| Error::io(doing("find"), error))?;
    let (Some(directory), Some(name)) =
        (absolute.parent(), absolute.file_name().and_then(|name| name.to_str()))
    else {
        return Err(Error::invalid(doing("take the name of")));
    };
    let set = DirectorySet::new(directory);
    let opened =
        Image::open(&AheadSet(&set), name).map_err(|error| cim_error(doing("open"), error))?;
    let devices = regions(&opened, directory);
    let (content, key) = identity(&opened, &devices)?;
    let uuid = image_uuid(&format!("cim-view:{content}"));
    let path = cache.join(format!("{key}.erofs"));
    if is_whole(&path, uuid) {
        return Ok(CimView { path, devices, made: None });
    }
    sys::file::create_private_directories(cache).map_err(|error| {
        Error::sys(format!("cannot make the directory {}", cache.display()), error)
    })?;
    remove_unfinished(cache);
    let unfinished = Unfinished::create(&path)?;
    let file = &unfinished.file;
    let sink = || {
        file.set_len(0)?;
        (&*file).rewind()?;
        ViewFile::new(file)
    };
    let (_, summary) = write_cim_view(&opened, uuid, sink, cancel)?;
    unfinished.finish(&path)?;
    Ok(CimView { path, devices, made: Some(summary) })
}

/// The files of an image's regions in the order of their indexes.
fn regions<R: ReadAt>(image: &Image<R>, directory: &Path) -> Vec<PathBuf> {
    let names = (0..=u16::MAX).map_while(|index| image.region_name(index));
    names.map(|name| directory.join(name)).collect()
}

/// Digests of what a view is made of, and of that with the times of the files.
fn identity(image: &Image<Ahead>, regions: &[PathBuf]) -> Result<(String, String)> {
    let mut content = Sha256::new();
    content.update(VERSION.to_le_bytes());
    content.update(image.header().as_bytes());
    content.update(image.parents().as_bytes());
    let mut times = Sha256::new();
    for (index, path) in (0..=u16::MAX).zip(regions) {
        let Some(file) = image.region(index) else { break };
        let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
        let mut header = [0; size_of::<cimfs::format::RegionHeader>()];
        let got = file.read_at(&mut header, 0).map_err(failed)?;
        content.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        content.update(image.region_length(index).unwrap_or(0).to_le_bytes());
        content.update(&header[..got]);
        let metadata = file.file().metadata().map_err(failed)?;
        let (seconds, nanoseconds) = since_epoch(metadata.modified().map_err(failed)?);
        times.update(seconds.to_le_bytes());
        times.update(i64::from(nanoseconds).to_le_bytes());
    }
    let content = content.finalize();
    times.update(content);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok((hex(&content), hex(&times.finalize()[..16])))
}

/// Seconds, rounded down, and nanoseconds, as file systems keep them.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (-seconds, 0),
                nanoseconds => (-seconds - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

/// Whether a view was written to its end: what is there under its name always was, unless somebody cut it.
fn is_whole(path: &Path, uuid: [u8; 16]) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(length) = file.metadata().map(|metadata| metadata.len()) else { return false };
    erofs::Image::open(&file).is_ok_and(|view| {
        let blocks = u64::from(view.superblock().blocks.get());
        view.uuid() == uuid && blocks * view.block_size() == length
    })
}

/// A view on its way, removed unless it is finished. Whoever writes it holds its lock.
struct Unfinished {
    file: File,
    path: PathBuf,
    named: bool,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = target.with_extension(format!("{process}-{number}.{UNFINISHED}"));
        let failed = |error| Error::io(format!("cannot make {}", path.display()), error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = sys::file::set_mode(&mut options, 0o600).open(&path).map_err(failed)?;
        file.try_lock().map_err(|error| failed(error.into()))?;
        Ok(Self { file, path, named: false })
    }

    fn finish(mut self, target: &Path) -> Result<()> {
        let failed = |error| Error::io(format!("cannot write {}", target.display()), error);
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.path, target).map_err(failed)?;
        self.named = true;
        let directory = target.parent().unwrap_or(Path::new("."));
        sys::file::sync_directory(directory)
            .map_err(|error| Error::sys(format!("cannot write {}", target.display()), error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.named {
            // Whoever makes the next view removes what stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what processes that died have left. What cannot be removed harms nobody.
fn remove_unfinished(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        // Between being made and being locked a file looks abandoned too.
        if path.extension().is_some_and(|extension| extension == UNFINISHED)
            && age > Duration::from_secs(60)
            && File::open(&path).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_file(path);
        }
    }
}
