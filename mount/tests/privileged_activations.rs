//! Activations on the real kernel: what containerd's mount manager does, and what it gets wrong.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use mount::{ActivateOptions, ErrorKind, Mount, MountForm, Registry, ScratchDirs, describe_erofs};
use store::{Labels, Layer, ScratchPaths};
use support::{
    Bench, Squatter, chain, eventually, everybody_lives, loops_below, mounted_below, names_in, user,
};

fn mount(r#type: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    Mount {
        r#type: r#type.to_owned(),
        source: source.as_ref().to_owned(),
        target: PathBuf::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Performs system mounts as a shim does.
fn perform(mount: &Mount, target: &Path) {
    match mount.r#type.as_str() {
        "bind" => {
            let copy = sys::DetachedMount::copy_of(&mount.source, true).unwrap();
            if mount.options.iter().any(|option| option == "ro") {
                let read_only =
                    sys::MountAttributes { read_only: true, ..sys::MountAttributes::default() };
                copy.add_attributes(read_only).unwrap();
            }
            copy.attach(target).unwrap();
        }
        sort => {
            let data = mount.options.join(",");
            sys::mount_with_options(&mount.source, target, sort, false, data.as_ref()).unwrap();
        }
    }
}

fn dirs(scratch: &ScratchPaths) -> ScratchDirs {
    match scratch {
        ScratchPaths::Directory { upper, work } => {
            ScratchDirs { upper: upper.clone(), work: work.clone() }
        }
        ScratchPaths::Image { .. } => panic!("no directories"),
    }
}

fn assert_nothing_left(bench: &Bench, registry: &Registry) {
    assert_eq!(mounted_below(bench.path()), Vec::<PathBuf>::new());
    assert_eq!(names_in(&registry.run_dir().join("t")), Vec::<String>::new());
    assert_eq!(names_in(&registry.run_dir().join("v")), Vec::<String>::new());
    assert!(registry.volumes().unwrap().is_empty());
    assert!(registry.activations().unwrap().is_empty());
    assert!(registry.reconcile(&everybody_lives).unwrap().is_clean());
    eventually("loop devices free themselves", || loops_below(bench.path()).is_empty());
}

