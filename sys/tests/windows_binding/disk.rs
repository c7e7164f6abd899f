use std::path::Path;

use sys::windows::{AttachFlags, DiskAccess, DiskApi, HResult, NewDisk, System};
use windows_sys::Win32::Foundation::{GetHandleInformation, HANDLE};

use crate::recording::Recording;

const VHDX: &str = "{3 ec984aec-a0f9-47e9-901f-71415a66345b}";
const NO_TYPE: &str = "{0 00000000-0000-0000-0000-000000000000}";
const NO_GUID: &str = "00000000-0000-0000-0000-000000000000";

#[test]
fn wine_virtdisk_makes_a_vhdx_with_and_without_a_parent() {
    let log = Recording::of("virtdisk.dll");
    let system = System::new();
    let plain = NewDisk { size: 20 << 30, block_size: 1 << 20, parent: None };
    system.create_disk(Path::new(r"C:\blank-base.vhdx"), &plain).unwrap();
    let parent = Some(r"C:\blank-base.vhdx".into());
    let differencing = NewDisk { size: 0, block_size: 1 << 20, parent };
    system.create_disk(Path::new(r"C:\blank.vhdx"), &differencing).unwrap();
    assert_eq!(
        log.lines(),
        [
            format!(
                r#"CreateVirtualDisk {VHDX} "C:\blank-base.vhdx" 0x0 NULL 0x0 0x0 version 2 {NO_GUID} size 0x500000000 block 0x100000 sector 0 0 parent NULL source NULL open 0x0 {NO_TYPE} NULL"#
            ),
            format!(
                r#"CreateVirtualDisk {VHDX} "C:\blank.vhdx" 0x0 NULL 0x0 0x0 version 2 {NO_GUID} size 0x0 block 0x100000 sector 0 0 parent "C:\blank-base.vhdx" source NULL open 0x0 {NO_TYPE} NULL"#
            ),
        ]
    );
}

#[test]
fn wine_virtdisk_opens_attaches_expands_and_detaches() {
    let log = Recording::of("virtdisk.dll");
    let system = System::new();
    let disk = system.open_disk(Path::new(r"C:\a.vhdx"), DiskAccess::empty()).unwrap();
    let flags = AttachFlags::NO_DRIVE_LETTER | AttachFlags::BYPASS_DEFAULT_ENCRYPTION_POLICY;
    system.attach_disk(&disk, flags).unwrap();
    let path = system.disk_physical_path(&disk).unwrap();
    assert_eq!(path, format!(r"\\.\PhysicalDrive{:072}", 7));
    system.expand_disk(&disk, 0x10_0000_0000).unwrap();
    system.detach_disk(&disk).unwrap();
    drop(system.open_disk(Path::new(r"C:\b.vhdx"), DiskAccess::ATTACH_READ_ONLY).unwrap());
    assert_eq!(
        log.lines(),
        [
            format!(
                r#"OpenVirtualDisk {NO_TYPE} "C:\a.vhdx" 0x0 0x0 version 2 info 0 read-only 0"#
            ),
            "AttachVirtualDisk there NULL 0x22 0x0 version 1 NULL".to_owned(),
            "GetVirtualDiskPhysicalPath there 128".to_owned(),
            "GetVirtualDiskPhysicalPath there 2048".to_owned(),
            "ExpandVirtualDisk there 0x0 version 1 size 0x1000000000 NULL".to_owned(),
            "DetachVirtualDisk there 0x0 0x0".to_owned(),
            format!(r#"OpenVirtualDisk {NO_TYPE} "C:\b.vhdx" 0x10000 0x0 version 1 depth 1"#),
        ]
    );
}

#[test]
fn wine_a_disk_is_closed_on_drop() {
    let _log = Recording::of("virtdisk.dll");
    let disk = System::new().open_disk(Path::new(r"C:\a.vhdx"), DiskAccess::empty()).unwrap();
    let value = disk.value();
    assert!(is_open(value));
    drop(disk);
    assert!(!is_open(value));
}

fn is_open(handle: usize) -> bool {
    let mut flags = 0;
    // SAFETY: fails for a handle that is closed; the flags outlive the call.
    unsafe { GetHandleInformation(handle as HANDLE, &raw mut flags) != 0 }
}

#[test]
fn wine_an_error_number_of_virtdisk_becomes_an_hresult() {
    let log = Recording::of("virtdisk.dll");
    let cases = [
        (0x20, 0x8007_0020, "ERROR_SHARING_VIOLATION"),
        (0xC03A_001A, 0xC03A_001A, "ERROR_VIRTUAL_DISK_LIMITATION"),
    ];
    for (number, bits, name) in cases {
        log.fail("OpenVirtualDisk", number);
        let error =
            System::new().open_disk(Path::new(r"C:\a.vhdx"), DiskAccess::empty()).unwrap_err();
        assert_eq!(error.code(), HResult::from_bits(bits));
        assert_eq!(error.code().name(), name);
    }
}
