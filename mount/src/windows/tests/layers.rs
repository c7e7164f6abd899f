use std::sync::Arc;
use std::time::Duration;

use layer::Cancel;
use sys::windows::HResult;
use sys::windows::recording::Recorder;

use super::{Place, path_of};
use crate::windows::*;
use crate::{Error, ErrorKind, Mount};

const TARGET: &str = r"C:\mnt\rootfs";
const VOLUME: &str = r"\\?\Volume{11111111-2222-3333-4444-555555555555}";

// hcs-layers.md 1.3, Argon with WCIFS: attach, filter, mount path; containerd's link at the end.
const IDS: [&str; 2] = ["NameToGuid(2)", "NameToGuid(1)"];
const ACTIVATE: &str = r"ActivateLayer(C:\layers\3)";
// The recorder names a layer by version 5 of its name in the nil name space; computed by Python.
const PREPARE: &str = r"PrepareLayer(C:\layers\3, [1087ebe8-1ef8-5d97-8873-735b4949004d:C:\layers\2, 11116e73-1c03-5de6-9130-5f9925ae8ab4:C:\layers\1])";
const WHERE: &str = r"GetLayerMountPath(C:\layers\3)";
const LINK: &str =
    r"CreateSymbolicLinkW(C:\mnt\rootfs, \\?\Volume{11111111-2222-3333-4444-555555555555}\)";
const LOOK: &str = r"FSCTL_GET_REPARSE_POINT(C:\mnt\rootfs)";
const UNLINK: &str = r"RemoveDirectoryW(C:\mnt\rootfs)";
const UNPREPARE: &str = r"UnprepareLayer(C:\layers\3)";
const DEACTIVATE: &str = r"DeactivateLayer(C:\layers\3)";
const MOUNTING: [&str; 6] = [IDS[0], IDS[1], ACTIVATE, PREPARE, WHERE, LINK];
const UNMOUNTING: [&str; 4] = [LOOK, UNLINK, UNPREPARE, DEACTIVATE];

struct Bench {
    place: Place,
    recorder: Recorder,
    layers: WindowsLayers,
}

