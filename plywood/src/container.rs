//! Containers on record: what each one is made of, so that it can be taken down whoever is left to do it.
//!
//! A container is a directory `<run>/c/<name>` with the runtime's bundle and a record that names the process that
//! takes it down at its end. When that process is dead, the next command does it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mount::{Holder, HolderKind};
use serde::{Deserialize, Serialize};
use sys::process::Process;

use crate::exit::{Exit, Failure, is_missing};
use crate::host::Host;
use crate::store_handle::StoreHandle;
use crate::verb::run::{Runtime, private_directory, sweep_trials};

/// What the key of a container's snapshot begins with; the container's name follows.
pub(crate) const KEY_PREFIX: &str = "container/";

const RECORD: &str = "container.json";

/// Files of a bundle besides the record; the directory is removed only when nothing else is in it.
const BUNDLE_FILES: [&str; 2] = ["config.json", "log"];

/// What a container runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Body {
    /// Namespaces, by this runtime program.
    Runtime(PathBuf),
    /// The virtual machine of that name; one of its own if there is none.
    Vm(Option<String>),
}

/// What is needed to take a container down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The container's name.
    pub(crate) name: String,
    /// What it runs in.
    #[serde(flatten)]
    pub(crate) body: Body,
    /// Whether its snapshot stays.
    pub(crate) keep: bool,
    boot: String,
    process: String,
}

/// A container that is on record.
#[derive(Debug)]
pub(crate) struct Container<'h> {
    host: &'h Host,
    record: Record,
    directory: PathBuf,
}

impl<'h> Container<'h> {
    /// Puts a container on record, before anything of it exists. The name must be free.
    pub(crate) fn register(
        host: &'h Host,
        name: Option<&str>,
        image: &str,
        body: &Body,
        keep: bool,
    ) -> Result<Self> {
        let containers = containers(host);
        // Others have no business with a container's environment, nor with setuid programs in its root filesystem.
        private_directory(&containers)
            .with_context(|| format!("cannot make {}", containers.display()))?;
        let name = name.map_or_else(|| made_up_name(image), |name| Ok(name.to_owned()))?;
        let record = Record {
            name: name.clone(),
            body: body.clone(),
            keep,
            boot: sys::process::boot_id()?,
            process: Process::current()?.to_string(),
        };
        let _lock = lock(host)?;
        let directory = containers.join(&name);
        if directory.exists() {
            anyhow::bail!(
                Failure::new(Exit::Exists, format!("a container of the name {name} is running"))
                    .hint("choose another --name")
            );
        }
        // Complete before it has its name, so that a record can always be read.
        let new = containers.join(format!(".new-{name}"));
        let make = || {
            remove_bundle(&new)?;
            fs::create_dir(&new)?;
            fs::create_dir(new.join("rootfs"))?;
            fs::write(new.join(RECORD), serde_json::to_vec(&record).map_err(io::Error::other)?)?;
            fs::rename(&new, &directory)
        };
        make().with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { host, record, directory })
    }

    pub(crate) fn name(&self) -> &str {
        &self.record.name
    }

    /// The runtime's bundle.
    pub(crate) fn bundle(&self) -> &Path {
        &self.directory
    }

    /// Where the root filesystem is mounted.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// Where the runtime writes its own messages.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The key of its snapshot.
    pub(crate) fn key(&self) -> String {
        format!("{KEY_PREFIX}{}", self.record.name)
    }

    /// Who holds its mounts.
    pub(crate) fn holder(&self) -> Holder {
        Holder::new(HolderKind::Container, &self.record.name)
    }

    /// Kills what still runs, unmounts, removes the snapshot (or unties it, if it is to stay) and the record, in this
    /// order. What fails leaves the record, so that the next command tries again.
    pub(crate) fn take_down(&self) -> Result<()> {
        let name = self.name();
        let doing = |what: &str| format!("cannot {what} container {name}");
        if let Body::Runtime(runtime) = &self.record.body {
            Runtime::new(runtime.clone(), self.host.run())
                .delete(&self.id())
                .with_context(|| doing("end"))?;
            sweep_cgroup(self.host.run(), name);
        }
        if self.host.has_journal() {
            let registry = self.host.registry()?;
            registry.unmount(&self.rootfs()).with_context(|| doing("unmount"))?;
            registry.release(&self.holder()).with_context(|| doing("release the volumes of"))?;
        }
        match self.host.existing_store() {
            Ok(store) => {
                let key = self.key();
                let result = match self.record.keep {
                    true => self
                        .settle_scratch(&store)
                        .and_then(|()| Host::disown(&store, key.as_bytes())),
                    false => store.remove(key.as_bytes()),
                };
                match result {
                    Err(error) if !is_missing(&error) => {
                        return Err(error).with_context(|| doing("remove the snapshot of"));
                    }
                    _ => {}
                }
            }
            Err(error) if is_missing(&error) => {}
            Err(error) if crate::exit::code(&error) == Exit::NotPermitted && self.can_wait() => {}
            Err(error) => return Err(error),
        }
        remove_bundle(&self.directory).with_context(|| doing("remove the files of"))
    }

    /// A guest keeps what its container writes in a directory with the container's name; on this host it is found at
    /// the scratch's top.
    fn settle_scratch(&self, store: &StoreHandle) -> Result<()> {
        if !matches!(self.record.body, Body::Vm(_)) {
            return Ok(());
        }
        let chain = store.chain(self.key().as_bytes())?;
        if !matches!(chain.scratch, Some(store::ScratchPaths::Image { .. })) {
            return Ok(());
        }
        let registry = self.host.registry()?;
        let holder = self.holder();
        let dirs = registry.hold_scratch(&chain, &holder)?;
        let moved = guest_upper_to_top(&dirs.upper, self.name());
        let let_go = registry.let_go(&holder);
        moved.with_context(|| format!("cannot find what container {} wrote", self.name()))?;
        let_go?;
        Ok(())
    }

    /// Whether the record may go although the store cannot be written: a snapshot that is not to stay is removed, as
    /// nobody's, by the next command that can; no other command must fail until then.
    fn can_wait(&self) -> bool {
        let is_there = || {
            let store = self.host.store_to_read()?;
            store.stat(self.key().as_bytes())
        };
        !self.record.keep || is_there().is_err_and(|error| is_missing(&error))
    }

    /// Its id with the runtime.
    pub(crate) fn id(&self) -> String {
        self.record.name.clone()
    }

    fn is_orphan(&self) -> bool {
        match self.record.process.parse::<Process>() {
            Ok(process) => {
                sys::process::boot_id().is_ok_and(|boot| boot != self.record.boot)
                    || !process.is_alive().unwrap_or(true)
            }
            Err(_) => true,
        }
    }
}

