use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sys::windows::recording::Recorder;
use sys::windows::{Guid, HResult};

use super::Place;
use crate::ErrorKind;
use crate::windows::*;

const TOP: &str = r"C:\cim-layers\7.cim";
/// Python: `uuid.uuid5(uuid.UUID("6827367b-c388-4e9b-961c-6d2c936c0000"), "test-container")`.
const GUID: &str = "78b0c2aa-fcc1-5e50-813f-eb0574f209a5";
const LOOK: &str = r"GetFileAttributesW(\\?\Volume{78b0c2aa-fcc1-5e50-813f-eb0574f209a5}\)";
const MOUNT: &str =
    r"CimMountImage(C:\cim-layers, 7.cim, 0x4, 78b0c2aa-fcc1-5e50-813f-eb0574f209a5)";
const DISMOUNT: &str = "CimDismountImage(78b0c2aa-fcc1-5e50-813f-eb0574f209a5)";

fn guid() -> Guid {
    Guid::parse_str(GUID).unwrap()
}

fn volumes(place: &Place, recorder: &Recorder, sharing: Sharing) -> CimVolumes<WindowsCims> {
    let host = WindowsCims::new(Arc::new(recorder.clone()));
    CimVolumes::open(host, &place.run(), sharing, Duration::from_secs(1)).unwrap()
}

fn top() -> &'static Path {
    Path::new(TOP)
}

#[test]
fn a_cim_is_mounted_under_the_containers_guid_with_its_files_cached() {
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerContainer);
    let volume = volumes.mount_cim_layer(top(), "test-container").unwrap();
    assert_eq!(volume.path, PathBuf::from(format!(r"\\?\Volume{{{GUID}}}\")));
    assert_eq!((volume.guid, volume.cim.as_path()), (guid(), top()));
    assert_eq!(recorder.take_lines(), [LOOK, MOUNT]);
    assert_eq!(volumes.cim_mount_path(top(), "test-container").unwrap(), volume.path);
    recorder.take_lines();
    assert!(volumes.unmount_cim_layer(top(), "test-container").unwrap());
    assert_eq!(recorder.take_lines(), [DISMOUNT]);
    assert!(!volumes.unmount_cim_layer(top(), "test-container").unwrap());
    assert!(recorder.take_lines().is_empty(), "a second time does nothing");
    assert!(volumes.volumes().unwrap().is_empty());
}

#[test]
fn what_is_not_mounted_is_an_error_that_names_the_cim() {
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerContainer);
    let not_mounted = |container: &str| {
        let error = volumes.cim_mount_path(top(), container).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(TOP) && error.to_string().contains(container));
    };
    not_mounted("test-container");
    volumes.mount_cim_layer(top(), "test-container").unwrap();
    not_mounted("another");
    let spelled = volumes.cim_mount_path(Path::new("c:/CIM-LAYERS/7.CIM"), "test-container");
    assert!(spelled.is_ok(), "another spelling is the same CIM");
    assert!(volumes.cim_mount_path(Path::new(r"C:\cim-layers\8.cim"), "test-container").is_err());
    // Dismounted behind our back.
    sys::windows::CimFs::dismount_image(&recorder, &guid()).unwrap();
    not_mounted("test-container");
}

#[test]
fn each_hold_is_counted_and_the_last_one_dismounts() {
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerImage);
    let first = volumes.mount_cim_layer(top(), "a").unwrap();
    let second = volumes.mount_cim_layer(top(), "b").unwrap();
    let third = volumes.mount_cim_layer(top(), "b").unwrap();
    assert_eq!((first.guid, second.guid), (second.guid, third.guid));
    assert_eq!(third.holders, [("a".to_owned(), 1), ("b".to_owned(), 2)].into());
    let mounts = |recorder: &Recorder| {
        recorder.take_lines().iter().filter(|line| line.starts_with("CimMountImage")).count()
    };
    assert_eq!(mounts(&recorder), 1, "one volume for the image");
    for (container, gone) in [("b", false), ("b", false), ("b", false), ("a", true)] {
        volumes.unmount_cim_layer(top(), container).unwrap();
        assert_eq!(recorder.volumes().is_empty(), gone, "{container}");
    }
    // Another process with the same ledger sees the same.
    let other = super::cims::volumes(&place, &recorder, Sharing::PerImage);
    other.mount_cim_layer(top(), "c").unwrap();
    assert_eq!(volumes.volumes().unwrap()[0].holders, [("c".to_owned(), 1)].into());
}

#[test]
fn a_volume_of_somebody_else_is_left_alone() {
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerContainer);
    recorder.add_volume(guid());
    let error = volumes.mount_cim_layer(top(), "test-container").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains(GUID), "{error}");
    assert_eq!(recorder.take_lines(), [LOOK]);
    // Somebody takes it between the look and the mount.
    recorder.answer("GetFileAttributesW", "false");
    let error = volumes.mount_cim_layer(top(), "test-container").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(recorder.take_lines(), [LOOK, MOUNT]);
    assert!(volumes.reconcile(&|_| false).unwrap() == CimReconcileReport::default());
    assert_eq!(recorder.volumes(), [guid()]);
    // One container has one volume, and that shows another CIM.
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = super::cims::volumes(&place, &recorder, Sharing::PerContainer);
    volumes.mount_cim_layer(top(), "test-container").unwrap();
    let other = Path::new(r"C:\cim-layers\8.cim");
    let error = volumes.mount_cim_layer(other, "test-container").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains(TOP), "{error}");
}

