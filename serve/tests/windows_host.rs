//! containerd's calls on a Windows host, over the recording double of Windows' functions: mounts, labels, and what is
//! refused with which code. **Never run on a real HCS host.**

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

#[allow(dead_code, unreachable_pub, reason = "every test file uses its own part")]
#[path = "support/contents.rs"]
mod contents;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contents::Contents;
use layer::Digest;
use serve::Config;
use serve::api::diff::diff_client::DiffClient;
use serve::api::diff::{ApplyRequest, DiffRequest};
use serve::api::mounts::mounts_client::MountsClient;
use serve::api::mounts::{ActivateRequest, DeactivateRequest, InfoRequest, ListRequest};
use serve::api::snapshots::snapshots_client::SnapshotsClient;
use serve::api::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    ViewSnapshotRequest,
};
use serve::api::types::{Descriptor, Mount};
use store::{HostForm, WindowsHost};
use sys::windows::HResult;
use sys::windows::recording::Recorder;
use tokio::runtime::Runtime;
use tonic::service::Routes;
use tonic::{Code, Status};

struct Host {
    directory: tempfile::TempDir,
    api: Recorder,
    runtime: Runtime,
    routes: Routes,
    client: SnapshotsClient<Routes>,
}

impl Host {
    fn new(form: HostForm) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.root = directory.path().join("root");
        config.run = directory.path().join("run");
        let api = Recorder::new();
        let host = WindowsHost::new(form, Arc::new(api.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        config.containerd_address = directory.path().join("containerd.sock");
        // What Windows would make of the disks that it is told to make.
        std::fs::create_dir_all(config.root.join("scratch")).unwrap();
        for name in ["scratch.vhdx", "complete"] {
            std::fs::write(config.root.join("scratch").join(name), "template").unwrap();
        }
        let routes = serve::in_process_on(config, Some(host)).unwrap();
        let client = SnapshotsClient::new(routes.clone());
        Self { directory, api, runtime, routes, client }
    }

    fn snapshots(&self) -> PathBuf {
        self.directory.path().join("root/snapshots")
    }

    fn prepare(&mut self, key: &str, parent: &str, label: &str) -> Result<Vec<Mount>, Status> {
        let labels = match label.split_once('=') {
            Some((key, value)) => BTreeMap::from([(key.to_owned(), value.to_owned())]),
            None => BTreeMap::new(),
        };
        let request = PrepareSnapshotRequest {
            key: key.into(),
            parent: parent.into(),
            labels,
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.client.prepare(request))?;
        Ok(answer.into_inner().mounts)
    }

    fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let request =
            ViewSnapshotRequest { key: key.into(), parent: parent.into(), ..Default::default() };
        Ok(self.runtime.block_on(self.client.view(request))?.into_inner().mounts)
    }

    fn apply(&self, mounts: &[Mount], layer: &Descriptor) -> Result<Descriptor, Status> {
        let (diff, mounts) = (Some(layer.clone()), mounts.to_vec());
        let request = ApplyRequest { diff, mounts, ..Default::default() };
        let answer = self.runtime.block_on(DiffClient::new(self.routes.clone()).apply(request))?;
        Ok(answer.into_inner().applied.unwrap())
    }

    fn compare(&self, left: &[Mount], right: &[Mount]) -> Result<Descriptor, Status> {
        let (left, right) = (left.to_vec(), right.to_vec());
        let media_type = TAR.to_owned();
        let request = DiffRequest { left, right, media_type, ..Default::default() };
        let answer = self.runtime.block_on(DiffClient::new(self.routes.clone()).diff(request))?;
        Ok(answer.into_inner().diff.unwrap())
    }

    /// Unpacks a layer onto `parent`, as containerd does.
    fn unpack(&mut self, contents: &Contents, name: &str, parent: &str, tar: &[u8]) {
        let key = format!("extract-1 {name}");
        let mounts = self.prepare(&key, parent, "").unwrap();
        let applied = self.apply(&mounts, &described(contents, tar)).unwrap();
        assert_eq!(applied.digest, Digest::of(tar).to_string());
        self.commit(name, &key).unwrap();
    }

    fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        let request =
            CommitSnapshotRequest { name: name.into(), key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.commit(request)).map(drop)
    }

    fn remove(&mut self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest { key: key.into(), ..Default::default() };
        self.runtime.block_on(self.client.remove(request)).map(drop)
    }
}

/// Type, source and options of the one mount.
fn parts(mounts: &[Mount]) -> (&str, &Path, Vec<&str>) {
    let [mount] = mounts else { panic!("{mounts:?}") };
    let options = mount.options.iter().map(String::as_str).collect();
    (mount.r#type.as_str(), Path::new(&mount.source), options)
}

#[test]
fn an_image_is_unpacked_run_and_removed_as_layer_folders() {
    let mut host = Host::new(HostForm::Folders);
    let mounts = host.prepare("extract-1 base", "", "").unwrap();
    let (kind, folder, options) = parts(&mounts);
    assert_eq!((kind, options), ("windows-layer", vec!["rw"]));
    // What containerd's own differ does with that mount.
    std::fs::create_dir(folder.join("Files")).unwrap();
    std::fs::write(folder.join("blank.vhdx"), "blank").unwrap();
    let base = folder.to_owned();
    host.commit("base", "extract-1 base").unwrap();

    let label = "containerd.io/snapshot/windows/rootfs.sizebytes=42949672960";
    let mounts = host.prepare("c", "base", label).unwrap();
    let (kind, folder, options) = parts(&mounts);
    assert_eq!((kind, folder.parent().unwrap()), ("windows-layer", host.snapshots().as_path()));
    let parents = format!("parentLayerPaths=[{:?}]", base.display().to_string());
    assert_eq!(options, ["rw", &parents]);
    assert!(folder.join("sandbox.vhdx").is_file());
    assert!(host.api.lines()[0].starts_with("ExpandSandboxSize("), "{:?}", host.api);
    let again = MountsRequest { key: "c".into(), ..Default::default() };
    let again = host.runtime.block_on(host.client.mounts(again)).unwrap().into_inner().mounts;
    assert_eq!(again, mounts);
    let view = host.view("v", "base").unwrap();
    assert_eq!(parts(&view).2, ["ro", &parents]);

    // In use: the reason, and nothing has changed.
    let aside = host
        .snapshots()
        .join(format!("going-{}", parts(&mounts).1.file_name().unwrap().to_str().unwrap()));
    std::fs::create_dir_all(aside.join("x")).unwrap();
    host.api.fail_once("DeactivateLayer", HResult::SHARING_VIOLATION);
    let refused = host.remove("c").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in ["cannot remove snapshot", "in use", "ERROR_SHARING_VIOLATION"] {
        assert!(refused.message().contains(part), "{part}: {}", refused.message());
    }
    assert!(parts(&mounts).1.join("sandbox.vhdx").is_file());
    std::fs::remove_dir_all(aside).unwrap();
    for key in ["c", "v", "base"] {
        host.remove(key).unwrap();
    }
    // After the answer.
    let destroyed = || host.api.lines().iter().any(|line| line.starts_with("DestroyLayer("));
    let until = Instant::now() + Duration::from_secs(10);
    while !destroyed() {
        assert!(Instant::now() < until, "{:?}", host.api);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_cims_cannot_is_refused_by_code() {
    let mut host = Host::new(HostForm::Cims);
    let mounts = host.prepare("extract-1 base", "", "").unwrap();
    let (kind, folder, options) = parts(&mounts);
    assert_eq!(kind, "CimFS");
    let number = folder.file_name().unwrap().to_str().unwrap();
    let cim = host.directory.path().join("root/cim-layers").join(format!("{number}.cim"));
    assert_eq!(options, ["rw", &format!("cimpath={}", cim.display())]);
    assert_eq!(host.prepare("c", "", "").unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(host.view("v", "").unwrap_err().code(), Code::FailedPrecondition);
    let label = "containerd.io/snapshot/windows/rootfs.sizebytes=ten";
    let folders = &mut Host::new(HostForm::Folders);
    folders.prepare("extract-1 base", "", "").unwrap();
    let unfilled = folders.commit("base", "extract-1 base").unwrap_err();
    assert_eq!(unfilled.code(), Code::FailedPrecondition);
    assert_eq!(folders.prepare("c", "", label).unwrap_err().code(), Code::InvalidArgument);
}

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Puts a layer into containerd's content store.
fn described(contents: &Contents, tar: &[u8]) -> Descriptor {
    Descriptor {
        media_type: TAR.to_owned(),
        digest: contents.add(tar).to_string(),
        size: i64::try_from(tar.len()).unwrap(),
        annotations: BTreeMap::new(),
    }
}

/// A Windows layer; `None` is a directory.
fn layer(roots: &[&str], entries: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let roots: Vec<_> = roots.iter().map(|root| (*root, None)).collect();
    for (name, content) in roots.iter().chain(entries) {
        let attributes: &[u8] = if content.is_none() { b"16" } else { b"32" };
        tar.append_pax_extensions([("MSWINDOWS.fileattr", attributes)]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_700_000_000);
        let (kind, bytes) = match content {
            None => (tar::EntryType::Directory, ""),
            Some(text) => (tar::EntryType::Regular, *text),
        };
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A base layer, with hives as far as they are looked at.
fn base() -> Vec<u8> {
    let config = "Files/Windows/System32/config";
    let hives = ["SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT"];
    let hives = hives.map(|hive| format!("{config}/{hive}"));
    let mut entries = vec![("Files/a", Some("one")), ("Files/b", Some("b"))];
    entries.extend(["Files/Windows", "Files/Windows/System32", config].map(|path| (path, None)));
    entries.extend(hives.iter().map(|hive| (hive.as_str(), Some("hive"))));
    layer(&["Files"], &entries)
}

#[test]
fn layers_become_cims_and_are_compared() {
    let mut host = Host::new(HostForm::Cims);
    let contents =
        Contents::start_at(&host.directory.path().join("containerd.sock"), &host.runtime);
    host.unpack(&contents, "base", "", &base());
    let above = layer(
        &["Files", "Hives"],
        &[("Files/.wh.b", Some("")), ("Files/a", Some("two")), ("Files/c", Some("c"))],
    );
    host.unpack(&contents, "top", "base", &above);
    let (below, upper) = (host.view("v1", "base").unwrap(), host.view("v2", "top").unwrap());

    // What a Windows host's own differ cannot: the layer comes back as one.
    let diff = host.compare(&below, &upper).unwrap();
    let tar = contents.blob(&diff.digest);
    let mut names = Vec::new();
    for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        names.push((entry.path().unwrap().display().to_string(), text));
    }
    let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    for found in [named("Files/.wh.b", ""), named("Files/a", "two"), named("Files/c", "c")] {
        assert!(names.contains(&found), "{found:?} in {names:?}");
    }
    assert!(!names.iter().any(|(name, _)| name == "Files/b"), "{names:?}");
    // Applied elsewhere it gives the same image.
    let mut other = Host::new(HostForm::Cims);
    let others =
        Contents::start_at(&other.directory.path().join("containerd.sock"), &other.runtime);
    other.unpack(&others, "base", "", &base());
    other.unpack(&others, "top", "base", &tar);
    let (left, right) = (other.view("v1", "base").unwrap(), other.view("v2", "top").unwrap());
    assert_eq!(other.compare(&left, &right).unwrap(), diff);
    // The whole of an image, and of nothing.
    let whole = host.compare(&[], &upper).unwrap();
    let again = host.compare(&upper, &upper).unwrap();
    assert!(contents.blob(&whole.digest).len() > tar.len());
    assert!(contents.blob(&again.digest).len() < tar.len());

    // Windows' own tools read what a container wrote to its disk.
    let container = host.prepare("c", "top", "").unwrap();
    assert_eq!(host.compare(&upper, &container).unwrap_err().code(), Code::Unimplemented);
    let layer = described(&contents, &above);
    assert_eq!(host.apply(&container, &layer).unwrap_err().code(), Code::Unimplemented);
    assert_eq!(host.apply(&upper, &layer).unwrap_err().code(), Code::Unimplemented);
}

#[test]
fn layers_become_folders() {
    let mut host = Host::new(HostForm::Folders);
    let contents =
        Contents::start_at(&host.directory.path().join("containerd.sock"), &host.runtime);
    host.unpack(&contents, "base", "", &base());
    let folder = host.snapshots().join("1");
    assert!(folder.join("Files/Windows/System32/config/SYSTEM").is_file());
    let processed = |line: &String| line.starts_with("ProcessBaseImage(");
    assert!(host.api.take_lines().iter().any(processed));
    let above = layer(&["Files", "Hives"], &[("Files/c", Some("c"))]);
    host.unpack(&contents, "top", "base", &above);
    let imported = |line: &String| line.starts_with("ImportLayer(");
    assert!(host.api.take_lines().iter().any(imported));
    let chain = std::fs::read_to_string(host.snapshots().join("2/layerchain.json")).unwrap();
    assert_eq!(chain, format!("[{:?}]", folder.display().to_string()));

    // Another differ may do what is not done here: the folder is as it was.
    let vm = layer(&["Files", "Hives", "UtilityVM"], &[]);
    let mounts = host.prepare("extract-2 vm", "top", "").unwrap();
    let refused = host.apply(&mounts, &described(&contents, &vm)).unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let empty = |host: &Host| {
        let names = host.snapshots().join("3").read_dir().unwrap();
        let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        names == ["layerchain.json"]
    };
    assert!(empty(&host));
    host.api.fail_once("ImportLayer", HResult::ACCESS_DENIED);
    let failed = host.apply(&mounts, &described(&contents, &above)).unwrap_err();
    assert_eq!(failed.code(), Code::Internal);
    assert!(failed.message().contains("ERROR_ACCESS_DENIED"), "{}", failed.message());
    assert!(empty(&host));
    host.apply(&mounts, &described(&contents, &above)).unwrap();
    assert_eq!(std::fs::read_dir(host.directory.path().join("root/staging")).unwrap().count(), 0);
}

#[test]
fn the_mounts_service_performs_what_containerd_cannot() {
    let host = Host::new(HostForm::Cims);
    let scratch = r"\\?\Volume{11111111-2222-3333-4444-555555555555}";
    host.api.answer("GetLayerMountPath", scratch);
    let mut client = MountsClient::new(host.routes.clone());
    let mut mount = Mount {
        r#type: "CimFS".to_owned(),
        source: r"C:\s\3".to_owned(),
        target: String::new(),
        options: vec!["rw".to_owned(), r#"parentCimPaths=["C:\\c\\2.cim"]"#.to_owned()],
    };
    let request = |mount: &Mount| ActivateRequest {
        name: "a".into(),
        mounts: vec![mount.clone()],
        ..Default::default()
    };
    let info = host.runtime.block_on(client.activate(request(&mount))).unwrap();
    let info = info.into_inner().info.unwrap();
    assert_eq!(info.active[0].mount_point, format!(r"{scratch}\"));
    assert_eq!(
        (info.name.as_slice(), &info.system[0].r#type),
        (b"a".as_slice(), &"bind".to_owned())
    );
    let twice = host.runtime.block_on(client.activate(request(&mount))).unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    let named = InfoRequest { name: "a".into() };
    let found = host.runtime.block_on(client.info(named)).unwrap().into_inner().info.unwrap();
    assert_eq!(found, info);
    let listed = host.runtime.block_on(async {
        let mut list = client.list(ListRequest::default()).await.unwrap().into_inner();
        list.message().await.unwrap().unwrap().info.unwrap()
    });
    assert_eq!(listed, info);
    host.runtime.block_on(client.deactivate(DeactivateRequest { name: "a".into() })).unwrap();
    let gone = host.runtime.block_on(client.deactivate(DeactivateRequest { name: "a".into() }));
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    assert!(host.api.volumes().is_empty());

    // What containerd mounts itself is left to it.
    mount.r#type = "windows-layer".to_owned();
    mount.options = vec![r#"parentLayerPaths=["C:\\s\\1"]"#.to_owned()];
    let left = host.runtime.block_on(client.activate(request(&mount))).unwrap_err();
    assert_eq!(left.code(), Code::Unimplemented);
    mount.options.clear();
    mount.r#type = "CimFS".to_owned();
    let wrong = host.runtime.block_on(client.activate(request(&mount))).unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}
