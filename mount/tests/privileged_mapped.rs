//! Layers with shifted owners, for containers in user namespaces.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use mount::{Holder, IdMapping, MountForm, ScratchDirs, describe};
use store::{Labels, ScratchPaths};
use support::{Bench, chain, mounted_below, names_in, user};

fn mapping(host: u32) -> IdMapping {
    let range = format!("0:{host}:65536");
    let labels =
        Labels::from([(mount::UIDS.to_owned(), range.clone()), (mount::GIDS.to_owned(), range)]);
    IdMapping::from_labels(&labels).unwrap().unwrap()
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

privileged! {
    fn privileged_an_overlay_over_mapped_layers_has_the_containers_owners() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let layers = bench.layers(3);
        let mapping = mapping(100_000);
        let volumes = registry.hold_mapped(&layers, &mapping, &user("u")).unwrap();
        let plain = registry.hold(&layers, &user("plain")).unwrap();
        assert_eq!(owner(plain[0].join("top")), (0, 0));
        for volume in &volumes {
            assert!(volume.starts_with(registry.run_dir().join("m")), "{}", volume.display());
            assert_eq!(owner(volume), (100_000, 100_000));
            assert_eq!(owner(volume.join("top")), (100_000, 100_000));
        }
        let ScratchPaths::Directory { upper, work } = bench.scratch("snap") else { unreachable!() };
        let dirs = ScratchDirs { upper: upper.clone(), work: work.clone() };
        dirs.give_to(&mapping).unwrap();
        let scratch = ScratchPaths::Directory { upper: upper.clone(), work };
        let active = chain("mapped", Some(scratch), layers.clone());
        let form = MountForm::default();
        let described = describe(&active, &volumes, Some(&dirs), &form).unwrap();
        let options = described[0].options.join(",");
        let source = Path::new("overlay");
        sys::mount_with_options(source, &target, "overlay", false, options.as_ref()).unwrap();
        assert_eq!(owner(&target), (100_000, 100_000));
        assert_eq!(owner(target.join("layer-0")), (100_000, 100_000));
        // As the container's root sees and does it: ids of the host, since this test has no user namespace.
        let status = Command::new("/bin/sh")
            .args(["-ec", "echo new >new; echo more >>top; rm layer-0; mkdir dir"])
            .current_dir(&target)
            .uid(100_000)
            .gid(100_000)
            .status()
            .unwrap();
        assert!(status.success(), "the mapped root may write everywhere");
        assert_eq!(owner(upper.join("new")), (100_000, 100_000));
        assert_eq!(owner(upper.join("top")), (100_000, 100_000), "copied up with its owner");
        assert_eq!(owner(upper.join("dir")), (100_000, 100_000));
        assert_eq!(mapping.to_container(100_000, 100_000), Some((0, 0)));
        assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "2more\n");
        // Someone outside the mapping cannot be told from nobody, and root of the host still can write.
        fs::write(target.join("roots"), "x").unwrap();
        chown(target.join("roots"), Some(100_005), Some(100_006)).unwrap();
        assert_eq!(owner(upper.join("roots")), (100_005, 100_006));
        sys::unmount(&target).unwrap();
        registry.release(&user("u")).unwrap();
        registry.release(&user("plain")).unwrap();
        assert!(registry.volumes().unwrap().is_empty());
    }

    fn privileged_mapped_volumes_are_shared_and_released_like_others() {
        let bench = Bench::new();
        let registry = bench.registry();
        let layers = bench.layers(2);
        let run = registry.run_dir().to_owned();
        let one = registry.hold_mapped(&layers, &mapping(100_000), &user("one")).unwrap();
        let same = registry.hold_mapped(&layers, &mapping(100_000), &user("two")).unwrap();
        let other = registry.hold_mapped(&layers, &mapping(200_000), &user("three")).unwrap();
        assert_eq!(one, same);
        assert!(one.iter().all(|path| !other.contains(path)));
        assert_eq!(owner(&other[0]), (200_000, 200_000));
        // Two layers, twice mapped.
        let volumes = registry.volumes().unwrap();
        assert_eq!(volumes.len(), 6);
        let shared = registry.volume_at(&one[0]).unwrap().unwrap();
        assert_eq!(shared.mapping, Some(mapping(100_000)));
        assert_eq!(shared.layer, layers[0].id.as_str());
        assert_eq!(shared.holders, [user("one"), user("two")]);
        assert!(registry.reconcile(&|_| true).unwrap().is_clean());
        assert_eq!(names_in(&run.join("m")).len(), 4);
        registry.release(&user("one")).unwrap();
        assert_eq!(names_in(&run.join("m")).len(), 4);
        // The dead are released by reconcile.
        let gone = |holder: &Holder| holder.name != "two";
        let report = registry.reconcile(&gone).unwrap();
        assert_eq!(report.released, [user("two")]);
        assert_eq!(report.undone.len(), 2, "{report:?}");
        assert_eq!(names_in(&run.join("m")).len(), 2);
        // Unmounted behind our back: made anew.
        sys::unmount(&other[0]).unwrap();
        let again = registry.hold_mapped(&layers, &mapping(200_000), &user("three")).unwrap();
        assert_eq!(again, other);
        assert_eq!(owner(other[0].join("top")), (200_000, 200_000));
        assert_eq!(registry.release(&user("three")).unwrap().len(), 4);
        assert!(mounted_below(bench.path()).is_empty());
        assert!(names_in(&run.join("m")).is_empty());
    }

    fn privileged_volumes_that_were_let_go_stay_until_trimmed() {
        let bench = Bench::new();
        let registry = bench.registry();
        let layers = bench.layers(3);
        registry.hold(&layers, &user("a")).unwrap();
        registry.hold(&layers[..1], &user("b")).unwrap();
        assert!(registry.let_go(&user("a")).unwrap());
        assert!(!registry.let_go(&user("a")).unwrap());
        assert_eq!(registry.volumes().unwrap().len(), 3);
        // Wanted again, without a mount.
        let since = registry.volumes().unwrap()[0].since;
        registry.hold(&layers[..2], &user("a")).unwrap();
        assert_eq!(registry.volumes().unwrap()[0].since, since);
        assert_eq!(registry.trim().unwrap().len(), 1);
        assert_eq!(registry.volumes().unwrap().len(), 2);
        registry.let_go(&user("a")).unwrap();
        registry.let_go(&user("b")).unwrap();
        let report = registry.reconcile(&|_| true).unwrap();
        assert_eq!(report.undone.len(), 2);
        assert!(mounted_below(bench.path()).is_empty());
        assert!(registry.trim().unwrap().is_empty());
    }
}
