//! The steps of windows-layer-tar.md 4.6, 8 and 11 and hcs-layers.md 2.4, and nothing left after a failure at each.

use std::collections::BTreeMap;
use std::io::Read as _;

use sys::windows::HResult;
use sys::windows::recording::Recorder;

use super::*;

struct Place {
    directory: tempfile::TempDir,
    host: Recorder,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tmp")).unwrap();
        Self { directory, host: Recorder::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn import(&self, tar: &[u8], parents: &[&str]) -> Result<LayerBlob> {
        let parents: Vec<PathBuf> = parents.iter().map(|parent| self.path(parent)).collect();
        let (options, cancel) = (LayerOptions::default(), Cancel::new());
        import_layer_folder(
            &self.host,
            tar,
            &self.path("new"),
            &parents,
            &self.path("tmp"),
            &options,
            &(),
            &cancel,
        )
    }

    /// Calls without this test's directory.
    fn calls(&self) -> Vec<String> {
        let root = format!("{}/", self.directory.path().display()).replace('\\', "/");
        let shorten = |line: String| line.replace('\\', "/").replace(&root, "");
        self.host.take_lines().into_iter().map(shorten).collect()
    }

    fn clean(&self) {
        fs::remove_dir_all(self.path("tmp")).unwrap();
        fs::create_dir(self.path("tmp")).unwrap();
    }
}

/// A layer: `d` directories, files by their content, `-> x` links.
fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, what) in entries {
        let attributes: &[u8] = if *what == "d" { b"16" } else { b"32" };
        tar.append_pax_extensions([("MSWINDOWS.fileattr", attributes)]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_705_320_000);
        header.set_size(0);
        match what.strip_prefix("-> ") {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, path, target).unwrap();
            }
            None if *what == "d" => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, path, io::empty()).unwrap();
            }
            None => {
                header.set_size(what.len() as u64);
                tar.append_data(&mut header, path, what.as_bytes()).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn base() -> Vec<u8> {
    layer(&[
        ("Files", "d"),
        ("Files/a", "one"),
        ("Files/d", "d"),
        ("Files/d/h", "-> Files/a"),
        ("UtilityVM", "d"),
        ("UtilityVM/Files", "d"),
        ("UtilityVM/Files/v", "vm"),
    ])
}

const RIGHTS: &str =
    "AdjustTokenPrivileges(SeBackupPrivilege, SeRestorePrivilege, SeSecurityPrivilege)";

// Times: 1705320000 is 133497936000000000 (windows-layer-tar.md 19, 1).
const BASE: [&str; 20] = [
    RIGHTS,
    "CreateFileW(new/Files, directory, 0x10, security true)",
    "BackupWrite(new/Files)",
    "CreateFileW(new/Files/a, file, 0x20, security true)",
    "BackupWrite(new/Files/a)",
    "CreateFileW(new/Files/d, directory, 0x10, security true)",
    "BackupWrite(new/Files/d)",
    "CreateHardLinkW(new/Files/d/h, new/Files/a)",
    "CreateFileW(new/UtilityVM, directory, 0x10, security true)",
    "BackupWrite(new/UtilityVM)",
    "CreateFileW(new/UtilityVM/Files, directory, 0x10, security true)",
    "BackupWrite(new/UtilityVM/Files)",
    "CreateFileW(new/UtilityVM/Files/v, file, 0x20, security true)",
    "BackupWrite(new/UtilityVM/Files/v)",
    // Directories once more, the last first: what is made in them has moved their times.
    "SetFileInformationByHandle(new/UtilityVM/Files, 0x10, 133497936000000000)",
    "SetFileInformationByHandle(new/UtilityVM, 0x10, 133497936000000000)",
    "SetFileInformationByHandle(new/Files/d, 0x10, 133497936000000000)",
    "SetFileInformationByHandle(new/Files, 0x10, 133497936000000000)",
    "ProcessBaseImage(new)",
    "ProcessUtilityImage(new/UtilityVM)",
];

#[test]
fn a_base_layer_is_written_in_place_and_processed() {
    let place = Place::new();
    let blob = place.import(&base(), &[]).unwrap();
    assert_eq!(blob.diff_id, layer::Digest::of(&base()));
    assert_eq!(place.calls(), BASE);
    // A record of security, then the data: windows-layer-tar.md 13.
    let stream = fs::read(place.path("new/Files/a")).unwrap();
    assert_eq!((stream[0], &stream[stream.len() - 3..]), (3, &b"one"[..]));
    let again = place.import(&base(), &[]).unwrap_err();
    assert_eq!(again.kind(), crate::ErrorKind::FailedPrecondition, "it is not empty");
}

#[test]
fn a_base_layer_that_fails_at_any_step_leaves_an_empty_folder() {
    for step in 1..=BASE.len() {
        let place = Place::new();
        place.host.fail_at(step, HResult::ACCESS_DENIED);
        place.import(&base(), &[]).unwrap_err();
        let calls = place.calls();
        assert_eq!(calls[..step], BASE[..step], "{step}");
        // The first two make nothing yet.
        let undone = if step <= 2 { vec![] } else { vec!["DestroyLayer(new)".to_owned()] };
        assert_eq!(calls[step..], undone, "{step}");
        assert!(fs::read_dir(place.path("new")).unwrap().next().is_none(), "{step}");
        assert!(fs::read_dir(place.path("tmp")).unwrap().next().is_none());
        place.import(&base(), &[]).unwrap();
    }
}

fn upper() -> Vec<u8> {
    layer(&[
        ("Files", "d"),
        ("Files/.wh.gone", ""),
        ("Files/b", "two"),
        ("Files/d", "d"),
        ("Files/d/l", "-> Files/a"),
        ("Files/d/m", "-> Files/b"),
        ("Hives", "d"),
        ("Hives/System_Delta", "hive"),
    ])
}

const UPPER: [&str; 17] = [
    RIGHTS,
    "NameToGuid(top)",
    "NameToGuid(base)",
    "SetFileInformationByHandle(tmp/import/Files.$wcidirs$, 0x0, 133497936000000000)",
    "SetFileInformationByHandle(tmp/import/Files/b, 0x0, 133497936000000000)",
    "SetFileInformationByHandle(tmp/import/Files/d.$wcidirs$, 0x0, 133497936000000000)",
    "SetFileInformationByHandle(tmp/import/Hives.$wcidirs$, 0x0, 133497936000000000)",
    "CreateFileW(tmp/import/Hives/System_Delta, file, 0x20, security false)",
    "BackupWrite(tmp/import/Hives/System_Delta)",
    "ImportLayer(new, tmp/import, […])",
    // Deletions, then links, then the times of directories.
    "DeleteFileW(new/Files/gone)",
    "DeleteFileW(new/Files/d/l)",
    "CreateHardLinkW(new/Files/d/l, base/Files/a)",
    "DeleteFileW(new/Files/d/m)",
    "CreateHardLinkW(new/Files/d/m, new/Files/b)",
    "SetFileInformationByHandle(new/Files/d, 0x10, 133497936000000000)",
    "SetFileInformationByHandle(new/Files, 0x10, 133497936000000000)",
];

/// The parents' GUIDs are the double's own.
fn shortened(calls: Vec<String>) -> Vec<String> {
    let short = |line: String| match line.split_once(", [") {
        Some((head, _)) => format!("{head}, […])"),
        None => line,
    };
    calls.into_iter().map(short).collect()
}

fn with_parents() -> Place {
    let place = Place::new();
    for parent in ["top", "base"] {
        fs::create_dir_all(place.path(parent).join("Files")).unwrap();
    }
    fs::write(place.path("base/Files/a"), "below").unwrap();
    place
}

#[test]
fn a_layer_on_others_is_imported_by_windows() {
    let place = with_parents();
    place.import(&upper(), &["top", "base"]).unwrap();
    assert_eq!(shortened(place.calls()), UPPER);
    // Attributes, then the stream (windows-layer-tar.md 4.6); the hive as it is.
    let stored = fs::read(place.path("tmp/import/Files/b")).unwrap();
    assert_eq!(stored[..8], [0x20, 0, 0, 0, 3, 0, 0, 0]);
    assert!(stored.ends_with(b"two"));
    let directory = fs::read(place.path("tmp/import/Files/d.$wcidirs$")).unwrap();
    assert_eq!(directory, [0x10, 0, 0, 0], "what is below keeps its security");
    assert_eq!(fs::read(place.path("new/Files/d/l")).unwrap(), b"below");
}

#[test]
fn a_layer_on_others_that_fails_at_any_step_leaves_an_empty_folder() {
    for step in 1..=UPPER.len() {
        let place = with_parents();
        place.host.fail_at(step, HResult::SHARING_VIOLATION);
        place.import(&upper(), &["top", "base"]).unwrap_err();
        let calls = shortened(place.calls());
        assert_eq!(calls[..step], UPPER[..step], "{step}");
        let undone = if step > 10 { vec!["DestroyLayer(new)".to_owned()] } else { vec![] };
        assert_eq!(calls[step..], undone, "{step}");
        assert!(fs::read_dir(place.path("new")).unwrap().next().is_none(), "{step}");
        place.clean();
        place.import(&upper(), &["top", "base"]).unwrap();
    }
}

#[test]
fn what_cannot_be_imported_is_refused_before_windows_is_asked() {
    for (entries, reason) in [
        (&[("Files", "d"), ("UtilityVM", "d")][..], "utility virtual machine"),
        (&[("Files", "d"), ("Files/x.$wcidirs$", "")], "for itself"),
        (&[("Files", "d"), ("Hives", "d"), ("Hives/h", "-> Files/a")], "only files in Files"),
        (&[("Files", "d"), ("UtilityVM/Files/.wh.x", "")], "utility virtual machine"),
    ] {
        let place = with_parents();
        let error = place.import(&layer(entries), &["base"]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported, "{reason}");
        let text = std::error::Error::source(&error).unwrap().to_string() + &format!("{error:?}");
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(!place.calls().iter().any(|call| call.starts_with("ImportLayer")));
        assert!(fs::read_dir(place.path("new")).unwrap().next().is_none());
    }
    let place = with_parents();
    let lost = layer(&[("Files", "d"), ("Files/l", "-> Files/nowhere")]);
    assert_eq!(place.import(&lost, &["base"]).unwrap_err().kind(), crate::ErrorKind::Invalid);
    assert!(fs::read_dir(place.path("new")).unwrap().next().is_none());
}

/// Names, and contents or link targets.
fn listed(tar: &[u8]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut what = String::new();
        entry.read_to_string(&mut what).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            what = format!("-> {}", target.display());
        }
        found.insert(path, what);
    }
    found
}

