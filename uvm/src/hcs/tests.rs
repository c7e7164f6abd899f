use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bridge::{
    CombinedLayers, GuestRequest, Layer, MappedDirectory, MappedVirtualDisk, PmemDevice,
    PmemMapping, Resource, ScsiDevice,
};
use serde_json::Value;
use sys::windows::HResult;
use sys::windows::recording::Recorder;

use super::request::windows_resource;
use super::*;
use crate::{
    Deadline, ErrorKind, Machine, PmemRange, ScsiDisk, ScsiKind, ScsiMount, ScsiSlot, Share, Vm,
};

const LAYER_ID: &str = "7cadcf96-8e6b-5702-8a86-d30724925c2e";
const VSMB: &str = r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}\s0";

fn disk(path: &str, read_only: bool, kind: ScsiKind) -> ScsiDisk {
    ScsiDisk { path: path.into(), read_only, kind }
}

fn scsi(controller: u8, lun: u8, disk: &ScsiDisk) -> ModifySettingRequest {
    ModifySettingRequest::add_scsi(ScsiSlot { controller, lun }, disk).unwrap()
}

fn guest(request: GuestRequest) -> ModifySettingRequest {
    ModifySettingRequest::guest(&request).unwrap()
}

fn windows(name: &str, settings: &impl serde::Serialize) -> Resource {
    windows_resource(name, settings).unwrap()
}

