//! Bytes that no kernel sends.

use std::io::Write;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use rustix::io::Errno;

use super::super::message::{Malformed, Reply, Request};
use super::super::wire::{Data, List, Qid};
use super::super::{Export, Limits, Server};
use super::client::Client;

/// Every message of the dialect: written and read it is the same; cut short or lengthened it is none.
#[test]
fn all_requests_survive_the_wire() {
    let names = List::new(&[&b"a"[..], b"", b"ccc"]).unwrap();
    let requests = [
        Request::Statfs { fid: 1 },
        Request::Lcreate { fid: 1, name: b"n", flags: 2, mode: 3, gid: 4 },
        Request::Symlink { directory: 1, name: b"n", target: b"t", gid: 2 },
        Request::Lock { fid: 1, kind: 2, flags: 3, start: 4, length: 5, process: 6, client: b"c" },
        Request::Xattrwalk { fid: 1, new_fid: 2, name: b"" },
        Request::Version { msize: 1, version: b"9P2000.L" },
        Request::Flush { tag: 9 },
        Request::Walk { fid: 1, new_fid: 2, names },
        Request::Write { fid: 1, offset: 2, data: Data(b"data") },
        Request::Clunk { fid: u32::MAX },
    ];
    let mut bytes = Vec::new();
    for request in &requests {
        request.write(0x1234, &mut bytes);
        assert_eq!(bytes[..4], u32::try_from(bytes.len()).unwrap().to_le_bytes());
        assert_eq!(bytes[5..7], [0x34, 0x12]);
        let body = &bytes[7..];
        assert_eq!(Request::read(bytes[4], body).as_ref(), Ok(request));
        for length in 0..body.len() {
            assert_eq!(Request::read(bytes[4], &body[..length]), Err(Malformed::Fields));
        }
        let longer = [body, b"!"].concat();
        assert_eq!(Request::read(bytes[4], &longer), Err(Malformed::Fields));
    }
    assert_eq!(Request::read(6, b""), Err(Malformed::Unknown(6)));
    // A walk of 17 names.
    let long = [&[1, 0, 0, 0, 2, 0, 0, 0, 17, 0][..], &[0; 34]].concat();
    assert_eq!(Request::read(110, &long), Err(Malformed::Fields));
    let attributes = super::super::message::Attributes {
        qid: Qid { kind: 1, version: 2, path: 3 },
        times: [(1, 2), (3, 4), (5, 6), (7, 8)],
        ..Default::default()
    };
    let reply = Reply::Getattr { attributes };
    reply.write(1, &mut bytes);
    assert_eq!(bytes.len(), 7 + 153, "the length that the protocol's page gives");
    assert_eq!(Reply::read(bytes[4], &bytes[7..]), Ok(reply));
}

fn export() -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("f"), "text").unwrap();
    std::fs::create_dir(directory.path().join("d")).unwrap();
    let server = Server::new(Limits::default()).unwrap();
    server.share("0", &Export::new(directory.path())).unwrap();
    (directory, server)
}

proptest! {
    /// Messages of known types with any fields: always one answer, of the same tag.
    #[test]
    fn any_fields_are_answered(
        messages in prop::collection::vec(
            (6..=124_u8, prop::collection::vec(prop_oneof![0..4_u8, Just(0), any::<u8>()], 0..60)),
            1..40,
        )
    ) {
        let (_directory, server) = export();
        let mut answer = server.messages().unwrap();
        let mut message = Vec::new();
        Request::Version { msize: 65536, version: b"9P2000.L" }.write(0, &mut message);
        answer(&message).unwrap();
        Request::Attach { fid: 0, auth_fid: u32::MAX, user: b"", share: b"0", uid: 0 }
            .write(0, &mut message);
        prop_assert_eq!(answer(&message).unwrap()[4], 105);
        for (kind, body) in messages {
            let length = u32::try_from(7 + body.len()).unwrap().to_le_bytes();
            let message = [&length[..], &[kind, 1, 2], &body].concat();
            let reply = answer(&message).unwrap();
            prop_assert_eq!(u32::from_le_bytes(reply[..4].try_into().unwrap()) as usize, reply.len());
            prop_assert_eq!(&reply[5..7], &[1, 2]);
            prop_assert!(reply[4] == 7 || reply[4] == kind + 1);
            prop_assert!(Reply::read(reply[4], &reply[7..]).is_ok());
        }
    }
}

