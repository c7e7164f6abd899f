//! Requests as bytes to the services in this process.

use std::sync::OnceLock;

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::service::Routes;
use tonic::{Code, Request, Status};

/// Messages of an answer, or its error.
pub(crate) type Answer = Result<Vec<Vec<u8>>, Status>;

pub(crate) struct Channel(Grpc<Routes>);

impl Channel {
    pub(crate) fn new(routes: Routes) -> Self {
        Self(Grpc::new(routes))
    }

    /// `method` as `package.Service/Method`. A call that is not a stream is one with a single message.
    pub(crate) fn call(&mut self, method: &str, body: Vec<u8>) -> Answer {
        let path = PathAndQuery::try_from(format!("/{method}")).expect("a method is a path");
        let answer: Answer = runtime().block_on(async {
            let Ok(()) = self.0.ready().await;
            let stream = self.0.server_streaming(Request::new(body), path, Plain).await?;
            let mut stream = stream.into_inner();
            let mut messages = Vec::new();
            while let Some(message) = stream.message().await? {
                messages.push(message);
            }
            Ok(messages)
        });
        if let Err(status) = &answer {
            let wrong = [Code::Internal, Code::Unknown, Code::DataLoss];
            let decoding =
                status.message().contains("decode") || status.message().contains("invalid");
            assert!(!wrong.contains(&status.code()) || decoding, "{method}: {status:?}");
        }
        answer
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(4).enable_all().build().expect("a runtime")
    })
}

/// Messages left as they are.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
