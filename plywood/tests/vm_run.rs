//! Containers in a virtual machine, from the command line: needs root, vhost-device-vsock, the kit and QEMU that
//! `cargo xtask vm-kit` makes and fetches, and busybox-static. One machine for all.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{IMAGE, Layout, Outcome, Tar, World};

/// A command that is killed with its test.
struct Owner(Child);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kit that `PLYWOOD_VM_KIT` names, or else the one that xtask makes.
fn kit() -> PathBuf {
    let made = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/vm/kit");
    std::env::var_os("PLYWOOD_VM_KIT").map_or_else(|| made.into(), PathBuf::from)
}

fn plywood(world: &World) -> Command {
    let mut command = world.plywood();
    command.env("PLYWOOD_VM_KIT", kit());
    command
}

fn start(world: &World, options: &[&str], script: &str) -> (Owner, BufReader<ChildStdout>) {
    let mut command = plywood(world);
    command
        .args(["run", "--isolation", "vm"])
        .args(options)
        .args([IMAGE, "--", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let child = Owner(child);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    (child, output)
}

fn end(mut child: Owner) -> i32 {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if begin.elapsed() > Duration::from_secs(60) {
            panic!("the container does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn vm_containers_share_a_machine() {
    let world = World::with_image();
    let share = world.path("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("question"), "here\n").unwrap();
    fs::write(world.path("single"), "one\n").unwrap();
    let shared = format!("type=bind,source={},target=/share", share.display());
    let single = format!("type=bind,source={},target=/single,ro", world.path("single").display());
    let (owner, mut output) = start(
        &world,
        &["--name", "box", "--keep", "--mount", &shared, "--mount", &single],
        "trap 'echo got it; exit 5' USR1; echo new > /new; cat /share/question > /share/answer; \
         cat /single >> /share/answer; echo x 2>/dev/null > /single || echo refused >> /share/answer; \
         echo started; while :; do sleep 0.1; done",
    );
    assert_eq!(fs::read_to_string(share.join("answer")).unwrap(), "here\none\nrefused\n");

    joining(&world);
    disks(&world);
    refusals(&world);

    kill_process(Pid::from_child(&owner.0), Signal::TERM).unwrap();
    assert_eq!(end(owner), 5);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got it\n", "TERM arrives as the image's stop signal");
    assert!(!world.path("run/vm/box").exists());
    let diff = world.run(&["snapshot", "diff", "container/box"]);
    assert!(diff.stdout.contains("+ /new"), "{}", diff.stdout);
    assert_eq!(world.run(&["snapshot", "remove", "container/box"]).code, 0);
    world.assert_no_traces();
}

/// Other commands run containers in it.
fn joining(world: &World) {
    let roots = || {
        let slots = world.json(&["vm", "slots", "box"]);
        let layers = slots.iter().filter(|slot| slot["read_only"] == true).count();
        (layers, slots.iter().filter(|slot| slot["kind"] == "root").count())
    };
    let (layers, before) = roots();
    assert!(layers > 0);
    assert_eq!(before, 1);
    let mut command = plywood(world);
    command.args(["run", "--isolation", "vm", "--vm", "box", "-i", IMAGE, "--", "sh", "-c"]);
    command.arg("cat; echo err >&2; exit 9").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (9, "through\n"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "err\n");
    assert_eq!(roots(), (layers, 1), "it has given back everything");

    // A command that is killed takes its container with it.
    let (mut joined, _output) =
        start(world, &["--vm", "box", "--name", "victim"], "echo started; sleep 600");
    assert_eq!(roots(), (layers, 2));
    joined.0.kill().unwrap();
    joined.0.wait().unwrap();
    let names = |world: &World| -> Vec<String> {
        let found = world.json(&["vm", "inspect", "box"]);
        let containers = found[0]["containers"].as_array().unwrap().clone();
        containers.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while names(world) != ["box"] {
        assert!(Instant::now() < deadline, "the container outlives its command");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(roots(), (layers, 1));
}

fn disks(world: &World) {
    let disk = world.path("spare.img");
    fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let disk = disk.to_str().unwrap();
    let attached = world.json(&["vm", "attach", "--mkfs", "--mount", "box", disk]);
    assert!(attached[0]["path"].as_str().unwrap().starts_with("/run/mounts/scsi/"));
    let there = || world.json(&["vm", "slots", "box"]).iter().any(|slot| slot["path"] == disk);
    assert!(there());
    assert_eq!(world.run(&["vm", "detach", "box", disk]).code, 0);
    assert!(!there());
    assert_eq!(world.run(&["vm", "detach", "box", disk]).code, 4);
    assert_eq!(world.run(&["vm", "attach", "box", "/dev/null"]).code, 2);
}

fn refusals(world: &World) {
    let run = |options: &[&str], command: &str| {
        let mut plywood = plywood(world);
        plywood.args(["run", "--isolation", "vm"]).args(options).args([IMAGE, "--", command]);
        Outcome::of(plywood.output().unwrap())
    };
    let missing = run(&["--vm", "box"], "/no/such/program");
    assert_eq!(missing.code, 4, "{}", missing.stderr);
    let twice = run(&["--name", "box"], "true");
    assert_eq!(twice.code, 5, "{}", twice.stderr);
    // Its scratch is mounted in the machine, and mounting it here too would destroy it.
    let diff = world.run(&["snapshot", "diff", "container/box"]);
    assert_eq!(diff.code, 5, "{}", diff.stderr);
    assert!(diff.stderr.contains("virtual machine"), "{}", diff.stderr);
}

/// The machine that was started ends with its test, also with one that fails.
struct Warm<'a>(&'a World);

impl Drop for Warm<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&["vm", "stop", "--time", "0", "warm"]);
    }
}

#[test]
fn vm_a_started_machine_stays_until_it_is_stopped() {
    let world = World::with_image();
    let _warm = Warm(&world);
    let run = |words: &[&str]| Outcome::of(plywood(&world).args(words).output().unwrap());
    import(&world, "proved:1", "data", &vec![b'7'; 300 << 10], &["--verity"]);
    pad(&world);
    let started = run(&["vm", "start", "--vm-memory", "512M", "--vm-pmem", "warm"]);
    assert_eq!((started.code, started.stdout.as_str()), (0, "warm\n"), "{}", started.stderr);
    let twice = run(&["vm", "start", "warm"]);
    assert_eq!(twice.code, 5, "{}", twice.stderr);
    for word in ["one", "two"] {
        let said = run(&["run", "--isolation", "vm", "--vm", "warm", IMAGE, "--", "echo", word]);
        assert_eq!((said.code, said.stdout), (0, format!("{word}\n")), "{}", said.stderr);
    }
    proved(&world);
    persistent_memory(&world);
    scratches(&world);
    let found = world.json(&["vm", "inspect", "warm"]);
    assert_eq!((&found[0]["memory"], &found[0]["containers"]), (&512.into(), &[0; 0][..].into()));
    let owner = found[0]["pid"].as_i64().unwrap();
    assert_eq!(run(&["vm", "stop", "warm"]).code, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while PathBuf::from(format!("/proc/{owner}")).exists() || world.path("run/vm/warm").exists() {
        assert!(Instant::now() < deadline, "the owner outlives its machine");
        std::thread::sleep(Duration::from_millis(50));
    }
    let nothing = run(&["vm", "start", "--kit", "/no/such", "warm"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (3, ""), "{}", nothing.stderr);
    world.assert_no_traces();
}

/// An image like the tiny one, with one file more.
fn import(world: &World, name: &'static str, file: &str, content: &[u8], options: &[&str]) {
    let mut layout = Layout { name, ..Layout::tiny() };
    let mut tar = Tar::new();
    tar.file(file, 0o644, content);
    layout.layers.push(tar.finish());
    let path = world.path("another");
    layout.write(&path);
    let words = [&["image", "import"], options, &[path.to_str().unwrap()]].concat();
    world.run(&words).ok();
    fs::remove_dir_all(path).unwrap();
}

/// The topmost layer image of an image in the store.
fn top_layer(world: &World, name: &str) -> PathBuf {
    let found = world.json(&["image", "inspect", name]);
    let layers = found[0]["layers"].as_array().unwrap();
    let id = layers.last().unwrap()["id"].as_str().unwrap();
    world.path("root/layers").join(format!("{}.erofs", id.trim_start_matches("sha256:")))
}

/// Imports `padded:1`, whose topmost layer image has whole 2 MiB.
fn pad(world: &World) {
    const UNIT: usize = 2 << 20;
    for blocks in 1..8 {
        import(world, "padded:1", "pad", &vec![b'p'; UNIT - 4096 * blocks], &[]);
        if fs::metadata(top_layer(world, "padded:1")).unwrap().len() == UNIT as u64 {
            return;
        }
    }
    panic!("no layer image has 2 MiB");
}

fn in_warm(world: &World, options: &[&str], image: &str, script: &str) -> Outcome {
    let mut command = plywood(world);
    command.args(["run", "--isolation", "vm", "--vm", "warm"]).args(options);
    Outcome::of(command.args([image, "--", "sh", "-c", script]).output().unwrap())
}

/// Layers that were imported with hash trees are read through them, and what was changed is not read.
fn proved(world: &World) {
    let script = "cat /sys/block/dm-*/dm/name; cat /data | wc -c";
    let said = in_warm(world, &[], "proved:1", script).ok();
    assert_eq!(said.matches("dm-verity-scsi").count(), 3, "{said}");
    assert!(said.ends_with("307200\n"), "{said}");
    let layer = top_layer(world, "proved:1");
    let mut bytes = fs::read(&layer).unwrap();
    let at = bytes.windows(4096).position(|block| block.iter().all(|byte| *byte == b'7')).unwrap();
    bytes[at + 20000] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    let outcome = in_warm(world, &[], "proved:1", "cat /data | wc -c");
    assert!(outcome.stderr.contains("Input/output error"), "{outcome:?}");
    bytes[at + 20000] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    in_warm(world, &[], "proved:1", "cat /data > /dev/null").ok();
    fs::remove_file(layer.with_extension("verity")).unwrap();
    let said = in_warm(world, &[], "proved:1", "true").fails(4);
    assert!(said.contains(".verity"), "without its tree a layer is not mounted: {said}");
}

/// A layer of whole 2 MiB is persistent memory, others are disks.
fn persistent_memory(world: &World) {
    let said = in_warm(world, &[], "padded:1", "ls /sys/block; cat /pad | wc -c").ok();
    assert!(said.contains("pmem0\n") && !said.contains("pmem1"), "{said}");
}

fn scratches(world: &World) {
    let script = "cat /sys/block/dm-*/dm/name; echo x > /new && cat /new";
    let options = ["--encrypted-scratch", "--scratch-size", "400M"];
    let said = in_warm(world, &options, IMAGE, script).ok();
    assert!(said.contains("dm-crypt-scsi") && said.ends_with("x\n"), "{said}");
    let small = in_warm(world, &["--encrypted-scratch", "--scratch-size", "64M"], IMAGE, "true");
    assert!(small.fails(2).contains("too small"));
    let script = "dd if=/dev/zero of=/fill bs=1M count=64 2>&1; echo still here";
    let said = in_warm(world, &["--scratch-size", "24M"], IMAGE, script).ok();
    assert!(said.contains("No space left on device") && said.ends_with("still here\n"), "{said}");
    assert_eq!(in_warm(world, &["--encrypted-scratch", "--keep"], IMAGE, "true").code, 2);
    world.run(&["run", "--encrypted-scratch", IMAGE]).fails(2);
    world.run(&["run", "--vm-pmem", IMAGE]).fails(2);
}
