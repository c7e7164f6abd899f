use std::path::Path;

use sys::windows::{CimFileMetadata, CimWriter, HResult, System};

use crate::recording::Recording;

/// Replaces the numbers of handles, which count up over all tests of the process.
fn without_numbers(lines: Vec<String>) -> Vec<String> {
    let plain = |line: String| match line.find(" 0x4") {
        Some(at) => format!("{}{}", &line[..at], &line[at + " 0x401".len()..]),
        None => line,
    };
    lines.into_iter().map(plain).collect()
}

#[test]
fn wine_the_writing_dll_is_preferred_and_gets_metadata_data_links_and_deletions() {
    let log = Recording::of("cimwriter.dll");
    let system = System::new();
    let image =
        system.create_image(Path::new(r"C:\cim-layers"), Some("6.cim"), Some("é.cim")).unwrap();
    let metadata = CimFileMetadata {
        attributes: 0x20,
        size: 3,
        creation_time: 1,
        last_write_time: 2,
        change_time: 3,
        last_access_time: 132_539_328_000_000_000,
        security_descriptor: &[1, 0, 4, 0x80],
        reparse_data: &[],
        extended_attributes: &[0xFF],
    };
    let stream = system.create_image_file(&image, Path::new(r"Files\a"), &metadata).unwrap();
    system.write_stream(&stream, b"abc").unwrap();
    system.write_stream(&stream, b"").unwrap();
    drop(stream);
    let stream = system.create_alternate_stream(&image, Path::new(r"Files\a:s"), 1 << 33).unwrap();
    drop(stream);
    let (new, existing) = (Path::new(r"Files\new"), Path::new(r"Files\a"));
    system.create_image_link(&image, new, existing).unwrap();
    system.delete_image_path(&image, Path::new(r"Files\gone")).unwrap();
    system.commit_image(&image).unwrap();
    drop(image);
    assert_eq!(
        without_numbers(log.lines()),
        [
            r#"CimCreateImage "C:\cim-layers" "6.cim" "<00e9>.cim""#,
            r#"CimCreateFile image "Files\a" 0x20 3 times 1 2 3 132539328000000000 01000480 NULL ff"#,
            "CimWriteStream stream 616263",
            "CimCloseStream stream",
            r#"CimCreateAlternateStream image "Files\a:s" 8589934592"#,
            "CimCloseStream stream",
            r#"CimCreateHardLink image "Files\new" "Files\a""#,
            r#"CimDeletePath image "Files\gone""#,
            "CimCommitImage image",
            "CimCloseImage image",
        ]
    );
}

#[test]
fn wine_names_that_are_not_given_are_null() {
    let log = Recording::of("cimwriter.dll");
    drop(System::new().create_image(Path::new("d"), None, Some("n")).unwrap());
    drop(System::new().create_image(Path::new("d"), Some("e"), None).unwrap());
    let lines = log.lines();
    assert_eq!(
        [&*lines[0], &*lines[2]],
        [r#"CimCreateImage "d" NULL "n""#, r#"CimCreateImage "d" "e" NULL"#]
    );
}

#[test]
fn wine_a_stream_closes_before_its_image_in_whatever_order_they_go() {
    let log = Recording::of("cimwriter.dll");
    let system = System::new();
    let image = system.create_image(Path::new("d"), None, Some("n")).unwrap();
    let stream =
        system.create_image_file(&image, Path::new("a"), &CimFileMetadata::default()).unwrap();
    log.lines();
    drop(image);
    assert!(log.lines().is_empty());
    drop(stream);
    assert_eq!(without_numbers(log.lines()), ["CimCloseStream stream", "CimCloseImage image"]);
}

#[test]
fn wine_a_file_that_is_refused_leaves_no_stream() {
    let log = Recording::of("cimwriter.dll");
    let system = System::new();
    let image = system.create_image(Path::new("d"), None, Some("n")).unwrap();
    log.lines();
    log.fail("CimCreateFile", 0x8007_0020);
    let error = system
        .create_image_file(&image, Path::new(r"Files\a"), &CimFileMetadata::default())
        .unwrap_err();
    assert_eq!((error.code(), error.subject()), (HResult::SHARING_VIOLATION, r"Files\a"));
    assert_eq!(log.lines().len(), 1);
    log.fail("CimCreateImage", 0x8007_0050);
    let error = system.create_image(Path::new("d"), None, Some("n")).unwrap_err();
    assert_eq!(error.code().name(), "ERROR_FILE_EXISTS");
    assert_eq!(log.lines().len(), 1, "no image, nothing to close");
}
