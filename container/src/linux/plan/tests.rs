use serde_json::{Value, json};

use super::*;
use crate::read_spec;

fn plan_of(mounts: Value) -> Result<Vec<Plan>> {
    let spec = json!({ "ociVersion": "1.0.2", "mounts": mounts });
    plan(&read_spec(spec.to_string().as_bytes()).unwrap())
}

fn one(kind: &str, source: &str, destination: &str, options: &[&str]) -> Result<Plan> {
    let mount =
        json!({ "type": kind, "source": source, "destination": destination, "options": options });
    plan_of(json!([mount])).map(|mut plans| plans.remove(0))
}

#[test]
fn types_that_are_left_alone() {
    let mounts = json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "", "type": "tmpfs" },
        { "destination": "/x", "source": "/absent" },
        { "destination": "/x", "type": "Bind", "source": "/absent" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro"] }
    ]);
    assert_eq!(plan_of(mounts).unwrap(), []);
    assert_eq!(plan_of(Value::Null).unwrap(), []);
}

#[test]
fn both_a_source_and_a_destination() {
    for kind in [
        "bind",
        "physical-disk",
        "virtual-disk",
        "automanage-virtual-disk",
        "extensible-virtual-disk",
    ] {
        for mount in [
            json!({ "destination": "/x", "type": kind }),
            json!({ "destination": "/x", "type": kind, "source": "" }),
            json!({ "destination": "", "type": kind, "source": "/" }),
        ] {
            let error =
                plan_of(json!([{ "destination": "/p", "type": "proc" }, mount])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(
                text.contains("mount 1") && text.contains("both a source and a destination"),
                "{text}"
            );
        }
    }
}

#[test]
fn read_only_in_any_case() {
    let host = std::env::temp_dir();
    for (options, read_only) in [
        (vec!["ro"], true),
        (vec!["rbind", "Ro"], true),
        (vec!["RO", "rw"], true),
        (vec!["rw"], false),
        (vec!["ro=1", " ro", "rro"], false),
        (vec![], false),
    ] {
        let plan = one("bind", host.to_str().unwrap(), "/x", &options).unwrap();
        assert_eq!(plan.read_only, read_only, "{options:?}");
    }
}

#[test]
fn what_the_guest_finds_by_itself() {
    for source in [
        "sandbox:///a/b",
        "sandbox-tmp:///a",
        "uvm:///run/x",
        "hugepages://2M/a",
        "hugepages://2M/a/b",
        "sandbox://../x",
    ] {
        assert_eq!(one("bind", source, "/x", &[]).unwrap().source, Source::Guest, "{source}");
    }
    for source in
        ["hugepages://", "hugepages://2M", "hugepages://2M/", "hugepages://1G/a", "hugepages:///a"]
    {
        let error = one("bind", source, "/x", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{source}");
        assert!(error.to_string().contains("hugepages://"), "{error}");
    }
    // The prefixes are words of bind mounts; to a disk they are a file's name.
    assert!(one("virtual-disk", "uvm:///run/x", "/x", &[]).is_err());
}

#[test]
#[cfg(target_os = "linux")]
fn files_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(real.join("-o ro"), "").unwrap();
    std::fs::create_dir(real.join("d")).unwrap();
    std::os::unix::fs::symlink("-o ro", real.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", real.join("dangling")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, real.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
    let file = Source::File { directory: real.clone(), name: "-o ro".into() };
    assert_eq!(one("bind", &text("-o ro"), "/x", &[]).unwrap().source, file);
    assert_eq!(one("bind", &text("link"), "/x", &[]).unwrap().source, file, "links lead to it");
    assert_eq!(
        one("bind", &text("d"), "/x", &[]).unwrap().source,
        Source::Directory(real.join("d"))
    );
    for (source, kind) in [
        (text("absent"), ErrorKind::NotFound),
        (text("dangling"), ErrorKind::NotFound),
        (text("-o ro/x"), ErrorKind::NotFound),
        (text("fifo"), ErrorKind::NotSupported),
        ("/dev/null".into(), ErrorKind::NotSupported),
        ("relative".into(), ErrorKind::Invalid),
        ("-v".into(), ErrorKind::Invalid),
    ] {
        let error = one("bind", &source, "/x", &[]).unwrap_err();
        assert_eq!(error.kind(), kind, "{source}");
        assert!(error.to_string().contains("bind mount target"), "{error}");
    }
}

#[test]
fn disks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("disk.vhdx");
    std::fs::write(&path, "x").unwrap();
    let text = path.to_str().unwrap();
    let disk = |way, delete, read_only| Source::Disk {
        disk: ScsiDisk { path: path.clone(), read_only, kind: ScsiKind::VirtualDisk },
        way,
        delete,
    };
    let plan = one("virtual-disk", text, "/data", &["rbind", "ro", "noexec"]).unwrap();
    assert_eq!(plan.source, disk(Way::Mounted, false, true));
    assert_eq!(plan.options, ["rbind", "ro", "noexec"], "all of them");
    let plan = one("automanage-virtual-disk", text, "/data", &[]).unwrap();
    assert_eq!(plan.source, disk(Way::Mounted, true, false));
    let plan = one("virtual-disk", text, "blockdev:///dev/x", &[]).unwrap();
    assert_eq!(plan.source, disk(Way::BlockDevice, false, false));
    let plan = one("extensible-virtual-disk", "evd://azure/a/b", "/data", &[]).unwrap();
    let Source::Disk { disk, .. } = plan.source else { panic!("a disk") };
    assert_eq!((disk.path, disk.kind), ("a/b".into(), ScsiKind::Extensible("azure".into())));
    let absent = format!("{text}.absent");
    let directory = dir.path().to_str().unwrap();
    for (kind, source, destination, expected) in [
        ("physical-disk", text, "/data", ErrorKind::Invalid),
        ("physical-disk", &absent, "/data", ErrorKind::NotFound),
        ("virtual-disk", "/dev/null", "/data", ErrorKind::Invalid),
        ("virtual-disk", directory, "/data", ErrorKind::Invalid),
        ("virtual-disk", "disk", "/data", ErrorKind::Invalid),
        ("extensible-virtual-disk", text, "/data", ErrorKind::Invalid),
        ("extensible-virtual-disk", "evd:///a", "/data", ErrorKind::Invalid),
        ("extensible-virtual-disk", "evd://a", "/data", ErrorKind::Invalid),
        ("extensible-virtual-disk", "evd://a/", "/data", ErrorKind::Invalid),
        ("bind", text, "blockdev:///dev/x", ErrorKind::Invalid),
    ] {
        assert_eq!(
            one(kind, source, destination, &[]).unwrap_err().kind(),
            expected,
            "{kind} {source}"
        );
    }
}

#[test]
fn assigned_devices_are_refused() {
    let spec =
        json!({ "ociVersion": "1", "windows": { "devices": [{ "id": "x", "idType": "vpci" }] } });
    let spec = read_spec(spec.to_string().as_bytes()).unwrap();
    assert_eq!(plan(&spec).unwrap_err().kind(), ErrorKind::NotSupported);
}
