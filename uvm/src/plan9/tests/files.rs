//! What a guest does with files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::io::Errno;

use super::super::message::{REMOVE_DIRECTORY, Reply, Request, lock, open_flags, valid};
use super::super::wire::Data;
use super::super::{Export, Limits, Server};
use super::client::Client;

fn errno(error: Errno) -> Result<(), i32> {
    Err(error.raw_os_error())
}

fn ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn create(client: &mut Client, fid: u32, name: &[u8], flags: u32, mode: u32) -> Result<(), i32> {
    client.walk(0, fid, &[])?;
    client.done(&Request::Lcreate { fid, name, flags, mode, gid: ids().1 })
}

fn change(fid: u32, valid: u32) -> Request<'static> {
    let (size, atime, mtime) = (5, 1_000_000_001, (-5_i64).cast_unsigned());
    let (atime_nsec, mtime_nsec) = (7, 999_999_999);
    let (uid, gid) = (1234, 2345);
    Request::Setattr {
        fid,
        valid,
        mode: 0o4751,
        uid,
        gid,
        size,
        atime,
        atime_nsec,
        mtime,
        mtime_nsec,
    }
}

#[test]
fn a_file_is_made_written_read_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let mut client = Client::of(&Export::new(directory.path()));
    // The server's mask must not take anything from the mode.
    create(&mut client, 1, b"f", 2 | open_flags::EXCLUSIVE, 0o100_666).unwrap();
    let path = directory.path().join("f");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o666);
    let text = vec![b'x'; 200_000];
    let written = client.call(&Request::Write { fid: 1, offset: 3, data: Data(&text) }, |reply| {
        reply == Reply::Write { count: 200_000 }
    });
    assert_eq!(written, Ok(true));
    assert_eq!(fs::read(&path).unwrap()[3..], text);
    assert_eq!(client.read(1, 200_000, 100).unwrap(), b"xxx");
    assert_eq!(client.read(1, 0, u32::MAX).unwrap().len(), 200_003);
    assert_eq!(client.read(1, 1 << 40, 10).unwrap(), b"");
    assert_eq!(client.read(1, u64::MAX, 10), Err(Errno::INVAL.raw_os_error()));
    assert_eq!(client.attributes(1).unwrap().size, 200_003);
    client.done(&Request::Fsync { fid: 1, data_only: 0 }).unwrap();
    client.done(&Request::Fsync { fid: 1, data_only: 1 }).unwrap();

    // Renamed, then removed: the fid is the file still.
    client.walk(0, 2, &[b"f"]).unwrap();
    let rename =
        Request::Renameat { old_directory: 0, old_name: b"f", new_directory: 0, new_name: b"g" };
    client.done(&rename).unwrap();
    let linked = Request::Link { directory: 0, fid: 2, name: b"h" };
    client.done(&linked).unwrap();
    assert_eq!(client.done(&linked), errno(Errno::EXIST));
    assert_eq!(client.attributes(2).unwrap().links, 2);
    for name in [&b"g"[..], b"h"] {
        client.done(&Request::Unlinkat { directory: 0, name, flags: 0 }).unwrap();
    }
    assert_eq!(client.attributes(2).unwrap().links, 0);
    client.done(&Request::Lopen { fid: 2, flags: 0 }).unwrap();
    assert_eq!(client.read(2, 3, 2).unwrap(), b"xx");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn creating_opens_what_is_there_unless_it_must_be_new() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "old").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("fifo"), 0o600.into()).unwrap();
    std::os::unix::fs::symlink("f", directory.path().join("link")).unwrap();
    let mut client = Client::of(&Export::new(directory.path()));
    let new = 2 | open_flags::EXCLUSIVE;
    assert_eq!(create(&mut client, 1, b"f", new, 0o600), errno(Errno::EXIST));
    create(&mut client, 2, b"f", 2, 0o600).unwrap();
    assert_eq!(client.read(2, 0, 9).unwrap(), b"old");
    create(&mut client, 3, b"f", 2 | open_flags::TRUNCATE, 0o600).unwrap();
    assert_eq!(fs::read(directory.path().join("f")).unwrap(), b"");
    // Nothing waits for a fifo's other end, and a link leads nowhere.
    assert_eq!(create(&mut client, 4, b"fifo", 1, 0o600), errno(Errno::NXIO));
    assert_eq!(create(&mut client, 5, b"link", 2, 0o600), errno(Errno::LOOP));
}

