//! containerd's content and lease services as far as the differ uses them, on a socket, with the faults that a real one
//! has when disks fail and blobs go.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use layer::Digest;
use serve::api::content::content_server::{Content, ContentServer};
use serve::api::content::*;
use serve::api::leases::leases_server::{Leases, LeasesServer};
use serve::api::leases::{CreateRequest, CreateResponse, DeleteRequest, Lease};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

const CHUNK: usize = 1 << 20;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The blob is gone when this many bytes were read.
    Vanishes(usize),
    /// The stream ends, as if that were all.
    Ends(usize),
    /// More bytes come than the store said.
    Overflows,
    /// A piece is left out.
    Skips,
    /// Nothing comes any more.
    Hangs(usize),
    /// The store's disk is full when this many bytes were written.
    Full(usize),
    /// What is committed is something else.
    Garbles,
}

#[derive(Default)]
pub struct State {
    pub blobs: BTreeMap<String, (Vec<u8>, BTreeMap<String, String>)>,
    pub uploads: BTreeMap<String, Vec<u8>>,
    pub leases: BTreeMap<String, BTreeMap<String, String>>,
    /// Lease and blob, for every commit.
    pub leased: Vec<(String, String)>,
    /// Namespaces of all calls.
    pub namespaces: Vec<String>,
    pub reads: usize,
    pub fault: Option<Fault>,
}

/// A content store that serves.
#[derive(Clone)]
pub struct Contents(Arc<Mutex<State>>);

impl Contents {
    /// Serves on a socket, on threads of the runtime.
    pub fn start_at(path: &Path, runtime: &Runtime) -> Self {
        let contents = Self(Arc::default());
        let (content, leases) = (contents.clone(), contents.clone());
        runtime.block_on(async {
            let listener = UnixListener::bind(path).unwrap();
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_service(
                        ContentServer::new(content)
                            .max_decoding_message_size(16 << 20)
                            .max_encoding_message_size(16 << 20),
                    )
                    .add_service(LeasesServer::new(leases))
                    .serve_with_incoming(UnixListenerStream::new(listener)),
            );
        });
        contents
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Puts a blob in.
    pub fn add(&self, blob: &[u8]) -> Digest {
        let digest = Digest::of(blob);
        self.state().blobs.insert(digest.to_string(), (blob.to_vec(), BTreeMap::new()));
        digest
    }

    pub fn blob(&self, digest: &str) -> Vec<u8> {
        self.state().blobs[digest].0.clone()
    }

    pub fn labels(&self, digest: &str) -> BTreeMap<String, String> {
        self.state().blobs[digest].1.clone()
    }

