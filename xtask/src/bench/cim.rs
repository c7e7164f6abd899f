//! Rows about CIMs: Windows layers on a host that is none.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::measure::{Contender, Series, drop_caches, durable, empty, silently, take_turns, warm};
use super::reading::Mounted;
use super::report::Row;
use super::serving::answers;
use super::{Bench, remove};
use crate::program;

/// Room of the file system in memory: what wimlib makes of the tree, or we of the tar, and some more.
const IN_MEMORY: &str = "size=3g";

/// A Windows layer's tar into a CIM, against those who make an image of the same tree.
pub(super) fn import(bench: &Bench) -> Result<Row> {
    let tar = &bench.windows.tars[0];
    let tree = bench.work.with_file_name("windows-tree");
    unpack(tar, &tree)?;
    warm(tar)?;
    let work = &bench.work;
    let image = work.join("image");
    let in_memory = work.with_file_name("in-memory");
    let ours = |work: &Path| {
        empty(work)?;
        durable(&mut import_command(bench, work), work)
    };
    let capture = |work: &Path| {
        empty(work)?;
        let mut command = Command::new("wimlib-imagex");
        command.args(["capture", "--compress=none"]).arg(&tree).arg(work.join("image"));
        durable(&mut command, work)
    };
    ours(work)?;
    let bytes = size_of_files(work)?;
    let copy = |block: &str, how: &[&str]| {
        empty(work)?;
        let [mut from, mut to] = ["if=", "of="].map(OsString::from);
        from.push(tar);
        to.push(&image);
        let mut command = Command::new("dd");
        command.args([from, to]).arg(format!("count={bytes}")).arg(block).args(how);
        durable(command.arg("iflag=count_bytes,fullblock"), work)
    };
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("plywood cim import", || ours(work)),
            Contender::new("mkfs.erofs --tar=f", || {
                empty(work)?;
                let mut command = Command::new(&bench.mkfs_erofs);
                durable(command.args(["--quiet", "--tar=f"]).arg(&image).arg(tar), work)
            }),
            Contender::new("wimlib-imagex capture, uncompressed", || capture(work)),
            Contender::new("wimlib-imagex apply of that", || {
                capture(work)?;
                let mut command = Command::new("wimlib-imagex");
                durable(command.arg("apply").arg(&image).arg(work.join("applied")), work)
            }),
            Contender::new("as many bytes by dd, direct", || copy("bs=4M", &["oflag=direct"])),
            Contender::new("as many bytes by dd, page cache", || copy("bs=1M", &[])),
            Contender::new("plywood cim import, into memory", || {
                let _memory = InMemory::new(&in_memory)?;
                ours(&in_memory.join("work"))
            }),
            Contender::new("wimlib-imagex capture, into memory", || {
                let _memory = InMemory::new(&in_memory)?;
                capture(&in_memory.join("work"))
            }),
        ],
    );
    remove(&tree)?;
    let series = series?;
    let ratio = |other: usize| series[other].median() / series[0].median();
    let (erofs, wim, floor) = (ratio(1), ratio(2), 1.0 / ratio(4));
    let memory = series[7].median() / series[6].median();
    Ok(Row {
        id: "cim-import",
        same_work: false,
        title: "Import of a Windows layer's tar into a CIM".to_owned(),
        unit: "s",
        series,
        bar: "no slower than `mkfs.erofs --tar=f`; 5 × faster than wimlib's capture",
        verdict: Some((
            erofs >= 1.0 && wim >= 5.0,
            format!("{erofs:.2} × mkfs.erofs's speed, {wim:.2} × wimlib's"),
        )),
        note: format!(
            "{} MB of Debian's Wine in Microsoft's form of tar, 13,000 entries; all followed by syncfs. wimlib captures the \
             unpacked tree, with no descriptors and streams in it. Only ours computes digests of the tar. What dd needs for \
             the {} MB of our image is what this disk allows: ours is {floor:.2} × that of direct writing. In memory, where \
             the disk is out of it, ours is {memory:.2} × as fast as wimlib's; most of its time is SHA-256 of the tar in \
             one thread and of each file in another.",
            std::fs::metadata(tar)?.len() / 1_000_000,
            bytes / 1_000_000
        ),
    })
}

/// A file system in memory, gone when dropped.
struct InMemory<'p>(&'p Path);

impl<'p> InMemory<'p> {
    fn new(path: &'p Path) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let mut mount = Command::new("mount");
        silently(mount.args(["-t", "tmpfs", "-o", IN_MEMORY, "plywood-bench"]).arg(path))?;
        Ok(Self(path))
    }
}

