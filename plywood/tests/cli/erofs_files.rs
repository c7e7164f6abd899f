//! `plywood erofs …` on files, from making one to taking it apart again.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Stdio;

use crate::support::{Tar, World};

/// An image of a tar with something of everything.
fn image(world: &World) -> String {
    let mut tar = Tar::new();
    tar.directory("bin", 0o755)
        .file("bin/su", 0o4755, b"#!/bin/sh\n")
        .link("bin/again", "bin/su")
        .symlink("bin/link", "/etc/passwd")
        .directory("etc", 0o755)
        .file("etc/passwd", 0o640, b"root:x:0:0\n")
        .file("large", 0o644, &vec![b'x'; 100_000])
        .file("new\nline \x1b[31m", 0o600, b"")
        .fifo("pipe")
        .file(".wh.gone", 0o644, b"");
    let path = world.path("in.tar");
    fs::write(&path, tar.finish()).unwrap();
    let image = world.path("image.erofs");
    let said =
        world.run(&["erofs", "create", "--from", path.to_str().unwrap(), image.to_str().unwrap()]);
    assert!(said.ok().starts_with("11 entries, "));
    image.to_str().unwrap().to_owned()
}

#[test]
fn looking_inside() {
    let world = World::new();
    let image = image(&world);
    insta::assert_snapshot!("ls", world.run(&["erofs", "ls", &image]).ok());
    insta::assert_snapshot!("ls-lR", world.run(&["erofs", "ls", "-lR", &image]).ok());
    insta::assert_snapshot!(
        "ls-json",
        world.run(&["--format", "json", "erofs", "ls", &image, "/bin"]).ok()
    );
    insta::assert_snapshot!(
        "stat",
        world.run(&["erofs", "stat", &image, "bin/su", "bin/link", "/large"]).ok()
    );
    let stat = &world.json(&["erofs", "stat", &image, "large"])[0];
    assert_eq!(
        (&stat["layout"], &stat["extents"][0]["source"]),
        (&"plain".into(), &"blocks".into())
    );
    assert_eq!(stat["extents"][0]["position"], 4096);
    insta::assert_snapshot!("info", world.run(&["erofs", "info", &image]).ok());
    insta::assert_snapshot!("check", world.run(&["erofs", "check", &image]).ok());
    assert_eq!(world.run(&["erofs", "cat", &image, "bin/link"]).ok(), "root:x:0:0\n");
    assert_eq!(world.run(&["erofs", "cat", &image, "large"]).ok().len(), 100_000);
    let dump = world.run(&["erofs", "dump", &image]).ok();
    assert!(dump.contains("etc/passwd"), "{dump}");
    assert!(!dump.contains('\x1b'), "escaped");
    let lines = world.json(&["erofs", "dump", &image]);
    assert!(lines.iter().map(|line| line["line"].as_str().unwrap()).eq(dump.lines()));
    world.run(&["erofs", "cat", &image, "bin/link", "no-such-file"]).fails(4);
    world.run(&["erofs", "cat", &image, "bin"]).fails(2);
    world.run(&["erofs", "stat", &image, "/bin/su/x"]).fails(4);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let world = World::new();
    let image = image(&world);
    for line in [&["erofs", "cat", &image, "large", "large"][..], &["erofs", "dump", &image]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            world.plywood().args(line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    }
}

#[test]
fn the_same_input_is_the_same_image() {
    let world = World::new();
    let first = fs::read(image(&world)).unwrap();
    let again = world.path("again.erofs");
    let tar = fs::File::open(world.path("in.tar")).unwrap();
    let mut command = world.plywood();
    command.args(["erofs", "create", "--from", "-"]).arg(&again).stdin(tar);
    assert!(command.status().unwrap().success());
    assert!(fs::read(&again).unwrap() == first);
    // An existing file is not replaced unless that is wanted.
    let again = again.to_str().unwrap();
    let tar = world.path("in.tar");
    let line = ["erofs", "create", "--from", tar.to_str().unwrap(), again];
    world.run(&line).fails(5);
    world.run(&[&line[..], &["--force"]].concat()).ok();
    world.run(&[&line[..], &["--force", "--label", "sixteen bytes..."]].concat()).fails(2);
    world.run(&[&line[..], &["--force", "--label", "a label"]].concat()).ok();
    let info = &world.json(&["erofs", "info", again])[0];
    assert_eq!((&info["label"], &info["checksum"]), (&"a label".into(), &"valid".into()));
}

#[test]
fn extracting_and_comparing() {
    crate::support::require_root();
    let world = World::new();
    let image = image(&world);
    let out = world.path("out");
    let dir = out.to_str().unwrap();
    world.run(&["erofs", "extract", &image, dir]).ok();
    let su = out.join("bin/su").metadata().unwrap();
    assert_eq!((su.mode() & 0o7777, su.nlink(), su.mtime()), (0o4755, 2, 1_735_689_600));
    assert_eq!(su.ino(), out.join("bin/again").metadata().unwrap().ino());
    assert_eq!(fs::read_link(out.join("bin/link")).unwrap().to_str(), Some("/etc/passwd"));
    assert_eq!(out.join("gone").symlink_metadata().unwrap().rdev(), 0);
    assert_eq!(out.join("bin").metadata().unwrap().mtime(), 1_735_689_600);
    assert_eq!(fs::read(out.join("large")).unwrap().len(), 100_000);
    world.run(&["erofs", "extract", &image, dir]).fails(5);

    // What was unpacked makes the same tree again.
    let second = world.path("second.erofs");
    let second = second.to_str().unwrap();
    world.run(&["erofs", "create", "--from", dir, second]).ok();
    assert_eq!(world.run(&["erofs", "diff", &image, second]).ok(), "");
    fs::set_permissions(out.join("etc/passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(out.join("large")).unwrap();
    fs::write(out.join("added"), "").unwrap();
    let third = world.path("third.erofs");
    let third = third.to_str().unwrap();
    world.run(&["erofs", "create", "--from", dir, third]).ok();
    let diff = world.run(&["erofs", "diff", second, third]).ok();
    let lines: Vec<&str> = diff.lines().collect();
    assert!(lines.contains(&"+ /added") && lines.contains(&"- /large"), "{diff}");
    assert!(lines.contains(&"~ /etc/passwd (permissions 0640 -> 0600)"), "{diff}");
}

#[test]
fn extracting_without_rights_says_what_to_leave_out() {
    crate::support::require_root();
    let world = World::new();
    let image = image(&world);
    // The build's directory may be closed to others; the system's is not.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = place.path().join("plywood");
    // By another process: a descriptor of ours, open for writing, could be inherited by another test's child, and the
    // program then not be executed ("text file busy").
    let mut copy = std::process::Command::new("cp");
    copy.arg(world.plywood().get_program()).arg(&program);
    assert!(copy.status().unwrap().success());
    let file = place.path().join("image.erofs");
    fs::copy(image, &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let as_nobody = |arguments: &[&str]| {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(&program);
        command.args(arguments).current_dir(place.path()).uid(65_534).gid(65_534);
        crate::support::Outcome::of(command.env("PLYWOOD_ROOT", "store").output().unwrap())
    };
    let error = as_nobody(&["erofs", "extract", "image.erofs", "out"]).fails(7);
    assert!(error.contains("hint: ") && error.contains("--no-owner"), "{error}");
    assert!(!place.path().join("out").exists(), "nothing stays");
    let less =
        ["erofs", "extract", "--no-owner", "--no-nodes", "--no-xattrs", "image.erofs", "out"];
    as_nobody(&less).ok();
    assert_eq!(place.path().join("out/bin/su").metadata().unwrap().mode() & 0o7777, 0o755);

    for line in [&["run", "x"][..], &["mount", "x", "."], &["umount", "."]] {
        let error = as_nobody(line).fails(7);
        assert!(error.contains("hint: run it as root"), "{error}");
    }
    assert!(!place.path().join("store").exists());
}

#[test]
fn merging() {
    let world = World::new();
    let bottom = image(&world);
    let mut tar = Tar::new();
    tar.file("etc/passwd", 0o644, b"replaced\n")
        .file(".wh.large", 0o644, b"")
        .file("top", 0o644, &[7; 9000]);
    fs::write(world.path("top.tar"), tar.finish()).unwrap();
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    world.run(&["erofs", "create", "--from", &path("top.tar"), &path("top.erofs")]).ok();
    world.run(&["erofs", "merge", &path("merged.erofs"), &bottom, &path("top.erofs")]).ok();
    let devices = ["--device", &bottom, "--device", &path("top.erofs")].map(str::to_owned);
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let merged = path("merged.erofs");
    let with = |line: &[&str]| world.run(&[line, &devices[..]].concat());
    assert_eq!(with(&["erofs", "cat", &merged, "/etc/passwd"]).ok(), "replaced\n");
    assert_eq!(with(&["erofs", "cat", &merged, "/top"]).ok().len(), 9000);
    let names = with(&["erofs", "ls", &merged]).ok();
    assert!(!names.lines().any(|name| name == "large"), "{names}");
    world.run(&["erofs", "merge", &merged, &bottom]).fails(5);
    world.run(&["erofs", "ls", "--device", &bottom, &merged]).fails(2);
}
