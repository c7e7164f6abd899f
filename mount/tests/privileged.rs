//! Mounts on the real kernel, each test in a private mount namespace.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount::{Backing, ErrorKind, MAX_LAYERS, MountOptions, Registry, TargetKind, mount_image};
use store::ScratchPaths;
use support::{
    Bench, Squatter, add, chain, container, eventually, everybody_lives, layer_at, loops_below,
    mounted_below, names_in, user,
};

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn plain() -> MountOptions {
    MountOptions::default()
}

/// Nothing of the registry is left, and the journal agrees with the kernel.
fn assert_nothing_left(bench: &Bench, registry: &Registry) {
    assert_eq!(mounted_below(bench.path()), Vec::<PathBuf>::new());
    assert_eq!(names_in(&registry.run_dir().join("v")), Vec::<String>::new());
    assert_eq!(names_in(&registry.run_dir().join("s")), Vec::<String>::new());
    assert!(registry.volumes().unwrap().is_empty());
    assert!(registry.mounts().unwrap().is_empty());
    assert!(registry.reconcile(&everybody_lives).unwrap().is_clean());
    eventually("loop devices free themselves", || loops_below(bench.path()).is_empty());
}

privileged! {
    fn privileged_an_active_chain_is_an_overlay() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let chain = chain("active", Some(bench.scratch("snap")), bench.layers(3));
        registry.mount_chain(&chain, &target, &container("c"), &plain()).unwrap();
        assert_eq!(read(target.join("top")), "2");
        assert_eq!(read(target.join("layer-0")), "0");
        fs::write(target.join("new"), "written").unwrap();
        fs::remove_file(target.join("layer-1")).unwrap();
        assert_eq!(read(bench.path().join("snap/fs/new")), "written");
        // A whiteout, and nothing that needs another layer to be understood.
        assert_eq!(fs::symlink_metadata(bench.path().join("snap/fs/layer-1")).unwrap().rdev(), 0);
        let mounts = registry.mounts().unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!((mounts[0].kind, mounts[0].read_only), (TargetKind::Overlay, false));
        assert_eq!((mounts[0].what.as_str(), mounts[0].volumes.len()), ("active", 3));
        let volumes = registry.volumes().unwrap();
        assert!(volumes.iter().all(|volume| volume.holders == [container("c")]));
        let again = registry.mount_chain(&chain, &target, &container("c"), &plain()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let other = bench.directory("other");
        let busy = registry.mount_chain(&chain, &other, &container("d"), &plain()).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "one upper directory in two overlays");
        assert!(registry.unmount(&target).unwrap());
        assert!(!registry.unmount(&target).unwrap(), "twice does no harm");
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_views_and_single_layers_are_binds() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let refused = |name: &str| {
            let error = fs::write(target.join(name), "x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        };
        // One layer.
        let one = chain("one", None, bench.layers(1));
        registry.mount_chain(&one, &target, &user("u"), &plain()).unwrap();
        assert_eq!(read(target.join("top")), "0");
        refused("top");
        assert_eq!(registry.mounts().unwrap()[0].kind, TargetKind::Bind);
        registry.unmount(&target).unwrap();
        // Several.
        let two = chain("two", None, bench.layers(2));
        registry.mount_chain(&two, &target, &user("u"), &plain()).unwrap();
        assert_eq!(read(target.join("top")), "1");
        refused("new");
        registry.unmount(&target).unwrap();
        // An active snapshot without layers, then read-only.
        let mut none = chain("none", Some(bench.scratch("snap")), Vec::new());
        registry.mount_chain(&none, &target, &user("u"), &plain()).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        assert_eq!(read(bench.path().join("snap/fs/file")), "x");
        registry.unmount(&target).unwrap();
        let read_only = MountOptions { read_only: true };
        registry.mount_chain(&none, &target, &user("u"), &read_only).unwrap();
        refused("new");
        fs::write(bench.path().join("snap/fs/beside"), "x").expect("only the mount is read-only");
        registry.unmount(&target).unwrap();
        // An active snapshot with layers, read-only.
        none.layers = bench.layers(1);
        registry.mount_chain(&none, &target, &user("u"), &read_only).unwrap();
        refused("new");
        assert!(registry.mounts().unwrap()[0].read_only);
        registry.unmount(&target).unwrap();
        // A view of nothing.
        let mut empty = chain("empty", None, Vec::new());
        empty.empty = Some(bench.directory("empty"));
        registry.mount_chain(&empty, &target, &user("u"), &plain()).unwrap();
        refused("new");
        registry.unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_500_layers_mount_and_501_are_refused() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let mut many = chain("many", Some(bench.scratch("snap")), bench.layers(MAX_LAYERS + 1));
        let error = registry.mount_chain(&many, &target, &user("u"), &plain()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooManyLayers);
        assert!(error.to_string().contains("merge"), "{error}");
        assert_nothing_left(&bench, &registry);
        assert!(!registry.run_dir().join("v").exists(), "refused before anything was done");
        many.layers.pop();
        registry.mount_chain(&many, &target, &user("u"), &plain()).unwrap();
        assert_eq!(read(target.join("top")), "500");
        assert_eq!(read(target.join("layer-1")), "1");
        fs::write(target.join("new"), "x").unwrap();
        assert_eq!(registry.volumes().unwrap().len(), MAX_LAYERS);
        registry.unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_128_layers_are_ready_in_time() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let many = chain("many", Some(bench.scratch("snap")), bench.layers(128));
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = std::time::Instant::now();
            registry.mount_chain(&many, &target, &user("u"), &plain()).unwrap();
            let cold = start.elapsed();
            assert_eq!(read(target.join("layer-0")), "0");
            registry.hold(&many.layers, &user("keeper")).unwrap();
            registry.unmount(&target).unwrap();
            let start = std::time::Instant::now();
            registry.mount_chain(&many, &target, &user("u"), &plain()).unwrap();
            let warm = start.elapsed();
            registry.unmount(&target).unwrap();
            registry.release(&user("keeper")).unwrap();
            times.push((cold, warm));
        }
        let best = |times: Vec<Duration>| times.into_iter().min().unwrap();
        let cold = best(times.iter().map(|times| times.0).collect());
        let warm = best(times.iter().map(|times| times.1).collect());
        println!("128 layers: {cold:?} cold, {warm:?} warm (debug build)");
        // The bars are 100 ms and 5 ms in a release build on a quiet machine; this one is neither.
        assert!(cold < Duration::from_millis(500) && warm < Duration::from_millis(50), "{times:?}");
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_paths_may_hold_anything() {
        let bench = Bench::new();
        let names: [&[u8]; 8] =
            [b"a:b", b"c,d", b"e f", b"g\\h", b"i\\:j", b"k\nl", b"m\tn#", b"\xff\xfe"];
        for name in names {
            let home = bench.directory(std::ffi::OsStr::from_bytes(name));
            let registry = Registry::open(&home.join("run"), Duration::from_secs(20)).unwrap();
            let layers = vec![
                layer_at(&home.join("2.erofs"), "l2", &[("top", b"2")]),
                layer_at(&home.join("1.erofs"), "l1", &[("top", b"1"), ("low", b"1")]),
            ];
            let [upper, work, target] = ["fs", "work", "rootfs"].map(|name| home.join(name));
            for directory in [&upper, &work, &target] {
                fs::create_dir(directory).unwrap();
            }
            let scratch = ScratchPaths::Directory { upper: upper.clone(), work };
            let chain = chain("strange", Some(scratch), layers);
            for backing in [Backing::Auto, Backing::Loop] {
                let registry = Registry::open(registry.run_dir(), Duration::from_secs(20)).unwrap();
                let registry = registry.with_backing(backing);
                registry.mount_chain(&chain, &target, &user("u"), &plain()).unwrap();
                assert_eq!(read(target.join("low")), "1");
                fs::write(target.join("new"), "x").unwrap();
                assert_eq!(read(upper.join("new")), "x");
                assert_eq!(registry.mounts().unwrap()[0].target, target);
                assert!(registry.unmount(&target).unwrap());
            }
            assert_nothing_left(&bench, &registry);
        }
    }

    fn privileged_paths_may_be_long() {
        let bench = Bench::new();
        let home = bench.directory(PathBuf::from("x".repeat(200)).join("y".repeat(200)));
        let registry = Registry::open(&home.join("run"), Duration::from_secs(20)).unwrap();
        let layers = vec![
            layer_at(&home.join("2.erofs"), "l2", &[("top", b"2")]),
            layer_at(&home.join("1.erofs"), "l1", &[("top", b"1")]),
        ];
        let [upper, work, target] = ["fs", "work", "rootfs"].map(|name| home.join(name));
        for directory in [&upper, &work, &target] {
            fs::create_dir(directory).unwrap();
        }
        let chain = chain("long", Some(ScratchPaths::Directory { upper, work }), layers);
        registry.mount_chain(&chain, &target, &user("u"), &plain()).unwrap();
        assert_eq!(read(target.join("top")), "2");
        registry.unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_the_old_way_of_overlays_works() {
        let bench = Bench::new();
        let registry = bench.registry().with_old_overlay();
        let target = bench.directory("root:fs");
        let many = chain("many", Some(bench.scratch("sn,a:p")), bench.layers(150));
        registry.mount_chain(&many, &target, &user("u"), &plain()).unwrap();
        assert_eq!(read(target.join("layer-0")), "0");
        fs::write(target.join("new"), "x").unwrap();
        assert_eq!(read(bench.path().join("sn,a:p/fs/new")), "x");
        registry.unmount(&target).unwrap();
        let view = chain("view", None, bench.layers(2));
        registry.mount_chain(&view, &target, &user("u"), &plain()).unwrap();
        assert!(fs::write(target.join("new"), "x").is_err());
        registry.unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_a_second_container_costs_no_volume_and_no_page_cache() {
        let bench = Bench::new();
        let registry = bench.registry();
        let big = vec![0x5a; 8 << 20];
        let layers = vec![bench.layer("top", &[("t", b"t")]), bench.layer("big", &[("big", &big)])];
        let image = fs::File::open(&layers[1].path).unwrap();
        // Writing the image left it in the page cache.
        image.sync_all().unwrap();
        rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let [one, two] = ["one", "two"].map(|name| bench.directory(name));
        let first = chain("1", Some(bench.scratch("s1")), layers.clone());
        registry.mount_chain(&first, &one, &container("one"), &plain()).unwrap();
        let residency = |target: &Path| {
            sys::page_residency(&fs::File::open(target.join("big")).unwrap()).unwrap()
        };
        assert_eq!(residency(&one).resident, 0);
        assert_eq!(fs::read(one.join("big")).unwrap(), big);
        assert_eq!(residency(&one).resident_bytes(), 8 << 20);
        let blob = sys::page_residency(&image).unwrap();
        assert!(blob.resident < 64, "the image is cached a second time: {blob:?}");
        let volumes = mounted_below(&registry.run_dir().join("v"));
        let second = chain("2", Some(bench.scratch("s2")), layers);
        registry.mount_chain(&second, &two, &container("two"), &plain()).unwrap();
        assert_eq!(mounted_below(&registry.run_dir().join("v")), volumes);
        assert_eq!(residency(&two).resident_bytes(), 8 << 20, "read by the first already");
        let holders = &registry.volumes().unwrap()[0].holders;
        assert_eq!(holders, &[container("one"), container("two")]);
        // The first one's end leaves the second alone.
        registry.unmount(&one).unwrap();
        assert_eq!(mounted_below(&registry.run_dir().join("v")), volumes);
        assert_eq!(residency(&two).resident_bytes(), 8 << 20);
        registry.unmount(&two).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_a_scratch_of_limited_size_runs_full_alone() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let path = bench.directory("snap").join("scratch.img");
        fs::write(&path, "").unwrap();
        let size = 16 << 20;
        let scratch = ScratchPaths::Image { path: path.clone(), size };
        let chain = chain("limited", Some(scratch), bench.layers(2));
        registry.mount_chain(&chain, &target, &container("c"), &plain()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 4 << 20, "the file is not sparse");
        assert_eq!(loops_below(bench.path()).len(), 1);
        fs::write(target.join("kept"), "kept").unwrap();
        let mut file = fs::File::create(target.join("fill")).unwrap();
        let block = vec![1; 1 << 20];
        let error = (0..64).find_map(|_| file.write_all(&block).err()).expect("64 MiB fit 16 MiB");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(read(target.join("top")), "1", "reading goes on");
        fs::write(bench.path().join("host"), vec![0; 1 << 20]).expect("the host is not full");
        drop(file);
        registry.unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
        // It is formatted once.
        registry.mount_chain(&chain, &target, &container("c"), &plain()).unwrap();
        assert_eq!(read(target.join("kept")), "kept");
        registry.unmount(&target).unwrap();
        // Held without a target, as for a commit.
        let dirs = registry.hold_scratch(&chain, &user("commit")).unwrap();
        assert_eq!(read(dirs.upper.join("kept")), "kept");
        assert!(registry.volumes().unwrap()[0].scratch);
        registry.release(&user("commit")).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_images_that_cannot_back_a_mount_get_a_loop_device() {
        let bench = Bench::new();
        let tmpfs = bench.directory("tmpfs");
        rustix::mount::mount("tmpfs", &tmpfs, "tmpfs", rustix::mount::MountFlags::empty(), None)
            .unwrap();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let on_tmpfs = layer_at(&tmpfs.join("1.erofs"), "tmpfs", &[("f", b"tmpfs")]);
        let layers = vec![bench.layer("disk", &[("g", b"disk")]), on_tmpfs];
        let view = chain("view", None, layers);
        registry.mount_chain(&view, &target, &user("u"), &plain()).unwrap();
        assert_eq!((read(target.join("f")), read(target.join("g"))), ("tmpfs".into(), "disk".into()));
        let volumes = registry.volumes().unwrap();
        let looped = volumes.iter().filter(|volume| volume.loop_device.is_some());
        assert_eq!(looped.count(), 1, "only the one that needs it: {volumes:?}");
        registry.unmount(&target).unwrap();
        eventually("loop devices free themselves", || loops_below(bench.path()).is_empty());
        sys::unmount(&tmpfs).unwrap();
        assert_nothing_left(&bench, &registry);
        let registry = bench.registry().with_backing(Backing::Loop);
        let view = chain("view", None, bench.layers(3));
        registry.mount_chain(&view, &target, &user("u"), &plain()).unwrap();
        assert_eq!(loops_below(bench.path()).len(), 3);
        assert_eq!(read(target.join("layer-0")), "0");
        registry.unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_a_file_that_is_not_the_layer_is_refused() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let mut layers = bench.layers(3);
        layers[1].record.uuid = [9; 16];
        let broken = chain("broken", Some(bench.scratch("snap")), layers.clone());
        let error = registry.mount_chain(&broken, &target, &user("u"), &plain()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_nothing_left(&bench, &registry);
        assert_eq!(registry.hold(&layers, &user("u")).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_nothing_left(&bench, &registry);
        for (bytes, kind) in [
            (&b"short"[..], ErrorKind::Corrupt),
            (&[0; 8192][..], ErrorKind::Corrupt),
        ] {
            fs::write(&layers[0].path, bytes).unwrap();
            let error = registry.hold(&layers, &user("u")).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        // A layer that is on record and has no file is a damaged store, not a wrong name.
        fs::remove_file(&layers[0].path).unwrap();
        assert_eq!(registry.hold(&layers, &user("u")).unwrap_err().kind(), ErrorKind::Corrupt);
        let missing = bench.path().join("missing");
        let error = registry.mount_chain(&broken, &missing, &user("u"), &plain()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_an_image_file_mounts_with_its_devices() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("dir");
        let blob = bench.path().join("blob");
        fs::write(&blob, vec![b'd'; 8192]).unwrap();
        let device = erofs::DeviceInfo { tag: b"blob".to_vec(), blocks: 2 };
        let options = erofs::WriterOptions { devices: vec![device], ..Default::default() };
        let mut tree = erofs::Tree::new();
        let start = erofs::BlockAddress { device: 1, block: 0 };
        add(&mut tree, "data", erofs::FileData::Extent { start, size: 8192 });
        let path = bench.path().join("index.erofs");
        let sink = erofs::SeekSink::new(fs::File::create(&path).unwrap());
        erofs::ImageWriter::new(sink, options).unwrap().finish(&tree, [3; 16]).unwrap();
        let without = registry.mount_image_file(&path, &[], &target, &user("u")).unwrap_err();
        assert_eq!(without.kind(), ErrorKind::Invalid);
        for backing in [Backing::Auto, Backing::Loop] {
            let registry = bench.registry().with_backing(backing);
            registry.mount_image_file(&path, std::slice::from_ref(&blob), &target, &user("u")).unwrap();
            assert_eq!(read(target.join("data")), "d".repeat(8192));
            assert_eq!(registry.mounts().unwrap()[0].kind, TargetKind::Image);
            registry.unmount(&target).unwrap();
        }
        assert_nothing_left(&bench, &registry);
        mount_image(&path, &[blob], &target, Backing::Auto).unwrap();
        assert!(!registry.unmount(&target).unwrap(), "not the registry's");
        sys::unmount(&target).unwrap();
    }

    fn privileged_described_mounts_can_be_performed_by_option_string() {
        let bench = Bench::new();
        let home = bench.directory("a:b,c\\d e");
        let registry = Registry::open(&home.join("run"), Duration::from_secs(20)).unwrap();
        let [upper, work, target] = ["fs", "work", "rootfs"].map(|name| home.join(name));
        for directory in [&upper, &work, &target] {
            fs::create_dir(directory).unwrap();
        }
        let scratch = ScratchPaths::Directory { upper: upper.clone(), work };
        let active = chain("active", Some(scratch), bench.layers(3));
        let holder = user("containerd");
        let volumes = registry.hold(&active.layers, &holder).unwrap();
        let dirs = registry.hold_scratch(&active, &holder).unwrap();
        let described = mount::describe(&active, &volumes, Some(&dirs), &mount::MountForm::default()).unwrap();
        let options = described[0].options.join(",");
        let kind = described[0].r#type.as_str();
        sys::mount_with_options(&described[0].source, &target, kind, false, options.as_ref()).unwrap();
        assert_eq!(read(target.join("layer-0")), "0");
        fs::write(target.join("new"), "x").unwrap();
        assert_eq!(read(upper.join("new")), "x");
        // Released too early: the mount goes on, and nothing of ours is in the way.
        registry.release(&holder).unwrap();
        assert_eq!(read(target.join("top")), "2");
        sys::unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_holding_counts() {
        let bench = Bench::new();
        let registry = bench.registry();
        let layers = bench.layers(3);
        let points = registry.hold(&layers, &user("a")).unwrap();
        assert_eq!(read(points[0].join("top")), "2");
        assert_eq!(read(points[2].join("top")), "0");
        assert_eq!(registry.hold(&layers[..2], &user("b")).unwrap(), &points[..2]);
        assert_eq!(registry.hold(&layers[..1], &user("a")).unwrap(), &points[..1]);
        assert_eq!(mounted_below(bench.path()).len(), 3);
        assert_eq!(registry.release(&user("a")).unwrap().len(), 1, "only the one that b does not hold");
        assert_eq!(registry.release(&user("a")).unwrap(), []);
        assert_eq!(registry.release(&user("b")).unwrap().len(), 2);
        assert_nothing_left(&bench, &registry);
        // Unmounted behind our back: mounted again.
        let points = registry.hold(&layers[..1], &user("a")).unwrap();
        sys::unmount(&points[0]).unwrap();
        registry.hold(&layers[..1], &user("b")).unwrap();
        assert_eq!(read(points[0].join("top")), "2");
        registry.release(&user("a")).unwrap();
        registry.release(&user("b")).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_the_dead_are_released_and_the_busy_are_kept() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let layers = bench.layers(2);
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = sys::process::Process::of(child.id()).unwrap().unwrap();
        let dead = container("c").with_process(process);
        let alive = |holder: &mount::Holder| holder.is_alive().unwrap();
        let active = chain("active", Some(bench.scratch("snap")), layers.clone());
        registry.mount_chain(&active, &target, &dead, &plain()).unwrap();
        registry.hold(&layers[..1], &dead).unwrap();
        let kept = registry.hold(&layers[1..], &user("u")).unwrap();
        assert!(registry.reconcile(&alive).unwrap().is_clean(), "it lives");
        child.kill().unwrap();
        child.wait().unwrap();
        let squatter = Squatter::in_directory(&target);
        let report = registry.reconcile(&alive).unwrap();
        assert_eq!((report.kept_busy.len(), report.undone.len()), (1, 0), "{report:?}");
        assert_eq!(report.released, [dead]);
        assert_eq!(read(target.join("top")), "1", "somebody is in it");
        let error = registry.unmount(&target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        drop(squatter);
        let report = registry.reconcile(&alive).unwrap();
        assert_eq!((report.kept_busy.len(), report.undone.len()), (0, 2), "{report:?}");
        assert_eq!(mounted_below(bench.path()), kept, "what the living hold stays");
        registry.release(&user("u")).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_volumes_in_use_outlive_their_holders() {
        let bench = Bench::new();
        let registry = bench.registry();
        let points = registry.hold(&bench.layers(2), &user("u")).unwrap();
        let squatter = Squatter::in_directory(&points[0]);
        assert_eq!(registry.release(&user("u")).unwrap().len(), 1);
        assert_eq!(mounted_below(bench.path()), &points[..1]);
        let report = registry.reconcile(&everybody_lives).unwrap();
        assert_eq!(report.kept_busy.len(), 1, "{report:?}");
        drop(squatter);
        assert_eq!(registry.reconcile(&everybody_lives).unwrap().undone.len(), 1);
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_mounts_on_and_below_a_target_go_first() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let tmpfs = |path: &Path| {
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tmpfs", path, "tmpfs", flags, None).unwrap();
        };
        // Somebody else's mount at the target, under ours, stays.
        tmpfs(&target);
        let active = chain("active", Some(bench.scratch("snap")), bench.layers(1));
        registry.mount_chain(&active, &target, &container("c"), &plain()).unwrap();
        for name in ["a", "a/b"] {
            fs::create_dir(target.join(name)).unwrap();
            tmpfs(&target.join(name));
        }
        tmpfs(&target);
        registry.unmount(&target).unwrap();
        assert_eq!(mounted_below(bench.path()), std::slice::from_ref(&target));
        sys::unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
        // Our mount was taken away and another one is there: it is not ours to unmount.
        registry.mount_chain(&active, &target, &container("c"), &plain()).unwrap();
        sys::unmount(&target).unwrap();
        tmpfs(&target);
        let report = registry.reconcile(&everybody_lives).unwrap();
        assert_eq!(report.forgotten.len(), 1, "{report:?}");
        assert_eq!(mounted_below(bench.path()), std::slice::from_ref(&target));
        sys::unmount(&target).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_mounts_of_a_lost_journal_are_found() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let layers = bench.layers(3);
        let points = registry.hold(&layers, &user("u")).unwrap();
        let squatter = Squatter::in_directory(&points[0]);
        // An overlay that somebody else made of described mounts.
        let options = format!("lowerdir={}:{}", points[1].display(), bench.directory("l").display());
        sys::mount_with_options(Path::new("o"), &target, "overlay", true, options.as_ref()).unwrap();
        fs::remove_file(registry.run_dir().join("mounts.journal")).unwrap();
        let report = registry.reconcile(&everybody_lives).unwrap();
        assert_eq!((report.undone.len(), report.kept_busy.len()), (2, 2), "{report:?}");
        assert_eq!(read(target.join("top")), "1");
        drop(squatter);
        sys::unmount(&target).unwrap();
        registry.reconcile(&everybody_lives).unwrap();
        assert_nothing_left(&bench, &registry);
    }

    fn privileged_another_process_is_named() {
        let bench = Bench::new();
        let registry = bench.registry();
        registry.volumes().unwrap();
        let lock = fs::File::open(registry.run_dir().join("mounts.lock")).unwrap();
        lock.lock().unwrap();
        let hasty = Registry::open(registry.run_dir(), Duration::from_millis(20)).unwrap();
        let error = hasty.volumes().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains(&pid), "{error}");
        lock.unlock().unwrap();
        hasty.volumes().unwrap();
    }

    fn privileged_processes_and_threads_share_the_registry() {
        let bench = Bench::new();
        let registry = bench.registry();
        let layers = bench.layers(4);
        let threads: Vec<_> = (0..8)
            .map(|index: usize| {
                // Half of them with a registry of their own, as another process would have.
                let own = Registry::open(registry.run_dir(), Duration::from_secs(60)).unwrap();
                let layers = layers.clone();
                std::thread::spawn(move || {
                    for round in 0..10 {
                        let holder = user(&format!("t{index}"));
                        let part = &layers[(index + round) % 3..];
                        for point in own.hold(part, &holder).unwrap() {
                            assert!(!read(point.join("top")).is_empty());
                        }
                        own.release(&holder).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_nothing_left(&bench, &registry);
    }
}
