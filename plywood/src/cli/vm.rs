//! `plywood vm`, and what of a virtual machine `plywood run` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::parse_size;
use super::run::parse_name;
use crate::exit::{Exit, Failure};

/// Options of `run` that are about a virtual machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for --isolation vm")]
pub(crate) struct VmArgs {
    /// Encrypt what the container writes with a key that only the virtual machine has: it is lost when the container ends.
    #[arg(long, conflicts_with = "keep")]
    pub(crate) encrypted_scratch: bool,
    /// Run in the virtual machine of this name, which another `plywood run` or `plywood vm start` has booted [default: one of its own].
    #[arg(long, value_name = "NAME", conflicts_with_all = ["kit", "accel", "memory", "cpus", "pmem"])]
    pub(crate) vm: Option<String>,
    #[command(flatten)]
    pub(crate) boot: BootArgs,
}

/// What a virtual machine is to be that is booted.
#[derive(Debug, Args)]
pub(crate) struct BootArgs {
    /// Directory with the kernel and the initramfs to boot [default: $PLYWOOD_VM_KIT or /usr/lib/plywood/vm].
    #[arg(long, value_name = "DIR")]
    pub(crate) kit: Option<PathBuf>,
    /// How the virtual machine's instructions run; kvm only where `plywood doctor --probe-kvm` says that it works.
    #[arg(long, value_enum, default_value_t = Accel::Tcg, value_name = "ACCEL")]
    pub(crate) accel: Accel,
    /// The virtual machine's memory.
    #[arg(long = "vm-memory", id = "memory", value_name = "SIZE", default_value = "1G", value_parser = parse_memory)]
    pub(crate) memory: u64,
    /// The virtual machine's processors.
    #[arg(long = "vm-cpus", id = "cpus", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: u32,
    /// Attach layers as persistent memory, which the guest reads in place, where their size allows it: whole 2 MiB.
    #[arg(long = "vm-pmem", id = "pmem")]
    pub(crate) pmem: bool,
}

impl VmArgs {
    /// A container without a virtual machine has no use for these.
    pub(crate) fn refuse(&self) -> Result<(), Failure> {
        let used =
            [self.vm.is_some(), self.boot.kit.is_some(), self.boot.pmem, self.encrypted_scratch];
        match used.contains(&true) {
            true => Err(Failure::new(
                Exit::Usage,
                "--vm, --kit, --vm-pmem and --encrypted-scratch are for containers in a virtual machine",
            )
            .hint("add --isolation vm")),
            false => Ok(()),
        }
    }
}

/// How a virtual machine's instructions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// Translated by QEMU: slow, and works everywhere.
    Tcg,
    /// By the host's processor, through KVM.
    Kvm,
}

impl Accel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

fn parse_memory(text: &str) -> Result<u64, String> {
    const MIB: u64 = 1 << 20;
    match parse_size(text)? {
        size if size < 256 * MIB => Err("at least 256M".to_owned()),
        size if !size.is_multiple_of(MIB) => Err("whole MiB".to_owned()),
        size => Ok(size),
    }
}

/// `vm`
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
A virtual machine is booted by `plywood run --isolation vm` and ends with it, or by `plywood vm start`.

Examples:
  plywood run --isolation vm --name box debian:12 -- sleep 600 &
  plywood vm ls
  plywood run --isolation vm --vm box debian:12 -- ls /      a second container in it
  plywood vm slots box
  plywood vm console box")]
pub(crate) enum VmVerb {
    /// Make what virtual machines boot, from a kernel of this host.
    MakeKit(VmMakeKitArgs),
    /// Boot one that stays until it is stopped.
    Start(VmStartArgs),
    /// List the virtual machines that run.
    Ls(VmListArgs),
    /// Show one: its size, its owner, the containers in it.
    Inspect(VmInspectArgs),
    /// Show what is attached to one: disks, shares, root filesystems.
    Slots(VmSlotsArgs),
    /// Print the log of its console.
    Console(VmConsoleArgs),
    /// Attach a disk to it until it is detached or the machine ends.
    Attach(VmAttachArgs),
    /// Detach a disk that was attached so.
    Detach(VmDetachArgs),
    /// End its containers, and with them the machine.
    Stop(VmStopArgs),
}