#[test]
fn a_base_layer_is_packed_again() {
    let place = Place::new();
    place.import(&base(), &[]).unwrap();
    fs::write(place.path("new/layout"), "made by Windows").unwrap();
    fs::create_dir(place.path("new/Files/$RECYCLE.BIN")).unwrap();
    place.calls();
    let mut tar = Vec::new();
    let (new, tmp) = (place.path("new"), place.path("tmp"));
    export_layer_folder(&place.host, &new, &[], &tmp, &mut tar, &Cancel::new()).unwrap();
    // Data is read a second time.
    let reads = |path: &str| format!("BackupRead({path}, security true)");
    let expected = [
        "new/Files",
        "new/Files/a",
        "new/Files/a",
        "new/Files/d",
        "new/UtilityVM",
        "new/UtilityVM/Files",
        "new/UtilityVM/Files/v",
        "new/UtilityVM/Files/v",
    ];
    let calls = place.calls();
    assert_eq!((calls[0].as_str(), &calls[1..]), (RIGHTS, &expected.map(reads)[..]));
    let found = listed(&tar);
    assert_eq!(found, listed(&base()));
    // It makes the same folder once more.
    fs::remove_dir_all(&new).unwrap();
    place.import(&tar, &[]).unwrap();
    assert_eq!(place.calls(), BASE);
    for step in 1..=8 {
        let mut tar = Vec::new();
        let calls = place.host.calls();
        place.host.fail_at(calls + step, HResult::ACCESS_DENIED);
        export_layer_folder(&place.host, &new, &[], &tmp, &mut tar, &Cancel::new()).unwrap_err();
    }
}

