//! Plywood under containerd beside containerd's own snapshotters: unpacking an image, starting containers on it,
//! removing it.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::measure::{Contender, Series, durable, empty, silently, take_turns, warm};
use super::private::{Inside, Measured, enter};
use super::report::Row;
use crate::containerd::{Containerd, Plywood, Root, Version, WORK};
use crate::program;

/// The image of three layers, as its archive names it.
const IMAGE: &str = "plywood.example/three:1";

/// Container starts of a run. One differs from the next by a tenth, so it takes hundreds to tell a hundredth.
const STARTS: usize = 150;

/// By how much a start may be slower and still be called not slower, if the measurement cannot rule it out.
const TELLABLE: f64 = 0.03;

/// How often in a row `ctr run` may end well and print nothing: on a busy machine it sometimes is done before it reads.
const SILENT: usize = 3;

/// Rows under one version.
pub(super) fn rows_1_7(bench: &Bench) -> Result<Vec<Row>> {
    let measured = enter(bench, Inside::V1_7)?;
    Ok(vec![unpack("unpack-1.7", "1.7", &measured)?])
}

/// Rows under the other one; that of its own EROFS snapshotter too.
pub(super) fn rows_2_1(bench: &Bench) -> Result<Vec<Row>> {
    let measured = enter(bench, Inside::V2_1)?;
    let remove = measured.series("remove")?;
    let (took, alone) = (remove[0].median(), remove[remove.len() - 1].median());
    Ok(vec![
        unpack("unpack-2.1", "2.1", &measured)?,
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

/// Starting containers, both snapshotters in one containerd.
pub(super) fn start(bench: &Bench) -> Result<Row> {
    let start = enter(bench, Inside::Starts)?.series("start")?;
    let ratios = start[0].ratios(&start[1]);
    let (least, most) = ratios.interval();
    Ok(Row {
        id: "start",
        same_work: true,
        title: "From `ctr run` to a container's first output, containerd 2.1".to_owned(),
        unit: "ms",
        bar: "not slower than overlayfs",
        verdict: Some((
            least <= 1.0 && most <= 1.0 + TELLABLE,
            format!("{:.3} × overlayfs's time ({least:.3} to {most:.3})", ratios.median()),
        )),
        note: format!(
            "`/bin/echo` in the image of three layers, runc; {} pairs of starts that take turns in one containerd. The ratio \
             is the median of the pairs', with its interval at 95 %: met if the interval reaches down to 1 and up to no more \
             than {}. Most of a start is ctr, containerd's shim and runc, which are the same for both.",
            ratios.values.len(),
            1.0 + TELLABLE
        ),
        series: start,
    })
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

/// Which snapshotter is measured.
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

    /// What is yet to be measured of it.
    fn series(self) -> Series {
        let name = match self {
            Self::Plywood => "plywood's snapshotter and differ",
            Self::Overlayfs => "overlayfs",
            Self::Erofs => "containerd's EROFS snapshotter and differ",
        };
        Series { name: name.to_owned(), values: Vec::new() }
    }
}

/// What one run of one contender gives.
struct Times {
    unpack: f64,
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
    let removals: RefCell<Vec<Series>> =
        RefCell::new(snapshotters.iter().map(|one| one.series()).collect());
    let alone = "containerd alone: never unpacked".to_owned();
    let blobs = RefCell::new(Series { name: alone, values: Vec::new() });
    let contenders = snapshotters
        .iter()
        .enumerate()
        .map(|(index, snapshotter)| {
            let (root, removals, blobs) = (&root, &removals, &blobs);
            Contender::new(snapshotter.series().name, move || {
                let times = once(bench, root, version, *snapshotter)?;
                println!("       remove {:.3} s", times.remove);
                removals.borrow_mut()[index].values.push(times.remove);
                blobs.borrow_mut().values.extend(times.remove_blobs);
                Ok(times.unpack)
            })
        })
        .collect();
    let unpack = take_turns(bench.runs, contenders)?;
    let mut removals = removals.into_inner();
    removals.push(blobs.into_inner());
    Ok(vec![("unpack", unpack), ("remove", removals)])
}

/// Inside: both snapshotters in one containerd, a start of the one after a start of the other.
pub(super) fn measure_starts(bench: &Bench) -> Result<Vec<(&'static str, Vec<Series>)>> {
    let root = Root::prepared(Version::V2_1)?;
    root.enter(&bench.work)?;
    let round = Round::new()?;
    let daemon = Plywood::start(&bench.plywood, &round.directory.join("plywood"), &round.socket())?;
    let plugins = daemon.containerd_config(Version::V2_1)?;
    let containerd = Containerd::start(&root, &round.directory.join("containerd"), &plugins)?;
    import(&containerd, &bench.data.three_layers)?;
    let snapshotters = [Snapshotter::Plywood, Snapshotter::Overlayfs];
    for snapshotter in snapshotters {
        unpack_image(&containerd, snapshotter.name(), &round)?;
    }
    let mut starts = snapshotters.map(Snapshotter::series);
    let started = |snapshotter: Snapshotter| -> Result<f64> {
        for _ in 0..SILENT {
            let mut start = containerd.ctr(&["run", "--rm", "--snapshotter"]);
            start.args([snapshotter.name(), IMAGE]);
            if let Some(took) = first_output(start.args(["start", "/bin/echo", "started"]))? {
                return Ok(took);
            }
        }
        bail!("`ctr run` printed nothing {SILENT} times in a row")
    };
    for snapshotter in snapshotters {
        // The first reads the image from the disk.
        started(snapshotter)?;
    }
    for run in 0..bench.runs {
        for number in 0..STARTS {
            for turn in 0..snapshotters.len() {
                let index = (number + turn) % snapshotters.len();
                starts[index].values.push(started(snapshotters[index])?);
            }
        }
        let ratios = starts[0].ratios(&starts[1]);
        let (least, most) = ratios.interval();
        println!(
            "  {:>2}/{} {:.3} ({least:.3} to {most:.3})",
            run + 1,
            bench.runs,
            ratios.median()
        );
    }
    drop(containerd);
    drop(daemon);
    Ok(vec![("start", starts.into())])
}

fn once(bench: &Bench, root: &Root, version: Version, snapshotter: Snapshotter) -> Result<Times> {
    let round = Round::new()?;
    let mut plugins = String::new();
    let mut daemon = None;
    match snapshotter {
        Snapshotter::Plywood => {
            let home = round.directory.join("plywood");
            let started = Plywood::start(&bench.plywood, &home, &round.socket())?;
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
    import(containerd, archive)?;
    let unpack = unpack_image(containerd, snapshotter, round)?;
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
            import(containerd, archive)?;
            Some(remove()?.as_secs_f64())
        }
        false => None,
    };
    Ok(Times { unpack, remove: removed.as_secs_f64(), remove_blobs })
}

/// Copies the blobs of an archive into the content store.
fn import(containerd: &Containerd, archive: &Path) -> Result<()> {
    let mut import = containerd.ctr(&["images", "import", "--no-unpack", "-"]);
    import.stdin(File::open(archive)?).stdout(Stdio::null());
    program::quietly(&mut import).map(drop)
}

/// Seconds of unpacking the image and making that durable.
fn unpack_image(containerd: &Containerd, snapshotter: &str, round: &Round) -> Result<f64> {
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
    Ok(unpack)
}

/// Milliseconds until a command writes its first byte, `None` if it writes nothing; it must end well.
fn first_output(command: &mut Command) -> Result<Option<f64>> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", program::command_line(command)))?;
    let mut output = child.stdout.take().context("no standard output")?;
    let mut byte = [0];
    let read = output.read(&mut byte).context("cannot read its output")?;
    let took = begin.elapsed();
    std::io::copy(&mut output, &mut std::io::sink())?;
    let status = child.wait()?;
    ensure!(status.success(), "`{}` ended with {status}", program::command_line(command));
    Ok((read == 1).then_some(took.as_secs_f64() * 1e3))
}

/// What a run leaves, taken away: mounts first.
struct Round {
    directory: PathBuf,
}

impl Round {
    fn new() -> Result<Self> {
        let directory = Path::new(WORK).join("round");
        empty(&directory)?;
        Ok(Self { directory })
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("containerd/socket")
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        super::unmount_below(&self.directory);
    }
}