/// Every document against a file written from hcs-layers.md 4.1 to 4.5, not from the code.
#[test]
fn documents_are_those_of_the_reference() {
    let layer = Path::new(r"C:\layers\1\layer.vhd");
    let packed = Some(PmemRange { offset: 4 << 20, size: 4096 });
    let first = Some(PmemRange { offset: 0, size: 4096 });
    let share = |name: &str, path: &str, read_only: bool, file: Option<&str>| {
        let allowed = file.map(|file| [file.into()].into());
        ModifySettingRequest::add_plan9(&Share {
            name: name.into(),
            path: path.into(),
            read_only,
            allowed,
        })
        .unwrap()
    };
    let vsmb = |request, name: &str, path: &str, allowed: &[&str], options| {
        let allowed = allowed.iter().map(Into::into).collect();
        ModifySettingRequest::vsmb(request, name, Path::new(path), Some(&allowed), options).unwrap()
    };
    let mapped = |path: &str, lun| WindowsMappedDisk { container_path: path.into(), lun };
    let combined = |path: &str, filter| WindowsCombinedLayers {
        container_root_path: r"c:\mounts\scsi\m0".into(),
        layers: vec![HcsLayer { id: LAYER_ID.into(), path: path.into() }],
        filter_type: filter,
        ..WindowsCombinedLayers::default()
    };
    let files = VirtualSmbShareOptions {
        no_directmap: true,
        restrict_file_access: true,
        single_file_mapping: true,
        ..VirtualSmbShareOptions::read_only()
    };
    let slot = ScsiSlot { controller: 0, lun: 5 };
    macro_rules! golden {
        ($($name:literal: $document:expr;)*) => {$(
            let wanted: Value = serde_json::from_str(include_str!(concat!("golden/", $name, ".json"))).unwrap();
            let found: Value = serde_json::from_str(&$document.to_json().unwrap()).unwrap();
            assert_eq!(found, wanted, $name);
        )*};
    }
    golden! {
        "scsi-add-layer": scsi(0, 0, &disk(layer.to_str().unwrap(), true, ScsiKind::VirtualDisk));
        "scsi-add-scratch": scsi(3, 63, &disk(r"C:\s\sandbox.vhdx", false, ScsiKind::VirtualDisk));
        "scsi-add-physical": scsi(1, 1, &disk(r"\\.\PHYSICALDRIVE1", false, ScsiKind::PassThrough));
        "scsi-add-extensible": scsi(2, 2, &disk("id-7", true, ScsiKind::Extensible("SpaceDirect".into())));
        "scsi-remove": ModifySettingRequest::remove_scsi(slot).unwrap();
        "pmem-add": ModifySettingRequest::add_pmem(3, None, layer, true).unwrap();
        "pmem-add-first-packed": ModifySettingRequest::add_pmem(0, first, layer, true).unwrap();
        "pmem-add-packed":
            ModifySettingRequest::add_pmem(0, packed, Path::new(r"C:\layers\2\layer.vhd"), true).unwrap();
        "pmem-remove": ModifySettingRequest::remove_pmem(3, None);
        "pmem-remove-packed": ModifySettingRequest::remove_pmem(0, packed);
        "plan9-add": share("0", r"C:\data", false, None);
        "plan9-add-file": share("10", r"C:\etc", true, Some("hosts"));
        "plan9-remove": ModifySettingRequest::remove_plan9("10");
        "vsmb-add-layer": vsmb(RequestType::Add, "s1f", r"C:\layers\1", &[], VirtualSmbShareOptions::layer());
        "vsmb-update-files": vsmb(RequestType::Update, "s2", r"C:\etc", &["a", "b"], files);
        "vsmb-add-writable": vsmb(RequestType::Add, "s0", r"C:\data", &[], Default::default());
        "vsmb-remove": ModifySettingRequest::remove_vsmb("s1f");
        "pipe-add": ModifySettingRequest::pipe(RequestType::Add, r"\\.\pipe\docker_engine");
        "pipe-remove": ModifySettingRequest::pipe(RequestType::Remove, r"\\.\pipe\docker_engine");
        "guest-disk-linux": guest(GuestRequest::add(Resource::MappedVirtualDisk(MappedVirtualDisk {
            mount_path: "/run/mounts/scsi/m0".into(),
            lun: 1,
            read_only: true,
            options: vec!["ro".into()],
            ..Default::default()
        })));
        "guest-disk-windows":
            guest(GuestRequest::add(windows("MappedVirtualDisk", &mapped(r"c:\mounts\scsi\m0", 0))));
        "guest-disk-windows-remove":
            guest(GuestRequest::remove(windows("MappedVirtualDisk", &mapped(r"c:\mounts\scsi\m7", 7))));
        "guest-directory-windows": guest(GuestRequest::add(windows("MappedDirectory", &WindowsMappedDirectory {
            host_path: VSMB.into(),
            container_path: r"C:\data".into(),
            read_only: true,
        })));
        "guest-combine-wcifs": guest(GuestRequest::add(windows("CombinedLayers", &combined(VSMB, None))));
        "guest-combine-unionfs": guest(GuestRequest::add(windows(
            "CombinedLayers",
            &combined(&format!(r"\\?\Volume{{{LAYER_ID}}}\Files"), Some("UnionFS")),
        )));
        "guest-uncombine": guest(GuestRequest::remove(windows("CombinedLayers", &WindowsCombinedLayers {
            container_root_path: r"c:\mounts\scsi\m0".into(),
            ..Default::default()
        })));
        "guest-pmem": guest(GuestRequest::add(Resource::VPMemDevice(PmemDevice {
            device_number: 2,
            mount_path: "/run/layers/p2-4194304-4096".into(),
            mapping_info: Some(PmemMapping { device_offset_in_bytes: 4 << 20, device_size_in_bytes: 4096 }),
            ..Default::default()
        })));
        "guest-plan9": guest(GuestRequest::add(Resource::MappedDirectory(MappedDirectory {
            mount_path: "/data".into(),
            port: 564,
            share_name: "0".into(),
            read_only: true,
        })));
        "guest-combine-linux": guest(GuestRequest::add(Resource::CombinedLayers(CombinedLayers {
            container_id: "c".into(),
            container_root_path: "/run/gcs/c/c/rootfs".into(),
            layers: vec![Layer::at("/run/layers/p0")],
            scratch_path: "/run/mounts/scsi/m0/scratch/c".into(),
        })));
        "guest-unplug":
            guest(GuestRequest::remove(Resource::ScsiDevice(ScsiDevice { controller: 1, lun: 2 })));
    }
}

#[test]
fn slots_that_are_not_are_refused() {
    let layer = disk("x", true, ScsiKind::VirtualDisk);
    for (controller, lun) in [(4, 0), (0, 64), (255, 255)] {
        let slot = ScsiSlot { controller, lun };
        assert!(ModifySettingRequest::add_scsi(slot, &layer).is_err());
        assert!(ModifySettingRequest::remove_scsi(slot).is_err());
    }
}