#[test]
fn what_windows_exports_is_packed_with_its_deletions() {
    let place = with_parents();
    place.import(&upper(), &["top", "base"]).unwrap();
    place.calls();
    let export = place.path("tmp/import");
    let list = "\u{feff}Version 1.0\r\n\\gone\r\n\\d\\old\r\n\\D\\older\n";
    fs::write(export.join(TOMBSTONES), list).unwrap();
    let mut output = Vec::new();
    let mut tar = FolderTar::new(&mut output);
    exported::write(&place.host, &export, &mut tar, &Cancel::new()).unwrap();
    assert_eq!(tar.finish().unwrap().whiteouts, 3);
    let found = listed(&output);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "Files",
            "Files/.wh.gone",
            "Files/b",
            "Files/d",
            "Files/d/.wh.old",
            "Files/d/.wh.older",
            "Hives",
            "Hives/System_Delta",
        ]
    );
    assert_eq!((found["Files/b"].as_str(), found["Hives/System_Delta"].as_str()), ("two", "hive"));
    // Microsoft's exporter has whiteouts behind their directory and before what is in it.
    let order = |name: &str| output.windows(name.len()).position(|it| it == name.as_bytes());
    assert!(order("Files/.wh.gone") < order("Files/b"));

    for (list, reason) in [
        ("Version 2.0\n", "another version"),
        ("Version 1.0\nx\n", "deletion of"),
        ("Version 1.0\n\\..\\x\n", "deletion of"),
        ("Version 1.0\n\\nowhere\\x\n", "does not have"),
    ] {
        fs::write(export.join(TOMBSTONES), list).unwrap();
        let mut tar = FolderTar::new(Vec::new());
        let error = exported::write(&place.host, &export, &mut tar, &Cancel::new()).unwrap_err();
        assert!(format!("{error:?}").contains(reason), "{reason}: {error:?}");
    }
}

