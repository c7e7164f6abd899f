//! The machine and what a host does with it.

use std::io::Read as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bridge::{
    CombinedLayers, ContainerConfig, CreateContainer, Deadline, DeleteContainerState, ErrorKind,
    ExecuteProcess, ExecuteProcessSettings, GuestRequest, InText, Layer, MappedVirtualDisk,
    ModifySettings, ProcessParameters, Request, RequestBase, Resource, ResultCode, SchemaVersion,
    ScsiDevice, StdioPorts, WaitForProcess,
};
use serde_json::{Value, json};
use uvm::kit::Kit;
use uvm::qemu::{Config, Qemu};
use uvm::{ScsiDisk, ScsiKind, ScsiSlot, Vm as _};

use crate::images::Images;

pub(crate) struct Machine {
    pub(crate) vm: Qemu,
    containers: AtomicU32,
}

pub(crate) fn limit() -> Deadline {
    Deadline::after(Duration::from_secs(120))
}

/// A disk's settings: where it is, and where it is mounted.
pub(crate) fn disk(slot: ScsiSlot, path: &str) -> MappedVirtualDisk {
    MappedVirtualDisk {
        mount_path: path.to_owned(),
        controller: slot.controller,
        lun: slot.lun,
        ..Default::default()
    }
}

impl Machine {
    pub(crate) fn boot(images: &Images) -> Self {
        let kit = Kit::find(None).expect("PLYWOOD_VM_KIT names a kit");
        let mut config = Config::new(kit, images.path("run"));
        config.pmem_devices = 4;
        let vm =
            Qemu::boot(config, &limit(), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
        Self { vm, containers: AtomicU32::new(0) }
    }

    pub(crate) fn attach(&self, images: &Images, name: &str, slot: ScsiSlot, read_only: bool) {
        let disk = ScsiDisk { path: images.path(name), read_only, kind: ScsiKind::VirtualDisk };
        self.vm.add_scsi(slot, &disk).unwrap();
    }

    /// Unplugs a disk in the guest and takes it away.
    pub(crate) fn detach(&self, slot: ScsiSlot) {
        let device = ScsiDevice { controller: slot.controller, lun: slot.lun };
        self.modify(GuestRequest::remove(Resource::ScsiDevice(device))).unwrap();
        self.vm.remove_scsi(slot).unwrap();
    }

    pub(crate) fn call<R: Request>(&self, request: &R) -> bridge::Result<R::Response> {
        self.vm.client().call(request, &limit())
    }

    pub(crate) fn modify(&self, request: GuestRequest) -> bridge::Result<()> {
        self.call(&ModifySettings::of_vm(request)).map(drop)
    }

    pub(crate) fn mount(&self, disk: MappedVirtualDisk) -> bridge::Result<()> {
        self.modify(GuestRequest::add(Resource::MappedVirtualDisk(disk)))
    }

    /// The words of a refusal.
    pub(crate) fn refusal(&self, request: GuestRequest) -> String {
        let error = self.modify(request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(error.result(), Some(ResultCode::FAIL), "{error}");
        error.to_string()
    }

    /// Unmounts a disk as old hosts do: without saying that it is encrypted.
    pub(crate) fn unmount(&self, path: &str) -> bridge::Result<()> {
        let disk = MappedVirtualDisk { mount_path: path.to_owned(), ..Default::default() };
        self.modify(GuestRequest::remove(Resource::MappedVirtualDisk(disk)))
    }

    pub(crate) fn combine(&self, root: &str, layers: &[&str], scratch: &str) -> bridge::Result<()> {
        self.modify(GuestRequest::add(Resource::CombinedLayers(CombinedLayers {
            container_id: String::new(),
            container_root_path: root.to_owned(),
            layers: layers.iter().map(|path| Layer::at(*path)).collect(),
            scratch_path: scratch.to_owned(),
        })))
    }

    pub(crate) fn separate(&self, root: &str) -> bridge::Result<()> {
        let root = CombinedLayers { container_root_path: root.to_owned(), ..Default::default() };
        self.modify(GuestRequest::remove(Resource::CombinedLayers(root)))
    }

    /// Runs a script in a container on the root file system at `root`; its exit code and what it said.
    pub(crate) fn run(&self, root: &str, mounts: &[Value], script: &str) -> (u32, String) {
        self.run_in(&["pid", "mount", "network"], root, mounts, script)
    }

    /// The same with these namespaces only.
    pub(crate) fn run_in(
        &self,
        namespaces: &[&str],
        root: &str,
        mounts: &[Value],
        script: &str,
    ) -> (u32, String) {
        let namespaces: Vec<Value> =
            namespaces.iter().map(|namespace| json!({ "type": namespace })).collect();
        let id = format!("c{}", self.containers.fetch_add(1, Ordering::Relaxed));
        let mut all = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
        ];
        all.extend_from_slice(mounts);
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]},
            },
            "root": {"path": root},
            "mounts": all,
            "linux": {"namespaces": namespaces},
        });
        let config = ContainerConfig {
            schema_version: SchemaVersion::V2_1,
            oci_bundle_path: format!("/run/gcs/c/{id}"),
            oci_specification: Some(spec),
            ..Default::default()
        };
        let base = || RequestBase::new(id.as_str());
        let create = CreateContainer { base: base(), container_config: InText(config) };
        self.call(&create).unwrap();
        let port = self.vm.open_port().unwrap();
        let settings = ExecuteProcessSettings {
            process_parameters: InText(ProcessParameters {
                create_std_out_pipe: true,
                ..Default::default()
            }),
            vsock_stdio_relay_settings: StdioPorts { std_out: port.number(), ..Default::default() },
        };
        let process_id = self.call(&ExecuteProcess { base: base(), settings }).unwrap().process_id;
        let mut said = String::new();
        port.accept(&limit()).unwrap().read_to_string(&mut said).unwrap();
        let timeout_in_ms = WaitForProcess::FOREVER;
        let wait = WaitForProcess { base: base(), process_id, timeout_in_ms };
        let code = self.call(&wait).unwrap().exit_code;
        self.call(&DeleteContainerState::new(id.as_str())).unwrap();
        (code, said)
    }
}
