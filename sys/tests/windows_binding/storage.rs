use std::path::Path;

use sys::windows::{DiskAccess, DiskApi, HResult, StorageApi, System};

use crate::recording::Recording;

const DATA: &str = r#"{"Layers":[{"Id":"1","Path":"é"}]}"#;
const SEEN: &str = r#""{"Layers":[{"Id":"1","Path":"<00e9>"}]}""#;
const LAYER: &str = r"C:\layers\7";
const VOLUME: &str = r"\\?\Volume{7cadcf96-8e6b-5702-8a86-d30724925c2e}";

#[test]
fn wine_computestorage_gets_layers_documents_and_options_in_order() {
    let log = Recording::of("computestorage.dll");
    let system = System::new();
    let layer = Path::new(LAYER);
    system.initialize_writable_layer(layer, DATA, "").unwrap();
    system.initialize_writable_layer(layer, DATA, "{}").unwrap();
    system.attach_layer_storage_filter(layer, DATA).unwrap();
    system.detach_layer_storage_filter(layer).unwrap();
    system.attach_overlay_filter(VOLUME, DATA).unwrap();
    system.detach_overlay_filter(VOLUME, "{}").unwrap();
    system.setup_base_os_volume(layer, VOLUME, r#"{"Type":"Vm"}"#).unwrap();
    system.import_storage_layer(layer, Path::new(r"C:\in"), DATA).unwrap();
    system.export_storage_layer(layer, Path::new(r"C:\out"), DATA, "").unwrap();
    system
        .export_storage_layer(layer, Path::new(r"C:\out"), DATA, r#"{"IsWritableLayer":true}"#)
        .unwrap();
    system.destroy_storage_layer(layer).unwrap();
    assert_eq!(
        log.lines(),
        [
            format!(r#"HcsInitializeWritableLayer "{LAYER}" {SEEN} NULL"#),
            format!(r#"HcsInitializeWritableLayer "{LAYER}" {SEEN} "{{}}""#),
            format!(r#"HcsAttachLayerStorageFilter "{LAYER}" {SEEN}"#),
            format!(r#"HcsDetachLayerStorageFilter "{LAYER}""#),
            format!(r#"HcsAttachOverlayFilter "{VOLUME}" {SEEN}"#),
            format!(r#"HcsDetachOverlayFilter "{VOLUME}" "{{}}""#),
            format!(r#"HcsSetupBaseOSVolume "{LAYER}" "{VOLUME}" "{{"Type":"Vm"}}""#),
            format!(r#"HcsImportLayer "{LAYER}" "C:\in" {SEEN}"#),
            format!(r#"HcsExportLayer "{LAYER}" "C:\out" {SEEN} NULL"#),
            format!(r#"HcsExportLayer "{LAYER}" "C:\out" {SEEN} "{{"IsWritableLayer":true}}""#),
            format!(r#"HcsDestroyLayer "{LAYER}""#),
        ]
    );
}

#[test]
fn wine_computestorage_gets_the_handles_of_virtdisk() {
    // The disk's DLL must record, too, so that nothing is opened.
    drop(Recording::of("virtdisk.dll"));
    let log = Recording::of("computestorage.dll");
    let system = System::new();
    let disk = system.open_disk(Path::new(r"C:\a.vhdx"), DiskAccess::empty()).unwrap();
    system.format_writable_layer_vhd(&disk).unwrap();
    assert_eq!(
        system.layer_vhd_mount_path(&disk).unwrap(),
        r"\\?\Volume{2afd4900-a4ec-5041-82c5-db5f93089099}"
    );
    system.setup_base_os_layer(Path::new(LAYER), &disk, r#"{"Type":"Container"}"#).unwrap();
    assert_eq!(
        log.lines(),
        [
            "HcsFormatWritableLayerVhd disk".to_owned(),
            "HcsGetLayerVhdMountPath disk".to_owned(),
            format!(r#"HcsSetupBaseOSLayer "{LAYER}" disk "{{"Type":"Container"}}""#),
        ]
    );
}

#[test]
fn wine_a_failure_of_computestorage_keeps_its_code() {
    let log = Recording::of("computestorage.dll");
    log.fail("HcsDetachOverlayFilter", 0x801F_0015);
    let error = System::new().detach_overlay_filter(VOLUME, "{}").unwrap_err();
    assert_eq!(error.code().name(), "ERROR_FLT_INSTANCE_NOT_FOUND");
    log.fail("HcsDestroyLayer", 0x8007_0005);
    let error = System::new().destroy_storage_layer(Path::new(LAYER)).unwrap_err();
    assert_eq!((error.code(), error.subject()), (HResult::ACCESS_DENIED, LAYER));
}
