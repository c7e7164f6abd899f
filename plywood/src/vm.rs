//! Virtual machines that containers run in, as commands see them.
//!
//! A machine belongs to the `plywood run` or `plywood vm start` that booted it, and ends with it. Its directory `<run>/vm/<name>` has the
//! record that says so, the console's log, and the socket on which its owner answers other commands.

mod owner;
mod process;
pub(crate) mod protocol;
mod relay;
mod terminal;

use std::fs::{self, DirBuilder};
use std::io::{self, BufReader};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bridge::{Cancel, Deadline};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sys::process::Process;
use uvm::kit::Kit;
use uvm::qemu::{Accelerator, BootPhase, Config, Qemu};

use crate::cli::{Accel, BootArgs};
use crate::exit::{Exit, Failure};
use crate::host::Host;

pub(crate) use owner::Owner;
pub(crate) use relay::piped_input;
pub(crate) use terminal::RawTerminal;

const RECORD: &str = "vm.json";
const SOCKET: &str = "control.sock";

/// Layers that can be persistent memory where that is asked for; hcsshim's default.
const PMEM_DEVICES: u32 = 64;

/// What is known about a machine without asking its owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) accelerator: String,
    /// MiB.
    pub(crate) memory: u64,
    pub(crate) processors: u32,
    pub(crate) kernel: String,
    /// The owner's process id.
    pub(crate) pid: u32,
    /// When it was booted, RFC 3339.
    pub(crate) since: String,
    boot: String,
    process: String,
}

impl Record {
    fn is_alive(&self) -> bool {
        sys::process::boot_id().is_ok_and(|boot| boot == self.boot)
            && self.process.parse::<Process>().is_ok_and(|owner| owner.is_alive().unwrap_or(true))
    }
}

/// A machine's directory in the run directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    fn of(host: &Host, name: &str) -> Self {
        Self(host.run().join("vm").join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    /// The log of the guest's console.
    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.0.join(RECORD)).ok()?).ok()
    }

    /// Nothing is ever mounted in it.
    fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The machines that run, by name.
pub(crate) fn list(host: &Host) -> Result<Vec<Record>> {
    let machines = host.run().join("vm");
    let entries = match fs::read_dir(&machines) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", machines.display()));
        }
    };
    let mut found: Vec<Record> = entries
        .filter_map(|entry| Directory(entry.ok()?.path()).record())
        .filter(Record::is_alive)
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Removes what machines whose owner was killed have left; they themselves ended with it.
pub(crate) fn settle(host: &Host) -> Result<()> {
    let Ok(entries) = fs::read_dir(host.run().join("vm")) else { return Ok(()) };
    for entry in entries.flatten() {
        let directory = Directory(entry.path());
        // Without a record it may be one that is just being made.
        if directory.record().is_some_and(|record| !record.is_alive()) {
            directory.remove()?;
        }
    }
    Ok(())
}

/// The directory of a machine that runs.
pub(crate) fn find(host: &Host, name: &str) -> Result<Directory> {
    let directory = Directory::of(host, name);
    match directory.record().is_some_and(|record| record.is_alive()) {
        true => Ok(directory),
        false => Err(Failure::new(
            Exit::NotFound,
            format!("no virtual machine of the name {} is running", crate::escape::message(name)),
        )
        .hint("`plywood vm ls` shows those that are")
        .into()),
    }
}

/// A conversation with a machine's owner.
pub(crate) struct Conversation {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Conversation {
    /// With the owner of a machine that runs.
    pub(crate) fn with(host: &Host, name: &str) -> Result<Self> {
        let socket = find(host, name)?.socket();
        let stream = UnixStream::connect(&socket).with_context(|| {
            format!(
                "the owner of the virtual machine {name} does not answer at {}",
                socket.display()
            )
        })?;
        Self::over(stream)
    }

