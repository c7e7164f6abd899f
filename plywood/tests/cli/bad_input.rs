//! Input that is damaged, hostile or not for here: the class of each error, and a store that is as before.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{Layout, Outcome, Tar, World};

/// Everything in the store that an import could have left.
fn content(world: &World) -> (usize, usize, String, String) {
    let count = |part: &str| fs::read_dir(world.path(part)).into_iter().flatten().count();
    (
        count("root/layers"),
        count("root/staging"),
        world.run(&["image", "list", "-q"]).ok(),
        world.run(&["snapshot", "list", "-q"]).ok(),
    )
}

#[track_caller]
fn refused(world: &World, path: &Path, arguments: &[&str], code: i32, word: &str) {
    let before = content(world);
    let mut command = world.plywood();
    command.args(["image", "import"]).args(arguments).arg(path);
    let error = Outcome::of(command.output().unwrap()).fails(code);
    assert!(error.contains(word), "`{word}` is not in: {error}");
    assert_eq!(content(world), before, "an import that failed left something");
}

/// A world with an image in it, and a layout to be spoiled.
fn prepared() -> (World, std::path::PathBuf) {
    let world = World::with_image();
    let layout = world.path("layout");
    Layout { name: "other:1", ..Layout::tiny() }.write(&layout);
    (world, layout)
}

fn largest_blob(layout: &Path) -> std::path::PathBuf {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten();
    blobs.max_by_key(|blob| blob.metadata().unwrap().len()).unwrap().path()
}

fn bare(world: &World, tar: Tar) -> std::path::PathBuf {
    let path = world.path("bad.tar");
    fs::write(&path, tar.finish()).unwrap();
    path
}

#[test]
fn archives_that_are_not_what_they_promise() {
    let (world, layout) = prepared();
    let top = || {
        let mut tiny = Layout { name: "other:1", ..Layout::tiny() };
        // A layer that is not in the store yet.
        let mut tar = Tar::new();
        tar.file("unseen", 0o644, &[1; 5000]);
        tiny.layers.push(tar.finish());
        fs::remove_dir_all(&layout).unwrap();
        tiny.write(&layout);
        let layer = layer::Digest::of(&tiny.layers[2]);
        layout.join("blobs/sha256").join(layer.hex())
    };
    let blob = top();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    refused(&world, &layout, &[], 6, "digest");
    let blob = top();
    fs::write(&blob, &fs::read(&blob).unwrap()[..3000]).unwrap();
    refused(&world, &layout, &[], 6, "");
    let blob = top();
    fs::remove_file(&blob).unwrap();
    let before = content(&world);
    let outcome = world.run(&["image", "import", layout.to_str().unwrap()]);
    assert!([4, 6].contains(&outcome.code), "{outcome:?}");
    assert_eq!(content(&world), before);
    top();
    refused(&world, &layout, &["--max-size", "4K"], 6, "");
    let ours = format!(
        "only for {}\nhint: choose one of its platforms with --platform",
        layer::archive::Platform::host()
    );
    refused(&world, &layout, &["--platform", "linux/s390x"], 8, &ours);
    let names = "2 names were given for 1 image (other:1): give one for each";
    refused(&world, &layout, &["--ref", "a", "--ref", "b"], 2, names);
    refused(&world, &layout, &["--platform", "nonsense"], 2, "platform");
    fs::write(layout.join("index.json"), "{").unwrap();
    refused(&world, &layout, &[], 6, "index.json");
    refused(&world, &world.path("no-such-file"), &[], 4, "no-such-file");
    let no_base = "the base no-such-image is not in the store\nhint: `plywood image list`";
    refused(&world, &largest_blob(&layout), &["--base", "no-such-image"], 4, no_base);
}

#[test]
fn unknown_layers_and_other_platforms() {
    let (world, layout) = prepared();
    fs::remove_dir_all(&layout).unwrap();
    let odd = "application/vnd.example.layer.v1.tar+brotli";
    Layout { media_type: odd, name: "odd:1", ..Layout::tiny() }.write(&layout);
    refused(&world, &layout, &[], 8, "brotli");
}

