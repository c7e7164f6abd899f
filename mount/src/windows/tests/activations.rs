//! Calls are those of hcs-layers.md 1.3 (forked CIM, Argon) and of containerd's `windows-layer` mount.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layer::Cancel;
use store::Labels;
use sys::windows::HResult;
use sys::windows::recording::Recorder;

use super::{Place, path_of};
use crate::windows::*;
use crate::{ErrorKind, Mount};

const SCRATCH: &str = r"\\?\Volume{11111111-2222-3333-4444-555555555555}";
// Python: uuid.uuid5(uuid.UUID("6827367b-c388-4e9b-961c-6d2c936c0000"), "activation:ns/a").
const GUID: &str = "f9a389fe-ea52-5a83-9528-bcac4cea72ea";

struct Bench {
    place: Place,
    recorder: Recorder,
    activations: Activations,
}

impl Bench {
    fn new() -> Self {
        let (place, recorder) = (Place::new(), Recorder::new());
        recorder.answer("GetLayerMountPath", SCRATCH);
        place.make(r"C:\layers\1");
        let activations = open(&place, &recorder);
        Self { place, recorder, activations }
    }

    fn activate(&self, mount: &Mount, temporary: bool) -> crate::Result<crate::Activation> {
        let mounts = std::slice::from_ref(mount);
        let labels = Labels::from([("k".to_owned(), "v".to_owned())]);
        self.activations.activate("ns/a", mounts, labels, temporary, &Cancel::new())
    }
}

fn open(place: &Place, recorder: &Recorder) -> Activations {
    let (wait, host) = (Duration::from_secs(1), Arc::new(recorder.clone()));
    let retry = Retry { attempts: 1, ..Retry::default() };
    let run = place.run();
    let layers = WindowsLayers::open(host.clone(), place.folders(), &run, retry, wait).unwrap();
    let cims = CimVolumes::open(WindowsCims::new(host), &run, Sharing::PerContainer, wait).unwrap();
    Activations::open(layers, cims, path_of(r"C:\run\t"), &run, wait).unwrap()
}

