//! A virtual machine of the Host Compute Service as a back end: each call is one document.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bridge::GuestRequest;
use serde::Deserialize;
use sys::windows::{ComputeSystem, Error as Native, HResult, Host};

use super::request::PLAN9_PORT;
use super::schema::ModifySettingRequest;
use crate::{
    Capabilities, Deadline, Error, ErrorKind, Exit, MAX_CONTROLLERS, MAX_PMEM, PMEM_MAX, PmemRange,
    Result, ScsiDisk, ScsiKind, ScsiSlot, Share, Vm,
};

/// The first build that packs files on persistent memory and restricts shares to files: 19H1.
const BUILD_19H1: u32 = 18_362;
/// Between two looks at whether the machine runs.
const LOOK: Duration = Duration::from_millis(250);

/// What a machine was made with, as far as its devices go; the service does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HcsOptions {
    /// The host's build.
    pub build: u32,
    /// SCSI controllers, up to [`MAX_CONTROLLERS`].
    pub scsi_controllers: u8,
    /// Slots that are never given out, such as the root file system's.
    pub reserved_slots: Vec<ScsiSlot>,
    /// Persistent-memory devices; none for Windows guests.
    pub pmem_devices: u32,
    /// Bytes of each.
    pub pmem_size: u64,
    /// Whether several files may lie on one.
    pub pmem_packed: bool,
    /// Whether directories can be shared for writing.
    pub writable_shares: bool,
}

impl Default for HcsOptions {
    /// hcsshim's (hcs-layers.md 4.1 and 4.2).
    fn default() -> Self {
        Self {
            build: 20_348,
            scsi_controllers: 1,
            reserved_slots: Vec::new(),
            pmem_devices: 64,
            pmem_size: PMEM_MAX,
            pmem_packed: true,
            writable_shares: true,
        }
    }
}

/// A running virtual machine of the Host Compute Service, whose guest is asked through the service. Never run on a real
/// HCS host.
pub struct HcsVm {
    host: Arc<dyn Host>,
    id: String,
    system: ComputeSystem,
    options: HcsOptions,
    ended: Mutex<Option<Exit>>,
}

