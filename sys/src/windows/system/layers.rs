//! `vmcompute.dll`, hcs-layers.md 2.1.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use windows_sys::core::{BOOL, GUID, HRESULT, PCWSTR, PWSTR};

use super::binding::bindings;
use super::text::{Allocated, Wide, from_units};
use super::{System, checked, native, portable};
use crate::windows::{Error, Guid, HResult, LayerApi, LayerDescriptor, Result};

/// Which driver keeps the layers. The flavour is passed as wide as a pointer, as hcsshim does.
#[repr(C)]
struct DriverInfo {
    flavour: usize,
    home: PCWSTR,
}

/// `WC_LAYER_DESCRIPTOR`.
#[repr(C)]
struct Descriptor {
    id: GUID,
    flags: u32,
    path: PCWSTR,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<DriverInfo>() == 16 && size_of::<Descriptor>() == 32);

type Driver = *const DriverInfo;
type Parents = *const Descriptor;

// Numbers of descriptors are passed as wide as a register: right whether the DLL reads 32 or 64 bits.
bindings! {
    VMCOMPUTE = "vmcompute.dll", build 14393;
    activate: "ActivateLayer", build 14393, fn(Driver, PCWSTR) -> HRESULT;
    deactivate: "DeactivateLayer", build 14393, fn(Driver, PCWSTR) -> HRESULT;
    prepare: "PrepareLayer", build 14393, fn(Driver, PCWSTR, Parents, usize) -> HRESULT;
    unprepare: "UnprepareLayer", build 14393, fn(Driver, PCWSTR) -> HRESULT;
    mount_path: "GetLayerMountPath", build 14393, fn(Driver, PCWSTR, *mut usize, PWSTR) -> HRESULT;
    exists: "LayerExists", build 14393, fn(Driver, PCWSTR, *mut BOOL) -> HRESULT;
    create: "CreateLayer", build 14393, fn(Driver, PCWSTR, PCWSTR) -> HRESULT;
    create_sandbox: "CreateSandboxLayer", build 14393, fn(Driver, PCWSTR, PCWSTR, Parents, usize) -> HRESULT;
    expand_sandbox: "ExpandSandboxSize", build 14393, fn(Driver, PCWSTR, u64) -> HRESULT;
    destroy: "DestroyLayer", build 14393, fn(Driver, PCWSTR) -> HRESULT;
    import: "ImportLayer", build 14393, fn(Driver, PCWSTR, PCWSTR, Parents, usize) -> HRESULT;
    export: "ExportLayer", build 14393, fn(Driver, PCWSTR, PCWSTR, Parents, usize) -> HRESULT;
    process_base: "ProcessBaseImage", build 14393, fn(PCWSTR) -> HRESULT;
    process_utility: "ProcessUtilityImage", build 14393, fn(PCWSTR) -> HRESULT;
    name_to_guid: "NameToGuid", build 14393, fn(PCWSTR, *mut GUID) -> HRESULT;
    base_images: "GetBaseImages", build 14393, fn(*mut PWSTR) -> HRESULT;
    grant_vm_access: "GrantVmAccess", build 14393, fn(PCWSTR, PCWSTR) -> HRESULT;
}

/// Windows attaches filters badly from two threads at once (hcs-layers.md 2.1).
static PREPARING: Mutex<()> = Mutex::new(());

/// Longest mount path taken, in UTF-16 units, NUL included: no Windows path is longer.
const LONGEST_PATH: usize = 32_768;

static NO_HOME: [u16; 1] = [0];

/// The filter driver, with its home directory nowhere.
fn driver() -> DriverInfo {
    DriverInfo { flavour: 1, home: NO_HOME.as_ptr() }
}

/// Descriptors together with the texts they point to.
struct Chain {
    descriptors: Vec<Descriptor>,
    _paths: Vec<Wide>,
}

impl Chain {
    fn new(function: &'static str, parents: &[LayerDescriptor]) -> Result<Self> {
        let paths: Vec<Wide> = parents
            .iter()
            .map(|parent| Wide::path(function, &parent.path))
            .collect::<Result<_>>()?;
        let descriptors = parents.iter().zip(&paths).map(|(parent, path)| Descriptor {
            id: native(&parent.id),
            flags: parent.flags,
            // Points to the text's heap memory, which stays when the vector of texts moves.
            path: path.as_ptr(),
        });
        Ok(Self { descriptors: descriptors.collect(), _paths: paths })
    }

