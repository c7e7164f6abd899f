//! `plywood-machine-probe`: what `cargo xtask bench` must measure inside the process that owns a virtual machine. Boots one,
//! lets contenders take turns in it, and prints one JSON object; not meant for people.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod guest;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use uvm::kit::Kit;
use uvm::qemu::{Config, Qemu};
use uvm::{CombineRequest, Deadline, ScsiMount, ScsiSlot, ShareRequest, Vm as _};

use guest::{Guest, disk, images, soon};

/// Layers of a root filesystem.
const LAYERS: u8 = 30;
/// Files that are made and removed in a share.
const FILES: &str = "200";
/// MiB of the file that is read.
const LENGTH: usize = 64;

#[derive(Parser)]
struct Arguments {
    /// Of the machine
    kit: PathBuf,
    /// An empty directory
    work: PathBuf,
    /// Rounds
    runs: usize,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(measured) => {
            println!("{measured}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One contender of a row.
type Contender<'a> = (&'static str, Box<dyn FnMut() -> Result<f64> + 'a>);

/// Every contender once a round, another one first each time.
fn take_turns(runs: usize, mut contenders: Vec<Contender<'_>>) -> Result<Value> {
    let mut values = vec![Vec::new(); contenders.len()];
    for round in 0..runs {
        for turn in 0..contenders.len() {
            let index = (round + turn) % contenders.len();
            let (name, run) = &mut contenders[index];
            let value = run().with_context(|| (*name).to_owned())?;
            eprintln!("  {:>2}/{runs} {name:<40} {value:.3}", round + 1);
            values[index].push(value);
        }
    }
    let series = contenders.iter().zip(values);
    Ok(series.map(|((name, _), values)| json!({ "name": name, "values": values })).collect())
}

fn measure(arguments: &Arguments) -> Result<Value> {
    let work = &arguments.work;
    let kit = Kit::find(Some(&arguments.kit))?;
    let peer = guest::compile(work)?;
    let trivial = work.join("trivial.cpio");
    std::fs::write(&trivial, archive(&std::fs::read(&peer)?)).context("cannot write an archive")?;
    let boot = take_turns(
        arguments.runs,
        vec![
            ("plywood's agent answers", Box::new(|| boot_ours(&kit, &work.join("boot")))),
            ("qemu, a first process that says a word", Box::new(|| boot_plain(&kit, &trivial))),
        ],
    )?;

    let share = work.join("share");
    std::fs::create_dir(&share).context("cannot make a directory")?;
    std::fs::write(share.join("big"), noise(LENGTH << 20)).context("cannot write a file")?;
    // The peer's share is QEMU's own device on the same machine.
    let qemu = work.join("qemu");
    guest::with_virtio_9p(&qemu, &share)?;
    let mut config = Config::new(kit.clone(), work.join("machine"));
    config.programs.qemu = qemu;
    let guest = Guest::boot(config, &peer, work)?;
    let (attach, layers) = disks(&guest, work, arguments.runs)?;
    let (read, names) = shares(&guest, &share, arguments.runs)?;
    Ok(
        json!({ "boot": boot, "attach": attach, "layers": layers, "9p-read": read, "9p-names": names }),
    )
}

/// Seconds until the agent answers.
fn boot_ours(kit: &Kit, run: &Path) -> Result<f64> {
    let begin = Instant::now();
    let vm = Qemu::boot(Config::new(kit.clone(), run), &Deadline::never(), &mut |_| {})?;
    let took = begin.elapsed().as_secs_f64();
    drop(vm);
    std::fs::remove_dir_all(run).context("cannot remove a directory")?;
    Ok(took)
}

/// Seconds until a kernel without modules has started a process that does nothing.
fn boot_plain(kit: &Kit, archive: &Path) -> Result<f64> {
    let begin = Instant::now();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi"]);
    command.args(["-cpu", "max", "-machine", "q35", "-smp", "2", "-m", "1024M"]);
    command.args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check", "-serial", "stdio"]);
    command.arg("-kernel").arg(kit.kernel()).arg("-initrd").arg(archive);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("there is no output")?;
    let ready =
        BufReader::new(output).lines().map_while(Result::ok).any(|line| line.contains("ready"));
    let took = begin.elapsed().as_secs_f64();
    child.kill()?;
    child.wait()?;
    ensure!(ready, "the guest did not say that it is ready");
    Ok(took)
}

/// Attaching one layer, and a root of thirty, in milliseconds.
fn disks(guest: &Guest, work: &Path, runs: usize) -> Result<(Value, Value)> {
    let images = images(work, LAYERS)?;
    let mount = ScsiMount { read_only: true, options: vec!["ro".into()], ..ScsiMount::default() };
    let ours = |count: usize| -> Result<f64> {
        let begin = Instant::now();
        let mut layers = Vec::new();
        for image in &images[..count] {
            layers.push(guest.machine.attach_scsi(&disk(image), Some(&mount), &soon())?);
        }
        let paths: Vec<String> =
            layers.iter().filter_map(|layer| layer.guest_path().map(str::to_owned)).collect();
        let request = CombineRequest {
            container_id: "bench".into(),
            root: "/run/gcs/c/bench/rootfs".into(),
            layers: paths,
            scratch: None,
        };
        let root = (count > 1).then(|| guest.machine.combine(&request, &soon())).transpose()?;
        let took = begin.elapsed().as_secs_f64() * 1000.0;
        root.map(|root| root.release()).transpose()?;
        layers.into_iter().try_for_each(|layer| layer.release())?;
        Ok(took)
    };
    // The machine's table fills the first controller first.
    let by_hand = |count: usize| -> Result<f64> {
        let host = guest.host_of_controller(3)?;
        let words = ["/tools/peer", "mount", &host, "0", &count.to_string(), "/run/by-hand"];
        let mut peer = guest.start(&words)?;
        peer.expect("waiting")?;
        let begin = Instant::now();
        let slot = |lun| ScsiSlot { controller: 3, lun };
        for (image, lun) in images[..count].iter().zip(0..) {
            guest.vm.add_scsi(slot(lun), &disk(image))?;
            peer.expect("mounted")?;
        }
        let took = begin.elapsed().as_secs_f64() * 1000.0;
        peer.end()?;
        guest.shell(&format!(
            "umount /run/by-hand/root 2>/dev/null; for d in /run/by-hand/*; do umount $d 2>/dev/null; done; \
             rm -r /run/by-hand; for d in /sys/bus/scsi/devices/{host}:0:0:*; do echo 1 > $d/delete; done"
        ))?;
        (0..LAYERS).take(count).try_for_each(|lun| guest.vm.remove_scsi(slot(lun)))?;
        Ok(took)
    };
    let row = |count: usize| {
        take_turns(
            runs,
            vec![
                ("attached and mounted by plywood", Box::new(|| ours(count))),
                ("QMP and mount(2) by hand", Box::new(|| by_hand(count))),
            ],
        )
    };
    Ok((row(1)?, row(usize::from(LAYERS))?))
}

/// Reading a file, in MiB a second, and names, in milliseconds.
fn shares(guest: &Guest, host: &Path, runs: usize) -> Result<(Value, Value)> {
    let request = ShareRequest {
        host: host.to_owned(),
        guest_path: "/run/ours".into(),
        read_only: false,
        allowed: None,
    };
    let share = guest.machine.share(&request, &soon())?;
    guest.shell(
        "mkdir /run/theirs && \
         mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=mmap theirs /run/theirs",
    )?;
    let number = |words: &[&str]| -> Result<f64> {
        let said = guest.run(words)?;
        said.trim().parse().with_context(|| format!("the guest said {said:?}"))
    };
    let read = |file: &str| -> Result<f64> {
        Ok(LENGTH as f64 / (number(&["/tools/peer", "read", file])? / 1e6))
    };
    let names = |directory: &str| -> Result<f64> {
        Ok(number(&["/tools/peer", "names", directory, FILES])? / 1000.0)
    };
    let reads = take_turns(
        runs,
        vec![
            ("plywood's 9P server", Box::new(|| read("/run/ours/big"))),
            ("QEMU's virtio-9p", Box::new(|| read("/run/theirs/big"))),
        ],
    )?;
    let names = take_turns(
        runs,
        vec![
            ("plywood's 9P server", Box::new(|| names("/run/ours/new"))),
            ("QEMU's virtio-9p", Box::new(|| names("/run/theirs/new"))),
        ],
    )?;
    guest.shell("umount /run/theirs")?;
    share.release()?;
    Ok((reads, names))
}

/// Bytes that are not all the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// An archive with one program, `/init` ("newc" of the kernel's initramfs buffer format).
fn archive(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, data) in [("init", 0o100_755, program), ("TRAILER!!!", 0, &[])] {
        let fields = [1, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// Reads a stream to its end.
fn text(mut stream: impl std::io::Read) -> Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).context("cannot read from the guest")?;
    Ok(text)
}
