//! containerd's calls on a Windows host, over the recording double of Windows' functions: mounts, labels, and what is
//! refused with which code. **Never run on a real HCS host.**

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serve::Config;
use serve::api::snapshots::snapshots_client::SnapshotsClient;
use serve::api::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    ViewSnapshotRequest,
};
use serve::api::types::Mount;
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
        let routes = serve::in_process_on(config, Some(host)).unwrap();
        Self { directory, api, runtime, client: SnapshotsClient::new(routes) }
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
    assert!(host.api.lines().iter().any(|line| line.starts_with("DestroyLayer(")));
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
