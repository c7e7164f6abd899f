//! `plywood mount` of a CIM: by the kernel, by FUSE, and what is refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::World;

/// A CIM in the world, made of a tree with a file that is large enough to be pointed at and one that is not.
fn cim(world: &World, name: &str, small: &str) -> String {
    let tree = world.path(&format!("{name}.tree"));
    fs::create_dir_all(tree.join("Windows/System32")).unwrap();
    fs::write(tree.join("Windows/System32/Large.dll"), vec![7; 200_000]).unwrap();
    fs::write(tree.join("Windows/small.ini"), small).unwrap();
    // Each in a directory of its own, as images are kept that are no forks of one another.
    let directory = world.path(name);
    fs::create_dir(&directory).unwrap();
    let image = directory.join("image.cim").display().to_string();
    world.run(&["cim", "create", "--from", tree.to_str().unwrap(), &image]).ok();
    image
}

fn expect_tree(target: &Path, small: &str) {
    assert_eq!(fs::read(target.join("Windows/System32/Large.dll")).unwrap(), [7; 200_000]);
    assert_eq!(fs::read_to_string(target.join("Windows/small.ini")).unwrap(), small);
    assert!(fs::write(target.join("Windows/new"), "").is_err(), "read-only");
}

#[test]
fn privileged_a_cim_is_mounted_both_ways() {
    let world = World::new();
    let image = cim(&world, "base", "[small]\n");
    let target = world.path("mnt");
    fs::create_dir(&target).unwrap();
    let dir = target.to_str().unwrap();
    for driver in ["auto", "erofs"] {
        world.run(&["mount", "--driver", driver, &image, dir]).ok();
        expect_tree(&target, "[small]\n");
        let listed = world.json(&["mount", "ls"]);
        let mounted = listed.iter().find(|row| row["target"] == dir).unwrap();
        assert_eq!(mounted["what"], *image);
        assert_eq!(mounted["read_only"], true);
        assert!(!target.join("windows").exists(), "the kernel tells cases apart");
        world.run(&["mount", &image, dir]).fails(5);
        world.run(&["umount", dir]).ok();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
    world.run(&["mount", "--driver", "fuse", "--ignore-case", &image, dir]).ok();
    expect_tree(&target, "[small]\n");
    assert_eq!(fs::read_to_string(target.join("WINDOWS/Small.INI")).unwrap(), "[small]\n");
    world.run(&["umount", dir]).ok();
    world.run(&["umount", dir]).fails(4);
    world.assert_no_traces();
}

#[test]
fn privileged_an_image_in_anothers_place_is_not_shown_as_that() {
    let world = World::new();
    let (first, second) = (cim(&world, "first", "one"), cim(&world, "second", "two"));
    let target = world.path("mnt");
    fs::create_dir(&target).unwrap();
    let dir = target.to_str().unwrap();
    world.run(&["mount", &first, dir]).ok();
    expect_tree(&target, "one");
    world.run(&["umount", dir]).ok();
    fs::rename(world.path("first"), world.path("old")).unwrap();
    fs::rename(world.path("second"), world.path("first")).unwrap();
    world.run(&["mount", &first, dir]).ok();
    expect_tree(&target, "two");
    world.run(&["umount", dir]).ok();
    world.run(&["mount", &second, dir]).fails(4);
    world.assert_no_traces();
}

#[test]
fn privileged_damage_and_options_of_others_are_refused() {
    let world = World::new();
    let image = cim(&world, "base", "[small]\n");
    let target = world.path("mnt");
    fs::create_dir(&target).unwrap();
    let dir = target.to_str().unwrap();
    for (options, code, told) in [
        (&["--rw"][..], 2, "only be read"),
        (&["--device", "/dev/null"], 2, "finds its other files itself"),
        (&["--driver", "erofs", "--ignore-case"], 2, "take the driver fuse"),
    ] {
        let error = world.run(&[&["mount"], options, &[&image, dir]].concat()).fails(code);
        assert!(error.contains(told), "{options:?}: {error}");
    }
    let region = fs::read_dir(world.path("base")).unwrap().flatten().map(|entry| entry.path());
    let region = region.filter(|path| path.display().to_string().contains("region_")).max();
    let region = region.unwrap();
    let whole = fs::read(&region).unwrap();
    fs::write(&region, &whole[..whole.len() / 2]).unwrap();
    let error = world.run(&["mount", "--driver", "erofs", &image, dir]).fails(6);
    assert!(error.contains("Large.dll"), "{error}");
    // FUSE looks at files when they are read: what is whole can be had.
    world.run(&["mount", "--driver", "fuse", &image, dir]).ok();
    assert_eq!(fs::read_to_string(target.join("Windows/small.ini")).unwrap(), "[small]\n");
    let error = fs::read(target.join("Windows/System32/Large.dll")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::UCLEAN.raw_os_error()));
    world.run(&["umount", dir]).ok();
    fs::remove_file(&region).unwrap();
    for driver in ["erofs", "fuse"] {
        world.run(&["mount", "--driver", driver, &image, dir]).fails(6);
    }
    world.assert_no_traces();
}

#[test]
fn privileged_a_server_that_is_killed_leaves_nothing_in_the_way() {
    let world = World::new();
    let image = cim(&world, "base", "[small]\n");
    let target = world.path("mnt");
    fs::create_dir(&target).unwrap();
    let dir = target.to_str().unwrap();
    let mut server = world.plywood();
    server.args(["mount", "--driver", "fuse", "--foreground", &image, dir]);
    let mut server = server.stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !target.join("Windows").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing is mounted");
        std::thread::sleep(Duration::from_millis(10));
    }
    server.kill().unwrap();
    server.wait().unwrap();
    // Whatever comes next clears it away.
    assert_eq!(world.run(&["mount", "ls"]).ok(), "");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    // What the usual tool has unmounted can be mounted again.
    world.run(&["mount", &image, dir]).ok();
    expect_tree(&target, "[small]\n");
    assert!(Command::new("umount").arg(dir).status().unwrap().success());
    world.run(&["mount", &image, dir]).ok();
    world.run(&["umount", dir]).ok();
    world.assert_no_traces();
}
