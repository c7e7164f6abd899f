//! Snapshots on Windows hosts, over the recording double of Windows' functions. **Never run on a real HCS host.**
//! The sequences are those of containerd.md 12 and hcs-layers.md 2.

#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fixture::{add_cim, commit, kind, labels, prepare, staged_cim, view};
use store::{
    CommitOptions, ErrorKind, FsckOptions, HostForm, Labels, OpenOptions, Scratch, Snapshot, Store,
    WindowsHost,
};
use sys::windows::HResult;
use sys::windows::recording::Recorder;

const VM: &str = "containerd.io/snapshot/io.microsoft.vm.storage.scratch";
const BYTES: &str = "containerd.io/snapshot/windows/rootfs.sizebytes";
const GB: &str = "containerd.io/snapshot/io.microsoft.container.storage.rootfs.size-gb";

struct OnWindows {
    directory: tempfile::TempDir,
    form: HostForm,
    api: Recorder,
    store: Store,
}

impl OnWindows {
    fn new(form: HostForm) -> Self {
        let shm = Path::new("/dev/shm");
        let directory = match shm.is_dir() {
            true => tempfile::tempdir_in(shm).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        let api = Recorder::new();
        let store = open(directory.path(), form, &api);
        Self { directory, form, api, store }
    }

    fn reopened(self) -> Self {
        let Self { directory, form, api, store } = self;
        drop(store);
        let store = open(directory.path(), form, &api);
        Self { directory, form, api, store }
    }

    fn folder(&self, snapshot: &Snapshot) -> PathBuf {
        self.store.root().join("snapshots").join(snapshot.id.to_string())
    }

    /// The calls since the last time, the store's root shortened and staging directories without their names.
    fn calls(&self) -> Vec<String> {
        let root = format!("{}/", self.store.root().display()).replace('\\', "/");
        let shorten = |line: String| {
            let line = line.replace('\\', "/").replace(&root, "");
            match line.split_once("staging/") {
                None => line,
                Some(_) => {
                    let mut parts = line.split("staging/");
                    let first = parts.next().unwrap().to_owned();
                    parts.fold(first, |line, part| line + "staging/X" + &part[16..])
                }
            }
        };
        self.api.take_lines().into_iter().map(shorten).collect()
    }

    /// A committed layer folder, as containerd's differ fills it.
    fn layer(&self, name: &str, parent: &str) -> Snapshot {
        let active = prepare(&self.store, &format!("extract {name}"), parent).unwrap();
        let folder = self.folder(&active);
        std::fs::create_dir(folder.join("Files")).unwrap();
        std::fs::write(folder.join("Files").join(name), name).unwrap();
        if parent.is_empty() {
            std::fs::write(folder.join("blank.vhdx"), "blank").unwrap();
            std::fs::create_dir(folder.join("UtilityVM")).unwrap();
            std::fs::write(folder.join("UtilityVM/SystemTemplate.vhdx"), "system").unwrap();
        }
        let committed = commit(&self.store, name, &format!("extract {name}")).unwrap();
        assert_eq!(committed.id, active.id);
        committed
    }

    fn codes(&self) -> Vec<String> {
        let report = self.store.fsck(FsckOptions::default()).unwrap();
        report.findings.into_iter().map(|finding| finding.code.to_string()).collect()
    }

    /// Nothing but the directories of these snapshots, and nothing half made.
    fn assert_only(&self, snapshots: &[&Snapshot]) {
        let names = |directory: &str| -> Vec<String> {
            let entries = std::fs::read_dir(self.store.root().join(directory)).unwrap();
            let mut names: Vec<String> =
                entries.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let mut wanted: Vec<String> = snapshots.iter().map(|it| it.id.to_string()).collect();
        wanted.sort();
        assert_eq!(names("snapshots"), wanted);
        assert_eq!(names("staging"), [""; 0]);
        assert!(names("").iter().all(|name| !name.starts_with("rm-")));
    }
}

fn open(directory: &Path, form: HostForm, api: &Recorder) -> Store {
    let host = WindowsHost::new(form, Arc::new(api.clone()));
    Store::open_on(&directory.join("root"), OpenOptions::default(), Some(host)).unwrap()
}

fn prepare_with(store: &Store, key: &str, parent: &str, pairs: &[(&str, &str)]) -> Snapshot {
    try_prepare(store, key, parent, pairs).unwrap()
}

fn try_prepare(
    store: &Store,
    key: &str,
    parent: &str,
    pairs: &[(&str, &str)],
) -> store::Result<Snapshot> {
    let parent = Some(parent.as_bytes());
    store.prepare(key.as_bytes(), parent, labels(pairs), Scratch::Directory)
}

fn guid(name: &str) -> sys::windows::Guid {
    sys::windows::Guid::new_v5(&sys::windows::Guid::nil(), name.as_bytes())
}

#[test]
fn builds_that_lack_cims_are_told_which_have_them() {
    for (build, revision, good) in [
        (17763, 1, false),
        (20348, 2030, false),
        (20348, 2031, true),
        (22621, 9999, false),
        (26100, 0, true),
        (26200, 1, true),
    ] {
        assert!(HostForm::Folders.check_build(build, revision).is_ok());
        let checked = HostForm::Cims.check_build(build, revision);
        assert_eq!(checked.is_ok(), good, "{build}.{revision}");
        if let Err(error) = checked {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = error.to_string();
            for part in ["20348.2031", "26100", &format!("{build}.{revision}")] {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}

#[test]
fn layer_folders_live_as_containerds_windows_snapshotter_has_them() {
    let host = OnWindows::new(HostForm::Folders);
    let store = &host.store;
    // Without a parent: nothing where a layer is unpacked into, `Files` elsewhere.
    let active = prepare(store, "extract base", "").unwrap();
    assert_eq!(std::fs::read_dir(host.folder(&active)).unwrap().count(), 0);
    assert_eq!(kind(commit(store, "base", "extract base")), ErrorKind::FailedPrecondition);
    store.remove(b"extract base").unwrap();
    let empty = prepare(store, "empty", "").unwrap();
    assert!(host.folder(&empty).join("Files").is_dir());
    assert!(!host.folder(&empty).join("sandbox.vhdx").exists());
    store.remove(b"empty").unwrap();
    assert_eq!(host.calls(), [format!("DestroyLayer(rm-going-{})", empty.id)]);

    let base = host.layer("base", "");
    let top = host.layer("top", "base");
    assert_eq!(host.calls(), [""; 0], "the differ fills folders, not the store");
    let list = std::fs::read_to_string(host.folder(&top).join("layerchain.json")).unwrap();
    let chain: Vec<PathBuf> = serde_json::from_str(&list).unwrap();
    assert_eq!(chain, [host.folder(&base)]);
    assert!(top.usage.size > 0 && top.usage.inodes >= 3, "{:?}", top.usage);

    // A container's disk is a copy of the base's, whatever lies between.
    let container = prepare(store, "container", "top").unwrap();
    let folder = host.folder(&container);
    assert_eq!(std::fs::read(folder.join("sandbox.vhdx")).unwrap(), b"blank");
    assert!(!folder.join("vm").exists());
    let list = std::fs::read_to_string(folder.join("layerchain.json")).unwrap();
    let chain: Vec<PathBuf> = serde_json::from_str(&list).unwrap();
    assert_eq!(chain, [host.folder(&top), host.folder(&base)]);
    assert!(store.usage(b"container").unwrap().size > 0);
    // So has a view one.
    let look = view(store, "look", "top").unwrap();
    assert!(host.folder(&look).join("sandbox.vhdx").is_file());
    let seen = store.everything().windows_chain(b"look").unwrap();
    assert_eq!((seen.form, seen.cim.as_ref()), (HostForm::Folders, None));
    let below: Vec<PathBuf> = seen.parents.into_iter().map(|parent| parent.folder).collect();
    assert_eq!((seen.folder, below), (host.folder(&look), chain));
    assert_eq!(host.codes(), [""; 0]);
    host.assert_only(&[&base, &top, &container, &look]);

    // All of it is there after the next opening.
    let host = host.reopened();
    assert!(host.store.swept().is_empty(), "{:?}", host.store.swept());
    assert_eq!(kind(host.store.remove(b"base")), ErrorKind::FailedPrecondition);
    for key in ["look", "container", "top", "base"] {
        host.store.remove(key.as_bytes()).unwrap();
    }
    host.assert_only(&[]);
}

#[test]
fn a_size_expands_the_disk_and_the_file_system_on_it() {
    let host = OnWindows::new(HostForm::Folders);
    host.layer("base", "");
    host.api.answer("HcsGetLayerVhdMountPath", r"\\?\Volume{v}\");
    host.api.answer("IOCTL_DISK_GET_LENGTH_INFO", "42949672960");
    let made = prepare_with(&host.store, "c", "base", &[(BYTES, "42949672960"), (VM, "true")]);
    let folder = host.folder(&made);
    assert_eq!(std::fs::read(folder.join("vm/sandbox.vhdx")).unwrap(), b"system");
    let calls = host.calls();
    let names: Vec<&str> = calls.iter().map(|line| line.split_once('(').unwrap().0).collect();
    assert_eq!(
        names,
        [
            "ExpandSandboxSize",
            "OpenVirtualDisk",
            "AttachVirtualDisk",
            "HcsGetLayerVhdMountPath",
            "IOCTL_DISK_GET_LENGTH_INFO",
            "GetDiskFreeSpaceW",
            "FSCTL_EXTEND_VOLUME",
            "DetachVirtualDisk",
            "CloseHandle",
        ],
        "{calls:#?}"
    );
    assert!(calls[0].ends_with(", 42949672960)"), "{}", calls[0]);
    // No drive letter, no encryption on arrival (hcs-layers.md 2.4).
    assert_eq!(calls[2], "AttachVirtualDisk(disk#1, 0x22)");
    assert!(calls[6].ends_with(", 83886080)"), "sectors of 512 bytes: {}", calls[6]);

    // The old label, in GiB, counts where the new one is missing; one that is no number makes nothing.
    prepare_with(&host.store, "d", "base", &[(GB, "30")]);
    assert!(host.calls()[0].ends_with(", 32212254720)"));
    for (label, value) in [(BYTES, "40GB"), (GB, "-1"), (GB, "99999999999999")] {
        let refused = try_prepare(&host.store, "e", "base", &[(label, value)]);
        assert_eq!(kind(refused), ErrorKind::Invalid, "{label} {value}");
    }
    assert_eq!(host.calls(), [""; 0]);
    assert_eq!(kind(host.store.stat(b"e")), ErrorKind::NotFound);
}

#[test]
fn a_prepare_that_fails_at_any_step_leaves_nothing() {
    let host = OnWindows::new(HostForm::Folders);
    let base = host.layer("base", "");
    host.api.answer("IOCTL_DISK_GET_LENGTH_INFO", "42949672960");
    for step in 1..=8 {
        let before = host.api.calls();
        host.api.fail_at(before + step, HResult::ACCESS_DENIED);
        let failed = try_prepare(&host.store, "c", "base", &[(BYTES, "42949672960")]);
        assert_eq!(failed.map(drop).is_err(), step <= 8, "{step}");
        let calls = host.calls();
        let attached = calls.iter().position(|line| line.starts_with("AttachVirtualDisk"));
        if attached.is_some() && step != 3 {
            assert!(calls.iter().any(|line| line.starts_with("DetachVirtualDisk")), "{calls:#?}");
        }
        assert_eq!(
            calls.iter().filter(|line| line.starts_with("OpenVirtualDisk")).count().min(1)
                * usize::from(step != 2),
            calls.iter().filter(|line| line.starts_with("CloseHandle")).count(),
            "{calls:#?}"
        );
        host.assert_only(&[&base]);
        host.api.heal();
    }
    // Windows says why in its own words.
    host.api.fail_once("ExpandSandboxSize", HResult::SHARING_VIOLATION);
    let error = try_prepare(&host.store, "c", "base", &[(BYTES, "42949672960")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("ERROR_SHARING_VIOLATION (0x80070020)"), "{cause}");
    // A base that Windows did not process has no disk to copy.
    std::fs::remove_file(host.folder(&base).join("blank.vhdx")).unwrap();
    let error = try_prepare(&host.store, "c", "base", &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("blank.vhdx"), "{error}");
    host.assert_only(&[&base]);
}

#[test]
fn what_a_container_wrote_becomes_a_layer_of_its_own() {
    let host = OnWindows::new(HostForm::Folders);
    let base = host.layer("base", "");
    let active = prepare(&host.store, "c", "base").unwrap();
    host.calls();
    let number = active.id;
    let parents = format!("[{}:snapshots/{}]", guid(&base.id.to_string()), base.id);
    // As hcsshim's exporter and importer call it (hcs-layers.md 2.1): the filter once on and off, so that the disk is
    // initialized.
    let sequence = [
        format!("NameToGuid({})", base.id),
        format!("ActivateLayer(snapshots/{number})"),
        format!("PrepareLayer(snapshots/{number}, {parents})"),
        format!("UnprepareLayer(snapshots/{number})"),
        format!("ExportLayer(snapshots/{number}, staging/X/export, {parents})"),
        format!("DeactivateLayer(snapshots/{number})"),
        format!("ImportLayer(staging/X/layer, staging/X/export, {parents})"),
    ];
    for step in 1..=sequence.len() {
        let calls = host.api.calls();
        host.api.fail_at(calls + step, HResult::NOT_READY);
        assert!(commit(&host.store, "new", "c").is_err(), "{step}");
        host.api.heal();
        let calls = host.calls();
        assert_eq!(calls[..step.min(4)], sequence[..step.min(4)], "{step}");
        // What is attached is detached, whatever failed.
        let deactivated = calls.iter().filter(|line| line.starts_with("Deactivate")).count();
        assert_eq!(deactivated, usize::from(step > 2), "{calls:#?}");
        host.assert_only(&[&base, &active]);
        assert_eq!(host.store.stat(b"c").unwrap().kind, store::Kind::Active);
    }
    let committed = commit(&host.store, "new", "c").unwrap();
    assert_eq!(host.calls(), sequence);
    assert_ne!(committed.id, number, "its folder is another, so the disk is not kept beside it");
    assert_eq!(committed.parent.as_deref(), Some(b"base".as_slice()));
    host.assert_only(&[&base, &committed]);
    assert!(host.folder(&committed).join("layerchain.json").is_file());
    assert_eq!(kind(host.store.stat(b"c")), ErrorKind::NotFound);
    let host = host.reopened();
    assert!(host.store.swept().is_empty(), "{:?}", host.store.swept());
}

#[test]
fn commit_checks_before_windows_is_asked() {
    let host = OnWindows::new(HostForm::Folders);
    host.layer("base", "");
    prepare(&host.store, "c", "base").unwrap();
    host.layer("other", "");
    let on = |parent: &str| CommitOptions {
        parent: Some(parent.as_bytes().to_vec()),
        ..CommitOptions::default()
    };
    host.calls();
    let store = &host.store;
    assert_eq!(kind(commit(store, "base", "c")), ErrorKind::AlreadyExists);
    assert_eq!(kind(store.commit(b"n", b"c", &on("other"))), ErrorKind::Invalid);
    prepare(store, "extract late", "").unwrap();
    let late = store.commit(b"n", b"extract late", &on("base"));
    assert_eq!(kind(late), ErrorKind::FailedPrecondition);
    assert_eq!(host.calls(), [""; 0]);
}

/// A directory that cannot be renamed, as Windows has it while something in it is open.
fn block(host: &OnWindows, snapshot: &Snapshot) -> PathBuf {
    let aside = host.store.root().join("snapshots").join(format!("going-{}", snapshot.id));
    std::fs::create_dir_all(aside.join("x")).unwrap();
    aside
}

#[test]
fn a_busy_layer_is_not_removed_and_says_why() {
    let host = OnWindows::new(HostForm::Folders);
    host.layer("base", "");
    let active = prepare(&host.store, "c", "base").unwrap();
    host.calls();
    let aside = block(&host, &active);
    // In use by a container: it cannot be deactivated.
    host.api.fail_once("DeactivateLayer", HResult::SHARING_VIOLATION);
    let error = host.store.remove(b"c").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("SHARING_VIOLATION"));
    assert_eq!(host.calls(), [format!("DeactivateLayer(snapshots/{})", active.id)]);
    // Left attached by a crash, deactivated, and still open elsewhere.
    assert_eq!(kind(host.store.remove(b"c")), ErrorKind::FailedPrecondition);
    assert_eq!(host.store.stat(b"c").unwrap(), active);
    assert!(host.folder(&active).join("sandbox.vhdx").is_file());
    std::fs::remove_dir_all(aside).unwrap();
    host.store.remove(b"c").unwrap();
    assert_eq!(kind(host.store.stat(b"c")), ErrorKind::NotFound);
    assert!(!host.folder(&active).exists());
}

#[test]
fn a_removal_that_was_cut_is_taken_back_or_finished() {
    let host = OnWindows::new(HostForm::Folders);
    host.layer("base", "");
    let active = prepare(&host.store, "c", "base").unwrap();
    let folder = host.folder(&active);
    // Cut between the rename and the record's end.
    let aside = folder.with_file_name(format!("going-{}", active.id));
    std::fs::rename(&folder, &aside).unwrap();
    let host = host.reopened();
    assert_eq!(host.store.swept().restored, std::slice::from_ref(&folder));
    assert!(folder.join("sandbox.vhdx").is_file() && !aside.exists());
    // Cut behind it.
    host.store.remove(b"c").unwrap();
    std::fs::create_dir(&aside).unwrap();
    let host = host.reopened();
    assert_eq!(host.store.swept().removed, std::slice::from_ref(&aside));
    assert!(!aside.exists());
}

#[test]
fn leftovers_that_windows_cannot_remove_are_tried_again() {
    let host = OnWindows::new(HostForm::Folders);
    let base = host.layer("base", "");
    host.calls();
    host.api.fail_always("DestroyLayer", HResult::ACCESS_DENIED);
    host.store.remove(b"base").unwrap();
    let grave = host.store.root().join(format!("rm-going-{}", base.id));
    assert!(grave.is_dir(), "removed as far as anybody sees, but not deleted");
    let host = host.reopened();
    let kept = &host.store.swept().kept;
    assert_eq!(kept.len(), 1);
    assert!(kept[0].1.contains("ERROR_ACCESS_DENIED"), "{kept:?}");
    host.api.heal();
    let host = host.reopened();
    assert_eq!(host.store.swept().removed, std::slice::from_ref(&grave));
    host.assert_only(&[]);
}

#[test]
fn cims_live_as_containerds_cimfs_snapshotter_has_them() {
    let host = OnWindows::new(HostForm::Cims);
    let store = &host.store;
    prepare(store, "extract base", "").unwrap();
    let (staging, id, record) = staged_cim(store, "base", None);
    store.apply_layer(b"extract base", &staging, "", &id, &record).unwrap();
    drop(staging);
    let unpacked = store.everything().windows_chain(b"extract base").unwrap();
    let cim = store.root().join("cim-layers").join(id.file_name());
    assert_eq!(unpacked.cim.as_deref(), Some(cim.as_path()));
    let base = commit(store, "base", "extract base").unwrap();
    // The CIM counts for the committed one.
    assert!(base.usage.size > 0, "{:?}", base.usage);

    // Nothing but an unpacked layer can be without a parent, or be in a virtual machine.
    let refused = try_prepare(store, "c", "", &[]);
    assert_eq!(kind(refused), ErrorKind::FailedPrecondition);
    assert_eq!(kind(view(store, "v", "")), ErrorKind::FailedPrecondition);
    assert_eq!(kind(try_prepare(store, "c", "base", &[(VM, "1")])), ErrorKind::Unsupported);
    assert_eq!(host.calls(), [""; 0]);

    // The first scratch makes the template; the double makes no files.
    assert_eq!(kind(try_prepare(store, "c", "base", &[])), ErrorKind::FailedPrecondition);
    assert_eq!(
        host.calls(),
        [
            "CreateVirtualDisk(scratch/base.vhdx, size=10737418240, block=1048576)",
            "AttachVirtualDisk(disk#1, 0x2)",
            "HcsFormatWritableLayerVhd(disk#1)",
            "DetachVirtualDisk(disk#1)",
            "CloseHandle(disk#1)",
            "CreateVirtualDisk(scratch/scratch.vhdx, size=0, block=1048576, parent=scratch/base.vhdx)",
            "CloseHandle(disk#2)",
        ]
    );
    std::fs::write(store.root().join("scratch/scratch.vhdx"), "difference").unwrap();
    let container = prepare_with(store, "c", "base", &[]);
    let look = view(store, "look", "base").unwrap();
    assert_eq!(host.calls(), [""; 0], "one template for all");
    for snapshot in [&container, &look] {
        let disk = host.folder(snapshot).join("sandbox.vhdx");
        assert_eq!(std::fs::read(disk).unwrap(), b"difference");
    }
    let seen = store.everything().windows_chain(b"c").unwrap();
    assert_eq!(seen.parents.len(), 1);
    assert_eq!(seen.parents[0].cim.as_deref(), Some(cim.as_path()));
    assert_eq!(seen.parents[0].folder, host.folder(&base));
    let own = store.root().join("cim-layers").join(format!("{}.cim", container.id));
    assert_eq!(seen.cim, Some(own));

    // A container cannot be committed.
    let error = commit(store, "n", "c").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(host.codes(), [""; 0]);
    let host = host.reopened();
    assert!(host.store.swept().is_empty(), "{:?}", host.store.swept());
    for key in ["c", "look", "base"] {
        host.store.remove(key.as_bytes()).unwrap();
    }
    // The CIM goes behind the metadata, with all its files.
    assert_eq!(host.store.collect(&|_| false).unwrap().layers, [id]);
    assert_eq!(std::fs::read_dir(host.store.root().join("cim-layers")).unwrap().count(), 0);
}

#[test]
fn a_template_that_fails_at_any_step_is_made_again() {
    let host = OnWindows::new(HostForm::Cims);
    let base = add_cim(&host.store, "base", None);
    host.store.commit_layer(b"base", None, &base, Labels::new()).unwrap();
    for step in 1..=5 {
        let calls = host.api.calls();
        host.api.fail_at(calls + step, HResult::ACCESS_DENIED);
        assert!(try_prepare(&host.store, "c", "base", &[]).is_err());
        host.api.heal();
        let calls = host.calls();
        assert!(calls[0].starts_with("CreateVirtualDisk(scratch/base.vhdx"), "{step}: {calls:#?}");
        let opened = calls.iter().filter(|line| line.starts_with("CreateVirtualDisk")).count();
        let closed = calls.iter().filter(|line| line.starts_with("CloseHandle")).count();
        let failed_to_open = usize::from(step == 1 || step == 5);
        assert_eq!(closed, opened - failed_to_open, "{step}: {calls:#?}");
        assert!(!host.store.root().join("scratch/complete").exists());
    }
}

#[test]
fn a_store_elsewhere_has_no_disks() {
    let fixture = fixture::Fixture::fast();
    let disk = Scratch::Disk { size: None, vm: false };
    let refused = fixture.store.prepare(b"c", None, Labels::new(), disk);
    assert_eq!(kind(refused), ErrorKind::Unsupported);
    prepare(&fixture.store, "d", "").unwrap();
    let chain = fixture.store.everything().windows_chain(b"d");
    assert_eq!(kind(chain), ErrorKind::FailedPrecondition);
}
