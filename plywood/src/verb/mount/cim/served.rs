//! A CIM served by a process of ours: this one with `--foreground`, else one that outlives the command.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use cimfs::{DirectorySet, Image};
use layer::Cancel;
use mount::{CimFiles, CimOptions, Holder, HolderKind};

use crate::cli::{MountArgs, Serving};
use crate::exit::{Exit, Failure};
use crate::host::Host;
use crate::interrupt::cancel_on_signal;

/// Threads that answer the kernel.
const THREADS: usize = 4;
/// What a serving process writes when it is mounted.
const MOUNTED: &str = "mounted\n";

pub(super) fn by_fuse(host: &Host, args: &MountArgs, image: &Path, target: &Path) -> Result<()> {
    let files = files(image, args)?;
    match args.serving {
        Some(Serving::Device) => return serve_inherited(files),
        Some(Serving::Pipe) => return serve_by_helper(image, target, files, announce),
        None => {}
    }
    let root = rustix::process::geteuid().is_root();
    match (root, args.foreground) {
        (true, true) => serve_here(host, image, target, files),
        (true, false) => {
            drop(files);
            host.settle()?;
            start_privileged(host, args, image, target)
        }
        (false, true) => serve_by_helper(image, target, files, || Ok(())),
        (false, false) => {
            drop(files);
            start_unprivileged(args, image, target)
        }
    }
}

fn files(image: &Path, args: &MountArgs) -> Result<CimFiles<std::fs::File>> {
    let (directory, name) = match (image.parent(), image.file_name().and_then(|n| n.to_str())) {
        (Some(directory), Some(name)) => (directory, name),
        _ => anyhow::bail!(Failure::new(Exit::Usage, "the name of the image is not Unicode")),
    };
    let opened = Image::open(&DirectorySet::new(directory), name)
        .with_context(|| format!("cannot open {}", image.display()))?;
    let root = opened.file(opened.root());
    let root = root.with_context(|| format!("cannot read {}", image.display()))?;
    if !root.is_dir() {
        let message = format!("the root of {} is no directory", image.display());
        return Err(Failure::new(Exit::Corrupt, message).into());
    }
    Ok(CimFiles::new(opened, CimOptions { ignore_case: args.ignore_case }).with_mapped_regions())
}

fn holder(target: &Path) -> Holder {
    Holder::new(HolderKind::User, target.to_string_lossy())
}

/// Mounts and serves in this process, until it is unmounted or a signal asks for it.
fn serve_here(
    host: &Host,
    image: &Path,
    target: &Path,
    files: CimFiles<std::fs::File>,
) -> Result<()> {
    host.settle()?;
    let cancel = cancel_on_signal()?;
    let registry = host.registry()?;
    let mut device = None;
    let take = |given: OwnedFd| {
        device = Some(given);
        mount::this_process()
    };
    registry
        .mount_fuse(image, target, &holder(target), take)
        .with_context(|| format!("cannot mount {}", image.display()))?;
    let Some(device) = device else { unreachable!("the registry has given the device") };
    std::thread::spawn({
        let target = target.to_owned();
        move || unmount_when_cancelled(&cancel, || registry.unmount(&target).map(|_| ()))
    });
    sys::serve_fuse(device, files, THREADS).context("cannot serve the image")?;
    // It was unmounted, by whomever: the journal is to say so.
    host.settle()
}

fn unmount_when_cancelled<E>(cancel: &Cancel, unmount: impl Fn() -> Result<(), E>) {
    loop {
        std::thread::sleep(Duration::from_millis(100));
        // Busy is tried again: whoever uses it may be ending by the same signal.
        if cancel.is_cancelled() && unmount().is_ok() {
            return;
        }
    }
}

/// Serves what the command that started this process has mounted.
fn serve_inherited(files: CimFiles<std::fs::File>) -> Result<()> {
    outlive_terminal();
    let device = std::io::stdin().as_fd().try_clone_to_owned().context("there is no device")?;
    sys::serve_fuse(device, files, THREADS).context("cannot serve the image")
}