    pub fn fail(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    fn fault(&self) -> Fault {
        self.state().fault.unwrap_or(Fault::None)
    }

    fn seen<T>(&self, request: &Request<T>) -> String {
        let text = |name: &str| {
            let value = request.metadata().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        self.state().namespaces.push(text("containerd-namespace"));
        text("containerd-lease")
    }

    fn info_of(&self, digest: &str) -> Result<Info, Status> {
        let state = self.state();
        let Some((blob, labels)) = state.blobs.get(digest) else {
            return Err(Status::not_found(format!("content {digest}: not found")));
        };
        let size = i64::try_from(blob.len()).unwrap();
        let (digest, labels) = (digest.to_owned(), labels.clone());
        Ok(Info { digest, size, labels, ..Info::default() })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Content for Contents {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        self.seen(&request);
        let info = self.info_of(&request.into_inner().digest)?;
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        self.seen(&request);
        let UpdateRequest { info, update_mask } = request.into_inner();
        let info = info.unwrap();
        let mask = update_mask.unwrap().paths;
        let mut state = self.state();
        let (_, labels) = state.blobs.get_mut(&info.digest).unwrap();
        for path in mask {
            let key = path.strip_prefix("labels.").unwrap().to_owned();
            labels.insert(key.clone(), info.labels[&key].clone());
        }
        drop(state);
        Ok(Response::new(UpdateResponse { info: Some(self.info_of(&info.digest)?) }))
    }

    type ListStream = Answers<ListContentResponse>;

    async fn list(
        &self,
        _request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete(
        &self,
        _request: Request<DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }

    type ReadStream = Answers<ReadContentResponse>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        self.seen(&request);
        let digest = request.into_inner().digest;
        self.info_of(&digest)?;
        let (mut blob, fault) = (self.blob(&digest), self.fault());
        self.state().reads += 1;
        if fault == Fault::Overflows {
            blob.push(0);
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut offset = 0;
            while offset < blob.len() {
                let mut end = blob.len().min(offset + CHUNK);
                let stop = match fault {
                    Fault::Vanishes(at) | Fault::Ends(at) | Fault::Hangs(at) => at,
                    _ => usize::MAX,
                };
                end = end.min(stop);
                let data = blob[offset..end].to_vec().into();
                let message = ReadContentResponse { offset: i64::try_from(offset).unwrap(), data };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
                offset = end + usize::from(fault == Fault::Skips);
                if offset >= stop {
                    match fault {
                        Fault::Vanishes(_) => {
                            let status = Status::not_found(format!("content {digest}: not found"));
                            sender.send(Err(status)).await.ok();
                        }
                        Fault::Hangs(_) => tokio::time::sleep(Duration::from_secs(3600)).await,
                        _ => {}
                    }
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_statuses(
        &self,
        _request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WriteStream = Answers<WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let lease = self.seen(&request);
        let mut requests = request.into_inner();
        let contents = self.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut reference = String::new();
            while let Some(Ok(message)) = requests.next().await {
                if reference.is_empty() {
                    reference = message.r#ref.clone();
                }
                let answer = contents.take(&reference, &lease, message);
                let ends = answer.is_err();
                if sender.send(answer).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        self.seen(&request);
        let reference = request.into_inner().r#ref;
        match self.state().uploads.remove(&reference) {
            Some(_) => Ok(Response::new(())),
            None => Err(Status::not_found(reference)),
        }
    }
}

impl Contents {
    fn take(
        &self,
        reference: &str,
        lease: &str,
        message: WriteContentRequest,
    ) -> Result<WriteContentResponse, Status> {
        if reference.is_empty() {
            return Err(Status::invalid_argument("first message must have a reference"));
        }
        let fault = self.fault();
        let mut state = self.state();
        let upload = state.uploads.entry(reference.to_owned()).or_default();
        let offset = usize::try_from(message.offset).unwrap();
        match offset {
            0 => upload.clear(),
            offset if offset != upload.len() => return Err(Status::out_of_range("the offset")),
            _ => {}
        }
        upload.extend_from_slice(&message.data);
        if matches!(fault, Fault::Full(at) if upload.len() >= at) {
            return Err(Status::resource_exhausted("no space left on device"));
        }
        let mut answer = WriteContentResponse {
            action: message.action,
            offset: i64::try_from(upload.len()).unwrap(),
            ..WriteContentResponse::default()
        };
        if message.action == i32::from(WriteAction::Commit) {
            let mut blob = state.uploads.remove(reference).unwrap();
            assert_eq!(message.total, i64::try_from(blob.len()).unwrap());
            if fault == Fault::Garbles {
                blob[0] ^= 1;
            }
            let digest = Digest::of(&blob).to_string();
            state.leased.push((lease.to_owned(), digest.clone()));
            if state.blobs.contains_key(&digest) {
                return Err(Status::already_exists(format!("content {digest}: already exists")));
            }
            state.blobs.insert(digest.clone(), (blob, message.labels));
            answer.digest = digest;
        }
        Ok(answer)
    }
}

#[tonic::async_trait]
impl Leases for Contents {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        self.seen(&request);
        let CreateRequest { id, labels } = request.into_inner();
        self.state().leases.insert(id.clone(), labels.clone());
        let lease = Some(Lease { id, labels, created_at: None });
        Ok(Response::new(CreateResponse { lease }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<()>, Status> {
        self.seen(&request);
        self.state().leases.remove(&request.into_inner().id);
        Ok(Response::new(()))
    }
}
