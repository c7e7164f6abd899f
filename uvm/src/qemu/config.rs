//! How a machine is to be, and QEMU's command line for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kit::Kit;
use crate::{Error, ErrorKind, MAX_CONTROLLERS, MAX_PMEM, Result};

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accelerator {
    /// QEMU's own translator; works everywhere.
    #[default]
    Tcg,
    /// The host's virtualisation. Only if asked for: that the device opens does not prove that a kernel survives in it.
    Kvm,
}

/// How host and guest reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// vsock, by the program `vhost-device-vsock`.
    #[default]
    Vsock,
    /// One serial port for the bridge and nothing else: no shares, no standard streams of processes.
    Serial,
}

/// A machine to boot.
#[derive(Debug, Clone)]
pub struct Config {
    /// Kernel and initramfs.
    pub kit: Kit,
    /// A directory of this machine alone: sockets, the console's log, the journal. Created if missing; its path must leave room
    /// for a socket's name in 108 bytes.
    pub run: PathBuf,
    /// How instructions run.
    pub accelerator: Accelerator,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub processors: u32,
    /// SCSI controllers, 0 to 4.
    pub scsi_controllers: u8,
    /// Pmem devices that can be added, 0 to 128.
    pub pmem_devices: u32,
    /// How it is reached.
    pub transport: Transport,
    /// Shares, up to 8, that are mounted by virtio devices of their own; the others are over vsock, and so are all if
    /// [`has_channels`](super::has_channels) says that QEMU cannot have such devices.
    pub share_channels: u8,
    /// Whether writable shares are allowed.
    pub writable_shares: bool,
    /// How long the guest may take until its agent answers.
    pub boot_time: Duration,
    /// How long one command of QEMU may take.
    pub command_time: Duration,
    /// More words for the kernel's command line.
    pub kernel_arguments: Vec<String>,
    /// The programs; looked for in `PATH` if they are plain names.
    pub programs: Programs,
}

/// The programs of the host.
#[derive(Debug, Clone)]
pub struct Programs {
    /// QEMU for x86-64.
    pub qemu: PathBuf,
    /// The vsock device's process.
    pub vsock: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self { qemu: "qemu-system-x86_64".into(), vsock: "vhost-device-vsock".into() }
    }
}

/// As many as there are places for on the machine's bus, and as their names have one digit for.
const MAX_CHANNELS: u8 = 8;
const MIB: u64 = 1 << 20;
/// Bytes that the guest may send on a connection until the host's side tells it that there is room again, and so the longest
/// packet that it sends. A packet of more than 32 KiB less its head lies in several pieces of the memory of Linux 6.12.95 (and
/// of those since 6.17), which the device (0.3.0) refuses and drops: bytes are missing in the stream then.
const VSOCK_BUFFER: &str = "28672";
/// Less than this does not unpack the initramfs.
const LEAST_MEMORY: u64 = 256 * MIB;