    pub(crate) fn over(stream: UnixStream) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone().context("cannot use a socket")?);
        Ok(Self { stream, reader })
    }

    /// Asks, with open files; answers come by [`Self::answer`].
    pub(crate) fn ask(&self, ask: &protocol::Ask, files: &[BorrowedFd<'_>]) -> Result<()> {
        protocol::send_files(&self.stream, files)
            .and_then(|()| protocol::send(&self.stream, ask))
            .context("cannot talk to the virtual machine's owner")
    }

    /// A way to tell about a container from another thread.
    pub(crate) fn teller(&self) -> Result<UnixStream> {
        self.stream.try_clone().context("cannot use a socket")
    }

    /// The next answer; a failure becomes an error.
    pub(crate) fn answer(&mut self) -> Result<protocol::Answer> {
        let answer = receive(&mut self.reader)?;
        match answer {
            protocol::Answer::Failed { exit, message, hints } => {
                let failure = Failure::new(Exit::from_code(exit), message);
                Err(hints.into_iter().fold(failure, Failure::hint).into())
            }
            answer => Ok(answer),
        }
    }

    /// Asks for something that is done at once.
    pub(crate) fn result(mut self, ask: &protocol::Ask) -> Result<Value> {
        self.ask(ask, &[])?;
        match self.answer()? {
            protocol::Answer::Done(value) => Ok(value),
            other => anyhow::bail!("the virtual machine's owner answers {other:?}"),
        }
    }
}

fn receive<T: DeserializeOwned>(reader: &mut BufReader<UnixStream>) -> Result<T> {
    protocol::receive(reader)
        .context("cannot read what the virtual machine's owner says")?
        .ok_or_else(|| {
            Failure::new(Exit::Failed, "the process that owned the virtual machine has ended")
                .into()
        })
}

/// Boots a machine that ends with this process. `progress` is told what it is at.
pub(crate) fn boot(
    host: &Host,
    name: &str,
    args: &BootArgs,
    cancel: &Cancel,
    progress: &mut dyn FnMut(BootPhase),
) -> Result<Arc<Owner>> {
    let kit = Kit::find(args.kit.as_deref()).map_err(|error| match error.kind() {
        // It can be made or installed.
        uvm::ErrorKind::NotFound => {
            anyhow::Error::from(Failure::new(Exit::SetUp, error.to_string()))
        }
        _ => error.into(),
    })?;
    let directory = claim(host, name)?;
    let booted = (|| {
        let mut config = Config::new(kit, directory.path());
        config.accelerator = match args.accel {
            Accel::Tcg => Accelerator::Tcg,
            Accel::Kvm => Accelerator::Kvm,
        };
        config.memory = args.memory;
        config.processors = args.cpus;
        config.pmem_devices = if args.pmem { PMEM_DEVICES } else { 0 };
        let record = Record {
            name: name.to_owned(),
            accelerator: args.accel.name().to_owned(),
            memory: config.memory >> 20,
            processors: config.processors,
            kernel: config.kit.release().to_owned(),
            pid: std::process::id(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            boot: sys::process::boot_id()?,
            process: Process::current()?.to_string(),
        };
        // First, so that whoever finds the directory knows whose it is.
        let text = serde_json::to_vec(&record).context("cannot describe the virtual machine")?;
        let path = directory.path().join(RECORD);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let deadline = Deadline::after(config.boot_time).with_cancel(cancel.clone());
        let vm = Qemu::boot(config, &deadline, progress)
            .with_context(|| format!("cannot start the virtual machine {name}"))?;
        Owner::new(vm, record, directory.clone())
    })();
    if booted.is_err() {
        // The first error is the one to tell.
        let _ = directory.remove();
    }
    booted
}

/// A directory of its own for a machine; the name must be free.
fn claim(host: &Host, name: &str) -> Result<Directory> {
    settle(host)?;
    let directory = Directory::of(host, name);
    let failed = || format!("cannot make {}", directory.path().display());
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let machines = host.run().join("vm");
    builder.recursive(true).create(&machines).with_context(failed)?;
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match builder.recursive(false).create(directory.path()) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(failed),
        }
        if directory.record().is_some() {
            anyhow::bail!(
                Failure::new(
                    Exit::Exists,
                    format!("a virtual machine of the name {name} is running")
                )
                .hint(format!("choose another --name, or run in that one with --vm {name}"))
            );
        }
        // Without a record its maker was killed at once, or has not come to that yet.
        if Instant::now() >= deadline {
            directory.remove()?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
