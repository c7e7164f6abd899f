//! Client of containerd's content store: blobs as blocking readers and writers for the layer library.
//!
//! The connection is made at the first call, since containerd starts after its plugins, and again after every
//! failure. Between a stream and the thread that works on it is a channel of a few chunks: whoever is slower decides,
//! and no more than those are in memory. When the caller of an RPC goes away both sides of the channel end.

#[cfg(windows)]
#[path = "content/pipe_dial.rs"]
mod dial;
#[cfg(unix)]
#[path = "content/socket_dial.rs"]
mod dial;
mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

pub(crate) use reader::BlobReader;
pub(crate) use writer::BlobWriter;

use crate::api::content::content_client::ContentClient;
use crate::api::content::{AbortRequest, Info, InfoRequest, UpdateRequest};
use crate::api::leases::leases_client::LeasesClient;
use crate::api::leases::{CreateRequest, DeleteRequest};
use crate::api::{MESSAGE_LIMIT, content};

/// How long the connection, an answer, or the next chunk may take.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How much a blob's stream may run ahead of its reader, and all of them together.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Chunks (of a MiB, as containerd sends them) between a stream and the thread that works on it.
const CHUNKS: usize = 2;

pub(crate) const NAMESPACE: &str = "containerd-namespace";
pub(crate) const LEASE: &str = "containerd-lease";
/// Time after which containerd drops a lease by itself.
const LEASE_EXPIRE: &str = "containerd.io/gc.expire";
/// For how long a blob that we wrote is kept if nobody refers to it.
const LEASE_TIME: Duration = Duration::from_secs(3600);

/// The connection to containerd.
#[derive(Debug, Default)]
pub(crate) struct Connection(Mutex<Option<(PathBuf, Channel)>>);

impl Connection {
    /// The content store as one caller sees it. Nothing is sent yet.
    pub(crate) fn store(&self, address: &Path, namespace: Namespace) -> ContentStore {
        let mut connected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match &*connected {
            Some((at, channel)) if at == address => channel.clone(),
            _ => connected.insert((address.to_owned(), connect(address))).1.clone(),
        };
        ContentStore { channel, namespace, lease: None }
    }
}

/// Must be called on a thread of the runtime.
fn connect(address: &Path) -> Channel {
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let address = address.clone();
        async move {
            let connected = dial::dial(&address).await;
            connected.map(TokioIo::new).map_err(|error| {
                let message = format!("cannot connect to {}: {error}", address.display());
                std::io::Error::new(error.kind(), message)
            })
        }
    });
    // The address is the connector's business; the URI only fills the `:authority` header.
    Endpoint::from_static("http://containerd")
        .connect_timeout(CONNECT_PATIENCE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector_lazy(connector)
}

/// A containerd namespace: whose content it is.
#[derive(Debug, Clone)]
pub(crate) struct Namespace(MetadataValue<Ascii>);

