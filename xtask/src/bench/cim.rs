//! Rows about CIMs: Windows layers on a host that is none.

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

/// A Windows layer's tar into a CIM, against those who make an image of the same tree.
pub(super) fn import(bench: &Bench) -> Result<Row> {
    let tar = &bench.windows.tars[0];
    let tree = bench.work.with_file_name("windows-tree");
    unpack(tar, &tree)?;
    warm(tar)?;
    let work = &bench.work;
    let image = work.join("image");
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("plywood cim import", || {
                empty(work)?;
                durable(&mut import_command(bench), work)
            }),
            Contender::new("mkfs.erofs --tar=f", || {
                empty(work)?;
                let mut command = Command::new(&bench.mkfs_erofs);
                durable(command.args(["--quiet", "--tar=f"]).arg(&image).arg(tar), work)
            }),
            Contender::new("wimlib-imagex capture, uncompressed", || {
                empty(work)?;
                let mut command = Command::new("wimlib-imagex");
                command.args(["capture", "--compress=none"]).arg(&tree).arg(&image);
                durable(&mut command, work)
            }),
            Contender::new("wimlib-imagex apply of that", || {
                empty(work)?;
                let mut capture = Command::new("wimlib-imagex");
                silently(capture.args(["capture", "--compress=none"]).arg(&tree).arg(&image))?;
                let mut command = Command::new("wimlib-imagex");
                durable(command.arg("apply").arg(&image).arg(work.join("applied")), work)
            }),
        ],
    );
    remove(&tree)?;
    let series = series?;
    let ratio = |other: usize| series[other].median() / series[0].median();
    let (erofs, wim) = (ratio(1), ratio(2));
    Ok(Row {
        id: "cim-import",
        same_work: true,
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
             unpacked tree, with no descriptors and streams in it. Only ours computes digests.",
            std::fs::metadata(tar)?.len() / 1_000_000
        ),
    })
}

/// Makes `base.cim` of the base layer.
fn import_command(bench: &Bench) -> Command {
    let mut command = Command::new(&bench.plywood);
    command.args(["cim", "import"]).arg(&bench.windows.tars[0]).arg(bench.work.join("base.cim"));
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
    silently(&mut import_command(bench))?;
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
    silently(&mut import_command(bench))?;
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
    let compare = |pass: &dyn Fn(&Path) -> Result<f64>| {
        take_turns(
            bench.runs,
            vec![
                Contender::new("plywood mount --driver fuse", || {
                    drop_caches()?;
                    let _served = Served::plywood(bench, "fuse", &target)?;
                    pass(&target)
                }),
                Contender::new("plywood mount --driver erofs", || {
                    drop_caches()?;
                    let _served = Served::plywood(bench, "erofs", &target)?;
                    pass(&target)
                }),
                Contender::new("wimlib-imagex mount", || {
                    drop_caches()?;
                    let _served = Served::wimlib(&wim, &target)?;
                    pass(&target)
                }),
            ],
        )
    };
    let row = |id, title: &str, series: Vec<Series>| {
        let median = |which: usize| series[which].median();
        let (view, wim) = (median(0) / median(1), median(2) / median(0));
        Row {
            id,
            same_work: true,
            title: title.to_owned(),
            unit: "s",
            bar: "within 2 × of the view, 3 × faster than wimlib's mount",
            verdict: Some((
                view <= 2.0 && wim >= 3.0,
                format!("{view:.2} × the view's time, {wim:.2} × wimlib's speed"),
            )),
            note: "Each after drop_caches and a new mount.".to_owned(),
            series,
        }
    };
    let (read, listed) = (compare(&large)?, compare(&list)?);
    Ok(vec![
        row("cim-fuse", "Reading the large files of a CIM by FUSE", read),
        row("cim-fuse-list", "`ls -lR` of a CIM by FUSE", listed),
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
