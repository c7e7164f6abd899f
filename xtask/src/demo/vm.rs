//! `cargo xtask demo vm`: two containers in one virtual machine, that share their layers, a directory of the host and a
//! data disk, with every claim checked from outside Plywood where that is possible.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use uvm::kit::KIT_VARIABLE;

use super::session::{Session, heading};
use super::traces::{Traces, unmount_below};
use super::{REFERENCE, image};
use crate::packages::{self, Purpose};
use crate::{emulator, program, vm_kit, workspace};

pub(super) fn demo(plywood: Option<&Path>) -> Result<()> {
    packages::set_up(Purpose::Demo)?;
    packages::require_root(
        "demo vm",
        "the demo makes disks and runs containers, which takes root",
    )?;
    heading("a real image, from Debian packages");
    // The one of the other demo, from its cache.
    let image = image::build(&workspace::target().join("demo/image"), REFERENCE)?;
    heading("a kernel and a guest to boot");
    vm_kit::make()?;
    let program = super::program_under_test(plywood)?;
    let directory = workspace::target().join("demo-vm");
    unmount_below(&directory)?;
    if directory.exists() {
        std::fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    std::fs::create_dir_all(directory.join("share"))?;
    let before = Traces::below(&directory)?;
    let mut session = Session::new(program, &directory);
    session.set(KIT_VARIABLE, vm_kit::directory());
    session.set("PATH", emulator::search_path().into());
    let archive = image.archive.to_str().context("the image's path is not UTF-8")?.to_owned();
    session.plywood(&["image", "import", "--ref", REFERENCE, &archive])?;
    let mut demo = Demo { session, directory };
    demo.two_containers()?;
    demo.kept()?;
    demo.killed()?;

    heading("nothing is left");
    let after = Traces::below(&demo.directory)?;
    demo.session.claim(after == before, "mounts and loop devices are as before")?;
    demo.session.finish();
    Ok(())
}

struct Demo {
    session: Session,
    directory: PathBuf,
}

impl Demo {
    fn path(&self, name: &str) -> Result<String> {
        let path = self.directory.join(name);
        Ok(path.to_str().context("the demo's path is not UTF-8")?.to_owned())
    }

    fn slots(&self) -> Result<Vec<Value>> {
        self.session.json(&["vm", "slots", "first"])
    }

    fn two_containers(&mut self) -> Result<()> {
        heading("a container in a virtual machine");
        let (share, disk) = (self.path("share")?, self.path("data.img")?);
        std::fs::write(self.directory.join("share/question"), "from the host\n")?;
        let file = std::fs::File::create(&disk)?;
        file.set_len(64 << 20)?;
        drop(file);
        program::run(Command::new("mkfs.ext4").args(["-q", "-F", &disk]))?;
        let shared = format!("type=bind,source={share},target=/share");
        let read_only = format!("type=bind,source={share},target=/share,ro");
        let data = format!("type=disk,source={disk},target=/data");
        let vm = ["--isolation", "vm"];
        let first_options = [&vm[..], &["--mount", &shared, "--mount", &data]].concat();
        let mut first = self.session.container_with(
            &first_options,
            "first",
            REFERENCE,
            "uname -r; read go; cat /share/question; echo from the guest > /share/answer; echo kept > /data/file; \
             sync; echo written; read go; : first",
        )?;
        let (kernel, took) = first.line()?;
        self.session.stage("first container", took, "boot, layers, start, to its first line");
        let ours = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        self.session.claim(
            kernel.trim() != ours.trim(),
            &format!("it runs on {}, and this host on {}", kernel.trim(), ours.trim()),
        )?;
        self.session.plywood(&["vm", "ls"])?;
        self.session.plywood(&["vm", "slots", "first"])?;
        let slots = self.slots()?;
        let layers = layer_disks(&slots);
        self.session.claim(
            layers.len() == image::LAYERS && layers.iter().all(|layer| layer.2 == 1),
            "each of its layers is a disk, read-only, of one user",
        )?;
        self.session.claim(
            layers.iter().all(|layer| layer.1.ends_with(".erofs")),
            "and is the very file that this host would mount",
        )?;

        heading("a second container in the same machine");
        let second_options = [&vm[..], &["--vm", "first", "--mount", &read_only]].concat();
        let mut second = self.session.container_with(
            &second_options,
            "second",
            REFERENCE,
            "uname -r; read go; cat /share/answer; touch /share/no 2>/dev/null || echo refused; ls /data 2>/dev/null | wc -l; \
             read go; : second",
        )?;
        let (other, took) = second.line()?;
        self.session.stage("second container", took, "start to its first line, the machine runs");
        self.session.claim(other == kernel, "it runs on the same kernel")?;
        let slots = self.slots()?;
        let now = layer_disks(&slots);
        let places = |layers: &[(String, String, u64)]| -> BTreeSet<String> {
            layers.iter().map(|layer| layer.0.clone()).collect()
        };
        self.session.claim(
            places(&now) == places(&layers) && now.iter().all(|layer| layer.2 == 2),
            "the layers are the same disks, each with two users now",
        )?;
        self.session.claim(of_kind(&slots, "root") == 2, "there are two root filesystems")?;

        heading("a directory of this host, by 9P, and a data disk");
        first.say("go")?;
        first.expect("from the host")?;
        let took = first.expect("written")?;
        self.session.stage("read and write through 9P, write to a disk", took, "");
        let answer = std::fs::read_to_string(self.directory.join("share/answer"))?;
        self.session
            .claim(answer == "from the guest\n", "what it wrote is in the directory here")?;
        second.say("go")?;
        second.expect("from the guest")?;
        self.session.claim(true, "the other container reads it")?;
        second.expect("refused")?;
        self.session.claim(
            !self.directory.join("share/no").exists(),
            "and cannot write there: its mount is read-only",
        )?;
        second.expect("0")?;
        self.session.claim(true, "the data disk is the first container's alone")?;
        self.attach()?;

        heading("the end");
        second.say("end")?;
        second.end()?;
        let slots = self.slots()?;
        self.session.claim(
            layer_disks(&slots).iter().all(|layer| layer.2 == 1)
                && of_kind(&slots, "root") == 1
                && of_kind(&slots, "9p") == 1,
            "the second container has given back its root, its share and its part in the layers",
        )?;
        let qemu = self.qemu()?;
        first.say("end")?;
        first.end()?;
        self.session.claim(!qemu.exists(), "the machine has ended with its container")?;
        self.session.claim(
            !self.directory.join("run/vm/first").exists(),
            "and has left nothing in the run directory",
        )?;
        let mut debugfs = Command::new("debugfs");
        let kept = program::output(debugfs.args(["-R", "cat /file", &disk]))?;
        self.session.claim(kept == "kept\n", "the data disk holds what was written to it")
    }

    /// A disk of the machine's own, beside those of containers.
    fn attach(&mut self) -> Result<()> {
        let spare = self.path("spare.img")?;
        std::fs::File::create(&spare)?.set_len(32 << 20)?;
        let (slot, took) =
            self.session.plywood(&["vm", "attach", "--mkfs", "--mount", "first", &spare])?;
        self.session.stage("attach a disk", took, "made, formatted and mounted");
        let is_there =
            |slots: &[Value]| slots.iter().any(|slot| slot["path"].as_str() == Some(&*spare));
        self.session.claim(
            is_there(&self.slots()?) && slot.contains("/run/mounts/"),
            "a disk can be attached while containers run",
        )?;
        self.session.plywood(&["vm", "detach", "first", &spare])?;
        let slots = self.slots()?;
        self.session.claim(!is_there(&slots), "and detached again")
    }

    /// What a container wrote can be looked at on this host.
    fn kept(&mut self) -> Result<()> {
        heading("what a container wrote, on this host");
        let words = ["run", "--isolation", "vm", "--keep", "--name", "writer", REFERENCE, "--"];
        let script = ["/bin/sh", "-c", "echo 3 > /opt/demo/version && rm /opt/demo/one; exit 42"];
        let output = self
            .session
            .command(&[&words[..], &script].concat())
            .output()
            .context("cannot run plywood")?;
        self.session.claim(
            output.status.code() == Some(42),
            "the container's exit code is passed through",
        )?;
        let (diff, _) = self.session.plywood(&["snapshot", "diff", "container/writer"])?;
        self.session.claim(
            diff.contains("~ /opt/demo/version") && diff.contains("- /opt/demo/one"),
            "the difference names what it changed and removed",
        )?;
        self.session.plywood(&["snapshot", "remove", "container/writer"]).map(drop)
    }

    fn qemu(&self) -> Result<PathBuf> {
        let found = self.session.json(&["vm", "inspect", "first"])?;
        let pid = found[0]["qemu"].as_u64().context("the machine has no QEMU")?;
        Ok(PathBuf::from(format!("/proc/{pid}")))
    }

    /// The owner dies in the middle.
    fn killed(&mut self) -> Result<()> {
        heading("kill -9 of the machine's owner");
        let mut victim = self.session.container_with(
            &["--isolation", "vm"],
            "first",
            REFERENCE,
            "echo started; read go; : victim",
        )?;
        victim.expect("started")?;
        let qemu = self.qemu()?;
        ensure!(qemu.exists(), "QEMU does not run");
        victim.kill()?;
        let began = Instant::now();
        while qemu.exists() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.session.claim(!qemu.exists(), "the machine has ended with its owner")?;
        self.session.stage("end of the machine after kill -9", began.elapsed(), "");
        self.session.plywood(&["mount", "ls"])?;
        self.session.claim(
            !self.directory.join("run/vm/first").exists()
                && !self.directory.join("run/c/first").exists(),
            "the next command has removed what was left of both",
        )?;
        let (list, _) = self.session.plywood(&["snapshot", "list"])?;
        self.session.claim(!list.contains("container/first"), "the container's snapshot is gone")
    }
}

/// Place, file and users of every read-only disk.
fn layer_disks(slots: &[Value]) -> Vec<(String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    slots
        .iter()
        .filter(|slot| slot["kind"] == "scsi" && slot["read_only"] == true)
        .map(|slot| {
            let users = slot["mounts"][0]["users"].as_u64().unwrap_or(0);
            (text(&slot["place"]), text(&slot["path"]), users)
        })
        .collect()
}

fn of_kind(slots: &[Value], kind: &str) -> usize {
    slots.iter().filter(|slot| slot["kind"] == kind).count()
}
