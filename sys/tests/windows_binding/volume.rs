//! What kernel32 does is tested against Wine's own, as far as that goes: it knows neither mount points nor links.

use std::path::Path;

use sys::windows::{HResult, System, VolumeApi};

#[test]
fn wine_only_a_volume_that_is_there_exists() {
    // Wine answers ERROR_BAD_DEV_TYPE, which stays an error; Windows says that there is no such path.
    let name = r"\\?\Volume{7cadcf96-8e6b-5702-8a86-d30724925c2e}";
    assert!(!matches!(System::new().volume_exists(name), Ok(true)));
    assert!(System::new().volume_exists("C:").unwrap());
}

#[test]
fn wine_the_geometry_of_a_volume_is_told() {
    let geometry = System::new().cluster_geometry(r"C:\").unwrap();
    assert!(geometry.bytes_per_sector >= 512 && geometry.sectors_per_cluster >= 1);
    assert!(geometry.clusters > 0);
}

#[test]
fn wine_a_plain_directory_is_no_link_and_only_goes_when_empty() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("file"), "x").unwrap();
    assert!(System::new().read_link(&inner).is_err());
    let error = System::new().remove_directory_link(&inner).unwrap_err();
    assert_eq!(error.code().name(), "ERROR_DIR_NOT_EMPTY");
    std::fs::remove_file(inner.join("file")).unwrap();
    System::new().remove_directory_link(&inner).unwrap();
    assert!(!inner.exists());
}

#[test]
fn wine_a_junction_that_cannot_be_made_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    // Wine refuses reparse data; another Windows would make the junction.
    match System::new().create_junction(&link, Path::new(r"C:\windows")) {
        Err(error) => {
            assert_eq!(error.function(), "FSCTL_SET_REPARSE_POINT");
            assert!(!link.exists());
        }
        Ok(()) => {
            assert_eq!(System::new().read_link(&link).unwrap(), Path::new(r"C:\windows"));
            System::new().remove_directory_link(&link).unwrap();
        }
    }
    // What stood there before is not touched.
    std::fs::create_dir(&link).unwrap();
    let error = System::new().create_junction(&link, Path::new(r"C:\windows")).unwrap_err();
    assert_eq!(error.code(), HResult::ALREADY_EXISTS);
    assert!(link.exists());
}

// Wine fails here without an error number.
#[test]
fn wine_a_missing_directory_is_named() {
    let missing = Path::new(r"C:\plywood-missing\m");
    let error = System::new().delete_volume_mount_point(missing).unwrap_err();
    assert_eq!(error.subject(), r"C:\plywood-missing\m");
    assert!(error.code().is_failure());
}