/// Whether a container of that name is on record.
pub(crate) fn exists(host: &Host, name: &str) -> bool {
    containers(host).join(name).is_dir()
}

/// Refuses to touch the scratch of a container that runs in a virtual machine: its file system is mounted there, and
/// mounting it here as well would destroy it.
pub(crate) fn refuse_in_vm(host: &Host, key: &str) -> Result<()> {
    let Some(name) = key.strip_prefix(KEY_PREFIX) else { return Ok(()) };
    let Ok(text) = fs::read(containers(host).join(name).join(RECORD)) else { return Ok(()) };
    match serde_json::from_slice::<Record>(&text) {
        Ok(Record { body: Body::Vm(_), .. }) => Err(Failure::new(
            Exit::Exists,
            format!("the container {name} runs in a virtual machine, which has {key} mounted"),
        )
        .hint("wait until the container has ended, or stop it")
        .into()),
        _ => Ok(()),
    }
}

/// Takes down every container whose process is dead.
pub(crate) fn settle(host: &Host) -> Result<()> {
    sweep_trials(host.run());
    let containers = containers(host);
    let entries = match fs::read_dir(&containers) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", containers.display()));
        }
    };
    let mut directories = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", containers.display()))?;
        directories.push(entry.path());
    }
    if directories.is_empty() {
        return Ok(());
    }
    let _lock = lock(host)?;
    for directory in directories {
        // Begun and cut before it had its name: its record may be half written.
        let unnamed = directory.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        let record = if unnamed { None } else { fs::read(directory.join(RECORD)).ok() };
        let Some(text) = record else {
            // Never had its name, or was just taken down by another command.
            remove_bundle(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
            continue;
        };
        let record: Record = serde_json::from_slice(&text).with_context(|| {
            format!("the record of a container, {}, is damaged", directory.join(RECORD).display())
        })?;
        let container = Container { host, record, directory };
        if container.is_orphan() {
            container.take_down()?;
        }
    }
    Ok(())
}