    fn as_ptr(&self) -> Parents {
        if self.descriptors.is_empty() {
            return std::ptr::null();
        }
        self.descriptors.as_ptr()
    }

    fn len(&self) -> usize {
        self.descriptors.len()
    }
}

type OnLayer = unsafe extern "system" fn(Driver, PCWSTR) -> HRESULT;

fn on_layer(function: &'static str, call: OnLayer, layer: &Path) -> Result<()> {
    let path = Wide::path(function, layer)?;
    let driver = driver();
    // SAFETY: the driver's descriptor and the path, which ends with NUL, outlive the call.
    let answer = unsafe { call(&raw const driver, path.as_ptr()) };
    checked(function, layer.to_string_lossy(), answer)
}

type OnStream = unsafe extern "system" fn(Driver, PCWSTR, PCWSTR, Parents, usize) -> HRESULT;

fn on_stream(
    function: &'static str,
    call: OnStream,
    layer: &Path,
    other: &Path,
    parents: &[LayerDescriptor],
) -> Result<()> {
    let path = Wide::path(function, layer)?;
    let other = Wide::path(function, other)?;
    let chain = Chain::new(function, parents)?;
    let driver = driver();
    // SAFETY: the driver's descriptor, the texts, which end with NUL, and as many descriptors as said outlive the
    // call.
    let answer = unsafe {
        call(&raw const driver, path.as_ptr(), other.as_ptr(), chain.as_ptr(), chain.len())
    };
    checked(function, layer.to_string_lossy(), answer)
}

fn on_path(
    function: &'static str,
    call: unsafe extern "system" fn(PCWSTR) -> HRESULT,
    path: &Path,
) -> Result<()> {
    let text = Wide::path(function, path)?;
    // SAFETY: the path ends with NUL and outlives the call.
    let answer = unsafe { call(text.as_ptr()) };
    checked(function, path.to_string_lossy(), answer)
}

impl LayerApi for System {
    fn activate_layer(&self, layer: &Path) -> Result<()> {
        on_layer("ActivateLayer", activate()?, layer)
    }

    fn deactivate_layer(&self, layer: &Path) -> Result<()> {
        on_layer("DeactivateLayer", deactivate()?, layer)
    }

    fn prepare_layer(&self, layer: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        let function = "PrepareLayer";
        let call = prepare()?;
        let path = Wide::path(function, layer)?;
        let chain = Chain::new(function, parents)?;
        let driver = driver();
        // The lock guards no data, so a panic elsewhere leaves nothing half done.
        let _one_at_a_time = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the driver's descriptor, the path, which ends with NUL, and as many descriptors as said outlive the
        // call.
        let answer = unsafe { call(&raw const driver, path.as_ptr(), chain.as_ptr(), chain.len()) };
        checked(function, layer.to_string_lossy(), answer)
    }

    fn unprepare_layer(&self, layer: &Path) -> Result<()> {
        on_layer("UnprepareLayer", unprepare()?, layer)
    }

    fn layer_mount_path(&self, layer: &Path) -> Result<String> {
        let function = "GetLayerMountPath";
        let call = mount_path()?;
        let path = Wide::path(function, layer)?;
        let driver = driver();
        let mut length = 0_usize;
        // SAFETY: the driver's descriptor, the path, which ends with NUL, and the length outlive the call; without a
        // buffer the function only says how long the answer is.
        let answer = unsafe {
            call(&raw const driver, path.as_ptr(), &raw mut length, std::ptr::null_mut())
        };
        checked(function, layer.to_string_lossy(), answer)?;
        if length > LONGEST_PATH {
            return Err(Error::at(function, layer, HResult::INSUFFICIENT_BUFFER));
        }
        let mut buffer = vec![0_u16; length.max(1)];
        // SAFETY: as above, and the buffer holds as many units as the length says.
        let answer =
            unsafe { call(&raw const driver, path.as_ptr(), &raw mut length, buffer.as_mut_ptr()) };
        checked(function, layer.to_string_lossy(), answer)?;
        let path = from_units(function, &buffer)?;
        if path.is_empty() {
            let error = Error::at(function, layer, HResult::UNSPECIFIED);
            return Err(error.with_detail("the path is empty"));
        }
        Ok(path)
    }