impl Drop for InMemory<'_> {
    fn drop(&mut self) {
        let unmounted = silently(Command::new("umount").arg(self.0)).map(drop);
        if let Err(error) = unmounted.and_then(|()| Ok(std::fs::remove_dir(self.0)?)) {
            eprintln!("cannot unmount {}: {error:#}", self.0.display());
        }
    }
}

/// Bytes in the files that lie in a directory itself.
fn size_of_files(directory: &Path) -> Result<u64> {
    let lengths = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len()));
    lengths.sum()
}

/// Makes `base.cim` of the base layer in a directory.
fn import_command(bench: &Bench, directory: &Path) -> Command {
    let mut command = Command::new(&bench.plywood);
    command.args(["cim", "import"]).arg(&bench.windows.tars[0]).arg(directory.join("base.cim"));
    command
}

/// The tree of a Windows layer's tar, as far as Linux knows what is in it.
fn unpack(tar: &Path, tree: &Path) -> Result<()> {
    empty(tree)?;
    let mut command = Command::new("tar");
    command.args(["--warning=no-unknown-keyword", "-xf"]).arg(tar).arg("-C").arg(tree);
    silently(&mut command).map(drop)
}

/// Every byte through the view, against the same tree in an EROFS image of its own and on the host's file system.
pub(super) fn read(bench: &Bench) -> Result<Row> {
    empty(&bench.work)?;
    let tar = &bench.windows.tars[0];
    let (plain, tree) = (bench.work.join("plain.erofs"), bench.work.join("tree"));
    silently(&mut import_command(bench, &bench.work))?;
    let mut view = Command::new(&bench.probe);
    view.arg("view-cim").arg(&bench.work).arg("base.cim").arg(bench.work.join("views"));
    let view: Value = serde_json::from_str(&program::output(&mut view)?)?;
    let path = |value: &Value| value.as_str().map(PathBuf::from).context("the probe gave no path");
    let devices = view["devices"].as_array().context("the probe gave no devices")?;
    let devices: Vec<PathBuf> = devices.iter().map(path).collect::<Result<_>>()?;
    let view = path(&view["path"])?;
    let mut mkfs = Command::new(&bench.mkfs_erofs);
    silently(mkfs.args(["--quiet", "--tar=f"]).arg(&plain).arg(tar))?;
    unpack(tar, &tree)?;

    let target = bench.work.join("mounted");
    let pass = |directory: &Path| -> Result<f64> {
        let start = Instant::now();
        let mut read = Command::new(&bench.probe);
        silently(read.arg("read-tree").arg(directory))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let timed = |cold: bool, directory: &Path| -> Result<f64> {
        if !cold {
            pass(directory)?;
        }
        pass(directory)
    };
    let mut series = Vec::new();
    for cold in [true, false] {
        let name = |name: &str| format!("{name}, {}", if cold { "cold" } else { "warm" });
        series.extend(take_turns(
            bench.runs,
            vec![
                Contender::new(name("plywood's view"), || {
                    drop_caches()?;
                    let _mounted = Mounted::with_devices(&view, &devices, &target)?;
                    timed(cold, &target)
                }),
                Contender::new(name("EROFS by mkfs.erofs"), || {
                    drop_caches()?;
                    let _mounted = Mounted::new(&plain, &target)?;
                    timed(cold, &target)
                }),
                Contender::new(name("the host's file system"), || {
                    drop_caches()?;
                    timed(cold, &tree)
                }),
            ],
        )?);
    }
    let speed = |ours: usize| series[ours + 1].median() / series[ours].median();
    let (cold, warm) = (speed(0), speed(3));
    Ok(Row {
        id: "cim-read",
        same_work: false,
        title: "Reading a Windows layer through its view".to_owned(),
        unit: "s",
        series,
        bar: "at least 0.95 × the same tree in plain EROFS",
        verdict: Some((
            cold >= 0.95 && warm >= 0.95,
            format!("cold {cold:.2} ×, warm {warm:.2} ×"),
        )),
        note: "Both mounted file-backed with directio, the view with the CIM's regions as its devices. Cold: new mount after \
               drop_caches."
            .to_owned(),
    })
}

/// A mount by a program, gone when dropped.
struct Served<'b> {
    unmount: Command,
    target: &'b Path,
}

impl<'b> Served<'b> {
    fn plywood(bench: &Bench, driver: &str, target: &'b Path) -> Result<Self> {
        std::fs::create_dir_all(target)?;
        let mut mount = bench.plywood(&["mount", "--driver", driver]);
        silently(mount.arg(bench.work.join("base.cim")).arg(target))?;
        let mut unmount = bench.plywood(&["umount"]);
        unmount.arg(target);
        Ok(Self { unmount, target })
    }

