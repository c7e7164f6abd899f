//! Combining layers, with directories as layers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use bridge::{
    CombinedLayers, GuestRequest, Layer, ModifySettings, RequestType, Resource, ResultCode,
};

use crate::host::Host;

fn combined(host: &Host, root: &str, layers: &[&str], scratch: &str) -> CombinedLayers {
    CombinedLayers {
        container_id: "c".to_owned(),
        container_root_path: host.text(root),
        layers: layers.iter().map(|name| Layer::at(host.text(name))).collect(),
        scratch_path: if scratch.is_empty() { String::new() } else { host.text(scratch) },
    }
}

fn add(host: &Host, request: &CombinedLayers) -> bridge::Result<()> {
    host.modify(GuestRequest::add(Resource::CombinedLayers(request.clone())))
}

/// A removal says the root and nothing else.
fn remove(host: &Host, root: &str) -> bridge::Result<()> {
    let request = CombinedLayers { container_root_path: host.text(root), ..Default::default() };
    host.modify(GuestRequest::remove(Resource::CombinedLayers(request)))
}

/// A host with layers `a` over `b`: both have `both`, each a file of its name.
fn host() -> Host {
    let host = Host::negotiated();
    for name in ["a", "b"] {
        fs::create_dir(host.path(name)).unwrap();
        fs::write(host.path(name).join("both"), name).unwrap();
        fs::write(host.path(name).join(name), name).unwrap();
    }
    host
}

#[test]
fn privileged_layers_are_combined_and_taken_apart() {
    let host = host();
    add(&host, &combined(&host, "c/rootfs", &["a", "b"], "scratch")).unwrap();
    let root = host.seen(&host.path("c/rootfs"));
    assert_eq!(
        fs::read_to_string(root.join("both")).unwrap(),
        "a",
        "the first layer is the topmost"
    );
    assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "b");
    fs::write(root.join("new"), "kept").unwrap();
    for name in ["scratch/upper", "scratch/work"] {
        assert_eq!(fs::metadata(host.path(name)).unwrap().mode() & 0o7777, 0o755);
    }
    remove(&host, "c/rootfs").unwrap();
    assert_eq!(host.mounts_below(host.directory.path()), 0);
    assert!(!host.path("c").exists(), "directories made for it are gone");
    assert_eq!(fs::read_to_string(host.path("scratch/upper/new")).unwrap(), "kept");
    remove(&host, "c/rootfs").unwrap();
    remove(&host, "never/combined").unwrap();
}

#[test]
fn privileged_without_a_scratch_the_root_is_read_only_and_one_layer_is_enough() {
    let host = host();
    for layers in [&["a", "b"][..], &["a"]] {
        add(&host, &combined(&host, "root", layers, "")).unwrap();
        let root = host.seen(&host.path("root"));
        assert_eq!(fs::read_to_string(root.join("both")).unwrap(), "a");
        assert!(fs::write(root.join("new"), "").is_err());
        remove(&host, "root").unwrap();
    }
}

#[test]
fn privileged_a_second_combination_on_a_root_is_refused_and_loses_nothing() {
    let host = host();
    let request = combined(&host, "root", &["a", "b"], "scratch");
    add(&host, &request).unwrap();
    fs::write(host.seen(&host.path("root/user")), "the user's").unwrap();
    let error = add(&host, &request).unwrap_err();
    assert_eq!(error.result(), Some(ResultCode::FAIL));
    assert!(error.to_string().contains("something is there already"), "{error}");
    remove(&host, "root").unwrap();
    assert_eq!(fs::read_to_string(host.path("scratch/upper/user")).unwrap(), "the user's");
    assert!(!host.path("root").exists());
}

#[test]
fn privileged_a_root_in_use_stays_whole_and_can_be_removed_later() {
    let host = host();
    add(&host, &combined(&host, "root", &["a", "b"], "scratch")).unwrap();
    let seen = host.seen(&host.path("root"));
    fs::write(seen.join("user"), "the user's").unwrap();
    let open = fs::File::open(seen.join("user")).unwrap();
    let error = remove(&host, "root").unwrap_err();
    assert_eq!(error.result(), Some(ResultCode::FAIL));
    assert!(error.to_string().contains("busy"), "{error}");
    assert_eq!(fs::read_to_string(seen.join("user")).unwrap(), "the user's");
    drop(open);
    remove(&host, "root").unwrap();
    assert_eq!(host.mounts_below(host.directory.path()), 0);
}

#[test]
fn privileged_what_cannot_be_combined_leaves_nothing() {
    let host = host();
    fs::write(host.path("file"), "").unwrap();
    let before = names(&host);
    let root = || host.text("root");
    let bad = [
        combined(&host, "root", &[], "scratch"),
        combined(&host, "root", &["a", "missing"], "scratch"),
        combined(&host, "root", &["a", "file"], "scratch"),
        combined(&host, "root", &["a"], "file/scratch"),
        combined(&host, "file", &["a"], "scratch"),
        CombinedLayers {
            container_root_path: "relative".to_owned(),
            ..combined(&host, "root", &["a"], "s")
        },
        CombinedLayers {
            container_root_path: "/".to_owned(),
            ..combined(&host, "root", &["a"], "s")
        },
        CombinedLayers {
            scratch_path: format!("{}/../s", root()),
            ..combined(&host, "root", &["a"], "s")
        },
        // An upper directory within a lower one that is also the work directory's file system's: refused by overlayfs.
        CombinedLayers { scratch_path: "/proc".to_owned(), ..combined(&host, "root", &["a"], "s") },
    ];
    for request in bad {
        let error = add(&host, &request).unwrap_err();
        assert_eq!(error.result(), Some(ResultCode::FAIL), "{request:?}");
        assert_eq!(names(&host), before, "{request:?} left something");
        assert_eq!(host.mounts_below(host.directory.path()), 0);
    }
    let update = GuestRequest {
        request_type: RequestType::Update,
        resource: Resource::CombinedLayers(combined(&host, "root", &["a"], "")),
    };
    assert_eq!(host.code(&ModifySettings::of_vm(update)), ResultCode::FAIL);
}

fn names(host: &Host) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(host.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn privileged_three_hundred_layers_and_a_colon_in_a_name() {
    let host = host();
    let long = "n".repeat(100);
    let layers: Vec<String> = (0..300).map(|number| format!("{number}:{long}")).collect();
    for layer in &layers {
        fs::create_dir(host.path(layer)).unwrap();
        fs::write(host.path(layer).join(layer.split(':').next().unwrap()), "").unwrap();
    }
    let names: Vec<&str> = layers.iter().map(String::as_str).collect();
    add(&host, &combined(&host, "root", &names, "scratch")).unwrap();
    assert_eq!(fs::read_dir(host.seen(&host.path("root"))).unwrap().count(), 300);
    remove(&host, "root").unwrap();
    let too_many: Vec<&str> = std::iter::repeat_n("a", 501).collect();
    let error = add(&host, &combined(&host, "root", &too_many, "")).unwrap_err();
    assert!(error.to_string().contains("merging layers helps"), "{error}");
}
