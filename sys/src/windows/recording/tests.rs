use std::path::Path;

use super::*;
use crate::windows::{
    AttachFlags, CimFs, CimMountFlags, DiskAccess, DiskApi, Host, LayerApi, NewDisk,
    OfflineRegistry, VolumeApi,
};

const LAYER: &str = r"C:\layers\7";

fn parent(path: &str, flags: u32) -> LayerDescriptor {
    LayerDescriptor { id: Guid::nil(), path: path.into(), flags }
}

#[test]
fn calls_become_lines_in_order_and_handles_say_when_they_close() {
    let recorder = Recorder::new();
    let host: &dyn Host = &recorder;
    host.activate_layer(Path::new(LAYER)).unwrap();
    host.prepare_layer(
        Path::new(LAYER),
        &[parent(r"C:\layers\6", 0), parent(r"C:\layers\5", crate::windows::LAYER_DIRTY)],
    )
    .unwrap();
    let new = NewDisk { size: 1 << 30, block_size: 1 << 20, parent: None };
    let disk = host.create_disk(Path::new(r"C:\a.vhdx"), &new).unwrap();
    host.attach_disk(&disk, AttachFlags::NO_DRIVE_LETTER).unwrap();
    drop(disk);
    assert_eq!(
        recorder.take_lines(),
        [
            r"ActivateLayer(C:\layers\7)",
            r"PrepareLayer(C:\layers\7, [00000000-0000-0000-0000-000000000000:C:\layers\6, 00000000-0000-0000-0000-000000000000:C:\layers\5:0x80000000])",
            r"CreateVirtualDisk(C:\a.vhdx, size=1073741824, block=1048576)",
            "AttachVirtualDisk(disk#1, 0x2)",
            "CloseHandle(disk#1)",
        ]
    );
    assert_eq!(recorder.calls(), 4);
    assert!(recorder.lines().is_empty());
}

#[test]
fn the_call_with_the_number_fails_and_is_written_down() {
    for number in 1..=3 {
        let recorder = Recorder::new();
        recorder.fail_at(number, HResult::NOT_READY);
        let layer = Path::new(LAYER);
        let results = [
            recorder.activate_layer(layer),
            recorder.prepare_layer(layer, &[]),
            recorder.layer_mount_path(layer).map(drop),
        ];
        let failed: Vec<_> = results.iter().map(Result::is_err).collect();
        let wanted: Vec<_> = (1..=3).map(|call| call == number).collect();
        assert_eq!(failed, wanted);
        assert_eq!(recorder.lines().len(), 3);
        let error = results.into_iter().find_map(Result::err).unwrap();
        assert_eq!((error.code(), error.subject()), (HResult::NOT_READY, LAYER));
    }
}

#[test]
fn a_function_fails_as_often_as_asked() {
    let recorder = Recorder::new();
    let layer = Path::new(LAYER);
    recorder
        .fail_once("PrepareLayer", HResult::NOT_READY)
        .fail_once("PrepareLayer", HResult::SHARING_VIOLATION);
    let codes: Vec<_> = (0..3)
        .map(|_| recorder.prepare_layer(layer, &[]).err().map(|error| error.code()))
        .collect();
    assert_eq!(codes, [Some(HResult::NOT_READY), Some(HResult::SHARING_VIOLATION), None]);
    recorder.fail_always("ActivateLayer", HResult::BUSY);
    assert!((0..3).all(|_| recorder.activate_layer(layer).is_err()));
    recorder.heal();
    recorder.activate_layer(layer).unwrap();
}