#[test]
fn layers_that_play_tricks() {
    let world = World::with_image();
    let outside = world.path("outside");
    type Build = fn(&mut Tar);
    let tricks: [(&str, Build); 5] = [
        ("a path upwards", |tar| {
            tar.file("../outside", 0o644, b"x");
        }),
        ("a path upwards in the middle", |tar| {
            tar.file("a/../../outside", 0o644, b"x");
        }),
        ("a hard link to nothing", |tar| {
            tar.link("a", "no/such/file");
        }),
        ("hard links in a circle", |tar| {
            tar.link("a", "b").link("b", "a");
        }),
        ("a whiteout of nothing", |tar| {
            tar.file("a/.wh.", 0o644, b"");
        }),
    ];
    for (what, build) in tricks {
        let mut tar = Tar::new();
        build(&mut tar);
        let path = bare(&world, tar);
        let before = content(&world);
        let mut command = world.plywood();
        command.args(["image", "import", "--base", "tiny:1", "--ref", "trick:1"]).arg(path);
        let outcome = Outcome::of(command.output().unwrap());
        // Refused as corrupt, or taken without harm; never anything written elsewhere.
        assert!([0, 6].contains(&outcome.code), "{what}: {outcome:?}");
        if outcome.code == 6 {
            assert_eq!(content(&world), before, "{what}");
        } else {
            world.run(&["image", "remove", "trick:1"]).ok();
        }
        assert!(!outside.exists() && !world.path("root/outside").exists(), "{what}");
    }
    // The way out of a link to a file that is not there is a base, where one could be named and was not.
    let mut tar = Tar::new();
    tar.link("a", "no/such/file");
    let path = bare(&world, tar);
    refused(&world, &path, &["--ref", "trick:1"], 6, "hint: name the image below it with --base");
    let path = path.to_str().unwrap();
    let line = ["image", "import", "--base", "tiny:1", "--ref", "trick:1", path];
    assert!(!world.run(&line).fails(6).contains("hint: "));
    let image = world.path("link.erofs");
    let line = ["erofs", "create", "--from", path, image.to_str().unwrap()];
    assert!(!world.run(&line).fails(6).contains("hint: "));
    // Through a link that leads out: it is data, and nothing is followed.
    let mut tar = Tar::new();
    tar.symlink("way", world.path("").to_str().unwrap().get(..90).unwrap_or("/tmp"))
        .file("way/x", 0o644, b"x");
    let path = bare(&world, tar);
    let image = world.path("link.erofs");
    let line = ["erofs", "create", "--from", path.to_str().unwrap(), image.to_str().unwrap()];
    let outcome = world.run(&line);
    assert!([0, 6].contains(&outcome.code), "{outcome:?}");
    assert!(!world.path("x").exists());
}

