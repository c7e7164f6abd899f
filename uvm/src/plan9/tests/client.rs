//! A small 9P client that says exactly what a test wants said.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use super::super::message::{HEADER, NO_FID, Reply, Request};
use super::super::wire::List;
use super::super::{Export, Limits, Result, Server};

/// A connection to a server of its own.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    thread: Option<JoinHandle<Result<()>>>,
    buffer: Vec<u8>,
}

impl Client {
    /// Serves `export` as the share `0` and attaches to it as root with fid 0.
    pub(super) fn of(export: &Export) -> Self {
        let server = Server::new(Limits::default()).unwrap();
        server.share("0", export).unwrap();
        let mut client = Self::connect(&server);
        client.attach(0, 0).unwrap();
        client
    }

    /// A connection whose version is agreed on.
    pub(super) fn connect(server: &Server) -> Self {
        let (stream, other) = UnixStream::pair().unwrap();
        let serving = server.clone();
        let thread = std::thread::spawn(move || serving.serve(other));
        let mut client = Self { stream, thread: Some(thread), buffer: Vec::new() };
        let version = Request::Version { msize: 1 << 20, version: b"9P2000.L" };
        let msize = client.call(&version, |reply| match reply {
            Reply::Version { msize, version: b"9P2000.L" } => msize,
            other => panic!("{other:?}"),
        });
        assert_eq!(msize, Ok(512 * 1024 + 24));
        client
    }

    pub(super) fn attach(&mut self, fid: u32, uid: u32) -> Result<(), i32> {
        let attach = Request::Attach { fid, auth_fid: NO_FID, user: b"", share: b"0", uid };
        self.done(&attach)
    }

    /// Sends a request and reads its answer, or the error number.
    pub(super) fn call<T>(
        &mut self,
        request: &Request<'_>,
        take: impl FnOnce(Reply<'_>) -> T,
    ) -> Result<T, i32> {
        let mut bytes = Vec::new();
        request.write(7, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
        let (kind, tag) = self.receive().unwrap();
        assert_eq!(tag, 7);
        match Reply::read(kind, &self.buffer[HEADER..]).unwrap() {
            Reply::Error { errno } => Err(errno.cast_signed()),
            reply => {
                assert_eq!(reply.kind(), request.kind() + 1);
                Ok(take(reply))
            }
        }
    }

    /// The next answer: its type and tag.
    pub(super) fn receive(&mut self) -> std::io::Result<(u8, u16)> {
        self.buffer.resize(4, 0);
        self.stream.read_exact(&mut self.buffer)?;
        let length = u32::from_le_bytes(self.buffer[..4].try_into().unwrap());
        self.buffer.resize(length as usize, 0);
        self.stream.read_exact(&mut self.buffer[4..])?;
        Ok((self.buffer[4], u16::from_le_bytes([self.buffer[5], self.buffer[6]])))
    }

    pub(super) fn done(&mut self, request: &Request<'_>) -> Result<(), i32> {
        self.call(request, |_| ())
    }

    /// Walks from a fid to a new one.
    pub(super) fn walk(&mut self, fid: u32, new_fid: u32, names: &[&[u8]]) -> Result<(), i32> {
        let walk = Request::Walk { fid, new_fid, names: List::new(names).unwrap() };
        let walked = self.call(&walk, |reply| match reply {
            Reply::Walk { qids } => qids.as_slice().len(),
            other => panic!("{other:?}"),
        })?;
        // What the kernel's client makes of a walk that ends early.
        if walked == names.len() { Ok(()) } else { Err(libc_enoent()) }
    }

    /// Walks from the root and opens.
    pub(super) fn open(&mut self, fid: u32, names: &[&[u8]], flags: u32) -> Result<(), i32> {
        self.walk(0, fid, names)?;
        self.done(&Request::Lopen { fid, flags })
    }

    pub(super) fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, i32> {
        self.call(&Request::Read { fid, offset, count }, |reply| match reply {
            Reply::Read { data } => data.0.to_vec(),
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn attributes(
        &mut self,
        fid: u32,
    ) -> Result<super::super::message::Attributes, i32> {
        self.call(&Request::Getattr { fid, mask: 0x7ff }, |reply| match reply {
            Reply::Getattr { attributes } => attributes,
            other => panic!("{other:?}"),
        })
    }

    /// All names of an open directory, asked for in pieces of `count` bytes.
    pub(super) fn names(&mut self, fid: u32, count: u32) -> Result<Vec<Vec<u8>>, i32> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let request = Request::Readdir { fid, offset, count };
            let entries = self.call(&request, |reply| match reply {
                Reply::Readdir { entries } => entries.0.to_vec(),
                other => panic!("{other:?}"),
            })?;
            assert!(entries.len() <= count as usize);
            let mut rest = &entries[..];
            if rest.is_empty() {
                names.sort();
                return Ok(names);
            }
            while !rest.is_empty() {
                offset = u64::from_le_bytes(rest[13..21].try_into().unwrap());
                let length = usize::from(u16::from_le_bytes([rest[22], rest[23]]));
                names.push(rest[24..24 + length].to_vec());
                rest = &rest[24 + length..];
            }
        }
    }

    /// Ends the connection; what the server said about it.
    pub(super) fn end(&mut self) -> Result<()> {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.thread.take().unwrap().join().expect("the server must not panic")
    }
}

fn libc_enoent() -> i32 {
    rustix::io::Errno::NOENT.raw_os_error()
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.end().unwrap();
        }
    }
}