/// `vm make-kit`
#[derive(Debug, Args)]
#[command(after_long_help = "\
The kernel needs modules for virtio SCSI and vsock, EROFS, overlay, ext4 and 9p: Debian's linux-image-amd64 has all of
them, its kernel for clouds has no 9p. runc and the programs that make file systems are taken from this host.

Examples:
  plywood vm make-kit
  plywood vm make-kit --kernel-release 6.12.95+deb12-amd64
  plywood vm make-kit --kernel k/boot/vmlinuz-6.12 --modules k/lib/modules/6.12 ./kit")]
pub(crate) struct VmMakeKitArgs {
    /// Where it comes; one that is there is replaced.
    #[arg(value_name = "DIR", default_value = uvm::kit::DEFAULT_KIT)]
    pub(crate) directory: PathBuf,
    /// An installed kernel [default: the one that runs].
    #[arg(long, value_name = "RELEASE", conflicts_with_all = ["kernel", "modules"])]
    pub(crate) kernel_release: Option<String>,
    /// The kernel's file.
    #[arg(long, value_name = "FILE", requires = "modules")]
    pub(crate) kernel: Option<PathBuf>,
    /// The directory of its modules, named as its release.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub(crate) modules: Option<PathBuf>,
    /// The agent, linked statically [default: plywood-guest beside this program or in /usr/lib/plywood].
    #[arg(long, value_name = "FILE")]
    pub(crate) guest: Option<PathBuf>,
}

/// `vm start`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Containers start in it without a boot. It stays when they end, and ends with `plywood vm stop`.

Examples:
  plywood vm start warm
  plywood run --isolation vm --vm warm debian:12 -- uname -r
  plywood vm stop warm")]
pub(crate) struct VmStartArgs {
    /// Its name: letters, digits, `_`, `.` and `-`.
    #[arg(value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) boot: BootArgs,
    /// Own it in this process, until it is stopped or this process gets INT or TERM.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Leave the caller once it runs.
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) detach: bool,
}

/// `vm ls`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood vm ls
  plywood --format json vm ls | jq -r .name")]
pub(crate) struct VmListArgs {}

/// `vm inspect`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood vm inspect box
  plywood --format json vm inspect box | jq .containers")]
pub(crate) struct VmInspectArgs {
    /// Its name: that of the container that it was booted for, or that it was started with.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// `vm slots`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood vm slots box
  plywood --format json vm slots box | jq -r 'select(.kind == \"scsi\") | .place'")]
pub(crate) struct VmSlotsArgs {
    /// Its name: that of the container that it was booted for, or that it was started with.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// `vm console`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood vm console box
  plywood vm console --follow box")]
pub(crate) struct VmConsoleArgs {
    /// Its name: that of the container that it was booted for, or that it was started with.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Go on as it grows, until the machine ends.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// `vm attach`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood vm attach box data.img
  plywood vm attach --read-only --mount box layer.erofs
  plywood vm attach --mkfs --mount=/run/data box empty.img")]
pub(crate) struct VmAttachArgs {
    /// Its name: that of the container that it was booted for, or that it was started with.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// A disk image (raw, VHD, VHDX), or with --pass-through a block device.
    #[arg(value_name = "DISK")]
    pub(crate) path: PathBuf,
    /// Nothing can be written to it.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Hand a block device of this host through.
    #[arg(long)]
    pub(crate) pass_through: bool,
    /// Mount it in the guest, at a directory of the guest's choice if none is given.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) mount: Option<String>,
    /// Make an ext4 file system on it if it has none.
    #[arg(long, requires = "mount", conflicts_with = "read_only")]
    pub(crate) mkfs: bool,
}

/// `vm detach`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood vm detach box 0:3
  plywood vm detach box data.img")]
pub(crate) struct VmDetachArgs {
    /// Its name: that of the container that it was booted for, or that it was started with.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The disk's slot, its file, or its directory in the guest.
    #[arg(value_name = "DISK")]
    pub(crate) disk: String,
}

/// `vm stop`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood vm stop box
  plywood vm stop --time 0 box")]
pub(crate) struct VmStopArgs {
    /// Its name: that of the container that it was booted for, or that it was started with.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Seconds that its containers have to end before they are killed.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) time: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory() {
        assert_eq!(parse_memory("1G"), Ok(1 << 30));
        assert!(parse_memory("64M").is_err());
        assert!(parse_memory("268435457").is_err());
        assert!(parse_memory("lots").is_err());
    }
}
