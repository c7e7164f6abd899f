//! Files that must survive a power cut, locks that name their holder, and what a tree costs on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::error::{Error, Result};

fn failed(call: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let call = format!("{call}({})", path.display());
    move |source| Error::new(call, source)
}

/// Creates a file that must not exist yet, open for reading and writing, with this mode (less the umask).
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("open", path))
}

/// Creates one directory with exactly this mode, whatever the umask.
pub fn create_directory(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().mode(mode).create(path).map_err(failed("mkdir", path))?;
    // mkdir(2) takes the umask away; most callers' umask leaves these modes alone and the second call out.
    let now = fs::symlink_metadata(path).map_err(failed("stat", path))?.mode() & 0o7777;
    if now == mode {
        return Ok(());
    }
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))
        .map_err(|errno| failed("chmod", path)(errno.into()))
}

/// Whether a directory is as [`create_directory`] with this mode leaves one: empty, ours, without xattrs. Its times may
/// differ.
pub fn is_like_new(path: &Path, mode: u32) -> Result<bool> {
    use rustix::fs::OFlags;
    let fail =
        |call: &'static str| move |errno: rustix::io::Errno| failed(call, path)(errno.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(fail("open"))?;
    let stat = rustix::fs::fstat(&directory).map_err(fail("stat"))?;
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if stat.st_mode & 0o7777 != mode || (stat.st_uid, stat.st_gid) != ours {
        return Ok(false);
    }
    let mut names = [0; 1];
    match rustix::fs::flistxattr(&directory, &mut names) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => {}
        Ok(_) | Err(rustix::io::Errno::RANGE) => return Ok(false),
        Err(errno) => return Err(fail("listxattr")(errno)),
    }
    let mut buffer = Vec::with_capacity(512);
    let mut entries = rustix::fs::RawDir::new(&directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(fail("readdir"))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives a file all blocks up to `length` bytes; what it has stays as it is.
///
/// # Errors
/// `Unsupported` where the file system cannot, `StorageFull`.
pub fn allocate(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length)?;
    Ok(())
}

/// Asks the kernel to read a part of a file soon, without waiting for it. What comes of that is only a matter of speed.
pub fn read_ahead(file: &File, offset: u64, length: u64) {
    let advice = rustix::fs::Advice::WillNeed;
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(length), advice);
}

/// Sets the times of a file's last change and access to now.
pub fn set_times_to_now(path: &Path) -> Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)
        .map_err(|errno| failed("utimensat", path)(errno.into()))
}

/// Makes a file's data and length durable.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(failed("fsync", path))
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("fsync", path))
}

/// Makes everything on the file system that holds `path` durable.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(failed("open", path))?;
    rustix::fs::syncfs(&file).map_err(|errno| failed("syncfs", path)(errno.into()))
}

/// Renames within one file system; an existing file at `to` is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| {
        Error::new(format!("rename({}, {})", from.display(), to.display()), source)
    })
}

/// An exclusive or shared `flock(2)` on a file, released on drop or death.
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed("open", path))?;
        let Some(mut lock) =
            Self::wait_for(file, path, FlockOperation::NonBlockingLockExclusive, wait)?
        else {
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
        Ok(match Self::wait_for(file, path, FlockOperation::NonBlockingLockShared, wait)? {
            Some(lock) => Acquired::Held(lock),
            None => Acquired::Busy(Self::holder(path)),
        })
    }

    /// `flock(2)` has no time limit, so this asks again with growing pauses.
    fn wait_for(
        file: File,
        path: &Path,
        operation: FlockOperation,
        wait: Duration,
    ) -> Result<Option<Self>> {
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Some(Self { file })),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(errno) => return Err(failed("flock", path)(errno.into())),
            }
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
        match (self.file.metadata(), fs::symlink_metadata(path)) {
            (Ok(ours), Ok(theirs)) => ours.dev() == theirs.dev() && ours.ino() == theirs.ino(),
            _ => false,
        }
    }
}

/// What a tree costs: bytes allocated (not lengths) and inodes, a hard-linked file counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    /// Bytes allocated on disk, in units of 512 as `stat(2)` reports them.
    pub bytes: u64,
    /// Inodes, the tree's root included.
    pub inodes: u64,
}

/// Adds up a file or tree without following symbolic links. Entries that vanish while it runs are left out.
pub fn disk_usage(path: &Path) -> Result<DiskUsage> {
    let mut usage = DiskUsage::default();
    let mut linked = std::collections::HashSet::new();
    let root = fs::symlink_metadata(path).map_err(failed("stat", path))?;
    let mut directories = Vec::new();
    let mut add = |metadata: &fs::Metadata| {
        if metadata.is_dir()
            || metadata.nlink() == 1
            || linked.insert((metadata.dev(), metadata.ino()))
        {
            usage.bytes += metadata.blocks() * 512;
            usage.inodes += 1;
        }
    };
    add(&root);
    if root.is_dir() {
        directories.push(path.to_owned());
    }
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != path => continue,
            Err(error) => return Err(failed("opendir", &directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed("readdir", &directory))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("stat", &entry.path())(error)),
            };
            add(&metadata);
            // Another file system mounted inside is not part of what this tree costs.
            if metadata.is_dir() && metadata.dev() == root.dev() {
                directories.push(entry.path());
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

/// `length` bytes from `getrandom(2)` as hexadecimal digits, for temporary names.
pub fn random_name(length: usize) -> Result<String> {
    let mut bytes = vec![0u8; length];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| Error::new(format!("getrandom({length})"), errno))?;
    }
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
        fs::remove_file(&path).unwrap();
        match shared {
            Acquired::Held(lock) => assert!(!lock.is_at(&path)),
            Acquired::Busy(_) => unreachable!(),
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
        std::os::unix::fs::symlink("/", tree.join("out")).unwrap();
        let sparse = File::create(tree.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let all = disk_usage(&tree).unwrap();
        assert_eq!(all.inodes, 4);
        assert!(all.bytes < 1 << 20, "a hole costs nothing: {all:?}");
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(Path::new("/").exists());
    }

    #[test]
    fn modes_are_exact() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        create_directory(&path, 0o777).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
        assert!(create_directory(&path, 0o755).is_err());
        let file = create_new(&directory.path().join("f"), 0o600).unwrap();
        sync_file(&file, &path).unwrap();
        sync_directory(directory.path()).unwrap();
        sync_file_system(directory.path()).unwrap();
        assert_eq!(
            create_new(&directory.path().join("f"), 0o600).unwrap_err().io_kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(random_name(8).unwrap().len(), 16);
    }
}
