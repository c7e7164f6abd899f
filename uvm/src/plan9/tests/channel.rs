//! The server by a virtio device instead of a stream.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use rustix::io::Errno;

use super::super::message::{NO_FID, Reply, Request};
use super::super::wire::List;
use super::super::{Export, Limits, Result, Server};
use crate::virtio::driver::{BUFFERS, DESCRIPTORS, Driver, GUEST, NEXT, WRITE};

struct Client {
    driver: Driver,
    thread: JoinHandle<Result<()>>,
}

impl Client {
    fn connect(server: &Server) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = server.clone();
        let thread = std::thread::spawn(move || server.serve_channel(&theirs, "tag7"));
        let driver = Driver::new(ours);
        assert_eq!(driver.start() & 1, 1, "the feature of having a name");
        Self { driver, thread }
    }

    /// A request, and what the server's answer is put to. Linux has the head of an answer in a place of its own.
    fn call<T>(&mut self, request: &Request<'_>, look: impl FnOnce(Reply<'_>) -> T) -> T {
        let mut message = Vec::new();
        request.write(5, &mut message);
        let answer = self.driver.exchange(&message, 11, 0x8000);
        assert_eq!(answer[..4], u32::try_from(answer.len()).unwrap().to_le_bytes());
        assert_eq!(answer[5..7], [5, 0]);
        look(Reply::read(answer[4], &answer[7..]).unwrap())
    }

    fn done(&mut self, request: &Request<'_>) -> Result<(), i32> {
        self.call(request, |reply| match reply {
            Reply::Error { errno } => Err(errno.cast_signed()),
            _ => Ok(()),
        })
    }

    fn mount(&mut self, share: &[u8]) -> Result<(), i32> {
        self.done(&Request::Version { msize: 65536, version: b"9P2000.L" })?;
        self.done(&Request::Attach { fid: 0, auth_fid: NO_FID, user: b"", share, uid: 0 })
    }

    fn open(&mut self, fid: u32, name: &[u8]) -> Result<(), i32> {
        let names = List::new(&[name]).unwrap();
        self.done(&Request::Walk { fid: 0, new_fid: fid, names })?;
        self.done(&Request::Lopen { fid, flags: 0 })
    }

    fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, i32> {
        self.call(&Request::Read { fid, offset, count }, |reply| match reply {
            Reply::Read { data } => Ok(data.0.to_vec()),
            Reply::Error { errno } => Err(errno.cast_signed()),
            other => panic!("{other:?}"),
        })
    }
}

#[test]
fn files_are_read_into_the_guests_memory_and_a_share_ends_without_the_channel() {
    let directory = tempfile::tempdir().unwrap();
    let text: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(directory.path().join("f"), &text).unwrap();
    let server = Server::new(Limits::default()).unwrap();
    for name in ["one", "two"] {
        server.share(name, &Export::new(directory.path())).unwrap();
    }
    let mut client = Client::connect(&server);
    let configuration = [24_u32, 1, 12 + 6, 0, 6, 0, 0].map(u32::to_le_bytes);
    let configuration = [configuration.as_flattened()[..24].to_vec(), vec![0; 6]].concat();
    assert_eq!(&client.driver.ask(&configuration, &[]).unwrap()[12..], b"\x04\0tag7");
    client.mount(b"one").unwrap();
    client.open(1, b"f").unwrap();
    assert_eq!(client.read(1, 10, 5000).unwrap(), text[10..5010]);
    // As much as there is room for, whatever is asked.
    assert_eq!(client.read(1, 0, u32::MAX).unwrap(), text[..0x8000]);
    assert_eq!(client.read(1, 99_990, 5000).unwrap(), text[99_990..]);
    assert_eq!(client.read(1, 100_000, 5000).unwrap(), b"");
    assert_eq!(client.read(1, u64::MAX, 5), Err(Errno::INVAL.raw_os_error()));
    assert_eq!(client.read(2, 0, 5), Err(Errno::BADF.raw_os_error()));
    client.done(&Request::Walk { fid: 0, new_fid: 2, names: List::new(&[]).unwrap() }).unwrap();
    client.done(&Request::Lopen { fid: 2, flags: 0 }).unwrap();
    client.call(&Request::Readdir { fid: 2, offset: 0, count: 4096 }, |reply| {
        // Three entries: a head of 24 bytes each, and the names.
        assert!(matches!(reply, Reply::Readdir { entries } if entries.0.len() == 3 * 24 + 4));
    });

    // The channel outlives what was mounted by it.
    server.unshare("one").unwrap();
    assert_eq!(client.read(1, 0, 5), Err(Errno::BADF.raw_os_error()));
    assert_eq!(client.mount(b"one"), Err(Errno::NOENT.raw_os_error()));
    client.mount(b"two").unwrap();
    client.open(1, b"f").unwrap();
    assert!(client.driver.stop() > 10);
    server.close();
    drop(client.driver);
    client.thread.join().unwrap().unwrap();
}

#[test]
fn what_is_no_message_ends_the_queue_and_bad_memory_one_request() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::new(Limits::default()).unwrap();
    server.share("0", &Export::new(directory.path())).unwrap();
    let (request, answer) = (GUEST + BUFFERS as u64, GUEST + 0x1_0000);
    for (bytes, length) in [(&[0; 20][..], 20), (&[0xff; 20], 20), (&[7, 0, 0, 0, 100, 0, 0], 6)] {
        let mut client = Client::connect(&server);
        client.driver.memory.write(BUFFERS, bytes).unwrap();
        client.driver.describe(DESCRIPTORS, 0, request, length, (NEXT, 1));
        client.driver.describe(DESCRIPTORS, 1, answer, 100, (WRITE, 0));
        client.driver.offer(0);
        assert_eq!(client.driver.answer(20), None);
        client.driver.stop();
        drop(client.driver);
        client.thread.join().unwrap().unwrap();
    }
    let mut client = Client::connect(&server);
    client.mount(b"0").unwrap();
    let mut message = Vec::new();
    Request::Getattr { fid: 0, mask: 0 }.write(9, &mut message);
    // Longer than what is there; then a place for the rest of the answer that is no memory; then no place at all.
    message[0] += 1;
    let length = u32::try_from(message.len()).unwrap();
    let error = |driver: &Driver| {
        let mut said = [0; 11];
        driver.memory.read(0x1_0000, &mut said).unwrap();
        said
    };
    let fault = [11, 0, 0, 0, 7, 9, 0, 14, 0, 0, 0];
    client.driver.memory.write(BUFFERS, &message).unwrap();
    client.driver.describe(DESCRIPTORS, 0, request, length, (NEXT, 1));
    client.driver.describe(DESCRIPTORS, 1, answer, 100, (WRITE, 0));
    client.driver.offer(0);
    assert_eq!((client.driver.answer(900), error(&client.driver)), (Some((0, 11)), fault));
    client.driver.memory.write(0x1_0000, &[0; 11]).unwrap();
    client.driver.describe(DESCRIPTORS, 1, answer, 11, (NEXT | WRITE, 2));
    client.driver.describe(DESCRIPTORS, 2, 0x10, 1000, (WRITE, 0));
    client.driver.offer(0);
    assert_eq!((client.driver.answer(900), error(&client.driver)), (Some((0, 11)), fault));
    client.driver.describe(DESCRIPTORS, 1, answer, 10, (WRITE, 0));
    client.driver.offer(0);
    assert_eq!(client.driver.answer(900), Some((0, 0)));
    client.mount(b"0").unwrap();
    drop(client.driver);
    client.thread.join().unwrap().unwrap();
}
