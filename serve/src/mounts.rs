//! `containerd.services.mounts.v1`: lists of mounts performed under a name, for tools and shims.

#[cfg(target_os = "linux")]
mod kernel;
#[cfg(windows)]
#[path = "mounts/no_kernel.rs"]
mod kernel;

use std::borrow::Cow;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use layer::Cancel;
use mount::{Activation, ErrorKind};
use prost_types::Timestamp;
use store::{Fields, Filter};
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::Span;

use crate::api::mounts as api;
use crate::api::mounts::mounts_server::{Mounts as Interface, MountsServer};
use crate::api::{MESSAGE_LIMIT, types};
use crate::service::Service;
use crate::{status, text};

/// The service for the daemon's socket.
pub(crate) fn server(service: Service) -> MountsServer<Mounts> {
    MountsServer::new(Mounts { service })
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

/// The mounts service.
#[derive(Debug)]
pub(crate) struct Mounts {
    service: Service,
}

/// Header with the caller's containerd namespace.
const NAMESPACE: &str = "containerd-namespace";
/// The namespace of a caller that has none.
const DEFAULT_NAMESPACE: &str = "default";

/// What an activation's name begins with in the journal, so that namespaces do not share names.
#[derive(Debug, Clone)]
struct Namespace(String);

impl Namespace {
    fn of(metadata: &MetadataMap) -> Result<Self, Status> {
        let name = match metadata.get(NAMESPACE) {
            None => DEFAULT_NAMESPACE,
            Some(value) => value
                .to_str()
                .ok()
                .filter(|name| !name.is_empty() && !name.contains('/'))
                .ok_or_else(|| Status::invalid_argument("the namespace is not valid"))?,
        };
        Ok(Self(format!("{name}/")))
    }

    /// The journal's name for a request's.
    fn full(&self, name: Vec<u8>) -> Result<String, Status> {
        match String::from_utf8(name) {
            Ok(name) if !name.is_empty() => Ok(format!("{}{name}", self.0)),
            Ok(_) => Err(Status::invalid_argument("an activation needs a name")),
            Err(_) => Err(Status::invalid_argument("the name of an activation is not UTF-8")),
        }
    }

    /// The other way round; `None` for a name of another namespace.
    fn own<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.0)
    }
}

/// Unlike elsewhere, Unimplemented is the right answer to what cannot be activated: the caller then mounts it as it is.
fn failed(error: &mount::Error) -> Status {
    let status = status::of_mount(error);
    match error.kind() {
        ErrorKind::NotSupported => Status::new(Code::Unimplemented, status.message()),
        ErrorKind::Busy => Status::new(Code::FailedPrecondition, status.message()),
        // A file that is missing is not an activation that is missing.
        _ => status,
    }
}

impl Mounts {
    async fn call<T: Send + 'static>(
        &self,
        name: String,
        work: impl FnOnce(&Service, &str) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        Span::current().record("key", text::key(name.as_bytes()));
        self.service.blocking(move |service| work(service, &name)).await
    }
}

fn activate(
    service: &Service,
    name: &str,
    mounts: Vec<types::Mount>,
    labels: store::Labels,
    temporary: bool,
) -> Result<Activation, Status> {
    let mounts: Vec<mount::Mount> = mounts.into_iter().map(given).collect();
    let activated = match service.activations() {
        // The call goes on when nobody waits for it any more, and can be undone.
        Some(host) => host.activate(name, &mounts, labels, temporary, &Cancel::new()),
        None => kernel::activate(service, name, &mounts, labels, temporary),
    };
    activated.map_err(|error| match error.kind() {
        // NotFound would mean that there is no such activation.
        ErrorKind::NotFound => {
            Status::new(Code::FailedPrecondition, status::of_mount(&error).message())
        }
        _ => failed(&error),
    })
}

fn deactivate(service: &Service, name: &str) -> mount::Result<()> {
    match service.activations() {
        Some(host) => host.deactivate(name),
        None => kernel::deactivate(service, name),
    }
}

fn activation(service: &Service, name: &str) -> mount::Result<Activation> {
    match service.activations() {
        Some(host) => host.activation(name),
        None => kernel::activation(service, name),
    }
}

