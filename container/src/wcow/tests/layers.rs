use layer::Cancel;
use sys::windows::HResult;
use uvm::hcs::HcsLayer;

use super::*;
use crate::{ErrorKind, RootfsMount};

/// Python: `uuid.uuid5(uuid.UUID(int=0), "2")` and `"1"`, which is how the recorder names layers.
const IDS: [&str; 2] =
    ["1087ebe8-1ef8-5d97-8873-735b4949004d", "11116e73-1c03-5de6-9130-5f9925ae8ab4"];
/// Python: `uuid.uuid5(uuid.UUID("6827367b-c388-4e9b-961c-6d2c936c0000"), "c1")`.
const CIM: &str = "0aa549ee-f8c9-5b7e-86ac-70393f0fd498";

const NAMES: [&str; 2] = ["NameToGuid(2)", "NameToGuid(1)"];
const ACTIVATE: &str = r"ActivateLayer(C:\s)";
const PREPARE: &str = r"PrepareLayer(C:\s, [1087ebe8-1ef8-5d97-8873-735b4949004d:C:\l\2, 11116e73-1c03-5de6-9130-5f9925ae8ab4:C:\l\1])";
const WHERE: &str = r"GetLayerMountPath(C:\s)";
const UNPREPARE: &str = r"UnprepareLayer(C:\s)";
const DEACTIVATE: &str = r"DeactivateLayer(C:\s)";
const AT: &str =
    r"SetVolumeMountPointW(C:\jobs\c1, \\?\Volume{11111111-2222-3333-4444-555555555555}\)";
const NOT_AT: &str = r"DeleteVolumeMountPointW(C:\jobs\c1)";

const LOOK: &str = r"GetFileAttributesW(\\?\Volume{0aa549ee-f8c9-5b7e-86ac-70393f0fd498}\)";
const MOUNT: &str = r"CimMountImage(C:\cims, 2.cim, 0x4, 0aa549ee-f8c9-5b7e-86ac-70393f0fd498)";
const OVERLAY: &str = r#"HcsAttachOverlayFilter(\\?\Volume{11111111-2222-3333-4444-555555555555}, {"SchemaVersion":{"Major":2,"Minor":1},"Layers":[{"Id":"0aa549ee-f8c9-5b7e-86ac-70393f0fd498","Path":"\\\\?\\Volume{0aa549ee-f8c9-5b7e-86ac-70393f0fd498}\\Files"}],"FilterType":"UnionFS"})"#;
const NO_OVERLAY: &str = r#"HcsDetachOverlayFilter(\\?\Volume{11111111-2222-3333-4444-555555555555}, {"SchemaVersion":{"Major":2,"Minor":1},"FilterType":"UnionFS"})"#;
const DISMOUNT: &str = "CimDismountImage(0aa549ee-f8c9-5b7e-86ac-70393f0fd498)";

const SHARES: [&str; 2] = [r"Add VirtualSmb s0 C:\l\2", r"Add VirtualSmb s1 C:\l\1"];
const GRANT: &str = r"GrantVmAccess(vm, C:\s\sandbox.vhdx)";
const DISK: [&str; 2] =
    [r"Add Scsi C:\s\sandbox.vhdx", r"guest Add MappedVirtualDisk c:\mounts\scsi\m0"];
const COMBINE: &str = r"guest Add CombinedLayers c:\mounts\scsi\m0";
const UNCOMBINE: &str = r"guest Remove CombinedLayers c:\mounts\scsi\m0";
const NO_DISK: [&str; 2] = [r"guest Remove MappedVirtualDisk c:\mounts\scsi\m0", "Remove Scsi "];
const NO_SHARES: [&str; 2] = ["Remove VirtualSmb s0", "Remove VirtualSmb s1"];

fn wcifs() -> WcowLayers {
    let parents = [r"C:\l\2", r"C:\l\1"].map(path).to_vec();
    WcowLayers::Wcifs { scratch: path(r"C:\s"), parents }
}

