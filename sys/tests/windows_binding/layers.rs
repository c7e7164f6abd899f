use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use sys::windows::{
    CimFs, CimMountFlags, Guid, HResult, LAYER_DIRTY, LayerApi, LayerDescriptor, OfflineRegistry,
    System,
};

use crate::recording::Recording;

const LAYER: &str = r"C:\layers\é";
const SEEN: &str = r#"{1 ""} "C:\layers\<00e9>""#;

fn id() -> Guid {
    Guid::from_u128(0x7cad_cf96_8e6b_5702_8a86_d307_2492_5c2e)
}

fn parents() -> Vec<LayerDescriptor> {
    let other = Guid::from_u128(0x2afd_4900_a4ec_5041_82c5_db5f_9308_9099);
    vec![
        LayerDescriptor { id: id(), path: r"\\?\C:\layers\2".into(), flags: LAYER_DIRTY },
        LayerDescriptor { id: other, path: r"C:\layers\1".into(), flags: 0 },
    ]
}

const PARENTS: &str = r#" 2 { 7cadcf96-8e6b-5702-8a86-d30724925c2e 0x80000000 "\\?\C:\layers\2"} { 2afd4900-a4ec-5041-82c5-db5f93089099 0x0 "C:\layers\1"}"#;

#[test]
fn wine_cimfs_gets_directory_name_flags_and_guid() {
    let log = Recording::of("cimfs.dll");
    let flags = CimMountFlags::CACHE_FILES | CimMountFlags::SINGLE_FILE;
    System::new().mount_image(Path::new(r"C:\cim-layers"), "7.cim", flags, &id()).unwrap();
    System::new().dismount_image(&id()).unwrap();
    assert_eq!(
        log.lines(),
        [
            r#"CimMountImage "C:\cim-layers" "7.cim" 0x24 7cadcf96-8e6b-5702-8a86-d30724925c2e"#,
            "CimDismountImage 7cadcf96-8e6b-5702-8a86-d30724925c2e",
        ]
    );
    log.fail("CimMountImage", 0x8007_00B7);
    let error =
        System::new().mount_image(Path::new(r"C:\cim-layers"), "7.cim", flags, &id()).unwrap_err();
    assert_eq!(error.code(), HResult::ALREADY_EXISTS);
    assert_eq!(
        error.to_string(),
        r"CimMountImage(C:\cim-layers\7.cim): ERROR_ALREADY_EXISTS (0x800700B7): the name or the volume GUID is in use"
    );
}

