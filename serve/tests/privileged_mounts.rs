//! The mounts service over gRPC.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;

use serve::api::mounts as api;
use serve::api::mounts::mounts_client::MountsClient;
use serve::api::types::{ActivationInfo, Mount};
use support::{Bench, Labels, code, labels};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

fn mount(r#type: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        r#type: r#type.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn client(bench: &Bench) -> MountsClient<Channel> {
    MountsClient::new(bench.channel())
}

fn in_namespace<T>(request: T, namespace: Option<&str>) -> Request<T> {
    let mut request = Request::new(request);
    if let Some(namespace) = namespace {
        request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
    }
    request
}

/// An activation of `mounts`, whole.
struct Wish<'a> {
    name: &'a [u8],
    mounts: &'a [Mount],
    labels: Labels,
    temporary: bool,
    namespace: Option<&'a str>,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self { name: b"a", mounts: &[], labels: Labels::new(), temporary: false, namespace: None }
    }
}

fn activate(bench: &Bench, wish: Wish<'_>) -> Result<ActivationInfo, Status> {
    let request = api::ActivateRequest {
        name: wish.name.to_vec(),
        mounts: wish.mounts.to_vec(),
        labels: wish.labels.into_iter().collect(),
        temporary: wish.temporary,
    };
    let request = in_namespace(request, wish.namespace);
    Ok(bench.runtime.block_on(client(bench).activate(request))?.into_inner().info.unwrap())
}

fn deactivate(bench: &Bench, name: &[u8], namespace: Option<&str>) -> Result<(), Status> {
    let request = in_namespace(api::DeactivateRequest { name: name.to_vec() }, namespace);
    bench.runtime.block_on(client(bench).deactivate(request)).map(drop)
}

fn list(bench: &Bench, filters: &[&str], namespace: Option<&str>) -> Result<Vec<String>, Status> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let request = in_namespace(api::ListRequest { filters }, namespace);
    bench.runtime.block_on(async {
        let mut stream = client(bench).list(request).await?.into_inner();
        let mut names = Vec::new();
        while let Some(message) = stream.message().await? {
            names.push(String::from_utf8(message.info.unwrap().name).unwrap());
        }
        Ok(names)
    })
}

/// Commits two layers, and gives the mounts of a snapshot on them in containerd's EROFS form.
fn layered(bench: &Bench) -> Vec<Mount> {
    for (name, key, parent) in [("one", "k1", ""), ("two", "k2", "one")] {
        let mounts = bench.prepare(key, parent).unwrap();
        let mounted = bench.mount(&mounts, key);
        fs::write(mounted.path().join(name), name).unwrap();
        drop(mounted);
        bench.commit(name, key).unwrap();
    }
    bench.prepare("active", "two").unwrap()
}

