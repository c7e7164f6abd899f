//! The process that owns a virtual machine: it answers for it on a socket, and runs the containers in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::{self, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bridge::{Deadline, SignalOptions, SignalProcess};
use serde_json::{Value, json};
use uvm::qemu::Qemu;
use uvm::{Machine, ScsiDisk, ScsiGuard, ScsiKind, ScsiMount, Vm as _};

use super::protocol::{self, Answer, Ask, AttachAsk};
use super::{Directory, Record};
use crate::exit::{self, Exit, Failure};

/// How long the guest may take for one thing. It may be an emulated machine that encrypts a disk.
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// How long a guest has to power off before it is killed. Nothing in it is to be kept by then.
const GRACE: Duration = Duration::from_secs(3);

pub(super) const KILL: i32 = 9;
const TERMINATE: i32 = 15;

/// A virtual machine of this process.
pub(crate) struct Owner {
    pub(super) vm: Arc<Qemu>,
    pub(super) machine: Machine,
    record: Record,
    directory: Directory,
    state: Mutex<State>,
    /// A container ended, or began.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Containers by their names, with the first process once there is one.
    containers: BTreeMap<String, Option<u32>>,
    /// Names of those that are to end as soon as they have a process.
    doomed: BTreeSet<String>,
    /// Disks that people attached.
    disks: Vec<ScsiGuard>,
    stopping: bool,
}

/// A container's place among those of a machine; gone with it.
pub(super) struct Seat<'a> {
    owner: &'a Owner,
    name: String,
}

impl Owner {
    /// Takes a booted machine over, and answers for it from now on.
    pub(super) fn new(vm: Qemu, record: Record, directory: Directory) -> Result<Arc<Self>> {
        let vm = Arc::new(vm);
        let (machine, left) = Machine::open(vm.clone(), directory.path())
            .context("cannot open the journal of the virtual machine's devices")?;
        for error in left {
            exit::warn(&format!("{:#}", anyhow::Error::from(error)));
        }
        let socket = directory.socket();
        let listener = UnixListener::bind(&socket)
            .and_then(|listener| {
                fs::set_permissions(&socket, Permissions::from_mode(0o600)).map(|()| listener)
            })
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let owner = Arc::new(Self {
            vm,
            machine,
            record,
            directory,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let serving = Arc::clone(&owner);
        thread("vm", move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serving.converse_aside(stream);
            }
        })?;
        Ok(owner)
    }