fn cims() -> WcowLayers {
    let parents = [2, 1].map(|n| (path(&format!(r"C:\l\{n}")), path(&format!(r"C:\cims\{n}.cim"))));
    WcowLayers::ForkedCim { scratch: path(r"C:\s"), parents: parents.to_vec() }
}

fn mount(bench: &Bench, layers: &WcowLayers, isolation: &Isolation) -> crate::Result<MountedWcow> {
    mount_wcow_layers(&bench.host, "c1", layers, isolation, &Cancel::new())
}

fn folders_with_ids() -> Vec<HcsLayer> {
    let layer = |(id, n): (&str, u32)| HcsLayer { id: id.into(), path: format!(r"C:\l\{n}") };
    IDS.into_iter().zip([2, 1]).map(layer).collect()
}

/// Every step of `doing` fails once, with what must follow, then nothing fails and everything is undone by `undoing`.
/// `undone[i]` is what follows a failure of step `i`, counted from 0.
fn every_step(
    layers: &WcowLayers,
    isolation: impl Fn(&Bench) -> Isolation,
    doing: &[&str],
    undone: &[Vec<&str>],
    undoing: &[&str],
) {
    for (step, undo) in undone.iter().enumerate() {
        let bench = Bench::new();
        let isolation = isolation(&bench);
        bench.recorder.fail_at(bench.recorder.calls() + step + 1, HResult::from_bits(0x8037_0112));
        mount(&bench, layers, &isolation).unwrap_err();
        let said = bench.said();
        assert_eq!(said[..=step], doing[..=step], "step {step}");
        assert_eq!(said[step + 1..], *undo, "after step {step}");
        bench.assert_clean(&format!("step {step}"));
        mount(&bench, layers, &isolation).unwrap().closer.release().unwrap();
    }
    for step in 0..=undoing.len() {
        let bench = Bench::new();
        let isolation = isolation(&bench);
        let mounted = mount(&bench, layers, &isolation).unwrap();
        assert_eq!(bench.said(), doing);
        bench.recorder.fail_at(bench.recorder.calls() + step + 1, HResult::BUSY);
        let released = mounted.closer.release();
        assert_eq!(released.is_err(), step < undoing.len(), "{step}");
        let said = bench.said();
        // What the guest holds the host does not take away; all else is tried.
        let skipped = match undoing.get(step) {
            Some(failed) if *failed == NO_DISK[0] => Some(step + 1),
            _ => None,
        };
        let wanted: Vec<&str> = undoing
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != skipped)
            .map(|(_, line)| *line)
            .collect();
        assert_eq!(said, wanted, "{step}");
    }
}

#[test]
fn a_process_container_on_folders() {
    let doing = [NAMES[0], NAMES[1], ACTIVATE, PREPARE, WHERE];
    let undone = vec![vec![], vec![], vec![], vec![DEACTIVATE], vec![UNPREPARE, DEACTIVATE]];
    every_step(&wcifs(), |_| Isolation::Process, &doing, &undone, &[UNPREPARE, DEACTIVATE]);
    let bench = Bench::new();
    let mounted = mount(&bench, &wcifs(), &Isolation::Process).unwrap();
    assert_eq!((mounted.rootfs.as_str(), mounted.layers), (VOLUME, folders_with_ids()));
}

