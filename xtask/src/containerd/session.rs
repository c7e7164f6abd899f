//! containerd with the snapshotter under test, and a user with `ctr`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::daemon::{Containerd, ctr};
use super::plywood::Plywood;
use super::root::{Root, WORK};
use crate::program;

/// The namespace in containerd.
const NAMESPACE: &str = "test";

/// How long what happens behind a command's back may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// Both daemons, and their user.
pub(crate) struct Session {
    pub(crate) user: User,
    pub(crate) containerd: Containerd,
    /// None when overlayfs is under test, which shows that the test itself is right.
    pub(crate) plywood: Option<Plywood>,
}

/// What a user has: `ctr`, and a socket to point it at.
pub(crate) struct User {
    pub(crate) root: Root,
    socket: PathBuf,
    /// The snapshotter under test.
    pub(crate) snapshotter: &'static str,
    pub(crate) directory: PathBuf,
}

impl Session {
    /// Starts both in `directory`, which is empty; only containerd without a `program`.
    pub(crate) fn start(root: &Root, directory: &Path, program: Option<&Path>) -> Result<Self> {
        let socket = directory.join("containerd/socket");
        let mut plywood = None;
        let mut plugins = String::new();
        if let Some(program) = program {
            let daemon = Plywood::start(program, &directory.join("plywood"), &socket)?;
            plugins = daemon.containerd_config(root.version)?;
            plywood = Some(daemon);
        }
        let containerd = Containerd::start(root, &directory.join("containerd"), &plugins)?;
        let user = User {
            root: root.clone(),
            socket,
            snapshotter: if plywood.is_some() { "plywood" } else { "overlayfs" },
            directory: directory.to_owned(),
        };
        Ok(Self { user, containerd, plywood })
    }

    /// Where layers and snapshots are kept, if they exist.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let overlayfs = "containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let mut directories = vec![self.user.directory.join(overlayfs)];
        if let Some(plywood) = &self.plywood {
            let store = plywood.store();
            let parts = ["layers", "cim-layers", "snapshots", "staging"];
            directories.extend(parts.map(|part| store.join(part)));
        }
        directories.retain(|directory| directory.exists());
        directories
    }

    /// Whether nothing of ours is left, with containerd, on disk and in the mount table.
    pub(crate) fn expect_nothing_left(&self) -> Result<()> {
        for words in [
            ["images", "ls", "--quiet"],
            ["content", "ls", "--quiet"],
            ["containers", "ls", "--quiet"],
            ["tasks", "ls", "--quiet"],
        ] {
            let list = self.user.ctr(&words)?;
            ensure!(list.trim().is_empty(), "`ctr {}` still shows {list}", words.join(" "));
        }
        self.user.poll("no snapshot is left", || Ok(self.user.snapshots()?.is_empty()))?;
        for directory in self.directories() {
            self.user.poll(&format!("{} is empty", directory.display()), || {
                Ok(std::fs::read_dir(&directory)?.next().is_none())
            })?;
        }
        self.user
            .poll("nothing is mounted", || Ok(mounts()?.is_empty()))
            .with_context(|| format!("mounted: {:#?}", mounts().unwrap_or_default()))?;
        if let Some(plywood) = &self.plywood {
            let held = plywood.json(&["mount", "ls"])?;
            ensure!(held.is_empty(), "plywood still holds {held:?}");
            let snapshots = plywood.json(&["snapshot", "ls"])?;
            ensure!(snapshots.is_empty(), "plywood still has {snapshots:?}");
        }
        Ok(())
    }
}

impl User {
    /// `ctr` in our namespace, with `snapshotter` where the command takes one.
    fn command(&self, snapshotter: &str, words: &[&str]) -> Command {
        let verbs = match words {
            ["run" | "snapshots", ..] => 1,
            ["images", "import" | "pull" | "mount", ..] => 2,
            _ => 0,
        };
        let (verbs, rest) = words.split_at(verbs);
        let mut all = vec!["--namespace", NAMESPACE];
        all.extend(verbs);
        if !verbs.is_empty() {
            all.extend(["--snapshotter", snapshotter]);
        }
        all.extend(rest);
        ctr(&self.root, &self.socket, &all)
    }

    /// Runs `ctr` with the snapshotter under test and returns what it prints.
    pub(crate) fn ctr(&self, words: &[&str]) -> Result<String> {
        self.ctr_on(self.snapshotter, words)
    }

    /// The same with a snapshotter of choice.
    pub(crate) fn ctr_on(&self, snapshotter: &str, words: &[&str]) -> Result<String> {
        let output = self.ctr_bytes(snapshotter, words)?;
        String::from_utf8(output).context("ctr printed what is not text")
    }

