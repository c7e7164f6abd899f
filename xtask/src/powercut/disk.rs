//! The disk that is cut: what it is made of, a cut, and the store on what a cut left.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::operation::{Operation, State, Step, build_image};
use crate::layer_tar::Noise;
use crate::program;

/// How an operation went that was cut while it ran.
pub(super) struct Ran {
    pub(super) took: Duration,
    /// The states that the cut may show.
    pub(super) allowed: std::ops::RangeInclusive<usize>,
}

/// What was found on the copy.
pub(super) struct Survived {
    pub(super) leftovers: usize,
    pub(super) state: State,
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
pub(super) struct Disk {
    _disk: Mounted,
    _xfs: Mounted,
    directory: PathBuf,
    program: PathBuf,
}

impl Disk {
    pub(super) fn set_up(directory: PathBuf, program: PathBuf) -> Result<Self> {
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
        let disk = Self { _disk: disk, _xfs: xfs, directory, program };
        // A store to begin with: making one is not what is tested here.
        disk.write_once(&disk.path("disk"))?;
        rustix::fs::sync();
        Ok(disk)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Runs plywood on the store of the file system at `disk`; a failure carries what it said.
    pub(super) fn plywood(&self, disk: &Path, words: &[&str]) -> Result<Vec<Value>> {
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
    pub(super) fn show_that_cuts_cut(&self) -> Result<()> {
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
    pub(super) fn run(&self, operation: &Operation, moment: Duration) -> Result<Ran> {
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
    pub(super) fn survive(&self, cut: &str, allowed: &[State]) -> Result<Survived> {
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
    pub(super) fn keep(&self, cut: &str, round: u32, error: anyhow::Error) -> anyhow::Error {
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