fn activations(service: &Service) -> mount::Result<Vec<Activation>> {
    match service.activations() {
        Some(host) => host.activations(),
        None => kernel::activations(service),
    }
}

fn given(mount: types::Mount) -> mount::Mount {
    mount::Mount {
        r#type: mount.r#type,
        source: PathBuf::from(mount.source),
        target: PathBuf::from(mount.target),
        options: mount.options,
    }
}

/// A mount on the wire; the paths are text, because they came as text or are below our run directory.
fn shown(mount: mount::Mount) -> types::Mount {
    types::Mount {
        r#type: mount.r#type,
        source: mount.source.to_string_lossy().into_owned(),
        target: mount.target.to_string_lossy().into_owned(),
        options: mount.options,
    }
}

fn info(namespace: &Namespace, activation: Activation) -> types::ActivationInfo {
    let active = activation.active.into_iter().map(|active| types::ActiveMount {
        mount: Some(shown(active.mount)),
        mounted_at: Some(timestamp(active.mounted_at)),
        mount_point: active.mount_point.to_string_lossy().into_owned(),
        data: Default::default(),
    });
    let name = namespace.own(&activation.name).unwrap_or(&activation.name);
    types::ActivationInfo {
        name: name.as_bytes().to_vec(),
        active: active.collect(),
        system: activation.system.into_iter().map(shown).collect(),
        labels: activation.labels,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(elapsed.subsec_nanos()).unwrap_or_default(),
    }
}

/// An activation as filters see it: `name` and `labels`.
struct Filtered<'a> {
    name: &'a str,
    activation: &'a Activation,
}

impl Fields for Filtered<'_> {
    fn field(&self, path: &[Vec<u8>]) -> Option<Cow<'_, [u8]>> {
        let (first, rest) = path.split_first()?;
        match (first.as_slice(), rest) {
            (b"name", []) => Some(Cow::Borrowed(self.name.as_bytes())),
            (b"labels", rest) => {
                let key = rest.join(&b'.');
                let value = self.activation.labels.get(std::str::from_utf8(&key).ok()?)?;
                Some(Cow::Borrowed(value.as_bytes()))
            }
            _ => None,
        }
    }
}

#[tonic::async_trait]
impl Interface for Mounts {
    async fn activate(
        &self,
        request: Request<api::ActivateRequest>,
    ) -> Result<Response<api::ActivateResponse>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let api::ActivateRequest { name, mounts, labels, temporary } = request.into_inner();
        let name = namespace.full(name)?;
        let activation = self
            .call(name, move |service, name| activate(service, name, mounts, labels, temporary))
            .await?;
        Ok(Response::new(api::ActivateResponse { info: Some(info(&namespace, activation)) }))
    }

    async fn deactivate(
        &self,
        request: Request<api::DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let name = Namespace::of(request.metadata())?.full(request.into_inner().name)?;
        self.call(name, |service, name| deactivate(service, name).map_err(|error| failed(&error)))
            .await?;
        Ok(Response::new(()))
    }

    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let name = namespace.full(request.into_inner().name)?;
        let activation = self
            .call(name, |service, name| activation(service, name).map_err(|error| failed(&error)))
            .await?;
        Ok(Response::new(api::InfoResponse { info: Some(info(&namespace, activation)) }))
    }

    async fn update(
        &self,
        _request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        Err(Status::unimplemented(
            "an activation does not change; deactivate it and activate it again",
        ))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<api::ListMessage, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = Namespace::of(request.metadata())?;
        let filters = request.into_inner().filters;
        let messages = self
            .service
            .blocking(move |service| {
                let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
                let filter =
                    Filter::parse_all(&filters).map_err(|error| status::of_store(&error))?;
                let all = activations(service).map_err(|error| failed(&error))?;
                let chosen = all.into_iter().filter(|activation| {
                    let name = namespace.own(&activation.name);
                    name.is_some_and(|name| filter.matches(&Filtered { name, activation }))
                });
                let message =
                    |activation| Ok(api::ListMessage { info: Some(info(&namespace, activation)) });
                Ok(chosen.map(message).collect::<Vec<_>>())
            })
            .await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}
