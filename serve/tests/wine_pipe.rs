//! Calls over the named pipe, as a Windows host has it: under Wine, with the recording double of Windows' functions.

#![cfg(windows)]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use serve::api::snapshots::snapshots_client::SnapshotsClient;
use serve::api::snapshots::{
    CommitSnapshotRequest, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use serve::{Config, ErrorKind};
use store::{HostForm, WindowsHost};
use sys::windows::recording::Recorder;
use tokio::sync::watch;
use tonic::Code;

fn config(directory: &std::path::Path, name: &str) -> Config {
    let mut config = Config::default();
    config.root = directory.join("root");
    config.run = directory.join("run");
    config.address = format!(r"\\.\pipe\plywood-test-{name}-{}", std::process::id()).into();
    config
}

fn host() -> WindowsHost {
    WindowsHost::new(HostForm::Folders, Arc::new(Recorder::new()))
}

async fn client(name: &str) -> SnapshotsClient<tonic::transport::Channel> {
    for _ in 0..500 {
        match serve::connect(name).await {
            Ok(channel) => return SnapshotsClient::new(channel),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("nobody listens on {name}");
}

#[test]
fn wine_containerds_calls_go_over_the_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "calls");
    let name = config.address.to_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        let serving = tokio::spawn(serve::serve_on(config, host(), stopping));
        let mut first = client(&name).await;
        let request = PrepareSnapshotRequest { key: "extract base".into(), ..Default::default() };
        let mounts = first.prepare(request).await.unwrap().into_inner().mounts;
        assert_eq!(mounts[0].r#type, "windows-layer");
        assert_eq!(mounts[0].options, ["rw"]);
        assert!(std::path::Path::new(&mounts[0].source).is_dir(), "{mounts:?}");
        let request = CommitSnapshotRequest {
            name: "base".into(),
            key: "extract base".into(),
            ..Default::default()
        };
        let refused = first.commit(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);

        // Many clients, one after the other and at once.
        let mut others = Vec::new();
        for _ in 0..8 {
            let name = name.clone();
            others.push(tokio::spawn(async move {
                let mut client = client(&name).await;
                let list = client.list(ListSnapshotsRequest::default()).await.unwrap();
                let mut list = list.into_inner();
                list.message().await.unwrap().unwrap().info.len()
            }));
        }
        for other in others {
            assert_eq!(other.await.unwrap(), 1);
        }
        let request = RemoveSnapshotRequest { key: "extract base".into(), ..Default::default() };
        first.remove(request).await.unwrap();
        drop(first);
        stop.send(true).unwrap();
        serving.await.unwrap().unwrap();
    });
}

#[test]
fn wine_an_address_that_is_no_pipe_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), "address");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for address in
        [r"C:\plywood.sock", r"\\.\pipe\", r"\\server\pipe\x", r"\\.\pipe\a\b", "plywood"]
    {
        config.address = address.into();
        let (_stop, stopping) = watch::channel(false);
        let refused = runtime.block_on(serve::serve_on(config.clone(), host(), stopping));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Configuration, "{address}");
    }
}

#[test]
fn wine_commands_go_over_the_pipe_to_the_daemon_of_their_store() {
    use serve::control::{CauseKind, Client, Images, RemoteCause, Stat};

    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "commands");
    let (address, root) = (config.address.clone(), config.root.clone());
    let name = address.to_str().unwrap().to_owned();
    assert!(Client::connect(&address, &root).unwrap().is_none(), "nobody listens yet");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (stop, stopping) = watch::channel(false);
    let serving = runtime.spawn(serve::serve_on(config, host(), stopping));
    drop(runtime.block_on(client(&name)));
    let daemon = Client::connect(&address, &root).unwrap().unwrap();
    assert_eq!(daemon.pid(), std::process::id());
    let never = layer::Cancel::new();
    assert!(daemon.call(Images {}, &never, &()).unwrap().is_empty());
    let missing = daemon.call(Stat { key: b"none".to_vec() }, &never, &()).unwrap_err();
    let missing = missing.downcast::<RemoteCause>().unwrap();
    assert_eq!(CauseKind::of(&*missing), CauseKind::Store(store::ErrorKind::NotFound));
    // Another store's commands find no daemon there.
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    assert!(Client::connect(&address, &other).unwrap().is_none());
    drop(daemon);
    stop.send(true).unwrap();
    runtime.block_on(serving).unwrap().unwrap();
}
