//! The back end for Linux hosts: QEMU, driven by its machine protocol.
//!
//! ```text
//!  owner ── Qemu ──QMP──▶ qemu-system-x86_64 ──vhost-user──▶ vhost-device-vsock ──unix sockets──▶ owner
//!              └ keeper thread: both processes end with the owner          bridge, 9P, stdio of processes
//! ```
//!
//! One directory holds everything of a machine: its sockets, `console.log`, `programs.log` and the journal of its devices.

mod channels;
mod config;
mod console;
mod image;
mod keeper;
mod log;
mod ownership;
mod pmem;
mod port;
mod qmp;
mod shares;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bridge::{
    BRIDGE_PORT, Client, Connection, GuestRequest, ModifySettings, Negotiate, ShutdownGraceful,
};
use serde_json::json;

use crate::{
    Capabilities, Deadline, Error, ErrorKind, Exit, LUNS, PMEM_MAX, PmemRange, Result, ScsiDisk,
    ScsiSlot, Share, Vm,
};
pub use channels::has_channels;
pub use config::{Accelerator, Config, Programs, Transport};
use config::{
    BRIDGE_SOCKET, CONSOLE, CONSOLE_SOCKET, PROGRAMS_LOG, QMP_SOCKET, VSOCK, remove_sockets,
};
use keeper::Keeper;
use log::Log;
use ownership::Ownership;
use port::Door;
pub use port::GuestPort;
use qmp::Qmp;
#[doc(hidden)]
pub use qmp::fuzz_answers;
use shares::Shares;

/// What a booting machine is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootPhase {
    /// The processes are started.
    Starting,
    /// QEMU answers; the guest's kernel boots.
    Kernel,
    /// The agent has called; versions are agreed on.
    Agent,
    /// It can be used.
    Ready,
}

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub struct Qemu {
    config: Config,
    qmp: Qmp,
    client: Client,
    /// Pmem devices and the files they hold, which QEMU never lets go of.
    pmem: Mutex<BTreeMap<u32, PathBuf>>,
    next_port: Mutex<u32>,
    /// Over vsock only.
    shares: Option<Shares>,
    closed: std::sync::atomic::AtomicBool,
    keeper: Keeper,
    /// After the keeper: the directory is free when nothing runs in it any more.
    _ownership: Ownership,
}

impl Qemu {
    /// Boots a machine and waits until its agent answers. `progress` is told what it is at.
    ///
    /// # Errors
    /// With the end of the guest's console, where there is any.
    pub fn boot(
        config: Config,
        deadline: &Deadline,
        progress: &mut dyn FnMut(BootPhase),
    ) -> Result<Self> {
        config.check()?;
        let log = config.file(CONSOLE);
        Self::boot_checked(config, deadline, progress).map_err(|error| {
            let tail = console::tail(&log);
            match (error.kind(), tail.as_str()) {
                // Not of a machine of ours, if of any.
                (ErrorKind::Busy | ErrorKind::Invalid | ErrorKind::ToolMissing, _) | (_, "") => {
                    error
                }
                (_, tail) => error.with_more(&format!("the guest's console ends with:\n{tail}")),
            }
        })
    }

