//! Described mounts, performed as containerd performs them, and who is found to use them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use mount::{ErrorKind, Mount, MountForm, MountOptions, ScratchDirs, describe, describe_erofs};
use store::{Chain, ScratchPaths};
use support::{Bench, Squatter, chain, container, user};

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn plain() -> MountForm {
    MountForm::default()
}

/// What containerd does to an overlay whose options come near a page (`core/mount/mount_linux.go`,
/// `compactLowerdirOption`): the directory to go to, and the options with the layers named from there.
fn compacted(options: &[String]) -> (Option<PathBuf>, Vec<String>) {
    const PAGE: usize = 4096;
    let unchanged = || (None, options.to_vec());
    if options.iter().map(String::len).sum::<usize>() < PAGE - 512 {
        return unchanged();
    }
    let Some(index) = options.iter().position(|option| option.starts_with("lowerdir=")) else {
        return unchanged();
    };
    let lowers: Vec<&str> = options[index]["lowerdir=".len()..].split(':').collect();
    let (least, most) = (lowers.iter().min().unwrap(), lowers.iter().max().unwrap());
    let same = least.bytes().zip(most.bytes()).take_while(|(a, b)| a == b).count();
    let directory = &least[..=least[..same].rfind('/').unwrap()];
    let mut shorter = options.to_vec();
    shorter.remove(index);
    let names: Vec<&str> = lowers.iter().map(|path| &path[directory.len()..]).collect();
    shorter.push(format!("lowerdir={}", names.join(":")));
    (Some(PathBuf::from(directory)), shorter)
}

