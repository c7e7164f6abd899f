//! The daemon's side: calls from the command line.

use std::fmt;

use layer::Cancel;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Call, Descriptors, Event, Progress, RemoteCause, Reply, Target, operations};
use crate::api::control::control_server::{Control, ControlServer};
use crate::api::control::{CallReply, CallRequest};
use crate::service::Service;

/// Messages of an answer that wait for a slow caller.
const WAITING: usize = 64;

/// Serves `plywood.v1.Control`.
#[derive(Debug)]
pub(crate) struct ControlService(Service);

impl ControlService {
    pub(crate) fn server(service: Service) -> ControlServer<Self> {
        ControlServer::new(Self(service)).max_encoding_message_size(usize::MAX)
    }
}

type Answer = Result<CallReply, Status>;

#[tonic::async_trait]
impl Control for ControlService {
    type CallStream = ReceiverStream<Answer>;

    async fn call(
        &self,
        request: Request<CallRequest>,
    ) -> Result<Response<Self::CallStream>, Status> {
        let descriptors = Descriptors::of_caller(request.extensions());
        let json = request.into_inner().json;
        let operation: operations::Request = serde_json::from_slice(&json)
            .map_err(|error| Status::invalid_argument(format!("no such operation: {error}")))?;
        tracing::debug!(operation = operation.name(), from = ?descriptors, "command");
        let (sender, receiver) = mpsc::channel(WAITING);
        let (ended, end) = oneshot::channel::<()>();
        let cancel = Cancel::new();
        tokio::spawn({
            let (sender, cancel) = (sender.clone(), cancel.clone());
            async move {
                tokio::select! {
                    // The caller hung up or was killed: nobody waits for the answer.
                    () = sender.closed() => cancel.cancel(),
                    _ = end => {}
                }
            }
        });
        let service = self.0.clone();
        let run = service.config().run.clone();
        tokio::task::spawn_blocking(move || {
            let sink = Sink(sender);
            let call = Call {
                target: Target::Open(service.store()),
                run: &run,
                cancel: &cancel,
                progress: &sink,
                descriptors: &descriptors,
            };
            let name = operation.name();
            let answer = operation.perform(&call).or_else(|fault| {
                tracing::debug!(operation = name, error = %fault, "command failed");
                serde_json::to_vec(&Reply::<()>::Failed(RemoteCause::of(&*fault)))
            });
            sink.send(answer.map_err(|error| Status::internal(error.to_string())));
            drop(ended);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Where an operation's events and its end go.
struct Sink(mpsc::Sender<Answer>);

impl Sink {
    fn send(&self, json: Result<Vec<u8>, Status>) {
        // A caller that hung up needs no answer.
        let _ = self.0.blocking_send(json.map(|json| CallReply { json }));
    }
}

impl Progress for Sink {
    fn report(&self, event: Event) {
        if let Ok(json) = serde_json::to_vec(&Reply::<()>::Event(event)) {
            self.send(Ok(json));
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}
