//! What this kernel can do, found by doing it: nothing is concluded from version numbers alone, and nothing
//! that a probe makes outlives it.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{
    DetachedMount, FsContext, LoopDevice, LoopOptions, MountAttributes, MountTable, Result,
};

/// What a probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Name of the feature, for people and machines.
    pub name: &'static str,
    /// It works; `None` if that could not be found out.
    pub works: Option<bool>,
    /// What was done and what came of it.
    pub evidence: String,
}

/// Version of the running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelVersion {
    /// The first two numbers, if the release starts with them.
    pub number: Option<(u32, u32)>,
    /// The whole release, as `uname -r` prints it.
    pub release: String,
}

impl KernelVersion {
    /// Of the running kernel.
    pub fn running() -> Self {
        Self::of(rustix::system::uname().release().to_string_lossy().into_owned())
    }

    fn of(release: String) -> Self {
        let mut parts = release.split(|character: char| !character.is_ascii_digit());
        let mut next = || parts.next()?.parse().ok();
        let number = next().zip(next());
        Self { number, release }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.release)
    }
}

/// How this host mounts its control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupLayout {
    /// Version 1 controllers only.
    Legacy,
    /// Version 1 controllers, and a version 2 tree beside them, which some runtimes refuse.
    Hybrid,
    /// Version 2 only.
    Unified,
    /// None are mounted.
    None,
}

impl fmt::Display for CgroupLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "v1",
            Self::Hybrid => "hybrid (v1 controllers, v2 beside them)",
            Self::Unified => "v2",
            Self::None => "not mounted",
        })
    }
}

impl CgroupLayout {
    /// Of the calling thread's mount namespace, with the mount points that show it.
    ///
    /// # Errors
    /// Those of reading the mount table.
    pub fn of_host() -> Result<(Self, String)> {
        Ok(Self::in_table(&MountTable::read()?))
    }

    fn in_table(table: &MountTable) -> (Self, String) {
        let points = |file_system: &str| {
            let entries = table.entries().iter().filter(|entry| entry.file_system == file_system);
            entries.map(|entry| entry.mount_point.display().to_string()).collect::<Vec<_>>()
        };
        let (old, new) = (points("cgroup"), points("cgroup2"));
        let layout = match (old.is_empty(), new.is_empty()) {
            (true, true) => Self::None,
            (true, false) => Self::Unified,
            (false, true) => Self::Legacy,
            (false, false) => Self::Hybrid,
        };
        (layout, format!("{} cgroup mounts, cgroup2 at [{}]", old.len(), new.join(", ")))
    }
}

/// Everything that Plywood's ways of mounting depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Version of the kernel.
    pub kernel: KernelVersion,
    /// The kernel has EROFS.
    pub erofs: Probe,
    /// It mounts an EROFS file without a loop device (Linux 6.12).
    pub erofs_by_file: Probe,
    /// … reading past the image's page cache, so that nothing is cached twice (Linux 6.12).
    pub erofs_direct_io: Probe,
    /// The kernel has loop devices.
    pub loop_device: Probe,
    /// The kernel has overlayfs.
    pub overlay: Probe,
    /// It takes layers one by one (Linux 6.5).
    pub overlay_lower_appending: Probe,
    /// It takes them as descriptors (Linux 6.13).
    pub overlay_descriptors: Probe,
    /// The probed directory's file system can hold an overlay's upper directory.
    pub overlay_upper: Probe,
    /// A process can make a user namespace.
    pub user_namespaces: Probe,
    /// How control groups are mounted.
    pub cgroups: CgroupLayout,
    /// The mount points that show it.
    pub cgroup_evidence: String,
}

impl Features {
    /// Probes the kernel. `directory` must exist and be writable; the probes put their files in a directory
    /// of their own in it and remove it. It should be on the file system that images will be on, because it
    /// depends on that one whether they need loop devices.
    ///
    /// # Errors
    /// Those of making the directory and reading the mount table; what a probe meets is its answer.
    pub fn probe(directory: &Path) -> Result<Self> {
        let place = Place::new(directory)?;
        let (cgroups, cgroup_evidence) = CgroupLayout::of_host()?;
        Ok(Self {
            kernel: KernelVersion::running(),
            erofs: has_file_system("erofs", "erofs"),
            erofs_by_file: place.erofs_by_file("erofs-by-file", false),
            erofs_direct_io: place.erofs_by_file("erofs-direct-io", true),
            loop_device: place.loop_device(),
            overlay: has_file_system("overlay", "overlay"),
            overlay_lower_appending: place.overlay("overlay-lower-appending", Lower::Text, false),
            overlay_descriptors: place.overlay("overlay-descriptors", Lower::Descriptor, false),
            overlay_upper: place.overlay("overlay-upper", Lower::Text, true),
            user_namespaces: user_namespaces(),
            cgroups,
            cgroup_evidence,
        })
    }