impl HcsVm {
    /// The machine of that id, which runs already.
    ///
    /// # Errors
    /// `Invalid` for options that no machine has; what the service says.
    pub fn open(host: Arc<dyn Host>, id: &str, options: HcsOptions) -> Result<Self> {
        let too_many =
            options.scsi_controllers > MAX_CONTROLLERS || options.pmem_devices > MAX_PMEM;
        if too_many || options.pmem_size > PMEM_MAX {
            let message = format!("no virtual machine has {options:?}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let system = host
            .open_compute_system(id)
            .map_err(|error| native(&format!("open the virtual machine {id}"), error))?;
        Ok(Self { host, id: id.to_owned(), system, options, ended: Mutex::new(None) })
    }

    /// The interfaces of the host.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// The machine's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The build of the host.
    pub fn build(&self) -> u32 {
        self.options.build
    }

    pub(super) fn modify(
        &self,
        doing: &str,
        request: &ModifySettingRequest,
    ) -> Result<(), Failure> {
        let document = request.to_json().map_err(Failure::Ours)?;
        self.host
            .modify_compute_system(&self.system, &document)
            .map(drop)
            .map_err(|error| Failure::Theirs(doing.to_owned(), error))
    }

    /// Lets the machine open a file of the host.
    pub(super) fn grant(&self, path: &Path) -> Result<()> {
        self.host.grant_vm_access(&self.id, path).map_err(|error| {
            native(&format!("let the virtual machine open {}", path.display()), error)
        })
    }

    /// Attaches a disk. A writable one and a device are opened by the machine's own account, so it is let in first.
    /// Layers are opened by every machine, and an entry for each would fill their access list (hcsshim's users run
    /// into that): they carry one for all machines, and only where that is missing is this one let in.
    pub(super) fn attach_disk(&self, slot: ScsiSlot, disk: &ScsiDisk) -> Result<()> {
        let request = ModifySettingRequest::add_scsi(slot, disk)?;
        let doing = format!("attach {} at SCSI {slot}", disk.path.display());
        let extensible = matches!(disk.kind, ScsiKind::Extensible(_));
        let layer = disk.read_only && disk.kind == ScsiKind::VirtualDisk;
        if !extensible && !layer {
            self.grant(&disk.path)?;
        }
        match self.modify(&doing, &request) {
            Err(Failure::Theirs(_, error)) if layer && error.code() == HResult::ACCESS_DENIED => {
                self.grant(&disk.path)?;
                self.modify(&doing, &request)
            }
            other => other,
        }
        .map_err(Failure::error)
    }

    pub(super) fn detach_disk(&self, slot: ScsiSlot) -> Result<()> {
        let request = ModifySettingRequest::remove_scsi(slot)?;
        self.modify(&format!("detach the disk at SCSI {slot}"), &request).map_err(Failure::error)
    }

    /// Asks the guest.
    pub(super) fn ask(&self, request: &GuestRequest) -> Result<()> {
        let doing = format!("ask the guest for {}", request.resource.name());
        let document = ModifySettingRequest::guest(request)?;
        self.modify(&doing, &document).map_err(|failure| match failure {
            Failure::Theirs(doing, error) if kind_of(&error) != ErrorKind::Dead => {
                let text = error.detail().unwrap_or(error.code().name());
                Error::guest(doing, error.code().raw(), text)
            }
            other => other.error(),
        })
    }

    /// Whether it has ended, and how.
    fn look(&self) -> Option<Exit> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        #[derive(Default)]
        struct Properties {
            state: String,
            stopped: bool,
            exit_type: String,
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            *ended = match self.host.compute_system_properties(&self.system, "") {
                Ok(text) => {
                    let properties: Properties = serde_json::from_str(&text).unwrap_or_default();
                    (properties.stopped || properties.state == "Stopped").then(|| Exit {
                        reason: match properties.exit_type.as_str() {
                            "" => "the virtual machine has stopped".to_owned(),
                            how => format!("the virtual machine has stopped: {how}"),
                        },
                        orderly: matches!(
                            properties.exit_type.as_str(),
                            "" | "GracefulExit" | "ForcedExit"
                        ),
                    })
                }
                Err(error) if kind_of(&error) == ErrorKind::Dead => {
                    Some(Exit { reason: error.to_string(), orderly: false })
                }
                // It cannot be asked now, which says nothing about it.
                Err(_) => None,
            };
        }
        ended.clone()
    }
}

/// What came of a document.
pub(super) enum Failure {
    Ours(Error),
    Theirs(String, Native),
}

impl Failure {
    pub(super) fn error(self) -> Error {
        match self {
            Self::Ours(error) => error,
            Self::Theirs(doing, error) => native(&doing, error),
        }
    }
}

pub(super) fn native(doing: &str, error: Native) -> Error {
    Error::caused(kind_of(&error), format!("cannot {doing}"), error)
}

fn kind_of(error: &Native) -> ErrorKind {
    if error.missing_binding().is_some() {
        return ErrorKind::Unsupported;
    }
    match error.code().name() {
        "HCS_E_SYSTEM_NOT_FOUND"
        | "HCS_E_SYSTEM_ALREADY_STOPPED"
        | "HCS_E_TERMINATED"
        | "HCS_E_UNEXPECTED_EXIT" => ErrorKind::Dead,
        // What is to be removed is not there (#940 of hcsshim: mappings whose device is gone).
        "ERROR_NOT_FOUND" => ErrorKind::NotAttached,
        "ERROR_FILE_NOT_FOUND" | "ERROR_PATH_NOT_FOUND" => ErrorKind::NotFound,
        "ERROR_ACCESS_DENIED" | "ERROR_PRIVILEGE_NOT_HELD" | "HCS_E_ACCESS_DENIED" => {
            ErrorKind::NotPermitted
        }
        "ERROR_SHARING_VIOLATION" | "ERROR_BUSY" => ErrorKind::Busy,
        "ERROR_TIMEOUT" | "HCS_E_OPERATION_TIMEOUT" | "HCS_E_CONNECTION_TIMEOUT" => {
            ErrorKind::Deadline
        }
        "ERROR_ALREADY_EXISTS" | "ERROR_FILE_EXISTS" => ErrorKind::AlreadyExists,
        "ERROR_DISK_FULL" => ErrorKind::NoSpace,
        "ERROR_NOT_SUPPORTED" => ErrorKind::Unsupported,
        "ERROR_INVALID_PARAMETER" | "HCS_E_INVALID_JSON" => ErrorKind::Invalid,
        _ => ErrorKind::Io,
    }
}

impl fmt::Debug for HcsVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HcsVm")
            .field("id", &self.id)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Vm for HcsVm {
    fn capabilities(&self) -> Capabilities {
        let options = &self.options;
        Capabilities {
            scsi_controllers: options.scsi_controllers,
            reserved_slots: options.reserved_slots.clone(),
            pass_through: true,
            extensible: true,
            pmem_devices: options.pmem_devices,
            pmem_max: options.pmem_size,
            pmem_packed: options.pmem_packed && options.build >= BUILD_19H1,
            pmem_removable: true,
            shares: true,
            writable_shares: options.writable_shares,
        }
    }

    fn add_scsi(&self, slot: ScsiSlot, disk: &ScsiDisk) -> Result<()> {
        self.attach_disk(slot, disk)
    }

    fn remove_scsi(&self, slot: ScsiSlot) -> Result<()> {
        self.detach_disk(slot)
    }

    fn add_pmem(
        &self,
        device: u32,
        range: Option<PmemRange>,
        path: &Path,
        read_only: bool,
    ) -> Result<()> {
        let request = ModifySettingRequest::add_pmem(device, range, path, read_only)?;
        let doing = format!("attach {} as pmem device {device}", path.display());
        self.modify(&doing, &request).map_err(Failure::error)
    }

    fn remove_pmem(&self, device: u32, range: Option<PmemRange>) -> Result<()> {
        let request = ModifySettingRequest::remove_pmem(device, range);
        self.modify(&format!("detach pmem device {device}"), &request).map_err(Failure::error)
    }

    fn add_share(&self, share: &Share) -> Result<u32> {
        if share.allowed.is_some() && self.options.build < BUILD_19H1 {
            let message = format!(
                "cannot share single files of {}: this Windows has build {}, and that needs {BUILD_19H1}",
                share.path.display(),
                self.options.build
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let request = ModifySettingRequest::add_plan9(share)?;
        self.modify(&format!("share {}", share.path.display()), &request)
            .map_err(Failure::error)?;
        Ok(PLAN9_PORT)
    }

    fn remove_share(&self, name: &str) -> Result<()> {
        let request = ModifySettingRequest::remove_plan9(name);
        self.modify(&format!("end the share {name}"), &request).map_err(Failure::error)
    }

    fn guest(&self, request: &GuestRequest, deadline: &Deadline) -> Result<()> {
        deadline.slice("ask the guest").map_err(Error::from_bridge)?;
        self.ask(request)
    }

    fn wait(&self, time: Duration) -> Option<Exit> {
        let until = Instant::now() + time;
        loop {
            if let Some(exit) = self.look() {
                return Some(exit);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            std::thread::sleep(LOOK.min(left));
        }
    }

    fn close(&self, grace: Duration) -> Result<()> {
        if self.look().is_some() {
            return Ok(());
        }
        let asked = self.host.shut_down_compute_system(&self.system, "");
        if asked.is_ok() && self.wait(grace).is_some() {
            return Ok(());
        }
        match self.host.terminate_compute_system(&self.system, "") {
            Ok(()) => Ok(()),
            Err(error) if kind_of(&error) == ErrorKind::Dead => Ok(()),
            Err(error) => Err(native("end the virtual machine", error)),
        }
    }
}