#[test]
fn images_that_are_damaged() {
    let world = World::new();
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let mut tar = Tar::new();
    tar.directory("d", 0o755).file("d/f", 0o644, &[1; 5000]);
    fs::write(path("in.tar"), tar.finish()).unwrap();
    world.run(&["erofs", "create", "--from", &path("in.tar"), &path("good.erofs")]).ok();
    let good = fs::read(path("good.erofs")).unwrap();
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", &[b'x'; 8192]),
        ("short", &good[..1500]),
        ("cut", &good[..good.len() - 6000]),
    ] {
        fs::write(path(name), bytes).unwrap();
        for verb in ["info", "ls", "dump", "check"] {
            let outcome = world.run(&["erofs", verb, &path(name)]);
            // What can still be shown is shown; only a check judges.
            let shown = name == "cut" || (name == "short" && ["info", "dump"].contains(&verb));
            let tolerant = shown && outcome.code == 0 && verb != "check";
            assert!(outcome.code == 6 || tolerant, "{verb} {name}: {outcome:?}");
        }
        world.run(&["erofs", "extract", &path(name), &path("out")]).fails(6);
        assert!(!world.path("out").exists(), "{name}: what was unpacked is removed again");
    }
    world.run(&["erofs", "info", &path("missing")]).fails(4);
    world.run(&["erofs", "info", &path("")]).fails(2);
    world.run(&["erofs", "create", "--from", &path("text"), &path("x.erofs")]).fails(6);
    world.run(&["erofs", "create", "--from", &path("missing"), &path("x.erofs")]).fails(4);
    world.run(&["erofs", "create", "--from", &path("in.tar"), &path("no/dir/x.erofs")]).fails(4);
    let left: Vec<_> =
        fs::read_dir(world.path("")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn names_that_do_not_exist() {
    let world = World::with_image();
    for line in [
        &["image", "inspect", "nope"][..],
        &["image", "remove", "nope"],
        &["image", "remove", "tiny:1", "nope"],
        &["image", "export", "nope", "-"],
        &["run", "nope"],
        &["snapshot", "info", "nope"],
        &["snapshot", "remove", "nope"],
        &["snapshot", "prepare", "key", "nope"],
        &["snapshot", "commit", "name", "nope"],
        &["snapshot", "usage", "nope"],
        &["snapshot", "diff", "nope"],
        &["snapshot", "mounts", "nope"],
        &["snapshot", "label", "nope", "a=b"],
    ] {
        world.run(line).fails(4);
    }
    assert_eq!(world.json(&["image", "list"]).len(), 1, "all or none are removed");
    world.run(&["snapshot", "prepare", "work", "tiny:1"]).ok();
    world.run(&["snapshot", "prepare", "work", "tiny:1"]).fails(5);
    world.run(&["snapshot", "view", "work", "tiny:1"]).fails(5);
    let chain = world.json(&["image", "inspect", "tiny:1"])[0]["layers"][0]["snapshot"].clone();
    world.run(&["snapshot", "remove", chain.as_str().unwrap()]).fails(5);
    world.run(&["snapshot", "list", "--filter", "kind="]).fails(2);
    let empty = World::new();
    empty.run(&["image", "list"]).fails(4);
    empty.run(&["run", "x"]).fails(4);
    assert!(!empty.path("root").exists(), "looking makes no store");
}

#[test]
fn stores_that_cannot_be_used() {
    let world = World::with_image();
    let layout = world.path("layout");
    Layout { config: json!({ "Cmd": ["x"] }), name: "second:1", ..Layout::tiny() }.write(&layout);
    let program = world.plywood().get_program().to_string_lossy().into_owned();
    let private = |script: &str| {
        let output = Command::new("unshare")
            .args(["-m", "sh", "-ec", script])
            .env("R", world.path("root"))
            .env("PLYWOOD_ROOT", world.path("root"))
            .env("PLYWOOD_RUN", world.path("run"))
            .env("P", &program)
            .env("L", &layout)
            .output()
            .unwrap();
        Outcome::of(output)
    };
    let read_only = "mount --bind $R $R; mount -o remount,bind,ro $R; ";
    private(&format!("{read_only} exec $P image import $L")).fails(7);
    assert!(private(&format!("{read_only} exec $P image list")).ok().contains("tiny:1"));
    private(&format!("{read_only} exec $P run tiny:1")).fails(7);
    private(&format!("{read_only} exec $P run --keep --name kept tiny:1")).fails(7);
    world.assert_no_traces();
    private("mount -t tmpfs -o size=1m none $R; exec $P image import $L").fails(9);
    world.run(&["run", "--runtime", "/no/such/runtime", "tiny:1"]).fails(3);
    world.assert_no_traces();
    fs::write(world.path("root/metadata.redb"), "not a database").unwrap();
    let error = world.run(&["image", "list"]).fails(6);
    assert!(error.contains("hint: `plywood fsck` says what is damaged"), "{error}");
}

#[test]
fn what_cannot_be_run_is_said() {
    use std::os::unix::ffi::OsStrExt as _;

    let world = World::with_image();
    world.run(&["snapshot", "prepare", "work", "tiny:1"]).ok();
    world.run(&["snapshot", "commit", "mine", "work"]).ok();
    let error = world.run(&["run", "mine"]).fails(4);
    assert!(error.contains("mine is a snapshot"), "{error}");
    let tar = fs::File::create(world.path("mine.tar")).unwrap();
    let mut diff = world.plywood();
    assert!(
        diff.args(["snapshot", "diff", "--tar", "mine"]).stdout(tar).status().unwrap().success()
    );
    let mut import = world.plywood();
    import.args(["image", "import", "--base", "tiny:1", "--ref", "mine:1", "-"]);
    let tar = fs::File::open(world.path("mine.tar")).unwrap();
    Outcome::of(import.stdin(tar).output().unwrap()).ok();

    let error = world.run(&["run", "--runtime", "/bin/false", "tiny:1"]).fails(3);
    assert!(error.contains("/bin/false is no OCI runtime that works here"), "{error}");
    let mut run = world.plywood();
    let directory = world.path("").join(std::ffi::OsStr::from_bytes(b"\xff"));
    run.arg("--run").arg(&directory).args(["run", "tiny:1"]);
    let error = Outcome::of(run.output().unwrap()).fails(2);
    assert!(error.contains("\\xff is not UTF-8\nhint: "), "{error}");
    assert!(!directory.exists());
    world.assert_no_traces();
}

#[test]
fn an_interrupted_import_cleans_up() {
    use std::io::Write as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    let world = World::with_image();
    let before = content(&world);
    // An archive that never goes on: the import waits for the rest of it.
    let mut tar = Tar::new();
    tar.file("unseen", 0o644, &vec![1; 200_000]);
    let mut child = world
        .plywood()
        .args(["image", "import", "--base", "tiny:1", "--ref", "never:1", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&tar.finish()[..100_000]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let begin = std::time::Instant::now();
    let status = child.wait().unwrap();
    assert!(begin.elapsed() < std::time::Duration::from_secs(5));
    assert_eq!(status.signal(), Some(2), "it ends by the signal: {status:?}");
    drop(input);
    assert_eq!(content(&world), before);
}

#[test]
fn a_lost_scratch_is_said() {
    let world = World::new();
    let layout = world.path("layout");
    Layout::tiny().write(&layout);
    world.run(&["image", "import", layout.to_str().unwrap()]).ok();
    let lose = || {
        for scratch in fs::read_dir(world.path("root/snapshots")).unwrap() {
            fs::remove_dir_all(scratch.unwrap().path()).unwrap();
        }
    };
    world.run(&["snapshot", "prepare", "work"]).ok();
    lose();
    // Whichever command comes first makes it again.
    let listed = world.run(&["snapshot", "list"]);
    assert!(listed.stderr.contains("was missing and was made again, empty"), "{}", listed.stderr);
    assert_eq!(world.run(&["fsck"]).stderr, "");
    lose();
    let checked = world.run(&["fsck"]).ok();
    assert!(checked.contains("scratch-missing: snapshot work"), "{checked}");
}
