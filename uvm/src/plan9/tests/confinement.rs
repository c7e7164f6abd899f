//! What a guest must not reach.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::super::Export;
use super::super::message::{REMOVE_DIRECTORY, Request, open_flags, valid};
use super::super::wire::Data;
use super::client::Client;

fn errno(error: Errno) -> Result<(), i32> {
    Err(error.raw_os_error())
}

/// `outer/secret`, `outer/share/...`: the guest has `outer/share`.
fn outer() -> tempfile::TempDir {
    let outer = tempfile::tempdir().unwrap();
    let share = outer.path().join("share");
    fs::write(outer.path().join("secret"), "secret").unwrap();
    fs::create_dir_all(share.join("a/b")).unwrap();
    fs::write(share.join("f"), "f").unwrap();
    symlink("../secret", share.join("up")).unwrap();
    symlink(outer.path(), share.join("out")).unwrap();
    symlink("/proc/self/root", share.join("magic")).unwrap();
    outer
}

#[test]
fn no_name_leads_out() {
    let outer = outer();
    let mut client = Client::of(&Export::new(outer.path().join("share")));
    let root = client.attributes(0).unwrap().qid;
    let up: &[u8] = b"..";
    for names in [&[up][..], &[up, up, up], &[b"a", b"b", up, up, up, up], &[b"a", up, b"."]] {
        client.walk(0, 1, names).unwrap();
        assert_eq!(client.attributes(1).unwrap().qid, root);
        client.done(&Request::Clunk { fid: 1 }).unwrap();
    }
    for name in [&b"../secret"[..], b"a/b", b"/etc", b"", b"a\0b", b"a/", b"./f"] {
        assert!(client.walk(0, 1, &[name]).is_err(), "{}", name.escape_ascii());
        assert!(client.walk(0, 1, &[b"a", name]).is_err());
        let (mode, gid) = (0o777, 0);
        assert!(client.done(&Request::Mkdir { directory: 0, name, mode, gid }).is_err());
        assert!(client.done(&Request::Unlinkat { directory: 0, name, flags: 0 }).is_err());
    }
    assert!(client.walk(0, 1, &[up, b"secret"]).is_err());
    for name in [up, b"."] {
        let (mode, gid) = (0o777, 0);
        assert_eq!(
            client.done(&Request::Mkdir { directory: 0, name, mode, gid }),
            errno(Errno::INVAL)
        );
        let flags = REMOVE_DIRECTORY;
        let remove = Request::Unlinkat { directory: 0, name, flags };
        assert_eq!(client.done(&remove), errno(Errno::INVAL));
    }
    let long = [b'n'; 256];
    assert_eq!(client.walk(0, 1, &[&long]), errno(Errno::NAMETOOLONG));
}

