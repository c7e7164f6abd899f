//! `cargo xtask powercut`: real power cuts of the store, without a virtual machine.
//!
//! ```text
//! target/powercut/xfs.img           XFS with reflinks, loop-mounted on xfs/
//! └── xfs/disk.img                  ext4 with its defaults, loop-mounted on disk/: the machine's disk
//!     └── disk/store                --root
//! ```
//!
//! The loop device writes what ext4 sends to the disk into `disk.img`; what ext4 still has in its page cache, or in
//! a journal transaction that is not committed, is not there. An atomic copy of `disk.img` (FICLONE, which waits for
//! and holds off writers) is therefore what a power cut at that moment would have left. The copy is mounted, which
//! replays its journal, and the store on it must be one that the crash model of `docs/store.md` allows: what a
//! command had reported as done is there, what was under way is there wholly or not at all, and after the sweep at
//! the next opening nothing else is.
//!
//! Each round cuts twice: at a random moment of an operation, and right after its last command returned. Before the
//! first round it is shown that a cut does take what was not synced.
//!
//! What this does not have: writes that the disk received but had not flushed are never lost or reordered, so a
//! missing flush of the disk's own cache would not be found; a missing fsync is.
//!
//! All mounts are in a mount namespace of its own and the loop devices detach themselves, so that nothing is left
//! however the run ends.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::layer_tar::{LayerTar, Noise};
use crate::oci_layout::{self, Compression};
use crate::packages::{self, Purpose};
use crate::{program, workspace};

/// Options of `cargo xtask powercut`.
#[derive(Args)]
pub(crate) struct PowercutArguments {
    /// Operations to cut; each is cut twice
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Repeat the moments of another run, as far as the machine's speed allows
    #[arg(long)]
    seed: Option<u64>,
    /// Cut this program instead of building one
    #[arg(long, value_name = "FILE")]
    plywood: Option<PathBuf>,
    /// The mount namespace is ours already
    #[arg(long, hide = true)]
    inside: bool,
}

const REFERENCE: &str = "plywood.example/powercut:1";

/// Layers of the image that is imported.
const LAYERS: usize = 4;

pub(crate) fn powercut(arguments: &PowercutArguments) -> Result<()> {
    if !arguments.inside {
        return enter_namespace(arguments);
    }
    let directory = workspace::target().join("powercut");
    let plywood = arguments.plywood.clone().context("--inside goes with --plywood")?;
    let mut moments = Moments(arguments.seed.context("--inside goes with --seed")?);
    let bench = Bench::set_up(directory, plywood)?;
    bench.show_that_cuts_cut()?;

    println!(
        "seed {}\n\n{:>5}  {:26} {:22} {:>9}  after the sweep",
        moments.0, "round", "operation", "cut", "leftovers"
    );
    let mut state = State::default();
    let mut usual = [Duration::from_millis(200); 3];
    for round in 0..arguments.rounds {
        let kind = round as usize % usual.len();
        let operation = Operation::new(kind, round, &state);
        // Every other time in the last fifth: there files get their names and records are written.
        let start = if (round as usize / usual.len()).is_multiple_of(2) { 0.0 } else { 0.8 };
        let moment = usual[kind].mul_f64(start + (1.0 - start) * moments.next());
        let ran = bench.run(&operation, moment)?;
        usual[kind] = ran.took;
        let last = operation.states.len() - 1;
        let during = format!("{:.3} s of {:.3} s", moment.as_secs_f64(), ran.took.as_secs_f64());
        for (cut, when, allowed) in
            [("during", during, ran.allowed), ("after", "after the last".to_owned(), last..=last)]
        {
            let survived = bench
                .survive(cut, &operation.states[allowed])
                .map_err(|error| bench.keep(cut, round, error))?;
            println!(
                "{:>5}  {:26} {when:22} {:>9}  {}",
                round + 1,
                operation.name,
                survived.leftovers,
                survived.state
            );
        }
        state = operation.states[last].clone();
    }
    bench.plywood(&bench.path("disk"), &["fsck"])?;
    println!("\n{} power cuts, and the store survived every one", arguments.rounds * 2);
    Ok(())
}

