use sys::windows::{HResult, HostFacts, Privilege, System};

use crate::recording::Recording;

#[test]
fn wine_filters_are_listed_to_the_end_and_the_search_is_closed() {
    let log = Recording::of("fltlib.dll");
    assert_eq!(System::new().filters().unwrap(), ["wcifs", "WdFilter"]);
    let found =
        ["FilterFindFirst 0 4096", "FilterFindNext 0x77 0 4096", "FilterFindNext 0x77 0 4096"];
    let closed = ["FilterFindClose 0x77"];
    assert_eq!(log.lines(), [found.as_slice(), &closed].concat());
    log.fail("FilterFindFirst", 0x8007_0005);
    assert_eq!(System::new().filters().unwrap_err().code(), HResult::ACCESS_DENIED);
    assert_eq!(
        log.lines(),
        ["FilterFindFirst 0 4096"],
        "a search that did not begin is not closed"
    );
}

#[test]
fn wine_every_library_and_entry_point_is_found() {
    // With every recording DLL in place nothing may be missing: the names are those of the C code.
    drop(Recording::of("cimfs.dll"));
    let libraries = System::new().libraries();
    let names: Vec<_> = libraries.iter().map(|library| library.dll).collect();
    assert_eq!(
        names,
        [
            "cimfs.dll",
            "computecore.dll",
            "virtdisk.dll",
            "vmcompute.dll",
            "offreg.dll",
            "computestorage.dll",
            "fltlib.dll"
        ]
    );
    for library in libraries {
        assert_eq!(library.missing, [], "{}", library.dll);
    }
}

#[test]
fn wine_a_privilege_that_is_held_can_be_enabled() {
    let system = System::new();
    let wanted =
        [Privilege::BACKUP, Privilege::RESTORE, Privilege::MANAGE_VOLUME, Privilege::SECURITY];
    system.enable_privileges(&wanted).unwrap();
    let held = system.privileges().unwrap();
    for name in wanted {
        let enabled = Privilege { name: name.to_owned(), enabled: true };
        assert!(held.contains(&enabled), "{name} in {held:?}");
    }
}

#[test]
fn wine_a_privilege_that_is_not_held_is_named() {
    // Wine's tokens lack this one.
    let name = "SeLockMemoryPrivilege";
    let error = System::new().enable_privileges(&[Privilege::BACKUP, name]).unwrap_err();
    assert_eq!((error.code(), error.subject()), (HResult::PRIVILEGE_NOT_HELD, name));
    let error = System::new().enable_privileges(&["SeNoSuchPrivilege"]).unwrap_err();
    assert_eq!(
        (error.code().name(), error.subject()),
        ("ERROR_NO_SUCH_PRIVILEGE", "SeNoSuchPrivilege")
    );
}

#[test]
fn wine_the_version_is_told() {
    let version = System::new().version().unwrap();
    assert!(version.major >= 6 && version.build >= 7600, "{version}");
    // Asking must work; Wine's answer depends on how it is set up.
    System::new().is_elevated().unwrap();
}