    /// The same for what is not text.
    pub(crate) fn ctr_bytes(&self, snapshotter: &str, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.command(snapshotter, words);
        let output = command
            .output()
            .with_context(|| format!("cannot start `{}`", program::command_line(&command)))?;
        ensure!(
            output.status.success(),
            "`ctr {}` ended with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output.stdout)
    }

    /// The keys of the snapshots.
    pub(crate) fn snapshots(&self) -> Result<Vec<String>> {
        let list = self.ctr(&["snapshots", "ls"])?;
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        Ok(list.lines().skip(1).filter_map(first).collect())
    }

    /// Starts a container that runs a script.
    pub(crate) fn run_detached(&self, reference: &str, name: &str, script: &str) -> Result<()> {
        self.ctr(&["run", "--detach", reference, name, "sh", "-c", script]).map(drop)
    }

    /// Runs a script in a running container and returns what it prints.
    ///
    /// That goes by a file in the container's `/run`, which is no part of its snapshot: `ctr` stops reading when the
    /// process ends, and on a busy machine it had not begun by then.
    pub(crate) fn exec(&self, name: &str, id: &str, script: &str) -> Result<String> {
        let file = format!("run/printed-{id}");
        let script = format!("{{ {script}\n}} > /{file} 2>&1");
        let ended = self.ctr(&["tasks", "exec", "--exec-id", id, name, "sh", "-c", &script]);
        let printed = Path::new("/proc").join(self.process(name)?.to_string()).join("root");
        let printed = std::fs::read_to_string(printed.join(file));
        match ended {
            Ok(_) => printed.with_context(|| format!("what {id} printed in {name} is lost")),
            Err(error) => Err(error.context(format!("{id} in {name} printed {printed:?}"))),
        }
    }

    /// The process of a running container.
    pub(crate) fn process(&self, name: &str) -> Result<u32> {
        let list = self.ctr(&["tasks", "ls"])?;
        let rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        for row in rows {
            if let [task, pid, "RUNNING"] = row[..]
                && task == name
            {
                return pid.parse().with_context(|| format!("{pid} is not a process"));
            }
        }
        bail!("container {name} does not run:\n{list}")
    }

    /// Where a running container's root filesystem is mounted, without what runc mounts in it.
    pub(crate) fn rootfs(&self, name: &str) -> PathBuf {
        self.directory
            .join("containerd/state/io.containerd.runtime.v2.task")
            .join(NAMESPACE)
            .join(name)
            .join("rootfs")
    }

    /// Removes a container, whatever state it is in, and its snapshot.
    pub(crate) fn remove_container(&self, name: &str) -> Result<()> {
        self.poll(&format!("container {name} is removed"), || {
            // Each may find nothing to do; what counts is what is there in the end.
            for words in [
                ["tasks", "rm", "--force", name].as_slice(),
                &["containers", "rm", name],
                &["snapshots", "rm", name],
            ] {
                _ = self.ctr(words);
            }
            let listed =
                |list: &str| list.lines().any(|line| line.split_whitespace().next() == Some(name));
            Ok(!listed(&self.ctr(&["tasks", "ls"])?)
                && !listed(&self.ctr(&["containers", "ls"])?)
                && !listed(&self.ctr(&["snapshots", "ls"])?))
        })
    }

    /// Waits until something holds.
    pub(crate) fn poll(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = holds();
            if matches!(result, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                result.with_context(|| format!("it does not come about that {what}"))?;
                bail!("it does not come about that {what}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes images, leases and snapshots that a user made, and lets containerd collect its garbage.
    pub(crate) fn clean_up(&self) -> Result<()> {
        let lines = |words: &[&str]| -> Result<Vec<String>> {
            Ok(self.ctr(words)?.lines().map(str::to_owned).collect())
        };
        for image in lines(&["images", "ls", "--quiet"])? {
            self.ctr(&["images", "rm", "--sync", &image])?;
        }
        self.remove_leases()
    }

    /// Removes what commands that were cut short hold, and lets containerd collect its garbage.
    pub(crate) fn remove_leases(&self) -> Result<()> {
        for lease in self.ctr(&["leases", "ls", "--quiet"])?.lines() {
            self.ctr(&["leases", "rm", lease])?;
        }
        // containerd looks for snapshots that a kill made it forget only when there is one to remove.
        _ = self.ctr(&["snapshots", "prepare", "swept"]);
        _ = self.ctr(&["snapshots", "rm", "swept"]);
        self.collect()
    }

    /// containerd's garbage collection, now: it comes with the removal of a lease.
    pub(crate) fn collect(&self) -> Result<()> {
        let lease = self.ctr(&["leases", "create"])?;
        self.ctr(&["leases", "rm", "--sync", lease.trim()]).map(drop)
    }
}

/// What is mounted below the directory of the daemons.
pub(crate) fn mounts() -> Result<Vec<String>> {
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let below = format!("{WORK}/");
    let target = |line: &str| line.split(' ').nth(4).is_some_and(|path| path.starts_with(&below));
    Ok(table.lines().filter(|line| target(line)).map(str::to_owned).collect())
}