privileged! {
    fn privileged_a_snapshot_of_the_erofs_form_is_activated() {
        let mut bench = Bench::new("[snapshotter]\nmounts = \"erofs\"");
        let mounts = layered(&bench);
        assert_eq!(mounts.len(), 3, "{mounts:?}");
        let owner = labels(&[("containerd.io/gc.bref.container", "c1")]);
        let wish = || Wish { name: b"c1", mounts: &mounts, labels: owner.clone(), ..Wish::default() };
        let info = activate(&bench, wish()).unwrap();
        assert_eq!((info.name.as_slice(), info.active.len(), info.system.len()), (&b"c1"[..], 2, 1));
        assert!(info.active[0].mount_point.starts_with(bench.run().join("v").to_str().unwrap()));
        assert!(info.active[0].mounted_at.unwrap().seconds > 1_600_000_000);
        let mounted = bench.mount(&info.system, "rootfs");
        assert_eq!(fs::read_to_string(mounted.path().join("one")).unwrap(), "one");
        assert_eq!(fs::read_to_string(mounted.path().join("two")).unwrap(), "two");
        assert_eq!(code(activate(&bench, wish())), Code::AlreadyExists);
        // It outlives the daemon.
        bench.kill();
        bench.start();
        let request = api::InfoRequest { name: b"c1".to_vec() };
        let same = bench.runtime.block_on(client(&bench).info(request)).unwrap().into_inner();
        assert_eq!(same.info.unwrap(), info);
        drop(mounted);
        deactivate(&bench, b"c1", None).unwrap();
        assert_eq!(code(deactivate(&bench, b"c1", None)), Code::NotFound);
        bench.remove("active").unwrap();
        assert!(list(&bench, &[], None).unwrap().is_empty());
    }

    fn privileged_namespaces_and_filters_choose_activations() {
        let bench = Bench::new("");
        let directory = bench.directory("dir");
        let bind = [mount("bind", directory.to_str().unwrap(), &["rbind", "ro"])];
        for (name, namespace, owner) in
            [("a", None, "1"), ("b", Some("default"), "2"), ("a", Some("k8s.io"), "3")]
        {
            let labels = labels(&[("plywood.test/owner", owner)]);
            let name = name.as_bytes();
            let wish = Wish { name, mounts: &bind, labels, temporary: true, namespace };
            activate(&bench, wish).unwrap();
        }
        assert_eq!(list(&bench, &[], None).unwrap(), ["a", "b"]);
        assert_eq!(list(&bench, &[], Some("k8s.io")).unwrap(), ["a"]);
        assert_eq!(list(&bench, &["name==b", "name==c"], None).unwrap(), ["b"]);
        assert_eq!(list(&bench, &["labels.\"plywood.test/owner\"==1"], None).unwrap(), ["a"]);
        assert_eq!(code(list(&bench, &["="], None)), Code::InvalidArgument);
        deactivate(&bench, b"a", Some("k8s.io")).unwrap();
        assert_eq!(list(&bench, &[], Some("k8s.io")).unwrap(), Vec::<String>::new());
        deactivate(&bench, b"a", None).unwrap();
        deactivate(&bench, b"b", None).unwrap();
    }

    fn privileged_bad_requests_get_codes_and_change_nothing() {
        let bench = Bench::new("");
        let tree = bench.directory("dir");
        let source = tree.to_str().unwrap();
        let bind = [mount("bind", source, &["rbind"])];
        let run = |wish: Wish<'_>| code(activate(&bench, wish));
        assert_eq!(run(Wish { mounts: &bind, ..Wish::default() }), Code::Unimplemented);
        assert_eq!(run(Wish::default()), Code::Unimplemented);
        let temporary = |name| Wish { name, mounts: &bind, temporary: true, ..Wish::default() };
        assert_eq!(run(temporary(b"")), Code::InvalidArgument);
        assert_eq!(run(temporary(b"\xff")), Code::InvalidArgument);
        assert_eq!(run(temporary(&[b'x'; 64 << 10])), Code::InvalidArgument);
        for namespace in ["", "a/b"] {
            let wish = Wish { namespace: Some(namespace), ..temporary(b"a") };
            assert_eq!(run(wish), Code::InvalidArgument, "{namespace}");
        }
        let long = labels(&[("key", &"x".repeat(5000))]);
        assert_eq!(run(Wish { labels: long, ..temporary(b"a") }), Code::InvalidArgument);
        for (hostile, expected) in [
            (mount("format/bind", "{{ mount 7 }}", &["rbind"]), Code::InvalidArgument),
            (mount("format/bind", "{{ system \"rm\" }}", &["rbind"]), Code::InvalidArgument),
            (mount("erofs", "/missing", &[]), Code::FailedPrecondition),
            (mount("erofs", "/etc/passwd", &[]), Code::DataLoss),
            (mount("erofs", "x", &[]), Code::InvalidArgument),
            (mount("erofs", "/x", &["X-containerd.dmverity=/y"]), Code::Unimplemented),
            (mount("mkfs/ext4", "/x", &[]), Code::InvalidArgument),
            (mount("mkfs/ext4", "/x", &["X-containerd.mkfs.size=1m"]), Code::Unimplemented),
            (mount("mkdir/bind", source, &["X-containerd.mkdir.path=/x"]), Code::Unimplemented),
        ] {
            for temporary in [false, true] {
                let mounts = [hostile.clone()];
                let wish = Wish { mounts: &mounts, temporary, ..Wish::default() };
                assert_eq!(run(wish), expected, "{hostile:?}");
            }
        }
        let update = bench.runtime.block_on(client(&bench).update(api::UpdateRequest::default()));
        assert_eq!(code(update), Code::Unimplemented);
        let info = bench.runtime.block_on(client(&bench).info(api::InfoRequest::default()));
        assert_eq!(code(info), Code::InvalidArgument);
        let info = api::InfoRequest { name: b"missing".to_vec() };
        assert_eq!(code(bench.runtime.block_on(client(&bench).info(info))), Code::NotFound);
        assert!(list(&bench, &[], None).unwrap().is_empty());
        assert!(!bench.run().join("t").exists() || fs::read_dir(bench.run().join("t")).unwrap().count() == 0);
    }

    fn privileged_what_is_no_image_is_refused_at_once() {
        let bench = Bench::new("");
        let pipe = bench.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for source in [pipe.to_str().unwrap(), "/dev/zero", "/etc"] {
            let mounts = [mount("erofs", source, &[])];
            let refused = activate(&bench, Wish { mounts: &mounts, ..Wish::default() });
            assert_eq!(code(refused), Code::DataLoss, "{source}");
        }
        let mounts = layered(&bench);
        let many = (0..10_000).map(|number| (format!("l{number}"), "value".to_owned())).collect();
        let refused = activate(&bench, Wish { mounts: &mounts, labels: many, ..Wish::default() });
        assert_eq!(code(refused), Code::InvalidArgument);
        assert!(list(&bench, &[], None).unwrap().is_empty());
    }
}
