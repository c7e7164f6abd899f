//! Files that must survive a power cut, locks that name their holder, and what a tree costs on disk.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

#[cfg(target_os = "linux")]
pub use linux::{is_writable, sync_file_system};

fn failed(call: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let call = format!("{call}({})", path.display());
    move |source| Error::new(call, source)
}

/// Creates a file that must not exist yet, open for reading and writing, with this mode (less the umask). On Windows
/// the directory decides who may do what.
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    let mut options = OpenOptions::new();
    imp::set_mode(options.read(true).write(true).create_new(true), mode)
        .open(path)
        .map_err(failed("open", path))
}

/// Options for opening a file that get this mode (less the umask) if they make it. On Windows the directory decides.
pub fn set_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    imp::set_mode(options, mode)
}

/// Creates one directory with exactly this mode, whatever the umask. On Windows it takes the rights of its parent.
pub fn create_directory(path: &Path, mode: u32) -> Result<()> {
    imp::create_directory(path, mode)
}

/// Creates a directory for its owner alone (less the umask), and those above it; one that is there is fine. On Windows it
/// takes the rights of its parent.
pub fn create_private_directories(path: &Path) -> Result<()> {
    imp::create_private_directories(path).map_err(failed("mkdir", path))
}

/// Whether a directory is as [`create_directory`] with this mode leaves one: empty, ours, without xattrs. Its times may
/// differ.
///
/// On Windows: whether it is empty.
pub fn is_like_new(path: &Path, mode: u32) -> Result<bool> {
    imp::is_like_new(path, mode)
}

/// Gives a file all blocks up to `length` bytes; what it has stays as it is.
///
/// # Errors
/// `Unsupported` where the file system cannot, `StorageFull`.
pub fn allocate(file: &File, length: u64) -> io::Result<()> {
    imp::allocate(file, length)
}

/// Asks the kernel to read a part of a file soon, without waiting for it. What comes of that is only a matter of speed.
pub fn read_ahead(file: &File, offset: u64, length: u64) {
    imp::read_ahead(file, offset, length);
}

/// Sets the times of a file's last change and access to now.
pub fn set_times_to_now(path: &Path) -> Result<()> {
    imp::set_times_to_now(path)
}

/// Opens a file of ours for [`sync_file`] and for its length: `fsync(2)` takes any descriptor, Windows flushes only what
/// may write.
pub fn open_to_sync(path: &Path) -> io::Result<File> {
    imp::open_to_sync(path)
}

/// Makes a file's data and length durable.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(failed("fsync", path))
}

/// Makes the names in a directory durable.
///
/// On Windows the directory is flushed where the file system lets us open it for that; where it does not, its names are
/// as durable as its own journal makes them.
pub fn sync_directory(path: &Path) -> Result<()> {
    imp::sync_directory(path).map_err(failed("fsync", path))
}

/// Renames within one file system; an existing file at `to` is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| {
        Error::new(format!("rename({}, {})", from.display(), to.display()), source)
    })
}

/// An exclusive or shared lock on a file (`flock(2)`, on Windows `LockFileEx`), released on drop or death.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// What [`Lock::acquire`] found.
#[derive(Debug)]
pub enum Acquired {
    /// We hold it.
    Held(Lock),
    /// Somebody else holds it; their process id if they wrote one.
    Busy(Option<u32>),
}

