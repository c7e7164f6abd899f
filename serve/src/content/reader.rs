//! A blob as a blocking `Read`.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::{CHUNKS, PATIENCE, patient, silent, told};
use crate::api::content::ReadContentRequest;
use crate::api::content::content_client::ContentClient;

/// The bytes of a blob. Ends with an error unless exactly the promised number of bytes came; the error holds the
/// [`Status`].
#[derive(Debug)]
pub(crate) struct BlobReader {
    chunks: Receiver<Result<Bytes, Status>>,
    current: Bytes,
    /// Bytes that are still to come after `current`.
    left: u64,
}

impl BlobReader {
    pub(super) fn start(
        client: ContentClient<Channel>,
        request: Request<ReadContentRequest>,
        size: u64,
        stop: CancellationToken,
    ) -> Self {
        let (sender, chunks) = channel(CHUNKS);
        tokio::spawn(async move {
            let result = tokio::select! {
                result = pump(client, request, size, &sender) => result,
                // Dropping the stream tells containerd.
                () = stop.cancelled() => Err(Status::cancelled("the caller has gone")),
            };
            if let Err(status) = result {
                // Nobody listens any more: then nobody needs to know.
                sender.send(Err(status)).await.ok();
            }
        });
        Self { chunks, current: Bytes::new(), left: size }
    }
}

async fn pump(
    mut client: ContentClient<Channel>,
    request: Request<ReadContentRequest>,
    size: u64,
    sender: &Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    let mut stream = patient(client.read(request)).await?.into_inner();
    let mut position = 0;
    loop {
        let message = match tokio::time::timeout(PATIENCE, stream.message()).await {
            Ok(message) => message.map_err(told)?,
            Err(_) => return Err(silent()),
        };
        let Some(message) = message else { break };
        if u64::try_from(message.offset) != Ok(position) {
            let offset = message.offset;
            return Err(Status::data_loss(format!(
                "containerd's content store sent byte {offset} of the blob where byte {position} was to come"
            )));
        }
        position += message.data.len() as u64;
        if position > size {
            return Err(Status::data_loss(format!(
                "containerd's content store sent more than the {size} bytes of the blob"
            )));
        }
        if !message.data.is_empty() && sender.send(Ok(message.data)).await.is_err() {
            return Ok(());
        }
    }
    match position == size {
        true => Ok(()),
        false => Err(Status::data_loss(format!(
            "containerd's content store sent {position} of the {size} bytes of the blob"
        ))),
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.left -= chunk.len() as u64;
                    self.current = chunk;
                }
                Some(Err(status)) => return Err(io::Error::other(status)),
                None if self.left == 0 => return Ok(0),
                None => return Err(io::Error::other(Status::cancelled("the daemon stops"))),
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