#[test]
fn a_volume_mounts_once_and_dismounts_once() {
    let recorder = Recorder::new();
    let volume = Guid::from_u128(7);
    let name = format!(r"\\?\Volume{{{volume}}}\");
    let mount =
        || recorder.mount_image(Path::new(r"C:\c"), "7.cim", CimMountFlags::CACHE_FILES, &volume);
    assert!(!recorder.volume_exists(&name).unwrap());
    mount().unwrap();
    assert!(recorder.volume_exists(&name).unwrap());
    assert_eq!(mount().unwrap_err().code(), HResult::ALREADY_EXISTS);
    recorder.dismount_image(&volume).unwrap();
    assert_eq!(recorder.dismount_image(&volume).unwrap_err().code(), HResult::FILE_NOT_FOUND);
    assert_eq!(
        recorder.lines()[1],
        r"CimMountImage(C:\c, 7.cim, 0x4, 00000000-0000-0000-0000-000000000007)"
    );
}

#[test]
fn answers_are_given_in_turn_and_the_last_stays() {
    let recorder = Recorder::new();
    recorder.answer("GetLayerMountPath", "a").answer("GetLayerMountPath", "b");
    let answers: Vec<_> =
        (0..3).map(|_| recorder.layer_mount_path(Path::new(LAYER)).unwrap()).collect();
    assert_eq!(answers, ["a", "b", "b"]);
    recorder.answer("NameToGuid", "no guid");
    assert_eq!(recorder.name_to_guid("x").unwrap_err().code(), HResult::INVALID_PARAMETER);
}

#[test]
fn links_and_mount_points_are_kept() {
    let recorder = Recorder::new();
    let (link, directory) = (Path::new(r"C:\l"), Path::new(r"C:\m"));
    assert_eq!(recorder.read_link(link).unwrap_err().code(), HResult::NOT_A_REPARSE_POINT);
    recorder.create_directory_symlink(link, r"\\?\Volume{x}\").unwrap();
    assert_eq!(recorder.read_link(link).unwrap(), Path::new(r"\\?\Volume{x}\"));
    recorder.remove_directory_link(link).unwrap();
    assert!(recorder.read_link(link).is_err());
    recorder.set_volume_mount_point(directory, r"\\?\Volume{y}\").unwrap();
    assert_eq!(recorder.volume_at_mount_point(directory).unwrap(), r"\\?\Volume{y}\");
    recorder.delete_volume_mount_point(directory).unwrap();
    assert!(recorder.volume_at_mount_point(directory).is_err());
}

#[test]
fn hives_are_numbered_with_the_disks() {
    let recorder = Recorder::new();
    let disk = recorder.open_disk(Path::new(r"C:\a.vhdx"), DiskAccess::empty()).unwrap();
    let (base, delta) = (
        recorder.open_hive(Path::new("base")).unwrap(),
        recorder.open_hive(Path::new("delta")).unwrap(),
    );
    let merged = recorder.merge_hives(&[&base, &delta]).unwrap();
    recorder.save_hive(&merged, Path::new("out"), 10, 0).unwrap();
    drop((merged, delta, base, disk));
    assert_eq!(
        recorder.lines(),
        [
            r"OpenVirtualDisk(C:\a.vhdx, 0x0)",
            "OROpenHive(base)",
            "OROpenHive(delta)",
            "ORMergeHives([hive#2, hive#3])",
            "ORSaveHive(hive#4, out, 10, 0)",
            "ORCloseHive(hive#4)",
            "ORCloseHive(hive#3)",
            "ORCloseHive(hive#2)",
            "CloseHandle(disk#1)",
        ]
    );
}

#[test]
fn the_hosts_facts_can_be_others() {
    use crate::windows::HostFacts;
    let recorder = Recorder::new();
    recorder.enable_privileges(&[Privilege::BACKUP]).unwrap();
    assert!(recorder.privileges().unwrap()[0].enabled);
    recorder.set_facts(Facts { privileges: Vec::new(), ..Facts::default() });
    let error = recorder.enable_privileges(&[Privilege::BACKUP]).unwrap_err();
    assert_eq!(error.code(), HResult::PRIVILEGE_NOT_HELD);
}

#[test]
fn images_are_written_stream_by_stream() {
    use crate::windows::{CimFileMetadata, CimWriter};
    let recorder = Recorder::new();
    let image = recorder.create_image(Path::new(r"C:\c"), None, Some("7.cim")).unwrap();
    let metadata = CimFileMetadata { attributes: 0x20, size: 3, ..CimFileMetadata::default() };
    let stream = recorder.create_image_file(&image, Path::new("a"), &metadata).unwrap();
    recorder.write_stream(&stream, b"abc").unwrap();
    drop(stream);
    recorder.create_image_link(&image, Path::new("b"), Path::new("a")).unwrap();
    recorder.delete_image_path(&image, Path::new("a")).unwrap();
    recorder.commit_image(&image).unwrap();
    drop(image);
    assert_eq!(
        recorder.lines(),
        [
            r"CimCreateImage(C:\c, NULL, 7.cim)",
            "CimCreateFile(image#1, a, 0x20, 3)",
            "CimWriteStream(stream#2, 3)",
            "CimCloseStream(stream#2)",
            "CimCreateHardLink(image#1, b, a)",
            "CimDeletePath(image#1, a)",
            "CimCommitImage(image#1)",
            "CimCloseImage(image#1)",
        ]
    );
}