    fn layer_exists(&self, layer: &Path) -> Result<bool> {
        let function = "LayerExists";
        let call = exists()?;
        let path = Wide::path(function, layer)?;
        let driver = driver();
        let mut there: BOOL = 0;
        // SAFETY: the driver's descriptor, the path, which ends with NUL, and the answer outlive the call.
        let answer = unsafe { call(&raw const driver, path.as_ptr(), &raw mut there) };
        checked(function, layer.to_string_lossy(), answer)?;
        Ok(there != 0)
    }

    fn create_layer(&self, layer: &Path, parent: &str) -> Result<()> {
        let function = "CreateLayer";
        let call = create()?;
        let path = Wide::path(function, layer)?;
        let parent = Wide::text(function, parent)?;
        let driver = driver();
        // SAFETY: the driver's descriptor and the texts, which end with NUL, outlive the call.
        let answer = unsafe { call(&raw const driver, path.as_ptr(), parent.as_ptr()) };
        checked(function, layer.to_string_lossy(), answer)
    }

    fn create_scratch_layer(&self, layer: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        let function = "CreateSandboxLayer";
        let call = create_sandbox()?;
        let path = Wide::path(function, layer)?;
        let chain = Chain::new(function, parents)?;
        let driver = driver();
        // SAFETY: the driver's descriptor, the path, which ends with NUL, and as many descriptors as said outlive the
        // call; the parent's name is NULL, as hcsshim passes it, because the descriptors name the parents.
        let answer = unsafe {
            call(&raw const driver, path.as_ptr(), std::ptr::null(), chain.as_ptr(), chain.len())
        };
        checked(function, layer.to_string_lossy(), answer)
    }

    fn expand_scratch_size(&self, layer: &Path, bytes: u64) -> Result<()> {
        let function = "ExpandSandboxSize";
        let call = expand_sandbox()?;
        let path = Wide::path(function, layer)?;
        let driver = driver();
        // SAFETY: the driver's descriptor and the path, which ends with NUL, outlive the call.
        let answer = unsafe { call(&raw const driver, path.as_ptr(), bytes) };
        checked(function, layer.to_string_lossy(), answer)
    }

    fn destroy_layer(&self, layer: &Path) -> Result<()> {
        on_layer("DestroyLayer", destroy()?, layer)
    }

    fn import_layer(&self, layer: &Path, source: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        on_stream("ImportLayer", import()?, layer, source, parents)
    }

    fn export_layer(&self, layer: &Path, target: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        on_stream("ExportLayer", export()?, layer, target, parents)
    }

    fn process_base_layer(&self, layer: &Path) -> Result<()> {
        on_path("ProcessBaseImage", process_base()?, layer)
    }

    fn process_utility_vm_image(&self, directory: &Path) -> Result<()> {
        on_path("ProcessUtilityImage", process_utility()?, directory)
    }

    fn name_to_guid(&self, name: &str) -> Result<Guid> {
        let function = "NameToGuid";
        let call = name_to_guid()?;
        let text = Wide::text(function, name)?;
        let mut guid = GUID::default();
        // SAFETY: the text ends with NUL and, like the GUID, outlives the call.
        let answer = unsafe { call(text.as_ptr(), &raw mut guid) };
        checked(function, name, answer)?;
        Ok(portable(&guid))
    }

    fn base_images(&self) -> Result<String> {
        let function = "GetBaseImages";
        let call = base_images()?;
        let mut text = Allocated::task();
        // SAFETY: the pointer that the function fills outlives the call.
        let answer = unsafe { call(text.out()) };
        checked(function, "", answer)?;
        text.read(function)
    }

    fn grant_vm_access(&self, vm: &str, file: &Path) -> Result<()> {
        let function = "GrantVmAccess";
        let call = grant_vm_access()?;
        let vm = Wide::text(function, vm)?;
        let path = Wide::path(function, file)?;
        // SAFETY: the texts end with NUL and outlive the call.
        let answer = unsafe { call(vm.as_ptr(), path.as_ptr()) };
        checked(function, file.to_string_lossy(), answer)
    }
}