impl Lock {
    /// Takes the lock on `path`, created if missing, waiting at most `wait`; the holder's process id is written into
    /// the file so that others can name it.
    pub fn acquire(path: &Path, wait: Duration) -> Result<Acquired> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = imp::set_mode(&mut options, 0o600).open(path).map_err(failed("open", path))?;
        let Some(mut lock) = Self::wait_for(file, path, Sharing::Exclusive, wait)? else {
            return Ok(Acquired::Busy(Self::holder(path)));
        };
        lock.file
            .set_len(0)
            .and_then(|()| lock.file.rewind())
            .and_then(|()| writeln!(lock.file, "{}", std::process::id()))
            .map_err(failed("write", path))?;
        Ok(Acquired::Held(lock))
    }

    /// Takes a shared lock on an existing file that may be on a read-only file system.
    pub fn acquire_shared(path: &Path, wait: Duration) -> Result<Acquired> {
        let file = File::open(path).map_err(failed("open", path))?;
        Ok(match Self::wait_for(file, path, Sharing::Shared, wait)? {
            Some(lock) => Acquired::Held(lock),
            None => Acquired::Busy(Self::holder(path)),
        })
    }

    /// Neither system's lock has a time limit, so this asks again with growing pauses.
    fn wait_for(file: File, path: &Path, sharing: Sharing, wait: Duration) -> Result<Option<Self>> {
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        loop {
            if imp::try_lock(&file, sharing).map_err(failed("lock", path))? {
                return Ok(Some(Self { file }));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn holder(path: &Path) -> Option<u32> {
        let mut text = String::new();
        File::open(path).ok()?.take(32).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Whether `path` still names the file that is locked: it does not when somebody removed or replaced it between
    /// our open and our lock.
    pub fn is_at(&self, path: &Path) -> bool {
        imp::is_at(&self.file, path).unwrap_or(false)
    }
}

/// Which file a name leads to: as long as the file exists no other has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    volume: u64,
    number: u128,
}

impl FileIdentity {
    /// The volume's number and the file's on it, for another process to compare.
    pub fn parts(self) -> (u64, u128) {
        (self.volume, self.number)
    }
}

/// Which file is at `path`, a symbolic link itself.
///
/// # Errors
/// If nothing is there.
pub fn identity(path: &Path) -> io::Result<FileIdentity> {
    imp::identity_at(path)
}

/// Opens a file or a block device that holds a disk's content; `None` for what is neither. Neither a FIFO nor a tape
/// drive makes us wait.
///
/// # Errors
/// Those of opening.
pub fn open_disk(path: &Path, write: bool) -> io::Result<Option<File>> {
    imp::open_disk(path, write)
}

/// Whether a path, links followed, is that of a disk of the machine: a block device, `\\.\PhysicalDriveN`.
///
/// # Errors
/// If nothing is there.
pub fn is_physical_disk(path: &Path) -> io::Result<bool> {
    imp::is_physical_disk(path)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Shared,
}

/// What a tree costs: bytes allocated (not lengths) and inodes, a hard-linked file counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    /// Bytes allocated on disk, in units of 512 as `stat(2)` reports them; of clusters on Windows.
    pub bytes: u64,
    /// Inodes, the tree's root included.
    pub inodes: u64,
}

/// What one file or directory costs, and which it is.
struct Cost {
    bytes: u64,
    directory: bool,
    volume: u64,
    identity: u128,
    links: u64,
}

/// Adds up a file or tree without following symbolic links. Entries that vanish while it runs are left out.
pub fn disk_usage(path: &Path) -> Result<DiskUsage> {
    let mut usage = DiskUsage::default();
    let mut linked = std::collections::HashSet::new();
    let root = imp::cost(path).map_err(failed("stat", path))?;
    let mut directories = Vec::new();
    let mut add = |cost: &Cost| {
        if cost.directory || cost.links == 1 || linked.insert((cost.volume, cost.identity)) {
            usage.bytes += cost.bytes;
            usage.inodes += 1;
        }
    };
    add(&root);
    if root.directory {
        directories.push(path.to_owned());
    }
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != path => continue,
            Err(error) => return Err(failed("opendir", &directory)(error)),
        };
        for entry in entries {
            let path = entry.map_err(failed("readdir", &directory))?.path();
            let cost = match imp::cost(&path) {
                Ok(cost) => cost,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("stat", &path)(error)),
            };
            add(&cost);
            // Another file system mounted inside is not part of what this tree costs.
            if cost.directory && cost.volume == root.volume {
                directories.push(path);
            }
        }
    }
    Ok(usage)
}

/// Removes a file or a whole tree, symbolic links not followed; nothing there is fine.
pub fn remove_tree(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("remove", path)),
    }
}