fn vm(recorder: &Recorder) -> HcsVm {
    let vm = HcsVm::open(Arc::new(recorder.clone()), "vm-1", HcsOptions::default()).unwrap();
    assert_eq!(recorder.take_lines(), ["HcsOpenComputeSystem(vm-1)"]);
    vm
}

/// The documents of the lines, and other calls by their names.
fn said(recorder: &Recorder) -> Vec<String> {
    let short = |line: &String| {
        let Some((call, document)) = line.split_once(", {") else { return line.clone() };
        assert_eq!(call, "HcsModifyComputeSystem(system#1");
        let json: Value =
            serde_json::from_str(&format!("{{{}", &document[..document.len() - 1])).unwrap();
        let part = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        match &json["GuestRequest"] {
            Value::Null => {
                let path = part(&json, "ResourcePath");
                format!(
                    "host {} {}",
                    part(&json, "RequestType"),
                    path.trim_start_matches("VirtualMachine/Devices/")
                )
            }
            request => {
                format!("guest {} {}", part(request, "RequestType"), part(request, "ResourceType"))
            }
        }
    };
    recorder.take_lines().iter().map(short).collect()
}

const SLOT: &str = "Scsi/df6d0690-79e5-55b6-a5ec-c1e2f77f580a/Attachments/0";

/// hcs-layers.md 4.1 and 4.4, through the same account as QEMU has: host first on the way in, guest first on the way out,
/// and a failure of the guest undoes the host's part.
#[test]
fn a_disk_of_a_linux_guest_goes_the_documented_way() {
    let recorder = Recorder::new();
    let dir = tempfile::tempdir().unwrap();
    let (machine, errors) = Machine::open(Arc::new(vm(&recorder)), dir.path()).unwrap();
    assert!(errors.is_empty());
    let path = dir.path().join("sandbox.vhdx");
    std::fs::write(&path, "x").unwrap();
    let scratch = ScsiDisk { path: path.clone(), read_only: false, kind: ScsiKind::VirtualDisk };
    let deadline = Deadline::after(Duration::from_secs(10));
    let guard = machine.attach_scsi(&scratch, Some(&ScsiMount::default()), &deadline).unwrap();
    let grant = format!("GrantVmAccess(vm-1, {})", path.display());
    let add = [grant.clone(), format!("host Add {SLOT}"), "guest Add MappedVirtualDisk".into()];
    let remove = [
        "guest Remove MappedVirtualDisk".into(),
        "guest Remove SCSIDevice".into(),
        format!("host Remove {SLOT}"),
    ];
    assert_eq!(said(&recorder), add);
    guard.release().unwrap();
    assert_eq!(said(&recorder), remove);
    // The guest's failure is that of step 3, counted from what was called before.
    recorder.fail_at(recorder.calls() + 3, HResult::from_bits(0x8000_4005));
    let error = machine.attach_scsi(&scratch, Some(&ScsiMount::default()), &deadline).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Guest);
    let mut wanted = add.to_vec();
    wanted.extend_from_slice(&remove[1..]);
    assert_eq!(said(&recorder), wanted);
}

