//! File systems in user space: what is served, and mounting it through the registry.

mod cim_files;
mod recent;

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};

use sys::process::Process;
use sys::{DetachedMount, FsContext, MountAttributes};

use crate::rootfs::Ready;
use crate::volumes::{Volumes, detached_identity};
use crate::{Error, ErrorKind, Holder, Registry, Result, TargetKind};

pub use cim_files::{CimFiles, CimOptions};

/// What is read ahead, in KiB: the kernel's own 128 are too few for a disk that answers through another process.
const READ_AHEAD: &str = "2048";

impl Registry {
    /// Mounts a file system in user space at the directory `target` for `holder`. `start` gets the device to answer
    /// on and returns the process that does, with whose death the holding ends: [`Registry::reconcile`] then removes
    /// the mount.
    ///
    /// # Errors
    /// As [`Registry::mount_image_file`], what `start` returns, and `NotSupported` without FUSE.
    pub fn mount_fuse(
        &self,
        what: &Path,
        target: &Path,
        holder: &Holder,
        start: impl FnOnce(OwnedFd) -> Result<Process>,
    ) -> Result<()> {
        let target = crate::rootfs::directory(target)?;
        let mut locked = self.locked()?;
        let mut volumes = Volumes::new(self, &mut locked.journal);
        self.check_target(&mut volumes, &target)?;
        let failed = |error| Error::sys(format!("cannot mount {} by FUSE", what.display()), error);
        let device = sys::open_fuse_device().map_err(failed)?;
        let mount = prepare(&device, what).map_err(failed)?;
        let identity = detached_identity(&mount)?;
        let server = start(device.into())?;
        let ready = Ready {
            mount,
            kind: TargetKind::Fuse,
            what: what.display().to_string(),
            volumes: Vec::new(),
            upper: Default::default(),
            read_only: true,
        };
        let holder = holder.clone().with_process(server);
        self.attach(volumes, Ok(ready), &target, &holder)?;
        // Only for speed: where it cannot be set, everything works.
        let knob = format!("/sys/class/bdi/{}:{}/read_ahead_kb", identity.major, identity.minor);
        let _ = std::fs::write(knob, READ_AHEAD);
        locked.journal.compact()
    }
}

/// The mount, attached nowhere yet, of what will be answered on `device`.
fn prepare(device: &File, what: &Path) -> sys::Result<DetachedMount> {
    let context = FsContext::open("fuse")?;
    let name = what.file_name().unwrap_or_default();
    context.set_string("source", name)?;
    context.set_string("subtype", "plywood")?;
    context.set_string("fd", device.as_raw_fd().to_string())?;
    // The root is a directory; whoever mounted it owns it.
    for (key, value) in [("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
        context.set_string(key, value)?;
    }
    for flag in ["ro", "default_permissions", "allow_other"] {
        context.set_flag(flag)?;
    }
    context.create()?;
    let attributes = MountAttributes {
        read_only: true,
        no_suid: true,
        no_dev: true,
        ..MountAttributes::default()
    };
    context.mount(attributes)
}

/// This process, as one that serves.
///
/// # Errors
/// Those of looking at `/proc`.
pub fn this_process() -> Result<Process> {
    Process::current().map_err(|error| Error::sys("cannot look at this process", error))
}

/// Starts a process that serves.
///
/// # Errors
/// What starting it says; `NotFound` if it is dead at once.
pub fn start_server(command: &mut Command) -> Result<(Child, Process)> {
    let failed = |error| Error::io("cannot start the process that serves", error);
    let child = command.spawn().map_err(failed)?;
    match Process::of(child.id()) {
        Ok(Some(process)) => Ok((child, process)),
        Ok(None) => Err(Error::new(ErrorKind::NotFound, "the process that serves is dead")),
        Err(error) => Err(Error::sys("cannot look at the process that serves", error)),
    }
}
