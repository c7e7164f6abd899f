//! Rows about virtual machines: what Plywood adds to QEMU and to mounting by hand, what a machine that runs saves.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::measure::{Contender, Series, empty, silently, take_turns};
use super::private::Measured;
use super::report::Row;
use super::{Bench, remove};
use crate::{emulator, program, vm_kit, workspace};

const IMAGE: &str = "bench:1";
/// The name of the machine that others join.
const MACHINE: &str = "bench";
/// Containers more in one machine.
const MORE: usize = 4;

/// What is measured within the process that owns a machine.
pub(super) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    vm_kit::make()?;
    let directory = workspace::target().join("bench/machine");
    empty(&directory)?;
    let work = directory.join("work");
    empty(&work)?;
    let mut probe = Command::new(bench.probe.with_file_name("plywood-machine-probe"));
    probe.arg(vm_kit::directory()).arg(&work).arg(bench.runs.to_string());
    probe.env("PATH", emulator::search_path());
    let answer = program::output(&mut probe)?;
    let measured =
        Measured(serde_json::from_str(&answer).context("the probe's result is no JSON")?);
    remove(&directory)?;
    let series = |name: &str| measured.series(name);
    let more = |series: &[Series]| series[0].median() - series[1].median();
    let ratio = |series: &[Series]| series[0].median() / series[1].median();

    let (boot, attach, layers) = (series("boot")?, series("attach")?, series("layers")?);
    let (read, names) = (series("9p-read")?, series("9p-names")?);
    let (over, faster, slower) = (more(&attach), ratio(&read), ratio(&names));
    let row = |id, title: &str, unit, series, bar, verdict, note: &str| Row {
        id,
        same_work: true,
        title: title.to_owned(),
        unit,
        series,
        bar,
        verdict,
        note: note.to_owned(),
    };
    Ok(vec![
        row(
            "vm-boot",
            "Boot of a virtual machine, emulated",
            "s",
            boot,
            "–",
            None,
            "Two processors, 1 GiB, the same kernel. QEMU's own initramfs has one program of a few hundred KiB, which says a \
             word; ours has 33 MiB of modules and programs, four SCSI controllers, and a bridge that is agreed on.",
        ),
        row(
            "vm-attach",
            "A layer attached and mounted in the guest",
            "ms",
            attach,
            "under 20 ms over QMP's device_add and mount(2)",
            Some((over < 20.0, format!("{over:.1} ms over"))),
            "By hand a program in the guest looks for the disk every millisecond, mounts it, and says so.",
        ),
        row(
            "vm-layers",
            "A root filesystem of 30 layers in the guest",
            "ms",
            layers,
            "–",
            None,
            "One layer after another, then an overlay of them; by hand the same program does it.",
        ),
        row(
            "vm-9p-read",
            "Sequential reading of a share",
            "MiB/s",
            read,
            "not slower than QEMU's virtio-9p",
            Some((faster >= 1.0, format!("{faster:.2} × its speed"))),
            "64 MiB in reads of 1 MiB, messages of 512 KiB, both shares in one guest, in the host's page cache.",
        ),
        row(
            "vm-9p-names",
            "Names in a share: 200 files made, renamed, looked at, listed, removed",
            "ms",
            names,
            "not slower than QEMU's virtio-9p",
            Some((slower <= 1.0, format!("{slower:.2} × its time"))),
            "One after another, so it is the time of a message there and back.",
        ),
    ])
}

/// Containers in a machine that runs, from the command line.
pub(super) fn warm(bench: &Bench) -> Result<Vec<Row>> {
    vm_kit::make()?;
    empty(&bench.work)?;
    let archive = bench.data.three_layers.to_str().context("the data's path is not UTF-8")?;
    silently(&mut bench.plywood(&["image", "import", "--ref", IMAGE, archive]))?;
    let owner = Running::start(bench, &["--name", MACHINE])?;
    let series = take_turns(
        bench.runs,
        vec![
            Contender::new("in a machine that runs", || {
                first_word(bench, &["--isolation", "vm", "--vm", MACHINE])
            }),
            Contender::new("in a machine of its own", || first_word(bench, &["--isolation", "vm"])),
            Contender::new("without a machine", || first_word(bench, &[])),
        ],
    )?;
    let mut memory = vec![
        Series { name: "another container in a machine".to_owned(), values: Vec::new() },
        Series { name: "a container in a machine of its own".to_owned(), values: Vec::new() },
    ];
    let mut before = memory_of(owner.child.id())?;
    memory[1].values.push(before);
    let mut others = Vec::new();
    for _ in 0..MORE {
        others.push(Running::start(bench, &["--vm", MACHINE])?);
        let commands: f64 =
            others.iter().map(|other| memory_of(other.child.id())).sum::<Result<f64>>()?;
        let now = memory_of(owner.child.id())? + commands;
        memory[0].values.push(now - before);
        before = now;
    }
    drop((others, owner));
    Ok(vec![
        Row {
            id: "vm-warm",
            same_work: false,
            title: "From `plywood run` to a container's first output".to_owned(),
            unit: "s",
            series,
            bar: "–",
            verdict: None,
            note: "`/bin/echo` in the image of three layers; emulated, two processors.".to_owned(),
        },
        Row {
            id: "vm-memory",
            same_work: false,
            title: "Memory of a container in a virtual machine".to_owned(),
            unit: "MiB",
            series: memory,
            bar: "–",
            verdict: None,
            note: "Proportional share of all processes of it: QEMU with the guest's memory as far as it was touched, the vsock \
                   device's, the commands'. Each container runs a shell that waits."
                .to_owned(),
        },
    ])
}

fn run(bench: &Bench, options: &[&str], command: &[&str]) -> Command {
    let mut run = bench.plywood(&["run", "-i"]);
    run.args(options).args([IMAGE, "--"]).args(command);
    run.env(uvm::kit::KIT_VARIABLE, vm_kit::directory()).env("PATH", emulator::search_path());
    run
}

/// Seconds until a container says a word.
fn first_word(bench: &Bench, options: &[&str]) -> Result<f64> {
    let mut command = run(bench, options, &["/bin/echo", "word"]);
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().context("there is no output")?;
    BufReader::new(output).read_line(&mut line)?;
    let took = begin.elapsed().as_secs_f64();
    let status = child.wait()?;
    ensure!(status.success() && line == "word\n", "the container ended with {status}: {line:?}");
    Ok(took)
}

/// A container that waits until it is dropped.
struct Running {
    child: Child,
}

impl Running {
    fn start(bench: &Bench, options: &[&str]) -> Result<Self> {
        let options = [&["--isolation", "vm"][..], options].concat();
        let mut command = run(bench, &options, &["/bin/sh", "-c", "echo ready; read word"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut running = Self { child };
        let output = running.child.stdout.take().context("there is no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "the container says {line:?}");
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its shell reads to the end then.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// MiB of a process and its children, what is shared counted in parts.
fn memory_of(process: u32) -> Result<f64> {
    let rollup = PathBuf::from(format!("/proc/{process}/smaps_rollup"));
    let text = std::fs::read_to_string(&rollup)
        .with_context(|| format!("cannot read {}", rollup.display()))?;
    let kibibytes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())
        .context("there is no Pss in smaps_rollup")?;
    let mut mebibytes = kibibytes / 1024.0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            mebibytes += memory_of(child)?;
        }
    }
    Ok(mebibytes)
}
