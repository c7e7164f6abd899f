//! Rows about reading: our image and mkfs.erofs's of the same tar, mounted in the same way.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use super::Bench;
use super::measure::{Contender, Series, drop_caches, empty, silently, take_turns};
use super::report::Row;

/// A file-backed EROFS mount by the bare system calls, unmounted when dropped.
pub(super) struct Mounted {
    target: PathBuf,
}

impl Mounted {
    /// Mounts as Plywood does: without a loop device, and without caching the image beside its files.
    pub(super) fn new(image: &Path, target: &Path) -> Result<Self> {
        Self::with_devices(image, &[], target)
    }

    /// The same for an image with extra devices.
    pub(super) fn with_devices(image: &Path, devices: &[PathBuf], target: &Path) -> Result<Self> {
        let doing = || format!("cannot mount {}", image.display());
        std::fs::create_dir_all(target).with_context(doing)?;
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).with_context(doing)?;
        fsconfig_set_string(&context, "source", image).with_context(doing)?;
        for device in devices {
            fsconfig_set_string(&context, "device", device).with_context(doing)?;
        }
        fsconfig_set_flag(&context, "directio").with_context(doing)?;
        fsconfig_create(&context).with_context(doing)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let mount =
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).with_context(doing)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mount, "", CWD, target, flags).with_context(doing)?;
        Ok(Self { target: target.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.target, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.target.display());
        }
    }
}

/// The two images, and where one of them is mounted at a time.
struct Images {
    ours: PathBuf,
    theirs: PathBuf,
    target: PathBuf,
}

impl Images {
    fn build(bench: &Bench) -> Result<Self> {
        empty(&bench.work)?;
        let images = Self {
            ours: bench.work.join("ours.erofs"),
            theirs: bench.work.join("theirs.erofs"),
            target: bench.work.join("mounted"),
        };
        let mut create = Command::new(&bench.plywood);
        create.args(["erofs", "create", "--from"]).arg(&bench.data.base).arg(&images.ours);
        silently(&mut create)?;
        let mut mkfs = Command::new(&bench.mkfs_erofs);
        mkfs.args(["--quiet", "--tar=f"]).arg(&images.theirs).arg(&bench.data.base);
        silently(&mut mkfs)?;
        Ok(images)
    }

    /// Turns of both, cold (new mount, no caches) or warm (a first pass that is not counted).
    fn compare(
        &self,
        bench: &Bench,
        cold: bool,
        pass: &dyn Fn(&Path) -> Result<f64>,
    ) -> Result<Vec<Series>> {
        let contender = |name: &str, image: PathBuf| {
            let temperature = if cold { "cold" } else { "warm" };
            Contender::new(format!("{name}, {temperature}"), move || {
                drop_caches()?;
                let _mounted = Mounted::new(&image, &self.target)?;
                if !cold {
                    pass(&self.target)?;
                }
                pass(&self.target)
            })
        };
        let contenders = vec![
            contender("plywood", self.ours.clone()),
            contender("mkfs.erofs", self.theirs.clone()),
        ];
        take_turns(bench.runs, contenders)
    }

    fn row(
        &self,
        bench: &Bench,
        id: &'static str,
        title: &str,
        pass: &dyn Fn(&Path) -> Result<f64>,
    ) -> Result<Row> {
        let mut series = self.compare(bench, true, pass)?;
        series.extend(self.compare(bench, false, pass)?);
        // "0.95 x" is of speed; these are times.
        let speed = |ours: usize| series[ours + 1].median() / series[ours].median();
        let (cold, warm) = (speed(0), speed(2));
        Ok(Row {
            id,
            same_work: false,
            title: title.to_owned(),
            unit: "s",
            bar: "at least 0.95 × the speed of mkfs.erofs's image",
            verdict: Some((
                cold >= 0.95 && warm >= 0.95,
                format!("cold {cold:.2} ×, warm {warm:.2} ×"),
            )),
            note:
                "Both images mounted file-backed with directio. Cold: new mount after drop_caches."
                    .to_owned(),
            series,
        })
    }
}

/// Every byte of every file.
pub(super) fn tree(bench: &Bench) -> Result<Row> {
    let images = Images::build(bench)?;
    images.row(bench, "read-tree", "Reading the whole tree", &|target| {
        let start = Instant::now();
        let mut read = Command::new(&bench.probe);
        silently(read.arg("read-tree").arg(target))?;
        Ok(start.elapsed().as_secs_f64())
    })
}

/// Every name and inode.
pub(super) fn list(bench: &Bench) -> Result<Row> {
    let images = Images::build(bench)?;
    images.row(bench, "list-tree", "`ls -lR` of the whole tree", &|target| {
        let start = Instant::now();
        let mut list = Command::new("ls");
        let status =
            list.args(["-lR", "--numeric-uid-gid"]).arg(target).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "ls ended with {status}");
        Ok(start.elapsed().as_secs_f64())
    })
}
