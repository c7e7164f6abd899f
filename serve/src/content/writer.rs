//! A blob as a blocking `Write`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use layer::{Digest, Digester};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{PATIENCE, silent, told};
use crate::api::content::content_client::ContentClient;
use crate::api::content::{WriteAction, WriteContentRequest, WriteContentResponse};

/// Bytes in a message: as many as containerd itself sends.
const CHUNK: usize = 1 << 20;

/// An upload. Dropping it without a commit leaves it unfinished, to be aborted.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    runtime: Handle,
    requests: Option<Sender<WriteContentRequest>>,
    answers: Option<JoinHandle<Result<WriteContentResponse, Status>>>,
    /// Said in the first message only.
    reference: String,
    gathered: BytesMut,
    offset: u64,
    digester: Digester,
}

impl BlobWriter {
    pub(super) fn start(
        mut client: ContentClient<Channel>,
        stream: Request<ReceiverStream<WriteContentRequest>>,
        requests: Sender<WriteContentRequest>,
        reference: String,
        stop: CancellationToken,
    ) -> Self {
        let answers = async move {
            // The first answer comes after the first message, which takes as long as the work before it.
            let mut answers = client.write(stream).await.map_err(told)?.into_inner();
            let mut last = None;
            while let Some(answer) = answers.message().await.map_err(told)? {
                last = Some(answer);
            }
            last.ok_or_else(|| Status::data_loss("containerd's content store answered nothing"))
        };
        let answers = tokio::spawn(async move {
            tokio::select! {
                answer = answers => answer,
                () = stop.cancelled() => Err(Status::cancelled("the caller has gone")),
            }
        });
        Self {
            runtime: Handle::current(),
            requests: Some(requests),
            answers: Some(answers),
            reference,
            gathered: BytesMut::with_capacity(CHUNK),
            offset: 0,
            digester: Digester::default(),
        }
    }

    /// Bytes written so far.
    pub(crate) fn size(&self) -> u64 {
        self.offset + self.gathered.len() as u64
    }

    /// Ends the upload: the blob gets its digest and these labels. A blob that is there already is success, too, but
    /// its labels stay as they are.
    pub(crate) fn commit(mut self, labels: BTreeMap<String, String>) -> Result<Digest, Status> {
        let size = self.size();
        let total = signed(size)?;
        // No expected digest: containerd then would look for the blob before it puts it under the lease.
        let last = self.gathered.split().freeze();
        self.send(WriteAction::Commit, last, total, labels)?;
        self.requests = None;
        let digest = std::mem::take(&mut self.digester).finish();
        let answer = self.answer_within_patience();
        match answer {
            Ok(answer) => {
                if answer.action != i32::from(WriteAction::Commit) || answer.offset != total {
                    let offset = answer.offset;
                    return Err(Status::data_loss(format!(
                        "containerd's content store took {offset} of {size} bytes"
                    )));
                }
                if !answer.digest.is_empty() && answer.digest != digest.to_string() {
                    let found = answer.digest;
                    return Err(Status::data_loss(format!(
                        "what containerd's content store took is {found}, not {digest}"
                    )));
                }
                Ok(digest)
            }
            Err(status) if status.code() == Code::AlreadyExists => Ok(digest),
            Err(status) => Err(status),
        }
    }

    fn send(
        &mut self,
        action: WriteAction,
        data: Bytes,
        total: i64,
        labels: BTreeMap<String, String>,
    ) -> Result<(), Status> {
        let length = data.len() as u64;
        self.digester.update(&data);
        let message = WriteContentRequest {
            action: action.into(),
            r#ref: std::mem::take(&mut self.reference),
            total,
            expected: String::new(),
            offset: signed(self.offset)?,
            data,
            labels,
        };
        let sent = match &self.requests {
            Some(requests) => requests.blocking_send(message).is_ok(),
            None => false,
        };
        if !sent {
            // Whoever ended the stream has said why.
            self.requests = None;
            return match self.answer() {
                Ok(_) => Err(Status::data_loss("containerd's content store ended the upload")),
                Err(status) => Err(status),
            };
        }
        self.offset += length;
        Ok(())
    }

    fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        let Some(answers) = self.answers.take() else {
            return Err(Status::internal("the upload has ended already"));
        };
        match self.runtime.block_on(answers) {
            Ok(answer) => answer,
            Err(error) => Err(Status::internal(format!("the upload ended early: {error}"))),
        }
    }

    fn answer_within_patience(&mut self) -> Result<WriteContentResponse, Status> {
        let Some(answers) = self.answers.take() else {
            return Err(Status::internal("the upload has ended already"));
        };
        let abort = answers.abort_handle();
        let runtime = self.runtime.clone();
        // A commit syncs the whole blob to the disk.
        match runtime.block_on(async { tokio::time::timeout(10 * PATIENCE, answers).await }) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(Status::internal(format!("the upload ended early: {error}"))),
            Err(_) => {
                abort.abort();
                Err(silent())
            }
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(answers) = &self.answers {
            answers.abort();
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() >= CHUNK {
            let data = self.gathered.split().freeze();
            self.send(WriteAction::Write, data, 0, BTreeMap::new()).map_err(io::Error::other)?;
            self.gathered.reserve(CHUNK);
        }
        let length = bytes.len().min(CHUNK - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    /// Does nothing: chunks are sent when they are full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn signed(number: u64) -> Result<i64, Status> {
    i64::try_from(number).map_err(|_| Status::out_of_range("a blob of over 2^63 bytes"))
}
