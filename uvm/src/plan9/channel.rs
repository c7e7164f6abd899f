//! A channel: a virtio-9p device (Virtual I/O Device 1.2, device type 9), by which a guest reaches the server without a stream.
//!
//! Each request brings the place for its answer, so that a file's data is read into the guest's memory at once.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::connection::{self, Answers, Inbound, Requests, too_long};
use super::message::HEADER;
use super::session::{Answer, Session, header};
use crate::virtio::{Available, Chain, Device, Head, Used};

/// `VIRTIO_9P_F_MOUNT_TAG`: the configuration has a name.
const MOUNT_TAG: u64 = 1;

/// A device and the session of whoever has mounted by it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) session: Arc<Session>,
    pub(super) tag: String,
    pub(super) threads: usize,
}

impl Device for Channel {
    fn features(&self) -> u64 {
        MOUNT_TAG
    }

    fn configuration(&self) -> Vec<u8> {
        let length = u16::try_from(self.tag.len()).unwrap_or(0);
        [&length.to_le_bytes()[..], self.tag.as_bytes()].concat()
    }

    fn run(&self, available: Available, used: Used) -> io::Result<()> {
        // The session outlives the queue: only the client begins another.
        connection::serve(&self.session, Asked(available), Answered(used), self.threads)
    }
}

struct Asked(Available);

impl Requests for Asked {
    type Back = Head;

    fn next(&mut self, bytes: &mut Vec<u8>, msize: u32) -> io::Result<Option<Inbound<Head>>> {
        let Some(chain) = self.0.wait()? else { return Ok(None) };
        let Chain { head, request, answer, fault } = chain;
        let mut first = [0; HEADER];
        let too_short = || io::Error::new(io::ErrorKind::InvalidData, "a request without a header");
        request.read(0, &mut first).ok_or_else(too_short)?;
        let (length, kind, tag) = header(&first);
        if length < 7 || length > msize {
            return Err(too_long(length, msize));
        }
        let length = length as usize;
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        // What was looked at is what is worked on, whatever the guest has written there since.
        bytes[..HEADER].copy_from_slice(&first);
        let there = request.read(HEADER, &mut bytes[HEADER..length]).is_some();
        let refused = (fault || !there).then_some(Errno::FAULT);
        Ok(Some(Inbound { kind, tag, length, back: head, room: Some(answer), refused }))
    }
}

struct Answered(Used);

impl Answers for Answered {
    type Back = Head;

    fn write(&mut self, answer: &Answer, back: Head) -> io::Result<()> {
        let (message, payload) = (&answer.message, answer.payload());
        let length = message.len() + payload.len() + answer.placed;
        let written = answer.room.as_ref().and_then(|room| {
            room.write(message.len(), payload)?;
            room.write(0, message)
        });
        // An answer for which the guest left no room is none.
        self.0.give_back(back, if written.is_some() { length } else { 0 })
    }
}
