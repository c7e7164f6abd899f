//! Plywood under containerd beside containerd's own snapshotters: unpacking an image, starting containers on it,
//! removing it.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::measure::{Contender, Series, durable, empty, silently, take_turns, warm};
use super::private::{Inside, Measured, enter};
use super::report::Row;
use crate::containerd::{Containerd, Plywood, Root, Version, WORK};
use crate::program;

/// The image of three layers, as its archive names it.
const IMAGE: &str = "plywood.example/three:1";

/// Container starts of a run, of which the median counts; the first reads the image from the disk and does not.
const STARTS: usize = 15;

/// Rows under one version.
pub(super) fn rows_1_7(bench: &Bench) -> Result<Vec<Row>> {
    let measured = enter(bench, Inside::V1_7)?;
    Ok(vec![unpack("unpack-1.7", "1.7", &measured)?])
}

/// Rows under the other one; that of its own EROFS snapshotter too.
pub(super) fn rows_2_1(bench: &Bench) -> Result<Vec<Row>> {
    let measured = enter(bench, Inside::V2_1)?;
    let (start, remove) = (measured.series("start")?, measured.series("remove")?);
    let slower = start[0].median() / start[1].median();
    let (took, alone) = (remove[0].median(), remove[remove.len() - 1].median());
    Ok(vec![
        unpack("unpack-2.1", "2.1", &measured)?,
        Row {
            id: "start",
            same_work: true,
            title: "From `ctr run` to a container's first output, containerd 2.1".to_owned(),
            unit: "ms",
            series: start,
            bar: "not slower than overlayfs",
            verdict: Some((slower <= 1.0, format!("{slower:.2} × overlayfs's time"))),
            note: format!(
                "`/bin/echo` in the image of three layers, runc; the median of {STARTS} starts is a run's value. Most of it is \
                 ctr, containerd's shim and runc, which are the same for all."
            ),
        },
        Row {
            id: "remove",
            same_work: true,
            title: "Removal of an image of 1.8 GB, containerd 2.1".to_owned(),
            unit: "s",
            series: remove,
            bar: "the snapshotter's part under 0.1 s",
            verdict: Some((
                took - alone < 0.1,
                format!("{:.3} s more than the {alone:.3} s of containerd alone", took - alone),
            )),
            note: "`ctr images rm --sync`, which waits for containerd's collection of the snapshots and of the 650 MB of \
                   compressed blobs, which containerd deletes itself: the last line is what that takes for the same image \
                   where it was never unpacked. Ours deletes the files of the layers after its answer."
                .to_owned(),
        },
    ])
}

fn unpack(id: &'static str, version: &str, measured: &Measured) -> Result<Row> {
    let series = measured.series("unpack")?;
    let times = |other: &Series| other.median() / series[0].median();
    let overlayfs = times(&series[1]);
    let erofs = series.get(2).map(times);
    let (bar, met, told) = match erofs {
        Some(erofs) => (
            "4 × faster than overlayfs, 2 × faster than its EROFS snapshotter",
            overlayfs >= 4.0 && erofs >= 2.0,
            format!("{overlayfs:.2} × overlayfs, {erofs:.2} × EROFS"),
        ),
        None => ("4 × faster than overlayfs", overlayfs >= 4.0, format!("{overlayfs:.2} ×")),
    };
    Ok(Row {
        id,
        same_work: true,
        title: format!("Unpacking a three-layer gzip image under containerd {version}"),
        unit: "s",
        series,
        bar,
        verdict: Some((met, told)),
        note: "1.8 GB uncompressed, blobs already in containerd's content store: `ctr images mount`, which unpacks and mounts, \
               and syncfs."
            .to_owned(),
    })
}

/// Which snapshotter unpacks and starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshotter {
    Plywood,
    Overlayfs,
    Erofs,
}

impl Snapshotter {
    fn name(self) -> &'static str {
        match self {
            Self::Plywood => "plywood",
            Self::Overlayfs => "overlayfs",
            Self::Erofs => "erofs",
        }
    }
}

/// What one run of one contender gives.
struct Times {
    unpack: f64,
    start: f64,
    remove: f64,
    /// Removal of the same image where no snapshotter has anything of it.
    remove_blobs: Option<f64>,
}