impl Bench {
    fn with(retry: Retry) -> Self {
        let (place, recorder) = (Place::new(), Recorder::new());
        place.make(r"C:\mnt");
        place.make(r"C:\layers\2");
        // With the backslash, and without: both are documented nowhere, and both are taken.
        recorder
            .answer("GetLayerMountPath", format!(r"{VOLUME}\"))
            .answer("GetLayerMountPath", VOLUME);
        let host = Arc::new(recorder.clone());
        let wait = Duration::from_secs(1);
        let layers = WindowsLayers::open(host, place.folders(), &place.run(), retry, wait).unwrap();
        Self { place, recorder, layers }
    }

    fn new() -> Self {
        let (pause, attempts) = (Duration::from_millis(1), 3);
        Self::with(Retry { pause, attempts, ..Retry::default() })
    }

    fn mount(&self) -> Result<MountedLayer, Error> {
        self.layers.mount(&mount(), &path_of(TARGET), &Cancel::new())
    }
}

fn mount() -> Mount {
    Mount {
        r#type: WINDOWS_LAYER.to_owned(),
        source: r"C:\layers\3".into(),
        target: Default::default(),
        options: vec![r#"parentLayerPaths=["C:\\layers\\2","C:\\layers\\1"]"#.to_owned()],
    }
}

#[test]
fn a_layer_is_mounted_as_a_link_to_its_volume_and_unmounted_in_reverse() {
    let bench = Bench::new();
    let mounted = bench.mount().unwrap();
    assert_eq!(mounted.volume, format!(r"{VOLUME}\"));
    assert!(!mounted.read_only);
    assert_eq!(bench.recorder.take_lines(), MOUNTING);
    assert!(bench.layers.unmount(&path_of(r"c:\MNT\rootfs\")).unwrap());
    assert_eq!(bench.recorder.take_lines(), UNMOUNTING);
    assert!(!bench.layers.unmount(&path_of(TARGET)).unwrap());
    assert_eq!(bench.layers.unmount_all(&path_of(r"C:\nothing\here")).unwrap(), 0);
    assert!(bench.recorder.take_lines().is_empty());
    bench.mount().unwrap();
    assert_eq!(bench.layers.unmount_all(&path_of(TARGET)).unwrap(), 1);
}

#[test]
fn read_only_is_told_back() {
    let bench = Bench::new();
    let mut mount = mount();
    mount.options.push("ro".to_owned());
    let mounted = bench.layers.mount(&mount, &path_of(TARGET), &Cancel::new()).unwrap();
    assert!(mounted.read_only);
}

/// What follows a failure of each step that is not worth another try, as section 1.3's table has it.
#[test]
fn a_failure_at_every_step_is_undone() {
    let undone: [(usize, &[&str]); 6] = [
        (1, &[]),
        (2, &[]),
        (3, &[]),
        (4, &[DEACTIVATE]),
        (5, &[UNPREPARE, DEACTIVATE]),
        (6, &[UNPREPARE, DEACTIVATE]),
    ];
    for (step, undo) in undone {
        let bench = Bench::new();
        bench.place.make(TARGET);
        bench.recorder.fail_at(step, HResult::from_bits(0x8037_0112));
        let error = bench.mount().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{step}: {error}");
        assert!(error.left().is_empty());
        let lines = bench.recorder.take_lines();
        assert_eq!(lines[..step], MOUNTING[..step], "{step}");
        assert_eq!(lines[step..], *undo, "{step}");
        let folders = bench.place.folders();
        assert_eq!(folders.kind(&path_of(TARGET)).unwrap(), PathKind::EmptyDirectory, "{step}");
        // Nothing is on record.
        assert_eq!(bench.layers.reconcile(&|_| false).unwrap(), LayerReconcileReport::default());
        assert!(bench.recorder.take_lines().is_empty(), "{step}");
    }
}

#[test]
fn what_cannot_be_undone_is_told_and_stays_on_record() {
    for (step, failing, wanted) in [
        (4, "DeactivateLayer", [DEACTIVATE].as_slice()),
        (5, "UnprepareLayer", &[UNPREPARE, DEACTIVATE]),
        (5, "DeactivateLayer", &[UNPREPARE, DEACTIVATE]),
    ] {
        let bench = Bench::new();
        bench.recorder.fail_at(step, HResult::from_bits(0x8037_0112));
        bench.recorder.fail_once(failing, HResult::SHARING_VIOLATION);
        let error = bench.mount().unwrap_err();
        assert_eq!(error.left().len(), 1, "{error}");
        assert!(error.to_string().contains("ERROR_SHARING_VIOLATION"), "{error}");
        assert_eq!(bench.recorder.take_lines()[step..], *wanted);
        let report = bench.layers.reconcile(&|_| true).unwrap();
        assert_eq!(report.undone, [r"C:\layers\3"], "{failing}");
        let lines = bench.recorder.take_lines();
        assert_eq!(lines, [LOOK, UNPREPARE, DEACTIVATE], "{failing}");
        assert_eq!(bench.layers.reconcile(&|_| true).unwrap(), LayerReconcileReport::default());
    }
}

#[test]
fn unmounting_tries_everything_and_can_be_repeated() {
    for failing in ["RemoveDirectoryW", "UnprepareLayer", "DeactivateLayer"] {
        let bench = Bench::new();
        bench.mount().unwrap();
        bench.recorder.take_lines();
        bench.recorder.fail_once(failing, HResult::ACCESS_DENIED);
        let error = bench.layers.unmount(&path_of(TARGET)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted, "{failing}");
        assert_eq!(bench.recorder.take_lines(), UNMOUNTING, "{failing}");
        bench.recorder.fail_once("UnprepareLayer", HResult::from_bits(0x801F_0015));
        bench.recorder.fail_once("DeactivateLayer", HResult::DEVICE_NOT_CONNECTED);
        assert!(bench.layers.unmount(&path_of(TARGET)).unwrap(), "what is gone is no failure");
        assert!(!bench.layers.unmount(&path_of(TARGET)).unwrap());
    }
    // All at once: all are told.
    let bench = Bench::new();
    bench.mount().unwrap();
    for failing in ["RemoveDirectoryW", "UnprepareLayer", "DeactivateLayer"] {
        bench.recorder.fail_once(failing, HResult::BUSY);
    }
    let error = bench.layers.unmount(&path_of(TARGET)).unwrap_err();
    assert_eq!(error.left().len(), 2, "{error}");
}

/// hcs-layers.md 1.3: the two codes of hcsshim, and the three that its users hit.
#[test]
fn what_passes_is_tried_again() {
    let round = [ACTIVATE, PREPARE, DEACTIVATE];
    for code in [
        HResult::NOT_READY,
        HResult::DEVICE_NOT_CONNECTED,
        HResult::SHARING_VIOLATION,
        HResult::ACCESS_DENIED,
        HResult::TIMEOUT,
    ] {
        let bench = Bench::new();
        bench.recorder.fail_once("PrepareLayer", code).fail_once("PrepareLayer", code);
        bench.mount().unwrap();
        let lines = bench.recorder.take_lines();
        assert_eq!(lines[2..8], [round, round].concat(), "{code}");
        assert_eq!(lines[8..], [ACTIVATE, PREPARE, WHERE, LINK], "{code}");

        let bench = Bench::new();
        bench.recorder.fail_always("ActivateLayer", code);
        let error = bench.mount().unwrap_err();
        assert!(error.to_string().contains("3 tries"), "{error}");
        assert_eq!(bench.recorder.take_lines()[2..], [ACTIVATE; 3], "{code}");
    }
    let bench = Bench::with(Retry::hcsshim());
    bench.recorder.fail_always("ActivateLayer", HResult::NOT_READY);
    bench.mount().unwrap_err();
    assert_eq!(bench.recorder.take_lines()[2..], [ACTIVATE; 5]);
    bench.recorder.heal().fail_always("ActivateLayer", HResult::SHARING_VIOLATION);
    bench.mount().unwrap_err();
    assert_eq!(bench.recorder.take_lines()[2..], [ACTIVATE; 1]);
}

#[test]
fn a_disk_that_does_not_detach_ends_the_tries() {
    let bench = Bench::new();
    bench.recorder.fail_always("PrepareLayer", HResult::NOT_READY);
    bench.recorder.fail_once("DeactivateLayer", HResult::BUSY);
    let error = bench.mount().unwrap_err();
    assert_eq!(error.left().len(), 1);
    assert_eq!(bench.recorder.take_lines()[2..], [ACTIVATE, PREPARE, DEACTIVATE]);
}

#[test]
fn giving_up_ends_the_waiting_and_leaves_nothing() {
    let pause = Duration::from_secs(600);
    let bench = Bench::with(Retry { pause, longest_pause: pause, ..Retry::default() });
    bench.recorder.fail_always("PrepareLayer", HResult::NOT_READY);
    let cancel = Cancel::new();
    let other = cancel.clone();
    let raiser = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        other.cancel();
    });
    let error = bench.layers.mount(&mount(), &path_of(TARGET), &cancel).unwrap_err();
    raiser.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(bench.recorder.take_lines()[2..], [ACTIVATE, PREPARE, DEACTIVATE]);
    let error = bench.layers.mount(&mount(), &path_of(TARGET), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!bench.recorder.take_lines().contains(&ACTIVATE.to_owned()));
}

#[test]
fn a_scratch_is_attached_for_one_at_a_time() {
    let bench = Bench::new();
    bench.mount().unwrap();
    bench.recorder.take_lines();
    let other = path_of(r"C:\mnt\other");
    let error = bench.layers.mount(&mount(), &other, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(TARGET), "{error}");
    assert!(bench.recorder.take_lines().is_empty());
    // What a process that died was at is undone first; what one that lives is at is not.
    let ledger = bench.place.run().join("windows-layers.ledger");
    let intended_by = |maker: &str| {
        let text = std::fs::read_to_string(&ledger).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text[9..]).unwrap();
        let entries = json["state"]["scratches"].as_object_mut().unwrap();
        for entry in entries.values_mut() {
            entry["volume"] = serde_json::Value::Null;
            entry["maker"] = maker.into();
        }
        let mut line = Vec::new();
        sys::checked_line::append(&mut line, json.to_string().as_bytes());
        std::fs::write(&ledger, line).unwrap();
    };
    intended_by(&sys::process::Process::current().unwrap().to_string());
    let error = bench.layers.mount(&mount(), &other, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("is being attached"), "{error}");
    assert_eq!(bench.layers.reconcile(&|_| false).unwrap(), LayerReconcileReport::default());
    assert_eq!(bench.layers.unmount(&path_of(TARGET)).unwrap_err().kind(), ErrorKind::Busy);
    assert!(bench.recorder.take_lines().is_empty());
    intended_by(&format!("{}:1", std::process::id()));
    bench.layers.mount(&mount(), &other, &Cancel::new()).unwrap();
    let lines = bench.recorder.take_lines();
    assert_eq!(lines[..4], UNMOUNTING);
    assert_eq!(lines[4..9], MOUNTING[..5]);
}

#[test]
fn nothing_of_the_users_is_in_the_way_or_lost() {
    let bench = Bench::new();
    let full = r"C:\mnt\full\file";
    bench.place.make(full);
    let host = bench.place.folders();
    std::fs::write(host.path(&path_of(r"C:\mnt\file")), "text").unwrap();
    for (target, kind, reason) in [
        (r"C:\mnt\full", ErrorKind::AlreadyExists, "not empty"),
        (r"C:\mnt\file", ErrorKind::AlreadyExists, "a file"),
        (r"C:\no\where", ErrorKind::NotFound, "does not exist"),
        (r"C:\mnt\file\x", ErrorKind::NotFound, "does not exist"),
        (r"C:\layers\3\mnt", ErrorKind::Invalid, r"C:\layers\3"),
        (r"C:\layers\2", ErrorKind::Invalid, r"C:\layers\2"),
        (r"C:\", ErrorKind::Invalid, "root"),
    ] {
        let error = bench.layers.mount(&mount(), &path_of(target), &Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), kind, "{target}: {error}");
        assert!(error.to_string().contains(reason), "{target}: {error}");
    }
    assert!(bench.recorder.lines().is_empty());
    assert_eq!(host.kind(&path_of(full)).unwrap(), PathKind::EmptyDirectory);
    // An empty folder makes way and comes back.
    bench.place.make(TARGET);
    bench.mount().unwrap();
    assert_eq!(host.kind(&path_of(TARGET)).unwrap(), PathKind::Absent);
    bench.layers.unmount(&path_of(TARGET)).unwrap();
    assert_eq!(host.kind(&path_of(TARGET)).unwrap(), PathKind::EmptyDirectory);
    // Somebody has put another link there: it stays.
    bench.mount().unwrap();
    bench.recorder.add_link(TARGET, r"C:\precious").take_lines();
    bench.layers.unmount(&path_of(TARGET)).unwrap();
    assert_eq!(bench.recorder.take_lines(), [LOOK, UNPREPARE, DEACTIVATE]);
}

#[cfg(unix)]
#[test]
fn a_link_at_the_target_is_left_alone() {
    let bench = Bench::new();
    let link = bench.place.folders().path(&path_of(TARGET));
    std::os::unix::fs::symlink("/", &link).unwrap();
    let error = bench.mount().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("a link"), "{error}");
    assert!(link.is_symlink() && bench.recorder.lines().is_empty());
}

#[test]
fn parents_are_compared_with_what_they_say_of_themselves() {
    let said_by = |folder: &str, text: &str| {
        let bench = Bench::new();
        bench.place.make(folder);
        let path = path_of(folder).join("layerchain.json").unwrap();
        std::fs::write(bench.place.folders().path(&path), text).unwrap();
        (bench.mount().map(drop), bench.recorder.take_lines())
    };
    let chain = |text: &str| said_by(r"C:\layers\2", text);
    for (text, reason) in [
        (r#"["C:\\layers\\0"]"#, r"should be C:\layers\0"),
        (r#"["C:\\layers\\1", "C:\\layers\\0"]"#, r"C:\layers\0 is missing"),
        ("[]", "is none of them"),
        ("null", "is none of them"),
        ("{}", "no JSON array"),
        ("\u{feff}[]", "no JSON array"),
    ] {
        let (result, lines) = chain(text);
        let error = result.unwrap_err();
        assert!(error.to_string().contains(reason), "{text}: {error}");
        assert!(lines.is_empty(), "{text}");
    }
    assert!(chain(r#"["c:\\LAYERS\\1"]"#).0.is_ok());
    let scratch = |text: &str| said_by(r"C:\layers\3", text).0;
    let reversed = scratch(r#"["C:\\layers\\1","C:\\layers\\2"]"#).unwrap_err();
    assert!(reversed.to_string().contains("number 1"), "{reversed}");
    assert!(scratch(r#"["C:\\layers\\2"]"#).is_err());
    scratch(r#"["C:\\layers\\2","C:\\layers\\1"]"#).unwrap();
}

#[test]
fn a_scratch_without_a_filter_is_attached_for_its_owner() {
    let bench = Bench::new();
    let scratch = path_of(r"C:\layers\3");
    let attached = bench.layers.attach_scratch(&scratch, "container", &Cancel::new()).unwrap();
    assert_eq!((attached.volume.as_str(), attached.parents.len()), (VOLUME, 0));
    assert_eq!(bench.recorder.take_lines(), [ACTIVATE, WHERE]);
    assert_eq!(bench.layers.reconcile(&|owner| owner == "container").unwrap(), Default::default());
    let report = bench.layers.reconcile(&|_| false).unwrap();
    assert_eq!(report.undone, [r"C:\layers\3"]);
    assert_eq!(bench.recorder.take_lines(), [DEACTIVATE]);
    assert!(!bench.layers.detach(&scratch).unwrap());
    // No volume after all: the disk is detached.
    bench.recorder.fail_once("GetLayerMountPath", HResult::NOT_READY);
    assert!(bench.layers.attach_scratch(&scratch, "container", &Cancel::new()).is_err());
    assert_eq!(bench.recorder.take_lines(), [ACTIVATE, WHERE, DEACTIVATE]);
}

#[test]
fn missing_privileges_are_told_at_once() {
    for step in [3, 4] {
        let bench = Bench::new();
        bench.recorder.fail_at(step, HResult::PRIVILEGE_NOT_HELD);
        let error = bench.mount().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted);
        assert!(error.to_string().contains("elevated"), "{error}");
        let activations = bench.recorder.take_lines();
        let activations = activations.iter().filter(|line| *line == ACTIVATE).count();
        assert_eq!(activations, 1, "that does not pass by waiting");
    }
}

/// While one waits to try again, another is served.
#[test]
fn who_tries_again_is_in_nobodys_way() {
    let pause = Duration::from_secs(600);
    let bench = Bench::with(Retry { pause, longest_pause: pause, ..Retry::default() });
    bench.recorder.fail_once("PrepareLayer", HResult::NOT_READY);
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| bench.layers.mount(&mount(), &path_of(TARGET), &cancel));
        while bench.recorder.lines().last().is_none_or(|line| line != DEACTIVATE) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let other = path_of(r"C:\layers\4");
        bench.layers.attach_scratch(&other, "other", &Cancel::new()).unwrap();
        assert!(bench.layers.detach(&other).unwrap());
        cancel.cancel();
        assert_eq!(slow.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    assert_eq!(bench.layers.reconcile(&|_| false).unwrap(), LayerReconcileReport::default());
}
