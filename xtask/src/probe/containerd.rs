//! containerd's snapshot service, called over its socket: the three calls that are compared, and no more.
//!
//! The messages are written out by hand from the service's published interface (`snapshots.proto`); three calls do
//! not earn a code generator.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct PrepareRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
}

/// Of `MountsRequest` and `RemoveSnapshotRequest`, which have the same fields.
#[derive(Clone, PartialEq, Message)]
struct KeyRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
}

/// Of `PrepareSnapshotResponse` and `MountsResponse`.
#[derive(Clone, PartialEq, Message)]
struct Mounts {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, tag = "3")]
    target: String,
    #[prost(string, repeated, tag = "4")]
    options: Vec<String>,
}

/// `google.protobuf.Empty`.
#[derive(Clone, PartialEq, Message)]
struct Empty {}

struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    async fn connect(socket: &Path) -> Result<Self> {
        let socket: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://containerd")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .context("cannot connect to containerd")?;
        Ok(Self { grpc: Grpc::new(channel) })
    }

    async fn call<Q, A>(&mut self, method: &str, message: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.grpc.ready().await.context("containerd does not take calls")?;
        let path: PathAndQuery =
            format!("/containerd.services.snapshots.v1.Snapshots/{method}").parse()?;
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", AsciiMetadataValue::from_static("default"));
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.grpc.unary(request, path, codec).await;
        Ok(answer.with_context(|| format!("{method} failed"))?.into_inner())
    }
}

/// Calls prepare, mounts and remove one after the other for `duration` on top of `parent`, and prints how many such
/// rounds a second containerd answered.
pub(crate) fn snapshots(socket: &Path, parent: &str, duration: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let rate = runtime.block_on(rounds(socket, parent, duration))?;
    println!("{rate}");
    Ok(())
}

async fn rounds(socket: &Path, parent: &str, duration: Duration) -> Result<f64> {
    let mut client = Client::connect(socket).await?;
    let snapshotter = || "overlayfs".to_owned();
    let start = Instant::now();
    let mut rounds = 0_u32;
    while start.elapsed() < duration {
        let key = format!("probe-{rounds}");
        let prepare = PrepareRequest {
            snapshotter: snapshotter(),
            key: key.clone(),
            parent: parent.to_owned(),
            // Without it containerd's garbage collector may take the snapshot between two calls.
            labels: HashMap::from([("containerd.io/gc.root".to_owned(), "probe".to_owned())]),
        };
        client.call::<_, Mounts>("Prepare", prepare).await?;
        let request = || KeyRequest { snapshotter: snapshotter(), key: key.clone() };
        let mounts: Mounts = client.call("Mounts", request()).await?;
        ensure!(mounts.mounts.len() == 1, "{} mounts instead of one overlay", mounts.mounts.len());
        client.call::<_, Empty>("Remove", request()).await?;
        rounds += 1;
    }
    Ok(f64::from(rounds) / start.elapsed().as_secs_f64())
}
