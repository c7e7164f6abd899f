//! The behaviours that containerd expects of a snapshotter, over gRPC and with real mounts, in every form of mounts and
//! scratch that the daemon has.
//!
//! One behaviour depends on the name under which containerd's own tests know a snapshotter: under any name but
//! overlayfs's own they rename a directory of a lower layer. Ours is served under the name that containerd's
//! configuration gives it, and answers EXDEV as overlayfs does without `redirect_dir`, so those tests are to be run under the
//! name `overlayfs`; programs that rename (mv, dpkg, apk) copy then, which is tested here.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serve::api::snapshots::{Info, Kind};
use support::{Bench, code, labels, manifest};
use tonic::Code;

fn write(path: impl AsRef<Path>, text: &str) {
    fs::write(path, text).unwrap();
}

fn write_mode(path: impl AsRef<Path>, text: &str, mode: u32) {
    write(&path, text);
    chmod(path, mode);
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn make_directory(path: impl AsRef<Path>, mode: u32) {
    fs::create_dir_all(&path).unwrap();
    chmod(path, mode);
}

/// Applies changes one layer after the other, and to a plain directory beside them: before and after each layer, and in
/// a view of the whole, both have the same content.
fn compare_layers(bench: &Bench, changes: &[&dyn Fn(&Path)]) {
    let flat = bench.directory("flat");
    chmod(&flat, 0o755);
    let mut parent = String::new();
    for (index, change) in changes.iter().enumerate() {
        let (key, name) = (format!("layer {index}"), format!("committed {index}"));
        let mounts = bench.prepare(&key, &parent).unwrap();
        let mounted = bench.mount(&mounts, &format!("layer{index}"));
        assert_eq!(manifest(mounted.path()), manifest(&flat), "before change {index}");
        change(mounted.path());
        change(&flat);
        assert_eq!(manifest(mounted.path()), manifest(&flat), "after change {index}");
        drop(mounted);
        bench.commit(&name, &key).unwrap();
        parent = name;
    }
    let mounts = bench.view("the view", &parent).unwrap();
    let mounted = bench.mount(&mounts, "view");
    assert_eq!(manifest(mounted.path()), manifest(&flat), "the view");
    drop(mounted);
    bench.remove("the view").unwrap();
}

fn basic(bench: &Bench) {
    let mounts = bench.prepare("/tmp/preparing", "").unwrap();
    assert!(!mounts.is_empty());
    let mounted = bench.mount(&mounts, "p1");
    write(mounted.path().join("foo"), "foo\n");
    make_directory(mounted.path().join("a/b/c"), 0o755);
    write(mounted.path().join("a/b/c/kept"), "kept");
    let first = manifest(mounted.path());
    drop(mounted);
    bench.commit("/tmp/committed", "/tmp/preparing").unwrap();
    let committed = bench.stat("/tmp/committed").unwrap();
    assert!(committed.parent.is_empty());
    assert_eq!(committed.kind(), Kind::Committed);
    assert_eq!(code(bench.stat("/tmp/preparing")), Code::NotFound);

    let mounts = bench.prepare("/tmp/next", "/tmp/committed").unwrap();
    assert_eq!(bench.mounts("/tmp/next").unwrap(), mounts, "mounts are stable");
    let mounted = bench.mount(&mounts, "p2");
    assert_eq!(manifest(mounted.path()), first);
    write(mounted.path().join("bar"), "bar\n");
    write(mounted.path().join("foo"), "foo overwritten\n");
    fs::remove_dir_all(mounted.path().join("a/b")).unwrap();
    let second = manifest(mounted.path());
    let active = bench.stat("/tmp/next").unwrap();
    assert_eq!((active.parent.as_slice(), active.kind()), (&b"/tmp/committed"[..], Kind::Active));
    drop(mounted);
    bench.commit("/tmp/committed-next", "/tmp/next").unwrap();
    let top = bench.stat("/tmp/committed-next").unwrap();
    assert_eq!((top.parent.as_slice(), top.kind()), (&b"/tmp/committed"[..], Kind::Committed));
    assert_eq!(bench.list(&[]).unwrap(), [committed, top]);

    let mounted = bench.mount(&bench.view("/tmp/view", "/tmp/committed-next").unwrap(), "v");
    assert_eq!(manifest(mounted.path()), second);
    drop(mounted);
    let refused = bench.remove("/tmp/committed").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("remove"), "{refused}");
    bench.remove("/tmp/view").unwrap();
    bench.remove("/tmp/committed-next").unwrap();
    bench.remove("/tmp/committed").unwrap();
    assert!(bench.list(&[]).unwrap().is_empty());
}