/// Streams that are no 9P end, with an error, and nothing else ends with them.
#[test]
fn a_broken_stream_ends_alone() {
    let (_directory, server) = export();
    let mut good = Client::connect(&server);
    good.attach(0, 0).unwrap();
    for bytes in [
        &[0; 64][..],
        &[0xff; 64],
        b"GET / HTTP/1.1\r\n\r\n",
        &[6, 0, 0, 0, 100, 0, 0],
        &[200, 0, 0, 0, 100, 0, 0],
    ] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let serving = server.clone();
        let thread = std::thread::spawn(move || serving.serve(theirs));
        // The server may be gone before all is written.
        let _ = ours.write_all(bytes);
        drop(ours);
        assert!(thread.join().unwrap().is_err(), "{}", bytes.escape_ascii());
        good.walk(0, 1, &[b"f"]).unwrap();
        good.done(&Request::Clunk { fid: 1 }).unwrap();
    }
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let (_directory, server) = export();
    let mut client = Client::connect(&server);
    client.attach(0, 0).unwrap();
    client.open(1, &[b"f"], 0).unwrap();
    let mut bytes = Vec::new();
    let mut one = Vec::new();
    for tag in 0..500_u16 {
        match tag % 5 {
            0 => Request::Getattr { fid: 0, mask: 0 }.write(tag, &mut one),
            // Flushes of what is under way, of nothing, of themselves and of each other.
            1 => Request::Flush { tag: tag.wrapping_sub(3) }.write(tag, &mut one),
            2 => Request::Flush { tag: tag ^ 1 }.write(tag, &mut one),
            _ => Request::Read { fid: 1, offset: 0, count: 4096 }.write(tag, &mut one),
        }
        bytes.extend_from_slice(&one);
    }
    client.stream.write_all(&bytes).unwrap();
    let mut answered: Vec<u16> = (0..500).map(|_| client.receive().unwrap().1).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..500).collect::<Vec<_>>());
}

#[test]
fn what_a_guest_can_hold_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("f"), "").unwrap();
    let limits = Limits { descriptors: 20, connections: 2, ..Limits::default() };
    let server = Server::new(limits).unwrap();
    server.share("0", &Export::new(directory.path())).unwrap();
    let mut client = Client::connect(&server);
    client.attach(0, 0).unwrap();
    let mut opened = 0;
    let full = loop {
        match client.walk(0, opened + 1, &[b"f"]) {
            Ok(()) => opened += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((opened, full), (19, Errno::NFILE.raw_os_error()));
    // Another fid of the same file costs no descriptor.
    client.walk(1, 1000, &[]).unwrap();
    client.done(&Request::Clunk { fid: 2 }).unwrap();
    client.walk(0, 2, &[b"f"]).unwrap();
    let mut second = Client::connect(&server);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let error = server.serve(theirs).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded);
    second.end().unwrap();

    let held: Vec<_> = (0..200)
        .map(|number| {
            let create = Request::Xattrcreate { fid: 1000, name: b"user.x", size: 1, flags: 0 };
            client.walk(1, 1000 + number + 1, &[]).and_then(|()| {
                let Request::Xattrcreate { name, size, flags, .. } = create else { panic!() };
                client.done(&Request::Xattrcreate { fid: 1001 + number, name, size, flags })
            })
        })
        .collect();
    assert_eq!(held.iter().filter(|held| held.is_ok()).count(), 128);
    assert_eq!(held[199], Err(Errno::NOMEM.raw_os_error()));
}

#[test]
fn a_share_ends_with_its_connections() {
    let (_directory, server) = export();
    let mut client = Client::connect(&server);
    client.attach(0, 0).unwrap();
    let mut other = Client::connect(&server);
    assert_eq!(
        server.share("0", &Export::new("/")).unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    server.unshare("0").unwrap();
    assert_eq!(server.unshare("0").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert!(client.receive().is_err());
    client.end().unwrap();
    assert_eq!(other.attach(0, 0), Err(Errno::NOENT.raw_os_error()));
    server.close();
    assert!(other.receive().is_err());
    let (_ours, theirs) = UnixStream::pair().unwrap();
    assert!(server.serve(theirs).is_err());
    assert!(server.share("1", &Export::new("/nowhere")).is_err());
}