#[test]
fn attributes_are_set_in_an_order_that_keeps_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    let mut client = Client::of(&Export::new(directory.path()));
    client.walk(0, 1, &[b"f"]).unwrap();
    let times = valid::ATIME | valid::ATIME_SET | valid::MTIME | valid::MTIME_SET;
    client.done(&change(1, valid::SIZE | valid::MODE | times)).unwrap();
    let now = fs::metadata(&path).unwrap();
    assert_eq!((now.len(), now.mode() & 0o7777), (5, 0o4751));
    assert_eq!((now.atime(), now.atime_nsec()), (1_000_000_001, 7));
    assert_eq!((now.mtime(), now.mtime_nsec()), (-5, 999_999_999));
    let seen = client.attributes(1).unwrap();
    assert_eq!(seen.times[1], ((-5_i64).cast_unsigned(), 999_999_999));
    client.done(&change(1, valid::MTIME)).unwrap();
    assert!(fs::metadata(&path).unwrap().mtime() > 1_700_000_000);
    let wrong = Request::Setattr {
        fid: 1,
        valid: valid::ATIME | valid::ATIME_SET,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        atime: 0,
        // The kernel's word for "now".
        atime_nsec: (1 << 30) - 1,
        mtime: 0,
        mtime_nsec: 0,
    };
    assert_eq!(client.done(&wrong), errno(Errno::INVAL));
    assert_eq!(client.done(&change(0, valid::SIZE)), errno(Errno::ISDIR));
}

#[test]
fn privileged_files_belong_to_the_user_of_the_attach() {
    let directory = tempfile::tempdir().unwrap();
    let mut client = Client::of(&Export::new(directory.path()));
    client.attach(100, 1000).unwrap();
    let owner = |name: &str| {
        let now = fs::symlink_metadata(directory.path().join(name)).unwrap();
        (now.uid(), now.gid(), now.mode() & 0o7777)
    };
    let gid = 1001;
    client.walk(100, 1, &[]).unwrap();
    let flags = 1 | open_flags::EXCLUSIVE;
    client.done(&Request::Lcreate { fid: 1, name: b"f", flags, mode: 0o6644, gid }).unwrap();
    client.done(&Request::Mkdir { directory: 100, name: b"d", mode: 0o1777, gid }).unwrap();
    client.done(&Request::Symlink { directory: 100, name: b"s", target: b"/x", gid }).unwrap();
    let fifo = 0o010_622;
    client
        .done(&Request::Mknod { directory: 100, name: b"p", mode: fifo, major: 0, minor: 0, gid })
        .unwrap();
    assert_eq!(owner("f"), (1000, 1001, 0o6644));
    assert_eq!(owner("d"), (1000, 1001, 0o1777));
    assert_eq!(owner("s"), (1000, 1001, 0o777));
    assert_eq!(owner("p"), (1000, 1001, 0o622));

    client.walk(0, 2, &[b"f"]).unwrap();
    client.done(&change(2, valid::UID | valid::GID | valid::MODE)).unwrap();
    assert_eq!(owner("f"), (1234, 2345, 0o4751));
    client.walk(0, 3, &[b"s"]).unwrap();
    client.done(&change(3, valid::UID)).unwrap();
    assert_eq!(owner("s").0, 1234);
    assert_eq!(client.done(&change(3, valid::MODE)), errno(Errno::OPNOTSUPP));
}

#[test]
fn privileged_device_nodes_are_made_only_where_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let null =
        |name| Request::Mknod { directory: 0, name, mode: 0o020_666, major: 1, minor: 3, gid: 0 };
    let mut client = Client::of(&Export::new(directory.path()));
    assert_eq!(client.done(&null(b"null")), errno(Errno::PERM));
    let whiteout =
        Request::Mknod { directory: 0, name: b"w", mode: 0o020_600, major: 0, minor: 0, gid: 0 };
    client.done(&whiteout).unwrap();
    let mut client = Client::of(&Export::new(directory.path()).devices(true));
    client.done(&null(b"null")).unwrap();
    client.walk(0, 1, &[b"null"]).unwrap();
    assert_eq!(client.attributes(1).unwrap().device, 1 << 8 | 3);
    // The guest's kernel opens its own device; the host's stays closed.
    assert_eq!(client.done(&Request::Lopen { fid: 1, flags: 2 }), errno(Errno::NXIO));
}