#[test]
fn a_process_container_on_forked_cims() {
    let doing = [LOOK, MOUNT, ACTIVATE, WHERE, OVERLAY];
    let undone = vec![
        vec![],
        vec![],
        vec![DISMOUNT],
        vec![DEACTIVATE, DISMOUNT],
        vec![DEACTIVATE, DISMOUNT],
    ];
    every_step(
        &cims(),
        |_| Isolation::Process,
        &doing,
        &undone,
        &[NO_OVERLAY, DEACTIVATE, DISMOUNT],
    );
    let bench = Bench::new();
    let mounted = mount(&bench, &cims(), &Isolation::Process).unwrap();
    let layer = HcsLayer { id: CIM.into(), path: format!(r"\\?\Volume{{{CIM}}}\") };
    assert_eq!((mounted.rootfs.as_str(), &mounted.layers), (VOLUME, &vec![layer.clone()]));
    assert_eq!(to_host_hcs_schema_layers(&bench.host, "c1", &cims()).unwrap(), [layer]);
    let error = to_host_hcs_schema_layers(&bench.host, "c2", &cims()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(r"C:\cims\2.cim"), "{cause}");
}

#[test]
fn a_job_container_has_its_volume_at_a_folder() {
    let job = |_: &Bench| Isolation::Job(path(r"C:\jobs\c1"));
    let doing = [NAMES[0], NAMES[1], ACTIVATE, PREPARE, WHERE, AT];
    let undone = vec![
        vec![],
        vec![],
        vec![],
        vec![DEACTIVATE],
        vec![UNPREPARE, DEACTIVATE],
        vec![UNPREPARE, DEACTIVATE],
    ];
    every_step(&wcifs(), job, &doing, &undone, &[NOT_AT, UNPREPARE, DEACTIVATE]);
}

#[test]
fn a_container_in_a_virtual_machine_on_folders() {
    let vm = |bench: &Bench| Isolation::Hypervisor(bench.guest());
    let doing = [SHARES[0], SHARES[1], GRANT, DISK[0], DISK[1], NAMES[0], NAMES[1], COMBINE];
    let both = vec![NO_SHARES[0], NO_SHARES[1]];
    let all = vec![NO_DISK[0], NO_DISK[1], NO_SHARES[0], NO_SHARES[1]];
    let undone = [
        vec![],
        vec![NO_SHARES[0]],
        both.clone(),
        both.clone(),
        vec![NO_DISK[1], NO_SHARES[0], NO_SHARES[1]],
        all.clone(),
        all.clone(),
        all,
    ];
    // After a failure the names of shares go on counting, so each is looked at on its own.
    for (step, undo) in undone.iter().enumerate() {
        let bench = Bench::new();
        let isolation = vm(&bench);
        bench.recorder.fail_at(bench.recorder.calls() + step + 1, HResult::from_bits(0x8037_0112));
        mount(&bench, &wcifs(), &isolation).unwrap_err();
        let said = bench.said();
        assert_eq!(said[..=step], doing[..=step], "step {step}");
        assert_eq!(said[step + 1..], *undo, "after step {step}");
        bench.assert_clean(&format!("step {step}"));
    }
    let undoing = [UNCOMBINE, NO_DISK[0], NO_DISK[1], NO_SHARES[0], NO_SHARES[1]];
    every_step(&wcifs(), vm, &doing, &[], &undoing);
}

#[test]
fn what_a_virtual_machine_sees_is_told_top_first() {
    let bench = Bench::new();
    let guest = bench.guest();
    let mounted = mount(&bench, &wcifs(), &Isolation::Hypervisor(guest.clone())).unwrap();
    assert_eq!(mounted.rootfs, r"c:\mounts\scsi\m0");
    let vsmb = r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}";
    let layer = |(id, n): (&str, u32)| HcsLayer { id: id.into(), path: format!(r"{vsmb}\s{n}") };
    let wanted: Vec<HcsLayer> = IDS.into_iter().zip([0, 1]).map(layer).collect();
    assert_eq!(mounted.layers, wanted);
    assert_eq!(hcs_layers(&bench.host, &guest, &[path(r"C:\l\2")]).unwrap(), wanted[..1]);
    let error = hcs_layers(&bench.host, &guest, &[path(r"C:\l\3")]).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains(r"C:\l\3"));
    assert_eq!(to_host_hcs_schema_layers(&bench.host, "c1", &wcifs()).unwrap(), folders_with_ids());
}