    fn boot_checked(
        mut config: Config,
        deadline: &Deadline,
        progress: &mut dyn FnMut(BootPhase),
    ) -> Result<Self> {
        if config.transport == Transport::Serial || !has_channels(&config.programs.qemu) {
            config.share_channels = 0;
        }
        let run = &config.run;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run)
            .map_err(|error| Error::io(format!("cannot create {}", run.display()), error))?;
        let ownership = Ownership::take(run)?;
        remove_sockets(run)?;
        let console = Log::create(&config.file(CONSOLE)).map_err(|error| {
            Error::io(format!("cannot write {}", config.file(CONSOLE).display()), error)
        })?;
        progress(BootPhase::Starting);
        let limit = Instant::now() + config.boot_time;
        let bridge_door = Door::open(match config.transport {
            Transport::Vsock => config.file(&format!("{VSOCK}_{BRIDGE_PORT}")),
            Transport::Serial => config.file(BRIDGE_SOCKET),
        })?;
        let shares = match config.transport {
            Transport::Vsock => Some(Shares::open(run, config.share_channels)?),
            Transport::Serial => None,
        };
        let (console_door, qmp_door) =
            (Door::open(config.file(CONSOLE_SOCKET))?, Door::open(config.file(QMP_SOCKET))?);
        let keeper = Keeper::start(&config)?;
        ownership.record(keeper.processes())?;
        let programs = config.file(PROGRAMS_LOG);
        let alive = || match keeper.wait(Duration::ZERO) {
            None if Instant::now() < limit => deadline.slice("boot").map_err(Error::from_bridge),
            None => Err(Error::new(
                ErrorKind::Deadline,
                format!("the guest's agent did not call within {} s", config.boot_time.as_secs()),
            )),
            Some(why) => {
                let said = console::tail(&programs);
                let said = if said.is_empty() { said } else { format!(": {said}") };
                Err(Error::new(ErrorKind::Dead, format!("the machine did not start: {why}{said}")))
            }
        };
        // One that ends now has said why elsewhere.
        let ended = |error: Error| match keeper.wait(Duration::from_secs(2)) {
            Some(_) => alive().err().unwrap_or(error),
            None => error,
        };
        let stream = console_door.accept(alive)?;
        std::thread::Builder::new()
            .name("vm-console".to_owned())
            .spawn(move || console.take_from(stream))
            .map_err(|error| Error::io("cannot start a thread", error))?;
        // Nobody else is to give commands: each door is closed behind the first.
        let stream = qmp_door.accept(alive)?;
        drop((console_door, qmp_door));
        let qmp = Qmp::new(stream, config.command_time).map_err(ended)?;
        progress(BootPhase::Kernel);
        // A process in the guest that dials the port later is not mistaken for the agent.
        let stream = bridge_door.accept(alive)?;
        drop(bridge_door);
        // Over a serial port the connection says nothing of the guest; its answer does.
        if config.transport == Transport::Vsock {
            progress(BootPhase::Agent);
        }
        let connection = Connection::unix(stream)
            .map_err(|error| Error::io("cannot talk to the guest's agent", error))?;
        let client = Client::new(connection, Box::new(|_| {})).map_err(Error::from_bridge)?;
        let left = Deadline::after(limit.saturating_duration_since(Instant::now()));
        let negotiated = client.call(&Negotiate::ours(), &left);
        negotiated.map_err(|error| ended(Error::from_bridge(error)))?;
        progress(BootPhase::Ready);
        Ok(Self {
            qmp,
            client,
            pmem: Mutex::default(),
            next_port: Mutex::new(bridge::FIRST_STDIO_PORT),
            shares,
            closed: std::sync::atomic::AtomicBool::new(false),
            keeper,
            _ownership: ownership,
            config,
        })
    }

    /// The bridge to the guest's agent: for containers and processes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A port of its own number for the guest to dial, as for a process's standard streams.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) without vsock.
    pub fn open_port(&self) -> Result<GuestPort> {
        self.shares("have standard streams")?;
        let number = {
            let mut next = self.next_port.lock().unwrap_or_else(PoisonError::into_inner);
            *next = next.checked_add(1).unwrap_or(bridge::FIRST_STDIO_PORT + 1);
            *next - 1
        };
        GuestPort::open(&self.config.run, number)
    }

    /// The log of the guest's console.
    pub fn console(&self) -> PathBuf {
        self.config.file(CONSOLE)
    }

    /// The last lines of the guest's console.
    pub fn console_tail(&self) -> String {
        console::tail(&self.console())
    }

    /// The machine's directory.
    pub fn run_directory(&self) -> &Path {
        &self.config.run
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.keeper.processes()[0]
    }

    fn shares(&self, what: &str) -> Result<&Shares> {
        self.shares.as_ref().ok_or_else(|| {
            let message = format!(
                "without vhost-device-vsock the guest cannot {what}: it has a serial port only"
            );
            Error::new(ErrorKind::Unsupported, message)
        })
    }

    fn command(&self, command: &str, arguments: serde_json::Value) -> Result<()> {
        self.qmp.execute(command, arguments, self.config.command_time).map(drop)
    }
}

fn device(slot: ScsiSlot) -> String {
    format!("disk-{}-{}", slot.controller, slot.lun)
}

fn node(slot: ScsiSlot) -> String {
    format!("node-{}-{}", slot.controller, slot.lun)
}

