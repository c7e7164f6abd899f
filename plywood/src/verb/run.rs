//! `plywood run`: an image's snapshot, its root filesystem, and an OCI runtime on them.

mod config;
mod in_vm;
mod layer_files;
mod runtime;
mod signals;
mod user;
mod vm_signals;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use store::{ImageRecord, Scratch};

use crate::Session;
use crate::cli::{Isolation, MountKind, RunArgs};
use crate::container::{self, Body, Container};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::host::{Host, require_root};
use config::{Execute, ImageConfig, Place};
use signals::{Forwarder, OfRuntime};
use user::User;

pub(crate) use runtime::{Runtime, exit_of, private_directory, sweep_trials, try_all};

pub(crate) fn run(session: &mut Session, args: &RunArgs) -> Result<ExitCode> {
    if args.isolation == Isolation::Vm {
        return in_vm::run(session, args);
    }
    args.vm.refuse()?;
    if args.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Disk(_))) {
        anyhow::bail!(
            Failure::new(
                Exit::Usage,
                "mounts of type disk are for containers in a virtual machine"
            )
            .hint("add --isolation vm")
        );
    }
    require_root("running a container")?;
    if args.tty && !signals::has_terminal() {
        anyhow::bail!(
            Failure::new(Exit::Usage, "--tty needs a terminal, and there is none")
                .hint("leave --tty out: standard input and output are passed on without it")
        );
    }
    let host = &session.host;
    check_run_directory(host)?;
    host.settle()?;
    let signals = Forwarder::new(&[])?;
    let (image, image_config) = find(host, &args.reference)?;
    check_platform(&image)?;
    let execute = Execute::new(&image_config, args)?;
    config::check_sources(&args.mounts)?;
    let runtime = Runtime::find(args.runtime.as_deref(), host.run())?;
    let body = Body::Runtime(runtime.program().to_owned());
    let container =
        Container::register(host, args.name.as_deref(), &image.reference, &body, args.keep)?;
    let outcome =
        Running { host, args, container: &container, runtime: &runtime, signals: &signals }
            .through(&image, &execute);
    let down = container.take_down();
    let status = match (outcome, down) {
        (Ok(status), Ok(())) => status,
        (Ok(_), Err(error)) | (Err(error), _) => return Err(error),
    };
    match status {
        Some(status) => Ok(exit_code(status)),
        None => {
            crate::interrupt::end_by(signals.interrupted().unwrap_or(signal_hook::consts::SIGTERM))
        }
    }
}

/// The image's record and its configuration.
fn find(host: &Host, reference: &str) -> Result<(ImageRecord, ImageConfig)> {
    let store = host.store_to_read()?;
    let image = match super::image::find(&store, reference) {
        Err(_) if store.stat(reference.as_bytes()).is_ok() => {
            let message = format!("{reference} is a snapshot, and only an image can be run");
            return Err(Failure::new(Exit::NotFound, message)
                .hint(format!(
                    "make an image of it: plywood snapshot diff --tar {reference} | \
                     plywood image import --base IMAGE --ref NAME -"
                ))
                .into());
        }
        image => image?,
    };
    let blob = store.blob(&image.config)?.ok_or_else(|| {
        Failure::new(Exit::Corrupt, format!("the config of {reference} is missing"))
    })?;
    let config = serde_json::from_slice(&blob).map_err(|error| {
        Failure::new(Exit::Corrupt, format!("the config of {reference} is damaged")).because(error)
    })?;
    Ok((image, config))
}

/// The bundle lies in the run directory, and its configuration, with the paths in it, is JSON.
fn check_run_directory(host: &Host) -> Result<()> {
    if host.run().to_str().is_some() {
        return Ok(());
    }
    let run = escape::name(host.run().as_os_str().as_bytes());
    Err(Failure::new(Exit::Usage, format!("the run directory {run} is not UTF-8"))
        .hint("an OCI runtime takes no other paths: name another directory with --run")
        .into())
}

fn check_platform(image: &ImageRecord) -> Result<()> {
    let ours = layer::archive::Platform::host().to_string();
    let architecture = |platform: &str| {
        let mut parts = platform.split('/');
        (parts.next().unwrap_or("").to_owned(), parts.next().unwrap_or("").to_owned())
    };
    if architecture(&image.platform) != architecture(&ours) {
        anyhow::bail!(
            Failure::new(
                Exit::NotSupported,
                format!("{} is for {}, this host is {ours}", image.reference, image.platform)
            )
            .hint(format!("import the image's variant for this host: --platform {ours}"))
        );
    }
    Ok(())
}