privileged! {
    fn privileged_layers_of_the_store_are_shared_volumes() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let layers = bench.layers(3);
        let scratch = bench.scratch("snap");
        let active = chain("active", Some(scratch.clone()), layers.clone());
        let mounts = describe_erofs(&active, Some(&dirs(&scratch)), &MountForm::default()).unwrap();
        let layer_of = |path: &Path| -> Option<Layer> {
            layers.iter().find(|layer| layer.path == path).cloned()
        };
        let labels = Labels::from([("containerd.io/gc.bref.container".to_owned(), "c".to_owned())]);
        let options = ActivateOptions {
            labels: labels.clone(),
            layer_of: &layer_of,
            ..ActivateOptions::default()
        };
        let held = registry.hold(&layers, &user("other")).unwrap();
        let activation = registry.activate("default/c", &mounts, &options).unwrap();
        assert_eq!(activation.labels, labels);
        let points: Vec<_> = activation.active.iter().map(|active| active.mount_point.clone()).collect();
        assert_eq!(points, held, "no mount of its own");
        assert_eq!(activation.system.len(), 1);
        assert_eq!(activation.system[0].r#type, "overlay");
        perform(&activation.system[0], &target);
        assert_eq!(read(target.join("top")), "2");
        fs::write(target.join("new"), "x").unwrap();
        assert_eq!(registry.activation("default/c").unwrap(), activation);
        assert_eq!(registry.activations().unwrap(), std::slice::from_ref(&activation));
        let again = registry.activate("default/c", &mounts, &options).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        // The other one leaves, the activation keeps the volumes.
        assert!(registry.release(&user("other")).unwrap().is_empty());
        assert!(registry.reconcile(&everybody_lives).unwrap().is_clean());
        sys::unmount(&target).unwrap();
        registry.deactivate("default/c").unwrap();
        let error = registry.deactivate("default/c").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(registry.activation("default/c").unwrap_err().kind(), ErrorKind::NotFound);
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_foreign_images_are_mounted_for_the_activation() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let layers = bench.layers(2);
        let erofs = |layer: &Layer| mount("erofs", &layer.path, &["ro", "loop"]);
        let overlay = mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 1 }}"]);
        let mounts = [erofs(&layers[0]), erofs(&layers[1]), overlay];
        let options = ActivateOptions::default();
        let activation = registry.activate("a", &mounts, &options).unwrap();
        assert_eq!(activation.active.len(), 2);
        let directory = activation.active[0].mount_point.parent().unwrap();
        assert_eq!(directory.parent().unwrap(), registry.run_dir().join("t"));
        perform(&activation.system[0], &target);
        assert_eq!(read(target.join("top")), "1");
        sys::unmount(&target).unwrap();
        // Everything, with the last one transformed: what makes containerd panic.
        let temporary = ActivateOptions { temporary: true, ..ActivateOptions::default() };
        let whole = registry.activate("b", &mounts, &temporary).unwrap();
        assert_eq!((whole.active.len(), whole.system.len()), (3, 1));
        assert_eq!(whole.system[0].r#type, "bind");
        perform(&whole.system[0], &target);
        assert_eq!(read(target.join("top")), "1");
        assert_eq!(read(target.join("layer-0")), "0");
        sys::unmount(&target).unwrap();
        // One image alone has no system mount, but a bind mount if temporary.
        let one = registry.activate("c", &mounts[..1], &options).unwrap();
        assert!(one.system.is_empty());
        assert_eq!(read(one.active[0].mount_point.join("top")), "1");
        let one = registry.activate("d", &mounts[..1], &temporary).unwrap();
        assert_eq!(one.system.len(), 1);
        // A plain list is nobody's business, unless temporary.
        let bind = mount("bind", bench.directory("dir"), &["rbind", "ro"]);
        let error = registry.activate("e", std::slice::from_ref(&bind), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSupported);
        let bound = registry.activate("e", &[bind], &temporary).unwrap();
        assert!(fs::write(bound.active[0].mount_point.join("x"), "x").is_err(), "read-only");
        for name in ["a", "b", "c", "d", "e"] {
            registry.deactivate(name).unwrap();
        }
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_128_layers_fit_one_activation() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let view = chain("view", None, bench.layers(128));
        let mounts = describe_erofs(&view, None, &MountForm::default()).unwrap();
        let temporary = ActivateOptions { temporary: true, ..ActivateOptions::default() };
        let activation = registry.activate("many", &mounts, &temporary).unwrap();
        perform(&activation.system[0], &target);
        assert_eq!((read(target.join("top")), read(target.join("layer-0"))), ("127".into(), "0".into()));
        sys::unmount(&target).unwrap();
        registry.deactivate("many").unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_a_disk_is_made_once_and_directories_in_it() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let layers = bench.layers(1);
        let snapshots = bench.directory("root/snapshots/1");
        let disk = snapshots.join("rwlayer.img");
        let roots = [bench.path().join("root")];
        let options = ActivateOptions { roots: &roots, ..ActivateOptions::default() };
        let size = "X-containerd.mkfs.size=8MiB";
        let uuid = "X-containerd.mkfs.uuid=01234567-89ab-cdef-0123-456789abcdef";
        let mkfs = |access: &str| mount("mkfs/ext4", &disk, &["X-containerd.mkfs.fs=ext4", size, uuid, access, "loop"]);
        let active = [
            mkfs("rw"),
            mount("erofs", &layers[0].path, &["ro", "loop"]),
            mount("format/mkdir/overlay", "overlay", &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 0 }}/work:0711:5:6",
                "workdir={{ mount 0 }}/work",
                "upperdir={{ mount 0 }}/upper",
                "lowerdir={{ mount 1 }}",
            ]),
        ];
        for round in 0..2 {
            let activation = registry.activate("c", &active, &options).unwrap();
            let inside = &activation.active[0].mount_point;
            assert_eq!(fs::metadata(inside.join("upper")).unwrap().permissions().mode() & 0o777, 0o755);
            let work = fs::metadata(inside.join("work")).unwrap();
            assert_eq!((work.uid(), work.gid(), work.mode() & 0o777), (5, 6, 0o711));
            perform(&activation.system[0], &target);
            assert_eq!(target.join("written").exists(), round == 1, "kept on the disk");
            fs::write(target.join("written"), "x").unwrap();
            sys::unmount(&target).unwrap();
            registry.deactivate("c").unwrap();
        }
        // A view of it: made, filled and read although described as read-only.
        fs::remove_file(&disk).unwrap();
        let view = [mkfs("ro"), mount("format/mkdir/bind", "{{ mount 0 }}/upper", &[
            "X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "ro", "rbind",
        ])];
        let activation = registry.activate("v", &view, &options).unwrap();
        perform(&activation.system[0], &target);
        assert!(names_in(&target).is_empty());
        assert!(fs::write(target.join("x"), "x").is_err());
        assert!(fs::write(activation.active[0].mount_point.join("x"), "x").is_err());
        sys::unmount(&target).unwrap();
        registry.deactivate("v").unwrap();
        // Elsewhere nothing is made, also not next door or through a link.
        bench.directory("root-other");
        symlink(bench.directory("elsewhere"), bench.path().join("root/link")).unwrap();
        for (place, kind) in [("root-other", ErrorKind::NotSupported), ("elsewhere", ErrorKind::NotSupported), ("root/link", ErrorKind::Io)] {
            let disk = bench.path().join(place).join("disk");
            let mounts = [mount("mkfs/ext4", &disk, &[size, "loop"])];
            let error = registry.activate("x", &mounts, &options).unwrap_err();
            assert_eq!(error.kind(), kind, "{place}: {error:?}");
            let mkdir = format!("X-containerd.mkdir.path={}", disk.display());
            let mounts = [mount("mkdir/bind", "/", &[&mkdir, "rbind"])];
            let error = registry.activate("x", &mounts, &options).unwrap_err();
            assert_eq!(error.kind(), kind, "{place}: {error:?}");
            assert!(names_in(disk.parent().unwrap()).is_empty());
        }
        // Another directory than the wanted one is left alone.
        let present = bench.directory("root/present");
        let mkdir = format!("X-containerd.mkdir.path={}:0123", present.display());
        let error = registry.activate("x", &[mount("mkdir/bind", "/", &[&mkdir, "rbind"])], &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSupported);
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_loop_devices_stay_until_deactivated() {
        let bench = Bench::new();
        let registry = bench.registry();
        let file = bench.path().join("disk");
        fs::write(&file, vec![7; 1 << 20]).unwrap();
        let mounts = [mount("loop", &file, &["ro"]), mount("format/ext4", "{{ mount 0 }}", &["ro"])];
        let activation = registry.activate("l", &mounts, &ActivateOptions::default()).unwrap();
        let device = fs::read_link(&activation.active[0].mount_point).unwrap();
        assert_eq!(fs::read(&device).unwrap().len(), 1 << 20);
        assert_eq!(activation.system[0].source, activation.active[0].mount_point);
        let attached = loops_below(bench.path());
        assert_eq!((attached.len(), attached[0].autoclear), (1, false));
        // Also for a registry that is opened anew.
        bench.registry().deactivate("l").unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_a_failed_activation_leaves_nothing() {
        let bench = Bench::new();
        let registry = bench.registry();
        let layers = bench.layers(2);
        let broken = bench.path().join("broken");
        fs::write(&broken, "no image").unwrap();
        let erofs = |path: &Path| mount("erofs", path, &["ro", "loop"]);
        let layer_of = |path: &Path| layers.iter().find(|layer| layer.path == path).cloned();
        let options = ActivateOptions { layer_of: &layer_of, temporary: true, ..ActivateOptions::default() };
        let foreign = bench.path().join("copy");
        fs::copy(&layers[1].path, &foreign).unwrap();
        let ends = [
            (erofs(&broken), ErrorKind::Corrupt),
            (erofs(&bench.path().join("missing")), ErrorKind::NotFound),
            (mount("nosuchfs", "/x", &[]), ErrorKind::NotSupported),
            (mount("overlay", "overlay", &["lowerdir=/missing"]), ErrorKind::NotFound),
            (mount("tmpfs", "tmpfs", &["size=odd"]), ErrorKind::Io),
            (mount("format/bind", "{{ mount 2 }}", &["rbind"]), ErrorKind::Invalid),
            (mount("bind", &broken, &["rbind"]), ErrorKind::Io),
        ];
        for (end, kind) in ends {
            let mounts = [erofs(&layers[0].path), erofs(&foreign), end.clone()];
            let error = registry.activate("x", &mounts, &options).unwrap_err();
            assert_eq!(error.kind(), kind, "{end:?}: {error:?}");
            assert_nothing_left(&bench, &registry);
        }
        for name in ["", &"x".repeat(5000)] {
            let error = registry.activate(name, &[erofs(&foreign)], &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    fn privileged_what_is_in_use_stays_and_deactivating_goes_on() {
        let bench = Bench::new();
        let registry = bench.registry();
        let layers = bench.layers(2);
        let mounts: Vec<Mount> =
            layers.iter().map(|layer| mount("erofs", &layer.path, &["ro"])).collect();
        let activation = registry.activate("busy", &mounts, &ActivateOptions::default()).unwrap();
        let squatter = Squatter::in_directory(&activation.active[0].mount_point);
        assert_eq!(registry.deactivate("busy").unwrap_err().kind(), ErrorKind::Busy);
        let gone = |holder: &mount::Holder| holder.kind != mount::HolderKind::Activation;
        let report = registry.reconcile(&gone).unwrap();
        assert_eq!(report.kept_busy, ["activation busy"]);
        assert_eq!(registry.activations().unwrap().len(), 1);
        drop(squatter);
        registry.deactivate("busy").unwrap();
        assert_nothing_left(&bench, &registry);
        // Taken apart by somebody, and wanted by nobody.
        let activation = registry.activate("apart", &mounts, &ActivateOptions::default()).unwrap();
        sys::unmount(&activation.active[1].mount_point).unwrap();
        let report = registry.reconcile(&everybody_lives).unwrap();
        assert_eq!(report.forgotten, ["activation apart"]);
        registry.activate("unwanted", &mounts, &ActivateOptions::default()).unwrap();
        assert_eq!(registry.reconcile(&gone).unwrap().undone, ["activation unwanted"]);
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_activations_of_a_lost_journal_are_found() {
        let bench = Bench::new();
        let registry = bench.registry();
        let file = bench.path().join("disk");
        fs::write(&file, vec![7; 1 << 20]).unwrap();
        let layer = bench.layer("one", &[]);
        let mounts = [mount("erofs", &layer.path, &["ro"]), mount("loop", &file, &[])];
        registry.activate("lost", &mounts, &ActivateOptions::default()).unwrap();
        fs::remove_file(registry.run_dir().join("mounts.journal")).unwrap();
        let registry = bench.registry();
        assert!(registry.activations().unwrap().is_empty());
        let report = registry.reconcile(&everybody_lives).unwrap();
        assert_eq!(report.undone.len(), 2, "{report:?}");
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_unmounting_a_bound_tree_leaves_the_original() {
        let bench = Bench::new();
        let registry = bench.registry();
        let tree = bench.directory("tree");
        let inner = bench.directory("tree/inner");
        sys::mount_with_options(Path::new("t"), &inner, "tmpfs", false, "".as_ref()).unwrap();
        // As on a host with systemd: what happens in a copy of a shared mount happens in the original too.
        let status = std::process::Command::new("mount").args(["--make-rshared", "/"]).status().unwrap();
        assert!(status.success());
        let temporary = ActivateOptions { temporary: true, ..ActivateOptions::default() };
        let mounts = [mount("bind", &tree, &["rbind"])];
        let activation = registry.activate("tree", &mounts, &temporary).unwrap();
        assert_eq!(mounted_below(&activation.active[0].mount_point).len(), 2);
        registry.deactivate("tree").unwrap();
        assert_eq!(mounted_below(&tree), std::slice::from_ref(&inner));
        sys::unmount(&inner).unwrap();
        assert_nothing_left(&bench, &registry);
    }
}
