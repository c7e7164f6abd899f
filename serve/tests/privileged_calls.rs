//! Every row of the error table, and what containerd's own tests leave out: rebase, usage, clean-up, hostile requests,
//! many clients at once.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::{Duration, Instant};

use serve::api::snapshots::snapshots_client::SnapshotsClient;
use serve::api::snapshots::{Info, Kind, PrepareSnapshotRequest, RemoveSnapshotRequest};
use serve::api::snapshots::{MountsRequest, UpdateSnapshotRequest};
use support::{Bench, channel, code, labels, list_request, manifest, stat_request};
use tonic::{Code, Request};

/// The names of all snapshots, and everything that is said about them.
fn state(bench: &Bench) -> Vec<Info> {
    bench.list(&[]).unwrap()
}

/// Volumes mounted below the run directory.
fn volumes(bench: &Bench) -> usize {
    fs::read_dir(bench.run().join("v")).map_or(0, Iterator::count)
}

/// `base` and `other` committed, `active` on base, `loose` without parent, `view` on base.
fn populate(bench: &Bench) {
    bench.layer("base", "", |path| fs::write(path.join("base"), "1").unwrap());
    bench.layer("other", "", |path| fs::write(path.join("other"), "2").unwrap());
    bench.prepare_with("active", "base", &[("l", "1")]).unwrap();
    bench.prepare("loose", "").unwrap();
    bench.view("view", "base").unwrap();
}

