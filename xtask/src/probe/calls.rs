//! The snapshot service of a socket, called as containerd calls it: ours, containerd's own, or that of a proxy plugin.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use serde_json::json;
use serve::api::snapshots::snapshots_client::SnapshotsClient;
use serve::api::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use serve::api::types::Mount;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request};

/// Layers below the snapshots that are prepared, where no parent is given.
const DEPTH: usize = 3;

/// Whom to call, and as what.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// The name that containerd knows the snapshotter by; others do not look at it.
    pub(crate) snapshotter: String,
}

struct Client {
    grpc: SnapshotsClient<Channel>,
    snapshotter: Vec<u8>,
}

impl Client {
    async fn connect(service: &Service) -> Result<Self> {
        let socket: PathBuf = service.socket.clone();
        let channel = Endpoint::from_static("http://snapshots")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .with_context(|| format!("cannot connect to {}", service.socket.display()))?;
        let grpc = SnapshotsClient::new(channel);
        Ok(Self { grpc, snapshotter: service.snapshotter.clone().into_bytes() })
    }

    async fn prepare(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels: root_label(),
        };
        let answer = self.grpc.prepare(request(message)).await;
        Ok(answer.context("Prepare failed")?.into_inner().mounts)
    }

    async fn mounts(&mut self, key: &str) -> Result<Vec<Mount>> {
        let message = MountsRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let answer = self.grpc.mounts(request(message)).await;
        Ok(answer.context("Mounts failed")?.into_inner().mounts)
    }

    async fn remove(&mut self, key: &str) -> Result<()> {
        let message =
            RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        self.grpc.remove(request(message)).await.context("Remove failed").map(drop)
    }

    /// False if it is there already.
    async fn commit(&mut self, name: &str, key: &str) -> Result<bool> {
        let message = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.into(),
            key: key.into(),
            labels: root_label(),
            parent: Vec::new(),
        };
        match self.grpc.commit(request(message)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(status).context("Commit failed"),
        }
    }

    /// A chain of layers with a file each; the name of its top.
    async fn chain(&mut self) -> Result<String> {
        let mut parent = String::new();
        for number in 0..DEPTH {
            let (name, key) = (format!("base-{number}"), format!("making-{number}"));
            let mounts = self.prepare(&key, &parent).await?;
            let upper = upper(&mounts).context("no directory to write to")?;
            std::fs::write(upper.join(format!("file-{number}")), "of one layer\n")
                .with_context(|| format!("cannot write to {}", upper.display()))?;
            if !self.commit(&name, &key).await? {
                self.remove(&key).await?;
            }
            parent = name;
        }
        Ok(parent)
    }
}

/// Without it containerd's garbage collector may take the snapshot between two calls.
fn root_label() -> BTreeMap<String, String> {
    BTreeMap::from([("containerd.io/gc.root".to_owned(), "probe".to_owned())])
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", AsciiMetadataValue::from_static("default"));
    request
}

/// Where what is written to a snapshot lands.
fn upper(mounts: &[Mount]) -> Option<PathBuf> {
    let mount = mounts.last()?;
    let option = |name: &str| {
        mount.options.iter().find_map(|option| option.strip_prefix(name).map(PathBuf::from))
    };
    match mount.r#type.as_str() {
        "bind" => Some(PathBuf::from(&mount.source)),
        _ => option("upperdir="),
    }
}

/// `clients` of them call Prepare, Mounts and Remove one after the other for `duration`, each on a connection of its own,
/// on top of `parent` or of a chain that is made before. Prints calls a second of all, and of the calls' times the median
/// and the time that one in a hundred exceeds, in milliseconds.
pub(crate) fn snapshots(
    service: &Service,
    parent: Option<&str>,
    clients: usize,
    duration: Duration,
) -> Result<()> {
    run(async {
        let parent = match parent {
            Some(parent) => parent.to_owned(),
            None => Client::connect(service).await?.chain().await?,
        };
        let mut connected = Vec::new();
        for _ in 0..clients {
            connected.push(Client::connect(service).await?);
        }
        let start = Instant::now();
        let tasks: Vec<_> = connected
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                tokio::spawn(rounds(client, number, parent.clone(), start + duration))
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        let seconds = start.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        let rate = times.len() as f64 / seconds;
        let [median, p99] = [50, 99].map(|percent| times[(times.len() - 1) * percent / 100] * 1e3);
        println!("{}", json!({ "rate": rate, "median": median, "p99": p99 }));
        Ok(())
    })
}

/// Seconds of every call.
async fn rounds(
    mut client: Client,
    number: usize,
    parent: String,
    end: Instant,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut round = 0;
    while Instant::now() < end {
        let key = format!("probe-{number}-{round}");
        let mut last = Instant::now();
        let mut lap = || times.push(std::mem::replace(&mut last, Instant::now()).elapsed());
        client.prepare(&key, &parent).await?;
        lap();
        let mounts = client.mounts(&key).await?;
        lap();
        ensure!(mounts.len() == 1, "{} mounts instead of one overlay", mounts.len());
        client.remove(&key).await?;
        lap();
        round += 1;
    }
    Ok(times.iter().map(Duration::as_secs_f64).collect())
}

/// Prepares `count` snapshots on a chain and leaves them there.
pub(crate) fn populate(service: &Service, count: usize) -> Result<()> {
    run(async {
        let mut client = Client::connect(service).await?;
        let parent = client.chain().await?;
        for number in 0..count {
            client.prepare(&format!("kept-{number}"), &parent).await?;
        }
        Ok(())
    })
}

fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work)
}