#[test]
fn symbolic_links_are_text() {
    let outer = outer();
    let mut client = Client::of(&Export::new(outer.path().join("share")));
    for name in [&b"up"[..], b"out", b"magic"] {
        client.walk(0, 1, &[name]).unwrap();
        assert_eq!(client.done(&Request::Lopen { fid: 1, flags: 0 }), errno(Errno::LOOP));
        assert!(client.walk(1, 2, &[b"secret"]).is_err());
        assert!(client.walk(0, 2, &[name, b"secret"]).is_err());
        assert!(client.walk(0, 2, &[name, b".."]).is_err());
        client.walk(0, 3, &[]).unwrap();
        let create = Request::Lcreate { fid: 3, name, flags: 1, mode: 0o666, gid: 0 };
        assert_eq!(client.done(&create), errno(Errno::LOOP));
        let under = Request::Mkdir { directory: 1, name: b"new", mode: 0o777, gid: 0 };
        assert_eq!(client.done(&under), errno(Errno::NOTDIR));
        for fid in [1, 3] {
            client.done(&Request::Clunk { fid }).unwrap();
        }
    }
    // Length, permissions and attributes of a link are never those of what it names.
    client.walk(0, 1, &[b"up"]).unwrap();
    let size = valid::SIZE;
    let truncate = Request::Setattr {
        fid: 1,
        valid: size,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        atime: 0,
        atime_nsec: 0,
        mtime: 0,
        mtime_nsec: 0,
    };
    assert_eq!(client.done(&truncate), errno(Errno::INVAL));
    client.done(&Request::Link { directory: 0, fid: 1, name: b"again" }).unwrap();
    let linked = fs::read_link(outer.path().join("share/again")).unwrap();
    assert_eq!(linked, Path::new("../secret"));
    assert_eq!(fs::read(outer.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let outer = outer();
    let share = outer.path().join("share");
    let real = outer.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("secret"), "inside").unwrap();
    // The names that are swapped: a directory with an innocent `secret`, and a link to where the real one is.
    let swapped = share.join("swap");
    fs::rename(&real, &swapped).unwrap();
    symlink(outer.path(), share.join("other")).unwrap();
    let mut client = Client::of(&Export::new(&share));
    let stop = AtomicBool::new(false);
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The time is for a test that fails before it says stop.
            while !stop.load(Ordering::Relaxed) && begun.elapsed().as_secs() < 60 {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &swapped, cwd, share.join("other"), flags).unwrap();
            }
        });
        let (mut reached, mut refused) = (0, 0);
        while begun.elapsed().as_millis() < 700 || reached == 0 || refused == 0 {
            assert!(begun.elapsed().as_secs() < 50, "{reached} reached, {refused} refused");
            match client.open(1, &[b"swap", b"secret"], 0) {
                Ok(()) => {
                    reached += 1;
                    assert_eq!(client.read(1, 0, 100).unwrap(), b"inside");
                }
                Err(_) => refused += 1,
            }
            let _ = client.done(&Request::Clunk { fid: 1 });
            let new = format!("n{refused}");
            if client.walk(0, 2, &[b"swap"]).is_ok() {
                let name = new.as_bytes();
                let create = Request::Lcreate { fid: 2, name, flags: 1, mode: 0o600, gid: 0 };
                let _ = client.done(&create);
                client.done(&Request::Clunk { fid: 2 }).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut outside: Vec<_> =
        fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    outside.sort();
    assert_eq!(outside, ["secret", "share"], "nothing was made outside");
}

#[test]
fn a_directory_that_was_moved_out_has_no_parent() {
    let outer = outer();
    let share = outer.path().join("share");
    let mut client = Client::of(&Export::new(&share));
    client.walk(0, 1, &[b"a", b"b"]).unwrap();
    client.walk(1, 2, &[b".."]).unwrap();
    fs::rename(share.join("a/b"), outer.path().join("b")).unwrap();
    assert_eq!(client.walk(1, 3, &[b".."]), errno(Errno::NOENT));
    assert_eq!(client.walk(1, 3, &[b"..", b"secret"]), errno(Errno::NOENT));
}

#[test]
fn read_only_is_enforced_here() {
    let outer = outer();
    let share = outer.path().join("share");
    let mut client = Client::of(&Export::new(&share).read_only(true));
    let refused = errno(Errno::ROFS);
    client.walk(0, 1, &[b"f"]).unwrap();
    for flags in [1, 2, open_flags::TRUNCATE] {
        assert_eq!(client.done(&Request::Lopen { fid: 1, flags }), refused);
    }
    let (name, mode, gid, major, minor): (&[u8], _, _, _, _) = (b"n", 0o010_777, 0, 0, 0);
    let requests = [
        Request::Lcreate { fid: 0, name, flags: 1, mode, gid },
        Request::Lcreate { fid: 0, name: b"f", flags: 0, mode, gid },
        Request::Symlink { directory: 0, name, target: b"t", gid },
        Request::Mknod { directory: 0, name, mode, major, minor, gid },
        Request::Mkdir { directory: 0, name, mode, gid },
        Request::Link { directory: 0, fid: 1, name },
        Request::Renameat { old_directory: 0, old_name: b"f", new_directory: 0, new_name: b"n" },
        Request::Unlinkat { directory: 0, name: b"f", flags: 0 },
        Request::Unlinkat { directory: 0, name: b"a", flags: REMOVE_DIRECTORY },
        Request::Xattrcreate { fid: 1, name: b"user.x", size: 1, flags: 0 },
    ];
    for request in &requests {
        assert_eq!(client.done(request), refused, "{request:?}");
    }
    for valid in [valid::MODE, valid::UID, valid::GID, valid::SIZE, valid::ATIME, valid::MTIME] {
        let (mode, size) = (0o777, 0);
        let (atime, atime_nsec, mtime, mtime_nsec) = (0, 0, 0, 0);
        let request = Request::Setattr {
            fid: 1,
            valid,
            mode,
            uid: 0,
            gid: 0,
            size,
            atime,
            atime_nsec,
            mtime,
            mtime_nsec,
        };
        assert_eq!(client.done(&request), refused);
    }
    client.done(&Request::Lopen { fid: 1, flags: 0 }).unwrap();
    assert_eq!(client.read(1, 0, 9).unwrap(), b"f");
    let write = Request::Write { fid: 1, offset: 0, data: Data(b"x") };
    assert_eq!(client.done(&write), errno(Errno::BADF));
    assert_eq!(fs::read(share.join("f")).unwrap(), b"f");
}

#[test]
fn a_restricted_share_has_only_the_allowed_names() {
    let outer = outer();
    let share = outer.path().join("share");
    fs::write(share.join("hidden"), "hidden").unwrap();
    fs::write(share.join("a/inner"), "inner").unwrap();
    let allowed = ["f", "a", "new"].map(Into::into).to_vec();
    let mut client = Client::of(&Export::new(&share).allowed(Some(allowed)));
    client.open(1, &[], 0).unwrap();
    for count in [200, 8192] {
        let names = client.names(1, count).unwrap();
        assert_eq!(names, [&b"."[..], b"..", b"a", b"f"]);
    }
    assert_eq!(client.walk(0, 2, &[b"hidden"]), errno(Errno::NOENT));
    assert_eq!(client.walk(0, 2, &[b"a", b"..", b"hidden"]), errno(Errno::NOENT));
    client.walk(0, 2, &[b"a", b"..", b"f"]).unwrap();
    client.walk(0, 3, &[b"a", b"inner"]).unwrap();

    let (mode, gid) = (0o777, 0);
    let refused = errno(Errno::ACCESS);
    for name in [&b"other"[..], b"hidden"] {
        let requests = [
            Request::Lcreate { fid: 0, name, flags: 1, mode, gid },
            Request::Mkdir { directory: 0, name, mode, gid },
            Request::Symlink { directory: 0, name, target: b"t", gid },
            Request::Link { directory: 0, fid: 2, name },
            Request::Renameat {
                old_directory: 0,
                old_name: b"f",
                new_directory: 0,
                new_name: name,
            },
        ];
        for request in &requests {
            assert_eq!(client.done(request), refused, "{request:?}");
        }
        let remove = Request::Unlinkat { directory: 0, name, flags: 0 };
        assert_eq!(client.done(&remove), errno(Errno::NOENT));
        let away = Request::Renameat {
            old_directory: 0,
            old_name: name,
            new_directory: 0,
            new_name: b"f",
        };
        assert_eq!(client.done(&away), errno(Errno::NOENT));
    }
    // The root itself belongs to the host.
    let chmod = Request::Setattr {
        fid: 0,
        valid: valid::MODE,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        atime: 0,
        atime_nsec: 0,
        mtime: 0,
        mtime_nsec: 0,
    };
    assert_eq!(client.done(&chmod), errno(Errno::PERM));
    let set = Request::Xattrcreate { fid: 0, name: b"user.x", size: 1, flags: 0 };
    assert_eq!(client.done(&set), errno(Errno::PERM));
    // What is allowed may come, go and move.
    client.done(&Request::Mkdir { directory: 0, name: b"new", mode, gid }).unwrap();
    client.walk(0, 4, &[b"new"]).unwrap();
    let into = Request::Renameat {
        old_directory: 0,
        old_name: b"f",
        new_directory: 4,
        new_name: b"hidden",
    };
    client.done(&into).unwrap();
    assert!(share.join("new/hidden").exists());
    assert_eq!(fs::read(share.join("hidden")).unwrap(), b"hidden");
}
