//! What goes wrong while containers run: no space, layers taken away, a bridge that breaks.

use std::os::unix::net::UnixListener;

use bridge::{
    BRIDGE_PORT, Client, CombinedLayers, Connection, ContainerConfig, CreateContainer,
    DeleteContainerState, ExecuteProcess, ExecuteProcessSettings, GuestRequest, InText, Layer,
    MappedVirtualDisk, Negotiate, RequestBase, Resource, ResultCode, SchemaVersion, SignalOptions,
    SignalProcess, WaitForProcess,
};
use serde_json::json;
use uvm::ScsiSlot;

use crate::disks::{ROOT, in_vm};
use crate::images::Images;
use crate::machine::{Machine, disk, limit};

pub(crate) fn a_full_scratch_is_an_error_until_there_is_room(machine: &Machine, images: &Images) {
    let at = ScsiSlot { controller: 1, lun: 20 };
    machine.attach(images, "small", at, false);
    let scratch = MappedVirtualDisk { ensure_filesystem: true, ..disk(at, "/run/small") };
    machine.mount(scratch).unwrap();
    let fill = "dd if=/dev/zero of=/mnt/small/fill bs=64k 2>/dev/null; echo full";
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], fill);
    assert_eq!(said, "full\n");
    let root = "/run/gcs/c/full/rootfs";
    let combine = || machine.combine(root, &["/run/layers/base"], "/run/small/c");
    let error = combine().unwrap_err();
    assert_eq!(error.result(), Some(ResultCode::FAIL));
    assert!(error.to_string().contains("No space left on device"), "{error}");
    let (_, said) = machine.run(ROOT, &[in_vm("/run")], "ls /mnt/gcs/c /mnt/small");
    let names: Vec<&str> = said.lines().collect();
    assert!(!names.contains(&"full") && !names.contains(&"c"), "nothing stays: {said}");
    machine.run(ROOT, &[in_vm("/run")], "rm /mnt/small/fill");
    combine().unwrap();
    // A container that fills it is told so, and goes on.
    let script = "dd if=/dev/zero of=/fill bs=64k 2>&1 | grep -o 'No space.*'; echo still here";
    let (code, said) = machine.run(root, &[], script);
    assert_eq!((code, said.as_str()), (0, "No space left on device\nstill here\n"));
    machine.separate(root).unwrap();
    machine.unmount("/run/small").unwrap();
    machine.detach(at);
}

pub(crate) fn a_layer_below_a_root_can_be_unmounted(machine: &Machine, images: &Images) {
    let at = ScsiSlot { controller: 1, lun: 21 };
    machine.attach(images, "top.erofs", at, true);
    let layer = MappedVirtualDisk { read_only: true, ..disk(at, "/run/layers/below") };
    machine.mount(layer).unwrap();
    let root = "/run/gcs/c/below/rootfs";
    machine.combine(root, &["/run/layers/below", "/run/layers/base"], "").unwrap();
    // The overlay has references of its own, as with the genuine agent.
    machine.unmount("/run/layers/below").unwrap();
    let (_, said) = machine.run(root, &[], "cat /name; cat /more | wc -c");
    assert_eq!(said, "top\n20480\n");
    machine.separate(root).unwrap();
    machine.detach(at);
}

/// The last step: afterwards the machine's own bridge is closed, and the one that is returned is the machine's.
pub(crate) fn a_host_that_comes_again_finds_its_container(machine: &Machine) -> Client {
    let base = || RequestBase::new("lasting");
    let root = "/run/gcs/c/lasting/rootfs";
    machine.combine(root, &["/run/layers/base"], "").unwrap();
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": root},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    });
    let config = ContainerConfig {
        schema_version: SchemaVersion::V2_1,
        oci_bundle_path: "/run/gcs/c/lasting".to_owned(),
        oci_specification: Some(spec),
        ..Default::default()
    };
    machine.call(&CreateContainer { base: base(), container_config: InText(config) }).unwrap();
    let settings = ExecuteProcessSettings::default();
    let process_id = machine.call(&ExecuteProcess { base: base(), settings }).unwrap().process_id;

    let name = machine.vm.run_directory().join(format!("vsock_{BRIDGE_PORT}"));
    let listener = UnixListener::bind(name).unwrap();
    machine.vm.client().close();
    let (stream, _) = listener.accept().unwrap();
    drop(listener);
    let client = Client::new(Connection::unix(stream).unwrap(), Box::new(|_| {})).unwrap();
    client.call(&Negotiate::ours(), &limit()).unwrap();
    let options = Some(SignalOptions { signal: 9 });
    client.call(&SignalProcess { base: base(), process_id, options }, &limit()).unwrap();
    let timeout_in_ms = WaitForProcess::FOREVER;
    let wait = WaitForProcess { base: base(), process_id, timeout_in_ms };
    assert_eq!(client.call(&wait, &limit()).unwrap().exit_code, 137);
    // What is on record is what was, by resource and by container.
    let again = CombinedLayers {
        container_root_path: root.to_owned(),
        layers: vec![Layer::at("/run/layers/base")],
        ..Default::default()
    };
    let modify = |request| client.call(&bridge::ModifySettings::of_vm(request), &limit());
    let error = modify(GuestRequest::add(Resource::CombinedLayers(again.clone()))).unwrap_err();
    assert_eq!(error.result(), Some(ResultCode::FAIL), "it is still there: {error}");
    modify(GuestRequest::remove(Resource::CombinedLayers(again))).unwrap();
    client.call(&DeleteContainerState::new("lasting"), &limit()).unwrap();
    client
}
