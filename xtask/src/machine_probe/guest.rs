//! A machine with tools in it, and programs in its guest.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bridge::{
    ExecuteProcess, ExecuteProcessSettings, InText, ProcessParameters, RequestBase, StdioPorts,
    WaitForProcess,
};
use uvm::qemu::{Config, Qemu};
use uvm::{Deadline, Machine, ScsiDisk, ScsiGuard, ScsiKind, ScsiMount};

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(120))
}

pub(crate) fn disk(path: &Path) -> ScsiDisk {
    ScsiDisk { path: path.to_owned(), read_only: true, kind: ScsiKind::VirtualDisk }
}

/// A machine with `/tools` in its guest.
pub(crate) struct Guest {
    _tools: ScsiGuard,
    pub(crate) machine: Machine,
    pub(crate) vm: Arc<Qemu>,
}

/// A process in the guest and what it says.
pub(crate) struct Process<'a> {
    guest: &'a Guest,
    id: u32,
    output: BufReader<UnixStream>,
}

impl Guest {
    pub(crate) fn boot(config: Config, peer: &Path, work: &Path) -> Result<Self> {
        let run = config.run.clone();
        let vm = Arc::new(Qemu::boot(config, &Deadline::never(), &mut |_| {})?);
        let (machine, _) = Machine::open(vm.clone(), &run)?;
        let tree = work.join("tools");
        std::fs::create_dir(&tree).context("cannot make a directory")?;
        for (from, name) in [(Path::new("/bin/busybox"), "busybox"), (peer, "peer")] {
            std::fs::copy(from, tree.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        let image = work.join("tools.erofs");
        mkfs(&image, &tree)?;
        let mount = ScsiMount {
            path: Some("/tools".into()),
            read_only: true,
            options: vec!["ro".into()],
            ..ScsiMount::default()
        };
        let tools = machine.attach_scsi(&disk(&image), Some(&mount), &soon())?;
        Ok(Self { _tools: tools, machine, vm })
    }

    pub(crate) fn start(&self, words: &[&str]) -> Result<Process<'_>> {
        let port = self.vm.open_port()?;
        let parameters = ProcessParameters {
            command_args: words.iter().map(ToString::to_string).collect(),
            working_directory: "/".into(),
            create_std_out_pipe: true,
            create_in_utility_vm: true,
            ..ProcessParameters::default()
        };
        let execute = ExecuteProcess {
            base: RequestBase::default(),
            settings: ExecuteProcessSettings {
                process_parameters: InText(parameters),
                vsock_stdio_relay_settings: StdioPorts {
                    std_out: port.number(),
                    ..StdioPorts::default()
                },
            },
        };
        let started = self.vm.client().call(&execute, &soon())?;
        let output = BufReader::new(port.accept(&soon())?);
        Ok(Process { guest: self, id: started.process_id, output })
    }

    /// A program's output.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        let mut process = self.start(words)?;
        let said = super::text(&mut process.output)?;
        process.end().with_context(|| format!("{words:?} said {said:?}"))?;
        Ok(said)
    }

    pub(crate) fn shell(&self, script: &str) -> Result<String> {
        // Busybox finds its applets in itself.
        self.run(&["/tools/busybox", "sh", "-c", &format!("{{ {script}\n}} 2>&1")])
    }

    /// The number of a controller's host, as addresses of disks in the guest have it.
    pub(crate) fn host_of_controller(&self, controller: u32) -> Result<String> {
        let said = self.shell("cd /sys/class/scsi_host; grep -l virtio_scsi */proc_name")?;
        let mut hosts: Vec<u32> = said
            .lines()
            .filter_map(|line| line.strip_prefix("host")?.split('/').next()?.parse().ok())
            .collect();
        hosts.sort_unstable();
        let host = hosts.get(controller as usize).context("the guest has too few controllers")?;
        Ok(host.to_string())
    }
}

impl Process<'_> {
    pub(crate) fn expect(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot read from the guest")?;
        ensure!(line.trim() == word, "the guest says {line:?} and not {word}");
        Ok(())
    }

    pub(crate) fn end(self) -> Result<()> {
        let wait = WaitForProcess {
            base: RequestBase::default(),
            process_id: self.id,
            timeout_in_ms: WaitForProcess::FOREVER,
        };
        let ended = self.guest.vm.client().call(&wait, &soon())?;
        ensure!(ended.exit_code == 0, "a program in the guest ended with {}", ended.exit_code);
        Ok(())
    }
}

/// The program that does by hand what is compared.
pub(crate) fn compile(work: &Path) -> Result<PathBuf> {
    let (source, program) = (work.join("peer.c"), work.join("peer"));
    std::fs::write(&source, include_str!("peer.c")).context("cannot write a program")?;
    let mut compiler = Command::new("cc");
    let output = compiler.args(["-O2", "-static", "-o"]).arg(&program).arg(&source).output()?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}

/// EROFS images with a file each.
pub(crate) fn images(work: &Path, count: u8) -> Result<Vec<PathBuf>> {
    (0..count)
        .map(|number| {
            let (tree, image) =
                (work.join(format!("layer-{number}")), work.join(format!("layer-{number}.erofs")));
            std::fs::create_dir(&tree).context("cannot make a directory")?;
            std::fs::write(tree.join(number.to_string()), [number; 100_000])?;
            mkfs(&image, &tree)?;
            Ok(image)
        })
        .collect()
}

fn mkfs(image: &Path, tree: &Path) -> Result<()> {
    let output = Command::new("mkfs.erofs").arg("-x-1").arg(image).arg(tree).output()?;
    ensure!(output.status.success(), "mkfs.erofs: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A QEMU that has a share of its own besides what it is told.
pub(crate) fn with_virtio_9p(program: &Path, share: &Path) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nexec qemu-system-x86_64 \"$@\" -virtfs local,path={},mount_tag=theirs,security_model=none\n",
        share.display()
    );
    std::fs::write(program, script).context("cannot write a script")?;
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