/// Inside: every contender in a fresh containerd, `runs` times.
pub(super) fn measure(bench: &Bench, version: Version) -> Result<Vec<(&'static str, Vec<Series>)>> {
    warm(&bench.data.three_layers)?;
    let root = Root::prepared(version)?;
    root.enter(&bench.work)?;
    let mut snapshotters = vec![Snapshotter::Plywood, Snapshotter::Overlayfs];
    if version == Version::V2_1 {
        snapshotters.push(Snapshotter::Erofs);
    }
    let of = |snapshotter: &Snapshotter| Series {
        name: match snapshotter {
            Snapshotter::Plywood => "plywood's snapshotter and differ".to_owned(),
            Snapshotter::Overlayfs => "overlayfs".to_owned(),
            Snapshotter::Erofs => "containerd's EROFS snapshotter and differ".to_owned(),
        },
        values: Vec::new(),
    };
    let starts: RefCell<Vec<Series>> = RefCell::new(snapshotters.iter().map(of).collect());
    let removals = RefCell::new(starts.borrow().clone());
    let alone = "containerd alone: never unpacked".to_owned();
    let blobs = RefCell::new(Series { name: alone, values: Vec::new() });
    let contenders = snapshotters
        .iter()
        .enumerate()
        .map(|(index, snapshotter)| {
            let (root, starts, removals, blobs) = (&root, &starts, &removals, &blobs);
            Contender::new(of(snapshotter).name, move || {
                let times = once(bench, root, version, *snapshotter)?;
                println!("       start {:.1} ms, remove {:.3} s", times.start, times.remove);
                starts.borrow_mut()[index].values.push(times.start);
                removals.borrow_mut()[index].values.push(times.remove);
                blobs.borrow_mut().values.extend(times.remove_blobs);
                Ok(times.unpack)
            })
        })
        .collect();
    let unpack = take_turns(bench.runs, contenders)?;
    let mut removals = removals.into_inner();
    removals.push(blobs.into_inner());
    Ok(vec![("unpack", unpack), ("start", starts.into_inner()), ("remove", removals)])
}

fn once(bench: &Bench, root: &Root, version: Version, snapshotter: Snapshotter) -> Result<Times> {
    let directory = Path::new(WORK).join("round");
    empty(&directory)?;
    let round = Round { directory };
    let socket = round.directory.join("containerd/socket");
    let mut plugins = String::new();
    let mut daemon = None;
    match snapshotter {
        Snapshotter::Plywood => {
            let started =
                Plywood::start(&bench.plywood, &round.directory.join("plywood"), &socket)?;
            plugins = started.containerd_config(version)?;
            daemon = Some(started);
        }
        Snapshotter::Erofs => {
            plugins.push_str(
                "[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"erofs\", \"walking\"]\n",
            );
        }
        Snapshotter::Overlayfs => {}
    }
    let containerd = Containerd::start(root, &round.directory.join("containerd"), &plugins)?;
    let times = measured(&containerd, snapshotter.name(), &bench.data.three_layers, &round);
    drop(containerd);
    drop(daemon);
    times.with_context(|| format!("logs were in {}", round.directory.display()))
}

fn measured(
    containerd: &Containerd,
    snapshotter: &str,
    archive: &Path,
    round: &Round,
) -> Result<Times> {
    // Blobs first, so that copying them is in nobody's time.
    let import = || -> Result<()> {
        let mut import = containerd.ctr(&["images", "import", "--no-unpack", "-"]);
        import.stdin(File::open(archive)?).stdout(Stdio::null());
        program::quietly(&mut import).map(drop)
    };
    import()?;

    let target = round.directory.join("mounted");
    std::fs::create_dir_all(&target)?;
    let target = target.to_str().context("the directory is not UTF-8")?;
    let mut mount = containerd.ctr(&["images", "mount", "--snapshotter", snapshotter]);
    let unpack = durable(mount.args([IMAGE, target]), &round.directory)?;
    ensure!(
        Path::new(target).join("srv/three").is_dir(),
        "the third layer is missing from what was mounted"
    );
    silently(&mut containerd.ctr(&["images", "unmount", target]))?;
    let mut forget = containerd.ctr(&["snapshots", "--snapshotter", snapshotter]);
    silently(forget.args(["rm", target]))?;
    silently(&mut containerd.ctr(&["leases", "rm", target]))?;

    let mut starts = Series { name: String::new(), values: Vec::new() };
    for number in 0..=STARTS {
        let took =
            first_output(containerd.ctr(&["run", "--rm", "--snapshotter", snapshotter]).args([
                IMAGE,
                &format!("start-{number}"),
                "/bin/echo",
                "started",
            ]))?;
        if number > 0 {
            starts.values.push(took);
        }
    }

    let remove = || {
        rustix::fs::sync();
        silently(&mut containerd.ctr(&["images", "rm", "--sync", IMAGE]))
    };
    let removed = remove()?;
    let mut list = containerd.ctr(&["snapshots", "--snapshotter", snapshotter]);
    let left = program::output(list.arg("ls"))?;
    ensure!(left.lines().count() == 1, "snapshots are left:\n{left}");
    let remove_blobs = match snapshotter == Snapshotter::Plywood.name() {
        true => {
            import()?;
            Some(remove()?.as_secs_f64())
        }
        false => None,
    };
    Ok(Times { unpack, start: starts.median(), remove: removed.as_secs_f64(), remove_blobs })
}

/// Milliseconds until a command writes its first byte; it must end well.
fn first_output(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", program::command_line(command)))?;
    let mut output = child.stdout.take().context("no standard output")?;
    let mut byte = [0];
    let read = output.read(&mut byte);
    let took = begin.elapsed();
    std::io::copy(&mut output, &mut std::io::sink())?;
    let status = child.wait()?;
    ensure!(
        status.success() && matches!(read, Ok(1)),
        "`{}` ended with {status}",
        program::command_line(command)
    );
    Ok(took.as_secs_f64() * 1e3)
}

/// What a run leaves, taken away: mounts first.
struct Round {
    directory: PathBuf,
}

impl Drop for Round {
    fn drop(&mut self) {
        super::unmount_below(&self.directory);
    }
}