#[test]
fn what_hcsshim_refuses_is_refused_before_anything_is_done() {
    let bench = Bench::new();
    let vm = Isolation::Hypervisor(bench.guest());
    for (layers, isolation, reason) in [
        (WcowLayers::BlockCim, &Isolation::Process, "block CIMs"),
        (WcowLayers::BlockCim, &vm, "block CIMs"),
        (cims(), &vm, "forked CIMs"),
    ] {
        let error = mount(&bench, &layers, isolation).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSupported);
        assert!(error.to_string().contains(reason), "{error}");
    }
    for id in ["", "..", "a/b", "a b"] {
        let result = mount_wcow_layers(&bench.host, id, &wcifs(), &vm, &Cancel::new());
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid, "{id}");
    }
    let none = WcowLayers::ForkedCim { scratch: path(r"C:\s"), parents: Vec::new() };
    let error = mount(&bench, &none, &Isolation::Process).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "hcsshim panics");
    let none = WcowLayers::Wcifs { scratch: path(r"C:\s"), parents: Vec::new() };
    assert!(mount(&bench, &none, &Isolation::Process).is_err());
    assert!(bench.recorder.lines().is_empty());
}

#[test]
fn a_scratch_in_use_is_refused_and_left_alone() {
    let bench = Bench::new();
    let first = mount(&bench, &wcifs(), &Isolation::Process).unwrap();
    bench.said();
    let error = mount_wcow_layers(&bench.host, "c2", &wcifs(), &Isolation::Process, &Cancel::new())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(bench.said().is_empty());
    first.closer.release().unwrap();
    assert_eq!(bench.said(), [UNPREPARE, DEACTIVATE]);
}

#[test]
fn a_missing_scratch_is_made() {
    let bench = Bench::bare();
    mount(&bench, &wcifs(), &Isolation::Process).unwrap().closer.release().unwrap();
    let create = r"CreateSandboxLayer(C:\s, [1087ebe8-1ef8-5d97-8873-735b4949004d:C:\l\2, 11116e73-1c03-5de6-9130-5f9925ae8ab4:C:\l\1])";
    assert_eq!(bench.said()[..4], [NAMES[0], NAMES[1], create, NAMES[0]]);
    // Without one it is not there afterwards either; a folder that was there stays.
    for (there, kind) in [
        (false, ::mount::windows::PathKind::Absent),
        (true, ::mount::windows::PathKind::EmptyDirectory),
    ] {
        let bench = Bench::bare();
        if there {
            bench.make(r"C:\s");
        }
        bench.recorder.fail_once("CreateSandboxLayer", HResult::win32(0x70));
        mount(&bench, &wcifs(), &Isolation::Process).unwrap_err();
        assert_eq!(bench.folders().kind(&path(r"C:\s")).unwrap(), kind);
    }
}

#[test]
fn a_folder_that_was_there_is_never_deleted() {
    use ::mount::windows::PathKind;
    let bench = Bench::new();
    let at = path(r"C:\jobs\c1");
    for code in [None, Some(HResult::ACCESS_DENIED)] {
        for (there, left) in [(true, PathKind::EmptyDirectory), (false, PathKind::Absent)] {
            if there {
                bench.make(r"C:\jobs\c1");
            } else {
                bench.folders().remove(&at).unwrap();
            }
            match code {
                Some(code) => {
                    bench.recorder.fail_once("SetVolumeMountPointW", code);
                    mount_sandbox_volume(&bench.host, &at, VOLUME).unwrap_err();
                }
                None => {
                    let volume = mount_sandbox_volume(&bench.host, &at, VOLUME).unwrap();
                    assert_eq!(bench.said(), [AT]);
                    bench.recorder.fail_once("DeleteVolumeMountPointW", HResult::BUSY);
                    remove_sandbox_mount_point(&bench.host, &volume).unwrap_err();
                    assert_eq!(bench.folders().kind(&at).unwrap(), PathKind::EmptyDirectory);
                    remove_sandbox_mount_point(&bench.host, &volume).unwrap();
                    assert_eq!(bench.said(), [NOT_AT, NOT_AT]);
                }
            }
            assert_eq!(bench.folders().kind(&at).unwrap(), left, "{code:?} {there}");
        }
    }
    bench.make(r"C:\jobs\c1\precious");
    std::fs::write(bench.folders().path(&path(r"C:\jobs\file")), "").unwrap();
    bench.said();
    for folder in [r"C:\jobs\c1", r"C:\jobs\file"] {
        let error = mount_sandbox_volume(&bench.host, &path(folder), VOLUME).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{folder}");
    }
    assert!(bench.said().is_empty());
    assert_eq!(
        bench.folders().kind(&path(r"C:\jobs\c1\precious")).unwrap(),
        PathKind::EmptyDirectory
    );
}

