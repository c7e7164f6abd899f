//! Commands beside a daemon that has the store open: the same results, errors and exit codes as without it, and what
//! becomes of them when the daemon or the command ends early.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use regex::Regex;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Daemon, Layout, Outcome, Tar, World, text};

/// What differs from one run to the next whoever does it: places, times, and digests of disks with times.
fn masked(world: &World, text: &str) -> String {
    let place = world.path("").to_string_lossy().trim_end_matches('/').to_owned();
    let mut text = text.replace(&place, "WORLD");
    for (pattern, mask) in [
        (r"commit:[0-9a-f]{64}", "commit:…"),
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
        (r#""seconds":[0-9.e-]+"#, r#""seconds":0"#),
        (r"\d+\.\d\d s, .*/s of tar", "0 s"),
        (r"(?m) \d+s *$", " AGE"),
        (r#""age_seconds":\d+"#, r#""age_seconds":0"#),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, mask).into_owned();
    }
    text
}

/// Everything that commands say and return, from an empty store to an empty store.
fn story(world: &World) -> Vec<String> {
    fs::create_dir(world.path("in")).unwrap();
    Layout::tiny().write(&world.path("in/layout"));
    Layout { name: "other:1", ..Layout::tiny() }.write(&world.path("in/other"));
    let mut tar = Tar::new();
    tar.directory("added", 0o755).file("added/file", 0o644, b"bare\n");
    fs::write(world.path("in/bare.tar"), tar.finish()).unwrap();
    let mut tar = Tar::new();
    tar.link("linked", "greeting");
    fs::write(world.path("in/link.tar"), tar.finish()).unwrap();
    fs::write(world.path("in/garbage"), b"no archive at all").unwrap();
    fs::create_dir(world.path("in/empty")).unwrap();
    // A daemon makes the store.
    world.run(&["snapshot", "view", "first"]).ok();
    world.run(&["snapshot", "remove", "first"]).ok();

    let mut told = Vec::new();
    let mut tell = |line: &str, input: Option<&str>| {
        let mut command = world.plywood();
        // Relative paths are the caller's.
        command.current_dir(world.path("in")).args(line.split_whitespace());
        if let Some(input) = input {
            command.stdin(fs::File::open(world.path(input)).unwrap());
        }
        let outcome = Outcome::of(command.output().unwrap());
        told.push(format!(
            "$ plywood {line}\n{}\n{}\n{}",
            outcome.code,
            masked(world, &outcome.stdout),
            masked(world, &outcome.stderr)
        ));
    };
    for line in [
        "--format json fsck",
        "image list",
        "snapshot list",
        "image import no/such/file",
        "image import garbage",
        "image import empty",
        "image import /dev/null",
        "image import bare.tar --base nothing:1 --ref x:1",
        "image import link.tar --ref x:1",
        "image import layout --platform plan9/mips",
        "image import layout --ref bad\u{7}name",
        "image import layout",
        "image import layout",
        "--format json image import other --ref another:2",
        "image import bare.tar --base tiny:1 --ref based",
        "image list",
        "image list -q",
        "--format json image list",
        "image inspect tiny:1",
        "--format json image inspect based",
        "image inspect --raw tiny:1",
        "image inspect nothing",
        "snapshot prepare a tiny:1 --label k=v",
        "snapshot prepare a tiny:1",
        "snapshot prepare b nothing",
        "snapshot prepare b a",
        "snapshot prepare small --scratch-size 1K",
        "snapshot prepare disk tiny:1 --scratch-size 16M",
        "snapshot view v based",
        "snapshot view w",
        "snapshot label a more=1 k=",
        "snapshot label nothing k=v",
        "snapshot info a",
        "--format json snapshot info a",
        "snapshot info nothing",
    ] {
        tell(line, None);
    }
    tell("image import - --ref piped:1 --base tiny:1", Some("in/bare.tar"));
    tell("image import - --ref piped:2", Some("in/garbage"));
    let scratch = world.path("root/snapshots").join(number(world, "a")).join("fs");
    fs::write(scratch.join("new"), "new").unwrap();
    // How long a time is in a tar depends on its zeros.
    for path in [scratch.join("new"), scratch] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
    for line in [
        "snapshot diff a",
        "snapshot mounts a /mnt",
        "snapshot mounts nothing",
        "snapshot commit c nothing",
        "snapshot commit a a",
        "snapshot commit c a --label l=1",
        "snapshot commit d v",
        "snapshot commit fixed disk",
        "snapshot diff c",
        "snapshot diff --tar c",
        "snapshot prepare on-c c",
        "snapshot remove c",
        "snapshot remove nothing",
        "snapshot list",
        "snapshot list --filter kind==committed -q",
        "snapshot list --filter kind=~~",
        "--format json snapshot list",
        "snapshot tree",
        "--format json snapshot tree",
        "snapshot usage",
        "--format json snapshot usage c on-c",
        "snapshot usage nothing",
        "mount ls",
        "image export tiny:1 out.tar",
        "image export tiny:1 out.tar",
        "image export nothing out2.tar",
        "image export based -",
        "gc --dry-run",
        "--format json gc --dry-run",
        "image remove nothing tiny:1",
        "image remove tiny:1 another:2 other:1",
        "image remove tiny:1 another:2",
        "gc --dry-run",
        "gc",
        "--format json gc",
        "fsck",
        "fsck --repair",
        "--format json fsck",
        "snapshot remove on-c c v w fixed",
        "image remove based piped:1",
        "gc",
        "fsck",
        "image list",
        "snapshot list -q",
    ] {
        tell(line, None);
    }
    told
}

fn number(world: &World, key: &str) -> String {
    world.json(&["snapshot", "info", key])[0]["number"].to_string()
}

#[test]
fn privileged_every_verb_says_the_same_with_a_daemon() {
    let (with, without) = (World::new(), World::new());
    let daemon = Daemon::new(&with);
    let asked = story(&with);
    daemon.stop();
    let alone = story(&without);
    for (asked, alone) in asked.iter().zip(&alone) {
        assert_eq!(asked, alone);
    }
    // The comparison means something: there were successes and failures of each sort.
    for code in ["0", "1", "2", "4", "5", "6", "8"] {
        let line = format!("\n{code}\n");
        assert!(
            code == "1" || alone.iter().any(|told| told.contains(&line)),
            "none ended with {code}"
        );
    }
}

#[test]
fn privileged_what_is_read_is_the_same_byte_for_byte() {
    let world = World::with_image();
    world.run(&["snapshot", "prepare", "a", "tiny:1", "--label", "k=v"]).ok();
    let read = || {
        let lines = [
            "--format json image list",
            "image inspect tiny:1",
            "--format json snapshot list",
            "--format json snapshot tree",
            "snapshot info a",
            "snapshot usage",
            "image export tiny:1 -",
            "fsck",
            "gc --dry-run",
            "snapshot info nothing",
        ];
        lines.map(|line| {
            let output = world.plywood().args(line.split(' ')).output().unwrap();
            (output.status.code(), output.stdout, output.stderr)
        })
    };
    let daemon = Daemon::new(&world);
    let asked = read();
    daemon.kill();
    assert!(asked == read());
}

#[test]
fn privileged_a_daemon_elsewhere_and_a_second_one_are_named() {
    let world = World::new();
    let daemon = Daemon::new(&world);
    let address = world.path("run/plywood.sock");
    let begin = Instant::now();
    let error = world.run(&["--address", "/no/such/socket", "snapshot", "list"]).fails(5);
    for word in [&daemon.pid().to_string(), "--address", &*address.to_string_lossy()] {
        assert!(error.contains(word), "{word} is not in {error}");
    }
    for arguments in [&["serve"][..], &["--address", "/tmp/no-such/other.sock", "serve"]] {
        let error = world.run(arguments).fails(5);
        assert!(error.contains(&daemon.pid().to_string()), "{error}");
    }
    let elsewhere = world.path("run2");
    let mut command = world.plywood();
    command.env("PLYWOOD_RUN", &elsewhere).args(["image", "import", "/dev/null"]);
    let error = Outcome::of(command.output().unwrap()).fails(5);
    assert!(error.contains(&daemon.pid().to_string()), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(20), "nobody waits for a daemon to end");
    // The address is enough, whatever the run directory is.
    let mut command = world.plywood();
    command.env("PLYWOOD_RUN", &elsewhere).env("PLYWOOD_ADDRESS", &address);
    Outcome::of(command.args(["snapshot", "list"]).output().unwrap()).ok();
    // Another store is not that daemon's affair.
    let mut command = world.plywood();
    command.env("PLYWOOD_ROOT", world.path("root2")).args(["snapshot", "prepare", "mine"]);
    Outcome::of(command.output().unwrap()).ok();
    assert_eq!(world.run(&["snapshot", "list", "-q"]).ok(), "");
}

#[test]
fn privileged_a_user_without_rights_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let plywood = dir.path().join("plywood");
    fs::copy(assert_cmd::cargo::cargo_bin!("plywood"), &plywood).unwrap();
    let world = World::new();
    let address = dir.path().join("plywood.sock");
    let mut serve = world.plywood();
    serve.env("PLYWOOD_ADDRESS", &address).env("PLYWOOD_ROOT", dir.path().join("root"));
    let mut serve = Ended(serve.arg("serve").stderr(Stdio::null()).spawn().unwrap());
    wait_for(|| address.exists());
    let mut command = std::process::Command::new(&plywood);
    command.env("PLYWOOD_ADDRESS", &address).env("PLYWOOD_ROOT", dir.path().join("root"));
    command.current_dir("/").args(["snapshot", "list"]).uid(65534).gid(65534);
    let error = Outcome::of(command.output().unwrap()).fails(7);
    assert!(error.contains("hint: run it as root"), "{error}");
    serve.0.kill().unwrap();
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An import that reads a pipe whose other end says no more.
fn stuck(world: &World) -> (Child, ChildStdin) {
    let mut command = world.plywood();
    command.args(["image", "import", "-", "--ref", "late:1"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Waiting for a child would close it.
    let mut input = child.stdin.take().unwrap();
    input.write_all(&[0; 512]).unwrap();
    wait_for(|| staged(world) == 1);
    (child, input)
}

fn staged(world: &World) -> usize {
    fs::read_dir(world.path("root/staging")).map_or(0, Iterator::count)
}

#[test]
fn privileged_a_command_that_is_interrupted_ends_its_work_in_the_daemon() {
    let world = World::new();
    let daemon = Daemon::new(&world);
    for signal in [Signal::INT, Signal::KILL] {
        let (import, _input) = stuck(&world);
        kill_process(Pid::from_child(&import), signal).unwrap();
        let status = import.wait_with_output().unwrap().status;
        assert_eq!(status.signal(), Some(signal.as_raw()));
        wait_for(|| staged(&world) == 0);
    }
    assert_eq!(world.run(&["image", "list", "-q"]).ok(), "");
    daemon.stop();
}

#[test]
fn privileged_a_daemon_killed_in_a_call_is_said_and_loses_nothing() {
    let world = World::with_image();
    let daemon = Daemon::new(&world);
    world.run(&["snapshot", "prepare", "a", "tiny:1"]).ok();
    let (import, _input) = stuck(&world);
    let pid = daemon.pid();
    daemon.kill();
    let output = import.wait_with_output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for word in ["the daemon at", &format!("process {pid}"), "ended before it answered", "hint: "] {
        assert!(error.contains(word), "{word} is not in {error}");
    }
    // Without it, and with the next one.
    assert_eq!(world.run(&["snapshot", "list", "-q", "--filter", "kind==active"]).ok(), "a\n");
    assert_eq!(staged(&world), 0);
    let daemon = Daemon::new(&world);
    assert_eq!(world.run(&["snapshot", "list", "-q", "--filter", "kind==active"]).ok(), "a\n");
    assert!(world.run(&["fsck"]).ok().ends_with("clean\n"));
    daemon.stop();
    assert!(!world.path("run/plywood.sock").exists());
    assert!(!world.path("root/serving.json").exists());
}

#[test]
fn privileged_commands_go_on_while_daemons_come_and_go() {
    let world = World::with_image();
    let stop = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let commands = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let key = format!("k{}", count.load(Ordering::Relaxed));
                let prepared = world.run(&["snapshot", "prepare", &key, "tiny:1"]);
                let removed = world.run(&["snapshot", "remove", &key]);
                // To be cut in a call is the one thing that may happen to them.
                let cut = |outcome: &Outcome| outcome.stderr.contains("before it answered");
                assert!(prepared.code == 0 || cut(&prepared), "{prepared:?}");
                let never_made = prepared.code != 0 && removed.code == 4;
                assert!(removed.code == 0 || cut(&removed) || never_made, "{removed:?}");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        // On a busy host few commands fit into a round.
        for round in 0..60 {
            if round >= 6 && count.load(Ordering::Relaxed) > 10 {
                break;
            }
            let daemon = Daemon::new(&world);
            std::thread::sleep(Duration::from_millis(150));
            if round % 2 == 0 {
                daemon.stop()
            } else {
                daemon.kill()
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
        commands.join().unwrap();
        assert!(count.load(Ordering::Relaxed) > 10);
    });
    assert!(world.run(&["fsck"]).ok().ends_with("clean\n"));
}

#[test]
fn the_configuration_is_shown_with_its_sources() {
    let world = World::new();
    let file = world.path("config.toml");
    fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    let file = file.to_str().unwrap();
    let shown = world.json(&["--run", "/run/x", "config", "show", "--config", file]);
    let of = |key: &str| shown.iter().find(|setting| setting["key"] == key).unwrap().clone();
    assert_eq!(of("run")["value"], "\"/run/x\"");
    assert_eq!(of("run")["source"], "flag --run");
    assert_eq!(of("root")["source"], "environment PLYWOOD_ROOT");
    assert_eq!(of("log.level")["source"], format!("{file}:2"));
    assert_eq!(of("log.format")["source"], "default");
    fs::write(world.path("config.toml"), "[log]\nlevle = \"debug\"\n").unwrap();
    let error = world.run(&["config", "show", "--config", file]).fails(2);
    assert!(error.contains("levle") && error.contains(":2"), "{error}");
}

#[test]
fn containerd_is_told_where_the_daemon_is() {
    let world = World::new();
    let said = world.run(&["containerd-config", "--version", "2.x", "--name", "wood"]).ok();
    let address = format!("address = {:?}", world.path("run/plywood.sock"));
    assert_eq!(said.matches(&address).count(), 2, "{said}");
    assert!(said.contains(&format!("root = {:?}", world.path("root"))), "{said}");
    assert!(said.contains("default = [\"wood-diff\", \"walking\"]"), "{said}");
    world.run(&["containerd-config", "--version", "1.6", "--differ"]).fails(8);
    assert!(!world.path("root").exists() && !world.path("run").exists(), "it only prints");
}
