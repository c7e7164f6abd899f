use layer::Cancel;
use oci_spec::runtime::Spec;
use serde_json::json;

use super::*;
use crate::ErrorKind;

fn spec(mounts: Value) -> Spec {
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": { "path": "" },
        "mounts": mounts,
        "windows": { "layerFolders": [r"C:\l\2", r"C:\l\1", r"C:\s"] },
    });
    serde_json::from_value(spec).unwrap()
}

fn allocate(bench: &Bench, spec: &Spec, isolation: &Isolation) -> crate::Result<WindowsAllocation> {
    let request =
        WindowsRequest { id: "c1", spec, layers: None, isolation, cancel: &Cancel::new() };
    allocate_windows_resources(&bench.host, &request)
}

fn mapped(host_path: &str, container_path: &str, read_only: bool) -> MappedDirectory {
    MappedDirectory {
        host_path: host_path.into(),
        container_path: container_path.into(),
        read_only,
    }
}

fn bench_with_data() -> Bench {
    let bench = Bench::new();
    bench.make(r"C:\data\dir");
    std::fs::write(bench.folders().path(&path(r"C:\data\file.txt")), "text").unwrap();
    bench
}

#[test]
fn mounts_of_a_process_container_are_mapped() {
    let bench = bench_with_data();
    let spec = spec(json!([
        { "destination": "/data", "source": "C:/data/dir/" },
        { "destination": r"C:\etc\file.txt", "source": r"C:\data\file.txt", "options": ["RO"] },
        { "destination": r"\\.\pipe\engine", "source": r"\\.\pipe\docker_engine" },
        { "destination": r"\deep\down", "source": r"C:\data\dir" },
    ]));
    let allocation = allocate(&bench, &spec, &Isolation::Process).unwrap();
    assert_eq!(allocation.rootfs, VOLUME);
    assert_eq!(
        allocation.mapped_directories,
        [
            mapped(r"C:\data\dir", r"C:\data", false),
            mapped(r"C:\data\file.txt", r"C:\etc\file.txt", true),
            mapped(r"C:\data\dir", r"C:\deep\down", false),
        ]
    );
    let pipe = MappedPipe {
        host_path: r"\\.\pipe\docker_engine".into(),
        container_pipe_name: "engine".into(),
    };
    assert_eq!(allocation.mapped_pipes, [pipe]);
    bench.said();
    allocation.closer.release().unwrap();
    assert_eq!(bench.said(), [r"UnprepareLayer(C:\s)", r"DeactivateLayer(C:\s)"]);
}

/// hcs-layers.md 3.2, in a virtual machine: what each mount attaches, in the order of the specification, after the layers.
const MOUNTED: [&str; 6] = [
    r"Add VirtualSmb s2 C:\data\dir",
    r"Add VirtualSmb s3 C:\data",
    r"GrantVmAccess(vm, C:\disk.vhdx)",
    r"Add Scsi C:\disk.vhdx",
    r"guest Add MappedVirtualDisk c:\mounts\scsi\m1",
    "Add MappedPipes ",
];
const UNMOUNTED: [&str; 5] = [
    "Remove MappedPipes ",
    r"guest Remove MappedVirtualDisk c:\mounts\scsi\m1",
    "Remove Scsi ",
    "Remove VirtualSmb s3",
    "Remove VirtualSmb s2",
];

fn machine_spec() -> Spec {
    spec(json!([
        { "destination": "/data", "source": r"C:\data\dir" },
        { "destination": r"C:\f.txt", "source": r"C:\data\file.txt", "options": ["ro"] },
        { "destination": r"C:\disk", "source": r"C:\disk.vhdx", "type": "virtual-disk" },
        { "destination": r"\\.\pipe\in", "source": r"\\.\pipe\out" },
        { "destination": r"C:\shared", "source": "sandbox:///a/b" },
    ]))
}

#[test]
fn mounts_in_a_virtual_machine_are_attached_and_mapped() {
    let bench = bench_with_data();
    let vm = Isolation::Hypervisor(bench.guest());
    let allocation = allocate(&bench, &machine_spec(), &vm).unwrap();
    let vsmb = r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}";
    assert_eq!(allocation.rootfs, r"c:\mounts\scsi\m0");
    assert_eq!(
        allocation.mapped_directories,
        [
            mapped(&format!(r"{vsmb}\s2"), r"C:\data", false),
            mapped(&format!(r"{vsmb}\s3\file.txt"), r"C:\f.txt", true),
            mapped(r"c:\mounts\scsi\m1", r"C:\disk", false),
            mapped(r"C:\SandboxMounts\a\b", r"C:\shared", false),
        ]
    );
    assert_eq!(allocation.guest_directories, [r"C:\SandboxMounts\a\b"]);
    let pipe =
        MappedPipe { host_path: format!(r"{vsmb}\IPC$\out"), container_pipe_name: "in".into() };
    assert_eq!(allocation.mapped_pipes, [pipe]);
    assert_eq!(bench.said()[8..], MOUNTED);
    allocation.closer.release().unwrap();
    assert_eq!(bench.said()[..5], UNMOUNTED);
}

