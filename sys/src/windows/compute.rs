//! `computecore.dll`: virtual machines and containers of the Host Compute Service. Every document is JSON.

use std::path::Path;

use super::{ComputeSystem, Result};

/// Compute systems. Every call waits for its operation's end and gives back the result document (empty when the
/// service gave none); a failure carries that document as its detail.
pub trait ComputeApi: Send + Sync {
    /// `HcsCreateComputeSystem`, with no security descriptor.
    fn create_compute_system(&self, id: &str, document: &str) -> Result<ComputeSystem>;

    /// `HcsOpenComputeSystem` with all access.
    fn open_compute_system(&self, id: &str) -> Result<ComputeSystem>;

    /// `HcsStartComputeSystem`.
    fn start_compute_system(&self, system: &ComputeSystem) -> Result<()>;

    /// `HcsShutDownComputeSystem`.
    fn shut_down_compute_system(&self, system: &ComputeSystem, options: &str) -> Result<()>;

    /// `HcsTerminateComputeSystem`.
    fn terminate_compute_system(&self, system: &ComputeSystem, options: &str) -> Result<()>;

    /// `HcsModifyComputeSystem` with a ModifySettingRequest, without an identity.
    fn modify_compute_system(&self, system: &ComputeSystem, request: &str) -> Result<String>;

    /// `HcsGetComputeSystemProperties` with a PropertyQuery.
    fn compute_system_properties(&self, system: &ComputeSystem, query: &str) -> Result<String>;

    /// `HcsEnumerateComputeSystems` with a SystemQuery.
    fn enumerate_compute_systems(&self, query: &str) -> Result<String>;

    /// `HcsGetServiceProperties`: versions and features of the service.
    fn service_properties(&self, query: &str) -> Result<String>;

    /// `HcsGrantVmGroupAccess`: lets every virtual machine open `file`. Layers' disks have it once, instead of an
    /// entry for each machine (hcs-layers.md 2.1 and 7).
    fn grant_vm_group_access(&self, file: &Path) -> Result<()>;
}