#[test]
fn wine_vmcompute_gets_the_driver_the_layer_and_the_parents() {
    let log = Recording::of("vmcompute.dll");
    let system = System::new();
    let layer = Path::new(LAYER);
    system.activate_layer(layer).unwrap();
    system.prepare_layer(layer, &parents()).unwrap();
    system.prepare_layer(layer, &[]).unwrap();
    system.unprepare_layer(layer).unwrap();
    system.deactivate_layer(layer).unwrap();
    system.create_layer(layer, "1").unwrap();
    system.create_scratch_layer(layer, &parents()).unwrap();
    system.expand_scratch_size(layer, 0x12_3456_789A).unwrap();
    system.import_layer(layer, Path::new(r"C:\in"), &parents()).unwrap();
    system.export_layer(layer, Path::new(r"C:\out"), &[]).unwrap();
    system.destroy_layer(layer).unwrap();
    assert_eq!(
        log.lines(),
        [
            format!("ActivateLayer {SEEN}"),
            format!("PrepareLayer {SEEN}{PARENTS}"),
            format!("PrepareLayer {SEEN} 0 NULL"),
            format!("UnprepareLayer {SEEN}"),
            format!("DeactivateLayer {SEEN}"),
            format!(r#"CreateLayer {SEEN} "1""#),
            format!("CreateSandboxLayer {SEEN} NULL{PARENTS}"),
            format!("ExpandSandboxSize {SEEN} 0x123456789a"),
            format!(r#"ImportLayer {SEEN} "C:\in"{PARENTS}"#),
            format!(r#"ExportLayer {SEEN} "C:\out" 0 NULL"#),
            format!("DestroyLayer {SEEN}"),
        ]
    );
}

#[test]
fn wine_vmcompute_answers_with_paths_guids_and_texts() {
    let log = Recording::of("vmcompute.dll");
    let system = System::new();
    let volume = "\\\\?\\Volume{7cadcf96-8e6b-5702-8a86-d30724925c2e}\\\u{e9}";
    assert_eq!(system.layer_mount_path(Path::new(LAYER)).unwrap(), volume);
    assert!(system.layer_exists(Path::new(LAYER)).unwrap());
    assert!(!system.layer_exists(Path::new(r"C:\missing")).unwrap());
    assert_eq!(system.name_to_guid("257b019e").unwrap(), id());
    assert_eq!(system.base_images().unwrap(), r#"{"Images":[]}"#);
    system.process_base_layer(Path::new(LAYER)).unwrap();
    system.process_utility_vm_image(Path::new(r"C:\layers\1\UtilityVM")).unwrap();
    system.grant_vm_access("vm", Path::new(r"C:\a.vhdx")).unwrap();
    assert_eq!(
        log.lines(),
        [
            format!("GetLayerMountPath {SEEN} 0 NULL"),
            format!("GetLayerMountPath {SEEN} {} buffer", volume.encode_utf16().count() + 1),
            format!("LayerExists {SEEN}"),
            r#"LayerExists {1 ""} "C:\missing""#.to_owned(),
            r#"NameToGuid "257b019e""#.to_owned(),
            "GetBaseImages".to_owned(),
            r#"ProcessBaseImage "C:\layers\<00e9>""#.to_owned(),
            r#"ProcessUtilityImage "C:\layers\1\UtilityVM""#.to_owned(),
            r#"GrantVmAccess "vm" "C:\a.vhdx""#.to_owned(),
        ]
    );
}

#[test]
fn wine_a_failure_of_vmcompute_keeps_its_code_and_path() {
    let log = Recording::of("vmcompute.dll");
    log.fail("PrepareLayer", 0x8007_0015);
    let error = System::new().prepare_layer(Path::new(r"C:\7"), &parents()).unwrap_err();
    assert_eq!((error.code(), error.subject()), (HResult::NOT_READY, r"C:\7"));
    log.fail("ImportLayer", 0xC037_0112);
    let error =
        System::new().import_layer(Path::new(r"C:\7"), Path::new(r"C:\in"), &[]).unwrap_err();
    assert_eq!(error.code().name(), "HCS_E_INVALID_LAYER");
}

#[test]
fn wine_an_empty_mount_path_is_an_error() {
    let _log = Recording::of("vmcompute.dll");
    let error = System::new().layer_mount_path(Path::new(r"C:\missing")).unwrap_err();
    assert_eq!((error.code(), error.detail()), (HResult::UNSPECIFIED, Some("the path is empty")));
}

#[test]
fn wine_half_a_surrogate_pair_goes_through_and_a_nul_does_not() {
    let log = Recording::of("vmcompute.dll");
    let half = PathBuf::from(OsString::from_wide(&[u16::from(b'C'), 0xD800, u16::from(b'x')]));
    System::new().activate_layer(&half).unwrap();
    assert_eq!(log.lines(), [r#"ActivateLayer {1 ""} "C<d800>x""#]);
    let error = System::new().activate_layer(Path::new("C:\\a\0b")).unwrap_err();
    assert_eq!(error.code(), HResult::NO_UNICODE_TRANSLATION);
    assert_eq!(error.subject(), r"C:\a\0b");
    assert!(log.lines().is_empty());
}

#[test]
fn wine_a_path_of_a_thousand_units_arrives_whole() {
    let log = Recording::of("vmcompute.dll");
    let long = format!(r"\\?\C:\{}", "a".repeat(1000));
    System::new().deactivate_layer(Path::new(&long)).unwrap();
    assert_eq!(log.lines(), [format!(r#"DeactivateLayer {{1 ""}} "{long}""#)]);
}

#[test]
fn wine_offreg_merges_the_base_first_and_closes_every_hive() {
    let log = Recording::of("offreg.dll");
    let system = System::new();
    let base = system.open_hive(Path::new(r"C:\base")).unwrap();
    let delta = system.create_hive().unwrap();
    let merged = system.merge_hives(&[&base, &delta]).unwrap();
    system.save_hive(&merged, Path::new(r"C:\out"), 10, 0).unwrap();
    // Handles are numbered over all tests of the process.
    let number = |hive: &sys::windows::Hive| format!("hive 0x{:x}", hive.value());
    let (base_name, delta_name, merged_name) = (number(&base), number(&delta), number(&merged));
    drop((merged, delta, base));
    assert_eq!(
        log.lines(),
        [
            r#"OROpenHive "C:\base""#.to_owned(),
            "ORCreateHive".to_owned(),
            format!("ORMergeHives 2 {base_name} {delta_name}"),
            format!(r#"ORSaveHive {merged_name} "C:\out" 10 0"#),
            format!("ORCloseHive {merged_name}"),
            format!("ORCloseHive {delta_name}"),
            format!("ORCloseHive {base_name}"),
        ]
    );
    log.fail("OROpenHive", 1017);
    let error = system.open_hive(Path::new(r"C:\no")).unwrap_err();
    assert_eq!(error.code().name(), "ERROR_NOT_REGISTRY_FILE");
    assert_eq!(log.lines().len(), 1, "no hive, nothing to close");
}
