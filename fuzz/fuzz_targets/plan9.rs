//! Any messages of a guest to the server of shares: each is answered by one message of its tag, and nothing outside of the
//! share is touched.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use uvm::plan9::message::{Reply, Request};
use uvm::plan9::{Export, Limits, Server};

fuzz_target!(|bytes: &[u8]| {
    // The first byte says how the directory is shared.
    let Some((&how, mut bytes)) = bytes.split_first() else { return };
    let outer = tempfile::tempdir().expect("a directory");
    let share = outer.path().join("share");
    fs::create_dir_all(share.join("d/e")).expect("a directory");
    fs::write(share.join("f"), "text").expect("a file");
    fs::write(outer.path().join("secret"), "secret").expect("a file");
    std::os::unix::fs::symlink("../secret", share.join("l")).expect("a link");
    let allowed = (how & 2 != 0).then(|| vec!["f".into(), "d".into()]);
    let export = Export::new(&share).read_only(how & 1 != 0).allowed(allowed);
    let server = Server::new(Limits { descriptors: 64, ..Limits::default() }).expect("a server");
    server.share("0", &export).expect("a share");
    let mut answer = server.messages().expect("a session");
    let mut message = Vec::new();
    Request::Version { msize: 16384, version: b"9P2000.L" }.write(0, &mut message);
    answer(&message).expect("an answer");
    Request::Attach { fid: 0, auth_fid: u32::MAX, user: b"", share: b"0", uid: 0 }
        .write(0, &mut message);
    answer(&message).expect("an answer");
    // Type and length of a body, then the body.
    while let [kind, length, rest @ ..] = bytes {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        bytes = rest;
        let size = u32::try_from(body.len() + 7).expect("short").to_le_bytes();
        let reply = answer(&[&size[..], &[*kind, 5, 6], body].concat()).expect("an answer");
        assert_eq!(reply[..4], u32::try_from(reply.len()).expect("short").to_le_bytes());
        assert_eq!(reply[5..7], [5, 6]);
        assert!(reply[4] == 7 || reply[4] == kind + 1);
        Reply::read(reply[4], &reply[7..]).expect("a whole answer");
    }
    let names = fs::read_dir(outer.path()).expect("a directory").count();
    assert_eq!(names, 2, "nothing is made outside of the share");
    assert_eq!(fs::read(outer.path().join("secret")).expect("a file"), b"secret");
    if how & 1 != 0 {
        assert_eq!(fs::read(share.join("f")).expect("a file"), b"text");
    }
});