#[test]
fn directories_are_read_in_pieces_of_any_size() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = vec![b".".to_vec(), b"..".to_vec()];
    for number in 0..300 {
        let name = format!("{}{number}", "n".repeat(number % 90));
        fs::write(directory.path().join(&name), "").unwrap();
        expected.push(name.into_bytes());
    }
    expected.sort();
    let mut client = Client::of(&Export::new(directory.path()));
    client.open(1, &[], 0).unwrap();
    for count in [200, 333, 1000, 4096, 1 << 20] {
        assert_eq!(client.names(1, count).unwrap(), expected, "pieces of {count}");
    }
    assert_eq!(client.names(1, 20), Err(Errno::INVAL.raw_os_error()));
    assert_eq!(client.open(2, &[], 1), errno(Errno::ISDIR));
    assert_eq!(client.read(1, 0, 10), Err(Errno::ISDIR.raw_os_error()));

    let (mode, gid) = (0o755, ids().1);
    client.done(&Request::Mkdir { directory: 0, name: b"d", mode, gid }).unwrap();
    let remove = |flags| Request::Unlinkat { directory: 0, name: b"d", flags };
    assert_eq!(client.done(&remove(0)), errno(Errno::ISDIR));
    assert_eq!(client.done(&remove(1)), errno(Errno::INVAL));
    client.done(&remove(REMOVE_DIRECTORY)).unwrap();
}

#[test]
fn extended_attributes_come_and_go_but_the_hosts_own() {
    // Beside the sources: temporary file systems of old kernels have no user xattrs.
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::write(directory.path().join("f"), "").unwrap();
    let mut client = Client::of(&Export::new(directory.path()));
    let set = |client: &mut Client, name: &[u8], value: &[u8], flags: u32| {
        client.walk(0, 1, &[b"f"]).unwrap();
        let size = value.len() as u64;
        let begun = client.done(&Request::Xattrcreate { fid: 1, name, size, flags });
        if begun.is_ok() && !value.is_empty() {
            client.done(&Request::Write { fid: 1, offset: 0, data: Data(value) }).unwrap();
        }
        let ended = client.done(&Request::Clunk { fid: 1 });
        begun.and(ended)
    };
    let get = |client: &mut Client, name: &[u8]| {
        client.walk(0, 1, &[b"f"]).unwrap();
        let found = client.call(&Request::Xattrwalk { fid: 1, new_fid: 2, name }, |reply| {
            matches!(reply, Reply::Xattrwalk { .. })
        });
        client.done(&Request::Clunk { fid: 1 }).unwrap();
        found?;
        let value = client.read(2, 0, 100_000).unwrap();
        client.done(&Request::Clunk { fid: 2 }).unwrap();
        Ok::<_, i32>(value)
    };
    let long = vec![3; 3000];
    set(&mut client, b"user.a", b"value", 0).unwrap();
    set(&mut client, b"user.long", &long, 1).unwrap();
    set(&mut client, b"user.empty", b"", 0).unwrap();
    assert_eq!(set(&mut client, b"user.a", b"x", 1), errno(Errno::EXIST));
    assert_eq!(get(&mut client, b"user.a").unwrap(), b"value");
    assert_eq!(get(&mut client, b"user.long").unwrap(), long);
    let list = get(&mut client, b"").unwrap();
    let mut names: Vec<_> = list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort();
    assert_eq!(names, [&b"user.a"[..], b"user.empty", b"user.long"]);
    set(&mut client, b"user.a", b"", 2).unwrap();
    assert_eq!(get(&mut client, b"user.a"), Err(Errno::NODATA.raw_os_error()));
    for name in [&b"trusted.overlay.opaque"[..], b"security.selinux", b"system.nfs4_acl", b"user"] {
        assert_eq!(set(&mut client, name, b"y", 0), errno(Errno::OPNOTSUPP));
        assert_eq!(get(&mut client, name), Err(Errno::OPNOTSUPP.raw_os_error()));
    }
    let huge = Request::Xattrcreate { fid: 0, name: b"user.h", size: 1 << 40, flags: 0 };
    assert_eq!(client.done(&huge), errno(Errno::TOOBIG));
}