impl Vm for Qemu {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            scsi_controllers: self.config.scsi_controllers,
            reserved_slots: Vec::new(),
            pass_through: true,
            extensible: false,
            pmem_devices: self.config.pmem_devices,
            pmem_max: PMEM_MAX,
            pmem_packed: false,
            // QEMU: "nvdimm device hot unplug is not supported yet".
            pmem_removable: false,
            shares: self.shares.is_some(),
            writable_shares: self.config.writable_shares,
        }
    }

    fn add_scsi(&self, slot: ScsiSlot, disk: &ScsiDisk) -> Result<()> {
        if slot.controller >= self.config.scsi_controllers || slot.lun >= LUNS {
            return Err(Error::new(ErrorKind::Invalid, format!("there is no SCSI slot {slot}")));
        }
        let (device, name) = (device(slot), node(slot));
        let mut node = image::node(&name, disk)?;
        // The disk's own name, so that the guest's by-id links tell slots apart.
        let serial = format!("plywood-{}-{}", slot.controller, slot.lun);
        if let Err(error) = self.command("blockdev-add", node.take()) {
            if error.is_uncertain() {
                let _ = self.command("blockdev-del", json!({ "node-name": name }));
            }
            return Err(error);
        }
        self.qmp.forget_deleted(&device);
        let add = json!({
            "driver": "scsi-hd",
            "id": device,
            "bus": format!("scsi{}.0", slot.controller),
            "channel": 0,
            "scsi-id": 0,
            "lun": slot.lun,
            "drive": name,
            "serial": serial,
        });
        self.command("device_add", add).inspect_err(|error| {
            if error.is_uncertain() {
                let _ = self.remove_scsi(slot);
            } else {
                let _ = self.command("blockdev-del", json!({ "node-name": name }));
            }
        })
    }

    fn remove_scsi(&self, slot: ScsiSlot) -> Result<()> {
        let device = device(slot);
        match self.command("device_del", json!({ "id": device })) {
            Ok(()) => self.qmp.wait_deleted(&device, self.config.command_time)?,
            // Gone already, or asked for before: its disk may be there still.
            Err(error) if error.kind() == ErrorKind::NotAttached => {}
            Err(error) => return Err(error),
        }
        self.command("blockdev-del", json!({ "node-name": node(slot) }))
    }

    fn add_pmem(
        &self,
        device: u32,
        range: Option<PmemRange>,
        path: &Path,
        read_only: bool,
    ) -> Result<()> {
        if device >= self.config.pmem_devices || range.is_some() || !read_only {
            let message = format!(
                "pmem device {device}: only whole read-only devices below {}",
                self.config.pmem_devices
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut devices = self.pmem.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.contains_key(&device) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("pmem device {device} is taken"),
            ));
        }
        devices.insert(device, path.to_owned());
        drop(devices);
        pmem::add(device, path, |command, arguments| self.command(command, arguments)).inspect_err(
            |_| {
                self.pmem.lock().unwrap_or_else(PoisonError::into_inner).remove(&device);
            },
        )
    }

    fn remove_pmem(&self, device: u32, _: Option<PmemRange>) -> Result<()> {
        let devices = self.pmem.lock().unwrap_or_else(PoisonError::into_inner);
        match devices.contains_key(&device) {
            true => Err(Error::new(ErrorKind::Unsupported, "QEMU cannot remove pmem devices")),
            false => {
                Err(Error::new(ErrorKind::NotAttached, format!("there is no pmem device {device}")))
            }
        }
    }

    fn add_share(&self, share: &Share) -> Result<u32> {
        self.shares("mount shares")?.add(share).map(|()| bridge::PLAN9_PORT)
    }

    fn remove_share(&self, name: &str) -> Result<()> {
        self.shares("mount shares")?.remove(name)
    }

    fn guest(&self, request: &GuestRequest, deadline: &Deadline) -> Result<()> {
        let modify = ModifySettings::of_vm(request.clone());
        self.client.call(&modify, deadline).map(drop).map_err(Error::from_bridge)
    }

    fn wait(&self, time: Duration) -> Option<Exit> {
        let status = self.keeper.wait(time)?;
        let stopped = self.qmp.stopped();
        let closed = self.closed.load(std::sync::atomic::Ordering::SeqCst);
        let orderly = closed || stopped.as_deref() == Some("guest-shutdown");
        let reason = match stopped {
            Some(stopped) => format!("{stopped}; {status}"),
            None => status,
        };
        Some(Exit { reason, orderly })
    }

    fn close(&self, grace: Duration) -> Result<()> {
        self.closed.store(true, std::sync::atomic::Ordering::SeqCst);
        let until = Instant::now() + grace;
        let shutdown = ShutdownGraceful::default();
        // An agent that is gone or stuck does not answer; what follows needs no answer.
        let asked = self.client.call(&shutdown, &Deadline::after(grace));
        let left = until.saturating_duration_since(Instant::now());
        if asked.is_ok() && self.keeper.wait(left).is_some() {
            return Ok(());
        }
        self.keeper.kill();
        match self.keeper.wait(Duration::from_secs(10)) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Deadline, "QEMU did not end although it was killed")),
        }
    }
}