/// Serves what fusermount3 mounts, for users without privileges.
fn serve_by_helper(
    image: &Path,
    target: &Path,
    files: CimFiles<std::fs::File>,
    mounted: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let cancel = cancel_on_signal()?;
    let mut announced = Ok(());
    let watch = || {
        announced = mounted();
        let target = target.to_owned();
        std::thread::spawn(move || unmount_when_cancelled(&cancel, || fusermount(&target)));
    };
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let served = sys::mount_fuse(target, &name, files, THREADS, watch);
    served.with_context(|| format!("cannot mount {} by FUSE", image.display()))?;
    announced
}

/// Tells the command that waits, and lets go of what it and its caller read.
fn announce() -> Result<()> {
    outlive_terminal();
    let mut out = std::io::stdout();
    out.write_all(MOUNTED.as_bytes()).and_then(|()| out.flush()).context("nobody waits")?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.context("there is no /dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// A closed terminal, or Ctrl-C in it, is not meant for a process in the background.
fn outlive_terminal() {
    // Who leads a session already is not in anybody's foreground.
    let _ = rustix::process::setsid();
}

/// This program once more, to serve.
fn server(args: &MountArgs, image: &Path, target: &Path, serving: &str) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["mount", "--driver=fuse", "--foreground", "--serving", serving]);
    if args.ignore_case {
        command.arg("--ignore-case");
    }
    command.arg("--").arg(image).arg(target).current_dir("/");
    Ok(command)
}

fn start_privileged(host: &Host, args: &MountArgs, image: &Path, target: &Path) -> Result<()> {
    // Not told where: looking there it would wait for its own answer.
    let mut command = server(args, image, Path::new("/"), "device")?;
    let registry = host.registry()?;
    let mut child: Option<Child> = None;
    let slot = &mut child;
    let start = move |device: OwnedFd| {
        command.stdin(device).stdout(Stdio::null()).stderr(Stdio::null());
        let (started, process) = mount::start_server(&mut command)?;
        *slot = Some(started);
        // With the command goes our copy of the device: were it open when that process dies, nobody who waits
        // for an answer would ever hear of it.
        drop(command);
        Ok(process)
    };
    let mounted = registry
        .mount_fuse(image, target, &holder(target), start)
        .with_context(|| format!("cannot mount {}", image.display()));
    // Whoever made the system calls below is answered by it, if it is any good.
    let works = mounted.and_then(|()| {
        std::fs::read_dir(target)
            .map(|_| ())
            .with_context(|| format!("the process that serves {} died", image.display()))
    });
    if works.is_err() {
        let _ = registry.unmount(target);
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    works
}

fn start_unprivileged(args: &MountArgs, image: &Path, target: &Path) -> Result<()> {
    let mut command = server(args, image, target, "pipe")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().context("cannot start the process that serves")?;
    let mut told = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut told).context("cannot hear from the process that serves")?;
    }
    if told == MOUNTED {
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the process that serves")?;
    let message = format!("the process that serves {} ended: {status}", image.display());
    Err(Failure::new(Exit::Failed, message)
        .hint("`plywood doctor` shows whether FUSE works here")
        .into())
}

/// Unmounts what a user without privileges has mounted; `false` if it is no such thing.
pub(in crate::verb::mount) fn unmount_unprivileged(target: &Path) -> Result<bool> {
    if rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let table = sys::MountTable::read().context("cannot read the mount table")?;
    if table.at(target).is_none_or(|entry| entry.file_system != "fuse.plywood") {
        return Ok(false);
    }
    fusermount(target)?;
    Ok(true)
}

fn fusermount(target: &Path) -> Result<()> {
    let output = Command::new("fusermount3").arg("-u").arg("--").arg(target).output();
    let output = output.context("cannot run fusermount3")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(Exit::Exists, text.trim().to_owned()).into())
}
