//! `cargo xtask bench`: Plywood against its peers, in the same run, on the same data.

mod calls;
mod cim;
mod containers;
mod data;
mod imports;
mod machines;
mod measure;
mod peers;
mod private;
mod reading;
mod report;
mod serving;
mod svg;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::data::{Data, Many};
use self::private::Inside;
use self::report::{Circumstances, Row};
use crate::packages::{self, Purpose};
use crate::windows::{self, WindowsImage};
use crate::{program, workspace};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Only these rows; repeat it for several
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often every contender runs
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where the data is kept, and built when it is not there
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Measure the release build that is there
    #[arg(long)]
    as_built: bool,
    /// Only build the data and the peers
    #[arg(long)]
    prepare: bool,
    /// Measure these rows here and now: the caller has made the namespaces
    #[arg(long, hide = true)]
    inside: Option<Inside>,
}

/// What the rows work with.
struct Bench {
    runs: usize,
    data: Data,
    /// A Windows-like image of three layers.
    windows: WindowsImage,
    many: Many,
    /// The release build.
    plywood: PathBuf,
    /// Helper built in release: what must be measured inside one process.
    probe: PathBuf,
    mkfs_erofs: PathBuf,
    containerd: PathBuf,
    /// containerd's overlayfs snapshotter as a service of its own.
    overlayfs: PathBuf,
    /// Emptied by whoever uses it, on the same filesystem as the data.
    work: PathBuf,
}

/// One row, or several of one run.
enum Measurement {
    Row(fn(&Bench) -> Result<Row>),
    Rows(fn(&Bench) -> Result<Vec<Row>>),
}

use Measurement::{Row as One, Rows as Several};

const ROWS: &[(&str, Measurement)] = &[
    ("import-tar", One(imports::tar)),
    ("import-gzip", One(imports::gzip)),
    ("import-image", One(imports::image)),
    ("memory", One(imports::memory)),
    ("mount", One(serving::mount)),
    ("rootfs", One(serving::rootfs)),
    ("second", One(serving::second)),
    ("snapshots", One(serving::snapshots)),
    ("read-tree", One(reading::tree)),
    ("list-tree", One(reading::list)),
    ("cim-import", One(cim::import)),
    ("cim-open", One(cim::open)),
    ("cim-view", One(cim::view)),
    ("cim-fork", One(cim::fork)),
    ("cim-read", One(cim::read)),
    ("cim-fuse", Several(cim::fuse)),
    ("calls", Several(calls::call_rows)),
    ("daemon-memory", Several(calls::memory_row)),
    ("containerd-1.7", Several(containers::rows_1_7)),
    ("containerd-2.1", Several(containers::rows_2_1)),
    ("start", One(containers::start)),
    ("vm", Several(machines::rows)),
    ("vm-warm", Several(machines::warm)),
];

pub(crate) fn bench(arguments: &BenchArguments) -> Result<()> {
    if let Some(name) = arguments.only.iter().find(|name| !ROWS.iter().any(|(row, _)| row == name))
    {
        let names: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
        bail!("there is no row `{name}`; there are {}", names.join(", "));
    }
    packages::set_up(Purpose::Bench)?;
    packages::set_up(Purpose::Containerd)?;
    packages::require_root("bench", "the benchmarks mount images and drop the page cache")?;
    let directory = workspace::target().join("bench");
    let data = arguments.data.clone().unwrap_or_else(|| directory.join("data"));
    let data = Data::build(&data)?;
    let peers = directory.join("peers");
    let mkfs_erofs = peers::mkfs_erofs(&peers)?;
    let containerd = peers::containerd_programs(&peers)?;
    let overlayfs = peers::overlayfs_service(&peers)?;
    if !arguments.as_built {
        let release = ["build", "--release", "--package", "plywood"];
        program::run(&mut program::cargo(release))?;
        let probe = ["build", "--release", "--package", "xtask", "--features", "probe"];
        program::run(program::cargo(probe).args(["--bin", "plywood-probe"]))?;
        let probe = ["build", "--release", "--package", "xtask", "--features", "machine-probe"];
        program::run(program::cargo(probe).args(["--bin", "plywood-machine-probe"]))?;
    }
    let built = |name: &str| workspace::target().join("release").join(name);
    let windows = windows::build(&workspace::target().join("windows"))?;
    let many = Many::build(&data.directory, &built("plywood-probe"))?;
    if arguments.prepare {
        return Ok(());
    }

    let bench = Bench {
        runs: arguments.runs,
        data,
        windows,
        many,
        plywood: built("plywood"),
        probe: built("plywood-probe"),
        mkfs_erofs,
        containerd,
        overlayfs,
        work: directory.join("work"),
    };
    if let Some(what) = arguments.inside {
        return private::inside(&bench, what);
    }
    let mut rows = Vec::new();
    for (name, measurement) in ROWS {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            println!("\n== {name}");
            let measured = match measurement {
                One(measure) => measure(&bench).map(|row| vec![row]),
                Several(measure) => measure(&bench),
            };
            for row in measured.with_context(|| format!("row {name}"))? {
                if let Some((met, measured)) = &row.verdict {
                    let met = if *met { "met" } else { "NOT MET" };
                    println!("  {}: {measured}; {}: {met}", row.id, row.bar);
                }
                rows.push(row);
            }
        }
    }
    remove(&bench.work)?;
    let circumstances = Circumstances {
        command: "cargo xtask bench".to_owned(),
        runs: arguments.runs,
        data_digest: bench.data.digest.clone(),
        versions: bench.versions(),
    };
    if arguments.only.is_empty() {
        report::write(&rows, &circumstances)
    } else {
        println!("\nonly some rows were measured, so the report stays as it is");
        Ok(())
    }
}

impl Bench {
    /// `plywood` on a store of this run's own.
    fn plywood(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.plywood);
        command.arg("--root").arg(self.work.join("root"));
        command.arg("--run").arg(self.work.join("run")).args(arguments);
        command
    }

    fn versions(&self) -> Vec<String> {
        let said = |name: &str, program: &Path, argument: &str| {
            format!("{name}: {}", report::version(Command::new(program).arg(argument)))
        };
        vec![
            said("plywood", &self.plywood, "--version"),
            said("mkfs.erofs", &self.mkfs_erofs, "--version"),
            said("tar", Path::new("tar"), "--version"),
            said("sqfstar", Path::new("sqfstar"), "-version"),
            said("wimlib-imagex", Path::new("wimlib-imagex"), "--version"),
            said("containerd", &self.containerd.join("containerd"), "--version"),
        ]
    }
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Unmounts everything below a directory, what is busy as soon as it is not.
fn unmount_below(directory: &Path) {
    use rustix::mount::{UnmountFlags, unmount};
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The latest mount is the last line.
    for line in table.lines().rev() {
        if let Some(target) = line.split(' ').nth(4).map(Path::new)
            && target.starts_with(directory)
            && target != directory
            && let Err(error) = unmount(target, UnmountFlags::DETACH)
        {
            eprintln!("cannot unmount {}: {error}", target.display());
        }
    }
}
