//! A whole tree as a program sees it, for comparing two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::oci_layout;

/// Every name below a directory, the directory itself as the empty path.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    entries: BTreeMap<PathBuf, Entry>,
}

/// What there is to see of one name.
#[derive(Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    /// Seconds and nanoseconds; those of a directory change when what is in it does.
    modified: (i64, i64),
    device: u64,
    /// SHA-256 of a file, target of a symbolic link.
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name, in their order, of the same file.
    same_as: PathBuf,
}

impl Listing {
    /// Reads everything below `root`, file contents included.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let mut this = Self::default();
        let mut first_names = BTreeMap::new();
        let mut left = vec![PathBuf::new()];
        while let Some(name) = left.pop() {
            // Joining an empty name would add a slash, which follows links.
            let path = if name.as_os_str().is_empty() { root.to_owned() } else { root.join(&name) };
            let entry = Entry::of(&path, &name)
                .with_context(|| format!("cannot look at {}", path.display()))?;
            if path.symlink_metadata()?.is_dir() {
                for child in std::fs::read_dir(&path)
                    .with_context(|| format!("cannot list {}", path.display()))?
                {
                    left.push(name.join(child?.file_name()));
                }
            }
            this.entries.insert(name, entry);
        }
        // A second walk in the order of names, so that the first name of a file does not depend on the directories'.
        for (name, entry) in &mut this.entries {
            let metadata = root.join(name).symlink_metadata()?;
            if !metadata.is_dir() && metadata.nlink() > 1 {
                entry.same_as = first_names
                    .entry((metadata.dev(), metadata.ino()))
                    .or_insert_with(|| name.clone())
                    .clone();
            }
        }
        Ok(this)
    }

    /// How many names.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// With times in whole seconds, which is what containerd's differ writes down.
    pub(crate) fn in_seconds(mut self) -> Self {
        for entry in self.entries.values_mut() {
            entry.modified.1 = 0;
        }
        self
    }

    /// Fails with the first differences. Directories of `clocked` may differ in their time.
    pub(crate) fn expect(&self, wanted: &Self, clocked: &[&str]) -> Result<()> {
        let mut differences = Vec::new();
        let names: BTreeSet<&PathBuf> = self.entries.keys().chain(wanted.entries.keys()).collect();
        for name in names {
            let (found, wanted) = (self.entries.get(name), wanted.entries.get(name));
            let mut found = found.cloned();
            if clocked.iter().any(|clocked| Path::new(clocked) == name)
                && let (Some(found), Some(wanted)) = (&mut found, wanted)
            {
                found.modified = wanted.modified;
            }
            if found.as_ref() != wanted {
                differences.push(format!("{}: {found:?}\n  instead of {wanted:?}", name.display()));
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        let count = differences.len();
        differences.truncate(10);
        bail!("{count} names differ:\n{}", differences.join("\n"))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06o} {:?} at {:?}", self.mode, self.owner, self.modified)?;
        write!(f, " device {:#x} {}", self.device, String::from_utf8_lossy(&self.content))?;
        for (name, value) in &self.xattrs {
            let value = String::from_utf8_lossy(value);
            write!(f, " {}={value:?}", String::from_utf8_lossy(name))?;
        }
        write!(f, " same as {}", self.same_as.display())
    }
}

impl Entry {
    fn of(path: &Path, name: &Path) -> Result<Self> {
        let metadata = path.symlink_metadata()?;
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            digest(path)?
        } else if kind.is_symlink() {
            std::fs::read_link(path)?.as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let is_device = kind.is_char_device() || kind.is_block_device();
        Ok(Self {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            device: if is_device { metadata.rdev() } else { 0 },
            content,
            xattrs: xattrs(path)?,
            same_as: name.to_owned(),
        })
    }
}

fn digest(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut sink = oci_layout::Hashing::new(std::io::sink());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        std::io::Write::write_all(&mut sink, &buffer[..read])?;
    }
    Ok(sink.finish().1.into_bytes())
}

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names)?;
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}