    /// All probes, in a fixed order.
    pub fn probes(&self) -> [&Probe; 9] {
        [
            &self.erofs,
            &self.erofs_by_file,
            &self.erofs_direct_io,
            &self.loop_device,
            &self.overlay,
            &self.overlay_lower_appending,
            &self.overlay_descriptors,
            &self.overlay_upper,
            &self.user_namespaces,
        ]
    }
}

#[derive(Clone, Copy)]
enum Lower {
    Text,
    Descriptor,
}

/// The probes' directory, removed with everything in it.
struct Place(PathBuf);

impl Place {
    fn new(directory: &Path) -> Result<Self> {
        let path = directory.join(format!(".probe-{}", std::process::id()));
        let failed = |source| crate::Error::new(format!("mkdir({})", path.display()), source);
        // Left by a killed process of the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(failed)?;
        let place = Self(path);
        for name in ["lower", "lower2", "fs", "work"] {
            let path = place.0.join(name);
            let failed = |source| crate::Error::new(format!("mkdir({})", path.display()), source);
            fs::create_dir(&path).map_err(failed)?;
        }
        Ok(place)
    }

    fn image(&self) -> Result<PathBuf> {
        let path = self.0.join("probe.erofs");
        let failed = |source| crate::Error::new(format!("write({})", path.display()), source);
        fs::write(&path, tiny_image()).map_err(failed)?;
        Ok(path)
    }

    fn erofs_by_file(&self, name: &'static str, direct_io: bool) -> Probe {
        let options = if direct_io { " with directio" } else { "" };
        let done = self.image().and_then(|image| {
            let context = FsContext::open("erofs")?;
            context.set_string("source", &image)?;
            if direct_io {
                context.set_flag("directio")?;
            }
            context.create()?;
            context.mount(read_only()).and_then(|mount| see_root(&mount))
        });
        answer(name, &format!("mounted an image file{options}"), done)
    }

    fn loop_device(&self) -> Probe {
        let done = self.image().and_then(|image| {
            let failed = |source| crate::Error::new(format!("open({})", image.display()), source);
            let file = File::open(&image).map_err(failed)?;
            let options = LoopOptions { read_only: true, direct_io: false, block_size: 0 };
            let device = LoopDevice::attach(&file, &image, &options)?;
            // Reading shows that the file is behind the device.
            let path = device.path();
            let mut start = vec![0; 2048];
            let failed = |source| crate::Error::new(format!("read({})", path.display()), source);
            std::os::unix::fs::FileExt::read_exact_at(device.file(), &mut start, 0)
                .map_err(failed)?;
            if start[..] == tiny_image()[..2048] {
                Ok(())
            } else {
                Err(failed(std::io::Error::from(std::io::ErrorKind::InvalidData)))
            }
        });
        answer("loop-device", "attached a file and read it back", done)
    }