#[test]
fn a_scratch_is_attached_while_it_is_exported_and_never_after() {
    // hcs-layers.md 2.1: activate, prepare and unprepare once, export, deactivate.
    let steps = [
        RIGHTS,
        "NameToGuid(base)",
        "ActivateLayer(new)",
        "PrepareLayer(new, […])",
        "UnprepareLayer(new)",
        "ExportLayer(new, tmp/export, […])",
        "DeactivateLayer(new)",
    ];
    for step in 1..=steps.len() {
        let place = with_parents();
        place.host.fail_at(step, HResult::SHARING_VIOLATION);
        let (new, tmp) = (place.path("new"), place.path("tmp"));
        let parents = [place.path("base")];
        let error =
            export_layer_folder(&place.host, &new, &parents, &tmp, Vec::new(), &Cancel::new())
                .unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::FailedPrecondition, "{step}");
        let calls = shortened(place.calls());
        assert_eq!(calls[..step], steps[..step]);
        let attached = (4..=6).contains(&step);
        assert_eq!(calls.len() > step, attached, "{step}: {calls:?}");
        assert!(!attached || calls.last().unwrap() == "DeactivateLayer(new)");
    }
    // The double exports nothing, which is no layer.
    let place = with_parents();
    let (new, tmp) = (place.path("new"), place.path("tmp"));
    let parents = [place.path("base")];
    let nothing =
        export_layer_folder(&place.host, &new, &parents, &tmp, Vec::new(), &Cancel::new());
    assert_eq!(nothing.unwrap_err().kind(), crate::ErrorKind::Corrupt);
    assert_eq!(shortened(place.calls()), steps);
}