impl Config {
    /// The usual one: 1 GiB, two processors, four controllers, emulated.
    pub fn new(kit: Kit, run: impl Into<PathBuf>) -> Self {
        Self {
            kit,
            run: run.into(),
            accelerator: Accelerator::Tcg,
            memory: 1024 * MIB,
            processors: 2,
            scsi_controllers: MAX_CONTROLLERS,
            pmem_devices: 0,
            transport: Transport::default(),
            share_channels: MAX_CHANNELS,
            writable_shares: true,
            boot_time: Duration::from_secs(120),
            command_time: Duration::from_secs(60),
            kernel_arguments: Vec::new(),
            programs: Programs::default(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if self.memory < LEAST_MEMORY || !self.memory.is_multiple_of(MIB) {
            return invalid(format!(
                "{} bytes of memory: it must be whole MiB, at least 256",
                self.memory
            ));
        }
        if self.processors == 0 {
            return invalid("a virtual machine needs a processor".to_owned());
        }
        if self.scsi_controllers > MAX_CONTROLLERS {
            return invalid(format!("{} SCSI controllers: 4 at most", self.scsi_controllers));
        }
        if self.share_channels > MAX_CHANNELS {
            return invalid(format!("{} channels of shares: 8 at most", self.share_channels));
        }
        if self.pmem_devices > MAX_PMEM {
            return invalid(format!("{} pmem devices: 128 at most", self.pmem_devices));
        }
        // sockaddr_un's path and its end; the longest name is a guest's port behind "vsock_".
        if self.run.as_os_str().len() > 107 - "/vsock_4294967295".len() {
            return invalid(format!("{} is too long for the sockets in it", self.run.display()));
        }
        match self.run.to_str() {
            // A comma ends a value of QEMU's options.
            Some(text) if !text.contains(',') => Ok(()),
            _ => invalid(format!("{} has a comma or is not UTF-8", self.run.display())),
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// The vsock device's process.
    pub(super) fn vsock_command(&self) -> Command {
        let mut command = Command::new(&self.programs.vsock);
        command
            .args(["--guest-cid", "3", "--socket"])
            .arg(self.file(VHOST_SOCKET))
            .arg("--uds-path")
            .arg(self.file(VSOCK))
            .args(["--tx-buffer-size", VSOCK_BUFFER]);
        command
    }

    pub(super) fn qemu_command(&self) -> Command {
        let mib = self.memory / MIB;
        let mut command = Command::new(&self.programs.qemu);
        let accelerator = match self.accelerator {
            // With a thread for each processor one may run an instruction that the other has just patched back, a
            // breakpoint of the kernel's static branches: guests have died of it when their first container began.
            Accelerator::Tcg => "tcg,thread=single",
            Accelerator::Kvm => "kvm",
        };
        let processor = match self.accelerator {
            // The translator takes a byte a step in what these promise to be fast; without them the kernel moves words.
            Accelerator::Tcg => "max,-erms,-fsrm",
            Accelerator::Kvm => "host",
        };
        let nvdimm = if self.pmem_devices > 0 { ",nvdimm=on" } else { "" };
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-name", "plywood-vm", "-accel", accelerator, "-cpu", processor]);
        command
            .args(["-machine", &format!("q35,usb=off,vmport=off,memory-backend=memory{nvdimm}")]);
        command.args(["-smp", &self.processors.to_string(), "-m"]);
        if self.pmem_devices > 0 {
            // Each slot's largest device, with room for its alignment.
            let most = mib + u64::from(self.pmem_devices) * (crate::PMEM_MAX / MIB + 1024);
            command.arg(format!("{mib}M,slots={},maxmem={most}M", self.pmem_devices));
        } else {
            command.arg(format!("{mib}M"));
        }
        // Shared, because the vsock device's process reads and writes the guest's buffers.
        command.args(["-object", &format!("memory-backend-memfd,id=memory,size={mib}M,share=on")]);
        command.arg("-kernel").arg(self.kit.kernel()).arg("-initrd").arg(self.kit.initramfs());
        command.args(["-append", &self.kernel_command_line()]);
        let socket =
            |name: &str, file: &str| format!("socket,id={name},path={}", self.file(file).display());
        command.args(["-chardev", &socket("console", CONSOLE_SOCKET)]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-chardev", &socket("qmp", QMP_SOCKET), "-mon", "chardev=qmp,mode=control"]);
        match self.transport {
            Transport::Vsock => {
                command.args(["-chardev", &socket("vsock", VHOST_SOCKET)]);
                command.args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
            }
            Transport::Serial => {
                command.args(["-chardev", &socket("bridge", BRIDGE_SOCKET)]);
                command.args(["-device", "virtio-serial-pci"]);
                command.args(["-device", "virtserialport,chardev=bridge,name=plywood.bridge"]);
            }
        }
        for channel in 0..self.share_channels {
            let name = format!("share{channel}");
            let configuration = 2 + super::shares::tag(channel).len();
            command.args(["-chardev", &socket(&name, SHARES_SOCKET)]);
            command.args([
                "-device",
                &format!(
                    "{},chardev={name},virtio-id=9,num_vqs=1,vq_size=128,config_size={configuration}",
                    super::channels::DEVICE
                ),
            ]);
        }
        command.args(["-device", "virtio-rng-pci"]);
        for controller in 0..self.scsi_controllers {
            // The address fixes the order in which the guest finds them, and so its host numbers.
            let address = 0x10 + controller;
            command.args([
                "-device",
                &format!("virtio-scsi-pci,id=scsi{controller},addr={address:#x}"),
            ]);
        }
        command.args([
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ]);
        command
    }

    fn kernel_command_line(&self) -> String {
        // panic=-1 with -no-reboot: a guest that has lost its agent ends.
        // The check that timer interrupts come counts time by loops, and a busy host's emulated processor fails it: the
        // kernel panics then ("IO-APIC + timer doesn't work").
        let mut words = vec!["console=ttyS0", "panic=-1", "quiet", "no_timer_check"];
        if self.transport == Transport::Serial {
            words.push("plywood.bridge=serial");
        }
        words.extend(self.kernel_arguments.iter().map(String::as_str));
        words.join(" ")
    }
}

pub(super) const QMP_SOCKET: &str = "qmp.sock";
pub(super) const CONSOLE_SOCKET: &str = "console.sock";
pub(super) const BRIDGE_SOCKET: &str = "bridge.sock";
pub(super) const VHOST_SOCKET: &str = "vhost.sock";
/// Where QEMU reaches the devices of channels.
pub(super) const SHARES_SOCKET: &str = "shares.sock";
/// Where the host's side of a guest's port is a socket, with `_PORT` behind.
pub(super) const VSOCK: &str = "vsock";
pub(super) const CONSOLE: &str = "console.log";
/// What the two programs say.
pub(super) const PROGRAMS_LOG: &str = "programs.log";

/// Removes the sockets that an earlier machine in this directory left.
pub(super) fn remove_sockets(run: &Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let failed = |error| Error::io(format!("cannot clean {}", run.display()), error);
    for entry in std::fs::read_dir(run).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_socket() {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}