#[test]
fn what_a_dead_process_left_of_cims_is_released_by_id_and_scratch() {
    let all = [WHERE, NO_OVERLAY, DISMOUNT];
    for step in 0..=3 {
        let bench = Bench::new();
        let mounted = mount(&bench, &cims(), &Isolation::Process).unwrap();
        std::mem::forget(mounted);
        bench.said();
        bench.recorder.fail_at(bench.recorder.calls() + step + 1, HResult::BUSY);
        let released = release_cimfs_host_layers(&bench.host, "c1", &path(r"C:\s"));
        assert_eq!(released.is_err(), step < 3, "{step}");
        let wanted: Vec<&str> =
            all.into_iter().filter(|line| step > 0 || *line != NO_OVERLAY).collect();
        assert_eq!(bench.said(), wanted, "{step}");
    }
}

#[test]
fn layers_are_read_from_either_source() {
    let folders: Vec<String> = [r"C:\l\2", r"C:\l\1", r"C:\s"].map(str::to_owned).to_vec();
    assert_eq!(WcowLayers::of(&[], &folders).unwrap(), wcifs());
    let rootfs = |kind: &str, options: &[&str]| RootfsMount {
        kind: kind.into(),
        source: r"C:\s".into(),
        target: String::new(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    };
    let parents = r#"parentLayerPaths=["C:\\l\\2","C:\\l\\1"]"#;
    let paths = r#"parentCimPaths=["C:\\cims\\2.cim","C:\\cims\\1.cim"]"#;
    let of = |mount: RootfsMount| WcowLayers::of(&[mount], &[]);
    assert_eq!(of(rootfs("windows-layer", &[parents])).unwrap(), wcifs());
    assert_eq!(of(rootfs("CimFS", &[parents, paths])).unwrap(), cims());
    let block = ["blockCIMType=file", r#"parentCimPaths=["C:\\1\\layer.cim"]"#];
    assert_eq!(of(rootfs("BlockCIM", &block)).unwrap(), WcowLayers::BlockCim);
    for (mount, reason) in [
        (rootfs("windows-layer", &[]), "missing"),
        (rootfs("windows-layer", &["parentLayerPaths=[]"]), "empty"),
        (rootfs("windows-layer", &["parentLayerPaths={}"]), "JSON array"),
        (rootfs("windows-layer", &[r#"parentLayerPaths=["l\\1"]"#]), "layer"),
        (rootfs("CimFS", &[parents, "parentCimPaths=[]"]), "empty"),
        (rootfs("CimFS", &[parents, r#"parentCimPaths=["C:\\1.cim"]"#]), "2 layers"),
        (rootfs("lcow-layer", &[r#"parentLayerPaths=["/1"]"#]), "Linux"),
        (rootfs("overlay", &[]), "overlay"),
    ] {
        let error = of(mount).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    assert_eq!(WcowLayers::of(&[], &[]).unwrap_err().kind(), ErrorKind::FailedPrecondition);
}
