//! Containers in a virtual machine, from the command line: needs root, QEMU, vhost-device-vsock, the kit that
//! `cargo xtask vm-kit` makes, and busybox-static. One machine for all.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{IMAGE, Outcome, World};

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

#[test]
fn vm_a_started_machine_stays_until_it_is_stopped() {
    let world = World::with_image();
    let run = |words: &[&str]| Outcome::of(plywood(&world).args(words).output().unwrap());
    let started = run(&["vm", "start", "--vm-memory", "512M", "warm"]);
    assert_eq!((started.code, started.stdout.as_str()), (0, "warm\n"), "{}", started.stderr);
    let twice = run(&["vm", "start", "warm"]);
    assert_eq!(twice.code, 5, "{}", twice.stderr);
    for word in ["one", "two"] {
        let said = run(&["run", "--isolation", "vm", "--vm", "warm", IMAGE, "--", "echo", word]);
        assert_eq!((said.code, said.stdout), (0, format!("{word}\n")), "{}", said.stderr);
    }
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