privileged! {
    fn privileged_a_new_store_answers_everything() {
        let bench = Bench::new("");
        assert!(bench.list_batches(&[]).unwrap().is_empty(), "no message at all");
        assert!(bench.list(&["kind==active"]).unwrap().is_empty());
        bench.cleanup().unwrap();
        for key in ["", "missing"] {
            assert_eq!(code(bench.stat(key)), Code::NotFound);
            assert_eq!(code(bench.usage(key)), Code::NotFound);
            assert_eq!(code(bench.mounts(key)), Code::NotFound);
            assert_eq!(code(bench.remove(key)), Code::NotFound);
            assert_eq!(code(bench.commit("name", key)), Code::NotFound);
            let info = Info { name: key.into(), ..Info::default() };
            assert_eq!(code(bench.update(info, &[])), Code::NotFound);
            assert_eq!(code(bench.prepare("new", "missing")), Code::NotFound);
        }
        assert!(bench.list(&[]).unwrap().is_empty());
    }

    fn privileged_every_row_of_the_error_table() {
        let bench = Bench::new("");
        populate(&bench);
        let before = state(&bench);
        let held = volumes(&bench);
        let prepare = |key: &str, parent: &str| code(bench.prepare(key, parent));
        let view = |key: &str, parent: &str| code(bench.view(key, parent));

        assert_eq!(code(bench.mounts("base")), Code::FailedPrecondition);
        for key in ["active", "view", "base"] {
            assert_eq!(prepare(key, ""), Code::AlreadyExists);
            assert_eq!(prepare(key, "base"), Code::AlreadyExists);
            assert_eq!(view(key, "other"), Code::AlreadyExists);
            assert_eq!(prepare(key, "missing"), Code::NotFound, "the parent is looked at first");
            assert_eq!(view(key, "missing"), Code::NotFound);
        }
        for parent in ["active", "view", "loose"] {
            assert_eq!(prepare("new", parent), Code::InvalidArgument);
            assert_eq!(view("new", parent), Code::InvalidArgument);
        }
        assert_eq!(prepare("", "base"), Code::InvalidArgument);
        assert_eq!(view("", ""), Code::InvalidArgument);

        let commit = |name: &str, key: &str, parent: &str| code(bench.commit_on(name, key, parent));
        assert_eq!(commit("base", "missing", ""), Code::NotFound, "wins over the taken name");
        assert_eq!(commit("base", "", ""), Code::NotFound);
        assert_eq!(commit("base", "active", ""), Code::AlreadyExists);
        assert_eq!(commit("view", "active", ""), Code::AlreadyExists);
        assert_eq!(commit("active", "active", ""), Code::AlreadyExists);
        assert_eq!(commit("new", "view", ""), Code::FailedPrecondition);
        assert_eq!(commit("new", "base", ""), Code::FailedPrecondition);
        assert_eq!(commit("", "active", ""), Code::InvalidArgument);
        assert_eq!(commit("new", "active", "other"), Code::InvalidArgument);
        assert_eq!(commit("new", "loose", "missing"), Code::NotFound);
        assert_eq!(commit("new", "loose", "loose"), Code::NotFound);
        assert_eq!(commit("new", "loose", "active"), Code::FailedPrecondition);
        assert_eq!(commit("new", "loose", "view"), Code::FailedPrecondition);

        let refused = bench.remove("base").unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("remove"), "{refused}");

        let update = |name: &str, mask: &[&str]| {
            let labels = labels(&[("l", "2"), ("m", "3")]);
            code(bench.update(Info { name: name.into(), labels, ..Info::default() }, mask))
        };
        for path in [
            "name", "kind", "parent", "created_at", "updated_at", "", "Labels", "labels.", "label",
            "labels..", ".labels", " labels", "labels ", "*", "info.labels", "\0",
        ] {
            // The key "." is one like any other.
            if path != "labels.." {
                assert_eq!(update("active", &[path]), Code::InvalidArgument, "{path:?}");
                assert_eq!(update("active", &["labels.l", path]), Code::InvalidArgument);
                assert_eq!(update("active", &["labels", path]), Code::InvalidArgument);
            }
        }
        assert_eq!(update("missing", &["labels"]), Code::NotFound);
        let no_info = UpdateSnapshotRequest::default();
        let answer = bench.runtime.block_on(bench.client().update(no_info));
        assert_eq!(code(answer), Code::InvalidArgument);

        for filter in [
            "=", "name==", "name=x", "name==a,", "labels.a/b==1", "name~=[", "'x'", "a b", "\0",
            "name==\"x", "name=!x", ",", "..", "name==/x/",
        ] {
            let answer = code(bench.list(&[filter]));
            // A regular expression that does not compile matches nothing; single quotes are ordinary characters.
            match filter {
                "name~=[" => assert_eq!(answer, Code::Ok),
                _ => assert_eq!(answer, Code::InvalidArgument, "{filter:?}"),
            }
        }
        assert_eq!(state(&bench), before, "nothing of this has changed anything");
        assert_eq!(volumes(&bench), held);
        // Nor is anybody's data gone: what was refused works afterwards.
        bench.commit("new", "active").unwrap();
        bench.commit_on("rebased", "loose", "other").unwrap();
    }

    fn privileged_hostile_requests_change_nothing() {
        let bench = Bench::new("");
        populate(&bench);
        let before = state(&bench);
        let held = volumes(&bench);
        let long = vec![b'k'; 64 << 10];
        assert_eq!(code(bench.prepare(&long, "")), Code::InvalidArgument);
        assert_eq!(code(bench.view(&long, "base")), Code::InvalidArgument);
        assert_eq!(code(bench.prepare("new", &long)), Code::NotFound);
        assert_eq!(code(bench.commit(&long, "active")), Code::InvalidArgument);
        assert_eq!(code(bench.stat(&long)), Code::NotFound);
        assert_eq!(code(bench.remove(&long)), Code::NotFound);
        // Labels: too long, too many, sizes and mappings that mean nothing.
        let big = "v".repeat(4096);
        assert_eq!(code(bench.prepare_with("new", "", &[("k", &big)])), Code::InvalidArgument);
        assert_eq!(code(bench.commit_with("new", "active", "", &[("k", &big)])), Code::InvalidArgument);
        let names: Vec<String> = (0..10_000).map(|index| format!("label-{index}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "value")).collect();
        assert_eq!(code(bench.prepare_with("new", "", &many)), Code::InvalidArgument);
        let info = Info { name: b"active".to_vec(), labels: labels(&many), ..Info::default() };
        assert_eq!(code(bench.update(info, &[])), Code::InvalidArgument);
        for (label, values) in [
            ("containerd.io/snapshot/max-size", ["-1", "10G", "1e9", "18446744073709551616", "1"]),
            ("containerd.io/snapshot/windows/rootfs.sizebytes", ["x", "0x10", " 1", "1 ", "3"]),
            (
                "containerd.io/snapshot/io.microsoft.container.storage.rootfs.size-gb",
                ["9999999999999", "-5", "1.5", "", "99999999999999999999"],
            ),
            ("containerd.io/snapshot/uidmapping", ["", "0", "0:1", "a:b:c", "0:0:0"]),
        ] {
            for value in values.into_iter().filter(|value| !value.is_empty()) {
                let made = code(bench.prepare_with("new", "base", &[(label, value)]));
                assert_eq!(made, Code::InvalidArgument, "{label}={value}");
            }
        }
        // Messages that are none of ours, or too long.
        let strange = PrepareSnapshotRequest { key: vec![0; 17 << 20], ..Default::default() };
        let answer = code(bench.runtime.block_on(bench.client().prepare(strange)));
        assert!(matches!(answer, Code::OutOfRange | Code::ResourceExhausted), "{answer:?}");
        let info = Info { name: b"missing".to_vec(), kind: 77, ..Info::default() };
        assert_eq!(code(bench.update(info, &["kind"])), Code::NotFound);
        let info = Info { name: b"active".to_vec(), kind: 77, ..Info::default() };
        assert_eq!(code(bench.update(info, &["kind"])), Code::InvalidArgument);
        let filters = vec!["kind==active".to_owned(); 10_000];
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        assert_eq!(bench.list(&filters).unwrap().len(), 2);
        let deep = format!("labels{}==x", ".a".repeat(100_000));
        assert!(bench.list(&[&deep]).unwrap().is_empty());
        assert_eq!(state(&bench), before);
        assert_eq!(volumes(&bench), held);
    }

    fn privileged_keys_are_any_bytes() {
        let mut bench = Bench::new("");
        bench.layer("base", "", |path| fs::write(path.join("f"), "1").unwrap());
        let keys: [&[u8]; 8] = [
            b"\xff\xfe", b"../../etc/passwd", b"a\0b", b"\n", b"/", b"default/1/extract-1 sha256:ab",
            "\u{1f980}".as_bytes(), &[b'x'; 32768],
        ];
        for key in keys {
            let mounts = bench.prepare(key, "base").unwrap();
            assert_eq!(bench.mounts(key).unwrap(), mounts);
            assert_eq!(bench.stat(key).unwrap().name, key);
            let mounted = bench.mount(&mounts, "m");
            fs::write(mounted.path().join("g"), "2").unwrap();
            drop(mounted);
        }
        assert_eq!(volumes(&bench), 1, "one layer, one volume");
        bench.kill();
        bench.start();
        for key in keys {
            let name = [key.get(..100).unwrap_or(key), b" committed"].concat();
            bench.commit(&name, key).unwrap();
            assert_eq!(bench.stat(&name).unwrap().parent, b"base");
            bench.remove(&name).unwrap();
        }
        bench.remove("base").unwrap();
        bench.cleanup().unwrap();
        assert_eq!(volumes(&bench), 0);
        assert_eq!(fs::read_dir(bench.root().join("layers")).unwrap().count(), 0);
    }

    fn privileged_a_snapshot_in_use_is_not_removed() {
        let bench = Bench::new("");
        populate(&bench);
        let mounted = bench.mount(&bench.mounts("active").unwrap(), "active");
        let loose = bench.mount(&bench.mounts("loose").unwrap(), "loose");
        for key in ["active", "loose"] {
            let refused = bench.remove(key).unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains("cannot remove"), "{refused}");
            assert!(refused.message().contains("/mnt/"), "{refused}");
        }
        fs::write(mounted.path().join("still"), "works").unwrap();
        drop((mounted, loose));
        bench.remove("active").unwrap();
        bench.remove("loose").unwrap();
    }

    /// Layers prepared without a parent, filled in any order, and put on each other by their commits.
    fn privileged_rebase_joins_layers_in_the_end() {
        let bench = Bench::new("");
        for index in [2, 0, 1] {
            let key = format!("extract-{index}");
            let mounted = bench.mount(&bench.prepare(&key, "").unwrap(), &key);
            fs::write(mounted.path().join("shared"), index.to_string()).unwrap();
            fs::write(mounted.path().join(format!("own{index}")), "x").unwrap();
            if index == 2 {
                // A whiteout is layer data, though there is nothing below yet.
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    mounted.path().join("own0"),
                    rustix::fs::FileType::CharacterDevice,
                    rustix::fs::Mode::empty(),
                    0,
                )
                .unwrap();
            }
        }
        bench.commit_on("l0", "extract-0", "").unwrap();
        bench.commit_on("l1", "extract-1", "l0").unwrap();
        // Waiting for its parent is waiting for nothing of ours: without it, refused, and tried again.
        assert_eq!(code(bench.commit_on("l2", "extract-2", "l9")), Code::NotFound);
        bench.commit_on("l2", "extract-2", "l1").unwrap();
        assert_eq!(bench.stat("l2").unwrap().parent, b"l1");
        bench.prepare("same", "l2").unwrap();
        bench.commit_on("l3", "same", "l2").unwrap();
        let mounted = bench.mount(&bench.view("v", "l3").unwrap(), "v");
        let entries = manifest(mounted.path());
        let names: Vec<_> = entries.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["", "own1", "own2", "shared"]);
        assert_eq!(fs::read_to_string(mounted.path().join("shared")).unwrap(), "2");
    }

    fn privileged_usage_counts_what_is_its_own() {
        let bench = Bench::new("");
        let mounted = bench.mount(&bench.prepare("base-active", "").unwrap(), "m");
        let (empty, _) = bench.usage("base-active").unwrap();
        fs::write(mounted.path().join("f"), vec![7; 1 << 20]).unwrap();
        let (size, inodes) = bench.usage("base-active").unwrap();
        assert!((1 << 20..(1 << 20) + (1 << 17)).contains(&(size - empty)), "{size} {empty}");
        assert_eq!(inodes, 2);
        // Holes are no usage.
        let sparse = fs::File::create(mounted.path().join("sparse")).unwrap();
        sparse.write_all_at(b"x", 1 << 30).unwrap();
        assert!(bench.usage("base-active").unwrap().0 < 2 << 20);
        drop(sparse);
        fs::remove_file(mounted.path().join("sparse")).unwrap();
        drop(mounted);
        bench.commit("base", "base-active").unwrap();
        let committed = bench.usage("base").unwrap();
        assert!((1 << 20..(1 << 20) + (1 << 17)).contains(&committed.0), "{committed:?}");
        bench.prepare("next", "base").unwrap();
        assert!(bench.usage("next").unwrap().0 < 1 << 17, "without its parents");
        bench.view("view", "base").unwrap();
        assert_eq!(bench.usage("view").unwrap(), (0, 0));
        assert_eq!(bench.usage("base").unwrap(), committed);
    }

    fn privileged_clean_up_leaves_what_is_needed() {
        let bench = Bench::new("");
        let layers = || fs::read_dir(bench.root().join("layers")).unwrap().count();
        populate(&bench);
        bench.layer("top", "base", |path| fs::write(path.join("t"), "3").unwrap());
        assert_eq!(layers(), 3);
        bench.cleanup().unwrap();
        assert_eq!(layers(), 3);
        // What the daemon did not make, and what a crash leaves.
        fs::create_dir_all(bench.root().join("snapshots/999/fs")).unwrap();
        fs::write(bench.root().join("rm-5"), "x").unwrap();
        bench.remove("top").unwrap();
        bench.remove("other").unwrap();
        let mounted = bench.mount(&bench.mounts("active").unwrap(), "m");
        bench.cleanup().unwrap();
        assert_eq!(layers(), 1);
        assert!(!bench.root().join("snapshots/999").exists());
        assert!(!bench.root().join("rm-5").exists());
        assert_eq!(fs::read_to_string(mounted.path().join("base")).unwrap(), "1");
        drop(mounted);
        for key in ["active", "loose", "view", "base"] {
            bench.remove(key).unwrap();
        }
        bench.cleanup().unwrap();
        assert_eq!((layers(), volumes(&bench)), (0, 0));
        assert_eq!(fs::read_dir(bench.root().join("snapshots")).unwrap().count(), 0);
    }

    /// A mount of a volume that cannot be made leaves neither snapshot nor hold.
    fn privileged_what_cannot_be_mounted_is_not_made() {
        let bench = Bench::new("");
        populate(&bench);
        bench.layer("top", "base", |path| fs::write(path.join("t"), "3").unwrap());
        for key in ["active", "view"] {
            bench.remove(key).unwrap();
        }
        bench.cleanup().unwrap();
        assert_ne!(volumes(&bench), 0, "the next container's");
        bench.remove("top").unwrap();
        bench.cleanup().unwrap();
        assert_eq!(volumes(&bench), 0);
        let layers = fs::read_dir(bench.root().join("layers")).unwrap();
        for layer in layers.map(|entry| entry.unwrap().path()) {
            fs::OpenOptions::new().write(true).open(layer).unwrap().set_len(100).unwrap();
        }
        let before = state(&bench);
        assert_eq!(code(bench.prepare("new", "base")), Code::DataLoss);
        assert_eq!(code(bench.view("new", "base")), Code::DataLoss);
        assert_eq!(state(&bench), before);
        assert_eq!(volumes(&bench), 0);
        assert_eq!(code(bench.stat("new")), Code::NotFound);
        bench.prepare("new", "").unwrap();
    }

    fn privileged_a_scratch_of_limited_size_is_full_in_the_end() {
        let bench = Bench::new("");
        let size = [("containerd.io/snapshot/max-size", "33554432")];
        let mounted = bench.mount(&bench.prepare_with("c", "", &size).unwrap(), "c");
        let full = fs::write(mounted.path().join("big"), vec![1; 64 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        fs::write(mounted.path().join("big"), "small").unwrap();
        drop(mounted);
        bench.commit("committed", "c").unwrap();
        let mounted = bench.mount(&bench.view("v", "committed").unwrap(), "v");
        assert_eq!(fs::read_to_string(mounted.path().join("big")).unwrap(), "small");
        drop(mounted);
        assert_eq!(fs::read_dir(bench.run().join("s")).map_or(0, Iterator::count), 0);
        // Not for what an image is unpacked into.
        bench.prepare_with("extract-1", "", &size).unwrap();
        assert!(!bench.mounts("extract-1").unwrap()[0].source.contains("/s/"));
    }

    fn privileged_owners_are_mapped_where_labels_ask() {
        let bench = Bench::new("");
        bench.layer("base", "", |path| {
            fs::write(path.join("root"), "1").unwrap();
            fs::write(path.join("user"), "2").unwrap();
            std::os::unix::fs::chown(path.join("user"), Some(1000), Some(1000)).unwrap();
        });
        let mapping = [
            ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
            ("containerd.io/snapshot/gidmapping", "0:200000:65536"),
        ];
        let mounts = bench.prepare_with("mapped", "base", &mapping).unwrap();
        assert_eq!(bench.mounts("mapped").unwrap(), mounts);
        let mounted = bench.mount(&mounts, "mapped");
        let owner = |name: &str| {
            let metadata = fs::metadata(mounted.path().join(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner(""), (100_000, 200_000));
        assert_eq!(owner("root"), (100_000, 200_000));
        assert_eq!(owner("user"), (101_000, 201_000));
        // The root directory is the container's to give away.
        std::os::unix::fs::chown(mounted.path(), Some(100_005), Some(200_005)).unwrap();
        bench.mounts("mapped").unwrap();
        assert_eq!(owner(""), (100_005, 200_005));
        let plain = bench.mount(&bench.prepare("plain", "base").unwrap(), "plain");
        assert_eq!(fs::metadata(plain.path().join("user")).unwrap().uid(), 1000);
        // containerd has changed the owners of every file already, and gives the labels nevertheless.
        bench.layer("given", "base", |path| {
            for (name, id) in [("", 0), ("root", 0), ("user", 1000)] {
                let (uid, gid) = (Some(100_000 + id), Some(200_000 + id));
                std::os::unix::fs::chown(path.join(name), uid, gid).unwrap();
            }
        });
        let mounts = bench.prepare_with("once", "given", &mapping).unwrap();
        assert_eq!(bench.mounts("once").unwrap(), mounts);
        let once = bench.mount(&mounts, "once");
        for (name, id) in [("", 0), ("root", 0), ("user", 1000)] {
            let metadata = fs::metadata(once.path().join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (100_000 + id, 200_000 + id), "{name}");
        }
    }

    fn privileged_lists_come_in_batches() {
        let bench = Bench::new("");
        let value = "v".repeat(4000);
        for index in 0..250 {
            let pairs: Vec<(String, &str)> =
                (0..15).map(|label| (format!("l{label}"), value.as_str())).collect();
            let pairs: Vec<(&str, &str)> =
                pairs.iter().map(|(key, value)| (key.as_str(), *value)).collect();
            bench.prepare_with(format!("{index:03}"), "", &pairs).unwrap();
        }
        let batches = bench.list_batches(&[]).unwrap();
        assert!(batches.iter().all(|batch| (1..=100).contains(&batch.len())));
        let bytes = |batch: &Vec<Info>| batch.iter().map(prost::Message::encoded_len).sum::<usize>();
        assert!(batches.iter().all(|batch| bytes(batch) < 2 << 20));
        let keys: Vec<_> = batches.concat().into_iter().map(|info| info.name).collect();
        let wanted: Vec<_> = (0..250).map(|index| format!("{index:03}").into_bytes()).collect();
        assert_eq!(keys, wanted);
        assert_eq!(bench.list_batches(&["name==007"]).unwrap().len(), 1);
    }

    /// A deadline ends the waiting and what was begun for it; a client that goes away does no harm.
    fn privileged_deadlines_and_cancelled_calls() {
        let bench = Bench::new("");
        let mounted = bench.mount(&bench.prepare("big", "").unwrap(), "big");
        fs::write(mounted.path().join("f"), vec![b'x'; 64 << 20]).unwrap();
        drop(mounted);
        let before = state(&bench);
        let mut commit = Request::new(serve::api::snapshots::CommitSnapshotRequest {
            name: b"committed".to_vec(),
            key: b"big".to_vec(),
            ..Default::default()
        });
        commit.set_timeout(Duration::from_millis(5));
        let late = bench.runtime.block_on(bench.client().commit(commit)).unwrap_err().code();
        assert!(matches!(late, Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(state(&bench), before);
        bench.commit("committed", "big").unwrap();

        bench.runtime.block_on(async {
            for index in 0..50 {
                let mut client = bench.client();
                let call = tokio::spawn(async move {
                    let key = format!("gone {index}").into_bytes();
                    let message = PrepareSnapshotRequest { key, ..Default::default() };
                    let _ = client.prepare(message).await;
                });
                tokio::time::sleep(Duration::from_micros(100 * index)).await;
                call.abort();
            }
        });
        // Each is there as a whole or not at all.
        for info in state(&bench).iter().filter(|info| info.kind() == Kind::Active) {
            bench.mounts(&info.name).unwrap();
            bench.remove(&info.name).unwrap();
        }
    }

    /// 64 clients that do what containerd does, each with its own connection, and one that lists all the time.
    fn privileged_64_clients_at_once() {
        const CLIENTS: usize = 64;
        const ROUNDS: usize = 8;
        let bench = Bench::new("");
        bench.layer("base", "", |path| fs::write(path.join("f"), "1").unwrap());
        let socket = bench.socket();
        let mut times: Vec<Duration> = bench.runtime.block_on(async {
            let clients = (0..CLIENTS).map(|client| {
                let mut calls = SnapshotsClient::new(channel(socket.clone()));
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    for round in 0..ROUNDS {
                        let key = format!("client {client} round {round}").into_bytes();
                        let start = Instant::now();
                        let prepare = PrepareSnapshotRequest {
                            key: key.clone(),
                            parent: b"base".to_vec(),
                            ..Default::default()
                        };
                        let made = calls.prepare(prepare).await.unwrap().into_inner().mounts;
                        times.push(start.elapsed());
                        let mounts = MountsRequest { key: key.clone(), ..Default::default() };
                        assert_eq!(calls.mounts(mounts).await.unwrap().into_inner().mounts, made);
                        assert_eq!(
                            calls.stat(stat_request(&key)).await.unwrap().into_inner().info.unwrap().name,
                            key
                        );
                        // The same key for all: one wins, the others hear that it exists.
                        let contested = PrepareSnapshotRequest {
                            key: format!("contested {round}").into_bytes(),
                            ..Default::default()
                        };
                        let contested = calls.prepare(contested).await;
                        assert!(matches!(code(contested), Code::Ok | Code::AlreadyExists));
                        let remove = RemoveSnapshotRequest { key, ..Default::default() };
                        calls.remove(remove).await.unwrap();
                    }
                    times
                })
            });
            let clients: Vec<_> = clients.collect();
            for _ in 0..20 {
                let mut list = bench.client().list(list_request()).await.unwrap().into_inner();
                while list.message().await.unwrap().is_some() {}
                bench.client().cleanup(serve::api::snapshots::CleanupRequest::default()).await.unwrap();
            }
            let mut times = Vec::new();
            for client in clients {
                times.extend(client.await.unwrap());
            }
            times
        });
        times.sort();
        println!("prepare: median {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
        let left: Vec<_> = state(&bench).into_iter().map(|info| info.name).collect();
        assert_eq!(left.len(), 1 + ROUNDS, "{left:?}");
        for round in 0..ROUNDS {
            bench.remove(format!("contested {round}")).unwrap();
        }
        bench.remove("base").unwrap();
        bench.cleanup().unwrap();
        assert_eq!(volumes(&bench), 0);
    }
}
