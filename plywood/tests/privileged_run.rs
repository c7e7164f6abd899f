//! Containers on the real kernel, from import to the last trace: needs root, runc or crun, and busybox-static.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Daemon, IMAGE, World};

/// A container that runs in the background and has printed its first line.
struct Started {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Started {
    fn new(world: &World, options: &[&str], script: &str) -> Self {
        let mut command = world.plywood();
        command.arg("run").args(options).args([IMAGE, "--", "sh", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "started\n");
        Self { child, output }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code, after at most 20 seconds, and what else it printed.
    fn end(mut self) -> (i32, String) {
        drop(self.child.stdin.take());
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > Duration::from_secs(20) {
                self.child.kill().unwrap();
                panic!("the container does not end");
            }
            sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (status.code().unwrap_or(-1), rest)
    }
}

#[test]
fn privileged_the_images_configuration_is_honoured() {
    let world = World::with_image();
    assert_eq!(world.run(&["run", IMAGE]).ok(), "hello from the second layer\n");
    let said = world.shell(&["--name", "box"], "pwd; id -u; hostname; echo $GREETING $HOME; ls /");
    let said = said.ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], ["/work/dir", "0", "box", "hi /root"]);
    assert!(lines.contains(&"greeting"));
    assert!(!lines.contains(&"old"), "the whiteout is applied");
    world.assert_no_traces();
}

#[test]
fn privileged_options_replace_the_images_configuration() {
    let world = World::with_image();
    let options = ["-e", "GREETING=bye", "-e", "MORE=1", "-w", "/made/here", "--hostname", "other"];
    let said = world.shell(&options, "echo $GREETING $MORE; pwd; hostname").ok();
    assert_eq!(said, "bye 1\n/made/here\nother\n");
    let said = world.run(&["run", "--entrypoint", "echo", IMAGE, "--", "a b", "c"]).ok();
    assert_eq!(said, "a b c\n");
    let said = world.shell(&["--user", "app"], "id -u; id -g; id -G; echo $HOME").ok();
    assert_eq!(said, "1000\n1001\n1001 44\n/home/app\n");
    let said = world.shell(&["--user", "7:extra"], "id -u; id -G").ok();
    assert_eq!(said, "7\n44\n");
    world.run(&["run", "--user", "nobody", IMAGE]).fails(4);
    world.assert_no_traces();
}

#[test]
fn privileged_exit_codes_and_standard_streams_pass_through() {
    let world = World::with_image();
    assert_eq!(world.shell(&[], "exit 42").code, 42);
    assert_eq!(world.shell(&[], "kill -9 $$; exit 3").code, 3, "init ignores its own signals");
    let outcome = world.shell(&[], "echo out; echo err >&2");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    let mut child = world
        .plywood()
        .args(["run", "-i", IMAGE, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut input = child.stdin.take().unwrap();
    let written = data.clone();
    let writer = std::thread::spawn(move || input.write_all(&written).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.stdout == data, "{} of {} bytes came back", output.stdout.len(), data.len());
    let error = world.run(&["run", IMAGE, "--", "/no/such/program"]).fails(4);
    let said = error.lines().filter(|line| line.contains("/no/such/program")).count();
    assert_eq!(said, 1, "once, by the runtime or by us: {error}");
    world.assert_no_traces();
}

#[test]
fn privileged_signals_reach_the_container() {
    let world = World::with_image();
    let wait = "while :; do sleep 0.05; done";
    // The image's stop signal is USR1.
    for (sent, caught) in [
        (Signal::TERM, "USR1"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script = format!("trap 'echo got {caught}; exit 7' {caught}; echo started; {wait}");
        let started = Started::new(&world, &[], &script);
        started.signal(sent);
        assert_eq!(started.end(), (7, format!("got {caught}\n")), "{sent:?}");
    }
    let deaf = format!("trap '' USR1 INT; echo started; {wait}");
    let started = Started::new(&world, &["--stop-timeout", "1"], &deaf);
    started.signal(Signal::TERM);
    assert_eq!(started.end().0, 137, "killed after the stop timeout");
    let started = Started::new(&world, &["--stop-timeout", "1000"], &deaf);
    started.signal(Signal::INT);
    sleep(Duration::from_millis(300));
    started.signal(Signal::INT);
    assert_eq!(started.end().0, 137, "killed when asked twice");
    world.assert_no_traces();
}

#[test]
fn privileged_a_terminal() {
    let world = World::with_image();
    let error = world.run(&["run", "--tty", IMAGE, "--", "tty"]).fails(2);
    assert!(error.contains("terminal"), "{error}");
    // script(1) gives the command a terminal of its own.
    let plywood = world.plywood();
    let line = format!(
        "{} run -it {IMAGE} -- sh -c 'tty; stty size; test -t 0 && echo yes; exit 9'",
        plywood.get_program().display()
    );
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("PLYWOOD_ROOT", world.path("root"))
        .env("PLYWOOD_RUN", world.path("run"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = support::text(&output.stdout);
    assert_eq!(output.status.code(), Some(9), "{said}");
    assert!(said.contains("/dev/pts/0") || said.contains("/dev/console"), "{said}");
    assert!(said.contains("yes"), "{said}");
    world.assert_no_traces();
}

#[test]
fn privileged_root_filesystem_and_mounts() {
    let world = World::with_image();
    let outcome = world.shell(&["--read-only"], "touch /x");
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    let shared = world.path("shared dir");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("in"), "from outside\n").unwrap();
    let source = shared.display();
    let script = "cat /data/in; echo inside > /data/out; touch /t/x && echo tmpfs";
    let writable = format!("type=bind,source={source},target=/data");
    let said = world
        .shell(&["--read-only", "--mount", &writable, "--mount", "type=tmpfs,target=/t"], script);
    // The mount points must be made in a root that cannot be written: that is the runtime's to refuse.
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(said.stdout, "from outside\ntmpfs\n");
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "inside\n");
    let outcome = world.shell(&["--mount", &format!("{writable},ro")], "echo no > /data/out");
    assert_ne!(outcome.code, 0);
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "inside\n");
    let missing = "type=bind,source=/no/such/source,target=/x";
    world.run(&["run", "--mount", missing, IMAGE]).fails(4);
    world.assert_no_traces();
}

#[test]
fn privileged_a_full_scratch_harms_nothing_else() {
    let world = World::with_image();
    let fill = "dd if=/dev/zero of=/big bs=1M count=64 2>&1; echo still here; cat /greeting";
    let said = world.shell(&["--scratch-size", "16M"], fill).ok();
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.ends_with("still here\nhello from the second layer\n"), "{said}");
    world.assert_no_traces();
    assert_eq!(world.run(&["run", IMAGE]).ok(), "hello from the second layer\n");
}

#[test]
fn privileged_what_a_container_writes_is_its_own() {
    let world = World::with_image();
    let change = "echo new > /new; rm /greeting; echo more >> /etc/passwd; rm -r /tmp; mkdir /tmp";
    world.shell(&["--keep", "--name", "writer"], change).ok();
    assert_eq!(world.run(&["run", IMAGE]).ok(), "hello from the second layer\n");
    let diff = world.run(&["snapshot", "diff", "container/writer"]).ok();
    for line in ["+ /new", "- /greeting", "~ /etc/passwd", "o /tmp"] {
        assert!(diff.lines().any(|found| found == line), "{line} is not in\n{diff}");
    }
    assert!(!diff.contains("busybox"), "{diff}");
    // The same as a committed layer, and as a tar.
    let tar = |key: &str| {
        let output = world.plywood().args(["snapshot", "diff", "--tar", key]).output().unwrap();
        assert!(output.status.success(), "{}", support::text(&output.stderr));
        output.stdout
    };
    let before = tar("container/writer");
    world.run(&["snapshot", "commit", "mine", "container/writer"]).ok();
    assert_eq!(world.run(&["snapshot", "diff", "mine"]).ok(), diff);
    assert!(tar("mine") == before, "a commit changes nothing");
    let target = world.path("mnt");
    fs::create_dir(&target).unwrap();
    let target_text = target.to_str().unwrap();
    world.run(&["mount", "mine", target_text]).ok();
    assert_eq!(fs::read_to_string(target.join("new")).unwrap(), "new\n");
    assert!(!target.join("greeting").exists());
    world.run(&["umount", target_text]).ok();
    world.run(&["snapshot", "remove", "mine"]).ok();
    world.run(&["gc"]).ok();
    assert!(world.run(&["fsck"]).ok().contains("clean"));
    world.assert_no_traces();
}

#[test]
fn privileged_two_containers_share_the_volumes() {
    let world = World::with_image();
    let script = "echo started; read go; echo $go";
    let first = Started::new(&world, &["--name", "one"], script);
    let second = Started::new(&world, &["--name", "two"], script);
    let listed = world.json(&["mount", "ls"]);
    let volumes: Vec<_> = listed.iter().filter(|line| line["kind"] == "volume").collect();
    assert_eq!(volumes.len(), 2, "one for each layer: {listed:?}");
    for volume in volumes {
        let holders: Vec<&str> =
            volume["holders"].as_array().unwrap().iter().filter_map(|h| h.as_str()).collect();
        assert_eq!(holders, ["container one", "container two"]);
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = world.path("run");
    let erofs =
        table.lines().filter(|l| l.contains(" - erofs ") && l.contains(here.to_str().unwrap()));
    assert_eq!(erofs.count(), 2);
    let error = world.run(&["run", "--name", "one", IMAGE]).fails(5);
    assert!(error.contains("one"), "{error}");
    // Neither the image's layers nor a running container's snapshot can be pulled away.
    world.run(&["snapshot", "remove", "container/one"]).fails(5);
    let error = world.run(&["snapshot", "commit", "taken", "container/one"]).fails(5);
    assert!(error.contains("hint: wait until the container has ended"), "{error}");
    world.run(&["image", "remove", IMAGE]).ok();
    let kept = world.run(&["gc"]).ok();
    assert!(!kept.contains("delete layer") && !kept.contains("delete snapshot"), "{kept}");
    assert_eq!(first.end().0, 0);
    assert_eq!(second.end().0, 0);
    world.assert_no_traces();
}

#[test]
fn privileged_a_killed_run_is_cleaned_up_by_the_next_command() {
    let world = World::with_image();
    for options in [&["--name", "killed"][..], &["--name", "killed", "--scratch-size", "16M"]] {
        let mut started = Started::new(&world, options, "echo started; sleep 1000");
        started.child.kill().unwrap();
        started.child.wait().unwrap();
        let traces = world.traces();
        assert!(traces.iter().any(|t| t.contains("/sys/fs/cgroup")), "it still runs: {traces:?}");
        assert_eq!(world.run(&["mount", "ls"]).ok(), "");
        world.assert_no_traces();
    }
    // A container that runs meanwhile is left alone.
    let living =
        Started::new(&world, &["--name", "living"], "echo started; read go; cat /greeting");
    let mut dead = Started::new(&world, &["--name", "dead"], "echo started; sleep 1000");
    dead.child.kill().unwrap();
    dead.child.wait().unwrap();
    let listed = world.json(&["mount", "ls"]);
    assert!(!format!("{listed:?}").contains("dead"), "{listed:?}");
    assert_eq!(living.end(), (0, "hello from the second layer\n".to_owned()));
    world.assert_no_traces();
}

#[test]
fn privileged_killed_at_any_moment() {
    let world = World::with_image();
    for round in 0..16_u64 {
        let mut command = world.plywood();
        command.args(["run", IMAGE, "--", "sleep", "1000"]).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        sleep(Duration::from_millis(round * 8));
        child.kill().unwrap();
        child.wait().unwrap();
        // The runtime may just be starting the container: what it does after its caller's death counts, too.
        let settled = Instant::now();
        loop {
            world.run(&["mount", "ls"]).ok();
            let traces = world.traces();
            if traces.is_empty() {
                break;
            }
            assert!(settled.elapsed() < Duration::from_secs(10), "round {round}: {traces:#?}");
            sleep(Duration::from_millis(50));
        }
    }
    assert!(world.run(&["fsck"]).ok().contains("clean"));
}

#[test]
fn privileged_mounts_of_images_snapshots_and_files() {
    let world = World::with_image();
    let target = world.path("mnt");
    fs::create_dir(&target).unwrap();
    let dir = target.to_str().unwrap();
    world.run(&["mount", IMAGE, dir]).ok();
    assert_eq!(
        fs::read_to_string(target.join("greeting")).unwrap(),
        "hello from the second layer\n"
    );
    assert!(fs::write(target.join("x"), "").is_err(), "read-only");
    world.run(&["mount", IMAGE, dir]).fails(5);
    world.run(&["umount", dir]).ok();
    world.run(&["umount", dir]).fails(4);
    world.assert_no_traces();

    world.run(&["mount", "--rw", "--scratch-size", "16M", IMAGE, dir]).ok();
    fs::write(target.join("x"), "written").unwrap();
    world.run(&["umount", dir]).ok();
    world.assert_no_traces();

    world.run(&["snapshot", "prepare", "work", IMAGE]).ok();
    world.run(&["mount", "work", dir]).ok();
    fs::write(target.join("y"), "kept").unwrap();
    world.run(&["snapshot", "remove", "work"]).fails(5);
    world.run(&["umount", dir]).ok();
    assert_eq!(world.run(&["snapshot", "diff", "work"]).ok(), "+ /y\n");
    let commands = world.run(&["snapshot", "mounts", "work", dir]).ok();
    let status = Command::new("sh").args(["-ec", &commands]).status().unwrap();
    assert!(status.success(), "{commands}");
    assert_eq!(fs::read_to_string(target.join("y")).unwrap(), "kept");
    assert!(Command::new("umount").arg(dir).status().unwrap().success());
    world.run(&["snapshot", "remove", "work"]).ok();
    world.assert_no_traces();

    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "in a file\n").unwrap();
    let image = world.path("image.erofs");
    let image = image.to_str().unwrap();
    world.run(&["erofs", "create", "--from", source.to_str().unwrap(), image]).ok();
    world.run(&["mount", image, dir]).ok();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "in a file\n");
    world.run(&["umount", dir]).ok();
    world.run(&["mount", "no-such-image", dir]).fails(4);
    world.run(&["mount", "/no/such/file", dir]).fails(4);
    world.run(&["mount", IMAGE, "/no/such/dir"]).fails(4);
    world.assert_no_traces();
}

#[test]
fn privileged_the_whole_life_of_an_image() {
    let world = World::with_image();
    let images = world.json(&["image", "list"]);
    assert_eq!((images.len(), &images[0]["reference"]), (1, &IMAGE.into()));
    let archive = world.path("archive.tar");
    let archive = archive.to_str().unwrap();
    world.run(&["image", "export", IMAGE, archive]).ok();
    world.run(&["image", "export", IMAGE, archive]).fails(5);
    world.run(&["image", "import", "--ref", "again:1", archive]).ok();
    assert_eq!(world.run(&["run", "again:1"]).ok(), "hello from the second layer\n");
    world.run(&["image", "remove", IMAGE, "again:1"]).ok();
    let dry = world.run(&["gc", "--dry-run"]).ok();
    assert!(dry.contains("would delete layer"), "{dry}");
    assert!(fs::read_dir(world.path("root/layers")).unwrap().count() >= 2);
    world.run(&["gc"]).ok();
    assert_eq!(fs::read_dir(world.path("root/layers")).unwrap().count(), 0);
    assert_eq!(world.json(&["snapshot", "list"]).len(), 0);
    assert!(world.run(&["fsck"]).ok().contains("clean"));
    world.assert_no_traces();
}

#[test]
fn privileged_a_missing_layer_is_damage_to_the_store() {
    let world = World::with_image();
    let layer = fs::read_dir(world.path("root/layers")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&layer).unwrap();
    let error = world.run(&["run", IMAGE]).fails(6);
    assert!(error.contains(layer.to_str().unwrap()), "{error}");
    assert!(error.contains("hint: `plywood fsck`"), "{error}");
    world.assert_no_traces();
}

#[test]
fn privileged_a_container_outlives_its_daemon() {
    let world = World::with_image();
    let daemon = Daemon::new(&world);
    let script = "echo started; cat /greeting > /kept; read line; cat /kept; exit 7";
    let started = Started::new(&world, &["-i", "--name", "box"], script);
    let keys = || world.run(&["snapshot", "list", "-q", "--filter", "kind==active"]).ok();
    // Other commands look for what nobody owns, and leave this one alone.
    assert_eq!(keys(), "container/box\n");
    daemon.kill();
    assert_eq!(keys(), "container/box\n");
    let daemon = Daemon::new(&world);
    assert_eq!(keys(), "container/box\n");
    world.run(&["gc"]).ok();
    assert!(world.run(&["fsck"]).ok().ends_with("clean\n"));
    assert_eq!(started.end(), (7, "hello from the second layer\n".to_owned()));
    world.assert_no_traces();
    daemon.stop();
}

#[test]
fn privileged_what_a_killed_command_left_goes_while_a_daemon_has_the_store() {
    let world = World::with_image();
    let daemon = Daemon::new(&world);
    let target = world.path("at");
    fs::create_dir(&target).unwrap();
    world.run(&["mount", "--rw", "--scratch-size", "16M", IMAGE, target.to_str().unwrap()]).ok();
    fs::write(target.join("new"), "new").unwrap();
    let mut started = Started::new(&world, &[], "echo started; sleep 100");
    started.child.kill().unwrap();
    started.child.wait().unwrap();
    let left = world.run(&["snapshot", "list", "-q", "--filter", "kind==active"]).ok();
    assert_eq!(
        left,
        format!("mount{}\n", target.display()),
        "the container's goes, the mount's stays"
    );
    world.run(&["umount", target.to_str().unwrap()]).ok();
    world.assert_no_traces();
    daemon.stop();
}

#[test]
fn privileged_a_virtual_machine_is_refused_before_anything_is_made() {
    let world = World::with_image();
    let vm = ["--isolation", "vm"];
    for (options, code, told) in [
        (&["--kit", "/nonexistent"][..], 3, "kit"),
        (&["--vm", "nobody"], 4, "nobody"),
        (&["--network", "host"], 2, "network"),
        (&["--tty"], 2, "terminal"),
        (&["--mount", "type=disk,source=/nonexistent,target=/d"], 4, "/nonexistent"),
        (&["--mount", "type=bind,source=/nonexistent,target=/d"], 4, "/nonexistent"),
        (&["--user", "nobody-here", "--kit", "/nonexistent"], 4, "nobody-here"),
    ] {
        let outcome = world.shell(&[&vm, options].concat(), "true");
        assert_eq!(outcome.code, code, "{options:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{options:?}: {}", outcome.stderr);
    }
    for (options, told) in [
        (&["--kit", "/x"][..], "--isolation vm"),
        (&["--vm", "x"], "--isolation vm"),
        (&["--mount", "type=disk,source=/dev/null,target=/d"], "--isolation vm"),
    ] {
        let outcome = world.shell(options, "true");
        assert_eq!(outcome.code, 2, "{options:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{options:?}: {}", outcome.stderr);
    }
    for words in [&["inspect", "x"][..], &["slots", "x"], &["console", "x"], &["stop", "x"]] {
        assert_eq!(world.run(&[&["vm"], words].concat()).code, 4, "{words:?}");
    }
    assert!(world.json(&["vm", "ls"]).is_empty());
    world.assert_no_traces();
}