/// Starts the same again where its mounts are its own.
fn enter_namespace(arguments: &PowercutArguments) -> Result<()> {
    packages::set_up(Purpose::PowerCut)?;
    packages::require_root("powercut", "loop devices and mounts take root")?;
    let plywood = match &arguments.plywood {
        Some(plywood) => std::path::absolute(plywood)?,
        None => {
            program::run(&mut program::cargo(["build", "--release", "--package", "plywood"]))?;
            workspace::target().join("release/plywood")
        }
    };
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => u64::from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos()),
    };
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(["powercut", "--inside", "--rounds", &arguments.rounds.to_string()])
        .args(["--seed", &seed.to_string(), "--plywood"])
        .arg(plywood);
    Err(command.exec()).context("cannot start unshare")
}

/// Fractions of an operation (xorshift64*).
struct Moments(u64);

impl Moments {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f64 / f64::from(1 << 24)
    }
}

/// What the store must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    images: BTreeSet<String>,
    /// Snapshots that the import made: they carry digests as keys.
    imported: usize,
    /// Keys and kinds of all other snapshots.
    snapshots: BTreeSet<(String, String)>,
    /// Files in `layers/`.
    layers: usize,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (images, imported, layers) = (self.images.len(), self.imported, self.layers);
        write!(f, "{images} images, {layers} layers, {imported} imported snapshots")?;
        self.snapshots.iter().try_for_each(|(key, kind)| write!(f, ", {kind} {key}"))
    }
}

enum Step {
    Run(Vec<String>),
    /// Fill the scratch of this active snapshot.
    Write(String),
}

/// Commands in their order, and the state before the first and after each.
struct Operation {
    name: &'static str,
    steps: Vec<Step>,
    states: Vec<State>,
}

impl Operation {
    fn new(kind: usize, round: u32, state: &State) -> Self {
        let mut operation = Self { name: "", steps: Vec::new(), states: vec![state.clone()] };
        let run = |words: &[&str]| Step::Run(words.iter().map(|word| (*word).to_owned()).collect());
        match kind {
            0 => {
                operation.name = "image import";
                operation.then(run(&["image", "import", "image.tar"]), |state| {
                    state.images.insert(REFERENCE.to_owned());
                    state.imported = LAYERS;
                    state.layers += LAYERS;
                });
            }
            1 => {
                operation.name = "snapshot prepare, commit";
                let (key, name) = (format!("work-{round}"), format!("mine-{round}"));
                let active = (key.clone(), "active".to_owned());
                operation.then(run(&["snapshot", "prepare", &key, REFERENCE]), |state| {
                    state.snapshots.insert(active.clone());
                });
                operation.then(Step::Write(key.clone()), |_| ());
                operation.then(run(&["snapshot", "commit", &name, &key]), |state| {
                    state.snapshots.remove(&active);
                    state.snapshots.insert((name.clone(), "committed".to_owned()));
                    state.layers += 1;
                });
            }
            _ => {
                operation.name = "snapshot, image remove, gc";
                for (key, _) in &state.snapshots {
                    operation.then(run(&["snapshot", "remove", key]), |state| {
                        state.snapshots.retain(|(other, _)| other != key);
                    });
                }
                operation.then(run(&["image", "remove", REFERENCE]), |state| state.images.clear());
                operation.then(run(&["gc"]), |state| *state = State::default());
            }
        }
        operation
    }

    fn then(&mut self, step: Step, change: impl FnOnce(&mut State)) {
        let mut state = self.states[self.steps.len()].clone();
        change(&mut state);
        self.steps.push(step);
        self.states.push(state);
    }
}

/// How an operation went that was cut while it ran.
struct Ran {
    took: Duration,
    /// The states that the cut may show.
    allowed: std::ops::RangeInclusive<usize>,
}

/// What was found on the copy.
struct Survived {
    leftovers: usize,
    state: State,
}

/// A file system that is unmounted when this goes; its loop device goes with it.
struct Mounted(PathBuf);

impl Mounted {
    fn image(image: &Path, target: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&target)?;
        program::quietly(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&target))?;
        Ok(Self(target))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = program::quietly(Command::new("umount").arg(&self.0)) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The disk with the store on it. Fields drop in their order: the inner file system goes first.
struct Bench {
    _disk: Mounted,
    _xfs: Mounted,
    directory: PathBuf,
    program: PathBuf,
}