/// One container from its snapshot to its end. What it sets up is on record and taken down by its caller.
struct Running<'a> {
    host: &'a Host,
    args: &'a RunArgs,
    container: &'a Container<'a>,
    runtime: &'a Runtime,
    signals: &'a Forwarder<OfRuntime>,
}

impl Running<'_> {
    /// Runs it; `None` if a signal came before it was started.
    fn through(&self, image: &ImageRecord, execute: &Execute) -> Result<Option<ExitStatus>> {
        let chain = {
            let store = self.host.existing_store()?;
            let key = self.container.key();
            let scratch = match self.args.scratch_size {
                Some(size) => Scratch::Image { size },
                None => Scratch::Directory,
            };
            let parent = image.chain.last().map(String::as_bytes);
            store
                .prepare(key.as_bytes(), parent, self.host.owner_labels()?, scratch)
                .context("cannot prepare the container's snapshot")?;
            store.chain(key.as_bytes()).context("cannot read the container's snapshot")?
        };
        let rootfs = self.container.rootfs();
        {
            let registry = self.host.registry()?;
            registry
                .mount_chain(
                    &chain,
                    &rootfs,
                    &self.container.holder(),
                    &mount::MountOptions::default(),
                )
                .context("cannot mount the root filesystem")?;
        }
        self.configure(execute)?;
        if self.signals.interrupted().is_some() {
            return Ok(None);
        }
        let log = self.container.log();
        let id = self.container.id();
        let child = self.runtime.start(self.container.bundle(), &id, &log, self.args.tty)?;
        let timeout = Duration::from_secs(self.args.stop_timeout.into());
        let container = OfRuntime::new(self.runtime, &child, &id, &execute.stop_signal, timeout);
        let status = self.signals.wait(child, container)?;
        self.runtime.judge(status, &log)?;
        Ok(Some(status))
    }

    /// Writes the bundle's `config.json`, with what must be looked up in the root filesystem.
    fn configure(&self, execute: &Execute) -> Result<()> {
        let rootfs = self.container.rootfs();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&rootfs, flags, Mode::empty())
            .with_context(|| format!("cannot open {}", rootfs.display()))?;
        let user = User::resolve(root.as_fd(), &execute.user)?;
        make_directory(root.as_fd(), &execute.workdir).with_context(|| {
            format!(
                "cannot make the working directory {}",
                escape::name(execute.workdir.as_bytes())
            )
        })?;
        let place = Place {
            name: self.container.name(),
            cgroup: &container::cgroup(self.host.run(), self.container.name()),
            rootfs: &rootfs,
            most_open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20),
            unified_cgroups: std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        };
        let config = config::runtime_config(execute, &user, self.args, place)?;
        let path = self.container.bundle().join("config.json");
        let write =
            || serde_json::to_writer(File::create(&path)?, &config).map_err(std::io::Error::from);
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Makes a directory and those above it where they are missing. Links are followed as the container would follow
/// them; none leads out of the root filesystem.
fn make_directory(root: BorrowedFd<'_>, path: &str) -> Result<()> {
    let open = |path: &str| -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
    };
    let mut so_far = String::from(".");
    let mut directory = open(".")?;
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        so_far.push('/');
        so_far.push_str(part);
        directory = match open(&so_far) {
            Err(Errno::NOENT) if part != ".." => {
                rustix::fs::mkdirat(&directory, part, Mode::from(0o755))?;
                open(&so_far)?
            }
            other => other?,
        };
    }
    Ok(())
}

/// The container's code: 128+n when signal n ended the runtime itself.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        (None, None) => 1,
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn working_directories_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("real")).unwrap();
        symlink("/real", root.join("absolute")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let fd = File::open(&root).unwrap();
        for (path, made) in [
            ("/", "."),
            ("/a/b/c", "a/b/c"),
            ("/absolute/x", "real/x"),
            ("/up/y", "y"),
            ("/a/../../z", "z"),
            ("//a//./d", "a/d"),
        ] {
            make_directory(fd.as_fd(), path).unwrap();
            assert!(root.join(made).is_dir(), "{path}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made outside");
        for path in ["/file/x", "/dangling/x"] {
            assert!(make_directory(fd.as_fd(), path).is_err(), "{path}");
        }
    }
}