#[test]
fn locks_stand_between_connections_only() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "").unwrap();
    let server = Server::new(Limits::default()).unwrap();
    server.share("0", &Export::new(directory.path())).unwrap();
    let mut clients = [Client::connect(&server), Client::connect(&server)];
    for client in &mut clients {
        client.attach(0, 0).unwrap();
        client.open(1, &[b"f"], 2).unwrap();
    }
    let [one, two] = &mut clients;
    let set = |client: &mut Client, kind, start, length, process| {
        let request =
            Request::Lock { fid: 1, kind, flags: 0, start, length, process, client: b"host" };
        client.call(&request, |reply| match reply {
            Reply::Lock { status } => status,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(set(one, lock::WRITE, 10, 10, 1), Ok(lock::SUCCESS));
    // Its own kernel has decided between these two.
    assert_eq!(set(one, lock::WRITE, 15, 10, 2), Ok(lock::SUCCESS));
    assert_eq!(set(two, lock::READ, 19, 1, 1), Ok(lock::BLOCKED));
    assert_eq!(set(two, lock::READ, 0, 10, 1), Ok(lock::SUCCESS));
    let ask = Request::Getlock {
        fid: 1,
        kind: lock::READ,
        start: 0,
        length: 0,
        process: 9,
        client: b"h",
    };
    let held = two.call(&ask, |reply| match reply {
        Reply::Getlock { kind, start, length, process, .. } => (kind, start, length, process),
        other => panic!("{other:?}"),
    });
    assert_eq!(held, Ok((lock::WRITE, 10, 10, 1)));
    // A hole in the first, all of the second.
    assert_eq!(set(one, lock::UNLOCK, 12, 3, 1), Ok(lock::SUCCESS));
    assert_eq!(set(one, lock::UNLOCK, 0, 0, 2), Ok(lock::SUCCESS));
    assert_eq!(set(two, lock::READ, 12, 3, 1), Ok(lock::SUCCESS));
    assert_eq!(set(two, lock::READ, 12, 4, 1), Ok(lock::BLOCKED));
    one.done(&Request::Clunk { fid: 1 }).unwrap();
    assert_eq!(set(two, lock::WRITE, 0, 0, 1), Ok(lock::SUCCESS));
    assert_eq!(set(two, 3, 0, 0, 1), Err(Errno::INVAL.raw_os_error()));
}

#[test]
fn what_is_not_supported_says_so() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "").unwrap();
    fs::set_permissions(directory.path().join("f"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut client = Client::of(&Export::new(directory.path()));
    client.walk(0, 1, &[b"f"]).unwrap();
    let auth = Request::Auth { fid: 5, user: b"", share: b"0", uid: 0 };
    assert_eq!(client.done(&auth), errno(Errno::OPNOTSUPP));
    let rename = Request::Rename { fid: 1, directory: 0, name: b"g" };
    assert_eq!(client.done(&rename), errno(Errno::OPNOTSUPP));
    // The client then removes by name; the fid is gone as the protocol wants it.
    assert_eq!(client.done(&Request::Remove { fid: 1 }), errno(Errno::OPNOTSUPP));
    assert_eq!(client.done(&Request::Clunk { fid: 1 }), errno(Errno::BADF));
    assert!(directory.path().join("f").exists());
    assert_eq!(client.attach(6, 0), Ok(()));
    let other =
        Request::Attach { fid: 7, auth_fid: u32::MAX, user: b"", share: b"nothing", uid: 0 };
    assert_eq!(client.done(&other), errno(Errno::NOENT));
    let statfs = client.call(&Request::Statfs { fid: 0 }, |reply| match reply {
        Reply::Statfs { kind, block_size, blocks, name_length, .. } => {
            (kind, block_size > 0, blocks > 0, name_length)
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(statfs, Ok((0x0102_1997, true, true, 255)));
    let version = Request::Version { msize: 8192, version: b"9P2000.u" };
    assert_eq!(
        client.call(&version, |reply| reply == Reply::Version { msize: 8192, version: b"unknown" }),
        Ok(true)
    );
    // A version begins anew: no fid is left.
    assert_eq!(client.done(&Request::Clunk { fid: 0 }), errno(Errno::BADF));
}