fn stat_active(bench: &Bench) {
    assert!(!bench.prepare("active", "").unwrap().is_empty());
    let info = bench.stat("active").unwrap();
    assert_eq!((info.name.as_slice(), info.kind()), (&b"active"[..], Kind::Active));
    assert!(info.parent.is_empty());
}

fn stat_committed(bench: &Bench) {
    bench.prepare("active", "").unwrap();
    bench.commit("committed", "active").unwrap();
    let info = bench.stat("committed").unwrap();
    assert_eq!((info.name.as_slice(), info.kind()), (&b"committed"[..], Kind::Committed));
    assert!(info.parent.is_empty());
}

fn transitivity(bench: &Bench) {
    bench.layer("a", "", |_| {});
    bench.layer("b", "a", |_| {});
    bench.prepare("c", "b").unwrap();
    assert_eq!(bench.stat("c").unwrap().parent, b"b");
    assert_eq!(bench.stat("b").unwrap().parent, b"a");
    assert_eq!(bench.stat("a").unwrap().parent, b"");
}

fn prepare_and_view_fail_on_taken_keys(bench: &Bench) {
    bench.layer("base", "", |_| {});
    bench.prepare("active", "base").unwrap();
    assert_eq!(code(bench.prepare("active", "base")), Code::AlreadyExists);
    assert_eq!(code(bench.prepare("active", "")), Code::AlreadyExists);
    assert_eq!(code(bench.view("active", "base")), Code::AlreadyExists);
    bench.view("view", "base").unwrap();
    assert_eq!(code(bench.prepare("view", "base")), Code::AlreadyExists);
    assert_eq!(code(bench.view("view", "base")), Code::AlreadyExists);
    assert_eq!(code(bench.view("base", "")), Code::AlreadyExists);
}

fn nanoseconds(time: Option<prost_types::Timestamp>) -> i128 {
    let time = time.unwrap();
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i128::try_from(since.as_nanos()).unwrap()
}

/// One snapshot of each sort: `c1`, `c2` on it, `a1`, `a2` (on `c2`), `v1`, `v2` (on `c2`), some with labels.
fn all_sorts(bench: &Bench) {
    let l = |value| [("containerd.io/gc.root", "r"), ("l1", value), ("l2", "b"), ("l4", "keep")];
    bench.prepare("c1-a", "").unwrap();
    bench.commit_with("c1", "c1-a", "", &l("c1")).unwrap();
    bench.prepare("c2-a", "c1").unwrap();
    bench.commit_with("c2", "c2-a", "", &l("c2")).unwrap();
    bench.prepare_with("a1", "", &l("a1")).unwrap();
    bench.prepare_with("a2", "c2", &l("a2")).unwrap();
    bench.view("v1", "").unwrap();
    bench.view("v2", "c2").unwrap();
}

fn update(bench: &Bench) {
    let begin = now();
    all_sorts(bench);
    let made = now();
    for key in ["c1", "c2", "a1", "a2", "v1", "v2"] {
        let before = bench.stat(key).unwrap();
        let created = nanoseconds(before.created_at);
        assert_eq!(before.created_at, before.updated_at);
        assert!((begin..=made).contains(&created), "{key}");
        // Without a mask all labels are replaced, and nothing else.
        let begin = now();
        let wanted = Info {
            name: key.into(),
            parent: b"elsewhere".to_vec(),
            labels: labels(&[("l1", "new"), ("l2", "b2"), ("l3", ""), ("l4", "keep")]),
            ..Info::default()
        };
        let updated = bench.update(wanted.clone(), &[]).unwrap();
        assert_eq!(updated.labels, labels(&[("l1", "new"), ("l2", "b2"), ("l4", "keep")]));
        assert_eq!((&updated.parent, updated.kind), (&before.parent, before.kind));
        assert_eq!(nanoseconds(updated.created_at), created);
        assert!((begin..=now()).contains(&nanoseconds(updated.updated_at)));
        assert_eq!(bench.stat(key).unwrap(), updated);
        // Named labels: one is set, one deleted, one not looked at.
        let wanted =
            |pairs: &[_]| Info { name: key.into(), labels: labels(pairs), ..Info::default() };
        let asked = wanted(&[("l1", "set"), ("l4", "ignored")]);
        let updated = bench.update(asked, &["labels.l1", "labels.l2"]).unwrap();
        assert_eq!(updated.labels, labels(&[("l1", "set"), ("l4", "keep")]));
        // The label's key is all that follows, dots and slashes too.
        let asked = wanted(&[("containerd.io/gc.root", "x")]);
        let updated = bench.update(asked, &["labels.containerd.io/gc.root"]).unwrap();
        assert_eq!(updated.labels.len(), 3);
        let updated = bench.update(wanted(&[("only", "1")]), &["labels"]).unwrap();
        assert_eq!(updated.labels, labels(&[("only", "1")]));
        assert_eq!(
            code(bench.update(wanted(&[("l1", "x")]), &["labels.l1", "parent"])),
            Code::InvalidArgument
        );
        assert_eq!(
            bench.stat(key).unwrap(),
            updated,
            "a bad path after a good one changes nothing"
        );
    }
}