#[test]
fn a_failure_of_every_mount_undoes_those_before_and_the_layers() {
    let layers = [
        r"guest Remove CombinedLayers c:\mounts\scsi\m0",
        r"guest Remove MappedVirtualDisk c:\mounts\scsi\m0",
        "Remove Scsi ",
        "Remove VirtualSmb s0",
        "Remove VirtualSmb s1",
    ];
    let mounts: [&[&str]; 6] =
        [&[], &UNMOUNTED[4..], &UNMOUNTED[3..], &UNMOUNTED[3..], &UNMOUNTED[2..], &UNMOUNTED[1..]];
    for (step, mounts) in mounts.into_iter().enumerate() {
        let bench = bench_with_data();
        let vm = Isolation::Hypervisor(bench.guest());
        let failing = bench.recorder.calls() + 8 + step + 1;
        bench.recorder.fail_at(failing, sys::windows::HResult::from_bits(0x8000_4005));
        allocate(&bench, &machine_spec(), &vm).unwrap_err();
        let said = bench.said();
        assert_eq!(said[8..=8 + step], MOUNTED[..=step], "{step}");
        assert_eq!(said[9 + step..], [mounts, &layers].concat(), "{step}");
        bench.assert_clean(&step.to_string());
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_attached() {
    let bench = bench_with_data();
    let (process, vm) = (Isolation::Process, Isolation::Hypervisor(bench.guest()));
    for (mount, isolation, reason) in [
        (json!({ "destination": "/d" }), &process, "both a source"),
        (json!({ "destination": "", "source": r"C:\data" }), &process, "both a source"),
        (json!({ "destination": "/d", "source": r"C:\data", "type": "tmpfs" }), &process, "tmpfs"),
        (json!({ "destination": "d", "source": r"C:\data" }), &process, "mount there"),
        (json!({ "destination": "C:d", "source": r"C:\data" }), &process, "mount there"),
        (json!({ "destination": r"C:\", "source": r"C:\data" }), &process, "root"),
        (json!({ "destination": "/", "source": r"C:\data" }), &process, "root"),
        (json!({ "destination": "/d", "source": r"C:\nothing" }), &process, "cannot map"),
        (json!({ "destination": "/d", "source": r"data\dir" }), &process, "cannot map"),
        (json!({ "destination": "/d", "source": r"\\.\pipe\x" }), &process, "must be one"),
        (json!({ "destination": "/d", "source": "uvm://x" }), &vm, "in the guest"),
        (json!({ "destination": "/d", "source": "sandbox://x" }), &process, "virtual machine"),
        (json!({ "destination": "/d", "source": "sandbox://../x" }), &vm, "in the sandbox"),
        (
            json!({ "destination": "/d", "source": r"C:\d.vhdx", "type": "virtual-disk" }),
            &process,
            "virtual machine",
        ),
        (
            json!({ "destination": "/d", "source": "evd:///x", "type": "extensible-virtual-disk" }),
            &vm,
            "evd://",
        ),
    ] {
        let error = allocate(&bench, &spec(json!([mount])), isolation).unwrap_err();
        assert!(error.to_string().contains(reason), "{mount}: {error}");
    }
    assert!(bench.recorder.lines().is_empty());
}

#[test]
fn a_root_that_is_mounted_already_must_be_a_volume() {
    let bench = Bench::new();
    let with = |root: Value| {
        let mut value = serde_json::to_value(spec(json!([]))).unwrap();
        value["root"] = root;
        serde_json::from_value::<Spec>(value).unwrap()
    };
    let allocation =
        allocate(&bench, &with(json!({ "path": format!(r"{VOLUME}\") })), &Isolation::Process)
            .unwrap();
    assert_eq!(allocation.rootfs, VOLUME);
    assert_eq!(allocation.layers.len(), 2);
    assert_eq!(bench.said(), ["NameToGuid(2)", "NameToGuid(1)"], "nothing is mounted");
    let vm = Isolation::Hypervisor(bench.guest());
    for (root, isolation) in [
        (json!({ "path": r"C:\rootfs" }), &Isolation::Process),
        (json!({ "path": "rootfs" }), &Isolation::Process),
        (json!({ "path": "", "readonly": true }), &Isolation::Process),
        (json!({ "path": format!(r"{VOLUME}\") }), &vm),
    ] {
        let error = allocate(&bench, &with(root), isolation).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert!(bench.said().is_empty());
}

fn copy(bench: &Bench, volumes: &[(&str, &str)]) -> crate::Result<()> {
    let layers = WcowLayers::Wcifs { scratch: path(r"C:\s"), parents: vec![path(r"C:\l\1")] };
    let volumes: Vec<(String, WindowsPath)> =
        volumes.iter().map(|(from, to)| ((*from).to_owned(), path(to))).collect();
    copy_image_volumes(&bench.host, "c1", &layers, &volumes, &Cancel::new())
}

#[test]
fn volumes_of_an_image_are_copied_and_its_layers_released() {
    let bench = Bench::new();
    let (folders, root) = (bench.folders(), format!(r"{VOLUME}\"));
    let in_image = |name: &str| folders.path(&path(&format!("{root}{name}")));
    bench.make(&format!(r"{root}data\sub"));
    std::fs::write(in_image(r"data\sub\file"), "from the image").unwrap();
    std::fs::write(in_image("plain"), "a file").unwrap();
    copy(&bench, &[("/data", r"C:\v\1"), (r"c:\missing\one", r"C:\v\2")]).unwrap();
    let copied = folders.path(&path(r"C:\v\1\sub\file"));
    assert_eq!(std::fs::read_to_string(copied).unwrap(), "from the image");
    let kind = folders.kind(&path(r"C:\v\2")).unwrap();
    assert_eq!(kind, ::mount::windows::PathKind::EmptyDirectory);
    let released = [r"UnprepareLayer(C:\s)", r"DeactivateLayer(C:\s)"];
    assert_eq!(bench.said()[4..], released);
    // A failure while copying releases too.
    let error = copy(&bench, &[("/plain", r"C:\v\3")]).unwrap_err();
    assert!(error.to_string().contains("no folder"), "{error}");
    assert_eq!(bench.said()[4..], released);
    for (from, to) in
        [("/data", r"C:\v\1"), ("/", r"C:\v\4"), (r"D:\data", r"C:\v\4"), ("data", r"C:\v\4")]
    {
        copy(&bench, &[(from, to)]).unwrap_err();
    }
    assert!(bench.said().is_empty(), "nothing was attached for what cannot be");
    bench.assert_clean("volumes");
}

/// Python: `uuid.uuid5(uuid.UUID("6827367b-c388-4e9b-961c-6d2c936c0000"), "c1")`.
const OF_C1: &str = "0aa549ee-f8c9-5b7e-86ac-70393f0fd498";

#[test]
fn volumes_of_an_image_on_cims_are_copied_out_of_the_topmost() {
    let layers = |cims: &[&str]| WcowLayers::ForkedCim {
        scratch: path(r"C:\s"),
        parents: cims.iter().map(|cim| (path(r"C:\l\x"), path(cim))).collect(),
    };
    let copied = |bench: &Bench, from: &str, to: &str| {
        let volumes = [(from.to_owned(), path(to))];
        let layers = layers(&[r"C:\c\2.cim", r"C:\c\1.cim"]);
        copy_image_volumes(&bench.host, "c1", &layers, &volumes, &Cancel::new())
    };
    // hcs-layers.md 1.3 and 2.5: the topmost CIM, files cached; no scratch, no filter.
    let steps = [
        format!(r"GetFileAttributesW(\\?\Volume{{{OF_C1}}}\)"),
        format!(r"CimMountImage(C:\c, 2.cim, 0x4, {OF_C1})"),
        format!("CimDismountImage({OF_C1})"),
    ];
    let bench = Bench::bare();
    let (folders, root) = (bench.folders(), format!(r"\\?\Volume{{{OF_C1}}}\Files"));
    bench.make(&format!(r"{root}\data\sub"));
    let file = folders.path(&path(&format!(r"{root}\data\sub\file")));
    std::fs::write(file, "from the image").unwrap();
    copied(&bench, "/data", r"C:\v\1").unwrap();
    let file = folders.path(&path(r"C:\v\1\sub\file"));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "from the image");
    assert_eq!(bench.said(), steps);
    // A failure while copying releases too, and one of the image's volume that is in use is told.
    std::fs::write(folders.path(&path(&format!(r"{root}\plain"))), "a file").unwrap();
    let error = copied(&bench, "/plain", r"C:\v\2").unwrap_err();
    assert!(error.to_string().contains("no folder"), "{error}");
    assert_eq!(bench.said(), steps);
    for (step, line) in steps.iter().enumerate() {
        let bench = Bench::bare();
        bench.recorder.fail_at(step + 1, sys::windows::HResult::ACCESS_DENIED);
        copied(&bench, "/nothing", r"C:\v\3").unwrap_err();
        assert_eq!(bench.said().last(), Some(line), "{step}");
        // What could not be dismounted is on record, and the container's clean-up finds it.
        assert_eq!(bench.recorder.volumes().len(), usize::from(step == 2));
        bench.recorder.heal();
        bench.host.cims.cleanup_container_mounts("c1").unwrap();
        assert!(bench.recorder.volumes().is_empty());
    }
    let bench = Bench::bare();
    for layers in [layers(&[]), WcowLayers::BlockCim] {
        copy_image_volumes(&bench.host, "c1", &layers, &[], &Cancel::new()).unwrap_err();
    }
    assert!(bench.said().is_empty());
}