    fn wimlib(image: &Path, target: &'b Path) -> Result<Self> {
        std::fs::create_dir_all(target)?;
        let mut mount = Command::new("wimlib-imagex");
        // It goes on in the background with what it was started with.
        mount.arg("mount").arg(image).arg(target).stdin(Stdio::null());
        let status = mount.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "wimlib-imagex mount ended with {status}");
        let mut unmount = Command::new("wimlib-imagex");
        unmount.arg("unmount").arg(target);
        Ok(Self { unmount, target })
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if let Err(error) = silently(&mut self.unmount) {
            eprintln!("cannot unmount {}: {error:#}", self.target.display());
        }
    }
}

/// Our FUSE, the kernel's EROFS through the view, and wimlib's FUSE: large files, and names.
pub(super) fn fuse(bench: &Bench) -> Result<Vec<Row>> {
    empty(&bench.work)?;
    silently(&mut import_command(bench, &bench.work))?;
    // Views are kept with the store.
    std::fs::create_dir_all(bench.work.join("root"))?;
    let (tree, wim) = (bench.work.join("tree"), bench.work.join("tree.wim"));
    unpack(&bench.windows.tars[0], &tree)?;
    let mut capture = Command::new("wimlib-imagex");
    silently(capture.args(["capture", "--compress=none"]).arg(&tree).arg(&wim))?;
    remove(&tree)?;

    let target = bench.work.join("mounted");
    let timed = |command: &mut Command| -> Result<f64> {
        let start = Instant::now();
        let status = command.stdout(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(start.elapsed().as_secs_f64())
    };
    let large = |target: &Path| {
        let mut find = Command::new("find");
        find.arg(target.join("Files/Windows/System32"));
        timed(find.args(["-type", "f", "-size", "+1M", "-exec", "cat", "{}", "+"]))
    };
    let list = |target: &Path| {
        let mut list = Command::new("ls");
        timed(list.args(["-lR", "--numeric-uid-gid"]).arg(target))
    };
    // What a driver reads from: every file of the image, and the WIM.
    let sources = || -> Result<()> {
        for entry in std::fs::read_dir(&bench.work)? {
            let path = entry?.path();
            if path.is_file() {
                warm(&path)?;
            }
        }
        Ok(())
    };
    let compare = |pass: &dyn Fn(&Path) -> Result<f64>, cached: bool| {
        let prepare = || if cached { sources() } else { drop_caches() };
        let name = |name: &str| match cached {
            true => format!("{name}, sources in the page cache"),
            false => name.to_owned(),
        };
        take_turns(
            bench.runs,
            vec![
                Contender::new(name("plywood mount --driver fuse"), || {
                    prepare()?;
                    let _served = Served::plywood(bench, "fuse", &target)?;
                    pass(&target)
                }),
                Contender::new(name("plywood mount --driver erofs"), || {
                    prepare()?;
                    let _served = Served::plywood(bench, "erofs", &target)?;
                    pass(&target)
                }),
                Contender::new(name("wimlib-imagex mount"), || {
                    prepare()?;
                    let _served = Served::wimlib(&wim, &target)?;
                    pass(&target)
                }),
            ],
        )
    };
    let bar = "within 2 × of the view, 3 × faster than wimlib's mount";
    let ratios = |series: &[Series]| {
        let median = |which: usize| series[which].median();
        (median(0) / median(1), median(2) / median(0))
    };

    let mut read = compare(&large, false)?;
    let cold = ratios(&read);
    let cached = compare(&large, true)?;
    let (view, wim) = ratios(&cached);
    read.extend(cached);
    let listed = compare(&list, false)?;
    let (list_view, list_wim) = ratios(&listed);
    Ok(vec![
        Row {
            id: "cim-fuse",
            same_work: false,
            title: "Reading the large files of a CIM by FUSE".to_owned(),
            unit: "s",
            series: read,
            bar,
            verdict: Some((
                cold.0 <= 2.0 && view <= 2.0 && wim >= 3.0,
                format!(
                    "cold {:.2} × the view's time, {:.2} × wimlib's speed; sources in the page cache {view:.2} ×, \
                     {wim:.2} ×",
                    cold.0, cold.1
                ),
            )),
            note: "Each after a new mount. After drop_caches all three wait for the same disk, so that wimlib's is judged \
                   by what the drivers themselves cost: with the region files and the WIM in the page cache and nothing in \
                   the mount's own. The view is mounted with directio and goes to the disk all the same."
                .to_owned(),
        },
        Row {
            id: "cim-fuse-list",
            same_work: true,
            title: "`ls -lR` of a CIM by FUSE".to_owned(),
            unit: "s",
            series: listed,
            bar,
            verdict: Some((
                list_view <= 2.0 && list_wim >= 3.0,
                format!("{list_view:.2} × the view's time, {list_wim:.2} × wimlib's speed"),
            )),
            note: "Each after drop_caches and a new mount.".to_owned(),
        },
    ])
}

/// Opening an image of very many files and looking at one of them.
pub(super) fn open(bench: &Bench) -> Result<Row> {
    let many = &bench.many;
    let mut probe = Command::new(&bench.probe);
    probe.arg("open-cim").arg(&many.directory).args([many.name, &many.path]);
    let mut series = answers(
        bench,
        &mut probe,
        &[("plywood", "warm"), ("plywood, from the disk", "cold"), ("memory", "grown")],
    )?;
    let memory = series.remove(2).maximum();
    let time = series[0].maximum() / 1e3;
    Ok(Row {
        id: "cim-open",
        same_work: false,
        title: format!("Open a CIM of {} files and stat one path", many.count),
        unit: "µs",
        series,
        bar: "under 1 ms, under 5 MiB of memory",
        verdict: Some((
            time < 1.0 && memory < 5.0 * 1024.0,
            format!("{time:.2} ms and {memory:.0} KiB at most"),
        )),
        note: "Opening, a lookup without regard to case over five directories, metadata and security descriptor; in one \
               process, first after drop_caches and then anew. The memory is by how much the process's peak grew."
            .to_owned(),
    })
}

/// The EROFS view of an image of very many files.
pub(super) fn view(bench: &Bench) -> Result<Row> {
    let many = &bench.many;
    let cache = bench.work.join("views");
    let made = |key: &'static str| -> Result<f64> {
        empty(&cache)?;
        // Neither what was removed nor what others wrote is the view's to make durable.
        rustix::fs::sync();
        let mut probe = Command::new(&bench.probe);
        probe.arg("view-cim").arg(&many.directory).arg(many.name).arg(&cache);
        let answer: Value = serde_json::from_str(&program::output(&mut probe)?)?;
        answer[key].as_f64().with_context(|| format!("no `{key}`"))
    };
    let in_cache = || -> Result<()> {
        for file in std::fs::read_dir(&many.directory)? {
            warm(&file?.path())?;
        }
        Ok(())
    };
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("made, image in the page cache", || {
                in_cache()?;
                made("made")
            }),
            Contender::new("made, cold", || {
                drop_caches()?;
                made("made")
            }),
            Contender::new("found again", || {
                in_cache()?;
                made("found")
            }),
        ],
    )?;
    let [warm, cold, found] = [0, 1, 2].map(|which: usize| series[which].median());
    Ok(Row {
        id: "cim-view",
        same_work: false,
        title: format!("EROFS view of a CIM of {} files", many.count),
        unit: "ms",
        series,
        bar: "under 1 s; a second mount reuses it",
        verdict: Some((
            warm < 1000.0 && found < warm / 10.0,
            format!("{warm:.0} ms, from a cold disk {cold:.0} ms, found again in {found:.1} ms"),
        )),
        note: "In one process. In the page cache is what an import leaves there; cold is after drop_caches. The view is durable \
               when it is there."
            .to_owned(),
    })
}

/// A fork that changes ten files of very many.
pub(super) fn fork(bench: &Bench) -> Result<Row> {
    let many = &bench.many;
    let mut probe = Command::new(&bench.probe);
    probe.arg("fork-cim").arg(&many.directory).arg(many.name);
    let mut series =
        answers(bench, &mut probe, &[("plywood, durable", "milliseconds"), ("bytes", "beyond")])?;
    let beyond = series.remove(1).maximum() / 1024.0;
    let time = series[0].median();
    Ok(Row {
        id: "cim-fork",
        same_work: false,
        title: format!("Fork a CIM of {} files with ten files changed", many.count),
        unit: "ms",
        series,
        bar: "under 100 ms and under 1 MiB written beyond the data",
        verdict: Some((
            time < 100.0 && beyond < 1024.0,
            format!("{time:.1} ms and {beyond:.0} KiB beyond the data"),
        )),
        note: "In one process, after drop_caches, the ten files in ten directories; the fork is on the disk when it ends."
            .to_owned(),
    })
}
