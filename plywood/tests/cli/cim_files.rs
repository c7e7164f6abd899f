//! `plywood cim …` on files, from making one to destroying it again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cimfs::{
    DirectorySet, FileFlags, FileTime, Guid, ImagePath, ImageWriter, Metadata, Name, WriterOptions,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::World;

/// A symbolic link's reparse buffer.
fn symlink(target: &str) -> Vec<u8> {
    let units: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = u16::try_from(units.len()).unwrap();
    let mut buffer = 0xA000_000C_u32.to_le_bytes().to_vec();
    for field in [12 + 2 * length, 0, 0, length, length, length] {
        buffer.extend_from_slice(&field.to_le_bytes());
    }
    buffer.extend_from_slice(&1_u32.to_le_bytes());
    [buffer, units.clone(), units].concat()
}

fn metadata(seconds: i64) -> Metadata {
    let time = |offset| FileTime::from_unix(seconds + offset, 500).unwrap();
    Metadata {
        flags: FileFlags::ARCHIVE,
        creation_time: time(0),
        last_write_time: time(1),
        change_time: time(2),
        last_access_time: time(3),
        ..Metadata::default()
    }
}

/// An image with something of everything, in a directory of its own.
fn image(world: &World) -> String {
    let directory = world.path("images");
    fs::create_dir(&directory).unwrap();
    let guid = Guid::for_content(b"everything");
    let set = DirectorySet::new(&directory);
    let mut writer = ImageWriter::create(set, "a.cim", guid, WriterOptions::default()).unwrap();
    let plain = metadata(1_735_689_600);
    let path = ImagePath::from;
    let eas = b"\x10\0\0\0\x80\x03\x02\0ABC\0xy\0\0\0\0\0\0\0\x01\0\0N\0".to_vec();
    let odd = Metadata { flags: FileFlags::READ_ONLY | FileFlags::HIDDEN, eas, ..plain.clone() };
    let link = Metadata { reparse: symlink("..\\big"), ..plain.clone() };
    let sparse = Metadata { flags: FileFlags::SPARSE, ..plain.clone() };
    writer.add_directory(&path("Files"), &plain).unwrap();
    writer.add_directory(&path("Files/Windows"), &Metadata::default()).unwrap();
    writer.add_file(&path("Files/big"), &odd, &vec![b'x'; 100_000]).unwrap();
    writer.add_file(&path("Files/small.txt"), &plain, b"some text\n").unwrap();
    writer.add_link(&path("Files/Windows/Again.txt"), &path("Files/small.txt")).unwrap();
    writer.add_file(&path("Files/Windows/link"), &link, b"").unwrap();
    writer.add_sparse_file(&path("Files/zeros"), &sparse, 1 << 20).unwrap();
    writer.add_file(&path("Files/größe 日本"), &plain, b"").unwrap();
    writer.begin_stream(&path("Files/small.txt"), &Name::from("Zone.Identifier"), 4).unwrap();
    writer.write_data(b"zone").unwrap();
    writer.end().unwrap();
    writer.commit().unwrap();
    directory.join("a.cim").to_str().unwrap().to_owned()
}