    fn overlay(&self, name: &'static str, lower: Lower, upper: bool) -> Probe {
        let done = FsContext::open("overlay").and_then(|context| {
            let mut open = Vec::new();
            for directory in ["lower", "lower2"] {
                let path = self.0.join(directory);
                match lower {
                    Lower::Text => context.set_string("lowerdir+", &path)?,
                    Lower::Descriptor => {
                        let file = crate::open_path(&path)?;
                        context.set_fd("lowerdir+", file.as_fd(), &path)?;
                        open.push(file);
                    }
                }
            }
            if upper {
                context.set_string("upperdir", self.0.join("fs"))?;
                context.set_string("workdir", self.0.join("work"))?;
            }
            context.create()?;
            context.mount(MountAttributes::default()).map(drop)
        });
        let what = match (lower, upper) {
            (Lower::Descriptor, _) => "mounted two layers given as descriptors".to_owned(),
            (Lower::Text, false) => "mounted two layers given by lowerdir+".to_owned(),
            (Lower::Text, true) => {
                format!("mounted an overlay with its upper directory in {}", self.0.display())
            }
        };
        answer(name, &what, done)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read_only() -> MountAttributes {
    MountAttributes { read_only: true, ..MountAttributes::default() }
}

/// Lists the root directory of a mount that is attached nowhere.
fn see_root(mount: &DetachedMount) -> Result<()> {
    use rustix::fs::{Dir, Mode, OFlags, openat};
    let failed = |errno| crate::Error::new("readdir(the probe's mount)", errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(mount.as_fd(), c".", flags, Mode::empty()).map_err(failed)?;
    for entry in Dir::new(root).map_err(failed)? {
        entry.map_err(failed)?;
    }
    Ok(())
}

fn has_file_system(name: &'static str, file_system: &str) -> Probe {
    answer(
        name,
        &format!("fsopen({file_system}) gave a context"),
        FsContext::open(file_system).map(drop),
    )
}

/// In a child, because a process with threads cannot make one.
fn user_namespaces() -> Probe {
    let mut command = Command::new("/proc/self/exe");
    enter_user_namespace(&mut command);
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let done = command.spawn().and_then(|mut child| child.wait()).map(drop);
    let done = done.map_err(|source| crate::Error::new("unshare(CLONE_NEWUSER)", source));
    answer("user-namespaces", &format!("a child made one (at most {})", limit.trim()), done)
}

#[expect(unsafe_code, reason = "code between fork and exec")]
fn enter_user_namespace(command: &mut Command) {
    // SAFETY: only unshare(2) and _exit(2) are called between fork and exec, both async-signal-safe, and no
    // memory is allocated: an error number becomes an io::Error without it.
    unsafe {
        command.pre_exec(|| {
            if libc::unshare(libc::CLONE_NEWUSER) == 0 {
                libc::_exit(0);
            }
            Err(std::io::Error::last_os_error())
        });
    }
}

fn answer(name: &'static str, done: &str, result: Result<()>) -> Probe {
    let (works, evidence) = match result {
        Ok(()) => (Some(true), done.to_owned()),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let evidence = format!("{error}: {}", cause.unwrap_or_default());
            // Without permission nothing is known about the kernel.
            let unknown = matches!(error.errno(), Some(libc::EPERM | libc::EACCES));
            ((!unknown).then_some(false), evidence)
        }
    };
    Probe { name, works, evidence }
}

/// The smallest EROFS image: one block of 4096 bytes with a superblock and an empty root directory. Layout from
/// the kernel's `fs/erofs/erofs_fs.h`.
fn tiny_image() -> Vec<u8> {
    const SUPERBLOCK: usize = 1024;
    const ROOT: usize = 1152;
    const ENTRIES: usize = ROOT + 32;
    const ROOT_NID: u8 = (ROOT / 32) as u8;
    let mut image = vec![0; 4096];
    let mut put = |offset: usize, bytes: &[u8]| {
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(SUPERBLOCK, &0xE0F5_E1E2_u32.to_le_bytes());
    put(SUPERBLOCK + 12, &[12]); // log2 of the block size
    put(SUPERBLOCK + 14, &[ROOT_NID, 0]);
    put(SUPERBLOCK + 16, &[1]); // number of inodes
    put(SUPERBLOCK + 36, &[1]); // blocks
    // A compact inode with inline data: layout 2 in bits 1 to 3.
    put(ROOT, &[4, 0, 0, 0]);
    put(ROOT + 4, &0o40755_u16.to_le_bytes());
    put(ROOT + 6, &[2, 0]); // links
    put(ROOT + 8, &27_u32.to_le_bytes()); // two entries and their names
    put(ROOT + 20, &[1]); // running number
    // nid, offset of the name, type (2: directory).
    put(ENTRIES, &[ROOT_NID, 0, 0, 0, 0, 0, 0, 0, 24, 0, 2, 0]);
    put(ENTRIES + 12, &[ROOT_NID, 0, 0, 0, 0, 0, 0, 0, 25, 0, 2, 0]);
    put(ENTRIES + 24, b"...");
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_two_numbers() {
        for (release, number) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("6.1.0-30-amd64", Some((6, 1))),
            ("7.3-rc7", Some((7, 3))),
            ("unknown", None),
            ("6", None),
        ] {
            assert_eq!(KernelVersion::of(release.to_owned()).number, number, "{release}");
        }
        assert!(KernelVersion::running().number.is_some());
    }

    #[test]
    fn cgroup_layouts_are_told_apart() {
        let old = "31 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let new = "32 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let both = format!("{old}{new}");
        for (text, layout) in [
            (old, CgroupLayout::Legacy),
            (new, CgroupLayout::Unified),
            (both.as_str(), CgroupLayout::Hybrid),
            ("", CgroupLayout::None),
        ] {
            let table = MountTable::parse(text.as_bytes()).unwrap();
            assert_eq!(CgroupLayout::in_table(&table).0, layout);
        }
    }

    #[test]
    fn privileged_probes_agree_with_this_kernel_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mounts = MountTable::read().unwrap().entries().to_vec();
        let features = Features::probe(directory.path()).unwrap();
        for probe in features.probes() {
            assert!(probe.works.is_some(), "needs root: {probe:?}");
            assert!(!probe.evidence.is_empty());
        }
        assert_eq!(features.erofs.works, Some(true), "{features:?}");
        assert_eq!(features.overlay.works, Some(true), "{features:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(MountTable::read().unwrap().entries(), mounts);
        // The facts by version; a distribution may have any of them switched off, but not on too early.
        let version = features.kernel.number.unwrap();
        for (probe, since) in [
            (&features.erofs_by_file, (6, 12)),
            (&features.erofs_direct_io, (6, 12)),
            (&features.overlay_lower_appending, (6, 5)),
            (&features.overlay_descriptors, (6, 13)),
        ] {
            assert!(probe.works == Some(false) || version >= since, "{probe:?} on {version:?}");
        }
    }
}