#[test]
fn only_who_needs_it_is_let_in() {
    let recorder = Recorder::new();
    let vm = vm(&recorder);
    let slot = ScsiSlot { controller: 0, lun: 0 };
    let add = format!("host Add {SLOT}");
    let layer = disk(r"C:\l.vhd", true, ScsiKind::VirtualDisk);
    vm.add_scsi(slot, &layer).unwrap();
    assert_eq!(said(&recorder), [add.as_str()], "layers carry an entry for all machines");
    recorder.fail_once("HcsModifyComputeSystem", HResult::ACCESS_DENIED);
    vm.add_scsi(slot, &layer).unwrap();
    let grant = r"GrantVmAccess(vm-1, C:\l.vhd)";
    assert_eq!(said(&recorder), [&add, grant, &add]);
    vm.add_scsi(slot, &disk("id-7", false, ScsiKind::Extensible("x".into()))).unwrap();
    assert_eq!(said(&recorder), [add.as_str()]);
    recorder.fail_once("GrantVmAccess", HResult::FILE_NOT_FOUND);
    let error = vm.add_scsi(slot, &disk(r"C:\s", false, ScsiKind::VirtualDisk)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(said(&recorder), [r"GrantVmAccess(vm-1, C:\s)"]);
}

#[test]
fn what_a_machine_can_do_follows_from_its_options() {
    let recorder = Recorder::new();
    let open = |options| HcsVm::open(Arc::new(recorder.clone()), "vm", options);
    let old = open(HcsOptions { build: 17_763, ..Default::default() }).unwrap();
    assert!(!old.capabilities().pmem_packed);
    let share = Share {
        name: "0".into(),
        path: r"C:\etc".into(),
        read_only: true,
        allowed: Some(["hosts".into()].into()),
    };
    let error = old.add_share(&share).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("18362"), "{error}");
    let new = open(HcsOptions::default()).unwrap();
    assert!(new.capabilities().pmem_packed);
    assert_eq!(new.add_share(&share).unwrap(), 564);
    new.remove_share("0").unwrap();
    for options in [
        HcsOptions { scsi_controllers: 5, ..Default::default() },
        HcsOptions { pmem_devices: 129, ..Default::default() },
        HcsOptions { pmem_size: 5 << 30, ..Default::default() },
    ] {
        assert_eq!(open(options).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_machine_that_has_ended_is_dead_and_closed() {
    let recorder = Recorder::new();
    let gone = HResult::from_bits(0x8037_010E);
    recorder.fail_once("HcsOpenComputeSystem", gone);
    let error = HcsVm::open(Arc::new(recorder.clone()), "x", HcsOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Dead);
    recorder.take_lines();
    let recorder = Recorder::new();
    let vm = vm(&recorder);
    assert_eq!(vm.wait(Duration::ZERO), None);
    recorder.take_lines();
    // It does not stop when asked, so it is ended.
    vm.close(Duration::ZERO).unwrap();
    let names: Vec<String> = recorder
        .take_lines()
        .iter()
        .map(|line| line.split('(').next().unwrap_or_default().to_owned())
        .collect();
    let look = "HcsGetComputeSystemProperties";
    assert_eq!(names, [look, "HcsShutDownComputeSystem", look, "HcsTerminateComputeSystem"]);
    recorder.answer(look, r#"{"State":"Stopped","Stopped":true,"ExitType":"UnexpectedExit"}"#);
    let exit = vm.wait(Duration::from_secs(1)).unwrap();
    assert!(!exit.orderly && exit.reason.contains("UnexpectedExit"), "{exit:?}");
    recorder.take_lines();
    vm.close(Duration::from_secs(1)).unwrap();
    assert!(recorder.take_lines().is_empty());
}

fn layer(path: &str) -> VsmbRequest {
    VsmbRequest { path: path.into(), allowed: None, options: VirtualSmbShareOptions::layer() }
}

#[test]
fn shares_of_a_windows_guest_are_counted() {
    let recorder = Recorder::new();
    let guest = WindowsGuest::new(vm(&recorder));
    let one = guest.add_vsmb(&layer(r"C:\1")).unwrap();
    let again = guest.add_vsmb(&layer(r"C:\1")).unwrap();
    let two = guest.add_vsmb(&layer(r"C:\2")).unwrap();
    assert_eq!((one.guest_path(), again.guest_path()), (VSMB, VSMB));
    assert!(two.guest_path().ends_with(r"\s1"));
    let add = "host Add VirtualSmb/Shares";
    assert_eq!(said(&recorder), [add, add]);
    assert_eq!(guest.layer_path(Path::new(r"C:\1")).unwrap(), VSMB);
    let error = guest.layer_path(Path::new(r"C:\3")).unwrap_err();
    assert!(error.kind() == ErrorKind::NotAttached && error.to_string().contains(r"C:\3"));
    guest.remove_vsmb(&one).unwrap();
    assert!(said(&recorder).is_empty());
    recorder.fail_once("HcsModifyComputeSystem", HResult::BUSY);
    assert_eq!(guest.remove_vsmb(&again).unwrap_err().kind(), ErrorKind::Busy);
    guest.remove_vsmb(&again).unwrap();
    let remove = "host Remove VirtualSmb/Shares";
    assert_eq!(said(&recorder), [remove, remove]);
    assert_eq!(guest.remove_vsmb(&again).unwrap_err().kind(), ErrorKind::AlreadyReleased);
    recorder.fail_once("HcsModifyComputeSystem", HResult::FILE_NOT_FOUND);
    assert_eq!(guest.add_vsmb(&layer(r"C:\4")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(guest.layer_path(Path::new(r"C:\4")).is_err());
}

#[test]
fn a_disk_of_a_windows_guest_is_mounted_and_undone() {
    let recorder = Recorder::new();
    let guest = WindowsGuest::new(vm(&recorder));
    let scratch = disk(r"C:\s\sandbox.vhdx", false, ScsiKind::VirtualDisk);
    let grant = r"GrantVmAccess(vm-1, C:\s\sandbox.vhdx)".to_owned();
    let (add, mount) = (format!("host Add {SLOT}"), "guest Add MappedVirtualDisk".to_owned());
    let (unmount, remove) =
        ("guest Remove MappedVirtualDisk".to_owned(), format!("host Remove {SLOT}"));
    let all = [grant, add, mount];
    for step in 1..=3 {
        recorder.fail_at(recorder.calls() + step, HResult::from_bits(0x8000_4005));
        assert!(guest.add_disk(&scratch).is_err());
        let mut wanted = all[..step].to_vec();
        if step == 3 {
            wanted.push(remove.clone());
        }
        assert_eq!(said(&recorder), wanted, "{step}");
    }
    let mounted = guest.add_disk(&scratch).unwrap();
    assert_eq!((mounted.guest_path(), mounted.lun()), (r"c:\mounts\scsi\m0", 0));
    assert_eq!(said(&recorder), all);
    // The guest does not let go: it stays attached, and can be removed later.
    recorder.fail_at(recorder.calls() + 1, HResult::from_bits(0x8000_4005));
    assert!(guest.remove_disk(&mounted).is_err());
    assert_eq!(said(&recorder).first(), Some(&unmount));
    guest.remove_disk(&mounted).unwrap();
    assert_eq!(said(&recorder), [unmount, remove]);
    assert_eq!(guest.remove_disk(&mounted).unwrap_err().kind(), ErrorKind::AlreadyReleased);
}

#[test]
fn slots_run_out_with_a_clear_error() {
    let recorder = Recorder::new();
    let guest = WindowsGuest::new(vm(&recorder));
    let path = |number| disk(&format!(r"C:\{number}.vhdx"), true, ScsiKind::VirtualDisk);
    let disks: Vec<_> = (0..64).map(|number| guest.add_disk(&path(number)).unwrap()).collect();
    assert_eq!(disks[63].guest_path(), r"c:\mounts\scsi\m63");
    let error = guest.add_disk(&path(64)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoAvailableLocation);
    assert!(error.to_string().contains("no available location"));
    guest.remove_disk(&disks[7]).unwrap();
    assert_eq!(guest.add_disk(&path(64)).unwrap().lun(), 7);
}

#[test]
fn a_root_is_combined_once() {
    let recorder = Recorder::new();
    let guest = WindowsGuest::new(vm(&recorder));
    let layers = [HcsLayer { id: LAYER_ID.into(), path: VSMB.into() }];
    let root = r"c:\mounts\scsi\m0";
    assert_eq!(guest.combine(root, &[], None).unwrap_err().kind(), ErrorKind::Invalid);
    recorder.fail_once("HcsModifyComputeSystem", HResult::from_bits(0x8037_0112));
    assert_eq!(guest.combine(root, &layers, None).unwrap_err().kind(), ErrorKind::Guest);
    let combined = guest.combine(root, &layers, None).unwrap();
    let error = guest.combine(root, &layers, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    guest.remove_combined(&combined).unwrap();
    let (add, remove) = ("guest Add CombinedLayers", "guest Remove CombinedLayers");
    assert_eq!(said(&recorder), [add, add, remove]);
}

#[test]
fn threads_that_want_the_same_make_it_once() {
    let recorder = Recorder::new();
    let guest = WindowsGuest::new(vm(&recorder));
    let scratch = disk(r"C:\s\sandbox.vhdx", false, ScsiKind::VirtualDisk);
    let work = || {
        let share = guest.add_vsmb(&layer(r"C:\1")).unwrap();
        let mounted = guest.add_disk(&scratch).unwrap();
        assert_eq!((share.guest_path(), mounted.lun()), (VSMB, 0));
        (share, mounted)
    };
    let held: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count =
        |lines: &[String], what: &str| lines.iter().filter(|line| line.contains(what)).count();
    let lines = said(&recorder);
    assert_eq!((count(&lines, "Add VirtualSmb"), count(&lines, "host Add Scsi")), (1, 1));
    std::thread::scope(|scope| {
        for (share, mounted) in &held {
            scope.spawn(|| {
                guest.remove_vsmb(share).unwrap();
                guest.remove_disk(mounted).unwrap();
            });
        }
    });
    let lines = said(&recorder);
    assert_eq!((count(&lines, "Remove VirtualSmb"), count(&lines, "host Remove Scsi")), (1, 1));
}

#[test]
fn what_a_killed_process_attached_is_detached_by_the_next() {
    let run = tempfile::tempdir().unwrap();
    let journal = run.path().join("windows-guest.journal");
    // A process each, which opens the machine first; the call after that of which the number is given fails.
    let start = |fails: Option<usize>| {
        let recorder = Recorder::new();
        let vm = vm(&recorder);
        if let Some(number) = fails {
            recorder.fail_at(recorder.calls() + number, HResult::BUSY);
        }
        let (guest, errors) = WindowsGuest::recover(vm, &journal).unwrap();
        (recorder, guest, errors)
    };
    let (recorder, guest, errors) = start(None);
    assert!(errors.is_empty());
    // What is released, and what failed, is not in the journal any more.
    let gone = guest.add_vsmb(&layer(r"C:\0")).unwrap();
    guest.remove_vsmb(&gone).unwrap();
    let _share = guest.add_vsmb(&layer(r"C:\1")).unwrap();
    let scratch = disk(r"C:\s\sandbox.vhdx", false, ScsiKind::VirtualDisk);
    let mounted = guest.add_disk(&scratch).unwrap();
    let below = [HcsLayer { id: "id".to_owned(), path: VSMB.to_owned() }];
    let _combined = guest.combine(mounted.guest_path(), &below, None).unwrap();
    guest.add_pipe(r"\\.\pipe\p").unwrap();
    recorder.fail_once("HcsModifyComputeSystem", HResult::ACCESS_DENIED);
    guest.add_vsmb(&layer(r"C:\2")).unwrap_err();
    drop(guest);

    // In reverse: the pipe, the combination, the disk, the share (hcs-layers.md 4.4 and 4.5).
    let (unmount, remove) =
        ("guest Remove MappedVirtualDisk".to_owned(), format!("host Remove {SLOT}"));
    let share = "host Remove VirtualSmb/Shares".to_owned();
    let (recorder, guest, errors) = start(Some(4));
    let told = said(&recorder);
    assert!(told[0].starts_with("host Remove MappedPipes"), "{told:?}");
    assert_eq!(
        told[1..],
        ["guest Remove CombinedLayers".to_owned(), unmount.clone(), remove.clone(), share]
    );
    assert_eq!(errors.len(), 1, "{errors:?}");
    // What stays attached keeps its place, and the next start tries again; only that.
    let other = guest.add_disk(&disk(r"C:\t\sandbox.vhdx", false, ScsiKind::VirtualDisk)).unwrap();
    assert_ne!(other.lun(), mounted.lun());
    guest.remove_disk(&other).unwrap();
    drop(guest);
    let (recorder, _third, errors) = start(None);
    assert!(errors.is_empty());
    assert_eq!(said(&recorder), [unmount, remove]);
    let (recorder, _fourth, errors) = start(None);
    assert!(errors.is_empty() && said(&recorder).is_empty(), "nothing is left");
}