    /// A connection to this machine for this process itself.
    pub(crate) fn connect(self: &Arc<Self>) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
        self.converse_aside(theirs);
        Ok(ours)
    }

    /// The last lines of the guest's console.
    pub(crate) fn console_tail(&self) -> String {
        self.vm.console_tail()
    }

    /// Names of the containers in it.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.lock().containers.keys().cloned().collect()
    }

    /// Waits until no container is in it; `false` if some are after `time`.
    pub(crate) fn wait_until_empty(&self, time: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, time, |state| !state.containers.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.containers.is_empty()
    }

    /// Whether it is to end, and no container is in it any more.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.lock();
        state.stopping && state.containers.is_empty()
    }

    /// Fails if the machine has ended, with what it said last.
    pub(crate) fn check(&self) -> Result<()> {
        match self.vm.wait(Duration::ZERO) {
            Some(_) => Err(self.explained(anyhow::anyhow!("it was not stopped"))),
            None => Ok(()),
        }
    }

    /// Ends every container: asked, and killed when `patience` is over. No new ones begin.
    pub(crate) fn stop(&self, patience: Duration) {
        let doom = |signal| {
            let mut state = self.lock();
            state.stopping = true;
            let names: Vec<String> = state.containers.keys().cloned().collect();
            let running: Vec<(String, u32)> = state
                .containers
                .iter()
                .filter_map(|(name, process)| Some((name.clone(), (*process)?)))
                .collect();
            state.doomed.extend(names);
            drop(state);
            for (name, process) in running {
                // It may have just ended.
                let _ = self.signal(&name, process, signal);
            }
        };
        doom(TERMINATE);
        let deadline = Instant::now() + patience;
        if !self.wait_until_empty(deadline.saturating_duration_since(Instant::now())) {
            doom(KILL);
            self.wait_until_empty(Duration::from_secs(30));
        }
    }

    /// Ends the machine, with everything that is still in it.
    pub(crate) fn close(self: Arc<Self>) -> Result<()> {
        let disks = {
            let mut state = self.lock();
            state.stopping = true;
            std::mem::take(&mut state.disks)
        };
        // Errors are those of a machine that is about to end.
        drop(disks);
        let closed = self.vm.close(GRACE);
        let removed = self.directory.remove();
        closed.context("cannot end the virtual machine")?;
        removed
    }

    pub(super) fn lock_out(&self, name: &str) -> Result<Seat<'_>> {
        let mut state = self.lock();
        if state.stopping {
            let text = format!("the virtual machine {} is being stopped", self.record.name);
            anyhow::bail!(Failure::new(Exit::Exists, text));
        }
        if state.containers.contains_key(name) {
            let text = format!("a container of the name {name} is in the virtual machine");
            anyhow::bail!(Failure::new(Exit::Exists, text));
        }
        state.containers.insert(name.to_owned(), None);
        Ok(Seat { owner: self, name: name.to_owned() })
    }

    pub(super) fn signal(&self, name: &str, process: u32, signal: i32) -> bridge::Result<()> {
        let request = SignalProcess {
            base: bridge::RequestBase::new(name),
            process_id: process,
            options: Some(SignalOptions { signal }),
        };
        self.vm.client().call(&request, &Deadline::after(ANSWER)).map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn converse_aside(self: &Arc<Self>, stream: UnixStream) {
        let owner = Arc::clone(self);
        // Without a thread the other end sees the connection close.
        let _ = thread("vm command", move || {
            // Whoever asked is told what failed, if they are still there.
            let _ = owner.converse(&stream);
        });
    }

    fn converse(&self, stream: &UnixStream) -> io::Result<()> {
        let files = protocol::receive_files(stream)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let Some(ask) = protocol::receive::<Ask>(&mut reader)? else { return Ok(()) };
        let done = match ask {
            Ask::Inspect => Ok(self.inspect()),
            Ask::Slots => Ok(self.slots()),
            Ask::Attach(ask) => self.attach(&ask),
            Ask::Detach { what } => self.detach(&what),
            Ask::Stop { seconds } => {
                self.stop(Duration::from_secs(seconds.into()));
                Ok(Value::Null)
            }
            Ask::Run(ask) => match self.run(*ask, files, stream, reader) {
                Ok(code) => return protocol::send(stream, &Answer::Ended { code }),
                Err(error) => Err(self.explained(error)),
            },
        };
        let answer = match done {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Failed {
                exit: exit::code(&error) as u8,
                message: exit::chain(&error),
                hints: exit::hints(&error),
            },
        };
        protocol::send(stream, &answer)
    }

    /// An error, with what the guest last said if it is gone.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        // The bridge ends with the machine, which takes a moment to be seen.
        let patience = match self.vm.client().ended() {
            Some(_) => Duration::from_secs(2),
            None => Duration::ZERO,
        };
        let Some(ended) = self.vm.wait(patience) else { return error };
        let tail = self.console_tail();
        let ended = format!("the virtual machine has ended ({})", ended.reason);
        error.context(match tail.is_empty() {
            true => ended,
            false => format!("{ended}; its console ends with:\n{tail}\n"),
        })
    }

    fn inspect(&self) -> Value {
        let containers = self.lock().containers.clone();
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, process)| json!({ "name": name, "process": process }))
            .collect();
        let mut value = json!(self.record);
        value["qemu"] = json!(self.vm.pid());
        value["containers"] = json!(containers);
        value["console"] = json!(self.vm.console());
        value
    }

    fn slots(&self) -> Value {
        let inventory = self.machine.inventory();
        let disks = inventory.disks.iter().map(|disk| {
            let mounts: Vec<Value> = disk
                .mounts
                .iter()
                .map(|mount| json!({ "path": mount.path, "users": mount.users, "stuck": mount.stuck }))
                .collect();
            json!({
                "kind": "scsi",
                "place": disk.slot.to_string(),
                "path": disk.disk.path,
                "read_only": disk.disk.read_only,
                "users": disk.users,
                "stuck": disk.stuck,
                "mounts": mounts,
            })
        });
        let pmem = inventory.pmem.iter().map(|pmem| {
            json!({
                "kind": "pmem",
                "place": pmem.device.to_string(),
                "path": pmem.file,
                "read_only": true,
                "users": pmem.users,
                "stuck": false,
                "mounts": [{ "path": pmem.path, "users": pmem.users, "stuck": false }],
            })
        });
        let shares = inventory.shares.iter().map(|share| {
            json!({
                "kind": "9p",
                "place": "",
                "path": share.host,
                "read_only": share.read_only,
                "users": share.users,
                "stuck": false,
                "mounts": [{ "path": share.path, "users": share.users, "stuck": false }],
            })
        });
        let roots = inventory.roots.iter().map(|root| {
            json!({
                "kind": "root",
                "place": "",
                "path": null,
                "read_only": false,
                "users": 1,
                "stuck": false,
                "mounts": [{ "path": root, "users": 1, "stuck": false }],
            })
        });
        disks.chain(pmem).chain(shares).chain(roots).collect()
    }

    fn attach(&self, ask: &AttachAsk) -> Result<Value> {
        let kind = if ask.pass_through { ScsiKind::PassThrough } else { ScsiKind::VirtualDisk };
        let disk = ScsiDisk { path: ask.path.clone(), read_only: ask.read_only, kind };
        let mount = ask.mount.then(|| ScsiMount {
            path: ask.at.clone(),
            read_only: ask.read_only,
            ensure_filesystem: ask.format,
            filesystem: ask.format.then(|| "ext4".to_owned()),
            ..ScsiMount::default()
        });
        let guard = self
            .machine
            .attach_scsi(&disk, mount.as_ref(), &Deadline::after(ANSWER))
            .with_context(|| format!("cannot attach {}", ask.path.display()))?;
        let value = json!({ "slot": guard.slot().to_string(), "path": guard.guest_path() });
        self.lock().disks.push(guard);
        Ok(value)
    }

    fn detach(&self, what: &str) -> Result<Value> {
        let inventory = self.machine.inventory();
        let file_at = |slot| inventory.disks.iter().find(|disk| disk.slot == slot);
        let mut state = self.lock();
        let found = state.disks.iter().position(|guard| {
            guard.slot().to_string() == what
                || guard.guest_path() == Some(what)
                || file_at(guard.slot()).is_some_and(|disk| disk.disk.path.as_os_str() == what)
        });
        let guard = found.map(|index| state.disks.remove(index));
        drop(state);
        match guard {
            Some(guard) => {
                let slot = guard.slot().to_string();
                guard.release().with_context(|| format!("cannot detach {what}"))?;
                Ok(json!({ "slot": slot }))
            }
            None => Err(Failure::new(
                Exit::NotFound,
                format!("no disk {what} was attached with `plywood vm attach`"),
            )
            .hint("disks of containers are detached when these end; `plywood vm slots` shows all")
            .into()),
        }
    }
}

impl Seat<'_> {
    /// The container's first process runs.
    pub(super) fn started(&self, process: u32) {
        let mut state = self.owner.lock();
        state.containers.insert(self.name.clone(), Some(process));
        let doomed = state.doomed.contains(&self.name);
        drop(state);
        if doomed {
            let _ = self.owner.signal(&self.name, process, KILL);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.owner.lock();
        state.containers.remove(&self.name);
        state.doomed.remove(&self.name);
        drop(state);
        self.owner.changed.notify_all();
    }
}

pub(super) fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .with_context(|| format!("cannot start a thread for the {name}"))
}