/// Performs an overlay by `mount(2)`, like containerd.
fn perform(mount: &Mount, target: &Path) {
    assert_eq!(mount.r#type, "overlay");
    let (directory, options) = compacted(&mount.options);
    // The process is this test's alone.
    std::env::set_current_dir(directory.as_deref().unwrap_or(Path::new("/"))).unwrap();
    let data = options.join(",");
    assert!(data.len() < sys::OPTIONS_PAGE, "{} bytes of options", data.len());
    sys::mount_with_options(&mount.source, target, "overlay", false, data.as_ref()).unwrap();
    std::env::set_current_dir("/").unwrap();
}

fn dirs(scratch: &ScratchPaths) -> ScratchDirs {
    match scratch {
        ScratchPaths::Directory { upper, work } => {
            ScratchDirs { upper: upper.clone(), work: work.clone() }
        }
        ScratchPaths::Image { .. } => panic!("no directories"),
    }
}

privileged! {
    fn privileged_128_layers_are_mounted_as_containerd_mounts_them() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let scratch = bench.scratch("a store/with: odd, names/snapshots/1");
        let chain = chain("many", Some(scratch.clone()), bench.layers(128));
        let volumes = registry.hold(&chain.layers, &user("u")).unwrap();
        let described = describe(&chain, &volumes, Some(&dirs(&scratch)), &plain()).unwrap();
        assert!(compacted(&described[0].options).0.is_some(), "so many layers need containerd's rule");
        perform(&described[0], &target);
        assert_eq!(read(target.join("top")), "127");
        for index in 0..128 {
            assert_eq!(read(target.join(format!("layer-{index}"))), index.to_string());
        }
        fs::write(target.join("new"), "written").unwrap();
        assert_eq!(read(dirs(&scratch).upper.join("new")), "written");
        // Relative names of layers and escaped ones of the upper directory are recognised.
        let users = registry.users_of(chain.scratch.as_ref().unwrap()).unwrap();
        assert_eq!(users, [format!("overlay at {}", target.display())]);
        let table = sys::MountTable::read().unwrap();
        assert!(volumes.iter().all(|volume| table.overlay_uses(volume)));
        registry.release(&user("u")).unwrap();
        sys::unmount(&target).unwrap();
        assert_eq!(registry.users_of(chain.scratch.as_ref().unwrap()).unwrap(), Vec::<String>::new());
    }

    fn privileged_marks_in_user_attributes_are_mounted() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let scratch = bench.scratch("snap");
        let active = chain("active", Some(scratch.clone()), bench.layers(2));
        let volumes = registry.hold(&active.layers, &user("u")).unwrap();
        let form = MountForm { user_xattrs: true };
        let described = describe(&active, &volumes, Some(&dirs(&scratch)), &form).unwrap();
        perform(&described[0], &target);
        assert_eq!(read(target.join("top")), "1");
        fs::write(target.join("new"), "written").unwrap();
        fs::remove_file(target.join("layer-0")).unwrap();
        assert!(!target.join("layer-0").exists());
        sys::unmount(&target).unwrap();
        registry.release(&user("u")).unwrap();
    }

    fn privileged_a_layer_may_come_twice() {
        let bench = Bench::new();
        let registry = bench.registry();
        let target = bench.directory("rootfs");
        let mut layers = bench.layers(3);
        layers.push(layers[0].clone());
        let scratch = bench.scratch("snap");
        let active = chain("twice", Some(scratch.clone()), layers.clone());
        registry.mount_chain(&active, &target, &user("u"), &MountOptions::default()).unwrap();
        assert_eq!(read(target.join("top")), "2");
        registry.unmount(&target).unwrap();
        let volumes = registry.hold(&layers, &user("u")).unwrap();
        assert_eq!(volumes.len(), 4);
        let described = describe(&active, &volumes, Some(&dirs(&scratch)), &plain()).unwrap();
        perform(&described[0], &target);
        assert_eq!(read(target.join("layer-2")), "2");
        sys::unmount(&target).unwrap();
        let view = chain("view", None, vec![layers[0].clone(), layers[0].clone()]);
        let described = describe(&view, &[volumes[0].clone(), volumes[0].clone()], None, &plain());
        assert_eq!(described.unwrap()[0].r#type, "bind");
        assert_eq!(describe_erofs(&view, None, &plain()).unwrap().len(), 1);
        registry.release(&user("u")).unwrap();
    }

    fn privileged_the_users_of_a_scratch_are_found() {
        let bench = Bench::new();
        let registry = bench.registry();
        let rootfs = bench.directory("rootfs");
        let bound = bench.directory("bound");
        let users = |chain: &Chain| registry.users_of(chain.scratch.as_ref().unwrap()).unwrap();
        let none = Vec::<String>::new();
        // A directory: bound, and under an overlay of ours.
        let scratch = bench.scratch("snap");
        let active = chain("active", Some(scratch.clone()), bench.layers(2));
        assert_eq!(users(&active), none);
        registry.mount_chain(&active, &rootfs, &container("c"), &MountOptions::default()).unwrap();
        assert_eq!(users(&active), [format!("overlay at {}", rootfs.display())]);
        registry.unmount(&rootfs).unwrap();
        assert_eq!(users(&active), none);
        sys::DetachedMount::copy_of(&dirs(&scratch).upper, false).unwrap().attach(&bound).unwrap();
        assert_eq!(users(&active), [format!("bind mount at {}", bound.display())]);
        sys::unmount(&bound).unwrap();
        assert_eq!(users(&active), none);
        // An image: held alone it has no users.
        let path = bench.directory("other").join("scratch.img");
        let image = ScratchPaths::Image { path, size: 8 << 20 };
        let limited = chain("limited", Some(image), bench.layers(2));
        assert_eq!(users(&limited), none);
        let dirs = registry.hold_scratch(&limited, &user("u")).unwrap();
        assert_eq!(users(&limited), none);
        let volumes = registry.hold(&limited.layers, &user("u")).unwrap();
        let described = describe(&limited, &volumes, Some(&dirs), &plain()).unwrap();
        perform(&described[0], &rootfs);
        assert_eq!(users(&limited), [format!("overlay at {}", rootfs.display())]);
        sys::unmount(&rootfs).unwrap();
        assert_eq!(users(&limited), none);
        // Used by something that is no mount: not let go either, and nothing changes.
        let squatter = Squatter::in_directory(&dirs.upper);
        assert_eq!(registry.let_go(&user("u")).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(registry.volume_at(&dirs.upper).unwrap().unwrap().holders, [user("u")]);
        drop(squatter);
        assert!(registry.let_go(&user("u")).unwrap());
        assert!(registry.volume_at(&dirs.upper).unwrap().is_none());
        assert_eq!(registry.volumes().unwrap().len(), 2, "layers stay");
        registry.trim().unwrap();
    }

    fn privileged_paths_lead_back_to_volumes() {
        let bench = Bench::new();
        let registry = bench.registry();
        let layers = bench.layers(2);
        let points = registry.hold(&layers, &user("u")).unwrap();
        for (layer, point) in layers.iter().zip(&points) {
            let volume = registry.volume_at(point).unwrap().unwrap();
            assert_eq!(volume.layer, layer.id.as_str());
            assert_eq!(volume.holders, [user("u")]);
            assert_eq!(registry.volume_at(&point.join("top")).unwrap().unwrap().id, volume.id);
        }
        let run = registry.run_dir();
        let digits = points[0].file_name().unwrap();
        for other in [
            Path::new("/"),
            run,
            &run.join("v"),
            &run.join("s").join(digits),
            &run.join("v/0123456789abcdef"),
            &bench.path().join("v").join(digits),
        ] {
            assert!(registry.volume_at(other).unwrap().is_none(), "{}", other.display());
        }
        registry.release(&user("u")).unwrap();
        assert!(registry.volume_at(&points[0]).unwrap().is_none());
    }
}