impl Bench {
    fn set_up(directory: PathBuf, program: PathBuf) -> Result<Self> {
        let image = directory.join("image.tar");
        std::fs::create_dir_all(&directory)?;
        build_image(&directory, &image)?;
        let medium = directory.join("xfs.img");
        let sparse = |path: &Path, gibibytes: u64| -> Result<()> {
            Ok(std::fs::File::create(path)?.set_len(gibibytes << 30)?)
        };
        sparse(&medium, 4)?;
        program::run(Command::new("mkfs.xfs").args(["-q", "-f", "-m", "reflink=1"]).arg(&medium))?;
        let xfs = Mounted::image(&medium, directory.join("xfs"))?;
        // The mount keeps the file; its space is given back with it.
        std::fs::remove_file(&medium)?;
        let disk = directory.join("xfs/disk.img");
        sparse(&disk, 1)?;
        // Nothing of mkfs's work is left to the kernel's background thread.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        program::run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", lazy]).arg(&disk))?;
        let disk = Mounted::image(&disk, directory.join("disk"))?;
        let bench = Self { _disk: disk, _xfs: xfs, directory, program };
        // A store to begin with: making one is not what is tested here.
        bench.write_once(&bench.path("disk"))?;
        rustix::fs::sync();
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Runs plywood on the store of the file system at `disk`; a failure carries what it said.
    fn plywood(&self, disk: &Path, words: &[&str]) -> Result<Vec<Value>> {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory).args(["--format", "json", "--root"]);
        command.arg(disk.join("store")).arg("--run").arg(disk.with_extension("run")).args(words);
        let output = command.output().context("cannot start plywood")?;
        let (said, warned) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let line = program::command_line(&command);
        ensure!(output.status.success(), "`{line}` ended with {}\n{said}{warned}", output.status);
        said.lines()
            .map(|object| {
                serde_json::from_str(object).with_context(|| format!("`{line}`: {object}"))
            })
            .collect()
    }

    /// Opens the store for writing, which sweeps it, and leaves it as it was.
    fn write_once(&self, disk: &Path) -> Result<()> {
        self.plywood(disk, &["snapshot", "prepare", "power-is-back"])?;
        self.plywood(disk, &["snapshot", "remove", "power-is-back"]).map(drop)
    }

    /// What a power cut now would leave, as `xfs/<name>.img`.
    fn cut(&self, name: &str) -> Result<()> {
        let mut copy = Command::new("cp");
        copy.arg("--reflink=always").arg(self.path("xfs/disk.img"));
        program::quietly(copy.arg(self.path(&format!("xfs/{name}.img")))).map(drop)
    }

    /// Without this, surviving would say nothing.
    fn show_that_cuts_cut(&self) -> Result<()> {
        let disk = self.path("disk");
        let mut synced = std::fs::File::create(disk.join("synced"))?;
        synced.write_all(b"synced")?;
        synced.sync_all()?;
        std::fs::write(disk.join("written"), "not synced")?;
        self.cut("control")?;
        let control = Mounted::image(&self.path("xfs/control.img"), self.path("control"))?;
        let kept = std::fs::read(control.0.join("synced")).unwrap_or_default();
        ensure!(kept == b"synced", "the cut took a file that was synced: this is no fair disk");
        ensure!(!control.0.join("written").exists(), "the cut left a file that was not synced");
        println!("control: a cut leaves a file that was synced and takes one that was not");
        Ok(())
    }

    /// Runs the operation and cuts it once at `moment` and once when it is done.
    fn run(&self, operation: &Operation, moment: Duration) -> Result<Ran> {
        let done = AtomicUsize::new(0);
        let start = Instant::now();
        let (allowed, worked) = std::thread::scope(|scope| {
            let work = scope.spawn(|| -> Result<Duration> {
                for step in &operation.steps {
                    self.step(step)?;
                    done.fetch_add(1, Ordering::SeqCst);
                }
                Ok(start.elapsed())
            });
            std::thread::sleep(moment);
            let first = done.load(Ordering::SeqCst);
            let cut = self.cut("during");
            // Whatever was not reported when the cut was complete was at most one step.
            let last = (done.load(Ordering::SeqCst) + 1).min(operation.steps.len());
            let worked = work.join().unwrap_or_else(|_| bail!("the operation's thread panicked"));
            (cut.map(|()| first..=last), worked)
        });
        let (allowed, took) = (allowed?, worked?);
        self.cut("after")?;
        Ok(Ran { took, allowed })
    }

