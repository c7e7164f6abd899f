//! The verbs over the recording double, compared with hcs-layers.md 1.3 and 2.1.

#![allow(clippy::unwrap_used)]

use sys::windows::HResult;
use sys::windows::recording::Recorder;

#[cfg(target_os = "linux")]
use crate::exit::Exit;

use crate::cli::{WclayerExportArgs, WclayerImportArgs};

use super::*;

const SCRATCH: &str = r"C:\layers\scratch";

fn layers(run: &Path) -> (WindowsLayers, Recorder) {
    let api = Recorder::new();
    let host: Arc<dyn Host> = Arc::new(api.clone());
    let folders = Folders::below(run);
    let retry = Retry::never();
    (WindowsLayers::open(host, folders, run, retry, WAIT).unwrap(), api)
}

fn on(parents: &[&str]) -> WclayerArgs {
    WclayerArgs { layers: parents.iter().map(PathBuf::from).collect(), path: SCRATCH.into() }
}

fn only() -> WclayerPathArgs {
    WclayerPathArgs { path: SCRATCH.into() }
}

/// The calls, each function with its first argument.
fn calls(api: &Recorder) -> Vec<String> {
    let first = |line: String| {
        let end = line.find(',').unwrap_or(line.len() - 1);
        line[..end].to_owned() + ")"
    };
    api.take_lines().into_iter().map(first).collect()
}

fn scratch(functions: &[&str]) -> Vec<String> {
    functions.iter().map(|function| format!("{function}({SCRATCH})")).collect()
}