fn remove(bench: &Bench) {
    bench.layer("base", "", |_| {});
    for _ in 0..2 {
        bench.prepare("key", "base").unwrap();
        bench.remove("key").unwrap();
        bench.view("key", "base").unwrap();
        bench.remove("key").unwrap();
        bench.prepare("key", "").unwrap();
        bench.remove("key").unwrap();
        bench.layer("key", "base", |_| {});
        bench.remove("key").unwrap();
    }
}

fn walk(bench: &Bench) {
    all_sorts(bench);
    let names = |filters: &[&str]| -> Vec<String> {
        let found = bench.list(filters).unwrap();
        found.into_iter().map(|info| String::from_utf8(info.name).unwrap()).collect()
    };
    assert_eq!(names(&[]), ["a1", "a2", "c1", "c2", "v1", "v2"]);
    assert_eq!(names(&[""]), ["a1", "a2", "c1", "c2", "v1", "v2"]);
    assert_eq!(names(&[r#"labels."containerd.io/gc.root"==r"#]), ["a1", "a2", "c1", "c2"]);
    assert_eq!(names(&["labels.l1==a1"]), ["a1"]);
    assert_eq!(names(&["labels.l1"]), ["a1", "a2", "c1", "c2"]);
    assert_eq!(names(&["kind==active"]), ["a1", "a2"]);
    assert_eq!(names(&["kind==view"]), ["v1", "v2"]);
    assert_eq!(names(&["kind==committed"]), ["c1", "c2"]);
    assert_eq!(names(&["name==a1", "name==v2"]), ["a1", "v2"]);
    assert_eq!(names(&["parent==c2"]), ["a2", "v2"]);
    assert_eq!(names(&[r#"parent!="""#]), ["a2", "c2", "v2"]);
    assert_eq!(names(&["kind==active,parent==c2"]), ["a2"]);
    assert_eq!(names(&[r#"labels."containerd.io/snapshot.ref"==x,parent=="c2""#]), [""; 0]);
}

fn layer_file_update(bench: &Bench) {
    for round in 0..5 {
        let flat = bench.directory(format!("flat{round}"));
        let first = |path: &Path| {
            make_directory(path.join("etc"), 0o700);
            write_mode(path.join("etc/hosts"), "mydomain 10.0.0.1", 0o644);
            write_mode(path.join("etc/profile"), "PATH=/usr/bin", 0o644);
        };
        let second = |path: &Path| {
            write_mode(path.join("etc/hosts"), "mydomain 10.0.0.2", 0o644);
            write_mode(path.join("etc/profile"), "PATH=/usr/bin", 0o666);
            make_directory(path.join("root"), 0o700);
            write_mode(path.join("root/.bashrc"), "PATH=/usr/sbin:/usr/bin", 0o644);
        };
        let (base, top) = (format!("base{round}"), format!("top{round}"));
        bench.layer(&base, "", first);
        bench.layer(&top, &base, second);
        chmod(&flat, 0o755);
        first(&flat);
        second(&flat);
        let key = format!("view{round}");
        let mounted = bench.mount(&bench.view(&key, &top).unwrap(), &key);
        assert_eq!(manifest(mounted.path()), manifest(&flat));
        drop(mounted);
        // Different rounds meet the second's end at different moments.
        std::thread::sleep(Duration::from_millis(190));
    }
}

fn remove_directory_in_lower_layer(bench: &Bench) {
    compare_layers(
        bench,
        &[
            &|path| {
                make_directory(path.join("lib"), 0o700);
                write(path.join("lib/hidden"), "hidden");
            },
            &|path| {
                fs::remove_dir_all(path.join("lib")).unwrap();
                make_directory(path.join("lib"), 0o700);
            },
            &|path| write(path.join("lib/not-hidden"), "not hidden"),
        ],
    );
}

fn change_owner(bench: &Bench) {
    compare_layers(
        bench,
        &[
            &|path| {
                make_directory(path.join("opt/a/b"), 0o700);
                write(path.join("opt/a/b/file.txt"), "hello");
                symlink("file.txt", path.join("opt/a/b/link")).unwrap();
            },
            &|path| {
                chown(path.join("opt"), Some(1), Some(1)).unwrap();
                chown(path.join("opt/a"), Some(1), Some(1)).unwrap();
                chown(path.join("opt/a/b"), Some(1), Some(1)).unwrap();
                chown(path.join("opt/a/b/file.txt"), Some(1), Some(1)).unwrap();
            },
        ],
    );
}

fn directory_permissions_on_commit(bench: &Bench) {
    let own = |path: &Path, names: &[&str], id: u32| {
        for name in names {
            chown(path.join(name), Some(id), Some(id)).unwrap();
        }
    };
    let directories = ["dir1", "dir2", "dir3", "dir4", "dir5"];
    compare_layers(
        bench,
        &[
            &|path| {
                for (index, name) in directories.iter().enumerate() {
                    make_directory(path.join(name), if index == 1 { 0o777 } else { 0o700 });
                    own(path, &[name], 1);
                }
                write(path.join("dir2/f"), "2");
                write(path.join("dir3/f"), "3");
                write(path.join("dir4/f"), "4");
            },
            &|path| {
                own(path, &["dir1"], 2);
                own(path, &["dir2/f"], 2);
                fs::remove_dir_all(path.join("dir3")).unwrap();
                make_directory(path.join("dir3"), 0o755);
                fs::remove_dir_all(path.join("dir4")).unwrap();
                make_directory(path.join("dir4"), 0o700);
                own(path, &["dir4"], 1);
                write(path.join("dir4/f"), "again");
            },
            &|path| {
                own(path, &["dir5"], 3);
                make_directory(path.join("dir1/inner"), 0o711);
                own(path, &["dir1/inner"], 4);
            },
        ],
    );
}

fn remove_intermediate_snapshot(bench: &Bench) {
    bench.layer("base", "", |_| {});
    bench.layer("inter", "base", |_| {});
    bench.prepare("top", "inter").unwrap();
    let refused = bench.remove("inter").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("remove"), "{refused}");
    bench.remove("top").unwrap();
    bench.remove("inter").unwrap();
    bench.remove("base").unwrap();
}

fn deleted_files_in_child(bench: &Bench) {
    compare_layers(
        bench,
        &[
            &|path| {
                write(path.join("foo"), "foo\n");
                write(path.join("bar"), "bar\n");
                make_directory(path.join("d"), 0o755);
                write(path.join("d/f"), "x");
            },
            &|path| {
                write(path.join("foobar"), "foobar\n");
                fs::remove_file(path.join("bar")).unwrap();
                fs::remove_dir_all(path.join("d")).unwrap();
            },
            &|_| {},
        ],
    );
}

fn move_file_from_lower_layer(bench: &Bench) {
    compare_layers(
        bench,
        &[
            &|path| {
                make_directory(path.join("dir1"), 0o700);
                make_directory(path.join("dir2"), 0o700);
                write_mode(path.join("dir1/f1"), "f1", 0o644);
                write_mode(path.join("dir1/f2"), "f2", 0o644);
            },
            &|path| {
                fs::hard_link(path.join("dir1/f1"), path.join("dir2/f1")).unwrap();
                fs::remove_file(path.join("dir1/f1")).unwrap();
                fs::rename(path.join("dir1/f2"), path.join("dir2/f2")).unwrap();
            },
        ],
    );
}

fn view_is_read_only(bench: &Bench) {
    bench.layer("base", "", |path| write(path.join("file"), "1"));
    bench.layer("two", "base", |path| write(path.join("other"), "2"));
    for (index, parent) in ["", "base", "two"].into_iter().enumerate() {
        let key = format!("view{index}");
        let mounted = bench.mount(&bench.view(&key, parent).unwrap(), &key);
        let refused = fs::write(mounted.path().join("new"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "on {parent:?}");
    }
}

fn stat_while_listing(bench: &Bench) {
    all_sorts(bench);
    bench.runtime.block_on(async {
        let mut client = bench.client();
        let mut list = client.list(support::list_request()).await.unwrap().into_inner();
        let mut seen = 0;
        while let Some(batch) = list.message().await.unwrap() {
            for info in batch.info {
                let stat = bench.client().stat(support::stat_request(&info.name)).await.unwrap();
                assert_eq!(stat.into_inner().info.unwrap(), info);
                seen += 1;
            }
        }
        assert_eq!(seen, 6);
    });
}

/// There is no such call: what closes is a connection, and others do not notice.
fn close_twice(bench: &Bench) {
    bench.prepare("active", "").unwrap();
    for _ in 0..2 {
        drop(bench.channel());
        drop(std::os::unix::net::UnixStream::connect(bench.socket()).unwrap());
        assert_eq!(bench.stat("active").unwrap().kind(), Kind::Active);
    }
}

fn root_permission(bench: &Bench) {
    let mounted = bench.mount(&bench.prepare("active", "").unwrap(), "root");
    let metadata = fs::metadata(mounted.path()).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o755, 0, 0));
    drop(mounted);
    bench.commit("base", "active").unwrap();
    let mounted = bench.mount(&bench.view("view", "base").unwrap(), "view");
    assert_eq!(fs::metadata(mounted.path()).unwrap().mode() & 0o7777, 0o755);
}

fn rename(bench: &Bench) {
    compare_layers(
        bench,
        &[
            &|path| {
                make_directory(path.join("dir1"), 0o700);
                make_directory(path.join("somefiles"), 0o700);
                write_mode(path.join("somefiles/f1"), "was here first!", 0o644);
                write_mode(path.join("somefiles/f2"), "nothing interesting", 0o644);
                write(path.join("dir1/inside"), "inside");
            },
            &|path| {
                fs::rename(path.join("somefiles/f1"), path.join("somefiles/f1new")).unwrap();
                fs::rename(path.join("somefiles/f2"), path.join("somefiles/f1")).unwrap();
                // As mv does where the kernel says that it is another file system.
                move_directory(&path.join("dir1"), &path.join("dir2"));
                make_directory(path.join("fresh"), 0o700);
                write(path.join("fresh/f"), "f");
                fs::rename(path.join("fresh"), path.join("dir1")).unwrap();
            },
            &|path| {
                move_directory(&path.join("dir1"), &path.join("dir3"));
                fs::rename(path.join("dir2/inside"), path.join("dir3/f")).unwrap();
            },
        ],
    );
    let mounted = bench.mount(&bench.prepare("last", "committed 2").unwrap(), "last");
    let error = fs::rename(mounted.path().join("dir3"), mounted.path().join("dir4")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices, "as overlayfs without redirects");
}

fn move_directory(from: &Path, to: &Path) {
    assert!(Command::new("mv").arg("-T").args([from, to]).status().unwrap().success());
}

fn layers_128(bench: &Bench) {
    let flat = bench.directory("flat");
    chmod(&flat, 0o755);
    let mut parent = String::new();
    for index in 1..=128 {
        let change = |path: &Path| {
            let own = path.join(format!("{index}"));
            make_directory(&own, 0o700);
            write(own.join("own"), &index.to_string());
            write(path.join("shared"), &format!("version {index}"));
            if index % 7 == 0 {
                fs::remove_dir_all(path.join(format!("{}", index - 3))).unwrap();
            }
        };
        let (key, name) = (format!("active {index}"), format!("committed {index}"));
        let mounted = bench.mount(&bench.prepare(&key, &parent).unwrap(), &key);
        assert_eq!(manifest(mounted.path()), manifest(&flat), "before layer {index}");
        change(mounted.path());
        change(&flat);
        assert_eq!(manifest(mounted.path()), manifest(&flat), "after layer {index}");
        drop(mounted);
        bench.commit(&name, &key).unwrap();
        parent = name;
    }
    let mounts = bench.view("view", &parent).unwrap();
    for mount in &mounts {
        let options: usize = mount.options.iter().map(|option| option.len() + 1).sum();
        assert!(options < 4096 * 3, "{options}");
    }
    let mounted = bench.mount(&mounts, "view");
    assert_eq!(manifest(mounted.path()), manifest(&flat));
}

/// The behaviours, each as a test of its own daemon with this configuration.
macro_rules! suite {
    ($form:ident, $config:expr) => {
        suite!($form, $config, basic stat_active stat_committed transitivity
            prepare_and_view_fail_on_taken_keys update remove walk layer_file_update
            remove_directory_in_lower_layer change_owner directory_permissions_on_commit
            remove_intermediate_snapshot deleted_files_in_child move_file_from_lower_layer
            view_is_read_only stat_while_listing close_twice root_permission rename layers_128);
    };
    ($form:ident, $config:expr, $($behaviour:ident)*) => {
        mod $form {
            $(#[test]
            fn $behaviour() {
                let name = concat!(module_path!(), "::", stringify!($behaviour));
                crate::support::isolated(name, || {
                    let bench = crate::support::Bench::new($config);
                    crate::$behaviour(&bench);
                });
            })*
        }
    };
}

suite!(privileged_plain, "");
suite!(privileged_erofs, "[snapshotter]\nmounts = \"erofs\"");
suite!(privileged_block, "[snapshotter]\nscratch_size = \"64MiB\"");