fn layer() -> Mount {
    Mount {
        r#type: WINDOWS_LAYER.to_owned(),
        source: r"C:\layers\2".into(),
        target: PathBuf::new(),
        options: vec![r#"parentLayerPaths=["C:\\layers\\1"]"#.to_owned()],
    }
}

fn cim(access: &str) -> Mount {
    Mount {
        r#type: CIM_LAYER.to_owned(),
        source: r"C:\s\3".into(),
        target: PathBuf::new(),
        options: vec![access.to_owned(), r#"parentCimPaths=["C:\\c\\2.cim"]"#.to_owned()],
    }
}

/// What a writable activation of CIMs calls, in order.
fn covering() -> [String; 5] {
    let files = format!(r"\\\\?\\Volume{{{GUID}}}\\Files");
    [
        format!(r"GetFileAttributesW(\\?\Volume{{{GUID}}}\)"),
        format!(r"CimMountImage(C:\c, 2.cim, 0x4, {GUID})"),
        r"ActivateLayer(C:\s\3)".to_owned(),
        r"GetLayerMountPath(C:\s\3)".to_owned(),
        format!(
            r#"HcsAttachOverlayFilter({SCRATCH}, {{"SchemaVersion":{{"Major":2,"Minor":1}},"Layers":[{{"Id":"{GUID}","Path":"{files}"}}],"FilterType":"UnionFS"}})"#
        ),
    ]
}

fn uncovering() -> [String; 3] {
    [
        format!(
            r#"HcsDetachOverlayFilter({SCRATCH}, {{"SchemaVersion":{{"Major":2,"Minor":1}},"FilterType":"UnionFS"}})"#
        ),
        r"DeactivateLayer(C:\s\3)".to_owned(),
        format!("CimDismountImage({GUID})"),
    ]
}

#[test]
fn a_snapshot_on_cims_is_performed_and_undone() {
    let bench = Bench::new();
    let activation = bench.activate(&cim("rw"), false).unwrap();
    assert_eq!(bench.recorder.take_lines(), covering());
    let root = PathBuf::from(format!(r"{SCRATCH}\"));
    assert_eq!(activation.active[0].mount_point, root);
    assert_eq!(activation.active[0].mount, cim("rw"));
    assert_eq!(
        (&activation.system[0].r#type, &activation.system[0].source),
        (&"bind".to_owned(), &root)
    );
    assert_eq!(activation.labels["k"], "v");
    // Known to the next process, and not made twice.
    let next = open(&bench.place, &bench.recorder);
    assert_eq!(next.activations().unwrap(), std::slice::from_ref(&activation));
    assert_eq!(next.activation("ns/a").unwrap(), activation);
    let twice = bench.activate(&cim("rw"), false).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    assert_eq!(next.reconcile().unwrap(), ActivationReconcileReport::default());
    assert!(bench.recorder.take_lines().is_empty());
    next.deactivate("ns/a").unwrap();
    assert_eq!(bench.recorder.take_lines(), uncovering());
    assert_eq!(next.deactivate("ns/a").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(bench.recorder.volumes().is_empty());
}

#[test]
fn reading_takes_the_volume_alone() {
    let bench = Bench::new();
    let activation = bench.activate(&cim("ro"), false).unwrap();
    assert_eq!(bench.recorder.take_lines(), covering()[..2]);
    let files = PathBuf::from(format!(r"\\?\Volume{{{GUID}}}\Files"));
    assert_eq!(activation.active[0].mount_point, files);
    assert_eq!(activation.system[0].options, ["ro", "rbind"]);
    bench.activations.deactivate("ns/a").unwrap();
    assert_eq!(bench.recorder.take_lines(), uncovering()[2..]);
}

#[test]
fn a_layer_folder_is_linked_in_the_run_directory_for_who_asks() {
    let bench = Bench::new();
    let refused = bench.activate(&layer(), false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotSupported, "containerd mounts it as it is");
    let activation = bench.activate(&layer(), true).unwrap();
    let point = format!(r"C:\run\t\{GUID}");
    assert_eq!(activation.active[0].mount_point, PathBuf::from(&point));
    let lines = bench.recorder.take_lines();
    assert_eq!(lines.last().unwrap(), &format!(r"CreateSymbolicLinkW({point}, {SCRATCH}\)"));
    bench.activations.deactivate("ns/a").unwrap();
    assert_eq!(
        bench.recorder.take_lines(),
        [
            format!("FSCTL_GET_REPARSE_POINT({point})"),
            format!("RemoveDirectoryW({point})"),
            r"UnprepareLayer(C:\layers\2)".to_owned(),
            r"DeactivateLayer(C:\layers\2)".to_owned(),
        ]
    );
}

#[test]
fn a_failure_at_every_step_leaves_nothing() {
    for step in 0..covering().len() {
        let bench = Bench::new();
        bench.recorder.fail_at(step + 1, HResult::ACCESS_DENIED);
        let error = bench.activate(&cim("rw"), false).unwrap_err();
        assert!(error.left().is_empty(), "{step}: {error}");
        let lines = bench.recorder.take_lines();
        let (done, undone) = lines.split_at(step + 1);
        assert_eq!(done, &covering()[..=step]);
        // In reverse: what was attached, then the CIM.
        let expected = match step {
            0 | 1 => vec![],
            2 => uncovering()[2..].to_vec(),
            3 => uncovering()[1..].to_vec(),
            _ => uncovering().to_vec(),
        };
        assert_eq!(undone, expected, "{step}");
        assert!(bench.activations.activations().unwrap().is_empty());
        bench.recorder.heal();
        bench.activate(&cim("rw"), false).unwrap();
    }
}

#[test]
fn what_cannot_be_undone_is_told_and_stays_on_record() {
    for (step, function) in
        ["HcsDetachOverlayFilter", "DeactivateLayer", "CimDismountImage"].into_iter().enumerate()
    {
        let bench = Bench::new();
        bench.activate(&cim("rw"), false).unwrap();
        bench.recorder.take_lines();
        bench.recorder.fail_once(function, HResult::ACCESS_DENIED);
        bench.activations.deactivate("ns/a").unwrap_err();
        assert_eq!(bench.recorder.take_lines(), uncovering(), "{step}: the rest is tried");
        assert_eq!(bench.activations.activations().unwrap().len(), 1);
        bench.activations.deactivate("ns/a").unwrap();
        assert!(bench.activations.activations().unwrap().is_empty(), "{function}");
        assert!(bench.recorder.volumes().is_empty());
    }
}

#[test]
fn what_is_not_performed_here_is_said_before_anything_is_done() {
    let bench = Bench::new();
    let mut other = layer();
    other.r#type = "bind".to_owned();
    for mounts in [vec![], vec![cim("rw"), cim("rw")], vec![other]] {
        let labels = Labels::new();
        let refused =
            bench.activations.activate("n", &mounts, labels, true, &Cancel::new()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotSupported, "{mounts:?}");
    }
    let labels = Labels::new();
    let nameless =
        bench.activations.activate("", &[cim("rw")], labels, true, &Cancel::new()).unwrap_err();
    assert_eq!(nameless.kind(), ErrorKind::Invalid);
    assert!(bench.recorder.lines().is_empty());
}