#[test]
fn a_scratch_is_created_mounted_unmounted_and_removed() {
    let run = tempfile::tempdir().unwrap();
    let (layers, api) = layers(run.path());
    let perform = |verb| perform(&layers, &verb, &Cancel::new());
    let parents = || on(&[r"C:\layers\top", r"C:\layers\base"]);
    assert_eq!(perform(WclayerVerb::Create(parents())).unwrap(), None);
    let ids = ["NameToGuid(top)".to_owned(), "NameToGuid(base)".to_owned()];
    let created = scratch(&["CreateSandboxLayer"]);
    assert_eq!(calls(&api), [&ids[..], &created].concat());

    api.answer("GetLayerMountPath", r"\\?\Volume{6f1b}\");
    let volume = perform(WclayerVerb::Mount(parents())).unwrap();
    assert_eq!(volume.as_deref(), Some(r"\\?\Volume{6f1b}"));
    let mounted = scratch(&["ActivateLayer", "PrepareLayer", "GetLayerMountPath"]);
    assert_eq!(calls(&api), [&ids[..], &mounted].concat());
    // Twice is a mistake, and changes nothing.
    assert!(perform(WclayerVerb::Mount(parents())).is_err());
    calls(&api);

    assert_eq!(perform(WclayerVerb::Unmount(only())).unwrap(), None);
    let unmounted = scratch(&["UnprepareLayer", "DeactivateLayer"]);
    assert_eq!(calls(&api), unmounted);
    // What another tool mounted.
    perform(WclayerVerb::Unmount(only())).unwrap();
    assert_eq!(calls(&api), unmounted);
    perform(WclayerVerb::Remove(only())).unwrap();
    assert_eq!(calls(&api), scratch(&["DestroyLayer"]));
}

#[test]
fn a_failure_at_every_step_leaves_nothing_attached() {
    let run = tempfile::tempdir().unwrap();
    let (layers, api) = layers(run.path());
    let base = || on(&[r"C:\layers\base"]);
    for step in 1..=4 {
        api.fail_at(api.calls() + step, HResult::ACCESS_DENIED);
        let failed = perform(&layers, &WclayerVerb::Mount(base()), &Cancel::new());
        let text = format!("{:#}", failed.unwrap_err());
        assert!(text.contains("ERROR_ACCESS_DENIED"), "{text}");
        api.heal();
        let count = |name: &str, lines: &[String]| {
            lines.iter().filter(|line| line.starts_with(name)).count()
        };
        let lines = calls(&api);
        assert_eq!(count("DeactivateLayer", &lines), usize::from(step > 2), "{step}: {lines:?}");
        assert_eq!(count("UnprepareLayer", &lines), usize::from(step > 3), "{step}: {lines:?}");
    }
    // The filter is stuck: the disk is tried all the same, and the reason told.
    api.fail_once("UnprepareLayer", HResult::BUSY);
    let failed = perform(&layers, &WclayerVerb::Unmount(only()), &Cancel::new());
    assert!(format!("{:#}", failed.unwrap_err()).contains("did not mount"));
    assert_eq!(calls(&api), scratch(&["UnprepareLayer", "DeactivateLayer"]));
    api.fail_once("DestroyLayer", HResult::SHARING_VIOLATION);
    let failed = perform(&layers, &WclayerVerb::Remove(only()), &Cancel::new());
    assert!(format!("{:#}", failed.unwrap_err()).contains("ERROR_SHARING_VIOLATION"));
}

#[test]
fn paths_and_parents_that_cannot_be_are_refused_before_windows_is_asked() {
    let run = tempfile::tempdir().unwrap();
    let (layers, api) = layers(run.path());
    for (parents, scratch) in [
        (vec![r"layers\base"], SCRATCH),
        (vec![r"C:\layers\base"], r"C:scratch"),
        (vec![r"C:\layers\base"], r"\\.\pipe\x"),
        (vec![r"C:\layers\base", r"c:\LAYERS\base"], SCRATCH),
        (vec![SCRATCH], SCRATCH),
        (vec![], SCRATCH),
    ] {
        let args = || WclayerArgs { path: scratch.into(), ..on(&parents) };
        for verb in [WclayerVerb::Create(args()), WclayerVerb::Mount(args())] {
            assert!(perform(&layers, &verb, &Cancel::new()).is_err(), "{parents:?} {scratch}");
        }
    }
    assert_eq!(api.lines(), [""; 0]);
}

#[cfg(target_os = "linux")]
/// What is said where there is no Windows: code 8, and what to do instead.
#[test]
fn elsewhere_the_answer_is_what_works_there() {
    for (verb, instead) in [
        (WclayerVerb::Create(on(&["x"])), "plywood snapshot prepare"),
        (WclayerVerb::Mount(on(&["x"])), "plywood mount"),
        (WclayerVerb::Unmount(only()), "plywood umount"),
        (WclayerVerb::Remove(only()), "plywood cim destroy"),
    ] {
        let Err(error) = imp::host(&verb) else { panic!("{verb:?}") };
        assert_eq!(crate::exit::code(&error), Exit::NotSupported);
        assert!(crate::exit::hints(&error)[0].contains(instead), "{verb:?}");
    }
}

/// A base layer: `Files` with a file in it.
fn base_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in [("Files", None), ("Files/a", Some("one"))] {
        let attributes: &[u8] = if text.is_none() { b"16" } else { b"32" };
        tar.append_pax_extensions([("MSWINDOWS.fileattr", attributes)]).unwrap();
        let mut header = tar::Header::new_ustar();
        let text = text.unwrap_or_else(|| {
            header.set_entry_type(tar::EntryType::Directory);
            ""
        });
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn a_layer_folder_is_imported_and_exported() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::write(at("in.tar"), base_tar()).unwrap();
    let api = Recorder::new();
    let (layer, cancel) = (at("layer"), Cancel::new());
    let import = |path: &Path| {
        let args = WclayerImportArgs {
            layers: Vec::new(),
            input: Some(at("in.tar")),
            path: path.to_owned(),
        };
        folders::import(&api, &args, &cancel)
    };
    api.fail_once("ProcessBaseImage", HResult::ACCESS_DENIED);
    let failed = import(&layer).unwrap_err();
    assert!(format!("{failed:#}").contains("ERROR_ACCESS_DENIED"), "{failed:#}");
    let names = || {
        let names = std::fs::read_dir(place.path()).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["in.tar"], "nothing is left");
    import(&layer).unwrap();
    assert!(layer.join("Files/a").is_file());
    assert!(import(&layer).is_err(), "it is not empty");

    let export = |output: Option<PathBuf>, gzip| {
        let args = WclayerExportArgs { layers: Vec::new(), output, path: layer.clone(), gzip };
        let mut stream = Vec::new();
        folders::export(&api, &args, &mut stream, &cancel).map(|()| stream)
    };
    export(Some(at("out.tar")), false).unwrap();
    let tar = export(None, false).unwrap();
    assert_eq!(tar, std::fs::read(at("out.tar")).unwrap());
    assert_eq!(export(None, true).unwrap()[..2], [0x1F, 0x8B]);
    let mut archive = tar::Archive::new(tar.as_slice());
    let paths = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string());
    assert_eq!(paths.collect::<Vec<_>>(), ["Files", "Files/a"]);
    api.fail_once("BackupRead", HResult::SHARING_VIOLATION);
    assert!(export(Some(at("bad.tar")), false).is_err());
    assert_eq!(names(), ["in.tar", "layer", "out.tar"]);
}