impl Namespace {
    /// The one of the call, else the first part of the snapshot's key (containerd calls them
    /// `<namespace>/<number>/<key>`), else `default`.
    pub(crate) fn of_call(metadata: &MetadataMap, key: Option<&[u8]>) -> Self {
        if let Some(value) = metadata.get(NAMESPACE).filter(|value| !value.is_empty()) {
            return Self(value.clone());
        }
        let first = key.and_then(|key| {
            let slash = key.iter().position(|byte| *byte == b'/')?;
            std::str::from_utf8(&key[..slash]).ok()
        });
        let valid = first.filter(|first| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !first.is_empty() && first.bytes().all(inner)
        });
        let value = valid.and_then(|valid| valid.parse().ok());
        Self(value.unwrap_or_else(|| MetadataValue::from_static("default")))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// containerd's content store in one namespace.
#[derive(Debug, Clone)]
pub(crate) struct ContentStore {
    channel: Channel,
    namespace: Namespace,
    lease: Option<MetadataValue<Ascii>>,
}

impl ContentStore {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(NAMESPACE, self.namespace.0.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE, lease.clone());
        }
        request
    }

    fn client(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// What the store knows of a blob.
    pub(crate) async fn info(&self, digest: &str) -> Result<Info, Status> {
        let request = self.request(InfoRequest { digest: digest.to_owned() });
        let response = patient(self.client().info(request)).await?;
        response.into_inner().info.ok_or_else(|| Status::data_loss("an answer without content"))
    }

    /// Sets one label of a blob.
    pub(crate) async fn set_label(
        &self,
        digest: &str,
        key: &str,
        value: &str,
    ) -> Result<(), Status> {
        let labels = [(key.to_owned(), value.to_owned())].into();
        let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
        let mask = prost_types::FieldMask { paths: vec![format!("labels.{key}")] };
        let request = self.request(UpdateRequest { info: Some(info), update_mask: Some(mask) });
        patient(self.client().update(request)).await.map(drop)
    }

    /// Forgets an upload that was not committed.
    pub(crate) async fn abort(&self, reference: &str) -> Result<(), Status> {
        let request = self.request(AbortRequest { r#ref: reference.to_owned() });
        match patient(self.client().abort(request)).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// Reads a blob of a known length from its start, on a thread for blocking work.
    pub(crate) fn read(&self, digest: &str, size: u64, stop: &CancellationToken) -> BlobReader {
        let request = content::ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        BlobReader::start(self.client(), self.request(request), size, stop.clone())
    }

    /// Writes a blob, on a thread for blocking work. An upload of the same reference begins anew.
    pub(crate) fn write(&self, reference: &str, stop: &CancellationToken) -> BlobWriter {
        let (requests, receiver) = tokio::sync::mpsc::channel(CHUNKS);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        BlobWriter::start(
            self.client(),
            self.request(stream),
            requests,
            reference.to_owned(),
            stop.clone(),
        )
    }

    /// The same store with everything that is written kept by a lease: the caller's, or a new one that lasts an hour.
    /// Without, containerd's garbage collection could take a blob before its writer's caller refers to it: what a
    /// plugin writes is not under the lease of the call that it works for.
    pub(crate) async fn leased(&self, metadata: &MetadataMap) -> Result<(Self, Lease), Status> {
        if let Some(lease) = metadata.get(LEASE) {
            return Ok((Self { lease: Some(lease.clone()), ..self.clone() }, Lease(None)));
        }
        let name = sys::file::random_name(12)
            .map_err(|error| Status::internal(format!("no name for a lease: {error}")))?;
        let id = format!("plywood-diff-{name}");
        let expire = jiff::Timestamp::now() + LEASE_TIME;
        let labels = [(LEASE_EXPIRE.to_owned(), expire.to_string())].into();
        let request = self.request(CreateRequest { id: id.clone(), labels });
        let mut leases = LeasesClient::new(self.channel.clone());
        match patient(leases.create(request)).await {
            Ok(_) => {}
            // Not containerd, or one without leases: it has no such collection either.
            Err(status) if status.code() == Code::Unimplemented => {
                return Ok((self.clone(), Lease(None)));
            }
            Err(status) => return Err(status),
        }
        let lease = id.parse().map_err(|_| Status::internal("a lease that is no header"))?;
        Ok((Self { lease: Some(lease), ..self.clone() }, Lease(Some(id))))
    }

    /// Ends a lease of ours, where nothing was written that it should keep.
    pub(crate) async fn end(&self, lease: Lease) -> Result<(), Status> {
        let Some(id) = lease.0 else { return Ok(()) };
        let request = self.request(DeleteRequest { id, sync: false });
        patient(LeasesClient::new(self.channel.clone()).delete(request)).await.map(drop)
    }
}

/// A lease that we made, or none.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lease(Option<String>);

/// Waits for an answer, but not for ever.
async fn patient<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(told),
        Err(_) => Err(silent()),
    }
}

fn silent() -> Status {
    let seconds = PATIENCE.as_secs();
    Status::deadline_exceeded(format!("containerd's content store was silent for {seconds} s"))
}

/// Says where a status comes from. A broken connection is `Unavailable`, whatever broke it.
fn told(status: Status) -> Status {
    let broken = std::error::Error::source(&status).is_some();
    let code = match status.code() {
        Code::Unknown | Code::Internal | Code::Cancelled if broken => Code::Unavailable,
        code => code,
    };
    let cause = std::error::Error::source(&status).map(root_cause);
    let message = match cause {
        Some(cause) if !status.message().contains(&cause) => {
            format!("containerd's content store: {}: {cause}", status.message())
        }
        _ => format!("containerd's content store: {}", status.message()),
    };
    Status::new(code, message)
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// The status that a failure of the layer library goes back to, where a stream of ours caused it.
pub(crate) fn status_behind(error: &(dyn std::error::Error + 'static)) -> Option<Status> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(status) = inner.and_then(|inner| inner.downcast_ref::<Status>()) {
            return Some(status.clone());
        }
        next = error.source();
    }
    None
}