fn files(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn looking_inside() {
    let world = World::new();
    let image = image(&world);
    let said = |line: &[&str]| world.run(&[&["cim"], line].concat()).ok();
    insta::assert_snapshot!("cim-info", said(&["info", &image]));
    insta::assert_snapshot!("cim-ls-lR", said(&["ls", "-lR", &image]));
    insta::assert_snapshot!("cim-tree", said(&["tree", &image]));
    let all =
        ["stat", "--links", &image, "files/BIG", "/Files/small.txt", "\\Files\\Windows\\link"];
    insta::assert_snapshot!("cim-stat", said(&all));
    insta::assert_snapshot!("cim-usage", said(&["usage", &image]));
    insta::assert_snapshot!("cim-check", said(&["check", &image]));
    assert_eq!(said(&["ls", &image]), "Files\n");
    assert_eq!(said(&["ls", &image, "/files/small.TXT"]), "/files/small.TXT\n");
    let shallow = said(&["tree", "--depth", "1", &image, "Files"]);
    assert!(shallow.contains("Windows") && !shallow.contains("Again"), "{shallow}");
    assert_eq!(
        said(&["cat", &image, "FILES\\SMALL.txt", "Files/small.txt:zone.identifier"]),
        "some text\nzone"
    );
    assert_eq!(said(&["cat", &image, "Files/big"]).len(), 100_000);
    let dump = said(&["dump", &image]);
    let lines = world.json(&["cim", "dump", &image]);
    assert!(lines.iter().map(|line| line["line"].as_str().unwrap()).eq(dump.lines()));
    let names = world.json(&["cim", "ls", "-R", &image]);
    assert!(names.iter().any(|name| name["path"] == "/Files/größe 日本"), "{names:?}");
    let link = &world.json(&["cim", "stat", &image, "Files/Windows/link"])[0];
    assert_eq!(
        (&link["reparse"]["target"], &link["reparse"]["relative"]),
        (&"..\\big".into(), &true.into())
    );
    for (line, code) in [
        (&["cat", &image, "Files/none"][..], 4),
        (&["cat", &image, "Files"], 2),
        (&["cat", &image, "Files/big:none"], 4),
        (&["stat", &image, "Files/big/x"], 4),
        (&["info", "/no/such/file.cim"], 4),
        (&["info", "/dev/null"], 6),
        (&["info", "/"], 2),
    ] {
        world.run(&[&["cim"], line].concat()).fails(code);
    }
}

#[test]
fn what_is_extracted_with_everything_makes_the_same_image_again() {
    let world = World::new();
    let image = image(&world);
    let (out, again) = (world.path("out"), world.path("again.cim"));
    let [out, again] = [&out, &again].map(|path| path.to_str().unwrap());
    world.run(&["cim", "extract", "--metadata", "--streams", &image, out]).ok();
    world.run(&["cim", "extract", &image, out]).fails(5);
    world.run(&["cim", "create", "--from", out, again]).ok();
    assert_eq!(world.run(&["cim", "diff", &image, again]).ok(), "");
    assert!(world.run(&["cim", "check", again]).ok().ends_with("sound\n"));
    // The same input and name give the same bytes.
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    let second = other.join("again.cim");
    world.run(&["cim", "create", "--from", out, second.to_str().unwrap()]).ok();
    assert!(fs::read(again).unwrap() == fs::read(second).unwrap());
    world.run(&["cim", "create", "--from", out, again]).fails(5);
}

#[test]
fn a_plain_extraction_is_a_tree_of_this_system() {
    let world = World::new();
    let image = image(&world);
    let out = world.path("out");
    let outcome = world.run(&["cim", "extract", &image, out.to_str().unwrap()]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("left out: Zone.Identifier"), "{}", outcome.stderr);
    let small = out.join("Files/small.txt").metadata().unwrap();
    assert_eq!((small.mtime(), small.nlink()), (1_735_689_601, 2));
    assert_eq!(small.ino(), out.join("Files/Windows/Again.txt").metadata().unwrap().ino());
    assert_eq!(fs::read_link(out.join("Files/Windows/link")).unwrap().to_str(), Some("../big"));
    assert_eq!(out.join("Files/big").metadata().unwrap().mode() & 0o777, 0o444);
    let zeros = out.join("Files/zeros").metadata().unwrap();
    assert_eq!((zeros.len(), zeros.blocks()), (1 << 20, 0));
}

#[test]
fn images_are_forked_changed_and_destroyed() {
    let world = World::new();
    let image = image(&world);
    let directory = world.path("images");
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let said = |line: &[&str]| world.run(&[&["cim"], line].concat()).ok();
    fs::write(world.path("new"), "new\n").unwrap();
    let new = world.path("new");
    let new = new.to_str().unwrap();

    // A fork under another name, then in place.
    let child = path("b.cim");
    said(&["add", &image, new, "/Files/new", "--output", &child]);
    assert_eq!(said(&["diff", &image, &child]), "+ /Files/new\n");
    said(&["rm", &child, "files/SMALL.TXT", "Files/zeros"]);
    let diff = said(&["diff", &image, &child]);
    let lines: Vec<_> = diff.lines().collect();
    assert!(lines.contains(&"- /Files/small.txt") && lines.contains(&"+ /Files/new"), "{diff}");
    assert!(said(&["check", &child]).ends_with("sound\n"));
    assert_eq!(said(&["cat", &child, "Files/new"]), "new\n");
    let info = &world.json(&["cim", "info", &child])[0];
    assert_eq!(info["parents"].as_array().unwrap().len(), 2);
    assert_eq!(world.json(&["cim", "info", &image])[0]["forks"], serde_json::json!(["b.cim"]));
    // A directory over what is there.
    fs::create_dir_all(world.path("tree/Windows")).unwrap();
    fs::write(world.path("tree/Windows/AGAIN.TXT"), "replaced").unwrap();
    said(&["add", &child, world.path("tree").to_str().unwrap(), "/Files"]);
    assert_eq!(said(&["cat", &child, "Files/Windows/Again.txt"]), "replaced");
    let grand = path("c.cim");
    said(&["create", "--from", world.path("tree").to_str().unwrap(), "--parent", &child, &grand]);
    assert_eq!(said(&["cat", &grand, "Windows/again.txt"]), "replaced");

    // What makes no sense leaves everything as it is.
    let before = files(&directory);
    let elsewhere = world.path("d.cim");
    for (line, code) in [
        (&["rm", &child, "Files/new", "Files/none"][..], 4),
        (&["rm", &child, "/"], 2),
        (&["add", &child, new, "/no/such/directory"], 4),
        (&["add", &child, new, "/Files/x:y"], 2),
        (&["add", &child, "/no/such/file", "/x"], 4),
        (&["add", &child, new, "/x", "--output", &image], 5),
        (&["add", &child, new, "/x", "--output", elsewhere.to_str().unwrap()], 2),
        (&["destroy", &image], 5),
        (&["destroy", &child], 5),
        (&["create", "--from", new, &path("e.cim")], 6),
        (&["import", "--parent", elsewhere.to_str().unwrap(), new, &path("e.cim")], 2),
        (&["export", "--parent", elsewhere.to_str().unwrap(), &child, "-"], 2),
        (&["import", new, &path("e.cim")], 6),
        (&["create", "--from", "/no/such/tree", &path("e.cim")], 4),
        (&["create", "--from", "/", "--image-version", "4", &path("e.cim")], 2),
    ] {
        let error = world.run(&[&["cim"], line].concat()).fails(code);
        assert!(!error.is_empty());
    }
    assert_eq!(files(&directory), before);

    // What a killed command leaves is in the way, and is said.
    fs::write(path("b.cim.edit.cimtmp"), "").unwrap();
    let error = world.run(&["cim", "rm", &child, "/Files/new"]).fails(5);
    assert!(error.contains("hint: if nobody is writing the image"), "{error}");
    fs::remove_file(path("b.cim.edit.cimtmp")).unwrap();

    // Images that took the place of their parents leave those' regions behind.
    let listed = said(&["destroy", "--dry-run", "--orphans", &grand]);
    assert!(listed.lines().all(|line| line.starts_with("would delete ")), "{listed}");
    assert_eq!(files(&directory), before);
    said(&["destroy", &grand]);
    let listed = said(&["destroy", "--dry-run", "--orphans", &child]);
    let deleted = said(&["destroy", "--orphans", &child]);
    assert_eq!(listed.replace("would delete", "deleted"), deleted);
    assert_eq!(files(&directory).len(), 7, "the first image alone");
    assert!(said(&["check", &image]).ends_with("sound\n"));
    said(&["destroy", &image]);
    assert_eq!(files(&directory), [""; 0]);
}

#[test]
fn object_id_files_are_repaired() {
    let world = World::new();
    let image = image(&world);
    let directory = world.path("images");
    let ids = files(&directory).into_iter().find(|name| name.starts_with("objectid")).unwrap();
    fs::write(directory.join(&ids), "nonsense").unwrap();
    let said = world.run(&["cim", "check", &image]).ok();
    assert!(said.contains("warning: object-ids: "), "{said}");
    let said = world.run(&["cim", "check", "--repair", &image]).ok();
    assert!(said.starts_with(&format!("rebuilt {ids}, which is not an object-ID file")), "{said}");
    assert!(said.ends_with("sound\n") && !said.contains("warning"), "{said}");
    let region = files(&directory).into_iter().find(|name| name.ends_with("_0")).unwrap();
    let region = region.replace("objectid", "region");
    let length = directory.join(&region).metadata().unwrap().len();
    fs::File::options()
        .write(true)
        .open(directory.join(&region))
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    world.run(&["cim", "check", "--repair", &image]).fails(6);
    fs::remove_file(directory.join(&region)).unwrap();
    let error = world.run(&["cim", "ls", &image]).fails(6);
    assert!(error.contains("there is no file region_"), "{error}");
}

#[test]
fn tars_of_layers_go_in_and_out() {
    let world = World::new();
    let image = image(&world);
    let directory = world.path("images");
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let [tar, again, other] = ["a.tar", "again.tar", "b.cim"].map(path);
    world.run(&["cim", "export", &image, &tar]).ok();
    world.run(&["cim", "export", &image, &tar]).fails(5);
    world.run(&["cim", "create", "--from", &tar, &other]).ok();
    // Of the root directory a tar says nothing.
    let diff = world.run(&["cim", "diff", &image, &other]).ok();
    assert!(diff.lines().all(|line| line.starts_with("~ / (")), "{diff}");
    world.run(&["cim", "export", &other, &again]).ok();
    assert!(fs::read(&tar).unwrap() == fs::read(&again).unwrap());
    let mut command = world.plywood();
    command.args(["cim", "export", &other, "-"]);
    assert!(command.output().unwrap().stdout == fs::read(&tar).unwrap());

    // A difference, and the same again on the same parent.
    fs::write(world.path("new"), "new\n").unwrap();
    let (child, twin) = (path("c.cim"), path("d.cim"));
    let new = world.path("new");
    world
        .run(&["cim", "add", &image, new.to_str().unwrap(), "/Files/new", "--output", &child])
        .ok();
    world.run(&["cim", "rm", &child, "/Files/big"]).ok();
    let difference = path("difference.tar");
    let told = &world.json(&["cim", "export", "--parent", &image, &child, &difference])[0];
    assert_eq!(told["whiteouts"], 1);
    world.run(&["cim", "create", "--from", &difference, "--parent", &image, &twin]).ok();
    assert_eq!(world.run(&["cim", "diff", &child, &twin]).ok(), "");
    assert!(world.run(&["cim", "check", "--data", &twin]).ok().ends_with("sound\n"));
}

/// Names that no writer of ours stores, put into the link table of an image.
#[test]
fn hostile_names_stay_in_the_directory_and_are_told() {
    let world = World::new();
    let directory = world.path("images");
    fs::create_dir(&directory).unwrap();
    let guid = Guid::for_content(b"hostile");
    let set = DirectorySet::new(&directory);
    let mut writer = ImageWriter::create(set, "a.cim", guid, WriterOptions::default()).unwrap();
    let swaps = [
        ("AA@1", "../x"),
        ("AB@2", "a\\:b"),
        ("AC@", ".//"),
        ("AD", ".."),
        ("AE@3", "con."),
        ("AF@4", "\u{1b}[31"),
        ("same", "SaMe"),
        ("z@me", "SAME"),
    ];
    for (stored, _) in swaps {
        writer.add_file(&stored.into(), &metadata(1), stored.as_bytes()).unwrap();
    }
    writer.commit().unwrap();
    let region = directory.join(format!("region_{guid}_0"));
    let mut bytes = fs::read(&region).unwrap();
    for (stored, hostile) in swaps {
        let units =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let (from, to) = (units(stored), units(hostile));
        // Behind the upcase table.
        let at = (131_112..bytes.len()).find(|at| bytes[*at..].starts_with(&from)).unwrap();
        bytes[at..at + to.len()].copy_from_slice(&to);
    }
    fs::write(&region, bytes).unwrap();

    let image = directory.join("a.cim");
    let image = image.to_str().unwrap();
    let out = world.path("deep/in/here");
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    let outcome = world.run(&["--format", "json", "cim", "extract", image, out.to_str().unwrap()]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let mut contents: Vec<_> =
        files(&out).iter().map(|name| fs::read_to_string(out.join(name)).unwrap()).collect();
    contents.sort_unstable();
    let mut expected: Vec<_> = swaps.iter().map(|(stored, _)| *stored).collect();
    expected.sort_unstable();
    assert_eq!(contents, expected, "every file is there");
    assert_eq!(
        files(&out),
        [".._x", ".__", "SAME~2", "SaMe", "_[31", "__", "_con._", "a__b"],
        "{}",
        outcome.stderr
    );
    assert_eq!(files(world.path("deep")), ["in"]);
    assert_eq!(files(world.path("deep/in")), ["here"]);
    let told: Vec<serde_json::Value> =
        outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(told.iter().all(|line| line["reason"].is_string() && line["unpacked_as"].is_string()));
    assert_eq!(outcome.stderr.lines().filter(|line| line.contains("unpacked as")).count(), 7);
    let shown = world.run(&["cim", "ls", image]).ok();
    assert!(!shown.contains('\u{1b}') && shown.contains("..\\u{2f}x"), "{shown}");
    assert_eq!(world.run(&["cim", "check", image]).code, 6);
}

#[test]
fn cases_that_would_replace_each_other_are_refused() {
    let world = World::new();
    fs::create_dir(world.path("tree")).unwrap();
    for name in ["readme", "README"] {
        fs::write(world.path("tree").join(name), name).unwrap();
    }
    let (tree, out) = (world.path("tree"), world.path("a.cim"));
    let line = ["cim", "create", "--from", tree.to_str().unwrap(), out.to_str().unwrap()];
    let error = world.run(&line).fails(2);
    assert!(error.contains("/readme: another name differs from it only in case"), "{error}");
    assert_eq!(files(out.parent().unwrap()), ["tree"]);
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let world = World::new();
    fs::create_dir_all(world.path("tree")).unwrap();
    let large = fs::File::create(world.path("tree/large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, b"x", 0).unwrap();
    large.set_len(4 << 30).unwrap();
    fs::create_dir(world.path("images")).unwrap();
    let mut command = world.plywood();
    command.args(["cim", "create", "--from"]).arg(world.path("tree"));
    let begun = || !files(world.path("images")).is_empty();
    interrupt(command.arg(world.path("images/a.cim")), begun);
    assert_eq!(files(world.path("images")), [""; 0]);

    // A small image of much data.
    let set = DirectorySet::new(world.path("images"));
    let guid = Guid::for_content(b"repeated");
    let mut writer = ImageWriter::create(set, "b.cim", guid, WriterOptions::default()).unwrap();
    let data = vec![1; 16 << 20];
    for number in 0..12 {
        writer.add_file(&ImagePath::from(&*format!("file{number}")), &metadata(1), &data).unwrap();
    }
    writer.commit().unwrap();
    fs::create_dir(world.path("out")).unwrap();
    let begun = || world.path("out/in").exists();
    let mut command = world.plywood();
    command.args(["cim", "extract"]).arg(world.path("images/b.cim"));
    interrupt(command.arg(world.path("out/in")), begun);
    assert_eq!(files(world.path("out")), [""; 0]);
}

/// Runs a command and interrupts it when it has begun.
fn interrupt(command: &mut std::process::Command, begun: impl Fn() -> bool) {
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while !begun() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(Signal::INT.as_raw()), "{status:?}");
}

#[test]
fn tars_of_layers_there_and_back() {
    let world = World::new();
    let image = image(&world);
    let run = |line: &[&str]| world.run(&[&["cim"], line].concat());
    let at = |name: &str| world.path("images").join(name).to_str().unwrap().to_owned();
    let tar = at("a.tar");
    assert!(run(&["export", &image, &tar]).ok().contains("entries"));
    // No registry is in it, so it is no layer.
    let (whole, fork) = (at("b.cim"), at("c.cim"));
    run(&["import", &tar, &whole]).fails(6);
    assert_eq!(files(world.path("images")).iter().filter(|name| name.ends_with(".cim")).count(), 1);
    run(&["import", "--tree", &tar, &whole]).ok();
    assert_eq!(run(&["diff", &image, &whole]).ok(), "");
    assert_eq!(run(&["cat", &whole, "/Files/small.txt:Zone.Identifier"]).ok(), "zone");
    run(&["import", "--tree", &tar, &whole]).fails(5);

    run(&["rm", &whole, "/Files/big", "--output", &fork]).ok();
    let difference = at("c.tar");
    run(&["export", "--parent", &whole, &fork, &difference]).ok();
    assert!(fs::metadata(&difference).unwrap().len() < fs::metadata(&tar).unwrap().len() / 10);
    run(&["export", "--parent", &whole, &fork, &difference]).fails(5);
    run(&["export", "--force", "--parent", &whole, &fork, &difference]).ok();
    let again = at("d.cim");
    run(&["import", "--tree", "--parent", &whole, &difference, &again]).ok();
    assert_eq!(run(&["diff", &fork, &again]).ok(), "");
    let missing = at("none.cim");
    run(&["import", "--parent", &missing, &tar, &at("e.cim")]).fails(4);
}

#[test]
fn a_wim_is_unpacked_on_the_way() {
    let world = World::new();
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    fs::create_dir_all(world.path("tree/deep")).unwrap();
    fs::write(world.path("tree/file"), "data").unwrap();
    fs::hard_link(world.path("tree/file"), world.path("tree/deep/again")).unwrap();
    std::os::unix::fs::symlink("file", world.path("tree/link")).unwrap();
    let mut capture = std::process::Command::new("wimlib-imagex");
    capture.args(["capture", "--compress=none"]).arg(path("tree")).arg(path("in.wim"));
    let output = capture.output().expect("wimtools are installed");
    assert!(output.status.success(), "{output:?}");
    fs::create_dir(world.path("images")).unwrap();
    let (image, direct) = (path("images/a.cim"), path("images/b.cim"));
    world.run(&["cim", "create", "--from", &path("in.wim"), &image]).ok();
    world.run(&["cim", "create", "--from", &path("tree"), &direct]).ok();
    assert_eq!(world.run(&["cim", "diff", &direct, &image]).ok(), "");
    world
        .run(&[
            "cim",
            "create",
            "--from",
            &path("in.wim"),
            "--wim-image",
            "7",
            &path("images/c.cim"),
        ])
        .fails(6);
    assert!(!files(world.path("images")).iter().any(|name| name.starts_with(".")), "nothing stays");
    let mut command = world.plywood();
    command.args(["cim", "create", "--from", &path("in.wim"), &path("images/c.cim")]);
    let outcome = crate::support::Outcome::of(command.env("PATH", "/nowhere").output().unwrap());
    let error = outcome.fails(3);
    assert!(error.contains("wimtools"), "{error}");
}