    fn step(&self, step: &Step) -> Result<()> {
        let disk = self.path("disk");
        match step {
            Step::Run(words) => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.plywood(&disk, &words).map(drop)
            }
            Step::Write(key) => {
                let info = self.plywood(&disk, &["snapshot", "info", key])?;
                let number = info.first().map_or(&Value::Null, |info| &info["number"]);
                let scratch = disk.join(format!("store/snapshots/{number}/fs"));
                for seed in 0..24 {
                    let mut file = std::fs::File::create(scratch.join(format!("file-{seed}")))?;
                    std::io::copy(&mut Noise::new(seed, 1 << 20), &mut file)?;
                }
                Ok(())
            }
        }
    }

    /// Brings the cut machine up again and looks whether its store is in one of the allowed states.
    fn survive(&self, cut: &str, allowed: &[State]) -> Result<Survived> {
        let disk = Mounted::image(&self.path(&format!("xfs/{cut}.img")), self.path(cut))?;
        let run = disk.0.with_extension("run");
        if run.exists() {
            std::fs::remove_dir_all(&run)?;
        }
        let layers = || anyhow::Ok(std::fs::read_dir(disk.0.join("store/layers"))?.count());
        let leftovers = leftovers(&disk.0.join("store"))?.len() + layers()?;
        self.write_once(&disk.0)?;
        let left = self::leftovers(&disk.0.join("store"))?;
        ensure!(left.is_empty(), "the sweep left {}", left.join(", "));
        self.plywood(&disk.0, &["fsck"])?;
        let state = self.state(&disk.0)?;
        let expected =
            || allowed.iter().map(State::to_string).collect::<Vec<_>>().join("\n   or: ");
        ensure!(allowed.contains(&state), "found: {state}\n   not: {}", expected());
        Ok(Survived { leftovers: leftovers.saturating_sub(state.layers), state })
    }

    fn state(&self, disk: &Path) -> Result<State> {
        let text = |object: &Value, name: &str| object[name].as_str().unwrap_or("?").to_owned();
        let images = self.plywood(disk, &["image", "list"])?;
        let (imported, own): (Vec<_>, Vec<_>) = self
            .plywood(disk, &["snapshot", "list"])?
            .into_iter()
            .map(|snapshot| (text(&snapshot, "key"), text(&snapshot, "kind")))
            .partition(|(key, _)| key.starts_with("sha256:"));
        Ok(State {
            images: images.iter().map(|image| text(image, "reference")).collect(),
            imported: imported.len(),
            snapshots: own.into_iter().collect(),
            layers: std::fs::read_dir(disk.join("store/layers"))?.count(),
        })
    }

    /// Takes the disk image out of what is about to be unmounted.
    fn keep(&self, cut: &str, round: u32, error: anyhow::Error) -> anyhow::Error {
        let kept = self.path(&format!("round-{}-{cut}.img", round + 1));
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(self.path(&format!("xfs/{cut}.img"))).arg(&kept);
        match program::quietly(&mut copy) {
            Ok(_) => {
                error.context(format!("round {}: the cut disk is {}", round + 1, kept.display()))
            }
            Err(copying) => error.context(format!("the cut disk could not be kept: {copying:#}")),
        }
    }
}

/// Names that only something unfinished has.
fn leftovers(store: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (part, prefix) in
        [("", "rm-"), ("", "metadata.new"), ("staging", ""), ("snapshots", "new-")]
    {
        for entry in std::fs::read_dir(store.join(part))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                found.push(format!("{part}/{name}"));
            }
        }
    }
    Ok(found)
}

/// An archive of all three compressions, one large file and many small ones a layer, and a hard link to a lower layer.
fn build_image(directory: &Path, archive: &Path) -> Result<()> {
    let tar = directory.join("layer.part");
    let mut layers = Vec::new();
    for number in 0..LAYERS {
        let seed = number as u64;
        let mut layer = LayerTar::create(&tar)?;
        layer.stream(&format!("large-{number}"), 0o644, 12 << 20, Noise::new(seed, 12 << 20))?;
        // Without this entry a layer takes the directory from the layers below, as layer 3 does.
        if number < 3 {
            layer.directory(&format!("many-{number}"), 0o755)?;
        }
        for file in 0..400 {
            let text = format!("layer {number}, file {file}\n").repeat(100);
            layer.file(&format!("many-{number}/{file}"), 0o644, text.as_bytes())?;
        }
        if number == 2 {
            layer.hard_link("linked", "large-0")?;
        }
        layer.finish()?;
        let blob = directory.join(format!("layer-{number}.blob"));
        let compression = [Compression::Gzip, Compression::Zstd, Compression::Plain][number % 3];
        layers.push(oci_layout::pack_layer(&tar, &blob, compression)?);
    }
    oci_layout::write_archive(archive, REFERENCE, &layers, &json!({}), "2025-01-01T00:00:00Z")?;
    for file in layers.iter().map(|layer| &layer.path).chain([&tar]) {
        std::fs::remove_file(file)?;
    }
    Ok(())
}