/// The steps of the happy path are [`LOOK`], [`MOUNT`]; of the undoing one [`DISMOUNT`].
#[test]
fn a_failure_at_every_step_leaves_nothing() {
    for step in 1..=2 {
        let (place, recorder) = (Place::new(), Recorder::new());
        let volumes = volumes(&place, &recorder, Sharing::PerContainer);
        recorder.fail_at(step, HResult::ACCESS_DENIED);
        let error = volumes.mount_cim_layer(top(), "test-container").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted, "{step}");
        assert_eq!(recorder.take_lines(), [LOOK, MOUNT][..step]);
        assert!(volumes.volumes().unwrap().is_empty());
        volumes.mount_cim_layer(top(), "test-container").unwrap();
        assert_eq!(recorder.take_lines(), [LOOK, MOUNT], "and it works afterwards");
    }
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerContainer);
    volumes.mount_cim_layer(top(), "test-container").unwrap();
    recorder.take_lines();
    recorder.fail_once("CimDismountImage", HResult::SHARING_VIOLATION);
    let error = volumes.unmount_cim_layer(top(), "test-container").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(volumes.cim_mount_path(top(), "test-container").is_ok(), "it is on record as held");
    assert!(volumes.unmount_cim_layer(top(), "test-container").unwrap());
    assert_eq!(recorder.take_lines(), [DISMOUNT, LOOK, DISMOUNT]);
}

#[test]
fn cleaning_up_takes_nothing_but_the_id() {
    // Nothing is on record.
    let (place, recorder) = (Place::new(), Recorder::new());
    recorder.add_volume(guid());
    let mine = volumes(&place, &recorder, Sharing::PerContainer);
    assert_eq!(mine.cleanup_container_mounts("test-container").unwrap(), [guid()]);
    assert!(mine.cleanup_container_mounts("test-container").unwrap().is_empty());
    // The record is damaged: the volume goes, and the damage is told.
    recorder.add_volume(guid());
    std::fs::write(place.run().join("cim-volumes.ledger"), "x").unwrap();
    let error = mine.cleanup_container_mounts("test-container").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(recorder.volumes().is_empty());
    // Held several times, and with others.
    let (place, recorder) = (Place::new(), Recorder::new());
    let shared = volumes(&place, &recorder, Sharing::PerImage);
    for container in ["test-container", "test-container", "b"] {
        shared.mount_cim_layer(top(), container).unwrap();
    }
    assert!(shared.cleanup_container_mounts("test-container").unwrap().is_empty());
    assert_eq!(recorder.volumes().len(), 1, "b holds it");
    assert_eq!(shared.cleanup_container_mounts("b").unwrap().len(), 1);
    assert!(recorder.volumes().is_empty());
    for id in ["", "a\nb"] {
        assert_eq!(shared.cleanup_container_mounts(id).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(shared.mount_cim_layer(top(), id).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn reconciling_undoes_what_nobody_needs_and_forgets_what_is_gone() {
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerContainer);
    let [a, b, c] = ["a", "b", "c"].map(|id| volumes.mount_cim_layer(top(), id).unwrap().guid);
    sys::windows::CimFs::dismount_image(&recorder, &b).unwrap();
    let report = volumes.reconcile(&|id| id != "c").unwrap();
    assert_eq!((report.undone, report.forgotten), (vec![c], vec![b]));
    assert_eq!(report.released, ["c"]);
    assert_eq!(recorder.volumes(), [a]);
    assert_eq!(volumes.reconcile(&|_| true).unwrap(), CimReconcileReport::default());
    recorder.fail_once("CimDismountImage", HResult::BUSY);
    assert_eq!(volumes.reconcile(&|_| false).unwrap().kept_busy, [a]);
    assert_eq!(volumes.reconcile(&|_| false).unwrap().undone, [a]);
}

#[test]
fn paths_that_are_no_cims_are_refused_before_anything_is_done() {
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerContainer);
    for path in ["", "7.cim", r"C:7.cim", r"\7.cim", r"C:\", r"\\.\pipe\x", "C:\\a\0b"] {
        let error = volumes.mount_cim_layer(Path::new(path), "x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{path:?}");
    }
    assert!(recorder.lines().is_empty());
    let long = format!(r"C:\{}\7.cim", "d".repeat(250));
    volumes.mount_cim_layer(Path::new(&long), "test-container").unwrap();
    let wanted = format!(r"CimMountImage(\\?\C:\{}, 7.cim, 0x4, {GUID})", "d".repeat(250));
    assert_eq!(recorder.lines()[1], wanted);
}

#[test]
fn a_windows_that_is_too_old_says_what_it_lacks() {
    let (place, recorder) = (Place::new(), Recorder::new());
    let volumes = volumes(&place, &recorder, Sharing::PerContainer);
    recorder.fail_once("CimMountImage", HResult::PROCEDURE_NOT_FOUND);
    let error = volumes.mount_cim_layer(top(), "test-container").unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("ERROR_PROC_NOT_FOUND"), "{cause}");
    assert!(volumes.volumes().unwrap().is_empty());
}