/// Moves `scratch/<name>/upper` of a mounted scratch to `upper`, which is empty. The guest may have written anything:
/// nothing of it is followed.
fn guest_upper_to_top(upper: &Path, name: &str) -> io::Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2, renameat};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = upper.parent().unwrap_or(upper);
    let top = rustix::fs::openat(CWD, top, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let theirs = match openat2(&top, format!("scratch/{name}"), flags, Mode::empty(), resolve) {
        // It never ran, or this was done before.
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let Some(ours) = upper.file_name() else { return Ok(()) };
    match renameat(&theirs, "upper", &top, ours) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The name of a container's control group in every hierarchy. It is one level deep, so that nothing of it stays, and
/// tells run directories apart.
pub(crate) fn cgroup(run: &Path, name: &str) -> String {
    let run = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, run.as_os_str().as_encoded_bytes());
    format!("plywood-{}-{name}", &run.simple().to_string()[..8])
}

/// Removes a container's control groups where a runtime that was itself killed has left them, with what runs in them.
pub(crate) fn sweep_cgroup(run: &Path, name: &str) {
    let cgroup = cgroup(run, name);
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    for group in hierarchies.chain([top.to_owned()]).map(|hierarchy| hierarchy.join(&cgroup)) {
        let Ok(processes) = fs::read_to_string(group.join("cgroup.procs")) else { continue };
        for process in processes.lines().filter_map(|line| line.parse().ok()) {
            if let Some(process) = rustix::process::Pid::from_raw(process) {
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        }
        // The group can go once the last process has: give it a moment.
        for _ in 0..50 {
            match fs::remove_dir(&group) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => break,
            }
        }
    }
}

fn containers(host: &Host) -> PathBuf {
    host.run().join("c")
}

/// Held while the set of containers changes, so that no command takes down what another is just putting up.
fn lock(host: &Host) -> Result<File> {
    let path = host.run().join("containers.lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Removes a bundle's files and then its directories, which must be empty: never what a mount shows.
fn remove_bundle(directory: &Path) -> io::Result<()> {
    let absent = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    for file in BUNDLE_FILES {
        absent(fs::remove_file(directory.join(file)))?;
    }
    absent(fs::remove_dir(directory.join("rootfs")))?;
    // The record goes last: without it nobody would know what else to undo.
    absent(fs::remove_file(directory.join(RECORD)))?;
    absent(fs::remove_dir(directory))
}

/// The image's name and six random hexadecimal digits.
fn made_up_name(image: &str) -> Result<String> {
    let last = image.rsplit('/').next().unwrap_or(image);
    let base: String = last
        .split([':', '@'])
        .next()
        .unwrap_or(last)
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(32)
        .collect();
    let base = if base.is_empty() { "container" } else { &base };
    Ok(format!("{base}-{}", sys::file::random_name(3)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_the_image() {
        for (image, begin) in [
            ("debian:12", "debian-"),
            ("registry.example.org:5000/a/b-c@sha256:00", "bc-"),
            (":::", "container-"),
        ] {
            let name = made_up_name(image).unwrap();
            assert!(name.starts_with(begin), "{name}");
            assert_eq!(name.len(), begin.len() + 6);
        }
    }

    #[test]
    fn what_a_guest_wrote_goes_to_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        fs::create_dir(top.join("fs")).unwrap();
        guest_upper_to_top(&top.join("fs"), "box").unwrap();
        fs::create_dir_all(top.join("scratch/box/upper/etc")).unwrap();
        guest_upper_to_top(&top.join("fs"), "box").unwrap();
        assert!(top.join("fs/etc").is_dir() && !top.join("scratch/box/upper").exists());
        guest_upper_to_top(&top.join("fs"), "box").unwrap();
        // What was kept once is not replaced by another.
        fs::create_dir_all(top.join("scratch/box/upper")).unwrap();
        assert!(guest_upper_to_top(&top.join("fs"), "box").is_err());
        // Links of the guest lead nowhere.
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(outside.path().join("upper")).unwrap();
        fs::remove_dir_all(top.join("scratch/box")).unwrap();
        std::os::unix::fs::symlink(outside.path(), top.join("scratch/box")).unwrap();
        assert!(guest_upper_to_top(&top.join("fs"), "box").is_err());
        assert!(outside.path().join("upper").exists());
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let text =
            r#"{"name":"a","runtime":"/usr/sbin/runc","keep":false,"boot":"b","process":"p"}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.body, Body::Runtime("/usr/sbin/runc".into()));
        assert_eq!(serde_json::to_string(&record).unwrap().matches("runtime").count(), 1);
    }

    #[test]
    fn a_bundle_with_something_else_in_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("box");
        fs::create_dir_all(bundle.join("rootfs/data")).unwrap();
        fs::write(bundle.join(RECORD), "{}").unwrap();
        fs::write(bundle.join("config.json"), "{}").unwrap();
        assert!(remove_bundle(&bundle).is_err());
        assert!(bundle.join(RECORD).exists() && bundle.join("rootfs/data").exists());
        fs::remove_dir(bundle.join("rootfs/data")).unwrap();
        remove_bundle(&bundle).unwrap();
        assert!(!bundle.exists());
        remove_bundle(&bundle).unwrap();
    }
}