/// `length` random bytes of the system's as hexadecimal digits, for temporary names.
pub fn random_name(length: usize) -> Result<String> {
    let mut bytes = vec![0u8; length];
    imp::fill_random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_and_names_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = match Lock::acquire(&path, Duration::ZERO).unwrap() {
            Acquired::Held(lock) => lock,
            Acquired::Busy(_) => panic!("nobody else knows this file"),
        };
        assert!(held.is_at(&path));
        // flock belongs to the open file, so a second open in this process is a stranger.
        let before = Instant::now();
        match Lock::acquire(&path, Duration::from_millis(30)).unwrap() {
            Acquired::Busy(pid) => assert_eq!(pid, Some(std::process::id())),
            Acquired::Held(_) => panic!("two holders"),
        }
        assert!(before.elapsed() >= Duration::from_millis(30));
        assert!(matches!(Lock::acquire_shared(&path, Duration::ZERO).unwrap(), Acquired::Busy(_)));
        drop(held);
        let shared = Lock::acquire_shared(&path, Duration::ZERO).unwrap();
        assert!(matches!(shared, Acquired::Held(_)));
        assert!(matches!(Lock::acquire_shared(&path, Duration::ZERO).unwrap(), Acquired::Held(_)));
        drop(shared);
    }

    #[test]
    fn a_lock_is_not_at_a_path_whose_file_was_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        match Lock::acquire(&path, Duration::ZERO).unwrap() {
            Acquired::Held(lock) => {
                assert!(lock.is_at(&path));
                fs::remove_file(&path).unwrap();
                assert!(!lock.is_at(&path));
            }
            Acquired::Busy(_) => panic!("nobody else knows this file"),
        }
    }

    #[test]
    fn waiting_gets_the_lock_when_it_is_freed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = Lock::acquire(&path, Duration::ZERO).unwrap();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(40));
            drop(held);
        });
        assert!(matches!(
            Lock::acquire(&path, Duration::from_secs(10)).unwrap(),
            Acquired::Held(_)
        ));
        thread.join().unwrap();
    }

    #[test]
    fn usage_counts_blocks_and_hard_links_once() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("t");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), vec![7u8; 100_000]).unwrap();
        let one = disk_usage(&tree).unwrap();
        assert_eq!(one.inodes, 2);
        assert!(one.bytes >= 100_000);
        fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
        let two = disk_usage(&tree).unwrap();
        assert_eq!((two.inodes, two.bytes - one.bytes < 10_000), (2, true));
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(directory.path().exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn holes_cost_nothing_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("t");
        fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink("/", tree.join("out")).unwrap();
        let sparse = File::create(tree.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let all = disk_usage(&tree).unwrap();
        assert_eq!(all.inodes, 3);
        assert!(all.bytes < 1 << 20, "a hole costs nothing: {all:?}");
        remove_tree(&tree).unwrap();
        assert!(Path::new("/").exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn modes_are_exact() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        create_directory(&path, 0o777).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
        sync_file_system(directory.path()).unwrap();
    }

    #[test]
    fn what_is_made_is_made_once_and_synced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        create_directory(&path, 0o700).unwrap();
        assert!(create_directory(&path, 0o755).is_err());
        assert!(is_like_new(&path, 0o700).unwrap());
        create_private_directories(&path.join("deeper/still")).unwrap();
        create_private_directories(&path.join("deeper/still")).unwrap();
        assert!(!is_like_new(&path, 0o700).unwrap());
        let old = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        set_times_to_now(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > old);
        let file = create_new(&directory.path().join("f"), 0o600).unwrap();
        allocate(&file, 70_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 70_000);
        allocate(&file, 10).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 70_000);
        sync_file(&file, &path).unwrap();
        sync_directory(directory.path()).unwrap();
        assert_eq!(
            create_new(&directory.path().join("f"), 0o600).unwrap_err().io_kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(random_name(8).unwrap().len(), 16);
        assert_ne!(random_name(8).unwrap(), random_name(8).unwrap());
    }

    #[test]
    fn a_rename_replaces_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        rename(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        assert!(!from.exists());
    }

    #[test]
    fn a_file_is_known_by_its_identity() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        fs::write(&one, "1").unwrap();
        fs::write(&other, "2").unwrap();
        let before = identity(&one).unwrap();
        assert_ne!(before, identity(&other).unwrap());
        fs::rename(&one, directory.path().join("moved")).unwrap();
        assert_eq!(before, identity(&directory.path().join("moved")).unwrap());
        assert!(identity(&one).is_err());
        assert!(open_disk(&other, true).unwrap().is_some());
        assert!(!is_physical_disk(&other).unwrap());
        assert!(is_physical_disk(&one).is_err());
    }

    #[test]
    fn long_paths_are_like_others() {
        let directory = tempfile::tempdir().unwrap();
        let long =
            directory.path().join("a".repeat(120)).join("b".repeat(120)).join("c".repeat(120));
        create_private_directories(&long).unwrap();
        let file = long.join("file");
        create_new(&file, 0o600).unwrap().write_all(b"text").unwrap();
        rename(&file, &long.join("other")).unwrap();
        sync_directory(&long).unwrap();
        assert_eq!(disk_usage(&long).unwrap().inodes, 2);
        match Lock::acquire(&long.join("lock"), Duration::ZERO).unwrap() {
            Acquired::Held(lock) => assert!(lock.is_at(&long.join("lock"))),
            Acquired::Busy(_) => panic!("nobody else knows this file"),
        }
        remove_tree(&directory.path().join("a".repeat(120))).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
